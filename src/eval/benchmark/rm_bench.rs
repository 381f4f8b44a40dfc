//! RM-Bench's rule: three styles of a right answer against three styles of a wrong one.

use super::{Judgement, Row};
use crate::eval::Judged;

/// Styles of each side, from concise to detailed with markdown.
const STYLES: usize = 3;

/// Judges one prompt by the 3 x 3 matrix `A[i][j] = chosen_i > rejected_j`, strictly.
///
/// The parts are the means of its upper triangle (`hard`: the wrong answer is the fancier one), its diagonal
/// (`normal`) and its lower triangle (`easy`); the value is the mean of the three. Means of matrices and means of
/// rows are the same, since every row counts alike.
///
/// # Source
/// RM-Bench (arXiv 2410.16184), section 3.3; `scripts/utils.py` of its repository.
pub(super) fn style_matrix(row: &Row) -> Judgement {
    let (chosen, rejected) = row.responses.split_at(STYLES);
    let (mut hard, mut normal, mut easy, mut ties) = (0.0, 0.0, 0.0, 0);
    for (i, right) in chosen.iter().enumerate() {
        for (j, wrong) in rejected.iter().enumerate() {
            let wins = f64::from(u8::from(right.reward > wrong.reward));
            ties += u64::from(right.reward == wrong.reward);
            match i.cmp(&j) {
                std::cmp::Ordering::Less => hard += wins,
                std::cmp::Ordering::Equal => normal += wins,
                std::cmp::Ordering::Greater => easy += wins,
            }
        }
    }
    // A triangle has as many entries as the diagonal.
    let count = STYLES as f64;
    let parts = vec![("hard", hard / count), ("normal", normal / count), ("easy", easy / count)];
    let value = parts.iter().map(|(_, part)| part).sum::<f64>() / parts.len() as f64;
    Judgement { value, ties, parts }
}

/// Whether the rule can judge these responses.
///
/// # Errors
/// What was found and what was expected.
pub(super) fn check(responses: &[Judged]) -> Result<(), String> {
    let chosen = responses.iter().take_while(|r| r.gold > 0.0).count();
    if (chosen, responses.len() - chosen) == (STYLES, STYLES) {
        return Ok(());
    }
    let rejected = responses.len() - chosen;
    Err(format!(
        "found {chosen} chosen and {rejected} rejected responses, expected {STYLES} of each, one a style"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(chosen: [f64; 3], rejected: [f64; 3]) -> Row {
        let judged = |gold: f64| move |reward| Judged { gold, reward, length: 1 };
        let responses = chosen.into_iter().map(judged(1.0)).chain(rejected.into_iter().map(judged(0.0)));
        Row { id: String::new(), responses: responses.collect(), first_is_better: None }
    }

    #[test]
    fn a_model_of_style_alone_is_easy_and_not_hard() {
        let found = style_matrix(&row([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]));
        assert_eq!(found.parts, [("hard", 0.0), ("normal", 0.0), ("easy", 1.0)]);
        assert_eq!((found.value, found.ties), (1.0 / 3.0, 3));
    }

    #[test]
    fn hard_is_above_the_diagonal() {
        // Only the concise right answer beats the wrong one in markdown.
        let found = style_matrix(&row([3.0, 0.0, 0.0], [5.0, 5.0, 2.0]));
        assert_eq!(found.parts, [("hard", 1.0 / 3.0), ("normal", 0.0), ("easy", 0.0)]);
    }

    #[test]
    fn three_of_each_are_needed() {
        let row = row([1.0; 3], [0.0; 3]);
        assert!(check(&row.responses).is_ok());
        let error = check(&row.responses[..5]).unwrap_err();
        assert!(error.starts_with("found 3 chosen and 2 rejected"), "{error}");
    }
}
