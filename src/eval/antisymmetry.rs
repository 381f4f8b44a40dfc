//! A self-check: rewards must not depend on the order in which responses stand and are computed.

use super::SequenceScorer;
use super::judged::JudgedRow;
use super::scorer::score_groups;
use crate::Result;
use crate::base::rng;
use crate::data::TokenGroup;
use serde::{Deserialize, Serialize};

/// What swapping chosen and rejected does. Accuracy, swapped accuracy and the share of ties add up to one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Antisymmetry {
    /// Rows drawn at random whose rewards were computed anew, their responses in the opposite order.
    pub rows: u64,
    /// The accuracy with chosen and rejected swapped in every pair, by the new rewards where there are such.
    pub swapped_accuracy: f64,
    /// Greatest difference of one response's reward between the two orders; rounding, at most.
    pub max_difference: f64,
}

impl Antisymmetry {
    /// `None` where no row was computed anew.
    pub(super) fn of(rows: &[JudgedRow]) -> Option<Self> {
        let (mut recomputed, mut max_difference, mut swapped) = (0, 0.0f64, 0.0);
        for row in rows {
            let reward = |i: usize| row.recomputed.as_ref().map_or(row.responses[i].reward, |new| new[i]);
            if row.recomputed.is_some() {
                recomputed += 1;
                let differences = row.responses.iter().enumerate().map(|(i, r)| (r.reward - reward(i)).abs());
                max_difference = differences.fold(max_difference, f64::max);
            }
            let (mut pairs, mut right) = (0.0, 0.0);
            for (better, worse) in row.ordered_positions() {
                pairs += 1.0;
                right += f64::from(u8::from(reward(worse) > reward(better)));
            }
            swapped += right / pairs;
        }
        let swapped_accuracy = swapped / rows.len() as f64;
        (recomputed > 0).then_some(Self { rows: recomputed, swapped_accuracy, max_difference })
    }
}

/// Rows of a stream, each as likely to be there as any other.
pub(super) struct Sample {
    size: usize,
    seen: usize,
    /// Position among the rows that count, and the row's sequences.
    rows: Vec<(usize, TokenGroup)>,
}

impl Sample {
    pub fn new(size: usize) -> Self {
        Self { size, seen: 0, rows: Vec::new() }
    }

    /// Shows the next row. Algorithm R, with draws that are functions of the position.
    pub fn show(&mut self, group: &TokenGroup) {
        let position = self.seen;
        self.seen += 1;
        if self.rows.len() < self.size {
            self.rows.push((position, group.clone()));
        } else if self.size > 0 {
            let place = rng::below(&mut rng::stream(0, "antisymmetry", position as u64), self.seen);
            if let Some(slot) = self.rows.get_mut(place) {
                *slot = (position, group.clone());
            }
        }
    }

    /// Scores the sample again, every row's responses in the opposite order, and tells the rows.
    ///
    /// # Errors
    /// The scorer's; [`Error::Row`](crate::Error::Row) for a reward that is not finite.
    pub fn recompute(
        self,
        rows: &mut [JudgedRow],
        scorer: &dyn SequenceScorer,
        batch_tokens: usize,
    ) -> Result<()> {
        let reversed =
            |group: &TokenGroup| TokenGroup { sequences: group.sequences.iter().rev().cloned().collect() };
        let groups = self.rows.iter().rev().map(|(_, group)| reversed(group)).collect();
        let scored = score_groups(scorer, groups, batch_tokens)?;
        for ((position, _), scored) in self.rows.iter().rev().zip(scored) {
            let Some(row) = rows.get_mut(*position) else { continue };
            // No difference from it would be seen: the greatest of numbers passes over NaN.
            if let Some(bad) = scored.iter().find(|s| !s.reward.is_finite()) {
                return Err(row.origin.error(format!(
                    "the model gave a reward of {} when the row's responses were computed once more in the opposite \
                     order, where it had given a finite one",
                    bad.reward
                )));
            }
            row.recomputed = Some(scored.iter().rev().map(|s| s.reward).collect());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::RowKind;
    use crate::eval::Scored;
    use crate::eval::test_support::judged_row;

    #[test]
    fn accuracy_swapped_accuracy_and_ties_add_up_to_one() {
        let mut rows = vec![
            judged_row(RowKind::Pair, &[(1.0, 2.0, 1), (0.0, 1.0, 1)]),
            judged_row(RowKind::Pair, &[(1.0, 0.0, 1), (0.0, 1.0, 1)]),
            judged_row(RowKind::Pair, &[(1.0, 1.0, 1), (0.0, 1.0, 1)]),
            judged_row(RowKind::Pair, &[(1.0, 5.0, 1), (0.0, 1.0, 1)]),
        ];
        assert_eq!(Antisymmetry::of(&rows), None);
        rows[3].recomputed = Some(vec![5.0, 1.25]);
        let expected = Antisymmetry { rows: 1, swapped_accuracy: 0.25, max_difference: 0.25 };
        assert_eq!(Antisymmetry::of(&rows), Some(expected));
        // A model that prefers whatever comes first contradicts itself.
        rows[3].recomputed = Some(vec![0.0, 1.0]);
        assert_eq!(Antisymmetry::of(&rows).unwrap().swapped_accuracy, 0.5, "0.5 + 0.5 + 0.25 is not one");
    }

    /// A model whose rewards depend on what it has computed before: NaN for whatever it sees a second time.
    #[test]
    fn a_reward_that_is_not_finite_the_second_time_names_its_row() {
        struct Nan;
        impl SequenceScorer for Nan {
            fn score(&self, groups: &[TokenGroup]) -> Result<Vec<Vec<Scored>>> {
                let scored = |_: &Vec<u32>| Scored {
                    reward: f64::NAN,
                    hidden_norm: 1.0,
                    disagreement: None,
                    objectives: None,
                };
                Ok(groups.iter().map(|group| group.sequences.iter().map(scored).collect()).collect())
            }
        }
        let mut rows = vec![judged_row(RowKind::Pair, &[(1.0, 2.0, 1), (0.0, 1.0, 1)])];
        let mut sample = Sample::new(1);
        sample.show(&TokenGroup { sequences: vec![vec![1], vec![2]] });
        let error = sample.recompute(&mut rows, &Nan, 10).unwrap_err();
        assert!(matches!(error, crate::Error::Row { .. }), "{error}");
        let said = error.to_string();
        assert!(said.starts_with("data/rows.jsonl:1: the model gave a reward of NaN when"), "{said}");
        assert_eq!(rows[0].recomputed, None);
    }

    #[test]
    fn a_sample_is_fair_and_bounded() {
        let group = TokenGroup { sequences: vec![vec![1]] };
        let mut sample = Sample::new(50);
        (0..1000).for_each(|_| sample.show(&group));
        let drawn: Vec<usize> = sample.rows.iter().map(|(position, _)| *position).collect();
        let mean = drawn.iter().sum::<usize>() as f64 / 50.0;
        // The mean of 50 draws from 0..1000 has a standard deviation of 41.
        assert!(drawn.len() == 50 && (mean - 500.0).abs() < 130.0, "{mean}");
        let mut none = Sample::new(0);
        none.show(&group);
        assert!(none.rows.is_empty());
    }
}
