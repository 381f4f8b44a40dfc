//! Holds the kernels of a device against those of the CPU: for `rmtrain doctor`, and for tests.
//!
//! The CPU computes in f32 from the values that the device has, rounded to bf16 where the device computes in bf16. What
//! is left between the two is the order of sums in f32, and one rounding to bf16 for every value that is stored.

use super::attention::{self, Families, Family, Heads, Segment};
use super::{Accumulator, Indices, cuda, draw, embedding, linear, rms_norm, rope, swiglu};
use crate::base::rng;
use candle_core::{DType, Device, Result, Shape, Tensor};

/// One comparison.
#[derive(Debug, Clone, PartialEq)]
pub struct Check {
    pub what: String,
    pub dtype: DType,
    /// The largest difference, over the largest value.
    pub error: f64,
    /// The largest error that is still right.
    pub bound: f64,
}

impl Check {
    /// Compares values.
    pub fn of(what: String, dtype: DType, found: &[f32], expected: &[f32], bound: f64) -> Self {
        let largest = expected.iter().map(|e| f64::from(e.abs())).fold(f64::MIN_POSITIVE, f64::max);
        // Not a fold over `f64::max`, which passes over NaN.
        let mut error = if found.len() == expected.len() { 0.0 } else { f64::INFINITY };
        for (found, expected) in found.iter().zip(expected) {
            let difference = f64::from((found - expected).abs()) / largest;
            if difference > error || difference.is_nan() {
                error = difference;
            }
        }
        Self { what, dtype, error, bound }
    }

    pub fn passes(&self) -> bool {
        self.error <= self.bound
    }
}

/// Sums of a few thousand products in f32, in two orders.
const F32_BOUND: f64 = 2e-5;
/// One rounding to 8 bits of a value, and the roundings of what it was computed from.
const BF16_BOUND: f64 = 1.6e-2;

/// Every kernel on `device` in `dtype`, but for the optimizer's (`optim::adamw::check`).
///
/// # Errors
/// If a kernel cannot be launched.
pub fn kernels(device: &Device, dtype: DType) -> Result<Vec<Check>> {
    let mut bench = Bench { device: device.clone(), dtype, checks: Vec::new() };
    bench.embedding()?;
    bench.norm()?;
    bench.rope()?;
    bench.swiglu()?;
    bench.linear()?;
    bench.sums()?;
    bench.draws()?;
    for (dim, query, key_value) in [(64, 4, 2), (128, 4, 1), (24, 7, 1), (20, 2, 1), (160, 2, 2)] {
        bench.attention(Heads { query, key_value, dim })?;
    }
    Ok(bench.checks)
}

struct Bench {
    device: Device,
    dtype: DType,
    checks: Vec<Check>,
}

/// The same values on the device, and on the CPU in f32.
struct Twin {
    device: Tensor,
    host: Tensor,
}

impl Bench {
    /// Standard normal values, a function of their name.
    fn normal(&self, name: &str, shape: impl Into<Shape>) -> Result<Twin> {
        let shape = shape.into();
        let values = rng::normals(&mut rng::stream(0, name, 0), shape.elem_count());
        let values = Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(self.dtype)?;
        Ok(Twin { device: values.to_device(&self.device)?, host: values.to_dtype(DType::F32)? })
    }

    /// Zeros of `shape` on the device, and on the CPU.
    fn sum(&self, shape: impl Into<Shape>) -> Result<(Accumulator, Accumulator)> {
        let shape = shape.into();
        let [on_device, on_host] =
            [&self.device, &Device::Cpu].map(|device| Tensor::zeros(1, DType::F32, device));
        Ok((Accumulator::zeros(shape.clone(), &on_device?), Accumulator::zeros(shape, &on_host?)))
    }

    fn compare(&mut self, what: &str, found: &Tensor, expected: &Tensor) -> Result<()> {
        let bound = if self.dtype == DType::F32 { F32_BOUND } else { BF16_BOUND };
        self.compare_within(bound, what, found, expected)
    }

    fn compare_within(&mut self, bound: f64, what: &str, found: &Tensor, expected: &Tensor) -> Result<()> {
        let flat =
            |t: &Tensor| t.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
        self.checks.push(Check::of(what.to_owned(), self.dtype, &flat(found)?, &flat(expected)?, bound));
        Ok(())
    }

    fn on_device<R>(&self, f: impl FnOnce() -> R) -> R {
        cuda::on(&self.device, f)
    }

    fn embedding(&mut self) -> Result<()> {
        for width in [64, 100] {
            let table = self.normal("table", (50, width))?;
            let rows: Indices = (0..90u32).map(|i| i * 7 % 50).collect::<Vec<_>>().into();
            let found = self.on_device(|| embedding::gather(&table.device, &rows))?;
            self.compare_within(0.0, "gather", &found, &embedding::gather(&table.host, &rows)?)?;

            let dy = self.normal("dy", (3, width))?;
            let rows = Indices::from([41, 0, 7]);
            let found = self.on_device(|| embedding::scatter(&dy.device, &rows, 60))?;
            self.compare_within(0.0, "scatter", &found, &embedding::scatter(&dy.host, &rows, 60)?)?;

            let dy = self.normal("dy", (90, width))?;
            let slots: Vec<u32> = (0..90).map(|i| i * i % 11).collect();
            let (found, expected) = self.sum((12, width))?;
            self.on_device(|| found.add_rows(&slots, &dy.device))?;
            expected.add_rows(&slots, &dy.host)?;
            self.compare_within(F32_BOUND, "scatter-add", found.tensor()?, expected.tensor()?)?;
        }
        Ok(())
    }

