//! Floating-point operations of the decoder, counted from its shape. A multiplication with its addition counts as two.
//!
//! Counted are matrix products, attention with the keys that a query really sees. What is not here: norms, rotary
//! angles, softmax and gates, which are below a percent of any decoder worth planning for, and the optimizer.

use super::{DecoderConfig, Freeze};
use std::iter::Sum;
use std::ops::{Add, AddAssign};

/// What packed rows ask of a decoder, as sums that add up over groups of sequences.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Work {
    /// Packed tokens, a shared prompt once.
    pub tokens: u64,
    pub sequences: u64,
    /// Keys that the queries see, all queries together.
    pub visible_keys: u64,
}

impl Work {
    /// A group whose sequences have `shared` tokens in common and `own` tokens each after them.
    pub fn of_group(shared: u64, own: &[u64]) -> Self {
        let causal = |n: u64| n * (n + 1) / 2;
        Self {
            tokens: shared + own.iter().sum::<u64>(),
            sequences: own.len() as u64,
            visible_keys: causal(shared) + own.iter().map(|&n| n * shared + causal(n)).sum::<u64>(),
        }
    }
}

impl Add for Work {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            tokens: self.tokens + other.tokens,
            sequences: self.sequences + other.sequences,
            visible_keys: self.visible_keys + other.visible_keys,
        }
    }
}

impl AddAssign for Work {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sum for Work {
    fn sum<I: Iterator<Item = Self>>(works: I) -> Self {
        works.fold(Self::default(), Add::add)
    }
}

/// The operations of one forward and backward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flops {
    pub forward: u64,
    /// Gradients of inputs and of weights: as much again each. What is frozen has no gradients of weights, and what
    /// lies below everything that is trained has none at all.
    pub backward: u64,
    /// Scores of attention, which no forward keeps and every backward forms once more.
    pub scores_again: u64,
    /// The layers that the backward passes through, forward: what keeping only their inputs costs.
    pub layers_again: u64,
}

impl Flops {
    /// What the model asks for, however it is computed: the numerator of the model FLOPs utilization (MFU).
    pub fn of_model(&self) -> u64 {
        self.forward + self.backward
    }
}

/// Operations of a decoder's forward pass for each unit of [`Work`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Rates {
    token: u64,
    sequence: u64,
    visible_key: u64,
}

impl Rates {
    /// The layers from `first` on. After the last one's attention only last tokens go on.
    fn of_layers(decoder: &DecoderConfig, first: usize) -> Self {
        let hidden = decoder.hidden_size as u64;
        let query = (decoder.num_heads * decoder.head_dim) as u64;
        let key_value = (decoder.num_kv_heads * decoder.head_dim) as u64;
        let layers = decoder.num_layers.saturating_sub(first) as u64;
        let projections = 2 * hidden * (query + 2 * key_value);
        let after_attention = 2 * query * hidden + 3 * 2 * hidden * decoder.intermediate_size as u64;
        let last = u64::from(layers > 0);
        Self {
            token: layers * projections + (layers - last) * after_attention,
            sequence: last * after_attention + 2 * hidden,
            // Scores, and values weighted by them.
            visible_key: layers * 2 * 2 * query,
        }
    }

    fn of(&self, work: Work) -> u64 {
        self.token * work.tokens + self.sequence * work.sequences + self.visible_key * work.visible_keys
    }
}

/// Counts the operations of one decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlopCounter {
    all: Rates,
    /// The layers that gradients pass through, forward.
    passed: Rates,
    backward: Rates,
}

impl FlopCounter {
    /// For a decoder of which so much is frozen.
    pub fn new(decoder: &DecoderConfig, freeze: Freeze) -> Self {
        let passed = Rates::of_layers(decoder, freeze.layers_without_backward());
        let trained = Rates::of_layers(decoder, freeze.layers);
        let backward = Rates {
            // Gradients of inputs wherever they pass, of weights where those are trained.
            token: passed.token + trained.token,
            sequence: passed.sequence + trained.sequence,
            // Attention has no weights; each of its two products has two operands with a gradient.
            visible_key: 2 * passed.visible_key,
        };
        Self { all: Rates::of_layers(decoder, 0), passed, backward }
    }

