//! Hugging Face's `config.json`: read into a [`DecoderConfig`], and written for an exported reward model.
//!
//! Whatever would make the decoder compute something else than transformers does is refused by name; nothing is
//! guessed. The tensors that a shape implies are in [`super::decoder_config`].

mod export;
mod fields;
mod gating;
mod rope;

use super::config::Dtype;
use super::decoder_config::{DecoderConfig, Family};
use super::ensemble_file;
use crate::base::{Error, Result, atomic};
use fields::Fields;
pub use gating::GatingConfig;
use serde_json::{Map, Value};
use std::path::Path;

/// The file's name in a model folder.
pub const FILE_NAME: &str = "config.json";

/// A real config.json has a few kilobytes.
const MAX_CONFIG_BYTES: u64 = 16 << 20;

// Limits far above any real model, and low enough that no product of two sizes overflows 64 bits.
const MAX_WIDTH: usize = 1 << 24;
const MAX_VOCAB: usize = 1 << 28;
const MAX_LAYERS: usize = 1 << 14;
const MAX_HEADS: usize = 1 << 14;
const MAX_POSITIONS: usize = 1 << 32;

/// What a model folder's `config.json` says.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    pub decoder: DecoderConfig,
    pub head: HeadKind,
    /// The gate's shape, with [`HeadKind::RewardModelWithGating`].
    pub gating: Option<GatingConfig>,
    /// The heads of an ensemble, with [`HeadKind::SequenceClassification`], where the file counts them.
    pub heads: Option<usize>,
    /// The whole file, for an export that keeps what we do not interpret.
    pub json: Map<String, Value>,
}

/// What stands on top of the decoder in the folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadKind {
    /// An LM head, which a reward model replaces by a freshly drawn `score.weight`.
    CausalLm,
    /// A `score.weight` with one label, which is kept.
    SequenceClassification,
    /// ArmoRM's: objectives weighed by a gate. It scores and is not trained.
    RewardModelWithGating,
}

impl HeadKind {
    const ALL: [HeadKind; 3] =
        [HeadKind::CausalLm, HeadKind::SequenceClassification, HeadKind::RewardModelWithGating];

    fn class_suffix(self) -> &'static str {
        match self {
            HeadKind::CausalLm => "ForCausalLM",
            HeadKind::SequenceClassification => "ForSequenceClassification",
            HeadKind::RewardModelWithGating => "ForRewardModelWithGating",
        }
    }

    /// The gated head has been published for Llama alone.
    fn stands_on(self, family: Family) -> bool {
        self != HeadKind::RewardModelWithGating || family == Family::Llama
    }
}

impl ModelConfig {
    /// The decoder, if this is a model that can be trained.
    ///
    /// # Errors
    /// [`Error::Model`] for a gated reward model.
    pub fn trainable(self, folder: &Path) -> Result<ModelConfig> {
        if self.head != HeadKind::RewardModelWithGating {
            return Ok(self);
        }
        Err(Error::model(
            folder.join(FILE_NAME),
            "found a multi-objective reward model with a gate (LlamaForRewardModelWithGating), which scores but is not \
             trained; expected a causal language model or a sequence-classification model. `rmtrain label` writes its \
             scores as gold",
        ))
    }
}

/// Reads `config.json` of a model folder.
///
/// # Errors
/// [`Error::Model`] lists every unsupported or wrong key with what was found and what is supported.
pub fn read_config(folder: &Path) -> Result<ModelConfig> {
    let path = folder.join(FILE_NAME);
    let fail = |reason: String| Err(Error::model(&path, reason));
    let metadata = match std::fs::metadata(&path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let found = if folder.is_dir() { "no such file" } else { "no such folder" };
            return fail(format!("found {found}, expected the config.json of a Llama or Qwen2 model"));
        }
        Err(error) => return Err(Error::io(&path)(error)),
    };
    if !metadata.is_file() || metadata.len() > MAX_CONFIG_BYTES {
        return fail(format!("found a folder or {} bytes, expected a small JSON file", metadata.len()));
    }
    let bytes = std::fs::read(&path).map_err(Error::io(&path))?;
    let json: Map<String, Value> = match serde_json::from_slice(&bytes) {
        Ok(json) => json,
        Err(error) => return fail(format!("not a JSON object: {error}")),
    };
    match parse(&json, Strictness::HuggingFace) {
        Ok(Parsed { decoder, head: Some(head), gating, heads }) => {
            Ok(ModelConfig { decoder, head, gating, heads, json })
        }
        Ok(Parsed { head: None, .. }) => {
            fail(format!("architectures: missing, expected one of {}", architectures()))
        }
        Err(problems) => match problems.as_slice() {
            [one] => fail(one.clone()),
            many => fail(format!("{} unsupported settings\n  - {}", many.len(), many.join("\n  - "))),
        },
    }
}

