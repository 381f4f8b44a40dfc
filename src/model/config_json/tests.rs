use super::*;
use crate::model::Llama3RopeScaling;
use proptest::prelude::*;
use serde_json::json;

fn llama() -> Map<String, Value> {
    object(json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 172,
        "num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 512,
        "rms_norm_eps": 1e-5, "hidden_act": "silu"
    }))
}

fn object(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

fn with(changes: Value) -> Map<String, Value> {
    let mut json = llama();
    json.extend(object(changes));
    json
}

fn read(json: &Map<String, Value>) -> Result<ModelConfig> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(FILE_NAME), serde_json::to_vec(json).unwrap()).unwrap();
    read_config(folder.path())
}

fn refused(json: &Map<String, Value>, says: &str) {
    let message = read(json).expect_err(says).to_string();
    assert!(message.contains(says), "{message:?} does not say {says:?}");
}

#[test]
fn defaults_are_those_of_transformers() {
    let ModelConfig { decoder, head, .. } = read(&llama()).unwrap();
    assert_eq!(head, HeadKind::CausalLm);
    assert_eq!((decoder.head_dim, decoder.rope_theta, decoder.max_position_embeddings), (8, 10000.0, 2048));
    assert!(!decoder.qkv_bias && !decoder.output_bias && !decoder.mlp_bias && !decoder.tie_word_embeddings);
    assert_eq!(decoder.rope_scaling, None);
    let mut heads_only = llama();
    heads_only.remove("num_key_value_heads");
    assert_eq!(read(&heads_only).unwrap().decoder.num_kv_heads, 8);
}

#[test]
fn qwen2_always_has_its_biases() {
    let json =
        with(json!({"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "sliding_window": 512,
        "use_sliding_window": false, "attention_bias": false}));
    let decoder = read(&json).unwrap().decoder;
    assert_eq!(decoder.family, Family::Qwen2);
    assert!(decoder.qkv_bias && !decoder.output_bias && !decoder.mlp_bias);
    assert_eq!(decoder.max_position_embeddings, 32768);
}

#[test]
fn llama_options_are_read() {
    let json = with(json!({"attention_bias": true, "mlp_bias": true, "head_dim": 16,
        "tie_word_embeddings": true, "rope_theta": 500000}));
    let decoder = read(&json).unwrap().decoder;
    assert!(decoder.qkv_bias && decoder.output_bias && decoder.mlp_bias && decoder.tie_word_embeddings);
    assert_eq!((decoder.head_dim, decoder.rope_theta), (16, 500000.0));
}

