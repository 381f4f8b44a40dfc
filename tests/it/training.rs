//! `fit` through the built binary: what it writes, resuming, interrupts, and what must not change the result.

use rmtrain::model::weights::{StoredDtype, WeightFiles};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const CONFIG: &str = r#"
[model]
tokenizer = "sandbox"
[model.random]
model_type = "qwen2"
vocab_size = 1024
hidden_size = 32
intermediate_size = 48
num_hidden_layers = 2
num_attention_heads = 4
num_key_value_heads = 2
max_position_embeddings = 512
[data]
sandbox = { seed = 1, prompts = 60 }
max_length = 512
[[objective]]
kind = "bradley-terry"
[[objective]]
kind = "sum-to-zero"
lambda = 0.1
[optim]
lr = 3e-3
[train]
batch_pairs = 4
micro_batch_tokens = 250
max_steps = 24
eval_every = 8
save_every = 3
"#;

pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("run.toml"), CONFIG).unwrap();
        Self(folder)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The built binary in this folder.
    pub(crate) fn rmtrain(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rmtrain"));
        command.current_dir(self.0.path());
        command
    }

    pub(crate) fn fit(&self, out: &str, flags: &[&str]) -> Command {
        let mut command = self.rmtrain();
        command.args(["fit", "--config", "run.toml", "--out", out]).args(flags);
        command
    }

    pub(crate) fn fitted(&self, out: &str, flags: &[&str]) -> PathBuf {
        succeed(self.fit(out, flags).output().unwrap());
        self.path(out)
    }
}

#[track_caller]
pub(crate) fn succeed(output: Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{:?}\n{stderr}", output.status);
    stderr
}

/// The lines of `metrics.jsonl` without what depends on the clock.
pub(crate) fn metrics(run: &Path) -> Vec<Value> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let timeless = |line: &str| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        line.as_object_mut().unwrap().remove("seconds");
        line
    };
    text.lines().map(timeless).collect()
}

pub(crate) fn steps(run: &Path) -> Vec<Value> {
    metrics(run).into_iter().filter(|line| line["kind"] == "step").collect()
}

/// Every file of a folder with its bytes.
pub(crate) fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(&path).unwrap())
        })
        .collect();
    files.sort();
    files
}

/// The checkpoint of a run's last step.
fn newest_checkpoint(run: &Path) -> PathBuf {
    let entries = fs::read_dir(run.join("checkpoints")).unwrap().map(|entry| entry.unwrap().path());
    entries.max().unwrap()
}

/// The files of a checkpoint without what depends on the clock: the text of `seconds` has not always as many digits, so
/// neither have the lines before a checkpoint as many bytes.
fn timeless(checkpoint: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = contents(checkpoint);
    files.retain(|(name, _)| name != "checksums.json");
    for (_, bytes) in files.iter_mut().filter(|(name, _)| name == "rmtrain_state.json") {
        let mut state: Value = serde_json::from_slice(bytes).unwrap();
        state.as_object_mut().unwrap().remove("metrics_bytes");
        *bytes = state.to_string().into_bytes();
    }
    files
}

#[track_caller]
fn assert_same_files(what: &str, a: &[(String, Vec<u8>)], b: &[(String, Vec<u8>)]) {
    let names = |files: &[(String, Vec<u8>)]| files.iter().map(|(n, _)| n.clone()).collect::<Vec<_>>();
    assert_eq!(names(a), names(b), "{what}");
    for ((name, a), (_, b)) in a.iter().zip(b) {
        assert!(a == b, "{what}/{name} differs");
    }
}

/// Two runs have the same lines, the same newest checkpoint and the same model.
#[track_caller]
pub(crate) fn assert_same_run(a: &Path, b: &Path) {
    assert_eq!(metrics(a), metrics(b), "metrics.jsonl");
    assert_same_files("final", &contents(&a.join("final")), &contents(&b.join("final")));
    let newest = [a, b].map(newest_checkpoint);
    assert_eq!(newest[0].file_name(), newest[1].file_name(), "the newest checkpoint");
    assert_same_files("the newest checkpoint", &timeless(&newest[0]), &timeless(&newest[1]));
}

