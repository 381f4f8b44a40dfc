//! Rotary position embedding in the half-split layout of Hugging Face checkpoints.
//!
//! ```python
//! def forward(x, cos, sin):            # x [N, A, D], cos and sin [N, 1, D/2]
//!     a, b = x.chunk(2, -1)
//!     return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
//! ```

use super::host::{self, ROWS_PER_TASK};
use super::{Indices, cuda};
use candle_core::{DType, Device, Result, Tensor};
use rayon::prelude::*;
use std::mem::MaybeUninit;

/// Cosines and sines of every position and frequency, [positions, D/2], f32.
#[derive(Debug, Clone)]
pub struct Table {
    cos: Tensor,
    sin: Tensor,
}

impl Table {
    /// The table of `positions` positions for inverse frequencies `inverse_frequencies` (radians a token), D/2 of them.
    ///
    /// Angles are formed in f32 from f32 frequencies, as transformers does, so that scores agree at long positions.
    pub fn new(inverse_frequencies: &[f32], positions: usize, device: &Device) -> Result<Self> {
        let angles = (0..positions).flat_map(|p| inverse_frequencies.iter().map(move |f| p as f32 * f));
        let (cos, sin): (Vec<f32>, Vec<f32>) = angles.map(|a| (a.cos(), a.sin())).unzip();
        let shape = (positions, inverse_frequencies.len());
        Ok(Self { cos: Tensor::from_vec(cos, shape, device)?, sin: Tensor::from_vec(sin, shape, device)? })
    }

    /// How many positions the table covers.
    pub fn positions(&self) -> usize {
        self.cos.dims()[0]
    }
}

/// Rotates `x` [N, heads * D] to the given positions [N].
pub fn forward(x: &Tensor, positions: &Indices, table: &Table) -> Result<Tensor> {
    rotate(x, positions, table, 1.0)
}

/// The gradient of `x`: the rotation is orthogonal, so its backward turns the other way.
pub fn backward(dy: &Tensor, positions: &Indices, table: &Table) -> Result<Tensor> {
    rotate(dy, positions, table, -1.0)
}

fn rotate(x: &Tensor, positions: &Indices, table: &Table, direction: f32) -> Result<Tensor> {
    if let Some(position) = positions.iter().find(|&&p| p as usize >= table.positions()) {
        candle_core::bail!(
            "position {position} beyond the {} positions of the rotary table",
            table.positions()
        );
    }
    let (n, width) = x.dims2()?;
    let half = table.cos.dim(1)?;
    if positions.len() != n || width % (2 * half) != 0 {
        candle_core::bail!(
            "{} positions and heads of {} for a row of [{n}, {width}]",
            positions.len(),
            2 * half
        );
    }
    if cuda::takes(x) {
        return cuda::pointwise::rope(x, positions, &table.cos, &table.sin, direction);
    }
    if !host::is_host_f32(x) {
        return composed(x, positions, table, direction);
    }
    let mut y = host::Output::new(n * width);
    host::with(x, |x| {
        host::with(&table.cos, |cos| {
            host::with(&table.sin, |sin| {
                let rows = ROWS_PER_TASK * width;
                let tasks = y.values().par_chunks_mut(rows).zip(x.par_chunks(rows));
                tasks.zip(positions.par_chunks(ROWS_PER_TASK)).for_each(|((y, x), positions)| {
                    for ((y, x), &p) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(positions) {
                        let angle = p as usize * half..(p as usize + 1) * half;
                        rotate_row(y, x, &cos[angle.clone()], &sin[angle], direction);
                    }
                });
            })
        })?
    })??;
    // SAFETY: the tasks cover it.
    unsafe { y.into_tensor((n, width)) }
}

vectorized! {
/// All heads of one token.
fn rotate_row(y: &mut [MaybeUninit<f32>], x: &[f32], cos: &[f32], sin: &[f32], direction: f32) {
    let half = cos.len();
    for (y, x) in y.chunks_exact_mut(2 * half).zip(x.chunks_exact(2 * half)) {
        let ((ya, yb), (xa, xb)) = (y.split_at_mut(half), x.split_at(half));
        let values = ya.iter_mut().zip(yb).zip(xa.iter().zip(xb)).zip(cos.iter().zip(sin));
        for (((ya, yb), (xa, xb)), (cos, sin)) in values {
            let sin = direction * sin;
            ya.write(xa * cos - xb * sin);
            yb.write(xb * cos + xa * sin);
        }
    }
}
}

/// The rotation out of candle operations, computed in f32.
pub fn composed(x: &Tensor, positions: &[u32], table: &Table, direction: f32) -> Result<Tensor> {
    let (n, width) = x.dims2()?;
    let half = table.cos.dim(1)?;
    let positions = Tensor::new(positions, x.device())?;
    let cos = table.cos.index_select(&positions, 0)?.unsqueeze(1)?;
    let sin = (table.sin.index_select(&positions, 0)?.unsqueeze(1)? * f64::from(direction))?;
    let split = x.to_dtype(DType::F32)?.reshape((n, width / (2 * half), 2, half))?;
    let (a, b) = (split.narrow(2, 0, 1)?.squeeze(2)?, split.narrow(2, 1, 1)?.squeeze(2)?);
    let ya = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
    let yb = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
    Tensor::cat(&[ya, yb], 2)?.reshape((n, width))?.to_dtype(x.dtype())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::test_support::{assert_close, finite_difference, wave};

    fn table() -> Result<Table> {
        Table::new(&[1.0, 0.1, 0.01], 50, &Device::Cpu)
    }

    #[test]
    fn fused_equals_composed_both_ways() -> Result<()> {
        let positions: Indices = (0..40).map(|i| i % 17).collect::<Vec<u32>>().into();
        let x = wave((40, 12), 0.3)?;
        for direction in [1.0, -1.0] {
            let reference = composed(&x, &positions, &table()?, direction)?;
            assert_close(&rotate(&x, &positions, &table()?, direction)?, &reference, 1e-6);
        }
        Ok(())
    }

    #[test]
    fn backward_matches_finite_differences_and_undoes_the_rotation() -> Result<()> {
        let positions = Indices::from([0, 3, 7]);
        let (x, dy) = (wave((3, 6), 0.3)?, wave((3, 6), 0.9)?);
        let dx = backward(&dy, &positions, &table()?)?;
        assert_close(&dx, &finite_difference(&x, &dy, |x| forward(x, &positions, &table()?))?, 1e-3);
        assert_close(&backward(&forward(&x, &positions, &table()?)?, &positions, &table()?)?, &x, 1e-6);
        Ok(())
    }

    #[test]
    fn a_position_beyond_the_table_is_refused() -> Result<()> {
        let message = forward(&wave((1, 6), 0.3)?, &[50].into(), &table()?).unwrap_err().to_string();
        assert!(message.contains("position 50"), "{message}");
        Ok(())
    }
}
