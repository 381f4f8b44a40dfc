//! What a run will cost, from the lengths of its lists (pairs are lists of two) and the shapes of its model: tokens,
//! operations, memory, time.

use super::config::Config;
use super::lengths::{Histogram, ListLengths, Sample, Spread};
use super::memory::{Activations, Memory, StepSize};
use crate::model::DecoderConfig;
use crate::model::flops::{FlopCounter, Flops, Work};
use crate::model::pack;

/// Sequences are padded in batches of so many pairs where one pads: TRL's `per_device_train_batch_size` by default.
pub const PADDED_BATCH_PAIRS: usize = 8;

/// What an estimate is made from.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    pub config: &'a Config,
    pub memory: Memory,
    pub flops: FlopCounter,
    /// Pairs, or lists, of an epoch.
    pub pairs: u64,
    pub total_steps: u64,
    /// Its first steps, one at least.
    pub sample: &'a Sample,
}

impl<'a> Inputs<'a> {
    pub fn new(
        decoder: &DecoderConfig,
        config: &'a Config,
        memory: Memory,
        pairs: u64,
        total_steps: u64,
        sample: &'a Sample,
    ) -> Self {
        let flops = FlopCounter::new(decoder, memory.freeze);
        Self { config, memory, flops, pairs, total_steps, sample }
    }

    /// The sampled steps that the run will make, at another number of tokens at once.
    pub fn step_costs(&self, micro_batch_tokens: usize) -> Vec<StepCost> {
        let made = usize::try_from(self.total_steps).unwrap_or(usize::MAX);
        let steps = self.sample.steps().take(made);
        steps.map(|(lists, rows)| self.step_cost(lists, rows, micro_batch_tokens)).collect()
    }

    fn step_cost(&self, lists: &[ListLengths], rows: u64, micro_batch_tokens: usize) -> StepCost {
        let packed: Vec<u64> = lists.iter().map(ListLengths::packed).collect();
        let micro_batches = pack::micro_batches_of(packed.iter().map(|&n| n as usize), micro_batch_tokens);
        let sizes = micro_batches.into_iter().map(|range| packed[range].iter().sum());
        let size = StepSize::new(sizes, rows);
        let activations = self.memory.choose(size);
        let flops = self.flops.count(lists.iter().map(ListLengths::work).sum::<Work>());
        StepCost {
            pairs: lists.len() as u64,
            plain_tokens: lists.iter().map(ListLengths::plain).sum(),
            size,
            activations,
            flops,
        }
    }

    /// The most that any of the steps takes with all activations held like that.
    pub fn peak_bytes(&self, activations: Activations, steps: &[StepCost]) -> u64 {
        let rows = self.sample.rows();
        let peaks = steps.iter().map(|step| self.memory.peak_bytes(activations, step.size, rows));
        peaks.max().unwrap_or(0)
    }
}

/// One optimizer step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepCost {
    pub pairs: u64,
    /// The prompt in each sequence.
    pub plain_tokens: u64,
    pub size: StepSize,
    pub activations: Activations,
    pub flops: Flops,
}

impl StepCost {
    /// Operations that are computed, those that save memory included.
    pub fn computed(&self) -> u64 {
        let Flops { forward, scores_again, layers_again, .. } = self.flops;
        let again = match self.activations {
            Activations::Keep => 0,
            Activations::Recompute => layers_again,
            Activations::RewardsFirst => layers_again + forward,
        };
        self.flops.of_model() + scores_again + again
    }
}

/// Lengths of the sampled sequences.
#[derive(Debug, Clone, PartialEq)]
pub struct Lengths {
    /// What the sequences of a list share.
    pub prompt: Spread,
    /// Whole sequences, prompt included: of each list the best, and the others.
    pub chosen: Spread,
    pub rejected: Spread,
    pub packed_pair: Spread,
    pub histogram: Histogram,
}

/// Tokens of an epoch, three ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tokens {
    /// The prompt in each sequence.
    pub plain: u64,
    /// The prompt once: what is computed here.
    pub packed: u64,
    /// Plain, and padded to the longest of [`PADDED_BATCH_PAIRS`] pairs.
    pub padded: u64,
}