/// Writes `config.json` of an exported reward model (`..ForSequenceClassification` with one label).
///
/// `original` is kept key by key, in order, but for what the export decides: `architectures`, `model_type`,
/// the label maps, `pad_token_id`, the precision and, with more than one of `heads`, their number. Shape keys that `original` leaves to defaults are written
/// out, since the libraries' defaults differ.
///
/// # Errors
/// [`Error::Io`].
pub fn write_config(
    folder: &Path,
    original: &Map<String, Value>,
    decoder: &DecoderConfig,
    pad_token_id: u32,
    dtype: Dtype,
    heads: usize,
) -> Result<()> {
    let json = export::export(original, decoder, pad_token_id, dtype, heads);
    atomic::write(&folder.join(FILE_NAME), |out| {
        use std::io::Write;
        serde_json::to_writer_pretty(&mut *out, &json)?;
        out.write_all(b"\n")
    })
}

impl DecoderConfig {
    /// Reads a shape given in `config.json` keys, as `[model.random]` does. `model_type` or `architectures` picks
    /// the family; keys that config.json does not have are refused.
    ///
    /// # Errors
    /// Every problem, each naming its key, what was found and what is supported.
    pub fn from_json(json: &Map<String, Value>) -> Result<DecoderConfig, Vec<String>> {
        parse(json, Strictness::KnownKeys).map(|parsed| parsed.decoder)
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Strictness {
    /// A model's own file may carry any key that we have never heard of.
    HuggingFace,
    /// What a user typed: an unknown key is a typing error.
    KnownKeys,
}

struct Parsed {
    decoder: DecoderConfig,
    head: Option<HeadKind>,
    gating: Option<GatingConfig>,
    heads: Option<usize>,
}

fn parse(json: &Map<String, Value>, strictness: Strictness) -> Result<Parsed, Vec<String>> {
    let mut fields = Fields::new(json);
    let (family, head) = identify(&mut fields);

    let hidden_size = fields.size("hidden_size", None, MAX_WIDTH);
    let intermediate_size = fields.size("intermediate_size", None, MAX_WIDTH);
    let num_layers = fields.size("num_hidden_layers", None, MAX_LAYERS);
    let num_heads = fields.size("num_attention_heads", None, MAX_HEADS);
    let num_kv_heads = fields.size("num_key_value_heads", num_heads, MAX_HEADS);
    let vocab_size = fields.size("vocab_size", None, MAX_VOCAB);
    let even_split = hidden_size.zip(num_heads).and_then(|(hidden, heads)| match hidden % heads {
        0 => Some(hidden / heads),
        _ => None,
    });
    if fields.get("head_dim").is_none()
        && hidden_size.is_some()
        && num_heads.is_some()
        && even_split.is_none()
    {
        fields.problem(format!(
            "head_dim: missing, and hidden_size {} does not divide by num_attention_heads {}",
            hidden_size.unwrap_or_default(),
            num_heads.unwrap_or_default()
        ));
    }
    // A missing or wrong size above is one problem, not two.
    let head_dim = match fields.get("head_dim") {
        None => even_split,
        Some(_) => fields.size("head_dim", None, MAX_WIDTH),
    };
    if let Some(odd) = head_dim.filter(|d| d % 2 == 1) {
        fields.problem(format!(
            "head_dim: found {odd}, expected an even number (rotary embeddings turn pairs)"
        ));
    }
    if let Some((heads, kv_heads)) = num_heads.zip(num_kv_heads)
        && heads % kv_heads != 0
    {
        fields.problem(format!(
            "num_key_value_heads: found {kv_heads}, expected a divisor of num_attention_heads, {heads}"
        ));
    }
    let positions = match family {
        Some(Family::Qwen2) => 32768,
        _ => 2048,
    };
    let max_position_embeddings = fields.size("max_position_embeddings", Some(positions), MAX_POSITIONS);
    let rms_norm_eps = fields.positive("rms_norm_eps", Some(1e-6));
    let initializer_range = fields.positive("initializer_range", Some(0.02));
    let (rope_theta, rope_scaling) = rope::read(&mut fields);
    refuse_unsupported(&mut fields, family);

    let tie_word_embeddings = fields.flag("tie_word_embeddings", false);
    // Qwen2's modules have these biases whatever config.json says; its files do not carry the keys.
    let (qkv_bias, output_bias, mlp_bias) = match family {
        Some(Family::Qwen2) => (true, false, false),
        _ => {
            let attention_bias = fields.flag("attention_bias", false);
            (attention_bias, attention_bias, fields.flag("mlp_bias", false))
        }
    };
    let heads = (head == Some(HeadKind::SequenceClassification)).then(|| {
        check_single_label(&mut fields);
        head_count(&mut fields)
    });
    // A gated model's labels say nothing: its score is one number whatever they count.
    let is_gated = head == Some(HeadKind::RewardModelWithGating);
    let gating = is_gated.then(|| gating::read(&mut fields, vocab_size)).flatten();
    if strictness == Strictness::KnownKeys {
        fields.refuse_unknown();
    }
    let problems = fields.into_problems();
    if !problems.is_empty() {
        return Err(problems);
    }
    let config = (|| {
        Some(DecoderConfig {
            family: family?,
            hidden_size: hidden_size?,
            intermediate_size: intermediate_size?,
            num_layers: num_layers?,
            num_heads: num_heads?,
            num_kv_heads: num_kv_heads?,
            head_dim: head_dim?,
            vocab_size: vocab_size?,
            rms_norm_eps: rms_norm_eps?,
            rope_theta: rope_theta?,
            rope_scaling,
            max_position_embeddings: max_position_embeddings?,
            qkv_bias,
            output_bias,
            mlp_bias,
            tie_word_embeddings,
            initializer_range: initializer_range?,
        })
    })();
    // Whatever is absent has left a problem behind; this is for the compiler, and honest if that ever changes.
    config
        .map(|decoder| Parsed { decoder, head, gating, heads: heads.flatten() })
        .ok_or_else(|| vec!["the shape is incomplete".to_owned()])
}

fn architectures() -> String {
    let mut names = Vec::new();
    for family in Family::ALL {
        for head in HeadKind::ALL.into_iter().filter(|head| head.stands_on(family)) {
            names.push(format!("{}{}", family.class_prefix(), head.class_suffix()));
        }
    }
    names.join(", ")
}

/// The family from `architectures`, or from `model_type` where that is absent; both must agree.
fn identify(fields: &mut Fields) -> (Option<Family>, Option<HeadKind>) {
    let by_type = fields.get("model_type").map(|value| {
        let found = Family::ALL.into_iter().find(|family| value.as_str() == Some(family.model_type()));
        if found.is_none() {
            fields.problem(format!("model_type: found {}, expected \"llama\" or \"qwen2\"", shown(value)));
        }
        found
    });
    let Some(value) = fields.get("architectures") else {
        if by_type.is_none() {
            fields.problem(
                "model_type: missing, expected \"llama\" or \"qwen2\" (or one of architectures)".to_owned(),
            );
        }
        return (by_type.flatten(), None);
    };
    let class = value.as_array().and_then(|list| match list.as_slice() {
        [one] => one.as_str(),
        _ => None,
    });
    let parsed = class.and_then(|class| {
        Family::ALL.into_iter().find_map(|family| {
            let suffix = class.strip_prefix(family.class_prefix())?;
            let mut heads = HeadKind::ALL.into_iter().filter(|head| head.stands_on(family));
            heads.find(|head| head.class_suffix() == suffix).map(|head| (family, head))
        })
    });
    let Some((family, head)) = parsed else {
        fields.problem(format!(
            "architectures: found {}, supported: one of {}",
            shown(value),
            architectures()
        ));
        return (by_type.flatten(), None);
    };
    if let Some(Some(other)) = by_type
        && other != family
    {
        fields.problem(format!(
            "model_type: found \"{}\", but architectures says {}",
            other.model_type(),
            shown(value)
        ));
    }
    (Some(family), Some(head))
}

/// Settings that change the computation and that the decoder does not have.
fn refuse_unsupported(fields: &mut Fields, family: Option<Family>) {
    if let Some(act) = fields.get("hidden_act")
        && !matches!(act.as_str(), Some("silu" | "swish"))
    {
        fields.problem(format!("hidden_act: found {}, supported: \"silu\"", shown(act)));
    }
    if let Some(found) = fields.get("quantization_config") {
        let method = found.get("quant_method").unwrap_or(found);
        fields.problem(format!(
            "quantization_config: found {}, supported: none; use the unquantized weights",
            shown(method)
        ));
    }
    if let Some(found) = fields.get("partial_rotary_factor")
        && found.as_f64() != Some(1.0)
    {
        fields.problem(format!("partial_rotary_factor: found {}, supported: 1.0", shown(found)));
    }
    if family == Some(Family::Qwen2) {
        match fields.get("use_sliding_window") {
            None | Some(Value::Bool(false)) => {}
            Some(found) => fields.problem(format!(
                "use_sliding_window: found {}, supported: false (sliding-window attention is not implemented)",
                shown(found)
            )),
        }
    }
    if let Some(found) = fields.get("layer_types") {
        let full = found.as_array().is_some_and(|kinds| kinds.iter().all(|kind| kind == "full_attention"));
        if !full {
            fields.problem(format!(
                "layer_types: found {}, supported: \"full_attention\" in every layer",
                shown(found)
            ));
        }
    }
}

/// A reward model has one label: `id2label` decides, as in transformers, and `num_labels` must not contradict it.
fn check_single_label(fields: &mut Fields) {
    let labels = fields.get("id2label");
    let count = fields.get("num_labels");
    match labels.map(|labels| (labels, labels.as_object().map(Map::len))) {
        Some((_, Some(1))) => {}
        Some((_, Some(n))) => {
            fields.problem(format!("id2label: found {n} labels, expected 1 (a reward is one number)"));
        }
        Some((other, None)) => {
            fields.problem(format!("id2label: found {}, expected {{\"0\": \"LABEL_0\"}}", shown(other)));
        }
        None if count.is_none() => fields.problem(
            "id2label: missing, so transformers assumes 2 labels; expected {\"0\": \"LABEL_0\"}".to_owned(),
        ),
        None => {}
    }
    if let Some(count) = count
        && count.as_u64() != Some(1)
    {
        fields.problem(format!("num_labels: found {}, expected 1 (a reward is one number)", shown(count)));
    }
}

/// The heads of an ensemble; one head is not counted.
fn head_count(fields: &mut Fields) -> Option<usize> {
    let value = fields.get(ensemble_file::COUNT_KEY)?;
    let count = value.as_u64().and_then(|n| usize::try_from(n).ok());
    let count = count.filter(|n| (2..=ensemble_file::MAX_HEADS).contains(n));
    if count.is_none() {
        fields.problem(format!(
            "{}: found {}, expected a whole number from 2 to {}, the heads in {}",
            ensemble_file::COUNT_KEY,
            shown(value),
            ensemble_file::MAX_HEADS,
            ensemble_file::FILE
        ));
    }
    count
}

/// JSON in a message, kept short.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(100) {
        None => text,
        Some((cut, _)) => format!("{}..", &text[..cut]),
    }
}

#[cfg(test)]
mod tests;
