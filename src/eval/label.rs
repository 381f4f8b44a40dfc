//! What `label` does between its input and its output: rows back with gold scores where reading finds them.

use super::evaluate::Progress;
use super::rescore::{NullResponse, Rescored, ScoreOptions, ScoredRow, rescore};
use super::{Scored, SequenceScorer};
use crate::Result;
use crate::data::RowKind;
use crate::data::row::{insert_keeping_own, swap_sides, write_gold};
use crate::data::source::RawRow;
use crate::data::tokenize::EncodeConversation;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

/// What is written beside a row's own fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelOptions {
    /// The field of a completion that gets its gold score.
    pub score_field: String,
    /// Whether a pair whose rejected response has the higher score changes sides.
    pub reorder: bool,
    /// Whether `objectives` is written: of every response the `rewards` of a multi-objective model and its `gate`.
    pub objectives: bool,
}

/// What was labelled.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSummary {
    pub done: Progress,
    /// Rows that came back as an error.
    pub failed: u64,
    /// Names, `input_..`, under which fields that had a score's name are kept, with how often.
    pub renamed: BTreeMap<String, u64>,
    pub pairs: PairCounts,
}

/// How a gold model sees the pairs of a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PairCounts {
    pub pairs: u64,
    /// Pairs whose rejected response has the higher score; with `reorder` they changed sides.
    pub opposed: u64,
    pub ties: u64,
}

/// Writes every row of `rows` to `out` as one line of JSON with gold scores, see [`write_gold`].
///
/// A response that is null in its row is not scored and gets null. Rows stream in windows; `out` is flushed after each,
/// then `progress` is called. `out_name` names it in errors.
///
/// # Errors
/// As [`super::score_rows`]; under `objectives` a model that has none.
pub fn label_rows(
    rows: impl Iterator<Item = Result<RawRow>> + Send + 'static,
    model: (Arc<dyn EncodeConversation>, &dyn SequenceScorer),
    (options, label): (&ScoreOptions, &LabelOptions),
    out: (&str, &mut dyn Write),
    progress: impl FnMut(Progress),
) -> Result<LabelSummary> {
    let (mut renamed, mut pairs) = (BTreeMap::new(), PairCounts::default());
    let answer = |row: ScoredRow| with_gold(row, label, &mut renamed, &mut pairs);
    let Rescored { done, failed } =
        rescore(rows, model, (options, NullResponse::PassOver), out, answer, progress)?;
    Ok(LabelSummary { done, failed, renamed, pairs })
}

fn with_gold(
    row: ScoredRow,
    label: &LabelOptions,
    renamed: &mut BTreeMap<String, u64>,
    counts: &mut PairCounts,
) -> Result<Map<String, Value>, String> {
    let ScoredRow { mut fields, kind, mut scored } = row;
    if kind == RowKind::Pair
        && let [Some(chosen), Some(rejected)] = scored.as_slice()
    {
        counts.pairs += 1;
        counts.ties += u64::from(chosen.reward == rejected.reward);
        if rejected.reward > chosen.reward {
            counts.opposed += 1;
            if label.reorder {
                swap_sides(&mut fields);
                scored.swap(0, 1);
            }
        }
    }
    let gold: Vec<Option<f64>> = scored.iter().map(|s| s.as_ref().map(|s| s.reward)).collect();
    write_gold(&mut fields, &gold, &label.score_field, renamed)?;
    if label.objectives {
        insert_keeping_own(&mut fields, "objectives", objectives(&scored)?, renamed);
    }
    Ok(fields)
}