/// The cost of a run. Sums are scaled from the sample where that is not the whole.
#[derive(Debug, Clone, PartialEq)]
pub struct Estimate {
    pub pairs: u64,
    /// Pairs, or lists, that were tokenized.
    pub sampled_pairs: u64,
    pub steps: u64,
    pub tokens: Tokens,
    /// Of the whole run.
    pub run_plain_tokens: f64,
    pub run_packed_tokens: f64,
    pub lengths: Lengths,
    /// Packed tokens of a step.
    pub step_tokens: Spread,
    pub step_plain_tokens: Spread,
    /// Operations of a step on average: everything that is computed, and what the model asks for.
    pub step_flops: f64,
    pub step_model_flops: f64,
    pub run_flops: f64,
    pub run_model_flops: f64,
    /// Steps of the sample held in each way of [`Activations::ALL`].
    pub steps_by_activations: [usize; 3],
    /// How most steps are held.
    pub activations: Activations,
    /// The largest step's peak in each way of [`Activations::ALL`].
    pub peak_bytes: [u64; 3],
    /// The peak with each step held as it will be.
    pub run_peak_bytes: u64,
    /// Different tokens of any one step, and of the sample.
    pub step_rows: u64,
    pub rows: u64,
    /// The largest step.
    pub largest_step: StepSize,
}

impl Estimate {
    /// Adds up the sample.
    pub fn new(inputs: &Inputs) -> Self {
        let Inputs { config, sample, memory, .. } = *inputs;
        let steps = inputs.step_costs(config.micro_batch_tokens);
        let lists = sample.lists();
        let of_epoch = |sum: u64| match lists.len() as u64 {
            n if n == inputs.pairs => sum,
            n => (sum as f64 * inputs.pairs as f64 / n.max(1) as f64).round() as u64,
        };
        let batch = PADDED_BATCH_PAIRS.min(config.batch_pairs);
        let mean = |value: &dyn Fn(&StepCost) -> u64| {
            steps.iter().map(|step| value(step) as f64).sum::<f64>() / steps.len().max(1) as f64
        };
        let (computed, model) = (mean(&StepCost::computed), mean(&|step| step.flops.of_model()));
        let total = inputs.total_steps as f64;
        let held = |way: Activations| steps.iter().filter(|step| step.activations == way).count();
        let steps_by_activations = Activations::ALL.map(held);
        let activations = Activations::ALL.into_iter().max_by_key(|&way| held(way));
        let rows = sample.rows();
        let peak = |step: &StepCost| memory.peak_bytes(step.activations, step.size, rows);
        let spread = |value: &dyn Fn(&ListLengths) -> u64| Spread::of(lists.iter().map(value));
        let sequences = |of: fn(&[u32]) -> &[u32]| {
            lists.iter().flat_map(move |list| of(&list.sequences)).map(|&tokens| u64::from(tokens))
        };
        Self {
            pairs: inputs.pairs,
            sampled_pairs: lists.len() as u64,
            steps: inputs.total_steps,
            tokens: Tokens {
                plain: of_epoch(lists.iter().map(ListLengths::plain).sum()),
                packed: of_epoch(lists.iter().map(ListLengths::packed).sum()),
                padded: of_epoch(sample.padded_tokens(batch)),
            },
            run_plain_tokens: mean(&|step| step.plain_tokens) * total,
            run_packed_tokens: mean(&|step| step.size.tokens) * total,
            lengths: Lengths {
                prompt: spread(&|list| list.shared.into()),
                chosen: Spread::of(sequences(|all| all.get(..1).unwrap_or(&[]))),
                rejected: Spread::of(sequences(|all| all.get(1..).unwrap_or(&[]))),
                packed_pair: spread(&ListLengths::packed),
                histogram: Histogram::of(sequences(|all| all)),
            },
            step_tokens: Spread::of(steps.iter().map(|step| step.size.tokens)),
            step_plain_tokens: Spread::of(steps.iter().map(|step| step.plain_tokens)),
            step_flops: computed,
            step_model_flops: model,
            run_flops: computed * total,
            run_model_flops: model * total,
            steps_by_activations,
            activations: activations.unwrap_or(Activations::Recompute),
            peak_bytes: Activations::ALL.map(|way| inputs.peak_bytes(way, &steps)),
            run_peak_bytes: steps.iter().map(peak).max().unwrap_or(0),
            step_rows: steps.iter().map(|step| step.size.rows).max().unwrap_or(0),
            rows,
            largest_step: steps
                .iter()
                .map(|step| step.size)
                .max_by_key(|size| size.tokens)
                .unwrap_or_default(),
        }
    }

    /// How many times the packed tokens the plain ones are.
    pub fn sharing_factor(&self) -> f64 {
        self.tokens.plain as f64 / self.tokens.packed.max(1) as f64
    }

