//! What a reward model's `config.json` says: the original's keys, and those that the export decides.

use super::HeadKind;
use crate::model::config::Dtype;
use crate::model::decoder_config::{DecoderConfig, Family};
use crate::model::ensemble_file;
use serde_json::{Map, Value, json};

/// The file of a reward model with one label that `decoder` and a head, or the mean of several, make.
pub(super) fn export(
    original: &Map<String, Value>,
    decoder: &DecoderConfig,
    pad_token_id: u32,
    dtype: Dtype,
    heads: usize,
) -> Map<String, Value> {
    let mut json = original.clone();
    let head = HeadKind::SequenceClassification;
    json.insert(
        "architectures".into(),
        json!([format!("{}{}", decoder.family.class_prefix(), head.class_suffix())]),
    );
    json.insert("model_type".into(), json!(decoder.family.model_type()));
    for (key, value) in shape_keys(decoder, original) {
        let slot = json.entry(key).or_insert(Value::Null);
        if slot.is_null() {
            *slot = value;
        }
    }
    // transformers counts the labels in id2label; a second count could contradict it.
    json.shift_remove("num_labels");
    json.insert("id2label".into(), json!({"0": "LABEL_0"}));
    json.insert("label2id".into(), json!({"LABEL_0": 0}));
    // A key that nobody else reads: to transformers the model has one head, and it has.
    match heads {
        0 | 1 => json.shift_remove(ensemble_file::COUNT_KEY),
        _ => json.insert(ensemble_file::COUNT_KEY.into(), json!(heads)),
    };
    json.insert("pad_token_id".into(), json!(pad_token_id));
    let precision = match dtype {
        Dtype::F32 => "float32",
        Dtype::Bf16 => "bfloat16",
        Dtype::F16 => "float16",
    };
    json.insert("torch_dtype".into(), json!(precision));
    // The newer name of the same setting wins in transformers where both stand.
    if json.contains_key("dtype") {
        json.insert("dtype".into(), json!(precision));
    }
    json
}

/// The shape in config.json keys, for those that the original leaves out.
fn shape_keys(decoder: &DecoderConfig, original: &Map<String, Value>) -> Vec<(&'static str, Value)> {
    let mut keys = vec![
        ("vocab_size", json!(decoder.vocab_size)),
        ("hidden_size", json!(decoder.hidden_size)),
        ("intermediate_size", json!(decoder.intermediate_size)),
        ("num_hidden_layers", json!(decoder.num_layers)),
        ("num_attention_heads", json!(decoder.num_heads)),
        ("num_key_value_heads", json!(decoder.num_kv_heads)),
        ("head_dim", json!(decoder.head_dim)),
        ("hidden_act", json!("silu")),
        ("max_position_embeddings", json!(decoder.max_position_embeddings)),
        ("initializer_range", json!(decoder.initializer_range)),
        ("rms_norm_eps", json!(decoder.rms_norm_eps)),
        ("tie_word_embeddings", json!(decoder.tie_word_embeddings)),
    ];
    if original.get("rope_parameters").is_none_or(Value::is_null) {
        keys.push(("rope_theta", json!(decoder.rope_theta)));
        if let Some(scaling) = &decoder.rope_scaling {
            keys.push((
                "rope_scaling",
                json!({
                    "rope_type": "llama3",
                    "factor": scaling.factor,
                    "low_freq_factor": scaling.low_freq_factor,
                    "high_freq_factor": scaling.high_freq_factor,
                    "original_max_position_embeddings": scaling.original_max_position_embeddings,
                }),
            ));
        }
    }
    match decoder.family {
        Family::Llama => {
            keys.push(("attention_bias", json!(decoder.qkv_bias)));
            keys.push(("mlp_bias", json!(decoder.mlp_bias)));
        }
        Family::Qwen2 => keys.push(("use_sliding_window", json!(false))),
    }
    keys
}
