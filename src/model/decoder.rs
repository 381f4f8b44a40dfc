//! The decoder over a packed row: embedding, layers, final norm, and the tape that its backward reads.

use super::layer::{Context, Layer, Linear, Saved};
use super::rotary::Rotary;
use super::{DecoderConfig, Freeze, Pack};
use crate::kernels::{embedding, rms_norm};
use crate::optim::{Gradients, ParameterId, Parameters};
use candle_core::{DType, Device, Result, Tensor};

/// What a forward pass keeps for its backward. The gradients are the same, bit for bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Nothing: no backward will follow.
    Nothing,
    /// Each layer's input; the backward computes the layer again.
    LayerInputs,
    /// What the backward of each layer reads.
    Activations,
}

/// A decoder whose values live in [`Parameters`].
#[derive(Debug)]
pub struct Decoder {
    config: DecoderConfig,
    embedding: ParameterId,
    layers: Vec<Layer>,
    final_norm: ParameterId,
    rotary: Rotary,
    freeze: Freeze,
}

/// What one forward pass left for its backward.
#[derive(Debug)]
pub struct Tape {
    pack: Pack,
    /// Of the layers that need a backward: all, or the upper ones.
    layers: Vec<Record>,
    /// Input of the final norm, [S, H].
    last: Tensor,
}

#[derive(Debug)]
enum Record {
    Input(Tensor),
    Activations(Box<Saved>),
}

impl Decoder {
    /// Finds the decoder's parameters by their Hugging Face names.
    pub fn new(config: &DecoderConfig, parameters: &Parameters, device: &Device) -> Result<Self> {
        let find = |name: String| match parameters.id(&name) {
            Some(id) => Ok(id),
            None => candle_core::bail!("the model has no parameter {name}"),
        };
        let layer = |i: usize| {
            let linear = |name: &str| -> Result<Linear> {
                let prefix = format!("model.layers.{i}.{name}");
                let bias = parameters.id(&format!("{prefix}.bias"));
                Ok(Linear { weight: find(format!("{prefix}.weight"))?, bias })
            };
            let norm = |name: &str| find(format!("model.layers.{i}.{name}.weight"));
            Ok(Layer {
                input_norm: norm("input_layernorm")?,
                query: linear("self_attn.q_proj")?,
                key: linear("self_attn.k_proj")?,
                value: linear("self_attn.v_proj")?,
                output: linear("self_attn.o_proj")?,
                post_attention_norm: norm("post_attention_layernorm")?,
                gate: linear("mlp.gate_proj")?,
                up: linear("mlp.up_proj")?,
                down: linear("mlp.down_proj")?,
            })
        };
        Ok(Self {
            config: config.clone(),
            embedding: find("model.embed_tokens.weight".into())?,
            layers: (0..config.num_layers).map(layer).collect::<Result<_>>()?,
            final_norm: find("model.norm.weight".into())?,
            rotary: Rotary::new(config, device)?,
            freeze: Freeze::default(),
        })
    }

    /// The token embedding, whose gradient is sparse.
    pub fn embedding(&self) -> ParameterId {
        self.embedding
    }

    /// What is not trained.
    pub(super) fn frozen(&self) -> Freeze {
        self.freeze
    }

    /// Asks for no gradient of this part from here on.
    pub(super) fn freeze(&mut self, freeze: Freeze) {
        self.freeze = freeze;
    }

    /// Hidden states of the pack's read rows after the final norm, [S, H] in f32, and the tape if one was asked for.
    pub fn forward(
        &self,
        parameters: &Parameters,
        pack: &Pack,
        keep: Keep,
    ) -> Result<(Tensor, Option<Tape>)> {
        let mut records = Vec::new();
        let first = self.freeze.layers_without_backward();
        let last = self.run(parameters, pack, |i, _, saved, x| {
            match keep {
                _ if i < first => {}
                Keep::Nothing => {}
                Keep::LayerInputs => records.push(Record::Input(x.clone())),
                Keep::Activations => records.push(Record::Activations(Box::new(saved))),
            }
            Ok(true)
        })?;
        let hidden = self.normed(parameters, &last)?;
        let tape = (keep != Keep::Nothing).then(|| Tape { pack: pack.clone(), layers: records, last });
        Ok((hidden, tape))
    }

