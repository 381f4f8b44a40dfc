//! From scored rows to a split's figures: every figure reduces per-row values, never per-batch means.

use super::accuracy::{Agreement, agreement};
use super::antisymmetry::Antisymmetry;
use super::bootstrap::{Range, mean, mean_ci95};
use super::breakdown::{By, groups};
use super::calibration::calibration;
use super::distribution::{HiddenStatistics, RewardDistribution};
use super::judged::Evaluation;
use super::kendall;
use super::length::length_bias;
use super::report::{Metric, SplitReport};
use crate::diagnostics::moments::{Moments, moments};

impl Evaluation {
    /// The figures of the split, broken down by each of `by`.
    pub fn report(&self, by: &[By]) -> SplitReport {
        let (rows, metric) = (&self.rows, self.metric());
        let agreements: Vec<Agreement> = rows.iter().filter_map(|row| agreement(&row.responses)).collect();
        let each = |of: fn(&Agreement) -> f64| agreements.iter().map(of).collect::<Vec<f64>>();
        let accuracies = each(|row| row.accuracy);
        let taus: Vec<f64> = match metric {
            Metric::Accuracy => Vec::new(),
            Metric::KendallTau => {
                let points =
                    rows.iter().map(|row| row.responses.iter().map(|r| (r.reward, r.gold)).collect());
                points.filter_map(|points: Vec<_>| kendall::tau_b(&points)).collect()
            }
        };
        let margins: Vec<f64> = rows
            .iter()
            .flat_map(|row| row.ordered_pairs().map(|(better, worse)| better.reward - worse.reward))
            .collect();
        let rewards: Vec<f64> = rows.iter().flat_map(|row| row.responses.iter().map(|r| r.reward)).collect();
        let norms: Vec<f64> = rows.iter().flat_map(|row| row.hidden_norms.iter().copied()).collect();
        let spreads: Vec<f64> = rows.iter().flat_map(|row| row.head_spreads.iter().copied()).collect();
        let (reward, norm) = (defined(&rewards), defined(&norms));
        SplitReport {
            rows: rows.len() as u64,
            metric,
            accuracy: mean(&accuracies),
            accuracy_ci95: mean_ci95(&accuracies, Range::Share),
            ties: agreements.iter().map(|row| row.ties).sum(),
            kendall_tau: mean(&taus),
            kendall_tau_ci95: mean_ci95(&taus, Range::Correlation),
            longest_wins: mean(&each(|row| row.longest_wins)),
            shortest_wins: mean(&each(|row| row.shortest_wins)),
            hidden_norm_var: norm.map(|norm| norm.variance),
            reward_mean: reward.map(|reward| reward.mean),
            reward_std: reward.map(|reward| reward.variance.sqrt()),
            head_spread_mean: mean(&spreads),
            kendall_tau_rows: taus.len() as u64,
            sequences: rewards.len() as u64,
            tokens: self.tokens,
            truncated: self.truncated,
            responses_without_gold: self.responses_without_gold,
            calibration: calibration(&margins),
            length: reward.map(|reward| length_bias(rows, reward.variance.sqrt())),
            antisymmetry: Antisymmetry::of(rows),
            hidden: norm.map(|norm| HiddenStatistics {
                norm_mean: norm.mean,
                norm_var: norm.variance,
                norm_skew: norm.skewness,
                norm_max: norm.max,
                effective_rank: self.effective_rank,
            }),
            rewards: RewardDistribution::of(rewards),
            by: by.iter().map(|&by| (by, groups(rows, by))).collect(),
            skipped: self.skipped.clone(),
        }
    }
}

