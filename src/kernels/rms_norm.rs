//! `y = x / sqrt(mean(x^2) + eps) * weight`, per row.
//!
//! ```python
//! def forward(x, weight, eps):
//!     r = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)
//!     return weight * (x * r)
//! ```

use super::host::{self, ROWS_PER_TASK, lane_sum};
use super::{Accumulator, cuda};
use candle_core::{DType, Result, Tensor};
use rayon::prelude::*;
use std::mem::MaybeUninit;
use std::ops::Range;

/// `x` [N, H], `weight` [H] to [N, H].
pub fn forward(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let (n, width) = x.dims2()?;
    host::expect_shape("weight of a norm", weight, &[width])?;
    if cuda::takes(x) {
        return cuda::norm::forward(x, weight, eps);
    }
    if !host::is_host_f32(x) {
        return composed_forward(x, weight, eps);
    }
    let mut y = host::Output::new(n * width);
    host::with(x, |x| {
        host::with(weight, |weight| {
            let task = width * ROWS_PER_TASK;
            let tasks = y.values().par_chunks_mut(task).zip(x.par_chunks(task));
            tasks.for_each(|(y, x)| forward_rows(y, x, weight, eps));
        })
    })??;
    // SAFETY: the tasks cover it.
    unsafe { y.into_tensor((n, width)) }
}

/// Adds the gradient of `weight` [H], group of rows by group, and returns that of `x` [N, H], with `residual` [N, H]
/// added where there is one. The groups tile the rows.
pub fn backward(
    dy: &Tensor,
    x: &Tensor,
    weight: &Tensor,
    eps: f64,
    residual: Option<&Tensor>,
    weight_gradient: &Accumulator,
    groups: &[Range<usize>],
) -> Result<Tensor> {
    let (n, width) = x.dims2()?;
    host::expect_shape("weight of a norm", weight, &[width])?;
    host::expect_shape("gradient of a norm's output", dy, &[n, width])?;
    residual.map_or(Ok(()), |residual| host::expect_shape("residual", residual, &[n, width]))?;
    if cuda::takes(x) {
        return cuda::norm::backward(dy, x, weight, eps, residual, weight_gradient);
    }
    if !host::is_host_f32(x) {
        let (dx, d_weight) = composed_backward(dy, x, weight, eps)?;
        weight_gradient.add(&d_weight)?;
        return residual.map_or(Ok(dx.clone()), |residual| residual + dx);
    }
    let mut dx = host::Output::new(n * width);
    let mut run = |dy: &[f32], x: &[f32], weight: &[f32], residual: Option<&[f32]>| {
        let mut rest = dx.values();
        let mut tasks = Vec::new();
        for rows in groups.iter().flat_map(host::row_tasks) {
            let (dx, after) = rest.split_at_mut(rows.len() * width);
            rest = after;
            tasks.push((rows.start * width..rows.end * width, dx));
        }
        if !rest.is_empty() {
            candle_core::bail!("groups that leave {} of {n} rows out", rest.len() / width);
        }
        let partial = |(values, dx): (Range<usize>, &mut [MaybeUninit<f32>])| {
            let mut sum = vec![0.0; width];
            let residual = residual.map(|residual| &residual[values.clone()]);
            backward_rows(dx, &mut sum, &dy[values.clone()], &x[values], weight, eps, residual);
            sum
        };
        weight_gradient.add_partial_sums(groups, tasks.into_par_iter().map(partial).collect())
    };
    host::with(dy, |dy| {
        host::with(x, |x| {
            host::with(weight, |weight| match residual {
                None => run(dy, x, weight, None),
                Some(residual) => host::with(residual, |residual| run(dy, x, weight, Some(residual)))?,
            })
        })
    })????;
    // SAFETY: the tasks cover it, as was checked.
    unsafe { dx.into_tensor((n, width)) }
}

vectorized! {
fn forward_rows(y: &mut [MaybeUninit<f32>], x: &[f32], weight: &[f32], eps: f64) {
    let width = weight.len();
    for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
        let r = inverse_rms(x, eps);
        for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
            y.write(w * (x * r));
        }
    }
}
}

vectorized! {
/// dx = r (g - x r^2 mean(g x)), g = dy * weight; adds dy x r to `sum`.
fn backward_rows(
    dx: &mut [MaybeUninit<f32>],
    sum: &mut [f32],
    dy: &[f32],
    x: &[f32],
    weight: &[f32],
    eps: f64,
    residual: Option<&[f32]>,
) {
    let width = weight.len();
    let rows = dx.chunks_exact_mut(width).zip(dy.chunks_exact(width)).zip(x.chunks_exact(width));
    for (i, ((dx, dy), x)) in rows.enumerate() {
        let r = inverse_rms(x, eps);
        let dot = lane_sum([dy, weight, x], |[dy, w, x]| dy * w * x);
        let shrink = (f64::from(r) * f64::from(r) * dot / width as f64) as f32;
        let slope = |dy: f32, w: f32, x: f32| r * (dy * w - x * shrink);
        match residual {
            Some(residual) => {
                let inputs = dy.iter().zip(weight).zip(x).zip(&residual[i * width..]);
                for (dx, (((dy, w), x), residual)) in dx.iter_mut().zip(inputs) {
                    dx.write(residual + slope(*dy, *w, *x));
                }
            }
            None => {
                for (dx, ((dy, w), x)) in dx.iter_mut().zip(dy.iter().zip(weight).zip(x)) {
                    dx.write(slope(*dy, *w, *x));
                }
            }
        }
        for (sum, (dy, x)) in sum.iter_mut().zip(dy.iter().zip(x)) {
            *sum += dy * (x * r);
        }
    }
}
}

#[inline(always)]
fn inverse_rms(x: &[f32], eps: f64) -> f32 {
    let squares = lane_sum([x], |[x]| x * x);
    (1.0 / (squares / x.len() as f64 + eps).sqrt()) as f32
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
        let dw = Accumulator::zeros(48, &w);
        let dx = backward(&dy, &x, &w, 1e-5, None, &dw, &[0..40, 40..70])?;
        let (dx_ref, dw_ref) = composed_backward(&dy, &x, &w, 1e-5)?;
        assert_close(&dx, &dx_ref, 2e-6);
        assert_close(dw.tensor()?, &dw_ref, 1e-5);
        let added = backward(&dy, &x, &w, 1e-5, Some(&x), &dw, &[0..40, 40..70])?;
        assert_close(&added, &(&x + dx)?, 1e-6);
        assert!(backward(&dy, &x, &w, 1e-5, None, &dw, &[0..40, 40..69]).is_err());
        Ok(())
    }

    #[test]
    fn backward_matches_finite_differences() -> Result<()> {
        let (x, w, dy) = (wave((3, 8), 0.3)?, wave(8, 0.7)?, wave((3, 8), 0.9)?);
        let dw = Accumulator::zeros(8, &w);
        let dx = backward(&dy, &x, &w, 1e-5, None, &dw, &[0..1, 1..3])?;
        assert_close(&dx, &finite_difference(&x, &dy, |x| forward(x, &w, 1e-5))?, 2e-3);
        assert_close(dw.tensor()?, &finite_difference(&w, &dy, |w| forward(&x, w, 1e-5))?, 2e-3);
        Ok(())
    }
}
