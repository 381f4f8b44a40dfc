//! Model folders: config.json, weights with hostile headers, tokenizers and chat templates, as `score` meets them.

use super::Bench;
use rmtrain::model::config::Dtype;
use rmtrain::model::weights::{DEFAULT_MAX_SHARD_BYTES, TensorSpec, write_model};
use rmtrain::model::{DecoderConfig, Family};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::fs;
use std::path::Path;

fn decoder() -> DecoderConfig {
    DecoderConfig {
        family: Family::Llama,
        hidden_size: 8,
        intermediate_size: 16,
        num_layers: 1,
        num_heads: 2,
        num_kv_heads: 1,
        head_dim: 4,
        vocab_size: 16,
        rms_norm_eps: 1e-5,
        rope_theta: 10000.0,
        rope_scaling: None,
        max_position_embeddings: 64,
        qkv_bias: false,
        output_bias: false,
        mlp_bias: false,
        tie_word_embeddings: true,
        initializer_range: 0.02,
    }
}

fn config() -> Value {
    json!({
        "architectures": ["LlamaForSequenceClassification"], "model_type": "llama", "hidden_size": 8,
        "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
        "head_dim": 4, "vocab_size": 16, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "max_position_embeddings": 64, "hidden_act": "silu", "tie_word_embeddings": true,
        "id2label": {"0": "LABEL_0"}, "pad_token_id": 0
    })
}

fn tokenizer() -> Value {
    let words = ["<unk>", "<s>", "</s>", "user", "assistant", "hello", "world", "yes", "no"];
    let vocab: serde_json::Map<String, Value> =
        words.iter().enumerate().map(|(id, word)| ((*word).to_owned(), json!(id))).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"}
    })
}

fn tokenizer_config() -> Value {
    json!({
        "tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>", "eos_token": "</s>",
        "pad_token": "<s>",
        "chat_template": "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}"
    })
}

/// A bench with a sound model folder `model/` and a sound row `rows.jsonl`.
pub(super) fn bench() -> Bench {
    let bench = Bench::new();
    bench.write("model/config.json", config().to_string());
    bench.write("model/tokenizer.json", tokenizer().to_string());
    bench.write("model/tokenizer_config.json", tokenizer_config().to_string());
    let specs: Vec<TensorSpec> = decoder()
        .parameter_shapes()
        .into_iter()
        .map(|(name, shape)| TensorSpec { name, shape, dtype: Dtype::F32.into() })
        .collect();
    write_model(&bench.at("model"), &specs, DEFAULT_MAX_SHARD_BYTES, |spec| {
        let count: usize = spec.shape.iter().product();
        Ok(Cow::Owned((0..count).map(|i| (i as f32 * 0.7).sin()).collect()))
    })
    .unwrap();
    bench.write("rows.jsonl", "{\"prompt\": \"hello\", \"response\": \"world\"}\n");
    bench
}

pub(super) const SCORE: &[&str] =
    &["score", "--model", "model", "--input", "rows.jsonl", "--output", "out/kept.jsonl"];

