//! What is seen, in words and in one table, computed from the figures and no further than they go.

use super::Run;
use super::figure::Table;
use super::number::{figure, figure_or_nothing, median, share};
use super::scenarios::gap_of;

/// The set whose gap is told: both prompts and models are new.
const FARTHEST: &str = "mutual-disjoint";

/// Steps that the beginning and the end of a run are judged by: a tenth, a hundred at most.
fn window(run: &Run) -> usize {
    run.steps.numbers().len().div_ceil(10).min(100)
}

/// Medians of a field over the first and the last window.
fn ends(run: &Run, field: &str) -> Option<[f64; 2]> {
    let column = run.steps.column(field)?;
    let window = window(run);
    Some([median(&column[..window])?, median(&column[column.len() - window..])?])
}

/// Whether a run is at its end.
pub fn status(run: &Run) -> String {
    let last = run.steps.numbers().last().copied().unwrap_or(0);
    let steps = if last == 1 { "step" } else { "steps" };
    let state = if run.finished { "finished" } else { "not finished" };
    format!("{} {steps}, {state}", crate::base::figures::grouped(last))
}

/// What is seen of a run.
pub fn sentence(run: &Run) -> String {
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

/// What is seen between runs; nothing for one.
pub fn between(runs: &[Run]) -> Option<String> {
    let mut finals: Vec<(&str, f64)> =
        runs.iter().filter_map(|run| Some((run.name.as_str(), ends(run, "hidden_norm_var")?[1]))).collect();
    finals.sort_by(|a, b| a.1.total_cmp(&b.1));
    let (Some((least, low)), Some((most, high))) = (finals.first(), finals.last()) else { return None };
    if finals.len() < 2 {
        return None;
    }
    let factor = if *low > 0.0 { format!(", {} times as much", figure(high / low)) } else { String::new() };
    Some(format!(
        "At the end the variance of hidden norms is smallest in {least} ({}) and largest in {most} ({}){factor}. \
         Each run is one draw: a difference between two of them may be one of seeds.",
        figure(*low),
        figure(*high)
    ))
}

/// The key figures, a row a figure and a column a run.
pub fn table(runs: &[Run]) -> Table {
    let fields = [
        ("preference loss", "loss_bt"),
        ("training accuracy", "accuracy"),
        ("margin", "margin_mean"),
        ("mean reward", "reward_mean"),
        ("deviation of rewards", "reward_std"),
        ("variance of hidden norms", "hidden_norm_var"),
        ("skew of hidden norms", "hidden_norm_skew"),
        ("norm of the head", "head_norm"),
        ("mean cosine", "cos_mean"),
    ];
    let row = |(name, field): (&str, &str)| {
        let cell = |run: &Run| match ends(run, field) {
            Some([start, end]) => format!("{} → {}", figure(start), figure(end)),
            None => figure_or_nothing(None),
        };
        std::iter::once(name.to_owned()).chain(runs.iter().map(cell)).collect::<Vec<_>>()
    };
    let alarms =
        std::iter::once("alarms".to_owned()).chain(runs.iter().map(|run| run.alarms.len().to_string()));
    Table {
        head: std::iter::once("start → end".to_owned())
            .chain(runs.iter().map(|run| run.name.clone()))
            .collect(),
        rows: fields.into_iter().map(row).chain([alarms.collect()]).collect(),
    }
}
