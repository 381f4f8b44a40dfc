//! Published splits: their files, their settings and their sizes.

use super::valid_models::Answers;
use super::{Counts, Heldout, OutputFile, SplitConfig};
use crate::data::source::SourceFile;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A published split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preset {
    /// openbmb/UltraFeedback in the four scenarios of arXiv 2505.07271.
    Ultrafeedback,
}

/// The files of openbmb/UltraFeedback.
const ULTRAFEEDBACK_FILES: [&str; 6] =
    ["evol_instruct", "false_qa", "flan", "sharegpt", "truthful_qa", "ultrachat"];
/// Held out where no file brings other models' responses: the valid models of the README's example.
const ULTRAFEEDBACK_VALID_MODELS: [&str; 4] = ["bard", "gpt-4", "mpt-30b-chat", "starchat"];
/// The paper's sizes: rows of the hub's files, rows after duplicates, rows of the five sets.
const ULTRAFEEDBACK_SIZES: [(&str, u64); 7] = [
    ("rows", 63_966),
    ("rows-usable", 62_282),
    ("train", 51_200),
    ("in-domain", 51_200),
    ("prompt-disjoint", 11_082),
    ("response-disjoint", 51_200),
    ("mutual-disjoint", 11_082),
];

impl Preset {
    /// The name that the command line knows.
    pub fn name(self) -> &'static str {
        match self {
            Preset::Ultrafeedback => "ultrafeedback",
        }
    }

    /// Where the rows are, for who names no input.
    pub fn sources(self) -> Vec<String> {
        let file = |name| format!("hf://datasets/openbmb/UltraFeedback/{name}.jsonl");
        ULTRAFEEDBACK_FILES.map(file).to_vec()
    }

    /// The settings for these inputs. Files that are named like the published ones are one table, so that a prompt
    /// in two of them is a duplicate as in the paper; all others are joined to it.
    ///
    /// Scores are the mean of a completion's ratings, because the published `overall_score` is wrong in places (a
    /// critique's 1 became 10). The paper's own gold scores are a reward model's, which the published files do not
    /// have; files that were labelled with one need the field that it wrote to in `score_field`.
    pub fn config(self, inputs: Vec<SourceFile>) -> SplitConfig {
        let is_published = |file: &SourceFile| {
            let name = file.name.file_name().map(|name| name.to_string_lossy().into_owned());
            let name = name.unwrap_or_default();
            ULTRAFEEDBACK_FILES.contains(&name.split(['.', '@']).next().unwrap_or_default())
        };
        let table = |(index, file)| if is_published(file) { 0 } else { index + 1 };
        SplitConfig {
            tables: inputs.iter().enumerate().map(table).collect(),
            score_field: "mean-rating".into(),
            heldout_prompts: Heldout::Count(11_082),
            preset: Some(self),
            ..SplitConfig::new(inputs)
        }
    }

    /// The models to hold out, and how they were chosen: those that only the joined files have, else fixed ones.
    pub(super) fn valid_models(self, answers: &[Answers]) -> Option<(BTreeSet<String>, String)> {
        let names = |all: Vec<&str>| all.into_iter().map(str::to_owned).collect::<BTreeSet<_>>();
        let joined: Vec<&str> = answers.iter().filter(|m| !m.in_first_table).map(|m| m.model).collect();
        if !joined.is_empty() {
            return Some((names(joined), "those of the joined files".into()));
        }
        let fixed = ULTRAFEEDBACK_VALID_MODELS.to_vec();
        fixed
            .iter()
            .all(|name| answers.iter().any(|m| m.model == *name))
            .then(|| (names(fixed), format!("the preset {}'s, for want of other models' files", self.name())))
    }

    /// Published sizes beside those that were found.
    pub(super) fn compare(
        self,
        config: &SplitConfig,
        rows_of_files: &[u64],
        counts: &Counts,
        outputs: &[OutputFile],
    ) -> Comparison {
        let first = config.tables.iter().min();
        let of_first = config.tables.iter().zip(rows_of_files).filter(|(table, _)| Some(*table) == first);
        let mut found = BTreeMap::from([
            ("rows".to_owned(), of_first.map(|(_, rows)| rows).sum()),
            ("rows-usable".to_owned(), counts.rows_usable),
        ]);
        found.extend(outputs.iter().map(|output| (output.set.clone(), output.rows)));
        let sizes = ULTRAFEEDBACK_SIZES.iter().map(|&(name, expected)| {
            let found = found.get(name).copied().unwrap_or_default();
            (name.to_owned(), Size { expected, found })
        });
        Comparison { name: self.name().into(), sizes: sizes.collect() }
    }
}

impl std::str::FromStr for Preset {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "ultrafeedback" => Ok(Preset::Ultrafeedback),
            other => Err(format!("found `{other}`, expected ultrafeedback")),
        }
    }
}

/// The sizes of a published split beside those of this one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    pub name: String,
    pub sizes: BTreeMap<String, Size>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    pub expected: u64,
    pub found: u64,
}

impl Comparison {
    /// What differs, one `NAME: expected N, found M` each.
    pub fn differences(&self) -> Vec<String> {
        let differing = self.sizes.iter().filter(|(_, size)| size.expected != size.found);
        differing
            .map(|(name, size)| format!("{name}: expected {}, found {}", size.expected, size.found))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_files_are_one_table_wherever_they_lie() {
        let names = Preset::Ultrafeedback.sources();
        assert_eq!(names[2], "hf://datasets/openbmb/UltraFeedback/flan.jsonl");
        let files =
            [names[0].as_str(), "data/flan.jsonl.gz", "gemma.jsonl", "x/sharegpt.jsonl", "olmo.jsonl"];
        let config = Preset::Ultrafeedback.config(files.map(SourceFile::local).to_vec());
        assert_eq!(config.tables, [0, 0, 3, 0, 5]);
        assert_eq!(config.heldout_prompts, Heldout::Count(11_082));
        config.validate().expect("valid");
    }

    #[test]
    fn other_models_are_held_out_where_there_are_any() {
        let model = |model, in_first_table| Answers { model, prompts: 1, in_first_table };
        let valid = |answers: &[Answers]| {
            let (models, chosen) = Preset::Ultrafeedback.valid_models(answers)?;
            Some(format!("{} ({chosen})", models.into_iter().collect::<Vec<_>>().join(" ")))
        };
        let joined = valid(&[model("bard", true), model("gemma", false)]);
        assert_eq!(joined.as_deref(), Some("gemma (those of the joined files)"));
        let fixed = valid(&ULTRAFEEDBACK_VALID_MODELS.map(|name| model(name, true)));
        assert!(fixed.is_some_and(|fixed| fixed.starts_with("bard gpt-4 mpt-30b-chat starchat (")));
        assert_eq!(valid(&[model("bard", true), model("a", true)]), None);
    }
}
