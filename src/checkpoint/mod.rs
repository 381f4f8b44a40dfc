//! Checkpoints: a folder appears whole or not at all, says what it holds by SHA-256, and is rotated.
//!
//! A checkpoint is a Hugging Face folder (config, f32 weights, tokenizer) with the optimizer's moments, the loop's
//! state and `checksums.json`, which is written last. What fills it is the trainer's business.

pub mod folder;
pub mod optimizer;
pub mod trainer_state;

pub use folder::{publish, remove_temporaries, verify};

use crate::base::{Error, Result, atomic};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// What the loop must know, beside weights and moments, to go on as if it had never stopped.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoopState {
    /// Format of this file.
    pub version: u32,
    /// Optimizer steps done.
    pub step: u64,
    /// Steps that the run was planned for; the learning rate depends on it.
    pub total_steps: u64,
    /// Length of `metrics.jsonl` in bytes at this step.
    pub metrics_bytes: u64,
    /// Fingerprint of the training pairs in their order.
    pub data_fingerprint: String,
    /// The best evaluation so far.
    pub best: Option<Best>,
    /// Evaluations in a row without a better one.
    pub evaluations_without_improvement: u32,
    /// The evaluation that is due after this step has not been made.
    pub evaluation_pending: bool,
    /// The padding id that exports name; chosen once.
    pub pad_token_id: u32,
    /// The weight that an adaptive sum-to-zero term goes on with; absent without one, and in older files.
    #[serde(default)]
    pub lambda: Option<f64>,
}

/// The best evaluation so far.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Best {
    pub step: u64,
    /// `SPLIT.FIELD`
    pub metric: String,
    pub value: f64,
}

/// Format that this build writes and reads.
pub const VERSION: u32 = 1;

const STATE_FILE: &str = "rmtrain_state.json";

impl LoopState {
    /// Writes the state into a checkpoint folder.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)
            .map_err(|e| Error::checkpoint(folder.join(STATE_FILE), e.to_string()))?;
        atomic::write_bytes(&folder.join(STATE_FILE), text.as_bytes())
    }

    /// Reads the state of a checkpoint folder.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if the file is not such a state or of another version.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(STATE_FILE);
        let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
        let state: Self = serde_json::from_str(&text).map_err(|e| Error::checkpoint(&path, e.to_string()))?;
        if state.version != VERSION {
            let found = state.version;
            return Err(Error::checkpoint(&path, format!("format {found}; this build reads {VERSION}")));
        }
        Ok(state)
    }
}

/// The checkpoints of one run, `step-000100` and so on.
#[derive(Debug, Clone)]
pub struct Checkpoints {
    root: PathBuf,
}

impl Checkpoints {
    /// The checkpoints under `run/checkpoints`.
    pub fn of_run(run: &Path) -> Self {
        Self { root: run.join("checkpoints") }
    }

    /// Where the checkpoint of a step is or will be.
    pub fn path(&self, step: u64) -> PathBuf {
        self.root.join(format!("step-{step:06}"))
    }

