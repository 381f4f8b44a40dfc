//! `rmtrain report`: a page about runs that one can show around, and their figures as CSV.

use super::run_folder::run_of;
use crate::Error;
use crate::base::atomic;
use crate::report::{CsvTarget, read_all, render, write_csv};
use std::io::{self, Write};
use std::path::PathBuf;

/// Show runs side by side on one page.
///
/// Reads config.toml, metrics.jsonl and, if there is one, eval.json (`rmtrain eval --model RUN --out RUN/eval.json`) of
/// every run. The page needs nothing else: no network, no other file. A run may still be going on.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  rmtrain report runs/quickstart runs/quickstart-bt
  rmtrain report runs/* --out report.html --csv tables/")]
pub struct ReportArgs {
    /// Folders that `fit` wrote; the first one is what the others are compared with
    #[arg(value_name = "RUN", required = true)]
    pub runs: Vec<PathBuf>,
    /// The page, - for standard output [default: report.html, unless only --csv is asked for]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Also the lines as tables: a folder for metrics.csv and evals.csv, or a file that ends in .csv
    #[arg(long, value_name = "DIR|FILE")]
    pub csv: Option<PathBuf>,
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
    let target = args.csv.as_deref().map(CsvTarget::of).transpose()?;
    let runs = read_all(&folders, &mut |hint| eprintln!("hint: {hint}"))?;
    if let Some(target) = &target {
        write_csv(&runs, target)?.iter().for_each(|path| eprintln!("{}: written", path.display()));
    }
    let out = match &args.out {
        Some(out) => out.clone(),
        None if target.is_some() => return Ok(()),
        None => "report.html".into(),
    };
    let page = render(&runs)?;
    if out.as_os_str() == "-" {
        let mut stdout = io::stdout().lock();
        stdout.write_all(page.as_bytes()).and_then(|()| stdout.flush()).map_err(Error::io("stdout"))?;
        return Ok(());
    }
    atomic::write_bytes(&out, page.as_bytes())?;
    eprintln!("{}: {} kB, opens in any browser", out.display(), page.len().div_ceil(1000));
    Ok(())
}
