//! What `fit` can know to be wrong before it loads a weight, reads a row or asks the network.

use super::{datasets, memory_text, parts};
use crate::base::figures;
use crate::config::RunConfig;
use crate::data::Tokenizer;
use crate::data::config::ChatTemplateSource;
use crate::hub::HubSettings;
use crate::model::config::{Dtype, SANDBOX_TOKENIZER, Source};
use crate::model::config_json::HeadKind;
use crate::model::reward_model::compute_dtype;
use crate::model::weights::WeightFiles;
use crate::model::{DecoderConfig, DeviceChoice, Freeze, config_json, ensemble_file};
use crate::optim::config::MomentKind;
use crate::trainer::memory::{Budget, Memory, Storage};
use crate::{Error, Result, trainer};
use std::fmt;
use std::path::{Path, PathBuf};

/// Files of a folder that `rmtrain split` wrote; the first is trained on.
const SPLIT_FILES: [&str; 5] = [
    "train.jsonl",
    "in-domain.jsonl",
    "prompt-disjoint.jsonl",
    "response-disjoint.jsonl",
    "mutual-disjoint.jsonl",
];

/// What is known about a run before it starts.
#[derive(Debug)]
pub struct Preflight {
    /// The decoder's shape, unless it is on the hub and not in the cache.
    pub decoder: Option<DecoderConfig>,
    freeze: Freeze,
    moments: MomentKind,
    heads: usize,
    /// What could not be checked, or will only show later.
    pub hints: Vec<String>,
    train: trainer::Config,
    dtype: Option<Dtype>,
    problems: Vec<String>,
}

/// Checks everything that needs neither weights nor network.
///
/// # Errors
/// [`Error::Config`] for the file `path` with every problem at once, each with its key.
pub fn check(path: &Path, config: &RunConfig) -> Result<Preflight> {
    let mut found = Preflight {
        decoder: None,
        hints: Vec::new(),
        problems: Vec::new(),
        freeze: config.model.freeze,
        moments: config.optim.moments,
        heads: config.model.heads,
        train: config.train.clone(),
        dtype: config.model.dtype,
    };
    found.check_model(config);
    found.check_data(config);
    found.check_device(config);
    if found.problems.is_empty() {
        return Ok(found);
    }
    Err(Error::Config { path: path.to_path_buf(), problems: found.problems })
}

impl Preflight {
    fn check_model(&mut self, config: &RunConfig) {
        let model = &config.model;
        let mut folder = None;
        match &model.source {
            Source::Random(shape) => match DecoderConfig::from_json(shape) {
                Ok(decoder) => self.decoder = Some(decoder),
                Err(problems) => {
                    self.problems.extend(problems.iter().map(|problem| format!("model.random.{problem}")));
                }
            },
            Source::Path(source) => {
                folder = self.local_folder("model.path", source, model.revision.as_deref());
                if let Some(folder) = &folder {
                    let whole =
                        offline().and_then(|hub| hub.resolve_model(source, model.revision.as_deref()));
                    self.check_model_folder(folder, whole.is_ok());
                }
            }
        }
        if let Some(source) = model.tokenizer.as_deref().filter(|source| *source != SANDBOX_TOKENIZER) {
            folder = self.local_folder("model.tokenizer", source, None);
        } else if model.tokenizer.is_some() {
            folder = None;
        }
        if let Some(folder) = folder {
            self.check_tokenizer(&folder, config);
        } else if let ChatTemplateSource::File(path) = &config.data.chat_template
            && !path.is_file()
        {
            self.problems.push(format!(
                "data.chat_template: found no file {}, expected a .jinja file (paths count from the current folder)",
                path.display()
            ));
        }
        self.problems.extend(self.decoder.as_ref().and_then(|d| model.freeze.problem(d.num_layers)));
        if let Some(decoder) = &self.decoder
            && config.data.max_length > decoder.max_position_embeddings
        {
            self.problems.push(format!(
                "data.max_length: found {}, expected at most {}, the model's max_position_embeddings",
                config.data.max_length, decoder.max_position_embeddings
            ));
        }
    }

