//! One split: rows in, figures out.

use super::accuracy::Judged;
use super::antisymmetry::Sample;
use super::breakdown::By;
use super::judged::{Evaluation, JudgedRow, Labels};
use super::markdown;
use super::report::{SkipReason, SplitReport};
use super::scorer::score_groups;
use super::spectrum::{Gram, Watched};
use super::window::{Limits, Windows};
use super::{Origin, Scored, SequenceScorer};
use crate::data::config::Overlong;
use crate::data::length::{Fitted, ResponseStart, fit_conversations};
use crate::data::tokenize::EncodeConversation;
use crate::data::{Example, Message, RowKind, TokenGroup};
use crate::{Error, Result};
use rustc_hash::FxHashSet;
use std::cell::RefCell;
use std::sync::Arc;

/// How rows become sequences, and how many are computed at once.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Most tokens of one rendered conversation.
    pub max_length: usize,
    /// What happens to a row with a longer one; [`Overlong::Drop`] skips and counts it.
    pub overlong: Overlong,
    /// Tokens computed at once; figures do not depend on it.
    pub batch_tokens: usize,
}

/// What is found out beyond the scores; by default nothing that costs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Detail {
    /// What rows will be grouped by: their labels are kept.
    pub by: Vec<By>,
    /// Sums up the hidden states for their effective rank (H x H values, H^3 operations).
    pub effective_rank: bool,
    /// Rows that are scored a second time, in another order.
    pub antisymmetry_rows: usize,
}

/// What is done so far of a split or a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Rows that were read, whether they were scored or not.
    pub rows: u64,
    pub sequences: u64,
    pub tokens: u64,
}

/// Scores every row that has a right order and reduces to the split's figures, see [`judge_split`].
///
/// # Errors
/// Those of [`judge_split`].
pub fn evaluate_split(
    rows: impl Iterator<Item = Result<(Origin, Example)>> + Send + 'static,
    encoder: Arc<dyn EncodeConversation>,
    scorer: &dyn SequenceScorer,
    options: &Options,
    progress: impl FnMut(Progress),
) -> Result<SplitReport> {
    Ok(judge_split(rows, encoder, scorer, options, &Detail::default(), progress)?.report(&[]))
}

/// Scores every row that has a right order.
///
/// Pairs and rows of k responses with gold scores count; others are skipped by reason (see [`SkipReason`]). Responses
/// without a gold score are left out of their row. An empty response is scored like any other. Rows stream: what is
/// kept of a row is a few numbers. `progress` is called after every window.
///
/// # Errors
/// The rows' own; [`Error::Row`] for a conversation that the template or tokenizer refuses, for an over-long one
/// under [`Overlong::Error`], and for a reward that is not finite; the scorer's; [`Error::Tensor`] where the effective
/// rank is not found; [`Error::Interrupted`].
pub fn judge_split(
    rows: impl Iterator<Item = Result<(Origin, Example)>> + Send + 'static,
    encoder: Arc<dyn EncodeConversation>,
    scorer: &dyn SequenceScorer,
    options: &Options,
    detail: &Detail,
    mut progress: impl FnMut(Progress),
) -> Result<Evaluation> {
    let prepare = {
        let (options, labelled) = (*options, !detail.by.is_empty());
        move |row: Result<(Origin, Example)>| {
            let (origin, example) = row?;
            prepare(origin, example, encoder.as_ref(), &options, labelled)
        }
    };
    let windows = Windows::spawn(
        rows,
        Limits::for_batches_of(options.batch_tokens),
        |row| row.as_ref().map_or(0, |(_, example)| text_bytes(example)),
        prepare,
        |row: &Result<Row>| row.as_ref().map_or(0, Row::tokens),
    )?;

    let watched = Watched { scorer, gram: RefCell::new(Gram::default()) };
    let first: &dyn SequenceScorer = if detail.effective_rank { &watched } else { scorer };
    let mut evaluation = Evaluation::default();
    let mut sample = Sample::new(detail.antisymmetry_rows);
    let (mut known, mut done) = (FxHashSet::default(), Progress::default());
    for window in windows {
        let (mut rows, mut groups) = (Vec::new(), Vec::new());
        for row in window? {
            done.rows += 1;
            match row? {
                Row::Skipped(reason) => *evaluation.skipped.entry(reason).or_default() += 1,
                Row::Ready(mut row) => {
                    sample.show(&row.group);
                    groups.push(take_group(&mut row.group));
                    rows.push(row);
                }
            }
        }
        let scored = score_groups(first, groups, options.batch_tokens)?;
        for (row, scored) in rows.into_iter().zip(&scored) {
            done.sequences += scored.len() as u64;
            done.tokens += row.tokens as u64;
            evaluation.tokens += row.tokens as u64;
            evaluation.truncated += u64::from(row.truncated);
            evaluation.responses_without_gold += row.without_gold;
            let mut row = judged(row, scored)?;
            row.labels.share(&mut known);
            evaluation.rows.push(row);
        }
        progress(done);
    }
    sample.recompute(&mut evaluation.rows, scorer, options.batch_tokens)?;
    if detail.effective_rank {
        evaluation.effective_rank = watched.gram.into_inner().effective_rank()?;
    }
    Ok(evaluation)
}