    fn norm(&mut self) -> Result<()> {
        const EPS: f64 = 1e-6;
        for (rows, width) in [(70, 896), (3, 33), (40, 4096)] {
            let [x, dy, residual] = ["x", "dy", "residual"].map(|name| self.normal(name, (rows, width)));
            let (x, dy, residual, weight) = (x?, dy?, residual?, self.normal("weight", width)?);
            let found = self.on_device(|| rms_norm::forward(&x.device, &weight.device, EPS))?;
            self.compare("rms_norm", &found, &rms_norm::forward(&x.host, &weight.host, EPS)?)?;

            let (found, expected) = self.sum(width)?;
            let groups = 0..rows;
            let groups = std::slice::from_ref(&groups);
            let backward = |t: fn(&Twin) -> &Tensor, sum: &Accumulator| {
                rms_norm::backward(t(&dy), t(&x), t(&weight), EPS, Some(t(&residual)), sum, groups)
            };
            let dx = self.on_device(|| backward(|t| &t.device, &found))?;
            let dx_expected = backward(|t| &t.host, &expected)?;
            self.compare("rms_norm backward", &dx, &dx_expected)?;
            self.compare("rms_norm weight gradient", found.tensor()?, expected.tensor()?)?;
        }
        Ok(())
    }

    fn rope(&mut self) -> Result<()> {
        for half in [32, 12] {
            let frequencies: Vec<f32> =
                (0..half).map(|i| 10f32.powf(-4.0 * i as f32 / half as f32)).collect();
            let tables =
                [&self.device, &Device::Cpu].map(|device| rope::Table::new(&frequencies, 200, device));
            let [on_device, on_host] = tables;
            let (on_device, on_host) = (on_device?, on_host?);
            let x = self.normal("x", (70, 3 * 2 * half))?;
            let positions: Indices = (0..70u32).map(|i| i * 3 % 190).collect::<Vec<_>>().into();
            let found = self.on_device(|| rope::forward(&x.device, &positions, &on_device))?;
            self.compare("rope", &found, &rope::forward(&x.host, &positions, &on_host)?)?;
            let found = self.on_device(|| rope::backward(&x.device, &positions, &on_device))?;
            self.compare("rope backward", &found, &rope::backward(&x.host, &positions, &on_host)?)?;
        }
        Ok(())
    }

    fn swiglu(&mut self) -> Result<()> {
        for shape in [(33, 1000), (5, 7)] {
            let [gate, up, dy] = ["gate", "up", "dy"].map(|name| self.normal(name, shape));
            let (gate, up, dy) = (gate?, up?, dy?);
            let found = self.on_device(|| swiglu::forward(&gate.device, &up.device))?;
            self.compare("swiglu", &found, &swiglu::forward(&gate.host, &up.host)?)?;
            let found = self.on_device(|| swiglu::backward(&dy.device, &gate.device, &up.device))?;
            let expected = swiglu::backward(&dy.host, &gate.host, &up.host)?;
            self.compare("swiglu backward, gate", &found.gate, &expected.gate)?;
            self.compare("swiglu backward, up", &found.up, &expected.up)?;
            self.compare("swiglu backward, product", &found.product, &expected.product)?;
        }
        Ok(())
    }

    fn linear(&mut self) -> Result<()> {
        for (rows, inputs, outputs) in [(70, 96, 40), (5, 33, 7)] {
            let (x, dy) = (self.normal("x", (rows, inputs))?, self.normal("dy", (rows, outputs))?);
            let (weight, bias) = (self.normal("weight", (outputs, inputs))?, self.normal("bias", outputs)?);
            let residual = self.normal("residual", (rows, outputs))?;
            let forward = |t: fn(&Twin) -> &Tensor| {
                let layer = |bias, residual| linear::Layer { weight: t(&weight), bias, residual };
                let layers = [
                    layer(None, None),
                    layer(Some(t(&bias)), None),
                    layer(Some(t(&bias)), Some(t(&residual))),
                ];
                linear::forward(t(&x), layers)
            };
            let found = self.on_device(|| forward(|t| &t.device))?;
            for (i, (found, expected)) in found.iter().zip(forward(|t| &t.host)?).enumerate() {
                self.compare(["linear", "linear + bias", "linear + bias + residual"][i], found, &expected)?;
            }
            let input_gradient = |t: fn(&Twin) -> &Tensor| {
                linear::input_gradient([(t(&dy), t(&weight)), (t(&dy), t(&weight))])
            };
            let found = self.on_device(|| input_gradient(|t| &t.device))?;
            self.compare("linear input gradient", &found, &input_gradient(|t| &t.host)?)?;

            let (weights, biases) = (self.sum((outputs, inputs))?, self.sum(outputs)?);
            let groups = 0..rows;
            let groups = std::slice::from_ref(&groups);
            let weight_gradients = |t: fn(&Twin) -> &Tensor, weight, bias| {
                let layer = linear::Gradients { dy: t(&dy), weight, bias: Some(bias) };
                // Twice: the first product writes the sum, the second adds to it.
                linear::weight_gradients(t(&x), [layer], groups)?;
                linear::weight_gradients(t(&x), [layer], groups)
            };
            self.on_device(|| weight_gradients(|t| &t.device, &weights.0, &biases.0))?;
            weight_gradients(|t| &t.host, &weights.1, &biases.1)?;
            self.compare("linear weight gradient", weights.0.tensor()?, weights.1.tensor()?)?;
            self.compare("linear bias gradient", biases.0.tensor()?, biases.1.tensor()?)?;
        }
        Ok(())
    }

