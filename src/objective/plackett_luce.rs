//! Plackett-Luce: the likelihood of a whole ranking of k responses to one prompt.
//!
//! `-log P(1 > 2 > .. > k) = sum_i [log sum_{j >= i} exp r_j - r_i]`: the best is drawn by a softmax over all, the
//! second over the rest, and so on. For k = 2 it is Bradley-Terry.
//!
//! Responses with equal gold are tied. Efron's convention: the g members of a tied group are drawn one after the
//! other, and the t of them that are gone when the next is drawn count as the share t / g of every member. It needs no
//! order among the tied, is exact where their rewards are equal, and never below the average over their orders.
//! The mathematics alone: rows reach the trainer as pairs (`data.pairing`).
//!
//! # Source
//! Plackett 1975; Luce 1959; the ties: Efron 1977, as in Cox regression.

/// The negative log-likelihood, in nats, of the order that `gold` gives (higher is better), and its gradient in the
/// rewards. Zero for fewer than two responses.
///
/// `rewards` and `gold` are of the same length, and gold is finite: responses without a gold score are left out by
/// the caller.
pub fn plackett_luce(rewards: &[f64], gold: &[f64]) -> (f64, Vec<f64>) {
    let mut order: Vec<usize> = (0..rewards.len()).collect();
    // Best last: what is still to be drawn is what has been passed, and grows group by group.
    order.sort_by(|&a, &b| gold[a].total_cmp(&gold[b]));
    let mut loss = 0.0;
    let mut slopes = vec![0.0; rewards.len()];
    let mut end = 0;
    while end < order.len() {
        let start = end;
        end += order[start..].iter().take_while(|&&i| gold[i] == gold[order[start]]).count();
        let (rest, tied) = order[..end].split_at(start);
        loss += add_group(rest, tied, rewards, &mut slopes);
    }
    (loss, slopes)
}

/// Draws the group `tied` before everything in `rest`.
fn add_group(rest: &[usize], tied: &[usize], rewards: &[f64], slopes: &mut [f64]) -> f64 {
    if rest.is_empty() && tied.len() < 2 {
        return 0.0;
    }
    let both = || rest.iter().chain(tied);
    let top = both().map(|&i| rewards[i]).fold(f64::NEG_INFINITY, f64::max);
    let weight = |i: usize| (rewards[i] - top).exp();
    let sum = |of: &[usize]| of.iter().map(|&i| weight(i)).sum::<f64>();
    let (below, among) = (sum(rest), sum(tied));
    let mut loss = 0.0;
    for gone in 0..tied.len() {
        let here = 1.0 - gone as f64 / tied.len() as f64;
        let total = below + here * among;
        loss += top + total.ln();
        for &i in rest {
            slopes[i] += weight(i) / total;
        }
        for &i in tied {
            slopes[i] += here * weight(i) / total;
        }
    }
    for &i in tied {
        loss -= rewards[i];
        slopes[i] -= 1.0;
    }
    loss
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objective::bradley_terry_loss;

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

    /// The probability of an order as a product of softmaxes.
    fn probability(rewards: &[f64], order: &[usize]) -> f64 {
        (0..order.len())
            .map(|t| rewards[order[t]].exp() / order[t..].iter().map(|&i| rewards[i].exp()).sum::<f64>())
            .product()
    }

    const REWARDS: [f64; 5] = [0.7, -1.2, 2.0, 0.1, -0.4];

    #[test]
    fn without_ties_it_is_the_brute_force_likelihood() {
        let all = orders(&[0, 1, 2, 3, 4]);
        let mut total = 0.0;
        for order in &all {
            // The first of the order has the highest gold.
            let mut gold = [0.0; 5];
            order.iter().enumerate().for_each(|(rank, &i)| gold[i] = -(rank as f64));
            let loss = plackett_luce(&REWARDS, &gold).0;
            assert!((loss + probability(&REWARDS, order).ln()).abs() < 1e-12, "{order:?}");
            total += (-loss).exp();
        }
        assert_eq!(all.len(), 120);
        assert!((total - 1.0).abs() < 1e-12, "probabilities of all orders add up to {total}");
    }

    #[test]
    fn of_two_it_is_bradley_terry() {
        let loss = plackett_luce(&[0.3, 1.1], &[2.0, 1.0]).0;
        assert!((loss - bradley_terry_loss(&[0.3], &[1.1])).abs() < 1e-12);
    }

    #[test]
    fn ties_with_equal_rewards_average_over_their_orders_and_others_exceed_it() {
        let gold = [1.0, 2.0, 2.0, 2.0, 0.0];
        let average = |rewards: &[f64]| {
            let consistent: Vec<f64> = orders(&[0, 1, 2, 3, 4])
                .iter()
                .filter(|order| order.windows(2).all(|w| gold[w[0]] >= gold[w[1]]))
                .map(|order| -probability(rewards, order).ln())
                .collect();
            assert_eq!(consistent.len(), 6);
            consistent.iter().sum::<f64>() / 6.0
        };
        let equal = [0.7, 0.4, 0.4, 0.4, -0.4];
        assert!((plackett_luce(&equal, &gold).0 - average(&equal)).abs() < 1e-12);
        assert!(plackett_luce(&REWARDS, &gold).0 > average(&REWARDS) + 1e-3);
    }

    #[test]
    fn gradients_match_finite_differences_and_sum_to_zero() {
        for gold in [[3.0, 1.0, 4.0, 1.5, 9.0], [1.0, 2.0, 2.0, 2.0, 0.0], [1.0; 5]] {
            let slopes = plackett_luce(&REWARDS, &gold).1;
            for (i, found) in slopes.iter().enumerate() {
                let loss = |step: f64| {
                    let mut rewards = REWARDS;
                    rewards[i] += step;
                    plackett_luce(&rewards, &gold).0
                };
                let expected = (loss(1e-5) - loss(-1e-5)) / 2e-5;
                assert!((found - expected).abs() < 1e-7, "{gold:?}, {i}: {found} against {expected}");
            }
            // A common offset of the rewards changes nothing.
            assert!(slopes.iter().sum::<f64>().abs() < 1e-12);
        }
    }

    #[test]
    fn extremes_stay_finite_and_too_few_responses_say_nothing() {
        for gold in [[2.0, 1.0, 0.0], [0.0, 1.0, 2.0], [1.0; 3]] {
            let (loss, slopes) = plackett_luce(&[1e4, -1e4, 0.0], &gold);
            assert!(loss.is_finite() && slopes.iter().all(|s| s.is_finite()), "{loss} {slopes:?}");
        }
        assert_eq!(plackett_luce(&[], &[]), (0.0, vec![]));
        assert_eq!(plackett_luce(&[3.0], &[1.0]), (0.0, vec![0.0]));
    }
}
