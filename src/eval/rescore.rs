//! Rows back with what their responses were given, in order: the one loop of `score` and `label`, which differ in how a
//! row is answered.

use super::evaluate::{Progress, encode_response, take_group, too_long};
use super::scorer::score_groups;
use super::window::{Limits, Windows};
use super::{Origin, Scored, SequenceScorer};
use crate::data::row::null_sides;
use crate::data::source::RawRow;
use crate::data::tokenize::EncodeConversation;
use crate::data::{Example, Response, RowKind, TokenGroup};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::io::{self, Write};
use std::sync::Arc;

/// What happens at a row that cannot be scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum OnError {
    /// Stop there, after the rows before it.
    Fail,
    /// Write {"line": N, "error": ".."} in its place and go on; with several files, also its "file".
    Keep,
}

/// How rows become sequences, and how many are computed at once.
#[derive(Debug, Clone, Copy)]
pub struct ScoreOptions {
    /// Most tokens of one rendered conversation; a longer one is an error of its row.
    pub max_length: usize,
    pub on_error: OnError,
    /// Tokens computed at once; scores do not depend on it.
    pub batch_tokens: usize,
    /// Whether an error that is kept names its file: of several files, each has a line of that number.
    pub name_files: bool,
}

/// What is written in the place of a row that cannot be scored.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ErrorRow {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    line: u64,
    error: String,
}

/// Whether a written line stands in the place of a row that could not be scored.
pub fn is_error_row(line: &[u8]) -> bool {
    // A row that was scored has other fields, mostly before these, and is not parsed any further.
    serde_json::from_slice::<ErrorRow>(line).is_ok()
}

/// What was scored.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rescored {
    pub done: Progress,
    /// Rows that came back as an error.
    pub failed: u64,
}

/// A row whose responses are scored.
pub(super) struct ScoredRow {
    /// As it was read.
    pub fields: Map<String, Value>,
    pub kind: RowKind,
    /// One of every response; `None` for those that were passed over.
    pub scored: Vec<Option<Scored>>,
}

/// What is done about a response that is null in its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NullResponse {
    /// It is scored as a response without text.
    Score,
    PassOver,
}

/// A row that was read but not yet scored.
struct Row {
    origin: Origin,
    fields: Map<String, Value>,
    kind: RowKind,
    /// Which of the responses are scored.
    asked: Vec<bool>,
    group: TokenGroup,
    tokens: usize,
}

/// Writes every row of `rows` to `out` as one line of JSON: what `answer` makes of it.
///
/// Rows stream in windows; `out` is flushed after each, then `progress` is called. `out_name` names it in errors.
///
/// # Errors
/// A row's error under [`OnError::Fail`], after the rows before it are written; in both modes the source's errors
/// that are not of one row, the scorer's, [`Error::Interrupted`], and [`Error::Io`] of `out`.
pub(super) fn rescore(
    rows: impl Iterator<Item = Result<RawRow>> + Send + 'static,
    (encoder, scorer): (Arc<dyn EncodeConversation>, &dyn SequenceScorer),
    (options, null_response): (&ScoreOptions, NullResponse),
    (out_name, out): (&str, &mut dyn Write),
    mut answer: impl FnMut(ScoredRow) -> Result<Map<String, Value>, String>,
    mut progress: impl FnMut(Progress),
) -> Result<Rescored> {
    let max_length = options.max_length;
    let windows = Windows::spawn(
        rows,
        Limits::for_batches_of(options.batch_tokens),
        |row| row.as_ref().map_or(0, RawRow::bytes),
        move |row: Result<RawRow>| prepare(row?, encoder.as_ref(), max_length, null_response),
        |row: &Result<Row>| row.as_ref().map_or(0, |row| row.tokens),
    )?;

    let is_kept = |error: &Error| options.on_error == OnError::Keep && matches!(error, Error::Row { .. });
    let (mut done, mut failed) = (Progress::default(), 0);
    for window in windows {
        let mut rows = window?;
        // What follows the row that ends the run need not be scored.
        if let Some(last) = rows.iter().position(|row| row.as_ref().is_err_and(|error| !is_kept(error))) {
            rows.truncate(last + 1);
        }
        let groups = rows.iter_mut().flatten().map(|row| take_group(&mut row.group)).collect();
        let mut scored = score_groups(scorer, groups, options.batch_tokens)?.into_iter();
        for row in rows {
            done.rows += 1;
            let answered = row.and_then(|row| {
                let scores = scored.next().unwrap_or_default();
                done.sequences += scores.len() as u64;
                done.tokens += row.tokens as u64;
                let origin = row.origin.clone();
                row.scored(scores).and_then(&mut answer).map_err(|reason| origin.error(reason))
            });
            match answered {
                Ok(fields) => write_line(out, &fields).map_err(Error::io(out_name))?,
                Err(Error::Row { path, line, reason }) if options.on_error == OnError::Keep => {
                    failed += 1;
                    let file = options.name_files.then(|| path.display().to_string());
                    write_line(out, &ErrorRow { file, line, error: reason }).map_err(Error::io(out_name))?;
                }
                Err(error) => {
                    out.flush().map_err(Error::io(out_name))?;
                    return Err(error);
                }
            }
        }
        out.flush().map_err(Error::io(out_name))?;
        progress(done);
    }
    Ok(Rescored { done, failed })
}

