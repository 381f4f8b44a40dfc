//! `rmtrain bench`: a reward model on published benchmarks, with each benchmark's own figures and files.

use super::datasets::Hub;
use super::eval::{newest_model, print_json};
use super::loaded::{LoadedModel, ModelFlags};
use super::progress::{RowsBar, speed};
use crate::base::interrupt;
use crate::base::reader::Words;
use crate::data::config::Overlong;
use crate::data::source::{RawRow, Rows, SourceFile, resolve};
use crate::eval::benchmark::{
    BenchOptions, BenchReport, Collected, Manifest, OutputFiles, ScoredRow, bench_table, read_scores,
    score_benchmark,
};
use crate::eval::{Named, OnError, Reduce};
use crate::{Error, Result};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Rows whose errors are told one by one under `--on-error keep`.
const TOLD_ERRORS: u64 = 5;
/// The report in the folder of `--out`, beside files that are named after their benchmarks.
const REPORT: &str = "bench.json";

/// Run benchmarks: RM-Bench, RewardBench, RewardBench 2, JudgeBench, the paper's four sets, or your own.
///
/// Figures follow each benchmark's published rule, with 95% bootstrap intervals, ties, and what choosing the longest
/// or the shortest response would reach. The table goes to standard error, the report as JSON to standard output.
#[derive(Debug, Clone, clap::Args)]
pub struct BenchArgs {
    /// rm-bench, reward-bench, reward-bench-2, judge-bench, paper, or a manifest of one's own (.toml)
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<String>,
    /// A run directory (its final/), a checkpoint, a sequence-classification folder with one label, or a hub id
    /// [default: the newest finished run under runs/]
    #[arg(long, value_name = "DIR")]
    pub model: Option<String>,
    /// Rows of a benchmark: NAME=FILE, or NAME/GROUP=FILE where all of them are of one group; repeat for more.
    /// FILE alone where one benchmark is run [default: what the manifest names, on the hub for the known ones]
    #[arg(long, value_name = "NAME=FILE")]
    pub data: Vec<String>,
    /// Rows that hold their scores already, named as --data is: figures without a model
    #[arg(long, value_name = "NAME=FILE", conflicts_with_all = ["data", "model"])]
    pub scores: Vec<String>,
    /// Also the files that a manifest calls optional: RewardBench's prior test sets, JudgeBench's second half
    #[arg(long, conflicts_with = "scores")]
    pub optional: bool,
    /// A folder for the report and for the files that each benchmark's own tool writes
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// What happens at a row that cannot be read or scored; keep leaves it out and counts it
    #[arg(long, value_enum, default_value = "fail")]
    pub on_error: OnError,
    /// What happens to a row with too long a conversation: drop | truncate-prompt-left | error
    #[arg(long, value_parser = Overlong::from_word, default_value = "error")]
    pub overlong: Overlong,
    #[command(flatten)]
    pub flags: ModelFlags,
}

/// What is printed.
#[derive(Debug, Serialize)]
struct Report {
    /// Null where the scores were stored.
    model: Option<String>,
    /// Absent where the rewards of an ensemble are reduced by their mean.
    #[serde(skip_serializing_if = "Option::is_none")]
    reduce: Option<Reduce>,
    benchmarks: Named<BenchReport>,
}

/// The files of one benchmark, each with the group of its rows.
type Sources = Vec<(Option<Arc<str>>, Vec<SourceFile>)>;

/// Runs the verb.
pub fn run(args: &BenchArgs) -> anyhow::Result<()> {
    let manifests = manifests(&args.names, args.out.as_deref())?;
    let stored = !args.scores.is_empty();
    // Before the model is loaded, so that a wrong path is told at once.
    let sources = sources(&manifests, if stored { &args.scores } else { &args.data }, stored, args.optional)?;
    let model = if stored { None } else { Some(load(args)?) };
    interrupt::install_saying(match stored {
        true => "stopping (once more to stop at once)",
        false => "stopping after this window (once more to stop at once)",
    });

    let (mut reports, mut outcome) = (Vec::new(), Ok(()));
    for (manifest, sources) in manifests.iter().zip(sources) {
        match bench(args, manifest, sources, model.as_ref()) {
            Ok(report) => reports.push((manifest.name.clone(), report)),
            Err(error) => {
                outcome = Err(error.into());
                break;
            }
        }
    }
    if reports.is_empty() {
        return outcome;
    }
    // What is finished is told, whatever became of the benchmarks after it.
    let reduce = model.as_ref().and_then(|model| model.reduce);
    let report = Report { model: model.map(|model| model.name), reduce, benchmarks: Named(reports) };
    let written = match &args.out {
        Some(out) => print_json(&report, Some(&out.join(REPORT))),
        None => Ok(()),
    };
    let printed = print_json(&report, None);
    outcome.and(written).and(printed)
}

