//! A short training run on a device beside the same one on the CPU in f32: the whole engine in one comparison.

use crate::Result;
use crate::base::rng;
use crate::data::loader::Batch;
use crate::data::{Ranking, TokenList};
use crate::kernels::cuda;
use crate::model::RewardModel;
use crate::model::config::Dtype;
use crate::model::reward_model::HeadInit;
use crate::objective::config::{LambdaSchedule, Margin, Scale, Scope};
use crate::optim::config::{Schedule, Warmup};
use crate::trainer::measure::measure;
use crate::trainer::memory::Memory;
use crate::{objective, optim, trainer};
use candle_core::{DType, Device};
use serde_json::json;

const VOCAB: usize = 256;
const PAIRS: u64 = 6;
const LEARNING_RATE: f64 = 1e-3;
/// Small enough that a step is several micro-batches.
const MICRO_BATCH_TOKENS: usize = 300;
/// f32 in another order of sums: Adam's first steps turn the last bits of small gradients into signs.
const F32_BOUND: f64 = 1e-3;
/// 8 bits of a mantissa.
const BF16_BOUND: f64 = 5e-2;

/// The losses of a run and of its reference.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Trajectory {
    pub steps: u64,
    pub dtype: DType,
    pub losses: Vec<f64>,
    pub reference: Vec<f64>,
    /// The largest difference of the two at any step, over the first loss.
    pub loss_error: f64,
    pub bound: f64,
}

impl Trajectory {
    pub(super) fn passes(&self) -> bool {
        self.loss_error <= self.bound
    }
}

/// The run in f32 and in bf16 on `device`.
pub(super) fn compare(device: &Device, steps: u64) -> Result<Vec<Trajectory>> {
    compare_heads(device, steps, 1)
}

/// With so many heads.
fn compare_heads(device: &Device, steps: u64, heads: usize) -> Result<Vec<Trajectory>> {
    let reference = losses(&Device::Cpu, Dtype::F32, steps, heads)?;
    let trajectory = |(dtype, name, bound)| {
        let losses = cuda::on(device, || losses(device, name, steps, heads))?;
        let first = reference.first().copied().unwrap_or(1.0);
        let differences = losses.iter().zip(&reference).map(|(a, b)| (a - b).abs() / first);
        // NaN is passed over by `max`, so it is looked for on its own.
        let is_finite = losses.iter().all(|loss| loss.is_finite());
        let loss_error = if is_finite { differences.fold(0.0, f64::max) } else { f64::NAN };
        Ok(Trajectory { steps, dtype, losses, reference: reference.clone(), loss_error, bound })
    };
    let mut runs = vec![(DType::F32, Dtype::F32, F32_BOUND)];
    // The CPU itself computes in f32 whatever it is asked for.
    if device.is_cuda() || cuda::on(device, cuda::is_emulated) {
        runs.push((DType::BF16, Dtype::Bf16, BF16_BOUND));
    }
    runs.into_iter().map(trajectory).collect()
}

/// The loss of every step.
fn losses(device: &Device, dtype: Dtype, steps: u64, heads: usize) -> Result<Vec<f64>> {
    let shape = json!({
        "model_type": "qwen2", "vocab_size": VOCAB, "hidden_size": 128, "intermediate_size": 256,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 512,
    });
    let head = HeadInit { count: heads, ..HeadInit::default() };
    let shape = shape.as_object().cloned().unwrap_or_default();
    let model = RewardModel::random(&shape, device, Some(dtype), head)?;
    let config = trainer::Config { micro_batch_tokens: MICRO_BATCH_TOKENS, ..trainer::Config::default() };
    let optim = optim::Config {
        lr: LEARNING_RATE,
        schedule: Schedule::Constant,
        warmup: Warmup::Steps(0),
        ..optim::Config::default()
    };
    let terms = vec![
        objective::Config::BradleyTerry { margin: Margin::None, label_smoothing: 0.0 },
        objective::Config::SumToZero {
            lambda: 1e-2,
            scope: Scope::Global,
            scale: Scale::Mean,
            schedule: LambdaSchedule::default(),
        },
    ];
    let batches = (1..=steps).map(|step| {
        let lists = (0..PAIRS).map(|i| pair(step * PAIRS + i)).collect();
        Ok(Batch { step, epoch: 0.0, lists })
    });
    let memory = Memory::of_loaded(&model, &config, optim.moments);
    let steps = measure(model, &config, &optim, terms, memory, batches, steps)?;
    Ok(steps.iter().map(|step| step.loss).collect())
}

/// A pair of 20 to 140 tokens: the chosen response is of low tokens, the rejected one of high ones.
fn pair(index: u64) -> TokenList {
    let mut rng = rng::stream(0, "doctor:pairs", index);
    let [prompt, chosen, rejected] = [80, 60, 60].map(|most| 10 + rng::below(&mut rng, most));
    let mut tokens = |count: usize, from: usize| -> Vec<u32> {
        (0..count).map(|_| (from + rng::below(&mut rng, VOCAB / 2)) as u32).collect()
    };
    let prompt = tokens(prompt, VOCAB / 4);
    let (chosen, rejected) = (tokens(chosen, 0), tokens(rejected, VOCAB / 2));
    TokenList {
        index,
        origin: format!("doctor:{index}"),
        sequences: vec![[prompt.as_slice(), &chosen].concat(), [prompt.as_slice(), &rejected].concat()],
        ranking: Ranking::pair(),
        margin: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_emulated_device_trains_as_the_cpu_does() -> Result<()> {
        if cuda::emulated(|| ()).is_none() {
            return Ok(());
        }
        let runs = compare(&Device::Cpu, 3)?;
        assert!(runs.iter().all(Trajectory::passes), "{runs:?}");
        let dtypes: Vec<DType> = runs.iter().map(|run| run.dtype).collect();
        assert_eq!(dtypes, [DType::F32, DType::BF16]);
        assert!(runs.iter().all(|run| run.losses.windows(2).all(|pair| pair[0] != pair[1])), "{runs:?}");
        assert_ne!(runs[0].losses, runs[1].losses);
        let of_heads = compare_heads(&Device::Cpu, 3, 3)?;
        assert!(of_heads.iter().all(Trajectory::passes), "{of_heads:?}");
        assert_ne!(of_heads[0].losses, runs[0].losses);
        Ok(())
    }
}
