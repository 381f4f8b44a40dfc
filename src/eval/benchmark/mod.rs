//! Published benchmarks: scores in, the figures of each benchmark's own rule out.
//!
//! A benchmark is a [`Manifest`]; its rows are scored by [`score_benchmark`], or come with scores that are stored
//! ([`read_scores`]). The rules themselves (`pairs`, `rm_bench`, `reward_bench_2`) are arithmetic on scores and know
//! neither files nor models; `totals` has the weights with which groups become one figure. Every figure is a weighted sum
//! of means over rows, which is what intervals are found from. What is not here: which files are read and written where
//! (`commands::bench`).

mod manifest;
mod outputs;
mod pairs;
mod report;
mod reward_bench_2;
mod rm_bench;
mod score;
mod stored;
mod table;
#[cfg(test)]
mod tests;
mod totals;

pub use manifest::{Group, Manifest, Outputs, Rule, Total};
pub use outputs::OutputFiles;
pub use report::{BenchReport, Figure};
pub use score::{BenchOptions, ScoredRow, score_benchmark};
pub use stored::read_scores;
pub use table::bench_table;

use super::bootstrap::Range;
use super::{Judged, Origin, Progress};
use crate::Result;
use crate::base::reader::Words;

/// A row of a benchmark with its scores.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Where the row has none, empty.
    pub id: String,
    /// Right answers have gold 1 and wrong ones 0, right ones first; ranked responses have their gold scores.
    pub responses: Vec<Judged>,
    /// Of a pair that is labelled `A>B` or `B>A`: whether A is the better one.
    pub first_is_better: Option<bool>,
}

/// What a rule says of one row.
#[derive(Debug, Clone, PartialEq)]
struct Judgement {
    value: f64,
    /// Comparisons between equal scores.
    ties: u64,
    parts: Vec<(&'static str, f64)>,
}

/// What a rule says of a group's rows: one value a row (for [`Rule::Ties`] a prompt), whose mean is the figure.
#[derive(Debug, Default)]
struct Outcome {
    values: Vec<f64>,
    ties: u64,
    parts: Vec<(&'static str, Vec<f64>)>,
    /// Rows for which the rule has no value.
    undefined: u64,
}

impl Rule {
    /// What the rule's value of a row can be.
    fn range(self) -> Range {
        match self {
            Rule::KendallTau => Range::Correlation,
            Rule::Pairs | Rule::StyleMatrix | Rule::BestOf | Rule::Ties => Range::Share,
        }
    }

    /// What a part's value of a row can be: a share, but for the one that is a tanh.
    fn range_of_part(self, name: &str) -> Range {
        match self {
            Rule::Ties if name == reward_bench_2::MARGIN => Range::Correlation,
            _ => Range::Share,
        }
    }

    /// Whether the rule can judge the row.
    fn check(self, row: &Row) -> Result<(), String> {
        match self {
            Rule::StyleMatrix => rm_bench::check(&row.responses),
            Rule::Ties => reward_bench_2::check_ties(row),
            Rule::BestOf => {
                let best = row.responses.iter().map(|r| r.gold).fold(f64::NEG_INFINITY, f64::max);
                match row.responses.as_slice() {
                    [first, _, ..] if first.gold == best => Ok(()),
                    others => Err(format!(
                        "found {} responses, expected at least two, a right one first",
                        others.len()
                    )),
                }
            }
            Rule::Pairs | Rule::KendallTau => match row.responses.len() {
                n if n >= 2 => Ok(()),
                n => Err(format!("found {n} responses with a gold score, expected at least two")),
            },
        }
    }

