//! Evaluation and scoring, without gradients.

use crate::Result;
use crate::data::TokenGroup;

/// What a sequence was given.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scored {
    pub reward: f64,
    /// Norm of the last token's hidden state after the final norm.
    pub hidden_norm: f64,
}

/// Anything that scores token sequences: a model on a device, or a stand-in for it in a test.
pub trait SequenceScorer {
    /// Scores every sequence of every group; the answer has the shape of the question.
    ///
    /// A sequence's score does not depend on its neighbours.
    fn score(&self, groups: &[TokenGroup]) -> Result<Vec<Vec<Scored>>>;
}
