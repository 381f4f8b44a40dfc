//! What is seen, in words and in one table, computed from the figures and no further than they go.

use super::figure::Table;
use super::number::{NOTHING, figure, figure_or_nothing, share};
use super::over_seeds::OverSeeds;
use super::scenarios::gap_of;
use super::{Run, RunGroup};
use crate::base::figures::grouped;
use crate::base::median::median;
use std::collections::BTreeMap;

/// The set whose gap is told: both prompts and models are new.
pub const FARTHEST: &str = "mutual-disjoint";

/// Steps that the beginning and the end of a run are judged by: a tenth, a hundred at most.
fn window(run: &Run) -> usize {
    run.steps.numbers().len().div_ceil(10).min(100)
}

/// Medians of a field over the first and the last window, of the steps that have it.
pub fn ends(run: &Run, field: &str) -> Option<[f64; 2]> {
    let column = run.steps.column(field)?;
    let window = window(run);
    let there = |steps: &[f64]| median(steps.iter().copied().filter(|value| value.is_finite()));
    Some([there(&column[..window])?, there(&column[column.len() - window..])?])
}

/// How much larger a field is at the end than at the beginning.
pub fn growth(run: &Run, field: &str) -> Option<f64> {
    ends(run, field).filter(|[start, _]| *start > 0.0).map(|[start, end]| end / start)
}

/// Rules that raised alarms, each with the number of runs in which it did.
pub fn alarms_by_rule(group: &RunGroup) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for run in &group.runs {
        let rules: std::collections::BTreeSet<&str> =
            run.alarms.iter().map(|alarm| alarm.rule.as_str()).collect();
        rules.into_iter().for_each(|rule| *counts.entry(rule).or_default() += 1);
    }
    counts
}

/// Whether the runs are at their ends, and how many there are.
pub fn status(group: &RunGroup) -> String {
    let lasts = group.runs.iter().filter_map(|run| run.steps.numbers().last().copied());
    let (first, last) = (lasts.clone().min().unwrap_or(0), lasts.max().unwrap_or(0));
    let word = if last == 1 { "step" } else { "steps" };
    let steps = if first == last {
        format!("{} {word}", grouped(last))
    } else {
        format!("{} to {} {word}", grouped(first), grouped(last))
    };
    let state = match group.runs.iter().filter(|run| run.finished).count() {
        all if all == group.runs.len() => "finished".into(),
        0 => "not finished".into(),
        some => format!("{some} of {} finished", group.runs.len()),
    };
    match group.count() {
        Some(count) => format!("{count}, {steps}, {state}"),
        None => format!("{steps}, {state}"),
    }
}

/// What is seen of a group.
pub fn sentence(group: &RunGroup) -> String {
    match group.runs.as_slice() {
        [run] => of_run(run),
        _ => of_seeds(group),
    }
}

fn of_seeds(group: &RunGroup) -> String {
    let written = |of: &dyn Fn(&Run) -> Option<f64>| group.over_seeds(of).written(figure);
    let end = |field: &'static str| written(&move |run| Some(ends(run, field)?[1]));
    let mut parts = Vec::new();
    let variance = "hidden_norm_var";
    if group.over_seeds(|run| Some(ends(run, variance)?[0])).mean().is_some() {
        let growth = match group.over_seeds(|run| growth(run, variance)) {
            none if none.values.is_empty() => String::new(),
            growth => format!(", {} times", growth.written(figure)),
        };
        parts.push(format!(
            "The variance of hidden norms goes from {} to {}{growth} (medians of the first and last tenth of the steps; \
             of these the mean, and least to largest, of the seeds).",
            written(&|run| Some(ends(run, variance)?[0])),
            end(variance),
        ));
    }
    if group.over_seeds(|run| Some(ends(run, "reward_mean")?[1])).mean().is_some() {
        parts.push(format!(
            "Rewards end at a mean of {} with a deviation of {}.",
            end("reward_mean"),
            end("reward_std")
        ));
    }
    let gaps = group.over_seeds(|run| gap_of(run, FARTHEST)?.accuracy);
    if !gaps.values.is_empty() {
        let above = gaps.values.iter().filter(|gap| **gap > 0.0).count();
        parts.push(format!(
            "Accuracy in-domain minus {FARTHEST}: {}, above 0 in {above} of {} seeds.",
            gaps.written(share),
            gaps.values.len()
        ));
    }
    let alarms: Vec<String> = alarms_by_rule(group)
        .into_iter()
        .map(|(rule, runs)| format!("{rule} in {runs} of {} seeds", group.runs.len()))
        .collect();
    parts.push(if alarms.is_empty() {
        "No alarm in any seed.".into()
    } else {
        format!("Alarms: {}.", alarms.join(", "))
    });
    parts.join(" ")
}

