//! The update of a parameter whose moments are kept in eight bits: dequantized, advanced in f32 with the parameter, and
//! quantized again, block by block. The parameter moves by the new moments as they are before they are quantized.

use super::Update;
use super::plain::decay_slice;
use crate::kernels::accumulator::{edit, edit_bytes};
use crate::kernels::host;
use crate::optim::Gradient;
use crate::optim::moments::Quantized;
use crate::optim::quantized::{BLOCK, Code, SIGNED, SIGNED_ZERO, UNSIGNED};
use candle_core::{Result, Var};
use rayon::prelude::*;

const BLOCKS_PER_TASK: usize = 64;

/// # Shapes
/// The gradient is of the parameter's shape, or rows of it.
pub(super) fn update(
    u: Update,
    parameter: &Var,
    moments: [&Quantized; 2],
    gradient: &Gradient,
) -> Result<()> {
    let sum = gradient.sum().tensor()?;
    let rows = match gradient {
        Gradient::Dense(_) => None,
        Gradient::Rows { rows, .. } => Some(rows.as_slice()),
    };
    let width = sum.dims().last().copied().unwrap_or(1);
    with_state(parameter, moments, |p, first, second| {
        host::with(sum, |g| {
            let task = BLOCKS_PER_TASK * BLOCK;
            let tasks = p.par_chunks_mut(task).zip(tasks_of(first)).zip(tasks_of(second)).enumerate();
            tasks.for_each(|(i, ((p, first), second))| match rows {
                None => update_blocks(u, p, &g[i * task..][..p.len()], first, second, &SIGNED, &UNSIGNED),
                Some(rows) => update_rows(u, i * task, p, rows, (g, width), first, second),
            });
        })
    })
}

/// One moment's part of some blocks.
struct Part<'a> {
    codes: &'a mut [u8],
    scales: &'a mut [f32],
}

fn tasks_of<'a>(moment: Part<'a>) -> impl IndexedParallelIterator<Item = Part<'a>> {
    let codes = moment.codes.par_chunks_mut(BLOCKS_PER_TASK * BLOCK);
    let scales = moment.scales.par_chunks_mut(BLOCKS_PER_TASK);
    codes.zip(scales).map(|(codes, scales)| Part { codes, scales })
}

/// The dense update of blocks that start at value `start` of a table, where only `rows` have a gradient. A block that
/// no gradient ever reached is not touched but for its parameters' decay.
fn update_rows(
    u: Update,
    start: usize,
    p: &mut [f32],
    rows: &[u32],
    (sum, width): (&[f32], usize),
    first: Part,
    second: Part,
) {
    let blocks = p.chunks_mut(BLOCK).zip(blocks_of(first)).zip(blocks_of(second)).enumerate();
    for (i, ((p, first), second)) in blocks {
        let begin = start + i * BLOCK;
        let end = begin + p.len();
        // The slots whose rows have a part in this block.
        let from = rows.partition_point(|&row| (row as usize + 1) * width <= begin);
        let to = rows.partition_point(|&row| (row as usize) * width < end);
        if from == to && first.scales[0] == 0.0 && second.scales[0] == 0.0 {
            if u.decay != 1.0 {
                decay_slice(u.decay, p);
            }
            continue;
        }
        let mut g = [0.0; BLOCK];
        for (slot, &row) in rows.iter().enumerate().take(to).skip(from) {
            let row = row as usize * width;
            let (left, right) = (row.max(begin), (row + width).min(end));
            let values = &sum[slot * width..][left - row..right - row];
            g[left - begin..right - begin].copy_from_slice(values);
        }
        update_blocks(u, p, &g[..end - begin], first, second, &SIGNED, &UNSIGNED);
    }
}

fn blocks_of<'a>(moment: Part<'a>) -> impl Iterator<Item = Part<'a>> {
    let blocks = moment.codes.chunks_mut(BLOCK).zip(moment.scales.chunks_mut(1));
    blocks.map(|(codes, scales)| Part { codes, scales })
}

