//! From an example to the pairs it trains on, and the reasons for those it does not.
//!
//! What is not here: lengths, which need a tokenizer (`store`).

use super::config::Pairing;
use super::row::{Example, Message, Response, RowKind};
use crate::base::rng;
use rand_chacha::rand_core::Rng;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A chosen and a rejected response to the same prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PairRecord {
    pub prompt: Vec<Message>,
    pub chosen: Vec<Message>,
    pub rejected: Vec<Message>,
    /// Required reward gap, where the row has one.
    pub margin: Option<f64>,
}

impl PairRecord {
    /// The conversation that ends with the chosen response.
    pub fn chosen_conversation(&self) -> Vec<Message> {
        self.prompt.iter().chain(&self.chosen).cloned().collect()
    }

    /// The conversation that ends with the rejected response.
    pub fn rejected_conversation(&self) -> Vec<Message> {
        self.prompt.iter().chain(&self.rejected).cloned().collect()
    }
}

/// Why a pair is left out of training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DropReason {
    /// A response with no text.
    Empty,
    /// Both responses have the same text, white space at the ends aside.
    Identical,
    /// Both responses have the same gold score, so neither is preferred.
    Tied,
    /// A row of many responses with fewer than two gold scores.
    Unscored,
    /// A row with fewer than two responses.
    TooFewResponses,
    /// A conversation of more than `max_length` tokens.
    Overlong,
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
        }
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What became of one example: its pairs, and one reason for every pair that it does not give.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Paired {
    pub pairs: Vec<PairRecord>,
    pub dropped: Vec<DropReason>,
}

/// The pairs of an example.
///
/// A pair row is its own pair. A row of many responses is paired by `policy` among its responses with text and a
/// gold score, the one with the higher score chosen; responses without either take no part, and a row that has fewer
/// than two others is dropped as a whole. A tie is dropped, not drawn again: drawing until the scores differ would
/// favour rows that are nearly tied. Draws depend on `seed` and `row` (its number in the run's data) alone.
pub fn pairs_of(example: Example, policy: Pairing, seed: u64, row: u64) -> Paired {
    match example.kind {
        RowKind::Pair => pair_row(example),
        RowKind::Ranked => ranked_row(example, policy, seed, row),
        RowKind::Single => Paired { pairs: Vec::new(), dropped: vec![DropReason::TooFewResponses] },
    }
}

fn pair_row(example: Example) -> Paired {
    let Ok([chosen, rejected]) = <[Response; 2]>::try_from(example.responses) else {
        return Paired { pairs: Vec::new(), dropped: vec![DropReason::TooFewResponses] };
    };
    let mut paired = Paired::default();
    let tied = chosen.score.is_some() && chosen.score == rejected.score;
    if let Some(reason) = unusable(&chosen, &rejected, tied) {
        paired.dropped.push(reason);
    } else {
        paired.pairs.push(PairRecord {
            prompt: example.prompt,
            chosen: chosen.messages,
            rejected: rejected.messages,
            margin: example.margin,
        });
    }
    paired
}

fn ranked_row(example: Example, policy: Pairing, seed: u64, row: u64) -> Paired {
    let total = example.responses.len();
    let scored: Vec<(&Response, f64)> =
        example.responses.iter().filter_map(|r| Some((r, r.score.filter(|s| s.is_finite())?))).collect();
    let usable: Vec<(&Response, f64)> = scored.iter().filter(|(r, _)| !is_empty(r)).copied().collect();
    let mut paired = Paired::default();
    if usable.len() < 2 {
        paired.dropped.push(match () {
            () if total < 2 => DropReason::TooFewResponses,
            () if scored.len() < 2 => DropReason::Unscored,
            () => DropReason::Empty,
        });
        return paired;
    }
    for (a, b) in couples(&usable, policy, seed, row) {
        let ((a, a_score), (b, b_score)) = (usable[a], usable[b]);
        let (chosen, rejected) = if a_score >= b_score { (a, b) } else { (b, a) };
        match unusable(chosen, rejected, a_score == b_score) {
            Some(reason) => paired.dropped.push(reason),
            None => paired.pairs.push(PairRecord {
                prompt: example.prompt.clone(),
                chosen: chosen.messages.clone(),
                rejected: rejected.messages.clone(),
                margin: example.margin,
            }),
        }
    }
    paired
}

