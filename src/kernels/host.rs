//! Borrowing the f32 values of CPU tensors.

use super::cuda;
use candle_core::{CpuStorage, DType, Device, Result, Shape, Storage, Tensor};
use std::mem::MaybeUninit;
use std::ops::Range;

/// An error that names both shapes unless `t` has this one. The CPU kernels write every value of a result because their
/// inputs have the shapes that they say.
pub(crate) fn expect_shape(what: &str, t: &Tensor, shape: &[usize]) -> Result<()> {
    if t.dims() != shape {
        candle_core::bail!("{what}: found shape {:?}, expected {shape:?}", t.dims());
    }
    Ok(())
}

/// Whether the fused CPU kernels apply.
pub(crate) fn is_host_f32(t: &Tensor) -> bool {
    t.device().is_cpu() && t.dtype() == DType::F32 && !cuda::is_emulated()
}

/// Calls `f` with the values of a CPU f32 tensor in row-major order. Copies only if the tensor is strided.
pub(crate) fn with<R>(t: &Tensor, f: impl FnOnce(&[f32]) -> R) -> Result<R> {
    let t = t.contiguous()?;
    let (storage, layout) = t.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::F32(values)), Some((start, end))) => Ok(f(&values[start..end])),
        _ => {
            candle_core::bail!("expected an f32 tensor on the CPU, found {:?} on {:?}", t.dtype(), t.device())
        }
    }
}

/// [`with`] for several tensors at once.
pub(crate) fn with_all<R>(tensors: &[&Tensor], f: impl FnOnce(&[&[f32]]) -> R) -> Result<R> {
    fn collect(tensors: &[&Tensor], values: &[&[f32]], f: &mut dyn FnMut(&[&[f32]])) -> Result<()> {
        match tensors.split_first() {
            None => f(values),
            Some((first, others)) => {
                with(first, |first| collect(others, &[values, &[first]].concat(), f))??;
            }
        }
        Ok(())
    }
    let (mut f, mut result) = (Some(f), None);
    collect(tensors, &[], &mut |values| result = f.take().map(|f| f(values)))?;
    result.ok_or_else(|| candle_core::Error::Msg("no tensors were borrowed".into()))
}

/// Values that a kernel is about to write, every one of them.
pub(crate) struct Output(Vec<MaybeUninit<f32>>);

impl Output {
    pub(crate) fn new(count: usize) -> Self {
        let mut values = Vec::with_capacity(count);
        // SAFETY: the capacity is there, and a `MaybeUninit` needs no value.
        unsafe { values.set_len(count) };
        Self(values)
    }

    pub(crate) fn values(&mut self) -> &mut [MaybeUninit<f32>] {
        &mut self.0
    }

    pub(crate) fn truncate(&mut self, count: usize) {
        self.0.truncate(count);
    }

    /// # Safety
    /// Every value must have been written.
    pub(crate) unsafe fn into_tensor(self, shape: impl Into<Shape>) -> Result<Tensor> {
        let mut values = std::mem::ManuallyDrop::new(self.0);
        // SAFETY: the parts are those of a vector of the same layout, whose values are there by the contract above.
        let values = unsafe {
            Vec::from_raw_parts(values.as_mut_ptr().cast::<f32>(), values.len(), values.capacity())
        };
        tensor(values, shape)
    }
}

/// A CPU tensor around `values`, without a copy.
pub(crate) fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> Result<Tensor> {
    Tensor::from_vec(values, shape.into(), &Device::Cpu)
}

/// Rows per task: enough work to be worth a task, and the same split whatever the thread count, so that
/// reductions add in one order.
pub(crate) const ROWS_PER_TASK: usize = 32;

/// `rows` in runs of [`ROWS_PER_TASK`].
pub(crate) fn row_tasks(rows: &Range<usize>) -> impl Iterator<Item = Range<usize>> + use<> {
    let end = rows.end;
    rows.clone().step_by(ROWS_PER_TASK).map(move |start| start..(start + ROWS_PER_TASK).min(end))
}

/// The sum of `f` over slices of one length, in f64 over sixteen lanes, whatever the width of a vector.
#[inline(always)]
pub(crate) fn lane_sum<const K: usize>(slices: [&[f32]; K], f: impl Fn([f32; K]) -> f32) -> f64 {
    const LANES: usize = 16;
    let mut lanes = [0.0f64; LANES];
    let count = slices.iter().map(|slice| slice.len()).min().unwrap_or(0);
    let slices = slices.map(|slice| &slice[..count]);
    let whole = count / LANES * LANES;
    for start in (0..whole).step_by(LANES) {
        let block = slices.map(|slice| &slice[start..start + LANES]);
        for (lane, sum) in lanes.iter_mut().enumerate() {
            *sum += f64::from(f(block.map(|block| block[lane])));
        }
    }
    for i in whole..count {
        lanes[i - whole] += f64::from(f(slices.map(|slice| slice[i])));
    }
    lanes.iter().sum()
}
