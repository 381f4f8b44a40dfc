//! `rmtrain eval`: how good a reward model is on the four scenarios, or on files of one's own.

use super::datasets::{EVAL_SPLITS, Hub, name_of};
use super::loaded::{ModelFlags, ModelFolder};
use super::progress::RowsBar;
use super::run_folder::{self, RunData};
use crate::base::reader::Words;
use crate::base::{atomic, interrupt};
use crate::data::config::Overlong;
use crate::data::source::{Rows, resolve};
use crate::eval::{
    By, Comparison, Detail, EvalReport, Evaluation, Named, Options, Reduce, compare, judge_split, table,
};
use crate::{Error, Result};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// What a split's file may end with.
const EXTENSIONS: [&str; 6] = [".jsonl", ".jsonl.gz", ".jsonl.zst", ".json", ".json.gz", ".parquet"];
const RUNS: &str = "runs";

/// Evaluate a reward model.
///
/// Pairs are judged by accuracy, rows of k responses with gold scores by Kendall's tau-b, both with 95% intervals;
/// beside them the gap to in-domain, calibration, the part of length, hidden norms and rewards. The tables go to
/// standard error, the report as JSON to standard output or --out.
#[derive(Debug, Clone, clap::Args)]
pub struct EvalArgs {
    /// A run directory (its final/), a checkpoint, a sequence-classification folder with one label, or a hub id
    /// [default: the newest finished run under runs/]
    #[arg(long, value_name = "DIR")]
    pub model: Option<String>,
    /// The folder that `rmtrain split` wrote [default: the one in the run's configuration]
    #[arg(long, value_name = "DIR")]
    pub splits_dir: Option<PathBuf>,
    /// A split of that folder; repeat for more [default: all but train]
    #[arg(long = "split", value_name = "NAME")]
    pub splits: Vec<String>,
    /// A file of rows, a glob or hf://datasets/OWNER/NAME/FILE as a split of its own, named after the file; repeat
    /// for more
    #[arg(long = "data", value_name = "FILE")]
    pub data: Vec<String>,
    /// Where the report goes [default: standard output]
    #[arg(long, value_name = "FILE.json")]
    pub out: Option<PathBuf>,
    /// Another model that scores the same rows: the difference with its interval, a paired bootstrap and McNemar's test
    #[arg(long, value_name = "DIR")]
    pub compare: Option<String>,
    /// Breaks the figures down by source, model or subset; repeat for more
    #[arg(long, value_name = "WHAT", value_parser = By::from_word)]
    pub by: Vec<By>,
    /// Also the effective rank of the hidden states [H x H numbers and H^3 operations a split]
    #[arg(long)]
    pub effective_rank: bool,
    /// Rows of each split that are scored a second time in the opposite order, as a self-check
    #[arg(long, value_name = "ROWS", default_value_t = 64)]
    pub antisymmetry_rows: u32,
    /// The field of a completion that holds its gold score [default: the run's, else overall_score]
    #[arg(long, value_name = "NAME")]
    pub score_field: Option<String>,
    /// What happens to a row with too long a conversation: drop | truncate-prompt-left | error
    /// [default: the run's, else drop]
    #[arg(long, value_parser = Overlong::from_word)]
    pub overlong: Option<Overlong>,
    #[command(flatten)]
    pub flags: ModelFlags,
}

/// Runs the verb.
pub fn run(args: &EvalArgs) -> anyhow::Result<()> {
    let model = match &args.model {
        Some(model) => model.clone(),
        None => newest_model()?,
    };
    let run = run_of(&model)?;
    let splits = chosen_splits(args, run.as_ref())?;
    let model = ModelFolder::open(&model, &args.flags)?;
    // Before hours of scoring, so that a wrong path is told at once.
    let other = match &args.compare {
        Some(other) => Some((ModelFolder::open(other, &args.flags)?, run_of(other)?)),
        None => None,
    };
    interrupt::install_saying("stopping after this window (once more to stop at once)");

    let run = run.unwrap_or_default();
    let score_field = args.score_field.clone().or(run.score_field.clone());
    let rows = SplitRows {
        splits,
        score_field: score_field.unwrap_or_else(|| crate::data::Config::default().score_field),
        overlong: args.overlong.or(run.overlong).unwrap_or(Overlong::Drop),
    };
    let mut by = args.by.clone();
    by.sort();
    by.dedup();
    let detail = Detail {
        by,
        effective_rank: args.effective_rank,
        antisymmetry_rows: args.antisymmetry_rows as usize,
    };
    let ours = rows.judge(model, &run, args, &detail)?;
    if ours.splits.is_empty() {
        return Ok(ours.outcome?);
    }
    let reports = ours.splits.0.iter().map(|(name, split)| (name.clone(), split.report(&detail.by)));
    let mut report = EvalReport::new(ours.model, ours.reduce, Named(reports.collect()));
    let mut outcome = ours.outcome;
    if outcome.is_ok()
        && let Some((other, run)) = other
    {
        // The first model is gone from memory by now.
        let theirs = rows.judge(other, &run.unwrap_or_default(), args, &Detail::default());
        match theirs.and_then(Judged::whole) {
            Ok(theirs) => report.comparison = Some(theirs.compared_with(&ours.splits)),
            Err(error) => outcome = Err(error),
        }
    }
    // What is finished is told, whatever became of the rest.
    if outcome.is_err() {
        eprintln!("{}", rows.unfinished(&report, args.compare.as_deref()));
    }
    eprint!("model: {}\n{}", report.model, table(&report));
    let written = print_json(&report, args.out.as_deref());
    outcome?;
    written
}

