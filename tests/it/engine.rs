//! The engine against PyTorch: hidden states, rewards, loss and every gradient, however the step is held.

use crate::shared;
use candle_core::Device;
use rmtrain::data::Ranking;
use rmtrain::model::reward_model::HeadInit;
use rmtrain::model::weights::WeightFiles;
use rmtrain::model::{Freeze, Keep, Pack, RewardModel};
use rmtrain::objective::config::{LambdaSchedule, Margin, Scale, Scope};
use rmtrain::objective::{self, Batch};
use serde_json::Value;
use std::path::{Path, PathBuf};

type Group = Vec<Vec<u32>>;

fn load(folder: &Path) -> RewardModel {
    RewardModel::load(folder, &Device::Cpu, None, HeadInit::default()).unwrap()
}

fn golden(name: &str) -> (PathBuf, Value) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/engine").join(name);
    let text = std::fs::read_to_string(folder.join("expected.json")).unwrap();
    (folder, serde_json::from_str(&text).unwrap())
}

fn floats(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(items) => items.iter().flat_map(floats).collect(),
        number => vec![number.as_f64().unwrap()],
    }
}

#[track_caller]
fn assert_close(what: &str, found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!((f - e).abs() <= tolerance * (1.0 + e.abs()), "{what}[{i}]: {f} against {e}");
    }
}

fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| f64::from(v)).collect()
}

/// Loss and gradients of the golden pairs, computed in the given micro-batches and held in the given way.
fn step(
    model: &RewardModel,
    pairs: &[Group],
    lambda: f64,
    budget: usize,
    keep: Keep,
) -> (f64, Vec<(String, Vec<f32>)>) {
    let micro_batches = rmtrain::model::pack::micro_batches(pairs, budget);
    let packs: Vec<Pack> = micro_batches.iter().map(|range| Pack::new(&pairs[range.clone()])).collect();
    let forwards: Vec<_> = packs.iter().map(|pack| model.forward(pack, keep).unwrap()).collect();
    let rewards: Vec<f64> = forwards.iter().flat_map(|f| f.rewards.clone()).collect();
    let terms = [
        objective::Config::BradleyTerry { margin: Margin::None, label_smoothing: 0.0 },
        objective::Config::SumToZero {
            lambda,
            scope: Scope::Global,
            scale: Scale::Mean,
            schedule: LambdaSchedule::default(),
        },
    ];
    let pair = Ranking::pair();
    let batch = Batch {
        rewards: &rewards,
        norms: &vec![1.0; rewards.len()],
        rankings: &vec![&pair; pairs.len()],
        margins: &vec![None; pairs.len()],
        micro_batches: &micro_batches,
    };
    let value = objective::evaluate(&terms, batch);

    let mut gradients = model.gradients().unwrap();
    let mut rows: Vec<u32> = packs.iter().flat_map(|p| p.ids.to_vec()).collect();
    rows.sort_unstable();
    rows.dedup();
    gradients.start_step(&rows).unwrap();
    let hidden: Vec<f32> = forwards.iter().flat_map(|f| f.hidden.clone()).collect();
    model.head_backward(&hidden, &[&value.d_rewards], &gradients).unwrap();
    for (forward, range) in forwards.into_iter().zip(&micro_batches) {
        let d_rewards = &value.d_rewards[2 * range.start..2 * range.end];
        model.backward(forward.tape.unwrap(), &[d_rewards], None, &gradients).unwrap();
    }
    let dense = model.parameters().iter().map(|(id, parameter)| {
        let sum = gradients.sum(id).tensor().unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let sum = if parameter.name.contains("embed_tokens") {
            let width = model.config().hidden_size;
            let mut table = vec![0.0; parameter.master().elem_count()];
            for (row, values) in rows.iter().zip(sum.chunks_exact(width)) {
                table[*row as usize * width..][..width].copy_from_slice(values);
            }
            table
        } else {
            sum
        };
        (parameter.name.clone(), sum)
    });
    (value.loss, dense.collect())
}

