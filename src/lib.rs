//! rmtrain trains reward models: Bradley-Terry with Batch-wise Sum-to-Zero Regularization, exact over the whole
//! optimizer step, with the hidden-state norms that explain over-optimization logged at every step.
//!
//! The floors, top to bottom (imports go down only): `cli`, `commands`, `config`, `trainer`, `report`, `eval`, `checkpoint`,
//! `objective`, `diagnostics`, `data`, `model`, `optim`, `kernels`, `hub`, `base`. DESIGN.md gives the reasons.

pub mod base;
pub mod checkpoint;
pub mod cli;
pub mod commands;
pub mod config;
pub mod data;
pub mod diagnostics;
pub mod eval;
pub mod hub;
pub mod kernels;
pub mod model;
pub mod objective;
pub mod optim;
pub mod report;
pub mod trainer;

pub use base::{Error, Result};
