//! A reward model: decoder, head or heads, and the folder it comes from and goes to.

use super::config::{Dtype, HeadInitStd};
use super::config_json::{self, HeadKind, ModelConfig};
use super::decoder::{Decoder, Keep, Tape};
use super::decoder_config::HEAD_WEIGHT;
use super::ensemble_file::{self, HEADS_WEIGHT};
use super::head_rewards::HeadRewards;
use super::reward_head::{Heads, NormGradient};
use super::weights::{DEFAULT_MAX_SHARD_BYTES, TensorSpec, WeightFiles, write_model};
use super::{DecoderConfig, Freeze, Pack};
use crate::base::rng;
use crate::kernels::cuda::{self, upload};
use crate::optim::{Gradients, ParameterId, Parameters};
use crate::{Error, Result, kernels};
use candle_core::{DType, Device, Tensor};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::path::Path;

/// Backbone and head, ready to train or to score.
#[derive(Debug)]
pub struct RewardModel {
    config: DecoderConfig,
    /// `config.json` as it was read, for the export.
    json: Map<String, Value>,
    parameters: Parameters,
    decoder: Decoder,
    /// `score.weight` [1, H], or `heads.weight` [K, H] of an ensemble.
    head: ParameterId,
    device: Device,
    dtype: Dtype,
    head_was_drawn: bool,
}

/// How heads are drawn where the folder has none.
#[derive(Debug, Clone, Copy)]
pub struct HeadInit {
    /// How many; more than one are an ensemble.
    pub count: usize,
    pub std: HeadInitStd,
    pub seed: u64,
}

impl Default for HeadInit {
    /// One head of the usual deviation.
    fn default() -> Self {
        Self { count: 1, std: HeadInitStd::InverseSqrtHidden, seed: 0 }
    }
}

/// A forward pass that a GPU may not have finished yet.
#[derive(Debug)]
pub struct Pass {
    /// Hidden states of the last tokens after the final norm, [S, H] in f32.
    hidden: Tensor,
    pub tape: Option<Tape>,
}

/// One forward pass.
#[derive(Debug)]
pub struct Forward {
    /// Hidden states of the last tokens after the final norm, [S, H].
    pub hidden: Vec<f32>,
    /// Rewards, [S]: of an ensemble the means over its heads.
    pub rewards: Vec<f64>,
    /// Rewards by every head.
    pub head_rewards: HeadRewards,
    pub tape: Option<Tape>,
}

impl RewardModel {
    /// Loads a Hugging Face folder. A causal language model gets freshly drawn heads; a sequence-classification
    /// model keeps its own, which are those of `heads.safetensors` where the folder has that file, as it must where
    /// `config.json` counts them.
    ///
    /// # Errors
    /// [`Error::Model`] naming the file and the key or tensor; [`Error::Tensor`] if the device refuses.
    pub fn load(folder: &Path, device: &Device, dtype: Option<Dtype>, head: HeadInit) -> Result<Self> {
        let ModelConfig { decoder: config, head: kind, heads: expected, json, .. } =
            config_json::read_config(folder)?.trainable(folder)?;
        let files = WeightFiles::open(folder)?;
        let head_is_drawn = kind == HeadKind::CausalLm;
        let stored: Vec<_> = config
            .parameter_shapes()
            .into_iter()
            .filter(|(name, _)| !(head_is_drawn && name == HEAD_WEIGHT))
            .collect();
        files.verify(&stored, DecoderConfig::is_unused_tensor)?;
        let (heads, count) = match kind {
            HeadKind::CausalLm => (None, head.count),
            // Refused above.
            HeadKind::RewardModelWithGating => (None, 1),
            HeadKind::SequenceClassification => {
                let heads = ensemble_file::read(folder, &files, config.hidden_size, expected)?;
                let count = heads.as_ref().map_or(1, Heads::count);
                (heads, count)
            }
        };
        Self::build(config, json, device, dtype, (head_is_drawn, count), |name, shape| {
            let values = match (name, &heads) {
                (HEAD_WEIGHT | HEADS_WEIGHT, _) if head_is_drawn => draw_heads(shape, head),
                (HEADS_WEIGHT, Some(heads)) => heads.weights().to_vec(),
                _ => files.read_f32(name, shape)?,
            };
            Ok(Tensor::from_vec(values, shape, place_of(name, device))?)
        })
    }

    /// A model from scratch: matrices from N(0, initializer_range), norms one, biases zero.
    pub fn random(
        json: &Map<String, Value>,
        device: &Device,
        dtype: Option<Dtype>,
        head: HeadInit,
    ) -> Result<Self> {
        let config = DecoderConfig::from_json(json)
            .map_err(|problems| Error::Config { path: "model.random".into(), problems })?;
        let std = config.initializer_range as f32;
        Self::build(config, json.clone(), device, dtype, (true, head.count), |name, shape| {
            let count = shape.iter().product();
            let values = match shape {
                _ if is_head(name) => draw_heads(shape, head),
                [_] if name.ends_with(".bias") => vec![0.0; count],
                [_] => vec![1.0; count],
                _ => draw((name, 0), count, std, head.seed),
            };
            Ok(Tensor::from_vec(values, shape, place_of(name, device))?)
        })
    }

