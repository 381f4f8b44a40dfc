//! `rmtrain doctor`: what this machine has, and whether it computes what it should.

mod speed;
mod trajectory;

use crate::base::memory::available_bytes;
use crate::base::reader::Words;
use crate::kernels::check::{self, Check};
use crate::kernels::{cuda, gemm};
use crate::model::DeviceChoice;
use crate::optim::adamw;
use crate::optim::config::MomentKind;
use crate::{Error, Result};
use candle_core::{DType, Device};
use clap::value_parser;
use serde_json::{Value, json};
use std::io::{self, Write};
use trajectory::Trajectory;

/// Say what this machine has, and hold what it computes against a reference.
///
/// On a GPU every kernel is compared with the CPU's, in f32 and in bf16. Exit code 1 if anything is wrong.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  rmtrain doctor
  rmtrain doctor --device cuda --trajectory 50
  rmtrain doctor --device cuda --speed qwen2.5-3b --tokens 4096")]
pub struct DoctorArgs {
    /// auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    pub device: DeviceChoice,
    /// Train a small model for so many steps on the device and on the CPU, and compare
    #[arg(long, value_name = "STEPS", value_parser = value_parser!(u64).range(1..), conflicts_with = "speed")]
    pub trajectory: Option<u64>,
    /// Train the shape of a published model on random tokens, and say how fast and in how much memory
    #[arg(long, value_name = "MODEL", value_parser = speed::NAMES)]
    pub speed: Option<String>,
    /// Tokens of each sequence of --speed; a pair shares its first third
    #[arg(long, value_name = "N", default_value_t = 2048, value_parser = value_parser!(u32).range(8..=131_072))]
    pub tokens: u32,
    /// Pairs of a step of --speed
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = value_parser!(u32).range(1..))]
    pub pairs: u32,
    /// Steps of --speed that are measured
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = value_parser!(u64).range(1..))]
    pub steps: u64,
    /// Packed tokens that --speed computes at once
    #[arg(long, value_name = "N", default_value_t = 16_384, value_parser = value_parser!(u32).range(1..))]
    pub micro_batch_tokens: u32,
    /// AdamW's moments in --speed: f32 or 8-bit
    #[arg(long, value_name = "KIND", default_value = "f32", value_parser = MomentKind::from_word)]
    pub moments: MomentKind,
    /// One JSON object instead of text
    #[arg(long)]
    pub json: bool,
}

/// Runs the verb.
pub fn run(args: &DoctorArgs) -> anyhow::Result<()> {
    let device = args.device.open()?;
    if let Some(name) = &args.speed {
        return Ok(print(&speed_text(name, args, &device)?)?);
    }
    let machine = machine(&device)?;
    let checks = match device.is_cuda() {
        true => [DType::F32, DType::BF16].map(|dtype| checks_in(&device, dtype)),
        false => [Ok(Vec::new()), Ok(Vec::new())],
    };
    let checks = checks.into_iter().collect::<Result<Vec<_>>>()?.concat();
    let trajectories = match args.trajectory {
        None => Vec::new(),
        Some(steps) => trajectory::compare(&device, steps)?,
    };
    let text = match args.json {
        true => format!("{}\n", report(&machine, &checks, &trajectories)),
        false => text(&machine, &checks, &trajectories),
    };
    print(&text)?;
    if !args.json && checks.is_empty() {
        eprintln!(
            "hint: the kernels of the CPU are checked by `cargo test`, those of a GPU by --device cuda"
        );
    }
    let wrong = checks.iter().filter(|check| !check.passes()).count()
        + trajectories.iter().filter(|trajectory| !trajectory.passes()).count();
    match wrong {
        0 => Ok(()),
        _ => Err(Error::Check(format!("{wrong} comparisons are beyond their bounds")).into()),
    }
}

fn checks_in(device: &Device, dtype: DType) -> Result<Vec<Check>> {
    let mut checks = check::kernels(device, dtype)?;
    checks.extend(adamw::check::updates(device, dtype)?);
    Ok(checks)
}

fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(Error::io("stdout"))
}

