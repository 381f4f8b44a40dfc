//! `rmtrain split`: writes the five sets of the four scenarios.

use super::datasets::Hub;
use crate::base::interrupt;
use crate::data::source::resolve;
use crate::data::split::{self, Heldout, MANIFEST, SplitConfig};
use std::path::PathBuf;

/// Splits rows with many scored responses into train, in-domain, prompt-disjoint, response-disjoint and
/// mutual-disjoint sets, with a manifest that holds counts, hashes and leakage checks.
///
/// Exits 1 if a leak is found. Example:
/// `rmtrain split --input ultrafeedback.jsonl --out data/uf --valid-models gpt-4,bard --heldout-prompts 0.2`
#[derive(Debug, Clone, clap::Args)]
pub struct SplitArgs {
    /// Files with many responses a row (UltraFeedback's raw schema, or `responses` with `scores` and `models`), globs,
    /// or hf://datasets/OWNER/NAME/FILE
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    pub input: Vec<String>,
    /// Folder to write; new, empty, or an earlier split (replaced as a whole)
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Models whose responses are never trained on [default: four drawn by the seed]
    #[arg(long, value_name = "A,B,..", value_delimiter = ',')]
    pub valid_models: Option<Vec<String>>,
    /// Field of a completion that holds its gold score
    #[arg(long, value_name = "NAME", default_value = "overall_score")]
    pub score_field: String,
    /// Prompts to hold out: a share (0.2) or a number (500)
    #[arg(long, value_name = "FRACTION|COUNT", default_value = "0.2")]
    pub heldout_prompts: Heldout,
    /// Decides sides, draws and pairs
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Training-model responses drawn for each prompt
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub responses_per_prompt: usize,
}

/// Writes the split and prints its counts on stderr.
pub fn run(args: &SplitArgs) -> anyhow::Result<()> {
    interrupt::install_saying("stopping; nothing is left half-written");
    let config = SplitConfig {
        inputs: resolve(&args.input, &Hub)?,
        valid_models: args
            .valid_models
            .as_ref()
            .map(|names| names.iter().map(|n| n.trim().to_owned()).collect()),
        score_field: args.score_field.clone(),
        heldout_prompts: args.heldout_prompts,
        seed: args.seed,
        responses_per_prompt: args.responses_per_prompt,
    };
    let manifest = split::write(&args.out, &config)?;
    let counts = &manifest.counts;
    eprintln!(
        "{} rows read, {} usable: {} training prompts, {} held out",
        counts.rows_read, counts.rows_usable, counts.training_prompts, counts.heldout_prompts
    );
    eprintln!("valid models ({}): {}", manifest.valid_models_chosen, manifest.valid_models.join(", "));
    for output in &manifest.outputs {
        eprintln!("{:>8}  {} ({})", output.rows, args.out.join(&output.file).display(), output.kind);
    }
    let dropped = &manifest.dropped;
    for (what, reasons) in
        [("rows", &dropped.rows), ("responses", &dropped.responses), ("missing in", &dropped.from_sets)]
    {
        for (reason, count) in reasons {
            eprintln!("{count:>8}  {what} {reason}");
        }
    }
    eprintln!("no leak found; counts and hashes: {}", args.out.join(MANIFEST).display());
    eprintln!("hint: to train on it, set `splits_dir = \"{}\"` under [data]", args.out.display());
    Ok(())
}