fn of_run(run: &Run) -> String {
    let window = window(run);
    let mut parts = Vec::new();
    if let Some([start, end]) = ends(run, "hidden_norm_var") {
        let growth = if start > 0.0 { format!(", {} times", figure(end / start)) } else { String::new() };
        parts.push(format!(
            "The variance of hidden norms goes from {} to {}{growth} (medians of the first and last {window} steps).",
            figure(start),
            figure(end)
        ));
    }
    if let (Some([_, mean]), Some([_, std])) = (ends(run, "reward_mean"), ends(run, "reward_std")) {
        parts.push(format!("Rewards end at a mean of {} with a deviation of {}.", figure(mean), figure(std)));
    }
    let gap = gap_of(run, FARTHEST);
    if let Some((gap, Some(accuracy))) = gap.map(|gap| (gap, gap.accuracy)) {
        let interval = gap.ci95.map(|[lo, hi]| {
            let zero = if lo <= 0.0 && hi >= 0.0 { "which includes 0" } else { "which excludes 0" };
            format!(", 95% interval {} to {}, {zero}", share(lo), share(hi))
        });
        parts.push(format!(
            "Accuracy in-domain minus {FARTHEST}: {}{}.",
            share(accuracy),
            interval.unwrap_or_default()
        ));
    }
    parts.push(match run.alarms.len() {
        0 => "No alarm.".into(),
        1 => "One alarm.".into(),
        n => format!("{n} alarms."),
    });
    parts.join(" ")
}

/// What is seen between groups; nothing for one.
pub fn between(groups: &[RunGroup]) -> Option<String> {
    let final_of = |group: &RunGroup| group.over_seeds(|run| Some(ends(run, "hidden_norm_var")?[1]));
    let mut finals: Vec<(&RunGroup, f64, OverSeeds)> = groups
        .iter()
        .filter_map(|group| {
            let end = final_of(group);
            Some((group, end.mean()?, end))
        })
        .collect();
    finals.sort_by(|a, b| a.1.total_cmp(&b.1));
    let (Some(least), Some(most)) = (finals.first(), finals.last()) else { return None };
    if finals.len() < 2 {
        return None;
    }
    let (low, high) = (least.1, most.1);
    let factor = if low > 0.0 { format!(", {} times as much", figure(high / low)) } else { String::new() };
    let ranges = least.2.range().zip(most.2.range());
    let caution = match ranges {
        Some(([_, top], [bottom, _])) if least.0.is_several() && most.0.is_several() => {
            if top < bottom {
                "No seed of the one reaches any of the other."
            } else {
                "Their seeds overlap."
            }
        }
        _ => "Each run is one draw: a difference between two of them may be one of seeds.",
    };
    let told = |(group, _, end): &(&RunGroup, f64, OverSeeds), comma: &str| {
        let end = end.written(figure);
        // A range has parentheses of its own.
        if group.is_several() {
            format!("{}, {end}{comma}", group.name)
        } else {
            format!("{} ({end})", group.name)
        }
    };
    Some(format!(
        "At the end the variance of hidden norms is smallest in {} and largest in {}{factor}. {caution}",
        told(least, ","),
        told(most, ""),
    ))
}

