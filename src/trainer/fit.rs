//! The loop: step, gate, clip, update, log, evaluate, save, resume.

use super::config::{Config, Duration};
use super::guard::{self, Alarm, Guard, Stop};
use super::head_share::HeadShare;
use super::log::{self, Log};
use super::memory::Memory;
use super::metrics::{EvalLine, StepLine};
use super::progress::Progress;
use super::step::{StepPlan, step};
use crate::base::interrupt;
use crate::checkpoint::{self, Best, Checkpoints, LoopState, optimizer, trainer_state};
use crate::data::loader::Batch;
use crate::data::tokenize::EncodeConversation;
use crate::data::{Example, TokenGroup, TokenList, Tokenizer};
use crate::eval::{self, EvalReport, Named, Origin, Scored, SequenceScorer, SplitReport, evaluate_split};
use crate::model::RewardModel;
use crate::model::config::Dtype;
use crate::model::reward_model::HeadInit;
use crate::objective::lambda::{self, Signals};
use crate::optim::{self, AdamW, clip, schedule};
use crate::{Error, Result, objective};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// Rows of an evaluation set.
pub type Rows = Box<dyn Iterator<Item = Result<(Origin, Example)>> + Send>;

/// One set that is evaluated during training.
pub struct EvalSet {
    pub name: String,
    /// Opens the rows from the start.
    pub open: Box<dyn Fn() -> Result<Rows>>,
}

/// The batches of a run, in order.
pub type Batches = Box<dyn Iterator<Item = Result<Batch>>>;

/// Everything a run needs.
pub struct Setup<'a> {
    /// The run's folder.
    pub run: &'a Path,
    pub model: RewardModel,
    pub tokenizer: &'a Tokenizer,
    pub encoder: Arc<dyn EncodeConversation>,
    pub pad_token_id: u32,
    /// Lists whose rewards are compared after the final save.
    pub probe: Vec<TokenList>,
    pub objective: Vec<objective::Config>,
    pub optim: &'a optim::Config,
    pub config: &'a Config,
    /// Taken before anything but the model is on its device: what is free then is what the run may use.
    pub memory: Memory,
    /// The share of the pairs that each head of an ensemble learns from.
    pub head_share: f64,
    pub guard: &'a guard::Config,
    pub log: &'a log::Config,
    pub eval_options: eval::Options,
    pub eval_sets: Vec<EvalSet>,
    pub total_steps: u64,
    pub data_fingerprint: String,
    /// The batches of the steps that are left.
    pub batches: Batches,
    /// The checkpoint to go on from; the model has been loaded from it.
    pub resume: Option<(PathBuf, LoopState)>,
}

/// How a run ended.
#[derive(Debug)]
pub enum Outcome {
    /// `final/` is written. The report is that of the last evaluation; an alarm that asked to stop, and came with the
    /// last step, is told here.
    Finished {
        steps: u64,
        report: Option<EvalReport>,
        best: Option<Best>,
        stopped_early: bool,
        alarm: Option<String>,
    },
    /// An alarm ended the run; the checkpoint has everything.
    Alarmed { step: u64, checkpoint: PathBuf, stop: Stop },
    /// The user asked to stop; the checkpoint has everything.
    Interrupted { step: u64, checkpoint: PathBuf },
}

/// Trains to the end, or to an interrupt.
///
/// # Errors
/// [`Error::NonFinite`] with nothing updated; [`Error::Training`] where rewards are degenerate from the start; a row
/// that cannot be read, in training or evaluation; I/O and device errors. The steps that were done are saved first,
/// and checkpoints on disk stay usable in every case.
pub fn fit(setup: Setup) -> Result<Outcome> {
    let (mut run, batches) = Run::start(setup)?;
    match run.train(batches) {
        Ok(End::Interrupted) => run.interrupted(),
        Ok(End::Alarmed(stop)) => run.alarmed(stop),
        Ok(End::Finished) => run.finish(false),
        Ok(End::StoppedEarly) => run.finish(true),
        Err(error) => {
            run.save_after(&error);
            Err(error)
        }
    }
}

/// How the loop ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    Finished,
    StoppedEarly,
    Interrupted,
    Alarmed(Stop),
}

fn is_due(every: Option<u64>, step: u64) -> bool {
    every.is_some_and(|every| step.is_multiple_of(every))
}

