//! A run's folder as it was found.

use super::configuration::Configuration;
use super::sets::{EvalReport, SetFigures};
use super::steps::Steps;
use crate::{Error, Result};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind};
use std::path::{Path, PathBuf};

/// What `rmtrain eval` measured beyond the evaluations in training, where somebody had it written.
const EVAL_REPORT: &str = "eval.json";

/// One run.
#[derive(Debug)]
pub struct Run {
    /// What it is called in the report.
    pub name: String,
    /// `config.toml`; `None` where there is none.
    pub(super) configuration: Option<Configuration>,
    pub(super) steps: Steps,
    pub(super) evals: Vec<EvalLine>,
    pub(super) alarms: Vec<Alarm>,
    /// `eval.json`, should there be one.
    pub(super) report: Option<EvalReport>,
    /// What it says is of what training evaluates, a model of this run by the mean of its heads.
    pub(super) report_is_alike: bool,
    /// `final/` is there.
    pub(super) finished: bool,
}

/// An evaluation in the course of training.
#[derive(Debug)]
pub(super) struct EvalLine {
    pub step: u64,
    pub split: String,
    pub figures: SetFigures,
    /// The line as it was written.
    pub fields: Map<String, Value>,
}

/// An alarm of `[guard]`.
#[derive(Debug, Deserialize)]
pub(super) struct Alarm {
    pub step: u64,
    pub rule: String,
    #[serde(default)]
    pub split: Option<String>,
    #[serde(default)]
    pub message: String,
}

#[derive(Deserialize)]
struct EvalKey {
    step: u64,
    split: String,
}

/// Reads runs and gives them names that differ: the folders' own, or their paths where two folders share one.
///
/// What is odd but no obstacle goes to `hint`.
///
/// # Errors
/// Those of the first run that cannot be read.
pub fn read_all(folders: &[PathBuf], hint: &mut dyn FnMut(String)) -> Result<Vec<Run>> {
    let mut runs = folders.iter().map(|folder| Run::read(folder, hint)).collect::<Result<Vec<_>>>()?;
    let base = |folder: &PathBuf| {
        let absolute = fs::canonicalize(folder).unwrap_or_else(|_| folder.clone());
        absolute
            .file_name()
            .map_or_else(|| folder.display().to_string(), |n| n.to_string_lossy().into_owned())
    };
    let names: Vec<String> = folders.iter().map(base).collect();
    for (i, (run, folder)) in runs.iter_mut().zip(folders).enumerate() {
        let unique = names.iter().filter(|name| **name == names[i]).count() == 1;
        run.name = if unique { names[i].clone() } else { folder.display().to_string() };
        if let same @ 1.. = folders[..i].iter().filter(|other| *other == folder).count() {
            run.name += &format!(" ({})", same + 1);
        }
    }
    Ok(runs)
}

impl Run {
    /// One without anything.
    pub(super) fn named(name: &str) -> Self {
        Self {
            name: name.into(),
            configuration: None,
            steps: Steps::default(),
            evals: Vec::new(),
            alarms: Vec::new(),
            report: None,
            report_is_alike: true,
            finished: false,
        }
    }

    fn read(folder: &Path, hint: &mut dyn FnMut(String)) -> Result<Self> {
        let metrics = folder.join("metrics.jsonl");
        if folder.is_dir() && !metrics.is_file() {
            let reason = "holds no metrics.jsonl, expected the folder of a run (fit --out DIR)";
            return Err(Error::Data { path: folder.into(), reason: reason.into() });
        }
        let configuration = Configuration::read(&folder.join("config.toml"))?;
        if configuration.is_none() {
            hint(format!("{}: no config.toml, so configurations are not compared", folder.display()));
        }
        let report = EvalReport::read(&folder.join(EVAL_REPORT))?;
        let foreign = report
            .as_ref()
            .and_then(|report| report.model.as_deref())
            .filter(|model| !lies_in(Path::new(model), folder));
        if let Some(model) = foreign {
            hint(format!(
                "{}: found figures of {model}, expected a model of this run; if they are not its own, write them anew: \
                 rmtrain eval --model {} --out {}",
                folder.join(EVAL_REPORT).display(),
                folder.display(),
                folder.join(EVAL_REPORT).display()
            ));
        }
        let mut run = Self {
            configuration,
            report_is_alike: foreign.is_none() && report.as_ref().is_none_or(EvalReport::is_by_mean),
            report,
            finished: folder.join("final").is_dir(),
            ..Self::named("")
        };
        run.read_metrics(&metrics, hint)?;
        if run.steps.numbers().is_empty() {
            let reason =
                "found no line of kind \"step\", expected at least one: has the run made a step yet?";
            return Err(Error::Data { path: metrics, reason: reason.into() });
        }
        run.steps.sort();
        Ok(run)
    }