fn judged(row: ReadyRow, scored: &[Scored]) -> Result<JudgedRow> {
    if let Some(bad) = scored.iter().find(|s| !s.reward.is_finite() || !s.hidden_norm.is_finite()) {
        let reason =
            format!("the model gave a reward of {} with a hidden norm of {}", bad.reward, bad.hidden_norm);
        return Err(row.origin.error(reason));
    }
    let judged = |(response, scored): (&ReadyResponse, &Scored)| Judged {
        gold: response.gold,
        reward: scored.reward,
        length: response.length,
    };
    Ok(JudgedRow {
        origin: row.origin,
        kind: row.kind,
        responses: row.responses.iter().zip(scored).map(judged).collect(),
        hidden_norms: scored.iter().map(|s| s.hidden_norm).collect(),
        head_spreads: scored.iter().filter_map(|s| s.disagreement).map(|heads| heads.spread).collect(),
        markdown: row.responses.iter().map(|r| r.markdown).collect(),
        labels: row.labels,
        recomputed: None,
    })
}

/// A row after tokenization.
enum Row {
    Skipped(SkipReason),
    Ready(ReadyRow),
}

struct ReadyRow {
    origin: Origin,
    kind: RowKind,
    group: TokenGroup,
    tokens: usize,
    truncated: bool,
    without_gold: u64,
    responses: Vec<ReadyResponse>,
    labels: Labels,
}

struct ReadyResponse {
    gold: f64,
    /// Characters.
    length: usize,
    /// Markdown elements.
    markdown: u32,
}

impl Row {
    fn tokens(&self) -> usize {
        match self {
            Row::Skipped(_) => 0,
            Row::Ready(row) => row.tokens,
        }
    }
}

