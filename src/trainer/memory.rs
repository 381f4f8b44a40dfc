//! How much memory a step takes, and how its activations are held. The result is the same, bit for bit.

use super::config;
use crate::base::memory::available_bytes;
use crate::model::config::Dtype;
use crate::model::device::device_free_bytes;
use crate::model::{DecoderConfig, Freeze, RewardModel};
use crate::optim::config::MomentKind;
use crate::optim::moments;
use candle_core::Device;

const F32: u64 = 4;
/// Of the memory that is free, what a run may take: other programs want some, too.
const SHARE_OF_FREE: f64 = 0.8;
/// What products on the CPU pack their operands into, and small tensors, as far as the heap that the tokenizer's files
/// leave free does not hold them. By measurement, see LOG.md.
const WORKSPACE_BYTES: u64 = 16 << 20;

/// How the activations of a step are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activations {
    Keep,
    Recompute,
    RewardsFirst,
}

impl Activations {
    /// From most memory and least computation to the opposite.
    pub const ALL: [Activations; 3] = [Activations::Keep, Activations::Recompute, Activations::RewardsFirst];

    /// The word in `train.activations`.
    pub fn name(self) -> &'static str {
        match self {
            Activations::Keep => "keep",
            Activations::Recompute => "recompute",
            Activations::RewardsFirst => "rewards-first",
        }
    }
}

/// What parameters take beside their f32 masters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Storage {
    /// Bytes of a value in forward and backward; below 4 there is a copy of every master.
    pub compute_bytes: u64,
    /// Values of the heads of an ensemble beside the first.
    pub further_heads: u64,
    /// Values that are trained, without the embedding.
    dense: u64,
    pub moment_kind: MomentKind,
    /// Both moments of these, in bytes.
    dense_moments: u64,
    /// Of the embedding, where it is trained; else 0.
    embedding: u64,
    embedding_moments: u64,
    freeze: Freeze,
    /// Rows of the embedding that no gradient ever reached take no memory for their moments.
    pub moments_are_sparse: bool,
}

impl Storage {
    /// For a model of this shape, of which a part is frozen.
    pub fn new(
        decoder: &DecoderConfig,
        dtype: Dtype,
        on_cpu: bool,
        freeze: Freeze,
        moments: MomentKind,
    ) -> Self {
        let mut storage = Self {
            compute_bytes: match dtype {
                Dtype::F32 => F32,
                Dtype::Bf16 | Dtype::F16 => 2,
            },
            further_heads: 0,
            dense: 0,
            moment_kind: moments,
            dense_moments: 0,
            embedding: 0,
            embedding_moments: 0,
            freeze,
            moments_are_sparse: on_cpu,
        };
        for (name, shape) in decoder.parameter_shapes() {
            let values = shape.iter().map(|n| *n as u64).product::<u64>();
            match name.as_str() {
                _ if freeze.covers(&name) => {}
                EMBEDDING => {
                    storage.embedding = values;
                    storage.embedding_moments = moments::bytes(moments, values);
                }
                _ => {
                    storage.dense += values;
                    storage.dense_moments += moments::bytes(moments, values);
                }
            }
        }
        storage
    }

    /// For an ensemble of so many heads, where [`Storage::new`] counts one.
    pub fn with_heads(mut self, decoder: &DecoderConfig, heads: usize) -> Self {
        let width = decoder.hidden_size as u64;
        let (one, all) = (width, width * heads.max(1) as u64);
        self.further_heads = all - one;
        self.dense += self.further_heads;
        self.dense_moments += moments::bytes(self.moment_kind, all);
        self.dense_moments -= moments::bytes(self.moment_kind, one);
        self
    }

    /// Values that are trained.
    pub fn trained(&self) -> u64 {
        self.dense + self.embedding
    }
}

const EMBEDDING: &str = "model.embed_tokens.weight";

fn embedding_count(decoder: &DecoderConfig) -> u64 {
    (decoder.vocab_size * decoder.hidden_size) as u64
}

/// What a step asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StepSize {
    /// Packed tokens of all micro-batches.
    pub tokens: u64,
    /// Packed tokens of the largest micro-batch.
    pub largest: u64,
    /// Packed tokens of the first micro-batch.
    pub first: u64,
    /// Packed tokens of the largest one after the first; 0 where there is no other.
    pub largest_later: u64,
    /// Rows of the embedding that its tokens use.
    pub rows: u64,
}

