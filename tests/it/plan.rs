//! `plan` through the built binary: the report, the JSON, what is wrong, and that nothing stays behind.

use super::cli::rmtrain;
use assert_cmd::Command;
use predicates::prelude::*;
use predicates::str::contains;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// The quickstart, smaller.
const SMALL: [&str; 6] = [
    "--set",
    "data.sandbox={ seed = 1, prompts = 200 }",
    "--set",
    "train.batch_pairs=4",
    "--set",
    "train.memory_budget_gib=4",
];

/// `plan` in `folder`, with its temporary files in `folder/tmp`.
fn plan(folder: &Path, flags: &[&str]) -> Command {
    let temporary = folder.join("tmp");
    fs::create_dir_all(&temporary).unwrap();
    let mut command = rmtrain(folder);
    command.env("TMPDIR", temporary).arg("plan").arg("--config");
    command.arg(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("configs/quickstart.toml"));
    command.args(SMALL).args(flags);
    command
}

#[track_caller]
fn json(folder: &Path, flags: &[&str]) -> Value {
    let output = plan(folder, &[&["--json"], flags].concat()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[track_caller]
fn assert_nothing_left(folder: &Path) {
    let names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["tmp"]);
    assert_eq!(fs::read_dir(folder.join("tmp")).unwrap().count(), 0);
}

#[test]
fn the_report_says_what_a_run_costs_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    plan(folder.path(), &[]).assert().success().stdout(
        contains("tokens, packed")
            .and(contains("operations, the run"))
            .and(contains("rewards-first"))
            .and(contains("best micro-batch: --set train.micro_batch_tokens="))
            .and(contains("median")),
    );
    assert_nothing_left(folder.path());
}

#[test]
fn the_json_agrees_with_itself() {
    let folder = tempfile::tempdir().unwrap();
    let whole = json(folder.path(), &[]);
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{value} is no number"));
    let pairs = number(&whole["pairs"]);
    assert_eq!(number(&whole["steps"]), 3.0 * (pairs / 4.0).ceil());
    assert_eq!(whole["sampled_pairs"], whole["pairs"]);
    assert!(number(&whole["tokens_packed"]) < number(&whole["tokens_plain"]));
    assert!(number(&whole["tokens_plain"]) < number(&whole["tokens_padded"]));
    assert_eq!(number(&whole["tokens_run_packed"]).round(), 3.0 * number(&whole["tokens_packed"]));
    let ratio = number(&whole["flops_run"]) / (number(&whole["flops_step"]) * number(&whole["steps"]));
    assert!((ratio - 1.0).abs() < 1e-9, "{ratio}");
    assert!(number(&whole["flops_run_model"]) < number(&whole["flops_run"]));
    assert_eq!((&whole["activations"], &whole["measured"]), (&"keep".into(), &Value::Null));
    let peak = |way: &str| number(&whole["memory"]["peak_bytes"][way]);
    assert!(peak("keep") >= peak("recompute") && peak("recompute") >= peak("rewards-first"));
    assert_eq!(whole["micro_batch_tokens"], 4096);
    let counts = whole["lengths"]["histogram"]["counts"].as_array().unwrap();
    assert_eq!(counts.iter().map(number).sum::<f64>(), 2.0 * pairs);

    let half = json(folder.path(), &["--sample", "50"]);
    assert_eq!((&half["sampled_pairs"], &half["pairs"]), (&52.into(), &whole["pairs"]));
    let off = number(&half["tokens_plain"]) / number(&whole["tokens_plain"]);
    assert!((0.8..1.25).contains(&off) && off != 1.0, "{off}");

    let tight = json(folder.path(), &["--memory", "0.0001"]);
    assert_eq!(
        (&tight["activations"], &tight["suggestion"]["fits"]),
        (&"rewards-first".into(), &false.into())
    );
    assert!(number(&tight["flops_run"]) > 1.3 * number(&whole["flops_run"]));
    let fast = json(folder.path(), &["--peak-tflops", "100"]);
    assert_eq!(number(&fast["seconds_run"]), number(&fast["flops_run"]) / 50e12);
}

