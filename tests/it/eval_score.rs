//! `eval` and `score` over real model folders, through their library entry points.

use clap::Parser;
use rmtrain::Error;
use rmtrain::commands::{eval, score};
use rmtrain::eval::{By, EvalReport, Metric};
use rmtrain::model::config::Dtype;
use rmtrain::model::reward_model::HeadInit;
use rmtrain::model::{DeviceChoice, RewardModel};
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::path::Path;

#[derive(Parser)]
struct ScoreLine {
    #[command(flatten)]
    args: score::ScoreArgs,
}

#[derive(Parser)]
struct EvalLine {
    #[command(flatten)]
    args: eval::EvalArgs,
}

fn score(args: &[&str]) -> Result<(), Error> {
    let args = ScoreLine::parse_from(["score", "--device", "cpu"].iter().chain(args)).args;
    score::run(&args).map_err(|error| error.downcast().unwrap())
}

fn eval(args: &[&str]) -> Result<(), Error> {
    let args = EvalLine::parse_from(["eval", "--device", "cpu"].iter().chain(args)).args;
    eval::run(&args).map_err(|error| error.downcast().unwrap())
}

/// A tiny sequence-classification folder with a byte-level tokenizer: 256 bytes and two special tokens.
pub(crate) fn write_model(folder: &Path) {
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 24, "intermediate_size": 40,
        "num_hidden_layers": 2, "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 8,
        "vocab_size": 258, "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "hidden_act": "silu",
        "initializer_range": 0.3
    });
    let device = DeviceChoice::Cpu.open().unwrap();
    let head = HeadInit { seed: 3, ..HeadInit::default() };
    let model = RewardModel::random(config.as_object().unwrap(), &device, Some(Dtype::F32), head).unwrap();
    fs::create_dir_all(folder).unwrap();
    model.save(folder, 257, Dtype::F32).unwrap();

    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    let mut vocab: serde_json::Map<String, Value> =
        byte_characters().iter().zip(0..).map(|(c, id)| (c.to_string(), json!(id))).collect();
    vocab.insert("<end>".into(), json!(256));
    vocab.insert("<pad>".into(), json!(257));
    let byte_level =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": [special(256, "<end>"), special(257, "<pad>")],
        "pre_tokenizer": byte_level, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": []}
    });
    let settings = json!({
        "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<end>", "pad_token": "<pad>",
        "chat_template": "{% for m in messages %}{{ m['role'][0] }}:{{ m['content'] }}<end>{% endfor %}"
    });
    fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    fs::write(folder.join("tokenizer_config.json"), settings.to_string()).unwrap();
}

/// The printable characters that stand for the bytes 0 to 255 in byte-level vocabularies.
fn byte_characters() -> Vec<char> {
    let printable = |byte: &u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let mut next = 255;
    (0..256)
        .map(|byte| {
            next += u32::from(!printable(&byte));
            char::from_u32(if printable(&byte) { byte } else { next }).unwrap()
        })
        .collect()
}

/// A folder with a finished run `runs/a`, and paths in it as strings.
struct World(tempfile::TempDir);

