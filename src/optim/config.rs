//! `[optim]`.

/// The `[optim]` section.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub kind: Kind,
    /// Peak learning rate.
    pub lr: f64,
    pub betas: [f64; 2],
    pub eps: f64,
    /// Decoupled decay of matrices; norms, biases and (unless `decay_head`) the head are never decayed.
    pub weight_decay: f64,
    pub decay_head: bool,
    /// Global gradient norm above which gradients are scaled down. `None`: never.
    pub max_grad_norm: Option<f64>,
    pub schedule: Schedule,
    pub warmup: Warmup,
    /// `wsd` only: the last part of the run in which the rate falls to zero, as a fraction of all steps.
    pub decay_ratio: f64,
    /// `cosine` and `wsd`: the rate at the end, as a fraction of `lr`.
    pub min_lr_ratio: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            kind: Kind::AdamW,
            lr: 1e-5,
            betas: [0.9, 0.999],
            eps: 1e-8,
            weight_decay: 0.0,
            decay_head: false,
            max_grad_norm: Some(1.0),
            schedule: Schedule::Linear,
            warmup: Warmup::Ratio(0.05),
            decay_ratio: 0.1,
            min_lr_ratio: 0.0,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    AdamW,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schedule {
    Constant,
    Linear,
    Cosine,
    /// Warmup, stable, decay.
    Wsd,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Warmup {
    /// Fraction of all steps.
    Ratio(f64),
    Steps(u64),
}
