//! Every interval of a report on data whose truth is known: a 95% interval must hold it in 92% to 98% of all draws.
//!
//! It is few rows that an interval may be wrong about, so sets are small: what holds of 25 and of 100 rows that are
//! resampled is not tried on more.

use super::bootstrap::{Range, mean_ci95};
use super::compare::compare;
use super::judged::{Evaluation, JudgedRow};
use super::length::length_bias;
use super::named::Named;
use super::report::EvalReport;
use super::test_support::{judged_row, normal};
use crate::base::rng::{self, below, uniform};
use crate::data::{Origin, RowKind};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use std::ops::RangeInclusive;

/// Worlds of a first look; where it does not settle the matter, of all.
const FIRST_WORLDS: u64 = 400;
const WORLDS: u64 = 1000;

/// What settles it at first sight: one and a half binomial standard errors of 400 worlds (1.4% at a coverage of 92%, 0.7%
/// at 98%) within the bounds. Four in five intervals with a coverage of 95% need no second look, and as good as nothing is
/// lost: by the binomial distribution a coverage of 91% fails in 84.8 of 100 tests, one of 90% in 98.0; were all worlds
/// always drawn, in 85.3 and 98.2.
const SETTLED: RangeInclusive<f64> = 0.94..=0.97;

/// Draws worlds, each giving an interval, and counts how many hold the truth. A world without an interval counts as
/// one that does not.
fn assert_covers(name: &str, truth: f64, draw: impl Fn(&mut ChaCha8Rng) -> Option<[f64; 2]> + Sync) {
    let held = |world: &u64| {
        draw(&mut rng::stream(11, name, *world)).is_some_and(|[lo, hi]| lo <= truth && truth <= hi)
    };
    let mut worlds = FIRST_WORLDS;
    let mut count = (0..worlds).into_par_iter().filter(held).count();
    if !SETTLED.contains(&(count as f64 / worlds as f64)) {
        count += (worlds..WORLDS).into_par_iter().filter(held).count();
        worlds = WORLDS;
    }
    let coverage = count as f64 / worlds as f64;
    println!("{name}: {:.1}% of {worlds}", 100.0 * coverage);
    assert!((0.92..=0.98).contains(&coverage), "{name}: {coverage} of {worlds}");
}

/// A pair that is right with probability `right`.
fn pair(rng: &mut ChaCha8Rng, right: f64) -> JudgedRow {
    let reward = if uniform(rng) < right { 1.0 } else { -1.0 };
    judged_row(RowKind::Pair, &[(1.0, reward, 9), (0.0, 0.0, 9)])
}

/// Four responses whose rewards follow the gold order with noise.
fn ranked(rng: &mut ChaCha8Rng, noise: f64) -> Vec<(f64, f64)> {
    (0..4).map(|gold| (f64::from(gold), f64::from(gold) + noise * normal(rng))).collect()
}

fn evaluation(rows: Vec<JudgedRow>) -> Evaluation {
    let placed = |(row, line): (JudgedRow, u64)| JudgedRow { origin: Origin { line, ..row.origin }, ..row };
    Evaluation { rows: rows.into_iter().zip(1..).map(placed).collect(), ..Evaluation::default() }
}

/// The mean over so many draws that its own error does not show in the coverage.
fn long_run_mean(purpose: &str, draw: impl Fn(&mut ChaCha8Rng) -> f64) -> f64 {
    let mut rng = rng::stream(12, purpose, 0);
    (0..400_000).map(|_| draw(&mut rng)).sum::<f64>() / 400_000.0
}

fn tau(row: &[(f64, f64)]) -> f64 {
    super::kendall::tau_b(&row.iter().map(|&(gold, reward)| (reward, gold)).collect::<Vec<_>>()).unwrap()
}

#[test]
fn accuracy_of_pairs() {
    for (count, right) in [(25, 0.8), (25, 0.95), (100, 0.6), (100, 0.9), (400, 0.8)] {
        assert_covers(&format!("accuracy {right} of {count} pairs"), right, |rng| {
            evaluation((0..count).map(|_| pair(rng, right)).collect()).report(&[]).accuracy_ci95
        });
    }
}

