//! candle-transformers' own forward passes as a second oracle, beside PyTorch.
//!
//! Its models use operations without a backward, which is why they only judge here.

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{llama, qwen2};
use rmtrain::model::reward_model::HeadInit;
use rmtrain::model::{Keep, Pack, RewardModel, config::Dtype, reward_head};
use serde_json::{Value, json};

const IDS: [u32; 40] = {
    let mut ids = [0; 40];
    let mut i = 0;
    while i < 40 {
        ids[i] = (i as u32 * 37 + 11) % 96;
        i += 1;
    }
    ids
};

/// A model from scratch, saved to a folder: our last hidden state, the weights as candle reads them, `config.json`.
fn saved(shape: Value) -> (Vec<f32>, VarBuilder<'static>, Value, Vec<Vec<f32>>) {
    let head = HeadInit { seed: 3, ..HeadInit::default() };
    let model = RewardModel::random(shape.as_object().unwrap(), &Device::Cpu, None, head).unwrap();
    let folder = tempfile::tempdir().unwrap();
    model.save(folder.path(), 0, Dtype::F32).unwrap();
    let hidden = model.forward(&Pack::new(&[vec![IDS.to_vec()]]), Keep::Nothing).unwrap().hidden;
    let embedding = model.parameters().id("model.embed_tokens.weight").unwrap();
    let table = model.parameters().get(embedding).master().to_vec2().unwrap();
    let tensors =
        candle_core::safetensors::load(folder.path().join("model.safetensors"), &Device::Cpu).unwrap();
    let config = std::fs::read(folder.path().join("config.json")).unwrap();
    let weights = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    (hidden, weights, serde_json::from_slice(&config).unwrap(), table)
}

fn shape(model_type: &str) -> Value {
    json!({
        "model_type": model_type, "vocab_size": 96, "hidden_size": 48, "intermediate_size": 80,
        "num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 2,
        "max_position_embeddings": 128, "rope_theta": 10000.0, "rms_norm_eps": 1e-5,
        "tie_word_embeddings": true, "initializer_range": 0.2,
    })
}

#[track_caller]
fn assert_close(found: &[f64], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    for (f, &e) in found.iter().zip(expected) {
        assert!((f - f64::from(e)).abs() < 2e-5 * (1.0 + f64::from(e.abs())), "{f} against {e}");
    }
}

#[test]
fn qwen2_hidden_states() {
    let (hidden, weights, mut config, _) = saved(shape("qwen2"));
    for (key, value) in [("sliding_window", json!(128)), ("max_window_layers", json!(3))] {
        config[key] = value;
    }
    config["use_sliding_window"] = json!(false);
    config["hidden_act"] = json!("silu");
    let config: qwen2::Config = serde_json::from_value(config).unwrap();
    let mut model = qwen2::Model::new(&config, weights).unwrap();
    let ids = Tensor::new(&[IDS], &Device::Cpu).unwrap();
    let states = model.forward(&ids, 0, None).unwrap();
    let last: Vec<f32> = states.get(0).unwrap().get(IDS.len() - 1).unwrap().to_vec1().unwrap();
    let hidden: Vec<f64> = hidden.iter().map(|&h| f64::from(h)).collect();
    assert_close(&hidden, &last);
}

#[test]
fn llama_logits_with_scaled_rotary_frequencies() {
    let mut shape = shape("llama");
    shape["rope_scaling"] = json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32
    });
    let (hidden, weights, config, table) = saved(shape);
    let config: llama::LlamaConfig = serde_json::from_value(config).unwrap();
    let config = config.into_config(false);
    let model = llama::Llama::load(weights, &config).unwrap();
    let mut cache = llama::Cache::new(false, DType::F32, &config, &Device::Cpu).unwrap();
    let ids = Tensor::new(&[IDS], &Device::Cpu).unwrap();
    let expected: Vec<f32> = model.forward(&ids, 0, &mut cache).unwrap().get(0).unwrap().to_vec1().unwrap();
    let logits: Vec<f64> = table.iter().map(|row| reward_head::dot(row, &hidden)).collect();
    assert_close(&logits, &expected);
}
