//! Gold labels: ArmoRM against PyTorch, and a run that is killed and goes on.

use crate::cli::rmtrain;
use crate::eval_score::write_model;
use crate::shared;
use candle_core::Device;
use rmtrain::data::TokenGroup;
use rmtrain::eval::score_groups;
use rmtrain::model::reward_model::HeadInit;
use rmtrain::model::{ArmoRm, RewardModel};
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/armorm")
}

/// The golden rows: prompt, responses, ids, and what PyTorch says of each response.
fn expected() -> Vec<Value> {
    serde_json::from_str(&fs::read_to_string(golden().join("expected.json")).unwrap()).unwrap()
}

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

fn groups(rows: &[Value]) -> Vec<TokenGroup> {
    rows.iter()
        .map(|row| TokenGroup { sequences: serde_json::from_value(row["ids"].clone()).unwrap() })
        .collect()
}

/// Relative to 1 + |expected|: the engine computes in f32.
fn largest_difference(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).map(|(f, e)| (f - e).abs() / (1.0 + e.abs())).fold(0.0, f64::max)
}

#[test]
fn objectives_gate_and_score_match_pytorch() {
    let rows = expected();
    let judged = ArmoRm::load(&golden(), &Device::Cpu, None).unwrap().score(&groups(&rows)).unwrap();
    let expected: Vec<&Value> = rows.iter().flat_map(|row| row["judged"].as_array().unwrap()).collect();
    assert_eq!(judged.len(), expected.len());
    let mut largest = 0f64;
    for (found, expected) in judged.iter().zip(expected) {
        largest = largest
            .max(largest_difference(&found.objectives.rewards, &floats(&expected["rewards"])))
            .max(largest_difference(&found.objectives.gate, &floats(&expected["gate"])))
            .max(largest_difference(&[found.score], &[expected["score"].as_f64().unwrap()]));
    }
    println!("largest difference to PyTorch in float64: {largest:e}");
    assert!(largest < 1e-5, "{largest:e}");
}

#[test]
fn neither_sharing_nor_the_batch_changes_a_label() {
    let model = ArmoRm::load(&golden(), &Device::Cpu, None).unwrap();
    let mut groups = groups(&expected());
    // Two responses that differ before the header: it lies in their own part.
    groups
        .push(TokenGroup { sequences: vec![groups[0].sequences[0].clone(), groups[2].sequences[1].clone()] });
    groups.push(TokenGroup { sequences: vec![groups[1].sequences[0].clone()] });
    let together = model.score(&groups).unwrap();
    let alone: Vec<_> = groups
        .iter()
        .flat_map(|group| group.sequences.clone())
        .flat_map(|ids| model.score(&[TokenGroup { sequences: vec![ids] }]).unwrap())
        .collect();
    let gap = |a: f64, b: f64| assert!((a - b).abs() < 1e-5, "{a} against {b}");
    for (a, b) in together.iter().zip(&alone) {
        gap(a.score, b.score);
        assert!(largest_difference(&a.objectives.rewards, &b.objectives.rewards) < 1e-5);
        assert!(largest_difference(&a.objectives.gate, &b.objectives.gate) < 1e-5);
    }
    for batch_tokens in [1, 50, 120, 100_000] {
        let batched = score_groups(&model, groups.clone(), batch_tokens).unwrap();
        batched.iter().flatten().zip(&together).for_each(|(a, b)| gap(a.reward, b.score));
    }
}

#[test]
fn a_sequence_without_the_header_is_an_error() {
    let model = ArmoRm::load(&golden(), &Device::Cpu, None).unwrap();
    let error = model.score(&[TokenGroup { sequences: vec![vec![1, 2, 3]] }]).unwrap_err().to_string();
    assert!(error.contains("a sequence of 3 tokens has no assistant header"), "{error}");
    assert!(model.score::<TokenGroup>(&[]).unwrap().is_empty());
}

/// A copy of the golden folder with other keys in its `config.json`.
fn changed(folder: &Path, keys: Value) -> PathBuf {
    let copy = folder.join("model");
    fs::create_dir_all(&copy).unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        fs::copy(golden().join(file), copy.join(file)).unwrap();
    }
    let path = copy.join("config.json");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    for (key, value) in keys.as_object().unwrap() {
        config[key] = value.clone();
    }
    fs::write(path, config.to_string()).unwrap();
    copy
}

