//! The kernels on the emulated device, against the CPU's.

use super::{emulated, on};
use crate::kernels::check::{self, Check};
use candle_core::{DType, Device, Result};

/// Runs the checks where the emulation can be built.
fn checks(dtype: DType) -> Result<Vec<Check>> {
    if emulated(|| ()).is_none() {
        return Ok(Vec::new());
    }
    check::kernels(&Device::Cpu, dtype)
}

#[track_caller]
fn assert_all_pass(checks: &[Check]) {
    let wrong: Vec<&Check> = checks.iter().filter(|check| !check.passes()).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_kernel_computes_what_the_cpu_computes_in_f32() -> Result<()> {
    assert_all_pass(&checks(DType::F32)?);
    Ok(())
}

#[test]
fn every_kernel_computes_what_the_cpu_computes_in_bf16() -> Result<()> {
    assert_all_pass(&checks(DType::BF16)?);
    Ok(())
}

#[test]
fn tensors_on_the_cpu_are_the_cpus_again_afterwards() {
    on_or_skip(|| assert!(super::is_emulated()));
    assert!(!super::is_emulated());
}

fn on_or_skip(f: impl FnOnce()) {
    if emulated(|| ()).is_some() {
        on(&Device::Cpu, f);
    }
}
