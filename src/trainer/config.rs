//! `[train]`.

use crate::base::located::quoted;
use crate::base::reader::{POSITIVE, Section, Words};
use crate::base::toml_writer::{OrWord, TomlWriter, Word};

pub use crate::model::DeviceChoice as Device;

/// Largest optimizer step, in pairs; more is a mistyped number.
const MAX_BATCH_PAIRS: u64 = 1 << 24;
const MAX_MICRO_BATCH_TOKENS: u64 = 1 << 40;
/// Fields of an eval report that say how good a model is, higher being better.
pub const BEST_METRIC_FIELDS: [&str; 2] = ["accuracy", "kendall_tau"];

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
    /// Memory that may be used, weights included. `None`: them and most of what is free beside them at the start.
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

impl Duration {
    /// Optimizer steps of a run whose epochs have so many.
    pub fn steps(self, per_epoch: u64) -> u64 {
        match self {
            Duration::Epochs(epochs) => ((epochs * per_epoch as f64).ceil() as u64).max(1),
            Duration::MaxSteps(steps) => steps,
        }
    }
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

impl Words for Activations {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("auto", Activations::Auto),
        ("keep", Activations::Keep),
        ("recompute", Activations::Recompute),
        ("rewards-first", Activations::RewardsFirst),
    ];
}

impl Config {
    /// Reads the section. What is wrong with it goes on the section's record; the value is of no use then.
    pub(crate) fn read(mut section: Section<'_>) -> Self {
        let default = Self::default();
        if let (Some(_), Some(place)) = (section.place_of("epochs"), section.place_of("max_steps")) {
            let text = "found beside epochs, expected one of the two";
            section.problem(Some(place.clone()), "max_steps", text);
        }
        let epochs = section.number("epochs", POSITIVE).map(Duration::Epochs);
        let steps = section.integer("max_steps", 1..=u64::MAX).map(Duration::MaxSteps);
        let eval_every = section.integer_or("eval_every", 1..=u64::MAX, "none").flatten();
        let patience_place = section.place_of("early_stopping_patience").cloned();
        let patience = section.integer_or("early_stopping_patience", 1..=u32::MAX.into(), "none").flatten();
        if patience.is_some() && eval_every.is_none() {
            let text = "found without eval_every, expected both: patience counts evaluations";
            section.problem(patience_place, "early_stopping_patience", text);
        }
        let config = Self {
            batch_pairs: section.count("batch_pairs", 1..=MAX_BATCH_PAIRS).unwrap_or(default.batch_pairs),
            micro_batch_tokens: section
                .count("micro_batch_tokens", 1..=MAX_MICRO_BATCH_TOKENS)
                .unwrap_or(default.micro_batch_tokens),
            duration: epochs.or(steps).unwrap_or(default.duration),
            seed: section.integer("seed", 0..=u64::MAX).unwrap_or(default.seed),
            eval_every,
            save_every: section.integer_or("save_every", 1..=u64::MAX, "none").flatten(),
            keep_last: section.count("keep_last", 1..=u64::MAX).unwrap_or(default.keep_last),
            device: read_device(&mut section).unwrap_or(default.device),
            early_stopping_patience: patience.map(|n| u32::try_from(n).unwrap_or(u32::MAX)),
            best_metric: read_best_metric(&mut section),
            activations: section.word("activations").unwrap_or(default.activations),
            memory_budget_gib: section.number_or("memory_budget_gib", POSITIVE, "auto").flatten(),
        };
        section.finish();
        config
    }

    /// Writes the section with every key, of `epochs` and `max_steps` the one in force.
    pub(crate) fn write(&self, out: &mut TomlWriter) {
        out.header("[train]");
        out.entry("batch_pairs", self.batch_pairs);
        out.entry("micro_batch_tokens", self.micro_batch_tokens);
        match self.duration {
            Duration::Epochs(epochs) => out.entry("epochs", epochs),
            Duration::MaxSteps(steps) => out.entry("max_steps", steps),
        }
        out.entry("seed", self.seed);
        out.entry("eval_every", OrWord(self.eval_every, "none"));
        out.entry("save_every", OrWord(self.save_every, "none"));
        out.entry("keep_last", self.keep_last);
        out.entry("device", self.device.to_string());
        out.entry("early_stopping_patience", OrWord(self.early_stopping_patience.map(u64::from), "none"));
        out.entry("best_metric", OrWord(self.best_metric.as_ref(), "auto"));
        out.entry("activations", Word(self.activations));
        out.entry("memory_budget_gib", OrWord(self.memory_budget_gib, "auto"));
    }
}

fn read_device(section: &mut Section<'_>) -> Option<Device> {
    let place = section.place_of("device").cloned();
    let text = section.string("device", "\"auto\", \"cpu\", \"cuda\" or \"cuda:N\"")?;
    text.parse().map_err(|problem: String| section.problem(place, "device", &problem)).ok()
}

fn read_best_metric(section: &mut Section<'_>) -> Option<String> {
    let place = section.place_of("best_metric").cloned();
    let expected = "SPLIT.accuracy, SPLIT.kendall_tau or \"auto\"";
    let text = section.string("best_metric", expected)?;
    if text == "auto" {
        return None;
    }
    match text.rsplit_once('.') {
        Some((split, field)) if !split.is_empty() && BEST_METRIC_FIELDS.contains(&field) => Some(text),
        _ => {
            let problem = format!("found {}, expected {expected}", quoted(&text));
            section.problem(place, "best_metric", &problem);
            None
        }
    }
}
