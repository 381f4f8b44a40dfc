//! `rmtrain plan`: what a run will cost, before it is started.

mod json;
mod report;
mod target;

use super::loaded::CheckedTokenizer;
use super::progress::RowsBar;
use super::{datasets, parts, preflight};
use crate::base::median::median;
use crate::base::reader::Words;
use crate::base::{interrupt, memory as process};
use crate::config::RunConfig;
use crate::data::loader::{Batch, Loader};
use crate::data::sampler::Order;
use crate::data::store::DataReport;
use crate::data::tokenize::EncodeConversation;
use crate::kernels::cuda;
use crate::model::config::{Dtype, Source};
use crate::model::device::device_peak_bytes;
use crate::model::device_speed::{measure_matmul, peak_tflops};
use crate::model::reward_model::compute_dtype;
use crate::model::{DecoderConfig, config_json};
use crate::trainer::estimate::{Estimate, Inputs};
use crate::trainer::lengths::Sample;
use crate::trainer::measure::measure;
use crate::trainer::memory::{Budget, Memory, Storage};
use crate::trainer::suggest::{Suggestion, suggest};
use crate::{Error, Result, hub};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use target::{Machine, Target};

/// Share of a device's peak that a step reaches, where nothing was measured.
const EFFICIENCY_ON_GPU: f64 = 0.4;
const EFFICIENCY_ON_CPU: f64 = 0.5;
/// Steps that `--measure` makes.
const MEASURED_STEPS: u64 = 3;

/// Say what a run will cost: tokens, operations, memory, time.
///
/// Reads and pairs the training data as `fit` does, tokenizes the first pairs in the run's own order, and counts.
/// Nothing is written but to a temporary folder (TMPDIR) that is gone at the end.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  rmtrain plan --config configs/quickstart.toml
  rmtrain plan --config configs/qwen3b-bsr.toml --on gpu --memory 80 --peak-tflops 989
  rmtrain plan --config configs/qwen0.5b-bt.toml --measure --json")]
pub struct PlanArgs {
    /// The configuration; relative paths in it count from the current folder
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Change one key, as for `fit`
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Plan for the CPU or for a GPU; this machine need not have one: then give --memory and --peak-tflops, too
    /// [default: the device that train.device opens here]
    #[arg(long, value_name = "cpu|gpu", value_parser = Machine::from_word)]
    pub on: Option<Machine>,
    /// Load the model, make three optimizer steps that are thrown away, and correct the estimate
    #[arg(long)]
    pub measure: bool,
    /// One JSON object instead of a report
    #[arg(long)]
    pub json: bool,
    /// Memory of the device, as train.memory_budget_gib [default: that, else what is free]
    #[arg(long, value_name = "GIB", value_parser = positive)]
    pub memory: Option<f64>,
    /// The device's peak in dense TFLOP/s of the compute precision [default: known by its name; measured on the CPU]
    #[arg(long, value_name = "T", value_parser = positive)]
    pub peak_tflops: Option<f64>,
    /// Pairs to tokenize, from the start of the run's order, in whole steps
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub sample: u64,
}

fn positive(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|number| number.is_finite() && *number > 0.0);
    number.ok_or_else(|| "expected a number above 0".into())
}

/// Runs the verb.
pub fn run(args: &PlanArgs) -> anyhow::Result<()> {
    let mut config = RunConfig::load(&args.config, &args.set)?;
    config.train.memory_budget_gib = args.memory.or(config.train.memory_budget_gib);
    let target = Target::open(args.on, &mut config.train.device)?;
    if args.measure && target.device().is_none() {
        return Err(Error::Usage(
            "--measure: found --on gpu where there is none, expected a GPU here".into(),
        )
        .into());
    }
    let preflight = preflight::check(&args.config, &config)?;
    preflight.hints.iter().for_each(|hint| eprintln!("hint: {hint}"));
    if target.device().is_none() && config.train.memory_budget_gib.is_none() {
        eprintln!("hint: --memory GIB says what the GPU has; without it nothing is known to fit");
    }
    interrupt::install_saying("stopping (once more to stop at once)");
    let plan = plan(args, config, &target, preflight.decoder)?;
    let text = match args.json {
        true => serde_json::to_string_pretty(&json::object(&plan))? + "\n",
        false => report::text(&plan),
    };
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(Error::io("stdout"))?;
    Ok(())
}

