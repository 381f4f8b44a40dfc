//! Stored scores through the reader, the rules and the report, against figures that the published rules gave
//! (`tests/golden/benchmarks`, with the script that made them).

use super::*;
use crate::data::source::{RawRow, Rows};
use crate::eval::{Named, OnError};
use serde_json::Value;
use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;

/// Rows of a file called `rows.jsonl`, of no group.
pub(super) fn rows(lines: &str) -> impl Iterator<Item = Result<(Option<Arc<str>>, RawRow)>> + Send + 'static {
    let rows = Rows::of_reader("rows.jsonl", Cursor::new(lines.to_owned())).unwrap();
    rows.map(|row| row.map(|row| (None, row)))
}

/// The report on stored scores none of which is wrong.
pub(super) fn report_of(benchmark: &str, lines: &str) -> BenchReport {
    report(&Manifest::of(benchmark).unwrap(), lines)
}

/// [`report_of`] by the text of a manifest called `own`.
pub(super) fn report_by(manifest: &str, lines: &str) -> BenchReport {
    report(&Manifest::parse("own", manifest, Path::new("own.toml")).unwrap(), lines)
}

fn report(manifest: &Manifest, lines: &str) -> BenchReport {
    let collected = read_scores(manifest, rows(lines), OnError::Fail, |_| {}).unwrap();
    BenchReport::new(manifest, collected)
}

#[track_caller]
fn assert_figures(found: &Named<Figure>, expected: &Value) {
    let expected = expected.as_object().unwrap();
    assert_eq!(found.0.len(), expected.len(), "{found:?}");
    for (name, value) in expected {
        assert_near(found.get(name).and_then(|figure| figure.value), value, name);
    }
}

/// Scores lie on a grid and shares are ratios of small counts; what is left is the order of a few sums.
#[track_caller]
fn assert_near(found: Option<f64>, expected: &Value, name: &str) {
    let (found, expected) = (found.unwrap(), expected.as_f64().unwrap());
    assert!((found - expected).abs() < 1e-12, "{name}: {found} against {expected}");
}

fn groups(report: &BenchReport) -> Named<Figure> {
    Named(report.groups.0.iter().map(|(name, group)| (name.clone(), group.figure)).collect())
}

#[test]
fn the_known_benchmarks_have_their_published_figures() {
    let golden: Value =
        serde_json::from_str(include_str!("../../../tests/golden/benchmarks/expected.json")).unwrap();

    let expected = &golden["rm-bench"];
    let found = report_of("rm-bench", include_str!("../../../tests/golden/benchmarks/rm_bench.jsonl"));
    assert_eq!((found.rows, found.sequences, found.missing.len()), (480, 6 * 480, 0));
    assert_near(found.total.value, &expected["total"], "total");
    assert_figures(&found.parts, &expected["parts"]);
    assert_figures(&groups(&found), &expected["groups"]);
    assert_eq!(Some(found.ties), expected["ties"].as_u64());

    let expected = &golden["reward-bench"];
    let lines = include_str!("../../../tests/golden/benchmarks/reward_bench.jsonl");
    let found = report_of("reward-bench", lines);
    assert_eq!((found.rows, found.missing.len()), (529, 0));
    assert_near(found.total.value, &expected["total"], "total");
    assert_near(found.row_mean.value, &expected["row_mean"], "row_mean");
    assert_figures(&found.sections, &expected["sections"]);
    assert_figures(&groups(&found), &expected["groups"]);
    assert_eq!(Some(found.ties), expected["ties"].as_u64());
    // Without the prior test sets the total is that of the other four sections.
    let prior = ["anthropic_helpful", "anthropic_hhh", "shp", "summarize"];
    let is_core = |line: &&str| !prior.iter().any(|name| line.contains(&format!("\"{name}\"")));
    let core = report_of("reward-bench", &lines.lines().filter(is_core).collect::<Vec<_>>().join("\n"));
    assert_near(core.total.value, &expected["core_total"], "core_total");
    assert_eq!(core.missing, ["Prior Sets"]);

    let expected = &golden["reward-bench-2"];
    let found =
        report_of("reward-bench-2", include_str!("../../../tests/golden/benchmarks/reward_bench_2.jsonl"));
    assert_eq!((found.rows, found.missing.len()), (416, 0));
    assert_near(found.total.value, &expected["total"], "total");
    assert_figures(&groups(&found), &expected["groups"]);
    assert_figures(&found.groups.get("Ties").unwrap().parts, &expected["ties_parts"]);
}
