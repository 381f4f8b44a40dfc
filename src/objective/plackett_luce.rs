//! Plackett-Luce: the likelihood of a whole ranking of k responses to one prompt.
//!
//! `-log P(1 > 2 > .. > k) = sum_i [log sum_{j >= i} exp r_j - r_i]`: the best is drawn by a softmax over all, the
//! second over the rest, and so on. With `w_i = log sum_{gold_j < gold_i} exp r_j`, what is worse taken together, it is
//! `sum_i softplus(w_i - r_i)` over all i that have something worse: of a pair it is Bradley-Terry.
//!
//! In this form it speaks of responses with equal gold, too: each is drawn out of itself and what is strictly worse, so
//! that equals are never compared and no order among them is learned. Without equals it is the likelihood; with them it
//! is the product of those choices, a partial likelihood.
//!
//! # Source
//! Plackett 1975; Luce 1959; as a loss: ListMLE (Xia et al. 2008).

use super::{Batch, Value, sigmoid, softplus};
use crate::data::Ranking;

/// The negative log-likelihood averaged over the choices of a list, then over lists: in nats a choice, so that a
/// penalty's weight and the clipping of gradients mean what they mean for pairs.
pub(super) fn add(value: &mut Value, batch: Batch) {
    let lists = batch.rankings.len() as f64;
    for (_, ranking, sequences) in batch.lists() {
        let share = 1.0 / (lists * ranking.choices() as f64);
        let (loss, slopes) = plackett_luce(&batch.rewards[sequences.clone()], ranking);
        value.loss += share * loss;
        value.d_rewards[sequences].iter_mut().zip(slopes).for_each(|(sum, slope)| *sum += share * slope);
    }
}

/// The negative log-likelihood, in nats, of a list's ranking, and its gradient in the rewards, which stand best first.
pub fn plackett_luce(rewards: &[f64], ranking: &Ranking) -> (f64, Vec<f64>) {
    let mut loss = 0.0;
    let mut slopes = vec![0.0; rewards.len()];
    for level in ranking.levels() {
        let worse = level.end..rewards.len();
        if worse.is_empty() {
            continue;
        }
        let together = log_sum_exp(&rewards[worse.clone()]);
        let mut pull = 0.0;
        for i in level {
            loss += softplus(together - rewards[i]);
            let slope = sigmoid(together - rewards[i]);
            slopes[i] -= slope;
            pull += slope;
        }
        for j in worse {
            slopes[j] += pull * (rewards[j] - together).exp();
        }
    }
    (loss, slopes)
}