/// Positions in `usable`, which has at least two entries; the first of equals is the best, or the worst.
fn couples(usable: &[(&Response, f64)], policy: Pairing, seed: u64, row: u64) -> Vec<(usize, usize)> {
    let count = usable.len();
    let mut rng = rng::stream(seed, "pairing", row);
    let extreme = |better: fn(f64, f64) -> bool| {
        (1..count).fold(0, |best, i| if better(usable[i].1, usable[best].1) { i } else { best })
    };
    let best = extreme(|a, b| a > b);
    match policy {
        Pairing::RandomTwo => {
            let first = below(&mut rng, count);
            vec![(first, other_than(first, count, &mut rng))]
        }
        Pairing::BestRandom => vec![(best, other_than(best, count, &mut rng))],
        Pairing::BestWorst => match extreme(|a, b| a < b) {
            // The first is best and worst where all scores are equal; beside the second, it is dropped as tied.
            worst if worst == best => vec![(0, 1)],
            worst => vec![(best, worst)],
        },
        Pairing::All => (0..count).flat_map(|a| (a + 1..count).map(move |b| (a, b))).collect(),
    }
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

    fn texts(paired: &Paired) -> Vec<String> {
        paired.pairs.iter().map(|p| format!("{}>{}", p.chosen[0].content, p.rejected[0].content)).collect()
    }

    #[test]
    fn random_two_draws_every_couple_equally_often() {
        let example =
            ranked(&[("a", Some(1.0)), ("b", Some(4.0)), ("c", Some(2.0)), ("d", None), (" ", Some(9.0))]);
        let mut counts = BTreeMap::new();
        for row in 0..30_000 {
            let paired = pairs_of(example.clone(), Pairing::RandomTwo, 7, row);
            assert_eq!((paired.pairs.len(), paired.dropped.len()), (1, 0));
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
            (0..50).flat_map(|row| texts(&pairs_of(example.clone(), Pairing::RandomTwo, seed, row))).collect()
        };
        assert_eq!(draws(1), draws(1));
        assert_ne!(draws(1), draws(2));
    }

    #[test]
    fn the_policies_pick_their_couples() {
        let example = ranked(&[("a", Some(2.0)), ("b", Some(1.0)), ("c", Some(3.0))]);
        let pick = |policy| texts(&pairs_of(example.clone(), policy, 0, 0));
        assert_eq!(pick(Pairing::BestWorst), ["c>b"]);
        assert_eq!(pick(Pairing::All), ["a>b", "c>a", "c>b"]);
        let mut seen: Vec<_> =
            (0..40).flat_map(|row| texts(&pairs_of(example.clone(), Pairing::BestRandom, 0, row))).collect();
        seen.sort();
        seen.dedup();
        assert_eq!(seen, ["c>a", "c>b"]);
    }

    #[test]
    fn what_cannot_be_a_pair_is_dropped_with_its_reason() {
        let drops =
            |responses: &[(&str, Option<f64>)], policy| pairs_of(ranked(responses), policy, 0, 0).dropped;
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
            pairs_of(example, Pairing::RandomTwo, 0, 0)
        };
        let kept = pair(("a", Some(1.0)), ("b", Some(2.0)));
        assert_eq!((texts(&kept), kept.pairs[0].margin), (vec!["a>b".into()], Some(0.5)));
        assert_eq!(pair(("a", None), ("b", None)).pairs.len(), 1);
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
        ] {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.name());
        }
    }
}
