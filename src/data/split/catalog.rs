//! Every prompt of the inputs with what is known of its responses; their text lies in a spool on disk.
//!
//! Inputs are read once, in order. Rows of different tables that share a prompt become one row here: the first
//! table's row gives the prompt, its id and its place in the order, and each table adds the responses of models that
//! the ones before it have not. What stays in memory is about 50 bytes a response and 700 a prompt; the spool is a file
//! without a name, on the disk that the sets go to, and is gone however the program ends.

use super::manifest::Dropped;
use super::minhash::{Signature, signature};
use super::text::{group_hash, normalised, prompt_hash, response_hash, text_of, value_of};
use super::{Progress, SplitConfig, Stage, input};
use crate::data::row::{Example, Response, RowKind};
use crate::data::source::RawRow;
use crate::{Error, Result};
use rayon::prelude::*;
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// A response that can be used.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// Index into [`Catalog::models`].
    pub model: u32,
    pub score: f64,
    /// Hash of the text.
    pub text: u128,
    /// Which of the row's parts has it.
    pub part: u32,
    /// Its place there.
    pub index: u32,
}

/// A prompt with all its responses.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Hash of the prompt.
    pub prompt: u128,
    /// Hash of its letters and digits: prompts that differ in case, spacing and punctuation only share it.
    pub group: u128,
    pub parts: Vec<Part>,
    pub answers: Vec<Answer>,
}

impl Row {
    /// Of its texts in the spool.
    pub fn bytes(&self) -> usize {
        self.parts.iter().map(|part| part.bytes).sum()
    }
}

/// What one input row contributed, as it lies in the spool.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Part {
    offset: u64,
    bytes: usize,
    /// The table of the file that it came from.
    pub table: usize,
    /// Whether it was a row of one response.
    single: bool,
}

/// The texts of a part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Texts {
    pub id: Option<String>,
    pub source: Option<String>,
    pub prompt: Value,
    /// Text, or messages where a response is more than one plain assistant message.
    pub responses: Vec<Value>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct FileCounts {
    pub rows: u64,
    pub joined: u64,
}

pub struct Catalog {
    /// In the order of their first appearance.
    pub rows: Vec<Row>,
    /// One a row.
    pub signatures: Vec<Signature>,
    /// Every model that any row names.
    pub models: Vec<String>,
    /// One an input file.
    pub files: Vec<FileCounts>,
    /// Rows and responses that no row can use.
    pub dropped: Dropped,
    spool: Spool,
}

impl Catalog {
    /// Reads all inputs. `scratch` is a folder on the disk where the spool may lie.
    ///
    /// # Errors
    /// [`Error::Row`] at the first bad row; [`Error::Data`]; [`Error::Io`]; [`Error::Interrupted`].
    pub fn read(config: &SplitConfig, scratch: &Path, progress: &mut dyn FnMut(Progress)) -> Result<Self> {
        let mut reading = Reading {
            catalog: Self {
                rows: Vec::new(),
                signatures: Vec::new(),
                models: Vec::new(),
                files: vec![FileCounts::default(); config.inputs.len()],
                dropped: Dropped::default(),
                spool: Spool::new(scratch)?,
            },
            row_of_prompt: FxHashMap::default(),
            number_of_model: FxHashMap::default(),
        };
        let mut done = 0;
        for (file, source) in config.inputs.iter().enumerate() {
            let parse = |row: RawRow| {
                let origin = row.origin.clone();
                Parsed::new(&row.example(&config.score_field)?, config.seed)
                    .map_err(|reason| origin.error(reason))
            };
            input::for_each_chunk(source, parse, |chunk| {
                done += chunk.len() as u64;
                let mut fresh = Vec::new();
                for parsed in chunk {
                    reading.add(file, config.tables[file], parsed, &mut fresh)?;
                }
                let signatures = fresh.par_iter().map(|words: &String| signature(words));
                reading.catalog.signatures.par_extend(signatures);
                progress(Progress { stage: Stage::Reading, rows: done });
                Ok(())
            })?;
        }
        Ok(reading.catalog)
    }

    /// The texts of all parts of these rows.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn texts(&mut self, rows: impl Iterator<Item = usize>) -> Result<Vec<Vec<Texts>>> {
        let mut bytes = Vec::new();
        for row in rows {
            let parts = self.rows[row].parts.iter().map(|part| self.spool.read(*part));
            bytes.push(parts.collect::<Result<Vec<_>>>()?);
        }
        let texts = |parts: Vec<Vec<u8>>| -> Result<Vec<Texts>> {
            let parsed = parts.iter().map(|bytes| serde_json::from_slice(bytes));
            parsed.collect::<Result<_, _>>().map_err(|e| Error::io(&self.spool.folder)(e.into()))
        };
        bytes.into_par_iter().map(texts).collect()
    }
}

/// An input row, as far as it can be understood alone.
struct Parsed {
    prompt: u128,
    group: u128,
    words: String,
    is_empty: bool,
    single: bool,
    /// All models that it names.
    models: Vec<String>,
    answers: Vec<ParsedAnswer>,
    unusable: Vec<&'static str>,
    /// [`Texts`] as JSON.
    texts: Vec<u8>,
}

struct ParsedAnswer {
    model: String,
    score: f64,
    text: u128,
    index: u32,
}