/// What the configuration of the model's run says, where it is part of one.
fn run_of(model: &str) -> Result<Option<RunData>> {
    run_folder::run_of(Path::new(model)).map(|run| RunData::read(&run)).transpose()
}

/// One model's answers to all splits, or to those before the one that went wrong.
struct Judged {
    /// What reports call the model.
    model: String,
    /// How rewards of several heads are reduced, unless it is by their mean.
    reduce: Option<Reduce>,
    splits: Named<Evaluation>,
    /// What ended it.
    outcome: Result<()>,
}

impl Judged {
    /// The answers to all splits, or why there are fewer.
    fn whole(self) -> Result<Self> {
        match self.outcome {
            Ok(()) => Ok(self),
            Err(error) => Err(error),
        }
    }

    /// The comparison of another model's answers to the same splits with these.
    fn compared_with(self, ours: &Named<Evaluation>) -> Comparison {
        let pairs = ours.0.iter().zip(&self.splits.0);
        let splits = pairs.map(|((name, ours), (_, theirs))| (name.clone(), compare(ours, theirs)));
        let splits = Named(splits.collect());
        Comparison { model: self.model, reduce: self.reduce, splits }
    }
}

/// The rows of all splits, for every model alike.
struct SplitRows {
    splits: Vec<Split>,
    score_field: String,
    overlong: Overlong,
}

impl SplitRows {
    /// Scores every split, up to the first that goes wrong.
    ///
    /// # Errors
    /// Where the model cannot be loaded; what goes wrong later is the [`Judged::outcome`].
    fn judge(&self, model: ModelFolder, run: &RunData, args: &EvalArgs, detail: &Detail) -> Result<Judged> {
        let loaded = model.load()?;
        let from_run = run.max_length.filter(|&tokens| tokens <= loaded.max_positions);
        let options = Options {
            max_length: args
                .flags
                .max_length
                .map(|t| t as usize)
                .or(from_run)
                .unwrap_or(loaded.max_positions),
            overlong: self.overlong,
            batch_tokens: args.flags.batch_tokens(),
        };
        let judge = |split: &Split| -> Result<Evaluation> {
            let bar = RowsBar::new(&split.name);
            let field = self.score_field.clone();
            let examples =
                Rows::of_files(resolve(std::slice::from_ref(&split.source), &Hub)?).map(move |row| {
                    let row = row?;
                    Ok((row.origin.clone(), row.example(&field)?))
                });
            let (encoder, scorer) = (loaded.tokenizer.clone(), loaded.scorer.as_ref());
            judge_split(examples, encoder, scorer, &options, detail, |done| bar.show(done))
        };
        let mut evaluations = Vec::with_capacity(self.splits.len());
        let outcome = self.splits.iter().try_for_each(|split| -> Result<()> {
            evaluations.push((split.name.clone(), judge(split)?));
            Ok(())
        });
        Ok(Judged { model: loaded.name, reduce: loaded.reduce, splits: Named(evaluations), outcome })
    }

    /// What a report lacks that was ended by an error: splits, and the comparison with `other` where one was asked for.
    fn unfinished(&self, report: &EvalReport, other: Option<&str>) -> String {
        let unfinished = self.splits.iter().filter(|split| report.splits.get(&split.name).is_none());
        let unfinished: Vec<&str> = unfinished.map(|split| split.name.as_str()).collect();
        let comparison = other.map(|other| format!("the comparison with {other}"));
        let missing: Vec<&str> = unfinished.into_iter().chain(comparison.as_deref()).collect();
        format!("unfinished: the report is without {}", missing.join(", "))
    }
}

