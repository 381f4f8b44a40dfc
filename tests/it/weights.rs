//! Model folders on disk: hostile safetensors, sharding, interop with the Python library, the real configurations
//! beside candle-transformers' parsers.

use proptest::prelude::*;
use rmtrain::model::config::Dtype;
use rmtrain::model::config_json::{HeadKind, read_config, write_config};
use rmtrain::model::decoder_config::HEAD_WEIGHT;
use rmtrain::model::weights::{TensorSpec, Values, WeightFiles, write_model, write_safetensors};
use rmtrain::model::{DecoderConfig, Family};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file of the shared test material, or `None` with a line that says what is skipped.
fn shared(file: &str) -> Option<PathBuf> {
    let root = std::env::var_os("RMTRAIN_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"), PathBuf::from);
    let path = root.join(file);
    if !path.exists() {
        println!("skipped: {} is not there (set RMTRAIN_SHARED)", path.display());
        return None;
    }
    Some(path)
}

fn spec(name: &str, shape: &[usize], dtype: Dtype) -> TensorSpec {
    TensorSpec { name: name.into(), shape: shape.into(), dtype: dtype.into() }
}

/// Values that bf16 and f16 hold exactly.
fn values(spec: &TensorSpec) -> Vec<f32> {
    (0..spec.shape.iter().product()).map(|i: usize| (i % 251) as f32 / 8.0 - 15.0).collect()
}

fn write(folder: &Path, specs: &[TensorSpec], max_shard_bytes: u64) -> Vec<PathBuf> {
    write_model(folder, specs, max_shard_bytes, |spec| Ok(Cow::Owned(values(spec)))).unwrap()
}

fn file_names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn specs() -> Vec<TensorSpec> {
    vec![
        spec("model.embed_tokens.weight", &[50, 8], Dtype::F32),
        spec("model.layers.0.mlp.up_proj.weight", &[8, 8], Dtype::Bf16),
        spec("model.norm.weight", &[8], Dtype::F16),
        spec("score.weight", &[1, 8], Dtype::F32),
    ]
}

#[test]
fn what_is_written_is_read_back_single_or_sharded() {
    for max_shard_bytes in [u64::MAX, 1700, 1] {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &specs(), max_shard_bytes);
        let files = WeightFiles::open(folder.path()).unwrap();
        assert_eq!(files.names().count(), 4);
        for spec in specs() {
            assert_eq!(files.read_f32(&spec.name, &spec.shape).unwrap(), values(&spec), "{}", spec.name);
        }
    }
}

#[test]
fn a_tensor_larger_than_a_chunk_is_read_whole() {
    let folder = tempfile::tempdir().unwrap();
    let big = spec("w", &[3, 700_001], Dtype::Bf16);
    write(folder.path(), std::slice::from_ref(&big), u64::MAX);
    let files = WeightFiles::open(folder.path()).unwrap();
    assert_eq!(files.read_f32("w", &[3, 700_001]).unwrap(), values(&big));
}

#[test]
fn shards_are_bounded_and_writing_is_deterministic() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for folder in [&one, &two] {
        write(folder.path(), &specs(), 1700);
    }
    let expected = [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ];
    assert_eq!(file_names(one.path()), expected);
    for name in expected {
        let bytes = std::fs::read(one.path().join(name)).unwrap();
        assert_eq!(bytes, std::fs::read(two.path().join(name)).unwrap(), "{name}");
    }
    let index: serde_json::Value =
        serde_json::from_slice(&std::fs::read(one.path().join(expected[2])).unwrap()).unwrap();
    assert_eq!(index["metadata"]["total_size"], 50 * 8 * 4 + 8 * 8 * 2 + 8 * 2 + 8 * 4);
    assert_eq!(index["weight_map"]["score.weight"], expected[1]);
}

#[test]
fn a_save_in_another_layout_leaves_no_stale_weights() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &specs(), u64::MAX);
    write(folder.path(), &specs()[1..], 100);
    assert!(!folder.path().join("model.safetensors").exists());
    assert!(WeightFiles::open(folder.path()).unwrap().info("model.embed_tokens.weight").is_none());
    write(folder.path(), &specs(), u64::MAX);
    assert!(!folder.path().join("model.safetensors.index.json").exists());
    assert_eq!(WeightFiles::open(folder.path()).unwrap().names().count(), 4);
}

