//! Backbones, the reward head, and their files.

pub mod armorm;
pub mod config;
pub mod config_json;
pub mod decoder;
pub mod decoder_config;
pub mod device;
pub mod device_speed;
pub mod ensemble_file;
pub mod flops;
pub mod freeze;
pub mod gating;
pub mod head_rewards;
mod layer;
pub mod pack;
pub mod reward_head;
pub mod reward_model;
pub mod rotary;
pub mod weights;

pub use armorm::ArmoRm;
pub use config::Config;
pub use decoder::{Keep, Tape};
pub use decoder_config::{DecoderConfig, Family, Llama3RopeScaling};
pub use device::DeviceChoice;
pub use freeze::Freeze;
pub use gating::Objectives;
pub use head_rewards::{Disagreement, HeadRewards};
pub use pack::Pack;
pub use reward_model::RewardModel;
