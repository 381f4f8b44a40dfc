//! Gradient accumulators: f32, written in place.

use super::gemm::{Matrix, Threads, matmul};
use super::host;
use candle_core::{CpuStorage, DType, InplaceOp1, Layout, Result, Shape, Tensor, Var};
use rayon::prelude::*;
use std::ops::Range;

/// An f32 sum that micro-batches add to. Starts at zero.
#[derive(Debug, Clone)]
pub struct Accumulator(Var);

impl Accumulator {
    /// Zeros of `shape` on the device of `like`.
    pub fn zeros(shape: impl Into<Shape>, like: &Tensor) -> Result<Self> {
        Ok(Self(Var::zeros(shape, DType::F32, like.device())?))
    }

    /// The sum so far.
    pub fn tensor(&self) -> &Tensor {
        self.0.as_tensor()
    }

    /// Back to zero.
    pub fn clear(&self) -> Result<()> {
        if host::is_host_f32(&self.0) {
            return self.edit(|sum| sum.par_chunks_mut(1 << 16).for_each(|chunk| chunk.fill(0.0)));
        }
        self.0.set(&self.0.zeros_like()?)
    }

    /// Adds a tensor of the same shape and any dtype.
    pub fn add(&self, term: &Tensor) -> Result<()> {
        let term = term.to_dtype(DType::F32)?;
        if host::is_host_f32(&self.0) {
            return host::with(&term, |term| {
                self.edit(|sum| {
                    sum.par_chunks_mut(1 << 14)
                        .zip(term.par_chunks(1 << 14))
                        .for_each(|(s, t)| s.iter_mut().zip(t).for_each(|(s, t)| *s += t));
                })
            })?;
        }
        self.0.set(&(self.0.as_tensor() + term)?)
    }

    /// Adds `lhs^T . rhs`, group of rows by group: the weight gradient of a linear layer from `dy` [N, out] and `x`
    /// [N, in].
    ///
    /// On the CPU the groups are added one after the other, so that the sum does not depend on which of them happen
    /// to be computed together.
    pub fn add_transposed_product(&self, lhs: &Tensor, rhs: &Tensor, groups: &[Range<usize>]) -> Result<()> {
        if !host::is_host_f32(&self.0) {
            return self.add(&lhs.t()?.matmul(rhs)?);
        }
        let ((_, rows), (_, columns)) = (lhs.dims2()?, rhs.dims2()?);
        host::with(lhs, |lhs| {
            host::with(rhs, |rhs| {
                self.edit(|sum| {
                    for group in groups {
                        let lhs = Matrix::new(&lhs[group.start * rows..], group.len(), rows).transposed();
                        let rhs = Matrix::new(&rhs[group.start * columns..], group.len(), columns);
                        matmul(sum, columns, true, lhs, rhs, Threads::Pool);
                    }
                })
            })?
        })?
    }

    /// Adds, group by group, sums over rows on the CPU: `add_row(row, partial)` adds one row to a partial sum.
    pub(super) fn add_row_sums(
        &self,
        groups: &[Range<usize>],
        add_row: impl Fn(usize, &mut [f32]) + Sync,
    ) -> Result<()> {
        let columns = self.0.elem_count();
        let sums: Vec<Vec<f32>> =
            groups.par_iter().map(|group| host::sum_over_rows(group.clone(), columns, &add_row)).collect();
        self.edit(|total| {
            for sum in sums {
                total.iter_mut().zip(sum).for_each(|(t, s)| *t += s);
            }
        })
    }

