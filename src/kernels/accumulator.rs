//! Gradient accumulators: f32, written in place.

use super::cuda::{self, gemm::Operand};
#[cfg(target_arch = "x86_64")]
use super::gemm::amx;
use super::gemm::{Matrix, Threads, matmul};
use super::host;
use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;
use std::cell::Cell;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::OnceLock;

/// An f32 sum that micro-batches add to. Starts at zero, and takes no memory until something is added.
#[derive(Debug)]
pub struct Accumulator {
    shape: Shape,
    device: Device,
    sum: OnceLock<Tensor>,
}

impl Accumulator {
    /// Zeros of `shape` on the device of `like`.
    pub fn zeros(shape: impl Into<Shape>, like: &Tensor) -> Self {
        Self { shape: shape.into(), device: like.device().clone(), sum: OnceLock::new() }
    }

    /// Zeros with another number of rows.
    pub fn with_rows(&self, rows: usize) -> Result<Self> {
        let (_, columns) = self.shape.dims2()?;
        Ok(Self { shape: (rows, columns).into(), device: self.device.clone(), sum: OnceLock::new() })
    }

    /// The sum so far.
    pub fn tensor(&self) -> Result<&Tensor> {
        match self.sum.get() {
            Some(sum) => Ok(sum),
            None => {
                let zeros = Tensor::zeros(&self.shape, DType::F32, &self.device)?;
                Ok(self.sum.get_or_init(|| zeros))
            }
        }
    }

    /// Whether anything has been added since the start or since [`Accumulator::release`].
    pub fn is_begun(&self) -> bool {
        self.sum.get().is_some()
    }

    /// Back to zero; the memory is free for something else until then.
    pub fn release(&mut self) {
        self.sum = OnceLock::new();
    }

    fn is_on_host(&self) -> bool {
        self.device.is_cpu() && !cuda::is_emulated()
    }

    /// Adds a tensor of the same shape and any dtype.
    pub fn add(&self, term: &Tensor) -> Result<()> {
        host::expect_shape("term of a sum", term, self.shape.dims())?;
        if cuda::takes(term) {
            return cuda::rows::add(self.tensor()?, &term.contiguous()?);
        }
        let term = term.to_dtype(DType::F32)?;
        if cuda::takes(&term) {
            return cuda::rows::add(self.tensor()?, &term.contiguous()?);
        }
        host::with(&term, |term| {
            self.edit(|sum| {
                sum.par_chunks_mut(1 << 14)
                    .zip(term.par_chunks(1 << 14))
                    .for_each(|(s, t)| s.iter_mut().zip(t).for_each(|(s, t)| *s += t));
            })
        })?
    }

    /// Adds `dy^T . x` to every sum, group of rows by group: the weight gradients of layers that share their input `x`
    /// [N, in], each from its own `dy` [N, out].
    ///
    /// On the CPU the groups are added one after the other, so that a sum does not depend on which of them happen to
    /// be computed together.
    pub(super) fn add_transposed_products<const K: usize>(
        terms: [(&Self, &Tensor); K],
        x: &Tensor,
        groups: &[Range<usize>],
    ) -> Result<()> {
        if cuda::takes(x) {
            return terms.iter().try_for_each(|(sum, dy)| sum.add_transposed_product_on_cuda(dy, x));
        }
        if !host::is_host_f32(x) {
            return terms.iter().try_for_each(|(sum, dy)| sum.add(&dy.t()?.matmul(x)?));
        }
        let (tokens, columns) = x.dims2()?;
        for (i, (sum, dy)) in terms.iter().enumerate() {
            host::expect_shape("sum of a weight", sum.tensor()?, &[dy.dim(1)?, columns])?;
            let id = sum.tensor()?.id();
            for (other, _) in &terms[..i] {
                if other.tensor()?.id() == id {
                    candle_core::bail!("two layers of one product share their gradient");
                }
            }
        }
        let rows = terms.iter().map(|(_, dy)| dy.dim(1)).collect::<Result<Vec<_>>>()?;
        let sums = terms.iter().map(|(sum, _)| sum.tensor()).collect::<Result<Vec<_>>>()?;
        let dys: Vec<&Tensor> = terms.iter().map(|(_, dy)| *dy).collect();
        host::with(x, |x| {
            host::with_all(&dys, |dys| {
                edit_all(&sums, |sums| {
                    #[cfg(target_arch = "x86_64")]
                    if rows.iter().all(|&rows| amx::suits(rows, columns)) {
                        let lhs: Vec<Matrix> = dys
                            .iter()
                            .zip(&rows)
                            .map(|(dy, &rows)| Matrix::new(dy, tokens, rows).transposed())
                            .collect();
                        let mut sums: Vec<amx::Destination> =
                            sums.iter_mut().map(|sum| amx::Destination::onto(sum, columns)).collect();
                        return amx::matmul(&mut sums, &lhs, &[Matrix::new(x, tokens, columns)], groups);
                    }
                    for ((sum, dy), &rows) in sums.iter_mut().zip(dys).zip(&rows) {
                        for group in groups {
                            let dy = Matrix::new(&dy[group.start * rows..], group.len(), rows);
                            let x = Matrix::new(&x[group.start * columns..], group.len(), columns);
                            matmul(sum, columns, true, dy.transposed(), x, Threads::Pool);
                        }
                    }
                })
            })?
        })?
    }