    /// How many times the packed tokens the padded ones are.
    pub fn padding_factor(&self) -> f64 {
        self.tokens.padded as f64 / self.tokens.packed.max(1) as f64
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::memory::{Budget, Storage};
    use super::*;
    use crate::data::{Ranking, TokenList};
    use crate::model::config::Dtype;
    use crate::model::{Family, Freeze};

    pub fn decoder() -> DecoderConfig {
        DecoderConfig {
            family: Family::Qwen2,
            hidden_size: 64,
            intermediate_size: 128,
            num_layers: 4,
            num_heads: 4,
            num_kv_heads: 2,
            head_dim: 16,
            vocab_size: 1000,
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

    pub fn memory(budget: u64) -> Memory {
        let storage = Storage::new(
            &decoder(),
            Dtype::F32,
            true,
            Freeze::default(),
            crate::optim::config::MomentKind::F32,
        );
        Memory::new(&decoder(), &storage, &Config::default(), Budget { bytes: Some(budget) })
    }

    /// `steps` steps of two pairs: 10 shared tokens, then 20 and 30 of their own.
    pub fn sample(steps: usize) -> Sample {
        let ids = |first: u32, len: u32| (0..10).chain(first..first + len).collect::<Vec<u32>>();
        let pair = TokenList {
            index: 0,
            origin: String::new(),
            sequences: vec![ids(100, 20), ids(200, 30)],
            ranking: Ranking::pair(),
            margin: None,
        };
        let mut sample = Sample::new(1000);
        (0..steps).for_each(|_| sample.push_step(&[pair.clone(), pair.clone()]));
        sample
    }

    #[test]
    fn sums_are_scaled_from_the_sample_to_the_run() {
        let (config, sample) = (Config { batch_pairs: 2, ..Config::default() }, sample(3));
        let inputs = Inputs::new(&decoder(), &config, memory(1 << 40), 12, 18, &sample);
        let estimate = Estimate::new(&inputs);
        assert_eq!(estimate.tokens, Tokens { plain: 12 * 70, packed: 12 * 60, padded: 12 * 80 });
        assert_eq!((estimate.run_plain_tokens, estimate.run_packed_tokens), (18.0 * 140.0, 18.0 * 120.0));
        assert_eq!(estimate.step_tokens, Spread { median: 120, p95: 120, max: 120 });
        assert_eq!((estimate.step_rows, estimate.rows), (60, 60));
        assert_eq!(estimate.lengths.prompt.max, 10);
        let work = Work::of_group(10, &[20, 30]);
        let flops = FlopCounter::new(&decoder(), Freeze::default()).count(work + work);
        assert_eq!(estimate.step_model_flops, flops.of_model() as f64);
        assert_eq!(estimate.run_model_flops, 18.0 * flops.of_model() as f64);
        assert_eq!(estimate.activations, Activations::Keep);
        assert_eq!(estimate.step_flops, (flops.of_model() + flops.scores_again) as f64);
        assert_eq!(estimate.run_peak_bytes, estimate.peak_bytes[0]);
        // One micro-batch a step: its layer inputs are all there are.
        let [keep, recompute, rewards_first] = estimate.peak_bytes;
        assert!(keep > recompute && recompute == rewards_first);
    }

    #[test]
    fn computing_again_costs_operations() {
        let (config, sample) = (Config { batch_pairs: 2, ..Config::default() }, sample(1));
        let inputs = Inputs::new(&decoder(), &config, memory(0), 2, 1, &sample);
        let steps = inputs.step_costs(1);
        assert_eq!((steps[0].activations, steps[0].size.largest_later), (Activations::RewardsFirst, 60));
        let Flops { forward, backward, scores_again, layers_again } = steps[0].flops;
        assert_eq!(steps[0].computed(), 2 * forward + layers_again + backward + scores_again);
        assert_eq!(steps[0].size.largest, 60);
    }

    #[test]
    fn a_run_shorter_than_the_sample_has_its_own_steps() {
        let (config, sample) = (Config { batch_pairs: 2, ..Config::default() }, sample(3));
        let inputs = Inputs::new(&decoder(), &config, memory(1 << 40), 6, 1, &sample);
        let estimate = Estimate::new(&inputs);
        assert_eq!((estimate.run_plain_tokens, estimate.tokens.plain), (140.0, 420));
        assert_eq!(estimate.steps_by_activations, [1, 0, 0]);
    }
}