fn write_line(out: &mut dyn Write, row: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, row)?;
    out.write_all(b"\n")
}

/// Parses and tokenizes one row.
fn prepare(
    row: RawRow,
    encoder: &dyn EncodeConversation,
    max_length: usize,
    null_response: NullResponse,
) -> Result<Row> {
    let origin = row.origin.clone();
    let value = row.value()?;
    let example = Example::texts_from_json(value.clone()).map_err(|reason| origin.error(reason))?;
    let Value::Object(fields) = value else {
        return Err(origin.error("expected a JSON object"));
    };
    // A null side of a pair reads as a response without text, as training counts it.
    let null_sides = null_sides(&fields);
    let is_null = |(i, response): (usize, &Response)| {
        response.messages.is_empty() || null_sides.get(i).is_some_and(|is_null| *is_null)
    };
    let asked: Vec<bool> = (example.responses.iter().enumerate())
        .map(|response| null_response == NullResponse::Score || !is_null(response))
        .collect();
    let mut sequences = Vec::with_capacity(asked.len());
    for (response, _) in asked.iter().enumerate().filter(|(_, asked)| **asked) {
        let ids = encode_response(&origin, &example, response, encoder)?;
        if ids.len() > max_length {
            let which = match (example.kind, response) {
                (RowKind::Single, _) => String::new(),
                (RowKind::Pair, 0) => " (chosen)".into(),
                (RowKind::Pair, _) => " (rejected)".into(),
                (RowKind::Ranked, i) => format!(" (response {} of {})", i + 1, example.responses.len()),
            };
            return Err(origin.error(too_long(ids.len(), max_length) + &which));
        }
        sequences.push(ids);
    }
    let tokens = sequences.iter().map(Vec::len).sum();
    Ok(Row { origin, fields, kind: example.kind, asked, group: TokenGroup { sequences }, tokens })
}

impl Row {
    /// Puts the scores in the places of the responses that were asked for.
    fn scored(self, scores: Vec<Scored>) -> Result<ScoredRow, String> {
        if let Some(bad) = scores.iter().find(|s| !s.reward.is_finite()) {
            return Err(format!("the model's reward is {}, which is not a score", bad.reward));
        }
        let mut scores = scores.into_iter();
        let scored = self.asked.iter().map(|&asked| if asked { scores.next() } else { None }).collect();
        Ok(ScoredRow { fields: self.fields, kind: self.kind, scored })
    }
}
