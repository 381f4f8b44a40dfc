//! Scores that are stored already: the figures again, without a model.

use super::score::{first_is_better, golds, rename_columns};
use super::{Collected, Manifest, PlacedGroup, Row};
use crate::base::interrupt;
use crate::data::source::RawRow;
use crate::data::{Example, RowKind};
use crate::eval::evaluate::characters;
use crate::eval::{Judged, OnError, Origin};
use crate::{Error, Result};
use serde_json::{Map, Value};
use std::sync::Arc;

/// Fields that hold scores, and would be taken for gold ones.
const SCORE_FIELDS: [&str; 5] =
    ["score_chosen", "score_rejected", "scores_chosen", "scores_rejected", "scores"];

/// Reads rows that hold their scores, as `score` and `bench` write them and as the benchmarks' own tools do:
/// `score_chosen` and `score_rejected` (numbers or lists; `scores_` as well), or `scores` with `num_correct` or with
/// gold scores. An object of columns, as RewardBench 2 stores them, counts as its rows.
///
/// `failed` is told of every row that is passed over under [`OnError::Keep`].
///
/// # Errors
/// A row's own under [`OnError::Fail`]; the source's; [`Error::Interrupted`].
pub fn read_scores(
    manifest: &Manifest,
    rows: impl Iterator<Item = Result<(Option<Arc<str>>, RawRow)>>,
    on_error: OnError,
    mut failed: impl FnMut(Error),
) -> Result<Collected> {
    let mut collected = Collected::new(manifest);
    let mut pass_over = |collected: &mut Collected, error: Error| match error {
        Error::Row { .. } if on_error == OnError::Keep => {
            collected.failed += 1;
            failed(error);
            Ok(())
        }
        other => Err(other),
    };
    for row in rows {
        if interrupt::requested() {
            return Err(Error::Interrupted);
        }
        let (group, origin, fields) = match row.and_then(parsed) {
            Ok(parsed) => parsed,
            Err(error) => {
                collected.done.rows += 1;
                pass_over(&mut collected, error)?;
                continue;
            }
        };
        for (number, fields) in unrolled(fields).enumerate() {
            let mut origin = origin.clone();
            origin.line += number as u64;
            let found = read(&origin, fields, group.as_deref(), manifest);
            let found = found.and_then(|found| collected.check_group(&origin, &found.0).map(|()| found));
            collected.done.rows += 1;
            match found {
                Ok((group, row, has_lengths)) => {
                    collected.has_lengths &= has_lengths;
                    collected.done.sequences += row.responses.len() as u64;
                    collected.add(group, row);
                }
                Err(error) => pass_over(&mut collected, error)?,
            }
        }
    }
    Ok(collected)
}

/// The group of a row's file, its place and its fields.
type Parsed = (Option<Arc<str>>, Origin, Map<String, Value>);

fn parsed((group, raw): (Option<Arc<str>>, RawRow)) -> Result<Parsed> {
    let origin = raw.origin.clone();
    match raw.value()? {
        Value::Object(fields) => Ok((group, origin, fields)),
        _ => Err(origin.error("expected a JSON object")),
    }
}

/// The rows of an object of columns; any other object is one row.
fn unrolled(fields: Map<String, Value>) -> Box<dyn Iterator<Item = Map<String, Value>>> {
    let columns = ["subset", "scores"].map(|key| fields.get(key).and_then(Value::as_array).map(Vec::len));
    let [Some(rows), Some(scores)] = columns else { return Box::new(std::iter::once(fields)) };
    if rows != scores {
        return Box::new(std::iter::once(fields));
    }
    Box::new((0..rows).map(move |at| {
        let cell = |(key, value): (&String, &Value)| match value {
            Value::Array(items) if items.len() == rows => Some((key.clone(), items[at].clone())),
            _ => None,
        };
        fields.iter().filter_map(cell).collect()
    }))
}

