//! Alarms: rules on the figures of steps and evaluations that say when a run is on its way to over-optimization.
//!
//! A guard is a function of the lines of `metrics.jsonl` and nothing else, so a run that resumes has it back, to the
//! bit, by reading them again. An alarm is raised once, when its value exceeds the threshold, and may be raised again
//! after the value fell to [`RELEASE`] of it. A run may resume with other rules; what these would have raised before,
//! and what still holds, is told then.

pub mod config;

pub use config::{Action, Config, Rule};

use super::metrics::StepLine;
use crate::base::median::median;
use crate::base::reader::Words;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader};
use std::path::Path;

/// An alarm ends below this share of its threshold, so that a value that hovers there is told once.
const RELEASE: f64 = 0.8;

/// An alarm's line in `metrics.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Alarm {
    kind: &'static str,
    pub step: u64,
    pub rule: &'static str,
    /// The set, for the rule that compares sets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub split: Option<String>,
    pub value: f64,
    pub threshold: f64,
    pub message: String,
}

/// The figures of one step that the rules look at.
#[derive(Debug, Clone, Copy)]
struct Figures {
    step: u64,
    norm_var: f64,
    norm_mean: f64,
    norm_skew: f64,
    reward_mean: f64,
    /// `|reward_mean| / reward_std`.
    drift: f64,
    accuracy: f64,
    pairs: usize,
}

impl From<&StepLine> for Figures {
    fn from(line: &StepLine) -> Self {
        Self {
            step: line.step,
            norm_var: line.hidden_norm_var,
            norm_mean: line.hidden_norm_mean,
            norm_skew: line.hidden_norm_skew,
            reward_mean: line.reward_mean.abs(),
            // Equal rewards share everything and separate nothing; the loop refuses them where they matter.
            drift: if line.reward_std > 0.0 { line.reward_mean.abs() / line.reward_std } else { 0.0 },
            accuracy: line.accuracy,
            pairs: line.pairs,
        }
    }
}

/// The first window after the warmup.
#[derive(Debug, Clone, Copy)]
struct Baseline {
    first: u64,
    last: u64,
    /// At least that of norms that spread by `min_spread`.
    norm_var: f64,
    reward_mean: f64,
}

/// A rule, and the set that it is about.
type Key = (Rule, Option<String>);

/// The state of the rules.
#[derive(Debug)]
pub struct Guard {
    config: Config,
    /// Steps in which the learning rate rises; nothing is judged in them.
    warmup: u64,
    /// The last steps, a window of them at most.
    window: VecDeque<Figures>,
    baseline: Option<Baseline>,
    /// Alarms that were raised and have not ended.
    raised: BTreeMap<Key, Alarm>,
}

/// Why a run has to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    /// The rules whose alarms ask for it.
    pub rules: Vec<Rule>,
    /// What the alarms say, a line each.
    pub message: String,
}

impl Guard {
    /// For a run whose learning rate rises for `warmup` steps.
    pub fn new(config: &Config, warmup: u64) -> Self {
        Self {
            config: config.clone(),
            warmup,
            window: VecDeque::new(),
            baseline: None,
            raised: BTreeMap::new(),
        }
    }

    /// [`Guard::new`] as it was when the lines of `metrics` had been written, and the alarms that hold there and that no
    /// line tells of: those of a rule that was off, or had a higher threshold.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Checkpoint`] for a line that is none of a run's.
    pub fn replay(config: &Config, warmup: u64, metrics: &Path) -> Result<(Self, Vec<Alarm>)> {
        let mut guard = Self::new(config, warmup);
        // The step of the last line about each.
        let mut told = BTreeMap::new();
        let file = std::fs::File::open(metrics).map_err(Error::io(metrics))?;
        for line in BufReader::new(file).lines() {
            let line = line.map_err(Error::io(metrics))?;
            guard.replay_line(&line, &mut told).map_err(|e| Error::checkpoint(metrics, e.to_string()))?;
        }
        // A line from before the alarm was raised is of one that has ended since.
        let is_untold = |key: &Key, alarm: &Alarm| told.get(key).is_none_or(|step| *step < alarm.step);
        let untold = guard.raised.iter().filter(|(key, alarm)| is_untold(key, alarm));
        let untold = untold.map(|(_, alarm)| alarm.clone()).collect();
        Ok((guard, untold))
    }

    fn replay_line(&mut self, line: &str, told: &mut BTreeMap<Key, u64>) -> serde_json::Result<()> {
        let line: serde_json::Value = serde_json::from_str(line)?;
        match line["kind"].as_str() {
            Some("step") => {
                self.step(&serde_json::from_value(line)?);
            }
            Some("eval") => {
                let EvalFigures { step, split, accuracy } = serde_json::from_value(line)?;
                self.evaluated(step, &split, accuracy);
            }
            // An alarm follows from the lines before it; this one says that somebody has heard of it.
            Some("alarm") => {
                let AlarmFigures { step, rule, split } = serde_json::from_value(line)?;
                told.extend(Rule::from_word(&rule).ok().map(|rule| ((rule, split), step)));
            }
            _ => {}
        }
        Ok(())
    }

