//! The one integration binary: every module drives the public library or the built `rmtrain`.

mod chat_template;
mod cli;
mod config;
mod data;
mod engine;
mod eval_score;
mod hub;
mod layering;
mod malformed;
mod sandbox_split;
mod weights;
