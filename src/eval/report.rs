//! The eval report: what `eval` prints as JSON and what training logs after each evaluation.

use super::antisymmetry::Antisymmetry;
use super::breakdown::{By, Groups};
use super::calibration::Calibration;
use super::compare::Comparison;
use super::distribution::{HiddenStatistics, RewardDistribution};
use super::interval::{Estimate, combine};
use super::length::LengthBias;
use super::named::Named;
use super::reduce::Reduce;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// The split that the others are held against: training prompts and models, new responses.
const IN_DOMAIN: &str = "in-domain";

/// Reports of one model, split by split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvalReport {
    pub model: String,
    /// How the rewards of an ensemble's heads were reduced; absent where it is by their mean.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reduce: Option<Reduce>,
    pub splits: Splits,
    /// How far each split falls behind `in-domain`; empty without such a split.
    #[serde(default, skip_serializing_if = "Named::is_empty")]
    pub gaps: Named<Gap>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comparison: Option<Comparison>,
}

/// Reports by split name, in the order in which they were asked for.
pub type Splits = Named<SplitReport>;

impl EvalReport {
    /// The report of these splits, with the gaps between them.
    pub fn new(model: String, reduce: Option<Reduce>, splits: Splits) -> Self {
        let accuracy =
            |split: &SplitReport| Some(Estimate { value: split.accuracy?, ci95: split.accuracy_ci95? });
        let reference = splits.get(IN_DOMAIN).and_then(accuracy);
        let others = splits.0.iter().filter(|(name, _)| name != IN_DOMAIN);
        let gap = |(name, split): &(String, SplitReport)| {
            let gap = combine([(1.0, reference?), (-1.0, accuracy(split)?)]);
            Some((name.clone(), Gap { accuracy: gap.value, ci95: gap.ci95 }))
        };
        let gaps = Named(others.filter_map(gap).collect());
        Self { model, reduce, splits, gaps, comparison: None }
    }
}

/// The over-optimization gap of a split.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Gap {
    /// Accuracy on `in-domain` minus accuracy on the split, both over response pairs.
    pub accuracy: f64,
    /// Of the difference of two independent sets, from their own intervals.
    pub ci95: [f64; 2],
}

/// The figure that a split is judged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Every row is a pair.
    Accuracy,
    /// Some row has k responses with gold scores; a pair among them counts as k = 2.
    KendallTau,
}

/// Why a row is not part of the figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SkipReason {
    /// One conversation only: nothing to compare.
    SingleResponse,
    /// Fewer than two responses have a gold score.
    TooFewGoldScores,
    /// All gold scores are equal: there is no right order.
    EqualGoldScores,
    /// Chosen and rejected are the same text: there is no right order.
    IdenticalResponses,
    /// A conversation has more tokens than allowed (and, where truncation was asked for, too short a prompt).
    Overlong,
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SkipReason::SingleResponse => "single-response",
            SkipReason::TooFewGoldScores => "too-few-gold-scores",
            SkipReason::EqualGoldScores => "equal-gold-scores",
            SkipReason::IdenticalResponses => "identical-responses",
            SkipReason::Overlong => "overlong",
        })
    }
}

/// The figures of one split. A figure that is undefined (no rows, tau of pairs) is null.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SplitReport {
    /// Rows that the figures are over; those in `skipped` come on top.
    pub rows: u64,
    pub metric: Metric,
    /// Mean over rows of the fraction of response pairs (with different gold) that the reward orders rightly; a tie
    /// is wrong. For pairs the plain accuracy.
    pub accuracy: Option<f64>,
    pub accuracy_ci95: Option<[f64; 2]>,
    /// Response pairs with different gold and equal rewards.
    pub ties: u64,
    /// Mean tau-b over the rows where it is defined; null for pairs.
    pub kendall_tau: Option<f64>,
    pub kendall_tau_ci95: Option<[f64; 2]>,
    /// What `accuracy` would be for the rule "the longer response is better".
    pub longest_wins: Option<f64>,
    /// What `accuracy` would be for the rule "the shorter response is better".
    pub shortest_wins: Option<f64>,
    /// Population variance, over all sequences, of the norm of the last token's hidden state.
    pub hidden_norm_var: Option<f64>,
    pub reward_mean: Option<f64>,
    /// Population standard deviation over all sequences.
    pub reward_std: Option<f64>,
    /// Mean over all sequences of the population standard deviation of rewards over the heads; absent with one head.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_spread_mean: Option<f64>,
    /// Rows whose tau-b is defined: the reward is not the same for all responses.
    #[serde(default)]
    pub kendall_tau_rows: u64,
    /// Sequences that were scored for these rows.
    #[serde(default)]
    pub sequences: u64,
    /// Their tokens.
    #[serde(default)]
    pub tokens: u64,
    /// Rows whose prompt was shortened to fit.
    #[serde(default)]
    pub truncated: u64,
    /// Responses of k-response rows that were left out for want of a gold score.
    #[serde(default)]
    pub responses_without_gold: u64,
    #[serde(default)]
    pub skipped: BTreeMap<SkipReason, u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Calibration>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<LengthBias>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub antisymmetry: Option<Antisymmetry>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hidden: Option<HiddenStatistics>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewards: Option<RewardDistribution>,
    /// Figures by source, model or subset, where that was asked for.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub by: BTreeMap<By, Groups>,
}

