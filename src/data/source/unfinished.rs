//! Files that grow under the name that they will keep: `rmtrain label` appends to its output, and `FILE.state.json`
//! beside it says whether every row is there.

use super::SourceFile;
use crate::{Error, Result};
use serde::Deserialize;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

/// The `format` of the state that `label` writes.
pub const LABEL_FORMAT: &str = "rmtrain-label";

/// `FILE.state.json` of `FILE`.
pub fn state_path(output: &Path) -> PathBuf {
    let mut path = output.as_os_str().to_owned();
    path.push(".state.json");
    path.into()
}

/// As much of a state as tells whether its file is complete.
#[derive(Deserialize)]
struct State {
    format: String,
    complete_rows: Option<u64>,
}

/// # Errors
/// [`Error::Data`] for an output of `label` in which rows are missing: nothing in the file itself shows it.
pub(super) fn refuse(file: &SourceFile) -> Result<()> {
    // What a link points to has its state beside itself.
    let target = file.path.canonicalize().ok();
    for path in std::iter::once(&file.path).chain(&target).map(|path| state_path(path)) {
        // A file that happens to have this name and is no state says nothing about its neighbour.
        if path.is_file()
            && let Ok(state) = File::open(&path)
            && let Ok(state) = serde_json::from_reader::<_, State>(BufReader::new(state))
            && state.format == LABEL_FORMAT
            && state.complete_rows.is_none()
        {
            let reason = format!(
                "found an output that `rmtrain label` has not finished (complete_rows is null in {}), expected all of its \
                 rows; go on with the same `rmtrain label` command and --resume, or read a copy under another name \
                 for the rows so far",
                path.display()
            );
            return Err(Error::Data { path: file.name.to_path_buf(), reason });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn what_label_has_not_finished_is_refused_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gold.jsonl");
        fs::write(&path, "{}\n").unwrap();
        let with = |path: &Path, state: &str| {
            fs::write(folder.path().join("gold.jsonl.state.json"), state).unwrap();
            refuse(&SourceFile::local(path))
        };
        assert!(refuse(&SourceFile::local(&path)).is_ok(), "no state, nothing is known");
        let unfinished = r#"{"format": "rmtrain-label", "version": 1, "complete_rows": null}"#;
        let error = with(&path, unfinished).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let error = error.to_string();
        assert!(error.contains("gold.jsonl: found an output") && error.contains("--resume"), "{error}");
        for other in [
            r#"{"format": "rmtrain-label", "complete_rows": 1}"#,
            r#"{"format": "another", "complete_rows": null}"#,
            "[]",
            "not JSON",
        ] {
            assert!(with(&path, other).is_ok(), "{other}");
        }
        #[cfg(unix)]
        {
            let link = folder.path().join("link.jsonl");
            std::os::unix::fs::symlink(&path, &link).unwrap();
            assert!(with(&link, unfinished).is_err(), "a link is as complete as its target");
        }
    }
}