/// Everything that is reported.
pub(super) struct Plan {
    name: String,
    config: RunConfig,
    decoder: DecoderConfig,
    device: String,
    data: DataReport,
    memory: Memory,
    estimate: Estimate,
    suggestion: Suggestion,
    /// `None` for a GPU that is not known.
    speed: Option<Speed>,
    measured: Option<Measured>,
}

/// How fast the device is taken to be.
struct Speed {
    /// Operations a second.
    peak: f64,
    efficiency: f64,
}

impl Speed {
    fn seconds(&self, flops: f64) -> f64 {
        flops / (self.peak * self.efficiency)
    }
}

/// What the measured steps say.
struct Measured {
    seconds: Vec<f64>,
    seconds_per_step: f64,
    tokens_per_second: f64,
    packed_tokens_per_second: f64,
    pairs_per_second: f64,
    /// Everything that was computed.
    flops_per_second: f64,
    /// What the model asked for.
    model_flops_per_second: f64,
    mfu: Option<f64>,
    peak_bytes: Option<u64>,
    /// Measured over estimated, for the same steps.
    time_factor: Option<f64>,
    memory_factor: Option<f64>,
}

impl Plan {
    /// Seconds of the run: by the measured steps, else by the device's speed.
    fn seconds(&self) -> Option<f64> {
        let flops = self.estimate.run_flops;
        match &self.measured {
            Some(measured) => Some(flops / measured.flops_per_second),
            None => self.speed.as_ref().map(|speed| speed.seconds(flops)),
        }
    }

    /// The run's peak, by the measured steps where there are any.
    fn corrected_peak(&self) -> u64 {
        let factor = self.measured.as_ref().and_then(|measured| measured.memory_factor).unwrap_or(1.0);
        (self.estimate.run_peak_bytes as f64 * factor) as u64
    }
}

fn plan(
    args: &PlanArgs,
    mut config: RunConfig,
    target: &Target,
    decoder: Option<DecoderConfig>,
) -> Result<Plan> {
    let folder = tempfile::Builder::new().prefix("rmtrain-plan-").tempdir();
    let folder = folder.map_err(Error::io(std::env::temp_dir()))?;
    parts::prepare_sandbox(&mut config, folder.path())?;
    let tokenizer = parts::load_tokenizer(&config, folder.path())?;
    // Before rows are read: what they leave free in the heap is used again by the model.
    let program_bytes = process::resident_bytes();
    let decoder = match decoder {
        Some(decoder) => decoder,
        None => fetch_decoder(&config)?,
    };
    parts::check_length(&config, decoder.max_position_embeddings)?;
    let on_cpu = target.is_cpu();
    let dtype = compute_dtype(on_cpu, config.model.dtype);
    let storage = Storage::new(&decoder, dtype, on_cpu, config.model.freeze, config.optim.moments)
        .with_heads(&decoder, config.model.heads);
    let mut memory = Memory::new(&decoder, &storage, &config.train, Budget { bytes: None });
    // As in `fit`, which looks at what is free before it reads a row.
    memory.budget = target.budget(&config.train, memory.weights());
    let sources = datasets::Sources::of(&config.data)?;
    let encoder: Arc<dyn EncodeConversation> = Arc::new(CheckedTokenizer {
        tokenizer: Arc::new(tokenizer),
        vocab_size: decoder.vocab_size,
        header: None,
    });
    let data = folder.path().join("data");
    let store = Arc::new(parts::open_store(&config, &sources.train, &data, encoder.as_ref())?);

    let batch_pairs = config.train.batch_pairs as u64;
    let order = Order { len: store.len(), shuffle: config.data.shuffle, seed: config.train.seed };
    let per_epoch = order.steps_per_epoch(batch_pairs);
    let total_steps = config.train.duration.steps(per_epoch);
    let sampled_steps = args.sample.div_ceil(batch_pairs).min(per_epoch);
    let loader = Loader::start(store.clone(), encoder, order, batch_pairs, 1, sampled_steps)?;
    let kept = if args.measure { MEASURED_STEPS.min(total_steps) } else { 0 };
    let (sample, first) = tokenize(loader, decoder.vocab_size, kept)?;

    let inputs = Inputs::new(&decoder, &config.train, memory, store.len(), total_steps, &sample);
    let (estimate, suggestion) = (Estimate::new(&inputs), suggest(&inputs, on_cpu));
    // Steps first: the buffers that products leave behind are part of their memory.
    let steps = if args.measure {
        Some(measure_steps(&config, &decoder, &inputs, first, program_bytes)?)
    } else {
        None
    };
    let (device, speed) = speed(args.peak_tflops, &decoder, target, dtype)?;
    if interrupt::requested() {
        return Err(Error::Interrupted);
    }
    let measured =
        steps.map(|(sample, steps)| judge(steps, &Inputs { sample: &sample, ..inputs }, speed.as_ref()));
    Ok(Plan {
        name: args.config.display().to_string(),
        data: store.report().clone(),
        device,
        decoder,
        memory,
        estimate,
        suggestion,
        speed,
        measured,
        config,
    })
}

