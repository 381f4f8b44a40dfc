//! What every floor may use: the error, seeded randomness, interruption, reading and writing configuration values,
//! the median and quantiles, other libraries' panics.
//! No tensors of its own, no domain logic.

pub mod atomic;
pub mod error;
pub mod figures;
pub mod interrupt;
pub mod located;
pub mod median;
pub mod memory;
pub mod nearest;
pub mod panics;
pub mod quantile;
pub mod reader;
pub mod rng;
pub mod toml_writer;

pub use error::{Error, Result};
