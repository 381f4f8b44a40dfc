//! `y = x / sqrt(mean(x^2) + eps) * weight`, per row.
//!
//! ```python
//! def forward(x, weight, eps):
//!     r = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)
//!     return weight * (x * r)
//! ```

use super::Accumulator;
use super::host::{self, ROWS_PER_TASK};
use candle_core::{DType, Result, Tensor};
use rayon::prelude::*;
use std::ops::Range;

/// `x` [N, H], `weight` [H] to [N, H].
pub fn forward(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    if !host::is_host_f32(x) {
        return composed_forward(x, weight, eps);
    }
    let (n, width) = x.dims2()?;
    let mut y = vec![0.0f32; n * width];
    host::with(x, |x| {
        host::with(weight, |weight| {
            y.par_chunks_mut(width * ROWS_PER_TASK).zip(x.par_chunks(width * ROWS_PER_TASK)).for_each(
                |(y, x)| {
                    for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                        let r = inverse_rms(x, eps);
                        y.iter_mut().zip(x).zip(weight).for_each(|((y, x), w)| *y = w * (x * r));
                    }
                },
            );
        })
    })??;
    host::tensor(y, (n, width))
}

/// Adds the gradient of `weight` [H], group of rows by group, and returns that of `x` [N, H].
pub fn backward(
    dy: &Tensor,
    x: &Tensor,
    weight: &Tensor,
    eps: f64,
    weight_gradient: &Accumulator,
    groups: &[Range<usize>],
) -> Result<Tensor> {
    if !host::is_host_f32(x) {
        let (dx, d_weight) = composed_backward(dy, x, weight, eps)?;
        weight_gradient.add(&d_weight)?;
        return Ok(dx);
    }
    let (n, width) = x.dims2()?;
    let mut dx = vec![0.0f32; n * width];
    host::with(dy, |dy| {
        host::with(x, |x| {
            host::with(weight, |weight| {
                dx.par_chunks_mut(width * ROWS_PER_TASK).enumerate().for_each(|(task, dx)| {
                    for (i, dx) in dx.chunks_exact_mut(width).enumerate() {
                        let at = (task * ROWS_PER_TASK + i) * width;
                        backward_row(dx, &dy[at..at + width], &x[at..at + width], weight, eps);
                    }
                });
            })?;
            weight_gradient.add_row_sums(groups, |row, sum| {
                let (dy, x) = (&dy[row * width..][..width], &x[row * width..][..width]);
                let r = inverse_rms(x, eps);
                sum.iter_mut().zip(dy).zip(x).for_each(|((s, dy), x)| *s += dy * (x * r));
            })
        })
    })???;
    host::tensor(dx, (n, width))
}

fn inverse_rms(x: &[f32], eps: f64) -> f32 {
    let squares = sum(x.iter().map(|&x| x * x));
    (1.0 / (squares / x.len() as f64 + eps).sqrt()) as f32
}

/// dx = r (g - x r^2 mean(g x)), g = dy * weight.
fn backward_row(dx: &mut [f32], dy: &[f32], x: &[f32], weight: &[f32], eps: f64) {
    let r = inverse_rms(x, eps);
    let dot = sum(dy.iter().zip(weight).zip(x).map(|((dy, w), x)| dy * w * x));
    let shrink = (f64::from(r) * f64::from(r) * dot / x.len() as f64) as f32;
    for (((dx, dy), w), x) in dx.iter_mut().zip(dy).zip(weight).zip(x) {
        *dx = r * (dy * w - x * shrink);
    }
}

/// Sums in f64 over eight lanes, which compilers vectorise.
fn sum(values: impl Iterator<Item = f32>) -> f64 {
    let mut lanes = [0.0f64; 8];
    for (i, value) in values.enumerate() {
        lanes[i % 8] += f64::from(value);
    }
    lanes.iter().sum()
}

/// [`forward`] out of candle operations, computed in f32.
pub fn composed_forward(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let normed = composed_normed(&x.to_dtype(DType::F32)?, eps)?.0;
    normed.to_dtype(x.dtype())?.broadcast_mul(weight)
}

/// [`backward`] out of candle operations, computed in f32.
pub fn composed_backward(dy: &Tensor, x: &Tensor, weight: &Tensor, eps: f64) -> Result<(Tensor, Tensor)> {
    let dtype = x.dtype();
    let [dy, x, weight] = [dy, x, weight].map(|t| t.to_dtype(DType::F32));
    let (dy, x, weight) = (dy?, x?, weight?);
    let (normed, r) = composed_normed(&x, eps)?;
    let g = dy.broadcast_mul(&weight)?;
    let mean = (&g * &normed)?.mean_keepdim(1)?;
    let dx = (g - normed.broadcast_mul(&mean)?)?.broadcast_mul(&r)?;
    Ok((dx.to_dtype(dtype)?, (dy * normed)?.sum(0)?))
}

fn composed_normed(x: &Tensor, eps: f64) -> Result<(Tensor, Tensor)> {
    let r = (x.sqr()?.mean_keepdim(1)? + eps)?.sqrt()?.recip()?;
    Ok((x.broadcast_mul(&r)?, r))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::test_support::{assert_close, finite_difference, wave};

    #[test]
    fn fused_equals_composed() -> Result<()> {
        let (x, w, dy) = (wave((70, 48), 0.3)?, wave(48, 0.7)?, wave((70, 48), 0.9)?);
        assert_close(&forward(&x, &w, 1e-5)?, &composed_forward(&x, &w, 1e-5)?, 1e-6);
        let dw = Accumulator::zeros(48, &w)?;
        let dx = backward(&dy, &x, &w, 1e-5, &dw, &[0..40, 40..70])?;
        let (dx_ref, dw_ref) = composed_backward(&dy, &x, &w, 1e-5)?;
        assert_close(&dx, &dx_ref, 2e-6);
        assert_close(dw.tensor(), &dw_ref, 1e-5);
        Ok(())
    }

    #[test]
    fn backward_matches_finite_differences() -> Result<()> {
        let (x, w, dy) = (wave((3, 8), 0.3)?, wave(8, 0.7)?, wave((3, 8), 0.9)?);
        let dw = Accumulator::zeros(8, &w)?;
        let dx = backward(&dy, &x, &w, 1e-5, &dw, &[0..1, 1..3])?;
        assert_close(&dx, &finite_difference(&x, &dy, |x| forward(x, &w, 1e-5))?, 2e-3);
        assert_close(dw.tensor(), &finite_difference(&w, &dy, |w| forward(&x, w, 1e-5))?, 2e-3);
        Ok(())
    }
}
