//! Objectives: pure arithmetic from rewards to a loss and dL/dr. No tensor library here.

pub mod config;
pub use config::Config;
