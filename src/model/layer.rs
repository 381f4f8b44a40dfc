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
        linear::forward(x, parameters.tensor(self.weight), bias, None)
    }

    fn forward_onto(&self, parameters: &Parameters, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        let bias = self.bias.map(|bias| parameters.tensor(bias));
        linear::forward(x, parameters.tensor(self.weight), bias, Some(residual))
    }

    fn add_gradients(&self, step: &Backward, dy: &Tensor, x: &Tensor) -> Result<()> {
        let bias = self.bias.map(|bias| step.gradients.sum(bias));
        linear::weight_gradient(dy, x, step.gradients.sum(self.weight), bias, step.groups)
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

/// What a backward pass adds to.
struct Backward<'a> {
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
        let attended = rows(&attention.values, pack, last_only)?;
        let middle = self.output.forward_onto(parameters, &attended, &rows(x, pack, last_only)?)?;

        let normed = rms_norm::forward(&middle, parameters.tensor(self.post_attention_norm), eps)?;
        let gate = self.gate.forward(parameters, &normed)?;
        let up = self.up.forward(parameters, &normed)?;
        let y = self.down.forward_onto(parameters, &swiglu::forward(&gate, &up)?, &middle)?;
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
        let step = Backward { gradients, groups: &pack.token_groups() };
        let sequences = pack.sequence_groups();
        let after = Backward { groups: if last_only { &sequences } else { step.groups }, ..step };
        let Saved { x, q, k, v, attention, middle, gate, up } = saved;

        let weight = |linear: &Linear| parameters.tensor(linear.weight);
        let d_product = linear::input_gradient(&[(dy, weight(&self.down))])?;
        let swiglu::Gradient { gate: d_gate, up: d_up, product } = swiglu::backward(&d_product, gate, up)?;
        self.down.add_gradients(&after, dy, &product)?;
        drop((d_product, product));
        let norm = parameters.tensor(self.post_attention_norm);
        let normed = rms_norm::forward(middle, norm, eps)?;
        self.gate.add_gradients(&after, &d_gate, &normed)?;
        self.up.add_gradients(&after, &d_up, &normed)?;
        drop(normed);
        let d_normed = linear::input_gradient(&[(&d_gate, weight(&self.gate)), (&d_up, weight(&self.up))])?;
        drop((d_gate, d_up));
        let d_norm = gradients.sum(self.post_attention_norm);
        let d_middle = rms_norm::backward(&d_normed, middle, norm, eps, Some(dy), d_norm, after.groups)?;

        self.output.add_gradients(&after, &d_middle, &rows(&attention.values, pack, last_only)?)?;
        let d_attention = linear::input_gradient(&[(&d_middle, weight(&self.output))])?;
        let d_attention = spread(&d_attention, pack, last_only)?;
        let (dq, dk, dv) = attention::backward(&d_attention, attention, q, k, v, &pack.families, heads)?;
        drop(d_attention);
        let dq = rope::backward(&dq, &pack.positions, table)?;
        let dk = rope::backward(&dk, &pack.positions, table)?;
        let norm = parameters.tensor(self.input_norm);
        let normed = rms_norm::forward(x, norm, eps)?;
        for (linear, dy) in [(&self.query, &dq), (&self.key, &dk), (&self.value, &dv)] {
            linear.add_gradients(&step, dy, &normed)?;
        }
        let d_normed = linear::input_gradient(&[
            (&dq, weight(&self.query)),
            (&dk, weight(&self.key)),
            (&dv, weight(&self.value)),
        ])?;
        let residual = spread(&d_middle, pack, last_only)?;
        let d_norm = gradients.sum(self.input_norm);
        rms_norm::backward(&d_normed, x, norm, eps, Some(&residual), d_norm, step.groups)
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
