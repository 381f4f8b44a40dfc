//! Backbones, the reward head, and their files.

pub mod config;
pub mod config_json;
pub mod decoder_config;
pub mod weights;

pub use config::Config;
pub use decoder_config::{DecoderConfig, Family, Llama3RopeScaling};
