//! Real optimizer steps that leave nothing behind.

use super::config::Config;
use super::head_share::HeadShare;
use super::memory::Memory;
use super::step::{StepPlan, step};
use crate::base::interrupt;
use crate::data::loader::Batch;
use crate::model::RewardModel;
use crate::optim::{self, AdamW, clip, schedule};
use crate::{Error, Result, objective};
use std::time::Instant;

/// What one step showed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MeasuredStep {
    /// Forward, backward and update.
    pub seconds: f64,
    pub loss: f64,
}

/// Trains `model` on `batches` and measures every step. `memory` decides how activations are held.
///
/// # Errors
/// As [`step`]; [`Error::Interrupted`] between two steps.
pub fn measure(
    mut model: RewardModel,
    config: &Config,
    optim: &optim::Config,
    terms: Vec<objective::Config>,
    memory: Memory,
    batches: impl Iterator<Item = Result<Batch>>,
    total_steps: u64,
) -> Result<Vec<MeasuredStep>> {
    let head = model.head();
    model.parameters_mut().set_decays(head, optim.decay_head);
    // Which pairs a head learns from makes no difference in time.
    let head_share = HeadShare::ALL;
    let plan = StepPlan { terms, micro_batch_tokens: config.micro_batch_tokens, memory, head_share };
    let mut optimizer = AdamW::new(optim, model.parameters())?;
    let mut gradients = model.gradients()?;
    let mut steps = Vec::new();
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
        steps.push(MeasuredStep { seconds: start.elapsed().as_secs_f64(), loss: result.loss });
    }
    Ok(steps)
}