#[test]
fn tau_of_ranked_rows() {
    for noise in [0.5, 3.0] {
        let truth = long_run_mean("tau", |rng| tau(&ranked(rng, noise)));
        for count in [25, 100] {
            assert_covers(&format!("tau-b {truth:.2} of {count} rows"), truth, |rng| {
                let taus: Vec<f64> = (0..count).map(|_| tau(&ranked(rng, noise))).collect();
                mean_ci95(&taus, Range::Correlation)
            });
        }
    }
}

/// Every tau is 1 or -1, and often all of them are 1.
#[test]
fn tau_of_ranked_rows_of_two() {
    for (count, right) in [(25, 0.9), (50, 0.8)] {
        let name = format!("tau-b {:.1} of {count} rows of two", 2.0 * right - 1.0);
        assert_covers(&name, 2.0 * right - 1.0, |rng| {
            let row = |_| JudgedRow { kind: RowKind::Ranked, ..pair(rng, right) };
            evaluation((0..count).map(row).collect()).report(&[]).kendall_tau_ci95
        });
    }
}

#[test]
fn accuracy_of_ranked_rows() {
    let fraction = |row: &[(f64, f64)]| (tau(row) + 1.0) / 2.0;
    let truth = long_run_mean("fraction", |rng| fraction(&ranked(rng, 1.5)));
    for count in [25, 100] {
        assert_covers(&format!("pairwise accuracy {truth:.2} of {count} rows of four"), truth, |rng| {
            let fractions: Vec<f64> = (0..count).map(|_| fraction(&ranked(rng, 1.5))).collect();
            mean_ci95(&fractions, Range::Share)
        });
    }
}

#[test]
fn length_controlled_accuracy_of_pairs() {
    for (count, longer, right) in [(60, 0.7, [0.9, 0.4]), (200, 0.8, [0.8, 0.6]), (400, 0.5, [0.95, 0.9])] {
        let truth = 0.5 * (right[0] + right[1]);
        assert_covers(&format!("controlled accuracy {truth:.2} of {count} pairs"), truth, |rng| {
            let rows = (0..count).map(|_| {
                let class = usize::from(uniform(rng) >= longer);
                let mut row = pair(rng, right[class]);
                row.responses[class].length += 1;
                row
            });
            length_bias(&rows.collect::<Vec<_>>(), 1.0).controlled_accuracy_ci95
        });
    }
}

/// Lengths lean towards the better responses, and so do the rewards towards length.
#[test]
fn length_controlled_accuracy_of_ranked_rows() {
    let row = |rng: &mut ChaCha8Rng| {
        let responses: Vec<_> = (0..4)
            .map(|gold| {
                let length = 100 + 20 * gold + below(rng, 120);
                let reward = gold as f64 + length as f64 / 50.0 + 1.5 * normal(rng);
                (gold as f64, reward, length)
            })
            .collect();
        judged_row(RowKind::Ranked, &responses)
    };
    let mut rng = rng::stream(12, "controlled", 0);
    let many: Vec<_> = (0..100_000).map(|_| row(&mut rng)).collect();
    let (mut pairs, mut right) = ([0.0; 2], [0.0; 2]);
    for (better, worse) in many.iter().flat_map(JudgedRow::ordered_pairs) {
        if better.length != worse.length {
            let class = usize::from(better.length < worse.length);
            pairs[class] += 1.0;
            right[class] += f64::from(u8::from(better.reward > worse.reward));
        }
    }
    let truth = 0.5 * (right[0] / pairs[0] + right[1] / pairs[1]);
    for count in [30, 100] {
        assert_covers(&format!("controlled accuracy {truth:.2} of {count} rows of four"), truth, |rng| {
            let rows: Vec<_> = (0..count).map(|_| row(rng)).collect();
            length_bias(&rows, 1.0).controlled_accuracy_ci95
        });
    }
}

