//! `y = x W^T (+ b)`, as `torch.nn.functional.linear`.
//!
//! On the CPU a row of the result depends on that row of the input alone, to the bit. Tiles sum in one order whatever
//! the number of rows. The `gemm` crate forms every dot product in blocks of the inner dimension whose size does not
//! depend on it either, save for small products, which take other paths; those are padded past the point where they
//! would. (Fewer than four output columns would be such a path too; the reward head, the only case, is
//! `model::reward_head`.)

use super::cuda::gemm::Operand;
#[cfg(target_arch = "x86_64")]
use super::gemm::amx;
use super::gemm::{Matrix, Threads, matmul_to};
use super::{Accumulator, cuda, host};
use candle_core::{Result, Tensor};
use rayon::prelude::*;
use std::borrow::Cow;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Fewer rows than this are padded with zeros. `gemm` 0.19 treats products of at most 64 x 64 differently.
const MIN_ROWS: usize = 65;

/// The weight of a layer [out, in], its bias [out], and what its result is added to, [N, out].
#[derive(Clone, Copy)]
pub struct Layer<'a> {
    pub weight: &'a Tensor,
    pub bias: Option<&'a Tensor>,
    pub residual: Option<&'a Tensor>,
}

/// `x` [N, in] through layers that share it, each to [N, out].
///
/// # Errors
/// If the shapes do not fit together.
pub fn forward<const K: usize>(x: &Tensor, layers: [Layer; K]) -> Result<[Tensor; K]> {
    let (n, inputs) = x.dims2()?;
    for Layer { weight, bias, residual } in layers {
        let outputs = weight.dim(0)?;
        host::expect_shape("weight of a layer", weight, &[outputs, inputs])?;
        bias.map_or(Ok(()), |bias| host::expect_shape("bias of a layer", bias, &[outputs]))?;
        residual.map_or(Ok(()), |residual| host::expect_shape("residual", residual, &[n, outputs]))?;
    }
    if cuda::takes(x) {
        return each(layers, |layer| cuda_forward(x, layer));
    }
    if !host::is_host_f32(x) {
        return each(layers, |layer| composed_forward(x, layer));
    }
    #[cfg(target_arch = "x86_64")]
    if suit(&layers)? {
        return host::with(x, |x| tiles::forward(x, layers))?;
    }
    host::with(x, |x| {
        each(layers, |Layer { weight, bias, residual }| {
            let outputs = weight.dim(0)?;
            let mut y = Rows::new(n, outputs);
            if let Some(residual) = residual {
                host::with(residual, |residual| y.start_from(residual))?;
            }
            if let Some(bias) = bias {
                host::with(bias, |bias| y.add_to_each(bias))?;
            }
            host::with(weight, |w| y.add_product(x, Matrix::new(w, outputs, inputs).transposed()))?;
            y.into_tensor()
        })
    })?
}

/// `f` of every item, or the first error.
fn each<T, const K: usize>(items: [T; K], f: impl FnMut(T) -> Result<Tensor>) -> Result<[Tensor; K]> {
    let done = items.into_iter().map(f).collect::<Result<Vec<_>>>()?;
    done.try_into().map_err(|_| candle_core::Error::Msg("as many results as items".into()))
}

fn cuda_forward(x: &Tensor, Layer { weight, bias, residual }: Layer) -> Result<Tensor> {
    let (rows, outputs) = (x.dim(0)?, weight.dim(0)?);
    let is_begun = bias.is_some() || residual.is_some();
    let y = match is_begun {
        true => cuda::rows::filled(rows, outputs, bias, residual, x)?,
        false => cuda::unwritten((rows, outputs), x.dtype(), x.device())?,
    };
    cuda::gemm::product(&y, is_begun, Operand::plain(x), Operand::transposed(weight))?;
    Ok(y)
}

fn composed_forward(x: &Tensor, Layer { weight, bias, residual }: Layer) -> Result<Tensor> {
    let mut y = x.matmul(&weight.t()?)?;
    if let Some(bias) = bias {
        y = y.broadcast_add(bias)?;
    }
    match residual {
        Some(residual) => residual + y,
        None => Ok(y),
    }
}

