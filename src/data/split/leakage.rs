//! Reads the sets of a folder and counts what may not be in them.
//!
//! It trusts nothing that the splitting decided, only the files: rows are read by the schemas that any data is read
//! by, so that published sets and edited ones can be checked too. Of the manifest, where there is one, it takes which
//! models are held out, how much alike prompts may be, and the files' hashes.

mod report;

pub use report::{Check, Found, Place, Report, Violation};

use super::minhash::{Index, Signature, signature};
use super::text::{group_hash, normalised, prompt_hash, response_hash, text_of};
use super::{FORMAT, MANIFEST, NearDuplicates, Progress, SETS, Stage, file_name, input};
use crate::base::atomic;
use crate::data::source::{RawRow, SourceFile};
use crate::{Error, Result};
use rayon::prelude::*;
use report::beginning;
use rustc_hash::FxHashMap;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What a split says of itself.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Promise {
    /// `None`: those that answer in `response-disjoint` and `mutual-disjoint`.
    pub valid_models: Option<BTreeSet<String>>,
    /// Least similarity of near-duplicate prompts; `None`: they may be on both sides.
    pub threshold: Option<f64>,
    /// Files and their SHA-256.
    pub outputs: Vec<(String, String)>,
}

/// Checks a folder that [`super::write`] wrote, edited since or not, or sets of other make under the same names
/// (`.jsonl`, also `.gz` and `.zst`, `.json` or `.parquet`). Sets but `train` may be absent.
///
/// `near_duplicates` stands in for what the manifest says; without either, the default counts.
///
/// # Errors
/// [`Error::Data`] where there is no training set beside another, or the manifest cannot be read; [`Error::Row`] for a
/// row that cannot be read; [`Error::Io`]; [`Error::Interrupted`]. What is found is no error here.
pub fn check(
    folder: &Path,
    near_duplicates: Option<NearDuplicates>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Report> {
    if !folder.is_dir() {
        let reason = "found no folder, expected one that holds the sets of a split".into();
        return Err(Error::Data { path: folder.to_path_buf(), reason });
    }
    let mut promise = promise(folder)?;
    if let Some(near_duplicates) = near_duplicates {
        promise.threshold = near_duplicates.threshold();
    }
    check_against(folder, promise, progress)
}

/// What the folder's manifest says, where there is one.
fn promise(folder: &Path) -> Result<Promise> {
    let path = folder.join(MANIFEST);
    let default = NearDuplicates::default().threshold();
    if !path.exists() {
        return Ok(Promise { threshold: default, ..Promise::default() });
    }
    let damaged = |reason: String| Error::Data { path: path.clone(), reason };
    let bytes = fs::read(&path).map_err(Error::io(&path))?;
    let manifest: Value =
        serde_json::from_slice(&bytes).map_err(|error| damaged(format!("not JSON: {error}")))?;
    if manifest["format"] != FORMAT {
        return Err(damaged(format!("found no manifest of a split, expected \"format\": \"{FORMAT}\"")));
    }
    let strings = |list: &Value| -> Option<BTreeSet<String>> {
        list.as_array()?.iter().map(|name| Some(name.as_str()?.to_owned())).collect()
    };
    let valid_models = strings(&manifest["valid_models"])
        .ok_or_else(|| damaged("valid_models: expected a list of names".into()))?;
    let threshold = match &manifest["near_duplicates"] {
        Value::Null => default,
        found => found["threshold"].as_f64(),
    };
    let outputs = manifest["outputs"].as_array().map(Vec::as_slice).unwrap_or_default().iter();
    let outputs = outputs
        .map(|output| Some((output["file"].as_str()?.to_owned(), output["sha256"].as_str()?.to_owned())))
        .collect::<Option<Vec<_>>>()
        .filter(|outputs| outputs.iter().all(|(file, _)| SETS.iter().any(|set| file_name(set) == *file)))
        .ok_or_else(|| damaged("outputs: expected the files of the sets, each with its sha256".into()))?;
    Ok(Promise { valid_models: Some(valid_models), threshold, outputs })
}

/// Checks the sets of `folder` against what is promised of them.
///
/// # Errors
/// Those of [`check`].
pub fn check_against(folder: &Path, promise: Promise, progress: &mut dyn FnMut(Progress)) -> Result<Report> {
    let paths = SETS.map(|set| path_of(folder, set));
    if paths[0].is_none() || paths[1..].iter().all(Option::is_none) {
        let found: Vec<&str> =
            SETS.iter().zip(&paths).filter(|(_, path)| path.is_some()).map(|(set, _)| *set).collect();
        let found = if found.is_empty() { "no set".into() } else { found.join(", ") };
        let reason = format!(
            "found {found}, expected {} and at least one of {}",
            file_name(SETS[0]),
            SETS[1..].join(", ")
        );
        return Err(Error::Data { path: folder.to_path_buf(), reason });
    }
    let mut report = Report::new(promise.threshold);
    compare_hashes(folder, &promise.outputs, &mut report)?;
    let told = promise.valid_models.is_some();
    let valid_models = match promise.valid_models {
        Some(models) => models,
        None => models_of([&paths[3], &paths[4]].into_iter().flatten())?,
    };
    report.valid_models = valid_models.iter().cloned().collect();
    let mut sets = Sets { report, valid_models, told, train: Train::default(), heldout: Vec::new() };
    let mut done = 0;
    for (set, path) in SETS.into_iter().zip(&paths) {
        let Some(path) = path else { continue };
        let signed = promise.threshold.is_some() && (set == SETS[0] || is_heldout(set));
        let mut rows = 0;
        input::for_each_chunk(
            &SourceFile::local(path),
            |row| Row::read(row, signed),
            |chunk| {
                rows += chunk.len() as u64;
                done += chunk.len() as u64;
                chunk.into_iter().for_each(|row| sets.visit(set, row));
                progress(Progress { stage: Stage::Checking, rows: done });
                Ok(())
            },
        )?;
        sets.report.rows.insert(set.into(), rows);
    }
    if let Some(threshold) = promise.threshold {
        sets.find_near_duplicates(threshold);
    }
    Ok(sets.report)
}

fn is_heldout(set: &str) -> bool {
    set == "prompt-disjoint" || set == "mutual-disjoint"
}

fn path_of(folder: &Path, set: &str) -> Option<PathBuf> {
    let ends = ["jsonl", "jsonl.gz", "jsonl.zst", "json", "parquet"];
    ends.iter().map(|end| folder.join(format!("{set}.{end}"))).find(|path| path.is_file())
}

fn compare_hashes(folder: &Path, outputs: &[(String, String)], report: &mut Report) -> Result<()> {
    report.looked_at(Check::ChangedOutputs, outputs.len());
    for (file, expected) in outputs {
        let path = folder.join(file);
        let found = if path.is_file() { Some(atomic::sha256(&path)?) } else { None };
        if found.as_ref() != Some(expected) {
            let found = found.map_or("no file".into(), |hash| format!("SHA-256 {hash}"));
            report.add(Check::ChangedOutputs, || Violation {
                place: None,
                other: None,
                prompt: None,
                detail: Some(format!("{file}: found {found}, expected {expected}")),
            });
        }
    }
    Ok(())
}

/// The models that the rows of these files name.
fn models_of<'a>(paths: impl Iterator<Item = &'a PathBuf>) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for path in paths {
        input::for_each_chunk(
            &SourceFile::local(path),
            |row| Row::read(row, false),
            |chunk| {
                found.extend(chunk.into_iter().flat_map(|row| row.responses).filter_map(|(model, _)| model));
                Ok(())
            },
        )?;
    }
    Ok(found)
}

