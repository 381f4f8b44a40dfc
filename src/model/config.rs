//! `[model]`: what is trained and in which precision.

use serde_json::{Map, Value};

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

/// Standard deviation of a freshly drawn head.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum HeadInitStd {
    /// `"1/sqrt(hidden)"`: |W_p| starts at about 1.
    InverseSqrtHidden,
    Value(f64),
}
