//! What a training step is made of, in f32 on the CPU with every core: the products of a layer, every fused kernel
//! beside its composed form, a whole step of a small random Qwen2 up to its gradients, and the AdamW update of its
//! parameters; what sharing prompts saves; what length costs.
//!
//! ```sh
//! cargo bench --bench engine
//! ```

use candle_core::{DType, Device, Shape, Tensor};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rmtrain::base::rng;
use rmtrain::data::{Ranking, TokenList};
use rmtrain::diagnostics;
use rmtrain::kernels::attention::{self, Family, Heads, Segment, composed};
use rmtrain::kernels::gemm::{self, Matrix};
use rmtrain::kernels::{Accumulator, Indices, embedding, rms_norm, rope, swiglu};
use rmtrain::model::reward_model::HeadInit;
use rmtrain::model::{Keep, Pack, RewardModel};
use rmtrain::objective::config::{LambdaSchedule, Margin, Scale, Scope};
use rmtrain::optim::config::MomentKind;
use rmtrain::optim::{self, AdamW, Gradients, Parameters};
use rmtrain::trainer::head_share::HeadShare;
use rmtrain::trainer::memory::Memory;
use rmtrain::trainer::step::{StepPlan, step};
use rmtrain::{objective, trainer};
use serde_json::json;
use std::hint::black_box;
use std::time::Duration;

const HEADS: Heads = Heads { query: 8, key_value: 2, dim: 64 };
/// Rows of the elementwise kernels.
const ROWS: usize = 1024;
const HIDDEN: usize = 512;
const INTERMEDIATE: usize = 1408;
const EPS: f64 = 1e-6;
const VOCAB: usize = 1024;
const PAIRS: u64 = 8;
/// Of each sequence; the first half is the shared prompt.
const SEQUENCE_TOKENS: usize = 200;

