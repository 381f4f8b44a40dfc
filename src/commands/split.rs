//! `rmtrain split`: writes the five sets of the four scenarios, or checks those of a folder.

use super::datasets::Hub;
use super::progress::RowsBar;
use crate::Error;
use crate::base::interrupt;
use crate::data::source::resolve;
use crate::data::split::{
    self, Comparison, Heldout, MANIFEST, Manifest, NearDuplicates, Preset, Progress, SplitConfig, Stage,
};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Splits rows with many scored responses into train, in-domain, prompt-disjoint, response-disjoint and
/// mutual-disjoint sets, with a manifest that holds counts, hashes and leakage checks.
///
/// Exits 1 if a leak is found. Example:
/// `rmtrain split --input ultrafeedback.jsonl --out data/uf --valid-models gpt-4,bard --heldout-prompts 0.2`
#[derive(Debug, Clone, clap::Args)]
pub struct SplitArgs {
    /// Files with many responses a row (UltraFeedback's raw schema, or `responses` with `scores` and `models`) or one
    /// (`response`, `score`, `model`), globs, or hf://datasets/OWNER/NAME/FILE. Rows of different files that have the
    /// same prompt are joined
    #[arg(long, value_name = "FILE", required_unless_present_any = ["preset", "check"], num_args = 1..)]
    pub input: Vec<String>,
    /// More files, beside those of --input or of the preset: other models' responses to the same prompts
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub join: Vec<String>,
    /// Folder to write; new, empty, or an earlier split (replaced as a whole)
    #[arg(long, value_name = "DIR", required_unless_present = "check")]
    pub out: Option<PathBuf>,
    /// Checks the sets of a folder instead of writing any: their leakage and, by its manifest, their SHA-256. The
    /// report goes to standard output as JSON; exits 1 if anything is found
    #[arg(
        long,
        value_name = "DIR",
        conflicts_with_all = ["input", "join", "out", "preset", "valid_models", "score_field", "heldout_prompts",
            "seed", "responses_per_prompt"]
    )]
    pub check: Option<PathBuf>,
    /// Files and settings of a published split; what is given beside it wins. `ultrafeedback`: openbmb/UltraFeedback
    /// from the hub, scored by mean-rating, 11082 prompts held out
    #[arg(long, value_name = "NAME")]
    pub preset: Option<Preset>,
    /// Models whose responses are never trained on [default: four drawn by the seed; with a preset, those that only
    /// joined files have]
    #[arg(long, value_name = "A,B,..", value_delimiter = ',')]
    pub valid_models: Option<Vec<String>>,
    /// Field of a completion that holds its gold score, `label`'s for one; mean-rating: the mean of its annotations'
    /// ratings [default: overall_score; with a preset, mean-rating]
    #[arg(long, value_name = "NAME")]
    pub score_field: Option<String>,
    /// Prompts to hold out: a share (0.2) or a number (500) [default: 0.2]
    #[arg(long, value_name = "FRACTION|COUNT")]
    pub heldout_prompts: Option<Heldout>,
    /// Prompts that are never on both sides: those whose word 3-grams have this Jaccard similarity; off: only those
    /// that are equal but for case, spacing and punctuation [default: 0.7]
    #[arg(long, value_name = "THRESHOLD|off")]
    pub near_duplicates: Option<NearDuplicates>,
    /// Decides sides, draws and pairs [default: 0]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Training-model responses drawn for each prompt [default: 4]
    #[arg(long, value_name = "N")]
    pub responses_per_prompt: Option<usize>,
}

/// Writes the split and prints its counts on stderr; or checks one.
pub fn run(args: &SplitArgs) -> anyhow::Result<()> {
    interrupt::install_saying("stopping; nothing is left half-written");
    let bar = RowsBar::new("split");
    let mut progress = |done: Progress| {
        let stage = match done.stage {
            Stage::Reading => "reading",
            Stage::Writing => "writing",
            Stage::Checking => "checking",
        };
        bar.show_stage(stage, done.rows);
    };
    if let Some(folder) = &args.check {
        let report = split::check(folder, args.near_duplicates, &mut progress)?;
        bar.finish();
        let mut stdout = std::io::stdout().lock();
        serde_json::to_writer_pretty(&mut stdout, &report)?;
        writeln!(stdout)?;
        eprint!("{report}");
        report.refuse("")?;
        eprintln!("no leak found in {}", folder.display());
        return Ok(());
    }
    let Some(out) = &args.out else {
        return Err(Error::Usage("split: expected --out DIR, or --check DIR".into()).into());
    };
    let manifest = split::write_watched(out, &config(args)?, &mut progress)?;
    bar.finish();
    tell(&manifest, out);
    Ok(())
}