impl World {
    fn new() -> Self {
        let world = Self(tempfile::tempdir().unwrap());
        write_model(Path::new(&world.path("runs/a/final")));
        world
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    fn write(&self, name: &str, lines: &[Value]) -> String {
        let path = self.path(name);
        fs::create_dir_all(Path::new(&path).parent().unwrap()).unwrap();
        fs::write(&path, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
        path
    }

    fn rows(&self, name: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.path(name)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

#[test]
fn score_answers_every_kind_of_row_and_responses_agree_across_kinds() {
    let world = World::new();
    let (model, output) = (world.path("runs/a"), world.path("out.jsonl"));
    let input = world.write(
        "in.jsonl",
        &[
            json!({"prompt": "hello", "response": "good", "weight": 1e-7}),
            json!({"prompt": "hello", "chosen": "good", "rejected": "bad"}),
            json!({"prompt": "hello", "responses": ["bad", "good"], "scores": [1.0, 2.0]}),
            json!({"instruction": "hello", "completions": [{"model": "m", "response": "bad"}]}),
            json!({"prompt": [{"role": "user", "content": "hello"}], "response": "good"}),
        ],
    );
    score(&["--model", &model, "--input", &input, "--output", &output]).unwrap();
    let rows = world.rows("out.jsonl");
    let close = |a: &Value, b: &Value| (a.as_f64().unwrap() - b.as_f64().unwrap()).abs() < 1e-5;
    let (good, bad) = (&rows[1]["score_chosen"], &rows[1]["score_rejected"]);
    assert!(!close(good, bad));
    assert!(close(&rows[0]["score"], good) && close(&rows[4]["score"], good));
    assert!(close(&rows[2]["scores"][0], bad) && close(&rows[2]["scores"][1], good));
    assert!(close(&rows[3]["scores"][0], bad));
    assert_eq!(rows[2]["input_scores"], json!([1.0, 2.0]));
    let keys: Vec<&String> = rows[0].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["prompt", "response", "weight", "score"]);
}

#[test]
fn score_reads_compressed_files_the_same() {
    let world = World::new();
    let model = world.path("runs/a/final");
    let lines: Vec<Value> =
        (0..40).map(|i| json!({"prompt": format!("p{i}"), "response": "é 日本"})).collect();
    let plain = world.write("in.jsonl", &lines);
    let bytes = fs::read(&plain).unwrap();
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(&bytes).unwrap();
    // The format is told by content, not by name.
    fs::write(world.path("in.gz.jsonl"), gz.finish().unwrap()).unwrap();
    fs::write(world.path("in.jsonl.zst"), zstd::encode_all(&*bytes, 1).unwrap()).unwrap();
    for (input, output) in [("in.jsonl", "a"), ("in.gz.jsonl", "b"), ("in.jsonl.zst", "c")] {
        score(&["--model", &model, "--input", &world.path(input), "--output", &world.path(output)]).unwrap();
    }
    assert_eq!(world.rows("a").len(), 40);
    assert_eq!(world.rows("a"), world.rows("b"));
    assert_eq!(world.rows("a"), world.rows("c"));
}

#[test]
fn a_failed_score_leaves_the_old_output_and_no_other_file() {
    let world = World::new();
    let (model, input, output) = (world.path("runs/a"), world.path("in.jsonl"), world.path("dir/out.jsonl"));
    fs::create_dir(world.path("dir")).unwrap();
    fs::write(&output, "old").unwrap();
    fs::write(&input, "{\"prompt\": \"p\", \"response\": \"r\"}\n\n{\"prompt\": \"\\xff\"}\n").unwrap();
    let error = score(&["--model", &model, "--input", &input, "--output", &output]).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().starts_with(&format!("{input}:3: ")), "{error}");
    assert_eq!(fs::read_to_string(&output).unwrap(), "old");
    assert_eq!(fs::read_dir(world.path("dir")).unwrap().count(), 1);

    score(&["--model", &model, "--input", &input, "--output", &output, "--on-error", "keep"]).unwrap();
    let rows = world.rows("dir/out.jsonl");
    assert_eq!((rows.len(), &rows[1]["line"]), (2, &json!(3)));
    assert!(rows[0]["score"].is_f64() && rows[1]["error"].is_string());
}

#[test]
fn overlong_rows_are_errors_at_the_models_length_or_the_given_one() {
    let world = World::new();
    let (model, output) = (world.path("runs/a"), world.path("out.jsonl"));
    let input = world.write("in.jsonl", &[json!({"prompt": "p", "response": "x".repeat(200)})]);
    let error = score(&["--model", &model, "--input", &input, "--output", &output]).unwrap_err().to_string();
    assert!(error.contains("more than the 128"), "{error}");
    let short = world.write("short.jsonl", &[json!({"prompt": "p", "response": "xxxxxxxxxx"})]);
    let args = ["--model", &model, "--input", &short, "--output", &output, "--max-length", "8"];
    assert!(score(&args).unwrap_err().to_string().contains("more than the 8"));
    score(&args[..6]).unwrap();
}

#[test]
fn an_output_that_a_glob_reads_is_refused_and_kept_errors_name_their_file() {
    let world = World::new();
    let model = world.path("runs/a");
    let good = json!({"prompt": "p", "response": "r"});
    let first = world.write("a1.jsonl", std::slice::from_ref(&good));
    world.write("a2.jsonl", &[good, json!({"prompt": "p"})]);
    let glob = world.path("a*.jsonl");
    let error = score(&["--model", &model, "--input", &glob, "--output", &first]).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("is the same file as --input"), "{error}");
    assert_eq!(world.rows("a1.jsonl").len(), 1);
    let output = world.path("out.jsonl");
    score(&["--model", &model, "--input", &glob, "--output", &output, "--on-error", "keep"]).unwrap();
    let rows = world.rows("out.jsonl");
    assert_eq!((rows.len(), &rows[2]["line"]), (3, &json!(2)));
    assert_eq!(rows[2]["file"], json!(world.path("a2.jsonl")));
}

#[test]
fn no_rows_is_an_empty_output() {
    let world = World::new();
    let (input, output) = (world.write("in.jsonl", &[]), world.path("out.jsonl"));
    score(&["--model", &world.path("runs/a"), "--input", &input, "--output", &output]).unwrap();
    assert_eq!(fs::read(&output).unwrap(), b"");
}

#[test]
fn an_output_under_a_link_replaces_what_it_points_to() {
    let world = World::new();
    let input = world.write("in.jsonl", &[json!({"prompt": "p", "response": "r"})]);
    fs::write(world.path("real"), "old").unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink(world.path("real"), world.path("link")).unwrap();
    #[cfg(not(unix))]
    fs::hard_link(world.path("real"), world.path("link")).unwrap();
    score(&["--model", &world.path("runs/a"), "--input", &input, "--output", &world.path("link")]).unwrap();
    #[cfg(unix)]
    assert!(fs::symlink_metadata(world.path("link")).unwrap().is_symlink());
    assert!(world.rows("link")[0]["score"].is_f64());
}

#[test]
fn a_model_that_cannot_score_says_why() {
    let world = World::new();
    let input = world.write("in.jsonl", &[]);
    let refused = |model: &str| score(&["--model", model, "--input", &input]).unwrap_err();
    let config = world.path("runs/a/final/config.json");
    let causal = fs::read_to_string(&config).unwrap().replace("ForSequenceClassification", "ForCausalLM");
    fs::write(&config, causal).unwrap();
    let error = refused(&world.path("runs/a"));
    assert!(error.to_string().contains("without a reward head"), "{error}");
    assert_eq!(error.exit_code(), 2);
    fs::create_dir_all(world.path("runs/b/checkpoints")).unwrap();
    fs::write(world.path("runs/b/config.toml"), "").unwrap();
    assert!(refused(&world.path("runs/b")).to_string().contains("neither final/ nor a checkpoint"));
}

#[test]
fn eval_reports_pairs_and_ranked_splits_as_the_scores_say() {
    let world = World::new();
    let model = world.path("runs/a");
    let texts: Vec<String> = (0..60).map(|i| format!("answer {}", i * 37 % 61)).collect();
    let pairs: Vec<Value> =
        texts.chunks(2).map(|t| json!({"prompt": "question", "chosen": t[0], "rejected": t[1]})).collect();
    let ranked: Vec<Value> = texts
        .chunks(4)
        .map(|t| json!({"prompt": "question", "responses": t, "scores": [4.0, 2.0, 3.0, null]}))
        .collect();
    let input = world.write("splits/in-domain.jsonl", &pairs);
    world.write("splits/mutual-disjoint.jsonl", &ranked);
    fs::write(world.path("runs/a/config.toml"), format!("[data]\nsplits_dir = {:?}\n", world.path("splits")))
        .unwrap();

    let out = world.path("report.json");
    eval(&["--model", &model, "--out", &out]).unwrap();
    let report: EvalReport = serde_json::from_slice(&fs::read(&out).unwrap()).unwrap();
    let names: Vec<&str> = report.splits.0.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["in-domain", "mutual-disjoint"]);
    assert!(report.model.ends_with("runs/a/final"));

