//! `schedule` of a sum-to-zero term: how its lambda goes over the run.

use crate::base::located::Place;
use crate::base::reader::{NON_NEGATIVE, POSITIVE, Section, Words};
use crate::base::toml_writer::{TomlWriter, Word};

/// A step changes the weight by a twentieth at most.
const DEFAULT_RATE: f64 = 0.05;
const DEFAULT_MIN: f64 = 1e-6;
const DEFAULT_MAX: f64 = 10.0;

/// How lambda goes over the run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum LambdaSchedule {
    /// A function of the step alone.
    Planned {
        shape: Shape,
        /// Share of all steps in which the weight rises from zero to lambda.
        warmup_ratio: f64,
    },
    /// Held by a controller, from lambda on.
    Adaptive(Adaptive),
}

impl Default for LambdaSchedule {
    fn default() -> Self {
        Self::Planned { shape: Shape::Constant, warmup_ratio: 0.0 }
    }
}

/// How a planned weight goes on after its warmup.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Shape {
    Constant,
    /// In a straight line to `end` at the last step.
    Linear {
        end: f64,
    },
    /// In half a cosine to `end` at the last step.
    Cosine {
        end: f64,
    },
}

/// A controller that raises the weight while a figure of the step is above its target, and lowers it while it is
/// below.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Adaptive {
    pub signal: Signal,
    pub target: f64,
    /// Largest change of the weight's logarithm in a step.
    pub rate: f64,
    pub min: f64,
    pub max: f64,
}

/// What a controller looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// |mean of the step's rewards|.
    RewardMean,
    /// Population variance of the step's hidden norms.
    HiddenNormVar,
}

impl Words for Signal {
    const WORDS: &'static [(&'static str, Self)] =
        &[("reward-mean", Signal::RewardMean), ("hidden-norm-var", Signal::HiddenNormVar)];
}

/// A schedule without its settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Course {
    Constant,
    Linear,
    Cosine,
    Adaptive,
}

impl Words for Course {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("constant", Course::Constant),
        ("linear", Course::Linear),
        ("cosine", Course::Cosine),
        ("adaptive", Course::Adaptive),
    ];
}

impl LambdaSchedule {
    fn course(self) -> Course {
        match self {
            Self::Planned { shape: Shape::Constant, .. } => Course::Constant,
            Self::Planned { shape: Shape::Linear { .. }, .. } => Course::Linear,
            Self::Planned { shape: Shape::Cosine { .. }, .. } => Course::Cosine,
            Self::Adaptive(_) => Course::Adaptive,
        }
    }

    /// Reads the keys that the schedule has; those of another one stay unread and are refused as unknown.
    pub(super) fn read(section: &mut Section<'_>, lambda: f64, lambda_place: Option<Place>) -> Self {
        let course = section.word("schedule").unwrap_or(Course::Constant);
        if course == Course::Adaptive {
            return Self::Adaptive(Adaptive::read(section, lambda, lambda_place));
        }
        let warmup_ratio = section.number("warmup_ratio", 0.0..=1.0).unwrap_or(0.0);
        let mut end = || section.number("lambda_end", NON_NEGATIVE).unwrap_or(0.0);
        let shape = match course {
            Course::Constant | Course::Adaptive => Shape::Constant,
            Course::Linear => Shape::Linear { end: end() },
            Course::Cosine => Shape::Cosine { end: end() },
        };
        Self::Planned { shape, warmup_ratio }
    }

    pub(super) fn write(self, out: &mut TomlWriter) {
        out.entry("schedule", Word(self.course()));
        match self {
            Self::Planned { shape, warmup_ratio } => {
                if let Shape::Linear { end } | Shape::Cosine { end } = shape {
                    out.entry("lambda_end", end);
                }
                out.entry("warmup_ratio", warmup_ratio);
            }
            Self::Adaptive(Adaptive { signal, target, rate, min, max }) => {
                out.entry("signal", Word(signal));
                out.entry("target", target);
                out.entry("rate", rate);
                out.entry("lambda_min", min);
                out.entry("lambda_max", max);
            }
        }
    }
}

impl Adaptive {
    fn read(section: &mut Section<'_>, lambda: f64, lambda_place: Option<Place>) -> Self {
        if section.place_of("target").is_none() {
            section.missing("target", "the value at which schedule = \"adaptive\" holds its signal");
        }
        let max_place = section.place_of("lambda_max").cloned();
        let adaptive = Self {
            signal: section.word("signal").unwrap_or(Signal::RewardMean),
            target: section.number("target", POSITIVE).unwrap_or(1.0),
            rate: section.number("rate", POSITIVE).unwrap_or(DEFAULT_RATE),
            min: section.number("lambda_min", POSITIVE).unwrap_or(DEFAULT_MIN),
            max: section.number("lambda_max", POSITIVE).unwrap_or(DEFAULT_MAX),
        };
        if adaptive.min > adaptive.max {
            let text =
                format!("found {}, expected at least lambda_min, which is {}", adaptive.max, adaptive.min);
            section.problem(max_place, "lambda_max", &text);
        } else if !(adaptive.min..=adaptive.max).contains(&lambda) {
            // Factors lead nowhere from zero, and a start out of bounds is no start.
            let text = format!(
                "found {lambda}, expected {} to {} (lambda_min to lambda_max), where schedule = \"adaptive\" starts",
                adaptive.min, adaptive.max
            );
            section.problem(lambda_place, "lambda", &text);
        }
        adaptive
    }
}
