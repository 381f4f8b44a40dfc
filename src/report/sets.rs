//! The figures of an evaluated set, as an eval report and the eval lines of `metrics.jsonl` have them.

use super::run::read_if_there;
use crate::{Error, Result};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::path::Path;

/// A 95% interval.
pub type Interval = [f64; 2];

/// An eval report.
#[derive(Debug, Default)]
pub struct EvalReport {
    /// The folder or hub id of what was evaluated.
    pub model: Option<String>,
    /// How the rewards of an ensemble's heads became one; absent where it is by their mean.
    pub reduce: Option<String>,
    pub splits: Vec<(String, SetFigures)>,
    /// In-domain accuracy minus a set's, both pairwise.
    pub gaps: Vec<(String, Gap)>,
    pub comparison: Option<Comparison>,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub struct Gap {
    pub accuracy: Option<f64>,
    #[serde(default)]
    pub ci95: Option<Interval>,
}

/// A paired comparison with another model.
#[derive(Debug, Clone, Deserialize)]
pub struct Comparison {
    pub model: String,
    #[serde(default)]
    pub splits: Map<String, Value>,
}

/// One set. Fields that a report does not have are absent.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct SetFigures {
    pub rows: Option<u64>,
    /// Which figure is the set's own: `accuracy` or `kendall_tau`.
    pub metric: Option<String>,
    pub accuracy: Option<f64>,
    pub accuracy_ci95: Option<Interval>,
    pub ties: Option<u64>,
    pub kendall_tau: Option<f64>,
    pub kendall_tau_ci95: Option<Interval>,
    pub longest_wins: Option<f64>,
    pub hidden_norm_var: Option<f64>,
    pub reward_mean: Option<f64>,
    pub reward_std: Option<f64>,
    /// Of an ensemble: the mean over sequences of the deviation of rewards over the heads.
    pub head_spread_mean: Option<f64>,
    pub calibration: Option<Calibration>,
    pub length: Option<Length>,
    pub antisymmetry: Option<Antisymmetry>,
    pub hidden: Option<Hidden>,
    pub rewards: Option<Rewards>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub struct Calibration {
    pub ece: Option<f64>,
    pub brier: Option<f64>,
    pub temperature: Option<f64>,
    pub nll: Option<f64>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub struct Length {
    pub controlled_accuracy: Option<f64>,
    /// Standard deviations of the reward a doubling of the length.
    pub reward_slope: Option<f64>,
    pub markdown_effect: Option<f64>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub struct Antisymmetry {
    pub max_difference: Option<f64>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub struct Hidden {
    pub norm_mean: Option<f64>,
    pub norm_var: Option<f64>,
    pub norm_skew: Option<f64>,
    pub norm_max: Option<f64>,
    pub effective_rank: Option<f64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Rewards {
    pub histogram: Option<Histogram>,
}

/// `edges` has one value more than `counts`.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Histogram {
    pub edges: Vec<f64>,
    pub counts: Vec<f64>,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    reduce: Option<String>,
    splits: Map<String, Value>,
    #[serde(default)]
    gaps: Map<String, Value>,
    #[serde(default)]
    comparison: Option<Comparison>,
}

impl EvalReport {
    /// `None` where there is no such file.
    ///
    /// # Errors
    /// [`Error::Data`] for one that is no eval report.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        let Some(text) = read_if_there(path)? else { return Ok(None) };
        Self::parse(&text).map(Some).map_err(|e| Error::Data {
            path: path.into(),
            reason: format!("found {e}, expected an eval report (rmtrain eval --out FILE.json)"),
        })
    }

    fn parse(text: &str) -> serde_json::Result<Self> {
        let Raw { model, reduce, splits, gaps, comparison } = serde_json::from_str(text)?;
        let splits = splits.into_iter().map(|(name, set)| Ok((name, serde_json::from_value(set)?)));
        let gaps = gaps.into_iter().map(|(name, gap)| Ok((name, serde_json::from_value(gap)?)));
        Ok(Self {
            model,
            reduce,
            splits: splits.collect::<serde_json::Result<_>>()?,
            gaps: gaps.collect::<serde_json::Result<_>>()?,
            comparison,
        })
    }

    /// Whether the rewards of several heads became one by their mean, as they do in training.
    pub fn is_by_mean(&self) -> bool {
        self.reduce.as_deref().is_none_or(|reduce| reduce == "mean")
    }

    /// The stated gap of a set.
    pub fn gap(&self, set: &str) -> Option<Gap> {
        self.gaps.iter().find(|(name, _)| name == set).map(|(_, gap)| *gap)
    }
}

/// In-domain minus another set, of independent rows, as an eval report states it.
///
/// The interval is that of the method of variance estimates recovery: what the difference may be too high by is what its
/// first figure may be too high by and its second too low, in squares. An interval that is not even about its figure, as
/// that of a share near 1, makes one that is not even either.
///
/// # Source
/// Zou and Donner, "Construction of confidence limits about effect measures", Statistics in Medicine 2008.
pub fn gap_between(in_domain: &SetFigures, other: &SetFigures) -> Option<Gap> {
    let (a, b) = (in_domain.accuracy?, other.accuracy?);
    let ci95 = in_domain.accuracy_ci95.zip(other.accuracy_ci95).map(|([a_low, a_high], [b_low, b_high])| {
        let (below, above) = ((a - a_low).hypot(b_high - b), (a_high - a).hypot(b - b_low));
        [a - b - below, a - b + above]
    });
    Some(Gap { accuracy: Some(a - b), ci95 })
}

impl Histogram {
    /// Bars as (from, to, density), the densities adding up to 1 over the axis; none if it is misshapen.
    pub fn densities(&self) -> Vec<(f64, f64, f64)> {
        let total: f64 = self.counts.iter().filter(|count| count.is_finite()).sum();
        if total <= 0.0 || self.edges.len() != self.counts.len() + 1 {
            return Vec::new();
        }
        let bars = self.edges.windows(2).zip(&self.counts);
        bars.filter(|(edge, _)| edge[1] > edge[0])
            .map(|(edge, count)| (edge[0], edge[1], count / total / (edge[1] - edge[0])))
            .filter(|(from, to, density)| [from, to, density].iter().all(|value| value.is_finite()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_with_and_without_the_newer_fields_are_read() {
        let old = r#"{"model": "m", "splits": {"b": {"rows": 4, "metric": "accuracy", "accuracy": 0.5,
            "accuracy_ci95": [0.25, 0.75], "ties": 0, "kendall_tau": null, "skipped": {"overlong": 1}}, "a": {}}}"#;
        let report = EvalReport::parse(old).unwrap();
        assert_eq!(report.splits.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["b", "a"]);
        assert_eq!(report.splits[0].1.accuracy_ci95, Some([0.25, 0.75]));
        let new = r#"{"model": "m", "splits": {"b": {"rewards": {"histogram": {"edges": [0, 1, 3], "counts": [1, 1]}},
            "length": {"reward_slope": 0.1}}}, "gaps": {"b": {"accuracy": 0.1, "ci95": [0.0, 0.2]}}}"#;
        let report = EvalReport::parse(new).unwrap();
        assert_eq!(report.gap("b").unwrap().ci95, Some([0.0, 0.2]));
        let histogram = report.splits[0].1.rewards.as_ref().unwrap().histogram.as_ref().unwrap();
        assert_eq!(histogram.densities(), [(0.0, 1.0, 0.5), (1.0, 3.0, 0.25)]);
        assert!(EvalReport::parse("[]").is_err());
    }

