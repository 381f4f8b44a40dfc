//! The training loop.

pub mod config;
pub use config::Config;