#[test]
fn gaps_between_splits() {
    let fraction = |row: &[(f64, f64)]| (tau(row) + 1.0) / 2.0;
    let behind = long_run_mean("behind", |rng| fraction(&ranked(rng, 2.0)));
    for (pairs, rows) in [(30, 30), (100, 40), (400, 100)] {
        let name = format!("gap of {pairs} pairs to {rows} rows of four");
        assert_covers(&name, 0.85 - behind, |rng| {
            let in_domain = evaluation((0..pairs).map(|_| pair(rng, 0.85)).collect());
            let other = (0..rows).map(|_| {
                let row: Vec<_> = ranked(rng, 2.0).iter().map(|&(gold, reward)| (gold, reward, 9)).collect();
                judged_row(RowKind::Ranked, &row)
            });
            let other = evaluation(other.collect());
            gap([in_domain, other])
        });
    }
    for count in [30, 200] {
        assert_covers(&format!("gap of {count} pairs to {count} pairs"), 0.2, |rng| {
            let mut split = |right| evaluation((0..count).map(|_| pair(rng, right)).collect());
            gap([split(0.9), split(0.7)])
        });
    }
}

fn gap(evaluations: [Evaluation; 2]) -> Option<[f64; 2]> {
    let reports = ["in-domain", "mutual-disjoint"]
        .map(String::from)
        .into_iter()
        .zip(evaluations.iter().map(|e| e.report(&[])));
    let report = EvalReport::new("m".into(), None, Named(reports.collect()));
    report.gaps.get("mutual-disjoint").map(|gap| gap.ci95)
}

/// Two models that share part of their luck; `disagree` are the probabilities that only one of them is right.
#[test]
fn paired_difference_of_pairs() {
    for (count, disagree) in [(30, [0.2, 0.1]), (50, [0.1, 0.05]), (200, [0.06, 0.03]), (100, [0.15, 0.15])] {
        let truth: f64 = disagree[0] - disagree[1];
        let name = format!("difference {truth:.2} of {count} pairs");
        let draw = |rng: &mut ChaCha8Rng| {
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            for _ in 0..count {
                let u = uniform(rng);
                let only_ours = u < disagree[0];
                let only_theirs = !only_ours && u < disagree[0] + disagree[1];
                let both = !only_ours && !only_theirs && u < 0.9;
                let right = |yes| if yes { 1.0 } else { 0.0 };
                ours.push(pair(rng, right(only_ours || both)));
                theirs.push(pair(rng, right(only_theirs || both)));
            }
            compare(&evaluation(ours), &evaluation(theirs))
        };
        assert_covers(&name, truth, |rng| draw(rng).ci95);
        if truth == 0.0 {
            // Where the models are equally good, a p-value below 0.05 is a mistake, made 5% of the time.
            let mistakes = |p: &dyn Fn(&super::SplitComparison) -> f64| {
                let worlds = (0..WORLDS).map(|world| draw(&mut rng::stream(13, &name, world)));
                worlds.filter(|found| p(found) < 0.05).count() as f64 / WORLDS as f64
            };
            let (bootstrap, exact) =
                (mistakes(&|found| found.p_bootstrap.unwrap()), mistakes(&|found| found.mcnemar.unwrap().p));
            println!("p < 0.05 between equals: bootstrap {bootstrap:.3}, McNemar {exact:.3}");
            assert!(
                (0.02..0.08).contains(&bootstrap) && (0.01..0.08).contains(&exact),
                "{bootstrap} {exact}"
            );
        }
    }
}

#[test]
fn paired_difference_of_taus() {
    let taus = |rng: &mut ChaCha8Rng| {
        let row = ranked(rng, 1.0);
        let other = row.iter().map(|&(gold, reward)| (gold, reward + normal(rng))).collect::<Vec<_>>();
        (row, other)
    };
    let truth = long_run_mean("difference", |rng| {
        let (row, other) = taus(rng);
        tau(&row) - tau(&other)
    });
    for count in [25, 100] {
        assert_covers(&format!("difference {truth:.2} of tau-b of {count} rows"), truth, |rng| {
            let (ours, theirs): (Vec<_>, Vec<_>) = (0..count).map(|_| taus(rng)).unzip();
            let rows = |rows: Vec<Vec<(f64, f64)>>| {
                let judged =
                    |row: Vec<(f64, f64)>| row.into_iter().map(|(g, r)| (g, r, 9)).collect::<Vec<_>>();
                evaluation(rows.into_iter().map(|row| judged_row(RowKind::Ranked, &judged(row))).collect())
            };
            compare(&rows(ours), &rows(theirs)).ci95
        });
    }
}