/// Chooses the responses that count and tokenizes them.
fn prepare(
    origin: Origin,
    example: Example,
    encoder: &dyn EncodeConversation,
    options: &Options,
    labelled: bool,
) -> Result<Row> {
    // Index and gold score of the responses that count.
    let golds: Vec<(usize, f64)> = match (example.kind, example.responses.as_slice()) {
        (RowKind::Single, _) => return Ok(Row::Skipped(SkipReason::SingleResponse)),
        (RowKind::Pair, [chosen, rejected]) => {
            if chosen.messages == rejected.messages {
                return Ok(Row::Skipped(SkipReason::IdenticalResponses));
            }
            vec![(0, 1.0), (1, 0.0)]
        }
        (RowKind::Pair, others) => {
            return Err(origin.error(format!("a pair has 2 responses, this one has {}", others.len())));
        }
        (RowKind::Ranked, responses) => responses
            .iter()
            .enumerate()
            .filter_map(|(i, r)| r.score.filter(|gold| !gold.is_nan()).map(|gold| (i, gold)))
            .collect(),
    };
    let without_gold = (example.responses.len() - golds.len()) as u64;
    let Some(&(_, first)) = golds.first().filter(|_| golds.len() >= 2) else {
        return Ok(Row::Skipped(SkipReason::TooFewGoldScores));
    };
    if golds.iter().all(|&(_, gold)| gold == first) {
        return Ok(Row::Skipped(SkipReason::EqualGoldScores));
    }

    let mut sequences = Vec::with_capacity(golds.len());
    let mut responses = Vec::with_capacity(golds.len());
    let mut labels = Labels::default();
    if labelled {
        labels.source = example.source.as_deref().map(Arc::from);
        labels.subset = example.subset.as_deref().map(Arc::from);
    }
    for (i, gold) in golds {
        sequences.push(encode_response(&origin, &example, i, encoder)?);
        let (response, model) = (&example.responses[i].messages, &example.responses[i].model);
        let elements: usize = response.iter().map(|m| markdown::elements(&m.content)).sum();
        let markdown = u32::try_from(elements).unwrap_or(u32::MAX);
        responses.push(ReadyResponse { gold, length: characters(response), markdown });
        if labelled {
            labels.models.push(model.as_deref().map(Arc::from));
        }
    }
    let group = TokenGroup { sequences };
    let longest = group.sequences.iter().map(Vec::len).max().unwrap_or(0);
    let fitted = match options.overlong {
        _ if longest <= options.max_length => Fitted::Whole(group),
        Overlong::TruncatePromptLeft => {
            let response = example.responses.first().map_or(&[][..], |response| response.messages.as_slice());
            let start = ResponseStart::after(&example.prompt, response, encoder);
            fit_conversations(group, options.max_length, &start)
        }
        _ => Fitted::TooLong { tokens: longest },
    };
    let (group, truncated) = match fitted {
        Fitted::Whole(group) => (group, false),
        Fitted::Truncated(group) => (group, true),
        Fitted::TooLong { tokens } if options.overlong == Overlong::Error => {
            return Err(origin.error(too_long(tokens, options.max_length)));
        }
        Fitted::TooLong { .. } => return Ok(Row::Skipped(SkipReason::Overlong)),
    };
    let tokens = group.sequences.iter().map(Vec::len).sum();
    Ok(Row::Ready(ReadyRow {
        origin,
        kind: example.kind,
        group,
        tokens,
        truncated,
        without_gold,
        responses,
        labels,
    }))
}

/// The ids of one response's conversation, at least one; what goes wrong names the row.
pub(super) fn encode_response(
    origin: &Origin,
    example: &Example,
    response: usize,
    encoder: &dyn EncodeConversation,
) -> Result<Vec<u32>> {
    let ids = encoder.encode(&example.conversation(response)).map_err(|error| placed(origin, error))?;
    if ids.is_empty() {
        return Err(origin.error("the conversation renders to no tokens"));
    }
    Ok(ids)
}

/// Hands the ids on to the scorer; the row stays behind for the answer.
pub(super) fn take_group(group: &mut TokenGroup) -> TokenGroup {
    TokenGroup { sequences: std::mem::take(&mut group.sequences) }
}

pub(super) fn too_long(tokens: usize, max_length: usize) -> String {
    format!("the conversation has {tokens} tokens, more than the {max_length} that are allowed")
}

/// Characters of a response.
pub(super) fn characters(messages: &[Message]) -> usize {
    messages.iter().map(|m| m.content.chars().count()).sum()
}

/// Text of an example, in bytes, for the bounds on what is held.
fn text_bytes(example: &Example) -> usize {
    let of =
        |messages: &[Message]| messages.iter().map(|m| m.content.len() + m.role.len() + 64).sum::<usize>();
    of(&example.prompt) + example.responses.iter().map(|r| of(&r.messages)).sum::<usize>()
}

