//! What `fit` meets on disk: training rows, and checkpoints of which something is missing.

use super::Bench;
use super::models::bench as model_bench;
use std::fs;
use std::path::{Path, PathBuf};

const CONFIG: &str = r#"[model]
path = "model"
[data]
train = ["pairs.jsonl"]
max_length = 64
[[objective]]
kind = "bradley-terry"
[train]
batch_pairs = 2
max_steps = 4
save_every = 1
keep_last = 9
device = "cpu"
"#;

const PAIR: &str = "{\"prompt\": \"hello\", \"chosen\": \"yes world\", \"rejected\": \"no\"}\n";

const FIT: &[&str] = &["fit", "--config", "run.toml", "--out", "run"];

fn bench() -> Bench {
    let bench = model_bench();
    bench.write("run.toml", CONFIG);
    bench.write("pairs.jsonl", PAIR.repeat(8));
    bench
}

/// A bench with an interrupted run in `out/run`: four checkpoints and no `final/`.
fn interrupted() -> Bench {
    let bench = bench();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_rmtrain"))
        .args(["fit", "--config", "run.toml", "--out", "out/run"])
        .current_dir(bench.folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::remove_dir_all(bench.at("out/run/final")).unwrap();
    bench
}

const RESUME: &[&str] = &["fit", "--config", "run.toml", "--out", "out/run", "--resume"];

fn checkpoints(bench: &Bench) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        fs::read_dir(bench.at("out/run/checkpoints")).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    assert_eq!(found.len(), 4);
    found
}

fn cut(path: &Path, keep: impl FnOnce(usize) -> usize) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..keep(bytes.len())]).unwrap();
}

#[test]
fn one_bad_training_row() {
    let rows: &[(&str, &str)] = &[
        ("no JSON", "hello"),
        ("half an object", "{\"prompt\": \"hello\", \"chosen\": \"yes"),
        ("a number", "42"),
        ("chosen without rejected", "{\"prompt\": \"hello\", \"chosen\": \"yes\"}"),
        ("a number as text", "{\"prompt\": \"hello\", \"chosen\": 1, \"rejected\": 2}"),
        ("an empty conversation", "{\"prompt\": \"hello\", \"chosen\": [], \"rejected\": []}"),
        (
            "a message without content",
            "{\"prompt\": [{\"role\": \"user\"}], \"chosen\": \"a\", \"rejected\": \"b\"}",
        ),
        (
            "responses and scores of different number",
            "{\"prompt\": \"hello\", \"responses\": [\"a\", \"b\"], \"scores\": [1]}",
        ),
        (
            "a margin that is a word",
            "{\"prompt\": \"hello\", \"chosen\": \"yes\", \"rejected\": \"no\", \"margin\": \"big\"}",
        ),
    ];
    for (case, row) in rows {
        let bench = bench();
        bench.write("pairs.jsonl", format!("{PAIR}{row}\n{PAIR}"));
        bench.refused(case, FIT, b"", &["pairs.jsonl:2"]);
        assert!(!bench.at("run/final").exists() && !bench.at("run/checkpoints").exists(), "{case}");
    }
}

#[test]
fn training_files_without_a_pair() {
    for (case, text, needle) in [
        ("an empty file", "", "pairs.jsonl"),
        ("blank lines", "\n\n\n", "pairs.jsonl"),
        (
            "equal responses only",
            "{\"prompt\": \"hello\", \"chosen\": \"yes\", \"rejected\": \"yes\"}\n",
            "pair",
        ),
    ] {
        let bench = bench();
        bench.write("pairs.jsonl", text);
        bench.refused(case, FIT, b"", &[needle]);
    }
}

#[test]
fn a_margin_column_that_is_not_there() {
    let bench = bench();
    let arguments = [FIT, &["--set", "objective.bradley-terry.margin=column"]].concat();
    bench.refused("no margin", &arguments, b"", &["pairs.jsonl:1", "found no `margin`"]);
}

