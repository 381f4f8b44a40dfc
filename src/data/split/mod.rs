//! From rows with many scored responses to the five sets of the four scenarios, with a manifest.
//!
//! Training prompts and held-out prompts are disjoint, and so are training models and valid models: of the four
//! combinations, training prompts with training models give `train` and `in-domain`, the others the three disjoint
//! sets. `plan` decides what becomes of one row, `leakage` reads the written sets back and looks for what may not be
//! there. Input is read two or three times; what is kept between the readings is hashes, never text. What is not here:
//! the schemas that are read (`row`) and how pairs are drawn at training time (`pairing`).
//!
//! # Source
//! "On the Robustness of Reward Models for Language Model Alignment", arXiv 2505.07271, section on the four scenarios.

mod input;
mod leakage;
mod plan;

use super::source::SourceFile;
use crate::base::{atomic, interrupt, rng};
use crate::{Error, Result};
use plan::{Plan, Planner, Row};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// The manifest's file name.
pub const MANIFEST: &str = "manifest.json";
/// The sets, in the order of the manifest.
pub const SETS: [&str; 5] = ["train", "in-domain", "prompt-disjoint", "response-disjoint", "mutual-disjoint"];
const FORMAT: &str = "rmtrain-split";
const VERSION: u32 = 1;
/// Models held out where the user names none.
const VALID_MODELS: usize = 4;

/// How many prompts are held out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Heldout {
    /// A share of the usable rows, strictly between 0 and 1.
    Fraction(f64),
    /// That many rows.
    Count(u64),
}

impl std::str::FromStr for Heldout {
    type Err = String;

    /// "0.2" is a share, "11082" a count.
    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(count) = text.parse::<u64>() {
            return if count > 0 {
                Ok(Heldout::Count(count))
            } else {
                Err("found 0, expected at least 1 prompt".into())
            };
        }
        match text.parse::<f64>() {
            Ok(fraction) if fraction > 0.0 && fraction < 1.0 => Ok(Heldout::Fraction(fraction)),
            _ => Err(format!(
                "found `{text}`, expected a share between 0 and 1 (0.2) or a number of prompts (500)"
            )),
        }
    }
}

impl std::fmt::Display for Heldout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Heldout::Fraction(fraction) => write!(f, "{fraction}"),
            Heldout::Count(count) => write!(f, "{count}"),
        }
    }
}

/// What to split, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct SplitConfig {
    pub inputs: Vec<SourceFile>,
    /// Models whose responses are never trained on; `None` draws four from the data.
    pub valid_models: Option<Vec<String>>,
    /// The field of a completion that holds its gold score.
    pub score_field: String,
    pub heldout_prompts: Heldout,
    pub seed: u64,
    /// Training-model responses drawn for each prompt.
    pub responses_per_prompt: usize,
}

impl SplitConfig {
    /// The defaults for these files: a fifth of the prompts, four responses a prompt, seed 0.
    pub fn new(inputs: Vec<SourceFile>) -> Self {
        Self {
            inputs,
            valid_models: None,
            score_field: "overall_score".into(),
            heldout_prompts: Heldout::Fraction(0.2),
            seed: 0,
            responses_per_prompt: 4,
        }
    }

    fn validate(&self) -> Result<()> {
        let usage = |reason: String| Err(Error::Usage(format!("split: {reason}")));
        if self.inputs.is_empty() {
            return usage("found no input file, expected at least one".into());
        }
        if !(2..=64).contains(&self.responses_per_prompt) {
            return usage(format!(
                "found {} responses per prompt, expected 2 to 64",
                self.responses_per_prompt
            ));
        }
        if let Heldout::Fraction(f) = self.heldout_prompts
            && !(f > 0.0 && f < 1.0)
        {
            return usage(format!("found {f} as the share of held-out prompts, expected between 0 and 1"));
        }
        if let Some(models) = &self.valid_models {
            let distinct: BTreeSet<&String> = models.iter().collect();
            if models.is_empty() || distinct.len() != models.len() || models.iter().any(String::is_empty) {
                return usage(format!("found valid models `{}`, expected distinct names", models.join(",")));
            }
        }
        Ok(())
    }
}

/// `manifest.json`: what was split, into what, and what was left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub format: String,
    pub version: u32,
    pub seed: u64,
    pub score_field: String,
    pub responses_per_prompt: usize,
    /// As asked: a share or a count.
    pub heldout_prompts: String,
    pub valid_models: Vec<String>,
    /// "given", or how the four were chosen.
    pub valid_models_chosen: String,
    pub training_models: Vec<String>,
    pub counts: Counts,
    pub dropped: Dropped,
    /// Violations found in the written sets, by check. All are 0 in a published split.
    pub leakage: BTreeMap<String, u64>,
    pub inputs: Vec<InputFile>,
    pub outputs: Vec<OutputFile>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    pub rows_read: u64,
    pub rows_usable: u64,
    pub training_prompts: u64,
    pub heldout_prompts: u64,
}

