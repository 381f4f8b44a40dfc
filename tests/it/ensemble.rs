//! Several heads on one backbone, through the built binary and the library: gradients, storage, resuming, scores.

use crate::training::{Folder, assert_same_run, contents, metrics, steps, succeed};
use candle_core::{Device, Tensor};
use rmtrain::data::{Ranking, TokenList};
use rmtrain::model::reward_head::dot;
use rmtrain::model::reward_model::HeadInit;
use rmtrain::model::weights::{DEFAULT_MAX_SHARD_BYTES, TensorSpec, WeightFiles, write_model};
use rmtrain::model::{Keep, Pack, RewardModel};
use rmtrain::objective::config::{LambdaSchedule, Margin, Scale, Scope};
use rmtrain::optim::config::MomentKind;
use rmtrain::trainer::head_share::HeadShare;
use rmtrain::trainer::memory::Memory;
use rmtrain::trainer::step::{StepPlan, step};
use rmtrain::{objective, trainer};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::fs;
use std::path::Path;

const ENSEMBLE: [&str; 4] = ["--set", "model.heads=4", "--set", "model.head_share=0.5"];

fn flags<'a>(more: &[&'a str]) -> Vec<&'a str> {
    ENSEMBLE.iter().chain(more).copied().collect()
}

/// The tensors of one file.
fn tensor(file: &Path, name: &str) -> (Vec<usize>, Vec<f32>) {
    let files = WeightFiles::open_file(file).unwrap();
    let shape = files.info(name).unwrap().shape.clone();
    let values = files.read_f32(name, &shape).unwrap();
    (shape, values)
}

#[test]
fn an_ensemble_resumes_to_the_bit_whatever_its_micro_batches() {
    let folder = Folder::new();
    let plain = folder.fitted("plain", &flags(&["--set", "train.keep_last=9"]));
    for (name, set) in [
        ("recompute", "train.activations=recompute"),
        ("rewards-first", "train.activations=rewards-first"),
        ("small", "train.micro_batch_tokens=1"),
        ("large", "train.micro_batch_tokens=1000000"),
    ] {
        assert_same_run(&plain, &folder.fitted(name, &flags(&["--set", set])));
    }
    let run = folder.fitted("run", &flags(&[]));
    fs::remove_dir_all(run.join("final")).unwrap();
    for step in [18, 21, 24] {
        let _ = fs::remove_dir_all(run.join(format!("checkpoints/step-0000{step}")));
    }
    let kept = fs::read_dir(run.join("checkpoints")).unwrap().count();
    assert!(kept > 0, "there must be something to go on from");
    assert_same_run(&plain, &folder.fitted("run", &flags(&["--resume"])));

    let steps = steps(&plain);
    for step in &steps {
        assert!(step["head_spread_mean"].as_f64().unwrap() > 0.0, "{step}");
        let worst = step["head_accuracy_min"].as_f64().unwrap();
        assert!((0.0..=1.0).contains(&worst), "{step}");
        let sum = step["loss_bt"].as_f64().unwrap() + 0.1 * step["loss_bsr"].as_f64().unwrap();
        assert!((step["loss"].as_f64().unwrap() - sum).abs() < 1e-12, "{step}");
    }
    let evals: Vec<Value> = metrics(&plain).into_iter().filter(|line| line["kind"] == "eval").collect();
    assert!(!evals.is_empty() && evals.iter().all(|eval| eval["head_spread_mean"].is_f64()));

    let refused = |flags: &[&str], needle: &str| {
        let output = folder.fit("run", flags).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(needle), "no {needle:?} in {stderr}");
    };
    let other = ["--set", "model.heads=4", "--set", "model.head_share=0.6", "--resume"];
    refused(&other, "model.head_share: found 0.6, expected 0.5");
    refused(&["--set", "model.heads=3", "--set", "model.head_share=0.5", "--resume"], "model.heads: found 3");
    refused(&["--set", "model.head_share=0.5"], "model.head_share: found 0.5 with one head");
}

