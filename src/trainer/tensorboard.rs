//! TensorBoard's event files: one event a line of `metrics.jsonl`, in the same order.
//!
//! That makes the file a function of `metrics.jsonl` but for the wall times. Whoever opens it again keeps the longest
//! beginning that says what the lines say, cuts the rest off and adds what is missing. So a run that resumes repeats no
//! step, and one that was started without the file has it from its first step on.
//!
//! # Source
//! `tensorflow/core/lib/io/record_writer.cc` (framing), `tensorflow/core/util/event.proto`,
//! `tensorflow/core/framework/summary.proto`.

mod event;
mod protobuf;
mod record;

use crate::{Error, Result};
use event::Body;
use serde::Serialize;
use serde_json::Value;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// The folder of the event file in a run's.
pub const FOLDER: &str = "tensorboard";

/// TensorBoard takes every file for an event file whose name holds this.
const MARK: &str = "tfevents";

/// The open file.
#[derive(Debug)]
pub struct EventFile {
    file: File,
    path: PathBuf,
}

impl EventFile {
    /// Opens the event file in `folder`, a new one where there is none, and makes it say what the lines of `metrics`
    /// say.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Checkpoint`] for a line that is no JSON.
    pub fn open(folder: &Path, metrics: &Path) -> Result<Self> {
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let path = match existing(folder)? {
            Some(path) => path,
            // TensorBoard's own names begin so; its reader goes through a folder in the order of names.
            None => folder.join(format!("events.out.{MARK}.{:010.0}.rmtrain", now())),
        };
        let io = || Error::io(&path);
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(io())?;
        let lines = BufReader::new(File::open(metrics).map_err(Error::io(metrics))?).lines();
        let bodies = lines.map(|line| -> Result<Body> {
            let line = line.map_err(Error::io(metrics))?;
            let line: Value =
                serde_json::from_str(&line).map_err(|e| Error::checkpoint(metrics, e.to_string()))?;
            Ok(event::of_line(&line))
        });
        let mut bodies = std::iter::once(Ok(event::version())).chain(bodies);

        let mut kept = 0;
        let mut differing: Option<Body> = None;
        let mut old = BufReader::new(&file);
        for body in bodies.by_ref() {
            let body = body?;
            match record::read(&mut old).map_err(io())? {
                Some(event) if body.is_of(&event) => kept += record::framed_len(&event),
                _ => {
                    differing = Some(body);
                    break;
                }
            }
        }
        drop(old);
        file.set_len(kept).map_err(io())?;
        file.seek(SeekFrom::End(0)).map_err(io())?;
        let mut out = BufWriter::new(&file);
        for body in differing.into_iter().map(Ok).chain(bodies) {
            out.write_all(&record::framed(&body?.at(now()))).map_err(io())?;
        }
        out.flush().map_err(io())?;
        drop(out);
        Ok(Self { file, path })
    }

    /// Appends the event of a line, in a single write.
    ///
    /// # Errors
    /// [`Error::Io`] with the path.
    pub fn append(&mut self, line: &impl Serialize) -> Result<()> {
        let line: Value = serde_json::to_value(line)
            .map_err(|e| Error::Io { path: self.path.clone(), source: std::io::Error::other(e) })?;
        let record = record::framed(&event::of_line(&line).at(now()));
        self.file.write_all(&record).map_err(Error::io(&self.path))
    }

    /// Makes everything so far durable.
    ///
    /// # Errors
    /// [`Error::Io`] with the path.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(Error::io(&self.path))
    }
}

/// The event file of a folder; the newest, should somebody have put others there.
fn existing(folder: &Path) -> Result<Option<PathBuf>> {
    let mut newest = None;
    for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
        let path = entry.map_err(Error::io(folder))?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        if name.is_some_and(|name| name.contains(MARK) && name.ends_with(".rmtrain")) {
            newest = newest.max(Some(path));
        }
    }
    Ok(newest)
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn records(path: &Path) -> Vec<Vec<u8>> {
        let mut file = BufReader::new(File::open(path).unwrap());
        std::iter::from_fn(|| record::read(&mut file).unwrap()).collect()
    }

    fn line(step: u64) -> Value {
        json!({"kind": "step", "step": step, "loss": 0.5})
    }

    #[test]
    fn a_file_that_is_opened_again_repeats_nothing_and_misses_nothing() {
        let run = tempfile::tempdir().unwrap();
        let metrics = run.path().join("metrics.jsonl");
        let folder = run.path().join("tensorboard");
        let write = |steps: std::ops::RangeInclusive<u64>| {
            fs::write(&metrics, steps.map(|step| format!("{}\n", line(step))).collect::<String>()).unwrap();
        };
        write(1..=2);
        let mut file = EventFile::open(&folder, &metrics).unwrap();
        (3..=6).for_each(|step| file.append(&line(step)).unwrap());
        let before = records(&file.path);
        assert_eq!(before.len(), 1 + 6, "the version and six steps");

        // Killed after step 6, in the middle of a seventh record, and resumed from step 4.
        OpenOptions::new().append(true).open(&file.path).unwrap().write_all(&[7; 5]).unwrap();
        write(1..=4);
        let mut file = EventFile::open(&folder, &metrics).unwrap();
        assert_eq!(records(&file.path), before[..5], "wall times included");
        file.append(&line(5)).unwrap();
        assert_eq!(records(&file.path).len(), 6);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);

        // A damaged record, and what follows it, is written again.
        let mut bytes = fs::read(&file.path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&file.path, bytes).unwrap();
        write(1..=5);
        let file = EventFile::open(&folder, &metrics).unwrap();
        let again = records(&file.path);
        assert_eq!(again.len(), 6);
        assert!(
            again.iter().zip(1..).skip(1).all(|(event, step)| event::of_line(&line(step - 1)).is_of(event))
        );
    }
}
