//! The keys of a `LlamaForRewardModelWithGating`: how many objectives, and the gate's shape.

use super::fields::Fields;
use super::{MAX_VOCAB, MAX_WIDTH, shown};

/// Far above any real gate.
const MAX_GATE_LAYERS: usize = 64;

/// The head of a gated multi-objective reward model. What a file leaves out is as published with
/// RLHFlow/ArmoRM-Llama3-8B-v0.1.
#[derive(Debug, Clone, PartialEq)]
pub struct GatingConfig {
    /// `num_objectives`.
    pub objectives: usize,
    /// `gating_hidden_dim`.
    pub hidden_dim: usize,
    /// `gating_n_hidden`.
    pub hidden_layers: usize,
    /// `gating_temperature`.
    pub temperature: f64,
    /// Token ids of the assistant's header, `<|eot_id|>` before it included; the gate reads the hidden state of the
    /// first one. The published code has them as a constant; `gating_token_pattern` is for another vocabulary.
    pub header: Vec<u32>,
}

/// `<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n` in Llama 3's vocabulary.
const LLAMA3_HEADER: [u32; 5] = [128009, 128006, 78191, 128007, 271];

pub(super) fn read(fields: &mut Fields, vocab_size: Option<usize>) -> Option<GatingConfig> {
    let objectives = fields.size("num_objectives", Some(19), MAX_WIDTH);
    let hidden_dim = fields.size("gating_hidden_dim", Some(1024), MAX_WIDTH);
    let hidden_layers = fields.size("gating_n_hidden", Some(3), MAX_GATE_LAYERS);
    let temperature = fields.positive("gating_temperature", Some(10.0));
    let header = header(fields, vocab_size);
    Some(GatingConfig {
        objectives: objectives?,
        hidden_dim: hidden_dim?,
        hidden_layers: hidden_layers?,
        temperature: temperature?,
        header: header?,
    })
}

/// The header's ids, each of them in the vocabulary.
fn header(fields: &mut Fields, vocab_size: Option<usize>) -> Option<Vec<u32>> {
    const KEY: &str = "gating_token_pattern";
    let (ids, whose) = match fields.get(KEY) {
        None => (Some(LLAMA3_HEADER.to_vec()), "missing, so Llama 3's"),
        Some(value) => {
            let id = |value: &serde_json::Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
            let ids = value.as_array().and_then(|ids| ids.iter().map(id).collect::<Option<Vec<u32>>>());
            let ids = ids.filter(|ids| !ids.is_empty());
            if ids.is_none() {
                let found = shown(value);
                fields.problem(format!("{KEY}: found {found}, expected a list of token ids"));
            }
            (ids, "found")
        }
    };
    let ids = ids?;
    let vocab_size = vocab_size.unwrap_or(MAX_VOCAB);
    if let Some(id) = ids.iter().find(|&&id| id as usize >= vocab_size) {
        fields.problem(format!(
            "{KEY}: {whose} {ids:?}, but {id} is past vocab_size {vocab_size}; expected the ids of the assistant's \
             header in this vocabulary"
        ));
        return None;
    }
    Some(ids)
}
