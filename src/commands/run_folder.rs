//! Runs on disk: which one is meant, and what it was trained on.

use crate::base::reader::Words;
use crate::data::config::Overlong;
use crate::{Error, Result};
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

pub(super) const CONFIG: &str = "config.toml";
pub(super) const FINAL: &str = "final";

/// Where `fit` writes without `--out`: `runs/` with the configuration's name, numbered where that is taken.
///
/// With `resume` the newest unfinished one of these, else the newest, else a new one.
pub(super) fn default_for(config: &Path, resume: bool) -> Result<PathBuf> {
    let stem = config.file_stem().map_or("run".into(), |stem| stem.to_string_lossy().into_owned());
    let numbered = |n: u32| match n {
        1 => Path::new("runs").join(&stem),
        n => Path::new("runs").join(format!("{stem}-{n}")),
    };
    // Numbers are given out without gaps, so the first free one ends the search.
    let taken = |n: &u32| numbered(*n).join(CONFIG).exists();
    let last = (1..).take_while(taken).last().unwrap_or(0);
    let unfinished = |n: &u32| !numbered(*n).join(FINAL).exists();
    match (1..=last).rev().find(unfinished) {
        Some(n) if resume => Ok(numbered(n)),
        None if resume && last > 0 => Ok(numbered(last)),
        _ => Ok(numbered(last + 1)),
    }
}

/// Whether a folder that is to become a run holds something else.
pub(super) fn has_foreign_content(folder: &Path) -> Result<bool> {
    match fs::read_dir(folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Error::io(folder)(e)),
        // A run that was killed before it wrote its configuration leaves its lock and a temporary.
        Ok(entries) => Ok(entries.flatten().any(|entry| {
            let name = entry.file_name();
            name != LOCK && !name.to_string_lossy().starts_with(".tmp-")
        })),
    }
}

/// Held while a process trains in a folder; released when it ends, however it ends.
pub(super) struct RunLock(#[expect(dead_code, reason = "the lock lives as long as the open file")] File);

const LOCK: &str = ".lock";

impl RunLock {
    /// # Errors
    /// [`Error::Checkpoint`] if another process trains there.
    pub(super) fn take(folder: &Path) -> Result<Self> {
        let path = folder.join(LOCK);
        let file = File::create(&path).map_err(Error::io(&path))?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => {
                Err(Error::checkpoint(folder, "another rmtrain is training in this folder"))
            }
            Err(TryLockError::Error(error)) => Err(Error::io(&path)(error)),
        }
    }
}

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

/// What a run's configuration says about data, as far as `eval` follows it.
#[derive(Debug, Default, PartialEq)]
pub(super) struct RunData {
    /// The configuration file.
    pub path: PathBuf,
    /// Where the splits are: `data.splits_dir`, or those of the run's own sandbox.
    pub splits_dir: Option<PathBuf>,
    pub eval: Vec<String>,
    pub max_length: Option<usize>,
    pub overlong: Option<Overlong>,
    pub score_field: Option<String>,
}

impl RunData {
    /// Reads the `[data]` of a run's `config.toml`, which `fit` wrote with every key explicit.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Config`] for a file that is no TOML.
    pub fn read(run: &Path) -> Result<Self> {
        let path = run.join(CONFIG);
        let text = fs::read_to_string(&path).map_err(Error::io(&path))?;
        let config: toml::Table = text.parse().map_err(|error: toml::de::Error| Error::Config {
            path: path.clone(),
            problems: vec![error.to_string()],
        })?;
        let data = config.get("data").and_then(toml::Value::as_table).cloned().unwrap_or_default();
        let text = |key: &str| data.get(key).and_then(toml::Value::as_str);
        let own_sandbox = data.contains_key("sandbox").then(|| run.join("sandbox").join("splits"));
        let eval = data.get("eval").and_then(toml::Value::as_array).into_iter().flatten();
        Ok(Self {
            splits_dir: text("splits_dir").map(PathBuf::from).or(own_sandbox),
            eval: eval.filter_map(toml::Value::as_str).map(String::from).collect(),
            max_length: data
                .get("max_length")
                .and_then(toml::Value::as_integer)
                .and_then(|n| n.try_into().ok()),
            overlong: text("overlong").and_then(|word| Overlong::from_word(word).ok()),
            score_field: text("score_field").map(String::from),
            path,
        })
    }
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

    #[test]
    fn the_data_of_a_run_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let write = |text: &str| fs::write(folder.path().join(CONFIG), text).unwrap();
        write(
            "[data]\nsplits_dir = \"data/uf\"\nmax_length = 512\noverlong = \"error\"\nscore_field = \"gold\"",
        );
        let data = RunData::read(folder.path()).unwrap();
        assert_eq!((data.splits_dir, data.max_length), (Some("data/uf".into()), Some(512)));
        assert_eq!((data.overlong, data.score_field.as_deref()), (Some(Overlong::Error), Some("gold")));
        write("[data]\nsandbox = { seed = 0, prompts = 10 }\neval = [\"a.jsonl\"]");
        let data = RunData::read(folder.path()).unwrap();
        assert_eq!(data.splits_dir, Some(folder.path().join("sandbox/splits")));
        assert_eq!(data.eval, ["a.jsonl"]);
        write("[data");
        assert_eq!(RunData::read(folder.path()).unwrap_err().exit_code(), 2);
    }
}