/// Without overflow, and exact for a single value.
fn log_sum_exp(values: &[f64]) -> f64 {
    let top = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    top + values.iter().map(|value| (value - top).exp()).sum::<f64>().ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value as Json;

    /// Every order of the indices.
    fn orders(items: &[usize]) -> Vec<Vec<usize>> {
        if items.is_empty() {
            return vec![Vec::new()];
        }
        let first_and_rest = |at: usize| {
            let rest: Vec<usize> = items.iter().copied().filter(|&i| i != items[at]).collect();
            orders(&rest).into_iter().map(move |order| [&[items[at]], &order[..]].concat())
        };
        (0..items.len()).flat_map(first_and_rest).collect()
    }

    /// The probability of the rewards' own order as a product of softmaxes.
    fn probability(rewards: &[f64]) -> f64 {
        (0..rewards.len())
            .map(|t| rewards[t].exp() / rewards[t..].iter().map(|r| r.exp()).sum::<f64>())
            .product()
    }

    fn ranking(ranks: &[u32]) -> Ranking {
        Ranking::new(ranks.to_vec()).unwrap()
    }

    const REWARDS: [f64; 5] = [0.7, -1.2, 2.0, 0.1, -0.4];

    #[test]
    fn without_ties_it_is_the_brute_force_likelihood() {
        let all = orders(&[0, 1, 2, 3, 4]);
        let mut total = 0.0;
        for order in &all {
            let rewards: Vec<f64> = order.iter().map(|&i| REWARDS[i]).collect();
            let loss = plackett_luce(&rewards, &ranking(&[0, 1, 2, 3, 4])).0;
            assert!((loss + probability(&rewards).ln()).abs() < 1e-12, "{order:?}");
            total += (-loss).exp();
        }
        assert_eq!(all.len(), 120);
        assert!((total - 1.0).abs() < 1e-12, "probabilities of all orders add up to {total}");
    }

    #[test]
    fn equals_are_never_compared() {
        let tied = ranking(&[0, 0, 1, 2, 2]);
        let (loss, slopes) = plackett_luce(&REWARDS, &tied);
        // Each of the best against the three below, the middle one against the worst two.
        let worst = [REWARDS[3], REWARDS[4]];
        let first_of = |i: usize, below: &[f64]| {
            let total = REWARDS[i].exp() + below.iter().map(|r| r.exp()).sum::<f64>();
            total.ln() - REWARDS[i]
        };
        let below = [REWARDS[2], worst[0], worst[1]];
        let expected = first_of(0, &below) + first_of(1, &below) + first_of(2, &worst);
        assert!((loss - expected).abs() < 1e-12);
        // The order in which equals stand says nothing.
        let swapped = plackett_luce(&[-1.2, 0.7, 2.0, -0.4, 0.1], &tied);
        assert!((swapped.0 - loss).abs() < 1e-12);
        assert!((swapped.1[0] - slopes[1]).abs() < 1e-12 && (swapped.1[4] - slopes[3]).abs() < 1e-12);
    }

    #[test]
    fn a_step_is_in_nats_a_choice() {
        let (long, pair) = (ranking(&[0, 0, 1, 2]), Ranking::pair());
        let rewards = [0.7, -1.2, 2.0, 0.1, 0.3, 0.4];
        let batch = Batch {
            rewards: &rewards,
            norms: &[1.0; 6],
            rankings: &[&long, &pair],
            margins: &[None; 2],
            micro_batches: &[0..1, 1..2],
        };
        let mut value = Value::zero(6);
        add(&mut value, batch);
        // Three of the four have something worse.
        let (first, second) = (plackett_luce(&rewards[..4], &long), plackett_luce(&rewards[4..], &pair));
        assert!((value.loss - (first.0 / 3.0 + second.0) / 2.0).abs() < 1e-12);
        assert!((value.d_rewards[3] - first.1[3] / 6.0).abs() < 1e-12);
        assert!((value.d_rewards[4] - second.1[0] / 2.0).abs() < 1e-12);
    }

    #[test]
    fn a_common_offset_changes_nothing_and_extremes_stay_finite() {
        for ranks in [[0, 1, 2, 3, 4], [0, 0, 1, 2, 2], [0, 1, 1, 1, 1]] {
            let (loss, slopes) = plackett_luce(&REWARDS, &ranking(&ranks));
            assert!(slopes.iter().sum::<f64>().abs() < 1e-12);
            assert!((plackett_luce(&REWARDS.map(|r| r + 3.0), &ranking(&ranks)).0 - loss).abs() < 1e-12);
        }
        for rewards in [[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0], [0.0; 3]] {
            let (loss, slopes) = plackett_luce(&rewards, &ranking(&[0, 1, 2]));
            assert!(loss.is_finite() && slopes.iter().all(|s| s.is_finite()), "{loss} {slopes:?}");
        }
    }

    /// Loss and gradient of random lists with ties by PyTorch's autograd in float64.
    #[test]
    fn losses_and_gradients_match_pytorch() {
        let golden: Vec<Json> =
            serde_json::from_str(include_str!("../../tests/golden/objective/plackett_luce.json")).unwrap();
        assert!(golden.len() >= 50);
        let numbers = |value: &Json| -> Vec<f64> { serde_json::from_value(value.clone()).unwrap() };
        for list in &golden {
            let (gold, rewards) = (numbers(&list["gold"]), numbers(&list["rewards"]));
            let (order, ranking) = Ranking::of_gold(&gold).unwrap();
            let best_first: Vec<f64> = order.iter().map(|&i| rewards[i]).collect();
            let (loss, slopes) = plackett_luce(&best_first, &ranking);
            let expected = list["loss"].as_f64().unwrap();
            assert!((loss - expected).abs() < 1e-12 * (1.0 + expected), "{loss} against {list}");
            let expected = numbers(&list["gradient"]);
            for (slope, i) in slopes.into_iter().zip(order) {
                assert!((slope - expected[i]).abs() < 1e-12, "{i}: {slope} against {list}");
            }
        }
    }
}