/// The measured speed, a line of JSON or a line for each figure.
fn speed_text(name: &str, args: &DoctorArgs, device: &Device) -> anyhow::Result<String> {
    let load = speed::Load {
        tokens: args.tokens as usize,
        pairs: args.pairs as usize,
        steps: args.steps,
        micro_batch_tokens: args.micro_batch_tokens as usize,
        moments: args.moments,
    };
    let speed = serde_json::to_value(speed::run(name, load, device)?)?;
    if args.json {
        return Ok(format!("{speed}\n"));
    }
    let figures = speed.as_object().into_iter().flatten();
    Ok(figures.map(|(name, value)| format!("{:<36} {value}\n", name.replace('_', " "))).collect())
}

/// The device and what there is of it.
fn machine(device: &Device) -> Result<Vec<(&'static str, Value)>> {
    let mut facts =
        vec![("rmtrain", json!(env!("CARGO_PKG_VERSION"))), ("threads", json!(rayon::current_num_threads()))];
    #[cfg(target_arch = "x86_64")]
    {
        let mut units = Vec::new();
        for (name, is_there) in [
            ("AVX2", is_x86_feature_detected!("avx2")),
            ("AVX-512", is_x86_feature_detected!("avx512f")),
            ("AMX", gemm::amx::available()),
        ] {
            units.extend(is_there.then_some(name));
        }
        facts.push(("vector units in use", json!(units)));
    }
    if let Some(bytes) = available_bytes() {
        facts.push(("free memory, GiB", json!(gib(bytes))));
    }
    if let Some(gpu) = cuda::memory::of(device)? {
        facts.push(("GPU", json!(cuda::memory::name(device)?)));
        facts.push(("GPU memory, GiB", json!(gib(gpu.total))));
        facts.push(("free GPU memory, GiB", json!(gib(gpu.free))));
    }
    Ok(facts)
}

fn gib(bytes: u64) -> f64 {
    (bytes as f64 / (1u64 << 30) as f64 * 10.0).round() / 10.0
}

fn dtype_name(dtype: DType) -> &'static str {
    dtype.as_str()
}

fn text(machine: &[(&'static str, Value)], checks: &[Check], trajectories: &[Trajectory]) -> String {
    use std::fmt::Write as _;
    let mut out = String::new();
    for (name, value) in machine {
        let value = match value {
            Value::String(text) => text.clone(),
            Value::Array(list) => list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "),
            other => other.to_string(),
        };
        let _ = writeln!(out, "{name:<36} {value}");
    }
    let verdict = |passes| if passes { "ok" } else { "WRONG" };
    if !checks.is_empty() {
        let _ = writeln!(out, "\n{:<52} {:<5} {:>9} {:>9}", "kernel against the CPU's", "", "error", "bound");
    }
    for check in checks {
        let Check { what, dtype, error, bound } = check;
        let dtype = dtype_name(*dtype);
        let _ =
            writeln!(out, "{what:<52} {dtype:<5} {error:>9.1e} {bound:>9.1e}  {}", verdict(check.passes()));
    }
    if !trajectories.is_empty() {
        let head = "training against the CPU in f32";
        let _ = writeln!(out, "\n{head:<52} {:<5} {:>9} {:>9}", "", "loss", "bound");
    }
    for trajectory in trajectories {
        let Trajectory { steps, dtype, loss_error, bound, .. } = trajectory;
        let (what, dtype) = (format!("{steps} steps of a small Qwen2"), dtype_name(*dtype));
        let verdict = verdict(trajectory.passes());
        let _ = writeln!(out, "{what:<52} {dtype:<5} {loss_error:>9.1e} {bound:>9.1e}  {verdict}");
    }
    out
}

fn report(machine: &[(&'static str, Value)], checks: &[Check], trajectories: &[Trajectory]) -> Value {
    let machine: serde_json::Map<String, Value> =
        machine.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    let checks: Vec<Value> = checks
        .iter()
        .map(|c| json!({"what": c.what, "dtype": dtype_name(c.dtype), "error": c.error, "bound": c.bound, "ok": c.passes()}))
        .collect();
    let trajectories: Vec<Value> = trajectories
        .iter()
        .map(|t| {
            json!({
                "steps": t.steps, "dtype": dtype_name(t.dtype), "loss_error": t.loss_error, "bound": t.bound,
                "losses": t.losses, "reference_losses": t.reference, "ok": t.passes()
            })
        })
        .collect();
    json!({"machine": machine, "kernels": checks, "trajectories": trajectories})
}