    score(&["--model", &model, "--input", &input, "--output", &world.path("scored")]).unwrap();
    let scored = world.rows("scored");
    let right = |row: &&Value| row["score_chosen"].as_f64() > row["score_rejected"].as_f64();
    let accuracy = scored.iter().filter(right).count() as f64 / scored.len() as f64;
    let split = report.splits.get("in-domain").unwrap();
    assert_eq!((split.rows, split.metric, split.accuracy), (30, Metric::Accuracy, Some(accuracy)));
    let [lo, hi] = split.accuracy_ci95.unwrap();
    assert!(lo <= accuracy && accuracy <= hi);
    let split = report.splits.get("mutual-disjoint").unwrap();
    assert_eq!((split.rows, split.metric, split.sequences), (15, Metric::KendallTau, 45));
    assert_eq!(split.responses_without_gold, 15);
    assert!(split.hidden_norm_var.unwrap() >= 0.0);

    let error = eval(&["--model", &model, "--split", "prompt-disjoint"]).unwrap_err().to_string();
    assert!(error.ends_with("which has in-domain, mutual-disjoint"), "{error}");
    eval(&["--model", &model, "--data", &input, "--out", &out]).unwrap();
    let only: EvalReport = serde_json::from_slice(&fs::read(&out).unwrap()).unwrap();
    assert_eq!(only.splits.0.len(), 1);
}

