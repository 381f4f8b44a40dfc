//! Choosing the device.

use crate::base::located::quoted;
use crate::kernels::cuda;
use crate::{Error, Result};
use candle_core::{Device, DeviceLocation};
use std::fmt;
use std::str::FromStr;

/// `train.device`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    /// CUDA where this build and this machine have it, else the CPU.
    Auto,
    Cpu,
    Cuda(usize),
}

impl DeviceChoice {
    /// Opens the device.
    ///
    /// # Errors
    /// [`Error::Device`] if CUDA was asked for and this build or this machine has none.
    pub fn open(self) -> Result<Device> {
        match self {
            DeviceChoice::Cpu => Ok(Device::Cpu),
            DeviceChoice::Auto if candle_core::utils::cuda_is_available() => {
                Ok(open_cuda(0).unwrap_or_else(|error| {
                    eprintln!(
                        "warning: CUDA does not open ({error}); computing on the CPU. `device = \"cuda\"` makes this an \
                         error"
                    );
                    Device::Cpu
                }))
            }
            DeviceChoice::Auto => Ok(Device::Cpu),
            DeviceChoice::Cuda(index) if cfg!(feature = "cuda") => open_cuda(index)
                .map_err(|e| Error::Device { device: format!("cuda:{index}"), reason: e.to_string() }),
            DeviceChoice::Cuda(index) => Err(Error::Device {
                device: format!("cuda:{index}"),
                reason: "this build has no CUDA; build with `--features cuda`, or set train.device = \"cpu\""
                    .into(),
            }),
        }
    }
}

/// A device with one stream of its own, which is the same from every thread.
fn open_cuda(index: usize) -> candle_core::Result<Device> {
    let device = Device::new_cuda_with_stream(index)?;
    cuda::set_up(&device)?;
    Ok(device)
}

/// What a device is called in messages: `cpu`, `cuda:1`.
pub fn device_name(device: &Device) -> String {
    match device.location() {
        DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
        DeviceLocation::Cpu => "cpu".into(),
    }
}

/// The most memory that this process has held on `device` since [`cuda::memory::reset_peak`]. `None` on the CPU, whose
/// memory the system counts (`base::memory`), and where the device does not say.
pub fn device_peak_bytes(device: &Device) -> Option<u64> {
    cuda::memory::of(device).ok().flatten().map(|memory| memory.peak)
}

/// Memory that is free on `device`. `None` on the CPU, see [`device_peak_bytes`], and where the device does not say.
pub fn device_free_bytes(device: &Device) -> Option<u64> {
    cuda::memory::of(device).ok().flatten().map(|memory| memory.free)
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceChoice::Auto => f.write_str("auto"),
            DeviceChoice::Cpu => f.write_str("cpu"),
            DeviceChoice::Cuda(0) => f.write_str("cuda"),
            DeviceChoice::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let cuda =
            |ordinal: &str| ordinal.parse().ok().filter(|_| ordinal.bytes().all(|b| b.is_ascii_digit()));
        match (text, text.strip_prefix("cuda:").and_then(cuda)) {
            ("auto", _) => Ok(DeviceChoice::Auto),
            ("cpu", _) => Ok(DeviceChoice::Cpu),
            ("cuda", _) => Ok(DeviceChoice::Cuda(0)),
            (_, Some(ordinal)) => Ok(DeviceChoice::Cuda(ordinal)),
            _ => Err(format!("found {}, expected \"auto\", \"cpu\", \"cuda\" or \"cuda:N\"", quoted(text))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_read_back_as_written() {
        for device in [DeviceChoice::Auto, DeviceChoice::Cpu, DeviceChoice::Cuda(0), DeviceChoice::Cuda(3)] {
            assert_eq!(device.to_string().parse(), Ok(device));
        }
        for text in ["", "gpu", "cuda:", "cuda:-1", "cuda:+1", "cuda:99999999999999999999", "CPU"] {
            assert!(text.parse::<DeviceChoice>().is_err(), "{text}");
        }
    }
}