/// Writes a report as JSON to a file, or to standard output.
pub(super) fn print_json(report: &impl serde::Serialize, out: Option<&Path>) -> anyhow::Result<()> {
    let mut json = serde_json::to_vec_pretty(report)?;
    json.push(b'\n');
    let Some(path) = out else {
        let mut stdout = io::stdout().lock();
        return match stdout.write_all(&json).and_then(|()| stdout.flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Error::io("stdout")(error).into()),
            _ => Ok(()),
        };
    };
    Ok(atomic::write_bytes(path, &json)?)
}

/// The newest finished run under `runs/`.
pub(super) fn newest_model() -> Result<String> {
    match run_folder::newest_finished(Path::new(RUNS))? {
        Some(run) => Ok(run.display().to_string()),
        None => Err(Error::Usage(format!(
            "no finished run under {RUNS}/ and no --model; train one with `rmtrain fit`, or name a model folder or \
             hub id with --model"
        ))),
    }
}

/// One thing to evaluate.
#[derive(Debug, PartialEq, Eq)]
struct Split {
    name: String,
    source: String,
}

/// The splits that the arguments and the model's run ask for, in order; each one exists where it is a file here.
fn chosen_splits(args: &EvalArgs, run: Option<&RunData>) -> Result<Vec<Split>> {
    let mut splits = Vec::new();
    // --data alone asks for those files only.
    if args.data.is_empty() || args.splits_dir.is_some() || !args.splits.is_empty() {
        match args.splits_dir.as_deref().or(run.and_then(|run| run.splits_dir.as_deref())) {
            Some(folder) => splits.extend(splits_in(folder, &args.splits)?),
            None => splits.extend(splits_of_run(run, &args.splits)?),
        }
    }
    for source in &args.data {
        splits.push(Split { name: free_name(source, &splits), source: source.clone() });
    }
    Ok(splits)
}

/// A name for a file that none of `splits` has: the file's own, its path, or its path with a number.
fn free_name(source: &str, splits: &[Split]) -> String {
    let numbered = (2..).map(|number: u64| format!("{source} ({number})"));
    let mut names = [name_of(source), source.to_owned()].into_iter().chain(numbered);
    let is_free = |name: &String| splits.iter().all(|split| split.name != *name);
    names.find(is_free).unwrap_or_else(|| source.to_owned())
}

/// Splits named in `wanted`, each once, or the default ones that are there.
fn splits_in(folder: &Path, wanted: &[String]) -> Result<Vec<Split>> {
    let available = split_files(folder)?;
    let find = |name: &str| available.iter().find(|(stem, _)| stem == name);
    let split = |(name, path): &(String, PathBuf)| Split {
        name: name.clone(),
        source: path.to_string_lossy().into_owned(),
    };
    let names: Vec<&str> = available.iter().map(|(name, _)| name.as_str()).collect();
    if wanted.is_empty() {
        let found: Vec<Split> = EVAL_SPLITS.iter().filter_map(|name| find(name)).map(split).collect();
        if found.is_empty() {
            let expected = EVAL_SPLITS.join(", ");
            let reason =
                format!("found {}, expected splits named {expected}; name others with --split", list(&names));
            return Err(Error::Data { path: folder.into(), reason });
        }
        return Ok(found);
    }
    let mut found: Vec<Split> = Vec::new();
    for name in wanted {
        let split = find(name).map(split).ok_or_else(|| unknown_split(name, folder, &names))?;
        if !found.contains(&split) {
            found.push(split);
        }
    }
    Ok(found)
}

/// The files of `data.eval`, for a run without splits.
fn splits_of_run(run: Option<&RunData>, wanted: &[String]) -> Result<Vec<Split>> {
    let Some(run) = run else {
        return Err(Error::Usage(
            "no --splits-dir and no --data, and the model is not part of a run whose configuration names one"
                .into(),
        ));
    };
    let available: Vec<Split> =
        run.eval.iter().map(|source| Split { name: name_of(source), source: source.clone() }).collect();
    if available.is_empty() {
        let reason = "has neither data.splits_dir nor data.eval; give --splits-dir or --data".into();
        return Err(Error::Data { path: run.path.clone(), reason });
    }
    if wanted.is_empty() {
        return Ok(available);
    }
    let names: Vec<&str> = available.iter().map(|split| split.name.as_str()).collect();
    let unknown = wanted.iter().find(|name| !names.contains(&name.as_str()));
    if let Some(name) = unknown {
        return Err(unknown_split(name, &run.path, &names));
    }
    Ok(available.into_iter().filter(|split| wanted.contains(&split.name)).collect())
}

fn unknown_split(name: &str, place: &Path, names: &[&str]) -> Error {
    Error::Usage(format!("--split {name}: not in {}, which has {}", place.display(), list(names)))
}

fn list(names: &[&str]) -> String {
    if names.is_empty() { "no splits".into() } else { names.join(", ") }
}

