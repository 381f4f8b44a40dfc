//! Reads the written sets back and counts what may not be in them.
//!
//! It trusts nothing that the splitting decided: only the files and the list of valid models.

use super::plan::{group_of, hash, text_of};
use super::{SETS, file_name, stop_if_interrupted};
use crate::{Error, Result};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

/// Violations in the sets of `folder`, by check; all zero in a sound split.
///
/// # Errors
/// [`Error::Row`] for a line that is no JSON; [`Error::Io`]; [`Error::Interrupted`].
pub fn check(folder: &Path, valid_models: &BTreeSet<String>) -> Result<BTreeMap<String, u64>> {
    let mut found = Found::default();
    let is_valid = |model: &Value| model.as_str().is_some_and(|m| valid_models.contains(m));
    let (mut sides, mut prompts) = (HashSet::new(), HashSet::new());
    let (mut texts, mut pairs) = (HashSet::new(), HashSet::new());
    let answer = |value: &Value| hash("response", text_of(value).trim());
    for set in SETS {
        let trained = set == "train" || set == "in-domain";
        let heldout_models = set == "response-disjoint" || set == "mutual-disjoint";
        for_each(&folder.join(file_name(set)), |row| {
            // Normalised, as when the side was decided; any seed tells equal from different.
            let side = group_of(0, &row["prompt"]);
            let prompt = hash("prompt", text_of(&row["prompt"]).trim());
            let (models, responses): (Vec<&Value>, Vec<&Value>) = if trained {
                (vec![&row["chosen-model"], &row["rejected-model"]], vec![&row["chosen"], &row["rejected"]])
            } else {
                (elements(&row["models"]), elements(&row["responses"]))
            };
            let valid = models.iter().filter(|m| is_valid(m)).count();
            if heldout_models {
                found.training_models_in_valid_sets += (models.len() - valid) as u64;
                let known = responses.iter().filter(|r| texts.contains(&answer(r))).count();
                found.train_responses_in_valid_sets += known as u64;
            } else {
                found.valid_models_in_training_sets += valid as u64;
            }
            match set {
                "train" => {
                    texts.extend(responses.iter().map(|r| answer(r)));
                    pairs.extend(responses.iter().map(|r| (prompt, answer(r))));
                    sides.insert(side);
                    prompts.insert(prompt);
                }
                "in-domain" | "response-disjoint" => {
                    let known = responses.iter().filter(|r| pairs.contains(&(prompt, answer(r)))).count();
                    found.train_answers_in_their_own_prompts += known as u64;
                    found.untrained_prompts_in_training_prompt_sets += u64::from(!prompts.contains(&prompt));
                }
                _ => found.training_prompts_in_heldout_sets += u64::from(sides.contains(&side)),
            }
            Ok(())
        })?;
    }
    Ok(found.by_name())
}

/// [`Error::Check`] that names every check which found something.
pub fn refuse(leakage: &BTreeMap<String, u64>) -> Result<()> {
    let found: Vec<String> =
        leakage.iter().filter(|&(_, &n)| n > 0).map(|(check, n)| format!("{check}: {n}")).collect();
    if found.is_empty() {
        return Ok(());
    }
    Err(Error::Check(format!("the split leaks ({}), expected none; nothing was written", found.join(", "))))
}

#[derive(Default)]
struct Found {
    training_prompts_in_heldout_sets: u64,
    untrained_prompts_in_training_prompt_sets: u64,
    valid_models_in_training_sets: u64,
    training_models_in_valid_sets: u64,
    train_responses_in_valid_sets: u64,
    train_answers_in_their_own_prompts: u64,
}

impl Found {
    fn by_name(self) -> BTreeMap<String, u64> {
        [
            ("training-prompts-in-heldout-sets", self.training_prompts_in_heldout_sets),
            ("untrained-prompts-in-training-prompt-sets", self.untrained_prompts_in_training_prompt_sets),
            ("valid-models-in-training-sets", self.valid_models_in_training_sets),
            ("training-models-in-valid-sets", self.training_models_in_valid_sets),
            ("train-responses-in-valid-sets", self.train_responses_in_valid_sets),
            ("train-pair-responses-in-other-sets", self.train_answers_in_their_own_prompts),
        ]
        .map(|(name, count)| (name.to_owned(), count))
        .into()
    }
}

fn elements(value: &Value) -> Vec<&Value> {
    value.as_array().map(|all| all.iter().collect()).unwrap_or_default()
}

fn for_each(path: &Path, mut visit: impl FnMut(Value) -> Result<()>) -> Result<()> {
    let lines = BufReader::new(File::open(path).map_err(Error::io(path))?).lines();
    for (line, text) in (1..).zip(lines) {
        stop_if_interrupted()?;
        let text = text.map_err(Error::io(path))?;
        let row = serde_json::from_str(&text).map_err(|e| Error::Row {
            path: path.to_path_buf(),
            line,
            reason: format!("not JSON: {e}"),
        })?;
        visit(row)?;
    }
    Ok(())
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

    fn leaks(sets: [Value; 5]) -> Vec<String> {
        let folder = tempfile::tempdir().expect("a folder");
        for (set, row) in SETS.into_iter().zip(sets) {
            std::fs::write(folder.path().join(file_name(set)), format!("{row}\n")).expect("written");
        }
        let leakage = check(folder.path(), &BTreeSet::from(["v".to_owned()])).expect("reads");
        assert_eq!(refuse(&leakage).is_err(), leakage.values().any(|&n| n > 0));
        leakage.into_iter().filter(|(_, n)| *n > 0).map(|(name, _)| name).collect()
    }

    #[test]
    fn each_leak_is_found_by_its_check() {
        let clean = [
            pair("P one", "t", "a"),
            pair("P one", "u", "b"),
            ranked("Q two", "w", "a"),
            ranked("P one", "x", "v"),
            ranked("Q two", "y", "v"),
        ];
        assert!(leaks(clean.clone()).is_empty());
        let with = |set: usize, row: Value| {
            let mut sets = clean.clone();
            sets[set] = row;
            leaks(sets)
        };
        assert_eq!(with(2, ranked("p ONE!", "w", "a")), ["training-prompts-in-heldout-sets"]);
        assert_eq!(with(4, ranked("p ONE!", "y", "v")), ["training-prompts-in-heldout-sets"]);
        assert_eq!(with(3, ranked("R", "x", "v")), ["untrained-prompts-in-training-prompt-sets"]);
        assert_eq!(with(1, pair("P one", "u", "v")), ["valid-models-in-training-sets"]);
        assert_eq!(with(2, ranked("Q two", "w", "v")), ["valid-models-in-training-sets"]);
        assert_eq!(with(4, ranked("Q two", "y", "a")), ["training-models-in-valid-sets"]);
        assert_eq!(with(4, ranked("Q two", " t\n", "v")), ["train-responses-in-valid-sets"]);
        assert_eq!(with(1, pair("P one", "t", "b")), ["train-pair-responses-in-other-sets"]);
    }
}
