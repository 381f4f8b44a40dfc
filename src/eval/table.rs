//! The eval report as tables for people, at most 80 columns wide for names as long as the scenarios'.

use super::compare::{Comparison, SplitComparison};
use super::report::{EvalReport, Metric, SplitReport};
use crate::base::reader::Words;

/// Longest name that is shown whole.
const NAME: usize = 24;

/// What the splits say, a block of lines for each question: agreement with the gold order, the gap to in-domain,
/// calibration, length, hidden states and rewards, groups, another model; then what was skipped or changed and why.
pub fn table(report: &EvalReport) -> String {
    let splits = &report.splits.0;
    let lines = |of: fn(&SplitReport) -> Option<Vec<String>>| -> Vec<Line> {
        splits.iter().filter_map(|(name, split)| Some(Line::new(name, of(split)?))).collect()
    };
    let mut text = block(
        &["split", "rows", "metric", "value", "95% interval", "accuracy", "longest"],
        lines(|split| Some(agreement(split))),
    );
    let gaps = report.gaps.0.iter().map(|(name, gap)| {
        let verdict = match gap.ci95 {
            [lo, _] if lo > 0.0 => "worse",
            [_, hi] if hi < 0.0 => "better",
            _ => "no clear difference",
        };
        Line::new(name, vec![signed(gap.accuracy), interval(Some(gap.ci95)), verdict.into()])
    });
    text += &block(&["in-domain minus", "accuracy", "95% interval", "than in-domain"], gaps.collect());
    text += &block(&["calibration", "ECE", "Brier", "NLL", "temperature"], lines(calibration));
    text +=
        &block(&["length", "shortest", "controlled", "95% interval", "per 2x", "markdown"], lines(length));
    text += &block(&["|h|", "mean", "var", "skew", "max", "rank"], lines(hidden));
    text += &block(&["reward", "mean", "std", "min", "5%", "median", "95%", "max"], lines(rewards));
    for (name, split) in splits {
        for (by, groups) in &split.by {
            let lines = groups.iter().map(|(group, figures)| {
                let cells = vec![
                    figures.rows.to_string(),
                    figure(Some(figures.accuracy)),
                    interval(Some(figures.accuracy_ci95)),
                    figure(figures.kendall_tau),
                    figure(figures.gold_win_rate),
                    figure(figures.reward_win_rate),
                ];
                Line::new(group, cells)
            });
            let title = format!("{} by {}", shortened(name), by.word());
            let header = [title.as_str(), "rows", "accuracy", "95% interval", "tau-b", "wins", "by reward"];
            text += &block(&header, lines.collect());
        }
    }
    if let Some(comparison) = &report.comparison {
        text += &compared(comparison);
    }
    let notes: Vec<String> = splits
        .iter()
        .flat_map(|(name, split)| notes(split).into_iter().map(move |note| format!("{name}: {note}\n")))
        .collect();
    if !notes.is_empty() {
        text.push('\n');
    }
    text + &notes.concat()
}

struct Line(Vec<String>);

impl Line {
    fn new(name: &str, cells: Vec<String>) -> Self {
        Self(std::iter::once(shortened(name)).chain(cells).collect())
    }
}

