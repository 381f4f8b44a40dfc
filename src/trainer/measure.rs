//! A few real optimizer steps that leave nothing behind.

use super::config::Config;
use super::memory::Memory;
use super::step::{StepPlan, step};
use crate::base::interrupt;
use crate::data::loader::Batch;
use crate::model::RewardModel;
use crate::optim::{self, AdamW, clip, schedule};
use crate::{Error, Result, objective};
use std::time::Instant;

/// Trains `model` on `batches` and returns the seconds that each step took: forward, backward and update.
///
/// # Errors
/// As [`step`]; [`Error::Interrupted`] between two steps.
pub fn measure(
    mut model: RewardModel,
    config: &Config,
    optim: &optim::Config,
    terms: Vec<objective::Config>,
    batches: impl Iterator<Item = Result<Batch>>,
    total_steps: u64,
) -> Result<Vec<f64>> {
    let head = model.head();
    model.parameters_mut().set_decays(head, optim.decay_head);
    let memory = Memory::of_loaded(&model, config, optim.moments);
    let plan = StepPlan { terms, micro_batch_tokens: config.micro_batch_tokens, memory };
    let mut optimizer = AdamW::new(optim, model.parameters())?;
    let mut gradients = model.gradients()?;
    let mut seconds = Vec::new();
    for batch in batches {
        if interrupt::requested() {
            return Err(Error::Interrupted);
        }
        let batch = batch?;
        let start = Instant::now();
        let result = step(&plan, batch.step, &model, &batch.lists, &mut gradients)?;
        let lr = schedule::learning_rate(optim, batch.step - 1, total_steps);
        let scale = clip::factor(result.grad_norm, optim.max_grad_norm);
        optimizer.step(model.parameters_mut(), &gradients, lr, scale)?;
        gradients.release();
        model.device().synchronize()?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    Ok(seconds)
}
