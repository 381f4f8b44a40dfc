//! The run's configuration: a TOML file plus `--set`, validated as a whole.
//!
//! Each section's type belongs to the module that it configures; this module puts them together and reads them.

use crate::{data, model, objective, optim, trainer};

/// Everything `fit` needs to know.
#[derive(Debug, Clone, PartialEq)]
pub struct RunConfig {
    pub model: model::Config,
    pub data: data::Config,
    pub objective: Vec<objective::Config>,
    pub optim: optim::Config,
    pub train: trainer::Config,
}
