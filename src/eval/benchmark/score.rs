//! A benchmark's rows through the scorer: one pass, every row's responses together, so that they share its prompt.

use super::{Collected, Manifest, Outputs, PlacedGroup, Row, Rule};
use crate::data::config::Overlong;
use crate::data::length::{Fitted, ResponseStart, fit_conversations};
use crate::data::source::RawRow;
use crate::data::tokenize::EncodeConversation;
use crate::data::{Example, Message, RowKind, TokenGroup};
use crate::eval::evaluate::{characters, encode_response, take_group, too_long};
use crate::eval::scorer::score_groups;
use crate::eval::window::{Limits, Windows};
use crate::eval::{Judged, OnError, Origin, Progress, SequenceScorer};
use crate::{Error, Result};
use serde_json::{Map, Value};
use std::sync::Arc;

/// How rows become sequences, and what is kept of them for the files that are written.
#[derive(Debug, Clone, Copy)]
pub struct BenchOptions {
    /// Most tokens of one rendered conversation.
    pub max_length: usize,
    /// What happens to a row with a longer one; [`Overlong::Error`] is an error of its row.
    pub overlong: Overlong,
    /// Under [`OnError::Keep`] a row that cannot be scored is passed over and counted.
    pub on_error: OnError,
    /// Tokens computed at once; scores do not depend on it.
    pub batch_tokens: usize,
    /// Whose files are written, if any.
    pub outputs: Option<Outputs>,
}

/// A row with its scores, for the files that are written.
#[derive(Debug)]
pub struct ScoredRow<'a> {
    /// The row as it was read; empty where nothing is written.
    pub fields: Map<String, Value>,
    pub kind: RowKind,
    pub group: &'a str,
    /// That of its group.
    pub rule: Rule,
    pub row: &'a Row,
    /// Of every response, those without a gold score included.
    pub rewards: Vec<f64>,
    /// The prompt and every conversation as the template renders them; empty where nobody writes them.
    pub rendered: Vec<String>,
}

/// A row that was tokenized but not yet scored.
struct Prepared {
    origin: Origin,
    group: PlacedGroup,
    kind: RowKind,
    fields: Map<String, Value>,
    rendered: Vec<String>,
    /// Without its rewards.
    row: Row,
    /// Which of the responses have a place in `row`.
    judged: Vec<bool>,
    tokens: TokenGroup,
    token_count: usize,
    truncated: bool,
}

enum Fate {
    Ready(Box<Prepared>),
    Overlong,
}

