//! `[[objective]]`: the list of terms.

/// One term of the loss. The loss is the sum of all terms.
#[derive(Debug, Clone, PartialEq)]
pub enum Config {
    /// `-log sigmoid(r_w - r_l - margin)`, label-smoothed.
    BradleyTerry { margin: Margin, label_smoothing: f64 },
    /// `lambda * mean(r)^2`.
    SumToZero { lambda: f64, scope: Scope, scale: Scale },
    /// `max(0, margin - (r_w - r_l))`.
    Hinge { margin: Margin },
    /// `-log sigmoid(temperature * (r_w - r_l) / sqrt(r_w^2 + r_l^2 + eps^2))`.
    Normalized { temperature: f64, epsilon: f64 },
    /// Eurus: `-log sigmoid(r_w - r_l) - log sigmoid(r_w) - log sigmoid(-r_l)`.
    Direct,
    /// `coefficient * mean((r_w + r_l)^2)`.
    Center { coefficient: f64 },
}

/// The margin of a pair: the row's `margin` column where it has one, else the constant.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Margin {
    None,
    Constant(f64),
    /// The row's column; a row without one is an error that names it.
    Column,
}

/// Over which pairs the batch mean is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The whole optimizer step.
    Global,
    /// Each micro-batch on its own, as the published code does.
    MicroBatch,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// `lambda * mean(r)^2`.
    Mean,
    /// `lambda * B * mean(r)^2`, B the pairs of one micro-batch, as the published code does.
    Batch,
}
