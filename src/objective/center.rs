//! Centring, as TRL's `center_rewards_coefficient`: `coefficient * mean((r_w + r_l)^2)`.

use super::{Batch, Value};

pub(super) fn add(value: &mut Value, batch: Batch, coefficient: f64) {
    value.add_mean(batch, |_, better, worse| {
        let sum = better + worse;
        let slope = 2.0 * coefficient * sum;
        (coefficient * sum * sum, slope, slope)
    });
}