/// What is compared of a row.
struct Row {
    line: u64,
    prompt: u128,
    /// Normalised, as when the side was decided; any seed tells equal from different.
    group: u128,
    beginning: String,
    signature: Option<Box<Signature>>,
    /// Model, and hash of the text.
    responses: Vec<(Option<String>, u128)>,
}

impl Row {
    fn read(row: RawRow, signed: bool) -> Result<Self> {
        let line = row.origin.line;
        // Gold scores are not compared, so any field will do.
        let example = row.example("overall_score")?;
        let text = text_of(&example.prompt);
        let words = normalised(&text);
        let responses = example.responses.into_iter();
        Ok(Self {
            line,
            prompt: prompt_hash(&text),
            group: group_hash(0, &words),
            beginning: beginning(&text),
            signature: signed.then(|| Box::new(signature(&words))),
            responses: responses.map(|r| (r.model, response_hash(&text_of(&r.messages)))).collect(),
        })
    }
}

/// What is trained on, by hash, each with its first line.
#[derive(Default)]
struct Train {
    prompts: FxHashMap<u128, u64>,
    groups: FxHashMap<u128, u64>,
    responses: FxHashMap<u128, u64>,
    pairs: FxHashMap<(u128, u128), u64>,
    signatures: Vec<(u64, Box<Signature>)>,
}

