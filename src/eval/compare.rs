//! Two models on the same rows: is the difference more than chance?

use super::accuracy::agreement;
use super::bootstrap::{Resamples, resampled_mean};
use super::judged::{Evaluation, JudgedRow};
use super::kendall::tau_b;
use super::named::Named;
use super::reduce::Reduce;
use super::report::Metric;
use crate::data::Origin;
use serde::{Deserialize, Serialize};
use statrs::distribution::{Binomial, DiscreteCDF};
use std::collections::HashMap;

/// A second model's part of a report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The other model.
    pub model: String,
    /// How the rewards of its heads were reduced; absent where it is by their mean.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reduce: Option<Reduce>,
    pub splits: Named<SplitComparison>,
}

/// The figure of a split for both models, over the rows that both have one for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SplitComparison {
    pub metric: Metric,
    /// Rows that are compared.
    pub rows: u64,
    /// Rows that only one of the models has a figure for: too long for one tokenizer, or tau undefined.
    pub left_out: u64,
    /// The figure of the model that is evaluated, over the rows that are compared.
    pub value: Option<f64>,
    /// That of the other model.
    pub other: Option<f64>,
    /// `value - other`: positive where the model that is evaluated is better.
    pub difference: Option<f64>,
    /// Bootstrap interval of the difference, rows resampled as pairs.
    pub ci95: Option<[f64; 2]>,
    /// Two-sided, by the same resamples.
    pub p_bootstrap: Option<f64>,
    /// For pairs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mcnemar: Option<McNemar>,
}

/// McNemar's exact test of two classifiers on the same pairs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct McNemar {
    /// Pairs that the model that is evaluated has right and the other one wrong.
    pub b: u64,
    /// Pairs that it has wrong and the other one right.
    pub c: u64,
    /// Two-sided binomial probability, at most 1; 1 where no pair tells them apart.
    pub p: f64,
}

impl McNemar {
    /// # Source
    /// McNemar, "Note on the sampling error of the difference between correlated proportions", Psychometrika 1947, in
    /// its exact form.
    pub fn of(b: u64, c: u64) -> Self {
        let tail = Binomial::new(0.5, b + c).map_or(1.0, |binomial| binomial.cdf(b.min(c)));
        Self { b, c, p: if b == c { 1.0 } else { (2.0 * tail).min(1.0) } }
    }
}

/// Compares two models' answers to one split; rows are matched by where they stand.
pub fn compare(ours: &Evaluation, theirs: &Evaluation) -> SplitComparison {
    let metric = match ours.metric() {
        Metric::Accuracy => theirs.metric(),
        tau => tau,
    };
    let figures = |evaluation: &Evaluation| -> HashMap<Origin, f64> {
        let of = |row: &JudgedRow| Some((row.origin.clone(), figure(row, metric)?));
        evaluation.rows.iter().filter_map(of).collect()
    };
    let mut theirs = figures(theirs);
    let (mut both, mut left_out) = (Vec::new(), 0);
    // In the order of the rows, so that the resamples repeat themselves.
    for row in &ours.rows {
        let Some(own) = figure(row, metric) else { continue };
        match theirs.remove(&row.origin) {
            Some(other) => both.push((own, other)),
            None => left_out += 1,
        }
    }
    SplitComparison { left_out: left_out + theirs.len() as u64, ..paired(metric, &both) }
}

fn figure(row: &JudgedRow, metric: Metric) -> Option<f64> {
    match metric {
        Metric::Accuracy => Some(agreement(&row.responses)?.accuracy),
        Metric::KendallTau => tau_b(&row.responses.iter().map(|r| (r.reward, r.gold)).collect::<Vec<_>>()),
    }
}

fn paired(metric: Metric, figures: &[(f64, f64)]) -> SplitComparison {
    let count = figures.len();
    let mean =
        |of: fn(&(f64, f64)) -> f64| (count > 0).then(|| figures.iter().map(of).sum::<f64>() / count as f64);
    let differences: Vec<f64> = figures.iter().map(|(own, other)| own - other).collect();
    let resamples = resamples(metric, &differences);
    let discordant = |sign: f64| differences.iter().filter(|&&d| d == sign).count() as u64;
    SplitComparison {
        metric,
        rows: count as u64,
        left_out: 0,
        value: mean(|f| f.0),
        other: mean(|f| f.1),
        difference: mean(|f| f.0 - f.1),
        ci95: resamples.as_ref().and_then(|r| r.ci95(count)),
        p_bootstrap: resamples.map(|r| r.p_value()),
        mcnemar: (metric == Metric::Accuracy).then(|| McNemar::of(discordant(1.0), discordant(-1.0))),
    }
}

