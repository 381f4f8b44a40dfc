//! What the weight of sum-to-zero is at a step: constant, a function of the step alone, or held by a controller.
//!
//! The terms keep the configured weight; a step is computed with [`in_force`]'s copy of them. The controller has one
//! number of state, the weight itself, which whoever trains saves and gives back.

use super::config::{Adaptive, Config, LambdaSchedule, Shape, Signal};

/// The figures of a step that a controller may look at.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Signals {
    /// Mean of the step's rewards.
    pub reward_mean: f64,
    /// Population variance of its hidden norms.
    pub hidden_norm_var: f64,
}

/// The weight of the sum-to-zero term at optimizer step `step` (from 0) out of `total`; `held` is what a controller
/// left after the step before. `None` without such a term.
pub fn at(terms: &[Config], step: u64, total: u64, held: Option<f64>) -> Option<f64> {
    let (lambda, schedule) = sum_to_zero(terms)?;
    Some(match schedule {
        LambdaSchedule::Planned { shape, warmup_ratio } => planned(lambda, shape, warmup_ratio, step, total),
        LambdaSchedule::Adaptive(adaptive) => held.unwrap_or(lambda).clamp(adaptive.min, adaptive.max),
    })
}

/// The terms with the sum-to-zero weight replaced by the one in force.
pub fn in_force(terms: &[Config], weight: Option<f64>) -> Vec<Config> {
    let mut terms = terms.to_vec();
    if let Some(weight) = weight {
        for term in &mut terms {
            if let Config::SumToZero { lambda, .. } = term {
                *lambda = weight;
            }
        }
    }
    terms
}

/// The state of the controller after a step that ran with `weight`: `None` where there is no controller.
pub fn held_after(terms: &[Config], weight: Option<f64>, signals: Signals) -> Option<f64> {
    match (sum_to_zero(terms)?.1, weight) {
        (LambdaSchedule::Adaptive(adaptive), Some(weight)) => Some(ascend(adaptive, weight, signals)),
        _ => None,
    }
}

fn sum_to_zero(terms: &[Config]) -> Option<(f64, LambdaSchedule)> {
    terms.iter().find_map(|term| match *term {
        Config::SumToZero { lambda, schedule, .. } => Some((lambda, schedule)),
        _ => None,
    })
}

/// From zero to `lambda` over the warmup, counted as the learning rate's, then on to the shape's end, which the last
/// step has.
fn planned(lambda: f64, shape: Shape, warmup_ratio: f64, step: u64, total: u64) -> f64 {
    let warmup = (warmup_ratio * total as f64).ceil() as u64;
    if step < warmup {
        return lambda * step as f64 / warmup as f64;
    }
    let last = total.saturating_sub(1).saturating_sub(warmup).max(1);
    let progress = ((step - warmup) as f64 / last as f64).min(1.0);
    match shape {
        Shape::Constant => lambda,
        Shape::Linear { end } => lambda + (end - lambda) * progress,
        Shape::Cosine { end } => end + (lambda - end) * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
    }
}

/// Dual ascent on the constraint `signal <= target`, in its multiplicative form: the weight grows by a factor while
/// the signal exceeds the target and shrinks while it is below. One step changes it by a factor of `e^rate` at most,
/// so a single wild batch moves it little, and bounds end it where the target cannot be reached.
fn ascend(adaptive: Adaptive, weight: f64, signals: Signals) -> f64 {
    let Adaptive { signal, target, rate, min, max } = adaptive;
    let value = match signal {
        Signal::RewardMean => signals.reward_mean.abs(),
        Signal::HiddenNormVar => signals.hidden_norm_var,
    };
    let error = (value / target - 1.0).clamp(-1.0, 1.0);
    (weight * (rate * error).exp()).clamp(min, max)
}

#[cfg(test)]
mod tests {
    use super::super::config::{Scale, Scope};
    use super::*;

    fn terms(lambda: f64, schedule: LambdaSchedule) -> Vec<Config> {
        let term = Config::SumToZero { lambda, scope: Scope::Global, scale: Scale::Mean, schedule };
        vec![Config::Direct, term]
    }

    fn weights(shape: Shape, warmup_ratio: f64, total: u64) -> Vec<f64> {
        let terms = terms(1.0, LambdaSchedule::Planned { shape, warmup_ratio });
        (0..total).map(|step| at(&terms, step, total, None).unwrap()).collect()
    }

    #[test]
    fn a_planned_weight_is_a_function_of_the_step() {
        assert_eq!(weights(Shape::Constant, 0.0, 3), [1.0; 3]);
        assert_eq!(weights(Shape::Constant, 0.5, 4), [0.0, 0.5, 1.0, 1.0]);
        assert_eq!(weights(Shape::Linear { end: 3.0 }, 0.0, 5), [1.0, 1.5, 2.0, 2.5, 3.0]);
        assert_eq!(weights(Shape::Linear { end: 0.0 }, 0.25, 4), [0.0, 1.0, 0.5, 0.0]);
        let cosine = weights(Shape::Cosine { end: 0.0 }, 0.0, 5);
        let expected = [1.0, 0.853_553_390_593_273_7, 0.5, 0.146_446_609_406_726_27, 0.0];
        assert!(cosine.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12), "{cosine:?}");
        assert_eq!(weights(Shape::Linear { end: 0.0 }, 0.0, 1), [1.0], "a run of one step");
    }

    #[test]
    fn the_weight_in_force_replaces_the_configured_one_and_no_other() {
        let terms = terms(1.0, LambdaSchedule::Planned { shape: Shape::Constant, warmup_ratio: 0.0 });
        let now = in_force(&terms, Some(0.25));
        assert_eq!(now[0], Config::Direct);
        assert!(matches!(now[1], Config::SumToZero { lambda: 0.25, .. }));
        assert_eq!(in_force(&[Config::Direct], at(&[Config::Direct], 0, 1, None)), [Config::Direct]);
    }

    /// A world in which the signal answers the weight as `8 / (1 + weight)`: at 3 it is 2.
    #[test]
    fn the_controller_finds_the_weight_that_holds_the_target() {
        for (start, signal) in [(1e-3, Signal::RewardMean), (90.0, Signal::HiddenNormVar)] {
            let adaptive = Adaptive { signal, target: 2.0, rate: 0.1, min: 1e-4, max: 100.0 };
            let terms = terms(start, LambdaSchedule::Adaptive(adaptive));
            let mut held = None;
            for step in 0..400 {
                let weight = at(&terms, step, 400, held).unwrap();
                let answer = 8.0 / (1.0 + weight);
                let signals = Signals { reward_mean: -answer, hidden_norm_var: answer };
                held = held_after(&terms, Some(weight), signals);
            }
            assert!((held.unwrap() - 3.0).abs() < 0.05, "{held:?}");
        }
    }

    #[test]
    fn the_controller_stays_in_its_bounds_and_moves_by_its_rate() {
        let adaptive = Adaptive { signal: Signal::RewardMean, target: 1e-3, rate: 0.5, min: 0.5, max: 2.0 };
        let terms = terms(1.0, LambdaSchedule::Adaptive(adaptive));
        let after = |weight, reward_mean| {
            held_after(&terms, Some(weight), Signals { reward_mean, hidden_norm_var: 0.0 }).unwrap()
        };
        assert_eq!(after(1.0, 1e30), 0.5f64.exp(), "one step is a factor of e^rate at most");
        assert_eq!((after(1.9, -5.0), after(0.51, 0.0)), (2.0, 0.5));
        assert_eq!(after(1.0, 1e-3), 1.0);
    }
}