/// One benchmark: its table, its files, its report.
fn bench(
    args: &BenchArgs,
    manifest: &Arc<Manifest>,
    sources: Sources,
    model: Option<&LoadedModel>,
) -> Result<BenchReport> {
    let files = args.out.as_deref().map(|out| OutputFiles::new(out, &manifest.name, manifest.outputs));
    let collected = match model {
        Some(model) => score(args, manifest, sources, model, files.as_ref())?,
        None => {
            let mut told = Told::default();
            read_scores(manifest, rows_of(sources), args.on_error, |error| told.tell(&error))?
        }
    };
    let Collected { done, failed, overlong, .. } = &collected;
    if done.rows == failed + overlong {
        let reason = format!(
            "{}: no row could be judged, of {} rows {failed} are wrong and {overlong} too long",
            manifest.name, done.rows
        );
        return Err(Error::Usage(reason));
    }
    let report = BenchReport::new(manifest, collected);
    eprint!("{}", bench_table(&manifest.name, &report));
    if let Some(files) = &files {
        files.write_results(&report, model.map(|model| model.name.as_str()), &template(args))?;
    }
    Ok(report)
}

fn load(args: &BenchArgs) -> Result<LoadedModel> {
    let model = match &args.model {
        Some(model) => model.clone(),
        None => newest_model()?,
    };
    LoadedModel::load(&model, &args.flags)
}

/// What reward-bench calls the template in use.
fn template(args: &BenchArgs) -> String {
    args.flags.chat_template.as_ref().map_or("tokenizer".into(), |path| path.display().to_string())
}

/// The benchmarks of these names, whose files do not get into each other's way in the folder `out`.
fn manifests(names: &[String], out: Option<&Path>) -> Result<Vec<Arc<Manifest>>> {
    let mut manifests: Vec<Arc<Manifest>> = Vec::new();
    for name in names {
        let manifest = Manifest::of(name)?;
        // Some file systems do not tell letters by their case.
        if let Some(out) = out.filter(|_| format!("{}.json", manifest.name).eq_ignore_ascii_case(REPORT)) {
            return Err(Error::Usage(format!(
                "{name}: found a benchmark called {:?}, whose files would be named as the report {} is; rename the \
                 manifest, own-bench.toml say, or leave out --out",
                manifest.name,
                out.join(REPORT).display()
            )));
        }
        if manifests.iter().any(|other| other.name == manifest.name) {
            return Err(Error::Usage(format!(
                "{name}: a benchmark called {:?} is there already",
                manifest.name
            )));
        }
        manifests.push(Arc::new(manifest));
    }
    Ok(manifests)
}

/// The files of every benchmark: those that were given for it, else those of its manifest.
fn sources(
    manifests: &[Arc<Manifest>],
    given: &[String],
    stored: bool,
    optional: bool,
) -> Result<Vec<Sources>> {
    let flag = if stored { "--scores" } else { "--data" };
    let given: Vec<Given> =
        given.iter().map(|text| Given::of(text, manifests, flag)).collect::<Result<_>>()?;
    let mut all = Vec::new();
    for (at, manifest) in manifests.iter().enumerate() {
        let mut sources = Sources::new();
        for found in given.iter().filter(|given| given.benchmark == at) {
            sources.push((found.group.clone(), resolve(std::slice::from_ref(&found.file), &Hub)?));
        }
        if sources.is_empty() && !stored {
            for file in manifest.files.iter().filter(|file| optional || !file.optional) {
                let group = file.group.as_deref().map(Arc::from);
                sources.push((group, resolve(std::slice::from_ref(&file.source), &Hub)?));
            }
        }
        if sources.is_empty() {
            let name = &manifest.name;
            return Err(Error::Usage(format!("{name}: no rows, expected {flag} {name}=FILE")));
        }
        all.push(sources);
    }
    Ok(all)
}

/// One `NAME/GROUP=FILE`.
#[derive(Debug, PartialEq, Eq)]
struct Given {
    /// Position among the benchmarks that are run.
    benchmark: usize,
    group: Option<Arc<str>>,
    file: String,
}

impl Given {
    fn of(text: &str, manifests: &[Arc<Manifest>], flag: &str) -> Result<Self> {
        if let Some((place, file)) = text.split_once('=') {
            let (name, group) =
                place.split_once('/').map_or((place, None), |(name, group)| (name, Some(group)));
            if let Some(benchmark) = manifests.iter().position(|manifest| manifest.name == name) {
                let manifest = &manifests[benchmark];
                if let Some(group) = group.filter(|group| group.is_empty() || !manifest.has_group(group)) {
                    let groups: Vec<&str> = manifest.groups.iter().map(|group| group.name.as_str()).collect();
                    let reason = format!("found group {group:?}, expected one of {}", groups.join(", "));
                    return Err(Error::Usage(format!("{flag} {text}: {reason}")));
                }
                return Ok(Self { benchmark, group: group.map(Arc::from), file: file.to_owned() });
            }
        }
        if manifests.len() == 1 {
            return Ok(Self { benchmark: 0, group: None, file: text.to_owned() });
        }
        let names: Vec<&str> = manifests.iter().map(|manifest| manifest.name.as_str()).collect();
        Err(Error::Usage(format!("{flag} {text}: expected NAME=FILE, NAME one of {}", names.join(", "))))
    }
}