/// A problem of a row that another part has found; an [`Error::Row`] keeps its own place.
fn placed(origin: &Origin, error: Error) -> Error {
    match error {
        Error::Row { .. } => error,
        other => origin.error(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use crate::data::Response;
    use crate::eval::report::Metric;
    use crate::eval::scorer::tests::{IdScorer, reward_of};
    use crate::eval::test_support::ByteEncoder;
    use std::path::Path;

    const OPTIONS: Options = Options { max_length: 100, overlong: Overlong::Drop, batch_tokens: 64 };

    fn example(kind: RowKind, responses: &[(&str, Option<f64>)]) -> Example {
        let responses = responses
            .iter()
            .map(|&(text, score)| Response {
                messages: vec![Message::new("assistant", text)],
                score,
                model: None,
            })
            .collect();
        let prompt = vec![Message::new("user", "a prompt of some length")];
        Example { kind, id: None, source: None, subset: None, prompt, responses, margin: None }
    }

    fn rows(examples: Vec<Example>) -> Vec<Result<(Origin, Example)>> {
        let origin = |line| Origin { path: Path::new("rows.jsonl").into(), line };
        examples.into_iter().zip(1..).map(|(example, line)| Ok((origin(line), example))).collect()
    }

    fn evaluate(examples: Vec<Example>, options: &Options) -> Result<SplitReport> {
        let encoder = Arc::new(ByteEncoder);
        evaluate_split(rows(examples).into_iter(), encoder, &IdScorer::default(), options, |_| {})
    }

    fn reward(response: &str) -> f64 {
        reward_of(&ByteEncoder::ids("a prompt of some length", response))
    }

    #[test]
    fn pairs_are_judged_by_their_rewards() {
        let texts: Vec<String> = (0..200).map(|i| format!("response {i}{}", "x".repeat(i % 20))).collect();
        let examples: Vec<_> =
            texts.chunks(2).map(|two| example(RowKind::Pair, &[(&two[0], None), (&two[1], None)])).collect();
        let report = evaluate(examples.clone(), &OPTIONS).unwrap();
        let right = texts.chunks(2).filter(|two| reward(&two[0]) > reward(&two[1])).count();
        assert_eq!((report.metric, report.rows, report.sequences), (Metric::Accuracy, 100, 200));
        assert_eq!(report.accuracy, Some(right as f64 / 100.0));
        let mean = texts.iter().map(|t| reward(t)).sum::<f64>() / 200.0;
        assert!((report.reward_mean.unwrap() - mean).abs() < 1e-12);
        for batch_tokens in [1, 10_000] {
            assert_eq!(evaluate(examples.clone(), &Options { batch_tokens, ..OPTIONS }).unwrap(), report);
        }
        let swapped = examples.into_iter().map(|mut e| {
            e.responses.swap(0, 1);
            e
        });
        let swapped = evaluate(swapped.collect(), &OPTIONS).unwrap();
        assert_eq!(swapped.accuracy, Some(1.0 - right as f64 / 100.0));
    }

    #[test]
    fn ranked_rows_are_judged_by_tau_over_the_scored_responses() {
        let mut order = ["one", "two", "three"];
        order.sort_by(|a, b| reward(a).total_cmp(&reward(b)));
        let [low, middle, high] = order;
        let agree = example(
            RowKind::Ranked,
            &[(high, Some(3.0)), ("unscored", None), (low, Some(1.0)), (middle, Some(2.0))],
        );
        let oppose =
            example(RowKind::Ranked, &[(high, Some(1.0)), (low, Some(2.0)), ("nan", Some(f64::NAN))]);
        let report = evaluate(vec![agree, oppose], &OPTIONS).unwrap();
        assert_eq!((report.metric, report.rows, report.sequences), (Metric::KendallTau, 2, 5));
        assert_eq!((report.kendall_tau, report.accuracy), (Some(0.0), Some(0.5)));
        assert_eq!(report.responses_without_gold, 2);
    }

    #[test]
    fn rows_without_a_right_order_are_counted_by_reason() {
        let long = "x".repeat(200);
        let report = evaluate(
            vec![
                example(RowKind::Single, &[("a", None)]),
                example(RowKind::Ranked, &[]),
                example(RowKind::Ranked, &[("a", Some(1.0)), ("b", None)]),
                example(RowKind::Ranked, &[("a", Some(1.0)), ("b", Some(1.0))]),
                example(RowKind::Pair, &[("same", None), ("same", None)]),
                example(RowKind::Pair, &[(&long, None), ("short", None)]),
                example(RowKind::Pair, &[("a", None), ("", None)]),
            ],
            &OPTIONS,
        )
        .unwrap();
        let skipped: Vec<_> = report.skipped.into_iter().collect();
        assert_eq!(
            skipped,
            [
                (SkipReason::SingleResponse, 1),
                (SkipReason::TooFewGoldScores, 2),
                (SkipReason::EqualGoldScores, 1),
                (SkipReason::IdenticalResponses, 1),
                (SkipReason::Overlong, 1),
            ]
        );
        assert_eq!((report.rows, report.longest_wins), (1, Some(1.0)));
    }

    #[test]
    fn an_overlong_row_is_dropped_shortened_or_an_error() {
        let row = || vec![example(RowKind::Pair, &[("chosen words", None), ("rejected", None)])];
        let tokens = ByteEncoder::ids("a prompt of some length", "chosen words").len();
        let with = |overlong, max_length| evaluate(row(), &Options { overlong, max_length, ..OPTIONS });
        assert_eq!(with(Overlong::Drop, tokens).unwrap().rows, 1);
        assert_eq!(with(Overlong::Drop, tokens - 1).unwrap().skipped[&SkipReason::Overlong], 1);
        let shortened = with(Overlong::TruncatePromptLeft, tokens - 5).unwrap();
        assert_eq!((shortened.rows, shortened.truncated), (1, 1));
        let hopeless = with(Overlong::TruncatePromptLeft, 5).unwrap();
        assert_eq!((hopeless.rows, hopeless.skipped[&SkipReason::Overlong]), (0, 1));
        let error = with(Overlong::Error, tokens - 1).unwrap_err().to_string();
        assert!(error.starts_with("rows.jsonl:1: ") && error.contains(&tokens.to_string()), "{error}");
    }

    #[test]
    fn a_row_is_shortened_by_its_prompt_alone() {
        // A BOS, 23 bytes of prompt and an end of message stand before words that both responses begin with.
        let alike = [("the same, then one", None), ("the same, then 2", None)];
        let tokens = ByteEncoder::ids("a prompt of some length", alike[0].0).len();
        let shortened = |max_length| {
            let options = Options { overlong: Overlong::TruncatePromptLeft, max_length, ..OPTIONS };
            evaluate(vec![example(RowKind::Pair, &alike)], &options).unwrap()
        };
        assert_eq!((shortened(tokens - 23).rows, shortened(tokens - 23).truncated), (1, 1));
        let hopeless = shortened(tokens - 24);
        assert_eq!(hopeless.skipped[&SkipReason::Overlong], 1, "the responses would lose their beginning");
    }

    #[test]
    fn a_reward_that_is_not_finite_names_its_row() {
        struct Diverged;
        impl SequenceScorer for Diverged {
            fn score(&self, groups: &[TokenGroup]) -> Result<Vec<Vec<Scored>>> {
                let bad =
                    Scored { reward: f64::INFINITY, hidden_norm: 1.0, disagreement: None, objectives: None };
                Ok(groups.iter().map(|g| vec![bad.clone(); g.sequences.len()]).collect())
            }
        }
        let one = rows(vec![example(RowKind::Pair, &[("a", None), ("b", None)])]).into_iter();
        let error = evaluate_split(one, Arc::new(ByteEncoder), &Diverged, &OPTIONS, |_| {}).unwrap_err();
        assert!(error.to_string().starts_with("rows.jsonl:1: the model gave a reward of inf"), "{error}");
    }

    #[test]
    fn a_bad_row_ends_the_evaluation() {
        let bad = vec![Err(Error::Row { path: "x.jsonl".into(), line: 7, reason: "no prompt".into() })];
        let encoder = Arc::new(ByteEncoder);
        let error =
            evaluate_split(bad.into_iter(), encoder, &IdScorer::default(), &OPTIONS, |_| {}).unwrap_err();
        assert_eq!(error.to_string(), "x.jsonl:7: no prompt");
    }
}