/// Scores every row of `rows`, each with the group that its file has, if any.
///
/// Rows stream in windows; what is kept of one is a few numbers a response. `sink` is given every row in order,
/// scored or (under [`OnError::Keep`]) with what is wrong with it; `progress` is called after every window.
///
/// # Errors
/// A row's own under [`OnError::Fail`]; the source's and the scorer's; [`Error::Interrupted`]; what `sink` returns.
pub fn score_benchmark(
    manifest: &Arc<Manifest>,
    rows: impl Iterator<Item = Result<(Option<Arc<str>>, RawRow)>> + Send + 'static,
    encoder: Arc<dyn EncodeConversation>,
    scorer: &dyn SequenceScorer,
    options: &BenchOptions,
    mut sink: impl FnMut(std::result::Result<ScoredRow<'_>, Error>) -> Result<()>,
    mut progress: impl FnMut(Progress),
) -> Result<Collected> {
    let prepare = {
        let (manifest, options) = (manifest.clone(), *options);
        move |row: Result<(Option<Arc<str>>, RawRow)>| {
            let (group, row) = row?;
            prepare(row, group.as_deref(), &manifest, encoder.as_ref(), &options)
        }
    };
    let windows = Windows::spawn(
        rows,
        Limits::for_batches_of(options.batch_tokens),
        |row| row.as_ref().map_or(0, |(_, row)| row.bytes()),
        prepare,
        |fate: &Result<Fate>| match fate {
            Ok(Fate::Ready(row)) => row.token_count,
            _ => 0,
        },
    )?;

    let is_kept = |error: &Error| options.on_error == OnError::Keep && matches!(error, Error::Row { .. });
    let mut collected = Collected::new(manifest);
    for window in windows {
        let mut rows = window?;
        // What follows the row that ends the run need not be scored.
        if let Some(last) = rows.iter().position(|row| row.as_ref().is_err_and(|error| !is_kept(error))) {
            rows.truncate(last + 1);
        }
        let groups = rows.iter_mut().filter_map(|row| match row {
            Ok(Fate::Ready(row)) => Some(take_group(&mut row.tokens)),
            _ => None,
        });
        let mut scored = score_groups(scorer, groups.collect(), options.batch_tokens)?.into_iter();
        for row in rows {
            collected.done.rows += 1;
            let added = match row {
                Ok(Fate::Overlong) => {
                    collected.overlong += 1;
                    continue;
                }
                Ok(Fate::Ready(row)) => {
                    let rewards = scored.next().unwrap_or_default().iter().map(|s| s.reward).collect();
                    add(&mut collected, *row, rewards, &mut sink)
                }
                Err(error) => Err(error),
            };
            match added {
                Err(error) if is_kept(&error) => {
                    collected.failed += 1;
                    sink(Err(error))?;
                }
                other => other?,
            }
        }
        progress(collected.done);
    }
    Ok(collected)
}

/// Gives a row its rewards, hands it to the sink and keeps its numbers.
fn add(
    collected: &mut Collected,
    prepared: Prepared,
    rewards: Vec<f64>,
    sink: &mut impl FnMut(std::result::Result<ScoredRow<'_>, Error>) -> Result<()>,
) -> Result<()> {
    let Prepared { origin, group, kind, fields, rendered, mut row, judged, token_count, truncated, .. } =
        prepared;
    if let Some(bad) = rewards.iter().find(|reward| !reward.is_finite()) {
        return Err(origin.error(format!("the model's reward is {bad}, which is not a score")));
    }
    let counted = rewards.iter().zip(&judged).filter(|(_, judged)| **judged);
    row.responses.iter_mut().zip(counted).for_each(|(response, (&reward, _))| response.reward = reward);
    collected.check_group(&origin, &group)?;
    collected.done.sequences += rewards.len() as u64;
    collected.done.tokens += token_count as u64;
    collected.truncated += u64::from(truncated);
    let rule = group.rule;
    sink(Ok(ScoredRow { fields, kind, group: &group.name, rule, row: &row, rewards, rendered }))?;
    collected.add(group, row);
    Ok(())
}

/// Parses and tokenizes one row.
fn prepare(
    raw: RawRow,
    group: Option<&str>,
    manifest: &Manifest,
    encoder: &dyn EncodeConversation,
    options: &BenchOptions,
) -> Result<Fate> {
    let origin = raw.origin.clone();
    let refuse = |reason: String| origin.error(reason);
    let Value::Object(mut fields) = raw.value()? else { return Err(origin.error("expected a JSON object")) };
    rename_columns(manifest, &mut fields);
    let group = PlacedGroup::of(manifest, group, &fields).map_err(refuse)?;
    let example = Example::from_json(Value::Object(fields.clone()), &manifest.score_field).map_err(refuse)?;
    let golds = golds(&example);
    let judged: Vec<bool> = golds.iter().map(Option::is_some).collect();
    let responses = example.responses.iter().zip(&golds).filter_map(|(response, gold)| {
        Some(Judged { gold: (*gold)?, reward: 0.0, length: characters(&response.messages) })
    });
    let row = Row {
        id: example.id.clone().unwrap_or_default(),
        responses: responses.collect(),
        first_is_better: first_is_better(&fields),
    };
    group.rule.check(&row).map_err(refuse)?;

    let sequences = (0..example.responses.len())
        .map(|response| encode_response(&origin, &example, response, encoder))
        .collect::<Result<_>>()?;
    let tokens = TokenGroup { sequences };
    let longest = tokens.sequences.iter().map(Vec::len).max().unwrap_or(0);
    let fitted = match options.overlong {
        _ if longest <= options.max_length => Fitted::Whole(tokens),
        Overlong::TruncatePromptLeft => {
            let response = example.responses.first().map_or(&[][..], |first| first.messages.as_slice());
            let start = ResponseStart::after(&example.prompt, response, encoder);
            fit_conversations(tokens, options.max_length, &start)
        }
        _ => Fitted::TooLong { tokens: longest },
    };
    let (tokens, truncated) = match fitted {
        Fitted::Whole(tokens) => (tokens, false),
        Fitted::Truncated(tokens) => (tokens, true),
        Fitted::TooLong { tokens } if options.overlong == Overlong::Error => {
            return Err(origin.error(too_long(tokens, options.max_length)));
        }
        Fitted::TooLong { .. } => return Ok(Fate::Overlong),
    };
    let rendered = match options.outputs {
        Some(Outputs::RewardBench) => rendered(&origin, &example, encoder)?,
        _ => Vec::new(),
    };
    if options.outputs.is_none() {
        fields = Map::new();
    }
    let token_count = tokens.sequences.iter().map(Vec::len).sum();
    let kind = example.kind;
    Ok(Fate::Ready(Box::new(Prepared {
        origin,
        group,
        kind,
        fields,
        rendered,
        row,
        judged,
        tokens,
        token_count,
        truncated,
    })))
}

/// The prompt alone, then every conversation.
fn rendered(origin: &Origin, example: &Example, encoder: &dyn EncodeConversation) -> Result<Vec<String>> {
    let render =
        |messages: &[Message]| encoder.render(messages).map_err(|error| origin.error(error.to_string()));
    let conversations = (0..example.responses.len()).map(|i| render(&example.conversation(i)));
    std::iter::once(render(&example.prompt)).chain(conversations).collect()
}

/// Names columns as rows are read by.
pub(super) fn rename_columns(manifest: &Manifest, fields: &mut Map<String, Value>) {
    for (from, to) in &manifest.columns {
        if let Some(value) = fields.shift_remove(from) {
            fields.insert(to.clone(), value);
        }
    }
}

/// What each response is worth: by its place in a pair, else by its gold score.
pub(super) fn golds(example: &Example) -> Vec<Option<f64>> {
    match example.kind {
        RowKind::Pair => vec![Some(1.0), Some(0.0)],
        RowKind::Ranked | RowKind::Single => {
            example.responses.iter().map(|response| response.score.filter(|gold| !gold.is_nan())).collect()
        }
    }
}

/// Of a row with a label, whether A is the better response. That the label is one was checked with the schema.
pub(super) fn first_is_better(fields: &Map<String, Value>) -> Option<bool> {
    fields.get("response_A")?;
    fields.get("label")?.as_str().map(|label| label == "A>B")
}

#[cfg(test)]
mod tests {
    use super::super::tests::rows;
    use super::*;
    use crate::eval::scorer::tests::{IdScorer, reward_of};
    use crate::eval::test_support::ByteEncoder;

    const OPTIONS: BenchOptions = BenchOptions {
        max_length: 40,
        overlong: Overlong::Error,
        on_error: OnError::Fail,
        batch_tokens: 64,
        outputs: Some(Outputs::RewardBench),
    };

    /// What was collected, the ids of scored rows and what was told of the others, in order.
    fn score(lines: &str, options: &BenchOptions) -> (Result<Collected>, Vec<String>) {
        let manifest = Arc::new(Manifest::of("reward-bench").unwrap());
        let mut seen = Vec::new();
        let sink = |row: std::result::Result<ScoredRow<'_>, Error>| {
            seen.push(match row {
                Ok(row) => row.row.id.clone(),
                Err(error) => error.to_string(),
            });
            Ok(())
        };
        let (encoder, scorer) = (Arc::new(ByteEncoder), IdScorer::default());
        (score_benchmark(&manifest, rows(lines), encoder, &scorer, options, sink, |_| {}), seen)
    }

    fn row(id: &str, prompt: &str, chosen: &str) -> String {
        format!(
            r#"{{"id": "{id}", "subset": "shp", "prompt": "{prompt}", "chosen": "{chosen}", "rejected": "bad"}}"#
        )
    }

    #[test]
    fn rewards_reach_their_rows() {
        let (collected, seen) = score(&[row("a", "p", "good"), row("b", "q", "fine")].join("\n"), &OPTIONS);
        let collected = collected.unwrap();
        assert_eq!(seen, ["a", "b"]);
        let group = collected.groups.iter().find(|group| group.name == "shp").unwrap();
        let rewards: Vec<f64> = group.rows.iter().flat_map(|row| &row.responses).map(|r| r.reward).collect();
        let expected = [("p", "good"), ("p", "bad"), ("q", "fine"), ("q", "bad")];
        assert_eq!(
            rewards,
            expected.map(|(prompt, response)| reward_of(&ByteEncoder::ids(prompt, response)))
        );
        assert_eq!((collected.done.rows, collected.done.sequences), (2, 4));
    }

    #[test]
    fn an_overlong_row_is_an_error_left_out_or_shortened() {
        let long = [row("a", &"p".repeat(40), "good"), row("b", "p", "good")].join("\n");
        let (collected, _) = score(&long, &OPTIONS);
        let error = collected.unwrap_err().to_string();
        assert!(error.starts_with("rows.jsonl:1: ") && error.contains("more than the 40"), "{error}");
        let (collected, seen) = score(&long, &BenchOptions { overlong: Overlong::Drop, ..OPTIONS });
        let collected = collected.unwrap();
        assert_eq!((collected.overlong, collected.failed, collected.done.rows), (1, 0, 2));
        assert_eq!(seen, ["b"]);
        let shortened = BenchOptions { overlong: Overlong::TruncatePromptLeft, ..OPTIONS };
        let (collected, seen) = score(&long, &shortened);
        assert_eq!((collected.unwrap().truncated, seen.len()), (1, 2));
    }

    #[test]
    fn a_wrong_row_ends_the_run_or_is_passed_over_and_told() {
        let lines =
            [row("a", "p", "good"), "{oops".into(), r#"{"subset": "shp"}"#.into(), row("b", "p", "x")];
        let (collected, seen) = score(&lines.join("\n"), &OPTIONS);
        assert!(collected.unwrap_err().to_string().starts_with("rows.jsonl:2: "));
        assert_eq!(seen, ["a"]);
        let (collected, seen) =
            score(&lines.join("\n"), &BenchOptions { on_error: OnError::Keep, ..OPTIONS });
        let collected = collected.unwrap();
        assert_eq!((collected.failed, collected.done.rows, seen.len()), (2, 4, 4));
        assert!(seen[1].starts_with("rows.jsonl:2: ") && seen[2].starts_with("rows.jsonl:3: "), "{seen:?}");
    }
}
