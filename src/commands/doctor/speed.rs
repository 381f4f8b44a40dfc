//! Training steps of a known model's shape on random tokens: how fast, and in how much memory.

use crate::base::median::median;
use crate::base::rng;
use crate::data::loader::Batch;
use crate::data::{Ranking, TokenList};
use crate::kernels::cuda;
use crate::model::config::Dtype;
use crate::model::device_speed::peak_tflops;
use crate::model::flops::{FlopCounter, Work};
use crate::model::{DecoderConfig, Freeze, RewardModel};
use crate::objective::config::{LambdaSchedule, Margin, Scale, Scope};
use crate::optim::config::MomentKind;
use crate::trainer::measure::measure;
use crate::trainer::memory::Memory;
use crate::{Error, Result, objective, optim, trainer};
use candle_core::Device;
use serde::Serialize;
use serde_json::json;

/// A published model's shape.
struct Shape {
    name: &'static str,
    hidden: usize,
    intermediate: usize,
    layers: usize,
    heads: usize,
    key_value_heads: usize,
    head_dim: usize,
    vocabulary: usize,
}

impl Shape {
    const fn new(name: &'static str, sizes: [usize; 7]) -> Self {
        let [hidden, intermediate, layers, heads, key_value_heads, head_dim, vocabulary] = sizes;
        Self { name, hidden, intermediate, layers, heads, key_value_heads, head_dim, vocabulary }
    }

    fn decoder(&self) -> Result<DecoderConfig> {
        let family = if self.name.starts_with("qwen") { "qwen2" } else { "llama" };
        let config = json!({
            "model_type": family, "hidden_size": self.hidden, "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers, "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_value_heads, "head_dim": self.head_dim, "vocab_size": self.vocabulary,
            "max_position_embeddings": 131_072,
        });
        let config = config.as_object().cloned().unwrap_or_default();
        DecoderConfig::from_json(&config)
            .map_err(|problems| Error::Config { path: self.name.into(), problems })
    }
}

/// Hidden, intermediate, layers, heads, key-value heads, head dimension, vocabulary: of each model's `config.json`.
const SHAPES: [Shape; 7] = [
    Shape::new("qwen2.5-0.5b", [896, 4864, 24, 14, 2, 64, 151_936]),
    Shape::new("qwen2.5-1.5b", [1536, 8960, 28, 12, 2, 128, 151_936]),
    Shape::new("qwen2.5-3b", [2048, 11_008, 36, 16, 2, 128, 151_936]),
    Shape::new("qwen2.5-7b", [3584, 18_944, 28, 28, 4, 128, 152_064]),
    Shape::new("llama-3.2-1b", [2048, 8192, 16, 32, 8, 64, 128_256]),
    Shape::new("llama-3.2-3b", [3072, 8192, 28, 24, 8, 128, 128_256]),
    Shape::new("llama-3.1-8b", [4096, 14_336, 32, 32, 8, 128, 128_256]),
];

/// The models whose shapes are known.
pub(super) const NAMES: [&str; SHAPES.len()] = {
    let mut names = [""; SHAPES.len()];
    let mut i = 0;
    while i < names.len() {
        names[i] = SHAPES[i].name;
        i += 1;
    }
    names
};

/// What is measured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    /// Of each sequence; a pair shares its first third.
    pub tokens: usize,
    pub pairs: usize,
    pub steps: u64,
    pub micro_batch_tokens: usize,
    pub moments: MomentKind,
}

/// What came of it.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Speed {
    shape: &'static str,
    tokens: usize,
    pairs: usize,
    /// Median over the steps.
    seconds_per_step: f64,
    pairs_per_second: f64,
    /// A shared prompt counted in each sequence.
    tokens_per_second: f64,
    packed_tokens_per_second: f64,
    /// Of what the model asks for on packed tokens, without what is computed again.
    tflops: f64,
    /// Over the device's peak in bf16, where that is known.
    mfu: Option<f64>,
    /// The same, were every token of every sequence computed: what a trainer without sharing would have to reach.
    mfu_without_sharing: Option<f64>,
    peak_memory_gib: Option<f64>,
}

