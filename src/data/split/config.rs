//! What to split, and how.

use super::preset::Preset;
use crate::data::source::SourceFile;
use crate::{Error, Result};
use std::collections::BTreeSet;

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

/// Which prompts are too much alike to lie on different sides.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum NearDuplicates {
    /// Only those that are equal in their letters and digits.
    Off,
    /// Those whose word 3-grams have at least this Jaccard similarity, as MinHash estimates it.
    Above(f64),
}

impl NearDuplicates {
    /// The least threshold. Below it, prompts share no more than a turn of phrase, and everything becomes one cluster.
    pub const LEAST: f64 = 0.3;

    /// The threshold, where there is one.
    pub fn threshold(self) -> Option<f64> {
        match self {
            NearDuplicates::Off => None,
            NearDuplicates::Above(threshold) => Some(threshold),
        }
    }

    fn is_valid(self) -> bool {
        self.threshold().is_none_or(|threshold| (Self::LEAST..=1.0).contains(&threshold))
    }
}

impl Default for NearDuplicates {
    /// 0.7: one word changed in twenty, or a "please" in front of a short request. A name put into a template of eight
    /// words stays below it (0.33), and so do questions of one kind about different things.
    fn default() -> Self {
        NearDuplicates::Above(0.7)
    }
}

impl std::str::FromStr for NearDuplicates {
    type Err = String;

    /// "off", or a threshold.
    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = match text {
            "off" => Some(NearDuplicates::Off),
            text => text.parse().ok().map(NearDuplicates::Above),
        };
        parsed.filter(|found| found.is_valid()).ok_or_else(|| {
            format!("found `{text}`, expected a Jaccard similarity from {} to 1, or off", Self::LEAST)
        })
    }
}

/// What to split, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct SplitConfig {
    pub inputs: Vec<SourceFile>,
    /// The table that each input is a part of. A prompt that comes again within a table is a duplicate; rows of
    /// different tables that share a prompt are joined.
    pub tables: Vec<usize>,
    /// Models whose responses are never trained on; `None` draws four from the data.
    pub valid_models: Option<Vec<String>>,
    /// The field of a completion that holds its gold score.
    pub score_field: String,
    pub heldout_prompts: Heldout,
    pub near_duplicates: NearDuplicates,
    pub seed: u64,
    /// Training-model responses drawn for each prompt.
    pub responses_per_prompt: usize,
    /// The published split whose sizes are compared with.
    pub preset: Option<Preset>,
}

impl SplitConfig {
    /// The defaults for these files, each its own table: a fifth of the prompts, four responses a prompt, seed 0.
    pub fn new(inputs: Vec<SourceFile>) -> Self {
        Self {
            tables: (0..inputs.len()).collect(),
            inputs,
            valid_models: None,
            score_field: "overall_score".into(),
            heldout_prompts: Heldout::Fraction(0.2),
            near_duplicates: NearDuplicates::default(),
            seed: 0,
            responses_per_prompt: 4,
            preset: None,
        }
    }

    pub(super) fn validate(&self) -> Result<()> {
        let usage = |reason: String| Err(Error::Usage(format!("split: {reason}")));
        if self.inputs.is_empty() {
            return usage("found no input file, expected at least one".into());
        }
        if self.tables.len() != self.inputs.len() {
            let (tables, inputs) = (self.tables.len(), self.inputs.len());
            return usage(format!("found {tables} tables for {inputs} input files, expected one for each"));
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
        if !self.near_duplicates.is_valid() {
            let found = self.near_duplicates.threshold().unwrap_or_default();
            let least = NearDuplicates::LEAST;
            return usage(format!(
                "found {found} as the similarity of near-duplicates, expected {least} to 1"
            ));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_duplicates_are_a_similarity_or_off() {
        assert_eq!("off".parse(), Ok(NearDuplicates::Off));
        assert_eq!("0.8".parse(), Ok(NearDuplicates::Above(0.8)));
        assert_eq!("1".parse(), Ok(NearDuplicates::Above(1.0)));
        for text in ["", "on", "0", "0.29", "1.01", "nan", "-1"] {
            let refused = text.parse::<NearDuplicates>().expect_err(text);
            assert!(refused.contains("from 0.3 to 1, or off"), "{refused}");
        }
    }
}