#[test]
fn a_run_writes_what_it_promises_and_learns() {
    let folder = Folder::new();
    let stderr = succeed(folder.fit("run", &[]).output().unwrap());
    let run = folder.path("run");
    for needle in ["plan:", "memory:", "first example, chosen", "mutual-disjoint", "next:"] {
        assert!(stderr.contains(needle), "no {needle:?} in\n{stderr}");
    }
    let steps = steps(&run);
    assert_eq!(steps.len(), 24);
    let fields = [
        "step",
        "epoch",
        "loss",
        "loss_bt",
        "loss_bsr",
        "accuracy",
        "ties",
        "margin_mean",
        "reward_mean",
        "reward_std",
        "reward_min",
        "reward_max",
        "head_norm",
        "hidden_norm_mean",
        "hidden_norm_var",
        "hidden_norm_skew",
        "hidden_norm_max",
        "hidden_diff_norm_mean",
        "cos_mean",
        "grad_norm",
        "head_grad_norm",
        "lr",
        "pairs",
        "sequences",
        "tokens",
    ];
    for step in &steps {
        for field in fields {
            assert!(step[field].is_number(), "{field} of {step}");
        }
        let quantiles: Vec<f64> =
            step["hidden_norm_quantiles"].as_array().unwrap().iter().map(|q| q.as_f64().unwrap()).collect();
        assert!(quantiles.len() == 7 && quantiles.is_sorted(), "{quantiles:?}");
        assert_eq!(step["hidden_norm_max"], quantiles[6]);
        let sides =
            ["chosen", "rejected"].map(|side| step[format!("hidden_norm_{side}_mean")].as_f64().unwrap());
        assert!(
            (f64::midpoint(sides[0], sides[1]) - step["hidden_norm_mean"].as_f64().unwrap()).abs() < 1e-9
        );
        let sum = step["loss_bt"].as_f64().unwrap() + 0.1 * step["loss_bsr"].as_f64().unwrap();
        assert!((step["loss"].as_f64().unwrap() - sum).abs() < 1e-12);
    }
    let mean = |range: &[Value]| {
        range.iter().map(|s| s["loss_bt"].as_f64().unwrap()).sum::<f64>() / range.len() as f64
    };
    assert!(mean(&steps[16..]) < mean(&steps[..8]), "the loss did not fall");
    let evals: Vec<Value> = metrics(&run).into_iter().filter(|line| line["kind"] == "eval").collect();
    assert_eq!(evals.len(), 3 * 4, "three evaluations of four splits");
    for file in ["config.toml", "final/config.json", "final/model.safetensors", "final/tokenizer.json"] {
        assert!(run.join(file).is_file(), "{file}");
    }
    let config: Value = serde_json::from_slice(&fs::read(run.join("final/config.json")).unwrap()).unwrap();
    assert_eq!(config["architectures"][0], "Qwen2ForSequenceClassification");
    assert!(config["pad_token_id"].is_u64());
    assert!(fs::read_dir(run.join("checkpoints")).unwrap().count() <= 3, "two newest and the best");
}

#[test]
fn nothing_but_the_configuration_decides_the_result() {
    let folder = Folder::new();
    let plain = folder.fitted("a", &[]);
    assert_same_run(&plain, &folder.fitted("b", &[]));
    for held in ["keep", "recompute", "rewards-first"] {
        let set = format!("train.activations=\"{held}\"");
        assert_same_run(&plain, &folder.fitted(held, &["--set", &set]));
    }
    for tokens in ["1", "600", "1000000"] {
        let set = format!("train.micro_batch_tokens={tokens}");
        assert_same_run(&plain, &folder.fitted(tokens, &["--set", &set]));
    }
    let local = ["--set", "objective.sum-to-zero.scope=micro-batch"];
    let small_local = folder.fitted("small-local", &local);
    let penalty = |line: &Value| line["loss_bsr"].as_f64().unwrap();
    let difference = steps(&small_local)
        .iter()
        .zip(&steps(&plain))
        .any(|(a, b)| (penalty(a) - penalty(b)).abs() > 1e-3 * penalty(b).abs());
    assert!(difference, "the penalty per micro-batch is another objective");
}