/// Columns as wide as they must be; the first and those of words to the left, figures to the right. A column without
/// any figure is left out, and so is a block without lines.
fn block(header: &[&str], lines: Vec<Line>) -> String {
    if lines.is_empty() {
        return String::new();
    }
    let shown = |column: usize| column == 0 || lines.iter().any(|line| line.0[column] != "-");
    let columns: Vec<usize> = (0..header.len()).filter(|&column| shown(column)).collect();
    let header = Line(header.iter().map(|&cell| cell.to_owned()).collect());
    let all = || std::iter::once(&header).chain(&lines);
    let mut text = String::from("\n");
    for line in all() {
        let cells = columns.iter().map(|&column| {
            let width = all().map(|line| line.0[column].chars().count()).max().unwrap_or(0);
            let cell = &line.0[column];
            let words = column == 0
                || matches!(header.0[column].as_str(), "metric" | "95% interval" | "than in-domain");
            if words { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn agreement(split: &SplitReport) -> Vec<String> {
    vec![
        split.rows.to_string(),
        metric(split.metric).into(),
        figure(split.value()),
        interval(split.ci95()),
        figure(split.accuracy),
        figure(split.longest_wins),
    ]
}

fn calibration(split: &SplitReport) -> Option<Vec<String>> {
    let found = split.calibration?;
    let [ece, brier, nll] = [found.ece, found.brier, found.nll].map(|value| figure(Some(value)));
    Some(vec![ece, brier, nll, found.temperature.map_or("-".into(), compact)])
}

fn length(split: &SplitReport) -> Option<Vec<String>> {
    let found = split.length?;
    Some(vec![
        figure(split.shortest_wins),
        figure(found.controlled_accuracy),
        interval(found.controlled_accuracy_ci95),
        found.reward_slope.map_or("-".into(), signed),
        found.markdown_effect.map_or("-".into(), signed),
    ])
}

fn hidden(split: &SplitReport) -> Option<Vec<String>> {
    let found = split.hidden?;
    Some(vec![
        compact(found.norm_mean),
        compact(found.norm_var),
        format!("{:+.2}", found.norm_skew),
        compact(found.norm_max),
        found.effective_rank.map_or("-".into(), |rank| format!("{rank:.2}")),
    ])
}

fn rewards(split: &SplitReport) -> Option<Vec<String>> {
    let (found, mean, std) = (split.rewards.as_ref()?, split.reward_mean?, split.reward_std?);
    let [_, _, low, _, median, _, high, _, _] = found.quantiles;
    Some([mean, std, found.min, low, median, high, found.max].map(compact).into())
}

fn compared(comparison: &Comparison) -> String {
    let line = |(name, split): &(String, SplitComparison)| {
        let probability = |p: f64| if p < 1e-4 { format!("{p:.0e}") } else { format!("{p:.4}") };
        let cells = vec![
            figure(split.value),
            figure(split.other),
            split.difference.map_or("-".into(), signed),
            split.ci95.map_or("-".into(), |[lo, hi]| format!("[{lo:+.4}, {hi:+.4}]")),
            split.p_bootstrap.map_or("-".into(), probability),
            split.mcnemar.map_or("-".into(), |test| probability(test.p)),
        ];
        Line::new(name, cells)
    };
    let lines = comparison.splits.0.iter().map(line).collect();
    let mut text = format!("\ncompared with {}, row by row:", comparison.model);
    text += &block(&["split", "this", "other", "diff", "95% interval", "p", "McNemar"], lines);
    for (name, split) in comparison.splits.0.iter().filter(|(_, split)| split.left_out > 0) {
        text += &format!("{name}: {} with a figure for one model only\n", rows(split.left_out));
    }
    text
}

fn metric(metric: Metric) -> &'static str {
    match metric {
        Metric::Accuracy => "accuracy",
        Metric::KendallTau => "tau-b",
    }
}

fn shortened(name: &str) -> String {
    if name.chars().count() <= NAME {
        return name.to_owned();
    }
    name.chars().take(NAME - 1).chain(['…']).collect()
}

fn figure(value: Option<f64>) -> String {
    value.map_or("-".into(), |v| format!("{v:.4}"))
}

fn signed(value: f64) -> String {
    format!("{value:+.4}")
}

fn interval(ci95: Option<[f64; 2]>) -> String {
    ci95.map_or("-".into(), |[lo, hi]| format!("[{lo:.4}, {hi:.4}]"))
}

/// Norms and rewards run from rounding noise to an explosion: four digits or so of either.
fn compact(value: f64) -> String {
    match value.abs() {
        v if v == 0.0 || (1e-2..1e2).contains(&v) => format!("{value:.3}"),
        v if (1e2..1e5).contains(&v) => format!("{value:.1}"),
        _ => format!("{value:.1e}"),
    }
}

fn notes(split: &SplitReport) -> Vec<String> {
    let mut notes = Vec::new();
    let skipped: u64 = split.skipped.values().sum();
    if skipped > 0 {
        let reasons: Vec<String> = split.skipped.iter().map(|(reason, n)| format!("{reason} {n}")).collect();
        notes.push(format!("{} skipped ({})", rows(skipped), reasons.join(", ")));
    }
    if split.truncated > 0 {
        notes.push(format!("{} with a prompt shortened from the left", rows(split.truncated)));
    }
    if split.responses_without_gold > 0 {
        notes.push(format!("{} responses without a gold score left out", split.responses_without_gold));
    }
    if split.ties > 0 {
        notes.push(format!("{} with equal rewards, counted as wrong", pairs(split.ties)));
    }
    if let Some(spread) = split.head_spread_mean {
        notes.push(format!("rewards spread by {spread:.4} over the heads, on average"));
    }
    let undefined = split.rows - split.kendall_tau_rows.min(split.rows);
    if split.metric == Metric::KendallTau && undefined > 0 {
        notes.push(format!("{} with equal rewards only, where tau-b is undefined", rows(undefined)));
    }
    if let Some(check) = split.antisymmetry.filter(|check| check.max_difference > suspicious(split)) {
        notes.push(format!(
            "warning: a reward changed by {:.2e} when chosen and rejected were computed in the opposite order",
            check.max_difference
        ));
    }
    notes
}

/// A change of a reward that rounding does not explain, in bf16 neither: 2% of the rewards' size.
fn suspicious(split: &SplitReport) -> f64 {
    let size = split.reward_std.zip(split.reward_mean).map(|(std, mean)| std.max(mean.abs()));
    size.map_or(f64::INFINITY, |size| 0.02 * size)
}

fn pairs(n: u64) -> String {
    if n == 1 { "1 pair".into() } else { format!("{n} pairs") }
}

fn rows(n: u64) -> String {
    if n == 1 { "1 row".into() } else { format!("{n} rows") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Origin, RowKind};
    use crate::eval::test_support::judged_row;
    use crate::eval::{By, Evaluation, JudgedRow, Named, compare};

    /// Three of four pairs are right, one of them by the shorter response; one is a tie.
    fn pairs() -> Evaluation {
        let points = [(2.0, 9), (3.0, 5), (1.0, 9), (-1.0, 9)];
        let row = |(line, &(reward, length)): (u64, &(f64, usize))| {
            let row = judged_row(RowKind::Pair, &[(1.0, reward, length), (0.0, -1.0, 7)]);
            JudgedRow { markdown: vec![1, 0], origin: Origin { line, ..row.origin }, ..row }
        };
        Evaluation { rows: (1..).zip(&points).map(row).collect(), ..Evaluation::default() }
    }

    fn report(by: &[By]) -> EvalReport {
        let evaluation = pairs();
        let splits = ["in-domain", "response-disjoint", "a-name-that-no-terminal-has-room-for"];
        let splits = splits.map(|name| (name.to_owned(), evaluation.report(by)));
        EvalReport::new("m".into(), None, Named(splits.into()))
    }

    #[test]
    fn blocks_answer_one_question_each() {
        let text = table(&report(&[]));
        let first = "
split                     rows  metric     value  95% interval      accuracy  longest
in-domain                    4  accuracy  0.7500  [0.3006, 0.9544]    0.7500   0.7500
";
        assert!(text.starts_with(first), "{text}");
        let titles: Vec<&str> = text
            .lines()
            .collect::<Vec<_>>()
            .windows(2)
            .filter(|two| two[0].is_empty())
            .map(|two| &two[1][..6])
            .collect();
        assert_eq!(titles, ["split ", "in-dom", "calibr", "length", "|h|   ", "reward", "in-dom"]);
        assert!(text.contains("a-name-that-no-terminal…"), "{text}");
        assert!(text.contains("no clear difference"), "{text}");
        assert!(text.ends_with("in-domain: 1 pair with equal rewards, counted as wrong\nresponse-disjoint: 1 pair with equal rewards, counted as wrong\na-name-that-no-terminal-has-room-for: 1 pair with equal rewards, counted as wrong\n"), "{text}");
        assert!(
            !text.contains("rank") && !text.contains("McNemar"),
            "a column without figures is left out: {text}"
        );
    }

    #[test]
    fn the_scenarios_fit_eighty_columns() {
        let mut report = report(&[By::Model, By::Source]);
        report.splits.0.truncate(2);
        let same = compare(&pairs(), &pairs());
        let splits = Named(vec![("response-disjoint".into(), same)]);
        report.comparison = Some(Comparison { model: "other".into(), reduce: None, splits });
        let text = table(&report);
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
        assert!(text.contains("response-disjoint by source"), "{text}");
        assert!(text.contains("response-disjoint  0.7500  0.7500  +0.0000"), "{text}");
        assert!(text.contains("1.0000   1.0000"), "both p-values: {text}");
    }

    #[test]
    fn an_empty_split_has_dashes_and_no_blocks() {
        let empty = Evaluation::default().report(&[]);
        let text = table(&EvalReport::new("m".into(), None, Named(vec![("empty".into(), empty)])));
        assert_eq!(text, "\nsplit  rows  metric\nempty     0  accuracy\n");
    }

    #[test]
    fn a_reward_that_depends_on_the_order_is_told() {
        let mut evaluation = pairs();
        evaluation.rows[0].recomputed = Some(vec![2.0, -0.5]);
        let text =
            table(&EvalReport::new("m".into(), None, Named(vec![("s".into(), evaluation.report(&[]))])));
        assert!(text.contains("s: warning: a reward changed by 5.00e-1"), "{text}");
    }
}