/// One row: its group, its scores, and whether the lengths of its responses are known.
fn read(
    origin: &Origin,
    mut fields: Map<String, Value>,
    group: Option<&str>,
    manifest: &Manifest,
) -> Result<(PlacedGroup, Row, bool)> {
    let refuse = |reason: String| origin.error(reason);
    rename_columns(manifest, &mut fields);
    let group = PlacedGroup::of(manifest, group, &fields).map_err(refuse)?;
    let side = |name: &str| -> Result<Option<Vec<f64>>> {
        let key = [format!("score_{name}"), format!("scores_{name}")];
        let Some((key, value)) = key.iter().find_map(|key| Some((key, fields.get(key)?))) else {
            return Ok(None);
        };
        numbers(key, value).map(Some).map_err(refuse)
    };
    let (rewards, known) = match (side("chosen")?, side("rejected")?) {
        (Some(chosen), Some(rejected)) => {
            let gold = chosen.iter().map(|_| Some(1.0)).chain(rejected.iter().map(|_| Some(0.0))).collect();
            ([chosen, rejected].concat(), Some(gold))
        }
        (None, None) => (numbers_of(&fields, "scores").map_err(refuse)?, None),
        _ => {
            return Err(
                origin.error("found the scores of one side, expected score_chosen and score_rejected")
            );
        }
    };
    let num_correct = match known {
        Some(_) => None,
        None => num_correct(&fields, rewards.len()).map_err(refuse)?,
    };
    let example = example_of(&fields, manifest).filter(|example| example.responses.len() == rewards.len());
    let gold: Vec<Option<f64>> = match (known, num_correct, &example) {
        (Some(gold), _, _) => gold,
        (None, Some(right), _) => {
            (0..rewards.len()).map(|at| Some(if at < right { 1.0 } else { 0.0 })).collect()
        }
        (None, None, Some(example)) if example.kind == RowKind::Ranked => golds(example),
        _ => {
            let reason = "found scores without num_correct, gold scores or the responses they are of";
            return Err(origin.error(format!("{reason}, expected one of these")));
        }
    };
    let lengths = lengths(&fields, example.as_ref());
    let has_lengths = lengths.is_some();
    let lengths = lengths.unwrap_or_else(|| vec![0; rewards.len()]);
    let responses = rewards
        .iter()
        .zip(gold)
        .zip(lengths)
        .filter_map(|((&reward, gold), length)| Some(Judged { gold: gold?, reward, length }));
    let id = match fields.get("id") {
        Some(Value::String(id)) => id.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    };
    let row = Row { id, responses: responses.collect(), first_is_better: first_is_better(&fields) };
    group.rule.check(&row).map_err(refuse)?;
    Ok((group, row, has_lengths))
}

/// How many of the responses, the first ones, are right; `None` where the row does not say.
///
/// # Errors
/// What was found, where it leaves no right or no wrong answer among so many scores: nothing could be told of them.
fn num_correct(fields: &Map<String, Value>, scores: usize) -> Result<Option<usize>, String> {
    let Some(found) = fields.get("num_correct").filter(|found| !found.is_null()) else { return Ok(None) };
    let right = found.as_u64().and_then(|right| usize::try_from(right).ok());
    let expected = "expected at least one right and one wrong answer";
    let refuse = || format!("num_correct: found {found} with {scores} scores, {expected}");
    right.filter(|right| (1..scores).contains(right)).map(Some).ok_or_else(refuse)
}

/// The row as it was before it had scores, where it still holds its responses.
fn example_of(fields: &Map<String, Value>, manifest: &Manifest) -> Option<Example> {
    let mut before = fields.clone();
    for field in SCORE_FIELDS {
        before.shift_remove(field);
        if let Some(own) = before.shift_remove(&format!("input_{field}")) {
            before.insert(field.to_owned(), own);
        }
    }
    Example::from_json(Value::Object(before), &manifest.score_field).ok()
}

/// Characters of every response. reward-bench keeps whole conversations, which begin with the same prompt.
fn lengths(fields: &Map<String, Value>, example: Option<&Example>) -> Option<Vec<usize>> {
    if let Some(example) = example {
        return Some(example.responses.iter().map(|response| characters(&response.messages)).collect());
    }
    ["text_chosen", "text_rejected"]
        .iter()
        .map(|key| Some(fields.get(*key)?.as_str()?.chars().count()))
        .collect()
}