/// A run in progress.
struct Run<'a> {
    folder: &'a Path,
    model: RewardModel,
    tokenizer: &'a Tokenizer,
    encoder: Arc<dyn EncodeConversation>,
    optim: &'a optim::Config,
    config: &'a Config,
    eval_options: eval::Options,
    eval_sets: Vec<EvalSet>,
    total_steps: u64,
    /// The terms as configured; the plan has those in force.
    objective: Vec<objective::Config>,
    plan: StepPlan,
    guard: Guard,
    optimizer: AdamW,
    gradients: optim::Gradients,
    log: Log,
    checkpoints: Checkpoints,
    state: LoopState,
    progress: Progress,
    probe: Vec<TokenList>,
    /// An update has begun, and `state` does not know of it yet: the parameters are neither of its step nor, for sure,
    /// of the next.
    updating: bool,
    report: Option<EvalReport>,
    /// The step whose checkpoint is on disk and holds all of `state`.
    saved_step: Option<u64>,
}

impl<'a> Run<'a> {
    fn start(setup: Setup<'a>) -> Result<(Self, Batches)> {
        let Setup { run: folder, mut model, optim, config, resume, .. } = setup;
        let head = model.head();
        model.parameters_mut().set_decays(head, optim.decay_head);
        let mut optimizer = AdamW::new(optim, model.parameters())?;
        let state = match &resume {
            Some((checkpoint, state)) => {
                optimizer::read(checkpoint, state.step, &mut optimizer, model.parameters())?;
                state.clone()
            }
            None => LoopState {
                version: checkpoint::VERSION,
                step: 0,
                total_steps: setup.total_steps,
                metrics_bytes: 0,
                data_fingerprint: setup.data_fingerprint,
                best: None,
                evaluations_without_improvement: 0,
                evaluation_pending: false,
                pad_token_id: setup.pad_token_id,
                lambda: None,
            },
        };
        let checkpoints = Checkpoints::of_run(folder);
        checkpoints.remove_temporaries()?;
        checkpoints.remove_after(state.step)?;
        checkpoint::remove_temporaries(folder)?;
        let log = Log::open(folder, setup.log, state.metrics_bytes)?;
        let warmup = schedule::warmup_steps(optim, setup.total_steps);
        let (guard, untold) = Guard::replay(setup.guard, warmup, &Log::metrics_path(folder))?;
        let plan = StepPlan {
            terms: setup.objective.clone(),
            micro_batch_tokens: config.micro_batch_tokens,
            memory: setup.memory,
            head_share: HeadShare { share: setup.head_share, seed: config.seed },
        };
        let mut run = Self {
            folder,
            tokenizer: setup.tokenizer,
            encoder: setup.encoder,
            optim,
            config,
            eval_options: setup.eval_options,
            eval_sets: setup.eval_sets,
            total_steps: setup.total_steps,
            objective: setup.objective,
            plan,
            guard,
            optimizer,
            gradients: model.gradients()?,
            log,
            checkpoints,
            progress: Progress::new(state.step, setup.total_steps),
            saved_step: resume.map(|(_, state)| state.step),
            state,
            model,
            probe: setup.probe,
            updating: false,
            report: None,
        };
        if !untold.is_empty() {
            run.raise(&untold)?;
            run.state.metrics_bytes = run.log.bytes();
            run.saved_step = None;
        }
        Ok((run, setup.batches))
    }

    fn train(&mut self, batches: Batches) -> Result<End> {
        // What was interrupted between a step and its evaluation, or between the last evaluation and the end.
        if let Some(end) = self.after_step()? {
            return Ok(end);
        }
        let mut waiting = Instant::now();
        for batch in batches {
            self.train_step(batch?, waiting)?;
            let last = self.state.step == self.total_steps;
            self.state.evaluation_pending =
                !self.eval_sets.is_empty() && (last || is_due(self.config.eval_every, self.state.step));
            if let Some(end) = self.after_step()? {
                return Ok(end);
            }
            waiting = Instant::now();
        }
        Ok(End::Finished)
    }

    /// Evaluates and saves where that is due, and says whether the run ends here.
    fn after_step(&mut self) -> Result<Option<End>> {
        let step = self.state.step;
        let last = step == self.total_steps;
        let mut due = step > 0 && (last || is_due(self.config.save_every, step));
        if self.state.evaluation_pending {
            match self.evaluate() {
                Ok(improved) => {
                    self.state.evaluation_pending = false;
                    // What may have been saved at this step is from before the evaluation.
                    self.saved_step = None;
                    due |= improved;
                }
                // The step is done and saved; whoever resumes repeats the evaluation.
                Err(Error::Interrupted) => return Ok(Some(End::Interrupted)),
                Err(error) => return Err(error),
            }
        }
        let patience = self.config.early_stopping_patience;
        let stop = !last && patience.is_some_and(|p| self.state.evaluations_without_improvement >= p);
        if due || stop {
            self.save()?;
        }
        if stop {
            return Ok(Some(End::StoppedEarly));
        }
        if let Some(stop) = self.guard.stops().filter(|_| !last) {
            return Ok(Some(End::Alarmed(stop)));
        }
        Ok((interrupt::requested() && !last).then_some(End::Interrupted))
    }

