//! What the checks of a split found, for people and for programs.

use crate::base::figures::grouped;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Violations of a check that are shown.
const EXAMPLES: usize = 3;
/// Characters of a prompt that are shown.
const BEGINNING: usize = 60;

/// What may not be in the sets of a split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    /// A held-out prompt that is trained on.
    TrainingPromptsInHeldoutSets,
    /// One that is trained on in another case, spacing or punctuation.
    NormalisedTrainingPromptsInHeldoutSets,
    /// One with a near-duplicate that is trained on.
    NearDuplicateTrainingPromptsInHeldoutSets,
    /// A prompt of `in-domain` or `response-disjoint` that is not trained on.
    UntrainedPromptsInTrainingPromptSets,
    /// A response by a valid model in `train`, `in-domain` or `prompt-disjoint`.
    ValidModelsInTrainingSets,
    /// A response by a training model in `response-disjoint` or `mutual-disjoint`.
    TrainingModelsInValidSets,
    /// A response of `response-disjoint` or `mutual-disjoint` that is trained on, to whatever prompt.
    TrainResponsesInValidSets,
    /// A response of `in-domain` or `response-disjoint` that is trained on with the same prompt.
    TrainPairResponsesInOtherSets,
    /// A file that is not the one that the manifest describes.
    ChangedOutputs,
}

impl Check {
    pub const ALL: [Check; 9] = [
        Check::TrainingPromptsInHeldoutSets,
        Check::NormalisedTrainingPromptsInHeldoutSets,
        Check::NearDuplicateTrainingPromptsInHeldoutSets,
        Check::UntrainedPromptsInTrainingPromptSets,
        Check::ValidModelsInTrainingSets,
        Check::TrainingModelsInValidSets,
        Check::TrainResponsesInValidSets,
        Check::TrainPairResponsesInOtherSets,
        Check::ChangedOutputs,
    ];

    /// The name that reports and manifests use.
    pub fn name(self) -> &'static str {
        match self {
            Check::TrainingPromptsInHeldoutSets => "training-prompts-in-heldout-sets",
            Check::NormalisedTrainingPromptsInHeldoutSets => "normalised-training-prompts-in-heldout-sets",
            Check::NearDuplicateTrainingPromptsInHeldoutSets => {
                "near-duplicate-training-prompts-in-heldout-sets"
            }
            Check::UntrainedPromptsInTrainingPromptSets => "untrained-prompts-in-training-prompt-sets",
            Check::ValidModelsInTrainingSets => "valid-models-in-training-sets",
            Check::TrainingModelsInValidSets => "training-models-in-valid-sets",
            Check::TrainResponsesInValidSets => "train-responses-in-valid-sets",
            Check::TrainPairResponsesInOtherSets => "train-pair-responses-in-other-sets",
            Check::ChangedOutputs => "changed-outputs",
        }
    }
}

/// A line of a set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub set: String,
    /// From 1.
    pub line: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.set, self.line)
    }
}

/// One thing that should not be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Violation {
    /// Where to look: the line of `train`, where training is what goes wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
    /// The line that it collides with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub other: Option<Place>,
    /// The beginning of the prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places = [&self.place, &self.other].into_iter().flatten().map(Place::to_string);
        let mut parts = vec![places.collect::<Vec<_>>().join(" and ")];
        parts.extend(self.prompt.as_ref().map(|prompt| format!("{prompt:?}")));
        parts.extend(self.detail.clone());
        parts.retain(|part| !part.is_empty());
        f.write_str(&parts.join(": "))
    }
}

/// What one check looked at and found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// Prompts, responses or files that were looked at. 0: there was nothing to check, and nothing is said.
    pub checked: u64,
    pub found: u64,
    /// The first few.
    pub examples: Vec<Violation>,
}

