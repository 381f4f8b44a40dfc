//! What a reward owes to length and to markdown, and what is left of the accuracy without length.

use super::bootstrap::{Range, Resamples, mean_estimate};
use super::interval::combine;
use super::judged::JudgedRow;
use crate::base::rng;
use crate::data::RowKind;
use serde::{Deserialize, Serialize};

/// How a split's rewards depend on length and markdown. A figure that is undefined (no pair whose chosen response is
/// the shorter one, rewards or lengths without variation) is null.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LengthBias {
    /// Accuracy with response pairs weighted so that length tells nothing: pairs in which the longer response is the
    /// better one and pairs in which the shorter one is weigh one half each, whatever their numbers. "The longer one is
    /// better" reaches 0.5 here. Pairs of equal length are left out; a tie is wrong.
    pub controlled_accuracy: Option<f64>,
    pub controlled_accuracy_ci95: Option<[f64; 2]>,
    /// Least-squares slope of the reward on log2(characters) within a prompt (both centred by prompt), in standard
    /// deviations of the split's rewards per doubling of the length.
    pub reward_slope: Option<f64>,
    /// The same units for one markdown element more (a header, bullet, bold span or code fence), at equal length: the
    /// second coefficient of the least squares on log2(characters) and the number of elements, centred by prompt.
    pub markdown_effect: Option<f64>,
}

/// The figures of a split; `reward_std` is the standard deviation of all its rewards.
pub(super) fn length_bias(rows: &[JudgedRow], reward_std: f64) -> LengthBias {
    let controlled = controlled_accuracy(rows);
    let products = Products::of(rows);
    let in_deviations = |effect: Option<f64>| effect.filter(|_| reward_std > 0.0).map(|e| e / reward_std);
    LengthBias {
        controlled_accuracy: controlled.map(|(value, _)| value),
        controlled_accuracy_ci95: controlled.and_then(|(_, ci95)| ci95),
        reward_slope: in_deviations(products.slope()),
        markdown_effect: in_deviations(products.markdown_effect()),
    }
}

/// A row's share of pairs, `[longer, shorter]` by which response is the better one.
#[derive(Debug, Clone, Copy, Default)]
struct Classes {
    pairs: [f64; 2],
    right: [f64; 2],
}

impl Classes {
    /// As in the accuracy, a row weighs one, however many pairs it has.
    fn of(row: &JudgedRow) -> Self {
        let (mut classes, mut all) = (Self::default(), 0.0);
        for (better, worse) in row.ordered_pairs() {
            all += 1.0;
            if better.length != worse.length {
                let class = usize::from(better.length < worse.length);
                classes.pairs[class] += 1.0;
                classes.right[class] += f64::from(u8::from(better.reward > worse.reward));
            }
        }
        Self { pairs: classes.pairs.map(|n| n / all), right: classes.right.map(|n| n / all) }
    }

    fn add(&mut self, other: &Self) {
        for class in 0..2 {
            self.pairs[class] += other.pairs[class];
            self.right[class] += other.right[class];
        }
    }

    fn accuracy(&self) -> Option<f64> {
        let [longer, shorter] = [0, 1].map(|class| self.right[class] / self.pairs[class]);
        (self.pairs[0] > 0.0 && self.pairs[1] > 0.0).then_some(0.5 * (longer + shorter))
    }
}

fn controlled_accuracy(rows: &[JudgedRow]) -> Option<(f64, Option<[f64; 2]>)> {
    let rows_of: Vec<Classes> = rows.iter().map(Classes::of).collect();
    let mut total = Classes::default();
    rows_of.iter().for_each(|row| total.add(row));
    let value = total.accuracy()?;
    let members = |class: usize| rows_of.iter().filter(move |row| row.pairs[class] > 0.0);
    if rows.iter().all(|row| row.kind == RowKind::Pair) {
        // A row is of one class only: two independent shares.
        let share = |class| {
            let right: Vec<f64> = members(class).map(|row| row.right[class]).collect();
            mean_estimate(&right, Range::Share)
        };
        return Some((value, Some(combine([(0.5, share(0)?), (0.5, share(1)?)]).ci95)));
    }
    let ci95 = Resamples::draw(|rng| {
        let mut sum = Classes::default();
        (0..rows_of.len()).for_each(|_| sum.add(&rows_of[rng::below(rng, rows_of.len())]));
        sum.accuracy()
    });
    // The smaller class limits what is known.
    Some((value, ci95.ci95(members(0).count().min(members(1).count()))))
}

/// Sums of products of what is centred by prompt: x is log2(characters), z the markdown elements, y the reward.
#[derive(Debug, Default)]
struct Products {
    xx: f64,
    xy: f64,
    xz: f64,
    zz: f64,
    zy: f64,
}

impl Products {
    fn of(rows: &[JudgedRow]) -> Self {
        let mut sums = Self::default();
        for row in rows {
            let points = || {
                row.responses.iter().zip(&row.markdown).map(|(response, &elements)| {
                    [(response.length.max(1) as f64).log2(), f64::from(elements), response.reward]
                })
            };
            let Some(first) = points().next() else { continue };
            // Measured from the first response, values that are equal are 0 and so is their mean. The mean of equal
            // values themselves may differ from them in the last bit, a variation that slopes would be taken from.
            let points = || points().map(move |point| [0, 1, 2].map(|i| point[i] - first[i]));
            let count = row.responses.len() as f64;
            let mean = points().fold([0.0; 3], |sum, p| [0, 1, 2].map(|i| sum[i] + p[i])).map(|s| s / count);
            for point in points() {
                let [x, z, y] = [0, 1, 2].map(|i| point[i] - mean[i]);
                sums.xx += x * x;
                sums.xy += x * y;
                sums.xz += x * z;
                sums.zz += z * z;
                sums.zy += z * y;
            }
        }
        sums
    }