#[test]
fn hidden_states_rewards_loss_and_every_gradient_match_pytorch() {
    for name in ["llama", "qwen2"] {
        let (folder, expected) = golden(name);
        let model = load(&folder);
        let pairs: Vec<Group> = serde_json::from_value(expected["pairs"].clone()).unwrap();
        let forward = model.forward(&Pack::new(&pairs), Keep::Nothing).unwrap();
        assert_close("hidden", &widen(&forward.hidden), &floats(&expected["hidden"]), 1e-5);
        assert_close("rewards", &forward.rewards, &floats(&expected["rewards"]), 1e-5);

        let lambda = expected["bsr_lambda"].as_f64().unwrap();
        let (loss, gradients) = step(&model, &pairs, lambda, 1000, Keep::Activations);
        assert_close("loss", &[loss], &floats(&expected["loss"]), 1e-5);
        let golden = WeightFiles::open_file(&folder.join("gradients.safetensors")).unwrap();
        for (name, found) in &gradients {
            let shape =
                golden.info(name).unwrap_or_else(|| panic!("no golden gradient for {name}")).shape.clone();
            let expected = golden.read_f32(name, &shape).unwrap();
            assert!(expected.iter().any(|&g| g != 0.0), "{name}: the golden gradient is zero");
            assert_close(name, &widen(found), &widen(&expected), 2e-5);
        }
        assert_eq!(gradients.len(), golden.names().count());
    }
}

#[test]
fn micro_batches_and_recomputation_do_not_change_the_step() {
    for name in ["llama", "qwen2"] {
        let (folder, expected) = golden(name);
        let model = load(&folder);
        let pairs: Vec<Group> = serde_json::from_value(expected["pairs"].clone()).unwrap();
        let (loss, whole) = step(&model, &pairs, 0.1, 1000, Keep::Activations);
        let (recomputed_loss, recomputed) = step(&model, &pairs, 0.1, 1000, Keep::LayerInputs);
        assert_eq!((loss, &whole), (recomputed_loss, &recomputed), "recomputation is exact to the bit");
        for budget in [1, 12, 20] {
            let (split_loss, split) = step(&model, &pairs, 0.1, budget, Keep::LayerInputs);
            assert_eq!((loss, &whole), (split_loss, &split), "micro-batches are exact to the bit");
        }
    }
}

#[test]
fn sharing_a_prompt_does_not_change_rewards() {
    for name in ["llama", "qwen2"] {
        let (folder, expected) = golden(name);
        let model = load(&folder);
        let pairs: Vec<Group> = serde_json::from_value(expected["pairs"].clone()).unwrap();
        let alone: Vec<Group> = pairs.iter().flatten().map(|ids| vec![ids.clone()]).collect();
        let shared = model.forward(&Pack::new(&pairs), Keep::Nothing).unwrap().rewards;
        let separate = model.forward(&Pack::new(&alone), Keep::Nothing).unwrap().rewards;
        assert_close("rewards", &shared, &separate, 1e-5);
    }
}

/// What is trained gets the gradient that it gets without freezing; what is frozen gets none, and no memory.
#[test]
fn freezing_changes_no_gradient_of_what_is_trained() {
    for name in ["llama", "qwen2"] {
        let (folder, expected) = golden(name);
        let pairs: Vec<Group> = serde_json::from_value(expected["pairs"].clone()).unwrap();
        let whole = step(&load(&folder), &pairs, 0.1, 1000, Keep::Activations);
        let layers = load(&folder).config().num_layers;
        assert!(layers >= 2);
        let choices =
            (0..=layers).flat_map(|n| [false, true].map(|embeddings| Freeze { embeddings, layers: n }));
        for freeze in choices {
            for (budget, keep) in [(1000, Keep::Activations), (1, Keep::LayerInputs)] {
                let mut model = load(&folder);
                model.freeze(freeze).unwrap();
                let (loss, gradients) = step(&model, &pairs, 0.1, budget, keep);
                assert_eq!(loss, whole.0);
                for ((name, found), (_, expected)) in gradients.iter().zip(&whole.1) {
                    if freeze.covers(name) {
                        assert!(found.iter().all(|&g| g == 0.0), "{name} is frozen: {freeze:?}");
                    } else {
                        assert!(found == expected, "{name} differs: {freeze:?}, {keep:?}");
                    }
                }
            }
        }
        let too_many = Freeze { embeddings: false, layers: layers + 1 };
        let error = load(&folder).freeze(too_many).unwrap_err().to_string();
        assert!(error.contains("model.freeze_layers: found"), "{error}");
    }
}

