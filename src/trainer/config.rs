//! `[train]`.

pub use crate::model::DeviceChoice as Device;

/// The `[train]` section.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Pairs of one optimizer step.
    pub batch_pairs: usize,
    /// Tokens computed at once. A memory knob only: results do not depend on it.
    pub micro_batch_tokens: usize,
    pub duration: Duration,
    pub seed: u64,
    /// Evaluate after every so many steps; `None`: only at the end.
    pub eval_every: Option<u64>,
    /// Save a checkpoint after every so many steps; `None`: only at the end and on interrupt.
    pub save_every: Option<u64>,
    /// Checkpoints to keep, newest first; the best one is kept beside them.
    pub keep_last: usize,
    pub device: Device,
    /// Stop after so many evaluations in a row without a better one. `None`: never.
    pub early_stopping_patience: Option<u32>,
    /// `SPLIT.FIELD` of the eval reports that says which checkpoint is best, `in-domain.accuracy` say.
    /// `None`: the accuracy (or tau) of the first split.
    pub best_metric: Option<String>,
    /// How the step's activations are held; `Auto` chooses from `memory_budget_gib`.
    pub activations: Activations,
    /// Memory that may be used. `None`: what the machine has free at the start.
    pub memory_budget_gib: Option<f64>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            batch_pairs: 128,
            micro_batch_tokens: 16384,
            duration: Duration::Epochs(1.0),
            seed: 0,
            eval_every: None,
            save_every: None,
            keep_last: 2,
            device: Device::Auto,
            early_stopping_patience: None,
            best_metric: None,
            activations: Activations::Auto,
            memory_budget_gib: None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Duration {
    Epochs(f64),
    MaxSteps(u64),
}

/// `train.activations`: `auto | keep | recompute | rewards-first`. The result is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activations {
    Auto,
    /// Every intermediate of the step stays in memory.
    Keep,
    /// Only each layer's input stays; the rest is computed again in the backward pass.
    Recompute,
    /// Nothing stays: a first pass yields the rewards, then each micro-batch runs forward again and backward.
    RewardsFirst,
}
