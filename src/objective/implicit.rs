//! Any objective for implicit rewards, `r = beta (log pi(y|x) - log pi_ref(y|x))`: DPO and its regularized kin.
//!
//! DPO is Bradley-Terry on these rewards, and sum-to-zero bounds their mean as it does a head's: how far, on average,
//! the policy's likelihoods leave the reference's. Here is the mathematics alone; no trainer of policies calls it yet.
//!
//! # Source
//! The implicit reward: arXiv 2305.18290, equation 7; sum-to-zero: arXiv 2505.07271.

use super::{Batch, Config, Value, evaluate};
use crate::data::Ranking;

/// Log-likelihoods of whole responses, in nats, list by list, best first in each.
#[derive(Debug, Clone, Copy)]
pub struct LogLikelihoods<'a> {
    pub policy: &'a [f64],
    pub reference: &'a [f64],
    /// The gold order of every list.
    pub rankings: &'a [&'a Ranking],
}

impl LogLikelihoods<'_> {
    /// Implicit rewards of the responses.
    pub fn rewards(&self, beta: f64) -> Vec<f64> {
        self.policy
            .iter()
            .zip(self.reference)
            .map(|(policy, reference)| beta * (policy - reference))
            .collect()
    }
}

/// The sum of all terms on the implicit rewards of a step. `d_rewards` are dL/d log pi. There is no head here and so
/// no hidden norm: a term that reads norms finds them all alike, and adds nothing.
pub fn evaluate_implicit(terms: &[Config], beta: f64, likelihoods: LogLikelihoods) -> Value {
    let rewards = likelihoods.rewards(beta);
    let rankings = likelihoods.rankings;
    let all = 0..rankings.len();
    let mut value = evaluate(
        terms,
        Batch {
            rewards: &rewards,
            norms: &vec![0.0; rewards.len()],
            rankings,
            margins: &vec![None; rankings.len()],
            micro_batches: std::slice::from_ref(&all),
        },
    );
    value.d_rewards.iter_mut().for_each(|slope| *slope *= beta);
    value
}

#[cfg(test)]
mod tests {
    use super::super::config::{LambdaSchedule, Margin, Scale, Scope};
    use super::*;

    const REFERENCE: [f64; 6] = [-11.0, -12.5, -40.0, -38.0, -3.5, -3.0];
    const POLICY: [f64; 6] = [-10.0, -14.0, -41.5, -39.0, -3.0, -2.0];

    fn run(terms: &[Config], policy: [f64; 6]) -> Value {
        let pair = Ranking::pair();
        let likelihoods =
            LogLikelihoods { policy: &policy, reference: &REFERENCE, rankings: &[&pair, &pair, &pair] };
        evaluate_implicit(terms, 0.3, likelihoods)
    }

    fn terms(lambda: f64) -> [Config; 2] {
        let schedule = LambdaSchedule::default();
        [
            Config::BradleyTerry { margin: Margin::None, label_smoothing: 0.0 },
            Config::SumToZero { lambda, scope: Scope::Global, scale: Scale::Mean, schedule },
        ]
    }

    #[test]
    fn the_loss_is_dpo_and_the_square_of_the_mean_implicit_reward() {
        // Written out: beta = 0.3, chosen rewards 0.3, -0.45, 0.15, rejected -0.45, -0.3, 0.3.
        let dpo: f64 = [0.75f64, -0.15, -0.15].iter().map(|d| (1.0 + (-d).exp()).ln()).sum::<f64>() / 3.0;
        let mean: f64 = (0.3 - 0.45 + 0.15 - 0.45 - 0.3 + 0.3) / 6.0;
        assert!((run(&terms(0.0), POLICY).loss - dpo).abs() < 1e-12);
        assert!((run(&terms(5.0), POLICY).loss - (dpo + 5.0 * mean * mean)).abs() < 1e-12);
    }

    #[test]
    fn gradients_in_log_likelihoods_match_finite_differences() {
        let terms = terms(5.0);
        let value = run(&terms, POLICY);
        for (i, found) in value.d_rewards.iter().enumerate() {
            let loss = |step: f64| {
                let mut policy = POLICY;
                policy[i] += step;
                run(&terms, policy).loss
            };
            let expected = (loss(1e-5) - loss(-1e-5)) / 2e-5;
            assert!((found - expected).abs() < 1e-8, "{i}: {found} against {expected}");
        }
    }
}