#[test]
fn the_sound_model_scores() {
    let bench = bench();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_rmtrain"))
        .args(["score", "--model", "model", "--input", "rows.jsonl"])
        .current_dir(bench.folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let row: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(row["score"].is_f64(), "{row}");
}

/// Breaks one JSON file of the folder by one replaced key, or by a text of its own.
enum Break {
    Key(&'static str, Value),
    NoKey(&'static str),
    Text(&'static str),
    NoFile,
}

fn break_json(bench: &Bench, file: &str, sound: Value, how: &Break) {
    let mut json = sound;
    let text = match how {
        Break::Text(text) => (*text).to_owned(),
        Break::NoFile => return fs::remove_file(bench.at(file)).unwrap(),
        Break::Key(key, value) => {
            json[*key] = value.clone();
            json.to_string()
        }
        Break::NoKey(key) => {
            json.as_object_mut().unwrap().remove(*key);
            json.to_string()
        }
    };
    bench.write(file, text);
}

#[test]
fn config_json() {
    use Break::{Key, NoFile, NoKey, Text};
    let cases: Vec<(Break, &[&str])> = vec![
        (NoFile, &["model"]),
        (Text(""), &["config.json", "not a JSON object"]),
        (Text("{\"hidden_size\": 8"), &["config.json", "not a JSON object"]),
        (Text("[1, 2]"), &["config.json", "not a JSON object"]),
        (
            Key("architectures", json!(["GPT2LMHeadModel"])),
            &["config.json", "architectures", "GPT2LMHeadModel"],
        ),
        (Key("architectures", json!(["LlamaForCausalLM"])), &["config.json", "without a reward head"]),
        (Key("architectures", json!([])), &["config.json", "architectures"]),
        (Key("architectures", json!("Llama")), &["config.json", "architectures"]),
        (Key("id2label", json!({"0": "A", "1": "B"})), &["config.json", "label"]),
        (Key("hidden_size", json!(0)), &["config.json", "hidden_size"]),
        (Key("hidden_size", json!(-8)), &["config.json", "hidden_size"]),
        (Key("hidden_size", json!("8")), &["config.json", "hidden_size"]),
        (NoKey("hidden_size"), &["config.json", "hidden_size"]),
        (Key("vocab_size", json!(1u64 << 60)), &["config.json", "vocab_size"]),
        (Key("num_key_value_heads", json!(3)), &["config.json", "num_key_value_heads"]),
        (Key("hidden_act", json!("gelu")), &["config.json", "hidden_act", "gelu"]),
        (Key("rope_scaling", json!({"rope_type": "yarn", "factor": 2.0})), &["config.json", "yarn"]),
        (Key("quantization_config", json!({"bits": 4})), &["config.json", "quantization_config"]),
        (Key("rms_norm_eps", json!("small")), &["config.json", "rms_norm_eps"]),
    ];
    for (i, (how, needles)) in cases.iter().enumerate() {
        let bench = bench();
        break_json(&bench, "model/config.json", config(), how);
        bench.refused(&format!("config.json, case {i}"), SCORE, b"", needles);
    }
}

#[test]
fn tokenizer_files() {
    use Break::{Key, NoFile, NoKey, Text};
    let cases: Vec<(&str, Break, &[&str])> = vec![
        ("tokenizer.json", NoFile, &["tokenizer.json"]),
        ("tokenizer.json", Text(""), &["tokenizer.json"]),
        ("tokenizer.json", Text("{\"version\": \"1.0\"}"), &["tokenizer.json"]),
        ("tokenizer.json", Key("model", json!({"type": "Telepathy"})), &["tokenizer.json"]),
        (
            "tokenizer.json",
            Key("pre_tokenizer", json!({"type": "Split", "pattern": {"Regex": "("}})),
            &["tokenizer.json"],
        ),
        ("tokenizer_config.json", Text("{"), &["tokenizer_config.json"]),
        ("tokenizer_config.json", NoKey("chat_template"), &["model", "chat_template"]),
        ("tokenizer_config.json", Key("chat_template", json!(3)), &["chat_template"]),
        (
            "tokenizer_config.json",
            Key("rmtrain_date", json!("tomorrow")),
            &["tokenizer_config.json", "rmtrain_date"],
        ),
        ("tokenizer_config.json", Key("added_tokens_decoder", json!({"x": {}})), &["added_tokens_decoder"]),
    ];
    for (i, (file, how, needles)) in cases.iter().enumerate() {
        let bench = bench();
        let sound = if *file == "tokenizer.json" { tokenizer() } else { tokenizer_config() };
        break_json(&bench, &format!("model/{file}"), sound, how);
        bench.refused(&format!("{file}, case {i}"), SCORE, b"", needles);
    }
}

#[test]
fn chat_templates() {
    let cases: &[(&str, &[&str])] = &[
        ("{% for m in messages %}", &["template", "line 1"]),
        ("{{ m[ }}", &["template", "line 1"]),
        ("a\n{{ messages[0].no.such }}", &["template", "line 2"]),
        ("{{ raise_exception('roles must alternate') }}", &["roles must alternate"]),
        ("{% for i in range(1000000000) %}x{% endfor %}", &["template"]),
        ("{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}", &["template"]),
        ("{{ 'x' * 10000000000 }}", &["template"]),
        ("{% include '/etc/passwd' %}", &["template"]),
        ("{{ messages | no_such_filter }}", &["template", "no_such_filter"]),
        ("{{ 1 // 0 }}", &["template"]),
    ];
    for (template, needles) in cases {
        let bench = bench();
        bench.write("model/chat_template.jinja", template);
        bench.refused(template, SCORE, b"", needles);
    }
}

/// A safetensors file with a header of our own and no check of its sense.
fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

#[test]
fn safetensors_headers() {
    let one = |dtype: &str, shape: Value, offsets: Value| {
        json!({"score.weight": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}).to_string()
    };
    let huge = u64::MAX.to_le_bytes().to_vec();
    let overlap = json!({
        "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}
    });
    let deep = format!("{{\"a\":{}", "[".repeat(100_000));
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("an empty file", vec![]),
        ("a length and nothing else", vec![8, 0, 0, 0, 0, 0, 0, 0]),
        ("half a length", vec![1, 2, 3]),
        ("a header of 2^64 bytes", huge),
        ("a header longer than the file", safetensors("{}", b"")[..9].to_vec()),
        ("a header that is no JSON", safetensors("not json", b"")),
        ("a header that is no UTF-8", [&4u64.to_le_bytes()[..], &[0xff, 0xfe, 0xff, 0xfe]].concat()),
        ("a header without end", safetensors(&deep, b"")),
        ("an unknown dtype", safetensors(&one("F7", json!([1]), json!([0, 4])), &[0; 4])),
        ("offsets past the end", safetensors(&one("F32", json!([1, 8]), json!([0, 32])), &[0; 4])),
        ("offsets backwards", safetensors(&one("F32", json!([1]), json!([4, 0])), &[0; 4])),
        (
            "a shape that overflows",
            safetensors(&one("F32", json!([1u64 << 40, 1u64 << 40]), json!([0, 4])), &[0; 4]),
        ),
        ("a negative shape", safetensors(&one("F32", json!([-1]), json!([0, 4])), &[0; 4])),
        ("a shape that is not its bytes", safetensors(&one("F32", json!([2]), json!([0, 4])), &[0; 4])),
        ("tensors that overlap", safetensors(&overlap.to_string(), &[0; 12])),
        ("bytes that belong to nobody", safetensors(&one("F32", json!([1]), json!([0, 4])), &[0; 64])),
    ];
    for (case, bytes) in cases {
        let bench = bench();
        bench.write("model/model.safetensors", bytes);
        bench.refused(case, SCORE, b"", &["model.safetensors"]);
    }
}

/// The sound file with some of its bytes changed.
fn change_weights(bench: &Bench, change: impl FnOnce(&mut Vec<u8>)) {
    let path = bench.at("model/model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

#[test]
fn weights_cut_at_any_byte() {
    let length = fs::metadata(bench().at("model/model.safetensors")).unwrap().len() as usize;
    for cut in [0, 1, 7, 8, 9, 100, length / 3, length / 2, length - 4, length - 1] {
        let bench = bench();
        change_weights(&bench, |bytes| bytes.truncate(cut));
        bench.refused(&format!("cut at byte {cut} of {length}"), SCORE, b"", &["model.safetensors"]);
    }
}

#[test]
fn weights_that_do_not_fit() {
    let replace = |bytes: &mut Vec<u8>, from: &str, to: &str| {
        assert_eq!(from.len(), to.len());
        let at = bytes.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
    };
    let renamed = bench();
    change_weights(&renamed, |bytes| replace(bytes, "score.weight", "store.weight"));
    renamed.refused("a missing head", SCORE, b"", &["score.weight", "missing"]);

    let misshapen = bench();
    let narrow = json!(4);
    break_json(&misshapen, "model/config.json", config(), &Break::Key("intermediate_size", narrow));
    misshapen.refused("a wrong shape", SCORE, b"", &["mlp.gate_proj.weight", "[16, 8]", "[4, 8]"]);

    let empty = bench();
    empty.write("model/model.safetensors", safetensors("{}", b""));
    empty.refused("no tensor at all", SCORE, b"", &["12 tensors", "score.weight", "holds 0 tensors"]);

    let infinite = bench();
    change_weights(&infinite, |bytes| {
        let end = bytes.len();
        bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    });
    infinite.refused("a weight that is not finite", SCORE, b"", &["NaN", "finite"]);

    let index = |map: Value| json!({"metadata": {"total_size": 1}, "weight_map": map}).to_string();
    for (case, map, needle) in [
        (
            "a shard outside the folder",
            json!({"score.weight": "../secret.safetensors"}),
            "../secret.safetensors",
        ),
        ("a shard that is not there", json!({"score.weight": "model-1.safetensors"}), "model-1.safetensors"),
        ("an index of nothing", json!(3), "not an index of shards"),
    ] {
        let bench = bench();
        fs::remove_file(bench.at("model/model.safetensors")).unwrap();
        bench.write("model/model.safetensors.index.json", index(map));
        bench.refused(case, SCORE, b"", &["model.safetensors.index.json", needle]);
    }
}

#[test]
fn heads_of_an_ensemble() {
    let heads = |name: &str, shape: [usize; 2], values: &[f32]| {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let tensor = json!({"dtype": "F32", "shape": shape, "data_offsets": [0, bytes.len()]});
        safetensors(&json!({name: tensor}).to_string(), &bytes)
    };
    let score: Vec<f32> = (0..8).map(|i| (i as f32 * 0.7).sin()).collect();
    let sound = [score.as_slice(), &score].concat();
    let refuse = |case: &str, bytes: Vec<u8>, needles: &[&str]| {
        let bench = bench();
        bench.write("model/heads.safetensors", bytes);
        bench.refused(case, SCORE, b"", &[&["heads.safetensors"], needles].concat());
    };
    refuse("an empty file", vec![], &[]);
    refuse("no tensor", safetensors("{}", b""), &["heads.weight", "missing"]);
    refuse(
        "another name",
        heads("score.weight", [2, 8], &sound),
        &["heads.weight", "missing", "score.weight"],
    );
    let expected = "expected [K, 8] with K from 2 to 64";
    refuse("another shape", heads("heads.weight", [4, 4], &sound), &["[4, 4]", expected]);
    refuse("one head", heads("heads.weight", [1, 8], &score), &["[1, 8]", expected]);
    refuse("too many heads", heads("heads.weight", [65, 8], &[0.0; 520]), &["[65, 8]", expected]);
    let mut values = sound.clone();
    values[9] = f32::NAN;
    refuse("a weight that is not finite", heads("heads.weight", [2, 8], &values), &["NaN", "finite"]);
    values[9] = sound[9] + 0.01;
    refuse("another mean", heads("heads.weight", [2, 8], &values), &["at 1", "score.weight in model is"]);
    for (case, count, needle) in [
        ("heads that are gone", json!(2), "heads.safetensors: found no such file, expected the 2 heads"),
        ("a count of one", json!(1), "config.json: rmtrain_heads: found 1, expected a whole number from 2"),
        ("a count that is a word", json!("many"), "config.json: rmtrain_heads: found \"many\""),
    ] {
        let bench = bench();
        break_json(&bench, "model/config.json", config(), &Break::Key("rmtrain_heads", count));
        bench.refused(case, SCORE, b"", &[needle]);
    }
    let bench = bench();
    bench.write("model/heads.safetensors", heads("heads.weight", [2, 8], &sound));
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_rmtrain"))
        .args(["score", "--model", "model", "--input", "rows.jsonl"])
        .current_dir(bench.folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "the sound file: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn folders_that_are_no_model() {
    let cases: &[(&str, &[&str])] = &[
        ("nowhere", &["nowhere"]),
        ("out", &["out", "config.json"]),
        ("rows.jsonl", &["rows.jsonl"]),
        ("no-such-owner/no-such-model", &["no-such-owner/no-such-model"]),
        ("../..//x", &["../..//x"]),
    ];
    for (model, needles) in cases {
        let bench = bench();
        let arguments = ["score", "--model", model, "--input", "rows.jsonl", "--output", "out/kept.jsonl"];
        bench.refused(model, &arguments, b"", needles);
    }
}

#[test]
fn a_run_cut_short() {
    let bench = bench();
    bench.write("run/config.toml", "[data]\n");
    fs::create_dir_all(bench.at("run/checkpoints")).unwrap();
    let arguments = ["score", "--model", "run", "--input", "rows.jsonl", "--output", "out/kept.jsonl"];
    bench.refused("a run without a checkpoint", &arguments, b"", &["run", "checkpoint"]);
    fs::rename(bench.at("model"), bench.at("run/final")).unwrap();
    assert!(Path::new(&bench.at("run/final/config.json")).is_file());
    fs::remove_file(bench.at("run/final/config.json")).unwrap();
    bench.refused("a final without its configuration", &arguments, b"", &["run"]);
}
