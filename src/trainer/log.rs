//! `[log]`, and what it decides: the files that receive a run's lines.

use super::metrics::MetricsFile;
use super::tensorboard::EventFile;
use crate::Result;
use crate::base::reader::Section;
use crate::base::toml_writer::TomlWriter;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// The `[log]` section.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// Write TensorBoard's event files beside `metrics.jsonl`.
    pub tensorboard: bool,
}

impl Config {
    /// Reads the section. What is wrong with it goes on the section's record; the value is of no use then.
    pub(crate) fn read(mut section: Section<'_>) -> Self {
        let config = Self { tensorboard: section.boolean("tensorboard").unwrap_or_default() };
        section.finish();
        config
    }

    /// Writes the section with every key.
    pub(crate) fn write(&self, out: &mut TomlWriter) {
        out.header("[log]");
        out.entry("tensorboard", self.tensorboard);
    }
}

/// A run's open files.
#[derive(Debug)]
pub struct Log {
    metrics: MetricsFile,
    events: Option<EventFile>,
    folder: PathBuf,
}

impl Log {
    /// Opens the files in a run's folder and keeps the first `bytes` of `metrics.jsonl`; the event file follows it.
    ///
    /// # Errors
    /// Those of [`MetricsFile::open`] and [`EventFile::open`].
    pub fn open(folder: &Path, config: &Config, bytes: u64) -> Result<Self> {
        let path = Self::metrics_path(folder);
        let metrics = MetricsFile::open(&path, bytes)?;
        let events = config
            .tensorboard
            .then(|| EventFile::open(&folder.join(super::tensorboard::FOLDER), &path))
            .transpose()?;
        Ok(Self { metrics, events, folder: folder.to_path_buf() })
    }

    /// `metrics.jsonl` of a run's folder.
    pub fn metrics_path(folder: &Path) -> PathBuf {
        folder.join("metrics.jsonl")
    }

    /// Adds one line.
    ///
    /// # Errors
    /// [`crate::Error::Io`] with the file's path.
    pub fn append(&mut self, line: &impl Serialize) -> Result<()> {
        self.metrics.append(line)?;
        self.events.as_mut().map_or(Ok(()), |events| events.append(line))
    }

    /// Forgets what came after the first `bytes` of `metrics.jsonl`.
    ///
    /// # Errors
    /// Those of [`Log::open`].
    pub fn cut_back(&mut self, bytes: u64) -> Result<()> {
        let config = Config { tensorboard: self.events.take().is_some() };
        *self = Self::open(&self.folder, &config, bytes)?;
        Ok(())
    }

    /// Length of `metrics.jsonl` so far.
    pub fn bytes(&self) -> u64 {
        self.metrics.bytes()
    }

    /// Makes everything so far durable.
    ///
    /// # Errors
    /// [`crate::Error::Io`] with the file's path.
    pub fn sync(&self) -> Result<()> {
        self.metrics.sync()?;
        self.events.as_ref().map_or(Ok(()), EventFile::sync)
    }
}