/// The gradient of the `x` [N, in] that several layers share: the sum of `dy` [N, out] times `weight` [out, in] over
/// the terms.
///
/// # Errors
/// Without any term, or if the shapes do not fit together.
pub fn input_gradient<const K: usize>(terms: [(&Tensor, &Tensor); K]) -> Result<Tensor> {
    let Some((dy, weight)) = terms.first() else { candle_core::bail!("a gradient of no term") };
    let (n, inputs) = (dy.dim(0)?, weight.dim(1)?);
    for (dy, weight) in terms {
        host::expect_shape("weight of a layer", weight, &[dy.dim(1)?, inputs])?;
        host::expect_shape("gradient of a layer's output", dy, &[n, weight.dim(0)?])?;
    }
    if cuda::takes(dy) {
        let dx = cuda::unwritten((n, inputs), dy.dtype(), dy.device())?;
        for (i, (dy, weight)) in terms.into_iter().enumerate() {
            cuda::gemm::product(&dx, i > 0, Operand::plain(dy), Operand::plain(weight))?;
        }
        return Ok(dx);
    }
    if !host::is_host_f32(dy) {
        let mut sum = dy.matmul(weight)?;
        for (dy, weight) in &terms[1..] {
            sum = (sum + dy.matmul(weight)?)?;
        }
        return Ok(sum);
    }
    let mut dx = Rows::new(n, inputs);
    for (dy, weight) in terms {
        let outputs = weight.dim(0)?;
        host::with(dy, |dy| {
            host::with(weight, |weight| dx.add_product(dy, Matrix::new(weight, outputs, inputs)))
        })??;
    }
    dx.into_tensor()
}

/// What the weight and the bias of one layer receive.
#[derive(Clone, Copy)]
pub struct Gradients<'a> {
    /// [N, out]
    pub dy: &'a Tensor,
    pub weight: &'a Accumulator,
    pub bias: Option<&'a Accumulator>,
}

/// Adds the gradients of weight and bias of layers that share `x` [N, in], group of rows by group.
pub fn weight_gradients<const K: usize>(
    x: &Tensor,
    layers: [Gradients; K],
    groups: &[Range<usize>],
) -> Result<()> {
    for Gradients { dy, bias, .. } in layers {
        let outputs = dy.dim(1)?;
        host::expect_shape("gradient of a layer's output", dy, &[x.dim(0)?, outputs])?;
        bias.map_or(Ok(()), |bias| host::expect_shape("sum of a bias", bias.tensor()?, &[outputs]))?;
    }
    Accumulator::add_transposed_products(layers.map(|layer| (layer.weight, layer.dy)), x, groups)?;
    for Gradients { dy, bias, .. } in layers {
        match bias {
            None => {}
            Some(bias) if host::is_host_f32(dy) => host::with(dy, |dy| bias.add_row_sums(dy, groups))??,
            Some(bias) if cuda::takes(dy) => cuda::rows::add_column_sums(bias, dy)?,
            Some(bias) => bias.add(&dy.to_dtype(candle_core::DType::F32)?.sum(0)?)?,
        }
    }
    Ok(())
}

/// A sum of products on the CPU, [N, columns].
struct Rows {
    output: host::Output,
    rows: usize,
    columns: usize,
    /// Whether `output` holds a sum yet.
    is_begun: bool,
}

impl Rows {
    fn new(rows: usize, columns: usize) -> Self {
        let mut output = host::Output::new(rows.max(MIN_ROWS) * columns);
        // Products may be computed for rows that pad the result, from whatever is there.
        output.values()[rows * columns..].fill(MaybeUninit::new(0.0));
        Self { output, rows, columns, is_begun: false }
    }

    fn values(&mut self) -> &mut [MaybeUninit<f32>] {
        &mut self.output.values()[..self.rows * self.columns]
    }

    fn start_from(&mut self, residual: &[f32]) {
        let columns = self.columns;
        let rows = self.values().par_chunks_exact_mut(columns).zip(residual.par_chunks_exact(columns));
        rows.for_each(|(values, residual)| {
            values.write_copy_of_slice(residual);
        });
        self.is_begun = true;
    }

    fn add_to_each(&mut self, row: &[f32]) {
        let (columns, is_begun) = (self.columns, self.is_begun);
        self.values().par_chunks_exact_mut(columns).for_each(|values| {
            for (value, add) in values.iter_mut().zip(row) {
                // SAFETY: what has begun has been written.
                let begun = if is_begun { unsafe { value.assume_init() } } else { 0.0 };
                value.write(begun + add);
            }
        });
        self.is_begun = true;
    }

    /// Adds `x . rhs`; row i of the product depends on row i of `x` alone.
    fn add_product(&mut self, x: &[f32], rhs: Matrix) {
        let (rows, columns, is_begun) = (self.rows, self.columns, self.is_begun);
        self.is_begun = true;
        #[cfg(target_arch = "x86_64")]
        if amx::suits(rhs.rows, rhs.columns) {
            let destination = match is_begun {
                // SAFETY: what has begun has been written.
                true => unsafe { amx::Destination::onto_written(self.values(), columns) },
                false => amx::Destination::new(self.values(), columns),
            };
            let lhs = Matrix::new(x, rows, rhs.rows);
            return amx::matmul(&mut [destination], &[lhs], &[rhs], std::slice::from_ref(&(0..rhs.rows)));
        }
        let rows = rows.max(MIN_ROWS);
        let mut x = Cow::Borrowed(x);
        if x.len() < rows * rhs.rows {
            x.to_mut().resize(rows * rhs.rows, 0.0);
        }
        let destination = self.output.values().as_mut_ptr().cast();
        // SAFETY: the output has this many rows, and they have been written if they are read.
        unsafe {
            matmul_to(destination, columns, is_begun, Matrix::new(&x, rows, rhs.rows), rhs, Threads::Pool);
        }
    }