#[test]
fn a_run_may_go_on_in_other_micro_batches() {
    let folder = Folder::new();
    let plain = folder.fitted("plain", &[]);
    let run = folder.fitted("run", &["--set", "train.keep_last=9"]);
    fs::remove_dir_all(run.join("final")).unwrap();
    for step in [15, 16, 18, 21, 24] {
        let _ = fs::remove_dir_all(run.join(format!("checkpoints/step-0000{step}")));
    }
    let output = folder.fit("run", &["--resume", "--set", "train.micro_batch_tokens=600"]).output();
    let stderr = succeed(output.unwrap());
    assert!(stderr.contains("after step 12"), "{stderr}");
    assert_same_run(&plain, &run);
}

const PLACKETT_LUCE: &str = r#"objective=[{kind="plackett-luce"},{kind="sum-to-zero",lambda=0.1}]"#;

#[test]
fn of_pairs_plackett_luce_trains_as_bradley_terry_to_the_bit() {
    let folder = Folder::new();
    let bradley_terry = folder.fitted("bradley-terry", &[]);
    let plackett_luce = folder.fitted("plackett-luce", &["--set", PLACKETT_LUCE]);
    assert_same_run(&bradley_terry, &plackett_luce);
}

#[test]
fn lists_train_whatever_the_micro_batches_and_resume_to_the_bit() {
    let folder = Folder::new();
    let world = Command::new(env!("CARGO_BIN_EXE_rmtrain"))
        .current_dir(folder.path("."))
        .args(["sandbox", "--out", "world", "--prompts", "60", "--seed", "1"])
        .output();
    succeed(world.unwrap());
    let sets = [
        "model.tokenizer=world/tokenizer",
        r#"data.train=["world/splits/response-disjoint.jsonl"]"#,
        r#"data.eval=["world/splits/in-domain.jsonl"]"#,
        "data.pairing=listwise",
        "train.max_steps=18",
        "train.keep_last=9",
    ];
    let with = |objective: &'static str, more: &[&'static str]| -> Vec<&'static str> {
        sets.iter().chain([&objective]).chain(more).flat_map(|set| ["--set", *set]).collect()
    };
    let flags = |more: &[&'static str]| with(PLACKETT_LUCE, &[&["data.max_responses=3"][..], more].concat());
    let stderr = succeed(folder.fit("plain", &flags(&[])).output().unwrap());
    for needle in ["first example, response 3 of 3, rank", "too-many-responses", "lists, 18 steps of 4 lists"]
    {
        assert!(stderr.contains(needle), "no {needle:?} in\n{stderr}");
    }
    let plain = folder.path("plain");
    let lines = steps(&plain);
    let (pairs, sequences) = (lines[0]["pairs"].as_u64().unwrap(), lines[0]["sequences"].as_u64().unwrap());
    assert_eq!(sequences, 12);
    // Of three there are three pairs, or two where two are tied.
    assert!((8..=12).contains(&pairs), "{pairs}");
    let mean =
        |lines: &[Value]| lines.iter().map(|l| l["loss"].as_f64().unwrap()).sum::<f64>() / lines.len() as f64;
    assert!(mean(&lines[12..]) < mean(&lines[..6]), "the loss did not fall");

    for (name, set) in [
        ("one", "train.micro_batch_tokens=1"),
        ("all", "train.micro_batch_tokens=1000000"),
        ("recompute", "train.activations=recompute"),
        ("rewards-first", "train.activations=rewards-first"),
    ] {
        assert_same_run(&plain, &folder.fitted(name, &flags(&[set])));
    }

    let run = folder.fitted("run", &flags(&[]));
    fs::remove_dir_all(run.join("final")).unwrap();
    for step in [12, 15, 16, 18] {
        let _ = fs::remove_dir_all(run.join(format!("checkpoints/step-0000{step}")));
    }
    let resume = [flags(&[]), vec!["--resume"]].concat();
    assert!(succeed(folder.fit("run", &resume).output().unwrap()).contains("after step 9"));
    assert_same_run(&plain, &run);

    let other = [with(PLACKETT_LUCE, &["data.max_responses=4"]), vec!["--resume"]].concat();
    let output = folder.fit("run", &other).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("data.max_responses: found 4, expected 3"), "{stderr}");
    // Bradley-Terry takes the same lists, pair by pair.
    let by_pairs = with(r#"objective=[{kind="bradley-terry"}]"#, &["data.max_responses=3"]);
    let line = &steps(&folder.fitted("by-pairs", &by_pairs))[0];
    assert_eq!(line["loss"], line["loss_bt"]);
    assert_eq!(line["loss_bt"], lines[0]["loss_bt"]);
}