#[test]
fn the_mean_head_is_what_other_tools_read_and_the_heads_lie_beside_it() {
    let folder = Folder::new();
    let run =
        folder.fitted("run", &flags(&["--set", "optim.moments=8-bit", "--set", "model.freeze_layers=1"]));
    for place in ["final", "checkpoints/step-000024"] {
        let place = run.join(place);
        let (shape, heads) = tensor(&place.join("heads.safetensors"), "heads.weight");
        assert_eq!(shape, [4, 32]);
        let (shape, score) = tensor(&place.join("model.safetensors"), "score.weight");
        assert_eq!(shape, [1, 32]);
        for (at, score) in score.iter().enumerate() {
            let mean = (0..4).map(|head| f64::from(heads[head * 32 + at])).sum::<f64>() / 4.0;
            assert!((f64::from(*score) - mean).abs() < 1e-7, "{at}: {score} against {mean}");
        }
        let config: Value = serde_json::from_slice(&fs::read(place.join("config.json")).unwrap()).unwrap();
        assert_eq!((&config["rmtrain_heads"], &config["id2label"]), (&json!(4), &json!({"0": "LABEL_0"})));
        let apart = |a: usize, b: usize| (0..32).any(|at| heads[a * 32 + at] != heads[b * 32 + at]);
        assert!((1..4).all(|head| apart(0, head)));
    }
    let moments = run.join("checkpoints/step-000024/optimizer.safetensors");
    assert_eq!(tensor(&moments, "exp_avg.heads.weight").0, [4, 32]);
    assert!(WeightFiles::open_file(&moments).unwrap().info("exp_avg.score.weight").is_none());
    // A folder that has heads is gone on with by as many, and by no other number.
    let go_on = |out: &str, path: &str, heads: &str| {
        let (path, tokenizer) = (format!("model.path={path}"), format!("model.tokenizer={path}"));
        let heads = format!("model.heads={heads}");
        let sets = [path.as_str(), &tokenizer, &heads, "train.max_steps=1"];
        folder.fit(out, &sets.map(|set| ["--set", set]).concat()).output().unwrap()
    };
    let stderr = succeed(go_on("more", "run/final", "4"));
    assert!(stderr.contains("4 heads kept"), "{stderr}");
    folder.fitted("single", &["--set", "train.max_steps=1"]);
    for (path, heads, needle) in [
        ("run/final", "1", "model.heads: found 1, expected 4: run/final/heads.safetensors holds that many"),
        ("single/final", "2", "model.heads: found 2, expected 1: single/final has one head of its own"),
    ] {
        let output = go_on("refused", path, heads);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(needle), "no {needle:?} in {stderr}");
    }
    // Without the file the rest is a sound model of one head, but not this one.
    fs::remove_file(folder.path("run/final/heads.safetensors")).unwrap();
    let input = "run/sandbox/splits/in-domain.jsonl";
    let score = folder.rmtrain().args(["score", "--model", "run/final", "--input", input]).output().unwrap();
    for output in [score, go_on("refused", "run/final", "4"), go_on("refused", "run/final", "1")] {
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        let needle = "run/final/heads.safetensors: found no such file, expected the 4 heads";
        assert!(stderr.contains(needle), "{stderr}");
    }
}