    #[test]
    fn the_interval_of_a_difference_is_wider_than_either() {
        let set = |accuracy: f64, half: f64| SetFigures {
            accuracy: Some(accuracy),
            accuracy_ci95: Some([accuracy - half, accuracy + half]),
            ..SetFigures::default()
        };
        let gap = gap_between(&set(0.75, 0.03), &set(0.5, 0.04)).unwrap();
        let [lo, hi] = gap.ci95.unwrap();
        assert!((lo - 0.2).abs() < 1e-12 && (hi - 0.3).abs() < 1e-12);
        assert_eq!(gap_between(&SetFigures::default(), &set(0.5, 0.1)), None);
    }

    /// 43 of 50 against 35 of 50, with Wilson's intervals: `rmtrain eval` has [-0.0035, 0.3145], and so a gap that may be
    /// none. Half-widths alone would have it exclude 0.
    #[test]
    fn the_interval_of_a_gap_is_that_of_an_eval_report() {
        let set = |accuracy: f64, interval: Interval| SetFigures {
            accuracy: Some(accuracy),
            accuracy_ci95: Some(interval),
            ..SetFigures::default()
        };
        let (in_domain, other) = (set(0.86, [0.738_138, 0.930_492]), set(0.70, [0.562_496, 0.808_964]));
        let [lo, hi] = gap_between(&in_domain, &other).unwrap().ci95.unwrap();
        assert!((lo + 0.003_473).abs() < 1e-5 && (hi - 0.314_520).abs() < 1e-5, "{lo} {hi}");
    }
}
