//! What a training pair costs before it meets the model: packing and cutting 256 pairs into micro-batches, and over
//! every response of a sandbox of 40 prompts, reading the JSONL rows, rendering the conversations with the chat
//! template, and tokenizing the rendered text.
//!
//! Every part runs on one thread. The tokenizer is the sandbox's own and keeps its cache of words between iterations,
//! as it does in a run.
//!
//! ```sh
//! cargo bench --bench data
//! ```

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rmtrain::base::rng;
use rmtrain::data::config::{ChatTemplateSource, SandboxConfig};
use rmtrain::data::{Example, Message, Tokenizer, sandbox};
use rmtrain::model::{Pack, pack};
use std::fs;
use std::hint::black_box;
use std::time::Duration;

const PAIRS: u64 = 256;
const SCORE_FIELD: &str = "overall_score";

/// Pairs as the trainer holds them: a prompt of 50 to 300 tokens, responses of 50 to 450.
fn pairs() -> Vec<[Vec<u32>; 2]> {
    let pair = |index| {
        let mut rng = rng::stream(0, "bench:pairs", index);
        let mut tokens = |first: u32, fewest: usize, most: usize| -> Vec<u32> {
            let len = fewest + rng::below(&mut rng, most - fewest + 1);
            // The first token keeps the two responses apart, so that exactly the prompt is shared.
            std::iter::once(first).chain((1..len).map(|_| rng::below(&mut rng, 32_000) as u32)).collect()
        };
        let (prompt, chosen, rejected) = (tokens(0, 50, 300), tokens(1, 50, 450), tokens(2, 50, 450));
        [[prompt.as_slice(), &chosen].concat(), [prompt.as_slice(), &rejected].concat()]
    };
    (0..PAIRS).map(pair).collect()
}

fn packing(c: &mut Criterion) {
    let pairs = pairs();
    let mut group = c.benchmark_group("pack");
    group.throughput(Throughput::Elements(PAIRS));
    group.bench_function(BenchmarkId::new("new", PAIRS), |b| b.iter(|| Pack::new(black_box(&pairs))));
    group.bench_function(BenchmarkId::new("micro_batches", PAIRS), |b| {
        b.iter(|| pack::micro_batches(black_box(&pairs), 16_384));
    });
    group.finish();
}

fn read(line: &str) -> Example {
    Example::from_json(serde_json::from_str(line).unwrap(), SCORE_FIELD).unwrap()
}

fn conversations(c: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let config = SandboxConfig { seed: 0, prompts: 40 };
    let sandbox = sandbox::write(&folder.path().join("sandbox"), config).unwrap();
    let world = fs::read_to_string(&sandbox.world).unwrap();
    let rows: Vec<&str> = world.lines().collect();

    let mut group = c.benchmark_group("rows");
    group.throughput(Throughput::Bytes(world.len() as u64));
    group.bench_function(BenchmarkId::new("from_json", rows.len()), |b| {
        b.iter(|| rows.iter().map(|row| read(black_box(row)).responses.len()).sum::<usize>());
    });
    group.finish();

    let tokenizer = Tokenizer::load(&sandbox.tokenizer, &ChatTemplateSource::Auto, None).unwrap();
    let conversations: Vec<Vec<Message>> = rows
        .iter()
        .copied()
        .map(read)
        .flat_map(|row| (0..row.responses.len()).map(|i| row.conversation(i)).collect::<Vec<_>>())
        .collect();
    let texts: Vec<String> = conversations.iter().map(|c| tokenizer.render(c).unwrap()).collect();

    let mut group = c.benchmark_group("conversations");
    group.throughput(Throughput::Elements(conversations.len() as u64));
    group.bench_function(BenchmarkId::new("render", conversations.len()), |b| {
        b.iter(|| conversations.iter().map(|c| tokenizer.render(black_box(c)).unwrap().len()).sum::<usize>());
    });
    group.throughput(Throughput::Bytes(texts.iter().map(|text| text.len() as u64).sum()));
    group.bench_function(BenchmarkId::new("tokenize", texts.len()), |b| {
        b.iter(|| texts.iter().map(|t| tokenizer.encode_text(black_box(t)).unwrap().len()).sum::<usize>());
    });
    group.finish();
}

criterion_group! {
    name = data;
    config = Criterion::default()
        .sample_size(15)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3))
        .without_plots();
    targets = packing, conversations
}
criterion_main!(data);
