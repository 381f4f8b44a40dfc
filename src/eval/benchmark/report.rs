//! A benchmark's figures, with intervals, and what choosing by length alone would reach.

use super::totals::{Present, row_weights, section_weights, total_weights};
use super::{Collected, GroupRows, Manifest, Outcome, Row, Rule};
use crate::eval::Named;
use crate::eval::bootstrap::{RowValues, mean, weighted_means};
use serde::Serialize;

/// A figure and its 95% interval, null where it is undefined.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Figure {
    pub value: Option<f64>,
    pub ci95: Option<[f64; 2]>,
}

impl Figure {
    /// The weighted sum of the means of several sets of rows, which are resampled each on its own.
    fn of(terms: &[(f64, RowValues<'_>)]) -> Self {
        let terms: Vec<_> = terms.iter().filter(|(weight, _)| *weight > 0.0).copied().collect();
        let estimate = weighted_means(&terms);
        Self { value: estimate.map(|found| found.value), ci95: estimate.map(|found| found.ci95) }
    }
}

/// The figures of one group.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GroupReport {
    /// Rows that were judged; the figures are over those that have a value, all but `undefined`.
    pub rows: u64,
    /// The rule's word in a manifest.
    pub rule: String,
    #[serde(flatten)]
    pub figure: Figure,
    /// Comparisons between equal scores; how they count is the rule's affair.
    pub ties: u64,
    /// Rows of `rows` for which the rule has no value: tau-b of a constant, say. They are left out of the figures.
    #[serde(skip_serializing_if = "is_zero")]
    pub undefined: u64,
    /// What the rule gives to whoever scores a response by its length.
    pub longest_wins: Option<f64>,
    /// What the rule gives to whoever scores a response by its brevity.
    pub shortest_wins: Option<f64>,
    #[serde(skip_serializing_if = "Named::is_empty")]
    pub parts: Named<Figure>,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// The figures of one benchmark.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BenchReport {
    /// Rows that were judged, those included that have no value (`undefined`, group by group).
    pub rows: u64,
    /// Null where the benchmark has no total.
    pub total: Figure,
    /// The mean over all rows, where one rule judges them all.
    pub row_mean: Figure,
    pub ties: u64,
    pub longest_wins: Option<f64>,
    pub shortest_wins: Option<f64>,
    /// What the rule tells apart in every row, averaged as the total is.
    #[serde(skip_serializing_if = "Named::is_empty")]
    pub parts: Named<Figure>,
    #[serde(skip_serializing_if = "Named::is_empty")]
    pub sections: Named<Figure>,
    pub groups: Named<GroupReport>,
    /// What has no figure, because there are no rows of it or none has a value: sections, and the groups of those that
    /// have some. The total is without them.
    pub missing: Vec<String>,
    pub sequences: u64,
    pub tokens: u64,
    pub failed: u64,
    pub overlong: u64,
    pub truncated: u64,
}

/// A group with its rows judged.
struct Judged {
    name: String,
    rule: Rule,
    rows: u64,
    outcome: Outcome,
    /// Means for the two length-only baselines.
    by_length: [Option<f64>; 2],
}

impl Judged {
    fn of(group: GroupRows, has_lengths: bool) -> Self {
        let baseline = |sign: f64| {
            let by_length = |row: &Row| {
                let mut row = row.clone();
                row.responses.iter_mut().for_each(|r| r.reward = sign * r.length as f64);
                row
            };
            let rows: Vec<Row> = group.rows.iter().map(by_length).collect();
            let values = group.rule.judge(&rows).values;
            mean(&values)
        };
        let by_length = if has_lengths { [baseline(1.0), baseline(-1.0)] } else { [None, None] };
        let outcome = group.rule.judge(&group.rows);
        Self { name: group.name, rule: group.rule, rows: group.rows.len() as u64, outcome, by_length }
    }

    fn values(&self) -> RowValues<'_> {
        RowValues { values: &self.outcome.values, range: self.rule.range() }
    }

    fn has_figure(&self) -> bool {
        !self.outcome.values.is_empty()
    }

    fn part(&self, name: &str) -> Option<RowValues<'_>> {
        let (name, values) = self.outcome.parts.iter().find(|(known, _)| *known == name)?;
        Some(RowValues { values, range: self.rule.range_of_part(name) })
    }

    fn report(&self) -> GroupReport {
        let names = self.outcome.parts.iter().map(|(name, _)| *name);
        let part = |name: &str| Some((name.to_owned(), Figure::of(&[(1.0, self.part(name)?)])));
        GroupReport {
            rows: self.rows,
            rule: self.rule.to_string(),
            figure: Figure::of(&[(1.0, self.values())]),
            ties: self.outcome.ties,
            undefined: self.outcome.undefined,
            longest_wins: self.by_length[0],
            shortest_wins: self.by_length[1],
            parts: Named(names.filter_map(part).collect()),
        }
    }
}