/// The tensors of a folder's weights.
fn weights(folder: &Path) -> Vec<(String, Vec<f32>)> {
    let files = WeightFiles::open(folder).unwrap();
    let read = |name: &str| {
        let shape = &files.info(name).unwrap().shape;
        (name.to_owned(), files.read_f32(name, shape).unwrap())
    };
    files.names().map(read).collect()
}

#[test]
fn frozen_parameters_keep_their_values_and_have_no_moments() {
    let folder = Folder::new();
    let one = folder.fitted("one", &["--set", "train.max_steps=1"]);
    // Untrained but for a step of rate zero: what the runs below start from.
    let before = weights(&one.join("checkpoints/step-000001"));
    for (embeddings, layers) in [(true, 1), (false, 1), (true, 2), (true, 0)] {
        let sets = [format!("model.freeze_embeddings={embeddings}"), format!("model.freeze_layers={layers}")];
        let flags = ["--set", &sets[0], "--set", &sets[1]];
        let name = format!("{embeddings}-{layers}");
        let run = folder.fitted(&name, &flags);
        let is_frozen = |name: &str| {
            (embeddings && name.contains("embed_tokens"))
                || (0..layers).any(|i| name.contains(&format!("layers.{i}.")))
        };
        let after = weights(&run.join("checkpoints/step-000024"));
        assert_eq!(after.len(), before.len(), "a checkpoint holds all weights");
        for ((name, after), (_, before)) in after.iter().zip(&before) {
            assert_eq!(is_frozen(name), after == before, "{name} with {flags:?}");
        }
        let moments =
            WeightFiles::open_file(&run.join("checkpoints/step-000024/optimizer.safetensors")).unwrap();
        assert!(moments.names().all(|name| !is_frozen(name)), "{flags:?}");
        assert!(moments.info("exp_avg.score.weight").is_some());
        for held in ["recompute", "rewards-first"] {
            let set = format!("train.activations=\"{held}\"");
            let again = [&flags[..], &["--set", &set, "--set", "train.micro_batch_tokens=100"]].concat();
            assert_same_run(&run, &folder.fitted(&format!("{name}-{held}"), &again));
        }
        fs::remove_dir_all(run.join("final")).unwrap();
        fs::remove_dir_all(run.join("checkpoints/step-000024")).unwrap();
        let resumed = [&flags[..], &["--resume"]].concat();
        assert_same_run(&folder.path(&format!("{name}-recompute")), &folder.fitted(&name, &resumed));
    }
    let output = folder.fit("many", &["--set", "model.freeze_layers=3"]).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("model.freeze_layers: found 3, expected at most 2"), "{stderr}");
}

#[test]
fn moments_in_eight_bits_resume_to_the_bit_and_are_no_others() {
    let folder = Folder::new();
    // The embedding, 1024 x 32, is the only parameter of the size to be quantized.
    let eight_bit = ["--set", "optim.moments=8-bit", "--set", "train.keep_last=9"];
    let plain = folder.fitted("plain", &eight_bit);
    assert_ne!(
        steps(&plain),
        steps(&folder.fitted("f32", &[])),
        "eight bits are not enough for the same bits"
    );
    let run = folder.fitted("run", &eight_bit);
    fs::remove_dir_all(run.join("final")).unwrap();
    for step in [15, 16, 18, 21, 24] {
        let _ = fs::remove_dir_all(run.join(format!("checkpoints/step-0000{step}")));
    }
    let moments = WeightFiles::open_file(&run.join("checkpoints/step-000012/optimizer.safetensors")).unwrap();
    let dtype = |name: &str| moments.info(name).unwrap().dtype;
    assert_eq!(dtype("exp_avg.model.embed_tokens.weight"), StoredDtype::U8);
    assert_eq!(dtype("exp_avg_sq_absmax.model.embed_tokens.weight"), StoredDtype::F32);
    assert_eq!(dtype("exp_avg.model.norm.weight"), StoredDtype::F32);
    let refused = |flags: &[&str], needle: &str| {
        let output = folder.fit("run", flags).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(needle), "{stderr}");
    };
    refused(&["--resume"], "optim.moments: found \"f32\", expected \"8-bit\"");
    let again = [&eight_bit[..], &["--resume"]].concat();
    assert_same_run(&plain, &folder.fitted("run", &again));
}