#[test]
fn measured_steps_are_real_and_leave_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let plan = json(folder.path(), &["--measure"]);
    let measured = &plan["measured"];
    assert_eq!(measured["seconds"].as_array().unwrap().len(), 3);
    for name in [
        "seconds_per_step",
        "tokens_per_second",
        "packed_tokens_per_second",
        "pairs_per_second",
        "tflops",
        "mfu",
        "time_factor",
    ] {
        assert!(measured[name].as_f64().is_some_and(|value| value > 0.0), "{name}: {measured}");
    }
    let expected = plan["flops_run"].as_f64().unwrap() / (measured["tflops"].as_f64().unwrap() * 1e12);
    assert!((plan["seconds_run"].as_f64().unwrap() / expected - 1.0).abs() < 1e-9);
    assert!(cfg!(not(target_os = "linux")) || measured["peak_memory_bytes"].as_u64().is_some());
    assert_nothing_left(folder.path());
}

#[test]
fn a_plan_counts_what_fit_then_does() {
    let folder = tempfile::tempdir().unwrap();
    let plan = json(folder.path(), &["--set", "train.max_steps=3"]);
    rmtrain(folder.path())
        .args(["fit", "--out", "run", "--set", "train.max_steps=3", "--config"])
        .arg(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("configs/quickstart.toml"))
        .args(SMALL)
        .assert()
        .success();
    let metrics = fs::read_to_string(folder.path().join("run/metrics.jsonl")).unwrap();
    let lines = metrics.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let steps: Vec<Value> = lines.filter(|line| line["kind"] == "step").collect();
    let tokens: u64 = steps.iter().map(|line| line["tokens"].as_u64().unwrap()).sum();
    assert_eq!((steps.len() as u64, plan["steps"].as_u64()), (3, Some(3)));
    assert_eq!(plan["tokens_run_plain"].as_f64().unwrap().round(), tokens as f64);
}

#[test]
fn a_machine_without_a_gpu_plans_for_one() {
    let folder = tempfile::tempdir().unwrap();
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{value} is no number"));
    let here = json(folder.path(), &["--on", "cpu"]);
    let gpu = ["--on", "gpu", "--memory", "80", "--peak-tflops", "989"];
    let there = json(folder.path(), &gpu);
    // bf16 unless the configuration says otherwise: copies to compute with, half the activations, dense moments.
    assert_eq!(
        (number(&here["memory"]["compute_copies"]), &here["memory"]["masters"]),
        (0.0, &there["memory"]["masters"])
    );
    assert_eq!(2.0 * number(&there["memory"]["compute_copies"]), number(&there["memory"]["masters"]));
    let activations = |plan: &Value| number(&plan["memory"]["activations"]["recompute"]);
    assert!(activations(&there) < 0.6 * activations(&here));
    assert_eq!(there["memory"]["moments"], there["memory"]["moments_all"]);
    assert_eq!(number(&there["memory"]["budget_bytes"]), 80.0 * f64::from(1 << 30));
    assert_eq!(there["device"], "a GPU elsewhere, its peak given with --peak-tflops");
    assert_eq!(number(&there["seconds_run"]), number(&there["flops_run"]) / (0.4 * 989e12));
    // A product saturates later there, so that larger micro-batches are looked at.
    let most = |plan: &Value| number(&plan["suggested_micro_batch_tokens"]);
    let large = ["--set", "train.batch_pairs=100"];
    assert_eq!(most(&json(folder.path(), &[&["--on", "cpu"][..], &large].concat())), 4096.0);
    assert_eq!(most(&json(folder.path(), &[&gpu[..], &large].concat())), 16384.0);
    // The configuration may name the GPU that is there.
    for key in ["train.device=cuda", "train.device=cpu"] {
        assert_eq!(json(folder.path(), &[&gpu[..], &["--set", key]].concat())["device"], there["device"]);
    }
    let f32 = json(folder.path(), &[&gpu[..], &["--set", "model.dtype=f32"]].concat());
    assert_eq!(f32["memory"]["compute_copies"], 0);
    let unknown = json(folder.path(), &["--on", "gpu"]);
    assert_eq!(
        (&unknown["seconds_run"], &unknown["device"]),
        (&Value::Null, &"a GPU that is not known".into())
    );
}

