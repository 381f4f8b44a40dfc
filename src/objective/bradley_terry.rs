//! Bradley-Terry: `-log sigmoid(r_w - r_l - margin)`, with label smoothing `e`:
//! `(1 - e) softplus(-d) + e softplus(d)`.

use super::config::Margin;
use super::{Batch, Value, sigmoid, softplus};

pub(super) fn add(value: &mut Value, batch: Batch, margin: Margin, label_smoothing: f64) {
    let (keep, flip) = (1.0 - label_smoothing, label_smoothing);
    value.add_mean(|i| {
        let d = batch.chosen[i] - batch.rejected[i] - batch.margin(margin, i);
        let loss = keep * softplus(-d) + flip * softplus(d);
        let slope = flip * sigmoid(d) - keep * sigmoid(-d);
        (loss, slope, -slope)
    });
}

/// The plain mean loss, `loss_bt` of `metrics.jsonl`: no margin, no smoothing, whatever is optimized.
pub fn loss(chosen: &[f64], rejected: &[f64]) -> f64 {
    let pairs = chosen.iter().zip(rejected);
    pairs.map(|(w, l)| softplus(l - w)).sum::<f64>() / chosen.len() as f64
}