    /// Adds the gradient of every parameter that is not frozen, given that of the hidden states, [S, H] in f32.
    pub fn backward(
        &self,
        parameters: &Parameters,
        tape: Tape,
        d_hidden: &Tensor,
        gradients: &Gradients,
    ) -> Result<()> {
        let Tape { pack, layers: records, last } = tape;
        let table = self.rotary.table(positions(&pack))?;
        let context = Context::new(&self.config, parameters, &pack, &table);
        let weight = parameters.get(self.final_norm).master();
        let (eps, d_weight) = (self.config.rms_norm_eps, gradients.sum(self.final_norm));
        let last_f32 = last.to_dtype(DType::F32)?;
        let groups = pack.sequence_groups();
        let dx = rms_norm::backward(d_hidden, &last_f32, weight, eps, None, d_weight, &groups)?;
        let mut dx = dx.to_dtype(last.dtype())?;
        let layers = self.layers.iter().enumerate().rev();
        for ((i, layer), record) in layers.zip(records.into_iter().rev()) {
            let last_only = i + 1 == self.layers.len();
            let saved = match record {
                Record::Activations(saved) => *saved,
                Record::Input(x) => layer.forward(&context, &x, last_only)?.1,
            };
            let sums = (i >= self.freeze.layers).then_some(gradients);
            dx = layer.backward(&context, sums, &saved, &dx, last_only)?;
        }
        if self.freeze.embeddings {
            return Ok(());
        }
        gradients.add_rows(self.embedding, &pack.ids, &dx)
    }

    /// Where values first stop being finite in a forward pass: a layer's name. For error messages.
    pub fn first_non_finite(&self, parameters: &Parameters, pack: &Pack) -> Result<Option<String>> {
        let mut place = None;
        let last = self.run(parameters, pack, |i, y, _, x| {
            if i == 0 && !is_finite(x)? {
                place = Some("model.embed_tokens".to_owned());
            } else if !is_finite(y)? {
                place = Some(format!("model.layers.{i}"));
            }
            Ok(place.is_none())
        })?;
        if place.is_none() && !is_finite(&self.normed(parameters, &last)?)? {
            place = Some("model.norm".into());
        }
        Ok(place)
    }

    /// Runs the layers; `visit(i, output, saved, input)` sees each one and says whether to go on.
    fn run(
        &self,
        parameters: &Parameters,
        pack: &Pack,
        mut visit: impl FnMut(usize, &Tensor, Saved, &Tensor) -> Result<bool>,
    ) -> Result<Tensor> {
        let table = self.rotary.table(positions(pack))?;
        let context = Context::new(&self.config, parameters, pack, &table);
        let mut x = embedding::gather(parameters.tensor(self.embedding), &pack.ids)?;
        for (i, layer) in self.layers.iter().enumerate() {
            let (y, saved) = layer.forward(&context, &x, i + 1 == self.layers.len())?;
            let go_on = visit(i, &y, saved, &x)?;
            x = y;
            if !go_on {
                break;
            }
        }
        Ok(x)
    }

    /// In f32 whatever the compute dtype: rewards and their diagnostics are not rounded once more.
    fn normed(&self, parameters: &Parameters, last: &Tensor) -> Result<Tensor> {
        let weight = parameters.get(self.final_norm).master();
        rms_norm::forward(&last.to_dtype(DType::F32)?, weight, self.config.rms_norm_eps)
    }
}

fn positions(pack: &Pack) -> usize {
    pack.positions.iter().max().map_or(0, |&p| p as usize + 1)
}

fn is_finite(t: &Tensor) -> Result<bool> {
    // `max` may skip NaN, so NaN is looked for on its own.
    let largest = t.to_dtype(DType::F32)?.abs()?.max_all()?.to_scalar::<f32>()?;
    let nan = t.ne(t)?.to_dtype(DType::F32)?.max_all()?.to_scalar::<f32>()?;
    Ok(largest.is_finite() && nan == 0.0)
}
