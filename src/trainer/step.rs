//! One optimizer step up to its gradients, exact over all of its lists (pairs are lists of two) whatever the
//! micro-batches.
//!
//! Rewards are the seam: every micro-batch runs forward, the rewards of the whole step become a loss and dL/dr, and
//! every micro-batch runs backward from its share of dL/dr.

use super::head_share::HeadShare;
use super::memory::{Activations, Memory, StepSize};
use crate::data::{Ranking, TokenList};
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
    pub sequences: usize,
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

/// Runs `lists` forward and backward and leaves the gradients of the loss in `gradients`.
///
/// # Errors
/// [`Error::NonFinite`] naming the first response and layer, or the first parameter, whose value or gradient is not
/// finite. Nothing is updated here, so the model is that of the step before.
pub fn step(
    plan: &StepPlan,
    number: u64,
    model: &RewardModel,
    lists: &[TokenList],
    gradients: &mut Gradients,
) -> Result<StepResult> {
    let micro_batches = pack::micro_batches(lists, plan.micro_batch_tokens);
    let packs: Vec<Pack> = micro_batches.iter().map(|range| Pack::new(&lists[range.clone()])).collect();
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
        return Err(non_finite_reward(number, model, lists, at, rewards[at]));
    }
    let width = model.config().hidden_size;
    let norms: Vec<f64> = hidden.chunks_exact(width).map(diagnostics::norm).collect();
    let rankings: Vec<&Ranking> = lists.iter().map(|list| &list.ranking).collect();
    let margins: Vec<Option<f64>> = lists.iter().map(|list| list.margin).collect();
    let batch = Batch {
        rewards: &rewards,
        norms: &norms,
        rankings: &rankings,
        margins: &margins,
        micro_batches: &micro_batches,
    };
    let by_head = head_rewards.by_head();
    let learners = plan.head_share.learners(by_head.len(), lists.iter().map(|list| list.index));
    let heads = by_head.iter().zip(&learners);
    let heads: Vec<_> = heads.map(|(rewards, learns)| ensemble::Head { rewards, learns }).collect();
    let value = ensemble::evaluate(&plan.terms, batch, &heads);
    let spreads: Vec<f64> = head_rewards.disagreements().iter().flatten().map(|heads| heads.spread).collect();
    let diagnostics = diagnostics::step(&hidden, &rewards, &rankings, &model.head_weight()?);

    gradients.start_step(&rows)?;
    let d_rewards = |sequences: Range<usize>| -> Vec<&[f64]> {
        value.d_rewards.iter().map(|head| &head[sequences.clone()]).collect()
    };
    let reads_norms = plan.terms.iter().any(objective::Config::reads_norms);
    model.head_backward(&hidden, &d_rewards(0..rewards.len()), gradients)?;
    let mut end = 0;
    for (pass, pack) in passes.into_iter().zip(&packs) {
        let sequences = end..end + pack.read.len();
        end = sequences.end;
        let tape = match pass.tape {
            Some(tape) => Some(tape),
            None => model.begin(pack, Keep::LayerInputs)?.tape,
        };
        if let Some(tape) = tape {
            let norms = reads_norms.then(|| NormGradient {
                hidden: &hidden[width * sequences.start..width * sequences.end],
                d_norms: &value.d_norms[sequences.clone()],
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
        ensemble: diagnostics::ensemble(by_head, &spreads, &rankings),
        grad_norm,
        head_grad_norm: norms.of(model.head()),
        sequences: rewards.len(),
        tokens: lists.iter().map(TokenList::tokens).sum(),
    })
}

/// Embedding rows that some token of the step uses, ascending.
fn touched_rows(packs: &[Pack]) -> Vec<u32> {
    let mut rows: Vec<u32> = packs.iter().flat_map(|p| p.ids.iter().copied()).collect();
    rows.sort_unstable();
    rows.dedup();
    rows
}

/// Runs the sequence `at` of the step again to find the layer.
fn non_finite_reward(step: u64, model: &RewardModel, lists: &[TokenList], at: usize, reward: f64) -> Error {
    let mut sequences = lists.iter().flat_map(|list| (0..list.sequences.len()).map(move |i| (list, i)));
    let Some((list, i)) = sequences.nth(at) else {
        return Error::NonFinite { step, what: format!("reward {at}"), detail: reward.to_string() };
    };
    let place = model.first_non_finite(&Pack::new(&[[list.sequences[i].clone()]]));
    let place = place.unwrap_or_else(|error| format!("a layer that could not be found ({error})"));
    Error::NonFinite {
        step,
        what: format!("the reward of {} ({})", list.origin, list.ranking.name_of(i)),
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