impl Parsed {
    fn new(example: &Example, seed: u64) -> Result<Self, String> {
        let text = text_of(&example.prompt);
        let words = normalised(&text);
        let (mut answers, mut unusable) = (Vec::new(), Vec::new());
        for (index, response) in (0..).zip(&example.responses) {
            match answer_of(response, index) {
                Ok(answer) => answers.push(answer),
                Err(reason) => unusable.push(reason),
            }
        }
        let texts = Texts {
            id: example.id.clone(),
            source: example.source.clone(),
            prompt: value_of(&example.prompt, "user"),
            responses: example.responses.iter().map(|r| value_of(&r.messages, "assistant")).collect(),
        };
        Ok(Self {
            prompt: prompt_hash(&text),
            group: group_hash(seed, &words),
            words,
            is_empty: text.trim().is_empty(),
            single: example.kind == RowKind::Single,
            models: example.responses.iter().filter_map(|r| r.model.clone()).collect(),
            answers,
            unusable,
            texts: serde_json::to_vec(&texts).map_err(|error| error.to_string())?,
        })
    }
}

fn answer_of(response: &Response, index: u32) -> Result<ParsedAnswer, &'static str> {
    let text = text_of(&response.messages);
    if text.trim().is_empty() {
        return Err("empty-response");
    }
    let model = response.model.clone().filter(|m| !m.is_empty()).ok_or("unnamed-model")?;
    let score = response.score.filter(|s| s.is_finite()).ok_or("unscored")?;
    Ok(ParsedAnswer { model, score, text: response_hash(&text), index })
}

/// The catalog while it grows.
struct Reading {
    catalog: Catalog,
    row_of_prompt: FxHashMap<u128, usize>,
    number_of_model: FxHashMap<String, u32>,
}

impl Reading {
    /// Adds a row of a file; pushes the words of a prompt that is new.
    fn add(&mut self, file: usize, table: usize, parsed: Parsed, fresh: &mut Vec<String>) -> Result<()> {
        self.catalog.files[file].rows += 1;
        for model in &parsed.models {
            self.number(model);
        }
        if parsed.is_empty {
            count(&mut self.catalog.dropped.rows, "empty-prompt");
            return Ok(());
        }
        let known = self.row_of_prompt.get(&parsed.prompt).copied();
        if let Some(row) = known {
            if self.is_duplicate(row, table, &parsed) {
                count(&mut self.catalog.dropped.rows, "duplicate-prompt");
                return Ok(());
            }
            self.catalog.files[file].joined += 1;
        }
        let row = known.unwrap_or_else(|| {
            let row = self.catalog.rows.len();
            self.row_of_prompt.insert(parsed.prompt, row);
            let (prompt, group) = (parsed.prompt, parsed.group);
            self.catalog.rows.push(Row { prompt, group, parts: Vec::new(), answers: Vec::new() });
            fresh.push(parsed.words);
            row
        });
        for reason in parsed.unusable {
            count(&mut self.catalog.dropped.responses, reason);
        }
        let numbers: Vec<u32> = parsed.answers.iter().map(|answer| self.number(&answer.model)).collect();
        let place = self.catalog.spool.write(&parsed.texts)?;
        let row = &mut self.catalog.rows[row];
        let (part, before) = (row.parts.len() as u32, row.answers.len());
        row.parts.push(Part { table, single: parsed.single, ..place });
        for (answer, model) in parsed.answers.into_iter().zip(numbers) {
            if row.answers[..before].iter().any(|earlier| earlier.model == model) {
                count(&mut self.catalog.dropped.responses, "model-answered-before");
                continue;
            }
            let ParsedAnswer { score, text, index, .. } = answer;
            row.answers.push(Answer { model, score, text, part, index });
        }
        Ok(())
    }

    /// Whether the prompt comes again within its table. Rows of one response each are a table in long form: there it
    /// is the same prompt and the same model that come again.
    fn is_duplicate(&self, row: usize, table: usize, parsed: &Parsed) -> bool {
        let row = &self.catalog.rows[row];
        let known = |model: &String| {
            let number = self.number_of_model.get(model);
            row.answers.iter().any(|answer| Some(&answer.model) == number)
        };
        let repeated = !parsed.single || parsed.models.iter().all(known);
        row.parts.iter().any(|part| part.table == table && (repeated || !part.single))
    }

    fn number(&mut self, model: &str) -> u32 {
        if let Some(&number) = self.number_of_model.get(model) {
            return number;
        }
        let number = self.catalog.models.len() as u32;
        self.catalog.models.push(model.to_owned());
        self.number_of_model.insert(model.to_owned(), number);
        number
    }
}

/// One more of a reason.
pub fn count(reasons: &mut BTreeMap<String, u64>, reason: &str) {
    if let Some(count) = reasons.get_mut(reason) {
        *count += 1;
    } else {
        reasons.insert(reason.to_owned(), 1);
    }
}

/// Texts on disk, written once and read in any order after.
struct Spool {
    file: BufWriter<File>,
    folder: PathBuf,
    bytes: u64,
}

impl Spool {
    fn new(folder: &Path) -> Result<Self> {
        let file = tempfile::tempfile_in(folder).map_err(Error::io(folder))?;
        Ok(Self { file: BufWriter::with_capacity(1 << 20, file), folder: folder.to_path_buf(), bytes: 0 })
    }

    fn write(&mut self, text: &[u8]) -> Result<Part> {
        self.file.write_all(text).map_err(Error::io(&self.folder))?;
        let offset = self.bytes;
        self.bytes += text.len() as u64;
        Ok(Part { offset, bytes: text.len(), table: 0, single: false })
    }

    fn read(&mut self, part: Part) -> Result<Vec<u8>> {
        let mut text = vec![0; part.bytes];
        // Seeking writes out what is buffered first.
        let read = self
            .file
            .seek(SeekFrom::Start(part.offset))
            .and_then(|_| self.file.get_mut().read_exact(&mut text));
        read.map_err(Error::io(&self.folder))?;
        Ok(text)
    }
}
