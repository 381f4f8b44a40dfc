//! The update of a parameter whose moments are f32.

use super::Update;
use crate::kernels::accumulator::edit;
use crate::kernels::{Accumulator, host, vectorized};
use crate::optim::Gradient;
use candle_core::{Result, Var};
use rayon::prelude::*;

const VALUES_PER_TASK: usize = 1 << 14;
/// Rows of a table, at least.
const ROWS_PER_TASK: usize = 32;

pub(super) fn update(
    update: Update,
    parameter: &Var,
    moments: [&Var; 2],
    reached: &mut Option<Vec<bool>>,
    gradient: &Gradient,
) -> Result<()> {
    match gradient {
        Gradient::Dense(sum) => {
            *reached = None;
            update_dense(update, parameter, moments, sum)
        }
        Gradient::Rows { rows, sum } => update_rows(update, parameter, moments, reached, rows, sum),
    }
}

vectorized! {
/// Updates slices of one length: parameter, moments and gradient.
fn update_slice(u: Update, p: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32]) {
    for (((p, m), v), g) in p.iter_mut().zip(m).zip(v).zip(g) {
        u.apply(p, m, v, *g);
    }
}
}

vectorized! {
/// [`update_slice`] for a gradient of zero.
fn update_without_gradient(u: Update, p: &mut [f32], m: &mut [f32], v: &mut [f32]) {
    for ((p, m), v) in p.iter_mut().zip(m).zip(v) {
        u.apply(p, m, v, 0.0);
    }
}
}

vectorized! {
/// [`update_slice`] for a gradient of zero and moments of zero.
pub(super) fn decay_slice(decay: f32, p: &mut [f32]) {
    p.iter_mut().for_each(|p| *p *= decay);
}
}

fn update_dense(u: Update, parameter: &Var, moments: [&Var; 2], sum: &Accumulator) -> Result<()> {
    with_state(parameter, moments, |p, m, v| {
        host::with(sum.tensor()?, |g| {
            let chunks = p.par_chunks_mut(VALUES_PER_TASK).zip(m.par_chunks_mut(VALUES_PER_TASK));
            let chunks = chunks.zip(v.par_chunks_mut(VALUES_PER_TASK)).zip(g.par_chunks(VALUES_PER_TASK));
            chunks.for_each(|(((p, m), v), g)| update_slice(u, p, m, v, g));
        })
    })
}

/// Dense AdamW, where only `rows` have a gradient.
fn update_rows(
    u: Update,
    parameter: &Var,
    moments: [&Var; 2],
    reached: &mut Option<Vec<bool>>,
    rows: &[u32],
    sum: &Accumulator,
) -> Result<()> {
    let width = sum.tensor()?.dim(1)?;
    with_state(parameter, moments, |p, m, v| {
        let is_moving = |(m, v): (&[f32], &[f32])| m.iter().chain(v).any(|&moment| moment != 0.0);
        let reached = reached.get_or_insert_with(|| {
            m.par_chunks(width).zip(v.par_chunks(width)).map(is_moving).collect::<Vec<bool>>()
        });
        for &row in rows {
            reached[row as usize] = true;
        }
        host::with(sum.tensor()?, |g| {
            let rows_of = |values| <[f32]>::par_chunks_mut(values, width);
            let table = rows_of(p).zip(rows_of(m)).zip(rows_of(v)).zip(&*reached).enumerate();
            table.with_min_len(ROWS_PER_TASK).for_each(|(row, (((p, m), v), &reached))| {
                match rows.binary_search(&(row as u32)) {
                    Ok(slot) => update_slice(u, p, m, v, &g[slot * width..][..width]),
                    // It still moves on its old moments.
                    Err(_) if reached => update_without_gradient(u, p, m, v),
                    Err(_) if u.decay != 1.0 => decay_slice(u.decay, p),
                    Err(_) => {}
                }
            });
        })
    })
}

/// Lends the values of a parameter and its moments, all three mutable.
fn with_state(
    parameter: &Var,
    [first, second]: [&Var; 2],
    f: impl FnOnce(&mut [f32], &mut [f32], &mut [f32]) -> Result<()>,
) -> Result<()> {
    edit(parameter, |p| edit(first, |m| edit(second, |v| f(p, m, v))))???
}

/// The update out of candle operations: the reference.
#[cfg(test)]
pub(super) fn update_composed(
    u: Update,
    parameter: &Var,
    [first, second]: [&Var; 2],
    gradient: &Gradient,
) -> Result<()> {
    use candle_core::Tensor;
    let dense;
    let g: &Tensor = match gradient {
        Gradient::Dense(sum) => sum.tensor()?,
        Gradient::Rows { rows, sum } => {
            let rows = Tensor::new(rows.as_slice(), parameter.device())?;
            dense = parameter.zeros_like()?.index_add(&rows, sum.tensor()?, 0)?;
            &dense
        }
    };
    let [decay, beta1, beta2, complement1, complement2] =
        [u.decay, u.beta1, u.beta2, u.complement1, u.complement2].map(f64::from);
    let [step_size, correction, eps, scale] =
        [u.step_size, u.inverse_sqrt_correction2, u.eps, u.scale].map(f64::from);
    let g = (g * scale)?;
    let m = ((first.as_tensor() * beta1)? + (&g * complement1)?)?;
    let v = ((second.as_tensor() * beta2)? + (g.sqr()? * complement2)?)?;
    let denominator = ((v.sqrt()? * correction)? + eps)?;
    let p = ((parameter.as_tensor() * decay)? - ((&m / denominator)? * step_size)?)?;
    first.set(&m)?;
    second.set(&v)?;
    parameter.set(&p)
}