fn numbers_of(fields: &Map<String, Value>, key: &str) -> Result<Vec<f64>, String> {
    let expected = "expected scores: score_chosen and score_rejected, or scores";
    let found =
        || format!("found the keys {}, {expected}", fields.keys().cloned().collect::<Vec<_>>().join(", "));
    numbers(key, fields.get(key).ok_or_else(found)?)
}

/// A number or a list of them; each may be a list of one, as models with one label answer.
fn numbers(key: &str, value: &Value) -> Result<Vec<f64>, String> {
    let one = |value: &Value| -> Result<f64, String> {
        let number = match value {
            Value::Array(items) if items.len() == 1 => items[0].as_f64(),
            other => other.as_f64(),
        };
        number
            .filter(|score| score.is_finite())
            .ok_or_else(|| format!("{key}: found {value}, expected a score"))
    };
    match value {
        Value::Array(items) => items.iter().map(one).collect(),
        other => Ok(vec![one(other)?]),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::rows;
    use super::*;
    use serde_json::json;

    fn collect(benchmark: &str, lines: &str, on_error: OnError) -> (Result<Collected>, Vec<String>) {
        let mut told = Vec::new();
        let manifest = Manifest::of(benchmark).unwrap();
        let collected = read_scores(&manifest, rows(lines), on_error, |error| told.push(error.to_string()));
        (collected, told)
    }

    #[track_caller]
    fn refused(benchmark: &str, lines: &str) -> String {
        collect(benchmark, lines, OnError::Fail).0.unwrap_err().to_string()
    }

    #[test]
    fn an_object_of_columns_counts_as_its_rows() {
        let object = |value: Value| value.as_object().cloned().unwrap();
        let columns = object(json!({
            "subset": ["Math", "Focus"], "scores": [[2.0, 1.0], [0.5, 1.0]], "num_correct": [1, 1], "id": ["a", "b"],
            "model": "m", "other": [1, 2, 3]
        }));
        let found: Vec<_> = unrolled(columns.clone()).collect();
        let first = json!({"subset": "Math", "scores": [2.0, 1.0], "num_correct": 1, "id": "a"});
        assert_eq!(
            (found.len(), &found[0]),
            (2, &object(first)),
            "what is no column of as many cells is left out"
        );
        let line = Value::Object(columns).to_string();
        let (collected, _) = collect("reward-bench-2", &line, OnError::Fail);
        let collected = collected.unwrap();
        assert_eq!((collected.done.rows, collected.done.sequences), (2, 4));
        let rows_of =
            |name: &str| collected.groups.iter().find(|group| group.name == name).unwrap().rows.len();
        assert_eq!((rows_of("Math"), rows_of("Focus"), rows_of("Safety")), (1, 1, 0));
        // One row, whose own scores are a list.
        for one in
            [json!({"subset": ["x"], "scores": [1.0, 2.0]}), json!({"subset": "Math", "scores": [1.0]})]
        {
            assert_eq!(unrolled(object(one.clone())).collect::<Vec<_>>(), [object(one)]);
        }
    }

    #[test]
    fn scores_are_of_both_sides_and_finite() {
        let says = |row: Value| refused("reward-bench", &row.to_string());
        let one_sided = says(json!({"subset": "shp", "score_chosen": 1.0}));
        assert!(one_sided.starts_with("rows.jsonl:1: found the scores of one side"), "{one_sided}");
        let word = says(json!({"subset": "shp", "score_chosen": "high", "score_rejected": 0.0}));
        assert!(word.contains("score_chosen: found \"high\", expected a score"), "{word}");
        let null = says(json!({"subset": "shp", "score_chosen": 1.0, "score_rejected": null}));
        assert!(null.contains("score_rejected: found null"), "{null}");
        let none = says(json!({"subset": "shp", "prompt": "p"}));
        assert!(none.contains("found the keys subset, prompt, expected scores"), "{none}");
        let bare = says(json!({"subset": "shp", "scores": [1.0, 0.0]}));
        assert!(bare.contains("found scores without num_correct"), "{bare}");
        let lists = json!({"subset": "shp", "scores_chosen": [1.5], "scores_rejected": [[0.5]]});
        let (collected, _) = collect("reward-bench", &lists.to_string(), OnError::Fail);
        let collected = collected.unwrap();
        let group = collected.groups.iter().find(|group| group.name == "shp").unwrap();
        let rewards: Vec<f64> = group.rows[0].responses.iter().map(|r| r.reward).collect();
        assert_eq!((rewards, collected.has_lengths), (vec![1.5, 0.5], false));
    }

    #[test]
    fn among_the_responses_are_right_and_wrong_ones() {
        let row = |right: Value| json!({"subset": "Math", "id": "1", "scores": [2.0, 1.0, 0.5, 0.0], "num_correct": right});
        for wrong in [json!(0), json!(4), json!(5), json!(-1), json!(1.5), json!("1")] {
            let said = refused("reward-bench-2", &row(wrong.clone()).to_string());
            assert!(said.starts_with(&format!("rows.jsonl:1: num_correct: found {wrong} with 4 ")), "{said}");
        }
        for right in 1..4 {
            let (collected, _) = collect("reward-bench-2", &row(json!(right)).to_string(), OnError::Fail);
            let collected = collected.unwrap();
            let group = collected.groups.iter().find(|group| group.name == "Math").unwrap();
            let golds: Vec<f64> = group.rows[0].responses.iter().map(|r| r.gold).collect();
            assert_eq!(golds.iter().sum::<f64>(), f64::from(right), "{golds:?}");
        }
        let null = refused("reward-bench-2", &row(Value::Null).to_string());
        assert!(null.contains("found scores without num_correct"), "{null}");
    }

    #[test]
    fn all_rows_name_their_group_or_none() {
        let row =
            |domain: &str| format!(r#"{{{domain}"score_chosen": [1, 2, 3], "score_rejected": [0, 0, 0]}}"#);
        let mixed = [row(""), row(r#""domain": "math", "#)].join("\n");
        let error = refused("rm-bench", &mixed);
        assert!(
            error.starts_with("rows.jsonl:2: found a row of group \"math\" among rows of \"all\""),
            "{error}"
        );
        let (collected, _) = collect("rm-bench", &[row(""), row("")].join("\n"), OnError::Fail);
        assert_eq!(collected.unwrap().done.rows, 2);
        let unknown = refused("rm-bench", &row(r#""domain": "poetry", "#));
        assert!(unknown.contains("poetry"), "{unknown}");
    }

    #[test]
    fn rows_that_are_wrong_are_passed_over_and_told_and_a_broken_file_is_not() {
        let good = r#"{"subset": "shp", "score_chosen": 1.0, "score_rejected": 0.0}"#;
        let lines = [good, "{oops", "[]", r#"{"subset": "shp", "score_chosen": 1.0}"#, good].join("\n");
        let error = refused("reward-bench", &lines);
        assert!(error.starts_with("rows.jsonl:2: "), "{error}");
        let (collected, told) = collect("reward-bench", &lines, OnError::Keep);
        let collected = collected.unwrap();
        assert_eq!((collected.done.rows, collected.failed, collected.done.sequences), (5, 3, 4));
        let places: Vec<&str> = told.iter().map(|error| error.split(": ").next().unwrap()).collect();
        assert_eq!(places, ["rows.jsonl:2", "rows.jsonl:3", "rows.jsonl:4"]);

        let manifest = Manifest::of("reward-bench").unwrap();
        let broken =
            rows(good).chain([Err(Error::Data { path: "rows.gz".into(), reason: "cut short".into() })]);
        let error = read_scores(&manifest, broken, OnError::Keep, |_| {}).unwrap_err();
        assert!(error.to_string().contains("cut short"), "{error}");
    }
}
