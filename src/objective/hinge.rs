//! Hinge: `max(0, margin - (r_w - r_l))`. Of a list: its mean over all pairs that differ in gold.

use super::config::Margin;
use super::{Batch, Value};

pub(super) fn add(value: &mut Value, batch: Batch, margin: Margin) {
    value.add_mean(batch, |list, better, worse| {
        let gap = batch.margin(margin, list) - (better - worse);
        if gap > 0.0 { (gap, -1.0, 1.0) } else { (0.0, 0.0, 0.0) }
    });
}
