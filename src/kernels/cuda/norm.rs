//! RMSNorm.

use super::launch::{Arg, Launch, typed, unwritten};
use super::rows::add_partials;
use crate::kernels::Accumulator;
use candle_core::{DType, Result, Tensor};

/// Blocks of the backward, at least where there are rows for them: a few for each multiprocessor.
const MIN_BLOCKS: usize = 512;
/// Rows of one block, at most: its part of the weight's gradient is summed once for so many.
const MAX_ROWS_PER_BLOCK: usize = 32;

/// See [`crate::kernels::rms_norm::forward`].
pub(crate) fn forward(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    let y = unwritten((rows, width), x.dtype(), x.device())?;
    let args = [
        Arg::Values(&y),
        Arg::Values(x),
        Arg::Values(weight),
        Arg::Int(rows),
        Arg::Int(width),
        Arg::Float(eps as f32),
    ];
    Launch::new(typed("rms_norm_forward", x.dtype())?, [rows, 1])?.run(x.device(), &args)?;
    Ok(y)
}

/// See [`crate::kernels::rms_norm::backward`].
pub(crate) fn backward(
    dy: &Tensor,
    x: &Tensor,
    weight: &Tensor,
    eps: f64,
    residual: Option<&Tensor>,
    weight_gradient: &Accumulator,
) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    let device = x.device();
    let dx = unwritten((rows, width), x.dtype(), device)?;
    let rows_per_block = rows.div_ceil(MIN_BLOCKS).clamp(1, MAX_ROWS_PER_BLOCK);
    let blocks = rows.div_ceil(rows_per_block);
    let partials = unwritten((blocks, width), DType::F32, device)?;
    let args = [
        Arg::Values(&dx),
        Arg::Values(&partials),
        Arg::Values(dy),
        Arg::Values(x),
        Arg::Values(weight),
        Arg::optional(residual),
        Arg::Int(rows),
        Arg::Int(width),
        Arg::Float(eps as f32),
        Arg::Int(rows_per_block),
    ];
    let launch = Launch::new(typed("rms_norm_backward", x.dtype())?, [blocks, 1])?;
    launch.shared(width * size_of::<f32>()).run(device, &args)?;
    add_partials(weight_gradient, &partials)?;
    Ok(dx)
}
