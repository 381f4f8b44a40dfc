//! `rmtrain plan`: what a run will cost, before it is started.

mod json;
pub(super) mod report;

use super::loaded::CheckedTokenizer;
use super::progress::RowsBar;
use super::{datasets, parts, preflight};
use crate::base::{interrupt, memory as process};
use crate::config::RunConfig;
use crate::data::loader::{Batch, Loader};
use crate::data::sampler::Order;
use crate::data::store::{DataReport, ListStore, Preparation};
use crate::data::tokenize::EncodeConversation;
use crate::model::config::Source;
use crate::model::device::device_peak_bytes;
use crate::model::device_speed::{gpu_name, measure_matmul, peak_tflops};
use crate::model::reward_model::compute_dtype;
use crate::model::{DecoderConfig, DeviceChoice, config_json};
use crate::trainer::estimate::{Estimate, Inputs};
use crate::trainer::lengths::Sample;
use crate::trainer::measure::measure;
use crate::trainer::memory::{Budget, Memory, Storage};
use crate::trainer::suggest::{Suggestion, suggest};
use crate::{Error, Result, hub};
use candle_core::Device;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

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
  rmtrain plan --config configs/qwen3b-bsr.toml --memory 80 --peak-tflops 989
  rmtrain plan --config configs/qwen0.5b-bt.toml --measure --json")]
pub struct PlanArgs {
    /// The configuration; relative paths in it count from the current folder
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Change one key, as for `fit`
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
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
    let preflight = preflight::check(&args.config, &config)?;
    interrupt::install_saying("stopping (once more to stop at once)");
    let plan = plan(args, config, preflight.decoder)?;
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
    source: String,
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

fn plan(args: &PlanArgs, mut config: RunConfig, decoder: Option<DecoderConfig>) -> Result<Plan> {
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
    let sources = datasets::Sources::of(&config.data)?;
    let encoder: Arc<dyn EncodeConversation> =
        Arc::new(CheckedTokenizer { tokenizer: Arc::new(tokenizer), vocab_size: decoder.vocab_size });
    let preparation = Preparation::new(&config.data, config.train.seed);
    let reading = RowsBar::new("reading");
    let store = ListStore::open_or_build(
        &folder.path().join("data"),
        &sources.train,
        &preparation,
        encoder.as_ref(),
        &mut |report| reading.show_rows(report.rows),
    )?;
    reading.finish();
    let store = Arc::new(store);

    let batch_pairs = config.train.batch_pairs as u64;
    let order = Order { len: store.len(), shuffle: config.data.shuffle, seed: config.train.seed };
    let per_epoch = order.steps_per_epoch(batch_pairs);
    let total_steps = config.train.duration.steps(per_epoch);
    let sampled_steps = args.sample.div_ceil(batch_pairs).min(per_epoch);
    let loader = Loader::start(store.clone(), encoder, order, batch_pairs, 1, sampled_steps)?;
    let kept = if args.measure { MEASURED_STEPS.min(total_steps) } else { 0 };
    let (sample, first) = tokenize(loader, decoder.vocab_size, kept)?;

    let device = config.train.device.open()?;
    let dtype = compute_dtype(device.is_cpu(), config.model.dtype);
    let storage = Storage::new(&decoder, dtype, device.is_cpu(), config.model.freeze, config.optim.moments);
    let memory = Memory::new(&decoder, &storage, &config.train, Budget::new(&config.train, &device, 0));
    let inputs = Inputs::new(&decoder, &config.train, memory, store.len(), total_steps, &sample);
    let (estimate, suggestion) = (Estimate::new(&inputs), suggest(&inputs, device.is_cpu()));
    // Steps first: the buffers that products leave behind are part of their memory.
    let steps = if args.measure {
        Some(measure_steps(&config, &decoder, &inputs, first, program_bytes)?)
    } else {
        None
    };
    let speed = speed(args.peak_tflops, &decoder, &device, config.train.device)?;
    let device_name = speed.as_ref().map_or_else(|| "a GPU that is not known".into(), |s| s.source.clone());
    let measured =
        steps.map(|(sample, steps)| judge(steps, &Inputs { sample: &sample, ..inputs }, speed.as_ref()));
    Ok(Plan {
        name: args.config.display().to_string(),
        data: store.report().clone(),
        device: device_name,
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
            Ok(config_json::read_config(&folder)?.decoder)
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

fn speed(
    given: Option<f64>,
    decoder: &DecoderConfig,
    device: &Device,
    choice: DeviceChoice,
) -> Result<Option<Speed>> {
    let efficiency = if device.is_cpu() { EFFICIENCY_ON_CPU } else { EFFICIENCY_ON_GPU };
    let of = |peak: f64, source: String| Some(Speed { peak, efficiency, source });
    if let Some(tflops) = given {
        return Ok(of(tflops * 1e12, format!("{choice}, given with --peak-tflops")));
    }
    if device.is_cpu() {
        let peak = measure_matmul(decoder, Duration::from_secs(1))?;
        let threads = rayon::current_num_threads();
        return Ok(of(peak, format!("the CPU with {threads} threads, its products measured for a second")));
    }
    let ordinal = if let DeviceChoice::Cuda(ordinal) = choice { ordinal } else { 0 };
    let known = gpu_name(ordinal).and_then(|name| Some((peak_tflops(&name)?, name)));
    Ok(known.and_then(|(tflops, name)| of(tflops * 1e12, format!("{name}, dense bf16 by its data sheet"))))
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
    let seconds = measure(model, &config.train, &config.optim, terms, batches, inputs.total_steps)?;
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
        median(seconds.iter().enumerate().map(|(i, &s)| value(i) as f64 / s))
    };
    let flops_per_second = rate(&|i| steps[i].computed());
    let model_flops_per_second = rate(&|i| steps[i].flops.of_model());
    let computed: f64 = steps.iter().map(|step| step.computed() as f64).sum();
    let rows = inputs.sample.rows();
    let peaks = steps.iter().map(|step| inputs.memory.peak_bytes(step.activations, step.size, rows));
    let predicted = peaks.max().unwrap_or(0);
    Measured {
        seconds_per_step: median(seconds.iter().copied()),
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

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}
