//! `rmtrain sandbox`: writes the synthetic preference world.

use crate::base::interrupt;
use crate::data::config::SandboxConfig;
use crate::data::sandbox;
use std::path::PathBuf;

/// Writes a synthetic preference world whose gold reward is known exactly: rows in UltraFeedback's raw schema, the
/// five sets of the four scenarios, and a small tokenizer.
///
/// 17 generators answer the training prompts and 4 more are held out; length and a friendly tone go with quality among
/// the 17 and against it among the 4. The same seed gives the same bytes.
#[derive(Debug, Clone, clap::Args)]
pub struct SandboxArgs {
    /// Folder to write; new, empty, or an earlier sandbox of the same seed and size (kept as it is)
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// What the world is drawn from
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Prompts, each with 8 responses (20 to 100000)
    #[arg(long, value_name = "N", default_value_t = 2000)]
    pub prompts: usize,
}

/// Writes the sandbox and says on stderr what it holds and what to do with it.
pub fn run(args: &SandboxArgs) -> anyhow::Result<()> {
    interrupt::install_saying("stopping; nothing is left half-written");
    let report = sandbox::write(&args.out, SandboxConfig { seed: args.seed, prompts: args.prompts })?;
    if report.reused {
        eprintln!("{}: this sandbox is complete already; nothing was written", args.out.display());
    }
    eprintln!("{:>8}  prompts, {} responses: {}", report.prompts, report.responses, report.world.display());
    for (set, rows) in &report.sets {
        eprintln!("{rows:>8}  {set}: {}", report.splits.join(format!("{set}.jsonl")).display());
    }
    eprintln!("{:>8}  tokenizer: {}", "", report.tokenizer.display());
    eprintln!(
        "hint: to train on it, set `splits_dir = \"{}\"` under [data] and run `rmtrain fit --config FILE`",
        report.splits.display()
    );
    Ok(())
}
