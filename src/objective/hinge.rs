//! Hinge: `max(0, margin - (r_w - r_l))`.

use super::config::Margin;
use super::{Batch, Value};

pub(super) fn add(value: &mut Value, batch: Batch, margin: Margin) {
    value.add_mean(|i| {
        let gap = batch.margin(margin, i) - (batch.chosen[i] - batch.rejected[i]);
        if gap > 0.0 { (gap, -1.0, 1.0) } else { (0.0, 0.0, 0.0) }
    });
}
