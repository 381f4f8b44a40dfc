//! Input rows for `eval` and `score`, each with its place.

use crate::data::{Example, Message, Response, RowKind};
use crate::eval::Origin;
use crate::{Error, Result};
use flate2::bufread::MultiGzDecoder;
use serde_json::Value;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;

/// A longer line is refused before it is held.
const MAX_LINE_BYTES: u64 = 256 << 20;

/// Rows with their places. An [`Error::Row`] concerns one row and the next one follows; any other error is the last.
pub(super) type Rows = Box<dyn Iterator<Item = Result<(Origin, Value)>> + Send>;

/// Streams a file of rows, or standard input for `-`.
pub(super) fn open(source: &str) -> Result<Rows> {
    let (name, input): (&str, Box<dyn Read + Send>) = match source {
        "-" => ("stdin", Box::new(io::stdin())),
        path => {
            let file = File::open(path).map_err(Error::io(path))?;
            if file.metadata().map_err(Error::io(path))?.is_dir() {
                let reason = "found a folder, expected a file of rows".into();
                return Err(Error::Data { path: path.into(), reason });
            }
            (path, Box::new(file))
        }
    };
    let path: Arc<Path> = Path::new(name).into();
    let mut input = BufReader::with_capacity(1 << 20, input);
    let magic = input.fill_buf().map_err(Error::io(name))?;
    let input: Box<dyn BufRead + Send> = if magic.starts_with(&[0x1f, 0x8b]) {
        Box::new(BufReader::with_capacity(1 << 20, MultiGzDecoder::new(input)))
    } else if magic.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let decoder = zstd::Decoder::with_buffer(input).map_err(Error::io(name))?;
        Box::new(BufReader::with_capacity(1 << 20, decoder))
    } else {
        Box::new(input)
    };
    Ok(Box::new(JsonLines { path, input, line: 0, over: false }))
}

/// One JSON value a line; blank lines are passed over.
struct JsonLines {
    path: Arc<Path>,
    input: Box<dyn BufRead + Send>,
    line: u64,
    over: bool,
}

impl Iterator for JsonLines {
    type Item = Result<(Origin, Value)>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut bytes = Vec::new();
        while !self.over {
            bytes.clear();
            self.line += 1;
            let origin = Origin { path: self.path.clone(), line: self.line };
            match (&mut self.input).take(MAX_LINE_BYTES).read_until(b'\n', &mut bytes) {
                Ok(0) => self.over = true,
                Ok(_) if bytes.len() as u64 == MAX_LINE_BYTES => {
                    self.over = true;
                    let reason = format!("line {} has more than {MAX_LINE_BYTES} bytes", self.line);
                    return Some(Err(Error::Data { path: self.path.to_path_buf(), reason }));
                }
                Ok(_) => {
                    let text =
                        bytes.strip_prefix(b"\xef\xbb\xbf").filter(|_| self.line == 1).unwrap_or(&bytes);
                    if text.trim_ascii().is_empty() {
                        continue;
                    }
                    let value = serde_json::from_slice(text).map_err(|error| origin.error(error.to_string()));
                    return Some(value.map(|value| (origin, value)));
                }
                Err(error) => {
                    self.over = true;
                    return Some(Err(Error::io(&*self.path)(error)));
                }
            }
        }
        None
    }
}

/// [`open`], with every row read as an example; a row that is none is an error with its place.
pub(super) fn examples(
    source: &str,
    score_field: &str,
) -> Result<impl Iterator<Item = Result<(Origin, Example)>> + Send + 'static> {
    let score_field = score_field.to_owned();
    Ok(open(source)?.map(move |row| {
        let (origin, value) = row?;
        let example = parse_scored(value, &score_field).map_err(|reason| origin.error(reason))?;
        Ok((origin, example))
    }))
}

/// A row as an example, where gold scores make no difference.
pub(super) fn parse(value: Value) -> Result<Example, String> {
    parse_scored(value, &crate::data::Config::default().score_field)
}

fn parse_scored(value: Value, score_field: &str) -> Result<Example, String> {
    let Value::Object(row) = value else { return Err(format!("found {value}, expected an object")) };
    let get = |key: &str| row.get(key).filter(|value| !value.is_null());
    let prompt = match get("prompt").or_else(|| get("instruction")) {
        Some(prompt) => messages(prompt, "user")?,
        None => Vec::new(),
    };
    let response = |value: &Value, score: Option<f64>| -> Result<Response, String> {
        Ok(Response { messages: messages(value, "assistant")?, score, model: None })
    };
    let (kind, responses) = if let (Some(chosen), Some(rejected)) = (get("chosen"), get("rejected")) {
        (RowKind::Pair, vec![response(chosen, None)?, response(rejected, None)?])
    } else if let Some(Value::Array(responses)) = get("responses") {
        let score = |i: usize| get("scores").and_then(|scores| scores.get(i)).and_then(Value::as_f64);
        let all = responses.iter().enumerate().map(|(i, text)| response(text, score(i)));
        (RowKind::Ranked, all.collect::<Result<_, _>>()?)
    } else if let Some(Value::Array(completions)) = get("completions") {
        let all = completions.iter().map(|completion| {
            let text = completion.get("response").ok_or("a completion has no \"response\"")?;
            response(text, completion.get(score_field).and_then(Value::as_f64))
        });
        (RowKind::Ranked, all.collect::<Result<_, String>>()?)
    } else if let Some(only) = get("response").or_else(|| get("messages")) {
        (RowKind::Single, vec![response(only, None)?])
    } else {
        let keys: Vec<&str> = row.keys().map(String::as_str).collect();
        return Err(format!(
            "found the keys {}, expected chosen and rejected, responses, completions, response or messages",
            keys.join(", ")
        ));
    };
    Ok(Example { kind, id: None, source: None, prompt, responses, margin: None })
}

fn messages(value: &Value, role: &str) -> Result<Vec<Message>, String> {
    match value {
        Value::String(text) => Ok(vec![Message::new(role, text)]),
        other => serde_json::from_value(other.clone()).map_err(|error| format!("found {other}: {error}")),
    }
}