/// The shape of a model that is on the hub; no weights are fetched.
fn fetch_decoder(config: &RunConfig) -> Result<DecoderConfig> {
    match &config.model.source {
        Source::Path(source) => {
            let folder = hub::resolve_tokenizer(source, config.model.revision.as_deref())?;
            Ok(config_json::read_config(&folder)?.trainable(&folder)?.decoder)
        }
        Source::Random(shape) => DecoderConfig::from_json(shape)
            .map_err(|problems| Error::Config { path: "model.random".into(), problems }),
    }
}

/// The lengths of all steps, and the first few steps themselves.
fn tokenize(loader: Loader, vocab_size: usize, kept: u64) -> Result<(Sample, Vec<Batch>)> {
    let bar = RowsBar::new("tokenizing");
    let (mut sample, mut first) = (Sample::new(vocab_size), Vec::new());
    for batch in loader {
        if interrupt::requested() {
            return Err(Error::Interrupted);
        }
        let batch = batch?;
        sample.push_step(&batch.lists);
        bar.show_rows(sample.lists().len() as u64);
        if batch.step <= kept {
            first.push(batch);
        }
    }
    bar.finish();
    Ok((sample, first))
}

/// What the run is planned for, and how fast that is as far as it is known.
fn speed(
    given: Option<f64>,
    decoder: &DecoderConfig,
    target: &Target,
    dtype: Dtype,
) -> Result<(String, Option<Speed>)> {
    let efficiency = if target.is_cpu() { EFFICIENCY_ON_CPU } else { EFFICIENCY_ON_GPU };
    let of = |peak: f64| Some(Speed { peak, efficiency });
    if let Some(tflops) = given {
        return Ok((format!("{}, its peak given with --peak-tflops", target.name()), of(tflops * 1e12)));
    }
    if target.is_cpu() {
        let peak = measure_matmul(decoder, Duration::from_secs(1))?;
        let threads = rayon::current_num_threads();
        return Ok((format!("the CPU with {threads} threads, its products measured for a second"), of(peak)));
    }
    let Some(name) = target.device().map(cuda::memory::name).transpose()?.flatten() else {
        return Ok(("a GPU that is not known".into(), None));
    };
    Ok(match peak_of(&name, dtype) {
        Some(peak) => (format!("{name}, dense bf16 by its data sheet"), of(peak)),
        None => (format!("{name}, whose peak in {} is not known", dtype.word()), None),
    })
}

