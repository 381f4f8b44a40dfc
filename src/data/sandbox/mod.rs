//! The sandbox: a synthetic preference world in UltraFeedback's raw schema whose gold reward is known exactly.
//!
//! `world` holds its tables, `task` its prompts, `generators` who answers, `gold` what an answer is worth,
//! `tokenizer` the folder that a model from scratch starts from; here they become files. What is not here: how the
//! world becomes training and held-out sets, which is [`split`](super::split)'s.

pub mod generators;
pub mod gold;
pub mod task;
mod tokenizer;
mod world;

use super::config::SandboxConfig;
use super::source::SourceFile;
use super::split::{self, NearDuplicates, SplitConfig};
use crate::base::{atomic, interrupt, rng};
use crate::{Error, Result};
use gold::{Features, features};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use task::Prompt;
use world::sample;

/// Changes whenever the same seed would give other files.
const VERSION: u32 = 1;
/// The stamp of a complete sandbox, written with it.
const STAMP: &str = "sandbox.json";
const WORLD: &str = "world.jsonl";
/// Training generators that answer each prompt, as in UltraFeedback.
const RESPONSES_PER_PROMPT: usize = 4;
/// Fewer leave a held-out set empty; more would exhaust the distinct prompts.
pub const PROMPTS: std::ops::RangeInclusive<usize> = 20..=100_000;

/// What was written, or found complete.
#[derive(Debug, Clone)]
pub struct SandboxReport {
    /// The raw rows: `world.jsonl`.
    pub world: PathBuf,
    /// A Hugging Face tokenizer folder.
    pub tokenizer: PathBuf,
    /// The five sets and their manifest.
    pub splits: PathBuf,
    pub prompts: usize,
    pub responses: usize,
    /// The sets' row counts by file name without `.jsonl`.
    pub sets: BTreeMap<String, u64>,
    /// Whether a complete sandbox of the same seed and size was already there.
    pub reused: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Stamp {
    version: u32,
    seed: u64,
    prompts: usize,
    responses: usize,
    sets: BTreeMap<String, u64>,
    /// SHA-256 of every other file, by its path below the folder.
    sha256: BTreeMap<String, String>,
}

/// Writes a sandbox into the folder `out`: `world.jsonl`, `tokenizer/`, `splits/` and the stamp `sandbox.json`.
///
/// A complete sandbox of the same seed, size and version is kept as it is. The folder appears whole or not at all.
///
/// # Errors
/// [`Error::Usage`] where `config.prompts` is outside [`PROMPTS`]; [`Error::Data`] where `out` holds anything else than
/// that sandbox, or a file of it was changed; [`Error::Io`]; [`Error::Interrupted`].
pub fn write(out: &Path, config: SandboxConfig) -> Result<SandboxReport> {
    if !PROMPTS.contains(&config.prompts) {
        return Err(Error::Usage(format!(
            "sandbox: found {} prompts, expected {} to {}",
            config.prompts,
            PROMPTS.start(),
            PROMPTS.end()
        )));
    }
    if atomic::is_occupied(out)? {
        return existing(out, config).map(|stamp| report(out, &stamp, true));
    }
    let stamp = atomic::write_folder(out, |folder| build(folder, config))?;
    Ok(report(out, &stamp, false))
}

fn report(out: &Path, stamp: &Stamp, reused: bool) -> SandboxReport {
    SandboxReport {
        world: out.join(WORLD),
        tokenizer: out.join("tokenizer"),
        splits: out.join("splits"),
        prompts: stamp.prompts,
        responses: stamp.responses,
        sets: stamp.sets.clone(),
        reused,
    }
}

/// The stamp of the complete sandbox at `out`, if it is the one that `config` describes.
fn existing(out: &Path, config: SandboxConfig) -> Result<Stamp> {
    let refuse = |reason: String| Error::Data { path: out.to_path_buf(), reason };
    let path = out.join(STAMP);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(refuse(format!(
                "the folder is not empty and holds no {STAMP}: expected a new folder or an earlier sandbox"
            )));
        }
        Err(e) => return Err(Error::io(&path)(e)),
    };
    let stamp: Stamp = serde_json::from_slice(&bytes)
        .map_err(|e| Error::Data { path: path.clone(), reason: format!("not a sandbox's stamp: {e}") })?;
    let found = (stamp.version, stamp.seed, stamp.prompts);
    if found != (VERSION, config.seed, config.prompts) {
        return Err(refuse(format!(
            "the folder holds the sandbox of version {}, seed {}, {} prompts; expected version {VERSION}, seed {}, {} \
             prompts: name another folder, or delete this one",
            found.0, found.1, found.2, config.seed, config.prompts
        )));
    }
    for (name, expected) in &stamp.sha256 {
        // The stamp is input too: it may not lead out of the folder.
        let inside = Path::new(name).components().all(|c| matches!(c, std::path::Component::Normal(_)));
        let file = out.join(name);
        if !inside || !file.is_file() || atomic::sha256(&file)? != *expected {
            return Err(refuse(format!(
                "{name} is missing or was changed since the sandbox was written: delete the folder to write it anew"
            )));
        }
    }
    Ok(stamp)
}