/// A row of a held-out set whose prompt is not trained on as it stands.
struct HeldoutPrompt {
    place: Place,
    beginning: String,
    signature: Box<Signature>,
}

struct Sets {
    report: Report,
    valid_models: BTreeSet<String>,
    /// Whether the valid models were told, and not taken from the sets that are checked.
    told: bool,
    train: Train,
    heldout: Vec<HeldoutPrompt>,
}

impl Sets {
    fn visit(&mut self, set: &str, row: Row) {
        self.check_models(set, &row);
        if set == "response-disjoint" || set == "mutual-disjoint" {
            self.check_responses(set, &row);
        }
        match set {
            "train" => self.learn(row),
            "in-domain" | "response-disjoint" => self.check_training_prompt(set, &row),
            _ => self.check_heldout_prompt(set, row),
        }
    }

    fn learn(&mut self, row: Row) {
        let train = &mut self.train;
        for &(_, text) in &row.responses {
            train.responses.entry(text).or_insert(row.line);
            train.pairs.entry((row.prompt, text)).or_insert(row.line);
        }
        train.groups.entry(row.group).or_insert(row.line);
        if let std::collections::hash_map::Entry::Vacant(new) = train.prompts.entry(row.prompt) {
            new.insert(row.line);
            train.signatures.extend(row.signature.map(|signature| (row.line, signature)));
        }
    }

    fn check_models(&mut self, set: &str, row: &Row) {
        let heldout = set == "response-disjoint" || set == "mutual-disjoint";
        // Models that the sets themselves name cannot contradict them, and where nobody is held out nothing is vouched for.
        if (heldout && !self.told) || (!heldout && self.valid_models.is_empty()) {
            return;
        }
        let check = if heldout { Check::TrainingModelsInValidSets } else { Check::ValidModelsInTrainingSets };
        let named = || row.responses.iter().filter_map(|(model, _)| model.as_ref());
        self.report.looked_at(check, named().count());
        for model in named().filter(|model| self.valid_models.contains(*model) != heldout) {
            self.report.add(check, || violation(set, row, None, Some(format!("model {model}"))));
        }
    }

    fn check_responses(&mut self, set: &str, row: &Row) {
        let check = Check::TrainResponsesInValidSets;
        self.report.looked_at(check, row.responses.len());
        for (model, text) in &row.responses {
            if let Some(&line) = self.train.responses.get(text) {
                let detail = model.as_ref().map(|model| format!("response of {model}"));
                self.report.add(check, || violation(set, row, Some(line), detail));
            }
        }
    }

    fn check_training_prompt(&mut self, set: &str, row: &Row) {
        self.report.looked_at(Check::UntrainedPromptsInTrainingPromptSets, 1);
        if !self.train.prompts.contains_key(&row.prompt) {
            let check = Check::UntrainedPromptsInTrainingPromptSets;
            self.report.add(check, || violation(set, row, None, None));
        }
        let check = Check::TrainPairResponsesInOtherSets;
        self.report.looked_at(check, row.responses.len());
        for &(_, text) in &row.responses {
            if let Some(&line) = self.train.pairs.get(&(row.prompt, text)) {
                self.report.add(check, || violation(set, row, Some(line), None));
            }
        }
    }