    fn sums(&mut self) -> Result<()> {
        let x = self.normal("x", (300, 333))?;
        let (found, expected) = self.sum((300, 333))?;
        self.on_device(|| {
            found.add(&x.device)?;
            found.add(&x.device)
        })?;
        expected.add(&x.host)?;
        expected.add(&x.host)?;
        self.compare_within(F32_BOUND, "sum", found.tensor()?, expected.tensor()?)?;
        let squares = self.on_device(|| found.sum_of_squares())?;
        let [squares, expected] = [squares, expected.sum_of_squares()?].map(|s| Tensor::new(s, &Device::Cpu));
        self.compare_within(F32_BOUND, "sum of squares", &squares?, &expected?)
    }

    /// Draws have no reference on the CPU: their first moments, and that they are a function of the index.
    fn draws(&mut self) -> Result<()> {
        const COUNT: usize = 40_000;
        let device = self.device.clone();
        let draw = |count: usize| {
            let values = cuda::on(&device, || draw::normal(count, 0.5, "doctor:draws", &device))?;
            values.to_device(&Device::Cpu)?.to_vec1::<f32>()
        };
        let values = draw(COUNT)?;
        let moment = |power: i32| {
            (values.iter().map(|&v| (f64::from(v) / 0.5).powi(power)).sum::<f64>() / COUNT as f64) as f32
        };
        // Six standard errors of each.
        let bound = |variance: f64| 6.0 * (variance / COUNT as f64).sqrt();
        for (what, found, expected, variance) in [
            ("draws, 1 + mean", 1.0 + moment(1), 1.0, 1.0),
            ("draws, variance", moment(2), 1.0, 2.0),
            ("draws, 1 + third moment", 1.0 + moment(3), 1.0, 15.0),
            ("draws, fourth moment over 3", moment(4) / 3.0, 1.0, 96.0 / 9.0),
        ] {
            self.checks.push(Check::of(what.into(), DType::F32, &[found], &[expected], bound(variance)));
        }
        let fewer = draw(1000)?;
        self.checks.push(Check::of("draws, fewer of them".into(), DType::F32, &fewer, &values[..1000], 0.0));
        Ok(())
    }

    fn attention(&mut self, heads: Heads) -> Result<()> {
        let (rows, families) = families();
        let (query, key_value) = (heads.query * heads.dim, heads.key_value * heads.dim);
        let (q, dy) = (self.normal("q", (rows, query))?, self.normal("dy", (rows, query))?);
        let (k, v) = (self.normal("k", (rows, key_value))?, self.normal("v", (rows, key_value))?);
        let run = |t: fn(&Twin) -> &Tensor, families: &Families| {
            let output = attention::forward(t(&q), t(&k), t(&v), families, heads)?;
            let gradients = attention::backward(t(&dy), &output, t(&q), t(&k), t(&v), families, heads)?;
            Ok::<_, candle_core::Error>((output.values, gradients))
        };
        let (found, (dq, dk, dv)) = self.on_device(|| run(|t| &t.device, &families))?;
        let (expected, gradients) = run(|t| &t.host, &families)?;
        let name = |what: &str| {
            format!("attention {what}, {} on {} heads of {}", heads.query, heads.key_value, heads.dim)
        };
        self.compare(&name("forward"), &found, &expected)?;
        self.compare(&name("query gradient"), &dq, &gradients.0)?;
        self.compare(&name("key gradient"), &dk, &gradients.1)?;
        self.compare(&name("value gradient"), &dv, &gradients.2)
    }
}

/// A pair whose prompt is longer than a tile, three responses to a short prompt, and a sequence of its own.
fn families() -> (usize, Families) {
    let segment = |start, len| Segment { start, len };
    let families = vec![
        Family { prompt: segment(0, 70), responses: vec![segment(70, 5), segment(75, 129)] },
        Family {
            prompt: segment(204, 4),
            responses: vec![segment(208, 1), segment(209, 64), segment(273, 65)],
        },
        Family { prompt: segment(338, 0), responses: vec![segment(338, 9)] },
    ];
    (347, families.into())
}
