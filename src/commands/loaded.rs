//! A reward model ready to score: folder, tokenizer and weights, as `eval` and `score` need them.

use super::run_folder;
use crate::base::reader::Words;
use crate::data::config::ChatTemplateSource;
use crate::data::tokenize::{DateOrigin, EncodeConversation};
use crate::data::{Message, Tokenizer};
use crate::eval::{DEFAULT_BATCH_TOKENS, Reduce, Reduced, SequenceScorer};
use crate::model::config::Dtype;
use crate::model::config_json::{self, HeadKind};
use crate::model::gating::last_occurrence;
use crate::model::reward_model::{HeadInit, compute_dtype};
use crate::model::{ArmoRm, DeviceChoice, RewardModel, weights};
use crate::{Error, Result, hub};
use candle_core::Device;
use jiff::civil::Date;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Flags about the model that `eval` and `score` share.
#[derive(Debug, Clone, clap::Args)]
pub struct ModelFlags {
    /// Most tokens of one rendered conversation [default: what the model was made for]
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_length: Option<u32>,
    /// The date that a chat template prints as today's [default: the one stored with the model, else today]
    #[arg(long, value_name = "YYYY-MM-DD")]
    pub date: Option<Date>,
    /// A .jinja file instead of the tokenizer's own chat template
    #[arg(long, value_name = "FILE")]
    pub chat_template: Option<PathBuf>,
    /// auto | cpu | cuda | cuda:N
    #[arg(long, default_value = "auto", value_parser = str::parse::<DeviceChoice>)]
    pub device: DeviceChoice,
    /// Compute precision: f32 | bf16 | f16 [default: f32 on the CPU, bf16 on CUDA]
    #[arg(long, value_parser = Dtype::from_word)]
    pub dtype: Option<Dtype>,
    /// Tokens computed at once; a memory knob, scores change by rounding at most
    #[arg(long, value_name = "TOKENS", default_value_t = DEFAULT_BATCH_TOKENS as u32, value_parser = clap::value_parser!(u32).range(1..))]
    pub batch_tokens: u32,
    /// What the rewards of an ensemble's heads become; with one head both are the same
    #[arg(long, value_enum, default_value = "mean")]
    pub reduce: Reduce,
}

impl ModelFlags {
    pub(super) fn batch_tokens(&self) -> usize {
        self.batch_tokens as usize
    }
}

/// A model that scores, and the tokenizer that speaks its language.
pub struct LoadedModel {
    pub scorer: Box<dyn SequenceScorer>,
    /// How rewards of several heads are reduced; `None` where it is by their mean.
    pub reduce: Option<Reduce>,
    pub tokenizer: Arc<dyn EncodeConversation>,
    /// Tokens of context that the model was made for.
    pub max_positions: usize,
    /// What reports call it: its folder, or its hub id.
    pub name: String,
    /// Whether its scores come with those of many objectives.
    pub has_objectives: bool,
    /// The compute precision in force.
    pub dtype: Dtype,
    folder: PathBuf,
}

impl LoadedModel {
    /// Loads `model`: a run directory, a checkpoint or sequence-classification folder, or a hub id.
    ///
    /// # Errors
    /// What is wrong with the folder, its tokenizer or its weights, naming the file.
    pub fn load(model: &str, flags: &ModelFlags) -> Result<Self> {
        ModelFolder::open(model, flags)?.load()
    }

    /// SHA-256 over `config.json` and the weights: two models that score alike have the same.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn weights_sha256(&self) -> Result<String> {
        weights::fingerprint(&self.folder)
    }
}

/// A model of which everything but the weights is read, so that what is wrong with it is told before they are.
pub struct ModelFolder {
    folder: PathBuf,
    flags: ModelFlags,
    tokenizer: Arc<dyn EncodeConversation>,
    max_positions: usize,
    name: String,
    head: HeadKind,
}