impl StepSize {
    /// A step of micro-batches of these many packed tokens.
    pub fn new(micro_batches: impl IntoIterator<Item = u64>, rows: u64) -> Self {
        let mut sizes = micro_batches.into_iter();
        let first = sizes.next().unwrap_or(0);
        let (tokens, largest_later) =
            sizes.fold((first, 0), |(sum, largest), size| (sum + size, size.max(largest)));
        Self { tokens, largest: first.max(largest_later), first, largest_later, rows }
    }
}

/// The bytes of a model's weights, and when they are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weights {
    /// They are there; what is free is free beside them.
    Loaded(u64),
    /// They will come out of what is free now.
    ToLoad(u64),
}

impl Weights {
    /// What a run may hold on a device that has so many bytes free: the weights, and most of what is free beside them.
    fn usable(self, free: u64) -> u64 {
        let (weights, beside) = match self {
            Self::Loaded(weights) => (weights, free),
            Self::ToLoad(weights) => (weights, free.saturating_sub(weights)),
        };
        weights + (beside as f64 * SHARE_OF_FREE) as u64
    }
}

/// Memory that a run may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// For everything that the run holds, weights included; `None` where neither the user nor the system names a limit.
    pub bytes: Option<u64>,
}

impl Budget {
    /// What the configuration allows, else the weights and most of what `device` has free beside them: the same for who
    /// has loaded them and for who only plans to.
    pub fn new(config: &config::Config, device: &Device, weights: Weights) -> Self {
        let free = || if device.is_cpu() { available_bytes() } else { device_free_bytes(device) };
        let usable = |free: u64| weights.usable(free);
        Self { bytes: config.memory_budget_gib.map(Self::gib).or_else(|| free().map(usable)) }
    }

    /// So many GiB.
    pub fn gib(gib: f64) -> u64 {
        (gib * (1_u64 << 30) as f64) as u64
    }
}

/// The memory model of one run: bytes, from shapes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Memory {
    forced: Option<Activations>,
    pub budget: Budget,
    /// A packed token whose activations are kept.
    kept_per_token: u64,
    /// A packed token of which only layer inputs are kept.
    inputs_per_token: u64,
    /// A packed token while a layer runs backward from its kept activations.
    backward_per_token: u64,
    /// A packed token while a layer runs, of which only its input is there.
    layer_per_token: u64,
    pub masters: u64,
    /// Masters in the compute dtype, where that is another one.
    pub compute_copies: u64,
    pub moment_kind: MomentKind,
    dense_gradients: u64,
    dense_moments: u64,
    /// A row of the embedding: its gradient and its moments.
    row_gradient: u64,
    embedding_moments: u64,
    /// What is not trained.
    pub freeze: Freeze,
    rows: u64,
    moments_are_sparse: bool,
    pub workspace: u64,
    /// The largest parameter, which is there twice while it is loaded.
    largest_parameter: u64,
}

impl Memory {
    /// For a model of this shape, stored like that.
    pub fn new(decoder: &DecoderConfig, storage: &Storage, config: &config::Config, budget: Budget) -> Self {
        let hidden = decoder.hidden_size as u64;
        let query = (decoder.num_heads * decoder.head_dim) as u64;
        let key_value = (decoder.num_kv_heads * decoder.head_dim) as u64;
        let intermediate = decoder.intermediate_size as u64;
        let layers = decoder.num_layers.saturating_sub(storage.freeze.layers_without_backward()) as u64;
        let width = storage.compute_bytes;
        // Input; q and attention's output; k and v. The last layer's other intermediates are those of last tokens.
        let until_attention = width * (hidden + 2 * query + 2 * key_value) + F32 * decoder.num_heads as u64;
        // Middle; gate and up.
        let after_attention = width * (hidden + 2 * intermediate);
        let full = until_attention + after_attention;
        // What forward holds beside: both normed inputs, the output, q and k before rotation, the gated product.
        let forward = width * (3 * hidden + query + key_value + intermediate);
        // The gradients of output, product, gate and up, with the product formed again.
        let backward_of_mlp = width * (4 * intermediate + hidden);
        // Those of output and middle, of attention's output, of q, k and v before and after rotation; the normed input.
        let backward_of_attention = width * (4 * hidden + 3 * query + 4 * key_value);
        let backward = backward_of_mlp.max(backward_of_attention);
        let parameters = decoder.parameter_count() + storage.further_heads;
        let row_gradient = if storage.embedding > 0 { F32 * hidden } else { 0 };
        let largest_parameter = F32 * embedding_count(decoder).max(hidden * intermediate);
        Self {
            forced: match config.activations {
                config::Activations::Auto => None,
                config::Activations::Keep => Some(Activations::Keep),
                config::Activations::Recompute => Some(Activations::Recompute),
                config::Activations::RewardsFirst => Some(Activations::RewardsFirst),
            },
            budget,
            kept_per_token: full * layers.saturating_sub(1) + until_attention * layers.min(1),
            inputs_per_token: width * hidden * layers,
            backward_per_token: backward.max(forward),
            layer_per_token: full - width * hidden + backward.max(forward),
            masters: F32 * parameters,
            compute_copies: if width < F32 { width * parameters } else { 0 },
            moment_kind: storage.moment_kind,
            dense_gradients: F32 * storage.dense,
            dense_moments: storage.dense_moments,
            row_gradient,
            embedding_moments: storage.embedding_moments,
            freeze: storage.freeze,
            rows: decoder.vocab_size as u64,
            moments_are_sparse: storage.moments_are_sparse,
            workspace: WORKSPACE_BYTES,
            largest_parameter,
        }
    }

