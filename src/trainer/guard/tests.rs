use super::config::Setting;
use super::*;
use crate::trainer::metrics::{EvalLine, MetricsFile};
use serde_json::json;

/// A step with nothing alarming in it.
fn calm(step: u64) -> StepLine {
    let line = json!({
        "kind": "step", "step": step, "epoch": 0.1, "loss": 0.6, "loss_bt": 0.6, "loss_bsr": 0.0, "accuracy": 0.7,
        "ties": 0, "margin_mean": 0.1, "reward_mean": 0.1, "reward_std": 1.0, "reward_min": -2.0, "reward_max": 2.0,
        "head_norm": 1.0, "hidden_norm_mean": 10.0, "hidden_norm_var": 0.01, "hidden_norm_skew": 0.1,
        "hidden_norm_max": 11.0, "hidden_diff_norm_mean": 1.0, "cos_mean": 0.0, "grad_norm": 1.0,
        "head_grad_norm": 0.1, "lr": 1e-3, "pairs": 8, "tokens": 100, "seconds": 1.0,
    });
    serde_json::from_value(line).unwrap()
}

fn config() -> Config {
    Config { window: 3, ..Config::default() }
}

/// The alarms of steps 1 to `steps`, each changed by `change`.
fn alarms(config: &Config, steps: u64, change: impl Fn(&mut StepLine)) -> Vec<(u64, &'static str)> {
    let mut guard = Guard::new(config, 2);
    let lines = (1..=steps).map(|step| {
        let mut line = calm(step);
        change(&mut line);
        line
    });
    lines.flat_map(|line| guard.step(&line)).map(|alarm| (alarm.step, alarm.rule)).collect()
}

#[test]
fn growth_is_over_the_median_of_the_first_window_after_the_warmup() {
    // The warmup's own variance is no baseline: steps 1 and 2 are 100 times smaller, and 3 to 5 count.
    let growing = |line: &mut StepLine| {
        line.hidden_norm_var = [0.0001, 0.01, 0.101][usize::from(line.step > 2) + usize::from(line.step > 8)];
    };
    assert_eq!(alarms(&config(), 20, growing), [(10, "norm-growth")], "two of three steps make the median");
    let spike =
        |line: &mut StepLine| line.hidden_norm_var = if line.step.is_multiple_of(3) { 100.0 } else { 0.01 };
    assert_eq!(alarms(&config(), 20, spike), [], "one wild step in a window is no growth");
}

#[test]
fn growth_from_almost_nothing_counts_from_the_least_spread() {
    // 0.005 of a norm of 10 is a variance of 0.0025.
    let growing =
        |var: f64| move |line: &mut StepLine| line.hidden_norm_var = if line.step > 8 { var } else { 1e-9 };
    assert_eq!(alarms(&config(), 20, growing(0.024)), []);
    assert_eq!(alarms(&config(), 20, growing(0.026)), [(10, "norm-growth")]);
}

#[test]
fn skew_is_a_windows_median() {
    let skewed = |line: &mut StepLine| line.hidden_norm_skew = if line.step > 8 { 2.1 } else { 0.0 };
    assert_eq!(alarms(&config(), 20, skewed), [(10, "norm-skew")]);
}

#[test]
fn an_offset_that_was_there_from_the_start_is_no_drift() {
    let offset = |line: &mut StepLine| line.reward_mean = -3.0;
    assert_eq!(alarms(&config(), 20, offset), []);
    let drifting = |line: &mut StepLine| line.reward_mean = -0.3 * line.step as f64;
    // The median of steps 6 to 8 is 2.1 deviations.
    assert_eq!(alarms(&config(), 20, drifting), [(8, "reward-drift")]);
}

#[test]
fn an_alarm_is_told_once_until_it_has_ended() {
    let hovering = |line: &mut StepLine| {
        line.hidden_norm_skew = match line.step {
            1..9 => 0.0,
            9..15 => 2.5,
            // Below the threshold, above its release at 1.6.
            15..20 => 1.7,
            20..25 => 2.5,
            25..30 => 1.5,
            _ => 2.5,
        };
    };
    assert_eq!(alarms(&config(), 40, hovering), [(10, "norm-skew"), (31, "norm-skew")]);
}

#[test]
fn the_gap_is_between_the_window_and_each_set() {
    let mut guard = Guard::new(&config(), 2);
    for step in 1..=6 {
        let mut line = calm(step);
        line.accuracy = if step > 3 { 0.9 } else { 0.1 };
        assert_eq!(guard.step(&line), []);
    }
    assert_eq!(guard.evaluated(6, "in-domain", Some(0.75)), None);
    let alarm = guard.evaluated(6, "mutual-disjoint", Some(0.6)).unwrap();
    assert_eq!((alarm.rule, alarm.split.as_deref(), alarm.threshold), ("gap", Some("mutual-disjoint"), 0.2));
    assert!((alarm.value - 0.3).abs() < 1e-12);
    for needle in ["guard.gap", "0.900", "0.600 on mutual-disjoint", "0.300", "threshold 0.2", "fewer epochs"]
    {
        assert!(alarm.message.contains(needle), "{needle}: {}", alarm.message);
    }
    assert_eq!(guard.evaluated(8, "mutual-disjoint", Some(0.6)), None, "told already");
    assert!(guard.evaluated(8, "in-domain", Some(0.6)).is_some(), "another set");
    assert_eq!(guard.evaluated(9, "empty", None), None);
}