#[test]
fn one_head_writes_no_file_and_no_field_of_an_ensemble() {
    let folder = Folder::new();
    let plain = folder.fitted("plain", &[]);
    assert_same_run(
        &plain,
        &folder.fitted("one", &["--set", "model.heads=1", "--set", "model.head_share=1.0"]),
    );
    for place in ["final", "checkpoints/step-000024"] {
        let names: Vec<String> = contents(&plain.join(place)).into_iter().map(|(name, _)| name).collect();
        assert!(!names.iter().any(|name| name.contains("heads")), "{names:?}");
        let config = fs::read_to_string(plain.join(place).join("config.json")).unwrap();
        assert!(!config.contains("rmtrain_heads"), "{config}");
    }
    for line in metrics(&plain) {
        let fields = line.as_object().unwrap().keys();
        let of_heads: Vec<_> = fields.filter(|key| key.starts_with("head_")).collect();
        let expected: &[&str] = if line["kind"] == "step" { &["head_norm", "head_grad_norm"] } else { &[] };
        assert_eq!(of_heads, expected, "{line}");
    }
    let moments = plain.join("checkpoints/step-000024/optimizer.safetensors");
    assert_eq!(tensor(&moments, "exp_avg.score.weight").0, [1, 32]);
}

/// A small model with `heads` heads, and pairs for it.
fn model(heads: usize) -> RewardModel {
    let shape = json!({
        "model_type": "qwen2", "vocab_size": 60, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64, "initializer_range": 0.3,
    });
    let init = HeadInit { count: heads, seed: 5, ..HeadInit::default() };
    RewardModel::random(shape.as_object().unwrap(), &Device::Cpu, None, init).unwrap()
}

fn pairs() -> Vec<TokenList> {
    let tokens = |from: u32, count: u32| (0..count).map(move |i| (i * i * 7 + from * 11 + i) % 60);
    let pair = |i: u32| TokenList {
        index: u64::from(i),
        origin: format!("test:{i}"),
        sequences: vec![
            tokens(i, 9).chain([3]).chain(tokens(2 * i, 4 + i)).collect(),
            tokens(i, 9).chain([4]).chain(tokens(2 * i + 1, 6)).collect(),
        ],
        ranking: Ranking::pair(),
        margin: None,
    };
    (0..6).map(pair).collect()
}

/// Lists of two to four responses, some of them equals.
fn lists() -> Vec<TokenList> {
    let tokens = |from: u32, count: u32| (0..count).map(move |i| (i * i * 5 + from * 13 + i) % 60);
    let list = |(i, ranks): (u32, &[u32])| TokenList {
        index: u64::from(i),
        origin: format!("test:{i}"),
        sequences: (0..ranks.len() as u32)
            .map(|at| tokens(i, 7).chain([at]).chain(tokens(3 * i + at, 3 + at)).collect())
            .collect(),
        ranking: Ranking::new(ranks.to_vec()).unwrap(),
        margin: None,
    };
    let ranks: [&[u32]; 6] = [&[0, 1, 2], &[0, 0, 1, 2], &[0, 1], &[0, 1, 1], &[0, 1, 2, 3], &[0, 0, 1]];
    (0..).zip(ranks).map(list).collect()
}

fn plan(model: &RewardModel) -> StepPlan {
    let config = trainer::Config::default();
    StepPlan {
        terms: vec![
            objective::Config::BradleyTerry { margin: Margin::None, label_smoothing: 0.0 },
            objective::Config::SumToZero {
                lambda: 0.3,
                scope: Scope::Global,
                scale: Scale::Mean,
                schedule: LambdaSchedule::default(),
            },
            objective::Config::NormVariance { coefficient: 0.2 },
            objective::Config::PlackettLuce,
        ],
        micro_batch_tokens: 40,
        memory: Memory::of_loaded(model, &config, MomentKind::F32),
        head_share: HeadShare { share: 0.5, seed: 1 },
    }
}

#[test]
fn the_gradients_of_heads_and_hidden_states_match_finite_differences() {
    check_gradients(&pairs());
    check_gradients(&lists());
}

