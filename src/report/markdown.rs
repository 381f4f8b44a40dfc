//! The tables that a document needs, as GitHub Markdown.

use super::figure::Table;
use super::number::{NOTHING, figure, share};
use super::page::configuration_table;
use super::scenarios::{gap_of, noun, set_names, set_of, sources};
use super::sets::{Interval, SetFigures};
use super::summary::{FARTHEST, alarms_by_rule, ends, growth};
use super::{Run, RunGroup};
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// Three tables, each with its definitions in a line below: scenarios, diagnostics at the end of training, and what
/// differs in the configurations. A table without rows is left out.
pub fn render(groups: &[RunGroup]) -> String {
    let mut out = String::new();
    let spread = if groups.iter().all(RunGroup::is_several) {
        "Cells: mean over seeds (least–largest)."
    } else if groups.iter().any(RunGroup::is_several) {
        "Cells: mean over seeds (least–largest); of one run its figure [95% interval]."
    } else {
        "Cells: a run's figure [95% interval]."
    };
    let scenarios = scenarios(groups);
    if scenarios.head.len() > 2 {
        let definitions = format!(
            "Accuracy: share of response pairs ranked rightly. tau-b: mean of Kendall's tau-b within a prompt. {spread} {}",
            escaped(&sources(groups))
        );
        section(&mut out, "Scenarios", &scenarios, &definitions);
    }
    let definitions = format!(
        "First and last: medians over the first and last tenth of the steps (a hundred at most); all other figures of \
         training are of the last. Growth: last by first. Gap: in-domain minus {FARTHEST}, both as pairwise accuracy. \
         Alarms: runs in which the rule raised one. {spread}"
    );
    section(&mut out, "Diagnostics at the end of training", &diagnostics(groups), &definitions);
    let differences = configuration_table(groups);
    if !differences.rows.is_empty() && groups.len() > 1 {
        section(
            &mut out,
            "Configuration differences",
            &differences,
            "Keys that are not the same in all of them.",
        );
    }
    out
}

/// The figures of the sets, a row a group and a column a set.
fn scenarios(groups: &[RunGroup]) -> Table {
    let runs = || groups.iter().flat_map(|group| &group.runs);
    let sets: Vec<(String, bool)> = set_names(groups)
        .into_iter()
        .map(|set| {
            let is_tau = runs().filter_map(|run| set_of(run, &set)).any(is_by_tau);
            (set, is_tau)
        })
        .collect();
    let row = |group: &RunGroup| {
        let cells = sets.iter().map(|(set, is_tau)| {
            let of = |run: &Run| {
                let figures = set_of(run, set)?;
                Some(if *is_tau {
                    (figures.kendall_tau, figures.kendall_tau_ci95)
                } else {
                    (figures.accuracy, figures.accuracy_ci95)
                })
            };
            cell(group, of)
        });
        [group.name.clone(), group.runs.len().to_string()].into_iter().chain(cells).collect()
    };
    let heads =
        sets.iter().map(|(set, is_tau)| format!("{set} ({})", if *is_tau { "tau-b" } else { "accuracy" }));
    Table {
        head: [noun(groups), "seeds"].map(String::from).into_iter().chain(heads).collect(),
        rows: groups.iter().map(row).collect(),
    }
}

/// Whether tau is the set's own figure.
fn is_by_tau(figures: &SetFigures) -> bool {
    match figures.metric.as_deref() {
        Some(metric) => metric == "kendall_tau",
        None => figures.accuracy.is_none() && figures.kendall_tau.is_some(),
    }
}

/// Mean and range over seeds; of a run alone its figure and interval.
fn cell(group: &RunGroup, of: impl Fn(&Run) -> Option<(Option<f64>, Option<Interval>)>) -> String {
    let value = group.over_seeds(|run| of(run)?.0).written(share);
    let interval = match group.runs.as_slice() {
        [run] => of(run).and_then(|(value, interval)| value.and(interval)),
        _ => None,
    };
    let interval = interval.map(|[lo, hi]| format!(" [{}, {}]", share(lo), share(hi)));
    value + &interval.unwrap_or_default()
}

