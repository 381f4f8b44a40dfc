//! What becomes of one row, as a function of the row, the seed and the valid models.
//!
//! What is not here: which prompts are held out, which takes all rows.

use super::SplitConfig;
use super::catalog::{Answer, Row};
use crate::base::rng;
use std::collections::BTreeSet;

/// The use of a row.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Responses of training models, in the order of the draw, as indices of the row's answers.
    pub drawn: Vec<usize>,
    /// The training pair, `[better, worse]`, as indices of the row's answers.
    pub train: [usize; 2],
    /// The in-domain pair, from the other drawn responses; or why there is none.
    pub in_domain: Result<[usize; 2], &'static str>,
    /// Responses of valid models, in the order of the row.
    pub valid: Vec<usize>,
}

/// Plans the use of a row; `is_valid` says of every model whether it is held out.
///
/// # Errors
/// Why the row cannot be used, as the manifest names it.
pub fn plan(config: &SplitConfig, is_valid: &[bool], row: &Row) -> Result<Plan, &'static str> {
    let (valid, mut drawn): (Vec<usize>, Vec<usize>) =
        (0..row.answers.len()).partition(|&i| is_valid[row.answers[i].model as usize]);
    // The draw hangs on the prompt, not on the row's number: adding rows leaves the others' pairs as they are.
    let rng = &mut rng::stream(config.seed, "split:responses", row.prompt as u64);
    rng::shuffle(rng, &mut drawn);
    drawn.truncate(config.responses_per_prompt);
    if drawn.len() < 2 {
        return Err("too-few-responses");
    }
    let texts: BTreeSet<u128> = drawn.iter().chain(&valid).map(|&i| row.answers[i].text).collect();
    if texts.len() < drawn.len() + valid.len() {
        return Err("identical-responses");
    }
    let (train, in_domain) = draw_pairs(&row.answers, &drawn).ok_or("all-responses-tied")?;
    Ok(Plan { drawn, train, in_domain, valid })
}

type Pairs = ([usize; 2], Result<[usize; 2], &'static str>);

/// The first disjoint pairs without ties among responses that are in random order already; `None` where all tie.
///
/// A training pair that leaves an in-domain pair is preferred to an earlier one that does not.
fn draw_pairs(answers: &[Answer], drawn: &[usize]) -> Option<Pairs> {
    let untied = |skip: &[usize]| -> Vec<[usize; 2]> {
        let kept: Vec<usize> = drawn.iter().copied().filter(|i| !skip.contains(i)).collect();
        let all = kept.iter().enumerate().flat_map(|(n, &j)| kept[..n].iter().map(move |&i| [i, j]));
        all.filter_map(|[i, j]| {
            let order = answers[i].score.partial_cmp(&answers[j].score)?;
            match order {
                std::cmp::Ordering::Greater => Some([i, j]),
                std::cmp::Ordering::Less => Some([j, i]),
                std::cmp::Ordering::Equal => None,
            }
        })
        .collect()
    };
    let candidates = untied(&[]);
    let both = candidates.iter().find_map(|train| Some((*train, Ok(*untied(train).first()?))));
    let reason = if drawn.len() < 4 { "too-few-responses" } else { "tied" };
    both.or_else(|| candidates.first().map(|train| (*train, Err(reason))))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Models 0 to 9 are trained on, 10 and above held out.
    fn plan_of(prompt: u128, answers: &[(u32, &str, f64)]) -> Result<Plan, &'static str> {
        let answers = (0..).zip(answers).map(|(index, &(model, text, score))| {
            let text = super::super::text::response_hash(text);
            Answer { model, score, text, part: 0, index }
        });
        let row = Row { prompt, group: 0, parts: Vec::new(), answers: answers.collect() };
        let is_valid: Vec<bool> = (0..20).map(|model| model >= 10).collect();
        plan(&SplitConfig::new(Vec::new()), &is_valid, &row)
    }

    #[test]
    fn each_fault_of_a_row_has_its_reason() {
        let reason = |answers: &[(u32, &str, f64)]| plan_of(0, answers).err().unwrap_or("used");
        let (a, b) = ((0, "x", 1.0), (1, "y", 2.0));
        assert_eq!(reason(&[a, b]), "used");
        assert_eq!(reason(&[]), "too-few-responses");
        assert_eq!(reason(&[a, (10, "y", 2.0)]), "too-few-responses");
        assert_eq!(reason(&[a, (1, " x\n", 2.0)]), "identical-responses");
        assert_eq!(reason(&[a, b, (10, "x", 2.0)]), "identical-responses");
        assert_eq!(reason(&[a, (1, "y", 1.0)]), "all-responses-tied");
        let plan = plan_of(0, &[a, b, (10, "z", 0.0)]).expect("used");
        assert_eq!((plan.train, plan.in_domain, plan.valid), ([1, 0], Err("too-few-responses"), vec![2]));
    }

    #[test]
    fn pairs_are_disjoint_ordered_and_without_ties_where_that_can_be() {
        // Of the three ways to halve {1, 1, 2, 2}, one has ties only; it is never taken.
        let scores = [1.0, 1.0, 2.0, 2.0];
        let texts = ["a", "b", "c", "d"];
        for prompt in 0..50 {
            let answers: Vec<_> = (0..4).map(|i| (i as u32, texts[i], scores[i])).collect();
            let plan = plan_of(prompt, &answers).expect("used");
            let other = plan.in_domain.expect("an in-domain pair");
            let all = BTreeSet::from([plan.train[0], plan.train[1], other[0], other[1]]);
            assert_eq!(all.len(), 4);
            for [better, worse] in [plan.train, other] {
                assert!(scores[better] > scores[worse]);
            }
        }
        let tied = [(0, "1", 1.0), (1, "2", 1.0), (2, "3", 1.0), (3, "4", 2.0)];
        let plan = plan_of(0, &tied).expect("used");
        assert_eq!((plan.train[0], plan.in_domain), (3, Err("tied")));
    }
}