    /// Saves the steps that were done before an error, unless the error came in the middle of an update.
    fn save_after(&mut self, error: &Error) {
        self.progress.finish();
        if self.updating || self.state.step == 0 || self.saved_step == Some(self.state.step) {
            return;
        }
        match self.log_back_to_step().and_then(|()| self.save()) {
            Ok(path) => eprintln!("saved step {} before the error: {}", self.state.step, path.display()),
            Err(second) => eprintln!("warning: after \"{error}\", saving failed too: {second}"),
        }
    }

    fn train_step(&mut self, batch: Batch, started: Instant) -> Result<()> {
        let number = batch.step;
        let lambda = lambda::at(&self.objective, number - 1, self.total_steps, self.state.lambda);
        self.plan.terms = lambda::in_force(&self.objective, lambda);
        let result = step(&self.plan, number, &self.model, &batch.lists, &mut self.gradients)?;
        let d = &result.diagnostics;
        if number == 1 && d.ties * 2 > d.pairs as u64 && d.head_norm > 0.0 {
            return Err(Error::Training {
                step: number,
                reason: format!(
                    "{} of {} pairs have equal rewards: chosen and rejected look the same to the model; check the \
                     chat template and the rows (the first example is printed above)",
                    d.ties, d.pairs
                ),
            });
        }
        let lr = schedule::learning_rate(self.optim, number - 1, self.total_steps);
        let scale = clip::factor(result.grad_norm, self.optim.max_grad_norm);
        self.updating = true;
        self.optimizer.step(self.model.parameters_mut(), &self.gradients, lr, scale)?;
        self.gradients.release();
        let seconds = started.elapsed().as_secs_f64();
        let line = StepLine::new(number, batch.epoch, lr, lambda, seconds, &result);
        self.log.append(&line)?;
        self.progress.step(&line);
        let alarms = self.guard.step(&line);
        self.raise(&alarms)?;
        let d = &result.diagnostics;
        let signals = Signals { reward_mean: d.reward_mean, hidden_norm_var: d.hidden_norm.variance };
        self.state.lambda = lambda::held_after(&self.objective, lambda, signals);
        self.state.step = number;
        self.state.metrics_bytes = self.log.bytes();
        self.updating = false;
        Ok(())
    }

    fn raise(&mut self, alarms: &[Alarm]) -> Result<()> {
        alarms.iter().try_for_each(|alarm| {
            self.progress.warning(alarm.step, &alarm.message);
            self.log.append(alarm)
        })
    }

    /// Evaluates every set, logs the figures, and says whether this is the best step so far.
    fn evaluate(&mut self) -> Result<bool> {
        let mut splits = Vec::new();
        for set in &self.eval_sets {
            self.progress.note(&format!("evaluating {}", set.name));
            let (rows, encoder) = ((set.open)()?, self.encoder.clone());
            let report = evaluate_split(rows, encoder, &self.model, &self.eval_options, |_| {})?;
            self.log.append(&EvalLine {
                kind: "eval",
                step: self.state.step,
                split: &set.name,
                report: &report,
            })?;
            self.progress.evaluated(&set.name, &report);
            splits.push((set.name.clone(), report));
        }
        let alarms: Vec<Alarm> = splits
            .iter()
            .filter_map(|(name, report)| self.guard.evaluated(self.state.step, name, report.accuracy))
            .collect();
        self.raise(&alarms)?;
        let improved = self.judge(&splits);
        self.state.metrics_bytes = self.log.bytes();
        self.report = (!splits.is_empty())
            .then(|| EvalReport::new(self.folder.display().to_string(), None, Named(splits)));
        Ok(improved)
    }

    /// Whether this evaluation is better than all before it. One that lacks the figure is not: that is no reason to lose
    /// what was trained.
    fn judge(&mut self, splits: &[(String, SplitReport)]) -> bool {
        let step = self.state.step;
        let Some((metric, value)) = judge(self.config.best_metric.as_deref(), splits) else { return false };
        let Some(value) = value else {
            let message = format!(
                "train.best_metric: found no {metric} in this evaluation, which counts as no better one. A set of pairs \
                 has an accuracy alone, and a set of which no row can be judged has nothing"
            );
            self.progress.warning(step, &message);
            self.state.evaluations_without_improvement += 1;
            return false;
        };
        let improved = self.state.best.as_ref().is_none_or(|best| value > best.value);
        if improved {
            self.state.best = Some(Best { step, metric, value });
            self.state.evaluations_without_improvement = 0;
        } else {
            self.state.evaluations_without_improvement += 1;
        }
        improved
    }

