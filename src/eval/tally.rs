//! From scored rows to a split's figures: every figure reduces per-row values, never per-batch means.

use super::accuracy::{Judged, agreement};
use super::report::{Metric, SkipReason, SplitReport};
use super::{bootstrap, kendall};
use crate::data::RowKind;
use std::collections::BTreeMap;

/// What is kept of a split's rows: a few numbers each, no text.
#[derive(Debug, Default)]
pub(super) struct Tally {
    accuracies: Vec<f64>,
    longest: Vec<f64>,
    shortest: Vec<f64>,
    taus: Vec<f64>,
    rewards: Moments,
    norms: Moments,
    spreads: Moments,
    ties: u64,
    has_ranked: bool,
    pub tokens: u64,
    pub truncated: u64,
    pub responses_without_gold: u64,
    pub skipped: BTreeMap<SkipReason, u64>,
}

impl Tally {
    pub fn skip(&mut self, reason: SkipReason) {
        *self.skipped.entry(reason).or_default() += 1;
    }

    /// Adds a row; one without two different gold scores is counted as skipped instead.
    pub fn add(&mut self, kind: RowKind, responses: &[Judged], hidden_norms: &[f64]) {
        let Some(row) = agreement(responses) else { return self.skip(SkipReason::EqualGoldScores) };
        self.accuracies.push(row.accuracy);
        self.longest.push(row.longest_wins);
        self.shortest.push(row.shortest_wins);
        self.ties += row.ties;
        self.has_ranked |= kind == RowKind::Ranked;
        let points: Vec<_> = responses.iter().map(|r| (r.reward, r.gold)).collect();
        self.taus.extend(kendall::tau_b(&points));
        responses.iter().for_each(|r| self.rewards.add(r.reward));
        hidden_norms.iter().for_each(|&norm| self.norms.add(norm));
    }

    /// Adds how far the heads of an ensemble differ about a sequence.
    pub fn add_spread(&mut self, spread: f64) {
        self.spreads.add(spread);
    }

    pub fn report(self) -> SplitReport {
        let metric = if self.has_ranked { Metric::KendallTau } else { Metric::Accuracy };
        let taus = if self.has_ranked { self.taus } else { Vec::new() };
        SplitReport {
            rows: self.accuracies.len() as u64,
            metric,
            accuracy: mean(&self.accuracies),
            accuracy_ci95: bootstrap::mean_ci95(&self.accuracies),
            ties: self.ties,
            kendall_tau: mean(&taus),
            kendall_tau_ci95: bootstrap::mean_ci95(&taus),
            longest_wins: mean(&self.longest),
            shortest_wins: mean(&self.shortest),
            hidden_norm_var: self.norms.variance(),
            reward_mean: self.rewards.mean(),
            reward_std: self.rewards.variance().map(f64::sqrt),
            head_spread_mean: self.spreads.mean(),
            kendall_tau_rows: taus.len() as u64,
            sequences: self.rewards.count,
            tokens: self.tokens,
            truncated: self.truncated,
            responses_without_gold: self.responses_without_gold,
            skipped: self.skipped,
        }
    }
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// Mean and population variance of a stream of numbers (Welford's recurrence, so that a large common offset does
/// not cost digits).
#[derive(Debug, Default)]
struct Moments {
    count: u64,
    mean: f64,
    squares: f64,
}

impl Moments {
    fn add(&mut self, value: f64) {
        self.count += 1;
        let from_old = value - self.mean;
        self.mean += from_old / self.count as f64;
        self.squares += from_old * (value - self.mean);
    }

    fn mean(&self) -> Option<f64> {
        (self.count > 0).then_some(self.mean)
    }

    fn variance(&self) -> Option<f64> {
        (self.count > 0).then(|| self.squares / self.count as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(points: &[(f64, f64)]) -> Vec<Judged> {
        points.iter().map(|&(gold, reward)| Judged { gold, reward, length: 1 }).collect()
    }

    #[test]
    fn pairs_are_judged_by_accuracy_and_have_no_tau() {
        let mut tally = Tally::default();
        tally.add(RowKind::Pair, &row(&[(1.0, 3.0), (0.0, 1.0)]), &[1.0, 3.0]);
        tally.add(RowKind::Pair, &row(&[(1.0, 2.0), (0.0, 2.0)]), &[1.0, 3.0]);
        let report = tally.report();
        assert_eq!((report.metric, report.rows, report.sequences), (Metric::Accuracy, 2, 4));
        assert_eq!((report.accuracy, report.ties), (Some(0.5), 1));
        assert_eq!((report.kendall_tau, report.kendall_tau_ci95), (None, None));
        assert_eq!((report.reward_mean, report.reward_std), (Some(2.0), Some(0.5f64.sqrt())));
        assert_eq!(report.hidden_norm_var, Some(1.0));
    }

    #[test]
    fn tau_is_averaged_over_the_rows_where_it_is_defined() {
        let mut tally = Tally::default();
        tally.add(RowKind::Ranked, &row(&[(1.0, 1.0), (2.0, 2.0), (3.0, 3.0)]), &[]);
        tally.add(RowKind::Ranked, &row(&[(1.0, 2.0), (2.0, 1.0)]), &[]);
        tally.add(RowKind::Ranked, &row(&[(1.0, 5.0), (2.0, 5.0)]), &[]);
        tally.add(RowKind::Ranked, &row(&[(4.0, 1.0), (4.0, 2.0)]), &[]);
        let report = tally.report();
        assert_eq!((report.metric, report.rows, report.kendall_tau_rows), (Metric::KendallTau, 3, 2));
        assert_eq!(report.kendall_tau, Some(0.0));
        assert_eq!(report.accuracy, Some(1.0 / 3.0), "the row of equal rewards is wrong, not left out");
        assert_eq!(report.skipped[&SkipReason::EqualGoldScores], 1);
    }

    #[test]
    fn one_ranked_row_makes_tau_the_metric_of_all() {
        let mut tally = Tally::default();
        tally.add(RowKind::Pair, &row(&[(1.0, 3.0), (0.0, 1.0)]), &[]);
        tally.add(RowKind::Ranked, &row(&[(1.0, 2.0), (2.0, 1.0)]), &[]);
        let report = tally.report();
        assert_eq!((report.metric, report.kendall_tau), (Metric::KendallTau, Some(0.0)));
    }

    #[test]
    fn an_empty_split_has_no_figures() {
        let report = Tally::default().report();
        assert_eq!((report.rows, report.accuracy, report.accuracy_ci95), (0, None, None));
        assert_eq!((report.hidden_norm_var, report.reward_mean, report.reward_std), (None, None, None));
    }

    #[test]
    fn moments_survive_a_large_offset() {
        let mut moments = Moments::default();
        [1e9 + 4.0, 1e9 + 7.0, 1e9 + 13.0, 1e9 + 16.0].into_iter().for_each(|v| moments.add(v));
        assert_eq!((moments.mean(), moments.variance()), (Some(1e9 + 10.0), Some(22.5)));
    }
}