fn check_gradients(lists: &[TokenList]) {
    const BY: f32 = 1e-2;
    let model = model(3);
    let plan = plan(&model);
    let learners = plan.head_share.learners(3, 0..6).concat();
    assert!(learners.contains(&true) && learners.contains(&false), "some head must leave out some list");
    let mut gradients = model.gradients().unwrap();
    step(&plan, 1, &model, lists, &mut gradients).unwrap();
    for (name, tolerance) in [("heads.weight", 1e-5), ("model.norm.weight", 1e-4)] {
        let id = model.parameters().id(name).unwrap();
        let master = model.parameters().get(id).master();
        let values: Vec<f32> = master.flatten_all().unwrap().to_vec1().unwrap();
        let found: Vec<f32> = gradients.sum(id).tensor().unwrap().flatten_all().unwrap().to_vec1().unwrap();
        let set = |values: Vec<f32>| {
            master.set(&Tensor::from_vec(values, master.shape(), &Device::Cpu).unwrap()).unwrap();
        };
        for (at, found) in found.iter().enumerate() {
            let loss = |by: f32| {
                let mut moved = values.clone();
                moved[at] += by;
                set(moved);
                let mut gradients = model.gradients().unwrap();
                step(&plan, 1, &model, lists, &mut gradients).unwrap().loss
            };
            let expected = (loss(BY) - loss(-BY)) / (2.0 * f64::from(BY));
            let error = (f64::from(*found) - expected).abs();
            // The rest is the third derivative.
            assert!(
                error < tolerance * (1.0 + 10.0 * expected.abs()),
                "{name} {at}: {found} against {expected}"
            );
        }
        set(values);
    }
}

#[test]
fn heads_learn_from_lists_whatever_the_micro_batches() {
    let (model, lists) = (model(3), lists());
    let run = |micro_batch_tokens| {
        let plan = StepPlan { micro_batch_tokens, ..plan(&model) };
        let mut gradients = model.gradients().unwrap();
        let result = step(&plan, 1, &model, &lists, &mut gradients).unwrap();
        let heads = gradients.sum(model.head()).tensor().unwrap().flatten_all().unwrap();
        (result, heads.to_vec1::<f32>().unwrap())
    };
    let (one, all) = (run(1), run(1_000_000));
    assert_eq!(one, all);
    let result = one.0;
    assert_eq!((result.sequences, result.diagnostics.pairs), (19, 3 + 5 + 1 + 2 + 6 + 2));
    assert!(result.ensemble.is_some_and(|heads| heads.spread_mean > 0.0 && heads.accuracy_min <= 1.0));
}

#[test]
fn the_first_head_is_the_same_however_many_there_are() {
    let (one, four) = (model(1), model(4));
    let heads = four.heads().unwrap();
    assert_eq!(one.heads().unwrap().weights(), &heads.weights()[..16]);
    assert_eq!((one.head_count(), four.head_count()), (1, 4));
    let pack = Pack::new(&[[pairs()[0].sequences[0].clone()]]);
    let forward = four.forward(&pack, Keep::Nothing).unwrap();
    let by_hand: Vec<f64> = heads.weights().chunks_exact(16).map(|head| dot(head, &forward.hidden)).collect();
    let found: Vec<f64> = forward.head_rewards.by_head().iter().map(|head| head[0]).collect();
    assert_eq!(found, by_hand);
    assert!(found.windows(2).all(|pair| pair[0] != pair[1]));
}

/// The folder of a model that has the given head alone.
fn write_single(from: &Path, to: &Path, head: &[f32]) {
    fs::create_dir_all(to).unwrap();
    for (name, bytes) in contents(from).into_iter().filter(|(name, _)| !name.ends_with(".safetensors")) {
        fs::write(to.join(name), bytes).unwrap();
    }
    let config = to.join("config.json");
    let mut json: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    json.as_object_mut().unwrap().remove("rmtrain_heads");
    fs::write(config, json.to_string()).unwrap();
    let files = WeightFiles::open(from).unwrap();
    let specs: Vec<TensorSpec> = files
        .names()
        .map(|name| {
            let info = files.info(name).unwrap();
            TensorSpec { name: name.to_owned(), shape: info.shape.clone(), dtype: info.dtype }
        })
        .collect();
    write_model(to, &specs, DEFAULT_MAX_SHARD_BYTES, |spec| {
        Ok(Cow::Owned(match spec.name.as_str() {
            "score.weight" => head.to_vec(),
            name => files.read_f32(name, &spec.shape)?,
        }))
    })
    .unwrap();
}

