//! Rotary embedding and the gated activation.

use super::launch::{Arg, Launch, typed, unwritten};
use crate::kernels::Indices;
use crate::kernels::swiglu::Gradient;
use candle_core::{Result, Tensor};

/// Rotates `x` [N, heads * D] by the angles of `positions` [N]; see [`crate::kernels::rope`].
pub(crate) fn rope(
    x: &Tensor,
    positions: &Indices,
    cos: &Tensor,
    sin: &Tensor,
    direction: f32,
) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    let half = cos.dim(1)?;
    let y = unwritten((rows, width), x.dtype(), x.device())?;
    let args = [
        Arg::Values(&y),
        Arg::Values(x),
        Arg::Values(positions.on(x.device())?),
        Arg::Values(cos),
        Arg::Values(sin),
        Arg::Int(rows),
        Arg::Int(width / (2 * half)),
        Arg::Int(half),
        Arg::Float(direction),
    ];
    Launch::striding(typed("rope", x.dtype())?, rows * width)?.run(x.device(), &args)?;
    Ok(y)
}

/// See [`crate::kernels::swiglu::forward`].
pub(crate) fn swiglu_forward(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    let n = gate.elem_count();
    let y = unwritten(gate.shape(), gate.dtype(), gate.device())?;
    let args = [Arg::Values(&y), Arg::Values(gate), Arg::Values(up), Arg::Long(n)];
    Launch::striding(typed("swiglu_forward", gate.dtype())?, n)?.run(gate.device(), &args)?;
    Ok(y)
}

/// See [`crate::kernels::swiglu::backward`].
pub(crate) fn swiglu_backward(dy: &Tensor, gate: &Tensor, up: &Tensor) -> Result<Gradient> {
    let n = gate.elem_count();
    let output = || unwritten(gate.shape(), gate.dtype(), gate.device());
    let gradient = Gradient { gate: output()?, up: output()?, product: output()? };
    let args = [
        Arg::Values(&gradient.gate),
        Arg::Values(&gradient.up),
        Arg::Values(&gradient.product),
        Arg::Values(dy),
        Arg::Values(gate),
        Arg::Values(up),
        Arg::Long(n),
    ];
    Launch::striding(typed("swiglu_backward", gate.dtype())?, n)?.run(gate.device(), &args)?;
    Ok(gradient)
}