    /// The first product writes the sum, which needs no zeros then.
    fn add_transposed_product_on_cuda(&self, dy: &Tensor, x: &Tensor) -> Result<()> {
        let is_begun = self.is_begun();
        let sum = match self.sum.get() {
            Some(sum) => sum,
            None => {
                let unwritten = cuda::unwritten(&self.shape, DType::F32, &self.device)?;
                self.sum.get_or_init(|| unwritten)
            }
        };
        cuda::gemm::product(sum, is_begun, Operand::transposed(dy), Operand::plain(x))
    }

    /// Adds sums over runs of rows, one for each of [`host::row_tasks`] of every group: first together by group, so
    /// that the result does not depend on which groups are computed together.
    pub(super) fn add_partial_sums(&self, groups: &[Range<usize>], partials: Vec<Vec<f32>>) -> Result<()> {
        let mut partials = partials.into_iter();
        self.edit(|total| {
            for group in groups {
                let tasks = host::row_tasks(group).count();
                if tasks == 0 {
                    continue;
                }
                let Some(mut sum) = partials.next() else { continue };
                for partial in partials.by_ref().take(tasks - 1) {
                    sum.iter_mut().zip(partial).for_each(|(s, p)| *s += p);
                }
                total.iter_mut().zip(sum).for_each(|(t, s)| *t += s);
            }
        })
    }

    /// Adds the sums over the rows of `values` [N, out], group of rows by group, on the CPU.
    pub(super) fn add_row_sums(&self, values: &[f32], groups: &[Range<usize>]) -> Result<()> {
        let columns = self.shape.elem_count();
        let tasks: Vec<Range<usize>> = groups.iter().flat_map(host::row_tasks).collect();
        let partial = |rows: Range<usize>| {
            let mut sum = vec![0.0; columns];
            add_rows_to(&mut sum, &values[rows.start * columns..rows.end * columns]);
            sum
        };
        self.add_partial_sums(groups, tasks.into_par_iter().map(partial).collect())
    }

    /// Adds row `i` of `rows` [N, H] to row `slots[i]` of the sum [U, H].
    pub fn add_rows(&self, slots: &[u32], rows: &Tensor) -> Result<()> {
        let (count, width) = self.shape.dims2()?;
        host::expect_shape("rows of a sum", rows, &[slots.len(), width])?;
        if let Some(slot) = slots.iter().find(|&&slot| slot as usize >= count) {
            candle_core::bail!("row {slot} of a sum with {count} rows");
        }
        if cuda::takes(rows) {
            return cuda::rows::add_by_slot(self.tensor()?, slots, rows);
        }
        let rows = rows.to_dtype(DType::F32)?;
        if cuda::takes(&rows) {
            return cuda::rows::add_by_slot(self.tensor()?, slots, &rows);
        }
        host::with(&rows, |rows| {
            self.edit(|sum| {
                // One thread: the order of additions is the order of tokens, and memory is the limit anyway.
                for (row, &slot) in rows.chunks_exact(width).zip(slots) {
                    let slot = slot as usize * width;
                    sum[slot..slot + width].iter_mut().zip(row).for_each(|(s, r)| *s += r);
                }
            })
        })?
    }

    /// Sum of squares in f64, in one order whatever the thread count.
    pub fn sum_of_squares(&self) -> Result<f64> {
        Ok(Self::sums_of_squares(&[self])?[0])
    }

    /// [`Accumulator::sum_of_squares`] of several sums, for which a GPU is waited for once.
    pub fn sums_of_squares(sums: &[&Self]) -> Result<Vec<f64>> {
        let of = |values: &[f32]| -> f64 {
            let partials: Vec<f64> = values.par_chunks(1 << 14).map(squares).collect();
            partials.iter().sum()
        };
        let mut totals = vec![0.0; sums.len()];
        let mut elsewhere = Vec::new();
        for (i, sum) in sums.iter().enumerate() {
            match sum.sum.get() {
                None => {}
                Some(values) if sum.is_on_host() => totals[i] = host::with(values, of)?,
                Some(values) => elsewhere.push((i, values)),
            }
        }
        let values: Vec<&Tensor> = elsewhere.iter().map(|(_, values)| *values).collect();
        for ((i, _), total) in elsewhere.iter().zip(cuda::rows::sums_of_squares(&values)?) {
            totals[*i] = total;
        }
        Ok(totals)
    }

    fn edit(&self, f: impl FnOnce(&mut [f32])) -> Result<()> {
        edit(self.tensor()?, f)
    }
}

vectorized! {
fn add_rows_to(sum: &mut [f32], rows: &[f32]) {
    for row in rows.chunks_exact(sum.len()) {
        sum.iter_mut().zip(row).for_each(|(s, r)| *s += r);
    }
}
}