#[test]
fn scores_are_mean_minimum_and_spread_of_what_the_heads_say_alone() {
    let folder = Folder::new();
    let run = folder.fitted("run", &flags(&[]));
    let input = "run/sandbox/splits/in-domain.jsonl";
    let score = |model: &str, flags: &[&str]| -> Vec<Value> {
        let mut command = folder.rmtrain();
        command.args(["score", "--model", model, "--input", input]).args(flags);
        let output = command.output().unwrap();
        let rows = String::from_utf8(output.stdout.clone()).unwrap();
        succeed(output);
        rows.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let (_, heads) = tensor(&run.join("final/heads.safetensors"), "heads.weight");
    let alone: Vec<Vec<Value>> = heads
        .chunks_exact(32)
        .enumerate()
        .map(|(at, head)| {
            let name = format!("head-{at}");
            write_single(&run.join("final"), &folder.path(&name), head);
            score(&name, &[])
        })
        .collect();
    let (mean, min) = (score("run", &[]), score("run", &["--reduce", "min"]));
    assert!(!mean.is_empty());
    let mut right = 0;
    for (row, (mean, min)) in mean.iter().zip(&min).enumerate() {
        for side in ["score_chosen", "score_rejected"] {
            let field = |row: &Value, suffix: &str| row[&format!("{side}{suffix}")].as_f64().unwrap();
            let rewards: Vec<f64> = alone.iter().map(|rows| field(&rows[row], "")).collect();
            let expected = rewards.iter().sum::<f64>() / 4.0;
            let lowest = rewards.iter().copied().fold(f64::INFINITY, f64::min);
            let variance = rewards.iter().map(|r| (r - expected).powi(2)).sum::<f64>() / 4.0;
            assert!((field(mean, "") - expected).abs() < 1e-12, "{mean}");
            assert_eq!((field(mean, "_min"), field(min, "_min")), (lowest, lowest));
            assert_eq!(field(min, ""), lowest);
            assert!((field(mean, "_spread") - variance.sqrt()).abs() < 1e-12, "{mean}");
            assert_eq!(field(min, "_spread"), field(mean, "_spread"));
            assert!(alone[0][row].get(format!("{side}_min")).is_none(), "one head has no minimum");
        }
        right += u32::from(min["score_chosen"].as_f64() > min["score_rejected"].as_f64());
    }
    let eval = |flags: &[&str]| -> Value {
        let mut command = folder.rmtrain();
        command.args(["eval", "--model", "run", "--split", "in-domain"]).args(flags);
        let output = command.output().unwrap();
        let report = serde_json::from_slice(&output.stdout).unwrap();
        succeed(output);
        report
    };
    let (by_mean, by_min) = (eval(&[]), eval(&["--reduce", "min"]));
    assert_eq!((by_mean.get("reduce"), &by_min["reduce"]), (None, &json!("min")));
    let (by_mean, by_min) = (&by_mean["splits"]["in-domain"], &by_min["splits"]["in-domain"]);
    assert_eq!(by_min["accuracy"], json!(f64::from(right) / mean.len() as f64));
    assert!(by_min["reward_mean"].as_f64() < by_mean["reward_mean"].as_f64());
    assert_eq!(by_min["head_spread_mean"], by_mean["head_spread_mean"]);
    let spreads = mean.iter().flat_map(|row| [&row["score_chosen_spread"], &row["score_rejected_spread"]]);
    let spread = spreads.map(|s| s.as_f64().unwrap()).sum::<f64>() / (2 * mean.len()) as f64;
    assert!((by_mean["head_spread_mean"].as_f64().unwrap() - spread).abs() < 1e-12);
}
