//! A benchmark's report for people.

use super::Rule;
use super::report::{BenchReport, Figure};
use crate::base::reader::Words;

/// A table of fixed-width columns: the total, its parts, sections and groups, then what is missing or was left out.
pub fn bench_table(name: &str, report: &BenchReport) -> String {
    let mut lines =
        vec![["benchmark", "rows", "value", "95% interval", "ties", "longest", "shortest"].map(String::from)];
    let plain = |label: String, figure: &Figure| {
        [
            label,
            String::new(),
            number(figure.value),
            interval(figure),
            String::new(),
            String::new(),
            String::new(),
        ]
    };
    lines.push([
        name.to_owned(),
        report.rows.to_string(),
        number(report.total.value),
        interval(&report.total),
        report.ties.to_string(),
        number(report.longest_wins),
        number(report.shortest_wins),
    ]);
    lines.extend(report.parts.0.iter().map(|(part, figure)| plain(format!("  {part}"), figure)));
    lines.extend(report.sections.0.iter().map(|(section, figure)| plain(format!("  {section}"), figure)));
    lines.extend(report.groups.0.iter().map(|(group, figures)| {
        [
            format!("  {group}"),
            figures.rows.to_string(),
            number(figures.figure.value),
            interval(&figures.figure),
            figures.ties.to_string(),
            number(figures.longest_wins),
            number(figures.shortest_wins),
        ]
    }));
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..lines[0].len()).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let padded: Vec<String> = line
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(column, (cell, &width))| match column {
                0 | 3 => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            })
            .collect();
        text.push_str(padded.join("  ").trim_end());
        text.push('\n');
    }
    notes(name, report, &mut text);
    text
}

fn notes(name: &str, report: &BenchReport, text: &mut String) {
    let mut note = |what: String| text.push_str(&format!("{name}: {what}\n"));
    if !report.missing.is_empty() {
        let total = if report.total.value.is_some() { "; the total is without them" } else { "" };
        note(format!("no figure for {}{total}", report.missing.join(", ")));
    }
    for (group, figures) in report.groups.0.iter().filter(|(_, figures)| figures.undefined > 0) {
        let why = if figures.rule == Rule::KendallTau.word() {
            "where tau-b is undefined"
        } else {
            "whose gold scores are all equal"
        };
        note(format!("{} rows of {group} {why} are left out", figures.undefined));
    }
    for (count, what) in [
        (report.failed, "rows could not be read or scored and are left out"),
        (report.overlong, "rows are too long and are left out"),
        (report.truncated, "rows with a prompt shortened from the left"),
    ] {
        if count > 0 {
            note(format!("{count} {what}"));
        }
    }
}

fn number(value: Option<f64>) -> String {
    value.map_or("-".into(), |value| format!("{value:.4}"))
}

fn interval(figure: &Figure) -> String {
    figure.ci95.map_or("-".into(), |[lo, hi]| format!("[{lo:.4}, {hi:.4}]"))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{report_by, report_of};
    use super::*;

    #[test]
    fn columns_are_aligned_and_what_is_left_out_is_noted() {
        let rows = ["hep-go", "hep-go", "hep-cpp"]
            .map(|subset| format!(r#"{{"subset": "{subset}", "score_chosen": 1, "score_rejected": 1}}"#));
        let mut report = report_of("reward-bench", &rows.join("\n"));
        (report.failed, report.overlong) = (2, 1);
        let text = bench_table("reward-bench", &report);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("benchmark") && lines[0].ends_with("ties  longest  shortest"), "{text}");
        assert!(lines[1].starts_with("reward-bench     3  0.0000  "), "{text}");
        assert_eq!(lines[2].split_whitespace().next(), Some("Reasoning"), "{text}");
        let group: Vec<&str> =
            lines.iter().find(|line| line.starts_with("  hep-go")).unwrap().split_whitespace().collect();
        assert_eq!(
            (group[1], group[2], group[group.len() - 3..].concat()),
            ("2", "0.0000", "2--".into()),
            "{text}"
        );
        let notes = &lines[lines.len() - 3..];
        assert!(
            notes[0].starts_with("reward-bench: no figure for Chat, Chat Hard, Safety, Prior Sets, math-prm")
                && notes[0].ends_with("; the total is without them"),
            "{text}"
        );
        assert_eq!(notes[1], "reward-bench: 2 rows could not be read or scored and are left out");
        assert_eq!(notes[2], "reward-bench: 1 rows are too long and are left out");
    }

    #[test]
    fn rows_without_a_value_are_noted_by_their_group() {
        let row = |scores: &str| {
            format!(
                r#"{{"prompt": "p", "responses": ["a", "b"], "input_scores": [2, 1], "scores": {scores}}}"#
            )
        };
        let tau = [row("[2, 1]"), row("[1, 1]"), row("[0, 0]")].join("\n");
        let text = bench_table("own", &report_by("rule = \"kendall-tau\"\n", &tau));
        assert_eq!(
            text.lines().last(),
            Some("own: 2 rows of all where tau-b is undefined are left out"),
            "{text}"
        );
        assert!(text.lines().nth(1).unwrap().starts_with("own           3  1.0000"), "{text}");

        let pair = r#"{"prompt": "p", "responses": ["a", "b"], "input_scores": [1, 1], "scores": [2, 1]}"#;
        let text = bench_table("own", &report_by("rule = \"pairs\"\n", pair));
        let notes: Vec<&str> = text.lines().skip(3).collect();
        let expected =
            ["own: no figure for all", "own: 1 rows of all whose gold scores are all equal are left out"];
        assert_eq!(notes, expected, "{text}");
    }
}
