//! Normalised Bradley-Terry: `-log sigmoid(temperature * (r_w - r_l) / n)`, `n = sqrt(r_w^2 + r_l^2 + epsilon^2)`.
//!
//! The published form has no epsilon and no value where both rewards are zero. Here `n` is guarded: with both
//! rewards and epsilon zero the term is its limit along `r_w = r_l`, ln 2 with gradient zero. Of a list: its mean over
//! all pairs that differ in gold.

use super::{Batch, Value, sigmoid, softplus};

pub(super) fn add(value: &mut Value, batch: Batch, temperature: f64, epsilon: f64) {
    value.add_mean(batch, |_, w, l| {
        let n = w.hypot(l).hypot(epsilon);
        if n < f64::MIN_POSITIVE {
            return (std::f64::consts::LN_2, 0.0, 0.0);
        }
        let z = temperature * (w - l) / n;
        let slope = -sigmoid(-z) * temperature;
        // dz/dw = (1 - (w - l) w / n^2) / n, and the like for l.
        let (along_w, along_l) = ((w - l) / n * (w / n), (w - l) / n * (l / n));
        (softplus(-z), slope * (1.0 - along_w) / n, slope * (-1.0 - along_l) / n)
    });
}