/// Most of these rows are longer than the tiny model's context: what counts is that none gets lost.
#[test]
fn real_pairs_are_all_accounted_for() {
    let Some(pairs) = crate::shared("data/ultrafeedback_pairs.jsonl") else { return };
    let world = World::new();
    let input = world.path("pairs.jsonl");
    let text = fs::read_to_string(pairs).unwrap();
    fs::write(&input, text.lines().take(200).map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    let out = world.path("report.json");
    eval(&["--model", &world.path("runs/a"), "--data", &input, "--out", &out]).unwrap();
    let report: EvalReport = serde_json::from_slice(&fs::read(&out).unwrap()).unwrap();
    let (_, split) = &report.splits.0[0];
    assert_eq!(split.rows + split.skipped.values().sum::<u64>(), 200);
}

#[test]
fn the_binary_scores_from_a_pipe_to_a_pipe() {
    let world = World::new();
    let run = |args: &[&str], input: &str| {
        let mut command = crate::cli::rmtrain(world.0.path());
        command.args(["score", "--model", "runs/a"]).args(args).write_stdin(input.to_owned());
        command.output().unwrap()
    };
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let good = "{\"prompt\": \"p\", \"response\": \"r\"}\n";
    let done = run(&[], &good.repeat(3));
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert_eq!(text(&done.stdout).lines().count(), 3);
    assert!(text(&done.stderr).contains("scored 3 rows (3 sequences, "));
    let empty = run(&[], "");
    assert!(empty.status.success() && empty.stdout.is_empty());
    let failed = run(&[], &format!("{good}{{\"prompt\": \"p\"}}\n{good}"));
    assert_eq!((failed.status.code(), text(&failed.stdout).lines().count()), (Some(2), 1));
    assert!(text(&failed.stderr).contains("stdin:2: "), "{}", text(&failed.stderr));
    let kept = run(&["--on-error", "keep"], &format!("{good}\u{fffd}{{\n{good}"));
    assert_eq!((kept.status.code(), text(&kept.stdout).lines().count()), (Some(0), 3));
}

#[test]
fn a_reader_that_leaves_early_is_no_failure() {
    use std::io::Read;
    let world = World::new();
    let lines = vec![json!({"prompt": "p", "response": "x".repeat(60)}); 20_000];
    let input = world.write("in.jsonl", &lines);
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_rmtrain"))
        .args(["score", "--model", &world.path("runs/a"), "--input", &input, "--batch-tokens", "2000"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0u8; 100];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let done = child.wait_with_output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(String::from_utf8_lossy(&done.stderr), "");
}

#[test]
fn eval_alone_takes_the_newest_run_and_its_splits() {
    let world = World::new();
    let pairs: Vec<Value> = (0..10)
        .map(|i| json!({"prompt": "q", "chosen": format!("a{i}"), "rejected": format!("b{i}")}))
        .collect();
    world.write("splits/mutual-disjoint.jsonl", &pairs);
    fs::write(world.path("runs/a/config.toml"), "[data]\nsplits_dir = \"splits\"\n").unwrap();
    let done =
        crate::cli::rmtrain(world.0.path()).args(["eval", "--split", "mutual-disjoint"]).output().unwrap();
    let stderr = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "{stderr}");
    let report: EvalReport = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!((report.model.as_str(), report.splits.0.len()), ("runs/a/final", 1));
    assert!(stderr.contains("mutual-disjoint    10  accuracy"), "{stderr}");
    let unknown = crate::cli::rmtrain(world.0.path()).args(["eval", "--split", "nope"]).output().unwrap();
    assert_eq!(unknown.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("which has mutual-disjoint"));
}

/// Pairs with models and sources, and ranked rows, as splits of the run `runs/a`.
fn world_with_splits() -> World {
    let world = World::new();
    let texts: Vec<String> =
        (0..80).map(|i| format!("{}answer {}", "- ".repeat(i % 3), "x".repeat(i * 7 % 23))).collect();
    let pairs: Vec<Value> = texts
        .chunks(2)
        .zip(0..)
        .map(|(t, i)| {
            json!({"prompt": format!("question {i}"), "chosen": t[0], "rejected": t[1], "subset": (["easy", "hard"][i % 2]),
                   "source": "s", "chosen-model": "m1", "rejected-model": (["m2", "m3"][i % 2])})
        })
        .collect();
    let ranked: Vec<Value> = texts
        .chunks(4)
        .zip(0..)
        .map(|(t, i)| json!({"prompt": format!("question {i}"), "responses": t, "scores": [4.0, 2.0, 3.0, 1.0]}))
        .collect();
    world.write("splits/in-domain.jsonl", &pairs);
    world.write("splits/mutual-disjoint.jsonl", &ranked);
    fs::write(world.path("runs/a/config.toml"), format!("[data]\nsplits_dir = {:?}\n", world.path("splits")))
        .unwrap();
    world
}

fn evaluated(world: &World, more: &[&str]) -> EvalReport {
    let (model, out) = (world.path("runs/a"), world.path("report.json"));
    eval(&[&["--model", &model, "--out", &out], more].concat()).unwrap();
    serde_json::from_slice(&fs::read(&out).unwrap()).unwrap()
}

#[test]
fn eval_reports_calibration_length_norms_and_rewards() {
    let world = world_with_splits();
    let report = evaluated(&world, &["--effective-rank"]);
    for (name, split) in &report.splits.0 {
        let calibration = split.calibration.unwrap();
        assert!(calibration.ece >= 0.0 && calibration.nll > 0.0 && calibration.brier < 1.0, "{name}");
        let length = split.length.unwrap();
        assert!(length.controlled_accuracy.is_some() && length.reward_slope.is_some(), "{name}");
        let hidden = split.hidden.unwrap();
        assert_eq!(Some(hidden.norm_var), split.hidden_norm_var);
        let rank = hidden.effective_rank.unwrap();
        assert!((1.0..=24.0).contains(&rank) && hidden.norm_max >= hidden.norm_mean, "{name}: {rank}");
        let rewards = split.rewards.as_ref().unwrap();
        assert_eq!(rewards.histogram.counts.iter().sum::<u64>(), split.sequences);
        let check = split.antisymmetry.unwrap();
        assert_eq!(check.rows, split.rows.min(64));
        assert!(check.max_difference < 1e-4, "{name}: {}", check.max_difference);
        if split.metric == Metric::Accuracy {
            let ties = split.ties as f64 / split.rows as f64;
            assert!((split.accuracy.unwrap() + check.swapped_accuracy + ties - 1.0).abs() < 1e-9);
        }
    }
    let gap = report.gaps.get("mutual-disjoint").unwrap();
    let accuracy = |name: &str| report.splits.get(name).unwrap().accuracy.unwrap();
    assert!((gap.accuracy - (accuracy("in-domain") - accuracy("mutual-disjoint"))).abs() < 1e-12);
    let plain = evaluated(&world, &["--antisymmetry-rows", "0"]);
    let split = plain.splits.get("in-domain").unwrap();
    assert!(split.antisymmetry.is_none() && split.hidden.unwrap().effective_rank.is_none());
    assert_eq!(split.accuracy, report.splits.get("in-domain").unwrap().accuracy);
}

#[test]
fn eval_breaks_down_by_source_model_and_subset() {
    let world = world_with_splits();
    let report = evaluated(&world, &["--by", "source", "--by", "model", "--by", "subset", "--by", "model"]);
    let split = report.splits.get("in-domain").unwrap();
    let rows = |by: By| -> Vec<(&str, u64)> {
        split.by[&by].iter().map(|(name, group)| (name.as_str(), group.rows)).collect()
    };
    assert_eq!(rows(By::Source), [("s", 40)]);
    assert_eq!(rows(By::Model), [("m1", 40), ("m2", 20), ("m3", 20)]);
    assert_eq!(rows(By::Subset), [("easy", 20), ("hard", 20)]);
    let (halves, whole) = (&split.by[&By::Subset], split.accuracy.unwrap());
    assert!(((halves["easy"].accuracy + halves["hard"].accuracy) / 2.0 - whole).abs() < 1e-12);
    assert_eq!(split.by[&By::Model]["m1"].gold_win_rate, Some(1.0));
    assert_eq!(split.by[&By::Model]["m1"].reward_win_rate, Some(whole));
    let other = report.splits.get("mutual-disjoint").unwrap();
    assert_eq!(other.by[&By::Source].keys().collect::<Vec<_>>(), ["mutual-disjoint.jsonl"]);
}

#[test]
fn eval_compares_a_model_with_itself_and_with_another() {
    let world = world_with_splits();
    let itself = evaluated(&world, &["--compare", &world.path("runs/a/final")]).comparison.unwrap();
    assert!(itself.model.ends_with("runs/a/final"));
    for (name, split) in &itself.splits.0 {
        assert_eq!(
            (split.difference, split.p_bootstrap, split.left_out),
            (Some(0.0), Some(1.0), 0),
            "{name}"
        );
        assert_eq!(split.value, split.other);
    }
    let mcnemar = itself.splits.get("in-domain").unwrap().mcnemar.unwrap();
    assert_eq!((mcnemar.b, mcnemar.c, mcnemar.p), (0, 0, 1.0));

    // The same weights with the head turned round: right where the first one is wrong.
    let other = world.path("other");
    write_model(Path::new(&other));
    turn_head(Path::new(&other));
    let report = evaluated(&world, &["--compare", &other]);
    let (split, own) = (report.comparison.as_ref().unwrap().splits.get("in-domain").unwrap(), &report.splits);
    let own = own.get("in-domain").unwrap();
    assert_eq!((split.rows, split.value), (own.rows, own.accuracy));
    let swapped = 1.0 - own.accuracy.unwrap() - own.ties as f64 / own.rows as f64;
    assert!((split.other.unwrap() - swapped).abs() < 1e-12);
    let mcnemar = split.mcnemar.unwrap();
    assert_eq!(mcnemar.b + mcnemar.c + own.ties, own.rows);

    // A shorter context leaves rows to one model only.
    fs::create_dir_all(world.path("runs/b")).unwrap();
    fs::write(world.path("runs/b/config.toml"), "[data]\nmax_length = 40\n").unwrap();
    write_model(Path::new(&world.path("runs/b/final")));
    let report = evaluated(&world, &["--compare", &world.path("runs/b")]);
    let (split, own) = (report.comparison.unwrap().splits, report.splits.get("in-domain").unwrap().rows);
    let split = split.get("in-domain").unwrap();
    assert!(split.left_out > 0 && split.rows > 0 && split.rows + split.left_out == own, "{split:?}");

    let error = eval(&["--model", &world.path("runs/a"), "--compare", &world.path("splits")]).unwrap_err();
    assert!(error.to_string().contains("found neither config.json"), "{error}");
}

#[test]
fn splits_that_are_finished_are_told_though_a_later_one_fails() {
    let world = world_with_splits();
    let (model, out) = (world.path("runs/a"), world.path("report.json"));
    fs::write(world.path("splits/response-disjoint.jsonl"), "{oops\n").unwrap();
    // In-domain comes before the file that is broken, mutual-disjoint after it.
    let error = eval(&["--model", &model, "--compare", &model, "--out", &out]).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("response-disjoint.jsonl:1: "), "{error}");
    let report: EvalReport = serde_json::from_slice(&fs::read(&out).unwrap()).unwrap();
    let names: Vec<&str> = report.splits.0.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!((names, report.comparison.is_none()), (vec!["in-domain"], true));
    assert_eq!(report.splits.get("in-domain").unwrap().rows, 40);

    let args = ["eval", "--model", "runs/a", "--compare", "runs/a", "--split", "in-domain", "--split"];
    let split = |name: &str| crate::cli::rmtrain(world.0.path()).args(args).arg(name).output().unwrap();
    let done = split("response-disjoint");
    let stderr = String::from_utf8_lossy(&done.stderr).into_owned();
    assert_eq!(done.status.code(), Some(2), "{stderr}");
    let lacks = "unfinished: the report is without response-disjoint, the comparison with runs/a";
    assert!(stderr.contains(lacks) && stderr.contains("in-domain    40  accuracy"), "{stderr}");
    assert_eq!(serde_json::from_slice::<EvalReport>(&done.stdout).unwrap().splits.0.len(), 1);

    fs::remove_file(&out).unwrap();
    eval(&["--model", &model, "--split", "response-disjoint", "--out", &out]).unwrap_err();
    assert!(!Path::new(&out).exists(), "nothing is finished");
}