/// RMTRAIN_KILLS sets how many times.
#[test]
fn a_run_that_is_killed_again_and_again_ends_as_if_it_had_not_been() {
    let kills: u32 = std::env::var("RMTRAIN_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(6);
    let folder = Folder::new();
    let steps = format!("train.max_steps={}", 15 * kills);
    let started = Instant::now();
    let plain = folder.fitted("plain", &["--set", &steps]);
    let whole = started.elapsed();
    let (mut delivered, mut clock) = (0, 1u64);
    while delivered < kills {
        let mut child = start(folder.fit("killed", &["--resume", "--set", &steps]));
        // A moment by a small generator of its own, in steps, which take their time on a busy machine: none to eleven
        // more than there are, so that the run outlives all kills, and up to a step's time after that.
        let mut draw = || {
            clock = clock.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (clock >> 40) as f64 / (1u64 << 24) as f64
        };
        let at = steps_done(&folder.path("killed")) + (12.0 * draw()) as usize;
        let rest = whole.mul_f64(draw() / f64::from(15 * kills));
        while steps_done(&folder.path("killed")) < at && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(rest);
        if child.try_wait().unwrap().is_some() {
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        delivered += 1;
    }
    let stopped_at = steps_done(&folder.path("killed"));
    succeed(folder.fit("killed", &["--resume", "--set", &steps]).output().unwrap());
    println!("{delivered} kills, the last one at step {stopped_at} of {}", 15 * kills);
    assert_eq!(delivered, kills, "the run ended before every kill was delivered");
    assert_same_run(&plain, &folder.path("killed"));
}

fn steps_done(run: &Path) -> usize {
    fs::read_to_string(run.join("metrics.jsonl")).map_or(0, |text| text.matches("\"kind\":\"step\"").count())
}

fn start(mut command: Command) -> Child {
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

#[cfg(unix)]
#[test]
fn an_interrupt_saves_and_tells_how_to_go_on() {
    let folder = Folder::new();
    let flags = [
        "--set",
        "train.max_steps=2000",
        "--set",
        "train.save_every=100000",
        "--set",
        "train.eval_every=100000",
    ];
    let child = start(folder.fit("run", &flags));
    let run = folder.path("run");
    let deadline = Instant::now() + Duration::from_secs(60);
    while fs::read_to_string(run.join("metrics.jsonl")).map_or(0, |text| text.lines().count()) < 3 {
        assert!(Instant::now() < deadline, "no step within a minute");
        std::thread::sleep(Duration::from_millis(10));
    }
    super::interrupt(&child);
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    assert!(stderr.contains("--resume"), "{stderr}");
    let done = steps(&run).len();
    assert!(run.join(format!("checkpoints/step-{done:06}/trainer_state.json")).is_file(), "{stderr}");
}

#[test]
fn a_damaged_checkpoint_is_passed_over() {
    let folder = Folder::new();
    let plain = folder.fitted("plain", &[]);
    let run = folder.fitted("run", &[]);
    fs::remove_dir_all(run.join("final")).unwrap();
    let weights = run.join("checkpoints/step-000024/model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&weights, bytes).unwrap();
    let stderr = succeed(folder.fit("run", &["--resume"]).output().unwrap());
    assert!(stderr.contains("step-000024") && stderr.contains("SHA-256"), "{stderr}");
    assert_same_run(&plain, &run);
}

#[test]
fn a_folder_that_holds_something_else_is_left_alone() {
    let folder = Folder::new();
    let run = folder.fitted("run", &[]);
    let before = fs::read(run.join("metrics.jsonl")).unwrap();
    let refused = |command: &mut Command, needle: &str| {
        let output = command.output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(needle), "{stderr}");
    };
    refused(&mut folder.fit("run", &[]), "--resume");
    refused(&mut folder.fit("run", &["--resume", "--set", "optim.lr=1e-3"]), "optim.lr: found 0.001");
    fs::create_dir(folder.path("foreign")).unwrap();
    fs::write(folder.path("foreign/thesis.tex"), "all of it").unwrap();
    refused(&mut folder.fit("foreign", &[]), "holds no run");
    assert_eq!(contents(&folder.path("foreign")).len(), 1);
    succeed(folder.fit("run", &["--resume"]).output().unwrap());
    assert_eq!(fs::read(run.join("metrics.jsonl")).unwrap(), before);
}

#[test]
fn a_bad_evaluation_row_costs_no_training() {
    let folder = Folder::new();
    folder.fitted("world", &[]);
    let flags = [
        "--set",
        "model.tokenizer=world/sandbox/tokenizer",
        "--set",
        "data.train=[\"world/sandbox/splits/train.jsonl\"]",
        "--set",
        "data.eval=[\"held-out.jsonl\"]",
    ];
    let good = fs::read_to_string(folder.path("world/sandbox/splits/in-domain.jsonl")).unwrap();
    // At a step that more follow, and at the last one, whose checkpoint is saved before and after the evaluation.
    for (every, saved) in [("8", 8), ("none", 24)] {
        let (plain, run) = (format!("plain-{every}"), format!("run-{every}"));
        let every = format!("train.eval_every={every}");
        let flags: Vec<&str> = flags.iter().copied().chain(["--set", &every]).collect();
        fs::write(folder.path("held-out.jsonl"), &good).unwrap();
        let plain = folder.fitted(&plain, &flags);

        fs::write(folder.path("held-out.jsonl"), format!("{good}{{\"prompt\": 1}}\n")).unwrap();
        let output = folder.fit(&run, &flags).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        let line = good.lines().count() + 1;
        assert!(stderr.contains(&format!("held-out.jsonl:{line}: ")), "{stderr}");
        assert!(stderr.contains(&format!("saved step {saved}")), "{stderr}");
        assert_eq!(newest_state(&folder.path(&run))["evaluation_pending"], true);

        fs::write(folder.path("held-out.jsonl"), &good).unwrap();
        let again: Vec<&str> = flags.iter().copied().chain(["--resume"]).collect();
        assert_same_run(&plain, &folder.fitted(&run, &again));
    }
}

#[test]
fn a_run_that_stopped_early_is_not_trained_on() {
    let folder = Folder::new();
    let flags =
        ["--set", "train.early_stopping_patience=1", "--set", "train.eval_every=2", "--set", "optim.lr=1e-9"];
    let run = folder.fitted("run", &flags);
    let steps_then = steps(&run).len();
    assert!(steps_then < 24, "nothing is learned at this rate, so it stops early");
    fs::remove_dir_all(run.join("final")).unwrap();
    let again: Vec<&str> = flags.iter().copied().chain(["--resume"]).collect();
    folder.fitted("run", &again);
    assert_eq!(steps(&run).len(), steps_then);
}

/// What the newest checkpoint of a run knows.
fn newest_state(run: &Path) -> Value {
    serde_json::from_slice(&fs::read(newest_checkpoint(run).join("rmtrain_state.json")).unwrap()).unwrap()
}

#[test]
fn the_best_step_is_that_of_the_metric_which_was_asked_for() {
    let folder = Folder::new();
    let flags = ["--set", "train.best_metric=mutual-disjoint.kendall_tau", "--set", "train.keep_last=1"];
    let stderr = succeed(folder.fit("run", &flags).output().unwrap());
    assert!(stderr.contains("best: mutual-disjoint.kendall_tau = "), "{stderr}");
    let run = folder.path("run");
    let evals = metrics(&run).into_iter().filter(|line| line["split"] == "mutual-disjoint");
    let taus = evals.map(|line| (line["step"].as_u64().unwrap(), line["kendall_tau"].as_f64().unwrap()));
    // Of equals the first.
    let best = taus.reduce(|best, next| if next.1 > best.1 { next } else { best }).unwrap();
    let state = &newest_state(&run)["best"];
    assert_eq!((state["step"].as_u64(), state["value"].as_f64()), (Some(best.0), Some(best.1)));
    assert_eq!(state["metric"], "mutual-disjoint.kendall_tau");
    assert!(run.join(format!("checkpoints/step-{:06}", best.0)).is_dir());
}

#[test]
fn a_metric_that_no_evaluation_has_costs_no_training() {
    let folder = Folder::new();
    let world =
        folder.rmtrain().args(["sandbox", "--out", "world", "--prompts", "60", "--seed", "1"]).output();
    succeed(world.unwrap());
    let flags = [
        "--set",
        "model.tokenizer=world/tokenizer",
        "--set",
        "data.train=[\"world/splits/train.jsonl\"]",
        "--set",
        "data.eval=[\"world/splits/in-domain.jsonl\"]",
        "--set",
        "train.best_metric=in-domain.kendall_tau",
    ];
    let stderr = succeed(folder.fit("run", &flags).output().unwrap());
    let run = folder.path("run");
    assert!(stderr.contains("step 8: train.best_metric: found no in-domain.kendall_tau"), "{stderr}");
    assert!(!stderr.contains("best: "), "{stderr}");
    assert_eq!(steps(&run).len(), 24);
    assert!(run.join("final/model.safetensors").is_file());
    let state = newest_state(&run);
    assert_eq!((&state["best"], &state["evaluations_without_improvement"]), (&Value::Null, &Value::from(3)));
}

/// An alarm that is raised as soon as there is a window after the baseline: every growth is above the threshold.
const ALARM: [&str; 6] = [
    "--set",
    "guard.window=2",
    "--set",
    "guard.norm-growth={ threshold = 1e-9, action = \"stop\" }",
    "--set",
    "optim.warmup_steps=0",
];

#[test]
fn an_alarm_that_stops_saves_and_stops_again_until_it_is_told_not_to() {
    let folder = Folder::new();
    let output = folder.fit("run", &ALARM).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let run = folder.path("run");
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let hint = "--resume --set guard.norm-growth.action=warn";
    assert!(stderr.contains("guard.norm-growth: ") && stderr.contains(hint), "{stderr}");
    // Two steps make the baseline; the window after it is complete with the third.
    assert_eq!(steps(&run).len(), 3);
    let alarms = |run: &Path| metrics(run).iter().filter(|line| line["rule"] == "norm-growth").count();
    assert_eq!(alarms(&run), 1);
    assert!(run.join("checkpoints/step-000003/trainer_state.json").is_file());
    assert!(!run.join("final").exists());

    let before = fs::read(run.join("metrics.jsonl")).unwrap();
    let again: Vec<&str> = ALARM.iter().copied().chain(["--resume"]).collect();
    let output = folder.fit("run", &again).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(fs::read(run.join("metrics.jsonl")).unwrap(), before, "no step is made");

    let warn = ["--set", "guard.norm-growth={ threshold = 1e-9, action = \"warn\" }"];
    let warn: Vec<&str> = [&ALARM[..2], &ALARM[4..], &warn].concat();
    let resumed: Vec<&str> = warn.iter().copied().chain(["--resume"]).collect();
    succeed(folder.fit("run", &resumed).output().unwrap());
    assert_eq!((steps(&run).len(), alarms(&run)), (24, 1));
    assert_same_run(&folder.fitted("plain", &warn), &run);
}

#[test]
fn an_alarm_that_was_silent_is_told_by_the_run_that_resumes_with_it() {
    let folder = Folder::new();
    let with = |action: &'static str| {
        let rule = match action {
            "off" => "guard.norm-growth={ threshold = 1e-9, action = \"off\" }",
            _ => "guard.norm-growth={ threshold = 1e-9, action = \"warn\" }",
        };
        [&ALARM[..2], &ALARM[4..], &["--set", rule, "--set", "train.keep_last=9"]].concat()
    };
    let run = folder.fitted("run", &with("off"));
    let alarms = || metrics(&run).iter().filter(|line| line["rule"] == "norm-growth").count();
    assert_eq!(alarms(), 0);
    fs::remove_dir_all(run.join("final")).unwrap();
    for step in [15, 16, 18, 21, 24] {
        let _ = fs::remove_dir_all(run.join(format!("checkpoints/step-0000{step}")));
    }
    let resume = || {
        let flags = [with("warn"), vec!["--resume"]].concat();
        let stderr = succeed(folder.fit("run", &flags).output().unwrap());
        (stderr.contains("warning: step 3: guard.norm-growth: "), alarms())
    };
    assert_eq!(resume(), (true, 1));
    // The checkpoint of the last step knows that it was told.
    fs::remove_dir_all(run.join("final")).unwrap();
    assert_eq!(resume(), (false, 1));
}

#[test]
fn an_alarm_with_the_last_step_is_the_last_word_of_a_run_that_is_finished() {
    let folder = Folder::new();
    let flags: Vec<&str> = ALARM.iter().copied().chain(["--set", "train.max_steps=3"]).collect();
    let output = folder.fit("run", &flags).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains("finished after 3 steps") && stderr.contains("its last word is guard.norm-growth"),
        "{stderr}"
    );
    assert!(folder.path("run").join("final/model.safetensors").is_file());
}

#[test]
fn a_controlled_lambda_resumes_to_the_bit() {
    let folder = Folder::new();
    let objective = "objective=[{ kind = \"bradley-terry\" }, { kind = \"sum-to-zero\", lambda = 0.1, \
                     schedule = \"adaptive\", target = 1e-3 }]";
    let flags = ["--set", objective, "--set", "train.keep_last=9"];
    let plain = folder.fitted("plain", &flags);
    let lambdas: Vec<f64> = steps(&plain).iter().map(|step| step["lambda"].as_f64().unwrap()).collect();
    assert!(lambdas.windows(2).all(|pair| pair[0] != pair[1]), "the controller moves: {lambdas:?}");
    let run = folder.fitted("run", &flags);
    fs::remove_dir_all(run.join("final")).unwrap();
    for step in [15, 16, 18, 21, 24] {
        let _ = fs::remove_dir_all(run.join(format!("checkpoints/step-0000{step}")));
    }
    let again: Vec<&str> = flags.iter().copied().chain(["--resume"]).collect();
    let stderr = succeed(folder.fit("run", &again).output().unwrap());
    assert!(stderr.contains("after step 12"), "{stderr}");
    assert_same_run(&plain, &run);
}

/// A step whose line could not be written is not saved as the step before it, which would apply its batch twice.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_between_update_and_metrics_repeats_the_step_exactly() {
    let folder = Folder::new();
    // The world beforehand, and a model that is smaller than the lines of its steps: they reach the limit first.
    folder.fitted("world", &["--set", "train.max_steps=1"]);
    let flags = [
        "--set",
        "model.tokenizer=world/sandbox/tokenizer",
        "--set",
        "data.train=[\"world/sandbox/splits/train.jsonl\"]",
        "--set",
        "model.random.hidden_size=8",
        "--set",
        "model.random.intermediate_size=8",
        "--set",
        "model.random.num_attention_heads=2",
        "--set",
        "model.random.num_key_value_heads=1",
        "--set",
        "train.eval_every=none",
        "--set",
        "train.max_steps=400",
        "--set",
        "train.save_every=50",
    ];
    let plain = folder.fitted("plain", &flags);
    let largest = contents(&plain.join("checkpoints/step-000400")).iter().map(|(_, bytes)| bytes.len()).max();
    let lines = fs::metadata(plain.join("metrics.jsonl")).unwrap().len();
    let limit_kib = 200;
    assert!(
        largest.unwrap() < limit_kib * 1024 && lines > limit_kib as u64 * 1024,
        "{largest:?} and {lines}"
    );
    let limited = |flags: &[&str]| {
        let mut command = Command::new("bash");
        let script = format!("trap '' XFSZ; ulimit -f {limit_kib}; exec \"$@\"");
        let fit = folder.fit("run", flags);
        command
            .current_dir(folder.0.path())
            .args(["-c", &script, "limited"])
            .arg(fit.get_program())
            .args(fit.get_args());
        command.output().unwrap()
    };
    let output = limited(&flags);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    assert!(stderr.contains("metrics.jsonl"), "{stderr}");
    let again: Vec<&str> = flags.iter().copied().chain(["--resume"]).collect();
    succeed(folder.fit("run", &again).output().unwrap());
    assert_same_run(&plain, &folder.path("run"));
}
