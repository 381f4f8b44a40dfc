//! What is optimized and how: parameters and their gradients, AdamW, clipping, learning-rate schedules.

pub mod adamw;
pub mod clip;
pub mod config;
pub mod moments;
pub mod parameter;
pub mod quantized;
pub mod schedule;

pub use adamw::AdamW;
pub use config::Config;
pub use moments::Moments;
pub use parameter::{Gradient, Gradients, Norms, Parameter, ParameterId, Parameters};
