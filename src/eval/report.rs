//! The eval report: what `eval` prints as JSON and what training logs after each evaluation.

use super::reduce::Reduce;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt;

/// Reports of one model, split by split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvalReport {
    pub model: String,
    /// How the rewards of an ensemble's heads were reduced; absent where it is by their mean.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reduce: Option<Reduce>,
    pub splits: Splits,
}

/// Reports by split name, in the order in which they were asked for. A JSON object.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Splits(pub Vec<(String, SplitReport)>);

impl Splits {
    /// The report of the split called `name`.
    pub fn get(&self, name: &str) -> Option<&SplitReport> {
        self.0.iter().find(|(split, _)| split == name).map(|(_, report)| report)
    }
}

impl Serialize for Splits {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, report)| (name, report)))
    }
}

impl<'de> Deserialize<'de> for Splits {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Splits;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of split reports")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Splits, A::Error> {
                let mut splits = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    splits.push(entry);
                }
                Ok(Splits(splits))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
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
pub(super) mod tests {
    use super::*;

    pub(crate) fn pairs() -> SplitReport {
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
        }
    }

    #[test]
    fn the_json_has_the_names_of_the_contract_in_order() {
        let splits = Splits(vec![("zebra".into(), pairs()), ("in-domain".into(), pairs())]);
        let report = EvalReport { model: "runs/a/final".into(), reduce: None, splits };
        let json = serde_json::to_string(&report).unwrap();
        assert!(json.starts_with(
            r#"{"model":"runs/a/final","splits":{"zebra":{"rows":4,"metric":"accuracy","accuracy":0.75,"accuracy_ci95":[0.25,1.0],"ties":1,"kendall_tau":null,"kendall_tau_ci95":null,"longest_wins":0.5,"shortest_wins":0.25,"hidden_norm_var":1.5,"reward_mean":-0.125,"reward_std":2.0,"#
        ), "{json}");
        assert!(json.contains(r#""skipped":{"overlong":2}},"in-domain":{"#), "{json}");
        assert_eq!(serde_json::from_str::<EvalReport>(&json).unwrap(), report);
        assert_eq!(serde_json::to_value(Metric::KendallTau).unwrap(), "kendall_tau");
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