#[test]
fn the_first_models_figures_outlast_the_second_model() {
    let world = world_with_splits();
    let (model, other, out) = (world.path("runs/a"), world.path("other"), world.path("report.json"));
    write_model(Path::new(&other));
    // Told when the weights are read, after the first model is done with all splits.
    let weights = fs::read(world.path("other/model.safetensors")).unwrap();
    fs::write(world.path("other/model.safetensors"), &weights[..weights.len() / 2]).unwrap();
    let error = eval(&["--model", &model, "--compare", &other, "--out", &out]).unwrap_err();
    assert!(error.to_string().contains("model.safetensors"), "{error}");
    let report: EvalReport = serde_json::from_slice(&fs::read(&out).unwrap()).unwrap();
    assert_eq!(report.splits.0.len(), 2);
    assert!(report.comparison.is_none() && report.gaps.get("mutual-disjoint").is_some());
}

/// Changes the sign of the reward head.
fn turn_head(folder: &Path) {
    let path = folder.join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let fields: Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let offset = |i: usize| fields["score.weight"]["data_offsets"][i].as_u64().unwrap() as usize;
    for value in bytes[8 + header + offset(0)..8 + header + offset(1)].chunks_exact_mut(4) {
        let turned = -f32::from_le_bytes((&*value).try_into().unwrap());
        value.copy_from_slice(&turned.to_le_bytes());
    }
    fs::write(path, bytes).unwrap();
}

#[test]
fn the_tables_fit_a_terminal() {
    let world = world_with_splits();
    let args = ["eval", "--model", "runs/a", "--compare", "runs/a", "--by", "model", "--effective-rank"];
    let done = crate::cli::rmtrain(world.0.path()).args(args).output().unwrap();
    let stderr = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "{stderr}");
    for line in stderr.lines() {
        assert!(line.chars().count() <= 80 || line.starts_with("compared with"), "{line}");
    }
    for title in
        ["in-domain minus", "calibration", "length", "|h|", "reward", "in-domain by model", "McNemar"]
    {
        assert!(stderr.contains(title), "no {title} in {stderr}");
    }
    let report: EvalReport = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(report.splits.0.len(), 2);
    let wrong = crate::cli::rmtrain(world.0.path()).args(["eval", "--by", "colour"]).output().unwrap();
    assert_eq!(wrong.status.code(), Some(2));
    let message = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert!(message.contains("colour") && message.contains("subset"), "{message}");
}
