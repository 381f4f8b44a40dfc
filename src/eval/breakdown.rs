//! Figures by source, by model or by subset.

use super::bootstrap::{Range, mean_ci95};
use super::judged::JudgedRow;
use super::kendall::tau_b;
use crate::base::reader::Words;
use crate::data::RowKind;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// What rows are grouped by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum By {
    /// The row's `source`, or else the name of its file.
    Source,
    /// The model of a response: a group holds the pairs that the model takes part in, on either side.
    Model,
    /// The row's `subset`.
    Subset,
}

impl Words for By {
    const WORDS: &'static [(&'static str, Self)] =
        &[("source", By::Source), ("model", By::Model), ("subset", By::Subset)];
}

/// The name of the group of what has no label.
const UNLABELLED: &str = "(none)";

/// The figures of one group of rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupReport {
    /// Rows with a pair of this group.
    pub rows: u64,
    /// Mean over rows of the fraction of the group's response pairs that the reward orders rightly.
    pub accuracy: f64,
    pub accuracy_ci95: [f64; 2],
    /// Pairs with equal rewards; they count as wrong.
    pub ties: u64,
    /// Mean tau-b over the rows where it is defined; absent for pairs, and by model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kendall_tau: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kendall_tau_ci95: Option<[f64; 2]>,
    /// What `accuracy` would be for the rule "the longer response is better".
    pub longest_wins: f64,
    /// By model: the share of the group's pairs that the model wins by the gold score, and by the reward. A model that
    /// the reward favours beyond its merit wins more often by the reward.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gold_win_rate: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward_win_rate: Option<f64>,
}

/// Groups by name.
pub type Groups = BTreeMap<String, GroupReport>;

/// Groups the rows of a split.
pub(super) fn groups(rows: &[JudgedRow], by: By) -> Groups {
    let mut groups: BTreeMap<Cow<'_, str>, Collected> = BTreeMap::new();
    for row in rows {
        match by {
            By::Source => groups.entry(source(row)).or_default().add(row, None),
            By::Subset => {
                let subset = row.labels.subset.as_deref().unwrap_or(UNLABELLED);
                groups.entry(Cow::Borrowed(subset)).or_default().add(row, None);
            }
            By::Model => {
                let mut models: Vec<&str> = (0..row.responses.len()).map(|i| model(row, i)).collect();
                models.sort_unstable();
                models.dedup();
                for name in models {
                    groups.entry(Cow::Borrowed(name)).or_default().add(row, Some(name));
                }
            }
        }
    }
    let reports = groups.into_iter().filter_map(|(name, group)| Some((name.into_owned(), group.report(by)?)));
    reports.collect()
}

fn source(row: &JudgedRow) -> Cow<'_, str> {
    match (&row.labels.source, row.origin.path.file_name()) {
        (Some(source), _) => Cow::Borrowed(source),
        (None, Some(file)) => file.to_string_lossy(),
        (None, None) => Cow::Borrowed(UNLABELLED),
    }
}

fn model(row: &JudgedRow, response: usize) -> &str {
    row.labels.models.get(response).and_then(Option::as_deref).unwrap_or(UNLABELLED)
}

#[derive(Debug, Default)]
struct Collected {
    accuracies: Vec<f64>,
    longest: f64,
    taus: Vec<f64>,
    ties: u64,
    pairs: u64,
    gold_wins: u64,
    reward_wins: u64,
}

impl Collected {
    /// Adds the row's pairs, those with `model` alone where one is given.
    fn add(&mut self, row: &JudgedRow, only: Option<&str>) {
        let (mut pairs, mut right, mut longest) = (0u64, 0u64, 0u64);
        for (better, worse) in row.ordered_positions() {
            let (is_better, is_worse) =
                only.map_or((true, true), |name| (model(row, better) == name, model(row, worse) == name));
            if !is_better && !is_worse {
                continue;
            }
            let (better, worse) = (&row.responses[better], &row.responses[worse]);
            pairs += 1;
            right += u64::from(better.reward > worse.reward);
            longest += u64::from(better.length > worse.length);
            self.ties += u64::from(better.reward == worse.reward);
            // A pair of the model with itself tells nothing of its merit.
            if is_better != is_worse {
                self.pairs += 1;
                self.gold_wins += u64::from(is_better);
                let (own, other) = if is_better { (better, worse) } else { (worse, better) };
                self.reward_wins += u64::from(own.reward > other.reward);
            }
        }
        if pairs == 0 {
            return;
        }
        self.accuracies.push(right as f64 / pairs as f64);
        self.longest += longest as f64 / pairs as f64;
        if only.is_none() && row.kind == RowKind::Ranked {
            let points: Vec<_> = row.responses.iter().map(|r| (r.reward, r.gold)).collect();
            self.taus.extend(tau_b(&points));
        }
    }

