//! `y = x W^T (+ b)`, as `torch.nn.functional.linear`.
//!
//! On the CPU a row of the result depends on that row of the input alone, to the bit: the matmul forms every dot
//! product in blocks of the inner dimension whose size does not depend on the number of rows, save for small
//! products, which take other paths. Those are padded past the point where they would. (Fewer than
//! four output columns would be such a path too; the reward head, the only case, is `model::reward_head`.)

#[cfg(target_arch = "x86_64")]
use super::gemm::amx;
use super::gemm::{Matrix, Threads, matmul};
use super::{Accumulator, host};
use candle_core::{Result, Tensor};
use rayon::prelude::*;
use std::borrow::Cow;
use std::ops::Range;

/// Fewer rows than this are padded with zeros. `gemm` 0.19 treats products of at most 64 x 64 differently.
const MIN_ROWS: usize = 65;

/// `x` [N, in], `weight` [out, in], `bias` [out] to [N, out]; `residual` [N, out] is added where there is one.
pub fn forward(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    residual: Option<&Tensor>,
) -> Result<Tensor> {
    let (n, inputs) = x.dims2()?;
    let outputs = weight.dim(0)?;
    if !host::is_host_f32(x) {
        let mut y = x.matmul(&weight.t()?)?;
        if let Some(bias) = bias {
            y = y.broadcast_add(bias)?;
        }
        return residual.map_or(Ok(y.clone()), |residual| residual + y);
    }
    let mut y = Rows::new(n, outputs);
    if let Some(residual) = residual {
        host::with(residual, |residual| y.start_from(residual))?;
    }
    if let Some(bias) = bias {
        host::with(bias, |bias| y.add_to_each(bias))?;
    }
    host::with(x, |x| {
        host::with(weight, |weight| y.add_product(x, Matrix::new(weight, outputs, inputs).transposed()))
    })??;
    y.into_tensor()
}

/// The gradient of the `x` [N, in] that several layers share: the sum of `dy` [N, out] times `weight` [out, in] over
/// the terms.
///
/// # Panics
/// Without any term.
pub fn input_gradient(terms: &[(&Tensor, &Tensor)]) -> Result<Tensor> {
    let (dy, weight) = terms[0];
    if !host::is_host_f32(dy) {
        let products = terms.iter().map(|(dy, weight)| dy.matmul(weight));
        return products.reduce(|sum, product| sum? + product?).unwrap_or_else(|| dy.matmul(weight));
    }
    let inputs = weight.dim(1)?;
    let mut dx = Rows::new(dy.dim(0)?, inputs);
    for (dy, weight) in terms {
        let outputs = weight.dim(0)?;
        host::with(dy, |dy| {
            host::with(weight, |weight| dx.add_product(dy, Matrix::new(weight, outputs, inputs)))
        })??;
    }
    dx.into_tensor()
}

/// Adds the gradients of weight and bias to their accumulators, group of rows by group.
///
/// # Shapes
/// `dy` [N, out], `x` [N, in].
pub fn weight_gradient(
    dy: &Tensor,
    x: &Tensor,
    weight_gradient: &Accumulator,
    bias_gradient: Option<&Accumulator>,
    groups: &[Range<usize>],
) -> Result<()> {
    weight_gradient.add_transposed_product(dy, x, groups)?;
    match bias_gradient {
        None => Ok(()),
        Some(bias_gradient) if host::is_host_f32(dy) => {
            host::with(dy, |dy| bias_gradient.add_row_sums(dy, groups))?
        }
        Some(bias_gradient) => bias_gradient.add(&dy.to_dtype(candle_core::DType::F32)?.sum(0)?),
    }
}

/// A sum of products on the CPU, [N, columns].
struct Rows {
    values: Vec<f32>,
    rows: usize,
    columns: usize,
    /// Whether `values` holds a sum yet.
    is_begun: bool,
}

impl Rows {
    fn new(rows: usize, columns: usize) -> Self {
        Self { values: Vec::new(), rows, columns, is_begun: false }
    }

    fn start_from(&mut self, residual: &[f32]) {
        self.values.extend_from_slice(residual);
        self.is_begun = true;
    }