/// All checks of one folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Whether no check found anything.
    pub sound: bool,
    /// Least similarity of prompts that count as near-duplicates; `None`: they were not looked for.
    pub near_duplicates: Option<f64>,
    /// Models that may not be trained on.
    pub valid_models: Vec<String>,
    /// Rows of each set.
    pub rows: BTreeMap<String, u64>,
    pub checks: BTreeMap<Check, Found>,
}

impl Report {
    pub(super) fn new(near_duplicates: Option<f64>) -> Self {
        Self {
            sound: true,
            near_duplicates,
            valid_models: Vec::new(),
            rows: BTreeMap::new(),
            checks: Check::ALL.map(|check| (check, Found::default())).into(),
        }
    }

    pub(super) fn looked_at(&mut self, check: Check, count: usize) {
        self.checks.entry(check).or_default().checked += count as u64;
    }

    pub(super) fn add(&mut self, check: Check, violation: impl FnOnce() -> Violation) {
        let found = self.checks.entry(check).or_default();
        found.found += 1;
        if found.examples.len() < EXAMPLES {
            found.examples.push(violation());
        }
        self.sound = false;
    }

    /// Violations by check.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        let checks = self.checks.iter().filter(|(check, _)| **check != Check::ChangedOutputs);
        checks.map(|(check, found)| (check.name().to_owned(), found.found)).collect()
    }

    /// Passes a sound split.
    ///
    /// # Errors
    /// [`Error::Check`] that names every check which found something; `consequence`, if any, ends the message.
    pub fn refuse(&self, consequence: &str) -> Result<()> {
        if self.sound {
            return Ok(());
        }
        let failed = self.checks.iter().filter(|(_, found)| found.found > 0);
        let failed: Vec<String> =
            failed.map(|(check, found)| format!("{}: {}", check.name(), found.found)).collect();
        let separator = if consequence.is_empty() { "" } else { "; " };
        let failed = failed.join(", ");
        Err(Error::Check(format!("the split leaks ({failed}), expected none{separator}{consequence}")))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<48} {:>10} {:>8}", "leakage check", "looked at", "found")?;
        for (check, found) in &self.checks {
            let looked_at = if found.checked == 0 { "-".into() } else { grouped(found.checked) };
            writeln!(f, "{:<48} {looked_at:>10} {:>8}", check.name(), grouped(found.found))?;
            for violation in &found.examples {
                writeln!(f, "    {violation}")?;
            }
            let more = found.found.saturating_sub(found.examples.len() as u64);
            if more > 0 {
                writeln!(f, "    and {} more", grouped(more))?;
            }
        }
        Ok(())
    }
}

/// The beginning of a prompt, on one line.
pub(super) fn beginning(prompt: &str) -> String {
    let mut words = prompt.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((end, _)) = words.char_indices().nth(BEGINNING) {
        words.truncate(end);
        words.push_str("..");
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_json() {
        for check in Check::ALL {
            assert_eq!(serde_json::to_value(check).expect("JSON"), check.name());
        }
    }

    #[test]
    fn beginnings_are_short_and_on_one_line() {
        assert_eq!(beginning(" a\n b "), "a b");
        assert_eq!(beginning(&"ä".repeat(61)), format!("{}..", "ä".repeat(60)));
    }

    #[test]
    fn three_of_many_are_shown() {
        let mut report = Report::new(None);
        for line in 1..=5 {
            report.add(Check::ValidModelsInTrainingSets, || Violation {
                place: Some(Place { set: "train".into(), line }),
                other: None,
                prompt: Some("Hi \"you\"".into()),
                detail: Some("model v".into()),
            });
        }
        let text = report.to_string();
        assert!(text.contains("    train:3: \"Hi \\\"you\\\"\": model v\n    and 2 more\n"), "{text}");
        let refused = report.refuse("nothing was written").expect_err("leaks");
        assert_eq!(refused.exit_code(), 1);
        let refused = refused.to_string();
        let expected =
            "the split leaks (valid-models-in-training-sets: 5), expected none; nothing was written";
        assert_eq!(refused, expected);
        assert!(Report::new(None).refuse("").is_ok());
    }
}