    /// Looks at a step, and returns the alarms that it raises.
    pub fn step(&mut self, line: &StepLine) -> Vec<Alarm> {
        self.window.push_back(Figures::from(line));
        if self.window.len() > self.config.window {
            self.window.pop_front();
        }
        if self.window.len() < self.config.window || line.step < self.warmup + self.config.window as u64 {
            return Vec::new();
        }
        let now = Baseline {
            first: self.window[0].step,
            last: line.step,
            norm_var: self.median(|f| f.norm_var),
            reward_mean: self.median(|f| f.reward_mean),
        };
        let Some(baseline) = self.baseline else {
            let least = self.config.min_spread * self.median(|f| f.norm_mean);
            self.baseline = Some(Baseline { norm_var: now.norm_var.max(least * least), ..now });
            return Vec::new();
        };
        let growth = if baseline.norm_var > 0.0 { now.norm_var / baseline.norm_var } else { 0.0 };
        let skew = self.median(|f| f.norm_skew);
        let drift = self.median(|f| f.drift);
        // A fresh head's rewards begin with an offset; what has come nearer to zero since is no drift.
        let drift = if now.reward_mean > baseline.reward_mean { drift } else { 0.0 };
        let steps = format!("over steps {} to {}", now.first, now.last);
        let told = [
            (
                Rule::NormGrowth,
                growth,
                format!(
                    "hidden_norm_var is {growth:.1} times its early baseline (median {:.3e} {steps}, {:.3e} over steps \
                     {} to {}): hidden norms spread, and outliers among them are extreme rewards on unseen text. \
                     Raise the lambda of sum-to-zero, or add a norm-variance term; lower optim.lr or train for less",
                    now.norm_var, baseline.norm_var, baseline.first, baseline.last
                ),
            ),
            (
                Rule::NormSkew,
                skew,
                format!(
                    "hidden_norm_skew is {skew:.2} (median {steps}): a few sequences have far longer hidden states than \
                     the rest. Look at the rows with the highest rewards (rmtrain score), and at over-long or \
                     repetitive responses; then as for norm-growth"
                ),
            ),
            (
                Rule::RewardDrift,
                drift,
                format!(
                    "the mean reward is {drift:.2} deviations from zero (median {steps}; |mean| {:.3}, {:.3} at the \
                     start): rewards share an offset that no preference asked for. Add a sum-to-zero or center term, \
                     or raise its weight",
                    now.reward_mean, baseline.reward_mean
                ),
            ),
        ];
        told.into_iter()
            .filter_map(|(rule, value, text)| self.judge(line.step, (rule, None), value, text))
            .collect()
    }

    /// Looks at the evaluation of a set after step `step`, and returns the alarm that it raises.
    ///
    /// `accuracy` is pairwise, for sets judged by tau too.
    pub fn evaluated(&mut self, step: u64, split: &str, accuracy: Option<f64>) -> Option<Alarm> {
        let accuracy = accuracy?;
        if self.window.len() < self.config.window || step <= self.warmup {
            return None;
        }
        let pairs: usize = self.window.iter().map(|f| f.pairs).sum();
        let seen = self.window.iter().map(|f| f.accuracy * f.pairs as f64).sum::<f64>() / pairs as f64;
        let gap = seen - accuracy;
        let text = format!(
            "accuracy is {seen:.3} on training pairs (steps {} to {step}) and {accuracy:.3} on {split}, a gap of \
             {gap:.3}: what is learned holds for the training pairs. Train for fewer epochs \
             (train.early_stopping_patience), lower optim.lr, or train on more, or more varied, pairs",
            self.window[0].step
        );
        self.judge(step, (Rule::Gap, Some(split.to_owned())), gap, text)
    }

    /// Why the run has to end here, if it has: alarms that are raised and whose action is to stop.
    pub fn stops(&self) -> Option<Stop> {
        let stops = self.raised.iter().filter(|((rule, _), _)| self.config.action(*rule) == Action::Stop);
        let (mut rules, messages): (Vec<Rule>, Vec<&str>) =
            stops.map(|((rule, _), alarm)| (*rule, alarm.message.as_str())).unzip();
        // One of the gap for each set.
        rules.dedup();
        (!messages.is_empty()).then(|| Stop { rules, message: messages.join("\n") })
    }

    fn judge(&mut self, step: u64, key: Key, value: f64, text: String) -> Option<Alarm> {
        let (rule, split) = &key;
        let threshold = self.config.setting(*rule).threshold;
        if self.config.action(*rule) == Action::Off {
            return None;
        }
        if self.raised.contains_key(&key) {
            if value < RELEASE * threshold {
                self.raised.remove(&key);
            }
            return None;
        }
        if value <= threshold {
            return None;
        }
        let word = rule.word();
        let message = format!("guard.{word}: {text} (threshold {threshold})");
        let alarm =
            Alarm { kind: "alarm", step, rule: word, split: split.clone(), value, threshold, message };
        self.raised.insert(key, alarm.clone());
        Some(alarm)
    }

    fn median(&self, of: impl Fn(&Figures) -> f64) -> f64 {
        median(self.window.iter().map(of)).unwrap_or(0.0)
    }
}

/// The line of an evaluation, as far as the rules read it.
#[derive(Deserialize)]
struct EvalFigures {
    step: u64,
    split: String,
    accuracy: Option<f64>,
}

/// The line of an alarm, as far as it says which one.
#[derive(Deserialize)]
struct AlarmFigures {
    step: u64,
    rule: String,
    split: Option<String>,
}

#[cfg(test)]
mod tests;