#[test]
fn missing_misshapen_and_extra_tensors_are_named_together() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &specs(), u64::MAX);
    let files = WeightFiles::open(folder.path()).unwrap();
    let expected = [
        ("model.embed_tokens.weight".to_owned(), vec![50, 9]),
        ("model.layers.0.mlp.down_proj.weight".to_owned(), vec![8, 8]),
        ("model.norm.weight".to_owned(), vec![8]),
    ];
    let message = files.verify(&expected, |name| name == "score.weight").unwrap_err().to_string();
    for says in [
        "3 tensors do not fit",
        "model.embed_tokens.weight: found shape [50, 8], expected [50, 9]",
        "model.layers.0.mlp.down_proj.weight [8, 8]: missing; near names: model.layers.0.mlp.up_proj.weight",
        "model.layers.0.mlp.up_proj.weight: found BF16 [8, 8], expected no such tensor",
    ] {
        assert!(message.contains(says), "{message}");
    }
    let message = files.read_f32("model.norms.weight", &[8]).unwrap_err().to_string();
    assert!(message.contains("near names: model.norm.weight"), "{message}");
    let message = files.read_f32("score.weight", &[8]).unwrap_err().to_string();
    assert!(message.contains("score.weight: found shape [1, 8], expected [8]"), "{message}");
}

/// One file around a header and data.
fn raw_file(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

#[test]
fn weights_that_are_no_finite_floats_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let header = |dtype: &str| format!(r#"{{"w":{{"dtype":"{dtype}","shape":[2],"data_offsets":[0,8]}}}}"#);
    let with_nan: Vec<u8> = [1f32, f32::NAN].iter().flat_map(|v| v.to_le_bytes()).collect();
    for (dtype, data, says) in [
        ("F32", &with_nan[..], "tensor w: element 1 of [2] is NaN, expected finite"),
        ("I32", &[0; 8], "tensor w: found dtype I32, expected F32, F16, BF16 or F64"),
    ] {
        std::fs::write(&path, raw_file(&header(dtype), data)).unwrap();
        let message = WeightFiles::open(folder.path()).unwrap().read_f32("w", &[2]).unwrap_err().to_string();
        assert!(message.contains(says), "{message}");
    }
    let wide = r#"{"w":{"dtype":"F64","shape":[1],"data_offsets":[0,8]}}"#;
    std::fs::write(&path, raw_file(wide, &1e300f64.to_le_bytes())).unwrap();
    let message = WeightFiles::open(folder.path()).unwrap().read_f32("w", &[1]).unwrap_err().to_string();
    assert!(message.contains("is inf"), "{message}");
    std::fs::write(&path, raw_file(wide, &0.1f64.to_le_bytes())).unwrap();
    assert_eq!(WeightFiles::open(folder.path()).unwrap().read_f32("w", &[1]).unwrap(), [0.1f32]);
}

#[test]
fn a_file_that_shrinks_after_opening_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &specs(), u64::MAX);
    let files = WeightFiles::open(folder.path()).unwrap();
    let path = folder.path().join("model.safetensors");
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(600).unwrap();
    let message = files.read_f32("score.weight", &[1, 8]).unwrap_err().to_string();
    assert!(message.contains("model.safetensors"), "{message}");
}