fn normal(purpose: &str, shape: impl Into<Shape>) -> Tensor {
    let shape = shape.into();
    let values = rng::normals(&mut rng::stream(0, purpose, 0), shape.elem_count());
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// A pair of `tokens` packed tokens: half of them prompt, a quarter each response.
fn family(tokens: usize) -> Family {
    let (prompt, response) = (tokens / 2, tokens / 4);
    let responses = [prompt, prompt + response].map(|start| Segment { start, len: response });
    Family { prompt: Segment { start: 0, len: prompt }, responses: responses.to_vec() }
}

/// The products of a layer, on tiles where the machine has them, beside the `gemm` crate.
fn products(c: &mut Criterion) {
    let mut group = c.benchmark_group("matmul");
    for (rows, inner, columns) in [(2400, 512, 512), (2400, 512, 1536), (2400, 1536, 512), (2400, 896, 4864)]
    {
        let name = format!("{rows}x{inner}x{columns}");
        let [x, w, dy] = [("x", rows * inner), ("w", columns * inner), ("dy", rows * columns)]
            .map(|(purpose, count)| rng::normals(&mut rng::stream(0, purpose, 0), count));
        let (x, dy, w) =
            (Matrix::new(&x, rows, inner), Matrix::new(&dy, rows, columns), Matrix::new(&w, columns, inner));
        let cases = [
            ("forward", x, w.transposed()),
            ("input gradient", dy, w),
            ("weight gradient", dy.transposed(), x),
        ];
        group.throughput(Throughput::Elements(2 * (rows * inner * columns) as u64));
        for (case, lhs, rhs) in cases {
            let mut out = vec![0.0; lhs.rows * rhs.columns];
            group.bench_function(format!("{name} {case}/gemm"), |b| {
                b.iter(|| gemm::matmul(&mut out, rhs.columns, false, lhs, rhs, gemm::Threads::Pool));
            });
            #[cfg(target_arch = "x86_64")]
            if gemm::amx::available() {
                use gemm::amx::{Destination, matmul};
                let all = 0..lhs.columns;
                group.bench_function(format!("{name} {case}/amx"), |b| {
                    b.iter(|| {
                        let destination = Destination::onto(&mut out, rhs.columns).starting_from_zero();
                        matmul(&mut [destination], &[lhs], &[rhs], std::slice::from_ref(&all));
                    });
                });
            }
        }
    }
    group.finish();
}

fn attention(c: &mut Criterion) {
    let mut group = c.benchmark_group("attention");
    for tokens in [256, 1024] {
        let families = vec![family(tokens)].into();
        let (query, key_value) = (HEADS.query * HEADS.dim, HEADS.key_value * HEADS.dim);
        let [q, dy] = ["q", "dy"].map(|name| normal(name, (tokens, query)));
        let [k, v] = ["k", "v"].map(|name| normal(name, (tokens, key_value)));
        let output = attention::forward(&q, &k, &v, &families, HEADS).unwrap();
        group.throughput(Throughput::Elements(tokens as u64));
        group.bench_function(BenchmarkId::new("forward/fused", tokens), |b| {
            b.iter(|| attention::forward(black_box(&q), &k, &v, &families, HEADS).unwrap());
        });
        group.bench_function(BenchmarkId::new("forward/composed", tokens), |b| {
            b.iter(|| composed::forward(black_box(&q), &k, &v, &families, HEADS).unwrap());
        });
        group.bench_function(BenchmarkId::new("backward/fused", tokens), |b| {
            b.iter(|| attention::backward(black_box(&dy), &output, &q, &k, &v, &families, HEADS).unwrap());
        });
        group.bench_function(BenchmarkId::new("backward/composed", tokens), |b| {
            b.iter(|| composed::backward(black_box(&dy), &q, &k, &v, &families, HEADS).unwrap());
        });
    }
    group.finish();
}

fn norm(c: &mut Criterion) {
    let [x, dy] = ["x", "dy"].map(|name| normal(name, (ROWS, HIDDEN)));
    let weight = normal("weight", HIDDEN);
    let weight_gradient = Accumulator::zeros(HIDDEN, &weight);
    let groups: Vec<_> = (0..4).map(|i| i * ROWS / 4..(i + 1) * ROWS / 4).collect();

    let mut group = c.benchmark_group("rms_norm");
    group.throughput(Throughput::Elements(ROWS as u64));
    group.bench_function("forward/fused", |b| {
        b.iter(|| rms_norm::forward(black_box(&x), &weight, EPS).unwrap());
    });
    group.bench_function("forward/composed", |b| {
        b.iter(|| rms_norm::composed_forward(black_box(&x), &weight, EPS).unwrap());
    });
    group.bench_function("backward/fused", |b| {
        b.iter(|| {
            rms_norm::backward(black_box(&dy), &x, &weight, EPS, None, &weight_gradient, &groups).unwrap()
        });
    });
    group.bench_function("backward/composed", |b| {
        b.iter(|| {
            let (dx, d_weight) = rms_norm::composed_backward(black_box(&dy), &x, &weight, EPS).unwrap();
            weight_gradient.add(&d_weight).unwrap();
            dx
        });
    });
    group.finish();
}

fn rotation(c: &mut Criterion) {
    let x = normal("x", (ROWS, HEADS.query * HEADS.dim));
    let frequencies: Vec<f32> = (0..HEADS.dim / 2).map(|i| 1e4f32.powf(-(i as f32) / 32.0)).collect();
    let table = rope::Table::new(&frequencies, ROWS, &Device::Cpu).unwrap();
    let positions: Indices = (0..ROWS as u32).collect::<Vec<_>>().into();

    let mut group = c.benchmark_group("rope");
    group.throughput(Throughput::Elements(ROWS as u64));
    group.bench_function("fused", |b| b.iter(|| rope::forward(black_box(&x), &positions, &table).unwrap()));
    group.bench_function("composed", |b| {
        b.iter(|| rope::composed(black_box(&x), &positions, &table, 1.0).unwrap());
    });
    group.finish();
}

fn activation(c: &mut Criterion) {
    let [gate, up, dy] = ["gate", "up", "dy"].map(|name| normal(name, (ROWS, INTERMEDIATE)));

    let mut group = c.benchmark_group("swiglu");
    group.throughput(Throughput::Elements(ROWS as u64));
    group.bench_function("forward/fused", |b| {
        b.iter(|| swiglu::forward(black_box(&gate), &up).unwrap());
    });
    group.bench_function("forward/composed", |b| {
        b.iter(|| swiglu::composed_forward(black_box(&gate), &up).unwrap());
    });
    group.bench_function("backward/fused", |b| {
        b.iter(|| swiglu::backward(black_box(&dy), &gate, &up).unwrap());
    });
    group.bench_function("backward/composed", |b| {
        b.iter(|| swiglu::composed_backward(black_box(&dy), &gate, &up).unwrap());
    });
    group.finish();
}

/// The tokens of a step out of a table of Qwen2.5's height, and their gradients back into the rows that were touched.
fn embeddings(c: &mut Criterion) {
    const HEIGHT: usize = 151_936;
    let table = normal("table", (HEIGHT, HIDDEN));
    let dy = normal("dy", (ROWS, HIDDEN));
    let mut rng = rng::stream(0, "bench:tokens", 0);
    let ids: Vec<u32> = (0..ROWS).map(|_| rng::below(&mut rng, HEIGHT) as u32).collect();
    let (rows, tensor) = (Indices::from(ids.clone()), Tensor::new(ids.as_slice(), &Device::Cpu).unwrap());

    let mut group = c.benchmark_group("embedding");
    group.throughput(Throughput::Elements(ROWS as u64));
    group.bench_function("gather/fused", |b| b.iter(|| embedding::gather(black_box(&table), &rows).unwrap()));
    group.bench_function("gather/composed", |b| {
        b.iter(|| black_box(&table).index_select(&tensor, 0).unwrap())
    });
    let slots: Vec<u32> = (0..ROWS as u32).collect();
    let touched = Accumulator::zeros((ROWS, HIDDEN), &table);
    group.bench_function("scatter-add/fused", |b| {
        b.iter(|| touched.add_rows(&slots, black_box(&dy)).unwrap())
    });
    // What autograd does: a gradient of the table's own size.
    group.bench_function("scatter-add/composed", |b| {
        b.iter(|| table.zeros_like().unwrap().index_add(&tensor, black_box(&dy), 0).unwrap());
    });
    group.finish();
}

/// One update of a matrix, in one pass, beside a chain of candle operations.
fn adamw(c: &mut Criterion) {
    const SHAPE: (usize, usize) = (1536, HIDDEN);
    let mut group = c.benchmark_group("adamw");
    group.throughput(Throughput::Elements((SHAPE.0 * SHAPE.1) as u64));
    for (name, moments) in [("fused", MomentKind::F32), ("fused, 8-bit moments", MomentKind::EightBit)] {
        let mut parameters = Parameters::new(DType::F32);
        let id = parameters.add("weight", &normal("weight", SHAPE), true).unwrap();
        let gradients = Gradients::zeros(&parameters, &[]).unwrap();
        gradients.sum(id).add(&normal("gradient", SHAPE)).unwrap();
        let optim = optim::Config { moments, ..optim::Config::default() };
        let mut adamw = AdamW::new(&optim, &parameters).unwrap();
        group.bench_function(name, |b| {
            b.iter(|| adamw.step(&mut parameters, black_box(&gradients), 1e-6, 1.0).unwrap());
        });
    }
    let [mut p, g] = ["weight", "gradient"].map(|name| normal(name, SHAPE));
    let (mut m, mut v) = (p.zeros_like().unwrap(), p.zeros_like().unwrap());
    let mut update = || -> candle_core::Result<()> {
        m = ((&m * 0.9)? + (&g * 0.1)?)?;
        v = ((&v * 0.999)? + (g.sqr()? * 0.001)?)?;
        p = (&p - ((&m / (v.sqrt()? + 1e-8)?)? * 1e-6)?)?;
        Ok(())
    };
    group.bench_function("composed", |b| b.iter(|| update().unwrap()));
    group.finish();
}

fn small_qwen2() -> RewardModel {
    let shape = json!({
        "model_type": "qwen2",
        "vocab_size": VOCAB,
        "hidden_size": 128,
        "intermediate_size": 352,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
    });
    let head = HeadInit::default();
    RewardModel::random(shape.as_object().unwrap(), &Device::Cpu, None, head).unwrap()
}

fn pair(index: u64) -> TokenList {
    let mut rng = rng::stream(0, "bench:pairs", index);
    let mut tokens = |first: u32| -> Vec<u32> {
        // The first token keeps the two responses apart, so that exactly the prompt is shared.
        let rest = (1..SEQUENCE_TOKENS / 2).map(|_| rng::below(&mut rng, VOCAB) as u32);
        std::iter::once(first).chain(rest).collect()
    };
    let (prompt, chosen, rejected) = (tokens(0), tokens(1), tokens(2));
    TokenList {
        index,
        origin: format!("bench:{index}"),
        sequences: vec![[prompt.as_slice(), &chosen].concat(), [prompt.as_slice(), &rejected].concat()],
        ranking: Ranking::pair(),
        margin: None,
    }
}

fn training(c: &mut Criterion) {
    let mut model = small_qwen2();
    let pairs: Vec<TokenList> = (0..PAIRS).map(pair).collect();
    let config =
        trainer::Config { activations: trainer::config::Activations::Keep, ..trainer::Config::default() };
    let plan = StepPlan {
        terms: vec![
            objective::Config::BradleyTerry { margin: Margin::None, label_smoothing: 0.0 },
            objective::Config::SumToZero {
                lambda: 1e-3,
                scope: Scope::Global,
                scale: Scale::Mean,
                schedule: LambdaSchedule::default(),
            },
        ],
        micro_batch_tokens: config.micro_batch_tokens,
        memory: Memory::of_loaded(&model, &config, MomentKind::F32),
        head_share: HeadShare::ALL,
    };
    let mut gradients = model.gradients().unwrap();
    let tokens = step(&plan, 1, &model, &pairs, &mut gradients).unwrap().tokens;

    let mut group = c.benchmark_group("training");
    group.sample_size(10).measurement_time(Duration::from_secs(4));
    group.throughput(Throughput::Elements(tokens as u64));
    group.bench_function("step", |b| {
        b.iter(|| step(&plan, 1, &model, black_box(&pairs), &mut gradients).unwrap());
    });
    // What every step pays for its diagnostics: to be read beside the step.
    let rankings: Vec<&Ranking> = pairs.iter().map(|pair| &pair.ranking).collect();
    let forward = model.forward(&Pack::new(&pairs), Keep::Nothing).unwrap();
    let head = model.head_weight().unwrap();
    group.bench_function("diagnostics", |b| {
        b.iter(|| diagnostics::step(black_box(&forward.hidden), &forward.rewards, &rankings, &head));
    });
    // The gradients are those of the last step above: the update does not consume them.
    group.measurement_time(Duration::from_secs(1));
    group.throughput(Throughput::Elements(model.config().parameter_count()));
    for (name, moments) in [("adamw", MomentKind::F32), ("adamw 8-bit", MomentKind::EightBit)] {
        let optim = optim::Config { moments, ..optim::Config::default() };
        let mut adamw = AdamW::new(&optim, model.parameters()).unwrap();
        group.bench_function(name, |b| {
            b.iter(|| adamw.step(model.parameters_mut(), black_box(&gradients), optim.lr, 1.0).unwrap());
        });
    }
    group.finish();
}

/// A decoder whose layers are those of a 100M model, with few of them and few words.
fn wide_qwen2() -> RewardModel {
    let shape = json!({
        "model_type": "qwen2",
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "intermediate_size": 1536,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "max_position_embeddings": 16384,
    });
    let head = HeadInit::default();
    RewardModel::random(shape.as_object().unwrap(), &Device::Cpu, None, head).unwrap()
}

/// `responses` sequences of one prompt, each starting its response with a token of its own.
fn responses(prompt: usize, response: usize, responses: u32) -> Vec<Vec<u32>> {
    let mut rng = rng::stream(0, "bench:responses", 0);
    let mut tokens = |count: usize| -> Vec<u32> {
        (0..count).map(|_| 64 + rng::below(&mut rng, VOCAB - 64) as u32).collect()
    };
    let prompt = tokens(prompt);
    (0..responses).map(|i| [prompt.clone(), vec![i], tokens(response - 1)].concat()).collect()
}

/// Every sequence in a group of its own: nothing is shared.
fn apart(groups: &[Vec<Vec<u32>>]) -> Vec<Vec<Vec<u32>>> {
    groups.iter().flatten().map(|sequence| vec![sequence.clone()]).collect()
}

/// What prompt sharing saves: a training pass over pairs with prompts four times as long as their responses, and
/// scores of 16 responses of 200 tokens to a prompt of 1,000.
fn sharing(c: &mut Criterion) {
    let model = wide_qwen2();
    let pairs: Vec<_> = (0..4).map(|_| responses(400, 100, 2)).collect();
    let sixteen = vec![responses(1000, 200, 16)];
    let mut group = c.benchmark_group("sharing");
    group.sample_size(10).measurement_time(Duration::from_secs(8));
    for (name, pairs, sixteen) in
        [("shared", pairs.clone(), sixteen.clone()), ("apart", apart(&pairs), apart(&sixteen))]
    {
        let pack = Pack::new(&pairs);
        let mut gradients = model.gradients().unwrap();
        let mut touched = pack.ids.to_vec();
        touched.sort_unstable();
        touched.dedup();
        gradients.start_step(&touched).unwrap();
        group.bench_function(format!("train 4 x 400 + 2 x 100/{name}"), |b| {
            b.iter(|| {
                let forward = model.forward(&pack, Keep::Activations).unwrap();
                model.backward(forward.tape.unwrap(), &[&[0.1; 8]], None, &gradients).unwrap();
            });
        });
        let pack = Pack::new(&sixteen);
        group.bench_function(format!("score 1000 + 16 x 200/{name}"), |b| {
            b.iter(|| model.forward(black_box(&pack), Keep::Nothing).unwrap());
        });
    }
    group.finish();
}

/// A training pass over 8,192 tokens in sequences of growing length: what attention adds.
fn lengths(c: &mut Criterion) {
    const TOKENS: usize = 8192;
    let model = wide_qwen2();
    let mut group = c.benchmark_group("lengths");
    group.sample_size(10).measurement_time(Duration::from_secs(10));
    for length in [256, 512, 1024, 2048, 4096, 8192] {
        let groups: Vec<_> = (0..TOKENS / length).map(|_| responses(0, length, 1)).collect();
        let pack = Pack::new(&groups);
        let mut gradients = model.gradients().unwrap();
        gradients.start_step(&(0..VOCAB as u32).collect::<Vec<_>>()).unwrap();
        let d_rewards = vec![0.1; groups.len()];
        group.throughput(Throughput::Elements(TOKENS as u64));
        group.bench_function(BenchmarkId::new("train", length), |b| {
            b.iter(|| {
                let forward = model.forward(&pack, Keep::LayerInputs).unwrap();
                model.backward(forward.tape.unwrap(), &[&d_rewards], None, &gradients).unwrap();
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = engine;
    config = Criterion::default()
        .sample_size(15)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .without_plots();
    targets = products, attention, norm, rotation, activation, embeddings, adamw, training, sharing, lengths
}
criterion_main!(engine);