impl BenchReport {
    /// Judges the rows of a benchmark.
    pub fn new(manifest: &Manifest, collected: Collected) -> Self {
        let has_lengths = collected.has_lengths;
        let with_rows = collected.groups.into_iter().filter(|group| !group.rows.is_empty());
        let groups: Vec<Judged> = with_rows.map(|group| Judged::of(group, has_lengths)).collect();
        let declared = |group: &Judged| manifest.groups.iter().position(|known| known.name == group.name);
        let present =
            |group: &Judged| Present { declared: declared(group), values: group.outcome.values.len() };
        let present: Vec<Present> = groups.iter().map(present).collect();

        let total = total_weights(manifest, &present);
        let figure = |weights: Option<&Vec<f64>>| {
            let terms = |weights: &Vec<f64>| -> Vec<_> {
                weights.iter().zip(&groups).map(|(&weight, group)| (weight, group.values())).collect()
            };
            Figure::of(&weights.map(terms).unwrap_or_default())
        };
        let baseline = |which: usize| -> Option<f64> {
            let weights = total.as_ref()?;
            weights
                .iter()
                .zip(&groups)
                .filter(|(weight, _)| **weight > 0.0)
                .map(|(w, g)| Some(w * g.by_length[which]?))
                .sum()
        };
        let mut sections = Vec::new();
        for (at, section) in manifest.sections.iter().enumerate() {
            if let Some(weights) = section_weights(manifest, &present, at) {
                sections.push((section.name.clone(), figure(Some(&weights))));
            }
        }
        let one_rule = groups.iter().all(|g| g.rule == groups[0].rule && g.rule != Rule::Ties);
        let rows = row_weights(&present).filter(|_| one_rule);
        Self {
            rows: groups.iter().map(|g| g.rows).sum(),
            total: figure(total.as_ref()),
            row_mean: figure(rows.as_ref()),
            ties: groups.iter().map(|g| g.outcome.ties).sum(),
            longest_wins: baseline(0),
            shortest_wins: baseline(1),
            parts: Named(total.as_ref().map_or_else(Vec::new, |weights| common_parts(&groups, weights))),
            sections: Named(sections),
            groups: Named(groups.iter().map(|g| (g.name.clone(), g.report())).collect()),
            missing: missing(manifest, &groups),
            sequences: collected.done.sequences,
            tokens: collected.done.tokens,
            failed: collected.failed,
            overlong: collected.overlong,
            truncated: collected.truncated,
        }
    }
}

/// The parts that every group of the total has, averaged with its weights.
fn common_parts(groups: &[Judged], weights: &[f64]) -> Vec<(String, Figure)> {
    let counted: Vec<(f64, &Judged)> =
        weights.iter().copied().zip(groups).filter(|(weight, _)| *weight > 0.0).collect();
    let Some((_, first)) = counted.first() else { return Vec::new() };
    let part = |(name, _): &(&'static str, Vec<f64>)| {
        let terms: Option<Vec<_>> =
            counted.iter().map(|(weight, group)| Some((*weight, group.part(name)?))).collect();
        Some(((*name).to_owned(), Figure::of(&terms?)))
    };
    first.outcome.parts.iter().filter_map(part).collect()
}