fn rows_of(sources: Sources) -> impl Iterator<Item = Result<(Option<Arc<str>>, RawRow)>> + Send + 'static {
    sources
        .into_iter()
        .flat_map(|(group, files)| Rows::of_files(files).map(move |row| row.map(|row| (group.clone(), row))))
}

fn score(
    args: &BenchArgs,
    manifest: &Arc<Manifest>,
    sources: Sources,
    model: &LoadedModel,
    files: Option<&OutputFiles>,
) -> Result<Collected> {
    let options = BenchOptions {
        max_length: args.flags.max_length.map_or(model.max_positions, |tokens| tokens as usize),
        overlong: args.overlong,
        on_error: args.on_error,
        batch_tokens: args.flags.batch_tokens(),
        outputs: files.map(|_| manifest.outputs),
    };
    let bar = RowsBar::new(&manifest.name);
    let mut told = Told::default();
    let mut pass = |write: &mut dyn FnMut(ScoredRow<'_>) -> Result<()>| {
        let sink = |row: std::result::Result<ScoredRow<'_>, Error>| match row {
            Ok(row) => write(row),
            Err(error) => {
                told.tell(&error);
                Ok(())
            }
        };
        let encoder = model.tokenizer.clone();
        let rows = rows_of(sources.clone());
        score_benchmark(manifest, rows, encoder, model.scorer.as_ref(), &options, sink, |done| bar.show(done))
    };
    let collected = match files {
        None => pass(&mut |_| Ok(()))?,
        Some(files) => {
            let path = files.rows_path();
            files.write_rows(|writer| pass(&mut |row| writer.write(row, &path)))?
        }
    };
    let (done, elapsed) = (collected.done, bar.finish());
    eprintln!(
        "{}: scored {} rows ({} sequences, {} tokens) in {:.1} s, {}",
        manifest.name,
        done.rows,
        done.sequences,
        done.tokens,
        elapsed.as_secs_f64(),
        speed(done.tokens, elapsed)
    );
    Ok(collected)
}

/// Tells the first few of the rows that are left out.
#[derive(Debug, Default)]
struct Told(u64);

impl Told {
    fn tell(&mut self, error: &Error) {
        self.0 += 1;
        if self.0 <= TOLD_ERRORS {
            eprintln!("left out: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_given_to_a_benchmark_and_a_group() {
        let manifests = manifests(&["rm-bench".into(), "paper".into()], None).unwrap();
        let given = |text: &str| Given::of(text, &manifests, "--data");
        let found = given("paper/in-domain=a=b.jsonl").unwrap();
        assert_eq!(found, Given { benchmark: 1, group: Some("in-domain".into()), file: "a=b.jsonl".into() });
        assert_eq!(given("rm-bench=x.json").unwrap().group, None);
        let says = |text: &str| given(text).unwrap_err().to_string();
        assert!(says("x.json").contains("expected NAME=FILE, NAME one of rm-bench, paper"));
        assert!(says("rm-bench/poetry=x.json").contains("expected one of chat, math, code, safety"));
        let alone = Given::of("hf://datasets/o/n/f@a=b", &manifests[..1], "--data").unwrap();
        assert_eq!((alone.benchmark, alone.file.as_str()), (0, "hf://datasets/o/n/f@a=b"));
    }

    #[test]
    fn a_benchmark_is_not_called_as_the_report_is() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["bench.toml", "Bench.toml"] {
            let path = folder.path().join(name);
            std::fs::write(&path, "rule = \"pairs\"\noutputs = \"rm-bench\"\n").unwrap();
            let names = [path.display().to_string()];
            assert_eq!(manifests(&names, None).unwrap().len(), 1, "nothing is written");
            let said = manifests(&names, Some(Path::new("out"))).unwrap_err().to_string();
            assert!(said.contains("out/bench.json") && said.contains("rename the manifest"), "{said}");
        }
        assert!(manifests(&["rm-bench".into()], Some(Path::new("out"))).is_ok());
    }

    #[test]
    fn a_benchmark_is_run_once_and_needs_rows() {
        let twice = manifests(&["paper".into(), "paper".into()], None).unwrap_err();
        assert!(twice.to_string().contains("already"));
        let manifests = manifests(&["rm-bench".into()], None).unwrap();
        let error = sources(&manifests, &[], true, false).unwrap_err().to_string();
        assert_eq!(error, "rm-bench: no rows, expected --scores rm-bench=FILE");
        let absent = sources(&manifests, &["rm-bench=absent.json".into()], false, false).unwrap_err();
        assert!(absent.to_string().starts_with("absent.json"), "{absent}");
    }
}
