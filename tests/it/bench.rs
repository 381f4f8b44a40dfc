//! `bench` through the built binary: stored scores and a small model, what is left out, and how it ends.

use super::cli::rmtrain;
use super::eval_score::write_model;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

fn golden(name: &str) -> String {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/benchmarks").join(name).display().to_string()
}

fn bench(folder: &Path, args: &[&str]) -> Output {
    rmtrain(folder).arg("bench").args(args).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn report(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}\n{}", stderr(output)))
}

#[track_caller]
fn assert_near(found: &Value, expected: f64) {
    let found = found.as_f64().unwrap();
    assert!((found - expected).abs() < 1e-12, "{found} against {expected}");
}

fn write(folder: &Path, name: &str, lines: &[String]) -> String {
    let path = folder.join(name);
    fs::write(&path, lines.join("\n")).unwrap();
    path.display().to_string()
}

fn stored(subset: &str, chosen: f64) -> String {
    json!({"subset": subset, "score_chosen": chosen, "score_rejected": 0.0}).to_string()
}

#[test]
fn stored_scores_give_the_published_figures() {
    let folder = tempfile::tempdir().unwrap();
    let scores = [
        ("rm-bench", "rm_bench.jsonl"),
        ("reward-bench", "reward_bench.jsonl"),
        ("reward-bench-2", "reward_bench_2.jsonl"),
    ]
    .map(|(name, file)| format!("{name}={}", golden(file)));
    let mut args = vec!["rm-bench", "reward-bench", "reward-bench-2", "--out", "out"];
    args.extend(scores.iter().flat_map(|scores| ["--scores", scores.as_str()]));
    let output = bench(folder.path(), &args);
    assert!(output.status.success(), "{}", stderr(&output));
    let found = report(&output);
    let expected: Value = serde_json::from_slice(&fs::read(golden("expected.json")).unwrap()).unwrap();
    assert_eq!(found["model"], Value::Null);
    for (name, expected) in expected.as_object().unwrap() {
        let found = &found["benchmarks"][name];
        assert_near(&found["total"]["value"], expected["total"].as_f64().unwrap());
        let [low, high] = [0, 1].map(|end| found["total"]["ci95"][end].as_f64().unwrap());
        assert!(low < high, "{found}");
        for (group, value) in expected["groups"].as_object().unwrap() {
            assert_near(&found["groups"][group]["value"], value.as_f64().unwrap());
        }
    }
    assert!(stderr(&output).contains("Chat Hard"), "{}", stderr(&output));
    let written: Value =
        serde_json::from_slice(&fs::read(folder.path().join("out/bench.json")).unwrap()).unwrap();
    assert_eq!(written, found);
    assert!(folder.path().join("out/reward-bench.json").is_file());
}

#[test]
fn wrong_rows_of_stored_scores_are_passed_over_where_they_may() {
    let folder = tempfile::tempdir().unwrap();
    let lines = [stored("shp", 1.0), "{oops".into(), stored("poetry", 1.0), stored("shp", -1.0)];
    let scores = write(folder.path(), "scores.jsonl", &lines);
    let failed = bench(folder.path(), &["reward-bench", "--scores", &scores]);
    assert_eq!((failed.status.code(), failed.stdout.len()), (Some(2), 0));
    assert!(stderr(&failed).contains("scores.jsonl:2: "), "{}", stderr(&failed));
    let kept = bench(folder.path(), &["reward-bench", "--scores", &scores, "--on-error", "keep"]);
    assert!(kept.status.success(), "{}", stderr(&kept));
    let found = &report(&kept)["benchmarks"]["reward-bench"];
    assert_eq!(
        (&found["rows"], &found["failed"], &found["total"]["value"]),
        (&json!(2), &json!(2), &json!(0.5))
    );
    assert!(stderr(&kept).contains("left out: ") && stderr(&kept).contains("scores.jsonl:2: "));
    let none = write(folder.path(), "none.jsonl", &lines[1..3]);
    let none = bench(folder.path(), &["reward-bench", "--scores", &none, "--on-error", "keep"]);
    assert_eq!((none.status.code(), none.stdout.len()), (Some(2), 0));
    assert!(stderr(&none).contains("no row could be judged, of 2 rows 2 are wrong and 0 too long"));
}