    fn add_to_each(&mut self, row: &[f32]) {
        if !self.is_begun {
            self.values = row.repeat(self.rows);
            self.is_begun = true;
            return;
        }
        let rows = self.values.par_chunks_exact_mut(self.columns);
        rows.for_each(|values| values.iter_mut().zip(row).for_each(|(v, r)| *v += r));
    }

    /// Adds `x . rhs`; row i of the product depends on row i of `x` alone.
    fn add_product(&mut self, x: &[f32], rhs: Matrix) {
        #[cfg(target_arch = "x86_64")]
        if amx::suits(rhs.rows, rhs.columns) {
            self.values.resize(self.rows * self.columns, 0.0);
            let lhs = Matrix::new(x, self.rows, rhs.rows);
            let inner = 0..rhs.rows;
            let inner = std::slice::from_ref(&inner);
            amx::matmul(&mut self.values, self.columns, self.is_begun, lhs, rhs, inner);
            self.is_begun = true;
            return;
        }
        let rows = self.rows.max(MIN_ROWS);
        let mut x = Cow::Borrowed(x);
        if self.rows < rows {
            x.to_mut().resize(rows * rhs.rows, 0.0);
        }
        self.values.resize(rows * self.columns, 0.0);
        let lhs = Matrix::new(&x, rows, rhs.rows);
        matmul(&mut self.values, self.columns, self.is_begun, lhs, rhs, Threads::Pool);
        self.is_begun = true;
    }

    fn into_tensor(mut self) -> Result<Tensor> {
        self.values.truncate(self.rows * self.columns);
        host::tensor(self.values, (self.rows, self.columns))
    }
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
            let whole = forward(&x, &w, Some(&b), None)?.to_vec2::<f32>()?;
            for (start, len) in [(0, 1), (7, 2), (100, 64), (31, 65), (3, 200)] {
                let part = forward(&x.narrow(0, start, len)?, &w, Some(&b), None)?.to_vec2::<f32>()?;
                assert!(part == whole[start..start + len], "{len} rows of {inputs} x {outputs}");
            }
        }
        Ok(())
    }

    #[test]
    fn backward_matches_finite_differences_whatever_the_groups() -> Result<()> {
        let (x, w, b, dy) = (wave((5, 4), 0.37)?, wave((3, 4), 0.7)?, wave(3, 0.3)?, wave((5, 3), 0.9)?);
        let gradients = (Accumulator::zeros((3, 4), &w)?, Accumulator::zeros(3, &b)?);
        weight_gradient(&dy, &x, &gradients.0, Some(&gradients.1), &[0..2, 2..5])?;
        let dx = input_gradient(&[(&dy, &w)])?;
        let run = |x: &Tensor, w: &Tensor, b: &Tensor| forward(x, w, Some(b), None);
        assert_close(&dx, &finite_difference(&x, &dy, |x| run(x, &w, &b))?, 2e-3);
        assert_close(gradients.0.tensor(), &finite_difference(&w, &dy, |w| run(&x, w, &b))?, 2e-3);
        assert_close(gradients.1.tensor(), &finite_difference(&b, &dy, |b| run(&x, &w, b))?, 2e-3);
        Ok(())
    }

    #[test]
    fn residuals_and_terms_are_added() -> Result<()> {
        for (inputs, outputs) in [(5, 7), (130, 140)] {
            let (x, w, b) = (wave((3, inputs), 0.37)?, wave((outputs, inputs), 0.7)?, wave(outputs, 0.3)?);
            let (residual, dy) = (wave((3, outputs), 0.9)?, wave((3, outputs), 1.3)?);
            let expected = (forward(&x, &w, Some(&b), None)? + &residual)?;
            assert_close(&forward(&x, &w, Some(&b), Some(&residual))?, &expected, 2e-6);
            let one = input_gradient(&[(&dy, &w)])?;
            assert_close(&input_gradient(&[(&dy, &w), (&dy, &w)])?, &(one * 2.0)?, 2e-6);
        }
        Ok(())
    }
}
