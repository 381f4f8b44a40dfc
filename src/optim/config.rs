//! `[optim]`.

use crate::base::reader::{NON_NEGATIVE, POSITIVE, Section, Words};
use crate::base::toml_writer::{OrWord, TomlWriter, Word};

/// The `[optim]` section.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub kind: Kind,
    /// Peak learning rate.
    pub lr: f64,
    pub betas: [f64; 2],
    pub eps: f64,
    pub moments: MomentKind,
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
            moments: MomentKind::F32,
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

/// How the two moments of a parameter are kept between updates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MomentKind {
    F32,
    /// Codes of eight bits with a scale for each block, as [`super::quantized`] has them.
    EightBit,
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

impl Words for Kind {
    const WORDS: &'static [(&'static str, Self)] = &[("adamw", Kind::AdamW)];
}

impl Words for MomentKind {
    const WORDS: &'static [(&'static str, Self)] =
        &[("f32", MomentKind::F32), ("8-bit", MomentKind::EightBit)];
}

impl Words for Schedule {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("constant", Schedule::Constant),
        ("linear", Schedule::Linear),
        ("cosine", Schedule::Cosine),
        ("wsd", Schedule::Wsd),
    ];
}

impl Config {
    /// Reads the section. What is wrong with it goes on the section's record; the value is of no use then.
    pub(crate) fn read(mut section: Section<'_>) -> Self {
        let default = Self::default();
        let ratio = section.place_of("warmup_ratio").cloned();
        let steps = section.place_of("warmup_steps").cloned();
        if let (Some(_), Some(place)) = (&ratio, &steps) {
            let text = "found beside warmup_ratio, expected one of the two";
            section.problem(Some(place.clone()), "warmup_steps", text);
        }
        let ratio = section.number("warmup_ratio", 0.0..=1.0).map(Warmup::Ratio);
        let steps = section.integer("warmup_steps", 0..=u64::MAX).map(Warmup::Steps);
        let config = Self {
            kind: section.word("kind").unwrap_or(default.kind),
            lr: section.number("lr", POSITIVE).unwrap_or(default.lr),
            betas: section.numbers("betas", 0.0..1.0).unwrap_or(default.betas),
            eps: section.number("eps", POSITIVE).unwrap_or(default.eps),
            moments: section.word("moments").unwrap_or(default.moments),
            weight_decay: section.number("weight_decay", NON_NEGATIVE).unwrap_or(default.weight_decay),
            decay_head: section.boolean("decay_head").unwrap_or(default.decay_head),
            max_grad_norm: section
                .number_or("max_grad_norm", POSITIVE, "none")
                .unwrap_or(default.max_grad_norm),
            schedule: section.word("schedule").unwrap_or(default.schedule),
            warmup: ratio.or(steps).unwrap_or(default.warmup),
            decay_ratio: section.number("decay_ratio", 0.0..=1.0).unwrap_or(default.decay_ratio),
            min_lr_ratio: section.number("min_lr_ratio", 0.0..=1.0).unwrap_or(default.min_lr_ratio),
        };
        section.finish();
        config
    }

    /// Writes the section with every key, of the two forms of warmup the one in force.
    pub(crate) fn write(&self, out: &mut TomlWriter) {
        out.header("[optim]");
        out.entry("kind", Word(self.kind));
        out.entry("lr", self.lr);
        out.entry("betas", self.betas.as_slice());
        out.entry("eps", self.eps);
        out.entry("moments", Word(self.moments));
        out.entry("weight_decay", self.weight_decay);
        out.entry("decay_head", self.decay_head);
        out.entry("max_grad_norm", OrWord(self.max_grad_norm, "none"));
        out.entry("schedule", Word(self.schedule));
        match self.warmup {
            Warmup::Ratio(ratio) => out.entry("warmup_ratio", ratio),
            Warmup::Steps(steps) => out.entry("warmup_steps", steps),
        }
        out.entry("decay_ratio", self.decay_ratio);
        out.entry("min_lr_ratio", self.min_lr_ratio);
    }
}
