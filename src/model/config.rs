//! `[model]`: what is trained and in which precision.

use super::Freeze;
use super::decoder_config::DecoderConfig;
use super::ensemble_file::MAX_HEADS;
use crate::base::located::{Located, Place, Table, Value as Toml};
use crate::base::reader::{POSITIVE, Section, Words};
use crate::base::toml_writer::{OrWord, TomlWriter, Word};
use serde_json::{Map, Number, Value};
use std::ops::Bound;

/// The word for a head whose deviation follows from the hidden size.
const INVERSE_SQRT_HIDDEN: &str = "1/sqrt(hidden)";

/// A part of a whole, not nothing.
const SHARE: (Bound<f64>, Bound<f64>) = (Bound::Excluded(0.0), Bound::Included(1.0));

/// The `[model]` section.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub source: Source,
    /// Where the tokenizer comes from, if not from the model: a folder, a hub id, or `sandbox`.
    pub tokenizer: Option<String>,
    /// A branch, tag or commit of the hub repository.
    pub revision: Option<String>,
    /// Compute precision; masters and moments are f32 whatever it is. `None`: f32 on the CPU, bf16 on CUDA.
    pub dtype: Option<Dtype>,
    pub head_init_std: HeadInitStd,
    /// Reward heads on the one backbone; more than one are an ensemble.
    pub heads: usize,
    /// The share of the pairs that each head of an ensemble learns from.
    pub head_share: f64,
    pub freeze: Freeze,
}

/// Where the weights come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// `path`: a folder or a hub id.
    Path(String),
    /// `[model.random]`: a `config.json` shape; weights are drawn.
    Random(Map<String, Value>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    F32,
    Bf16,
    F16,
}

impl From<Dtype> for candle_core::DType {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => candle_core::DType::F32,
            Dtype::Bf16 => candle_core::DType::BF16,
            Dtype::F16 => candle_core::DType::F16,
        }
    }
}

/// Standard deviation of a freshly drawn head.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum HeadInitStd {
    /// `"1/sqrt(hidden)"`: |W_p| starts at about 1.
    InverseSqrtHidden,
    Value(f64),
}

/// The word for the sandbox's own tokenizer in `model.tokenizer`.
pub const SANDBOX_TOKENIZER: &str = "sandbox";

impl Words for Dtype {
    const WORDS: &'static [(&'static str, Self)] =
        &[("f32", Dtype::F32), ("bf16", Dtype::Bf16), ("f16", Dtype::F16)];
}

/// `dtype`: a precision that trains, or `auto`. Not f16: the gradients of most values lie below its smallest number.
#[derive(Clone, Copy, PartialEq)]
struct DtypeOrAuto(Option<Dtype>);

impl Words for DtypeOrAuto {
    const WORDS: &'static [(&'static str, Self)] =
        &[("auto", Self(None)), ("f32", Self(Some(Dtype::F32))), ("bf16", Self(Some(Dtype::Bf16)))];
}

impl Config {
    /// Reads the section. What is wrong with it goes on the section's record; the value is of no use then.
    pub(crate) fn read(mut section: Section<'_>) -> Self {
        let path_given = section.place_of("path").is_some();
        let path = section.string("path", "a folder or a hub id such as \"Qwen/Qwen2.5-3B\"");
        let tokenizer = section.string("tokenizer", "a folder, a hub id, \"sandbox\" or \"auto\"");
        let random_place = section.place_of("random").cloned();
        let random = section.section("random").map(read_random);
        if random.is_some() && tokenizer.as_deref().is_none_or(|word| word == "auto") {
            section.problem(
                random_place.clone(),
                "tokenizer",
                "found nothing, expected a folder, a hub id or \"sandbox\": a model from scratch has none of its own",
            );
        }
        let source = match (path, random) {
            (Some(path), None) => Source::Path(path),
            (None, Some(random)) => Source::Random(random),
            (Some(_), Some(_)) => {
                let message = "found beside path, expected one of the two";
                section.problem(random_place, "random", message);
                Source::Random(Map::new())
            }
            (None, None) if path_given => Source::Random(Map::new()),
            (None, None) => {
                section.missing("path", "a folder or a hub id (or a [model.random] table)");
                Source::Random(Map::new())
            }
        };
        let heads = section.count("heads", 1..=MAX_HEADS as u64).unwrap_or(1);
        let share_place = section.place_of("head_share").cloned();
        let head_share = section.number("head_share", SHARE).unwrap_or(1.0);
        if heads == 1 && head_share < 1.0 {
            let text = format!(
                "found {head_share} with one head, expected 1.0: nobody else learns from the other pairs"
            );
            section.problem(share_place, "head_share", &text);
        }
        let config = Self {
            source,
            tokenizer: tokenizer.filter(|word| word != "auto"),
            revision: section
                .string("revision", "a branch, tag or commit of the hub repository")
                .filter(|word| word != "auto"),
            dtype: section.word("dtype").and_then(|DtypeOrAuto(dtype)| dtype),
            head_init_std: section
                .number_or("head_init_std", POSITIVE, INVERSE_SQRT_HIDDEN)
                .flatten()
                .map_or(HeadInitStd::InverseSqrtHidden, HeadInitStd::Value),
            heads,
            head_share,
            freeze: Freeze {
                embeddings: section.boolean("freeze_embeddings").unwrap_or_default(),
                layers: section.count("freeze_layers", 0..=u64::MAX).unwrap_or_default(),
            },
        };
        section.finish();
        config
    }

