//! What `fit` does once its configuration is known to be good: parts, plan, run, report.

use super::loaded::CheckedTokenizer;
use super::run_folder::{self, RunLock};
use super::{datasets, memory_text, parts};
use crate::base::reader::Words;
use crate::base::{figures, interrupt};
use crate::checkpoint::{Checkpoints, LoopState};
use crate::config::RunConfig;
use crate::data::Tokenizer;
use crate::data::config::ChatTemplateSource;
use crate::data::loader::{Batch, Loader};
use crate::data::sampler::Order;
use crate::data::store::DataReport;
use crate::data::tokenize::EncodeConversation;
use crate::eval;
use crate::model::RewardModel;
use crate::model::device::device_name;
use crate::trainer::estimate::{Estimate, Inputs};
use crate::trainer::lengths::Sample;
use crate::trainer::memory::Memory;
use crate::trainer::{Outcome, Setup, fit};
use crate::{Error, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Pairs, or lists, that are scored again after the final save.
const PROBE_PAIRS: u64 = 8;

/// A run that has a folder.
struct Run {
    folder: PathBuf,
    config: RunConfig,
    /// Where it goes on, if it does.
    resume: Option<(PathBuf, LoopState)>,
    _lock: RunLock,
}

/// Trains as `config` says, in `out` or in a folder under `runs/` named after the configuration file.
pub(super) fn train(config_path: &Path, config: RunConfig, out: Option<&Path>, resume: bool) -> Result<()> {
    let Some(mut run) = open_run(config_path, config, out, resume)? else { return Ok(()) };
    interrupt::install();
    parts::prepare_sandbox(&mut run.config, &run.folder)?;
    let config = &run.config;
    let tokenizer = Arc::new(load_tokenizer(&run)?);
    let sources = datasets::Sources::of(&config.data)?;
    let checkpoint = run.resume.as_ref().map(|(checkpoint, _)| checkpoint.as_path());
    let model = parts::load_model(config, checkpoint)?;
    let memory = Memory::of_loaded(&model, &config.train, config.optim.moments);
    let encoder: Arc<dyn EncodeConversation> = Arc::new(CheckedTokenizer {
        tokenizer: tokenizer.clone(),
        vocab_size: model.config().vocab_size,
        header: None,
    });

    let store = parts::open_store(config, &sources.train, &run.folder.join("data"), encoder.as_ref())?;
    eprintln!("{}", store.report());
    let store = Arc::new(store);
    let order = Order { len: store.len(), shuffle: config.data.shuffle, seed: config.train.seed };
    let batch_pairs = config.train.batch_pairs as u64;
    let total_steps = config.train.duration.steps(order.steps_per_epoch(batch_pairs));
    let first = run.resume.as_ref().map_or(0, |(_, state)| state.step);
    if let Some((checkpoint, state)) = &run.resume {
        check_same_data(checkpoint, state, &store.content_sha256(), total_steps)?;
    }
    let loader = Loader::start(store.clone(), encoder.clone(), order, batch_pairs, first + 1, total_steps)?;
    let mut batches = loader.peekable();
    if let Some(Ok(batch)) = batches.peek() {
        print_plan(&run, &model, memory, store.report(), total_steps, batch);
        print_example(&tokenizer, batch);
    }
    let pad_token_id = match &run.resume {
        Some((_, state)) => state.pad_token_id,
        None => pad_token_id(&tokenizer, batches.peek())?,
    };
    let probe = (0..store.len().min(PROBE_PAIRS))
        .map(|index| store.token_list(index, encoder.as_ref()))
        .collect::<Result<_>>()?;
    let outcome = fit(Setup {
        run: &run.folder,
        tokenizer: &tokenizer,
        encoder,
        pad_token_id,
        probe,
        objective: config.objective.clone(),
        optim: &config.optim,
        config: &config.train,
        memory,
        head_share: config.model.head_share,
        guard: &config.guard,
        log: &config.log,
        eval_options: eval::Options {
            max_length: config.data.max_length,
            overlong: config.data.overlong,
            batch_tokens: eval::DEFAULT_BATCH_TOKENS,
        },
        eval_sets: sources.eval_sets(&config.data),
        total_steps,
        data_fingerprint: store.content_sha256(),
        batches: Box::new(batches),
        resume: run.resume.clone(),
        model,
    })?;
    report_outcome(&run, outcome)
}

/// Creates, or finds again, the run's folder. `None` if the run is finished already.
fn open_run(config_path: &Path, config: RunConfig, out: Option<&Path>, resume: bool) -> Result<Option<Run>> {
    let folder = match out {
        Some(out) => out.to_path_buf(),
        None => run_folder::default_for(config_path, resume)?,
    };
    let existing = folder.join(run_folder::CONFIG);
    if !resume && existing.exists() {
        return Err(Error::Usage(format!(
            "{}: holds a run already; --resume goes on with it, another --out starts a new one",
            folder.display()
        )));
    }
    if !existing.exists() && run_folder::has_foreign_content(&folder)? {
        return Err(Error::Usage(format!("{}: is not empty and holds no run", folder.display())));
    }
    std::fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
    let lock = RunLock::take(&folder)?;
    if existing.exists() {
        let before = RunConfig::load(&existing, &[])?;
        config.check_can_resume(&before, &existing)?;
    } else {
        crate::base::atomic::write_bytes(&existing, config.to_toml().as_bytes())?;
    }
    if folder.join(run_folder::FINAL).exists() {
        eprintln!("{}: this run is finished; `rmtrain eval --model {0}` scores it", folder.display());
        return Ok(None);
    }
    let checkpoints = Checkpoints::of_run(&folder);
    let (step, refused) = checkpoints.newest_usable()?;
    for error in &refused {
        eprintln!("warning: passing over a checkpoint: {error}");
    }
    if step.is_none()
        && let Some(newest) = refused.into_iter().next()
    {
        // Beginning again would overwrite what may still be of use.
        return Err(newest);
    }
    let resume = match step {
        Some(step) => {
            let path = checkpoints.path(step);
            let state = LoopState::read(&path)?;
            eprintln!("resuming {} after step {step}", folder.display());
            Some((path, state))
        }
        None => {
            if resume {
                eprintln!("{}: no checkpoint to resume from; starting from the beginning", folder.display());
            }
            None
        }
    };
    Ok(Some(Run { folder, config, resume, _lock: lock }))
}

/// The tokenizer with its template and a frozen date: the checkpoint's where the run goes on.
fn load_tokenizer(run: &Run) -> Result<Tokenizer> {
    match &run.resume {
        Some((checkpoint, _)) => Tokenizer::load(checkpoint, &ChatTemplateSource::Auto, None),
        None => parts::load_tokenizer(&run.config, &run.folder),
    }
}

fn check_same_data(checkpoint: &Path, state: &LoopState, fingerprint: &str, total_steps: u64) -> Result<()> {
    if state.data_fingerprint != fingerprint {
        let reason = "the training data is not that of the interrupted run (a file or its order has changed)";
        return Err(Error::checkpoint(checkpoint, reason));
    }
    if state.total_steps != total_steps {
        let before = state.total_steps;
        return Err(Error::checkpoint(
            checkpoint,
            format!("was planned for {before} steps, this run for {total_steps}"),
        ));
    }
    Ok(())
}

/// What is going to happen, before the first step, judged by it.
fn print_plan(
    run: &Run,
    model: &RewardModel,
    memory: Memory,
    data: &DataReport,
    total_steps: u64,
    batch: &Batch,
) {
    let (pairs, noun) = (data.pairs, data.noun());
    let config = &run.config.train;
    let mut sample = Sample::new(model.config().vocab_size);
    sample.push_step(&batch.lists);
    let estimate = Estimate::new(&Inputs::new(model.config(), config, memory, pairs, total_steps, &sample));
    eprintln!(
        "plan: {pairs} {noun}, {total_steps} steps of {} {noun}; about {} tokens, {} of them computed (shared prompts \
         are computed once), {}",
        config.batch_pairs,
        figures::short(estimate.run_plain_tokens),
        figures::short(estimate.run_packed_tokens),
        figures::flops(estimate.run_flops),
    );
    let parameters = model.parameters().count();
    let frozen = parameters - model.parameters().trained_count();
    let frozen = (frozen > 0).then(|| format!(", {} of them frozen", figures::short(frozen as f64)));
    eprintln!(
        "model: {} parameters{} in {:?} on {}; {} {}",
        figures::short(parameters as f64),
        frozen.unwrap_or_default(),
        model.dtype(),
        device_name(model.device()),
        if model.head_count() == 1 { "head".into() } else { format!("{} heads", model.head_count()) },
        if model.head_was_drawn() { "drawn" } else { "kept" },
    );
    // All rows of the embedding will have moments some day; the first step does not say how many.
    let rows = model.config().vocab_size as u64;
    let peak = memory.peak_bytes(estimate.activations, estimate.largest_step, rows);
    eprintln!("{}", memory_text::line(&memory, &estimate, peak));
}

/// The first rendered example with its tokens: the cheapest check of a template there is.
fn print_example(tokenizer: &Tokenizer, batch: &Batch) {
    const SHOWN: usize = 24;
    let Some(list) = batch.lists.first() else { return };
    for (i, ids) in list.sequences.iter().enumerate() {
        let tokens = tokenizer.tokens_of(ids);
        let shown: Vec<String> = if tokens.len() <= 2 * SHOWN {
            tokens
        } else {
            let skipped = format!("..{} more..", tokens.len() - 2 * SHOWN);
            let (head, tail) = (&tokens[..SHOWN], &tokens[tokens.len() - SHOWN..]);
            head.iter().chain([&skipped]).chain(tail).cloned().collect()
        };
        let name = list.ranking.name_of(i);
        eprintln!("first example, {name} ({}, {} tokens): {}", list.origin, ids.len(), shown.join("|"));
    }
}

/// A padding id that no rendered conversation ends with.
fn pad_token_id(tokenizer: &Tokenizer, batch: Option<&Result<Batch>>) -> Result<u32> {
    let lists = batch.and_then(|batch| batch.as_ref().ok()).map_or(&[][..], |batch| &batch.lists);
    let mut last: Vec<u32> =
        lists.iter().flat_map(|list| &list.sequences).filter_map(|ids| ids.last()).copied().collect();
    last.sort_unstable();
    last.dedup();
    tokenizer.pad_token_id_for(&last)
}

fn report_outcome(run: &Run, outcome: Outcome) -> Result<()> {
    let folder = run.folder.display();
    match outcome {
        Outcome::Interrupted { step, checkpoint } => {
            eprintln!(
                "stopped after step {step}; everything is in {}\nhint: rmtrain fit --config {folder}/config.toml --out {folder} --resume",
                checkpoint.display(),
            );
            Err(Error::Interrupted)
        }
        Outcome::Alarmed { step, checkpoint, stop } => {
            let warn = stop.rules.iter().map(|rule| format!(" --set guard.{}.action=warn", rule.word()));
            Err(Error::Check(format!(
                "stopped after step {step} by {}\neverything is in {}\nhint: to go on nevertheless, the same command \
                 with --resume{}",
                stop.message,
                checkpoint.display(),
                warn.collect::<String>()
            )))
        }
        Outcome::Finished { steps, report, best, stopped_early, alarm } => {
            let early = if stopped_early { ", stopped early" } else { "" };
            eprintln!("finished after {steps} steps{early}: {folder}/final");
            if let Some(best) = best {
                eprintln!("best: {} = {:.4} at step {}", best.metric, best.value, best.step);
            }
            if let Some(report) = report {
                eprintln!("\n{}", eval::table(&report));
            }
            eprintln!(
                "next:\n  rmtrain eval --model {folder}\n  rmtrain score --model {folder} --input rows.jsonl\n  \
                 {folder}/metrics.jsonl has every step's loss and hidden norms"
            );
            match alarm {
                Some(alarm) => {
                    Err(Error::Check(format!("the run is finished, and its last word is {alarm}")))
                }
                None => Ok(()),
            }
        }
    }
}
