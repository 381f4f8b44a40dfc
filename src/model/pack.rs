//! Token sequences to packed rows: no padding, and a prompt that several responses share is there once.
//!
//! Sharing is exact whatever the chat template does, because what is shared is the common prefix of the *token ids*.

use crate::kernels::Indices;
use crate::kernels::attention::{Families, Family, Segment};
use candle_core::Device;
use std::ops::Range;

/// Groups of sequences as one row of tokens.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pack {
    /// Token ids, [N].
    pub ids: Indices,
    /// Position of each token in its own sequence, [N].
    pub positions: Indices,
    /// Who attends to whom; the segments tile the row in order.
    pub families: Families,
    /// The rows that go on after the last layer's attention: where each sequence's last token is, [S], groups and their
    /// sequences in order. For scoring alone there may be more, see [`Pack::reading_too`].
    pub read: Indices,
}

/// What a pack is made from.
#[derive(Default)]
struct Rows {
    ids: Vec<u32>,
    positions: Vec<u32>,
}

impl Rows {
    fn push(&mut self, ids: &[u32], first_position: usize) -> Segment {
        let segment = Segment { start: self.ids.len(), len: ids.len() };
        self.ids.extend_from_slice(ids);
        self.positions.extend((first_position..first_position + ids.len()).map(|p| p as u32));
        segment
    }
}

impl Pack {
    /// Packs groups of sequences in order; those of one group share their common prefix. Every sequence must have
    /// at least one token.
    pub fn new<G: AsRef<[Vec<u32>]>>(groups: &[G]) -> Self {
        let (mut rows, mut families, mut last) = (Rows::default(), Vec::new(), Vec::new());
        for sequences in groups.iter().map(AsRef::as_ref) {
            let shared = shared_prefix(sequences);
            let prompt = match sequences.first() {
                Some(first) => rows.push(&first[..shared], 0),
                None => continue,
            };
            let responses: Vec<Segment> =
                sequences.iter().map(|ids| rows.push(&ids[shared..], shared)).collect();
            last.extend(responses.iter().map(|r| (r.start + r.len - 1) as u32));
            families.push(Family { prompt, responses });
        }
        Self {
            ids: rows.ids.into(),
            positions: rows.positions.into(),
            families: families.into(),
            read: last.into(),
        }
    }

    /// Reads the hidden states of inner tokens too: of sequence `s`, all groups counted through, the one at `inner[s]`.
    ///
    /// Returns for each sequence which of the read rows that is. A token that several sequences share is read once.
    /// There is no backward from here.
    pub fn reading_too(mut self, inner: &[usize]) -> (Self, Vec<usize>) {
        let mut read = self.read.to_vec();
        let mut chosen = Vec::with_capacity(inner.len());
        let mut positions = inner.iter();
        for family in &*self.families {
            let first_of_family = read.len();
            for (response, &position) in family.responses.iter().zip(&mut positions) {
                let row = match position.checked_sub(family.prompt.len) {
                    None => family.prompt.start + position,
                    Some(own) => response.start + own,
                } as u32;
                let known = read[first_of_family..].iter().position(|&other| other == row);
                chosen.push(match known {
                    Some(at) => first_of_family + at,
                    None => {
                        read.push(row);
                        read.len() - 1
                    }
                });
            }
        }
        self.read = read.into();
        (self, chosen)
    }

    /// Brings what kernels read of it to a GPU, before anything is computed there: a copy that is asked for later may
    /// wait for everything before it. Does nothing for the CPU.
    pub fn upload(&self, device: &Device) -> candle_core::Result<()> {
        if device.is_cuda() {
            for indices in [&self.ids, &self.positions, &self.read] {
                indices.on(device)?;
            }
            self.families.tiles(device)?;
        }
        Ok(())
    }

    /// Tokens of the row.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// The tokens of each group, as ranges of rows.
    pub fn token_groups(&self) -> Vec<Range<usize>> {
        let end = |family: &Family| family.responses.last().map_or(0, |r| r.start + r.len);
        self.families.iter().map(|family| family.prompt.start..end(family)).collect()
    }

    /// The sequences of each group, as ranges of [`Pack::read`].
    pub fn sequence_groups(&self) -> Vec<Range<usize>> {
        let mut start = 0;
        let next = |family: &Family| {
            let range = start..start + family.responses.len();
            start = range.end;
            range
        };
        self.families.iter().map(next).collect()
    }
}

/// Length of the common prefix of all sequences, short enough to leave each one a token of its own.
pub fn shared_prefix<S: AsRef<[u32]>>(sequences: &[S]) -> usize {
    let Some((first, others)) = sequences.split_first() else { return 0 };
    if others.is_empty() {
        return 0;
    }
    let shortest = sequences.iter().map(|s| s.as_ref().len()).min().unwrap_or(0);
    let common = |other: &S| first.as_ref().iter().zip(other.as_ref()).take_while(|(a, b)| a == b).count();
    others.iter().map(common).min().unwrap_or(0).min(shortest.saturating_sub(1))
}

/// Tokens that a group of sequences takes in a pack.
pub fn packed_tokens(sequences: &[Vec<u32>]) -> usize {
    let shared = shared_prefix(sequences);
    shared + sequences.iter().map(|s| s.len() - shared).sum::<usize>()
}