    /// One forward and backward pass over `work`.
    pub fn count(&self, work: Work) -> Flops {
        Flops {
            forward: self.all.of(work),
            backward: self.backward.of(work),
            scores_again: self.passed.visible_key / 2 * work.visible_keys,
            layers_again: self.passed.of(work),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Family, Pack};

    fn decoder(num_layers: usize) -> DecoderConfig {
        DecoderConfig {
            family: Family::Qwen2,
            hidden_size: 4,
            intermediate_size: 10,
            num_layers,
            num_heads: 2,
            num_kv_heads: 1,
            head_dim: 3,
            vocab_size: 100,
            rms_norm_eps: 1e-6,
            rope_theta: 1e4,
            rope_scaling: None,
            max_position_embeddings: 512,
            qkv_bias: true,
            output_bias: false,
            mlp_bias: false,
            tie_word_embeddings: true,
            initializer_range: 0.02,
        }
    }

    #[test]
    fn a_layer_is_counted_by_hand() {
        // 2 shared tokens, 1 and 3 of their own: 6 packed tokens, 2 last ones.
        let work = Work::of_group(2, &[1, 3]);
        // Prompt 1 + 2; first response 3; second 3 + 4 + 5.
        assert_eq!(work, Work { tokens: 6, sequences: 2, visible_keys: 3 + 3 + 12 });
        let projections = 6 * 2 * (4 * 6 + 2 * 4 * 3);
        let attention = 2 * (2 * 18 * 3) * 2; // two products, 18 keys of 3 values, two heads
        let rest = 2 * (6 * 4 + 3 * 4 * 10); // of one token: output, then gate, up and down
        let head = 2 * 2 * 4;
        let one = FlopCounter::new(&decoder(1), Freeze::default()).count(work);
        assert_eq!(one.forward, projections + attention + 2 * rest + head);
        assert_eq!(one.backward, 2 * one.forward);
        assert_eq!(one.of_model(), 3 * one.forward);
        assert_eq!((one.scores_again, one.layers_again), (attention / 2, one.forward));
        let three = FlopCounter::new(&decoder(3), Freeze::default()).count(work);
        assert_eq!(three.forward, 3 * (projections + attention) + 2 * 6 * rest + 2 * rest + head);
    }

    #[test]
    fn frozen_layers_run_forward_only() {
        let work = Work::of_group(2, &[1, 3]);
        let frozen = FlopCounter::new(&decoder(3), Freeze { embeddings: true, layers: 2 }).count(work);
        assert_eq!(frozen.forward, FlopCounter::new(&decoder(3), Freeze::default()).count(work).forward);
        assert_eq!(frozen.backward, FlopCounter::new(&decoder(1), Freeze::default()).count(work).backward);
    }

    #[test]
    fn frozen_layers_above_trained_embeddings_form_gradients_of_their_inputs_alone() {
        let work = Work::of_group(2, &[1, 3]);
        // Forward, by hand as above: three layers' projections, two layers' rest on 6 tokens and one on 2.
        let projections = 6 * 2 * (4 * 6 + 2 * 4 * 3);
        let attention = 2 * (2 * 18 * 3) * 2;
        let rest = 2 * (6 * 4 + 3 * 4 * 10);
        let head = 2 * 2 * 4;
        let inputs = 3 * projections + 2 * 6 * rest + 2 * rest + head;
        let found = FlopCounter::new(&decoder(3), Freeze { embeddings: false, layers: 2 }).count(work);
        // Weights of the last layer and of the head; attention's own gradients everywhere.
        assert_eq!(found.backward, inputs + (projections + 2 * rest + head) + 2 * 3 * attention);
        assert_eq!((found.scores_again, found.layers_again), (3 * attention / 2, found.forward));
        let all = FlopCounter::new(&decoder(3), Freeze { embeddings: false, layers: 3 }).count(work);
        assert_eq!(all.backward, inputs + head + 2 * 3 * attention);
    }

    #[test]
    fn long_sequences_approach_six_times_the_parameters_a_token() {
        let decoder = DecoderConfig {
            hidden_size: 896,
            intermediate_size: 4864,
            num_heads: 14,
            num_kv_heads: 2,
            head_dim: 64,
            num_layers: 24,
            ..decoder(24)
        };
        let flops = FlopCounter::new(&decoder, Freeze::default()).count(Work::of_group(0, &[100]));
        let matrices = decoder.parameter_count() - 100 * 896;
        let ratio = flops.of_model() as f64 / (6 * matrices * 100) as f64;
        // The last layer's MLP is left out, attention is on top.
        assert!((0.95..1.02).contains(&ratio), "{ratio}");
    }

    #[test]
    fn visible_keys_are_those_of_the_pack() {
        let groups = [vec![vec![1, 2, 3, 4], vec![1, 2, 5]], vec![vec![7, 8]]];
        let pack = Pack::new(&groups);
        let seen = |prompt: usize, own: usize| (0..own).map(|i| (prompt + i + 1) as u64).sum::<u64>();
        let keys: u64 = pack
            .families
            .iter()
            .map(|f| {
                let responses: u64 = f.responses.iter().map(|r| seen(f.prompt.len, r.len)).sum();
                seen(0, f.prompt.len) + responses
            })
            .sum();
        let work = Work::of_group(2, &[2, 1]) + Work::of_group(0, &[2]);
        assert_eq!(work, Work { tokens: pack.tokens() as u64, sequences: 3, visible_keys: keys });
    }
}