    fn slope(&self) -> Option<f64> {
        (self.xx > 0.0).then(|| self.xy / self.xx)
    }

    fn markdown_effect(&self) -> Option<f64> {
        if self.xx == 0.0 {
            return (self.zz > 0.0).then(|| self.zy / self.zz);
        }
        // What length leaves of the elements' variation; next to nothing where one follows from the other.
        let left = self.zz - self.xz * self.xz / self.xx;
        (left > 1e-9 * self.zz).then(|| (self.zy - self.xz * self.xy / self.xx) / left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::test_support::{golden, judged_row, normal};

    #[test]
    fn equals_numpy() {
        for case in &golden().length {
            let rows: Vec<JudgedRow> = case
                .rows
                .iter()
                .map(|row| {
                    let points: Vec<_> = row.iter().map(|&(g, r, length, _)| (g, r, length)).collect();
                    let kind = if points.len() == 2 { RowKind::Pair } else { RowKind::Ranked };
                    JudgedRow { markdown: row.iter().map(|r| r.3).collect(), ..judged_row(kind, &points) }
                })
                .collect();
            let found = length_bias(&rows, case.reward_std);
            for (found, expected) in [
                (found.controlled_accuracy, case.controlled_accuracy),
                (found.reward_slope, case.reward_slope),
                (found.markdown_effect, case.markdown_effect),
            ] {
                assert_eq!(found.is_some(), expected.is_some(), "{found:?} {expected:?}");
                if let (Some(found), Some(expected)) = (found, expected) {
                    assert!((found - expected).abs() < 1e-10 * expected.abs().max(1.0), "{found} {expected}");
                }
            }
        }
    }

    fn pair(chosen: (f64, usize), rejected: (f64, usize)) -> JudgedRow {
        judged_row(RowKind::Pair, &[(1.0, chosen.0, chosen.1), (0.0, rejected.0, rejected.1)])
    }

    #[test]
    fn the_longest_wins_rule_reaches_one_half() {
        // Nine of ten times the longer response is right, and the reward is the length.
        let mut rows = vec![pair((50.0, 50), (20.0, 20)); 9];
        rows.push(pair((10.0, 10), (30.0, 30)));
        let found = length_bias(&rows, 1.0);
        assert_eq!(found.controlled_accuracy, Some(0.5));
        let [lo, hi] = found.controlled_accuracy_ci95.unwrap();
        assert!(lo < 0.5 && 0.5 < hi);
        assert!(found.reward_slope.unwrap() > 0.0);
        assert_eq!(
            length_bias(&rows[..9], 1.0).controlled_accuracy,
            None,
            "no pair with a shorter chosen one"
        );
    }

    #[test]
    fn pairs_of_equal_length_are_left_out_and_rewards_without_variation_have_no_slope() {
        let rows = [pair((1.0, 5), (0.0, 3)), pair((1.0, 3), (0.0, 5)), pair((0.0, 4), (1.0, 4))];
        assert_eq!(length_bias(&rows, 1.0).controlled_accuracy, Some(1.0));
        let flat = length_bias(&[pair((0.0, 5), (0.0, 3))], 0.0);
        assert_eq!((flat.reward_slope, flat.markdown_effect), (None, None));
        let same = length_bias(&[pair((1.0, 5), (0.0, 5))], 1.0);
        assert_eq!((same.reward_slope, same.markdown_effect), (None, None));
    }

    /// log2(11) added up three times and divided by three is not log2(11).
    #[test]
    fn lengths_that_are_equal_within_every_prompt_have_no_slope() {
        let mut rng = rng::stream(6, "test", 0);
        let rows: Vec<JudgedRow> = (0..50)
            .map(|_| {
                let points = [2.0, 1.0, 0.0].map(|gold| (gold, normal(&mut rng), 11));
                let elements = points.map(|(_, reward, _)| u32::from(reward > 0.0));
                JudgedRow { markdown: elements.into(), ..judged_row(RowKind::Ranked, &points) }
            })
            .collect();
        let found = length_bias(&rows, 1.0);
        assert_eq!(found.reward_slope, None);
        // The elements alone tell the rewards apart: a positive one from a negative one, 2 sqrt(2 / pi) on average.
        assert!((found.markdown_effect.unwrap() - 1.6).abs() < 0.4, "{found:?}");
    }

    /// The reward is 3 log2(length) - 2 elements, and an offset of the prompt; lengths and elements go together.
    #[test]
    fn length_and_markdown_are_told_apart() {
        let mut rng = rng::stream(5, "test", 0);
        let rows: Vec<JudgedRow> = (0..50)
            .map(|prompt| {
                let offset = 10.0 * normal(&mut rng);
                let drawn: Vec<(usize, u32)> = (0..4)
                    .map(|_| (20 + rng::below(&mut rng, 500), rng::below(&mut rng, 3) as u32))
                    .map(|(length, noise)| (length, (length / 100) as u32 + noise))
                    .collect();
                let reward =
                    |&(length, z): &(usize, u32)| offset + 3.0 * (length as f64).log2() - 2.0 * f64::from(z);
                let points: Vec<_> = drawn
                    .iter()
                    .zip(0..)
                    .map(|(d, gold)| (f64::from(gold + prompt), reward(d), d.0))
                    .collect();
                JudgedRow {
                    markdown: drawn.iter().map(|d| d.1).collect(),
                    ..judged_row(RowKind::Ranked, &points)
                }
            })
            .collect();
        let products = Products::of(&rows);
        assert!((products.markdown_effect().unwrap() + 2.0).abs() < 1e-9);
        assert!(products.slope().unwrap() < 2.9, "the slope alone takes the elements' part");
    }
}
