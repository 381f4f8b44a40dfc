//! From an example to what it trains on, pairs or one list, and the reasons for what it does not.
//!
//! What is not here: lengths, which need a tokenizer (`store`).

use super::config::Pairing;
use super::ranking::Ranking;
use super::row::{Example, Message, Response, RowKind};
use crate::base::rng;
use rand_chacha::rand_core::Rng;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fmt;

/// Responses to the same prompt, best first: a pair, which is a list of two, or more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ListRecord {
    pub prompt: Vec<Message>,
    pub responses: Vec<Vec<Message>>,
    /// One rank a response.
    pub ranking: Ranking,
    /// Required reward gap, where the row has one.
    pub margin: Option<f64>,
}

impl ListRecord {
    /// The conversations that end with the responses.
    pub fn conversations(&self) -> impl Iterator<Item = Vec<Message>> {
        self.responses.iter().map(|response| self.prompt.iter().chain(response).cloned().collect())
    }
}

/// Why a pair or a list, or a response of a list, is left out of training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DropReason {
    /// A response with no text.
    Empty,
    /// Both responses, or all of a list, have the same text, white space at the ends aside.
    Identical,
    /// Both responses, or all of a list, have the same gold score, so none is preferred.
    Tied,
    /// A row of many responses with fewer than two gold scores.
    Unscored,
    /// A row with fewer than two responses.
    TooFewResponses,
    /// A conversation of more than `max_length` tokens.
    Overlong,
    /// A response that was not drawn, of a row that has more than `max_responses`.
    TooManyResponses,
}

impl DropReason {
    /// The name in reports and files.
    pub fn name(self) -> &'static str {
        match self {
            DropReason::Empty => "empty",
            DropReason::Identical => "identical",
            DropReason::Tied => "tied",
            DropReason::Unscored => "unscored",
            DropReason::TooFewResponses => "too-few-responses",
            DropReason::Overlong => "overlong",
            DropReason::TooManyResponses => "too-many-responses",
        }
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What became of one example: its lists, one reason for every list that it does not give, and one for every response
/// that a list it gives does without.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Paired {
    pub lists: Vec<ListRecord>,
    pub dropped: Vec<DropReason>,
    pub left_out: Vec<DropReason>,
}

impl Paired {
    fn dropped(reason: DropReason) -> Self {
        Self { dropped: vec![reason], ..Self::default() }
    }
}

/// The pairs of an example, or its one list.
///
/// A pair row is its own pair. A row of many responses is paired by `policy` among its responses with text and a
/// gold score, the one with the higher score chosen; responses without either take no part, and a row that has fewer
/// than two others is dropped as a whole. A tie is dropped, not drawn again: drawing until the scores differ would
/// favour rows that are nearly tied.
///
/// [`Pairing::Listwise`] makes one list of them, equals tied: at most `max_responses`, drawn where there are more, and
/// of responses with the same text the first alone. It is dropped where all that are left are tied.
///
/// Draws depend on `seed` and `row` (its number in the run's data) alone.
pub fn lists_of(example: Example, policy: Pairing, max_responses: usize, seed: u64, row: u64) -> Paired {
    match example.kind {
        RowKind::Pair => pair_row(example),
        RowKind::Ranked => ranked_row(example, policy, max_responses, seed, row),
        RowKind::Single => Paired::dropped(DropReason::TooFewResponses),
    }
}

fn pair_row(example: Example) -> Paired {
    let Ok([chosen, rejected]) = <[Response; 2]>::try_from(example.responses) else {
        return Paired::dropped(DropReason::TooFewResponses);
    };
    let tied = chosen.score.is_some() && chosen.score == rejected.score;
    match unusable(&chosen, &rejected, tied) {
        Some(reason) => Paired::dropped(reason),
        None => Paired {
            lists: vec![ListRecord {
                prompt: example.prompt,
                responses: vec![chosen.messages, rejected.messages],
                ranking: Ranking::pair(),
                margin: example.margin,
            }],
            ..Paired::default()
        },
    }
}

