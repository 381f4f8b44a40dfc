//! A file of rows that grows in place, so that what was computed is never lost.

use crate::{Error, Result};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, ErrorKind, Seek, SeekFrom};
use std::path::Path;

/// The output, locked against a second process, at its end.
#[derive(Debug)]
pub(super) struct Output {
    pub file: File,
    /// Whole rows in it.
    pub rows: u64,
}

impl Output {
    /// A file that is not there yet, or is empty.
    ///
    /// # Errors
    /// As [`refuse_existing`]; [`Error::Checkpoint`] where another process writes it; [`Error::Io`].
    pub fn new(path: &Path) -> Result<Self> {
        let file = open(path)?;
        refuse_existing(path)?;
        Ok(Self { file, rows: 0 })
    }

    /// The file as a run left it; what follows its last whole line is cut off.
    ///
    /// # Errors
    /// [`Error::Row`] for a line that no run has written; otherwise as [`Output::new`].
    pub fn resume(path: &Path) -> Result<Self> {
        let mut file = open(path)?;
        let (mut rows, mut whole) = (0, 0);
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
            whole += line.len() as u64;
        }
        file.set_len(whole).map_err(Error::io(path))?;
        file.seek(SeekFrom::End(0)).map_err(Error::io(path))?;
        Ok(Self { file, rows })
    }
}

/// # Errors
/// [`Error::Usage`] where a file with something in it is there.
pub(super) fn refuse_existing(path: &Path) -> Result<()> {
    match path.metadata().map_or(0, |found| found.len()) {
        0 => Ok(()),
        bytes => Err(Error::Usage(format!(
            "--output {}: found {bytes} bytes there, expected a new name; --resume goes on with what was begun",
            path.display()
        ))),
    }
}

fn open(path: &Path) -> Result<File> {
    if path.metadata().is_ok_and(|found| !found.is_file()) {
        let path = path.display();
        return Err(Error::Usage(format!("--output {path}: found a folder or device, expected a file")));
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
        output.file.write_all(b"{\"a\":1}\n{\"a\":2}\n{\"a\":").unwrap();
        assert!(Output::resume(&path).unwrap_err().to_string().contains("another rmtrain"));
        drop(output);
        assert!(refuse_existing(&path).is_err());
        assert!(Output::new(&path).unwrap_err().to_string().contains("--resume"));
        let mut output = Output::resume(&path).unwrap();
        assert_eq!(output.rows, 2);
        output.file.write_all(b"{\"a\":3}\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"a\":1}\n{\"a\":2}\n{\"a\":3}\n");
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
