//! The operations as CUDA kernels: launchers here, the kernels themselves in the `.cu` files beside them.
//!
//! A launcher takes and returns tensors like the CPU's kernels do. Nothing here waits for the device: kernels are
//! enqueued on its one stream, in order, and memory is freed in that order too. Every sum has a fixed order, without
//! atomics, so a run repeats itself.
//!
//! Without a GPU the kernels are still tested: `tests/emulation` compiles the `.cu` files for the host, and
//! [`emulated`] makes CPU tensors take the way of CUDA tensors.

pub(crate) mod attention;
#[cfg(test)]
mod emulator;
pub(crate) mod gemm;
mod launch;
pub mod memory;
pub(crate) mod norm;
pub(crate) mod optimizer;
pub(crate) mod pointwise;
#[cfg(feature = "cuda")]
mod ptx;
pub(crate) mod rows;
#[cfg(test)]
mod tests;
pub(crate) mod upload;

use candle_core::{DType, Device, Result, Tensor};

pub(crate) use launch::unwritten;

/// Prepares a device that was just opened. Does nothing for the CPU.
///
/// # Errors
/// If the driver refuses.
pub fn set_up(device: &Device) -> Result<()> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => memory::set_up(device).and_then(|()| gemm::set_up(device)),
        _ => Ok(()),
    }
}

/// Whether these kernels compute for tensors like `t`.
pub(crate) fn takes(t: &Tensor) -> bool {
    (t.device().is_cuda() || is_emulated()) && matches!(t.dtype(), DType::F32 | DType::BF16)
}

#[cfg(test)]
thread_local! {
    static EMULATED: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Whether CPU tensors are to be taken for CUDA tensors on this thread.
#[cfg(test)]
pub(crate) fn is_emulated() -> bool {
    EMULATED.get()
}

/// Whether CPU tensors are to be taken for CUDA tensors on this thread: only in tests.
#[cfg(not(test))]
pub(crate) const fn is_emulated() -> bool {
    false
}

/// Runs `f`, which computes on `device`.
#[cfg(not(test))]
pub(crate) fn on<R>(_: &Device, f: impl FnOnce() -> R) -> R {
    f()
}

/// Runs `f`, which computes on `device`: the emulated one if that is the CPU.
#[cfg(test)]
pub(crate) fn on<R>(device: &Device, f: impl FnOnce() -> R) -> R {
    match device {
        Device::Cpu => emulated(f).expect("the emulation was found to be available"),
        _ => f(),
    }
}

/// Runs `f` with CPU tensors taken for CUDA tensors. `None`, with the reason on stderr, where there is no C++
/// compiler to build the emulation with.
#[cfg(test)]
pub(crate) fn emulated<R>(f: impl FnOnce() -> R) -> Option<R> {
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            EMULATED.set(false);
        }
    }
    if let Err(reason) = emulator::available() {
        eprintln!("skipped: {reason}");
        return None;
    }
    EMULATED.set(true);
    let _reset = Reset;
    Some(f())
}
