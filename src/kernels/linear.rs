//! `y = x W^T (+ b)`, as `torch.nn.functional.linear`.

use super::gemm::{Matrix, Threads, matmul};
use super::{Accumulator, host};
use candle_core::{Result, Tensor};

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
    let mut y = vec![0.0f32; n * outputs];
    if let Some(bias) = bias {
        host::with(bias, |bias| y.chunks_exact_mut(outputs).for_each(|row| row.copy_from_slice(bias)))?;
    }
    host::with(x, |x| {
        host::with(weight, |weight| {
            let weight = Matrix::new(weight, outputs, inputs).transposed();
            matmul(&mut y, outputs, bias.is_some(), Matrix::new(x, n, inputs), weight, Threads::Pool);
        })
    })??;
    host::tensor(y, (n, outputs))
}

/// Adds the gradients of weight and bias to their accumulators and returns that of `x`.
///
/// # Shapes
/// `dy` [N, out], `x` [N, in], `weight` [out, in] to `dx` [N, in].
pub fn backward(
    dy: &Tensor,
    x: &Tensor,
    weight: &Tensor,
    weight_gradient: &Accumulator,
    bias_gradient: Option<&Accumulator>,
) -> Result<Tensor> {
    weight_gradient.add_transposed_product(dy, x)?;
    if let Some(bias_gradient) = bias_gradient {
        bias_gradient.add(&column_sums(dy)?)?;
    }
    if !host::is_host_f32(dy) {
        return dy.matmul(weight);
    }
    let (n, outputs) = dy.dims2()?;
    let inputs = weight.dim(1)?;
    let mut dx = vec![0.0f32; n * inputs];
    host::with(dy, |dy| {
        host::with(weight, |weight| {
            let weight = Matrix::new(weight, outputs, inputs);
            matmul(&mut dx, inputs, false, Matrix::new(dy, n, outputs), weight, Threads::Pool);
        })
    })??;
    host::tensor(dx, (n, inputs))
}

fn column_sums(dy: &Tensor) -> Result<Tensor> {
    if !host::is_host_f32(dy) {
        return dy.to_dtype(candle_core::DType::F32)?.sum(0);
    }
    let (n, outputs) = dy.dims2()?;
    let sums = host::with(dy, |dy| {
        host::sum_over_rows(n, outputs, |row, sum| {
            sum.iter_mut().zip(&dy[row * outputs..]).for_each(|(s, d)| *s += d);
        })
    })?;
    host::tensor(sums, outputs)
}
