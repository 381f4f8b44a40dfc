//! Holds a device's update against the CPU's: for `rmtrain doctor`, and for tests.

use crate::Result;
use crate::base::rng;
use crate::kernels::check::Check;
use crate::kernels::cuda;
use crate::optim::config::MomentKind;
use crate::optim::{AdamW, Config, Gradients, Parameter, Parameters};
use candle_core::{DType, Device, Shape, Tensor};

/// Enough values for moments of eight bits; blocks span rows.
const TABLE: (usize, usize) = (120, 67);
const MATRIX: (usize, usize) = (80, 64);
const NORM: usize = 33;
/// A few operations in f32, in which a device may contract a product and a sum.
const MASTER_BOUND: f64 = 1e-6;
/// One rounding to 8 bits.
const COMPUTE_BOUND: f64 = 8e-3;

/// Four steps of every kind of parameter and of moments, a resume among them, with parameters of `dtype`.
///
/// # Errors
/// If a kernel cannot be launched.
pub fn updates(device: &Device, dtype: DType) -> Result<Vec<Check>> {
    let mut checks = Vec::new();
    for moments in [MomentKind::F32, MomentKind::EightBit] {
        for weight_decay in [0.0, 0.1] {
            let found = cuda::on(device, || run(device, moments, weight_decay, dtype))?;
            let expected = run(&Device::Cpu, moments, weight_decay, dtype)?;
            for ((_, found), (_, expected)) in found.iter().zip(expected.iter()) {
                let what = |of: &str| {
                    let kind = if moments == MomentKind::F32 { "f32" } else { "8-bit" };
                    format!("AdamW, {kind} moments, decay {weight_decay}: {} {of}", found.name)
                };
                let flat = |tensor: &Tensor| -> Result<Vec<f32>> {
                    Ok(tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
                };
                let mut compare = |of: &str, values: fn(&Parameter) -> &Tensor, bound: f64| -> Result<()> {
                    let (found, expected) = (flat(values(found))?, flat(values(expected))?);
                    checks.push(Check::of(what(of), dtype, &found, &expected, bound));
                    Ok(())
                };
                compare("master", |parameter| parameter.master(), MASTER_BOUND)?;
                if dtype == DType::BF16 {
                    compare("copy", |parameter| parameter.compute(), COMPUTE_BOUND)?;
                }
            }
        }
    }
    Ok(checks)
}

/// A table with row gradients, a matrix and a norm after the steps.
fn run(device: &Device, moments: MomentKind, weight_decay: f64, dtype: DType) -> Result<Parameters> {
    let normal = |name: &str, step: usize, shape: Shape| {
        let values = rng::normals(&mut rng::stream(0, name, step as u64), shape.elem_count());
        Tensor::from_vec(values, shape, device)
    };
    let mut parameters = Parameters::new(dtype);
    let table = parameters.add("table", &normal("table", 0, TABLE.into())?, true)?;
    let matrix = parameters.add("matrix", &normal("matrix", 0, MATRIX.into())?, true)?;
    let norm = parameters.add("norm", &normal("norm", 0, NORM.into())?, false)?;
    let mut gradients = Gradients::zeros(&parameters, &[table])?;
    let config = Config { weight_decay, moments, ..Config::default() };
    let mut optimizer = AdamW::new(&config, &parameters)?;
    for (step, rows) in [vec![0u32, 3, 4, 119], vec![], vec![4, 50], vec![7]].into_iter().enumerate() {
        gradients.start_step(&rows)?;
        gradients.add_rows(table, &rows, &normal("d_table", step, (rows.len(), TABLE.1).into())?)?;
        gradients.sum(matrix).add(&normal("d_matrix", step, MATRIX.into())?)?;
        gradients.sum(norm).add(&normal("d_norm", step, NORM.into())?)?;
        if step == 3 {
            optimizer.resume_at(optimizer.steps());
        }
        optimizer.step(&mut parameters, &gradients, 0.01, 0.5)?;
    }
    Ok(parameters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_device_updates_as_the_host_does() -> Result<()> {
        if cuda::emulated(|| ()).is_none() {
            return Ok(());
        }
        for dtype in [DType::F32, DType::BF16] {
            let checks = updates(&Device::Cpu, dtype)?;
            let wrong: Vec<&Check> = checks.iter().filter(|check| !check.passes()).collect();
            assert!(wrong.is_empty(), "{wrong:#?}");
            assert_eq!(checks.len(), if dtype == DType::F32 { 12 } else { 24 });
        }
        Ok(())
    }
}
