//! Weights drawn where they are needed: billions of them take a GPU a moment, and the host minutes.

use super::cuda;
use crate::base::rng;
use candle_core::{Device, Result, Shape, Tensor};

/// Values of `shape` from N(0, std), a function of `name` alone, but another one on each kind of device.
pub fn normal(shape: impl Into<Shape>, std: f32, name: &str, device: &Device) -> Result<Tensor> {
    let shape = shape.into();
    let mut stream = rng::stream(0, name, 0);
    if device.is_cuda() || cuda::is_emulated() {
        let seed = (rng::uniform(&mut stream) * (1u64 << 53) as f64) as u64;
        return cuda::rows::draw_normal(shape.elem_count(), std, seed, device)?.reshape(shape);
    }
    let mut values = rng::normals(&mut stream, shape.elem_count());
    values.iter_mut().for_each(|value| *value *= std);
    Tensor::from_vec(values, shape, device)
}