impl SplitReport {
    /// The figure that the split is judged by.
    pub fn value(&self) -> Option<f64> {
        match self.metric {
            Metric::Accuracy => self.accuracy,
            Metric::KendallTau => self.kendall_tau,
        }
    }

    /// The interval of [`SplitReport::value`].
    pub fn ci95(&self) -> Option<[f64; 2]> {
        match self.metric {
            Metric::Accuracy => self.accuracy_ci95,
            Metric::KendallTau => self.kendall_tau_ci95,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs() -> SplitReport {
        SplitReport {
            rows: 4,
            metric: Metric::Accuracy,
            accuracy: Some(0.75),
            accuracy_ci95: Some([0.25, 1.0]),
            ties: 1,
            kendall_tau: None,
            kendall_tau_ci95: None,
            longest_wins: Some(0.5),
            shortest_wins: Some(0.25),
            hidden_norm_var: Some(1.5),
            reward_mean: Some(-0.125),
            reward_std: Some(2.0),
            head_spread_mean: None,
            kendall_tau_rows: 0,
            sequences: 8,
            tokens: 100,
            truncated: 0,
            responses_without_gold: 0,
            skipped: BTreeMap::from([(SkipReason::Overlong, 2)]),
            calibration: None,
            length: None,
            antisymmetry: None,
            hidden: None,
            rewards: None,
            by: BTreeMap::new(),
        }
    }

    #[test]
    fn the_json_has_the_names_of_the_contract_in_order() {
        let splits = Named(vec![("zebra".into(), pairs()), ("in-domain".into(), pairs())]);
        let report = EvalReport::new("runs/a/final".into(), None, splits);
        let json = serde_json::to_string(&report).unwrap();
        assert!(json.starts_with(
            r#"{"model":"runs/a/final","splits":{"zebra":{"rows":4,"metric":"accuracy","accuracy":0.75,"accuracy_ci95":[0.25,1.0],"ties":1,"kendall_tau":null,"kendall_tau_ci95":null,"longest_wins":0.5,"shortest_wins":0.25,"hidden_norm_var":1.5,"reward_mean":-0.125,"reward_std":2.0,"#
        ), "{json}");
        assert!(json.contains(r#""skipped":{"overlong":2}},"in-domain":{"#), "{json}");
        assert_eq!(serde_json::from_str::<EvalReport>(&json).unwrap(), report);
        assert_eq!(serde_json::to_value(Metric::KendallTau).unwrap(), "kendall_tau");
    }

    #[test]
    fn gaps_are_over_pairs_and_need_in_domain() {
        let tau = SplitReport { metric: Metric::KendallTau, accuracy: Some(0.5), ..pairs() };
        let none = SplitReport { accuracy: None, accuracy_ci95: None, ..pairs() };
        let splits =
            vec![("in-domain".into(), pairs()), ("mutual-disjoint".into(), tau), ("empty".into(), none)];
        let report = EvalReport::new("m".into(), None, Named(splits.clone()));
        assert_eq!(report.gaps.0.len(), 1);
        let gap = report.gaps.get("mutual-disjoint").unwrap();
        // [0.25, 1] around 0.75, and around 0.5: 0.25 - hypot(0.5, 0.5), 0.25 + hypot(0.25, 0.25).
        assert_eq!(gap.accuracy, 0.25);
        assert!((gap.ci95[0] - (0.25 - 0.5f64.sqrt())).abs() < 1e-12);
        assert!((gap.ci95[1] - (0.25 + 0.125f64.sqrt())).abs() < 1e-12);
        let json = serde_json::to_string(&report).unwrap();
        assert!(json.contains(r#""gaps":{"mutual-disjoint":{"accuracy":0.25,"ci95":["#), "{json}");
        assert_eq!(serde_json::from_str::<EvalReport>(&json).unwrap(), report);
        assert!(EvalReport::new("m".into(), None, Named(splits[1..].to_vec())).gaps.is_empty());
    }

    #[test]
    fn a_report_of_an_older_version_is_read() {
        let old = r#"{"model":"m","splits":{"a":{"rows":1,"metric":"accuracy","accuracy":1.0,"accuracy_ci95":[1.0,1.0],
            "ties":0,"kendall_tau":null,"kendall_tau_ci95":null,"longest_wins":1.0,"shortest_wins":0.0,
            "hidden_norm_var":0.5,"reward_mean":0.0,"reward_std":1.0}}}"#;
        let report: EvalReport = serde_json::from_str(old).unwrap();
        let split = report.splits.get("a").unwrap();
        assert!(split.calibration.is_none() && split.by.is_empty() && report.gaps.is_empty());
        assert!(!serde_json::to_string(split).unwrap().contains("calibration"));
    }

    #[test]
    fn a_skip_reason_prints_as_it_is_written() {
        for reason in [
            SkipReason::SingleResponse,
            SkipReason::TooFewGoldScores,
            SkipReason::EqualGoldScores,
            SkipReason::IdenticalResponses,
            SkipReason::Overlong,
        ] {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.to_string());
        }
    }
}
