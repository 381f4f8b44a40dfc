//! The verbs, one file each: build the parts, run, print. Errors leave through `anyhow`; the library's own
//! [`crate::Error`] inside decides the exit code.

pub mod bench;
mod datasets;
pub mod doctor;
pub mod eval;
pub mod fit;
pub mod label;
pub mod loaded;
mod memory_text;
mod parts;
pub mod plan;
mod preflight;
mod progress;
pub mod report;
mod run_folder;
pub mod sandbox;
pub mod score;
pub mod split;
mod train;
