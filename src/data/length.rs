//! Conversations of more tokens than are allowed, shortened by one rule in training and evaluation.

use super::TokenGroup;

/// A group after [`fit_length`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fitted {
    /// It was short enough.
    Whole(TokenGroup),
    /// Tokens were taken from the left of the prompt.
    Truncated(TokenGroup),
    /// The longest sequence has too many tokens, and the prompt is too short to give them.
    TooLong { tokens: usize },
}

/// Takes the same number of tokens from the left of the common prefix of all sequences, so that the longest has
/// `max_length`. Responses stay whole and comparable; a leading `bos` stays in its place.
pub fn fit_length(mut group: TokenGroup, max_length: usize, bos: Option<u32>) -> Fitted {
    let tokens = group.sequences.iter().map(Vec::len).max().unwrap_or(0);
    if tokens <= max_length {
        return Fitted::Whole(group);
    }
    let surplus = tokens - max_length;
    let begins_with_bos = bos.is_some() && group.sequences.iter().all(|s| s.first().copied() == bos);
    let kept = usize::from(begins_with_bos);
    // One token of the prompt is left, so that no sequence can become empty.
    if kept + surplus >= common_prefix(&group.sequences) {
        return Fitted::TooLong { tokens };
    }
    for sequence in &mut group.sequences {
        sequence.drain(kept..kept + surplus);
    }
    Fitted::Truncated(group)
}

/// Length of what all sequences begin with.
pub fn common_prefix(sequences: &[Vec<u32>]) -> usize {
    let Some((first, others)) = sequences.split_first() else { return 0 };
    let common = |other: &Vec<u32>| first.iter().zip(other).take_while(|(a, b)| a == b).count();
    // What is prompt in a lone sequence, nobody knows.
    others.iter().map(common).min().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(sequences: &[&[u32]]) -> TokenGroup {
        TokenGroup { sequences: sequences.iter().map(|s| s.to_vec()).collect() }
    }

    #[test]
    fn the_prompt_gives_its_left_end_and_keeps_bos() {
        let long = group(&[&[1, 10, 11, 12, 20, 21], &[1, 10, 11, 12, 30]]);
        assert_eq!(fit_length(long.clone(), 6, Some(1)), Fitted::Whole(long.clone()));
        assert_eq!(
            fit_length(long.clone(), 4, Some(1)),
            Fitted::Truncated(group(&[&[1, 12, 20, 21], &[1, 12, 30]]))
        );
        assert_eq!(
            fit_length(long.clone(), 4, None),
            Fitted::Truncated(group(&[&[11, 12, 20, 21], &[11, 12, 30]]))
        );
        assert_eq!(fit_length(long, 3, Some(1)), Fitted::TooLong { tokens: 6 });
    }

    #[test]
    fn a_lone_sequence_has_no_prompt_to_give() {
        assert_eq!(fit_length(group(&[&[1, 2, 3]]), 1, None), Fitted::TooLong { tokens: 3 });
    }

    #[test]
    fn nothing_in_common_or_nothing_at_all() {
        assert_eq!(fit_length(group(&[&[1, 2, 3], &[4]]), 2, None), Fitted::TooLong { tokens: 3 });
        assert_eq!(fit_length(group(&[]), 2, None), Fitted::Whole(group(&[])));
    }
}