/// Updates whole blocks, the parameter's last one apart.
///
/// Not compiled for AVX-512, whose gathers are slower than as many loads.
#[multiversion::multiversion(targets("x86_64+avx2"))]
fn update_blocks(
    u: Update,
    p: &mut [f32],
    g: &[f32],
    first: Part,
    second: Part,
    signed: &Code,
    unsigned: &Code,
) {
    let (mut m, mut v) = ([0.0; BLOCK], [0.0; BLOCK]);
    let blocks = p.chunks_mut(BLOCK).zip(g.chunks(BLOCK));
    let first = first.codes.chunks_mut(BLOCK).zip(first.scales);
    let second = second.codes.chunks_mut(BLOCK).zip(second.scales);
    for (((p, g), (m_codes, m_scale)), (v_codes, v_scale)) in blocks.zip(first).zip(second) {
        let (m, v) = (&mut m[..p.len()], &mut v[..p.len()]);
        signed.dequantize(m_codes, *m_scale, m);
        unsigned.dequantize(v_codes, *v_scale, v);
        for (((p, m), v), g) in p.iter_mut().zip(&mut *m).zip(&mut *v).zip(g) {
            u.apply(p, m, v, *g);
        }
        *m_scale = signed.quantize(m, m_codes);
        *v_scale = unsigned.quantize(v, v_codes);
        if *m_scale > 0.0 && *v_scale > 0.0 {
            keep_second_positive(m_codes, v_codes);
        }
    }
}

/// Where a first moment is not zero its second one is not either, but the smallest positive value at least: of a value
/// whose gradient is small beside its block's largest, the code of the square is zero long before that of the gradient
/// is, and first / (sqrt(0) + eps) is no update but a kick.
#[inline(always)]
fn keep_second_positive(m_codes: &[u8], v_codes: &mut [u8]) {
    for (v, m) in v_codes.iter_mut().zip(m_codes) {
        *v = (*v).max(u8::from(*m != SIGNED_ZERO));
    }
}

/// Lends the values of a parameter and its moments.
fn with_state(
    parameter: &Var,
    [first, second]: [&Quantized; 2],
    f: impl FnOnce(&mut [f32], Part, Part) -> Result<()>,
) -> Result<()> {
    edit(parameter, |p| with_moment(first, |first| with_moment(second, |second| f(p, first, second))))???
}

