//! Where a row came from.

use crate::Error;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// A file and a line of it, counted from 1 (for arrays and Parquet: the row's number). Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    pub path: Arc<Path>,
    pub line: u64,
}

impl Origin {
    /// A problem of this row.
    pub fn error(&self, reason: impl Into<String>) -> Error {
        Error::Row { path: self.path.to_path_buf(), line: self.line, reason: reason.into() }
    }

    /// A problem of this row that another part has found; an [`Error::Row`] keeps its own place.
    pub fn wrap(&self, error: Error) -> Error {
        match error {
            Error::Row { .. } => error,
            other => self.error(other.to_string()),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.path.display(), self.line)
    }
}