    /// For a model that is loaded already.
    pub fn of_loaded(model: &RewardModel, config: &config::Config, moments: MomentKind) -> Self {
        let (decoder, device) = (model.config(), model.device());
        let storage = Storage::new(decoder, model.dtype(), device.is_cpu(), model.frozen(), moments)
            .with_heads(decoder, model.head_count());
        let empty = Budget { bytes: None };
        let memory = Self::new(decoder, &storage, config, empty);
        Self { budget: Budget::new(config, device, Weights::Loaded(memory.weights())), ..memory }
    }

    /// What a model takes once it is loaded.
    pub fn weights(&self) -> u64 {
        self.masters + self.compute_copies
    }

    /// How to hold a step's activations: the first way that fits, all moments counted.
    pub fn choose(&self, step: StepSize) -> Activations {
        if let Some(forced) = self.forced {
            return forced;
        }
        if self.budget.bytes.is_none() {
            return Activations::Recompute;
        }
        let fits = |activations: &Activations| self.fits(*activations, step);
        Activations::ALL.into_iter().find(fits).unwrap_or(Activations::RewardsFirst)
    }

    /// Whether a step held in this way stays within the budget, once all moments are there.
    pub fn fits(&self, activations: Activations, step: StepSize) -> bool {
        self.budget.bytes.is_none_or(|budget| self.peak_bytes(activations, step, self.rows) <= budget)
    }

    /// Gradients of a step whose tokens use `rows` rows of the embedding.
    pub fn gradients(&self, rows: u64) -> u64 {
        self.dense_gradients + self.row_gradient * rows.min(self.rows)
    }

    /// Moments, once gradients reached `rows` rows of the embedding.
    pub fn moments(&self, rows: u64) -> u64 {
        let rows = if self.moments_are_sparse { rows.min(self.rows) } else { self.rows };
        let share = rows as f64 / self.rows.max(1) as f64;
        self.dense_moments + (self.embedding_moments as f64 * share) as u64
    }

    /// Moments of every parameter.
    pub fn all_moments(&self) -> u64 {
        self.moments(self.rows)
    }

    /// What a step's activations take at their peak.
    pub fn activation_bytes(&self, activations: Activations, step: StepSize) -> u64 {
        self.held(activations, step.tokens, step.largest) + self.working(activations, step.largest)
    }

    fn held(&self, activations: Activations, tokens: u64, largest: u64) -> u64 {
        match activations {
            Activations::Keep => tokens * self.kept_per_token,
            Activations::Recompute => tokens * self.inputs_per_token,
            Activations::RewardsFirst => largest * self.inputs_per_token,
        }
    }

    /// While one layer of the largest micro-batch runs.
    fn working(&self, activations: Activations, largest: u64) -> u64 {
        largest
            * match activations {
                Activations::Keep => self.backward_per_token,
                Activations::Recompute | Activations::RewardsFirst => self.layer_per_token,
            }
    }

