//! Learning-rate schedules: the rate of a step as a function of the step alone.

use super::config::{Config, Schedule, Warmup};

/// The learning rate of optimizer step `step` (from 0) out of `total`.
///
/// Steps are counted as transformers' schedulers do: with w warmup steps, step s < w runs at `lr * s / w`, so a
/// warmed-up run begins at zero.
pub fn learning_rate(config: &Config, step: u64, total: u64) -> f64 {
    let warmup = warmup_steps(config, total);
    if step < warmup {
        return config.lr * step as f64 / warmup as f64;
    }
    let (all, after_warmup) = (total as f64, total.saturating_sub(warmup));
    let (step, total) = ((step - warmup) as f64, after_warmup.max(1) as f64);
    let share = match config.schedule {
        Schedule::Constant => 1.0,
        Schedule::Linear => (1.0 - step / total).max(0.0),
        Schedule::Cosine { min_lr_ratio: floor } => {
            let progress = (step / total).min(1.0);
            floor + (1.0 - floor) * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
        }
        Schedule::Wsd { decay_ratio, min_lr_ratio: floor } => {
            let decay = (decay_ratio * all).min(after_warmup as f64);
            let left = (total - step).max(0.0);
            if left >= decay { 1.0 } else { floor + (1.0 - floor) * left / decay }
        }
    };
    config.lr * share
}

/// Warmup in steps; a ratio is rounded up, as in transformers.
pub fn warmup_steps(config: &Config, total: u64) -> u64 {
    match config.warmup {
        Warmup::Steps(steps) => steps,
        Warmup::Ratio(ratio) => (ratio * total as f64).ceil() as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COSINE: Schedule = Schedule::Cosine { min_lr_ratio: 0.0 };
    const WSD: Schedule = Schedule::Wsd { decay_ratio: 0.25, min_lr_ratio: 0.0 };

    fn rates(schedule: Schedule, warmup: Warmup, total: u64) -> Vec<f64> {
        let config = Config { lr: 1.0, schedule, warmup, ..Config::default() };
        (0..total).map(|step| learning_rate(&config, step, total)).collect()
    }

    #[test]
    fn linear_matches_transformers() {
        // get_linear_schedule_with_warmup(optimizer, 2, 6)
        let expected = [0.0, 0.5, 1.0, 0.75, 0.5, 0.25];
        assert_eq!(rates(Schedule::Linear, Warmup::Steps(2), 6), expected);
        assert_eq!(rates(Schedule::Linear, Warmup::Ratio(0.3), 6), expected);
    }

    #[test]
    fn cosine_matches_transformers() {
        // get_cosine_schedule_with_warmup(optimizer, 1, 5)
        let expected = [0.0, 1.0, 0.853_553_390_593_273_7, 0.5, 0.146_446_609_406_726_27];
        for (rate, expected) in rates(COSINE, Warmup::Steps(1), 5).iter().zip(expected) {
            assert!((rate - expected).abs() < 1e-12);
        }
    }

    #[test]
    fn constant_and_wsd() {
        assert_eq!(rates(Schedule::Constant, Warmup::Steps(0), 3), [1.0; 3]);
        assert_eq!(rates(WSD, Warmup::Steps(0), 8), [1., 1., 1., 1., 1., 1., 1., 0.5]);
        // The decay is a quarter of all steps, not of those after the warmup.
        assert_eq!(rates(WSD, Warmup::Steps(4), 8), [0., 0.25, 0.5, 0.75, 1., 1., 1., 0.5]);
    }

    #[test]
    fn the_end_of_a_decay_is_the_rate_of_the_step_after_the_last() {
        let schedules = [
            Schedule::Linear,
            Schedule::Cosine { min_lr_ratio: 0.1 },
            Schedule::Wsd { decay_ratio: 0.5, min_lr_ratio: 0.1 },
        ];
        for schedule in schedules {
            let config = Config { lr: 1.0, schedule, warmup: Warmup::Steps(0), ..Config::default() };
            let [before, last, after] = [6, 7, 8].map(|step| learning_rate(&config, step, 8));
            let end = if schedule == Schedule::Linear { 0.0 } else { 0.1 };
            assert!(before > last && last > end, "{schedule:?}: {before}, {last}");
            assert!((after - end).abs() < 1e-12, "{schedule:?}: {after}");
        }
    }

    #[test]
    fn warmup_longer_than_the_run_only_warms() {
        assert_eq!(rates(Schedule::Linear, Warmup::Steps(10), 3), [0.0, 0.1, 0.2]);
    }
}
