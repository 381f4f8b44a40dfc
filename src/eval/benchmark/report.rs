//! A benchmark's figures, with intervals, and what choosing by length alone would reach.

use super::reward_bench::{Present, row_weights, section_weights, total_weights};
use super::{Collected, GroupRows, Manifest, Outcome, Row, Rule};
use crate::eval::{Named, bootstrap};
use serde::Serialize;

/// A figure and its 95% interval, null where it is undefined.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Figure {
    pub value: Option<f64>,
    pub ci95: Option<[f64; 2]>,
}

impl Figure {
    /// The weighted sum of the means of several sets of rows, which are resampled each on its own.
    fn of(terms: &[(f64, &[f64])]) -> Self {
        let terms: Vec<_> = terms.iter().filter(|(weight, _)| *weight > 0.0).copied().collect();
        if terms.is_empty() || terms.iter().any(|(_, values)| values.is_empty()) {
            return Self { value: None, ci95: None };
        }
        let value = terms.iter().map(|(weight, values)| weight * mean(values)).sum();
        Self { value: Some(value), ci95: bootstrap::weighted_means_ci95(&terms) }
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The figures of one group.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GroupReport {
    pub rows: u64,
    /// The rule's word in a manifest.
    pub rule: String,
    #[serde(flatten)]
    pub figure: Figure,
    /// Comparisons between equal scores; how they count is the rule's affair.
    pub ties: u64,
    /// Rows for which the rule has no value: tau-b of a constant, say.
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
    /// Rows that the figures are over.
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
    /// Sections that have no rows, and groups without rows of those that have some; the total is without them.
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
            (!values.is_empty()).then(|| mean(&values))
        };
        let by_length = if has_lengths { [baseline(1.0), baseline(-1.0)] } else { [None, None] };
        let outcome = group.rule.judge(&group.rows);
        Self { name: group.name, rule: group.rule, rows: group.rows.len() as u64, outcome, by_length }
    }

    fn part(&self, name: &str) -> Option<&[f64]> {
        self.outcome.parts.iter().find(|(known, _)| *known == name).map(|(_, values)| values.as_slice())
    }

    fn report(&self) -> GroupReport {
        let figure = |values: &[f64]| Figure::of(&[(1.0, values)]);
        let parts = self.outcome.parts.iter().map(|(name, values)| (name.to_string(), figure(values)));
        GroupReport {
            rows: self.rows,
            rule: self.rule.to_string(),
            figure: figure(&self.outcome.values),
            ties: self.outcome.ties,
            undefined: self.outcome.undefined,
            longest_wins: self.by_length[0],
            shortest_wins: self.by_length[1],
            parts: Named(parts.collect()),
        }
    }
}

impl BenchReport {
    /// Judges the rows of a benchmark.
    pub fn new(manifest: &Manifest, collected: Collected) -> Self {
        let missing = missing(manifest, &collected);
        let has_lengths = collected.has_lengths;
        let with_rows = collected.groups.into_iter().filter(|group| !group.rows.is_empty());
        let groups: Vec<Judged> = with_rows.map(|group| Judged::of(group, has_lengths)).collect();
        let declared = |group: &Judged| manifest.groups.iter().position(|known| known.name == group.name);
        let present: Vec<Present> =
            groups.iter().map(|g| Present { declared: declared(g), rows: g.outcome.values.len() }).collect();

        let total = total_weights(manifest, &present);
        let figure = |weights: Option<&Vec<f64>>| {
            let terms = |weights: &Vec<f64>| -> Vec<(f64, &[f64])> {
                weights.iter().zip(&groups).map(|(&w, g)| (w, g.outcome.values.as_slice())).collect()
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
            missing,
            sequences: collected.done.sequences,
            tokens: collected.done.tokens,
            failed: collected.failed,
            overlong: collected.overlong,
            truncated: collected.truncated,
        }
    }
}

/// The parts that every group has, averaged with the weights of the total.
fn common_parts(groups: &[Judged], weights: &[f64]) -> Vec<(String, Figure)> {
    let names =
        groups.first().map_or_else(Vec::new, |g| g.outcome.parts.iter().map(|(name, _)| *name).collect());
    let part = |name: &str| -> Option<(String, Figure)> {
        let terms: Option<Vec<_>> =
            groups.iter().zip(weights).map(|(g, &w)| Some((w, g.part(name)?))).collect();
        Some((name.to_owned(), Figure::of(&terms?)))
    };
    names.into_iter().filter_map(part).collect()
}

fn missing(manifest: &Manifest, collected: &Collected) -> Vec<String> {
    let has_rows = |name: &str| collected.groups.iter().any(|g| g.name == name && !g.rows.is_empty());
    // Rows that name no group are of no group's absence.
    if manifest.ungrouped.as_deref().is_some_and(has_rows) {
        return Vec::new();
    }
    let is_absent = |at: usize| !manifest.groups.iter().any(|g| g.section == Some(at) && has_rows(&g.name));
    let sections = manifest.sections.iter().enumerate().filter(|(at, _)| is_absent(*at));
    let groups = manifest.groups.iter().filter(|group| {
        // A section that is absent speaks for its groups.
        !has_rows(&group.name) && !group.section.is_some_and(is_absent)
    });
    sections.map(|(_, section)| section.name.clone()).chain(groups.map(|group| group.name.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::report_of;

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
        let text = "rule = \"kendall-tau\"\ntotal = \"none\"\n[[files]]\nsource = \"x\"\n";
        let manifest = super::Manifest::parse("own", text, std::path::Path::new("own.toml")).unwrap();
        let lines = [row("0"), row("0")]
            .join("\n")
            .replace("\"scores\": [2, 1]", "\"input_scores\": [2, 1], \"scores\": [1, 1]");
        let rows = super::super::tests::rows(&lines);
        let collected =
            super::super::read_scores(&manifest, rows, crate::eval::OnError::Fail, |_| {}).unwrap();
        let report = super::BenchReport::new(&manifest, collected);
        let group = report.groups.get("all").unwrap();
        assert_eq!((group.rows, group.undefined, group.figure.value), (2, 2, None));
        assert_eq!((report.total.value, report.total.ci95), (None, None));
    }
}