#[test]
fn folders_without_usable_weights_say_what_they_hold() {
    let folder = tempfile::tempdir().unwrap();
    let open = || WeightFiles::open(folder.path()).unwrap_err().to_string();
    assert!(open().contains("found no weights, expected model.safetensors"), "{}", open());
    std::fs::write(folder.path().join("pytorch_model.bin"), "x").unwrap();
    assert!(open().contains("found pytorch_model.bin"), "{}", open());
    let index = folder.path().join("model.safetensors.index.json");
    for (json, says) in [
        (r#"{"weight_map":{"w":"model-00001-of-00001.safetensors"}}"#, "not in the folder"),
        (r#"{"weight_map":{"w":"../model.safetensors"}}"#, "weight_map.w: found \"../model.safetensors\""),
        ("", "not an index"),
    ] {
        std::fs::write(&index, json).unwrap();
        assert!(open().contains(says), "{}", open());
    }
    std::fs::write(&index, r#"{"weight_map":{"other":"model-00001-of-00001.safetensors"}}"#).unwrap();
    write_safetensors(
        &folder.path().join("model-00001-of-00001.safetensors"),
        &[spec("w", &[1], Dtype::F32)],
        &BTreeMap::new(),
        |_| Ok(Values::Floats(Cow::Owned(vec![0.0]))),
    )
    .unwrap();
    assert!(open().contains("other is not in model-00001-of-00001.safetensors"), "{}", open());
    std::fs::create_dir(folder.path().join("model.safetensors")).unwrap();
    assert!(open().contains("found a folder or device"), "{}", open());
    let nowhere = WeightFiles::open(&folder.path().join("nowhere")).unwrap_err().to_string();
    assert!(nowhere.contains("no such folder"), "{nowhere}");
}

#[test]
fn a_file_cut_at_any_byte_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    write(folder.path(), &specs()[1..], u64::MAX);
    let whole = std::fs::read(&path).unwrap();
    for cut in 0..whole.len() {
        std::fs::write(&path, &whole[..cut]).unwrap();
        let message = WeightFiles::open(folder.path()).unwrap_err().to_string();
        assert!(message.contains("model.safetensors: "), "cut at {cut}: {message}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_damaged_file_never_panics(at in 0usize..600, byte in any::<u8>()) {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &specs()[1..], u64::MAX);
        let path = folder.path().join("model.safetensors");
        let mut bytes = std::fs::read(&path).unwrap();
        let at = at % bytes.len();
        bytes[at] = byte;
        std::fs::write(&path, bytes).unwrap();
        if let Ok(files) = WeightFiles::open(folder.path()) {
            for name in files.names() {
                let shape = files.info(name).unwrap().shape.clone();
                let _ = files.read_f32(name, &shape);
            }
        }
    }

    #[test]
    fn arbitrary_files_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
        let _ = WeightFiles::open(folder.path());
    }
}

/// A Python with torch and safetensors: `RMTRAIN_PYTHON`, else `python3`; `None` (and a line) without.
fn python() -> Option<String> {
    let python = std::env::var("RMTRAIN_PYTHON").unwrap_or_else(|_| "python3".into());
    let works = Command::new(&python).args(["-c", "import torch, safetensors.torch, transformers"]).output();
    match works {
        Ok(output) if output.status.success() => Some(python),
        _ => {
            println!("skipped: {python} has no torch, safetensors and transformers (set RMTRAIN_PYTHON)");
            None
        }
    }
}

#[test]
fn python_writes_the_same_bytes() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &specs(), u64::MAX);
    let script = "import sys; from safetensors.torch import load_file, save_file; f = sys.argv[1]; \
        save_file(load_file(f + '/model.safetensors'), f + '/python.safetensors', {'format': 'pt'})";
    let status = Command::new(python).args(["-c", script]).arg(folder.path()).status().unwrap();
    assert!(status.success());
    let read = |name| std::fs::read(folder.path().join(name)).unwrap();
    assert!(read("model.safetensors") == read("python.safetensors"), "the files differ");
}

#[test]
fn transformers_loads_a_sharded_export() {
    let Some(python) = python() else { return };
    for family in ["llama", "qwen2"] {
        let shape = serde_json::json!({"model_type": family, "hidden_size": 28, "intermediate_size": 40,
            "num_hidden_layers": 2, "num_attention_heads": 7, "num_key_value_heads": 1, "head_dim": 6,
            "vocab_size": 50, "tie_word_embeddings": false});
        let shape = shape.as_object().unwrap();
        let config = DecoderConfig::from_json(shape).unwrap();
        let folder = tempfile::tempdir().unwrap();
        // The heads of an ensemble are none of its business.
        write_config(folder.path(), shape, &config, 3, Dtype::Bf16, 4).unwrap();
        let specs: Vec<_> =
            config.parameter_shapes().iter().map(|(name, shape)| spec(name, shape, Dtype::Bf16)).collect();
        assert!(write(folder.path(), &specs, 4000).len() > 2);
        let script = "import sys\nfrom transformers import AutoModelForSequenceClassification as A\n\
            m, info = A.from_pretrained(sys.argv[1], output_loading_info=True)\n\
            assert not any(info.values()), info\n\
            assert m.config.num_labels == 1 and m.config.pad_token_id == 3 and m.config.head_dim == 6\n\
            print(type(m).__name__, sum(p.numel() for p in m.parameters()))\n\
            [print(n, list(p.shape), float(p.double().sum())) for n, p in m.named_parameters()]";
        let output = Command::new(&python).args(["-c", script]).arg(folder.path()).output().unwrap();
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let class = if family == "llama" { "Llama" } else { "Qwen2" };
        let mut expected = format!("{class}ForSequenceClassification {}\n", config.parameter_count());
        for spec in &specs {
            let sum: f64 = values(spec).iter().map(|v| f64::from(*v)).sum();
            expected += &format!("{} {:?} {sum:?}\n", spec.name, spec.shape);
        }
        assert_eq!(stdout, expected);
    }
}

