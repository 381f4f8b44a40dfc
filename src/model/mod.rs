//! Backbones, the reward head, and their files.

pub mod config;
pub mod config_json;
pub mod decoder_config;
pub mod weights;

pub use config::Config;
pub use config_json::{HeadKind, ModelConfig, read_config, write_config};
pub use decoder_config::{DecoderConfig, Family, HEAD_WEIGHT, Llama3RopeScaling};