    /// Forgets the lines of an evaluation that was not finished.
    fn log_back_to_step(&mut self) -> Result<()> {
        self.log.cut_back(self.state.metrics_bytes)
    }

    fn interrupted(mut self) -> Result<Outcome> {
        self.log_back_to_step()?;
        let checkpoint = self.save()?;
        self.progress.finish();
        Ok(Outcome::Interrupted { step: self.state.step, checkpoint })
    }

    fn alarmed(mut self, stop: Stop) -> Result<Outcome> {
        let checkpoint = self.save()?;
        self.progress.finish();
        Ok(Outcome::Alarmed { step: self.state.step, checkpoint, stop })
    }

    fn save(&mut self) -> Result<PathBuf> {
        let step = self.state.step;
        if self.saved_step == Some(step) {
            return Ok(self.checkpoints.path(step));
        }
        self.progress.note("saving");
        self.log.sync()?;
        let metrics_path = Log::metrics_path(self.folder);
        let metrics = std::fs::read_to_string(&metrics_path).map_err(Error::io(&metrics_path))?;
        let epochs = match self.config.duration {
            Duration::Epochs(epochs) => epochs,
            Duration::MaxSteps(_) => 0.0,
        };
        let path = self.checkpoints.save(step, |folder| {
            // Masters, whatever the compute dtype: a resumed run goes on from exactly these.
            self.model.save(folder, self.state.pad_token_id, Dtype::F32)?;
            self.tokenizer.save(folder, self.state.pad_token_id)?;
            optimizer::write(folder, &self.optimizer, self.model.parameters())?;
            trainer_state::write(folder, &self.state, epochs, &metrics)?;
            self.state.write(folder)
        })?;
        self.saved_step = Some(step);
        self.checkpoints.rotate(self.config.keep_last, self.state.best.as_ref().map(|b| b.step))?;
        Ok(path)
    }

    fn finish(mut self, stopped_early: bool) -> Result<Outcome> {
        self.save()?;
        // The model is about to be loaded a second time; what only updates need makes room for it.
        drop((self.optimizer, self.gradients));
        let dtype = self.model.dtype();
        checkpoint::publish(&self.folder.join("final"), |folder| {
            self.model.save(folder, self.state.pad_token_id, dtype)?;
            self.tokenizer.save(folder, self.state.pad_token_id)?;
            verify_saved(&self.model, &self.probe, folder)
        })?;
        self.progress.finish();
        Ok(Outcome::Finished {
            steps: self.state.step,
            report: self.report,
            best: self.state.best,
            stopped_early,
            alarm: self.guard.stops().map(|stop| stop.message),
        })
    }
}

/// Loads what was saved and scores the probe lists with it: what is on disk is what was trained. One list at a time, as
/// a step may be computed too, so that no memory is needed beyond what training had.
fn verify_saved(model: &RewardModel, probe: &[TokenList], folder: &Path) -> Result<()> {
    let saved = RewardModel::load(folder, model.device(), Some(model.dtype()), HeadInit::default())?;
    // The head is saved in the compute dtype but used in f32 while training.
    let tolerance = if model.dtype() == Dtype::F32 { 0.0 } else { 0.05 };
    let lowest = |scored: &Scored| scored.disagreement.map_or(scored.reward, |heads| heads.min);
    let mut sequence = 0;
    for list in probe {
        let group = [TokenGroup { sequences: list.sequences.clone() }];
        let (trained, reloaded) = (model.score(&group)?, saved.score(&group)?);
        for (a, b) in trained.iter().flatten().zip(reloaded.iter().flatten()) {
            for (a, b) in [(a.reward, b.reward), (lowest(a), lowest(b))] {
                if (a - b).abs() > tolerance * (1.0 + a.abs()) {
                    let reason = format!("sequence {sequence} scored {a} before saving and {b} after");
                    return Err(Error::checkpoint(folder, reason));
                }
            }
            sequence += 1;
        }
    }
    Ok(())
}

/// The figure that decides which step is best, by its name; its value, where this evaluation has one. `None` where
/// nothing was evaluated.
fn judge(metric: Option<&str>, splits: &[(String, SplitReport)]) -> Option<(String, Option<f64>)> {
    let Some(metric) = metric else {
        let (name, report) = splits.first()?;
        let field = match report.metric {
            eval::Metric::Accuracy => "accuracy",
            eval::Metric::KendallTau => "kendall_tau",
        };
        return Some((format!("{name}.{field}"), report.value()));
    };
    let value = metric.rsplit_once('.').and_then(|(split, field)| {
        let (_, report) = splits.iter().find(|(name, _)| name == split)?;
        match field {
            "accuracy" => report.accuracy,
            "kendall_tau" => report.kendall_tau,
            _ => None,
        }
    });
    Some((metric.to_owned(), value))
}
