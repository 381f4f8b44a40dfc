//! `[optim]`.

use crate::base::reader::{NON_NEGATIVE, POSITIVE, Section, Words, list};
use crate::base::toml_writer::{OrWord, TomlWriter, Word};

const DEFAULT_DECAY_RATIO: f64 = 0.1;
const DEFAULT_MIN_LR_RATIO: f64 = 0.0;

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

/// How the rate goes on after its warmup.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Schedule {
    Constant,
    /// In a straight line to zero, which the step after the last would have.
    Linear,
    /// In half a cosine to `min_lr_ratio`, a fraction of `lr`, which the step after the last would have.
    Cosine {
        min_lr_ratio: f64,
    },
    /// Warmup, stable, decay: constant but for the last part of the run, `decay_ratio` of all steps, in which it falls in
    /// a straight line to `min_lr_ratio`, a fraction of `lr`, which the step after the last would have.
    Wsd {
        decay_ratio: f64,
        min_lr_ratio: f64,
    },
}

/// A schedule without its settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Course {
    Constant,
    Linear,
    Cosine,
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

impl Words for Course {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("constant", Course::Constant),
        ("linear", Course::Linear),
        ("cosine", Course::Cosine),
        ("wsd", Course::Wsd),
    ];
}

impl Schedule {
    /// The keys that only some schedules have, with these.
    const KEYS: [(&'static str, &'static [Course]); 2] =
        [("decay_ratio", &[Course::Wsd]), ("min_lr_ratio", &[Course::Cosine, Course::Wsd])];

    fn course(self) -> Course {
        match self {
            Self::Constant => Course::Constant,
            Self::Linear => Course::Linear,
            Self::Cosine { .. } => Course::Cosine,
            Self::Wsd { .. } => Course::Wsd,
        }
    }

    /// Reads the schedule with its keys. Those of another one are refused: they would change nothing.
    fn read(section: &mut Section<'_>) -> Self {
        let is_given = section.place_of("schedule").is_some();
        // `None` for a word that is no schedule: which keys go with it is not known then.
        let course = section.word("schedule").or((!is_given).then_some(Course::Linear));
        let mut ratio = |key: &'static str| section.number(key, 0.0..=1.0);
        let schedule = match course {
            Some(Course::Constant) => Self::Constant,
            Some(Course::Linear) | None => Self::Linear,
            Some(Course::Cosine) => {
                Self::Cosine { min_lr_ratio: ratio("min_lr_ratio").unwrap_or(DEFAULT_MIN_LR_RATIO) }
            }
            Some(Course::Wsd) => Self::Wsd {
                decay_ratio: ratio("decay_ratio").unwrap_or(DEFAULT_DECAY_RATIO),
                min_lr_ratio: ratio("min_lr_ratio").unwrap_or(DEFAULT_MIN_LR_RATIO),
            },
        };
        for (key, courses) in Self::KEYS {
            let (Some(left), Some(course)) = (section.take(key), course) else { continue };
            let words: Vec<&str> = courses.iter().map(|course| course.word()).collect();
            let text = format!(
                "found with schedule = {:?}, which does not use it; expected no such key, or schedule = {}",
                course.word(),
                list(&words)
            );
            section.problem(Some(left.place), key, &text);
        }
        schedule
    }

    /// Writes the schedule's own keys; its name stands before the warmup.
    fn write_keys(self, out: &mut TomlWriter) {
        match self {
            Self::Constant | Self::Linear => {}
            Self::Cosine { min_lr_ratio } => out.entry("min_lr_ratio", min_lr_ratio),
            Self::Wsd { decay_ratio, min_lr_ratio } => {
                out.entry("decay_ratio", decay_ratio);
                out.entry("min_lr_ratio", min_lr_ratio);
            }
        }
    }
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
            schedule: Schedule::read(&mut section),
            warmup: ratio.or(steps).unwrap_or(default.warmup),
        };
        section.finish();
        config
    }

    /// Writes the section with every key in force: of the two forms of warmup one, and those that the schedule has.
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
        out.entry("schedule", Word(self.schedule.course()));
        match self.warmup {
            Warmup::Ratio(ratio) => out.entry("warmup_ratio", ratio),
            Warmup::Steps(steps) => out.entry("warmup_steps", steps),
        }
        self.schedule.write_keys(out);
    }
}