/// Sections without a figure, and groups without one of those that have some. `groups` are those with rows.
fn missing(manifest: &Manifest, groups: &[Judged]) -> Vec<String> {
    let has_figure = |name: &str| groups.iter().any(|group| group.name == name && group.has_figure());
    let is_declared = |name: &str| manifest.groups.iter().any(|known| known.name == name);
    let ungrouped = manifest.ungrouped.as_deref();
    // Where rows name no group, no group's absence is told by them.
    let are_grouped = !groups.iter().any(|group| Some(group.name.as_str()) == ungrouped);
    let is_absent = |at: usize| !manifest.groups.iter().any(|g| g.section == Some(at) && has_figure(&g.name));
    let sections = manifest.sections.iter().enumerate().filter(|(at, _)| are_grouped && is_absent(*at));
    let declared = manifest.groups.iter().filter(|group| {
        // A section that is absent speaks for its groups.
        are_grouped && !has_figure(&group.name) && !group.section.is_some_and(is_absent)
    });
    let others = groups.iter().filter(|group| !group.has_figure() && !is_declared(&group.name));
    sections
        .map(|(_, section)| &section.name)
        .chain(declared.map(|group| &group.name))
        .chain(others.map(|group| &group.name))
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{report_by, report_of};

    fn row(subset: &str, chosen: f64) -> String {
        format!(r#"{{"subset": "{subset}", "score_chosen": {chosen}, "score_rejected": 0.0}}"#)
    }

    #[test]
    fn what_has_no_rows_is_told_sections_first_and_their_groups_only_where_others_have_some() {
        let lines = [row("hep-go", 1.0), row("math-prm", -1.0), row("shp", 1.0)].join("\n");
        let report = report_of("reward-bench", &lines);
        let missing: Vec<&str> = report.missing.iter().map(String::as_str).collect();
        let groups = [
            "hep-cpp",
            "hep-java",
            "hep-js",
            "hep-python",
            "hep-rust",
            "anthropic_helpful",
            "anthropic_hhh",
            "summarize",
        ];
        assert_eq!(missing, [&["Chat", "Chat Hard", "Safety"][..], &groups].concat());
        // 984 rows of math-prm against 164 of hep-go, the prior sets half.
        let reasoning = 164.0 / 1148.0;
        assert!((report.total.value.unwrap() - (reasoning + 0.5) / 1.5).abs() < 1e-15);
        assert_eq!(report.sections.0.len(), 2);
        assert_eq!(report.row_mean.value, Some(2.0 / 3.0));
    }

    #[test]
    fn lengths_that_are_not_known_have_no_baselines_and_those_that_are_do() {
        let report = report_of("reward-bench", &row("shp", 1.0));
        assert_eq!((report.longest_wins, report.shortest_wins), (None, None));
        let row = r#"{"subset": "shp", "score_chosen": 0, "score_rejected": 1, "prompt": "p", "chosen": "a long one",
            "rejected": "short"}"#.replace('\n', " ");
        let report = report_of("reward-bench", &row);
        assert_eq!((report.total.value, report.ties), (Some(0.0), 0));
        assert_eq!((report.longest_wins, report.shortest_wins), (Some(1.0), Some(0.0)));
    }

    #[test]
    fn a_tau_of_equal_scores_is_undefined_and_no_total_is_null() {
        let row = |scores: &str| {
            format!(
                r#"{{"prompt": "p", "responses": ["a", "b"], "scores": [2, 1], "x": 0, "score": {scores}}}"#
            )
        };
        let lines = [row("0"), row("0")]
            .join("\n")
            .replace("\"scores\": [2, 1]", "\"input_scores\": [2, 1], \"scores\": [1, 1]");
        let report = report_by("rule = \"kendall-tau\"\ntotal = \"none\"\n", &lines);
        let group = report.groups.get("all").unwrap();
        assert_eq!((group.rows, group.undefined, group.figure.value), (2, 2, None));
        assert_eq!((report.total.value, report.total.ci95), (None, None));
        assert_eq!(report.missing, ["all"]);
    }

    #[test]
    fn a_group_without_a_value_is_left_out_of_every_total_and_listed() {
        let row = |group: &str, scores: &str| {
            format!(
                r#"{{"subset": "{group}", "prompt": "p", "responses": ["a", "b"], "input_scores": [2, 1], "scores": {scores}}}"#
            )
        };
        let lines =
            [row("a", "[2, 1]"), row("a", "[1, 1]"), row("b", "[1, 1]"), row("b", "[0, 0]")].join("\n");
        let groups = "[[groups]]\nname = \"a\"\nsection = \"s\"\n[[groups]]\nname = \"b\"\nsection = \"t\"\ncount = 9\n";
        for total in ["groups", "rows", "sections"] {
            let text = format!(
                "rule = \"kendall-tau\"\ngroup_field = \"subset\"\ntotal = \"{total}\"\n[[sections]]\nname = \"s\"\n\
                 [[sections]]\nname = \"t\"\n{groups}"
            );
            let report = report_by(&text, &lines);
            assert_eq!(report.total.value, Some(1.0), "{total}");
            assert_eq!(report.missing, ["t"], "{total}: the section speaks for its group");
            let undefined = ["a", "b"].map(|name| report.groups.get(name).unwrap().undefined);
            assert_eq!((report.rows, undefined), (4, [1, 2]), "{total}");
            // One row with tau 1 is as little proof as one pair that is right.
            let [lo, hi] = report.total.ci95.unwrap();
            assert!(lo < -0.5 && hi == 1.0, "{lo} {hi}");
        }
        let undeclared =
            report_by("rule = \"kendall-tau\"\ngroup_field = \"subset\"\ntotal = \"groups\"\n", &lines);
        assert_eq!((undeclared.total.value, undeclared.missing), (Some(1.0), vec!["b".to_owned()]));
    }
}
