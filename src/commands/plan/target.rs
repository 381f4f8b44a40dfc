//! What a run is planned for: a device of this machine, or a GPU of another.

use crate::base::reader::Words;
use crate::model::DeviceChoice;
use crate::trainer;
use crate::trainer::memory::{Budget, Weights};
use crate::{Error, Result};
use candle_core::Device;

/// `--on`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    Cpu,
    Gpu,
}

impl Words for Machine {
    const WORDS: &'static [(&'static str, Self)] = &[("cpu", Machine::Cpu), ("gpu", Machine::Gpu)];
}

/// What the run is planned for.
#[derive(Debug)]
pub(super) enum Target {
    Here(Device),
    /// A GPU that is not in this machine.
    GpuElsewhere,
}

impl Target {
    /// The device of `choice`, or what `on` says instead; `choice` becomes what is open then.
    ///
    /// # Errors
    /// As [`DeviceChoice::open`] without `on`.
    pub fn open(on: Option<Machine>, choice: &mut DeviceChoice) -> Result<Self> {
        match on {
            None => return choice.open().map(Self::Here).map_err(with_way_out),
            Some(Machine::Cpu) => *choice = DeviceChoice::Cpu,
            Some(Machine::Gpu) => {
                if *choice == DeviceChoice::Cpu {
                    *choice = DeviceChoice::Auto;
                }
                if let Some(gpu) = choice.open().ok().filter(|device| !device.is_cpu()) {
                    return Ok(Self::Here(gpu));
                }
                // It is not to be complained about: `--on` says that it need not be here.
                *choice = DeviceChoice::Auto;
                return Ok(Self::GpuElsewhere);
            }
        }
        choice.open().map(Self::Here)
    }

    /// The device, where it is in this machine.
    pub fn device(&self) -> Option<&Device> {
        match self {
            Self::Here(device) => Some(device),
            Self::GpuElsewhere => None,
        }
    }

    pub fn is_cpu(&self) -> bool {
        self.device().is_some_and(Device::is_cpu)
    }

    pub fn name(&self) -> &'static str {
        match self {
            Self::Here(device) if device.is_cpu() => "the CPU",
            Self::Here(_) => "a GPU",
            Self::GpuElsewhere => "a GPU elsewhere",
        }
    }

    /// Memory that the run may use, once it has loaded its `weights`; of a GPU elsewhere what the configuration says, or
    /// nothing is known.
    pub fn budget(&self, config: &trainer::Config, weights: u64) -> Budget {
        match self {
            Self::Here(device) => Budget::new(config, device, Weights::ToLoad(weights)),
            Self::GpuElsewhere => Budget { bytes: config.memory_budget_gib.map(Budget::gib) },
        }
    }
}

/// Whoever plans needs no GPU.
fn with_way_out(error: Error) -> Error {
    match error {
        Error::Device { device, reason } => {
            let reason = format!("{reason}; `--on gpu` plans for a GPU of another machine");
            Error::Device { device, reason }
        }
        other => other,
    }
}
