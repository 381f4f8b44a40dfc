//! What every floor may use: the error, seeded randomness, interruption, reading and writing configuration values.
//! No tensors of its own, no domain logic.

pub mod atomic;
pub mod error;
pub mod interrupt;
pub mod located;
pub mod memory;
pub mod reader;
pub mod rng;
pub mod toml_writer;

pub use error::{Error, Result};