    fn check_heldout_prompt(&mut self, set: &str, row: Row) {
        let (equal, normalised) =
            (Check::TrainingPromptsInHeldoutSets, Check::NormalisedTrainingPromptsInHeldoutSets);
        self.report.looked_at(equal, 1);
        self.report.looked_at(normalised, 1);
        if let Some(&line) = self.train.prompts.get(&row.prompt) {
            self.report.add(equal, || violation(set, &row, Some(line), None));
        } else if let Some(&line) = self.train.groups.get(&row.group) {
            self.report.add(normalised, || violation(set, &row, Some(line), None));
        } else if let Some(signature) = row.signature {
            let place = Place { set: set.into(), line: row.line };
            self.heldout.push(HeldoutPrompt { place, beginning: row.beginning, signature });
        }
    }

    fn find_near_duplicates(&mut self, threshold: f64) {
        let check = Check::NearDuplicateTrainingPromptsInHeldoutSets;
        self.report.looked_at(check, self.heldout.len());
        let signatures = self.train.signatures.iter().map(|(_, signature)| &**signature);
        let index = Index::new(signatures.collect(), threshold);
        let nearest: Vec<Option<(usize, f64)>> =
            self.heldout.par_iter().map(|prompt| index.nearest(&prompt.signature)).collect();
        for (prompt, nearest) in self.heldout.iter().zip(nearest) {
            let Some((item, similarity)) = nearest else { continue };
            self.report.add(check, || Violation {
                place: Some(Place { set: SETS[0].into(), line: self.train.signatures[item].0 }),
                other: Some(prompt.place.clone()),
                prompt: Some(prompt.beginning.clone()),
                detail: Some(format!("Jaccard similarity about {similarity:.2}")),
            });
        }
    }
}

