//! `y = silu(gate) * up`.
//!
//! ```python
//! def forward(gate, up): return torch.nn.functional.silu(gate) * up
//! ```

use super::{cuda, exp::sigmoid, host};
use candle_core::{Result, Tensor};
use rayon::prelude::*;
use std::mem::MaybeUninit;

const VALUES_PER_TASK: usize = 1 << 13;

/// `gate` and `up` [N, I] to [N, I].
pub fn forward(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    host::expect_shape("up", up, gate.dims())?;
    if cuda::takes(gate) {
        return cuda::pointwise::swiglu_forward(gate, up);
    }
    if !host::is_host_f32(gate) {
        return composed_forward(gate, up);
    }
    let mut y = host::Output::new(gate.elem_count());
    host::with(gate, |gate| {
        host::with(up, |up| {
            let tasks = y.values().par_chunks_mut(VALUES_PER_TASK);
            let inputs = gate.par_chunks(VALUES_PER_TASK).zip(up.par_chunks(VALUES_PER_TASK));
            tasks.zip(inputs).for_each(|(y, (gate, up))| forward_values(y, gate, up));
        })
    })??;
    // SAFETY: the tasks cover it.
    unsafe { y.into_tensor(gate.shape()) }
}

/// What the backward gives.
#[derive(Debug, Clone)]
pub struct Gradient {
    pub gate: Tensor,
    pub up: Tensor,
    /// The forward's result once more, which nobody kept.
    pub product: Tensor,
}

/// Gradients of `gate` and `up`, [N, I].
pub fn backward(dy: &Tensor, gate: &Tensor, up: &Tensor) -> Result<Gradient> {
    host::expect_shape("up", up, gate.dims())?;
    host::expect_shape("gradient of the product", dy, gate.dims())?;
    if cuda::takes(gate) {
        return cuda::pointwise::swiglu_backward(dy, gate, up);
    }
    if !host::is_host_f32(gate) {
        return composed_backward(dy, gate, up);
    }
    let [mut d_gate, mut d_up, mut product] = [(); 3].map(|()| host::Output::new(gate.elem_count()));
    host::with(dy, |dy| {
        host::with(gate, |gate| {
            host::with(up, |up| {
                let chunks = |values| <[f32]>::par_chunks(values, VALUES_PER_TASK);
                let outputs = d_gate.values().par_chunks_mut(VALUES_PER_TASK);
                let outputs = outputs.zip(d_up.values().par_chunks_mut(VALUES_PER_TASK));
                let outputs = outputs.zip(product.values().par_chunks_mut(VALUES_PER_TASK));
                let inputs = chunks(dy).zip(chunks(gate)).zip(chunks(up));
                outputs.zip(inputs).for_each(|(((d_gate, d_up), product), ((dy, gate), up))| {
                    backward_values(d_gate, d_up, product, dy, gate, up);
                });
            })
        })?
    })??;
    let shape = gate.shape();
    // SAFETY: the tasks cover all three.
    unsafe {
        Ok(Gradient {
            gate: d_gate.into_tensor(shape)?,
            up: d_up.into_tensor(shape)?,
            product: product.into_tensor(shape)?,
        })
    }
}

vectorized! {
fn forward_values(y: &mut [MaybeUninit<f32>], gate: &[f32], up: &[f32]) {
    for ((y, &gate), up) in y.iter_mut().zip(gate).zip(up) {
        y.write(gate * sigmoid(gate) * up);
    }
}
}

vectorized! {
fn backward_values(
    d_gate: &mut [MaybeUninit<f32>],
    d_up: &mut [MaybeUninit<f32>],
    product: &mut [MaybeUninit<f32>],
    dy: &[f32],
    gate: &[f32],
    up: &[f32],
) {
    let outputs = d_gate.iter_mut().zip(d_up).zip(product);
    for (((d_gate, d_up), product), ((dy, gate), up)) in outputs.zip(dy.iter().zip(gate).zip(up)) {
        let s = sigmoid(*gate);
        let silu = gate * s;
        product.write(silu * up);
        d_up.write(dy * silu);
        d_gate.write(dy * up * (s + silu * (1.0 - s)));
    }
}
}

/// [`forward`] out of candle operations.
pub fn composed_forward(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    gate.silu()? * up
}

/// [`backward`] out of candle operations.
pub fn composed_backward(dy: &Tensor, gate: &Tensor, up: &Tensor) -> Result<Gradient> {
    let s = (gate.neg()?.exp()? + 1.0)?.recip()?;
    let silu = (gate * &s)?;
    let slope = (&s + (&silu * (1.0 - &s)?)?)?;
    let product = (&silu * up)?;
    Ok(Gradient { gate: ((dy * up)? * slope)?, up: (dy * silu)?, product })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::test_support::{assert_close, finite_difference, wave};

    #[test]
    fn fused_equals_composed() -> Result<()> {
        let shape = (130, 70);
        let (gate, up, dy) = ((wave(shape, 0.3)? * 4.0)?, wave(shape, 0.7)?, wave(shape, 0.9)?);
        assert_close(&forward(&gate, &up)?, &composed_forward(&gate, &up)?, 1e-6);
        let (fused, composed) = (backward(&dy, &gate, &up)?, composed_backward(&dy, &gate, &up)?);
        assert_close(&fused.gate, &composed.gate, 1e-6);
        assert_close(&fused.up, &composed.up, 1e-6);
        assert_close(&fused.product, &composed.product, 1e-6);
        Ok(())
    }

    #[test]
    fn backward_matches_finite_differences() -> Result<()> {
        let (gate, up, dy) = (wave((3, 5), 0.3)?, wave((3, 5), 0.7)?, wave((3, 5), 0.9)?);
        let Gradient { gate: dgate, up: dup, product } = backward(&dy, &gate, &up)?;
        assert_close(&product, &forward(&gate, &up)?, 0.0);
        assert_close(&dgate, &finite_difference(&gate, &dy, |g| forward(g, &up))?, 2e-3);
        assert_close(&dup, &finite_difference(&up, &dy, |u| forward(&gate, u))?, 2e-3);
        Ok(())
    }
}
