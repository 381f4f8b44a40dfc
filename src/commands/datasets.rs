//! The files behind `[data]`: what is trained on, what is evaluated.

use crate::data::Config;
use crate::data::source::{HubDatasets, Rows, SourceFile, resolve};
use crate::data::split::SETS;
use crate::trainer::fit::EvalSet;
use crate::{Error, Result, hub};
use std::path::{Path, PathBuf};

/// The four evaluation sets of a folder that `split` wrote, in the order of the table.
pub(super) const EVAL_SPLITS: [&str; 4] = {
    let [_train, others @ ..] = SETS;
    others
};
/// The one of them that `split` writes as pairs.
pub(super) const IN_DOMAIN: &str = EVAL_SPLITS[0];

/// Fetches dataset files from the hub.
pub(super) struct Hub;

impl HubDatasets for Hub {
    fn fetch(&self, repo: &str, revision: Option<&str>, file: &str) -> Result<PathBuf> {
        hub::fetch_dataset_file(repo, revision, file)
    }
}

/// Resolved files of a run.
pub(super) struct Sources {
    pub train: Vec<SourceFile>,
    /// Name and files of every evaluation set.
    eval: Vec<(String, Vec<SourceFile>)>,
}

impl Sources {
    /// Resolves globs and fetches hub files.
    pub(super) fn of(config: &Config) -> Result<Self> {
        if let Some(folder) = &config.splits_dir {
            let files =
                |name: &str| resolve(&[folder.join(format!("{name}.jsonl")).display().to_string()], &Hub);
            let eval = EVAL_SPLITS.iter().map(|name| files(name).map(|files| (name.to_string(), files)));
            return Ok(Self { train: files(SETS[0])?, eval: eval.collect::<Result<_>>()? });
        }
        let mut eval: Vec<(String, Vec<SourceFile>)> = Vec::new();
        for source in &config.eval {
            let name = name_of(source);
            if eval.iter().any(|(other, _)| *other == name) {
                return Err(Error::Usage(format!(
                    "data.eval: two sources are called \"{name}\"; a set is named after its file"
                )));
            }
            eval.push((name, resolve(std::slice::from_ref(source), &Hub)?));
        }
        Ok(Self { train: resolve(&config.train, &Hub)?, eval })
    }

    /// The evaluation sets, each opened anew for every evaluation.
    pub(super) fn eval_sets(self, config: &Config) -> Vec<EvalSet> {
        let field = config.score_field.clone();
        let set = |(name, files): (String, Vec<SourceFile>)| {
            let field = field.clone();
            EvalSet {
                name,
                open: Box::new(move || {
                    let field = field.clone();
                    let rows = Rows::of_files(files.clone()).map(move |row| {
                        let row = row?;
                        Ok((row.origin.clone(), row.example(&field)?))
                    });
                    Ok(Box::new(rows))
                }),
            }
        };
        self.eval.into_iter().map(set).collect()
    }
}

/// `data/held-out.jsonl.gz` is called held-out.
pub(super) fn name_of(source: &str) -> String {
    let file =
        Path::new(source).file_name().map_or(source.into(), |name| name.to_string_lossy().into_owned());
    let stem = file.split('.').next().unwrap_or(&file);
    if stem.is_empty() { file } else { stem.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::name_of;

    #[test]
    fn a_set_is_named_after_its_file() {
        assert_eq!(name_of("data/held-out.jsonl.gz"), "held-out");
        assert_eq!(name_of("hf://datasets/a/b/test.parquet"), "test");
        assert_eq!(name_of(".hidden"), ".hidden");
    }
}