/// The key figures, a row a figure and a column a group. A figure that no group has is left out.
pub fn table(groups: &[RunGroup]) -> Table {
    let fields = [
        ("preference loss", "loss_bt"),
        ("training accuracy", "accuracy"),
        ("margin", "margin_mean"),
        ("mean reward", "reward_mean"),
        ("deviation of rewards", "reward_std"),
        ("spread over heads", "head_spread_mean"),
        ("variance of hidden norms", "hidden_norm_var"),
        ("skew of hidden norms", "hidden_norm_skew"),
        ("norm of the head", "head_norm"),
        ("mean cosine", "cos_mean"),
    ];
    let row = |(name, field): (&str, &str)| {
        let cell = |group: &RunGroup| {
            let of = |end: usize| group.over_seeds(|run| ends(run, field)?.get(end).copied());
            match of(0).mean() {
                Some(start) => format!("{} → {}", figure(start), of(1).written(figure)),
                None => figure_or_nothing(None),
            }
        };
        std::iter::once(name.to_owned()).chain(groups.iter().map(cell)).collect::<Vec<_>>()
    };
    let has_figures = |row: &Vec<String>| row.iter().skip(1).any(|cell| cell != NOTHING);
    let alarms = |group: &RunGroup| match group.runs.as_slice() {
        [run] => run.alarms.len().to_string(),
        runs => {
            let with = runs.iter().filter(|run| !run.alarms.is_empty()).count();
            format!("in {with} of {} seeds", runs.len())
        }
    };
    let alarms: Vec<String> = std::iter::once("alarms".to_owned()).chain(groups.iter().map(alarms)).collect();
    Table {
        head: std::iter::once("start → end".to_owned())
            .chain(groups.iter().map(|group| group.name.clone()))
            .collect(),
        rows: fields.into_iter().map(row).filter(has_figures).chain([alarms]).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn run(lines: &[Value]) -> Run {
        let mut run = Run::named("a");
        for line in lines {
            run.steps.push(line.as_object().unwrap()).unwrap();
        }
        run
    }

    #[test]
    fn medians_of_the_ends_pass_over_gaps() {
        // Windows of two steps.
        let line = |step: u64| match step {
            2 | 19 => json!({"step": step, "loss": null}),
            step => json!({"step": step, "loss": step}),
        };
        let gaps = run(&(1..=20).map(line).collect::<Vec<_>>());
        assert_eq!(ends(&gaps, "loss"), Some([1.0, 20.0]));
        let late = run(&[json!({"step": 1, "loss": null}), json!({"step": 2, "loss": 5})]);
        assert_eq!(ends(&late, "loss"), None, "a window without a value");
        assert_eq!(ends(&late, "margin_mean"), None);
    }

    #[test]
    fn a_figure_that_no_group_has_is_no_row() {
        let plain = run(&[json!({"step": 1, "loss_bt": 0.5})]);
        let ensemble = run(&[json!({"step": 1, "loss_bt": 0.5, "head_spread_mean": 0.25})]);
        let rows = |runs: Vec<Run>| table(&RunGroup::each(runs)).rows;
        let names = |rows: &[Vec<String>]| rows.iter().map(|row| row[0].clone()).collect::<Vec<_>>();
        let alone = rows(vec![run(&[json!({"step": 1, "loss_bt": 0.5})])]);
        assert_eq!(names(&alone), ["preference loss", "alarms"]);
        let both = rows(vec![plain, ensemble]);
        assert_eq!(names(&both), ["preference loss", "spread over heads", "alarms"]);
        assert_eq!(both[1][1..], [NOTHING.to_owned(), "0.250 → 0.250".into()]);
    }
}
