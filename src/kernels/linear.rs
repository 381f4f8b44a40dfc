//! `y = x W^T (+ b)`, as `torch.nn.functional.linear`.
//!
//! On the CPU a row of the result depends on that row of the input alone, to the bit: the matmul forms every dot
//! product in blocks of the inner dimension whose size does not depend on the number of rows, save for small
//! products, which take other paths. Those are padded past the point where they would. (Fewer than
//! four output columns would be such a path too; the reward head, the only case, is `model::reward_head`.)

use super::gemm::{Matrix, Threads, matmul};
use super::{Accumulator, host};
use candle_core::{Result, Tensor};
use std::borrow::Cow;
use std::ops::Range;

/// Fewer rows than this are padded with zeros. `gemm` 0.19 treats products of at most 64 x 64 differently.
const MIN_ROWS: usize = 65;

/// `x` [N, in], `weight` [out, in], `bias` [out] to [N, out].
pub fn forward(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (n, inputs) = x.dims2()?;
    let outputs = weight.dim(0)?;
    if !host::is_host_f32(x) {
        let y = x.matmul(&weight.t()?)?;
        return match bias {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        };
    }
    let mut y = vec![0.0f32; n.max(MIN_ROWS) * outputs];
    if let Some(bias) = bias {
        host::with(bias, |bias| y.chunks_exact_mut(outputs).for_each(|row| row.copy_from_slice(bias)))?;
    }
    host::with(x, |x| {
        host::with(weight, |weight| {
            let weight = Matrix::new(weight, outputs, inputs).transposed();
            rows_times(&mut y, bias.is_some(), x, weight);
        })
    })??;
    y.truncate(n * outputs);
    host::tensor(y, (n, outputs))
}

/// `y = x . rhs` or `y += x . rhs`, row by row of `x`; `y` has at least [`MIN_ROWS`] rows.
fn rows_times(y: &mut [f32], accumulate: bool, x: &[f32], rhs: Matrix) {
    let rows = y.len() / rhs.columns;
    let mut x = Cow::Borrowed(x);
    if x.len() < rows * rhs.rows {
        x.to_mut().resize(rows * rhs.rows, 0.0);
    }
    matmul(y, rhs.columns, accumulate, Matrix::new(&x, rows, rhs.rows), rhs, Threads::Pool);
}

/// Adds the gradients of weight and bias to their accumulators, group of rows by group, and returns that of `x`.
///
/// # Shapes
/// `dy` [N, out], `x` [N, in], `weight` [out, in] to `dx` [N, in].
pub fn backward(
    dy: &Tensor,
    x: &Tensor,
    weight: &Tensor,
    weight_gradient: &Accumulator,
    bias_gradient: Option<&Accumulator>,
    groups: &[Range<usize>],
) -> Result<Tensor> {
    weight_gradient.add_transposed_product(dy, x, groups)?;
    let (n, outputs) = dy.dims2()?;
    if !host::is_host_f32(dy) {
        if let Some(bias_gradient) = bias_gradient {
            bias_gradient.add(&dy.to_dtype(candle_core::DType::F32)?.sum(0)?)?;
        }
        return dy.matmul(weight);
    }
    let inputs = weight.dim(1)?;
    let mut dx = vec![0.0f32; n.max(MIN_ROWS) * inputs];
    host::with(dy, |dy| {
        if let Some(bias_gradient) = bias_gradient {
            bias_gradient.add_row_sums(groups, |row, sum| {
                sum.iter_mut().zip(&dy[row * outputs..]).for_each(|(s, d)| *s += d);
            })?;
        }
        host::with(weight, |weight| rows_times(&mut dx, false, dy, Matrix::new(weight, outputs, inputs)))
    })??;
    dx.truncate(n * inputs);
    host::tensor(dx, (n, inputs))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::test_support::{assert_close, finite_difference, wave};

    #[test]
    fn a_row_does_not_depend_on_the_rows_beside_it() -> Result<()> {
        for (inputs, outputs) in [(20, 28), (64, 64), (700, 40), (1100, 300), (33, 4)] {
            let (w, b) = (wave((outputs, inputs), 0.7)?, wave(outputs, 0.3)?);
            let x = wave((300, inputs), 0.37)?;
            let whole = forward(&x, &w, Some(&b))?.to_vec2::<f32>()?;
            for (start, len) in [(0, 1), (7, 2), (100, 64), (31, 65), (3, 200)] {
                let part = forward(&x.narrow(0, start, len)?, &w, Some(&b))?.to_vec2::<f32>()?;
                assert!(part == whole[start..start + len], "{len} rows of {inputs} x {outputs}");
            }
        }
        Ok(())
    }

    #[test]
    fn backward_matches_finite_differences_whatever_the_groups() -> Result<()> {
        let (x, w, b, dy) = (wave((5, 4), 0.37)?, wave((3, 4), 0.7)?, wave(3, 0.3)?, wave((5, 3), 0.9)?);
        let gradients = (Accumulator::zeros((3, 4), &w)?, Accumulator::zeros(3, &b)?);
        let dx = backward(&dy, &x, &w, &gradients.0, Some(&gradients.1), &[0..2, 2..5])?;
        assert_close(&dx, &finite_difference(&x, &dy, |x| forward(x, &w, Some(&b)))?, 2e-3);
        assert_close(gradients.0.tensor(), &finite_difference(&w, &dy, |w| forward(&x, w, Some(&b)))?, 2e-3);
        assert_close(gradients.1.tensor(), &finite_difference(&b, &dy, |b| forward(&x, &w, Some(b)))?, 2e-3);
        Ok(())
    }
}
