//! Scores that are stored already: the figures again, without a model.

use super::score::{first_is_better, golds, rename_columns};
use super::{Collected, Manifest, PlacedGroup, Row};
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
/// A row's own under [`OnError::Fail`], and the source's.
pub fn read_scores(
    manifest: &Manifest,
    rows: impl Iterator<Item = Result<(Option<Arc<str>>, RawRow)>>,
    on_error: OnError,
    mut failed: impl FnMut(Error),
) -> Result<Collected> {
    let mut collected = Collected::new(manifest);
    let mut add_all = |raw: RawRow, group: Option<&str>| -> Result<()> {
        let origin = raw.origin.clone();
        let Value::Object(fields) = raw.value()? else { return Err(origin.error("expected a JSON object")) };
        for (number, fields) in unrolled(fields).enumerate() {
            let mut origin = origin.clone();
            origin.line += number as u64;
            let added = read(&origin, fields, group, manifest).and_then(|(group, row, has_lengths)| {
                collected.check_group(&origin, &group)?;
                collected.has_lengths &= has_lengths;
                collected.done.sequences += row.responses.len() as u64;
                collected.add(group, row);
                Ok(())
            });
            collected.done.rows += 1;
            match added {
                Err(error) if on_error == OnError::Keep => {
                    collected.failed += 1;
                    failed(error);
                }
                other => other?,
            }
        }
        Ok(())
    };
    for row in rows {
        let (group, raw) = row?;
        add_all(raw, group.as_deref())?;
    }
    Ok(collected)
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
    let num_correct = fields.get("num_correct").and_then(Value::as_u64);
    let example = example_of(&fields, manifest).filter(|example| example.responses.len() == rewards.len());
    let gold: Vec<Option<f64>> = match (known, num_correct, &example) {
        (Some(gold), _, _) => gold,
        (None, Some(right), _) => {
            (0..rewards.len() as u64).map(|at| Some(if at < right { 1.0 } else { 0.0 })).collect()
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
