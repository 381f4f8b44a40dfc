//! Evaluation and scoring, without gradients: batches for a scorer, accuracy, Kendall's tau, intervals, reports.
//!
//! What is not here: the model (it comes as a [`SequenceScorer`]), opening files, and what is printed where.

use crate::Result;
use crate::data::TokenGroup;
use crate::model::{Disagreement, Objectives};

mod accuracy;
mod antisymmetry;
pub mod benchmark;
pub mod bootstrap;
mod breakdown;
mod calibration;
mod compare;
#[cfg(test)]
mod coverage;
mod distribution;
mod evaluate;
mod interval;
mod judged;
pub mod kendall;
mod label;
mod length;
mod markdown;
mod named;
mod reduce;
mod report;
mod rescore;
mod reward_model;
mod score;
mod scorer;
mod spectrum;
mod table;
mod tally;
#[cfg(test)]
mod test_support;
mod window;

pub use crate::data::Origin;
pub use accuracy::{Agreement, Judged, agreement};
pub use antisymmetry::Antisymmetry;
pub use breakdown::{By, GroupReport, Groups};
pub use calibration::{Calibration, calibration};
pub use compare::{Comparison, McNemar, SplitComparison, compare};
pub use distribution::{HiddenStatistics, Histogram, RewardDistribution};
pub use evaluate::{Detail, Options, Progress, evaluate_split, judge_split};
pub use judged::{Evaluation, JudgedRow, Labels};
pub use label::{LabelOptions, LabelSummary, label_rows};
pub use length::LengthBias;
pub use named::Named;
pub use reduce::{Reduce, Reduced};
pub use report::{EvalReport, Gap, Metric, SkipReason, SplitReport, Splits};
pub use rescore::{OnError, ScoreOptions, is_error_row};
pub use score::{ScoreSummary, score_rows};
pub use scorer::{DEFAULT_BATCH_TOKENS, score_groups};
pub use table::table;

/// What a sequence was given.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    pub reward: f64,
    /// Norm of the last token's hidden state after the final norm.
    pub hidden_norm: f64,
    /// How the heads of an ensemble differ about it, whatever `reward` is reduced to; `None` where there is one head.
    pub disagreement: Option<Disagreement>,
    /// What the reward is made of, where the model has many objectives.
    pub objectives: Option<Box<Objectives>>,
}

/// Anything that scores token sequences: a model on a device, or a stand-in for it in a test.
pub trait SequenceScorer {
    /// Scores every sequence of every group; the answer has the shape of the question.
    ///
    /// A sequence's score does not depend on its neighbours.
    fn score(&self, groups: &[TokenGroup]) -> Result<Vec<Vec<Scored>>>;

    /// [`SequenceScorer::score`], and hands on every sequence's hidden state [H] where the scorer has such.
    fn score_hidden(
        &self,
        groups: &[TokenGroup],
        hidden: &mut dyn FnMut(&[f32]),
    ) -> Result<Vec<Vec<Scored>>> {
        let _ = hidden;
        self.score(groups)
    }
}

impl<S: SequenceScorer + ?Sized> SequenceScorer for Box<S> {
    fn score(&self, groups: &[TokenGroup]) -> Result<Vec<Vec<Scored>>> {
        (**self).score(groups)
    }

    fn score_hidden(
        &self,
        groups: &[TokenGroup],
        hidden: &mut dyn FnMut(&[f32]),
    ) -> Result<Vec<Vec<Scored>>> {
        (**self).score_hidden(groups, hidden)
    }
}
