//! Training: the step, the loop around it, what is logged and printed.

pub mod config;
pub mod fit;
pub mod memory;
pub mod metrics;
pub mod progress;
pub mod step;

pub use config::Config;
pub use fit::{Outcome, Setup, fit};