/// What was left out, by reason.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Dropped {
    /// Whole rows.
    pub rows: BTreeMap<String, u64>,
    /// Single responses of rows that may otherwise be in use.
    pub responses: BTreeMap<String, u64>,
    /// Rows that one set does without, as `SET: reason`.
    pub from_sets: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InputFile {
    /// The name without its folder, so that the manifest does not depend on where the data lies.
    pub file: String,
    pub rows: u64,
    pub bytes: u64,
    pub sha256: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OutputFile {
    pub set: String,
    pub file: String,
    /// "pairs" or "responses".
    pub kind: String,
    pub rows: u64,
    pub bytes: u64,
    pub sha256: String,
}

/// Writes the five sets and the manifest into the folder `out`, whole or not at all.
///
/// The result is a function of the rows and the configuration. Which side a prompt is on depends on its words alone
/// (letters and digits, in lower case) and the seed, so prompts that differ in case, spacing or punctuation are never
/// on both sides.
///
/// # Errors
/// [`Error::Usage`] for a configuration that the data cannot meet; [`Error::Row`] at the first bad row;
/// [`Error::Data`] where `out` holds something else than an earlier split, or a file changes while it is read;
/// [`Error::Check`] where a leak is found; [`Error::Io`]; [`Error::Interrupted`].
pub fn write(out: &Path, config: &SplitConfig) -> Result<Manifest> {
    config.validate()?;
    refuse_foreign(out)?;
    let mut inputs = Vec::new();
    for source in &config.inputs {
        let bytes = fs::metadata(&source.path).map_err(Error::io(&source.name))?.len();
        let file =
            source.name.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        inputs.push(InputFile { file, rows: 0, bytes, sha256: atomic::sha256(&source.path)? });
    }
    let (valid, chosen) = match &config.valid_models {
        Some(models) => (models.clone(), "given".to_owned()),
        None => choose_valid_models(config)?,
    };
    let valid: BTreeSet<String> = valid.into_iter().collect();
    let survey = survey(config, &valid)?;
    for (input, rows) in inputs.iter_mut().zip(&survey.rows_of_files) {
        input.rows = *rows;
    }
    let heldout = choose_heldout(config, &survey)?;
    atomic::write_folder(out, |folder| {
        let mut dropped = survey.dropped.clone();
        let (rows, counts) = write_sets(folder, config, &valid, &survey, &heldout, &mut dropped)?;
        for (source, input) in config.inputs.iter().zip(&inputs) {
            if atomic::sha256(&source.path)? != input.sha256 {
                let reason = "the file changed while it was read".into();
                return Err(Error::Data { path: source.name.to_path_buf(), reason });
            }
        }
        let leakage = leakage::check(folder, &valid)?;
        leakage::refuse(&leakage)?;
        let mut outputs = Vec::new();
        for (set, rows) in SETS.into_iter().zip(rows) {
            let path = folder.join(file_name(set));
            outputs.push(OutputFile {
                set: set.into(),
                file: file_name(set),
                kind: if set == "train" || set == "in-domain" { "pairs" } else { "responses" }.into(),
                rows,
                bytes: fs::metadata(&path).map_err(Error::io(&path))?.len(),
                sha256: atomic::sha256(&path)?,
            });
        }
        let manifest = Manifest {
            format: FORMAT.into(),
            version: VERSION,
            seed: config.seed,
            score_field: config.score_field.clone(),
            responses_per_prompt: config.responses_per_prompt,
            heldout_prompts: config.heldout_prompts.to_string(),
            training_models: survey.models.difference(&valid).cloned().collect(),
            valid_models: valid.iter().cloned().collect(),
            valid_models_chosen: chosen,
            counts,
            dropped,
            leakage,
            inputs,
            outputs,
        };
        let text = serde_json::to_string_pretty(&manifest).map_err(|e| Error::io(folder)(e.into()))?;
        atomic::write_bytes(&folder.join(MANIFEST), format!("{text}\n").as_bytes())?;
        Ok(manifest)
    })
}

fn file_name(set: &str) -> String {
    format!("{set}.jsonl")
}

/// Only an empty folder or an earlier split, with nothing added, may be replaced.
fn refuse_foreign(out: &Path) -> Result<()> {
    if !atomic::is_occupied(out)? {
        return Ok(());
    }
    let refuse = |reason: String| Error::Data { path: out.to_path_buf(), reason };
    let earlier = fs::read(out.join(MANIFEST))
        .ok()
        .and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok())
        .is_some_and(|manifest| manifest["format"] == FORMAT);
    if !earlier {
        return Err(refuse(
            "the folder is not empty and holds no earlier split: expected a new or empty folder".into(),
        ));
    }
    for entry in fs::read_dir(out).map_err(Error::io(out))? {
        let name = entry.map_err(Error::io(out))?.file_name();
        if name != MANIFEST && !SETS.iter().any(|set| name == file_name(set).as_str()) {
            return Err(refuse(format!(
                "the folder holds an earlier split and also {}: expected nothing else, since the folder is replaced",
                name.display()
            )));
        }
    }
    Ok(())
}