    /// Writes the section with every key.
    pub(crate) fn write(&self, out: &mut TomlWriter) {
        out.header("[model]");
        if let Source::Path(path) = &self.source {
            out.entry("path", path);
        }
        out.entry("tokenizer", OrWord(self.tokenizer.as_ref(), "auto"));
        out.entry("revision", OrWord(self.revision.as_ref(), "auto"));
        out.entry("dtype", Word(DtypeOrAuto(self.dtype)));
        let std = match self.head_init_std {
            HeadInitStd::InverseSqrtHidden => None,
            HeadInitStd::Value(std) => Some(std),
        };
        out.entry("head_init_std", OrWord(std, INVERSE_SQRT_HIDDEN));
        out.entry("heads", self.heads);
        out.entry("head_share", self.head_share);
        out.entry("freeze_embeddings", self.freeze.embeddings);
        out.entry("freeze_layers", self.freeze.layers);
        if let Source::Random(shape) = &self.source {
            out.header("[model.random]");
            for (key, value) in shape.iter().filter(|(_, value)| !value.is_null()) {
                out.entry(key, value);
            }
        }
    }
}

/// Reads `[model.random]` into JSON and has the decoder judge it, so that a wrong shape is found before any weight.
fn read_random(section: Section<'_>) -> Map<String, Value> {
    let places: Vec<(String, Place)> =
        section.table().iter().map(|(key, located)| (key.clone(), located.place.clone())).collect();
    let mut sound = true;
    let map = table_to_json(section.table(), &mut |located| {
        sound = false;
        let message = format!("found {}, expected a value that config.json can hold", located.value);
        section.problem(Some(located.place.clone()), "*", &message);
    });
    if sound && let Err(problems) = DecoderConfig::from_json(&map) {
        for problem in problems {
            let named = |key: &str| problem.strip_prefix(key).is_some_and(|rest| !rest.starts_with('_'));
            let place = places.iter().find(|(key, _)| named(key)).map(|(_, place)| place.clone());
            let (key, text) = problem.split_once(": ").unwrap_or(("*", &problem));
            section.problem(place, key, text);
        }
    }
    map
}

fn table_to_json(table: &Table, refuse: &mut dyn FnMut(&Located)) -> Map<String, Value> {
    table.iter().map(|(key, located)| (key.clone(), to_json(located, refuse))).collect()
}

fn to_json(located: &Located, refuse: &mut dyn FnMut(&Located)) -> Value {
    let value = match &located.value {
        Toml::String(text) => Some(Value::String(text.clone())),
        Toml::Boolean(value) => Some(Value::Bool(*value)),
        Toml::Integer(number) => Number::from_i128(*number).map(Value::Number),
        Toml::Float(number) => Number::from_f64(*number).map(Value::Number),
        Toml::Datetime(_) => None,
        Toml::Array(items) => Some(Value::Array(items.iter().map(|item| to_json(item, refuse)).collect())),
        Toml::Table(table) => Some(Value::Object(table_to_json(table, refuse))),
    };
    value.unwrap_or_else(|| {
        refuse(located);
        Value::Null
    })
}
