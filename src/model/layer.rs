//! One pre-norm decoder layer, forward and backward.

use super::{DecoderConfig, Pack};
use crate::kernels::attention::{self, Heads};
use crate::kernels::{Accumulator, embedding, linear, rms_norm, rope, rope::Table, swiglu};
use crate::optim::{Gradients, ParameterId, Parameters};
use candle_core::{Result, Tensor};

/// A projection's parameters.
#[derive(Debug, Clone, Copy)]
pub(super) struct Linear {
    pub weight: ParameterId,
    pub bias: Option<ParameterId>,
}

impl Linear {
    fn layer<'a>(&self, parameters: &'a Parameters, residual: Option<&'a Tensor>) -> linear::Layer<'a> {
        let bias = self.bias.map(|bias| parameters.tensor(bias));
        linear::Layer { weight: parameters.tensor(self.weight), bias, residual }
    }

    fn gradients<'a>(&self, gradients: &'a Gradients, dy: &'a Tensor) -> linear::Gradients<'a> {
        let bias = self.bias.map(|bias| gradients.sum(bias));
        linear::Gradients { dy, weight: gradients.sum(self.weight), bias }
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
    /// `x` [N, H] to [N, H]; with `last_only`, what follows attention runs on the pack's read rows alone,
    /// to [S, H].
    pub(super) fn forward(&self, context: &Context, x: &Tensor, last_only: bool) -> Result<(Tensor, Saved)> {
        let Context { parameters, pack, table, heads, eps } = *context;
        let normed = rms_norm::forward(x, parameters.tensor(self.input_norm), eps)?;
        let projections = [&self.query, &self.key, &self.value];
        let [q, k, v] = linear::forward(&normed, projections.map(|linear| linear.layer(parameters, None)))?;
        let q = rope::forward(&q, &pack.positions, table)?;
        let k = rope::forward(&k, &pack.positions, table)?;
        let attention = attention::forward(&q, &k, &v, &pack.families, heads)?;
        let attended = rows(&attention.values, pack, last_only)?;
        let residual = rows(x, pack, last_only)?;
        let [middle] = linear::forward(&attended, [self.output.layer(parameters, Some(&residual))])?;

        let normed = rms_norm::forward(&middle, parameters.tensor(self.post_attention_norm), eps)?;
        let projections = [&self.gate, &self.up];
        let [gate, up] = linear::forward(&normed, projections.map(|linear| linear.layer(parameters, None)))?;
        let product = swiglu::forward(&gate, &up)?;
        let [y] = linear::forward(&product, [self.down.layer(parameters, Some(&middle))])?;
        Ok((y, Saved { x: x.clone(), q, k, v, attention, middle, gate, up }))
    }

    /// Adds the layer's parameter gradients, unless it is frozen and there are none to add to, and returns that of its
    /// input, [N, H].
    pub(super) fn backward(
        &self,
        context: &Context,
        gradients: Option<&Gradients>,
        saved: &Saved,
        dy: &Tensor,
        last_only: bool,
    ) -> Result<Tensor> {
        let Context { parameters, pack, table, heads, eps } = *context;
        // Rows whose parameter gradients are added together: those of one group of sequences.
        let groups = pack.token_groups();
        let groups_after = if last_only { pack.sequence_groups() } else { groups.clone() };
        let Saved { x, q, k, v, attention, middle, gate, up } = saved;

        let weight = |linear: &Linear| parameters.tensor(linear.weight);
        let d_product = linear::input_gradient([(dy, weight(&self.down))])?;
        let swiglu::Gradient { gate: d_gate, up: d_up, product } = swiglu::backward(&d_product, gate, up)?;
        if let Some(gradients) = gradients {
            linear::weight_gradients(&product, [self.down.gradients(gradients, dy)], &groups_after)?;
        }
        drop((d_product, product));
        let norm = parameters.tensor(self.post_attention_norm);
        if let Some(gradients) = gradients {
            let normed = rms_norm::forward(middle, norm, eps)?;
            let projections = [self.gate.gradients(gradients, &d_gate), self.up.gradients(gradients, &d_up)];
            linear::weight_gradients(&normed, projections, &groups_after)?;
        }
        let d_normed = linear::input_gradient([(&d_gate, weight(&self.gate)), (&d_up, weight(&self.up))])?;
        drop((d_gate, d_up));
        // The gradient of a norm's weight comes with that of its input; a frozen layer's is dropped.
        let unused = Accumulator::zeros(norm.shape(), norm);
        let sum = |id| gradients.map_or(&unused, |gradients| gradients.sum(id));
        let d_norm = sum(self.post_attention_norm);
        let d_middle = rms_norm::backward(&d_normed, middle, norm, eps, Some(dy), d_norm, &groups_after)?;

        if let Some(gradients) = gradients {
            let attended = rows(&attention.values, pack, last_only)?;
            let projections = [self.output.gradients(gradients, &d_middle)];
            linear::weight_gradients(&attended, projections, &groups_after)?;
        }
        let d_attention = linear::input_gradient([(&d_middle, weight(&self.output))])?;
        let d_attention = spread(&d_attention, pack, last_only)?;
        let (dq, dk, dv) = attention::backward(&d_attention, attention, q, k, v, &pack.families, heads)?;
        drop(d_attention);
        let dq = rope::backward(&dq, &pack.positions, table)?;
        let dk = rope::backward(&dk, &pack.positions, table)?;
        let norm = parameters.tensor(self.input_norm);
        if let Some(gradients) = gradients {
            let normed = rms_norm::forward(x, norm, eps)?;
            let projections = [
                self.query.gradients(gradients, &dq),
                self.key.gradients(gradients, &dk),
                self.value.gradients(gradients, &dv),
            ];
            linear::weight_gradients(&normed, projections, &groups)?;
        }
        let d_normed = linear::input_gradient([
            (&dq, weight(&self.query)),
            (&dk, weight(&self.key)),
            (&dv, weight(&self.value)),
        ])?;
        let residual = spread(&d_middle, pack, last_only)?;
        let d_norm = sum(self.input_norm);
        rms_norm::backward(&d_normed, x, norm, eps, Some(&residual), d_norm, &groups)
    }
}

/// The rows that go on: all, or those that are read, which are the last tokens' in training.
fn rows(t: &Tensor, pack: &Pack, last_only: bool) -> Result<Tensor> {
    if last_only { embedding::gather(t, &pack.read) } else { Ok(t.clone()) }
}

/// The backward of [`rows`].
fn spread(t: &Tensor, pack: &Pack, last_only: bool) -> Result<Tensor> {
    if last_only { embedding::scatter(t, &pack.read, pack.tokens()) } else { Ok(t.clone()) }
}