    /// [`RewardModel::random`] with other draws, which a GPU makes itself: for measurements.
    pub fn random_on_device(config: DecoderConfig, device: &Device, dtype: Option<Dtype>) -> Result<Self> {
        let std = config.initializer_range as f32;
        let head = HeadInit::default();
        Self::build(config, Map::new(), device, dtype, (true, head.count), |name, shape| {
            Ok(match shape {
                _ if is_head(name) => Tensor::from_vec(draw_heads(shape, head), shape, &Device::Cpu)?,
                [_] if name.ends_with(".bias") => Tensor::zeros(shape, DType::F32, device)?,
                [_] => Tensor::ones(shape, DType::F32, device)?,
                _ => kernels::draw::normal(shape, std, name, device)?,
            })
        })
    }

    fn build(
        config: DecoderConfig,
        json: Map<String, Value>,
        device: &Device,
        dtype: Option<Dtype>,
        (head_was_drawn, heads): (bool, usize),
        values: impl Fn(&str, &[usize]) -> Result<Tensor>,
    ) -> Result<Self> {
        let dtype = compute_dtype(device.is_cpu() && !cuda::is_emulated(), dtype);
        let mut parameters = Parameters::new(dtype.into());
        for (mut name, mut shape) in config.parameter_shapes() {
            if name == HEAD_WEIGHT && heads > 1 {
                (name, shape) = (HEADS_WEIGHT.to_owned(), vec![heads, config.hidden_size]);
            }
            parameters.add(&name, &values(&name, &shape)?, shape.len() > 1)?;
        }
        let decoder = Decoder::new(&config, &parameters, device)?;
        let Some(head) = parameters.id(if heads > 1 { HEADS_WEIGHT } else { HEAD_WEIGHT }) else {
            return Err(Error::Tensor(candle_core::Error::Msg(format!("the model has no {HEAD_WEIGHT}"))));
        };
        let device = device.clone();
        Ok(Self { config, json, parameters, decoder, head, device, dtype, head_was_drawn })
    }

    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The compute precision in force.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Whether the heads were drawn, rather than read from the folder.
    pub fn head_was_drawn(&self) -> bool {
        self.head_was_drawn
    }

    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// For the optimizer.
    pub fn parameters_mut(&mut self) -> &mut Parameters {
        &mut self.parameters
    }

    /// Leaves a part of the model as it is from here on. Gradients and optimizers are made after this.
    ///
    /// # Errors
    /// [`Error::Usage`] if the model has fewer layers than that.
    pub fn freeze(&mut self, freeze: Freeze) -> Result<()> {
        if let Some(problem) = freeze.problem(self.config.num_layers) {
            return Err(Error::Usage(problem));
        }
        let ids: Vec<ParameterId> =
            self.parameters.iter().filter(|(_, p)| freeze.covers(&p.name)).map(|(id, _)| id).collect();
        ids.into_iter().for_each(|id| self.parameters.freeze(id));
        self.decoder.freeze(freeze);
        Ok(())
    }

    /// The parameter of the head, or of all heads together.
    pub fn head(&self) -> ParameterId {
        self.head
    }

    /// One, or the heads of an ensemble.
    pub fn heads(&self) -> Result<Heads> {
        let weights = self.parameters.get(self.head).master().flatten_all()?.to_vec1()?;
        Ok(Heads::new(weights, self.config.hidden_size))
    }

    pub fn head_count(&self) -> usize {
        self.parameters.get(self.head).master().elem_count() / self.config.hidden_size
    }

    /// The head's weight `W_p`, [H]; the mean head of an ensemble.
    pub fn head_weight(&self) -> Result<Vec<f32>> {
        Ok(self.heads()?.mean())
    }

    /// What is not trained.
    pub fn frozen(&self) -> Freeze {
        self.decoder.frozen()
    }

    /// Zero gradients, with the embedding's as rows.
    pub fn gradients(&self) -> Result<Gradients> {
        Ok(Gradients::zeros(&self.parameters, &[self.decoder.embedding()])?)
    }

    /// Begins a forward pass. A GPU is not waited for.
    pub fn begin(&self, pack: &Pack, keep: Keep) -> Result<Pass> {
        let (hidden, tape) = self.decoder.forward(&self.parameters, pack, keep)?;
        Ok(Pass { hidden, tape })
    }

    /// Hidden states [S, H] and rewards of all passes together: here the host waits for a GPU.
    pub fn read(&self, passes: &[Pass]) -> Result<(Vec<f32>, HeadRewards)> {
        let hidden: Vec<&Tensor> = passes.iter().map(|pass| &pass.hidden).collect();
        let hidden: Vec<f32> = Tensor::cat(&hidden, 0)?.flatten_all()?.to_vec1()?;
        let rewards = self.heads()?.rewards(&hidden);
        Ok((hidden, rewards))
    }

