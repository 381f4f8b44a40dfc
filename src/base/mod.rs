//! What every floor may use: the error, seeded randomness, interruption. No tensors of its own, no domain logic.

pub mod atomic;
pub mod error;
pub mod interrupt;
pub mod memory;
pub mod rng;

pub use error::{Error, Result};
