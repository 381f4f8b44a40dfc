//! A file of rows that grows in place, so that what was computed is never lost.

use crate::eval::is_error_row;
use crate::{Error, Result};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, ErrorKind, Seek, SeekFrom};
use std::path::Path;

/// The output, locked against a second process.
#[derive(Debug)]
pub(super) struct Output {
    file: File,
    /// Whole rows in it.
    pub rows: u64,
    /// Those of them that stand for a row which could not be scored.
    pub failed: u64,
    /// Bytes of these rows.
    whole: u64,
    /// Whether there was anything in it.
    pub was_begun: bool,
}

impl Output {
    /// A file that is not there yet, or is empty.
    ///
    /// # Errors
    /// As [`refuse_existing`]; [`Error::Checkpoint`] where another process writes it; [`Error::Io`].
    pub fn new(path: &Path) -> Result<Self> {
        let file = open(path)?;
        refuse_existing(path)?;
        Ok(Self { file, rows: 0, failed: 0, whole: 0, was_begun: false })
    }

    /// The file as a run left it, which is not touched yet.
    ///
    /// # Errors
    /// [`Error::Row`] for a line that no run has written; otherwise as [`Output::new`].
    pub fn resume(path: &Path) -> Result<Self> {
        let file = open(path)?;
        let (mut rows, mut failed, mut whole) = (0, 0, 0);
        let mut reader = BufReader::with_capacity(1 << 20, &file);
        let mut line = Vec::new();
        loop {
            line.clear();
            if reader.read_until(b'\n', &mut line).map_err(Error::io(path))? == 0 || !line.ends_with(b"\n") {
                break;
            }
            rows += 1;
            // A machine that lost power may leave blocks of zeros.
            if !line.starts_with(b"{") || !line.ends_with(b"}\n") {
                let reason = "found no JSON object, expected a labelled row; the file was changed".into();
                return Err(Error::Row { path: path.into(), line: rows, reason });
            }
            failed += u64::from(is_error_row(&line));
            whole += line.len() as u64;
        }
        let was_begun = file.metadata().map_err(Error::io(path))?.len() > 0;
        Ok(Self { file, rows, failed, whole, was_begun })
    }

    /// The file to write the next rows to; what followed the last whole line is cut off.
    pub fn append(&mut self, path: &Path) -> Result<&mut File> {
        self.file.set_len(self.whole).map_err(Error::io(path))?;
        self.file.seek(SeekFrom::End(0)).map_err(Error::io(path))?;
        Ok(&mut self.file)
    }

    /// Waits until the rows are on the disk.
    pub fn sync(&self, path: &Path) -> Result<()> {
        self.file.sync_all().map_err(Error::io(path))
    }
}

/// # Errors
/// [`Error::Usage`] where a file with something in it is there.
pub(super) fn refuse_existing(path: &Path) -> Result<()> {
    match path.metadata() {
        Err(_) => Ok(()),
        Ok(found) if !found.is_file() => Err(not_a_file(path)),
        Ok(found) if found.len() == 0 => Ok(()),
        Ok(found) => Err(Error::Usage(format!(
            "--output {}: found {} bytes there, expected a new name; --resume goes on with what was begun",
            path.display(),
            found.len()
        ))),
    }
}

fn not_a_file(path: &Path) -> Error {
    Error::Usage(format!("--output {}: found a folder or device, expected a file", path.display()))
}

fn open(path: &Path) -> Result<File> {
    if path.metadata().is_ok_and(|found| !found.is_file()) {
        return Err(not_a_file(path));
    }
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
    }
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(false).open(path);
    let file = file.map_err(Error::io(path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::checkpoint(path, "another rmtrain is writing this file")),
        // Some file systems have no locks; two writers are then the user's to avoid.
        Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => Ok(file),
        Err(TryLockError::Error(error)) => Err(Error::io(path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Write;

    #[test]
    fn a_torn_line_is_cut_and_whole_ones_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/out.jsonl");
        let mut output = Output::new(&path).unwrap();
        let torn = b"{\"a\":1}\n{\"a\":2}\n{\"a\":";
        output.append(&path).unwrap().write_all(torn).unwrap();
        assert!(Output::resume(&path).unwrap_err().to_string().contains("another rmtrain"));
        drop(output);
        assert!(refuse_existing(&path).is_err());
        assert!(Output::new(&path).unwrap_err().to_string().contains("--resume"));
        let mut output = Output::resume(&path).unwrap();
        assert_eq!((output.rows, output.was_begun), (2, true));
        assert_eq!(fs::read(&path).unwrap(), torn, "nothing is cut before it is known to be ours");
        output.append(&path).unwrap().write_all(b"{\"a\":3}\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"a\":1}\n{\"a\":2}\n{\"a\":3}\n");
    }

    #[test]
    fn rows_that_could_not_be_scored_are_counted_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.jsonl");
        let lines = [
            r#"{"prompt":"p","response":"r","score":1.0}"#,
            r#"{"line":2,"error":"too long"}"#,
            r#"{"file":"b.jsonl","line":1,"error":"too long"}"#,
            // A row of the input that has these fields among others.
            r#"{"line":4,"error":"none","prompt":"p","response":"r","score":1.0}"#,
            r#"{"line":5,"err"#,
        ];
        fs::write(&path, lines.join("\n")).unwrap();
        let output = Output::resume(&path).unwrap();
        assert_eq!((output.rows, output.failed), (4, 2));
    }

    #[test]
    fn what_no_run_has_written_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.jsonl");
        fs::write(&path, b"{\"a\":1}\n\0\0\0\0\n").unwrap();
        let error = Output::resume(&path).unwrap_err().to_string();
        assert!(error.contains("out.jsonl:2: "), "{error}");
        assert!(Output::resume(folder.path()).unwrap_err().to_string().contains("expected a file"));
        assert_eq!(Output::resume(&folder.path().join("absent.jsonl")).unwrap().rows, 0);
    }
}