/// A real pretrained model: hidden states and logits of both layouts within 1e-5 of float64.
#[test]
fn stories260k_matches_its_float64_reference() {
    let Some(folder) = shared("models/stories260K") else { return };
    let golden: Value =
        serde_json::from_str(&std::fs::read_to_string(folder.join("golden.json")).unwrap()).unwrap();
    for layout in ["llama_hf", "qwen2_hf"] {
        let model = load(&folder.join(layout));
        let embedding = model.parameters().id("model.embed_tokens.weight").unwrap();
        let table = model.parameters().get(embedding).master().to_vec2::<f32>().unwrap();
        let (mut largest_hidden, mut largest_logit, mut cases) = (0.0f64, 0.0f64, 0);
        for case in golden["cases"].as_array().unwrap() {
            let ids: Vec<u32> = serde_json::from_value(case["input_ids"].clone()).unwrap();
            let hidden = model.forward(&Pack::new(&[vec![ids]]), Keep::Nothing).unwrap().hidden;
            let differences = |found: &[f64], expected: &[f64]| {
                assert_eq!(found.len(), expected.len());
                found.iter().zip(expected).map(|(f, e)| (f - e).abs()).fold(0.0, f64::max)
            };
            let expected = floats(&case["last_hidden_state_last_token"]);
            largest_hidden = largest_hidden.max(differences(&widen(&hidden), &expected));
            let logits: Vec<f64> =
                table.iter().map(|row| rmtrain::model::reward_head::dot(row, &hidden)).collect();
            let expected = floats(&case["last_logits_first8"]);
            largest_logit = largest_logit.max(differences(&logits[..expected.len()], &expected));
            let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
            assert_eq!(best as u64, case["argmax_last"].as_u64().unwrap());
            cases += 1;
        }
        println!(
            "{layout}: {cases} cases, max |hidden difference| {largest_hidden:.2e}, max |logit difference| {largest_logit:.2e}"
        );
        assert!(cases > 0 && largest_hidden < 1e-5 && largest_logit < 1e-5);
    }
}

/// Wide enough for every kind of kernel that the machine has.
fn wide_model() -> RewardModel {
    let shape = serde_json::json!({
        "model_type": "qwen2", "vocab_size": 300, "hidden_size": 160, "intermediate_size": 288,
        "num_hidden_layers": 3, "num_attention_heads": 5, "num_key_value_heads": 5,
        "max_position_embeddings": 4096,
    });
    let head = HeadInit { seed: 3, ..HeadInit::default() };
    RewardModel::random(shape.as_object().unwrap(), &Device::Cpu, None, head).unwrap()
}

/// Rewards, and gradients of all parameters for the given dL/dr, the embedding's dense.
fn rewards_and_gradients(
    model: &RewardModel,
    groups: &[Group],
    d_rewards: &[f64],
) -> (Vec<f64>, Vec<Vec<f32>>) {
    let pack = Pack::new(groups);
    let mut gradients = model.gradients().unwrap();
    gradients.start_step(&(0..model.config().vocab_size as u32).collect::<Vec<_>>()).unwrap();
    let forward = model.forward(&pack, Keep::Activations).unwrap();
    model.backward(forward.tape.unwrap(), &[d_rewards], None, &gradients).unwrap();
    let dense =
        gradients.iter().map(|(_, g)| g.sum().tensor().unwrap().flatten_all().unwrap().to_vec1().unwrap());
    (forward.rewards, dense.collect())
}

#[test]
fn sharing_a_prompt_changes_neither_rewards_nor_gradients() {
    let model = wide_model();
    let tokens =
        |seed: usize, count: usize| (0..count).map(move |i| ((i * i * 7 + seed * 31 + i) % 300) as u32);
    let response = |pair: usize, side: usize, count: usize| -> Vec<u32> {
        tokens(pair, 90)
            .chain(std::iter::once(side as u32))
            .chain(tokens(10 + 2 * pair + side, count))
            .collect()
    };
    let shared: Vec<Group> =
        (0..3).map(|pair| vec![response(pair, 0, 20 + 9 * pair), response(pair, 1, 33)]).collect();
    let apart: Vec<Group> = shared.iter().flatten().map(|sequence| vec![sequence.clone()]).collect();
    let d_rewards = [0.3, -0.3, 0.5, -0.45, 0.2, -0.1];
    let (rewards, gradients) = rewards_and_gradients(&model, &shared, &d_rewards);
    let (expected_rewards, expected) = rewards_and_gradients(&model, &apart, &d_rewards);
    let furthest = rewards.iter().zip(&expected_rewards).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(furthest < 1e-5, "rewards differ by {furthest:e}");
    let mut worst = 0.0f64;
    for (found, expected) in gradients.iter().zip(&expected) {
        let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
        let difference = norm(&mut found.iter().zip(expected).map(|(a, b)| f64::from(a - b)));
        let size = norm(&mut expected.iter().map(|&v| f64::from(v)));
        // The head's gradient is formed elsewhere.
        if size > 0.0 {
            worst = worst.max(difference / size);
        }
    }
    println!("shared against apart: rewards {furthest:.1e}, gradients {worst:.1e} relative");
    assert!(worst < 1e-5, "a gradient differs by {worst:e} of its norm");
}
