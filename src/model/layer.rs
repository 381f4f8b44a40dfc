//! One pre-norm decoder layer, forward and backward.

use super::{DecoderConfig, Pack};
use crate::kernels::attention::{self, Heads};
use crate::kernels::{embedding, linear, rms_norm, rope, rope::Table, swiglu};
use crate::optim::{Gradients, ParameterId, Parameters};
use candle_core::{Result, Tensor};
use std::ops::Range;

/// A projection's parameters.
#[derive(Debug, Clone, Copy)]
pub(super) struct Linear {
    pub weight: ParameterId,
    pub bias: Option<ParameterId>,
}

impl Linear {
    fn forward(&self, parameters: &Parameters, x: &Tensor) -> Result<Tensor> {
        let bias = self.bias.map(|bias| parameters.tensor(bias));
        linear::forward(x, parameters.tensor(self.weight), bias)
    }

    fn backward(&self, step: &Backward, dy: &Tensor, x: &Tensor) -> Result<Tensor> {
        let bias = self.bias.map(|bias| step.gradients.sum(bias));
        let weight = step.parameters.tensor(self.weight);
        linear::backward(dy, x, weight, step.gradients.sum(self.weight), bias, step.groups)
    }
}

/// The parameters of one layer.
#[derive(Debug, Clone)]
pub(super) struct Layer {
    pub input_norm: ParameterId,
    pub query: Linear,
    pub key: Linear,
    pub value: Linear,
    pub output: Linear,
    pub post_attention_norm: ParameterId,
    pub gate: Linear,
    pub up: Linear,
    pub down: Linear,
}

/// What every layer of one pass shares.
pub(super) struct Context<'a> {
    pub parameters: &'a Parameters,
    pub pack: &'a Pack,
    pub table: &'a Table,
    pub heads: Heads,
    pub eps: f64,
}

impl<'a> Context<'a> {
    pub(super) fn new(
        config: &DecoderConfig,
        parameters: &'a Parameters,
        pack: &'a Pack,
        table: &'a Table,
    ) -> Self {
        let heads = Heads { query: config.num_heads, key_value: config.num_kv_heads, dim: config.head_dim };
        Self { parameters, pack, table, heads, eps: config.rms_norm_eps }
    }
}

/// What a backward pass reads and adds to.
struct Backward<'a> {
    parameters: &'a Parameters,
    gradients: &'a Gradients,
    /// Rows whose parameter gradients are added together: those of one group of sequences.
    groups: &'a [Range<usize>],
}

/// What a layer's backward needs of its forward. Norms and the gated product are cheap and computed again.
#[derive(Debug, Clone)]
pub(super) struct Saved {
    /// The layer's input, [N, H].
    x: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attention: attention::Output,
    /// After attention and its residual, [N, H]; in the last layer [S, H].
    middle: Tensor,
    gate: Tensor,
    up: Tensor,
}

impl Layer {
    /// `x` [N, H] to [N, H]; with `last_only`, what follows attention runs on the last tokens alone, to [S, H].
    pub(super) fn forward(&self, context: &Context, x: &Tensor, last_only: bool) -> Result<(Tensor, Saved)> {
        let Context { parameters, pack, table, heads, eps } = *context;
        let normed = rms_norm::forward(x, parameters.tensor(self.input_norm), eps)?;
        let q = rope::forward(&self.query.forward(parameters, &normed)?, &pack.positions, table)?;
        let k = rope::forward(&self.key.forward(parameters, &normed)?, &pack.positions, table)?;
        let v = self.value.forward(parameters, &normed)?;
        let attention = attention::forward(&q, &k, &v, &pack.families, heads)?;
        let residual = self.output.forward(parameters, &rows(&attention.values, pack, last_only)?)?;
        let middle = (rows(x, pack, last_only)? + residual)?;

        let normed = rms_norm::forward(&middle, parameters.tensor(self.post_attention_norm), eps)?;
        let gate = self.gate.forward(parameters, &normed)?;
        let up = self.up.forward(parameters, &normed)?;
        let y = (&middle + self.down.forward(parameters, &swiglu::forward(&gate, &up)?)?)?;
        Ok((y, Saved { x: x.clone(), q, k, v, attention, middle, gate, up }))
    }

    /// Adds the layer's parameter gradients and returns that of its input, [N, H].
    pub(super) fn backward(
        &self,
        context: &Context,
        gradients: &Gradients,
        saved: &Saved,
        dy: &Tensor,
        last_only: bool,
    ) -> Result<Tensor> {
        let Context { parameters, pack, table, heads, eps } = *context;
        let step = Backward { parameters, gradients, groups: &pack.token_groups() };
        let sequences = pack.sequence_groups();
        let after = Backward { groups: if last_only { &sequences } else { step.groups }, ..step };
        let Saved { x, q, k, v, attention, middle, gate, up } = saved;

        let d_product = self.down.backward(&after, dy, &swiglu::forward(gate, up)?)?;
        let (d_gate, d_up) = swiglu::backward(&d_product, gate, up)?;
        let weight = parameters.tensor(self.post_attention_norm);
        let normed = rms_norm::forward(middle, weight, eps)?;
        let d_normed =
            (self.gate.backward(&after, &d_gate, &normed)? + self.up.backward(&after, &d_up, &normed)?)?;
        let d_weight = gradients.sum(self.post_attention_norm);
        let d_middle = rms_norm::backward(&d_normed, middle, weight, eps, d_weight, after.groups)?;
        let d_middle = (dy + d_middle)?;

        let d_attention =
            self.output.backward(&after, &d_middle, &rows(&attention.values, pack, last_only)?)?;
        let d_attention = spread(&d_attention, pack, last_only)?;
        let (dq, dk, dv) = attention::backward(&d_attention, attention, q, k, v, &pack.families, heads)?;
        let dq = rope::backward(&dq, &pack.positions, table)?;
        let dk = rope::backward(&dk, &pack.positions, table)?;
        let weight = parameters.tensor(self.input_norm);
        let normed = rms_norm::forward(x, weight, eps)?;
        let d_normed =
            (self.query.backward(&step, &dq, &normed)? + self.key.backward(&step, &dk, &normed)?)?;
        let d_normed = (d_normed + self.value.backward(&step, &dv, &normed)?)?;
        let d_weight = gradients.sum(self.input_norm);
        let dx = rms_norm::backward(&d_normed, x, weight, eps, d_weight, step.groups)?;
        dx + spread(&d_middle, pack, last_only)?
    }
}

/// The rows that go on: all, or those of the last tokens.
fn rows(t: &Tensor, pack: &Pack, last_only: bool) -> Result<Tensor> {
    if last_only { embedding::gather(t, &pack.last) } else { Ok(t.clone()) }
}

/// The backward of [`rows`].
fn spread(t: &Tensor, pack: &Pack, last_only: bool) -> Result<Tensor> {
    if last_only { embedding::scatter(t, &pack.last, pack.tokens()) } else { Ok(t.clone()) }
}