/// Operations a second of the GPU of that name. The table has those of 16-bit values, which are not those of f32.
fn peak_of(name: &str, dtype: Dtype) -> Option<f64> {
    match dtype {
        Dtype::Bf16 | Dtype::F16 => peak_tflops(name).map(|tflops| tflops * 1e12),
        Dtype::F32 => None,
    }
}

/// Seconds of each step, and the most memory of any.
struct MeasuredSteps {
    seconds: Vec<f64>,
    peak_bytes: Option<u64>,
}

/// Makes the first steps of the run on a model that is thrown away; their lengths come back, too.
fn measure_steps(
    config: &RunConfig,
    decoder: &DecoderConfig,
    inputs: &Inputs,
    batches: Vec<Batch>,
    program_bytes: Option<u64>,
) -> Result<(Sample, MeasuredSteps)> {
    let mut sample = Sample::new(decoder.vocab_size);
    batches.iter().for_each(|batch| sample.push_step(&batch.lists));
    eprintln!("loading the model, then {} steps", batches.len());
    process::restart_peak();
    let model = parts::load_model(config, None)?;
    let device = model.device().clone();
    let terms = config.objective.clone();
    let batches = batches.into_iter().map(Ok);
    // With the memory that the estimate is made from: what is measured is what was predicted.
    let memory = inputs.memory;
    let steps = measure(model, &config.train, &config.optim, terms, memory, batches, inputs.total_steps)?;
    let seconds = steps.iter().map(|step| step.seconds).collect();
    let peak_bytes = match device.is_cpu() {
        true => process::peak_bytes().zip(program_bytes).map(|(peak, program)| peak.saturating_sub(program)),
        false => device_peak_bytes(&device),
    };
    Ok((sample, MeasuredSteps { seconds, peak_bytes }))
}

/// Holds measured steps against their estimate; `inputs` are theirs.
fn judge(measured: MeasuredSteps, inputs: &Inputs, speed: Option<&Speed>) -> Measured {
    let MeasuredSteps { seconds, peak_bytes } = measured;
    let steps = inputs.step_costs(inputs.config.micro_batch_tokens);
    let total: f64 = seconds.iter().sum();
    let rate = |value: &dyn Fn(usize) -> u64| {
        // Of steps of different sizes the median is taken of the rate, not of the time.
        median(seconds.iter().enumerate().map(|(i, &s)| value(i) as f64 / s)).unwrap_or(0.0)
    };
    let flops_per_second = rate(&|i| steps[i].computed());
    let model_flops_per_second = rate(&|i| steps[i].flops.of_model());
    let computed: f64 = steps.iter().map(|step| step.computed() as f64).sum();
    let rows = inputs.sample.rows();
    let peaks = steps.iter().map(|step| inputs.memory.peak_bytes(step.activations, step.size, rows));
    let predicted = peaks.max().unwrap_or(0);
    Measured {
        seconds_per_step: median(seconds.iter().copied()).unwrap_or(0.0),
        tokens_per_second: rate(&|i| steps[i].plain_tokens),
        packed_tokens_per_second: rate(&|i| steps[i].size.tokens),
        pairs_per_second: rate(&|i| steps[i].pairs),
        flops_per_second,
        model_flops_per_second,
        mfu: speed.map(|speed| model_flops_per_second / speed.peak),
        peak_bytes,
        time_factor: speed.map(|speed| total / speed.seconds(computed)),
        memory_factor: peak_bytes.map(|bytes| bytes as f64 / predicted.max(1) as f64),
        seconds,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_of_a_gpu_is_known_for_16_bits_alone() {
        let peak = |dtype| peak_of("NVIDIA H100 80GB HBM3", dtype);
        assert_eq!(
            (peak(Dtype::Bf16), peak(Dtype::F16), peak(Dtype::F32)),
            (Some(989.4e12), Some(989.4e12), None)
        );
        assert_eq!(peak_of("NVIDIA GeForce GTX 1080", Dtype::Bf16), None);
    }
}
