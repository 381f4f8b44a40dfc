//! Bradley-Terry: `-log sigmoid(r_w - r_l - margin)`, with label smoothing `e`:
//! `(1 - e) softplus(-d) + e softplus(d)`. Of a list: its mean over all pairs that differ in gold.

use super::config::Margin;
use super::{Batch, Value, sigmoid, softplus};

pub(super) fn add(value: &mut Value, batch: Batch, margin: Margin, label_smoothing: f64) {
    let (keep, flip) = (1.0 - label_smoothing, label_smoothing);
    value.add_mean(batch, |list, better, worse| {
        let d = better - worse - batch.margin(margin, list);
        let loss = keep * softplus(-d) + flip * softplus(d);
        let slope = flip * sigmoid(d) - keep * sigmoid(-d);
        (loss, slope, -slope)
    });
}

/// The plain mean loss, `loss_bt` of `metrics.jsonl`: no margin, no smoothing, whatever is optimized.
pub fn loss(batch: Batch) -> f64 {
    let mut value = Value::zero(batch.rewards.len());
    add(&mut value, batch, Margin::None, 0.0);
    value.loss
}
