//! `metrics.jsonl`: one object a line, appended as the run goes, cut back to the checkpoint when it resumes.

use super::step::StepResult;
use crate::diagnostics::quantiles::LEVELS;
use crate::eval::SplitReport;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// The line of a step. Names and order are the contract with whoever reads the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepLine {
    pub kind: String,
    /// From 1.
    pub step: u64,
    /// Passes over the data completed after this step.
    pub epoch: f64,
    pub loss: f64,
    pub loss_bt: f64,
    pub loss_bsr: f64,
    pub accuracy: f64,
    pub ties: u64,
    pub margin_mean: f64,
    pub reward_mean: f64,
    pub reward_std: f64,
    pub reward_min: f64,
    pub reward_max: f64,
    pub head_norm: f64,
    pub hidden_norm_mean: f64,
    pub hidden_norm_var: f64,
    pub hidden_norm_skew: f64,
    pub hidden_norm_max: f64,
    /// At [`LEVELS`]; absent, as the two means are, from lines of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hidden_norm_quantiles: Option<[f64; LEVELS.len()]>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hidden_norm_chosen_mean: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hidden_norm_rejected_mean: Option<f64>,
    pub hidden_diff_norm_mean: f64,
    pub cos_mean: f64,
    pub grad_norm: f64,
    pub head_grad_norm: f64,
    pub lr: f64,
    /// The weight of sum-to-zero in this step; absent without such a term.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lambda: Option<f64>,
    /// How the heads of an ensemble differ, and the worst of them; absent with one head.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_spread_mean: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_accuracy_min: Option<f64>,
    /// Pairs that differ in gold, which accuracy and ties are of.
    pub pairs: usize,
    /// Responses of the step, 2B of B pairs; 0 in files that had no such field yet.
    #[serde(default)]
    pub sequences: usize,
    pub tokens: usize,
    /// Wall time of the step: waiting for its data, forward, backward and update.
    pub seconds: f64,
}

impl StepLine {
    pub fn new(
        step: u64,
        epoch: f64,
        lr: f64,
        lambda: Option<f64>,
        seconds: f64,
        result: &StepResult,
    ) -> Self {
        let d = &result.diagnostics;
        Self {
            kind: "step".into(),
            step,
            epoch,
            loss: result.loss,
            loss_bt: result.loss_bt,
            loss_bsr: result.loss_bsr,
            accuracy: d.accuracy,
            ties: d.ties,
            margin_mean: d.margin_mean,
            reward_mean: d.reward_mean,
            reward_std: d.reward_std,
            reward_min: d.reward_min,
            reward_max: d.reward_max,
            head_norm: d.head_norm,
            hidden_norm_mean: d.hidden_norm.mean,
            hidden_norm_var: d.hidden_norm.variance,
            hidden_norm_skew: d.hidden_norm.skewness,
            hidden_norm_max: d.hidden_norm.max,
            hidden_norm_quantiles: Some(d.hidden_norm_quantiles),
            hidden_norm_chosen_mean: Some(d.hidden_norm_chosen_mean),
            hidden_norm_rejected_mean: Some(d.hidden_norm_rejected_mean),
            hidden_diff_norm_mean: d.hidden_diff_norm_mean,
            cos_mean: d.cos_mean,
            grad_norm: result.grad_norm,
            head_grad_norm: result.head_grad_norm,
            lr,
            lambda,
            head_spread_mean: result.ensemble.map(|e| e.spread_mean),
            head_accuracy_min: result.ensemble.map(|e| e.accuracy_min),
            pairs: d.pairs,
            sequences: result.sequences,
            tokens: result.tokens,
            seconds,
        }
    }
}

/// The line of an evaluation.
#[derive(Debug, Serialize)]
pub struct EvalLine<'a> {
    pub kind: &'static str,
    pub step: u64,
    pub split: &'a str,
    #[serde(flatten)]
    pub report: &'a SplitReport,
}

/// The open file.
#[derive(Debug)]
pub struct MetricsFile {
    file: File,
    path: PathBuf,
    bytes: u64,
}

impl MetricsFile {
    /// Opens `path` and keeps its first `bytes`: none for a new run, those that the checkpoint knows of when it
    /// resumes. What a killed run wrote after its checkpoint is computed again.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if the file is shorter than that.
    pub fn open(path: &Path, bytes: u64) -> Result<Self> {
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)
            .map_err(Error::io(path))?;
        let found = file.metadata().map_err(Error::io(path))?.len();
        if found < bytes {
            return Err(Error::checkpoint(
                path,
                format!("has {found} bytes where the checkpoint expects at least {bytes}"),
            ));
        }
        file.set_len(bytes).map_err(Error::io(path))?;
        file.seek(SeekFrom::End(0)).map_err(Error::io(path))?;
        Ok(Self { file, path: path.to_path_buf(), bytes })
    }

    /// Appends one line in a single write, so that a reader never sees half of one.
    pub fn append(&mut self, line: &impl Serialize) -> Result<()> {
        let mut text = serde_json::to_vec(line)
            .map_err(|e| Error::Io { path: self.path.clone(), source: std::io::Error::other(e) })?;
        text.push(b'\n');
        self.file.write_all(&text).map_err(Error::io(&self.path))?;
        self.bytes += text.len() as u64;
        Ok(())
    }

    /// Length so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Makes everything so far durable.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(Error::io(&self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resuming_cuts_back_to_what_the_checkpoint_knows() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let mut file = MetricsFile::open(&path, 0).unwrap();
        file.append(&serde_json::json!({"step": 1})).unwrap();
        file.sync().unwrap();
        let known = file.bytes();
        file.append(&serde_json::json!({"step": 2})).unwrap();
        drop(file);
        let mut file = MetricsFile::open(&path, known).unwrap();
        file.append(&serde_json::json!({"step": 3})).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"step\":1}\n{\"step\":3}\n");
        let error = MetricsFile::open(&path, 1000).unwrap_err().to_string();
        assert!(error.contains("expects at least 1000"), "{error}");
    }
}