/// Measures some steps of the model called `name`, after two that warm up.
pub(super) fn run(name: &str, load: Load, device: &Device) -> Result<Speed> {
    const WARMUP: u64 = 2;
    let shape = SHAPES.iter().find(|shape| shape.name == name);
    let shape =
        shape.ok_or_else(|| Error::Usage(format!("--speed: found {name}, expected {}", NAMES.join(", "))))?;
    let decoder = shape.decoder()?;
    let Load { tokens, pairs, steps, micro_batch_tokens, moments } = load;
    let dtype = if device.is_cpu() { Dtype::F32 } else { Dtype::Bf16 };
    let model = RewardModel::random_on_device(decoder.clone(), device, Some(dtype))?;
    let config = trainer::Config { micro_batch_tokens, ..trainer::Config::default() };
    let optim = optim::Config { moments, lr: 1e-6, ..optim::Config::default() };
    let terms = vec![
        objective::Config::BradleyTerry { margin: Margin::None, label_smoothing: 0.0 },
        objective::Config::SumToZero {
            lambda: 1e-3,
            scope: Scope::Global,
            scale: Scale::Mean,
            schedule: LambdaSchedule::default(),
        },
    ];
    let prompt = tokens / 3;
    let batches = (1..=WARMUP + steps).map(|step| {
        let lists = (0..pairs).map(|i| pair(step, i as u64, prompt, tokens, shape.vocabulary)).collect();
        Ok(Batch { step, epoch: 0.0, lists })
    });
    cuda::memory::reset_peak(device)?;
    let memory = Memory::of_loaded(&model, &config, optim.moments);
    let steps = measure(model, &config, &optim, terms, memory, batches, WARMUP + steps)?;
    let peak = cuda::memory::of(device)?.map(|memory| memory.peak);

    let seconds = steps.iter().skip(WARMUP as usize).map(|step| step.seconds);
    let seconds_per_step = median(seconds).unwrap_or(f64::NAN);
    let rate = |amount: u64| amount as f64 / seconds_per_step;
    let counter = FlopCounter::new(&decoder, Freeze::default());
    let own = (tokens - prompt) as u64;
    let shared = Work::of_group(prompt as u64, &[own, own]);
    let apart = Work::of_group(0, &[tokens as u64]) + Work::of_group(0, &[tokens as u64]);
    let flops = |work: Work| rate(pairs as u64 * counter.count(work).of_model());
    let known = cuda::memory::name(device)?.and_then(|name| peak_tflops(&name)).map(|tflops| tflops * 1e12);
    Ok(Speed {
        shape: shape.name,
        tokens,
        pairs,
        seconds_per_step,
        pairs_per_second: rate(pairs as u64),
        tokens_per_second: rate((2 * pairs * tokens) as u64),
        packed_tokens_per_second: rate(pairs as u64 * shared.tokens),
        tflops: flops(shared) / 1e12,
        mfu: known.map(|peak| flops(shared) / peak),
        mfu_without_sharing: known.map(|peak| flops(apart) / peak),
        peak_memory_gib: peak.map(|bytes| bytes as f64 / (1u64 << 30) as f64),
    })
}

/// Random tokens; the first of each response keeps the two apart, so that exactly the prompt is shared.
fn pair(step: u64, index: u64, prompt: usize, tokens: usize, vocabulary: usize) -> TokenList {
    let mut rng = rng::stream(step, "doctor:speed", index);
    let mut draw = |count: usize| -> Vec<u32> {
        (0..count).map(|_| (2 + rng::below(&mut rng, vocabulary - 2)) as u32).collect()
    };
    let prompt = draw(prompt);
    let mut response = |first: u32| [prompt.as_slice(), &[first], &draw(tokens - prompt.len() - 1)].concat();
    let sequences = vec![response(0), response(1)];
    let origin = format!("doctor:{step}:{index}");
    TokenList { index, origin, sequences, ranking: Ranking::pair(), margin: None }
}
