//! The eval report as a table for people.

use super::report::{EvalReport, Metric, SplitReport};

const HEADER: [&str; 10] =
    ["split", "rows", "metric", "value", "95% interval", "ties", "longest", "shortest", "|h| var", "reward"];

/// A table of fixed-width columns, one line a split, then what was skipped or changed and why.
pub fn table(report: &EvalReport) -> String {
    let mut lines = vec![HEADER.map(String::from)];
    lines.extend(report.splits.0.iter().map(|(name, split)| line(name, split)));
    let width = |column: usize| lines.iter().map(|l| l[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..HEADER.len()).map(width).collect();

    let mut text = String::new();
    for cells in &lines {
        let padded: Vec<String> = cells
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(column, (cell, &width))| match column {
                // Words to the left, figures to the right.
                0 | 2 | 4 => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            })
            .collect();
        text.push_str(padded.join("  ").trim_end());
        text.push('\n');
    }
    for (name, split) in &report.splits.0 {
        for note in notes(split) {
            text.push_str(&format!("{name}: {note}\n"));
        }
    }
    text
}

fn line(name: &str, split: &SplitReport) -> [String; 10] {
    let metric = match split.metric {
        Metric::Accuracy => "accuracy",
        Metric::KendallTau => "tau-b",
    };
    let reward = match (split.reward_mean, split.reward_std) {
        (Some(mean), Some(std)) => format!("{mean:.3} ± {std:.3}"),
        _ => "-".into(),
    };
    [
        name.to_owned(),
        split.rows.to_string(),
        metric.to_owned(),
        figure(split.value()),
        split.ci95().map_or("-".into(), |[lo, hi]| format!("[{lo:.4}, {hi:.4}]")),
        split.ties.to_string(),
        figure(split.longest_wins),
        figure(split.shortest_wins),
        split.hidden_norm_var.map_or("-".into(), variance),
        reward,
    ]
}

/// Norm variances run from rounding noise to an explosion.
fn variance(value: f64) -> String {
    match value.abs() {
        v if v == 0.0 || (1e-3..1e5).contains(&v) => format!("{value:.4}"),
        _ => format!("{value:.2e}"),
    }
}

fn figure(value: Option<f64>) -> String {
    value.map_or("-".into(), |v| format!("{v:.4}"))
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
    if let Some(spread) = split.head_spread_mean {
        notes.push(format!("rewards spread by {spread:.4} over the heads, on average"));
    }
    let undefined = split.rows - split.kendall_tau_rows.min(split.rows);
    if split.metric == Metric::KendallTau && undefined > 0 {
        notes.push(format!("{} with equal rewards only, where tau-b is undefined", rows(undefined)));
    }
    notes
}

fn rows(n: u64) -> String {
    if n == 1 { "1 row".into() } else { format!("{n} rows") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::report::Splits;
    use crate::eval::report::tests::pairs;

    #[test]
    fn columns_line_up_and_undefined_figures_are_dashes() {
        let empty = SplitReport {
            rows: 0,
            metric: Metric::KendallTau,
            accuracy: None,
            accuracy_ci95: None,
            longest_wins: None,
            shortest_wins: None,
            hidden_norm_var: None,
            reward_mean: None,
            reward_std: None,
            skipped: Default::default(),
            ..pairs()
        };
        let splits = Splits(vec![("in-domain".into(), pairs()), ("mutual-disjoint".into(), empty)]);
        let text = table(&EvalReport { model: "m".into(), reduce: None, splits });
        let expected = "\
split            rows  metric     value  95% interval      ties  longest  shortest  |h| var          reward
in-domain           4  accuracy  0.7500  [0.2500, 1.0000]     1   0.5000    0.2500   1.5000  -0.125 ± 2.000
mutual-disjoint     0  tau-b          -  -                    1        -         -        -               -
in-domain: 2 rows skipped (overlong 2)
";
        assert_eq!(text, expected);
    }
}
