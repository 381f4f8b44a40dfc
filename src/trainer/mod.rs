//! Training: the step, the loop around it, what is logged and printed.

pub mod config;
pub mod estimate;
pub mod fit;
pub mod guard;
pub mod head_share;
pub mod lengths;
pub mod log;
pub mod measure;
pub mod memory;
pub mod metrics;
pub mod progress;
pub mod step;
pub mod suggest;
mod tensorboard;

pub use config::Config;
pub use fit::{Outcome, Setup, fit};
