//! `y = silu(gate) * up`.
//!
//! ```python
//! def forward(gate, up): return torch.nn.functional.silu(gate) * up
//! ```

use super::{exp::sigmoid, host};
use candle_core::{Result, Tensor};
use rayon::prelude::*;

const VALUES_PER_TASK: usize = 1 << 13;

/// `gate` and `up` [N, I] to [N, I].
pub fn forward(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if !host::is_host_f32(gate) {
        return composed_forward(gate, up);
    }
    let mut y = vec![0.0f32; gate.elem_count()];
    host::with(gate, |gate| {
        host::with(up, |up| {
            let tasks = y.par_chunks_mut(VALUES_PER_TASK);
            tasks.zip(gate.par_chunks(VALUES_PER_TASK)).zip(up.par_chunks(VALUES_PER_TASK)).for_each(
                |((y, gate), up)| {
                    for ((y, &gate), up) in y.iter_mut().zip(gate).zip(up) {
                        *y = gate * sigmoid(gate) * up;
                    }
                },
            );
        })
    })??;
    host::tensor(y, gate.shape())
}

/// Gradients of `gate` and `up`.
pub fn backward(dy: &Tensor, gate: &Tensor, up: &Tensor) -> Result<(Tensor, Tensor)> {
    if !host::is_host_f32(gate) {
        return composed_backward(dy, gate, up);
    }
    let mut dgate = vec![0.0f32; gate.elem_count()];
    let mut dup = vec![0.0f32; gate.elem_count()];
    host::with(dy, |dy| {
        host::with(gate, |gate| {
            host::with(up, |up| {
                let out = dgate.par_chunks_mut(VALUES_PER_TASK).zip(dup.par_chunks_mut(VALUES_PER_TASK));
                let inputs = gate.par_chunks(VALUES_PER_TASK).zip(up.par_chunks(VALUES_PER_TASK));
                out.zip(inputs).zip(dy.par_chunks(VALUES_PER_TASK)).for_each(
                    |(((dgate, dup), (gate, up)), dy)| {
                        for i in 0..dy.len() {
                            let s = sigmoid(gate[i]);
                            let silu = gate[i] * s;
                            dup[i] = dy[i] * silu;
                            dgate[i] = dy[i] * up[i] * (s + silu * (1.0 - s));
                        }
                    },
                );
            })
        })?
    })??;
    Ok((host::tensor(dgate, gate.shape())?, host::tensor(dup, gate.shape())?))
}

/// [`forward`] out of candle operations.
pub fn composed_forward(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    gate.silu()? * up
}

/// [`backward`] out of candle operations.
pub fn composed_backward(dy: &Tensor, gate: &Tensor, up: &Tensor) -> Result<(Tensor, Tensor)> {
    let s = (gate.neg()?.exp()? + 1.0)?.recip()?;
    let silu = (gate * &s)?;
    let slope = (&s + (&silu * (1.0 - &s)?)?)?;
    Ok((((dy * up)? * slope)?, (dy * silu)?))
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
        let (dgate, dup) = backward(&dy, &gate, &up)?;
        let (dgate_ref, dup_ref) = composed_backward(&dy, &gate, &up)?;
        assert_close(&dgate, &dgate_ref, 1e-6);
        assert_close(&dup, &dup_ref, 1e-6);
        Ok(())
    }

    #[test]
    fn backward_matches_finite_differences() -> Result<()> {
        let (gate, up, dy) = (wave((3, 5), 0.3)?, wave((3, 5), 0.7)?, wave((3, 5), 0.9)?);
        let (dgate, dup) = backward(&dy, &gate, &up)?;
        assert_close(&dgate, &finite_difference(&gate, &dy, |g| forward(g, &up))?, 2e-3);
        assert_close(&dup, &finite_difference(&up, &dy, |u| forward(&gate, u))?, 2e-3);
        Ok(())
    }
}
