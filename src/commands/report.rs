//! `rmtrain report`: a page about runs that one can show around, and their figures as CSV, Markdown and SVG.

use super::run_folder::run_of;
use crate::Error;
use crate::base::atomic;
use crate::report::{CsvTarget, RunGroup, SEED, read_all, render, render_markdown, write_csv, write_svg};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Show runs side by side on one page.
///
/// Reads config.toml, metrics.jsonl and, if there is one, eval.json (`rmtrain eval --model RUN --out RUN/eval.json`) of
/// every run. The page needs nothing else: no network, no other file. A run may still be going on. Runs that differ in
/// train.seed only are shown as one group: lines are medians with a band from the least to the largest seed, bars are means.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  rmtrain report runs/quickstart runs/quickstart-bt
  rmtrain report runs/* --out report.html --csv tables/
  rmtrain report runs/bt-* runs/bsr-* --markdown tables.md --svg docs/plots")]
pub struct ReportArgs {
    /// Folders that `fit` wrote; the first one is what the others are compared with
    #[arg(value_name = "RUN", required = true)]
    pub runs: Vec<PathBuf>,
    /// The page, - for standard output [default: report.html, unless only other output is asked for]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Also the lines as tables: a folder for metrics.csv and evals.csv, or a file that ends in .csv
    #[arg(long, value_name = "DIR|FILE")]
    pub csv: Option<PathBuf>,
    /// Also the tables of a document as GitHub Markdown: scenarios, diagnostics, configurations; - for standard output
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
    /// Also every plot as an .svg file of its own in this folder
    #[arg(long, value_name = "DIR")]
    pub svg: Option<PathBuf>,
    /// Show every run by itself, also those that differ in their seed only
    #[arg(long)]
    pub no_groups: bool,
}

/// Runs the verb.
pub fn run(args: &ReportArgs) -> anyhow::Result<()> {
    // A checkpoint or final/ stands for its run.
    let folders: Vec<PathBuf> = args
        .runs
        .iter()
        .map(|path| {
            if path.join("metrics.jsonl").exists() { None } else { run_of(path) }
                .unwrap_or_else(|| path.clone())
        })
        .collect();
    let is_stdout = |path: &Option<PathBuf>| path.as_deref().is_some_and(|path| path.as_os_str() == "-");
    if is_stdout(&args.out) && is_stdout(&args.markdown) {
        let message = "found both --out - and --markdown -, expected one of them on standard output";
        return Err(Error::Usage(message.into()).into());
    }
    let target = args.csv.as_deref().map(CsvTarget::of).transpose()?;
    let runs = read_all(&folders, &mut |hint| eprintln!("hint: {hint}"))?;
    if let Some(target) = &target {
        write_csv(&runs, target)?.iter().for_each(|path| eprintln!("{}: written", path.display()));
    }
    let groups = if args.no_groups { RunGroup::each(runs) } else { RunGroup::by_seed(runs) };
    for group in groups.iter().filter(|group| group.is_several()) {
        eprintln!("{}: {} runs that differ in {SEED} only are one group", group.name, group.runs.len());
    }
    if let Some(path) = &args.markdown {
        write_text(path, &render_markdown(&groups), "tables as Markdown")?;
    }
    if let Some(folder) = &args.svg {
        let written = write_svg(&groups, folder)?;
        eprintln!("{}: {} plots as SVG", folder.display(), written.len());
    }
    let out = match &args.out {
        Some(out) => out.as_path(),
        None if args.csv.is_some() || args.markdown.is_some() || args.svg.is_some() => return Ok(()),
        None => Path::new("report.html"),
    };
    write_text(out, &render(&groups)?, "opens in any browser")
}

/// Writes to a file, or to standard output for `-`.
fn write_text(path: &Path, text: &str, what: &str) -> anyhow::Result<()> {
    if path.as_os_str() == "-" {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(Error::io("stdout"))?;
        return Ok(());
    }
    atomic::write_bytes(path, text.as_bytes())?;
    eprintln!("{}: {} kB, {what}", path.display(), text.len().div_ceil(1000));
    Ok(())
}