/// Draws the models to hold out: among those that answer nine prompts in ten where there are enough of them (so that
/// a held-out row has all four), else among all.
fn choose_valid_models(config: &SplitConfig) -> Result<(Vec<String>, String)> {
    let (mut rows, mut answers) = (0u64, BTreeMap::<String, u64>::new());
    input::for_each(&config.inputs, &config.score_field, |_, example| {
        rows += 1;
        let models: BTreeSet<&String> = example.responses.iter().filter_map(|r| r.model.as_ref()).collect();
        for model in models {
            *answers.entry(model.clone()).or_default() += 1;
        }
        Ok(())
    })?;
    if answers.len() < VALID_MODELS + 2 {
        return Err(Error::Usage(format!(
            "split: found {} named models{}, expected at least {} to hold out {VALID_MODELS} of them: name fewer with \
             --valid-models",
            answers.len(),
            listed(answers.keys()),
            VALID_MODELS + 2
        )));
    }
    let frequent: Vec<&String> =
        answers.iter().filter(|&(_, n)| n * 10 >= rows * 9).map(|(m, _)| m).collect();
    let (mut candidates, whence) = if frequent.len() >= VALID_MODELS {
        (frequent, "among the models that answer at least 90% of the rows")
    } else {
        (
            answers.keys().collect(),
            "among all models; none answers most rows, so held-out rows have fewer responses",
        )
    };
    rng::shuffle(&mut rng::stream(config.seed, "split:valid-models", 0), &mut candidates);
    candidates.truncate(VALID_MODELS);
    Ok((candidates.into_iter().cloned().collect(), format!("drawn by seed {} {whence}", config.seed)))
}

fn listed<'a>(models: impl Iterator<Item = &'a String>) -> String {
    let names: Vec<&str> = models.map(String::as_str).collect();
    if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) }
}

/// What one reading of the input finds out.
struct Survey {
    rows_of_files: Vec<u64>,
    models: BTreeSet<String>,
    /// One entry a usable row: its side's hash, and the hashes of its training pair's responses.
    usable: Vec<(u128, [u128; 2])>,
    dropped: Dropped,
}

fn survey(config: &SplitConfig, valid: &BTreeSet<String>) -> Result<Survey> {
    let mut found = Survey {
        rows_of_files: vec![0; config.inputs.len()],
        models: BTreeSet::new(),
        usable: Vec::new(),
        dropped: Dropped::default(),
    };
    let mut planner = Planner::new(config, valid);
    input::for_each(&config.inputs, &config.score_field, |file, example| {
        found.rows_of_files[file] += 1;
        for model in example.responses.iter().filter_map(|r| r.model.as_ref()) {
            if !found.models.contains(model) {
                found.models.insert(model.clone());
            }
        }
        match planner.plan(&example, &mut found.dropped.responses) {
            Plan::Use(row) => found.usable.push((row.group, row.train.map(|i| row.drawn[i].text))),
            Plan::Drop(reason) => *found.dropped.rows.entry(reason.into()).or_default() += 1,
        }
        Ok(())
    })?;
    let unknown: Vec<String> = valid.difference(&found.models).cloned().collect();
    if !unknown.is_empty() {
        return Err(Error::Usage(format!(
            "split: --valid-models names `{}`, expected models of the data{}",
            unknown.join(","),
            listed(found.models.iter())
        )));
    }
    if found.usable.is_empty() {
        return Err(Error::Data {
            path: config.inputs[0].name.to_path_buf(),
            reason: format!(
                "no usable row among {} (dropped: {:?}): expected rows with at least two scored responses by different \
                 training models",
                found.rows_of_files.iter().sum::<u64>(),
                found.dropped.rows
            ),
        });
    }
    Ok(found)
}

