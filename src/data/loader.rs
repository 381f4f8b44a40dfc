//! To be written.
use super::TokenPair;
pub struct Batch {
    pub step: u64,
    pub epoch: f64,
    pub pairs: Vec<TokenPair>,
}
