//! AdamW in one pass: moments, master and the compute copy of it.

use super::launch::{Arg, BLOCK, Launch, typed};
use candle_core::{DType, Result, Tensor};

/// The tensors that an update reads and writes, all of one shape but for the gradient of rows.
#[derive(Clone, Copy)]
pub(crate) struct State<'a> {
    /// f32
    pub master: &'a Tensor,
    /// The master in the compute dtype, where that is bf16: written along.
    pub compute: Option<&'a Tensor>,
    /// f32
    pub gradient: &'a Tensor,
}

/// Row gradients of a table.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    /// The gradient's row of each row of the table, [V], or `u32::MAX` where there is none.
    pub slots: &'a Tensor,
    /// Which rows a gradient ever reached, [V], u8: kept by the kernel.
    pub reached: &'a Tensor,
}

/// The numbers of an update, in the order of the kernels' arguments.
pub(crate) type Scalars = [f32; 9];

fn name(kernel: &str, compute: Option<&Tensor>) -> Result<String> {
    typed(kernel, compute.map_or(DType::F32, Tensor::dtype))
}

/// Updates with moments in f32.
pub(crate) fn update(
    state: State,
    moments: [&Tensor; 2],
    rows: Option<Rows>,
    scalars: Scalars,
) -> Result<()> {
    let State { master, compute, gradient } = state;
    let [first, second] = moments;
    let mut args = vec![Arg::Values(master), Arg::Values(first), Arg::Values(second), Arg::Values(gradient)];
    let launch = match rows {
        None => {
            let n = master.elem_count();
            args.extend([Arg::optional(compute), Arg::Long(n)]);
            Launch::striding(name("adamw", compute)?, n)?
        }
        Some(Rows { slots, reached }) => {
            let (height, width) = master.dims2()?;
            args.extend([Arg::Values(slots), Arg::Values(reached), Arg::optional(compute)]);
            args.extend([Arg::Int(height), Arg::Int(width)]);
            Launch::new(name("adamw_rows", compute)?, [height, 1])?
        }
    };
    args.extend(scalars.map(Arg::Float));
    launch.run(master.device(), &args)
}

/// Moments of 8 bits with their scales, and what the codes stand for.
#[derive(Clone, Copy)]
pub(crate) struct Quantized<'a> {
    /// Codes of the first and of the second moment, u8.
    pub codes: [&'a Tensor; 2],
    /// The scale of every block of 256 values, f32.
    pub scales: [&'a Tensor; 2],
    /// The values of the 256 codes, f32.
    pub maps: [&'a Tensor; 2],
}

/// Updates with moments of 8 bits; `slots` as in [`Rows`].
pub(crate) fn update_8bit(
    state: State,
    moments: Quantized,
    slots: Option<&Tensor>,
    scalars: Scalars,
) -> Result<()> {
    let State { master, compute, gradient } = state;
    let n = master.elem_count();
    let width = master.dims().last().copied().unwrap_or(1);
    let mut args = vec![Arg::Values(master)];
    for pair in [moments.codes, moments.scales, moments.maps] {
        args.extend(pair.map(Arg::Values));
    }
    args.extend([Arg::Values(gradient), Arg::optional(slots), Arg::optional(compute)]);
    args.extend([Arg::Long(n), Arg::Int(width)]);
    args.extend(scalars.map(Arg::Float));
    let launch = Launch::new(name("adamw_8bit", compute)?, [n.div_ceil(BLOCK as usize), 1])?;
    launch.run(master.device(), &args)
}