fn ranked_row(example: Example, policy: Pairing, max_responses: usize, seed: u64, row: u64) -> Paired {
    let total = example.responses.len();
    let scored: Vec<(&Response, f64)> =
        example.responses.iter().filter_map(|r| Some((r, r.score.filter(|s| s.is_finite())?))).collect();
    let usable: Vec<(&Response, f64)> = scored.iter().filter(|(r, _)| !is_empty(r)).copied().collect();
    if usable.len() < 2 {
        return Paired::dropped(match () {
            () if total < 2 => DropReason::TooFewResponses,
            () if scored.len() < 2 => DropReason::Unscored,
            () => DropReason::Empty,
        });
    }
    let mut rng = rng::stream(seed, "pairing", row);
    let couples = match policy {
        Pairing::Listwise => {
            let mut paired = list(&example, usable, max_responses, seed, row);
            if paired.dropped.is_empty() {
                let empty = scored.iter().filter(|(response, _)| is_empty(response)).count();
                paired.left_out.extend(std::iter::repeat_n(DropReason::Unscored, total - scored.len()));
                paired.left_out.extend(std::iter::repeat_n(DropReason::Empty, empty));
            }
            return paired;
        }
        Pairing::RandomTwo => vec![random_two(usable.len(), &mut rng)],
        Pairing::BestRandom => vec![best_random(&usable, &mut rng)],
        Pairing::BestWorst => vec![best_worst(&usable)],
        Pairing::All => all(usable.len()),
    };
    let mut paired = Paired::default();
    for (a, b) in couples {
        let ((a, a_score), (b, b_score)) = (usable[a], usable[b]);
        let (chosen, rejected) = if a_score >= b_score { (a, b) } else { (b, a) };
        match unusable(chosen, rejected, a_score == b_score) {
            Some(reason) => paired.dropped.push(reason),
            None => paired.lists.push(ListRecord {
                prompt: example.prompt.clone(),
                responses: vec![chosen.messages.clone(), rejected.messages.clone()],
                ranking: Ranking::pair(),
                margin: example.margin,
            }),
        }
    }
    paired
}

/// The one list of `usable` responses.
fn list(
    example: &Example,
    mut usable: Vec<(&Response, f64)>,
    max_responses: usize,
    seed: u64,
    row: u64,
) -> Paired {
    let mut left_out = Vec::new();
    let before = usable.len();
    let mut seen = HashSet::new();
    // Between two responses of the same text gold says nothing, whatever the scores are.
    usable.retain(|(response, _)| seen.insert(text_key(&response.messages)));
    left_out.extend(std::iter::repeat_n(DropReason::Identical, before - usable.len()));
    if usable.len() < 2 {
        return Paired::dropped(DropReason::Identical);
    }
    if usable.len() > max_responses {
        left_out.extend(std::iter::repeat_n(DropReason::TooManyResponses, usable.len() - max_responses));
        let mut drawn: Vec<usize> = (0..usable.len()).collect();
        rng::shuffle(&mut rng::stream(seed, "responses", row), &mut drawn);
        drawn.truncate(max_responses);
        drawn.sort_unstable();
        usable = drawn.into_iter().map(|i| usable[i]).collect();
    }
    let gold: Vec<f64> = usable.iter().map(|(_, score)| *score).collect();
    let Some((order, ranking)) = Ranking::of_gold(&gold) else {
        return Paired::dropped(DropReason::Tied);
    };
    let responses = order.into_iter().map(|i| usable[i].0.messages.clone()).collect();
    let record = ListRecord { prompt: example.prompt.clone(), responses, ranking, margin: example.margin };
    Paired { lists: vec![record], dropped: Vec::new(), left_out }
}

/// Positions of two responses out of `count`, at least two.
type Couple = (usize, usize);

fn random_two(count: usize, rng: &mut impl Rng) -> Couple {
    let first = below(rng, count);
    (first, other_than(first, count, rng))
}

fn best_random(usable: &[(&Response, f64)], rng: &mut impl Rng) -> Couple {
    let best = extreme(usable, |a, b| a > b);
    (best, other_than(best, usable.len(), rng))
}

fn best_worst(usable: &[(&Response, f64)]) -> Couple {
    match (extreme(usable, |a, b| a > b), extreme(usable, |a, b| a < b)) {
        // The first is best and worst where all scores are equal; beside the second, it is dropped as tied.
        (best, worst) if worst == best => (0, 1),
        couple => couple,
    }
}

fn all(count: usize) -> Vec<Couple> {
    (0..count).flat_map(|a| (a + 1..count).map(move |b| (a, b))).collect()
}

/// The best by `better`; of equals the first.
fn extreme(usable: &[(&Response, f64)], better: impl Fn(f64, f64) -> bool) -> usize {
    (1..usable.len()).fold(0, |best, i| if better(usable[i].1, usable[best].1) { i } else { best })
}

fn other_than(taken: usize, count: usize, rng: &mut impl Rng) -> usize {
    let drawn = below(rng, count - 1);
    drawn + usize::from(drawn >= taken)
}

/// Uniform in `0..bound`, without the bias of a remainder. `bound` is at least 1.
fn below(rng: &mut impl Rng, bound: usize) -> usize {
    let bound = bound as u64;
    let zone = u64::MAX - u64::MAX % bound;
    loop {
        let draw = rng.next_u64();
        if draw < zone {
            return (draw % bound) as usize;
        }
    }
}