    /// The folder that a model or tokenizer is in, if it is on this machine.
    fn local_folder(&mut self, key: &str, source: &str, revision: Option<&str>) -> Option<PathBuf> {
        match offline().and_then(|hub| hub.resolve_tokenizer(source, revision)) {
            Ok(folder) => Some(folder),
            Err(Error::Hub { .. }) => {
                self.hints.push(format!(
                    "{key}: {source} is not on this machine yet; its configuration, tokenizer and weights are \
                     checked when `fit` has fetched them"
                ));
                None
            }
            Err(error) => {
                self.problems.push(format!("{key}: {error}"));
                None
            }
        }
    }

    /// `is_whole`: nothing of it is still on the hub.
    fn check_model_folder(&mut self, folder: &Path, is_whole: bool) {
        let read = config_json::read_config(folder).and_then(|config| config.trainable(folder));
        let (decoder, head, heads) = match read {
            Ok(config) => (config.decoder, config.head, config.heads),
            Err(error) => {
                self.problems.push(format!("model.path: {error}"));
                return;
            }
        };
        let has_weights = ["model.safetensors", "model.safetensors.index.json"]
            .iter()
            .any(|name| folder.join(name).exists());
        let is_whole = is_whole && has_weights;
        if !is_whole {
            let held = if has_weights { "only a part of the weights" } else { "no safetensors" };
            self.hints.push(format!("model.path: {} holds {held} yet", folder.display()));
        } else {
            // Headers only; a causal LM has no head of its own, so that one tensor may be absent.
            let mut shapes = decoder.parameter_shapes();
            let checked = WeightFiles::open(folder).and_then(|files| {
                shapes.retain(|(name, _)| {
                    name != crate::model::decoder_config::HEAD_WEIGHT || files.info(name).is_some()
                });
                files.verify(&shapes, DecoderConfig::is_unused_tensor)
            });
            if let Err(error) = checked {
                self.problems.push(format!("model.path: {error}"));
            }
        }
        if head == HeadKind::SequenceClassification {
            let own = match is_whole {
                true => ensemble_file::count(folder, decoder.hidden_size, heads),
                // What comes is what config.json speaks of.
                false => Ok(heads),
            };
            match own {
                Ok(own) => self.problems.extend(parts::heads_problem(folder, own.unwrap_or(1), self.heads)),
                Err(error) => self.problems.push(format!("model.path: {error}")),
            }
        }
        self.decoder = Some(decoder);
    }

    fn check_tokenizer(&mut self, folder: &Path, config: &RunConfig) {
        let tokenizer = match Tokenizer::load(folder, &config.data.chat_template, None) {
            Ok(tokenizer) => tokenizer,
            Err(error) => {
                self.problems.push(format!("tokenizer: {error}"));
                return;
            }
        };
        if let Some(decoder) = &self.decoder
            && tokenizer.vocab_size() > decoder.vocab_size
        {
            self.hints.push(format!(
                "the tokenizer's ids reach {}, the model's vocabulary ends at {}: a row that uses the rest is refused",
                tokenizer.vocab_size() - 1,
                decoder.vocab_size - 1
            ));
        }
    }

    fn check_data(&mut self, config: &RunConfig) {
        let data = &config.data;
        for (key, sources) in [("data.train", &data.train), ("data.eval", &data.eval)] {
            for source in sources {
                if source.starts_with("hf://") {
                    self.hints.push(format!("{key}: {source} is checked when `fit` has fetched it"));
                } else if let Err(problem) = check_files(source) {
                    self.problems.push(format!("{key}: {problem}"));
                }
            }
        }
        self.check_eval_names(config);
        let Some(folder) = &data.splits_dir else { return };
        if !folder.exists() {
            self.hints.push(format!(
                "data.splits_dir: {} does not exist yet; `rmtrain split --input FILE --out {0}` writes it",
                folder.display()
            ));
            return;
        }
        let missing: Vec<&str> =
            SPLIT_FILES.iter().copied().filter(|name| !folder.join(name).is_file()).collect();
        if !missing.is_empty() {
            self.problems.push(format!(
                "data.splits_dir: found no {} in {}, expected a folder that `rmtrain split` wrote",
                missing.join(", "),
                folder.display()
            ));
        }
    }

