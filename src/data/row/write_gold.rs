//! Gold scores into a row, where reading the row finds them again.

use super::schema::{Schema, numbered};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Writes the gold score of every response, in the order of [`super::Example::responses`], into the row's own form:
///
/// | row | field |
/// |---|---|
/// | UltraFeedback | `score_field` of each completion |
/// | k responses | `scores` |
/// | `response_1_text` .. | `all_scores`, null for a slot without a text |
/// | pair of any form | `score_chosen`, `score_rejected` (lists where the sides are lists) |
/// | one response | `score_field` where the row has it, else `score` |
///
/// A response that could not have a score is null. A field that has the name already is kept as `input_..` and counted
/// in `renamed`. Reading ignores the scores of lists, of a pair that is not `chosen` and `rejected`, and of a response
/// that is the end of `messages`: these rows say in other ways which response is better, or have nothing to compare.
///
/// # Errors
/// Another number of scores than the row has responses.
pub fn write_gold(
    fields: &mut Map<String, Value>,
    scores: &[Option<f64>],
    score_field: &str,
    renamed: &mut BTreeMap<String, u64>,
) -> Result<(), String> {
    let schema = Schema::of(fields)?;
    let values = || scores.iter().map(|score| json!(score));
    let fits = |expected: usize| match scores.len() {
        n if n == expected => Ok(()),
        n => Err(format!("{n} scores for a row of {expected} responses")),
    };
    match schema {
        Schema::Completions => {
            let completions = fields.get_mut("completions").and_then(Value::as_array_mut);
            let completions = completions.map_or(&mut [][..], Vec::as_mut_slice);
            fits(completions.len())?;
            for (completion, score) in completions.iter_mut().zip(values()) {
                if let Value::Object(completion) = completion {
                    insert_keeping_own(completion, score_field, score, renamed);
                }
            }
        }
        Schema::Responses => {
            fits(fields.get("responses").and_then(Value::as_array).map_or(0, Vec::len))?;
            insert_keeping_own(fields, "scores", values().collect(), renamed);
        }
        Schema::Numbered => {
            let scores = numbered_scores(fields, scores).ok_or("another number of scores than of texts")?;
            insert_keeping_own(fields, "all_scores", scores.into(), renamed);
        }
        Schema::Comparison | Schema::StackExchange | Schema::LabelledPair => {
            fits(2)?;
            for (key, score) in ["score_chosen", "score_rejected"].into_iter().zip(values()) {
                insert_keeping_own(fields, key, score, renamed);
            }
        }
        Schema::GradedLists => {
            let count = |side: &str| fields.get(side).and_then(Value::as_array).map_or(0, Vec::len);
            let chosen = count("chosen");
            fits(chosen + count("rejected"))?;
            insert_keeping_own(fields, "score_chosen", values().take(chosen).collect(), renamed);
            insert_keeping_own(fields, "score_rejected", values().skip(chosen).collect(), renamed);
        }
        Schema::Reply | Schema::Conversation(_) => {
            fits(1)?;
            // Reading prefers the field that is named, where the row has it.
            let is_named = fields.get(score_field).is_some_and(|value| !value.is_null());
            let key = if is_named { score_field } else { "score" };
            insert_keeping_own(fields, key, values().collect::<Vec<_>>().swap_remove(0), renamed);
        }
    }
    Ok(())
}

/// Inserts `value` under `key`. A value that had this name is kept under the first free one of `input_{key}`,
/// `input_2_{key}` and so on, and counted under that name: what was there first stays `input_{key}`, however often a row
/// is scored.
pub fn insert_keeping_own(
    fields: &mut Map<String, Value>,
    key: &str,
    value: Value,
    renamed: &mut BTreeMap<String, u64>,
) {
    if let Some(own) = fields.insert(key.to_owned(), value) {
        let mut kept = format!("input_{key}");
        let mut pass = 1;
        while fields.contains_key(&kept) {
            pass += 1;
            kept = format!("input_{pass}_{key}");
        }
        *renamed.entry(kept.clone()).or_default() += 1;
        fields.insert(kept, own);
    }
}

/// One place a slot: as many as the row's own list has, so that other lists of that length still fit.
fn numbered_scores(fields: &Map<String, Value>, scores: &[Option<f64>]) -> Option<Vec<Value>> {
    let slots = fields.iter().filter(|(_, value)| !value.is_null()).filter_map(|(key, _)| numbered(key));
    let last = slots.max().unwrap_or(0);
    let own = fields.get("all_scores").and_then(Value::as_array).map_or(0, Vec::len);
    let mut scores = scores.iter();
    let mut places = Vec::with_capacity(last.max(own));
    for slot in 1..=last.max(own) {
        let text = fields.get(&format!("response_{slot}_text"));
        places.push(match text.filter(|text| !text.is_null()) {
            Some(_) => json!(scores.next()?),
            None => Value::Null,
        });
    }
    scores.next().is_none().then_some(places)
}