/// Of the mean difference. `None` for no rows.
///
/// Pairs differ by -1, 0 or 1, mostly 0: where few of them tell two models apart, resamples of these few vary too
/// little. One pair for either side is added, as Bonett and Price do to Wald's interval; below about five
/// such pairs the interval then errs on the wide side.
///
/// # Source
/// Bonett and Price, "Adjusted Wald confidence interval for a difference of binomial proportions based on paired data",
/// Journal of Educational and Behavioral Statistics 2012.
fn resamples(metric: Metric, differences: &[f64]) -> Option<Resamples> {
    if differences.is_empty() {
        return None;
    }
    let mut values = differences.to_vec();
    if metric == Metric::Accuracy {
        values.extend([1.0, -1.0]);
    }
    Some(Resamples::draw(|rng| Some(resampled_mean(&values, rng))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::RowKind;
    use crate::eval::test_support::{golden, judged_row};

    /// scipy.stats.binomtest(min(b, c), b + c, 0.5).pvalue
    #[test]
    fn mcnemar_equals_scipy() {
        for case in &golden().mcnemar {
            let found = McNemar::of(case.b, case.c).p;
            assert!((found - case.p).abs() <= 1e-9 * case.p, "{case:?}: {found}");
        }
        assert_eq!((McNemar::of(0, 0).p, McNemar::of(7, 7).p), (1.0, 1.0));
    }

    fn evaluation(rewards: &[(u64, &[f64])]) -> Evaluation {
        let row = |&(line, rewards): &(u64, &[f64])| {
            let kind = if rewards.len() == 2 { RowKind::Pair } else { RowKind::Ranked };
            let points: Vec<_> =
                rewards.iter().rev().zip(0..).map(|(&r, gold)| (f64::from(gold), r, 1)).collect();
            let row = judged_row(kind, &points);
            JudgedRow { origin: Origin { line, ..row.origin }, ..row }
        };
        Evaluation { rows: rewards.iter().map(row).collect(), ..Evaluation::default() }
    }

    #[test]
    fn a_model_does_not_differ_from_itself() {
        let cases: [&[(u64, &[f64])]; 2] =
            [&[(1, &[2.0, 1.0]), (2, &[0.0, 1.0])], &[(1, &[3.0, 1.0, 2.0]), (2, &[3.0, 2.0, 1.0])]];
        for rewards in cases {
            let found = compare(&evaluation(rewards), &evaluation(rewards));
            assert_eq!((found.rows, found.left_out, found.difference), (2, 0, Some(0.0)));
            assert_eq!(found.p_bootstrap, Some(1.0));
            let [lo, hi] = found.ci95.unwrap();
            assert!(lo <= 0.0 && 0.0 <= hi);
            assert_eq!(
                found.mcnemar.map(|m| (m.b, m.c, m.p)),
                (found.metric == Metric::Accuracy).then_some((0, 0, 1.0))
            );
        }
    }

    #[test]
    fn rows_are_matched_by_their_place_and_the_rest_is_counted() {
        let ours = evaluation(&[(1, &[2.0, 1.0]), (2, &[2.0, 1.0]), (4, &[1.0, 2.0])]);
        let theirs = evaluation(&[(2, &[1.0, 2.0]), (3, &[1.0, 2.0]), (4, &[1.0, 2.0]), (5, &[2.0, 1.0])]);
        let found = compare(&ours, &theirs);
        assert_eq!((found.rows, found.left_out), (2, 3));
        assert_eq!((found.value, found.other, found.difference), (Some(0.5), Some(0.0), Some(0.5)));
        assert_eq!(found.mcnemar.map(|m| (m.b, m.c)), Some((1, 0)));
        let none = compare(&ours, &evaluation(&[]));
        assert_eq!((none.rows, none.left_out, none.difference, none.p_bootstrap), (0, 3, None, None));
    }

    #[test]
    fn a_row_whose_tau_is_undefined_for_one_model_is_left_out() {
        let ours = evaluation(&[(1, &[3.0, 2.0, 1.0]), (2, &[3.0, 2.0, 1.0])]);
        let theirs = evaluation(&[(1, &[1.0, 2.0, 3.0]), (2, &[5.0, 5.0, 5.0])]);
        let found = compare(&ours, &theirs);
        assert_eq!((found.metric, found.rows, found.left_out), (Metric::KendallTau, 1, 1));
        assert_eq!((found.difference, found.mcnemar), (Some(2.0), None));
    }

    #[test]
    fn a_better_model_is_detected() {
        let ours: Vec<(u64, &[f64])> =
            (0..100).map(|i| (i, if i % 10 == 0 { &[0.0, 1.0][..] } else { &[1.0, 0.0] })).collect();
        let theirs: Vec<(u64, &[f64])> =
            (0..100).map(|i| (i, if i % 10 < 4 { &[0.0, 1.0][..] } else { &[1.0, 0.0] })).collect();
        let found = compare(&evaluation(&ours), &evaluation(&theirs));
        assert!((found.difference.unwrap() - 0.3).abs() < 1e-12);
        // 30 of 102, give or take 1.96 standard errors of 0.049: from 0.199 on, as far as resamples tell.
        assert!(
            found.ci95.unwrap()[0] > 0.18
                && found.p_bootstrap.unwrap() < 0.002
                && found.mcnemar.unwrap().p < 1e-8
        );
        let back = compare(&evaluation(&theirs), &evaluation(&ours));
        assert!((back.difference.unwrap() + 0.3).abs() < 1e-12 && back.ci95.unwrap()[1] < -0.18);
    }
}