/// Moments of at least one value.
fn defined(values: &[f64]) -> Option<Moments> {
    (!values.is_empty()).then(|| moments(values))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::RowKind;
    use crate::eval::JudgedRow;
    use crate::eval::test_support::judged_row;

    fn row(kind: RowKind, points: &[(f64, f64)]) -> JudgedRow {
        judged_row(kind, &points.iter().map(|&(gold, reward)| (gold, reward, 1)).collect::<Vec<_>>())
    }

    fn report(rows: Vec<JudgedRow>) -> SplitReport {
        Evaluation { rows, ..Evaluation::default() }.report(&[])
    }

    #[test]
    fn pairs_are_judged_by_accuracy_and_have_no_tau() {
        let pairs = [[(1.0, 3.0), (0.0, 1.0)], [(1.0, 2.0), (0.0, 2.0)]];
        let rows = pairs.map(|pair| JudgedRow { hidden_norms: vec![1.0, 3.0], ..row(RowKind::Pair, &pair) });
        let report = report(rows.into());
        assert_eq!((report.metric, report.rows, report.sequences), (Metric::Accuracy, 2, 4));
        assert_eq!((report.accuracy, report.ties), (Some(0.5), 1));
        assert_eq!((report.kendall_tau, report.kendall_tau_ci95), (None, None));
        assert_eq!((report.reward_mean, report.reward_std), (Some(2.0), Some(0.5f64.sqrt())));
        assert_eq!(report.hidden_norm_var, Some(1.0));
        let hidden = report.hidden.unwrap();
        assert_eq!((hidden.norm_mean, hidden.norm_var, hidden.norm_max), (2.0, 1.0, 3.0));
        assert_eq!((hidden.norm_skew, hidden.effective_rank), (0.0, None));
        assert_eq!(report.rewards.unwrap().quantiles[4], 2.0);
    }

    #[test]
    fn spreads_of_heads_are_averaged_over_responses() {
        let plain = || row(RowKind::Pair, &[(1.0, 3.0), (0.0, 1.0)]);
        let rows = [[0.5, 1.0], [0.0, 2.5]];
        let rows = rows.map(|spreads| JudgedRow { head_spreads: spreads.into(), ..plain() });
        assert_eq!(report(rows.into()).head_spread_mean, Some(1.0));
        assert_eq!(report(vec![plain()]).head_spread_mean, None);
    }

    #[test]
    fn tau_is_averaged_over_the_rows_where_it_is_defined() {
        let report = report(vec![
            row(RowKind::Ranked, &[(1.0, 1.0), (2.0, 2.0), (3.0, 3.0)]),
            row(RowKind::Ranked, &[(1.0, 2.0), (2.0, 1.0)]),
            row(RowKind::Ranked, &[(1.0, 5.0), (2.0, 5.0)]),
        ]);
        assert_eq!((report.metric, report.rows, report.kendall_tau_rows), (Metric::KendallTau, 3, 2));
        assert_eq!(report.kendall_tau, Some(0.0));
        assert_eq!(report.accuracy, Some(1.0 / 3.0), "the row of equal rewards is wrong, not left out");
        // Margins 1, 2, 1 of the first row, -1 of the second and 0 of the third: all pairs count.
        let brier =
            [1.0, 2.0, 1.0, -1.0, 0.0f64].map(|m| (1.0 / (1.0 + m.exp())).powi(2)).iter().sum::<f64>() / 5.0;
        assert!((report.calibration.unwrap().brier - brier).abs() < 1e-12);
    }

    #[test]
    fn one_ranked_row_makes_tau_the_metric_of_all() {
        let report = report(vec![
            row(RowKind::Pair, &[(1.0, 3.0), (0.0, 1.0)]),
            row(RowKind::Ranked, &[(1.0, 2.0), (2.0, 1.0)]),
        ]);
        assert_eq!((report.metric, report.kendall_tau), (Metric::KendallTau, Some(0.0)));
    }

    #[test]
    fn an_empty_split_has_no_figures() {
        let report = report(Vec::new());
        assert_eq!((report.rows, report.accuracy, report.accuracy_ci95), (0, None, None));
        assert_eq!((report.hidden_norm_var, report.reward_mean, report.reward_std), (None, None, None));
        assert!(report.calibration.is_none() && report.length.is_none() && report.hidden.is_none());
        assert!(report.rewards.is_none() && report.antisymmetry.is_none());
    }

    /// What training logs at every evaluation is one line.
    #[test]
    fn a_line_of_the_log_stays_small() {
        let rows = (0..100)
            .map(|i| row(RowKind::Pair, &[(1.0, 1.0 / f64::from(i + 3)), (0.0, -f64::from(i).sqrt())]));
        let bytes = serde_json::to_string(&report(rows.collect())).unwrap().len();
        assert!(bytes < 2500, "{bytes} bytes");
    }
}