/// A row of `set` that should not be there; `trained` is the line of `train` that it collides with.
fn violation(set: &str, row: &Row, trained: Option<u64>, detail: Option<String>) -> Violation {
    let here = Place { set: set.into(), line: row.line };
    let (place, other) = match trained {
        Some(line) => (Place { set: SETS[0].into(), line }, Some(here)),
        None => (here, None),
    };
    Violation { place: Some(place), other, prompt: Some(row.beginning.clone()), detail }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pair(prompt: &str, chosen: &str, model: &str) -> Value {
        json!({ "prompt": prompt, "chosen": chosen, "rejected": format!("{chosen} not"), "chosen-model": model, "rejected-model": "a" })
    }

    fn ranked(prompt: &str, response: &str, model: &str) -> Value {
        json!({ "prompt": prompt, "responses": [response], "models": [model], "scores": [1.0] })
    }

    fn leaks_of(sets: &[(&str, Value)], promise: Promise) -> Vec<&'static str> {
        let folder = tempfile::tempdir().expect("a folder");
        for (set, row) in sets {
            fs::write(folder.path().join(file_name(set)), format!("{row}\n")).expect("written");
        }
        let report = check_against(folder.path(), promise, &mut |_| {}).expect("reads");
        assert_eq!(report.refuse("").is_err(), !report.sound);
        report
            .checks
            .into_iter()
            .filter(|(_, found)| found.found > 0)
            .map(|(check, _)| check.name())
            .collect()
    }

    fn promised() -> Promise {
        Promise {
            valid_models: Some(BTreeSet::from(["v".to_owned()])),
            threshold: Some(0.7),
            outputs: Vec::new(),
        }
    }

    const HELDOUT: &str = "Q two with some more words so that it is long enough for one word to be left out";

    fn clean() -> [(&'static str, Value); 5] {
        [
            ("train", pair("P one", "t", "a")),
            ("in-domain", pair("P one", "u", "b")),
            ("prompt-disjoint", ranked(HELDOUT, "w", "a")),
            ("response-disjoint", ranked("P one", "x", "v")),
            ("mutual-disjoint", ranked(HELDOUT, "y", "v")),
        ]
    }

    #[test]
    fn each_leak_is_found_by_its_check() {
        assert!(leaks_of(&clean(), promised()).is_empty());
        let with = |set: usize, row: Value| {
            let mut sets = clean();
            sets[set].1 = row;
            leaks_of(&sets, promised())
        };
        assert_eq!(with(2, ranked(" P one", "w", "a")), ["training-prompts-in-heldout-sets"]);
        assert_eq!(with(2, ranked("p ONE!", "w", "a")), ["normalised-training-prompts-in-heldout-sets"]);
        assert_eq!(with(4, ranked("p ONE!", "y", "v")), ["normalised-training-prompts-in-heldout-sets"]);
        assert_eq!(with(3, ranked("R", "x", "v")), ["untrained-prompts-in-training-prompt-sets"]);
        assert_eq!(with(1, pair("P one", "u", "v")), ["valid-models-in-training-sets"]);
        assert_eq!(with(2, ranked(HELDOUT, "w", "v")), ["valid-models-in-training-sets"]);
        assert_eq!(with(4, ranked(HELDOUT, "y", "a")), ["training-models-in-valid-sets"]);
        assert_eq!(with(4, ranked(HELDOUT, " t\n", "v")), ["train-responses-in-valid-sets"]);
        assert_eq!(with(1, pair("P one", "t", "b")), ["train-pair-responses-in-other-sets"]);
    }

    #[test]
    fn near_duplicates_are_looked_for_where_a_threshold_is_promised() {
        let mut sets = clean();
        let near = HELDOUT.replace(" out", "");
        sets[0].1 = pair(&near, "t", "a");
        sets[1].1 = pair(&near, "u", "b");
        sets[3].1 = ranked(&near, "x", "v");
        assert_eq!(leaks_of(&sets, promised()), ["near-duplicate-training-prompts-in-heldout-sets"]);
        assert!(leaks_of(&sets, Promise { threshold: None, ..promised() }).is_empty());
        assert!(leaks_of(&sets, Promise { threshold: Some(1.0), ..promised() }).is_empty());
    }

    #[test]
    fn without_a_promise_the_sets_say_which_models_are_held_out() {
        let unpromised = || Promise { valid_models: None, ..promised() };
        assert!(leaks_of(&clean(), unpromised()).is_empty());
        let mut sets = clean();
        sets[0].1 = pair("P one", "t", "v");
        assert_eq!(leaks_of(&sets, unpromised()), ["valid-models-in-training-sets"]);
        // Sets as they are published: numbered responses, no models, not all of the sets.
        let hub = |prompt: &str| json!({ "instruction": prompt, "response_1_text": "w", "response_2_text": "x", "all_scores": [1, 2] });
        let pair = json!({ "prompt": "P one", "chosen": [{ "role": "assistant", "content": "t" }],
            "rejected": [{ "role": "assistant", "content": "s" }] });
        let sets = |prompt: &str| [("train", pair.clone()), ("prompt-disjoint", hub(prompt))];
        assert!(leaks_of(&sets("P two"), unpromised()).is_empty());
        assert_eq!(leaks_of(&sets("P one"), unpromised()), ["training-prompts-in-heldout-sets"]);
    }

    #[test]
    fn models_are_not_vouched_for_where_nobody_is_known_to_be_held_out() {
        let looked_at = |valid: &Value| {
            let folder = tempfile::tempdir().expect("a folder");
            for (set, row) in [("train", &pair("P one", "t", "a")), ("response-disjoint", valid)] {
                fs::write(folder.path().join(file_name(set)), format!("{row}\n")).expect("written");
            }
            let promise = Promise { valid_models: None, ..promised() };
            let report = check_against(folder.path(), promise, &mut |_| {}).expect("reads");
            let line =
                report.to_string().lines().find(|line| line.starts_with("valid-models")).map(str::to_owned);
            let line = line.expect("a line a check");
            let shown = line.split_whitespace().nth(1).expect("a figure").to_owned();
            (report.checks[&Check::ValidModelsInTrainingSets].checked, shown)
        };
        let unnamed = json!({ "prompt": "P one", "responses": ["x"], "scores": [1.0] });
        assert_eq!(looked_at(&unnamed), (0, "-".to_owned()));
        assert_eq!(looked_at(&ranked("P one", "x", "v")), (2, "2".to_owned()));
    }
}
