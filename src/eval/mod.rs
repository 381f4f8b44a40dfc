//! Evaluation and scoring, without gradients: batches for a scorer, accuracy, Kendall's tau, intervals, reports.
//!
//! What is not here: the model (it comes as a [`SequenceScorer`]), opening files, and what is printed where.

use crate::Result;
use crate::data::TokenGroup;
use crate::model::Disagreement;

mod accuracy;
pub mod benchmark;
pub mod bootstrap;
mod evaluate;
pub mod kendall;
mod reduce;
mod report;
mod rescore;
mod reward_model;
mod scorer;
mod table;
mod tally;
#[cfg(test)]
mod test_support;
mod window;

pub use crate::data::Origin;
pub use accuracy::{Agreement, Judged, agreement};
pub use evaluate::{Options, Progress, evaluate_split};
pub use reduce::{Reduce, Reduced};
pub use report::{EvalReport, Metric, SkipReason, SplitReport, Splits};
pub use rescore::{OnError, ScoreOptions, ScoreSummary, score_rows};
pub use scorer::{DEFAULT_BATCH_TOKENS, score_groups};
pub use table::table;

/// What a sequence was given.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scored {
    pub reward: f64,
    /// Norm of the last token's hidden state after the final norm.
    pub hidden_norm: f64,
    /// How the heads of an ensemble differ about it, whatever `reward` is reduced to; `None` where there is one head.
    pub disagreement: Option<Disagreement>,
}

/// Anything that scores token sequences: a model on a device, or a stand-in for it in a test.
pub trait SequenceScorer {
    /// Scores every sequence of every group; the answer has the shape of the question.
    ///
    /// A sequence's score does not depend on its neighbours.
    fn score(&self, groups: &[TokenGroup]) -> Result<Vec<Vec<Scored>>>;
}