    /// Adds row `i` of `rows` [N, H] to row `slots[i]` of the sum [U, H].
    pub fn add_rows(&self, slots: &[u32], rows: &Tensor) -> Result<()> {
        if host::is_host_f32(&self.0) {
            let width = rows.dim(1)?;
            return host::with(rows, |rows| {
                self.edit(|sum| {
                    // One thread: the order of additions is the order of tokens, and memory is the limit anyway.
                    for (row, &slot) in rows.chunks_exact(width).zip(slots) {
                        let slot = slot as usize * width;
                        sum[slot..slot + width].iter_mut().zip(row).for_each(|(s, r)| *s += r);
                    }
                })
            })?;
        }
        let slots = Tensor::new(slots, self.0.device())?;
        self.0.set(&self.0.as_tensor().index_add(&slots, &rows.to_dtype(DType::F32)?, 0)?)
    }

    /// Multiplies by `factor`.
    pub fn scale(&self, factor: f64) -> Result<()> {
        if host::is_host_f32(&self.0) {
            let factor = factor as f32;
            return self.edit(|sum| {
                sum.par_chunks_mut(1 << 14).for_each(|chunk| chunk.iter_mut().for_each(|v| *v *= factor));
            });
        }
        self.0.set(&(self.0.as_tensor() * factor)?)
    }

    /// Sum of squares in f64, in one order whatever the thread count.
    pub fn sum_of_squares(&self) -> Result<f64> {
        if host::is_host_f32(&self.0) {
            return host::with(&self.0, |values| {
                let partials: Vec<f64> = values
                    .par_chunks(1 << 14)
                    .map(|chunk| chunk.iter().map(|&v| f64::from(v) * f64::from(v)).sum())
                    .collect();
                partials.iter().sum()
            });
        }
        self.0.as_tensor().sqr()?.sum_all()?.to_scalar::<f32>().map(f64::from)
    }

    fn edit(&self, f: impl FnOnce(&mut [f32])) -> Result<()> {
        edit(&self.0, f)
    }
}

/// Lets `f` rewrite the values of a CPU f32 variable in place.
pub fn edit(variable: &Var, f: impl FnOnce(&mut [f32])) -> Result<()> {
    struct Edit<F>(std::cell::Cell<Option<F>>);
    impl<F: FnOnce(&mut [f32])> InplaceOp1 for Edit<F> {
        fn name(&self) -> &'static str {
            "edit"
        }
        fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
            match (storage, layout.contiguous_offsets(), self.0.take()) {
                (CpuStorage::F32(values), Some((start, end)), Some(f)) => {
                    f(&mut values[start..end]);
                    Ok(())
                }
                _ => candle_core::bail!("only a contiguous f32 variable on the CPU can be edited in place"),
            }
        }
    }
    variable.inplace_op1(&Edit(std::cell::Cell::new(Some(f))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn sums_products_rows_and_scales_in_place() -> Result<()> {
        let cpu = Device::Cpu;
        let like = Tensor::zeros(1, DType::F32, &cpu)?;
        let acc = Accumulator::zeros((2, 3), &like)?;
        let dy = Tensor::new(&[[1f32, 2.], [3., 4.]], &cpu)?;
        let x = Tensor::new(&[[1f32, 0., 1.], [0., 1., 1.]], &cpu)?;
        acc.add_transposed_product(&dy, &x, std::slice::from_ref(&(0..2)))?;
        acc.add_transposed_product(&dy, &x, &[0..1, 1..2])?;
        assert_eq!(acc.tensor().to_vec2::<f32>()?, [[2., 6., 8.], [4., 8., 12.]]);
        acc.add_rows(&[1, 1], &x)?;
        acc.add(&Tensor::ones((2, 3), DType::F32, &cpu)?)?;
        acc.scale(0.5)?;
        assert_eq!(acc.tensor().to_vec2::<f32>()?, [[1.5, 3.5, 4.5], [3., 5., 7.5]]);
        let squares = acc.tensor().sqr()?.sum_all()?.to_scalar::<f32>()?;
        assert_eq!(acc.sum_of_squares()?, f64::from(squares));
        acc.clear()?;
        assert_eq!(acc.sum_of_squares()?, 0.0);
        Ok(())
    }
}