/// The split files of a folder, by name.
fn split_files(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder))? {
        let path = entry.map_err(Error::io(folder))?.path();
        let Some(file) = path.file_name().and_then(|name| name.to_str()) else { continue };
        if path.is_file() && file != "manifest.json" && EXTENSIONS.iter().any(|end| file.ends_with(end)) {
            files.push((name_of(file), path));
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use std::fs;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: EvalArgs,
    }

    fn args(line: &str) -> EvalArgs {
        Line::parse_from(std::iter::once("eval").chain(line.split_whitespace())).args
    }

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        files.iter().for_each(|file| fs::write(folder.path().join(file), "").unwrap());
        folder
    }

    fn names(splits: &[Split]) -> Vec<&str> {
        splits.iter().map(|split| split.name.as_str()).collect()
    }

    #[test]
    fn all_splits_but_train_in_the_order_of_the_scenarios() {
        let folder = folder(&[
            "train.jsonl",
            "mutual-disjoint.jsonl.zst",
            "in-domain.jsonl",
            "prompt-disjoint.parquet",
            "response-disjoint.json",
            "manifest.json",
            "notes.txt",
        ]);
        let path = folder.path().display().to_string();
        let found = chosen_splits(&args(&format!("--splits-dir {path}")), None).unwrap();
        assert_eq!(names(&found), EVAL_SPLITS);
        assert_eq!(found[3].source, format!("{path}/mutual-disjoint.jsonl.zst"));
        let found =
            chosen_splits(&args(&format!("--splits-dir {path} --split train --split in-domain")), None);
        assert_eq!(names(&found.unwrap()), ["train", "in-domain"]);
        let error = chosen_splits(&args(&format!("--splits-dir {path} --split nope")), None).unwrap_err();
        let all = "in-domain, mutual-disjoint, prompt-disjoint, response-disjoint, train";
        assert_eq!(error.to_string(), format!("--split nope: not in {path}, which has {all}"));
    }

    #[test]
    fn the_runs_splits_are_the_default() {
        let folder = folder(&["in-domain.jsonl", "own.jsonl"]);
        let run = RunData { splits_dir: Some(folder.path().into()), ..RunData::default() };
        assert_eq!(names(&chosen_splits(&args(""), Some(&run)).unwrap()), ["in-domain"]);
        assert_eq!(names(&chosen_splits(&args("--split own"), Some(&run)).unwrap()), ["own"]);
        assert_eq!(names(&chosen_splits(&args("--data x/own.jsonl.gz"), Some(&run)).unwrap()), ["own"]);
        let both =
            chosen_splits(&args("--split own --data x/own.jsonl.gz --data a.json"), Some(&run)).unwrap();
        assert_eq!(names(&both), ["own", "x/own.jsonl.gz", "a"]);
    }

    #[test]
    fn what_is_given_twice_has_one_name_each() {
        let folder = folder(&["in-domain.jsonl", "own.jsonl"]);
        let run = RunData { splits_dir: Some(folder.path().into()), ..RunData::default() };
        let line = ["--split own --split in-domain --split own", &" --data own.jsonl".repeat(3)].concat();
        let found = chosen_splits(&args(&line), Some(&run)).unwrap();
        assert_eq!(names(&found), ["own", "in-domain", "own.jsonl", "own.jsonl (2)", "own.jsonl (3)"]);
        let run = RunData { eval: vec!["d/a.jsonl".into()], ..RunData::default() };
        let found =
            chosen_splits(&args("--split a --split a --data a.json --data a.json"), Some(&run)).unwrap();
        assert_eq!(names(&found), ["a", "a.json", "a.json (2)"]);
        assert!(chosen_splits(&args(""), None).unwrap_err().to_string().contains("--splits-dir"));
    }

    #[test]
    fn a_run_without_splits_has_its_eval_files() {
        let run = RunData { eval: vec!["d/a.jsonl".into(), "d/b.parquet".into()], ..RunData::default() };
        assert_eq!(names(&chosen_splits(&args(""), Some(&run)).unwrap()), ["a", "b"]);
        assert_eq!(names(&chosen_splits(&args("--split b"), Some(&run)).unwrap()), ["b"]);
        let error = chosen_splits(&args("--split c"), Some(&run)).unwrap_err().to_string();
        assert!(error.ends_with("which has a, b"), "{error}");
        assert!(chosen_splits(&args(""), Some(&RunData::default())).is_err());
    }

    #[test]
    fn a_folder_without_the_scenarios_lists_what_it_has() {
        let folder = folder(&["a.jsonl"]);
        let error = splits_in(folder.path(), &[]).unwrap_err().to_string();
        assert!(error.contains("found a, expected splits named in-domain"), "{error}");
        assert!(matches!(splits_in(&folder.path().join("absent"), &[]), Err(Error::Io { .. })));
    }
}
