//! The optimizer, gradient clipping and learning-rate schedules.

pub mod config;
pub use config::Config;