/// Makes the chosen response of a pair the rejected one and the other way round, with every field that is named after
/// its side (`chosen-model`, `score_rejected`, ..), in the row and in its `metadata`.
pub fn swap_sides(fields: &mut Map<String, Value>) {
    match Schema::of(fields) {
        Ok(Schema::StackExchange) => swap_values(fields, "response_j", "response_k"),
        Ok(Schema::LabelledPair) => {
            if let Some(Value::String(label)) = fields.get_mut("label") {
                *label = if label == "A>B" { "B>A".into() } else { "A>B".into() };
            }
        }
        _ => {}
    }
    swap_named(fields);
    if let Some(Value::Object(metadata)) = fields.get_mut("metadata") {
        swap_named(metadata);
    }
}

fn swap_values(fields: &mut Map<String, Value>, a: &str, b: &str) {
    let taken = fields.get_mut(a).map(Value::take);
    let other = fields.get_mut(b).map(Value::take);
    for (key, value) in [(a, other), (b, taken)] {
        if let (Some(slot), Some(value)) = (fields.get_mut(key), value) {
            *slot = value;
        }
    }
}

/// Every key that names a side gets the value of the other side's; the order of the keys stays.
fn swap_named(fields: &mut Map<String, Value>) {
    let named: Vec<(String, String)> =
        fields.keys().filter_map(|key| Some((key.clone(), other_side(key)?))).collect();
    let is_alone = |other: &str| !fields.contains_key(other);
    if named.iter().any(|(_, other)| is_alone(other)) {
        let renamed = |key: String| other_side(&key).filter(|other| is_alone(other)).unwrap_or(key);
        let owned = fields.clone();
        let rebuilt = owned.into_iter().map(|(key, value)| (renamed(key), value)).collect();
        *fields = rebuilt;
    }
    for (key, other) in named.iter().filter(|(key, other)| key < other) {
        if fields.contains_key(key) && fields.contains_key(other) {
            swap_values(fields, key, other);
        }
    }
}

