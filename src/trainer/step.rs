//! One optimizer step up to its gradients, exact over all of its pairs whatever the micro-batches.
//!
//! Rewards are the seam: every micro-batch runs forward, the rewards of the whole step become a loss and dL/dr, and
//! every micro-batch runs backward from its share of dL/dr.

use super::head_share::HeadShare;
use super::memory::{Activations, Memory, StepSize};
use crate::data::TokenPair;
use crate::diagnostics::{self, EnsembleDiagnostics, StepDiagnostics};
use crate::model::reward_head::NormGradient;
use crate::model::reward_model::Pass;
use crate::model::{Keep, Pack, RewardModel, pack};
use crate::objective::{self, Batch, ensemble};
use crate::optim::{Gradients, Norms};
use crate::{Error, Result};
use std::ops::Range;

/// What a step computed before the update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepResult {
    pub loss: f64,
    pub loss_bt: f64,
    /// The sum-to-zero penalty before its lambda.
    pub loss_bsr: f64,
    /// Of the mean head, where there are several.
    pub diagnostics: StepDiagnostics,
    /// Of several heads.
    pub ensemble: Option<EnsembleDiagnostics>,
    /// Global gradient norm before clipping.
    pub grad_norm: f64,
    /// The part of the head, or of all heads together.
    pub head_grad_norm: f64,
    pub pairs: usize,
    /// Tokens of all sequences, a shared prompt counted in each.
    pub tokens: usize,
}

/// What stays the same from step to step.
#[derive(Debug, Clone)]
pub struct StepPlan {
    pub terms: Vec<objective::Config>,
    /// Packed tokens computed at once.
    pub micro_batch_tokens: usize,
    pub memory: Memory,
    pub head_share: HeadShare,
}

