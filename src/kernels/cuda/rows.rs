//! Rows and columns of matrices: gather, scatter, and the sums that gradients end in.

use super::launch::{Arg, BLOCK, Launch, striding_blocks, typed, unwritten};
use super::upload;
use crate::kernels::{Accumulator, Indices};
use candle_core::{DType, Device, Result, Tensor};

/// Rows of one partial sum over the rows of a matrix.
const ROWS_PER_PARTIAL: usize = 64;

/// Rows `rows` of `table` [V, H].
pub(crate) fn gather(table: &Tensor, rows: &Indices) -> Result<Tensor> {
    let width = table.dim(1)?;
    let out = unwritten((rows.len(), width), table.dtype(), table.device())?;
    let args = [
        Arg::Values(&out),
        Arg::Values(table),
        Arg::Values(rows.on(table.device())?),
        Arg::Int(rows.len()),
        Arg::Int(width),
    ];
    Launch::new(typed("gather_rows", table.dtype())?, [rows.len(), 1])?.run(table.device(), &args)?;
    Ok(out)
}

/// `dy` [S, H] in rows `rows` of zeros [height, H].
pub(crate) fn scatter(dy: &Tensor, rows: &Indices, height: usize) -> Result<Tensor> {
    let width = dy.dim(1)?;
    let out = Tensor::zeros((height, width), dy.dtype(), dy.device())?;
    let args = [
        Arg::Values(&out),
        Arg::Values(dy),
        Arg::Values(rows.on(dy.device())?),
        Arg::Int(rows.len()),
        Arg::Int(width),
    ];
    Launch::new(typed("scatter_rows", dy.dtype())?, [rows.len(), 1])?.run(dy.device(), &args)?;
    Ok(out)
}

/// Adds row i of `rows` [N, H] to row `slots[i]` of `sum` [U, H], f32: slot by slot, in the order of the rows.
pub(crate) fn add_by_slot(sum: &Tensor, slots: &[u32], rows: &Tensor) -> Result<()> {
    let (count, width) = sum.dims2()?;
    let mut offsets = vec![0u32; count + 1];
    for &slot in slots {
        offsets[slot as usize + 1] += 1;
    }
    for slot in 0..count {
        offsets[slot + 1] += offsets[slot];
    }
    let mut next = offsets.clone();
    let mut order = vec![0u32; slots.len()];
    for (row, &slot) in slots.iter().enumerate() {
        order[next[slot as usize] as usize] = row as u32;
        next[slot as usize] += 1;
    }
    let [offsets, order] =
        [offsets, order].map(|values| upload::numbers(&values, values.len(), sum.device()));
    let args = [
        Arg::Values(sum),
        Arg::Values(rows),
        Arg::Values(&offsets?),
        Arg::Values(&order?),
        Arg::Int(count),
        Arg::Int(width),
    ];
    Launch::new(typed("add_rows_by_slot", rows.dtype())?, [count, 1])?.run(sum.device(), &args)
}

/// `bias` [H] in every row, or `residual` [N, H], or their sum.
pub(crate) fn filled(
    rows: usize,
    width: usize,
    bias: Option<&Tensor>,
    residual: Option<&Tensor>,
    like: &Tensor,
) -> Result<Tensor> {
    let (n, device) = (rows * width, like.device());
    let y = unwritten((rows, width), like.dtype(), device)?;
    let args = [Arg::Values(&y), Arg::optional(bias), Arg::optional(residual), Arg::Long(n), Arg::Int(width)];
    Launch::striding(typed("fill_rows", like.dtype())?, n)?.run(device, &args)?;
    Ok(y)
}

/// Adds the sums over the rows of `x` [N, H] to `sum` [H].
pub(crate) fn add_column_sums(sum: &Accumulator, x: &Tensor) -> Result<()> {
    let (rows, width) = x.dims2()?;
    let blocks = rows.div_ceil(ROWS_PER_PARTIAL);
    let partials = unwritten((blocks, width), DType::F32, x.device())?;
    let args =
        [Arg::Values(&partials), Arg::Values(x), Arg::Int(rows), Arg::Int(width), Arg::Int(ROWS_PER_PARTIAL)];
    let grid = [width.div_ceil(BLOCK as usize), blocks];
    Launch::new(typed("column_sums", x.dtype())?, grid)?.run(x.device(), &args)?;
    add_partials(sum, &partials)
}

/// Adds partial sums [P, H] to `sum` [H].
pub(super) fn add_partials(sum: &Accumulator, partials: &Tensor) -> Result<()> {
    const COLUMNS: u32 = 32;
    let (count, width) = partials.dims2()?;
    let args = [Arg::Values(sum.tensor()?), Arg::Values(partials), Arg::Int(count), Arg::Int(width)];
    let launch = Launch::new("sum_partials", [width.div_ceil(COLUMNS as usize), 1])?;
    launch.block(COLUMNS, BLOCK / COLUMNS).run(partials.device(), &args)
}

/// Adds `term`, f32 or bf16, to `sum`, f32.
pub(crate) fn add(sum: &Tensor, term: &Tensor) -> Result<()> {
    let n = sum.elem_count();
    let args = [Arg::Values(sum), Arg::Values(term), Arg::Long(n)];
    Launch::striding(typed("add", term.dtype())?, n)?.run(sum.device(), &args)
}

/// Sums of squares of tensors, f32, in f64: all are enqueued before the first is waited for.
pub(crate) fn sums_of_squares(tensors: &[&Tensor]) -> Result<Vec<f64>> {
    let Some(device) = tensors.first().map(|tensor| tensor.device()) else { return Ok(Vec::new()) };
    let totals = Tensor::zeros(tensors.len(), DType::F64, device)?;
    for (i, tensor) in tensors.iter().enumerate() {
        let n = tensor.elem_count();
        let blocks = striding_blocks(n);
        if blocks == 0 {
            continue;
        }
        let partials = unwritten(blocks, DType::F64, device)?;
        let args = [Arg::Values(&partials), Arg::Values(tensor), Arg::Long(n)];
        Launch::new("squares_partials", [blocks, 1])?.run(device, &args)?;
        let args = [Arg::From(&totals, i), Arg::Values(&partials), Arg::Int(blocks)];
        Launch::new("squares_total", [1, 1])?.run(device, &args)?;
    }
    totals.to_vec1()
}

/// Draws from N(0, std), f32, a function of `seed` and the index alone.
pub(crate) fn draw_normal(count: usize, std: f32, seed: u64, device: &Device) -> Result<Tensor> {
    let out = unwritten(count, DType::F32, device)?;
    let args = [Arg::Values(&out), Arg::Long(count), Arg::Float(std), Arg::Seed(seed)];
    Launch::striding("draw_normal", count)?.run(device, &args)?;
    Ok(out)
}
