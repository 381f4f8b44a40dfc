//! `manifest.json`: what was split, into what, and what was left out.

use super::preset::Comparison;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

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
    /// "given", or how they were chosen.
    pub valid_models_chosen: String,
    pub training_models: Vec<String>,
    pub counts: Counts,
    pub dropped: Dropped,
    /// `None` in a manifest from before near-duplicates were looked for.
    pub near_duplicates: Option<NearDuplicatesFound>,
    /// Sizes beside the published ones, where a preset was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preset: Option<Comparison>,
    /// Violations found in the written sets, by check. All are 0 in a published split.
    pub leakage: BTreeMap<String, u64>,
    pub inputs: Vec<InputFile>,
    pub outputs: Vec<OutputFile>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    pub rows_read: u64,
    /// Rows whose responses were added to those of an earlier row with the same prompt.
    #[serde(default)]
    pub rows_joined: u64,
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

/// Prompts in use that are too much alike to lie on different sides.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct NearDuplicatesFound {
    /// Least Jaccard similarity of word 3-grams; `None` where only equality of letters and digits was asked for.
    pub threshold: Option<f64>,
    /// Clusters of two prompts or more.
    pub clusters: u64,
    /// Prompts in them.
    pub prompts: u64,
    /// Prompts of the largest.
    pub largest: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InputFile {
    /// The name without its folder, so that the manifest does not depend on where the data lies.
    pub file: String,
    pub rows: u64,
    /// Rows that were joined to an earlier row with the same prompt.
    #[serde(default)]
    pub joined: u64,
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