#[test]
fn what_is_off_is_silent_and_only_what_stops_stops() {
    let set = |config: &Config, action| {
        let mut config = config.clone();
        config.set(Rule::NormSkew, Setting { threshold: 1.0, action });
        config
    };
    let run = |config: &Config| {
        let mut guard = Guard::new(config, 0);
        let lines = (1..=10).map(|step| StepLine { hidden_norm_skew: 1.5, ..calm(step) });
        let alarms = lines.flat_map(|line| guard.step(&line)).count();
        let stop = guard.stops();
        assert!(stop.iter().all(|stop| stop.rules == [Rule::NormSkew] && stop.message.contains("norm-skew")));
        (alarms, stop.is_some())
    };
    let stopping = Config { action: Action::Stop, ..config() };
    assert_eq!(run(&set(&config(), None)), (1, false));
    assert_eq!(run(&set(&stopping, None)), (1, true));
    assert_eq!(run(&set(&stopping, Some(Action::Warn))), (1, false));
    assert_eq!(run(&set(&config(), Some(Action::Stop))), (1, true));
    assert_eq!(run(&set(&stopping, Some(Action::Off))), (0, false));
}

/// The state of a guard is that of one that reads the same lines from the file, after any of them.
#[test]
fn a_guard_is_what_its_metrics_make_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics.jsonl");
    let mut file = MetricsFile::open(&path, 0).unwrap();
    let mut guard = Guard::new(&config(), 2);
    let report = |accuracy: f64| {
        let report = json!({
            "rows": 1, "metric": "accuracy", "accuracy": accuracy, "accuracy_ci95": null, "ties": 0, "kendall_tau": null,
            "kendall_tau_ci95": null, "longest_wins": null, "shortest_wins": null, "hidden_norm_var": null,
            "reward_mean": null, "reward_std": null,
        });
        serde_json::from_value(report).unwrap()
    };
    let mut raised = 0;
    for step in 1..=30u64 {
        let wave = (step as f64 / 3.0).sin();
        let line = StepLine {
            hidden_norm_var: 0.1 + 0.3 * step as f64,
            hidden_norm_skew: 3.0 * wave,
            reward_mean: 2.5 * wave,
            accuracy: 0.7 + 0.1 * wave,
            ..calm(step)
        };
        file.append(&line).unwrap();
        let mut alarms = guard.step(&line);
        if step % 4 == 0 {
            let report = report(0.6 - 0.1 * wave);
            let split = "in-domain";
            file.append(&EvalLine { kind: "eval", step, split, report: &report }).unwrap();
            alarms.extend(guard.evaluated(step, split, report.accuracy));
        }
        alarms.iter().for_each(|alarm| file.append(alarm).unwrap());
        raised += alarms.len();
        let (again, untold) = Guard::replay(&config(), 2, &path).unwrap();
        assert_eq!(format!("{again:?}"), format!("{guard:?}"), "after step {step}");
        assert_eq!(untold, [], "after step {step}");
    }
    assert!(raised >= 5, "{raised} alarms");
    std::fs::write(&path, "{\"kind\": \"step\"}\n").unwrap();
    assert!(matches!(Guard::replay(&config(), 2, &path), Err(Error::Checkpoint { .. })));
}

#[test]
fn what_a_silent_rule_would_have_raised_is_told_once_by_whoever_resumes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics.jsonl");
    let mut file = MetricsFile::open(&path, 0).unwrap();
    let skew = |line: u64| match line {
        9..20 | 30.. => 2.5,
        _ => 0.1,
    };
    let mut write = |steps: std::ops::RangeInclusive<u64>, alarms: &[Alarm]| {
        alarms.iter().for_each(|alarm| file.append(alarm).unwrap());
        steps.for_each(|step| {
            file.append(&StepLine { hidden_norm_skew: skew(step), ..calm(step) }).unwrap();
        });
    };
    let resume = |config: &Config| {
        let (guard, untold) = Guard::replay(config, 2, &path).unwrap();
        let steps: Vec<u64> = untold.iter().map(|alarm| alarm.step).collect();
        (steps, guard.stops().is_some(), untold)
    };
    let off = Config { action: Action::Off, ..config() };
    let stop = Config { action: Action::Stop, ..config() };
    let mut high = config();
    high.set(Rule::NormSkew, Setting { threshold: 3.0, action: None });

    write(1..=15, &[]);
    for silent in [&off, &high] {
        assert_eq!(resume(silent), (vec![], false, vec![]));
    }
    let (steps, stops, untold) = resume(&stop);
    assert_eq!((steps, stops), (vec![10], true));
    write(16..=25, &untold);
    assert_eq!(resume(&config()), (vec![], false, vec![]), "told, and ended");
    // Raised again while the rule was silent.
    write(26..=35, &[]);
    let (steps, _, untold) = resume(&config());
    assert_eq!(steps, [31]);
    write(36..=36, &untold);
    assert_eq!(resume(&config()), (vec![], false, vec![]));
    assert_eq!(resume(&stop), (vec![], true, vec![]));
}