fn unusable(chosen: &Response, rejected: &Response, tied: bool) -> Option<DropReason> {
    if is_empty(chosen) || is_empty(rejected) {
        Some(DropReason::Empty)
    } else if same_text(&chosen.messages, &rejected.messages) {
        Some(DropReason::Identical)
    } else {
        tied.then_some(DropReason::Tied)
    }
}

/// Whether the response ends with nothing said and nothing called.
fn is_empty(response: &Response) -> bool {
    response.messages.last().is_none_or(|last| last.content.trim().is_empty() && last.extra.is_empty())
}

fn same_text(a: &[Message], b: &[Message]) -> bool {
    a.len() == b.len()
        && a.iter()
            .zip(b)
            .all(|(a, b)| a.role == b.role && a.content.trim() == b.content.trim() && a.extra == b.extra)
}

/// Equal for messages of the same text.
fn text_key(messages: &[Message]) -> Vec<(&str, &str, Option<String>)> {
    let extra = |message: &Message| {
        (!message.extra.is_empty()).then(|| serde_json::Value::Object(message.extra.clone()).to_string())
    };
    messages.iter().map(|message| (message.role.as_str(), message.content.trim(), extra(message))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn ranked(responses: &[(&str, Option<f64>)]) -> Example {
        let responses = responses
            .iter()
            .map(|&(text, score)| Response {
                messages: vec![Message::new("assistant", text)],
                score,
                model: None,
            })
            .collect();
        Example {
            kind: RowKind::Ranked,
            id: None,
            source: None,
            subset: None,
            prompt: vec![Message::new("user", "p")],
            responses,
            margin: None,
        }
    }

    const MAX: usize = 3;

    fn texts(paired: &Paired) -> Vec<String> {
        let shown = |list: &ListRecord| -> String {
            let texts: Vec<&str> = list.responses.iter().map(|r| r[0].content.as_str()).collect();
            assert_eq!(texts.len(), list.ranking.responses());
            texts.join(">")
        };
        paired.lists.iter().map(shown).collect()
    }

    #[test]
    fn random_two_draws_every_couple_equally_often() {
        let example =
            ranked(&[("a", Some(1.0)), ("b", Some(4.0)), ("c", Some(2.0)), ("d", None), (" ", Some(9.0))]);
        let mut counts = BTreeMap::new();
        for row in 0..30_000 {
            let paired = lists_of(example.clone(), Pairing::RandomTwo, MAX, 7, row);
            assert_eq!((paired.lists.len(), paired.dropped.len()), (1, 0));
            *counts.entry(texts(&paired)[0].clone()).or_insert(0) += 1;
        }
        assert_eq!(counts.keys().collect::<Vec<_>>(), ["b>a", "b>c", "c>a"]);
        // 10,000 each; five standard deviations are about 410.
        assert!(counts.values().all(|&n: &i32| (n - 10_000).abs() < 410), "{counts:?}");
    }

    #[test]
    fn draws_depend_on_seed_and_row_alone() {
        let example = ranked(&[("a", Some(1.0)), ("b", Some(2.0)), ("c", Some(3.0)), ("d", Some(4.0))]);
        let draws = |seed| -> Vec<_> {
            (0..50)
                .flat_map(|row| texts(&lists_of(example.clone(), Pairing::RandomTwo, MAX, seed, row)))
                .collect()
        };
        assert_eq!(draws(1), draws(1));
        assert_ne!(draws(1), draws(2));
    }

    #[test]
    fn the_policies_pick_their_couples() {
        let example = ranked(&[("a", Some(2.0)), ("b", Some(1.0)), ("c", Some(3.0))]);
        let pick = |policy| texts(&lists_of(example.clone(), policy, MAX, 0, 0));
        assert_eq!(pick(Pairing::BestWorst), ["c>b"]);
        assert_eq!(pick(Pairing::All), ["a>b", "c>a", "c>b"]);
        let mut seen: Vec<_> = (0..40)
            .flat_map(|row| texts(&lists_of(example.clone(), Pairing::BestRandom, MAX, 0, row)))
            .collect();
        seen.sort();
        seen.dedup();
        assert_eq!(seen, ["c>a", "c>b"]);
    }

    #[test]
    fn a_list_has_its_responses_best_first_and_equals_tied() {
        let list = |responses: &[(&str, Option<f64>)], max| {
            let mut paired = lists_of(ranked(responses), Pairing::Listwise, max, 0, 0);
            assert_eq!(paired.lists.len() + paired.dropped.len(), 1);
            let ranks: Vec<u32> = paired.lists.iter().flat_map(|l| l.ranking.ranks()).copied().collect();
            paired.left_out.sort();
            (texts(&paired).join(" "), ranks, paired.left_out, paired.dropped)
        };
        let responses = [
            ("a", Some(1.0)),
            ("b", Some(3.0)),
            ("c", Some(3.0)),
            (" a", Some(9.0)),
            ("d", None),
            ("", Some(0.0)),
        ];
        let left_out = vec![DropReason::Empty, DropReason::Identical, DropReason::Unscored];
        assert_eq!(list(&responses, 8), ("b>c>a".into(), vec![0, 0, 1], left_out, vec![]));
        assert_eq!(list(&responses[1..3], 8).3, [DropReason::Tied]);
        assert_eq!(list(&[("a", Some(1.0)), ("a", Some(2.0))], 8).3, [DropReason::Identical]);
        assert_eq!(list(&responses[3..5], 8).3, [DropReason::Unscored]);
        let pair = Example { kind: RowKind::Pair, ..ranked(&[("a", None), ("b", None)]) };
        assert_eq!(texts(&lists_of(pair, Pairing::Listwise, 8, 0, 0)), ["a>b"]);
    }

    #[test]
    fn of_too_many_responses_a_list_draws_every_subset_equally_often() {
        let example = ranked(&[("a", Some(1.0)), ("b", Some(4.0)), ("c", Some(2.0)), ("d", Some(2.0))]);
        let mut counts = BTreeMap::new();
        for row in 0..30_000 {
            let paired = lists_of(example.clone(), Pairing::Listwise, 2, 7, row);
            assert_eq!(paired.left_out.len(), 2 * paired.lists.len());
            *counts.entry(texts(&paired).join(" ")).or_insert(0) += 1;
        }
        // c and d are tied: that draw has no order and is dropped.
        assert_eq!(counts.keys().collect::<Vec<_>>(), ["", "b>a", "b>c", "b>d", "c>a", "d>a"]);
        // 5,000 each; five standard deviations are about 323.
        assert!(counts.values().all(|&n: &i32| (n - 5_000).abs() < 323), "{counts:?}");
    }

    #[test]
    fn what_cannot_be_a_pair_is_dropped_with_its_reason() {
        let drops = |responses: &[(&str, Option<f64>)], policy| {
            lists_of(ranked(responses), policy, MAX, 0, 0).dropped
        };
        let two = Pairing::RandomTwo;
        assert_eq!(drops(&[], two), [DropReason::TooFewResponses]);
        assert_eq!(drops(&[("a", Some(1.0))], two), [DropReason::TooFewResponses]);
        assert_eq!(drops(&[("a", Some(1.0)), ("b", None)], two), [DropReason::Unscored]);
        assert_eq!(drops(&[("a", Some(1.0)), ("b", Some(f64::NAN))], two), [DropReason::Unscored]);
        assert_eq!(drops(&[("a", Some(1.0)), ("\n ", Some(2.0))], two), [DropReason::Empty]);
        assert_eq!(drops(&[("a", Some(1.0)), ("b", Some(1.0))], two), [DropReason::Tied]);
        assert_eq!(drops(&[("a", Some(1.0)), ("a ", Some(2.0))], two), [DropReason::Identical]);
        let tied = [("a", Some(1.0)), ("b", Some(1.0)), ("c", Some(1.0))];
        assert_eq!(drops(&tied, Pairing::BestWorst), [DropReason::Tied]);
        assert_eq!(drops(&tied, Pairing::All), [DropReason::Tied; 3]);
    }

    #[test]
    fn a_pair_row_keeps_its_order_unless_its_scores_tie() {
        let pair = |chosen: (&str, Option<f64>), rejected: (&str, Option<f64>)| {
            let example = Example { kind: RowKind::Pair, margin: Some(0.5), ..ranked(&[chosen, rejected]) };
            lists_of(example, Pairing::RandomTwo, MAX, 0, 0)
        };
        let kept = pair(("a", Some(1.0)), ("b", Some(2.0)));
        assert_eq!((texts(&kept), kept.lists[0].margin), (vec!["a>b".into()], Some(0.5)));
        assert_eq!(pair(("a", None), ("b", None)).lists.len(), 1);
        assert_eq!(pair(("a", Some(2.0)), ("b", Some(2.0))).dropped, [DropReason::Tied]);
        assert_eq!(pair(("a", None), ("", None)).dropped, [DropReason::Empty]);
        assert_eq!(pair(("a", None), ("a", None)).dropped, [DropReason::Identical]);
    }

    #[test]
    fn reasons_are_written_by_their_names() {
        for reason in [
            DropReason::Empty,
            DropReason::Identical,
            DropReason::Tied,
            DropReason::Unscored,
            DropReason::TooFewResponses,
            DropReason::Overlong,
            DropReason::TooManyResponses,
        ] {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.name());
        }
    }
}