    /// Steps that have a folder, ascending, whole or not.
    pub fn steps(&self) -> Result<Vec<u64>> {
        let entries = match std::fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(Error::io(&self.root)(e)),
        };
        let mut steps = Vec::new();
        for entry in entries {
            let name = entry.map_err(Error::io(&self.root))?.file_name();
            steps.extend(name.to_str().and_then(|n| n.strip_prefix("step-")?.parse::<u64>().ok()));
        }
        steps.sort_unstable();
        Ok(steps)
    }

    /// The newest checkpoint that is whole, and what was wrong with newer ones.
    pub fn newest_usable(&self) -> Result<(Option<u64>, Vec<Error>)> {
        let mut refused = Vec::new();
        for step in self.steps()?.into_iter().rev() {
            match verify(&self.path(step)) {
                Ok(()) => return Ok((Some(step), refused)),
                Err(error) => refused.push(error),
            }
        }
        Ok((None, refused))
    }

    /// Fills a new checkpoint and makes it visible whole; see [`publish`].
    pub fn save(&self, step: u64, fill: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let path = self.path(step);
        publish(&path, fill)?;
        Ok(path)
    }

    /// Removes all but the newest `keep_last` and the best.
    pub fn rotate(&self, keep_last: usize, best: Option<u64>) -> Result<()> {
        let steps = self.steps()?;
        for &step in &steps[..steps.len().saturating_sub(keep_last)] {
            if Some(step) != best {
                folder::remove(&self.path(step))?;
            }
        }
        Ok(())
    }

    /// Removes checkpoints newer than the one that a run goes on from: they were passed over as damaged, and must not
    /// push sound ones out.
    pub fn remove_after(&self, step: u64) -> Result<()> {
        self.steps()?.into_iter().filter(|&s| s > step).try_for_each(|s| folder::remove(&self.path(s)))
    }

    /// Removes what a killed run left unfinished.
    pub fn remove_temporaries(&self) -> Result<()> {
        remove_temporaries(&self.root)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(step: u64) -> LoopState {
        LoopState {
            version: VERSION,
            step,
            total_steps: 10,
            metrics_bytes: 5,
            data_fingerprint: "abc".into(),
            best: Some(Best { step: 2, metric: "a.accuracy".into(), value: 0.1 + 0.2 }),
            evaluations_without_improvement: 1,
            evaluation_pending: false,
            pad_token_id: 0,
            lambda: Some(0.1 + 0.2),
        }
    }

    #[test]
    fn rotation_keeps_the_newest_and_the_best() {
        let run = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::of_run(run.path());
        for step in [1, 2, 3, 4, 5] {
            checkpoints.save(step, |folder| state(step).write(folder)).unwrap();
        }
        checkpoints.rotate(2, Some(1)).unwrap();
        assert_eq!(checkpoints.steps().unwrap(), [1, 4, 5]);
        assert_eq!(LoopState::read(&checkpoints.path(4)).unwrap(), state(4));
    }

    #[test]
    fn a_checkpoint_cut_at_any_byte_is_passed_over() {
        let run = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::of_run(run.path());
        for step in [1, 2] {
            checkpoints.save(step, |folder| state(step).write(folder)).unwrap();
        }
        for name in [STATE_FILE, "checksums.json"] {
            let path = checkpoints.path(2).join(name);
            let whole = std::fs::read(&path).unwrap();
            for length in 0..whole.len() {
                std::fs::write(&path, &whole[..length]).unwrap();
                let (usable, refused) = checkpoints.newest_usable().unwrap();
                assert_eq!((usable, refused.len()), (Some(1), 1), "{name} cut at {length}");
            }
            std::fs::write(&path, &whole).unwrap();
        }
        assert_eq!(checkpoints.newest_usable().unwrap().0, Some(2));
    }

    #[test]
    fn a_checkpoint_that_is_saved_again_replaces_the_one_before() {
        let run = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::of_run(run.path());
        for pending in [true, false] {
            let state = LoopState { evaluation_pending: pending, ..state(1) };
            let path = checkpoints.save(1, |folder| state.write(folder)).unwrap();
            verify(&path).unwrap();
            assert_eq!(LoopState::read(&path).unwrap(), state);
        }
        assert_eq!(std::fs::read_dir(run.path().join("checkpoints")).unwrap().count(), 1);
    }

    #[test]
    fn a_failure_while_filling_leaves_nothing_visible() {
        let run = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::of_run(run.path());
        checkpoints.save(1, |folder| state(1).write(folder)).unwrap();
        let failed = checkpoints.save(2, |folder| {
            state(2).write(folder)?;
            Err(Error::Interrupted)
        });
        assert!(failed.is_err());
        assert_eq!(checkpoints.steps().unwrap(), [1]);
        checkpoints.remove_temporaries().unwrap();
        assert_eq!(std::fs::read_dir(run.path().join("checkpoints")).unwrap().count(), 1);
    }
}
