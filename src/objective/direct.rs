//! Direct reward, Eurus (arXiv 2404.02078):
//! `-log sigmoid(r_w - r_l) - log sigmoid(r_w) - log sigmoid(-r_l)`.

use super::{Batch, Value, sigmoid, softplus};

pub(super) fn add(value: &mut Value, batch: Batch) {
    value.add_mean(batch, |_, w, l| {
        let loss = softplus(l - w) + softplus(-w) + softplus(l);
        let gap = sigmoid(l - w);
        (loss, -gap - sigmoid(-w), gap + sigmoid(l))
    });
}