#[test]
fn a_benchmark_that_is_finished_is_told_though_the_next_one_fails() {
    let folder = tempfile::tempdir().unwrap();
    let good = write(folder.path(), "good.jsonl", &[stored("shp", 1.0)]);
    let bad = write(folder.path(), "bad.jsonl", &["{oops".into()]);
    let [good, bad] = [format!("reward-bench={good}"), format!("rm-bench={bad}")];
    let args = ["reward-bench", "rm-bench", "--scores", &good, "--scores", &bad, "--out", "out"];
    let output = bench(folder.path(), &args);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("bad.jsonl:1: "), "{}", stderr(&output));
    let found = report(&output);
    assert_eq!(found["benchmarks"].as_object().unwrap().len(), 1);
    assert_eq!(found["benchmarks"]["reward-bench"]["total"]["value"], 1.0);
    assert!(folder.path().join("out/bench.json").is_file());
    let first = bench(folder.path(), &["rm-bench", "reward-bench", "--scores", &good, "--scores", &bad]);
    assert_eq!((first.status.code(), first.stdout.len()), (Some(2), 0), "nothing was finished");
}

#[test]
fn a_model_is_run_and_rows_that_are_too_long_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    write_model(&folder.path().join("model"));
    let row = |i: usize| {
        json!({"id": i, "subset": "shp", "prompt": format!("p{i}"), "chosen": format!("one {i}"), "rejected": "two"})
            .to_string()
    };
    let mut lines: Vec<String> = (0..6).map(row).collect();
    lines.push(
        json!({"subset": "shp", "prompt": "x".repeat(200), "chosen": "a", "rejected": "b"}).to_string(),
    );
    let data = write(folder.path(), "rows.jsonl", &lines);
    let args = ["reward-bench", "--model", "model", "--device", "cpu", "--data", &data];
    let with = |more: &[&str]| bench(folder.path(), &[&args, more].concat());
    let refused = with(&[]);
    assert_eq!((refused.status.code(), refused.stdout.len()), (Some(2), 0));
    assert!(stderr(&refused).contains("rows.jsonl:7: "), "{}", stderr(&refused));
    let dropped = with(&["--overlong", "drop", "--out", "out"]);
    assert!(dropped.status.success(), "{}", stderr(&dropped));
    let found = report(&dropped);
    let rewards = &found["benchmarks"]["reward-bench"];
    assert_eq!(
        (&rewards["rows"], &rewards["overlong"], &found["model"]),
        (&json!(6), &json!(1), &json!("model"))
    );
    // What it wrote are stored scores, which give the same figures again.
    let again = bench(folder.path(), &["reward-bench", "--scores", "out/reward-bench_outputs.jsonl"]);
    let again = &report(&again)["benchmarks"]["reward-bench"];
    assert_eq!(again["total"], rewards["total"]);
    let all = with(&["--overlong", "drop", "--max-length", "1"]);
    assert_eq!((all.status.code(), all.stdout.len()), (Some(2), 0));
    assert!(stderr(&all).contains("no row could be judged, of 7 rows 0 are wrong and 7 too long"));
}

#[cfg(unix)]
#[test]
fn an_interrupt_ends_the_reading_of_stored_scores_and_what_is_finished_is_told() {
    use std::io::{BufRead, BufReader, Read, Write};
    let folder = tempfile::tempdir().unwrap();
    let first = json!({"domain": "math", "score_chosen": [1, 2, 3], "score_rejected": [0, 0, 0]});
    write(folder.path(), "first.jsonl", &[first.to_string()]);
    // Small on disk, and seconds of reading.
    let file = fs::File::create(folder.path().join("scores.jsonl.zst")).unwrap();
    let mut encoder = zstd::Encoder::new(file, 1).unwrap();
    let block = format!("{}\n", stored("shp", 1.0)).repeat(10_000);
    (0..400).for_each(|_| encoder.write_all(block.as_bytes()).unwrap());
    encoder.finish().unwrap();
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_rmtrain"))
        .current_dir(folder.path())
        .args(["bench", "rm-bench", "reward-bench", "--scores", "rm-bench=first.jsonl"])
        .args(["--scores", "reward-bench=scores.jsonl.zst"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut text = String::new();
    let mut read_up_to = |awaited: &str| {
        while !text.contains(awaited) {
            assert_ne!(stderr.read_line(&mut text).unwrap(), 0, "{text}");
        }
    };
    // With the table of the first benchmark, the handler is there and the long file is next.
    read_up_to("rm-bench");
    super::interrupt(&child);
    read_up_to("interrupt: stopping (once more");
    stderr.read_to_string(&mut text).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{text}");
    let found = report(&output);
    let finished: Vec<&String> = found["benchmarks"].as_object().unwrap().keys().collect();
    assert_eq!(finished, ["rm-bench"], "{text}");
}
