//! From rows with many scored responses to the five sets of the four scenarios, with a manifest.
//!
//! Training prompts and held-out prompts are disjoint, and so are training models and valid models: of the four
//! combinations, training prompts with training models give `train` and `in-domain`, the others the three disjoint
//! sets. `catalog` reads the inputs once and joins their rows, `valid_models`, `plan` and `sides` decide without
//! looking at a text again, `sets` writes, and `leakage` reads the written sets back and looks for what may not be
//! there. What is not here: the schemas that are read (`row`) and how pairs are drawn at training time (`pairing`).
//!
//! # Source
//! "On the Robustness of Reward Models for Language Model Alignment", arXiv 2505.07271, section on the four scenarios.

mod catalog;
mod config;
mod input;
mod leakage;
mod manifest;
mod minhash;
mod plan;
mod preset;
mod sets;
mod sides;
mod text;
mod valid_models;

pub use config::{Heldout, NearDuplicates, SplitConfig};
pub use leakage::{Check, Found, Place, Report, Violation, check};
pub use manifest::{Counts, Dropped, InputFile, Manifest, NearDuplicatesFound, OutputFile};
pub use preset::{Comparison, Preset, Size};

use crate::base::{atomic, interrupt};
use crate::{Error, Result};
use catalog::{Catalog, count};
use serde_json::Value;
use sets::Used;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The manifest's file name.
pub const MANIFEST: &str = "manifest.json";
/// The sets, in the order of the manifest.
pub const SETS: [&str; 5] = ["train", "in-domain", "prompt-disjoint", "response-disjoint", "mutual-disjoint"];
const FORMAT: &str = "rmtrain-split";
const VERSION: u32 = 1;

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Reading,
    Writing,
    Checking,
}

/// How far a stage is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    pub stage: Stage,
    pub rows: u64,
}

/// Writes the five sets and the manifest into the folder `out`, whole or not at all.
///
/// The result is a function of the rows and the configuration. Which side a prompt is on depends on its words (letters
/// and digits, in lower case), those of its near-duplicates and the seed.
///
/// # Errors
/// [`Error::Usage`] for a configuration that the data cannot meet; [`Error::Row`] at the first bad row;
/// [`Error::Data`] where `out` holds something else than an earlier split, an input is a pipe, or one changes while it is
/// read; [`Error::Check`] where a leak is found; [`Error::Io`]; [`Error::Interrupted`].
pub fn write(out: &Path, config: &SplitConfig) -> Result<Manifest> {
    write_watched(out, config, &mut |_| {})
}

/// [`write`] that tells how far it is.
///
/// # Errors
/// Those of [`write`].
pub fn write_watched(
    out: &Path,
    config: &SplitConfig,
    progress: &mut dyn FnMut(Progress),
) -> Result<Manifest> {
    config.validate()?;
    refuse_foreign(out)?;
    let mut inputs = Vec::new();
    for source in &config.inputs {
        let bytes = fs::metadata(&source.path).map_err(Error::io(&source.name))?.len();
        let file =
            source.name.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        inputs.push(InputFile { file, rows: 0, joined: 0, bytes, sha256: source.sha256()? });
    }
    let mut catalog = Catalog::read(config, &existing_parent(out), progress)?;
    for (input, counts) in inputs.iter_mut().zip(&catalog.files) {
        (input.rows, input.joined) = (counts.rows, counts.joined);
    }
    let (valid, chosen) = valid_models::choose(config, &catalog)?;
    let mut dropped = catalog.dropped.clone();
    let used = plan_rows(config, &catalog, &valid, &mut dropped)?;
    let rows: Vec<usize> = used.iter().map(|used| used.row).collect();
    let sides = sides::choose(config, &catalog, &rows)?;
    let mut counts = Counts {
        rows_read: inputs.iter().map(|input| input.rows).sum(),
        rows_joined: inputs.iter().map(|input| input.joined).sum(),
        rows_usable: used.len() as u64,
        ..Counts::default()
    };
    let training_models: BTreeSet<String> =
        catalog.models.iter().filter(|model| !valid.contains(*model)).cloned().collect();
    atomic::write_folder(out, |folder| {
        let missing = &mut dropped.from_sets;
        let rows = sets::write(folder, &mut catalog, &used, &sides.heldout, &mut counts, missing, progress)?;
        for (source, input) in config.inputs.iter().zip(&inputs) {
            if source.sha256()? != input.sha256 {
                let reason = "the file changed while it was read".into();
                return Err(Error::Data { path: source.name.to_path_buf(), reason });
            }
        }
        let promise = leakage::Promise {
            valid_models: Some(valid.clone()),
            threshold: config.near_duplicates.threshold(),
            outputs: Vec::new(),
        };
        let report = leakage::check_against(folder, promise, progress)?;
        report.refuse(&format!("nothing was written\n{report}"))?;
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
        let rows_of_files: Vec<u64> = inputs.iter().map(|input| input.rows).collect();
        let manifest = Manifest {
            format: FORMAT.into(),
            version: VERSION,
            seed: config.seed,
            score_field: config.score_field.clone(),
            responses_per_prompt: config.responses_per_prompt,
            heldout_prompts: config.heldout_prompts.to_string(),
            training_models: training_models.into_iter().collect(),
            valid_models: valid.into_iter().collect(),
            valid_models_chosen: chosen,
            preset: config.preset.map(|preset| preset.compare(config, &rows_of_files, &counts, &outputs)),
            counts,
            dropped,
            near_duplicates: Some(sides.near_duplicates),
            leakage: report.counts(),
            inputs,
            outputs,
        };
        let text = serde_json::to_string_pretty(&manifest).map_err(|e| Error::io(folder)(e.into()))?;
        atomic::write_bytes(&folder.join(MANIFEST), format!("{text}\n").as_bytes())?;
        Ok(manifest)
    })
}

/// The usable rows, in their order; counts the others.
fn plan_rows(
    config: &SplitConfig,
    catalog: &Catalog,
    valid: &BTreeSet<String>,
    dropped: &mut Dropped,
) -> Result<Vec<Used>> {
    let is_valid: Vec<bool> = catalog.models.iter().map(|model| valid.contains(model)).collect();
    let mut used = Vec::new();
    for (row, known) in catalog.rows.iter().enumerate() {
        match plan::plan(config, &is_valid, known) {
            Ok(plan) => used.push(Used { row, plan }),
            Err(reason) => count(&mut dropped.rows, reason),
        }
    }
    if used.is_empty() {
        return Err(Error::Data {
            path: config.inputs[0].name.to_path_buf(),
            reason: format!(
                "no usable row among {} (dropped: {:?}; responses: {:?}): expected rows with at least two scored responses by different \
                 training models",
                catalog.files.iter().map(|file| file.rows).sum::<u64>(),
                dropped.rows,
                dropped.responses
            ),
        });
    }
    Ok(used)
}

/// The nearest folder above `out` that is there: on the same disk, most likely, and nothing is created.
fn existing_parent(out: &Path) -> PathBuf {
    let mut above = out.ancestors().skip(1).filter(|folder| folder.is_dir());
    above.next().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
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

/// Stops between rows once the user has asked for it.
fn stop_if_interrupted() -> Result<()> {
    if interrupt::requested() { Err(Error::Interrupted) } else { Ok(()) }
}