    fn read_metrics(&mut self, path: &Path, hint: &mut dyn FnMut(String)) -> Result<()> {
        let mut file = BufReader::new(File::open(path).map_err(Error::io(path))?);
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            file.read_until(b'\n', &mut line).map_err(Error::io(path))?;
            if line.is_empty() {
                break;
            }
            match self.read_line(line.trim_ascii()) {
                Ok(()) => {}
                Err(_) if line.last() != Some(&b'\n') => {
                    hint(format!(
                        "{}:{number}: the last line is not whole yet and was left out; a run that goes on writes it",
                        path.display()
                    ));
                }
                Err(reason) => {
                    let reason =
                        format!("found {reason}, expected a JSON object with a kind, as fit writes them");
                    return Err(Error::Row { path: path.into(), line: number, reason });
                }
            }
        }
        Ok(())
    }

    fn read_line(&mut self, line: &[u8]) -> serde_json::Result<()> {
        if line.is_empty() {
            return Ok(());
        }
        let fields: Map<String, Value> = serde_json::from_slice(line)?;
        match fields.get("kind").and_then(Value::as_str) {
            Some("step") => self.steps.push(&fields)?,
            Some("eval") => {
                let EvalKey { step, split } = serde_json::from_value(Value::Object(fields.clone()))?;
                let figures = serde_json::from_value(Value::Object(fields.clone()))?;
                self.evals.push(EvalLine { step, split, figures, fields });
            }
            Some("alarm") => self.alarms.push(serde_json::from_value(Value::Object(fields))?),
            // Lines of kinds to come.
            _ => {}
        }
        Ok(())
    }

    /// The figures of each set: those of `eval.json` where it has the set, else those of the last evaluation in training.
    ///
    /// An eval report may be of some sets only, and does not hide the others.
    pub(super) fn sets(&self) -> Vec<(&str, &SetFigures)> {
        let stated = self.stated_sets();
        let of_last = self.last_evaluation().map(|line| {
            let name = line.split.as_str();
            let own = stated.iter().find(|(stated, _)| stated == name);
            (name, own.map_or(&line.figures, |(_, figures)| figures))
        });
        let mut sets: Vec<(&str, &SetFigures)> = of_last.collect();
        for (name, figures) in stated {
            if !sets.iter().any(|(known, _)| known == name) {
                sets.push((name.as_str(), figures));
            }
        }
        sets
    }

    /// Where the figures of [`Run::sets`] are from.
    pub(super) fn source(&self) -> String {
        let stated = self.stated_sets();
        let others = self.last_evaluation().find(|line| !stated.iter().any(|(name, _)| *name == line.split));
        let training = others.map(|line| format!("the evaluation after step {}", line.step));
        let Some(report) = self.report.as_ref().filter(|_| !stated.is_empty()) else {
            return training.unwrap_or_else(|| "no evaluation".into());
        };
        let file = match report.reduce.as_deref() {
            Some("min") => format!("{EVAL_REPORT} by the lowest head"),
            Some(other) if !report.is_by_mean() => format!("{EVAL_REPORT} by {other:?} of the heads"),
            _ => EVAL_REPORT.to_owned(),
        };
        match training {
            None => file,
            Some(training) => {
                let names: Vec<&str> = stated.iter().map(|(name, _)| name.as_str()).collect();
                format!("{file} for {} and {training} for the other sets", names.join(", "))
            }
        }
    }

    /// Whether the figures of two sets are of one model, so that a difference of them says something. Where `eval.json`
    /// is of another model, or by another head, its sets compare with each other only.
    pub(super) fn are_of_one_model(&self, one: &str, other: &str) -> bool {
        let is_stated = |set: &str| self.stated_sets().iter().any(|(name, _)| name == set);
        self.report_is_alike || is_stated(one) == is_stated(other)
    }

    fn stated_sets(&self) -> &[(String, SetFigures)] {
        self.report.as_ref().map_or(&[], |report| &report.splits)
    }

    fn last_evaluation(&self) -> impl Iterator<Item = &EvalLine> {
        let last = self.evals.iter().map(|line| line.step).max();
        self.evals.iter().filter(move |line| Some(line.step) == last)
    }
}

/// Whether a model is one of a run. Of a path that is not there, as after a copy from another machine or in another
/// working directory, the run's name among its parts decides.
fn lies_in(model: &Path, run: &Path) -> bool {
    let run = fs::canonicalize(run).unwrap_or_else(|_| run.into());
    match fs::canonicalize(model) {
        Ok(model) => model.starts_with(&run),
        Err(_) => run.file_name().is_some_and(|name| model.iter().any(|part| part == name)),
    }
}

/// A file's text; `None` where there is no such file.
pub(super) fn read_if_there(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(path)(e)),
    }
}