/// One entry a response, in the order of its scores.
fn objectives(scored: &[Option<Scored>]) -> Result<Value, String> {
    let one = |scored: &Option<Scored>| match scored {
        None => Ok(Value::Null),
        Some(Scored { objectives: Some(objectives), .. }) => Ok(json!(objectives)),
        Some(_) => Err("the model has no objectives"),
    };
    Ok(scored.iter().map(one).collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::TokenGroup;
    use crate::data::source::Rows;
    use crate::eval::OnError;
    use crate::eval::scorer::tests::{IdScorer, reward_of};
    use crate::eval::test_support::ByteEncoder;
    use crate::model::Objectives;
    use std::io::Cursor;

    const PLAIN: LabelOptions =
        LabelOptions { score_field: String::new(), reorder: false, objectives: false };

    /// [`IdScorer`] with two objectives: the reward and its opposite.
    struct TwoSided;

    impl SequenceScorer for TwoSided {
        fn score(&self, groups: &[TokenGroup]) -> Result<Vec<Vec<Scored>>> {
            let mut scored = IdScorer::default().score(groups)?;
            for one in scored.iter_mut().flatten() {
                let rewards = vec![one.reward, -one.reward];
                one.objectives = Some(Box::new(Objectives { rewards, gate: vec![1.0, 0.0] }));
            }
            Ok(scored)
        }
    }

    fn label(texts: &[&str], label: &LabelOptions) -> (LabelSummary, Vec<Value>) {
        let label = LabelOptions { score_field: "overall_score".into(), ..label.clone() };
        let rows = Rows::of_reader("in.jsonl", Cursor::new(texts.join("\n"))).unwrap();
        let options =
            ScoreOptions { max_length: 40, on_error: OnError::Fail, batch_tokens: 99, name_files: false };
        let mut out = Vec::new();
        let model: (Arc<dyn EncodeConversation>, &dyn SequenceScorer) = (Arc::new(ByteEncoder), &TwoSided);
        let summary = label_rows(rows, model, (&options, &label), ("out", &mut out), |_| {}).unwrap();
        let lines = String::from_utf8(out).unwrap();
        (summary, lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
    }

    fn reward(response: &str) -> f64 {
        reward_of(&ByteEncoder::ids("p", response))
    }

    /// The better one of two responses first.
    fn ordered(a: &'static str, b: &'static str) -> (&'static str, &'static str) {
        if reward(a) > reward(b) { (a, b) } else { (b, a) }
    }

    #[test]
    fn each_completion_gets_its_score_and_a_missing_one_null() {
        let (summary, rows) = label(
            &[
                r#"{"instruction":"p","completions":[{"response":"a","overall_score":1},{"response":null},{"response":"b"}]}"#,
            ],
            &PLAIN,
        );
        let scores: Vec<&Value> = (0..3).map(|i| &rows[0]["completions"][i]["overall_score"]).collect();
        assert_eq!(scores, [&json!(reward("a")), &Value::Null, &json!(reward("b"))]);
        assert_eq!((summary.done.rows, summary.done.sequences), (1, 2));
        assert_eq!(summary.renamed, BTreeMap::from([("input_overall_score".to_owned(), 1)]));
    }

    #[test]
    fn a_null_side_of_a_pair_gets_null_and_never_changes_sides() {
        let texts = [
            r#"{"prompt":"p","chosen":null,"rejected":"b"}"#,
            r#"{"prompt":"p","chosen":"a","rejected":null}"#,
            // A column that every row of a table has.
            r#"{"question":"p","response_j":"a","response_k":"b","chosen":null,"rejected":null}"#,
        ];
        let (summary, rows) = label(&texts, &LabelOptions { reorder: true, objectives: true, ..PLAIN });
        let sides = |row: &Value| (row["score_chosen"].clone(), row["score_rejected"].clone());
        assert_eq!(sides(&rows[0]), (Value::Null, json!(reward("b"))));
        assert_eq!((&rows[0]["chosen"], &rows[0]["objectives"][0]), (&Value::Null, &Value::Null));
        assert_eq!(sides(&rows[1]), (json!(reward("a")), Value::Null));
        assert_eq!(rows[1]["chosen"], json!("a"));
        assert_eq!((summary.done.sequences, summary.pairs.pairs), (4, 1));
    }

    #[test]
    fn pairs_change_sides_only_where_asked_and_opposed() {
        let (better, worse) = ordered("one", "two");
        let right = format!(r#"{{"prompt":"p","chosen":"{better}","rejected":"{worse}"}}"#);
        let wrong = format!(
            r#"{{"prompt":"p","chosen":"{worse}","rejected":"{better}","chosen-model":"w","rejected-model":"b"}}"#
        );
        let tie = r#"{"prompt":"p","chosen":"x","rejected":"x"}"#;
        let texts = [right.as_str(), &wrong, tie];
        let (summary, rows) = label(&texts, &PLAIN);
        assert_eq!(summary.pairs, PairCounts { pairs: 3, opposed: 1, ties: 1 });
        assert_eq!((&rows[1]["chosen"], &rows[1]["score_chosen"]), (&json!(worse), &json!(reward(worse))));

        let (summary, rows) = label(&texts, &LabelOptions { reorder: true, objectives: true, ..PLAIN });
        assert_eq!(summary.pairs, PairCounts { pairs: 3, opposed: 1, ties: 1 });
        for row in &rows[..2] {
            assert_eq!((&row["chosen"], &row["rejected"]), (&json!(better), &json!(worse)));
            assert_eq!(row["score_chosen"], json!(reward(better)));
            assert_eq!(row["score_rejected"], json!(reward(worse)));
            assert_eq!(row["objectives"][0]["rewards"][0], json!(reward(better)));
        }
        assert_eq!((&rows[1]["chosen-model"], &rows[1]["rejected-model"]), (&json!("b"), &json!("w")));
    }

    #[test]
    fn objectives_stand_in_the_order_of_the_responses() {
        let (_, rows) = label(
            &[r#"{"prompt":"p","responses":["a",null,"b"]}"#, r#"{"prompt":"p","response":"a"}"#],
            &LabelOptions { objectives: true, ..PLAIN },
        );
        let (a, b) = (reward("a"), reward("b"));
        let entry = |r: f64| json!({"rewards": [r, -r], "gate": [1.0, 0.0]});
        assert_eq!(rows[0]["objectives"], json!([entry(a), null, entry(b)]));
        assert_eq!(rows[0]["scores"], json!([a, null, b]));
        assert_eq!((&rows[1]["objectives"], &rows[1]["score"]), (&json!([entry(a)]), &json!(a)));
    }

    #[test]
    fn objectives_of_a_model_without_them_are_an_error() {
        let rows = Rows::of_reader("in.jsonl", Cursor::new(r#"{"prompt":"p","response":"a"}"#)).unwrap();
        let options =
            ScoreOptions { max_length: 40, on_error: OnError::Fail, batch_tokens: 99, name_files: false };
        let label = LabelOptions { objectives: true, ..PLAIN };
        let scorer = IdScorer::default();
        let model: (Arc<dyn EncodeConversation>, &dyn SequenceScorer) = (Arc::new(ByteEncoder), &scorer);
        let error =
            label_rows(rows, model, (&options, &label), ("out", &mut Vec::new()), |_| {}).unwrap_err();
        assert_eq!(error.to_string(), "in.jsonl:1: the model has no objectives");
    }
}
