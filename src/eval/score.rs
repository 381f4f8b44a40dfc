//! What `score` does between its input and its output: rows back with their scores.

use super::evaluate::Progress;
use super::rescore::{NullResponse, Rescored, ScoreOptions, ScoredRow, rescore};
use super::{Scored, SequenceScorer};
use crate::Result;
use crate::data::RowKind;
use crate::data::row::insert_keeping_own;
use crate::data::source::RawRow;
use crate::data::tokenize::EncodeConversation;
use crate::model::Disagreement;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

/// What was scored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScoreSummary {
    pub done: Progress,
    /// Rows that came back as an error.
    pub failed: u64,
    /// Names, `input_..`, under which fields that had a score's name are kept, with the number of rows.
    pub renamed: BTreeMap<String, u64>,
}

/// Writes every row of `rows` to `out` as one line of JSON, with `score` (one response), `score_chosen` and
/// `score_rejected` (a pair; two lists where the row has lists) or `scores` (k responses) added. An ensemble adds each
/// of them twice more, with `_min` (the lowest reward of any head) and `_spread` (the population standard deviation
/// over the heads).
///
/// Keys keep their order. A field that has the name of a score already (a gold score, say) is kept as `input_..`,
/// whatever it holds: gold is not read. Rows stream in windows; `out` is flushed after each, then `progress` is called.
/// `out_name` names it in errors.
///
/// # Errors
/// A row's error under [`super::OnError::Fail`], after the rows before it are written; in both modes the source's errors
/// that are not of one row, the scorer's, [`crate::Error::Interrupted`], and [`crate::Error::Io`] of `out`.
pub fn score_rows(
    rows: impl Iterator<Item = Result<RawRow>> + Send + 'static,
    encoder: Arc<dyn EncodeConversation>,
    scorer: &dyn SequenceScorer,
    options: &ScoreOptions,
    out: (&str, &mut dyn Write),
    progress: impl FnMut(Progress),
) -> Result<ScoreSummary> {
    let mut renamed = BTreeMap::new();
    let Rescored { done, failed } = rescore(
        rows,
        (encoder, scorer),
        (options, NullResponse::Score),
        out,
        |row| answer(row, &mut renamed),
        progress,
    )?;
    Ok(ScoreSummary { done, failed, renamed })
}

/// The row's own fields and its scores.
fn answer(row: ScoredRow, renamed: &mut BTreeMap<String, u64>) -> Result<Map<String, Value>, String> {
    let ScoredRow { mut fields, kind, scored } = row;
    let scored: Vec<Scored> = scored.into_iter().flatten().collect();
    let rewards: Vec<f64> = scored.iter().map(|s| s.reward).collect();
    add_figures(&mut fields, kind, "", &rewards, renamed)?;
    // All of them, or none: heads belong to the model. A row without responses does not tell.
    let heads: Option<Vec<Disagreement>> = scored.iter().map(|s| s.disagreement).collect();
    if let Some(heads) = heads.filter(|heads| !heads.is_empty()) {
        let lowest: Vec<f64> = heads.iter().map(|heads| heads.min).collect();
        let spreads: Vec<f64> = heads.iter().map(|heads| heads.spread).collect();
        add_figures(&mut fields, kind, "_min", &lowest, renamed)?;
        add_figures(&mut fields, kind, "_spread", &spreads, renamed)?;
    }
    Ok(fields)
}

/// A row's fields with the scores of its responses added, in the form that goes with its kind.
///
/// # Errors
/// As many scores as the kind cannot have.
pub(super) fn with_scores(
    mut fields: Map<String, Value>,
    kind: RowKind,
    rewards: &[f64],
    renamed: &mut BTreeMap<String, u64>,
) -> Result<Map<String, Value>, String> {
    add_figures(&mut fields, kind, "", rewards, renamed)?;
    Ok(fields)
}

/// Adds one figure of every response, under the names that scores have in a row of this kind, with `suffix`.
fn add_figures(
    fields: &mut Map<String, Value>,
    kind: RowKind,
    suffix: &str,
    figures: &[f64],
    renamed: &mut BTreeMap<String, u64>,
) -> Result<(), String> {
    let graded = graded_lists(fields, figures.len());
    let figures: Vec<Value> = figures.iter().map(|figure| json!(figure)).collect();
    let mut add =
        |name: &str, figure: Value| insert_keeping_own(fields, &format!("{name}{suffix}"), figure, renamed);
    match (kind, figures.as_slice()) {
        (RowKind::Single, [figure]) => add("score", figure.clone()),
        (RowKind::Pair, [chosen, rejected]) => {
            add("score_chosen", chosen.clone());
            add("score_rejected", rejected.clone());
        }
        (RowKind::Ranked, _) if let Some(chosen) = graded => {
            let (chosen, rejected) = figures.split_at(chosen);
            add("score_chosen", chosen.into());
            add("score_rejected", rejected.into());
        }
        (RowKind::Ranked, _) => add("scores", Value::Array(figures)),
        (kind, _) => return Err(format!("a {kind:?} row cannot have {} responses", figures.len())),
    }
    Ok(())
}

