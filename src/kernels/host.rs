//! Borrowing the f32 values of CPU tensors.

use candle_core::{CpuStorage, DType, Device, Result, Shape, Storage, Tensor};
use rayon::prelude::*;
use std::ops::Range;

/// Whether the fused CPU kernels apply.
pub(crate) fn is_host_f32(t: &Tensor) -> bool {
    t.device().is_cpu() && t.dtype() == DType::F32
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

/// A CPU tensor around `values`, without a copy.
pub(crate) fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> Result<Tensor> {
    Tensor::from_vec(values, shape.into(), &Device::Cpu)
}

/// Rows per task: enough work to be worth a task, and the same split whatever the thread count, so that
/// reductions add in one order.
pub(crate) const ROWS_PER_TASK: usize = 32;

/// Sums `columns` values over rows: partials of [`ROWS_PER_TASK`] rows each, added in order, so that the result does
/// not depend on the number of threads.
pub(crate) fn sum_over_rows(
    rows: Range<usize>,
    columns: usize,
    add_row: impl Fn(usize, &mut [f32]) + Sync,
) -> Vec<f32> {
    let partials: Vec<Vec<f32>> = (0..rows.len().div_ceil(ROWS_PER_TASK))
        .into_par_iter()
        .map(|task| {
            let mut partial = vec![0.0; columns];
            let start = rows.start + task * ROWS_PER_TASK;
            for row in start..(start + ROWS_PER_TASK).min(rows.end) {
                add_row(row, &mut partial);
            }
            partial
        })
        .collect();
    let mut sum = vec![0.0; columns];
    for partial in partials {
        sum.iter_mut().zip(partial).for_each(|(s, p)| *s += p);
    }
    sum
}
