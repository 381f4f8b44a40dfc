//! What is kept of a split's rows: a few numbers each, no text. Every figure is computed from them.

use super::accuracy::{Judged, ordered_positions};
use super::report::{Metric, SkipReason};
use crate::data::{Origin, RowKind};
use rustc_hash::FxHashSet;
use std::collections::BTreeMap;
use std::sync::Arc;

/// One row with a right order among its responses, and the rewards that a model gave.
#[derive(Debug, Clone, PartialEq)]
pub struct JudgedRow {
    pub origin: Origin,
    pub kind: RowKind,
    pub responses: Vec<Judged>,
    /// Norm of each response's last hidden state.
    pub hidden_norms: Vec<f64>,
    /// How far the heads of an ensemble differ about each response; empty with one head.
    pub head_spreads: Vec<f64>,
    /// Markdown elements of each response.
    pub markdown: Vec<u32>,
    pub labels: Labels,
    /// The rewards once more, computed in another order, where the row was drawn for that.
    pub recomputed: Option<Vec<f64>>,
}

/// What a row may be grouped by; empty unless somebody asked.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Labels {
    pub source: Option<Arc<str>>,
    pub subset: Option<Arc<str>>,
    /// The model of each response.
    pub models: Vec<Option<Arc<str>>>,
}

impl Labels {
    /// Lets equal labels of many rows be one text in memory.
    pub(super) fn share(&mut self, known: &mut FxHashSet<Arc<str>>) {
        let own = [&mut self.source, &mut self.subset].into_iter().flatten();
        for label in own.chain(self.models.iter_mut().flatten()) {
            match known.get(label) {
                Some(first) => *label = first.clone(),
                None => {
                    known.insert(label.clone());
                }
            }
        }
    }
}

impl JudgedRow {
    /// Every two responses with different gold scores, the better one first.
    pub fn ordered_pairs(&self) -> impl Iterator<Item = (&Judged, &Judged)> {
        self.ordered_positions().map(|(better, worse)| (&self.responses[better], &self.responses[worse]))
    }

    /// [`JudgedRow::ordered_pairs`], as positions among the responses.
    pub fn ordered_positions(&self) -> impl Iterator<Item = (usize, usize)> {
        ordered_positions(&self.responses)
    }
}

/// One model's answers to one split.
#[derive(Debug, Default)]
pub struct Evaluation {
    /// The rows that count, in their order.
    pub rows: Vec<JudgedRow>,
    pub tokens: u64,
    pub truncated: u64,
    pub responses_without_gold: u64,
    pub skipped: BTreeMap<SkipReason, u64>,
    /// Of all hidden states, where it was asked for.
    pub effective_rank: Option<f64>,
}

impl Evaluation {
    /// The figure that the split is judged by.
    pub fn metric(&self) -> Metric {
        let has_ranked = self.rows.iter().any(|row| row.kind == RowKind::Ranked);
        if has_ranked { Metric::KendallTau } else { Metric::Accuracy }
    }
}