/// Runs `pairs` forward and backward and leaves the gradients of the loss in `gradients`.
///
/// # Errors
/// [`Error::NonFinite`] naming the first pair and layer, or the first parameter, whose value or gradient is not
/// finite. Nothing is updated here, so the model is that of the step before.
pub fn step(
    plan: &StepPlan,
    number: u64,
    model: &RewardModel,
    pairs: &[TokenPair],
    gradients: &mut Gradients,
) -> Result<StepResult> {
    let groups: Vec<[Vec<u32>; 2]> = pairs.iter().map(|p| [p.chosen.clone(), p.rejected.clone()]).collect();
    let micro_batches = pack::micro_batches(&groups, plan.micro_batch_tokens);
    let packs: Vec<Pack> = micro_batches.iter().map(|range| Pack::new(&groups[range.clone()])).collect();
    let rows = touched_rows(&packs);
    let sizes = packs.iter().map(|pack| pack.tokens() as u64);
    let activations = plan.memory.choose(StepSize::new(sizes, rows.len() as u64));

    let first_keep = match activations {
        Activations::Keep => Keep::Activations,
        Activations::Recompute => Keep::LayerInputs,
        Activations::RewardsFirst => Keep::Nothing,
    };
    packs.iter().try_for_each(|pack| pack.upload(model.device()))?;
    let passes: Vec<Pass> = packs.iter().map(|pack| model.begin(pack, first_keep)).collect::<Result<_>>()?;

    let (hidden, head_rewards) = model.read(&passes)?;
    let rewards = head_rewards.mean();
    if let Some(at) = rewards.iter().position(|r| !r.is_finite()) {
        return Err(non_finite_reward(number, model, &pairs[at / 2], at % 2 == 0, rewards[at]));
    }
    let (chosen, rejected): (Vec<f64>, Vec<f64>) = rewards.chunks_exact(2).map(|p| (p[0], p[1])).unzip();
    let width = model.config().hidden_size;
    let norms: Vec<f64> = hidden.chunks_exact(width).map(diagnostics::norm).collect();
    let (chosen_norms, rejected_norms): (Vec<f64>, Vec<f64>) =
        norms.chunks_exact(2).map(|p| (p[0], p[1])).unzip();
    let margins: Vec<Option<f64>> = pairs.iter().map(|p| p.margin).collect();
    let batch = Batch {
        chosen: &chosen,
        rejected: &rejected,
        chosen_norms: &chosen_norms,
        rejected_norms: &rejected_norms,
        margins: &margins,
        micro_batches: &micro_batches,
    };
    let by_head = head_rewards.by_head();
    let learners = plan.head_share.learners(by_head.len(), pairs.iter().map(|pair| pair.index));
    let heads = by_head.iter().zip(&learners);
    let heads: Vec<_> = heads.map(|(rewards, learns)| ensemble::Head { rewards, learns }).collect();
    let value = ensemble::evaluate(&plan.terms, batch, &heads);
    let diagnostics = diagnostics::step(&hidden, &rewards, &model.head_weight()?);

    gradients.start_step(&rows)?;
    let d_rewards = |sequences: Range<usize>| -> Vec<&[f64]> {
        value.d_rewards.iter().map(|head| &head[sequences.clone()]).collect()
    };
    let d_norms = plan.terms.iter().any(objective::Config::reads_norms).then_some(&value.d_norms);
    model.head_backward(&hidden, &d_rewards(0..rewards.len()), gradients)?;
    for ((pass, pack), range) in passes.into_iter().zip(&packs).zip(&micro_batches) {
        let tape = match pass.tape {
            Some(tape) => Some(tape),
            None => model.begin(pack, Keep::LayerInputs)?.tape,
        };
        if let Some(tape) = tape {
            let sequences = 2 * range.start..2 * range.end;
            let norms = d_norms.map(|d_norms| NormGradient {
                hidden: &hidden[width * sequences.start..width * sequences.end],
                d_norms: &d_norms[sequences.clone()],
            });
            model.backward(tape, &d_rewards(sequences), norms, gradients)?;
        }
    }

    let norms = gradients.norms()?;
    let grad_norm = norms.global();
    if !grad_norm.is_finite() || !value.loss.is_finite() {
        return Err(non_finite_gradient(number, model, &norms, value.loss));
    }
    Ok(StepResult {
        loss: value.loss,
        loss_bt: value.loss_bt,
        loss_bsr: value.loss_bsr,
        diagnostics,
        ensemble: diagnostics::ensemble(by_head),
        grad_norm,
        head_grad_norm: norms.of(model.head()),
        pairs: pairs.len(),
        tokens: groups.iter().flatten().map(Vec::len).sum(),
    })
}

/// Embedding rows that some token of the step uses, ascending.
fn touched_rows(packs: &[Pack]) -> Vec<u32> {
    let mut rows: Vec<u32> = packs.iter().flat_map(|p| p.ids.iter().copied()).collect();
    rows.sort_unstable();
    rows.dedup();
    rows
}

/// Runs the pair again to find the layer.
fn non_finite_reward(step: u64, model: &RewardModel, pair: &TokenPair, chosen: bool, reward: f64) -> Error {
    let (side, ids) = if chosen { ("chosen", &pair.chosen) } else { ("rejected", &pair.rejected) };
    let place = model.first_non_finite(&Pack::new(&[[ids.clone()]]));
    let place = place.unwrap_or_else(|error| format!("a layer that could not be found ({error})"));
    Error::NonFinite {
        step,
        what: format!("the reward of the {side} response of {}", pair.origin),
        detail: format!("{reward}, first seen after {place}"),
    }
}

fn non_finite_gradient(step: u64, model: &RewardModel, norms: &Norms, loss: f64) -> Error {
    if let Some((id, norm)) = norms.iter().find(|(_, norm)| !norm.is_finite()) {
        let what = format!("the gradient of {}", model.parameters().get(id).name);
        return Error::NonFinite { step, what, detail: format!("norm {norm}, loss {loss}") };
    }
    let detail = "every parameter's own norm is finite, their sum overflows".to_owned();
    Error::NonFinite { step, what: format!("the loss ({loss}) or the global gradient norm"), detail }
}