    fn into_tensor(mut self) -> Result<Tensor> {
        self.output.truncate(self.rows * self.columns);
        // SAFETY: `add_product` has been called and wrote every row.
        unsafe { self.output.into_tensor((self.rows, self.columns)) }
    }
}

/// Whether tiles compute all of these layers.
#[cfg(target_arch = "x86_64")]
fn suit(layers: &[Layer]) -> Result<bool> {
    for layer in layers {
        let (outputs, inputs) = layer.weight.dims2()?;
        if !amx::suits(inputs, outputs) {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(target_arch = "x86_64")]
mod tiles {
    use super::*;
    use crate::kernels::gemm::amx::Destination;
    use crate::kernels::host::with_all;

    /// [`super::forward`], with `x` packed once.
    pub(super) fn forward<const K: usize>(x: &[f32], layers: [Layer; K]) -> Result<[Tensor; K]> {
        let starts = layers.map(|layer| match layer {
            Layer { bias: Some(bias), residual: Some(residual), .. } => residual.broadcast_add(bias),
            Layer { bias: Some(start), .. } | Layer { residual: Some(start), .. } => Ok(start.clone()),
            Layer { weight, .. } => Ok(weight.clone()),
        });
        let starts = starts.into_iter().collect::<Result<Vec<_>>>()?;
        let weights: Vec<&Tensor> = layers.iter().map(|layer| layer.weight).collect();
        let (_, inputs) = weights[0].dims2()?;
        let rows = x.len() / inputs;
        let widths = weights.iter().map(|weight| weight.dim(0)).collect::<Result<Vec<_>>>()?;
        let mut outputs: Vec<host::Output> =
            widths.iter().map(|width| host::Output::new(rows * width)).collect();
        with_all(&starts.iter().collect::<Vec<_>>(), |starts| {
            with_all(&weights, |weights| {
                let rhs: Vec<Matrix> = weights
                    .iter()
                    .zip(&widths)
                    .map(|(weight, &width)| Matrix::new(weight, width, inputs).transposed())
                    .collect();
                let destination = |(i, output)| {
                    let destination = Destination::new(host::Output::values(output), widths[i]);
                    match layers[i] {
                        Layer { bias: None, residual: None, .. } => destination,
                        // One row for every row.
                        Layer { residual: None, .. } => destination.starting_from(starts[i], 0),
                        Layer { .. } => destination.starting_from(starts[i], widths[i]),
                    }
                };
                let mut destinations: Vec<Destination> =
                    outputs.iter_mut().enumerate().map(destination).collect();
                let lhs = Matrix::new(x, rows, inputs);
                amx::matmul(&mut destinations, &[lhs], &rhs, std::slice::from_ref(&(0..inputs)));
            })
        })??;
        let mut widths = widths.into_iter();
        let tensors: Vec<Tensor> = outputs
            .into_iter()
            // SAFETY: the product has written every row.
            .map(|output| unsafe { output.into_tensor((rows, widths.next().unwrap_or(0))) })
            .collect::<Result<_>>()?;
        tensors.try_into().map_err(|_| candle_core::Error::Msg("as many results as layers".into()))
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
            let layer = || [Layer { weight: &w, bias: Some(&b), residual: None }];
            let [whole] = forward(&x, layer())?;
            let whole = whole.to_vec2::<f32>()?;
            for (start, len) in [(0, 1), (7, 2), (100, 64), (31, 65), (3, 200)] {
                let [part] = forward(&x.narrow(0, start, len)?, layer())?;
                assert!(
                    part.to_vec2::<f32>()? == whole[start..start + len],
                    "{len} rows of {inputs} x {outputs}"
                );
            }
        }
        Ok(())
    }

    #[test]
    fn backward_matches_finite_differences_whatever_the_groups() -> Result<()> {
        let (x, w, b, dy) = (wave((5, 4), 0.37)?, wave((3, 4), 0.7)?, wave(3, 0.3)?, wave((5, 3), 0.9)?);
        let gradients = (Accumulator::zeros((3, 4), &w), Accumulator::zeros(3, &b));
        let layer = Gradients { dy: &dy, weight: &gradients.0, bias: Some(&gradients.1) };
        weight_gradients(&x, [layer], &[0..2, 2..5])?;
        let dx = input_gradient([(&dy, &w)])?;
        let run = |x: &Tensor, w: &Tensor, b: &Tensor| {
            forward(x, [Layer { weight: w, bias: Some(b), residual: None }]).map(|[y]| y)
        };
        assert_close(&dx, &finite_difference(&x, &dy, |x| run(x, &w, &b))?, 2e-3);
        assert_close(gradients.0.tensor()?, &finite_difference(&w, &dy, |w| run(&x, w, &b))?, 2e-3);
        assert_close(gradients.1.tensor()?, &finite_difference(&b, &dy, |b| run(&x, &w, b))?, 2e-3);
        Ok(())
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused_and_no_rows_give_no_rows() -> Result<()> {
        for width in [6, 128] {
            let w = wave((width, width), 0.7)?;
            let (x, narrow) = (wave((3, width), 0.3)?, wave((3, width - 1), 0.3)?);
            let (short, few) = (wave(width - 1, 0.3)?, wave((2, width), 0.3)?);
            let layer = |bias, residual| [Layer { weight: &w, bias, residual }];
            assert!(forward(&narrow, layer(None, None)).is_err());
            assert!(forward(&x, layer(Some(&short), None)).is_err());
            assert!(forward(&x, layer(None, Some(&few))).is_err());
            assert!(input_gradient([(&narrow, &w)]).is_err());
            assert!(input_gradient([]).is_err());
            let sum = Accumulator::zeros((width, width), &w);
            let gradients = |dy| Gradients { dy, weight: &sum, bias: None };
            assert!(weight_gradients(&x, [gradients(&narrow)], &[0..1, 1..3]).is_err());
            assert!(
                weight_gradients(&x, [gradients(&x), gradients(&x)], &[0..1, 1..3]).is_err(),
                "one sum twice"
            );
            let none = x.narrow(0, 0, 0)?;
            assert_eq!(forward(&none, layer(None, None))?[0].dims(), [0, width]);
            assert_eq!(input_gradient([(&none, &w)])?.dims(), [0, width]);
        }
        Ok(())
    }

    #[test]
    fn layers_together_give_what_each_gives_alone() -> Result<()> {
        // Below and above the size from which tiles compute them, and one of each.
        for (inputs, widths) in [(5, [7, 3]), (130, [140, 200]), (130, [140, 3])] {
            let (x, residual) = (wave((70, inputs), 0.37)?, wave((70, widths[0]), 0.9)?);
            let [w0, w1] = widths.map(|width| wave((width, inputs), 0.7));
            let [b0, b1] = widths.map(|width| wave(width, 0.3));
            let (w0, w1, b0, b1) = (w0?, w1?, b0?, b1?);
            let dys = [wave((70, widths[0]), 1.3)?, wave((70, widths[1]), 0.4)?];
            let plain = |w, bias| Layer { weight: w, bias, residual: None };
            let layers =
                [Layer { weight: &w0, bias: Some(&b0), residual: Some(&residual) }, plain(&w1, Some(&b1))];
            let both = forward(&x, layers)?;
            for (y, layer) in both.iter().zip(layers) {
                assert_close(y, &composed_forward(&x, layer)?, 4e-6);
            }
            let onto = Layer { weight: &w0, bias: None, residual: Some(&residual) };
            assert_close(&forward(&x, [onto])?[0], &composed_forward(&x, onto)?, 4e-6);
            assert_close(
                &forward(&x, [plain(&w1, None)])?[0],
                &composed_forward(&x, plain(&w1, None))?,
                4e-6,
            );

            let dx = (dys[0].matmul(&w0)? + dys[1].matmul(&w1)?)?;
            assert_close(&input_gradient([(&dys[0], &w0), (&dys[1], &w1)])?, &dx, 1e-5);

            let sums = [Accumulator::zeros(w0.shape(), &w0), Accumulator::zeros(w1.shape(), &w1)];
            let layers = [0, 1].map(|i| Gradients { dy: &dys[i], weight: &sums[i], bias: None });
            let groups = [0..33, 33..70];
            weight_gradients(&x, layers, &groups)?;
            let parts = [Accumulator::zeros(w0.shape(), &w0), Accumulator::zeros(w1.shape(), &w1)];
            for group in &groups {
                let rows = |t: &Tensor| t.narrow(0, group.start, group.len());
                let dys = [rows(&dys[0])?, rows(&dys[1])?];
                let layers = [0, 1].map(|i| Gradients { dy: &dys[i], weight: &parts[i], bias: None });
                weight_gradients(&rows(&x)?, layers, std::slice::from_ref(&(0..group.len())))?;
            }
            for ((sum, part), dy) in sums.iter().zip(&parts).zip(&dys) {
                assert_close(sum.tensor()?, &dy.t()?.matmul(&x)?, 1e-5);
                assert_close(sum.tensor()?, part.tensor()?, 0.0);
            }
        }
        Ok(())
    }
}