#[test]
fn one_hole_in_the_margin_column() {
    let bench = bench();
    let with = PAIR.replace("}\n", ", \"margin\": 0.5}\n");
    bench.write("pairs.jsonl", format!("{}{PAIR}{with}", with.repeat(6)));
    // So few steps that the row may not be drawn in any.
    let sets = ["--set", "objective.bradley-terry.margin=column", "--set", "train.max_steps=1"];
    let needles = ["pairs.jsonl:7", "found no `margin`", "margin = \"column\""];
    bench.refused("fit", &[FIT, &sets].concat(), b"", &needles);
    assert!(!bench.at("run/checkpoints").exists() && !bench.at("run/metrics.jsonl").exists());
    bench.refused("plan", &[&["plan", "--config", "run.toml"][..], &sets].concat(), b"", &needles);
    // A row that makes no pair needs no margin.
    let tied = "{\"prompt\": \"hello\", \"chosen\": \"yes\", \"rejected\": \"yes\"}\n";
    bench.write("pairs.jsonl", format!("{}{tied}{with}", with.repeat(6)));
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_rmtrain"))
        .args([FIT, &sets, &["--resume"]].concat())
        .current_dir(bench.folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_folder_that_holds_something_else() {
    let bench = bench();
    bench.refused("foreign", &["fit", "--config", "run.toml", "--out", "out"], b"", &["out", "not empty"]);
}

#[test]
fn a_run_without_a_whole_checkpoint_is_not_begun_again() {
    let bench = interrupted();
    for checkpoint in checkpoints(&bench) {
        cut(&checkpoint.join("model.safetensors"), |length| length - 1);
    }
    bench.refused("all cut", RESUME, b"", &["step-000004", "model.safetensors", "damaged"]);
    for checkpoint in checkpoints(&bench) {
        fs::remove_file(checkpoint.join("checksums.json")).unwrap();
    }
    bench.refused("no checksums", RESUME, b"", &["step-000004", "checksums.json"]);
}

#[test]
fn a_run_that_is_resumed_as_another() {
    let bench = interrupted();
    for (set, needle) in [
        ("optim.lr=1", "optim.lr: found 1.0, expected 1e-5"),
        ("train.batch_pairs=4", "train.batch_pairs: found 4, expected 2"),
        ("objective.bradley-terry.margin=1", "objective.0.margin: found 1.0"),
    ] {
        bench.refused(set, &[RESUME, &["--set", set]].concat(), b"", &[needle]);
    }
    bench.write("pairs.jsonl", PAIR.repeat(7));
    bench.refused("other data", RESUME, b"", &["training data"]);
}

#[test]
fn a_started_run_is_not_overwritten() {
    let bench = interrupted();
    let arguments = ["fit", "--config", "run.toml", "--out", "out/run"];
    bench.refused("no --resume", &arguments, b"", &["out/run", "--resume"]);
}

#[test]
fn a_run_whose_configuration_is_cut() {
    let bench = interrupted();
    // Within a line: what ends with one may well be a configuration.
    let path = bench.at("out/run/config.toml");
    let within = fs::read_to_string(&path).unwrap().find("[train]").unwrap() + 4;
    cut(&path, |_| within);
    bench.refused("config.toml", RESUME, b"", &["out/run/config.toml", "line "]);
}

#[test]
fn a_run_whose_metrics_are_cut() {
    let bench = interrupted();
    cut(&bench.at("out/run/metrics.jsonl"), |length| length / 2);
    bench.refused("metrics.jsonl", RESUME, b"", &["metrics.jsonl", "bytes"]);
}

#[test]
fn a_checkpoint_cut_at_any_byte_does_not_score() {
    let bench = interrupted();
    let checkpoint = checkpoints(&bench).pop().unwrap();
    let model = checkpoint.to_str().unwrap();
    let arguments = ["score", "--model", model, "--input", "rows.jsonl"];
    for name in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        let path = checkpoint.join(name);
        let whole = fs::read(&path).unwrap();
        let length = whole.len();
        for keep in [0, 1, length / 4, length / 2, length / 4 * 3, length - 2] {
            fs::write(&path, &whole[..keep]).unwrap();
            bench.refused(&format!("{name} cut at {keep} of {length}"), &arguments, b"", &[name]);
        }
        fs::write(&path, whole).unwrap();
    }
}