fn with_moment<R>(moment: &Quantized, f: impl FnOnce(Part) -> R) -> Result<R> {
    edit_bytes(&moment.codes, |codes| edit(&moment.scales, |scales| f(Part { codes, scales })))?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::test_support::wave;
    use crate::optim::config::MomentKind;
    use crate::optim::{AdamW, Config, Gradients, Moments, Parameters};
    use candle_core::{DType, Device, Tensor};

    /// Three tasks, and blocks that span rows and end in the middle of one.
    const SHAPE: (usize, usize) = (500, 67);
    const COUNT: usize = SHAPE.0 * SHAPE.1;
    const UPDATES: [(f64, f64); 3] = [(0.01, 1.0), (0.02, 0.5), (0.01, 1.0)];

    fn config(weight_decay: f64) -> Config {
        Config { weight_decay, moments: MomentKind::EightBit, ..Config::default() }
    }

    fn parameters() -> Result<Parameters> {
        let mut parameters = Parameters::new(DType::F32);
        parameters.add("table", &wave(SHAPE, 0.4)?, true)?;
        Ok(parameters)
    }

    /// Parameter, codes and scales, as bits.
    fn state(parameters: &Parameters, optimizer: &AdamW) -> Result<[Vec<u32>; 5]> {
        let Some(Moments::EightBit { first, second }) = &optimizer.moments()[0] else {
            panic!("moments in eight bits")
        };
        let floats = |var: &Var| -> Result<Vec<u32>> {
            Ok(var.flatten_all()?.to_vec1::<f32>()?.into_iter().map(f32::to_bits).collect())
        };
        let codes = |var: &Var| -> Result<Vec<u32>> {
            Ok(var.flatten_all()?.to_vec1::<u8>()?.into_iter().map(u32::from).collect())
        };
        let (_, parameter) = parameters.iter().next().unwrap();
        Ok([
            floats(parameter.master())?,
            codes(&first.codes)?,
            floats(&first.scales)?,
            codes(&second.codes)?,
            floats(&second.scales)?,
        ])
    }

    fn dense_run(weight_decay: f64) -> Result<[Vec<u32>; 5]> {
        let mut parameters = parameters()?;
        let gradients = Gradients::zeros(&parameters, &[])?;
        gradients.sum(parameters.id("table").unwrap()).add(&wave(SHAPE, 1.7)?)?;
        let mut optimizer = AdamW::new(&config(weight_decay), &parameters)?;
        for (rate, scale) in UPDATES {
            optimizer.step(&mut parameters, &gradients, rate, scale)?;
        }
        state(&parameters, &optimizer)
    }

    #[test]
    fn moments_are_advanced_in_f32_and_quantized_after_the_parameter_moved() -> Result<()> {
        let values = |t: &Tensor| t.flatten_all()?.to_vec1::<f32>();
        let (mut p, g) = (values(&wave(SHAPE, 0.4)?)?, values(&wave(SHAPE, 1.7)?)?);
        let (mut m, mut v) = (vec![0.0f32; COUNT], vec![0.0f32; COUNT]);
        let mut expected: [Vec<u32>; 5] = Default::default();
        for (t, (rate, scale)) in (1..).zip(UPDATES) {
            let u = Update {
                decay: (1.0 - rate * 0.1) as f32,
                beta1: 0.9,
                beta2: 0.999,
                complement1: (1.0 - 0.9) as f32,
                complement2: (1.0 - 0.999) as f32,
                step_size: (rate / (1.0 - 0.9f64.powf(f64::from(t)))) as f32,
                inverse_sqrt_correction2: (1.0 / (1.0 - 0.999f64.powf(f64::from(t))).sqrt()) as f32,
                eps: 1e-8,
                scale: scale as f32,
            };
            for i in 0..COUNT {
                u.apply(&mut p[i], &mut m[i], &mut v[i], g[i]);
            }
            expected = Default::default();
            expected[0] = p.iter().map(|p| p.to_bits()).collect();
            for (moment, code, at) in [(&mut m, &*SIGNED, 1), (&mut v, &*UNSIGNED, 3)] {
                for (number, block) in moment.chunks_mut(BLOCK).enumerate() {
                    let largest = block.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
                    expected[at + 1].push(largest.to_bits());
                    for (i, value) in block.iter_mut().enumerate() {
                        let mut nearest = code.nearest(*value / largest);
                        if at == 3 && expected[1][number * BLOCK + i] != u32::from(SIGNED_ZERO) {
                            nearest = nearest.max(1);
                        }
                        *value = code.values()[nearest as usize] * largest;
                        expected[at].push(nearest);
                    }
                }
            }
        }
        assert!(dense_run(0.1)? == expected);
        Ok(())
    }

    #[test]
    fn row_gradients_give_the_dense_update_and_rows_never_reached_take_no_part() -> Result<()> {
        for weight_decay in [0.0, 0.1] {
            let (mut dense, mut sparse) = (parameters()?, parameters()?);
            let table = dense.id("table").unwrap();
            let mut dense_gradients = Gradients::zeros(&dense, &[])?;
            let mut sparse_gradients = Gradients::zeros(&sparse, &[table])?;
            let mut optimizers =
                (AdamW::new(&config(weight_decay), &dense)?, AdamW::new(&config(weight_decay), &sparse)?);
            let Some(Moments::EightBit { first, .. }) = &optimizers.1.moments()[0] else { panic!() };
            let codes = first.codes.clone();
            // In a block that no row of the table reaches: codes without a scale stand for zeros.
            edit_bytes(&codes, |codes| codes[400 * 67..401 * 67].fill(9))?;
            for rows in [vec![0u32, 1, 4, 5, 120, 499], vec![3, 4, 121], vec![], vec![4]] {
                let values = wave((rows.len(), SHAPE.1), 0.8)?;
                dense_gradients.start_step(&[])?;
                dense_gradients.add_rows(table, &rows, &values)?;
                sparse_gradients.start_step(&rows)?;
                sparse_gradients.add_rows(table, &rows, &values)?;
                optimizers.0.step(&mut dense, &dense_gradients, 0.01, 0.7)?;
                optimizers.1.step(&mut sparse, &sparse_gradients, 0.01, 0.7)?;
            }
            let untouched = edit_bytes(&codes, |codes| {
                let row = &mut codes[400 * 67..401 * 67];
                let untouched = row.iter().all(|code| *code == 9);
                row.fill(0);
                untouched
            })?;
            assert!(untouched, "codes of a row that no gradient reached were written");
            assert!(state(&dense, &optimizers.0)? == state(&sparse, &optimizers.1)?);
        }
        Ok(())
    }

    /// AdamW moves a value by the learning rate at most once its gradients end, whatever the sizes of its block's.
    #[test]
    fn a_value_that_was_touched_once_goes_on_by_the_rate_at_most() -> Result<()> {
        const RATE: f64 = 1e-3;
        for largest in [1e-1, 1e-2, 1e-3, 1e-4] {
            // The size of each value's gradient, from the largest down to a millionth of it, and of either sign.
            let size = |i: usize| largest * 10f64.powf(-6.0 * (i % 251) as f64 / 250.0);
            let gradient = |i: usize| (if i.is_multiple_of(3) { -size(i) } else { size(i) }) as f32;
            let (rows, values) = ([3u32, 4, 5, 20], |from: usize| {
                Tensor::from_vec(
                    (0..SHAPE.1).map(|i| gradient(from * SHAPE.1 + i)).collect(),
                    (1, SHAPE.1),
                    &Device::Cpu,
                )
            });
            let values = Tensor::cat(&(0..rows.len()).map(values).collect::<Result<Vec<_>>>()?, 0)?;
            for as_rows in [true, false] {
                let mut parameters = Parameters::new(DType::F32);
                let table =
                    parameters.add("table", &Tensor::zeros(SHAPE, DType::F32, &Device::Cpu)?, false)?;
                let sparse = if as_rows { &[table][..] } else { &[] };
                let mut gradients = Gradients::zeros(&parameters, sparse)?;
                let mut optimizer = AdamW::new(&config(0.0), &parameters)?;
                let mut before = vec![0.0f32; COUNT];
                for touched in [true, false, false] {
                    let rows = if touched { &rows[..] } else { &[] };
                    gradients.start_step(rows)?;
                    if touched {
                        gradients.add_rows(table, rows, &values)?;
                    }
                    optimizer.step(&mut parameters, &gradients, RATE, 1.0)?;
                    let after = parameters.get(table).master().flatten_all()?.to_vec1::<f32>()?;
                    let moved =
                        after.iter().zip(&before).map(|(after, before)| f64::from(after - before).abs());
                    let most = moved.fold(0.0, f64::max);
                    assert!(most <= 1.001 * RATE, "moved by {} rates at {largest}", most / RATE);
                    assert!(touched || most > 0.1 * RATE, "momentum moves on");
                    before = after;
                }
            }
        }
        Ok(())
    }

    #[test]
    fn threads_do_not_change_the_result() -> Result<()> {
        let with = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| dense_run(0.1))
        };
        assert!(with(1)? == with(3)?);
        Ok(())
    }
}