#[test]
fn a_wrong_folder_names_its_file_and_key() {
    let folder = tempfile::tempdir().unwrap();
    for (keys, says) in [
        (json!({"gating_temperature": 0}), "gating_temperature: found 0, expected a number above 0"),
        (json!({"num_objectives": "many"}), "num_objectives: found \"many\""),
        (json!({"gating_token_pattern": []}), "gating_token_pattern: found [], expected a list of token ids"),
        (json!({"gating_token_pattern": [1, 261]}), "261 is past vocab_size 261"),
        (json!({"gating_token_pattern": null}), "missing, so Llama 3's [128009, 128006"),
        (json!({"gating_n_hidden": 2}), "tensor gating.layers.3.weight: found"),
        (
            json!({"gating_hidden_dim": 25}),
            "tensor gating.layers.0.weight: found shape [24, 32], expected [25, 32]",
        ),
        (
            json!({"num_objectives": 18}),
            "tensor regression_layer.weight: found shape [19, 32], expected [18, 32]",
        ),
        (
            json!({"architectures": ["Qwen2ForRewardModelWithGating"], "model_type": "qwen2"}),
            "architectures: found",
        ),
    ] {
        let model = changed(folder.path(), keys);
        let error = ArmoRm::load(&model, &Device::Cpu, None).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(says) && text.contains("model"), "{text:?} does not say {says:?}");
        assert_eq!(error.exit_code(), 2);
    }
    // The number of labels says nothing here.
    let model = changed(folder.path(), json!({"id2label": {"0": "LABEL_0"}, "num_labels": 3}));
    ArmoRm::load(&model, &Device::Cpu, None).unwrap();
}

#[test]
fn a_gated_model_is_not_trained() {
    let head = HeadInit::default();
    let error = RewardModel::load(&golden(), &Device::Cpu, None, head).unwrap_err();
    assert!(error.to_string().contains("scores but is not trained"), "{error}");
    assert_eq!(error.exit_code(), 2);
}

struct World(tempfile::TempDir);

