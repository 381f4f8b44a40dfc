//! Files of rows: which ones, of what format, one row after the other.
//!
//! The format is told by content, never by the name alone: gzip, zstd, Parquet, a JSON array, pretty-printed objects
//! or one JSON object a line. Rows stream; what is held is one row (and what a decoder buffers). What is not here:
//! what the rows mean (`row`).

mod json;
mod lines;
mod location;
mod open;
mod parquet;
mod unfinished;
mod values;

pub use location::{HubDatasets, SourceFile, resolve};
pub use unfinished::{LABEL_FORMAT, state_path};

use super::row::Example;
use crate::{Error, Result};
use serde_json::Value;
use std::fmt;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

/// The longest row that is read, in bytes of its JSON: what is longer is a broken file, and must not fill the memory.
pub const MAX_ROW_BYTES: usize = 256 << 20;

/// A file and a line of it, counted from 1 (for arrays, pretty-printed objects and Parquet: the row's number).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Origin {
    pub path: Arc<Path>,
    pub line: u64,
}

impl Origin {
    /// A problem of this row.
    pub fn error(&self, reason: impl Into<String>) -> Error {
        Error::Row { path: self.path.to_path_buf(), line: self.line, reason: reason.into() }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.path.display(), self.line)
    }
}

/// A row as it was read. Parsing is left to the caller, who may do it on many threads.
#[derive(Debug, Clone, PartialEq)]
pub struct RawRow {
    pub origin: Origin,
    content: Content,
}

#[derive(Debug, Clone, PartialEq)]
enum Content {
    Json(Vec<u8>),
    Columns(Value),
}

impl RawRow {
    fn json(origin: Origin, text: Vec<u8>) -> Self {
        Self { origin, content: Content::Json(text) }
    }

    /// About how many bytes of memory the row takes.
    pub fn bytes(&self) -> usize {
        match &self.content {
            Content::Json(text) => text.len(),
            Content::Columns(value) => json::bytes(value),
        }
    }

    /// The row as JSON. `NaN`, `Infinity` and `-Infinity`, which Python writes, are read as null.
    ///
    /// # Errors
    /// [`Error::Row`] where it is not JSON.
    pub fn value(self) -> Result<Value> {
        match self.content {
            Content::Columns(value) => Ok(value),
            Content::Json(text) => json::parse(&text).map_err(|reason| self.origin.error(reason)),
        }
    }

    /// The row as an example, see [`Example::from_json`].
    ///
    /// # Errors
    /// [`Error::Row`] where it is not JSON or of no known schema.
    pub fn example(self, score_field: &str) -> Result<Example> {
        let origin = self.origin.clone();
        Example::from_json(self.value()?, score_field).map_err(|reason| origin.error(reason))
    }
}

/// Rows in the order of their files.
///
/// An error is the last item: a container that is broken has no next row. (A row that is not JSON is found when it is
/// parsed, and the rows after it follow.)
pub struct Rows {
    files: std::vec::IntoIter<SourceFile>,
    current: Option<FileRows>,
    failed: bool,
}

type FileRows = Box<dyn Iterator<Item = Result<RawRow>> + Send>;

impl Rows {
    /// The rows of several files; each is opened when its turn comes.
    pub fn of_files(files: Vec<SourceFile>) -> Self {
        Self { files: files.into_iter(), current: None, failed: false }
    }

    /// The rows of one file that is no hub source or glob.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Data`] where the file cannot be opened or its format is not known.
    pub fn of_file(path: &Path) -> Result<Self> {
        Ok(Self::of_stream(SourceFile::local(path).open()?))
    }

    /// The rows of a stream, standard input for one: JSON in any form, compressed or not, but no Parquet, which
    /// cannot be read in order. `name` stands for the path.
    ///
    /// # Errors
    /// As [`Rows::of_file`].
    pub fn of_reader(name: impl AsRef<Path>, input: impl Read + Send + 'static) -> Result<Self> {
        Ok(Self::of_stream(open::stream(name.as_ref().into(), Box::new(input))?))
    }

    fn of_stream(rows: FileRows) -> Self {
        Self { files: Vec::new().into_iter(), current: Some(rows), failed: false }
    }
}

impl Iterator for Rows {
    type Item = Result<RawRow>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.failed {
            let row = match &mut self.current {
                Some(rows) => rows.next(),
                None => match self.files.next()?.open() {
                    Ok(rows) => {
                        self.current = Some(rows);
                        continue;
                    }
                    Err(error) => Some(Err(error)),
                },
            };
            match row {
                Some(row) => {
                    self.failed = row.is_err();
                    return Some(row);
                }
                None => self.current = None,
            }
        }
        None
    }
}