/// `chosen-model` for `rejected-model` and the other way round; `None` for a key that has neither word.
fn other_side(key: &str) -> Option<String> {
    for (word, other) in [("chosen", "rejected"), ("rejected", "chosen")] {
        let is_edge = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric());
        let found = key.match_indices(word).find(|(at, _)| {
            is_edge(key[..*at].chars().next_back()) && is_edge(key[at + word.len()..].chars().next())
        });
        if let Some((at, _)) = found {
            return Some(format!("{}{other}{}", &key[..at], &key[at + word.len()..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Example;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap()
    }

    fn written(row: Value, scores: &[Option<f64>]) -> (Value, BTreeMap<String, u64>) {
        let (mut fields, mut renamed) = (object(row), BTreeMap::new());
        write_gold(&mut fields, scores, "overall_score", &mut renamed).unwrap();
        (Value::Object(fields), renamed)
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let rows = [
            json!({"instruction": "p", "completions": [{"response": "a", "overall_score": 7}, {"response": "b"}]}),
            json!({"instruction": "p", "completions": [
                {"response": "a", "annotations": {"x": {"Rating": "5"}}}, {"response": "b", "fine-grained_score": 9}]}),
            json!({"prompt": "p", "responses": ["a", "b"], "scores": [4, 5], "models": ["m", "n"]}),
            json!({"prompt": "p", "responses": [{"response": "a", "overall_score": 3}, {"response": "b"}]}),
            json!({"instruction": "p", "response_1_text": "a", "response_2_text": "b", "all_scores": [1, 2]}),
            json!({"prompt": "p", "chosen": "a", "rejected": "b", "score_chosen": 1}),
        ];
        let is_read = |row: &Value, gold: &[Option<f64>]| {
            let (labelled, _) = written(row.clone(), gold);
            let example = Example::from_json(labelled.clone(), "overall_score").unwrap();
            let scores: Vec<_> = example.responses.iter().map(|r| r.score).collect();
            assert_eq!(scores, gold, "{row} became {labelled}");
        };
        for row in rows {
            is_read(&row, &[Some(-0.25), Some(1.5)]);
        }
        for own in [
            json!({}),
            json!({"score": 4}),
            json!({"overall_score": 7}),
            json!({"overall_score": null}),
            json!({"overall_score": 7, "score": 4}),
            json!({"overall_score": "N/A", "score": 4}),
        ] {
            let mut row = json!({"prompt": "p", "response": "a", "model": "m"});
            row.as_object_mut().unwrap().extend(object(own));
            is_read(&row, &[Some(-0.25)]);
        }
    }

    #[test]
    fn where_reading_has_no_place_for_a_score_it_is_written_and_ignored() {
        let turns = json!([{"role": "user", "content": "p"}, {"role": "assistant", "content": "a"}]);
        for (row, gold) in [
            (json!({"messages": turns}), vec![Some(2.0)]),
            (json!({"question": "p", "response_j": "a", "response_k": "b"}), vec![Some(2.0), Some(3.0)]),
            (
                json!({"question": "p", "response_A": "a", "response_B": "b", "label": "A>B"}),
                vec![Some(2.0), Some(3.0)],
            ),
            (json!({"prompt": "p", "chosen": ["a"], "rejected": ["b"]}), vec![Some(2.0), Some(3.0)]),
        ] {
            let (labelled, _) = written(row.clone(), &gold);
            assert_ne!(labelled, row);
            let read = |row: Value| Example::from_json(row, "overall_score").unwrap();
            assert_eq!(read(labelled), read(row));
        }
    }

    #[test]
    fn every_pass_keeps_what_it_found() {
        let first = written(json!({"prompt": "p", "response": "a", "score": 7}), &[Some(1.0)]).0;
        let second = written(first, &[Some(2.0)]).0;
        let (third, renamed) = written(second, &[Some(3.0)]);
        let expected = json!({"prompt": "p", "response": "a", "score": 3.0, "input_score": 7,
            "input_2_score": 1.0, "input_3_score": 2.0});
        assert_eq!(third, expected);
        assert_eq!(renamed, BTreeMap::from([("input_3_score".to_owned(), 1)]));
    }

    #[test]
    fn own_scores_are_kept_under_another_name() {
        let (row, renamed) = written(
            json!({"instruction": "p", "completions": [{"response": "a", "overall_score": 7}]}),
            &[Some(0.5)],
        );
        let expected = json!({"response": "a", "overall_score": 0.5, "input_overall_score": 7});
        assert_eq!(row["completions"][0], expected);
        assert_eq!(renamed, BTreeMap::from([("input_overall_score".to_owned(), 1)]));
    }

    #[test]
    fn an_unused_slot_and_a_missing_response_have_no_score() {
        let slots = json!({"instruction": "p", "response_1_text": "a", "response_2_text": null,
            "response_3_text": "c", "response_4_text": null, "all_scores": [1, 2, 3, 4],
            "models": ["a", "b", "c", "d"]});
        let (row, _) = written(slots, &[Some(1.0), Some(2.0)]);
        assert_eq!(row["all_scores"], json!([1.0, null, 2.0, null]));
        Example::from_json(row, "overall_score").expect("the lists still fit");
        let (row, _) = written(json!({"prompt": "p", "responses": ["a", null]}), &[Some(1.0), None]);
        assert_eq!(row["scores"], json!([1.0, null]));
    }

    #[test]
    fn lists_of_right_and_wrong_answers_get_lists() {
        let (row, _) = written(
            json!({"prompt": "p", "chosen": ["a", "b"], "rejected": ["c"]}),
            &[Some(1.0), Some(2.0), None],
        );
        assert_eq!((&row["score_chosen"], &row["score_rejected"]), (&json!([1.0, 2.0]), &json!([null])));
    }

    #[test]
    fn another_number_of_scores_is_an_error() {
        for row in [
            json!({"prompt": "p", "response": "a"}),
            json!({"prompt": "p", "chosen": "a", "rejected": "b"}),
            json!({"instruction": "p", "completions": []}),
            json!({"instruction": "p", "response_1_text": "a"}),
        ] {
            let scores = [Some(1.0); 3];
            assert!(write_gold(&mut object(row), &scores, "overall_score", &mut BTreeMap::new()).is_err());
        }
    }

    #[test]
    fn what_is_named_after_a_side_changes_sides() {
        let mut row = object(json!({"prompt": "p", "chosen": "a", "rejected": "b", "chosen-model": "m",
            "score_rejected": 2, "score_chosen": 1, "unchosen": 0, "metadata": {"chosen_rating": 5}}));
        let before = row.clone();
        swap_sides(&mut row);
        assert_eq!(
            Value::Object(row.clone()).to_string(),
            r#"{"prompt":"p","chosen":"b","rejected":"a","rejected-model":"m","score_rejected":1,"score_chosen":2,"unchosen":0,"metadata":{"rejected_rating":5}}"#
        );
        swap_sides(&mut row);
        assert_eq!(row, before);
    }

    #[test]
    fn every_form_of_a_pair_can_be_swapped() {
        for row in [
            json!({"prompt": "p", "chosen": "a", "rejected": "b"}),
            json!({"prompt": "p", "chosen": null, "rejected": "b"}),
            json!({"question": "p", "response_j": "a", "response_k": "b"}),
            json!({"question": "p", "response_A": "a", "response_B": "b", "label": "B>A"}),
            json!({"conversations": [{"from": "human", "value": "p"}], "chosen": {"from": "gpt", "value": "a"},
                "rejected": {"from": "gpt", "value": "b"}}),
        ] {
            let read = |row: &Map<String, Value>| {
                Example::from_json(Value::Object(row.clone()), "overall_score").unwrap().responses
            };
            let mut fields = object(row);
            let mut expected = read(&fields);
            expected.swap(0, 1);
            swap_sides(&mut fields);
            assert_eq!(read(&fields), expected);
        }
    }
}