/// The hashes of the held-out prompts: the smallest ones, until there are enough rows.
fn choose_heldout(config: &SplitConfig, survey: &Survey) -> Result<HashSet<u128>> {
    let usable = survey.usable.len() as u64;
    let wanted = match config.heldout_prompts {
        Heldout::Count(count) => count,
        // At least one, and never all: both sides must have rows.
        Heldout::Fraction(fraction) => ((usable as f64 * fraction).round() as u64).max(1),
    };
    if wanted >= usable {
        return Err(Error::Usage(format!(
            "split: found {wanted} prompts to hold out, expected fewer than the {usable} usable rows"
        )));
    }
    let mut groups: Vec<u128> = survey.usable.iter().map(|(group, _)| *group).collect();
    groups.sort_unstable();
    // Prompts that differ in case or punctuation only share a hash and go together, so a few more may be held out.
    let last = groups[wanted as usize - 1];
    if groups[groups.len() - 1] == last {
        return Err(Error::Usage(format!(
            "split: the prompts are too much alike to hold out {wanted} of {usable}: expected prompts that differ in \
             more than case and punctuation"
        )));
    }
    Ok(groups.into_iter().take_while(|group| *group <= last).collect())
}

/// Writes the sets; returns their row counts and the totals.
fn write_sets(
    folder: &Path,
    config: &SplitConfig,
    valid: &BTreeSet<String>,
    survey: &Survey,
    heldout: &HashSet<u128>,
    dropped: &mut Dropped,
) -> Result<([u64; 5], Counts)> {
    let trained: HashSet<u128> = survey
        .usable
        .iter()
        .filter(|(group, _)| !heldout.contains(group))
        .flat_map(|(_, texts)| *texts)
        .collect();
    let mut sets = Vec::new();
    for set in SETS {
        let path = folder.join(file_name(set));
        sets.push(Set {
            out: BufWriter::with_capacity(1 << 18, File::create(&path).map_err(Error::io(&path))?),
            path,
            rows: 0,
        });
    }
    let mut counts = Counts {
        rows_read: survey.rows_of_files.iter().sum(),
        rows_usable: survey.usable.len() as u64,
        ..Counts::default()
    };
    let mut without = |set: &str, reason: &str| {
        *dropped.from_sets.entry(format!("{set}: {reason}")).or_default() += 1;
    };
    let mut planner = Planner::new(config, valid);
    input::for_each(&config.inputs, &config.score_field, |_, example| {
        let Plan::Use(mut row) = planner.plan(&example, &mut BTreeMap::new()) else { return Ok(()) };
        let before = row.valid.len();
        row.valid.retain(|answer| !trained.contains(&answer.text));
        let seen = before - row.valid.len();
        let answered = if heldout.contains(&row.group) {
            counts.heldout_prompts += 1;
            sets[2].push(&ranked(&row, &row.drawn))?;
            4
        } else {
            counts.training_prompts += 1;
            sets[0].push(&pair(&row, row.train))?;
            match row.in_domain {
                Ok(chosen) => sets[1].push(&pair(&row, chosen))?,
                Err(reason) => without(SETS[1], reason),
            }
            3
        };
        match (row.valid.len(), seen) {
            (2.., _) => sets[answered].push(&ranked(&row, &row.valid))?,
            (_, 0) => without(SETS[answered], "too-few-responses"),
            _ => without(SETS[answered], "responses-seen-in-training"),
        }
        Ok(())
    })?;
    let mut rows = [0; 5];
    for (set, rows) in sets.into_iter().zip(&mut rows) {
        *rows = set.finish()?;
    }
    Ok((rows, counts))
}

/// A set being written.
struct Set {
    out: BufWriter<File>,
    path: PathBuf,
    rows: u64,
}

impl Set {
    fn push(&mut self, row: &Value) -> Result<()> {
        self.rows += 1;
        writeln!(self.out, "{row}").map_err(Error::io(&self.path))
    }

    fn finish(mut self) -> Result<u64> {
        self.out.flush().and_then(|()| self.out.get_ref().sync_all()).map_err(Error::io(&self.path))?;
        Ok(self.rows)
    }
}

/// A pair row; `[better, worse]` index the drawn responses.
fn pair(row: &Row, [better, worse]: [usize; 2]) -> Value {
    let (chosen, rejected) = (&row.drawn[better], &row.drawn[worse]);
    json!({
        "id": row.id,
        "source": row.source,
        "prompt": row.prompt,
        "chosen": chosen.response,
        "rejected": rejected.response,
        "chosen-model": chosen.model,
        "rejected-model": rejected.model,
        "chosen-rating": chosen.score,
        "rejected-rating": rejected.score,
    })
}

/// A row of k responses with gold scores.
fn ranked(row: &Row, answers: &[plan::Answer]) -> Value {
    json!({
        "id": row.id,
        "source": row.source,
        "prompt": row.prompt,
        "responses": answers.iter().map(|a| &a.response).collect::<Vec<_>>(),
        "scores": answers.iter().map(|a| a.score).collect::<Vec<_>>(),
        "models": answers.iter().map(|a| &a.model).collect::<Vec<_>>(),
    })
}

/// Stops between rows once the user has asked for it.
fn stop_if_interrupted() -> Result<()> {
    if interrupt::requested() { Err(Error::Interrupted) } else { Ok(()) }
}