#[test]
fn a_device_that_is_not_there_is_told_before_rows_are_read() {
    if cfg!(feature = "cuda") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    plan(folder.path(), &["--set", "train.device=cuda"])
        .assert()
        .code(2)
        .stdout("")
        .stderr(contains("this build has no CUDA").and(contains("--on gpu")));
    plan(folder.path(), &["--on", "gpu", "--measure"])
        .assert()
        .code(2)
        .stdout("")
        .stderr(contains("--measure: found --on gpu where there is none"));
    assert_nothing_left(folder.path());
}

#[test]
fn what_could_not_be_checked_is_told() {
    let folder = tempfile::tempdir().unwrap();
    plan(folder.path(), &["--on", "gpu", "--set", "train.memory_budget_gib=auto"])
        .assert()
        .success()
        .stderr(contains("hint: --memory GIB"));
    let quickstart = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("configs/quickstart.toml");
    rmtrain(folder.path())
        .args([
            "plan",
            "--set",
            "data.splits_dir=absent",
            "--set",
            "model.tokenizer=absent/tokenizer",
            "--config",
        ])
        .arg(quickstart)
        .assert()
        .failure()
        .stderr(contains("hint: data.splits_dir: absent does not exist yet"));
}

#[cfg(unix)]
#[test]
fn an_interrupt_while_tokens_are_counted_leaves_nothing() {
    use std::time::{Duration, Instant};
    let folder = tempfile::tempdir().unwrap();
    let temporary = folder.path().join("tmp");
    fs::create_dir_all(&temporary).unwrap();
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_rmtrain"))
        .current_dir(folder.path())
        .env("TMPDIR", &temporary)
        .args(["plan", "--set", "data.sandbox={ seed = 1, prompts = 3000 }", "--config"])
        .arg(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("configs/quickstart.toml"))
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // The pairs are there, so what follows is tokenizing them.
    let pairs_are_stored = || {
        let folders = fs::read_dir(&temporary).unwrap().flatten().map(|entry| entry.path().join("data"));
        folders
            .flat_map(fs::read_dir)
            .flatten()
            .flatten()
            .any(|entry| entry.path().extension().is_none_or(|end| end != "partial"))
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    while !pairs_are_stored() {
        assert!(Instant::now() < deadline && child.try_wait().unwrap().is_none(), "no pairs within a minute");
        std::thread::sleep(Duration::from_millis(2));
    }
    super::interrupt(&child);
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(3), 0), "{stderr}");
    assert!(stderr.contains("interrupt: stopping"), "{stderr}");
    assert_nothing_left(folder.path());
}

#[test]
fn what_is_wrong_is_said_as_fit_says_it() {
    let folder = tempfile::tempdir().unwrap();
    plan(folder.path(), &["--set", "train.batch_pair=3"])
        .assert()
        .code(2)
        .stdout("")
        .stderr(contains("unknown key").and(contains("batch_pair")));
    plan(folder.path(), &["--set", "data.max_length=513"])
        .assert()
        .code(2)
        .stdout("")
        .stderr(contains("max_position_embeddings"));
    for flags in [["--memory", "0"], ["--peak-tflops", "-1"], ["--sample", "0"], ["--memory", "nan"]] {
        plan(folder.path(), &flags).assert().code(2).stdout("");
    }
    rmtrain(folder.path()).args(["plan", "--config", "absent.toml"]).assert().code(2).stdout("");
    assert_nothing_left(folder.path());
}