    fn report(self, by: By) -> Option<GroupReport> {
        let rows = self.accuracies.len();
        let mean = |sum: f64, count: usize| (count > 0).then(|| sum / count as f64);
        let win_rate =
            |wins: u64| (by == By::Model && self.pairs > 0).then(|| wins as f64 / self.pairs as f64);
        Some(GroupReport {
            rows: rows as u64,
            accuracy: mean(self.accuracies.iter().sum(), rows)?,
            accuracy_ci95: mean_ci95(&self.accuracies, Range::Share)?,
            ties: self.ties,
            kendall_tau: mean(self.taus.iter().sum(), self.taus.len()),
            kendall_tau_ci95: mean_ci95(&self.taus, Range::Correlation),
            longest_wins: mean(self.longest, rows)?,
            gold_win_rate: win_rate(self.gold_wins),
            reward_win_rate: win_rate(self.reward_wins),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::judged::Labels;
    use crate::eval::test_support::judged_row;

    fn row(points: &[(f64, f64, &str)], source: Option<&str>, subset: Option<&str>) -> JudgedRow {
        let judged: Vec<_> = points.iter().map(|&(gold, reward, _)| (gold, reward, 1)).collect();
        let kind = if points.len() == 2 { RowKind::Pair } else { RowKind::Ranked };
        let models = points.iter().map(|p| (!p.2.is_empty()).then(|| p.2.into())).collect();
        let labels = Labels { source: source.map(Into::into), subset: subset.map(Into::into), models };
        JudgedRow { labels, ..judged_row(kind, &judged) }
    }

    #[test]
    fn a_row_belongs_to_its_source_or_else_to_its_file() {
        let rows = [
            row(&[(1.0, 2.0, ""), (0.0, 1.0, "")], Some("flan"), Some("hard")),
            row(&[(1.0, 0.0, ""), (0.0, 1.0, "")], Some("flan"), None),
            row(&[(3.0, 3.0, ""), (2.0, 2.0, ""), (1.0, 1.0, "")], None, None),
        ];
        let by_source = groups(&rows, By::Source);
        assert_eq!(by_source.keys().collect::<Vec<_>>(), ["flan", "rows.jsonl"]);
        assert_eq!((by_source["flan"].rows, by_source["flan"].accuracy), (2, 0.5));
        assert_eq!((by_source["flan"].kendall_tau, by_source["rows.jsonl"].kendall_tau), (None, Some(1.0)));
        let by_subset = groups(&rows, By::Subset);
        assert_eq!((by_subset["hard"].accuracy, by_subset["(none)"].rows), (1.0, 2));
    }

    #[test]
    fn a_model_has_the_pairs_it_takes_part_in() {
        // Gold: a > b > c. The reward puts c first: a loses one of its two pairs, b one, c both.
        let rows = [row(&[(3.0, 2.0, "a"), (2.0, 1.0, "b"), (1.0, 9.0, "c")], None, None)];
        let found = groups(&rows, By::Model);
        assert_eq!((found["a"].accuracy, found["b"].accuracy, found["c"].accuracy), (0.5, 0.5, 0.0));
        let rates = |name: &str| (found[name].gold_win_rate.unwrap(), found[name].reward_win_rate.unwrap());
        assert_eq!((rates("a"), rates("b"), rates("c")), ((1.0, 0.5), (0.5, 0.0), (0.0, 1.0)));
        assert_eq!(found["a"].kendall_tau, None);
        let own = groups(&[row(&[(1.0, 2.0, "m"), (0.0, 1.0, "m")], None, None)], By::Model);
        assert_eq!((own["m"].rows, own["m"].accuracy, own["m"].gold_win_rate), (1, 1.0, None));
    }
}