impl ModelFolder {
    /// Opens `model`, see [`LoadedModel::load`].
    ///
    /// # Errors
    /// What is wrong with the folder or its tokenizer, naming the file.
    pub fn open(model: &str, flags: &ModelFlags) -> Result<Self> {
        let folder = folder_of(model)?;
        let config = config_json::read_config(&folder)?;
        if config.head == HeadKind::CausalLm {
            return Err(Error::model(
                folder.join("config.json"),
                "found a language model without a reward head, expected a sequence-classification model \
                 (architectures: LlamaForSequenceClassification, Qwen2ForSequenceClassification or \
                 LlamaForRewardModelWithGating); \
                 `rmtrain fit` trains one from it",
            ));
        }
        let template = flags.chat_template.clone().map_or(ChatTemplateSource::Auto, ChatTemplateSource::File);
        let tokenizer = Tokenizer::load(&folder, &template, flags.date)?;
        if tokenizer.date_origin() == Some(DateOrigin::Today) {
            let today = tokenizer.template().date();
            eprintln!(
                "hint: the chat template prints today's date, so scores change with the calendar; --date {today} fixes it"
            );
        }
        let header = config.gating.map(|gating| gating.header);
        let tokenizer = CheckedTokenizer {
            tokenizer: Arc::new(tokenizer),
            vocab_size: config.decoder.vocab_size,
            header,
        };
        Ok(Self {
            tokenizer: Arc::new(tokenizer),
            max_positions: config.decoder.max_position_embeddings,
            name: if Path::new(model).is_dir() { folder.display().to_string() } else { model.to_owned() },
            head: config.head,
            flags: flags.clone(),
            folder,
        })
    }

    /// Reads the weights.
    ///
    /// # Errors
    /// What is wrong with them, or with the device.
    pub fn load(self) -> Result<LoadedModel> {
        let device = self.flags.device.open()?;
        let (scorer, reduce) = load_scorer(&self.folder, self.head, &device, &self.flags)?;
        Ok(LoadedModel {
            scorer,
            reduce,
            tokenizer: self.tokenizer,
            max_positions: self.max_positions,
            name: self.name,
            has_objectives: self.head == HeadKind::RewardModelWithGating,
            dtype: compute_dtype(device.is_cpu(), self.flags.dtype),
            folder: self.folder,
        })
    }
}

/// The engine's part: the weights on their device.
fn load_scorer(
    folder: &Path,
    head: HeadKind,
    device: &Device,
    flags: &ModelFlags,
) -> Result<(Box<dyn SequenceScorer>, Option<Reduce>)> {
    let (scorer, heads): (Box<dyn SequenceScorer>, usize) = match head {
        HeadKind::RewardModelWithGating => (Box::new(ArmoRm::load(folder, device, flags.dtype)?), 1),
        HeadKind::CausalLm | HeadKind::SequenceClassification => {
            // Never drawn: a folder without a head was refused when it was opened.
            let model = RewardModel::load(folder, device, flags.dtype, HeadInit::default())?;
            let heads = model.head_count();
            (Box::new(model), heads)
        }
    };
    match flags.reduce {
        Reduce::Mean => Ok((scorer, None)),
        Reduce::Min if heads == 1 => {
            eprintln!("hint: --reduce min changes nothing, {} has one head", folder.display());
            Ok((scorer, None))
        }
        reduce => Ok((Box::new(Reduced { scorer, reduce }), Some(reduce))),
    }
}

/// The model folder that `model` means.
fn folder_of(model: &str) -> Result<PathBuf> {
    let path = Path::new(model);
    if !path.is_dir() {
        return hub::resolve_model(model, None);
    }
    if path.join("config.json").is_file() {
        return Ok(path.to_path_buf());
    }
    run_folder::final_of(path)
}

/// A tokenizer whose ids the model knows: an id past the embedding, or an assistant's header that is missing, names its
/// row instead of failing in the engine.
pub(super) struct CheckedTokenizer {
    pub(super) tokenizer: Arc<Tokenizer>,
    pub(super) vocab_size: usize,
    /// Ids that every conversation must have, where the model reads the state at them.
    pub(super) header: Option<Vec<u32>>,
}

impl EncodeConversation for CheckedTokenizer {
    fn render(&self, messages: &[Message]) -> Result<String> {
        self.tokenizer.render(messages)
    }

    fn encode(&self, messages: &[Message]) -> Result<Vec<u32>> {
        let ids = self.tokenizer.encode(messages)?;
        let path = || self.tokenizer.folder().join("tokenizer.json");
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= self.vocab_size) {
            let reason = format!(
                "token {:?} has id {id}, the model's vocabulary ends at {}",
                self.tokenizer.tokens_of(&[id]).concat(),
                self.vocab_size.saturating_sub(1)
            );
            return Err(Error::Tokenizer { path: path(), reason });
        }
        if let Some(header) = &self.header
            && last_occurrence(&ids, header).is_none()
        {
            let reason = format!(
                "the conversation has no {:?}, the assistant's header whose hidden state the model's gate reads; is \
                 this the model's own chat template?",
                self.tokenizer.tokens_of(header).concat()
            );
            return Err(Error::Tokenizer { path: path(), reason });
        }
        Ok(ids)
    }

    fn bos_token_id(&self) -> Option<u32> {
        self.tokenizer.bos_token_id()
    }

    fn fingerprint(&self) -> String {
        self.tokenizer.fingerprint()
    }
}