fn build(folder: &Path, config: SandboxConfig) -> Result<Stamp> {
    let world = folder.join(WORLD);
    let mut responses = 0;
    let mut interrupted = false;
    atomic::write(&world, |out| {
        let mut prompts = Prompts::new(config.seed);
        for index in 0..config.prompts as u64 {
            interrupted = interrupt::requested();
            if interrupted {
                break;
            }
            let row = row(config.seed, index, &prompts.next());
            responses += row["completions"].as_array().map_or(0, Vec::len);
            writeln!(out, "{row}")?;
        }
        Ok(())
    })?;
    if interrupted {
        return Err(Error::Interrupted);
    }
    let corpus = corpus();
    for (name, bytes) in tokenizer::files(corpus.iter().map(String::as_str))? {
        atomic::write_bytes(&folder.join("tokenizer").join(name), &bytes)?;
    }
    let manifest = split::write(&folder.join("splits"), &split_config(&world, config.seed))?;
    let sets: BTreeMap<String, u64> = manifest.outputs.iter().map(|o| (o.set.clone(), o.rows)).collect();
    let mut stamp = Stamp {
        version: VERSION,
        seed: config.seed,
        prompts: config.prompts,
        responses,
        sets,
        sha256: BTreeMap::new(),
    };
    let mut names = vec![WORLD.to_owned(), format!("splits/{}", split::MANIFEST)];
    names.extend(manifest.outputs.iter().map(|o| format!("splits/{}", o.file)));
    for name in ["special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"] {
        names.push(format!("tokenizer/{name}"));
    }
    for name in names {
        let hash = atomic::sha256(&folder.join(&name))?;
        stamp.sha256.insert(name, hash);
    }
    let text = serde_json::to_string_pretty(&stamp).map_err(|e| Error::io(folder)(e.into()))?;
    atomic::write_bytes(&folder.join(STAMP), format!("{text}\n").as_bytes())?;
    Ok(stamp)
}

/// How a sandbox is split: the four held-out generators, a fifth of the prompts. Its prompts are a few templates with
/// other numbers in them, near-duplicates all.
fn split_config(world: &Path, seed: u64) -> SplitConfig {
    let valid = generators::heldout().iter().map(|g| g.name.to_owned()).collect();
    let near_duplicates = NearDuplicates::Off;
    SplitConfig {
        seed,
        valid_models: Some(valid),
        near_duplicates,
        ..SplitConfig::new(vec![SourceFile::local(world)])
    }
}

/// Distinct prompts in an order that the seed alone decides; a shorter sandbox is the beginning of a longer one.
struct Prompts {
    seed: u64,
    drawn: u64,
    seen: HashSet<String>,
}

impl Prompts {
    fn new(seed: u64) -> Self {
        Self { seed, drawn: 0, seen: HashSet::new() }
    }

    fn next(&mut self) -> Prompt {
        // Sorting and reversing alone have millions of prompts, so a new one always comes up.
        loop {
            let prompt = Prompt::draw(&mut rng::stream(self.seed, "sandbox:prompt", self.drawn));
            self.drawn += 1;
            if self.seen.insert(prompt.text()) {
                return prompt;
            }
        }
    }
}