#[test]
fn every_spelling_of_llama3_scaling_is_read() {
    let numbers = json!({"factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192});
    let expected = Llama3RopeScaling {
        factor: 32.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };
    for (key, kind) in
        [("rope_scaling", "rope_type"), ("rope_scaling", "type"), ("rope_parameters", "rope_type")]
    {
        let mut scaling = numbers.clone();
        scaling[kind] = json!("llama3");
        if key == "rope_parameters" {
            scaling["rope_theta"] = json!(500000.0);
        }
        let decoder = read(&with(json!({key: scaling}))).unwrap().decoder;
        assert_eq!(decoder.rope_scaling, Some(expected), "{key} {kind}");
        assert_eq!(decoder.rope_theta, if key == "rope_parameters" { 500000.0 } else { 10000.0 });
    }
    let plain = json!({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}, "rope_scaling": null});
    let decoder = read(&with(plain)).unwrap().decoder;
    assert_eq!((decoder.rope_scaling, decoder.rope_theta), (None, 1e6));
}

#[test]
fn sequence_classification_needs_one_label() {
    let class = json!({"architectures": ["LlamaForSequenceClassification"]});
    let labelled = |more: Value| {
        let mut json = with(class.clone());
        json.extend(object(more));
        json
    };
    for one in [json!({"id2label": {"0": "LABEL_0"}}), json!({"num_labels": 1})] {
        assert_eq!(read(&labelled(one)).unwrap().head, HeadKind::SequenceClassification);
    }
    refused(&with(class.clone()), "id2label: missing, so transformers assumes 2 labels");
    refused(&labelled(json!({"id2label": {"0": "a", "1": "b"}})), "id2label: found 2 labels, expected 1");
    refused(&labelled(json!({"num_labels": 3})), "num_labels: found 3, expected 1");
    refused(&labelled(json!({"id2label": {"0": "a"}, "num_labels": 2})), "num_labels: found 2");
}

#[test]
fn what_is_unsupported_is_named() {
    for (changes, says) in [
        (
            json!({"architectures": ["MistralForCausalLM"], "model_type": "mistral"}),
            "architectures: found [\"Mistral",
        ),
        (json!({"architectures": ["LlamaModel"]}), "supported: one of LlamaForCausalLM"),
        (json!({"architectures": []}), "architectures: found []"),
        (json!({"architectures": null}), "architectures: missing"),
        (json!({"model_type": "qwen2"}), "but architectures says [\"LlamaForCausalLM\"]"),
        (json!({"hidden_act": "gelu"}), "hidden_act: found \"gelu\", supported: \"silu\""),
        (json!({"quantization_config": {"quant_method": "gptq"}}), "quantization_config: found \"gptq\""),
        (
            json!({"rope_scaling": {"type": "linear", "factor": 2.0}}),
            "rope_scaling.rope_type: found \"linear\"",
        ),
        (json!({"rope_scaling": {"factor": 2.0}}), "rope_scaling.rope_type: missing"),
        (json!({"rope_scaling": "yarn"}), "rope_scaling: found \"yarn\", expected an object"),
        (
            json!({"rope_scaling": {"rope_type": "llama3", "factor": 8}}),
            "rope_scaling.low_freq_factor: missing",
        ),
        (json!({"rope_parameters": {"rope_type": "yarn"}}), "rope_parameters.rope_type: found \"yarn\""),
        (
            json!({"rope_theta": 1e4, "rope_parameters": {"rope_theta": 1e6}}),
            "but rope_parameters.rope_theta says",
        ),
        (json!({"partial_rotary_factor": 0.5}), "partial_rotary_factor: found 0.5"),
        (json!({"num_key_value_heads": 3}), "num_key_value_heads: found 3, expected a divisor of"),
        (json!({"hidden_size": 63}), "head_dim: missing, and hidden_size 63 does not divide"),
        (json!({"head_dim": 7}), "head_dim: found 7, expected an even number"),
        (json!({"hidden_size": 0}), "hidden_size: found 0, expected a whole number from 1"),
        (json!({"hidden_size": -64}), "hidden_size: found -64"),
        (json!({"hidden_size": 64.5}), "hidden_size: found 64.5"),
        (json!({"hidden_size": "64"}), "hidden_size: found \"64\""),
        (json!({"hidden_size": u64::MAX}), "hidden_size: found 18446744073709551615"),
        (json!({"vocab_size": 1u64 << 40}), "vocab_size: found 1099511627776"),
        (json!({"num_hidden_layers": 1000000000}), "num_hidden_layers: found 1000000000"),
        (json!({"vocab_size": null}), "vocab_size: missing"),
        (json!({"rms_norm_eps": 0}), "rms_norm_eps: found 0, expected a number above 0"),
        (json!({"attention_bias": "yes"}), "attention_bias: found \"yes\", expected true or false"),
        (json!({"layer_types": ["full_attention", "sliding_attention"]}), "layer_types: found"),
    ] {
        refused(&with(changes), says);
    }
    let qwen =
        json!({"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "use_sliding_window": true});
    refused(&with(qwen), "use_sliding_window: found true, supported: false");
}

#[test]
fn every_problem_is_in_one_message() {
    let json = with(json!({"hidden_act": "gelu", "vocab_size": 0, "rms_norm_eps": -1}));
    let message = read(&json).unwrap_err().to_string();
    assert!(message.contains("3 unsupported settings"), "{message}");
    for key in ["hidden_act", "vocab_size", "rms_norm_eps"] {
        assert!(message.contains(&format!("- {key}: found")), "{message}");
    }
}

#[test]
fn files_that_are_no_config_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(FILE_NAME);
    let message = || read_config(folder.path()).unwrap_err().to_string();
    assert!(message().contains("config.json: found no such file"));
    for bytes in [&b""[..], b"[1]", b"{", b"\xff\xfe", &b"[".repeat(100_000)] {
        std::fs::write(&path, bytes).unwrap();
        assert!(message().contains("not a JSON object"), "{}", message());
    }
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert!(message().contains("expected a small JSON file"));
}

#[test]
fn a_typed_shape_refuses_unknown_keys() {
    assert!(DecoderConfig::from_json(&llama()).is_ok());
    let mut typed = llama();
    typed.remove("architectures");
    assert_eq!(DecoderConfig::from_json(&typed).unwrap().family, Family::Llama);
    let problems =
        DecoderConfig::from_json(&with(json!({"num_layers": 3, "torch_dtype": "float32"}))).unwrap_err();
    assert_eq!(problems, ["num_layers: unknown key, expected those of a config.json"]);
    typed.remove("model_type");
    let problems = DecoderConfig::from_json(&typed).unwrap_err();
    assert!(problems[0].starts_with("model_type: missing"), "{problems:?}");
    // A model's own file may hold anything.
    assert!(read(&with(json!({"num_layers": 3}))).is_ok());
}

#[test]
fn an_export_reads_back_as_the_same_decoder() {
    let llama3 = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 256, "rope_theta": 5e5});
    for original in [
        llama(),
        with(
            json!({"attention_bias": true, "mlp_bias": true, "head_dim": 32, "custom": [1], "num_labels": 2}),
        ),
        with(json!({"rope_scaling": llama3, "num_key_value_heads": null, "head_dim": null})),
        with(json!({"rope_parameters": llama3, "dtype": "bfloat16"})),
        with(
            json!({"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "problem_type": "regression"}),
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let decoder = DecoderConfig { ..read(&original).unwrap().decoder };
        write_config(folder.path(), &original, &decoder, 7, Dtype::F32, 1).unwrap();
        let exported = read_config(folder.path()).unwrap();
        assert_eq!(exported.decoder, decoder);
        assert_eq!(exported.head, HeadKind::SequenceClassification);
        let json = exported.json;
        assert_eq!(json["pad_token_id"], 7);
        assert_eq!(json["torch_dtype"], "float32");
        assert_eq!(json.get("dtype").is_some(), original.contains_key("dtype"));
        assert!(!json.contains_key("num_labels"));
        for key in ["custom", "problem_type", "rope_parameters"] {
            assert_eq!(json.get(key), original.get(key));
        }
    }
}

#[test]
fn several_heads_are_counted_and_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let ensemble = with(json!({"rmtrain_heads": 3}));
    let decoder = read(&llama()).unwrap().decoder;
    for (original, heads, expected) in
        [(llama(), 4, Some(4)), (ensemble.clone(), 4, Some(4)), (ensemble, 1, None), (llama(), 1, None)]
    {
        write_config(folder.path(), &original, &decoder, 7, Dtype::F32, heads).unwrap();
        let exported = read_config(folder.path()).unwrap();
        assert_eq!((exported.heads, exported.head), (expected, HeadKind::SequenceClassification));
        assert_eq!(exported.json.get("rmtrain_heads"), expected.map(|n| json!(n)).as_ref());
        assert_eq!(exported.json["id2label"], json!({"0": "LABEL_0"}));
    }
    let class = json!({"architectures": ["LlamaForSequenceClassification"], "num_labels": 1});
    for wrong in [json!(1), json!(65), json!(2.5), json!("4"), json!([4])] {
        let mut json = with(class.clone());
        json.insert("rmtrain_heads".into(), wrong.clone());
        refused(&json, &format!("rmtrain_heads: found {wrong}, expected a whole number from 2 to 64"));
    }
    // A language model's heads are drawn, whatever its file says.
    assert_eq!(read(&with(json!({"rmtrain_heads": 4}))).unwrap().heads, None);
}

proptest! {
    #[test]
    fn arbitrary_values_never_panic(key in "[a-z_]{0,12}", number in any::<f64>(), text in ".{0,20}") {
        for value in [json!(number), json!(text), json!([text]), json!({&text: number}), json!(number as i64)] {
            let _ = parse(&with(json!({&key: value})), Strictness::KnownKeys);
            for known in llama().keys() {
                let _ = parse(&with(json!({known: value})), Strictness::HuggingFace);
            }
        }
    }
}
