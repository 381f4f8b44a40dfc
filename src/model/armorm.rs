//! A gated multi-objective reward model, as published with RLHFlow/ArmoRM-Llama3-8B-v0.1: a Llama decoder under a
//! [`GatedHead`]. It scores; nothing is trained here.

use super::config::Dtype;
use super::config_json::{self, FILE_NAME, GatingConfig, ModelConfig};
use super::decoder::{Decoder, Keep};
use super::decoder_config::HEAD_WEIGHT;
use super::gating::{Dense, GatedHead, Objectives, last_occurrence};
use super::reward_model::compute_dtype;
use super::weights::WeightFiles;
use super::{DecoderConfig, Pack};
use crate::optim::Parameters;
use crate::{Error, Result};
use candle_core::{Device, Tensor};
use rayon::prelude::*;
use std::path::Path;

const REGRESSION: &str = "regression_layer.weight";
const TRANSFORM: &str = "reward_transform_matrix";
const SCALE: &str = "gating.logit_scale";

/// Decoder and gated head.
#[derive(Debug)]
pub struct ArmoRm {
    config: DecoderConfig,
    parameters: Parameters,
    decoder: Decoder,
    head: GatedHead,
    header: Vec<u32>,
}

/// What one sequence was given.
#[derive(Debug, Clone, PartialEq)]
pub struct Judgement {
    pub score: f64,
    pub objectives: Objectives,
    /// The last token's hidden state after the final norm, [H].
    pub hidden: Vec<f32>,
}

impl ArmoRm {
    /// Loads a folder whose `config.json` says `LlamaForRewardModelWithGating`.
    ///
    /// # Errors
    /// [`Error::Model`] naming the file and the key or tensor; [`Error::Tensor`] if the device refuses.
    pub fn load(folder: &Path, device: &Device, dtype: Option<Dtype>) -> Result<Self> {
        let ModelConfig { decoder: config, gating, .. } = config_json::read_config(folder)?;
        let Some(gating) = gating else {
            let reason = "architectures: expected LlamaForRewardModelWithGating";
            return Err(Error::model(folder.join(FILE_NAME), reason));
        };
        let files = WeightFiles::open(folder)?;
        let mut backbone = config.parameter_shapes();
        backbone.retain(|(name, _)| name != HEAD_WEIGHT);
        let mut expected = backbone.clone();
        expected.extend(head_shapes(config.hidden_size, &gating));
        files.verify(&expected, DecoderConfig::is_unused_tensor)?;

        let mut parameters = Parameters::new(compute_dtype(device.is_cpu(), dtype).into());
        for (name, shape) in backbone {
            let values = Tensor::from_vec(files.read_f32(&name, &shape)?, shape.as_slice(), device)?;
            parameters.add(&name, &values, false)?;
        }
        let decoder = Decoder::new(&config, &parameters, device)?;
        let head = read_head(&files, config.hidden_size, &gating)?;
        Ok(Self { config, parameters, decoder, head, header: gating.header })
    }

    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Token ids of the assistant's header: a sequence must have them, and the gate reads the state where they start for
    /// the last time.
    pub fn header(&self) -> &[u32] {
        &self.header
    }

    /// Scores every sequence of every group in one forward pass, prefixes shared; in order, groups after each other.
    ///
    /// # Errors
    /// [`Error::Usage`] for a sequence without the assistant's header; [`Error::Tensor`].
    pub fn score<G: AsRef<[Vec<u32>]>>(&self, groups: &[G]) -> Result<Vec<Judgement>> {
        let headers = groups.iter().flat_map(|group| group.as_ref()).map(|ids| {
            last_occurrence(ids, &self.header).ok_or_else(|| {
                let (tokens, header) = (ids.len(), &self.header);
                Error::Usage(format!(
                    "a sequence of {tokens} tokens has no assistant header ({header:?}), whose hidden state the gate reads"
                ))
            })
        });
        let headers: Vec<usize> = headers.collect::<Result<_>>()?;
        if headers.is_empty() {
            return Ok(Vec::new());
        }
        let (pack, header_rows) = Pack::new(groups).reading_too(&headers);
        let (hidden, _) = self.decoder.forward(&self.parameters, &pack, Keep::Nothing)?;
        let hidden: Vec<f32> = hidden.flatten_all()?.to_vec1()?;
        let states: Vec<&[f32]> = hidden.chunks_exact(self.config.hidden_size).collect();

        // The responses to one prompt share their header's row, and with it the gate.
        let (last, inner) = states.split_at(headers.len());
        let gates: Vec<Vec<f64>> = inner.par_iter().map(|header| self.head.gate(header)).collect();
        let judged = last.iter().zip(header_rows).map(|(&last, row)| {
            let gate = gates[row - headers.len()].clone();
            let objectives = Objectives { rewards: self.head.rewards(last), gate };
            Judgement { score: self.head.score(&objectives), objectives, hidden: last.to_vec() }
        });
        Ok(judged.collect())
    }
}

/// The head's tensors with their shapes.
fn head_shapes(hidden: usize, gating: &GatingConfig) -> Vec<(String, Vec<usize>)> {
    let objectives = gating.objectives;
    let mut shapes = vec![
        (REGRESSION.to_owned(), vec![objectives, hidden]),
        (TRANSFORM.to_owned(), vec![objectives, objectives]),
        (SCALE.to_owned(), vec![1]),
    ];
    for (i, [out, input]) in layer_shapes(hidden, gating).into_iter().enumerate() {
        shapes.push((format!("gating.layers.{i}.weight"), vec![out, input]));
        shapes.push((format!("gating.layers.{i}.bias"), vec![out]));
    }
    shapes
}

/// [out, in] of the gate's layers: the hidden ones, then the one that speaks of objectives.
fn layer_shapes(hidden: usize, gating: &GatingConfig) -> Vec<[usize; 2]> {
    let mut input = hidden;
    let outs = std::iter::repeat_n(gating.hidden_dim, gating.hidden_layers).chain([gating.objectives]);
    outs.map(|out| [out, std::mem::replace(&mut input, out)]).collect()
}

fn read_head(files: &WeightFiles, hidden: usize, gating: &GatingConfig) -> Result<GatedHead> {
    let objectives = gating.objectives;
    let layer = |(i, [out, input]): (usize, [usize; 2])| -> Result<Dense> {
        Ok(Dense {
            weight: files.read_f32(&format!("gating.layers.{i}.weight"), &[out, input])?,
            bias: files.read_f32(&format!("gating.layers.{i}.bias"), &[out])?,
        })
    };
    Ok(GatedHead {
        regression: files.read_f32(REGRESSION, &[objectives, hidden])?,
        transform: files.read_f32(TRANSFORM, &[objectives, objectives])?,
        layers: layer_shapes(hidden, gating).into_iter().enumerate().map(layer).collect::<Result<_>>()?,
        temperature: gating.temperature,
        scale: files.read_f32(SCALE, &[1])?.into_iter().map(f64::from).sum(),
    })
}