vectorized! {
fn squares(values: &[f32]) -> f64 {
    // Squared in f64: the square of a large f32 is none.
    let mut lanes = [0.0f64; 16];
    let (blocks, rest) = values.as_chunks::<16>();
    for block in blocks {
        for (lane, &value) in lanes.iter_mut().zip(block) {
            *lane += f64::from(value) * f64::from(value);
        }
    }
    for (lane, &value) in lanes.iter_mut().zip(rest) {
        *lane += f64::from(value) * f64::from(value);
    }
    lanes.iter().sum()
}
}

/// Lets `f` rewrite the values of a CPU f32 tensor in place, and returns what it returns.
pub fn edit<R>(tensor: &Tensor, f: impl FnOnce(&mut [f32]) -> R) -> Result<R> {
    edit_values(tensor, f)
}

/// [`edit`] for a u8 tensor.
pub fn edit_bytes<R>(tensor: &Tensor, f: impl FnOnce(&mut [u8]) -> R) -> Result<R> {
    edit_values(tensor, f)
}

trait Value: Sized {
    fn values(storage: &mut CpuStorage) -> Option<&mut [Self]>;
}

impl Value for f32 {
    fn values(storage: &mut CpuStorage) -> Option<&mut [Self]> {
        if let CpuStorage::F32(values) = storage { Some(values) } else { None }
    }
}

impl Value for u8 {
    fn values(storage: &mut CpuStorage) -> Option<&mut [Self]> {
        if let CpuStorage::U8(values) = storage { Some(values) } else { None }
    }
}

fn edit_values<T: Value, R>(tensor: &Tensor, f: impl FnOnce(&mut [T]) -> R) -> Result<R> {
    struct Edit<T, F, R> {
        f: Cell<Option<F>>,
        result: Cell<Option<R>>,
        values: PhantomData<T>,
    }
    impl<T: Value, F: FnOnce(&mut [T]) -> R, R> InplaceOp1 for Edit<T, F, R> {
        fn name(&self) -> &'static str {
            "edit"
        }
        fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
            match (T::values(storage), layout.contiguous_offsets(), self.f.take()) {
                (Some(values), Some((start, end)), Some(f)) => {
                    self.result.set(Some(f(&mut values[start..end])));
                    Ok(())
                }
                _ => candle_core::bail!(
                    "only a contiguous tensor on the CPU can be edited in place, and as the type that it has"
                ),
            }
        }
    }
    let edit = Edit { f: Cell::new(Some(f)), result: Cell::new(None), values: PhantomData };
    tensor.inplace_op1(&edit)?;
    edit.result.into_inner().ok_or_else(|| candle_core::Error::Msg("the values were not edited".into()))
}

/// [`edit`] for several tensors at once, which must be different ones.
fn edit_all(tensors: &[&Tensor], f: impl FnOnce(&mut [&mut [f32]])) -> Result<()> {
    fn collect(
        tensors: &[&Tensor],
        values: Vec<&mut [f32]>,
        f: &mut dyn FnMut(&mut [&mut [f32]]),
    ) -> Result<()> {
        let Some((first, others)) = tensors.split_first() else {
            let mut values = values;
            f(&mut values);
            return Ok(());
        };
        edit(first, |first| collect(others, values.into_iter().chain([first]).collect(), f))?
    }
    let mut f = Some(f);
    collect(tensors, Vec::new(), &mut |values| {
        if let Some(f) = f.take() {
            f(values);
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_products_and_rows_in_place() -> Result<()> {
        let cpu = Device::Cpu;
        let like = Tensor::zeros(1, DType::F32, &cpu)?;
        let mut acc = Accumulator::zeros((2, 3), &like);
        let dy = Tensor::new(&[[1f32, 2.], [3., 4.]], &cpu)?;
        let x = Tensor::new(&[[1f32, 0., 1.], [0., 1., 1.]], &cpu)?;
        Accumulator::add_transposed_products([(&acc, &dy)], &x, std::slice::from_ref(&(0..2)))?;
        Accumulator::add_transposed_products([(&acc, &dy)], &x, &[0..1, 1..2])?;
        assert_eq!(acc.tensor()?.to_vec2::<f32>()?, [[2., 6., 8.], [4., 8., 12.]]);
        acc.add_rows(&[1, 1], &x)?;
        acc.add(&Tensor::ones((2, 3), DType::F32, &cpu)?)?;
        assert_eq!(acc.tensor()?.to_vec2::<f32>()?, [[3., 7., 9.], [6., 10., 15.]]);
        let squares = acc.tensor()?.sqr()?.sum_all()?.to_scalar::<f32>()?;
        assert_eq!(acc.sum_of_squares()?, f64::from(squares));
        acc.release();
        assert_eq!(acc.sum_of_squares()?, 0.0);
        assert_eq!(acc.tensor()?.to_vec2::<f32>()?, [[0.0; 3]; 2]);
        Ok(())
    }
}