    /// A set is known by its name, in metrics.jsonl and in `train.best_metric`.
    fn check_eval_names(&mut self, config: &RunConfig) {
        let names: Vec<String> = match config.data.train.is_empty() {
            true => datasets::EVAL_SPLITS.map(str::to_owned).to_vec(),
            false => config.data.eval.iter().map(|source| datasets::name_of(source)).collect(),
        };
        for (i, name) in names.iter().enumerate() {
            if names[..i].contains(name) {
                self.problems.push(format!(
                    "data.eval: found two sources called \"{name}\", expected one (a set is named after its file)"
                ));
            }
        }
        let metric = config.train.best_metric.as_deref();
        let Some((split, field)) = metric.and_then(|metric| metric.rsplit_once('.')) else { return };
        if !names.iter().any(|name| name == split) {
            self.problems.push(format!(
                "train.best_metric: found the split \"{split}\", expected one of {}",
                names.join(", ")
            ));
        } else if config.data.train.is_empty() && (split, field) == (datasets::IN_DOMAIN, "kendall_tau") {
            self.problems.push(format!(
                "train.best_metric: found \"{split}.{field}\", expected \"{split}.accuracy\", or the kendall_tau of \
                 another split: this one has pairs, and pairs have no tau"
            ));
        }
    }

    fn check_device(&mut self, config: &RunConfig) {
        if let DeviceChoice::Cuda(_) = config.train.device
            && !cfg!(feature = "cuda")
        {
            let device = config.train.device;
            self.hints.push(format!(
                "train.device: {device} needs a build with `--features cuda`, which this one is not"
            ));
        }
    }
}

/// The hub as far as it is on this machine.
fn offline() -> Result<HubSettings> {
    HubSettings::from_env().map(|settings| HubSettings { offline: true, ..settings })
}

/// A file or a glob that matches something.
fn check_files(source: &str) -> Result<(), String> {
    let path = Path::new(source);
    if path.is_file() {
        return Ok(());
    }
    if path.is_dir() {
        return Err(format!("found the folder {source}, expected a file or a glob such as {source}/*.jsonl"));
    }
    if !source.contains(['*', '?', '[']) {
        return Err(format!("found no file {source} (paths count from the current folder)"));
    }
    let mut matches = glob::glob(source).map_err(|error| format!("found the glob {source:?}: {error}"))?;
    match matches.any(|entry| entry.is_ok_and(|path| path.is_file())) {
        true => Ok(()),
        false => Err(format!("found no file that matches {source}")),
    }
}

impl fmt::Display for Preflight {
    /// The model's size and what training it takes, in lines for stderr.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(decoder) = &self.decoder else {
            return write!(f, "parameters: not known before the model is fetched");
        };
        let config = &self.train;
        let on_cpu = match config.device {
            DeviceChoice::Cpu => true,
            DeviceChoice::Auto => !candle_core::utils::cuda_is_available(),
            DeviceChoice::Cuda(_) => false,
        };
        let dtype = compute_dtype(on_cpu, self.dtype);
        let storage =
            Storage::new(decoder, dtype, on_cpu, self.freeze, self.moments).with_heads(decoder, self.heads);
        let memory = Memory::new(decoder, &storage, config, Budget { bytes: None });
        let all = decoder.parameter_count() + storage.further_heads;
        let trained = storage.trained();
        let frozen = (trained < all).then(|| format!(", {} of them frozen", figures::grouped(all - trained)));
        write!(
            f,
            "parameters: {}{} ({} layers, hidden {}, vocabulary {})\n\
             memory: {}; activations come on top (`rmtrain plan` counts them)",
            figures::grouped(all),
            frozen.unwrap_or_default(),
            decoder.num_layers,
            decoder.hidden_size,
            decoder.vocab_size,
            memory_text::parts(&memory, decoder.vocab_size as u64, decoder.vocab_size as u64),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_globs_are_looked_for() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        std::fs::write(at("a.jsonl"), "").unwrap();
        assert_eq!(check_files(&at("a.jsonl")), Ok(()));
        assert_eq!(check_files(&at("*.jsonl")), Ok(()));
        assert!(check_files(&at("*.parquet")).unwrap_err().contains("no file that matches"));
        assert!(check_files(&at("b.jsonl")).unwrap_err().contains("found no file"));
        assert!(check_files(&at("")).unwrap_err().contains("found the folder"));
        assert!(check_files(&at("[")).unwrap_err().contains("found the glob"));
    }
}