/// How many of the responses are the chosen ones, where a row holds lists of right and wrong answers.
fn graded_lists(fields: &Map<String, Value>, responses: usize) -> Option<usize> {
    let list = |key: &str| fields.get(key).and_then(Value::as_array).map(Vec::len);
    let (chosen, rejected) = list("chosen").zip(list("rejected"))?;
    (chosen + rejected == responses).then_some(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use crate::data::TokenGroup;
    use crate::data::source::Rows;
    use crate::eval::scorer::tests::{IdScorer, reward_of};
    use crate::eval::test_support::ByteEncoder;
    use crate::eval::{OnError, is_error_row};
    use std::io;

    fn rows(texts: &[&str]) -> Rows {
        Rows::of_reader("in.jsonl", io::Cursor::new(texts.join("\n"))).unwrap()
    }

    fn score(
        rows: impl Iterator<Item = Result<RawRow>> + Send + 'static,
        on_error: OnError,
        batch_tokens: usize,
    ) -> (Result<ScoreSummary>, Vec<String>) {
        let mut out = Vec::new();
        let options = ScoreOptions { max_length: 40, on_error, batch_tokens, name_files: false };
        let summary = score_rows(
            rows,
            Arc::new(ByteEncoder),
            &IdScorer::default(),
            &options,
            ("out", &mut out),
            |_| {},
        );
        (summary, String::from_utf8(out).unwrap().lines().map(String::from).collect())
    }

    fn reward(prompt: &str, response: &str) -> f64 {
        reward_of(&ByteEncoder::ids(prompt, response))
    }

    #[test]
    fn each_kind_is_answered_in_kind_and_keeps_its_fields() {
        let (summary, lines) = score(
            rows(&[
                r#"{"zebra":1e-7,"prompt":"p","response":"r","n":1.0,"big":18446744073709551615}"#,
                r#"{"prompt":"p","chosen":"good","rejected":"bad"}"#,
                r#"{"prompt":"p","responses":["a","b","c"],"nested":{"b":1,"a":[null,0.1]}}"#,
                r#"{"prompt":"p","responses":[]}"#,
            ]),
            OnError::Fail,
            1000,
        );
        let (a, b, c) = (reward("p", "a"), reward("p", "b"), reward("p", "c"));
        assert_eq!(
            lines,
            [
                format!(
                    r#"{{"zebra":1e-7,"prompt":"p","response":"r","n":1.0,"big":18446744073709551615,"score":{:?}}}"#,
                    reward("p", "r")
                ),
                format!(
                    r#"{{"prompt":"p","chosen":"good","rejected":"bad","score_chosen":{:?},"score_rejected":{:?}}}"#,
                    reward("p", "good"),
                    reward("p", "bad")
                ),
                format!(
                    r#"{{"prompt":"p","responses":["a","b","c"],"nested":{{"b":1,"a":[null,0.1]}},"scores":[{a:?},{b:?},{c:?}]}}"#
                ),
                r#"{"prompt":"p","responses":[],"scores":[]}"#.into(),
            ]
        );
        let summary = summary.unwrap();
        assert_eq!((summary.done.rows, summary.done.sequences, summary.failed), (4, 6, 0));
    }

    #[test]
    fn lists_of_right_and_wrong_answers_are_answered_by_lists() {
        let (_, lines) =
            score(rows(&[r#"{"prompt":"p","chosen":["a","b"],"rejected":["c"]}"#]), OnError::Fail, 1000);
        let row: Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!(row["score_chosen"], json!([reward("p", "a"), reward("p", "b")]));
        assert_eq!(row["score_rejected"], json!([reward("p", "c")]));
        assert_eq!(row.get("scores"), None);
    }

    /// Three heads, whose rewards are the length of a sequence times 1, 2 and 6.
    struct Ensemble;

    impl SequenceScorer for Ensemble {
        fn score(&self, groups: &[TokenGroup]) -> Result<Vec<Vec<Scored>>> {
            let scored = |ids: &Vec<u32>| {
                let length = ids.len() as f64;
                let disagreement =
                    Some(Disagreement { min: length, spread: length * (14.0f64 / 3.0).sqrt() });
                Scored { reward: 3.0 * length, hidden_norm: 1.0, disagreement, objectives: None }
            };
            Ok(groups.iter().map(|g| g.sequences.iter().map(scored).collect()).collect())
        }
    }

    #[test]
    fn an_ensemble_adds_its_lowest_reward_and_its_spread_to_every_kind() {
        let mut out = Vec::new();
        let options =
            ScoreOptions { max_length: 40, on_error: OnError::Fail, batch_tokens: 99, name_files: false };
        let input = rows(&[
            r#"{"prompt":"p","response":"r","score_min":7}"#,
            r#"{"prompt":"p","chosen":"good","rejected":"bad"}"#,
            r#"{"prompt":"p","responses":["a","bc"]}"#,
            r#"{"prompt":"p","chosen":["a","bc"],"rejected":["d"]}"#,
        ]);
        let encoder = Arc::new(ByteEncoder);
        let summary = score_rows(input, encoder, &Ensemble, &options, ("out", &mut out), |_| {}).unwrap();
        let text = String::from_utf8(out).unwrap();
        let found: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        // A response of n bytes makes n + 4 tokens of this prompt.
        let spread = |length: u32| json!(f64::from(length) * (14.0f64 / 3.0).sqrt());
        let expected = [
            json!({"prompt": "p", "response": "r", "score": 15.0, "score_min": 5.0, "input_score_min": 7,
                   "score_spread": spread(5)}),
            json!({"prompt": "p", "chosen": "good", "rejected": "bad", "score_chosen": 24.0,
                   "score_rejected": 21.0, "score_chosen_min": 8.0, "score_rejected_min": 7.0,
                   "score_chosen_spread": spread(8), "score_rejected_spread": spread(7)}),
            json!({"prompt": "p", "responses": ["a", "bc"], "scores": [15.0, 18.0], "scores_min": [5.0, 6.0],
                   "scores_spread": [spread(5), spread(6)]}),
            json!({"prompt": "p", "chosen": ["a", "bc"], "rejected": ["d"], "score_chosen": [15.0, 18.0],
                   "score_rejected": [15.0], "score_chosen_min": [5.0, 6.0], "score_rejected_min": [5.0],
                   "score_chosen_spread": [spread(5), spread(6)], "score_rejected_spread": [spread(5)]}),
        ];
        assert_eq!(found, expected);
        assert_eq!(summary.renamed, BTreeMap::from([("input_score_min".to_owned(), 1)]));
    }

    #[test]
    fn scores_round_trip() {
        let (_, lines) = score(rows(&[r#"{"prompt":"p","response":"r"}"#]), OnError::Fail, 1000);
        let value: Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!(value["score"].as_f64().unwrap().to_bits(), reward("p", "r").to_bits());
    }

    #[test]
    fn a_gold_field_of_the_same_name_is_kept_under_another() {
        let (summary, lines) = score(
            rows(&[r#"{"prompt":"p","responses":["a"],"scores":[9.5],"id":"x"}"#]),
            OnError::Fail,
            1000,
        );
        let a = reward("p", "a");
        assert_eq!(
            lines,
            [format!(r#"{{"prompt":"p","responses":["a"],"scores":[{a:?}],"id":"x","input_scores":[9.5]}}"#)]
        );
        assert_eq!(summary.unwrap().renamed, BTreeMap::from([("input_scores".to_owned(), 1)]));
        // What was gold before the first pass is still there after the second.
        let (summary, lines) = score(rows(&[&lines[0]]), OnError::Fail, 1000);
        assert!(
            lines[0].ends_with(&format!(r#""input_scores":[9.5],"input_2_scores":[{a:?}]}}"#)),
            "{lines:?}"
        );
        assert_eq!(summary.unwrap().renamed, BTreeMap::from([("input_2_scores".to_owned(), 1)]));
    }

    #[test]
    fn gold_that_cannot_be_read_keeps_no_row_from_its_scores() {
        let (summary, lines) = score(
            rows(&[
                r#"{"instruction":"p","completions":[{"response":"a","overall_score":"10/10"}]}"#,
                r#"{"prompt":"p","responses":["a"],"scores":["good",2],"models":[],"margin":"wide"}"#,
                r#"{"instruction":"p","response_1_text":"a","all_scores":[]}"#,
            ]),
            OnError::Fail,
            1000,
        );
        assert_eq!(summary.unwrap().failed, 0);
        for line in lines {
            let row: Value = serde_json::from_str(&line).unwrap();
            assert_eq!(row["scores"], json!([reward("p", "a")]), "{line}");
        }
    }

    #[test]
    fn an_error_that_is_kept_names_its_file_where_there_are_several() {
        let texts = [r#"{"prompt":"p","response":"r"}"#, "{oops"];
        let kept = |name_files| {
            let options =
                ScoreOptions { max_length: 40, on_error: OnError::Keep, batch_tokens: 99, name_files };
            let mut out = Vec::new();
            let scorer = IdScorer::default();
            score_rows(rows(&texts), Arc::new(ByteEncoder), &scorer, &options, ("out", &mut out), |_| {})
                .unwrap();
            let lines = String::from_utf8(out).unwrap();
            let lines: Vec<&str> = lines.lines().collect();
            assert_eq!(lines.iter().map(|l| is_error_row(l.as_bytes())).collect::<Vec<_>>(), [false, true]);
            serde_json::from_str::<Value>(lines[1]).unwrap()
        };
        let one = kept(false);
        assert_eq!((&one["line"], one.get("file")), (&json!(2), None));
        let several = kept(true);
        assert_eq!((&several["file"], &several["line"]), (&json!("in.jsonl"), &json!(2)));
        assert_eq!(several["error"], one["error"]);
    }

    #[test]
    fn a_bad_row_ends_the_run_after_the_rows_before_it() {
        let bad = rows(&[r#"{"prompt":"p","response":"r"}"#, "{oops", r#"{"prompt":"p","response":"s"}"#]);
        let (summary, lines) = score(bad, OnError::Fail, 1000);
        let error = summary.unwrap_err();
        assert!(error.to_string().starts_with("in.jsonl:2: "), "{error}");
        assert_eq!((error.exit_code(), lines.len()), (2, 1));
    }

    #[test]
    fn a_bad_row_comes_back_in_its_place_where_it_is_kept() {
        let long = format!(r#"{{"prompt":"p","responses":["a","{}"]}}"#, "x".repeat(60));
        let bad = rows(&[r#"{"prompt":"p","response":"r"}"#, "{oops", r#"{"prompt":1}"#, "[]", &long]);
        let (summary, lines) = score(bad, OnError::Keep, 1000);
        assert_eq!(summary.unwrap().failed, 4);
        let lines: Vec<Value> = lines.iter().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(lines.len(), 5);
        for (at, needle) in
            [(1, "key must be a string"), (2, "prompt"), (3, "object"), (4, "more than the 40")]
        {
            assert_eq!(lines[at]["line"], at + 1);
            assert!(lines[at]["error"].as_str().unwrap().contains(needle), "{}", lines[at]);
        }
        assert!(lines[4]["error"].as_str().unwrap().ends_with("(response 2 of 2)"), "{}", lines[4]);
        assert_eq!(lines[0]["score"], reward("p", "r"));
    }

    #[test]
    fn an_error_of_the_file_ends_the_run_in_both_modes() {
        let broken = Err(Error::Data { path: "in.gz".into(), reason: "ends in the middle".into() });
        let broken = rows(&[r#"{"prompt":"p","response":"r"}"#]).chain([broken]);
        let (summary, lines) = score(broken, OnError::Keep, 1000);
        assert_eq!(summary.unwrap_err().to_string(), "in.gz: ends in the middle");
        assert_eq!(lines.len(), 1);
    }

    #[test]
    fn a_score_that_is_no_number_is_an_error_of_its_row() {
        struct Diverged;
        impl SequenceScorer for Diverged {
            fn score(&self, groups: &[TokenGroup]) -> Result<Vec<Vec<Scored>>> {
                let nan = Scored { reward: f64::NAN, hidden_norm: 1.0, disagreement: None, objectives: None };
                Ok(groups.iter().map(|g| vec![nan.clone(); g.sequences.len()]).collect())
            }
        }
        let mut out = Vec::new();
        let options =
            ScoreOptions { max_length: 40, on_error: OnError::Keep, batch_tokens: 99, name_files: false };
        let one = rows(&[r#"{"prompt":"p","response":"r"}"#]);
        score_rows(one, Arc::new(ByteEncoder), &Diverged, &options, ("out", &mut out), |_| {}).unwrap();
        assert!(String::from_utf8(out).unwrap().contains("reward is NaN"));
    }

    #[test]
    fn order_and_scores_do_not_depend_on_the_batch_size() {
        let texts: Vec<String> = (0..700)
            .map(|i| format!(r#"{{"prompt":"p{}","response":"{}"}}"#, i % 10, "x".repeat(i * 7 % 25)))
            .collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let (_, expected) = score(rows(&texts), OnError::Fail, 1_000_000);
        assert_eq!(expected.len(), 700);
        for batch_tokens in [1, 50, 1000] {
            assert_eq!(score(rows(&texts), OnError::Fail, batch_tokens).1, expected);
        }
    }

    #[test]
    fn a_reader_that_went_away_is_an_io_error_with_its_kind() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let options =
            ScoreOptions { max_length: 40, on_error: OnError::Fail, batch_tokens: 99, name_files: false };
        let one = rows(&[r#"{"prompt":"p","response":"r"}"#]);
        let scorer = IdScorer::default();
        let error =
            score_rows(one, Arc::new(ByteEncoder), &scorer, &options, ("stdout", &mut Closed), |_| {})
                .unwrap_err();
        assert!(matches!(error, Error::Io { source, .. } if source.kind() == io::ErrorKind::BrokenPipe));
    }
}
