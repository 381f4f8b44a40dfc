//! Pairs with a right order, and rankings with gold scores: the rules that other evaluations know too.

use super::{Judgement, Row};
use crate::eval::{Judged, agreement, kendall};

/// The part that counts a tie as JudgeBench does when it asks in one order only.
const SINGLE_ORDER: &str = "single_order";

/// The fraction of ordered pairs of responses that the scores order rightly; a tie is wrong.
///
/// JudgeBench asks twice, with the responses in either order, and a pair is right where neither answer contradicts
/// the label and one agrees: scores that tie say B both times, agree once and disagree once, and so are wrong. With
/// its `--single_game` they say B, which is right as often as B is; that figure is the part `single_order`.
///
/// `None` for a row without two different gold scores.
///
/// # Source
/// JudgeBench (arXiv 2410.12784), `utils/metrics.py`; reward-bench, `scripts/run_rm.py`.
pub(super) fn pairs(row: &Row) -> Option<Judgement> {
    let found = agreement(&row.responses)?;
    let mut parts = Vec::new();
    if let Some(first_is_better) = row.first_is_better {
        let right = if found.ties > 0 { !first_is_better } else { found.accuracy > 0.0 };
        parts.push((SINGLE_ORDER, f64::from(u8::from(right))));
    }
    Some(Judgement { value: found.accuracy, ties: found.ties, parts })
}

/// Tau-b of scores and gold scores. `None` where it is undefined.
pub(super) fn kendall_tau(responses: &[Judged]) -> Option<Judgement> {
    let points: Vec<_> = responses.iter().map(|r| (r.reward, r.gold)).collect();
    let value = kendall::tau_b(&points)?;
    let ties = agreement(responses).map_or(0, |found| found.ties);
    Some(Judgement { value, ties, parts: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(chosen: f64, rejected: f64, first_is_better: bool) -> Row {
        let judged = |gold, reward| Judged { gold, reward, length: 1 };
        Row {
            id: String::new(),
            responses: vec![judged(1.0, chosen), judged(0.0, rejected)],
            first_is_better: Some(first_is_better),
        }
    }

    #[test]
    fn a_tie_is_wrong_in_two_orders_and_b_in_one() {
        let judge = |chosen, rejected, first| {
            let found = pairs(&row(chosen, rejected, first)).unwrap();
            (found.value, found.ties, found.parts[0].1)
        };
        for first in [true, false] {
            assert_eq!(judge(2.0, 1.0, first), (1.0, 0, 1.0));
            assert_eq!(judge(1.0, 2.0, first), (0.0, 0, 0.0));
        }
        assert_eq!(judge(1.0, 1.0, true), (0.0, 1, 0.0));
        assert_eq!(judge(1.0, 1.0, false), (0.0, 1, 1.0));
    }
}