    /// The most that a step takes, everything together, when gradients have reached `rows_reached` rows of the
    /// embedding.
    ///
    /// Gradients take memory from the first backward on, and activations give theirs back on the way: of the first
    /// micro-batch all are there before any gradient is, and none when all gradients are.
    pub fn peak_bytes(&self, activations: Activations, step: StepSize, rows_reached: u64) -> u64 {
        let before = self.activation_bytes(activations, step);
        // While the second one runs; where there is none, the first one's lowest layer.
        let (others, size) = match step.largest_later {
            0 => (0, step.first),
            later => (self.held(activations, step.tokens - step.first, later), later),
        };
        let during = others + self.working(activations, size) + self.gradients(step.rows);
        let training = self.moments(rows_reached) + self.workspace + before.max(during);
        self.weights() + training.max(self.largest_parameter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Family;

    fn decoder() -> DecoderConfig {
        DecoderConfig {
            family: Family::Qwen2,
            hidden_size: 64,
            intermediate_size: 128,
            num_layers: 4,
            num_heads: 4,
            num_kv_heads: 2,
            head_dim: 16,
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

    fn memory(config: &config::Config, dtype: Dtype) -> Memory {
        let storage = Storage::new(&decoder(), dtype, true, Freeze::default(), MomentKind::F32);
        Memory::new(&decoder(), &storage, config, Budget::new(config, &Device::Cpu, Weights::ToLoad(0)))
    }

    /// A hundred micro-batches of a thousand tokens.
    const STEP: StepSize =
        StepSize { tokens: 100_000, largest: 1_000, first: 1_000, largest_later: 1_000, rows: 90 };

    #[test]
    fn a_step_knows_its_micro_batches() {
        assert_eq!(StepSize::new([1_000; 100], 90), STEP);
        let uneven = StepSize { tokens: 9, largest: 5, first: 5, largest_later: 3, rows: 1 };
        assert_eq!(StepSize::new([5, 1, 3], 1), uneven);
    }

    #[test]
    fn less_memory_keeps_less() {
        let with = |gib: f64| {
            let config = config::Config { memory_budget_gib: Some(gib), ..config::Config::default() };
            memory(&config, Dtype::F32).choose(STEP)
        };
        assert_eq!(with(10.0), Activations::Keep);
        assert_eq!(with(0.3), Activations::Recompute);
        assert_eq!(with(0.01), Activations::RewardsFirst);
    }

    #[test]
    fn a_plan_has_the_budget_of_the_run() {
        let (weights, free) = (3 << 30, 10 << 30);
        let run = Weights::Loaded(weights).usable(free - weights);
        assert_eq!(Weights::ToLoad(weights).usable(free), run);
        assert_eq!(run, weights + (7.0 * 0.8 * f64::from(1 << 30)) as u64);
        // Weights that do not fit leave nothing for the rest.
        assert_eq!(Weights::ToLoad(free).usable(weights), free);
    }

    #[test]
    fn a_forced_choice_is_taken() {
        let config = config::Config {
            activations: config::Activations::RewardsFirst,
            memory_budget_gib: Some(1000.0),
            ..config::Config::default()
        };
        assert_eq!(memory(&config, Dtype::F32).choose(STEP), Activations::RewardsFirst);
    }

    #[test]
    fn parts_are_counted_by_hand() {
        let config = config::Config::default();
        let f32 = memory(&config, Dtype::F32);
        let parameters = decoder().parameter_count();
        let dense = parameters - 100 * 64;
        assert_eq!((f32.masters, f32.compute_copies), (4 * parameters, 0));
        assert_eq!(f32.gradients(10), 4 * (dense + 10 * 64));
        assert_eq!((f32.moments(10), f32.all_moments()), (8 * (dense + 10 * 64), 8 * parameters));
        // x, middle; q, attention; k, v; gate, up; the log-sum-exp. The last layer has x, q, k, v and attention.
        let full = 4 * (2 * 64 + 2 * 64 + 2 * 32 + 2 * 128 + 4);
        assert_eq!(f32.held(Activations::Keep, 7, 1), 7 * (3 * full + 4 * (64 + 2 * 64 + 2 * 32 + 4)));
        assert_eq!(f32.held(Activations::Recompute, 7, 3), 7 * 4 * 64 * 4);
        assert_eq!(f32.held(Activations::RewardsFirst, 7, 3), 3 * 4 * 64 * 4);
        let bf16 = memory(&config, Dtype::Bf16);
        assert_eq!((bf16.masters, bf16.compute_copies), (4 * parameters, 2 * parameters));
        assert_eq!(bf16.gradients(10), f32.gradients(10));
        assert_eq!(2 * bf16.held(Activations::Recompute, 7, 3), f32.held(Activations::Recompute, 7, 3));
    }

    #[test]
    fn what_is_frozen_takes_no_gradients_no_moments_and_no_activations() {
        let with = |freeze, moments| {
            let storage = Storage::new(&decoder(), Dtype::F32, true, freeze, moments);
            Memory::new(&decoder(), &storage, &config::Config::default(), Budget { bytes: None })
        };
        let (all, rows) = (with(Freeze::default(), MomentKind::F32), u64::MAX);
        let frozen = with(Freeze { embeddings: true, layers: 3 }, MomentKind::F32);
        // One layer, the final norm and the head.
        let layer = 64 * 64 * 2 + 64 * 32 * 2 + 64 + 32 * 2 + 3 * 64 * 128 + 2 * 64;
        assert_eq!(frozen.masters, all.masters);
        assert_eq!(frozen.gradients(rows), 4 * (layer + 128));
        assert_eq!(frozen.all_moments(), 8 * (layer + 128));
        let inputs = |memory: Memory| memory.held(Activations::Recompute, 7, 1);
        assert_eq!(inputs(all), 4 * inputs(frozen));
        let layers_alone = with(Freeze { embeddings: false, layers: 3 }, MomentKind::F32);
        assert_eq!(inputs(layers_alone), inputs(all), "gradients pass through them");
        assert_eq!(
            with(Freeze { embeddings: true, layers: 4 }, MomentKind::F32).held(Activations::Keep, 7, 1),
            0
        );
        // Keys, values, biases, norms and the head are too small for eight bits; of the others each value saves six
        // bytes, each block of 256 takes eight for its scales.
        let quantized = 100 * 64 + 4 * (2 * 64 * 64 + 3 * 64 * 128);
        let eight_bit = with(Freeze::default(), MomentKind::EightBit);
        assert_eq!(eight_bit.all_moments(), all.all_moments() - 6 * quantized + 8 * quantized / 256);
    }

    #[test]
    fn further_heads_are_parameters_with_gradients_and_moments() {
        let with = |heads, moments| {
            let storage = Storage::new(&decoder(), Dtype::Bf16, true, Freeze::default(), moments);
            let storage = storage.with_heads(&decoder(), heads);
            assert_eq!(storage.trained(), decoder().parameter_count() + 64 * (heads as u64 - 1));
            Memory::new(&decoder(), &storage, &config::Config::default(), Budget { bytes: None })
        };
        let (one, four) = (with(1, MomentKind::F32), with(4, MomentKind::F32));
        assert_eq!(four.masters - one.masters, 4 * 3 * 64);
        assert_eq!(four.compute_copies - one.compute_copies, 2 * 3 * 64);
        assert_eq!(four.gradients(9) - one.gradients(9), 4 * 3 * 64);
        assert_eq!(four.all_moments() - one.all_moments(), 8 * 3 * 64);
        // 64 heads of 64 values are large enough for eight bits, with 16 blocks; one is not.
        let (one, many) = (with(1, MomentKind::EightBit), with(64, MomentKind::EightBit));
        assert_eq!(many.all_moments() - one.all_moments(), 2 * 64 * 64 + 8 * 16 - 8 * 64);
    }

    #[test]
    fn gradients_and_all_activations_are_never_there_together() {
        let memory = memory(&config::Config::default(), Dtype::F32);
        let fixed = memory.masters + memory.moments(0) + memory.workspace;
        let one = StepSize::new([100_000], 0);
        let expected = fixed + memory.activation_bytes(Activations::Keep, one);
        assert_eq!(memory.peak_bytes(Activations::Keep, one, 0), expected);
        // Where activations are small, the gradients decide.
        let small = StepSize::new([1, 1], 0);
        assert_eq!(small, StepSize { tokens: 2, largest: 1, first: 1, largest_later: 1, rows: 0 });
        let expected = fixed + memory.gradients(0) + memory.activation_bytes(Activations::Recompute, small)
            - memory.held(Activations::Recompute, 1, 1);
        assert_eq!(memory.peak_bytes(Activations::Recompute, small, 0), expected);
    }
}