/// The responses to one prompt: four training generators, then the held-out ones.
fn answers(seed: u64, index: u64, prompt: &Prompt) -> Vec<(&'static str, String)> {
    let rng: &mut ChaCha8Rng = &mut rng::stream(seed, "sandbox:row", index);
    let training = generators::training();
    let chosen = sample(rng, training.len(), RESPONSES_PER_PROMPT);
    let mut answers: Vec<(&'static str, String)> = Vec::new();
    for generator in chosen.into_iter().map(|i| training[i].clone()).chain(generators::heldout()) {
        let mut response = generators::respond(&generator, prompt, rng);
        // Identical responses cost the whole row when it is split; a few more tries nearly always avoid them.
        for _ in 0..32 {
            if answers.iter().all(|(_, other)| *other != response) {
                break;
            }
            response = generators::respond(&generator, prompt, rng);
        }
        answers.push((generator.name, response));
    }
    answers
}

/// One row in UltraFeedback's raw schema, with the exact gold as `overall_score`.
fn row(seed: u64, index: u64, prompt: &Prompt) -> Value {
    let instruction = prompt.text();
    let answers = answers(seed, index, prompt);
    let models: Vec<&str> = answers.iter().map(|(name, _)| *name).collect();
    let completions: Vec<Value> = answers
        .iter()
        .filter_map(|(model, response)| {
            let features = features(&instruction, response)?;
            Some(json!({
                "annotations": annotations(&features),
                "model": model,
                "response": response,
                "overall_score": features.reward(),
            }))
        })
        .collect();
    json!({
        "source": format!("sandbox-{}", prompt.task.kind()),
        "instruction": instruction,
        "models": models,
        "completions": completions,
    })
}

/// UltraFeedback's four aspects as ratings from 1 to 5, in strings as there.
fn annotations(features: &Features) -> Value {
    let rating = |share: f64| json!({ "Rating": format!("{}", (1.0 + 4.0 * share).round() as u8) });
    let faults = (features.hedges + features.fillers + features.repeats).min(4) as f64;
    json!({
        "helpfulness": rating(features.completeness),
        "honesty": rating(1.0 - faults / 4.0),
        "instruction_following": rating(features.instruction),
        "truthfulness": rating(features.correctness),
    })
}

/// The text that the tokenizer is learnt from: a world of its own seed.
fn corpus() -> Vec<String> {
    let mut prompts = Prompts::new(0);
    (0..800)
        .flat_map(|index| {
            let prompt = prompts.next();
            let answers = answers(0, index, &prompt);
            std::iter::once(prompt.text())
                .chain(answers.into_iter().map(|(_, response)| response))
                .collect::<Vec<_>>()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Share of pairs with different gold whose longer response is the better one; equal lengths count half.
    fn longest_wins(rows: std::ops::Range<usize>) -> f64 {
        let mut prompts = Prompts::new(11);
        let (mut wins, mut pairs) = (0.0, 0.0);
        for index in 0..1500 {
            let prompt = prompts.next();
            let text = prompt.text();
            let scored: Vec<(usize, f64)> = answers(11, index, &prompt)[rows.clone()]
                .iter()
                .map(|(_, r)| (r.chars().count(), gold::gold(&text, r).expect("a sandbox prompt")))
                .collect();
            for (i, x) in scored.iter().enumerate() {
                for y in scored[..i].iter().filter(|y| y.1 != x.1) {
                    pairs += 1.0;
                    wins += if x.0 == y.0 { 0.5 } else { f64::from(u8::from((x.0 > y.0) == (x.1 > y.1))) };
                }
            }
        }
        wins / pairs
    }

    #[test]
    fn length_predicts_gold_on_the_training_generators_only() {
        let (training, heldout) = (longest_wins(0..4), longest_wins(4..8));
        assert!((0.57..0.75).contains(&training), "training generators: {training}");
        assert!(heldout < 0.50, "held-out generators: {heldout}");
    }

    #[test]
    fn prompts_are_distinct_and_a_short_world_begins_a_long_one() {
        let texts = |count: usize| {
            let mut prompts = Prompts::new(3);
            (0..count).map(|_| prompts.next().text()).collect::<Vec<_>>()
        };
        let long = texts(4000);
        assert_eq!(long.iter().collect::<HashSet<_>>().len(), 4000);
        assert_eq!(texts(100), long[..100]);
    }

    #[test]
    fn a_row_is_in_the_raw_schema_with_recomputable_gold() {
        let mut prompts = Prompts::new(4);
        for index in 0..50 {
            let row = row(4, index, &prompts.next());
            let completions = row["completions"].as_array().expect("a list");
            assert_eq!(completions.len(), 8);
            for (completion, model) in completions.iter().zip(row["models"].as_array().expect("a list")) {
                assert_eq!(completion["model"], *model);
                let text = |v: &Value| v.as_str().expect("text").to_owned();
                let gold = gold::gold(&text(&row["instruction"]), &text(&completion["response"]));
                assert_eq!(completion["overall_score"].as_f64(), gold);
            }
        }
    }
}