/// The settings: the preset's or the defaults, but for what was given.
fn config(args: &SplitArgs) -> crate::Result<SplitConfig> {
    let mut sources = match args.preset {
        Some(preset) if args.input.is_empty() => preset.sources(),
        _ => args.input.clone(),
    };
    sources.extend_from_slice(&args.join);
    let inputs = resolve(&sources, &Hub)?;
    let base = match args.preset {
        Some(preset) => preset.config(inputs),
        None => SplitConfig::new(inputs),
    };
    let names = |names: &Vec<String>| names.iter().map(|name| name.trim().to_owned()).collect();
    Ok(SplitConfig {
        valid_models: args.valid_models.as_ref().map(names),
        score_field: args.score_field.clone().unwrap_or(base.score_field),
        heldout_prompts: args.heldout_prompts.unwrap_or(base.heldout_prompts),
        near_duplicates: args.near_duplicates.unwrap_or(base.near_duplicates),
        seed: args.seed.unwrap_or(base.seed),
        responses_per_prompt: args.responses_per_prompt.unwrap_or(base.responses_per_prompt),
        ..base
    })
}

fn tell(manifest: &Manifest, out: &Path) {
    let counts = &manifest.counts;
    eprintln!(
        "{} rows read, {} joined, {} usable: {} training prompts, {} held out",
        counts.rows_read,
        counts.rows_joined,
        counts.rows_usable,
        counts.training_prompts,
        counts.heldout_prompts
    );
    for input in manifest.inputs.iter().filter(|input| input.joined > 0) {
        eprintln!("{:>8}  rows of {} joined to earlier rows by prompt", input.joined, input.file);
    }
    if let Some(near) = &manifest.near_duplicates {
        eprintln!(
            "{:>8}  prompts in {} clusters of near-duplicates (the largest: {}), each on one side",
            near.prompts, near.clusters, near.largest
        );
    }
    eprintln!("valid models ({}): {}", manifest.valid_models_chosen, manifest.valid_models.join(", "));
    for output in &manifest.outputs {
        eprintln!("{:>8}  {} ({})", output.rows, out.join(&output.file).display(), output.kind);
    }
    let dropped = &manifest.dropped;
    for (what, reasons) in
        [("rows", &dropped.rows), ("responses", &dropped.responses), ("missing in", &dropped.from_sets)]
    {
        for (reason, count) in reasons {
            eprintln!("{count:>8}  {what} {reason}");
        }
    }
    for (check, found) in &manifest.leakage {
        eprintln!("{found:>8}  {check}");
    }
    eprintln!("no leak found; counts and hashes: {}", out.join(MANIFEST).display());
    if let Some(comparison) = &manifest.preset {
        tell_sizes(comparison, manifest);
    }
    eprintln!("hint: to train on it, set `splits_dir = \"{}\"` under [data]", out.display());
}

fn tell_sizes(comparison: &Comparison, manifest: &Manifest) {
    let differences = comparison.differences();
    if differences.is_empty() {
        eprintln!("all sizes are those published for {}", comparison.name);
        return;
    }
    for difference in differences {
        eprintln!("hint: not the size published for {}: {difference}", comparison.name);
    }
    if manifest.inputs.iter().all(|input| input.joined == 0) {
        eprintln!(
            "hint: the published sets hold responses of four more models, joined by prompt: give their files with --join"
        );
    }
    if manifest.dropped.rows.contains_key("all-responses-tied") {
        eprintln!(
            "hint: rows whose scores all tie make no pair; a reward model's scores (the published ones) hardly tie: split \
             what `rmtrain label` writes with --score-field overall_score, since the preset reads ratings"
        );
    }
}
