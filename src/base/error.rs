//! The library's one error type.
//!
//! Every variant carries the place (file, line, key, tensor), what was found and what was expected, so that the
//! message alone is enough to mend the input. `main` turns a variant into an exit code with [`Error::exit_code`].

use std::path::{Path, PathBuf};

/// A `Result` with this library's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong, grouped by what the user has to look at.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Command-line arguments that contradict each other or point nowhere.
    #[error("{0}")]
    Usage(String),
    /// A configuration file: all of its problems at once, each with its line or key.
    #[error("{path}: {count} in the configuration\n{list}", path = path.display(), count = count(problems), list = bullets(problems))]
    Config { path: PathBuf, problems: Vec<String> },
    /// One row of a data file. `line` counts from 1 (for arrays and Parquet: the row's number).
    #[error("{path}:{line}: {reason}", path = path.display())]
    Row { path: PathBuf, line: u64, reason: String },
    /// A data file as a whole (unreadable container, no rows, unknown format).
    #[error("{path}: {reason}", path = path.display())]
    Data { path: PathBuf, reason: String },
    /// A chat template that does not parse or does not render.
    #[error("chat template {place}: {reason}")]
    Template { place: String, reason: String },
    /// A tokenizer file, or text that it cannot encode.
    #[error("{path}: {reason}", path = path.display())]
    Tokenizer { path: PathBuf, reason: String },
    /// A model folder: `config.json`, a missing or misshapen tensor, an unsupported architecture.
    #[error("{path}: {reason}", path = path.display())]
    Model { path: PathBuf, reason: String },
    /// A run directory or checkpoint that cannot be used.
    #[error("{path}: {reason}", path = path.display())]
    Checkpoint { path: PathBuf, reason: String },
    /// The hub could not be reached or refused.
    #[error("hub: {what}: {reason}")]
    Hub { what: String, reason: String },
    /// A check that the user asked for failed.
    #[error("{0}")]
    Check(String),
    /// A value stopped being finite in training. Nothing was updated with it.
    #[error("step {step}: {what} is not finite ({detail}); the parameters are those of the step before")]
    NonFinite { step: u64, what: String, detail: String },
    /// Training cannot go on from here, though every value is finite.
    #[error("step {step}: {reason}")]
    Training { step: u64, reason: String },
    /// Reading or writing failed.
    #[error("{path}: {source}", path = path.display())]
    Io { path: PathBuf, source: std::io::Error },
    /// The device that was asked for cannot be used.
    #[error("device {device}: {reason}")]
    Device { device: String, reason: String },
    /// The tensor library failed.
    #[error("tensor operation failed: {0}")]
    Tensor(#[from] candle_core::Error),
    /// The user asked to stop and everything is saved.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// Attaches the path to an I/O error: `fs::read(p).map_err(Error::io(p))`.
    pub fn io(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.as_ref().to_path_buf();
        move |source| Error::Io { path, source }
    }

    /// A model folder's problem.
    pub fn model(path: impl AsRef<Path>, reason: impl Into<String>) -> Error {
        Error::Model { path: path.as_ref().to_path_buf(), reason: reason.into() }
    }

    /// A checkpoint's problem.
    pub fn checkpoint(path: impl AsRef<Path>, reason: impl Into<String>) -> Error {
        Error::Checkpoint { path: path.as_ref().to_path_buf(), reason: reason.into() }
    }

    /// 1 for a failed check, 2 for wrong input, 3 for a failure at run time.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Check(_) => 1,
            Error::Usage(_)
            | Error::Config { .. }
            | Error::Row { .. }
            | Error::Data { .. }
            | Error::Template { .. }
            | Error::Tokenizer { .. }
            | Error::Model { .. }
            | Error::Checkpoint { .. }
            | Error::Device { .. } => 2,
            Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => 2,
            Error::Hub { .. }
            | Error::NonFinite { .. }
            | Error::Training { .. }
            | Error::Io { .. }
            | Error::Tensor(_)
            | Error::Interrupted => 3,
        }
    }
}

fn count(problems: &[String]) -> String {
    match problems.len() {
        1 => "1 problem".into(),
        n => format!("{n} problems"),
    }
}

fn bullets(problems: &[String]) -> String {
    problems.iter().map(|p| format!("  - {p}")).collect::<Vec<_>>().join("\n")
}
