//! Runs on disk: which one is meant, and what it was trained on.

use crate::{Error, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

const CONFIG: &str = "config.toml";
const FINAL: &str = "final";

/// The `final/` of a run directory.
///
/// # Errors
/// [`Error::Checkpoint`] for a folder that is no finished run, with its newest checkpoint where it has one.
pub(super) fn final_of(folder: &Path) -> Result<PathBuf> {
    let finished = folder.join(FINAL);
    if finished.join("config.json").is_file() {
        return Ok(finished);
    }
    let reason = match (folder.join(CONFIG).is_file(), newest_checkpoint(folder)) {
        (true, Some(checkpoint)) => format!(
            "this run has no {FINAL}/ yet; finish it with `fit --resume`, or use its newest checkpoint: {}",
            checkpoint.display()
        ),
        (true, None) => format!("this run has neither {FINAL}/ nor a checkpoint"),
        (false, _) => format!(
            "found neither config.json (a model or checkpoint folder) nor {FINAL}/config.json (a finished run)"
        ),
    };
    Err(Error::checkpoint(folder, reason))
}

fn newest_checkpoint(run: &Path) -> Option<PathBuf> {
    // Steps are padded with zeros, so the last name is the newest.
    subfolders(&run.join("checkpoints")).ok()?.into_iter().filter(|c| c.join("config.json").is_file()).max()
}

/// The run under `runs` whose `final/` is newest, if there is a finished one; `runs` may be absent.
pub(super) fn newest_finished(runs: &Path) -> Result<Option<PathBuf>> {
    if !runs.is_dir() {
        return Ok(None);
    }
    let mut newest: Option<(SystemTime, PathBuf)> = None;
    for run in subfolders(runs)? {
        let finished = run.join(FINAL);
        if !finished.join("config.json").is_file() || !run.join(CONFIG).is_file() {
            continue;
        }
        // `final/` appears by a rename when it is complete, so its own time is that of its last file.
        let time = fs::metadata(&finished).and_then(|m| m.modified()).map_err(Error::io(&finished))?;
        if newest.as_ref().is_none_or(|(best, path)| (time, &run) > (*best, path)) {
            newest = Some((time, run));
        }
    }
    Ok(newest.map(|(_, run)| run))
}

/// The run that `model` is or lies in: the run directory itself, its `final/`, or one of its checkpoints.
pub(super) fn run_of(model: &Path) -> Option<PathBuf> {
    let model = fs::canonicalize(model).ok()?;
    let is_run = |folder: &&Path| folder.join(CONFIG).is_file();
    let parent = model.parent();
    let of_checkpoint = || parent.filter(|p| p.ends_with("checkpoints")).and_then(Path::parent);
    let of_final = || parent.filter(|_| model.ends_with(FINAL));
    [Some(model.as_path()), of_final(), of_checkpoint()]
        .into_iter()
        .flatten()
        .find(is_run)
        .map(Path::to_path_buf)
}

fn subfolders(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
        let path = entry.map_err(Error::io(folder))?.path();
        if path.is_dir() {
            found.push(path);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::time::Duration;

    fn run(runs: &Path, name: &str, finished: Option<u64>) -> PathBuf {
        let folder = runs.join(name);
        fs::create_dir_all(folder.join("checkpoints/step-000100")).unwrap();
        fs::write(folder.join(CONFIG), "").unwrap();
        fs::write(folder.join("checkpoints/step-000100/config.json"), "{}").unwrap();
        if let Some(seconds) = finished {
            let folder = folder.join(FINAL);
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("config.json"), "{}").unwrap();
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000 + seconds);
            File::open(folder).unwrap().set_modified(time).unwrap();
        }
        folder
    }

    #[test]
    fn the_newest_finished_run_is_found() {
        let runs = tempfile::tempdir().unwrap();
        let runs = runs.path();
        assert_eq!(newest_finished(&runs.join("absent")).unwrap(), None);
        assert_eq!(newest_finished(runs).unwrap(), None);
        run(runs, "a", Some(10));
        let newest = run(runs, "b", Some(30));
        run(runs, "c", Some(20));
        run(runs, "unfinished", None);
        fs::create_dir_all(runs.join("foreign/final")).unwrap();
        assert_eq!(newest_finished(runs).unwrap(), Some(newest));
    }

    #[test]
    fn an_unfinished_run_names_its_checkpoint() {
        let runs = tempfile::tempdir().unwrap();
        let done = run(runs.path(), "done", Some(1));
        assert_eq!(final_of(&done).unwrap(), done.join(FINAL));
        let open = run(runs.path(), "open", None);
        let error = final_of(&open).unwrap_err().to_string();
        assert!(error.contains("open/checkpoints/step-000100"), "{error}");
        let error = final_of(runs.path()).unwrap_err().to_string();
        assert!(error.contains("neither config.json"), "{error}");
    }

    #[test]
    fn a_model_knows_its_run() {
        let runs = tempfile::tempdir().unwrap();
        let folder = fs::canonicalize(run(runs.path(), "r", Some(1))).unwrap();
        for part in ["", FINAL, "checkpoints/step-000100"] {
            assert_eq!(run_of(&folder.join(part)), Some(folder.clone()), "{part}");
        }
        assert_eq!(run_of(&folder.join("checkpoints")), None);
        assert_eq!(run_of(runs.path()), None);
    }
}