#[test]
fn the_real_small_models_are_read_whole() {
    for (layout, family) in [("llama_hf", Family::Llama), ("qwen2_hf", Family::Qwen2)] {
        let Some(folder) = shared(&format!("models/stories260K/{layout}")) else { return };
        let model = read_config(&folder).unwrap();
        assert_eq!((model.decoder.family, model.head), (family, HeadKind::CausalLm));
        let mut expected = model.decoder.parameter_shapes();
        assert_eq!(expected.pop().unwrap().0, HEAD_WEIGHT);
        let files = WeightFiles::open(&folder).unwrap();
        files.verify(&expected, DecoderConfig::is_unused_tensor).unwrap();
        let reference = std::fs::read(folder.join("model.safetensors")).unwrap();
        let reference = safetensors::SafeTensors::deserialize(&reference).unwrap();
        for (name, shape) in &expected {
            let found = files.read_f32(name, shape).unwrap();
            let bytes: Vec<u8> = found.iter().flat_map(|v| v.to_le_bytes()).collect();
            assert_eq!(bytes, reference.tensor(name).unwrap().data(), "{name}");
        }
    }
}

#[test]
fn candle_reads_the_same_configurations() {
    let Some(configs) = shared("model_configs") else { return };
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(configs).unwrap().map(|entry| entry.unwrap().path()).collect();
    for layout in ["llama_hf", "qwen2_hf"] {
        paths.extend(shared(&format!("models/stories260K/{layout}/config.json")));
    }
    assert!(paths.len() > 5);
    for path in paths {
        let json = std::fs::read(&path).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), &json).unwrap();
        let ours = read_config(folder.path()).unwrap_or_else(|e| panic!("{}: {e}", path.display())).decoder;
        let sizes = [
            ours.hidden_size,
            ours.intermediate_size,
            ours.num_layers,
            ours.num_heads,
            ours.num_kv_heads,
            ours.vocab_size,
            ours.max_position_embeddings,
        ];
        match ours.family {
            Family::Llama => {
                let theirs: candle_transformers::models::llama::LlamaConfig =
                    serde_json::from_slice(&json).unwrap();
                let theirs = theirs.into_config(false);
                let expected = [
                    theirs.hidden_size,
                    theirs.intermediate_size,
                    theirs.num_hidden_layers,
                    theirs.num_attention_heads,
                    theirs.num_key_value_heads,
                    theirs.vocab_size,
                    theirs.max_position_embeddings,
                ];
                assert_eq!(sizes, expected, "{}", path.display());
                assert_eq!(ours.rms_norm_eps, theirs.rms_norm_eps);
                assert_eq!(ours.rope_theta as f32, theirs.rope_theta);
                assert_eq!(ours.tie_word_embeddings, theirs.tie_word_embeddings);
                assert_eq!(ours.rope_scaling.is_some(), theirs.rope_scaling.is_some());
                if let (Some(a), Some(b)) = (ours.rope_scaling, theirs.rope_scaling) {
                    let frequencies = (a.low_freq_factor as f32, a.high_freq_factor as f32);
                    assert_eq!(frequencies, (b.low_freq_factor, b.high_freq_factor));
                    assert_eq!(a.factor as f32, b.factor);
                    assert_eq!(a.original_max_position_embeddings, b.original_max_position_embeddings);
                }
            }
            Family::Qwen2 => {
                let theirs: candle_transformers::models::qwen2::Config =
                    serde_json::from_slice(&json).unwrap();
                let expected = [
                    theirs.hidden_size,
                    theirs.intermediate_size,
                    theirs.num_hidden_layers,
                    theirs.num_attention_heads,
                    theirs.num_key_value_heads,
                    theirs.vocab_size,
                    theirs.max_position_embeddings,
                ];
                assert_eq!(sizes, expected, "{}", path.display());
                assert_eq!(ours.rms_norm_eps, theirs.rms_norm_eps);
                assert_eq!(ours.rope_theta, theirs.rope_theta);
                assert_eq!(ours.tie_word_embeddings, theirs.tie_word_embeddings);
            }
        }
        // The names carry the sizes: 0.5B to 8B.
        let billions = ours.parameter_count() as f64 / 1e9;
        assert!(billions < 8.1, "{}: {billions}", path.display());
    }
}
