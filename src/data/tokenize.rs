//! Conversations to token ids: render, encode, check.

use std::path::PathBuf;

/// k token sequences that answer the same prompt. Their common prefix is computed once by the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenGroup {
    pub sequences: Vec<Vec<u32>>,
}

impl AsRef<[Vec<u32>]> for TokenGroup {
    fn as_ref(&self) -> &[Vec<u32>] {
        &self.sequences
    }
}

/// A pair ready for training.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenPair {
    /// Position in the pair store; names the pair in messages.
    pub index: u64,
    /// `file:line` of the row it came from.
    pub origin: String,
    pub chosen: Vec<u32>,
    pub rejected: Vec<u32>,
    pub margin: Option<f64>,
}

/// A tokenizer with its chat template, as one model folder defines them.
pub struct Tokenizer {
    _path: PathBuf,
}