    /// Judges a group's rows, each of which passed [`Rule::check`].
    fn judge(self, rows: &[Row]) -> Outcome {
        if self == Rule::Ties {
            let found = reward_bench_2::ties(rows);
            return Outcome { values: found.values, ties: found.ties, parts: found.parts, undefined: 0 };
        }
        let mut outcome = Outcome::default();
        for row in rows {
            let judgement = match self {
                Rule::StyleMatrix => Some(rm_bench::style_matrix(row)),
                Rule::BestOf => Some(reward_bench_2::best_of(&row.responses)),
                Rule::KendallTau => pairs::kendall_tau(&row.responses),
                Rule::Pairs | Rule::Ties => pairs::pairs(row),
            };
            let Some(judgement) = judgement else {
                outcome.undefined += 1;
                continue;
            };
            outcome.values.push(judgement.value);
            outcome.ties += judgement.ties;
            for (name, value) in judgement.parts {
                match outcome.parts.iter_mut().find(|(known, _)| *known == name) {
                    Some((_, values)) => values.push(value),
                    None => outcome.parts.push((name, vec![value])),
                }
            }
        }
        outcome
    }
}

/// The rows of one group.
#[derive(Debug, Clone, PartialEq)]
struct GroupRows {
    name: String,
    rule: Rule,
    rows: Vec<Row>,
}

/// What is kept of a benchmark's rows: a few numbers a response, no text.
#[derive(Debug, Clone, PartialEq)]
pub struct Collected {
    groups: Vec<GroupRows>,
    /// The group of rows without a group field, where the manifest has one.
    ungrouped: Option<String>,
    /// Whether the length of every response is known.
    has_lengths: bool,
    pub done: Progress,
    /// Rows that could not be read or scored and were passed over.
    pub failed: u64,
    /// Rows with too long a conversation that were left out.
    pub overlong: u64,
    /// Rows whose prompt was shortened to fit.
    pub truncated: u64,
}

impl Collected {
    fn new(manifest: &Manifest) -> Self {
        // The order of the report is the manifest's, whatever the rows' is.
        let declared =
            |group: &Group| GroupRows { name: group.name.clone(), rule: group.rule, rows: Vec::new() };
        Self {
            groups: manifest.groups.iter().map(declared).collect(),
            ungrouped: manifest.ungrouped.clone(),
            has_lengths: true,
            done: Progress::default(),
            failed: 0,
            overlong: 0,
            truncated: 0,
        }
    }

    /// Refuses a row of no group among rows that have one, and the other way round: a file in which only some rows
    /// name their group is broken, not ungrouped.
    fn check_group(&self, origin: &Origin, group: &PlacedGroup) -> Result<()> {
        let Some(ungrouped) = &self.ungrouped else { return Ok(()) };
        let is_ungrouped = |name: &str| name == ungrouped;
        let mut others = self.groups.iter().filter(|other| !other.rows.is_empty());
        match others.find(|other| is_ungrouped(&other.name) != is_ungrouped(&group.name)) {
            None => Ok(()),
            Some(other) => Err(origin.error(format!(
                "found a row of group {:?} among rows of {:?}, expected all rows to name their group or none",
                group.name, other.name
            ))),
        }
    }

    fn add(&mut self, group: PlacedGroup, row: Row) {
        match self.groups.iter_mut().find(|g| g.name == group.name) {
            Some(known) => known.rows.push(row),
            None => {
                self.groups.push(GroupRows { name: group.name, rule: group.rule, rows: vec![row] });
            }
        }
    }
}

/// The group of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
struct PlacedGroup {
    name: String,
    rule: Rule,
}

impl PlacedGroup {
    /// By the file's group where it has one, else by the row's group field.
    fn of(
        manifest: &Manifest,
        of_file: Option<&str>,
        fields: &serde_json::Map<String, serde_json::Value>,
    ) -> Result<Self, String> {
        let named = |value: &str| {
            if manifest.groups.is_empty() {
                return Ok(Self { name: value.to_owned(), rule: manifest.rule });
            }
            manifest.group_of(value).map(|(name, rule)| Self { name: name.to_owned(), rule })
        };
        if let Some(name) = of_file {
            let rule = manifest.groups.iter().find(|group| group.name == name).map(|group| group.rule);
            return Ok(Self { name: name.to_owned(), rule: rule.unwrap_or(manifest.rule) });
        }
        let value = manifest.group_field.as_ref().and_then(|field| fields.get(field));
        match (value, &manifest.group_field, &manifest.ungrouped) {
            (Some(serde_json::Value::String(value)), _, _) => named(value),
            (None | Some(serde_json::Value::Null), _, Some(name)) => {
                Ok(Self { name: name.clone(), rule: manifest.rule })
            }
            (None, None, None) if manifest.groups.is_empty() => {
                Ok(Self { name: "all".into(), rule: manifest.rule })
            }
            (None, None, None) => Err("found a row of no group, expected --data NAME/GROUP=FILE".into()),
            (found, Some(field), _) => Err(format!(
                "{field}: found {}, expected the name of the row's group",
                found.map_or("nothing".into(), ToString::to_string)
            )),
            (Some(_), None, _) => Err("found a group without a group field".into()),
        }
    }
}

impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.word())
    }
}