    /// Rewards and hidden states of a pack.
    pub fn forward(&self, pack: &Pack, keep: Keep) -> Result<Forward> {
        let pass = self.begin(pack, keep)?;
        let (hidden, head_rewards) = self.read(std::slice::from_ref(&pass))?;
        Ok(Forward { hidden, rewards: head_rewards.mean(), head_rewards, tape: pass.tape })
    }

    /// Adds the backbone's gradients of one pack, given dL/dr of every head [K][S] and, where the loss speaks of norms,
    /// dL/d|h| [S].
    pub fn backward(
        &self,
        tape: Tape,
        d_rewards: &[&[f64]],
        norms: Option<NormGradient>,
        gradients: &Gradients,
    ) -> Result<()> {
        let d_hidden = self.heads()?.hidden_gradient(d_rewards, norms);
        let width = self.config.hidden_size;
        let shape = (d_hidden.len() / width, width);
        let d_hidden = upload::numbers(&d_hidden, shape, &self.device)?;
        Ok(self.decoder.backward(&self.parameters, tape, &d_hidden, gradients)?)
    }

    /// Adds the heads' gradient of a whole step, given its hidden states [S, H] and dL/dr of every head [K][S].
    pub fn head_backward(&self, hidden: &[f32], d_rewards: &[&[f64]], gradients: &Gradients) -> Result<()> {
        let heads = self.heads()?;
        let (shape, d_heads) = ((heads.count(), self.config.hidden_size), heads.gradient(hidden, d_rewards));
        Ok(gradients.sum(self.head).add(&Tensor::from_vec(d_heads, shape, &Device::Cpu)?)?)
    }

    /// Where values first stop being finite for these sequences: a layer, or the head.
    pub fn first_non_finite(&self, pack: &Pack) -> Result<String> {
        let place = self.decoder.first_non_finite(&self.parameters, pack)?;
        Ok(place.unwrap_or_else(|| self.parameters.get(self.head).name.clone()))
    }

    /// Writes `config.json` and the weights of a sequence-classification folder; of an ensemble the mean head there, and
    /// the heads beside it.
    ///
    /// # Errors
    /// [`Error::Model`] if a weight is not finite in `dtype`; [`Error::Io`].
    pub fn save(&self, folder: &Path, pad_token_id: u32, dtype: Dtype) -> Result<()> {
        let heads = self.heads()?;
        config_json::write_config(folder, &self.json, &self.config, pad_token_id, dtype, heads.count())?;
        let tensors: Vec<TensorSpec> = self
            .config
            .parameter_shapes()
            .into_iter()
            .map(|(name, shape)| TensorSpec { name, shape, dtype: dtype.into() })
            .collect();
        write_model(folder, &tensors, DEFAULT_MAX_SHARD_BYTES, |spec| {
            if spec.name == HEAD_WEIGHT {
                return Ok(Cow::Owned(heads.mean()));
            }
            let parameter = self.parameters.id(&spec.name).map(|id| self.parameters.get(id));
            let parameter =
                parameter.ok_or_else(|| Error::model(folder, format!("no parameter {}", spec.name)))?;
            Ok(Cow::Owned(parameter.master().flatten_all()?.to_vec1::<f32>()?))
        })?;
        match heads.count() {
            1 => ensemble_file::remove(folder),
            _ => ensemble_file::write(folder, &heads),
        }
    }
}

fn is_head(name: &str) -> bool {
    name == HEAD_WEIGHT || name == HEADS_WEIGHT
}

/// Where a parameter lives: heads are read, and their gradients formed, on the host.
fn place_of<'a>(name: &str, device: &'a Device) -> &'a Device {
    if is_head(name) { &Device::Cpu } else { device }
}

/// The precision of the computation: f32 on the CPU, where bf16 is no faster; bf16 on CUDA unless said otherwise.
pub fn compute_dtype(on_cpu: bool, asked: Option<Dtype>) -> Dtype {
    if on_cpu { Dtype::F32 } else { asked.unwrap_or(Dtype::Bf16) }
}

/// Heads [K, H], each from a stream of its own: the first is the same whatever K.
fn draw_heads(shape: &[usize], init: HeadInit) -> Vec<f32> {
    let &[count, width] = shape else { return Vec::new() };
    let std = match init.std {
        HeadInitStd::InverseSqrtHidden => 1.0 / (width as f64).sqrt(),
        HeadInitStd::Value(std) => std,
    };
    (0..count as u64).flat_map(|head| draw((HEAD_WEIGHT, head), width, std as f32, init.seed)).collect()
}

fn draw((name, index): (&str, u64), count: usize, std: f32, seed: u64) -> Vec<f32> {
    let mut values = rng::normals(&mut rng::stream(seed, &format!("init:{name}"), index), count);
    values.iter_mut().for_each(|v| *v *= std);
    values
}
