//! Rotary frequencies of a model, and its table of angles, which grows with the positions that are used.

use super::{DecoderConfig, Llama3RopeScaling};
use crate::kernels::rope::Table;
use candle_core::{Device, Result};
use std::f64::consts::TAU;
use std::sync::{Arc, Mutex, PoisonError};

/// Inverse frequencies, radians a token, D/2 of them.
///
/// Formed in f32 where transformers forms them in f32: at thousands of tokens the angles show the difference.
///
/// # Source
/// `transformers.modeling_rope_utils`: default and `llama3`.
pub fn inverse_frequencies(config: &DecoderConfig) -> Vec<f32> {
    let base = |i: usize| {
        let exponent = (2 * i) as f32 / config.head_dim as f32;
        1.0 / config.rope_theta.powf(f64::from(exponent)) as f32
    };
    (0..config.head_dim / 2)
        .map(|i| match config.rope_scaling {
            Some(scaling) => scaled(base(i), scaling),
            None => base(i),
        })
        .collect()
}

/// Long wavelengths are stretched by `factor`, short ones are left, those between are blended.
fn scaled(inverse_frequency: f32, scaling: Llama3RopeScaling) -> f32 {
    let original = scaling.original_max_position_embeddings as f64;
    let wavelength = TAU / f64::from(inverse_frequency);
    if wavelength < original / scaling.high_freq_factor {
        return inverse_frequency;
    }
    let stretched = f64::from(inverse_frequency) / scaling.factor;
    if wavelength > original / scaling.low_freq_factor {
        return stretched as f32;
    }
    let smooth = (original / wavelength - scaling.low_freq_factor)
        / (scaling.high_freq_factor - scaling.low_freq_factor);
    ((1.0 - smooth) * stretched + smooth * f64::from(inverse_frequency)) as f32
}

/// The table of a model on its device.
#[derive(Debug)]
pub struct Rotary {
    inverse_frequencies: Vec<f32>,
    device: Device,
    table: Mutex<Arc<Table>>,
}

impl Rotary {
    pub fn new(config: &DecoderConfig, device: &Device) -> Result<Self> {
        let inverse_frequencies = inverse_frequencies(config);
        let table = Mutex::new(Arc::new(Table::new(&inverse_frequencies, 0, device)?));
        Ok(Self { inverse_frequencies, device: device.clone(), table })
    }

    /// A table that covers `positions`. A model made for 131,072 positions does not pay for them at 512.
    pub fn table(&self, positions: usize) -> Result<Arc<Table>> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if table.positions() < positions {
            let positions = positions.next_power_of_two().max(256);
            *table = Arc::new(Table::new(&self.inverse_frequencies, positions, &self.device)?);
        }
        Ok(table.clone())
    }
}