/// The figures of the diagnosis, a row a figure and a column a group.
fn diagnostics(groups: &[RunGroup]) -> Table {
    type Of = fn(&Run) -> Option<f64>;
    type Write = fn(f64) -> String;
    fn end(run: &Run, field: &str) -> Option<f64> {
        ends(run, field).map(|[_, end]| end)
    }
    let figures: [(&str, Of, Write); 9] = [
        ("hidden-norm variance, first", |run| ends(run, "hidden_norm_var").map(|[start, _]| start), figure),
        ("hidden-norm variance, last", |run| end(run, "hidden_norm_var"), figure),
        ("growth", |run| growth(run, "hidden_norm_var"), figure),
        ("hidden-norm skew", |run| end(run, "hidden_norm_skew"), figure),
        ("reward mean", |run| end(run, "reward_mean"), figure),
        ("reward std", |run| end(run, "reward_std"), figure),
        ("spread over heads", |run| end(run, "head_spread_mean"), figure),
        ("|W_p|", |run| end(run, "head_norm"), figure),
        ("train accuracy", |run| end(run, "accuracy"), share),
    ];
    let row = |name: &str, of: &dyn Fn(&RunGroup) -> String| {
        std::iter::once(name.to_owned()).chain(groups.iter().map(of)).collect::<Vec<_>>()
    };
    let mut rows: Vec<Vec<String>> = vec![row("seeds", &|group| group.runs.len().to_string())];
    rows.extend(figures.map(|(name, of, write)| row(name, &|group| group.over_seeds(of).written(write))));
    rows.push(row("gap", &|group| {
        cell(group, |run| gap_of(run, FARTHEST).map(|gap| (gap.accuracy, gap.ci95)))
    }));
    let rules: BTreeSet<&str> = groups.iter().flat_map(|group| alarms_by_rule(group).into_keys()).collect();
    for rule in &rules {
        rows.push(row(&format!("alarms: {rule}"), &|group| {
            let raised = alarms_by_rule(group).get(rule).copied().unwrap_or(0);
            format!("{raised} of {}", group.runs.len())
        }));
    }
    if rules.is_empty() {
        rows.push(row("alarms", &|_| "none".into()));
    }
    rows.retain(|row| row.iter().skip(1).any(|cell| cell != NOTHING));
    let names = groups.iter().map(|group| group.name.clone());
    Table { head: std::iter::once("figure".to_owned()).chain(names).collect(), rows }
}

fn section(out: &mut String, title: &str, table: &Table, definitions: &str) {
    if !out.is_empty() {
        out.push('\n');
    }
    let _ = writeln!(out, "### {title}\n");
    row(out, &table.head);
    let columns: Vec<String> =
        (0..table.head.len()).map(|column| if column == 0 { ":--" } else { "--:" }.to_owned()).collect();
    let _ = writeln!(out, "| {} |", columns.join(" | "));
    table.rows.iter().for_each(|cells| row(out, cells));
    let _ = writeln!(out, "\n{definitions}");
}

fn row(out: &mut String, cells: &[String]) {
    let cells: Vec<String> = cells.iter().map(|cell| escaped(cell)).collect();
    let _ = writeln!(out, "| {} |", cells.join(" | "));
}

/// Text that is no markup in a table's cell.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    let mut before = ' ';
    while let Some(character) = characters.next() {
        let after = characters.peek().copied().unwrap_or(' ');
        match character {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            // Within a word it is itself.
            '_' if before.is_alphanumeric() && after.is_alphanumeric() => out.push('_'),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '~' | '$' | '#' => {
                out.push('\\');
                out.push(character);
            }
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
        before = character;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_hold_no_markup() {
        assert_eq!(
            escaped("a|b\n<img> `*x*` [l](u) _i_ max_grad \\ $m$ &amp;"),
            "a\\|b &lt;img&gt; \\`\\*x\\*\\` \\[l\\](u) \\_i\\_ max_grad \\\\ \\$m\\$ &amp;amp;"
        );
        let mut out = String::new();
        let table = Table { head: vec!["a".into(), "b".into()], rows: vec![vec!["|".into(), "1".into()]] };
        section(&mut out, "T", &table, "D.");
        assert_eq!(out, "### T\n\n| a | b |\n| :-- | --: |\n| \\| | 1 |\n\nD.\n");
    }
}
