//! Choosing the device.

use crate::{Error, Result};
use candle_core::Device;

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
                Ok(Device::new_cuda(0).unwrap_or(Device::Cpu))
            }
            DeviceChoice::Auto => Ok(Device::Cpu),
            DeviceChoice::Cuda(index) if cfg!(feature = "cuda") => Device::new_cuda(index)
                .map_err(|e| Error::Device { device: format!("cuda:{index}"), reason: e.to_string() }),
            DeviceChoice::Cuda(index) => Err(Error::Device {
                device: format!("cuda:{index}"),
                reason: "this build has no CUDA; build with `--features cuda`, or set train.device = \"cpu\""
                    .into(),
            }),
        }
    }
}
