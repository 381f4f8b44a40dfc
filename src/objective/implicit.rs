//! Any objective for implicit rewards, `r = beta (log pi(y|x) - log pi_ref(y|x))`: DPO and its regularized kin.
//!
//! DPO is Bradley-Terry on these rewards, and sum-to-zero bounds their mean as it does a head's: how far, on average,
//! the policy's likelihoods leave the reference's. Here is the mathematics alone; no trainer of policies calls it yet.
//!
//! # Source
//! The implicit reward: arXiv 2305.18290, equation 7; sum-to-zero: arXiv 2505.07271.

use super::{Batch, Config, Value, evaluate};

/// Log-likelihoods of whole responses, in nats, pair by pair.
#[derive(Debug, Clone, Copy)]
pub struct LogLikelihoods<'a> {
    pub policy_chosen: &'a [f64],
    pub policy_rejected: &'a [f64],
    pub reference_chosen: &'a [f64],
    pub reference_rejected: &'a [f64],
}

impl LogLikelihoods<'_> {
    /// Implicit rewards of the chosen and of the rejected responses.
    pub fn rewards(&self, beta: f64) -> (Vec<f64>, Vec<f64>) {
        let of = |policy: &[f64], reference: &[f64]| -> Vec<f64> {
            policy.iter().zip(reference).map(|(policy, reference)| beta * (policy - reference)).collect()
        };
        (of(self.policy_chosen, self.reference_chosen), of(self.policy_rejected, self.reference_rejected))
    }
}

/// The sum of all terms on the implicit rewards of a step, over all of its pairs. `d_chosen` and `d_rejected` are
/// dL/d log pi. There is no head here and so no hidden norm: a term that reads norms finds them all alike, and adds
/// nothing.
pub fn evaluate_implicit(terms: &[Config], beta: f64, likelihoods: LogLikelihoods) -> Value {
    let (chosen, rejected) = likelihoods.rewards(beta);
    let (margins, norms) = (vec![None; chosen.len()], vec![0.0; chosen.len()]);
    let all = 0..chosen.len();
    let mut value = evaluate(
        terms,
        Batch {
            chosen: &chosen,
            rejected: &rejected,
            chosen_norms: &norms,
            rejected_norms: &norms,
            margins: &margins,
            micro_batches: std::slice::from_ref(&all),
        },
    );
    value.d_chosen.iter_mut().chain(&mut value.d_rejected).for_each(|slope| *slope *= beta);
    value
}

#[cfg(test)]
mod tests {
    use super::super::config::{LambdaSchedule, Margin, Scale, Scope};
    use super::*;

    const REFERENCE: [[f64; 3]; 2] = [[-11.0, -40.0, -3.5], [-12.5, -38.0, -3.0]];
    const POLICY: [[f64; 3]; 2] = [[-10.0, -41.5, -3.0], [-14.0, -39.0, -2.0]];

    fn run(terms: &[Config], policy: [[f64; 3]; 2]) -> Value {
        let likelihoods = LogLikelihoods {
            policy_chosen: &policy[0],
            policy_rejected: &policy[1],
            reference_chosen: &REFERENCE[0],
            reference_rejected: &REFERENCE[1],
        };
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
        for i in 0..3 {
            for (side, found) in [(0, value.d_chosen[i]), (1, value.d_rejected[i])] {
                let loss = |step: f64| {
                    let mut policy = POLICY;
                    policy[side][i] += step;
                    run(&terms, policy).loss
                };
                let expected = (loss(1e-5) - loss(-1e-5)) / 2e-5;
                assert!((found - expected).abs() < 1e-8, "{side} {i}: {found} against {expected}");
            }
        }
    }
}
