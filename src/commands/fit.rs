//! `rmtrain fit`: trains a reward model as a configuration says.

use super::{preflight, train};
use crate::Error;
use crate::config::RunConfig;
use std::io::{self, Write};
use std::path::PathBuf;

/// Train a reward model.
///
/// The configuration is a TOML file; --set changes single keys of it. The run's folder receives config.toml (with
/// every key), metrics.jsonl, checkpoints/ and at the end final/, a Hugging Face sequence-classification folder.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  rmtrain fit --config configs/quickstart.toml
  rmtrain fit --config configs/qwen3b-bsr.toml --out runs/bsr --set objective.sum-to-zero.lambda=1e-2
  rmtrain fit --config configs/qwen3b-bsr.toml --out runs/bsr --resume
  rmtrain fit --config configs/qwen3b-bsr.toml --dry-run > resolved.toml")]
pub struct FitArgs {
    /// The configuration; relative paths in it count from the current folder
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Change one key, `optim.lr=1e-6` say; repeat for more. A term of the objective goes by its kind or by its
    /// number from 0: `objective.sum-to-zero.lambda=0`. Of keys that exclude each other (epochs and max_steps) the
    /// one set here displaces the file's
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// The run's folder [default: runs/ with the configuration's name]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Go on from the newest checkpoint in the run's folder
    #[arg(long)]
    pub resume: bool,
    /// Check everything that needs neither weights nor network, print the resolved configuration and stop
    #[arg(long)]
    pub dry_run: bool,
}

/// Runs the verb.
pub fn run(args: &FitArgs) -> anyhow::Result<()> {
    let config = RunConfig::load(&args.config, &args.set)?;
    let preflight = preflight::check(&args.config, &config)?;
    if args.dry_run {
        let mut stdout = io::stdout().lock();
        let written = stdout.write_all(config.to_toml().as_bytes()).and_then(|()| stdout.flush());
        written.map_err(Error::io("stdout"))?;
        eprintln!("{}: valid\n{preflight}", args.config.display());
        preflight.hints.iter().for_each(|hint| eprintln!("hint: {hint}"));
        return Ok(());
    }
    Ok(train::train(&args.config, config, args.out.as_deref(), args.resume)?)
}