impl World {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, rows: &[Value]) {
        fs::write(self.path(name), rows.iter().map(|row| format!("{row}\n")).collect::<String>()).unwrap();
    }

    fn rows(&self, name: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.path(name)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// `rmtrain label` on the CPU by the golden model, in the world's folder.
    fn label(&self, arguments: &str) -> assert_cmd::Command {
        let mut command = rmtrain(self.0.path());
        command
            .args(["label", "--device", "cpu", "--model"])
            .arg(golden())
            .args(arguments.split_whitespace());
        command
    }

    /// The same as a process of its own.
    fn spawn(&self, arguments: &str) -> Child {
        let binary = assert_cmd::cargo::cargo_bin!("rmtrain");
        let mut command = std::process::Command::new(binary);
        command.current_dir(self.0.path()).args(["label", "--device", "cpu", "--model"]).arg(golden());
        command.args(arguments.split_whitespace()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// UltraFeedback rows by three models, enough of them that a run is met in its middle.
    fn write_ultrafeedback(&self, name: &str, count: usize) {
        let response = |model: usize, i: usize| {
            let text = format!("answer {i} of model {model} {}", "word ".repeat((i * 7 + model * 3) % 20));
            json!({"model": format!("m{model}"), "response": text, "overall_score": i % 5})
        };
        let rows: Vec<Value> = (0..count)
            .map(|i| {
                let completions: Vec<Value> = (0..3).map(|model| response(model, i)).collect();
                json!({"instruction": format!("question {i}"), "completions": completions})
            })
            .collect();
        self.write(name, &rows);
    }
}

#[test]
fn labels_through_template_and_tokenizer_are_pytorchs() {
    let world = World::new();
    let rows: Vec<Value> = expected()
        .iter()
        .map(|row| json!({"prompt": row["prompt"], "responses": row["responses"], "scores": vec![0; row["responses"].as_array().unwrap().len()]}))
        .collect();
    world.write("in.jsonl", &rows);
    world.label("--input in.jsonl --output out.jsonl --objectives").assert().success().stdout("");
    rmtrain(world.0.path())
        .args(["score", "--device", "cpu", "--input", "in.jsonl", "--output", "scored.jsonl", "--model"])
        .arg(golden())
        .assert()
        .success();
    for ((row, scored), expected) in
        world.rows("out.jsonl").iter().zip(world.rows("scored.jsonl")).zip(expected())
    {
        let judged = expected["judged"].as_array().unwrap();
        let scores: Vec<f64> = judged.iter().map(|j| j["score"].as_f64().unwrap()).collect();
        assert!(largest_difference(&floats(&row["scores"]), &scores) < 1e-5);
        assert_eq!(row["scores"], scored["scores"]);
        for (entry, judged) in row["objectives"].as_array().unwrap().iter().zip(judged) {
            for key in ["rewards", "gate"] {
                assert!(largest_difference(&floats(&entry[key]), &floats(&judged[key])) < 1e-5);
            }
        }
    }
    // eval orders responses by what label wrote, and the same model agrees with itself.
    let report = rmtrain(world.0.path())
        .args(["eval", "--device", "cpu", "--data", "out.jsonl", "--model"])
        .arg(golden())
        .output()
        .unwrap();
    let report: Value = serde_json::from_slice(&report.stdout).unwrap();
    assert_eq!(report["splits"]["out"]["kendall_tau"], json!(1.0));
}

#[test]
fn a_killed_run_goes_on_to_the_same_bytes() {
    let world = World::new();
    world.write_ultrafeedback("in.jsonl", 1500);
    let whole = "--input in.jsonl --output whole.jsonl --objectives --batch-tokens 600";
    world.label(whole).assert().success();

    let arguments = "--input in.jsonl --output out.jsonl --objectives --batch-tokens 600 --resume";
    let mut kills = 0;
    for share in [5, 2] {
        let mut child = world.spawn(arguments);
        let wanted = fs::metadata(world.path("whole.jsonl")).unwrap().len() / share;
        let deadline = Instant::now() + Duration::from_secs(120);
        let size = || fs::metadata(world.path("out.jsonl")).map_or(0, |found| found.len());
        while size() < wanted && child.try_wait().unwrap().is_none() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
        // SIGKILL on Unix.
        child.kill().unwrap();
        kills += u32::from(!child.wait().unwrap().success());
        // A write that the kill has cut.
        let mut text = fs::read(world.path("out.jsonl")).unwrap();
        text.extend_from_slice(b"{\"instruction\": \"quest");
        fs::write(world.path("out.jsonl"), text).unwrap();
    }
    assert_eq!(kills, 2, "the run was over before it could be killed");
    let resumed = world.label(arguments).assert().success().get_output().stderr.clone();
    let resumed = String::from_utf8(resumed).unwrap();
    assert!(resumed.contains("of 1,500 rows are there already"), "{resumed}");
    assert!(!resumed.contains("labelled 1,500 rows"), "it began anew: {resumed}");
    let read = |name: &str| fs::read(world.path(name)).unwrap();
    assert!(read("out.jsonl") == read("whole.jsonl"), "the resumed output differs");
    let mut states = ["out.jsonl.state.json", "whole.jsonl.state.json"].map(|name| world.rows_of_json(name));
    assert_eq!(states[0], states[1]);
    assert_eq!(states[0]["complete_rows"].take(), json!(1500));
    // Nothing is left to do, and nothing is done.
    world.label(arguments).assert().success();
    assert!(read("out.jsonl") == read("whole.jsonl"));
}

impl World {
    fn rows_of_json(&self, name: &str) -> Value {
        serde_json::from_str(&fs::read_to_string(self.path(name)).unwrap()).unwrap()
    }
}

#[cfg(unix)]
#[test]
fn an_interrupt_finishes_the_window_and_says_how_to_go_on() {
    let world = World::new();
    world.write_ultrafeedback("in.jsonl", 1500);
    let arguments = "--input in.jsonl --output out.jsonl --batch-tokens 600";
    let child = world.spawn(arguments);
    let deadline = Instant::now() + Duration::from_secs(120);
    while fs::metadata(world.path("out.jsonl")).map_or(0, |found| found.len()) == 0
        && Instant::now() < deadline
    {
        std::thread::sleep(Duration::from_millis(2));
    }
    super::interrupt(&child);
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    assert!(stderr.contains("the same command with --resume goes on"), "{stderr}");
    let found = fs::read_to_string(world.path("out.jsonl")).unwrap();
    assert!(found.ends_with("}\n") && found.lines().count() < 1500);
    // A part of the rows is no data to any verb, until the rest is there.
    let split = "split --input out.jsonl --out splits --valid-models m2";
    let refused = rmtrain(world.0.path()).args(split.split_whitespace()).assert().code(2);
    let refused = String::from_utf8(refused.get_output().stderr.clone()).unwrap();
    assert!(
        refused.contains("out.jsonl: found an output that `rmtrain label` has not finished"),
        "{refused}"
    );
    assert!(!world.path("splits").exists());
    world.label(&format!("{arguments} --resume")).assert().success();
    assert_eq!(world.rows("out.jsonl").len(), 1500);
    rmtrain(world.0.path()).args(split.split_whitespace()).assert().success();
}

#[test]
fn an_input_that_changes_meanwhile_is_found_and_the_output_stays_unfinished() {
    let world = World::new();
    world.write_ultrafeedback("in.jsonl", 1500);
    let child = world.spawn("--input in.jsonl --output out.jsonl --batch-tokens 600");
    let deadline = Instant::now() + Duration::from_secs(120);
    while fs::metadata(world.path("out.jsonl")).map_or(0, |found| found.len()) == 0
        && Instant::now() < deadline
    {
        std::thread::sleep(Duration::from_millis(2));
    }
    let rows = fs::OpenOptions::new().append(true).open(world.path("in.jsonl"));
    rows.unwrap().write_all(b"{\"prompt\": \"p\", \"response\": \"late\"}\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("in.jsonl: found SHA-256 ") && stderr.contains("changed while"), "{stderr}");
    assert_eq!(world.rows_of_json("out.jsonl.state.json")["complete_rows"], Value::Null);
}

#[test]
fn a_score_field_that_nothing_is_read_from_is_refused() {
    let world = World::new();
    world.write_ultrafeedback("in.jsonl", 2);
    let mut command = world.label("--input in.jsonl --output out.jsonl --score-field mean-rating");
    let refused = String::from_utf8(command.assert().code(2).get_output().stderr.clone()).unwrap();
    assert!(
        refused.contains("--score-field mean-rating: ") && refused.contains("overall_score"),
        "{refused}"
    );
    assert!(!world.path("out.jsonl").exists());
}

#[test]
fn another_input_model_or_setting_is_refused() {
    let world = World::new();
    world.write_ultrafeedback("in.jsonl", 12);
    world.label("--input in.jsonl --output out.jsonl").assert().success();
    let refused = |mut command: assert_cmd::Command, says: &str| {
        let output = command.assert().code(2).get_output().stderr.clone();
        let output = String::from_utf8(output).unwrap();
        assert!(output.contains(says), "{output:?} does not say {says:?}");
    };
    refused(world.label("--input in.jsonl --output out.jsonl"), "--resume goes on with what was begun");
    let resume = "--input in.jsonl --output out.jsonl --resume";
    refused(
        world.label(&format!("{resume} --score-field other")),
        "--score-field: was overall_score, is other",
    );
    refused(world.label(&format!("{resume} --reorder")), "--reorder: was false, is true");
    refused(world.label("--input out.jsonl --output out.jsonl --resume"), "is the same file as");
    world.write_ultrafeedback("in.jsonl", 13);
    refused(world.label(resume), "SHA-256 of input in.jsonl: was ");
    world.write_ultrafeedback("in.jsonl", 12);

    let mut other = rmtrain(world.0.path());
    let model = changed(world.0.path(), json!({"gating_temperature": 3.0}));
    other.args(["label", "--device", "cpu", "--model"]).arg(model).args(resume.split_whitespace());
    refused(other, "SHA-256 of the model: was ");

    let text = fs::read_to_string(world.path("out.jsonl")).unwrap();
    fs::write(world.path("out.jsonl"), format!("{text}{text}")).unwrap();
    refused(world.label(resume), "found 24 rows, expected at most the 12 of the input");
    fs::remove_file(world.path("out.jsonl.state.json")).unwrap();
    refused(world.label(resume), "out.jsonl.state.json: found no such file");
    // A file that no run has begun stays as it is, whatever is in it.
    fs::write(world.path("notes"), "{no line").unwrap();
    refused(world.label("--input in.jsonl --output notes --resume"), "notes.state.json: found no such file");
    assert_eq!(fs::read_to_string(world.path("notes")).unwrap(), "{no line");
}

#[test]
fn a_row_that_cannot_be_scored_stops_or_is_kept() {
    let world = World::new();
    let good = json!({"prompt": "p", "chosen": "one", "rejected": "two"});
    world.write("in.jsonl", &[good.clone(), json!({"prompt": "p", "response": "x".repeat(600)}), good]);
    let arguments = "--input in.jsonl --output out.jsonl";
    let failed = world.label(arguments).assert().code(2).get_output().stderr.clone();
    let failed = String::from_utf8(failed).unwrap();
    assert!(failed.contains("in.jsonl:2: ") && failed.contains("--resume --on-error keep"), "{failed}");
    assert_eq!(world.rows("out.jsonl").len(), 1);
    world.label(&format!("{arguments} --resume --on-error keep")).assert().success();
    let rows = world.rows("out.jsonl");
    assert_eq!((rows.len(), &rows[1]["line"]), (3, &json!(2)));
    assert_eq!(rows[0], rows[2]);
    assert_eq!(rows[1].get("file"), None, "there is one file only");
    // Whoever goes on is told of all of them, those before the interruption too.
    let again = world.label(&format!("{arguments} --resume --on-error keep")).assert().success();
    let again = String::from_utf8(again.get_output().stderr.clone()).unwrap();
    assert!(again.contains("hint: 1 rows of out.jsonl could not be scored"), "{again}");
    world.label("--input in.jsonl in.jsonl --output two.jsonl --on-error keep").assert().success();
    let rows = world.rows("two.jsonl");
    assert_eq!((&rows[4]["file"], &rows[4]["line"]), (&json!("in.jsonl"), &json!(2)));
}

#[test]
fn a_second_gold_model_leaves_what_the_first_and_the_data_said() {
    let world = World::new();
    world.write("in.jsonl", &[json!({"prompt": "p", "response": "a", "model": "m", "overall_score": 7})]);
    world.label("--input in.jsonl --output one.jsonl").assert().success();
    let mut second = rmtrain(world.0.path());
    let model = changed(world.0.path(), json!({"gating_temperature": 3.0}));
    second.args(["label", "--device", "cpu", "--input", "one.jsonl", "--output", "two.jsonl", "--model"]);
    second.arg(model).assert().success();
    let (one, two) = (world.rows("one.jsonl"), world.rows("two.jsonl"));
    assert_ne!(one[0]["overall_score"], two[0]["overall_score"]);
    assert_eq!((&one[0]["input_overall_score"], one[0].get("score")), (&json!(7), None));
    assert_eq!(two[0]["input_overall_score"], json!(7));
    assert_eq!(two[0]["input_2_overall_score"], one[0]["overall_score"]);
}

#[test]
fn a_sequence_classification_folder_is_a_gold_model_too() {
    let world = World::new();
    write_model(&world.path("model"));
    world.write("in.jsonl", &[json!({"prompt": "p", "responses": ["a", "b"], "models": ["m", "n"]})]);
    let run = |arguments: &str| {
        let mut command = rmtrain(world.0.path());
        command.args(["label", "--device", "cpu", "--model", "model", "--input", "in.jsonl"]);
        command.args(arguments.split_whitespace());
        command.assert()
    };
    run("--output out.jsonl").success();
    assert_eq!(world.rows("out.jsonl")[0]["scores"].as_array().unwrap().len(), 2);
    let refused = run("--output other.jsonl --objectives").code(2).get_output().stderr.clone();
    assert!(String::from_utf8(refused).unwrap().contains("gives one reward"));
}

#[test]
fn split_reads_what_label_wrote() {
    let Some(data) = shared("data/alpaca_eval_17models.jsonl") else { return };
    let world = World::new();
    let head: String =
        fs::read_to_string(data).unwrap().lines().take(15).map(|line| format!("{line}\n")).collect();
    fs::write(world.path("in.jsonl"), head).unwrap();
    world.label("--input in.jsonl --output gold.jsonl --max-length 100000").assert().success();
    let split = "split --input gold.jsonl --out splits --valid-models claude,vicuna-7b,alpaca-7b,jina-chat";
    rmtrain(world.0.path()).args(split.split_whitespace()).assert().success();
    let labelled = world.rows("gold.jsonl");
    let gold = |text: &Value| {
        let completions = labelled.iter().flat_map(|row| row["completions"].as_array().unwrap());
        completions.clone().find(|c| c["response"] == *text).map(|c| c["overall_score"].as_f64().unwrap())
    };
    for row in world.rows("splits/train.jsonl") {
        assert!(row["chosen-rating"].as_f64() >= row["rejected-rating"].as_f64());
        assert_eq!(gold(&row["chosen"]), row["chosen-rating"].as_f64());
    }
}