/// Cuts groups into consecutive micro-batches of at most `budget` packed tokens. A group is never split, so one
/// that exceeds the budget alone gets a micro-batch of its own.
pub fn micro_batches<G: AsRef<[Vec<u32>]>>(groups: &[G], budget: usize) -> Vec<Range<usize>> {
    micro_batches_of(groups.iter().map(|group| packed_tokens(group.as_ref())), budget)
}

/// [`micro_batches`] for groups of these many packed tokens.
pub fn micro_batches_of(sizes: impl IntoIterator<Item = usize>, budget: usize) -> Vec<Range<usize>> {
    let mut batches = Vec::new();
    let (mut start, mut end, mut tokens) = (0, 0, 0);
    for size in sizes {
        if end > start && tokens + size > budget {
            batches.push(start..end);
            (start, tokens) = (end, 0);
        }
        tokens += size;
        end += 1;
    }
    if start < end {
        batches.push(start..end);
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Group = Vec<Vec<u32>>;

    fn group(sequences: &[&[u32]]) -> Group {
        sequences.iter().map(|s| s.to_vec()).collect()
    }

    #[test]
    fn a_pair_shares_its_prompt_and_keeps_positions() {
        let pack = Pack::new(&[group(&[&[1, 2, 3, 4], &[1, 2, 5]]), group(&[&[7, 8]])]);
        assert_eq!(*pack.ids, [1, 2, 3, 4, 5, 7, 8]);
        assert_eq!(*pack.positions, [0, 1, 2, 3, 2, 0, 1]);
        assert_eq!(*pack.read, [3, 4, 6]);
        assert_eq!(pack.families[0].prompt, Segment { start: 0, len: 2 });
        assert_eq!(pack.families[1].prompt.len, 0);
        assert_eq!(pack.token_groups(), [0..5, 5..7]);
        assert_eq!(pack.sequence_groups(), [0..2, 2..3]);
    }

    #[test]
    fn identical_sequences_keep_a_last_token_each() {
        let pack = Pack::new(&[group(&[&[1, 2], &[1, 2]])]);
        assert_eq!(*pack.ids, [1, 2, 2]);
        assert_eq!(*pack.read, [1, 2]);
    }

    #[test]
    fn inner_tokens_are_read_once_where_they_are_shared() {
        let pack = Pack::new(&[group(&[&[1, 2, 3, 4], &[1, 2, 5]]), group(&[&[7, 8]])]);
        let (pack, chosen) = pack.reading_too(&[1, 1, 0]);
        assert_eq!(*pack.read, [3, 4, 6, 1, 5]);
        assert_eq!(chosen, [3, 3, 4]);
        let pack = Pack::new(&[group(&[&[1, 2, 3, 4], &[1, 2, 5]])]);
        let (pack, chosen) = pack.reading_too(&[2, 1]);
        assert_eq!((&*pack.read, &*chosen), (&[3, 4, 2, 1][..], &[2, 3][..]));
    }

    fn groups() -> impl Strategy<Value = Vec<Group>> {
        // Few distinct tokens, so that prefixes are shared often.
        let sequence = prop::collection::vec(0u32..3, 1..9);
        let group = prop::collection::vec(sequence, 1..5);
        prop::collection::vec(group, 0..8)
    }

    proptest! {
        #[test]
        fn every_sequence_can_be_read_back(groups in groups()) {
            let pack = Pack::new(&groups);
            let mut last = pack.read.iter();
            for (group, family) in groups.iter().zip(&*pack.families) {
                let prompt = family.prompt.start..family.prompt.start + family.prompt.len;
                for (sequence, response) in group.iter().zip(&family.responses) {
                    let own = response.start..response.start + response.len;
                    let rows: Vec<usize> = prompt.clone().chain(own).collect();
                    let ids: Vec<u32> = rows.iter().map(|&i| pack.ids[i]).collect();
                    let positions: Vec<u32> = rows.iter().map(|&i| pack.positions[i]).collect();
                    prop_assert_eq!(&ids, sequence);
                    prop_assert_eq!(positions, (0..sequence.len() as u32).collect::<Vec<_>>());
                    prop_assert_eq!(rows.last().map(|&i| i as u32), last.next().copied());
                }
            }
            prop_assert_eq!(pack.tokens(), groups.iter().map(|group| packed_tokens(group)).sum::<usize>());
        }

        #[test]
        fn an_inner_token_is_the_one_at_its_position(groups in groups(), seed in 0usize..1000) {
            let sequences: Vec<&Vec<u32>> = groups.iter().flatten().collect();
            let inner: Vec<usize> =
                sequences.iter().enumerate().map(|(i, ids)| (seed + 7 * i) % ids.len()).collect();
            let (pack, chosen) = Pack::new(&groups).reading_too(&inner);
            prop_assert_eq!(chosen.len(), sequences.len());
            for ((ids, &position), &row) in sequences.iter().zip(&inner).zip(&chosen) {
                let token = pack.read[row] as usize;
                prop_assert_eq!(pack.ids[token], ids[position]);
                prop_assert_eq!(pack.positions[token] as usize, position);
            }
        }

        #[test]
        fn micro_batches_tile_the_groups_and_respect_the_budget(groups in groups(), budget in 1usize..30) {
            let batches = micro_batches(&groups, budget);
            let covered: Vec<usize> = batches.iter().cloned().flatten().collect();
            prop_assert_eq!(covered, (0..groups.len()).collect::<Vec<_>>());
            for batch in batches {
                let tokens: usize = groups[batch.clone()].iter().map(|group| packed_tokens(group)).sum();
                prop_assert!(tokens <= budget || batch.len() == 1);
            }
        }
    }
}
