//! How much memory a step takes, and how its activations are held. The result is the same, bit for bit.

use super::config;
use crate::base::memory::available_bytes;
use crate::model::{DecoderConfig, Freeze};
use crate::optim::config::MomentKind;
use crate::optim::moments;

/// How the activations of a step are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activations {
    Keep,
    Recompute,
    RewardsFirst,
}

/// The memory model of one run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Memory {
    forced: Option<Activations>,
    /// Bytes for activations; `None` where neither the user nor the system names a limit.
    budget: Option<u64>,
    /// Bytes a packed token takes when its activations are kept.
    kept_per_token: u64,
    /// Bytes a packed token takes when only layer inputs are kept.
    inputs_per_token: u64,
    /// Bytes a packed token takes while one layer runs, forward and backward.
    working_per_token: u64,
    /// Masters, gradients and moments.
    pub static_bytes: u64,
}

/// Bytes that parameters and what belongs to them take, in f32 but for moments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParameterBytes {
    pub masters: u64,
    /// Of what is trained.
    pub gradients: u64,
    pub moments: u64,
}

impl ParameterBytes {
    /// For a model of this shape, of which a part is frozen.
    pub fn new(decoder: &DecoderConfig, freeze: Freeze, moments: MomentKind) -> Self {
        let mut bytes = Self { masters: 0, gradients: 0, moments: 0 };
        for (name, shape) in decoder.parameter_shapes() {
            let values = shape.iter().map(|n| *n as u64).product::<u64>();
            bytes.masters += F32 * values;
            if !freeze.covers(&name) {
                bytes.gradients += F32 * values;
                bytes.moments += moments::bytes(moments, values);
            }
        }
        bytes
    }
}

const F32: u64 = 4;

impl Memory {
    /// For a model of this shape in f32. What the machine has free says nothing about another device's memory.
    pub fn new(
        decoder: &DecoderConfig,
        freeze: Freeze,
        moments: MomentKind,
        config: &config::Config,
        on_cpu: bool,
    ) -> Self {
        let hidden = decoder.hidden_size as u64;
        let query = (decoder.num_heads * decoder.head_dim) as u64;
        let key_value = (decoder.num_kv_heads * decoder.head_dim) as u64;
        let intermediate = decoder.intermediate_size as u64;
        let layers = decoder.num_layers.saturating_sub(freeze.layers_without_backward()) as u64;
        // Input, middle; q, attention output and its log-sum-exp; k, v; gate, up.
        let layer = 2 * hidden + 2 * query + decoder.num_heads as u64 + 2 * key_value + 2 * intermediate;
        let ParameterBytes { masters, gradients, moments } = ParameterBytes::new(decoder, freeze, moments);
        let static_bytes = masters + gradients + moments;
        let budget = match config.memory_budget_gib {
            Some(gib) => Some(((gib * (1u64 << 30) as f64) as u64).saturating_sub(static_bytes)),
            // Called once the model is loaded: gradients and moments are still to come.
            None => available_bytes()
                .filter(|_| on_cpu)
                .map(|free| (free / 10 * 8).saturating_sub(gradients + moments)),
        };
        Self {
            forced: match config.activations {
                config::Activations::Auto => None,
                config::Activations::Keep => Some(Activations::Keep),
                config::Activations::Recompute => Some(Activations::Recompute),
                config::Activations::RewardsFirst => Some(Activations::RewardsFirst),
            },
            budget,
            kept_per_token: F32 * layer * layers,
            inputs_per_token: F32 * hidden * layers,
            working_per_token: F32 * 2 * (layer + 2 * hidden + 2 * intermediate),
            static_bytes,
        }
    }

    /// How to hold a step of `tokens` packed tokens whose largest micro-batch has `largest`.
    pub fn choose(&self, tokens: usize, largest: usize) -> Activations {
        if let Some(forced) = self.forced {
            return forced;
        }
        let Some(budget) = self.budget else { return Activations::Recompute };
        let fits = |activations| self.activation_bytes(activations, tokens, largest) <= budget;
        [Activations::Keep, Activations::Recompute]
            .into_iter()
            .find(|a| fits(*a))
            .unwrap_or(Activations::RewardsFirst)
    }

    /// Bytes that a step's activations take at their peak.
    pub fn activation_bytes(&self, activations: Activations, tokens: usize, largest: usize) -> u64 {
        let (tokens, largest) = (tokens as u64, largest as u64);
        let held = match activations {
            Activations::Keep => tokens * self.kept_per_token,
            Activations::Recompute => tokens * self.inputs_per_token,
            Activations::RewardsFirst => largest * self.inputs_per_token,
        };
        held + largest * self.working_per_token
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

    fn memory(config: config::Config) -> Memory {
        Memory::new(&decoder(), Freeze::default(), MomentKind::F32, &config, true)
    }

    #[test]
    fn what_is_frozen_takes_no_gradients_no_moments_and_no_activations() {
        let config = config::Config::default();
        let (keep, tokens) = (Activations::Keep, 1000);
        let with = |freeze, moments| Memory::new(&decoder(), freeze, moments, &config, true);
        let all = with(Freeze::default(), MomentKind::F32);
        assert_eq!(all.static_bytes, decoder().parameter_count() * 16);
        let frozen = with(Freeze { embeddings: true, layers: 3 }, MomentKind::F32);
        // One layer, the final norm and the head.
        let layer = 64 * 64 * 2 + 64 * 32 * 2 + 64 + 32 * 2 + 3 * 64 * 128 + 2 * 64;
        assert_eq!(frozen.static_bytes, decoder().parameter_count() * 4 + (layer + 128) * 12);
        // The working set of a layer stays.
        let activations = |memory: Memory| memory.activation_bytes(keep, tokens, 0);
        assert_eq!(activations(all), 4 * activations(frozen));
        let layers_alone = with(Freeze { embeddings: false, layers: 3 }, MomentKind::F32);
        assert_eq!(activations(layers_alone), activations(all), "gradients pass through them");
        // Keys, values, biases, norms and the head are too small for eight bits; of the others each value saves six
        // bytes, each block of 256 takes eight for its scales.
        let quantized = 100 * 64 + 4 * (2 * 64 * 64 + 3 * 64 * 128);
        let eight_bit = with(Freeze::default(), MomentKind::EightBit);
        assert_eq!(all.static_bytes - eight_bit.static_bytes, 6 * quantized - 8 * (quantized / 256));
    }

    #[test]
    fn less_memory_keeps_less() {
        let with = |gib: f64| {
            let config = config::Config { memory_budget_gib: Some(gib), ..config::Config::default() };
            memory(config).choose(100_000, 1_000)
        };
        assert_eq!(with(10.0), Activations::Keep);
        assert_eq!(with(0.2), Activations::Recompute);
        assert_eq!(with(0.01), Activations::RewardsFirst);
    }

    #[test]
    fn a_forced_choice_is_taken() {
        let config = config::Config {
            activations: config::Activations::RewardsFirst,
            memory_budget_gib: Some(1000.0),
            ..config::Config::default()
        };
        assert_eq!(memory(config).choose(10, 10), Activations::RewardsFirst);
    }
}
