//! `[[objective]]`: the list of terms.

mod schedule;

pub use schedule::{Adaptive, LambdaSchedule, Shape, Signal};

use crate::base::reader::{NON_NEGATIVE, POSITIVE, Section, Words, list};
use crate::base::toml_writer::{TomlWriter, Word};

/// The paper's weight of the sum-to-zero term.
const DEFAULT_LAMBDA: f64 = 1e-3;
const DEFAULT_HINGE_MARGIN: f64 = 1.0;
const DEFAULT_TEMPERATURE: f64 = 1.0;
/// Far below any reward that matters, far above what f64 loses: it only guards 0 / 0.
const DEFAULT_EPSILON: f64 = 1e-6;
/// TRL's `center_rewards_coefficient`.
const DEFAULT_COEFFICIENT: f64 = 0.01;
/// As centring: a hundredth of what is penalized.
const DEFAULT_DISPERSION: f64 = 0.01;

/// One term of the loss. The loss is the sum of all terms.
#[derive(Debug, Clone, PartialEq)]
pub enum Config {
    /// `-log sigmoid(r_w - r_l - margin)`, label-smoothed.
    BradleyTerry { margin: Margin, label_smoothing: f64 },
    /// The negative log-likelihood of a list's whole order; of a pair, Bradley-Terry.
    PlackettLuce,
    /// `lambda * mean(r)^2`.
    SumToZero { lambda: f64, scope: Scope, scale: Scale, schedule: LambdaSchedule },
    /// `max(0, margin - (r_w - r_l))`.
    Hinge { margin: Margin },
    /// `-log sigmoid(temperature * (r_w - r_l) / sqrt(r_w^2 + r_l^2 + eps^2))`.
    Normalized { temperature: f64, epsilon: f64 },
    /// Eurus: `-log sigmoid(r_w - r_l) - log sigmoid(r_w) - log sigmoid(-r_l)`.
    Direct,
    /// `coefficient * mean((r_w + r_l)^2)`.
    Center { coefficient: f64 },
    /// `coefficient * Var(r)` over all rewards of the step.
    RewardVariance { coefficient: f64 },
    /// `coefficient * Var(|h|)` over all hidden states of the step.
    NormVariance { coefficient: f64 },
}

impl Config {
    /// Whether the term reads the norms of the hidden states, so that its gradient reaches them directly.
    pub fn reads_norms(&self) -> bool {
        matches!(self, Self::NormVariance { .. })
    }

    /// Whether the term's value depends on which lists are computed together.
    pub fn couples_micro_batches(&self) -> bool {
        matches!(self, Self::SumToZero { scope: Scope::MicroBatch, .. })
    }

    /// Whether the term reads the rows' own margins.
    pub fn needs_margin_column(&self) -> bool {
        matches!(
            self,
            Self::BradleyTerry { margin: Margin::Column, .. } | Self::Hinge { margin: Margin::Column }
        )
    }
}

/// The margin of a pair.
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
    /// `lambda * B * mean(r)^2`, B the pairs (or lists) that the mean is over: those of one micro-batch with
    /// [`Scope::MicroBatch`], as in the published code, and those of the whole step with [`Scope::Global`].
    Batch,
}

/// The margins that are no number.
impl Words for Margin {
    const WORDS: &'static [(&'static str, Self)] = &[("none", Margin::None), ("column", Margin::Column)];
}

impl Words for Scope {
    const WORDS: &'static [(&'static str, Self)] =
        &[("global", Scope::Global), ("micro-batch", Scope::MicroBatch)];
}

impl Words for Scale {
    const WORDS: &'static [(&'static str, Self)] = &[("mean", Scale::Mean), ("batch", Scale::Batch)];
}

/// A term without its settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    BradleyTerry,
    PlackettLuce,
    SumToZero,
    Hinge,
    Normalized,
    Direct,
    Center,
    RewardVariance,
    NormVariance,
}

impl Words for Kind {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("bradley-terry", Kind::BradleyTerry),
        ("plackett-luce", Kind::PlackettLuce),
        ("sum-to-zero", Kind::SumToZero),
        ("hinge", Kind::Hinge),
        ("normalized", Kind::Normalized),
        ("direct", Kind::Direct),
        ("center", Kind::Center),
        ("reward-variance", Kind::RewardVariance),
        ("norm-variance", Kind::NormVariance),
    ];
}

impl Kind {
    /// Whether the term says which of two responses is better; the others only shape the rewards.
    pub fn is_preference(self) -> bool {
        match self {
            Kind::BradleyTerry | Kind::PlackettLuce | Kind::Hinge | Kind::Normalized | Kind::Direct => true,
            Kind::SumToZero | Kind::Center | Kind::RewardVariance | Kind::NormVariance => false,
        }
    }

    /// What to use instead where lists are longer than pairs; `None` where the term means something there. A response
    /// in the middle of a list is chosen and rejected at once, and has no sign that its reward should have.
    pub fn instead_of_lists(self) -> Option<&'static str> {
        match self {
            Kind::Direct => Some("\"plackett-luce\" or \"bradley-terry\""),
            Kind::Center => Some("\"sum-to-zero\" or \"reward-variance\""),
            _ => None,
        }
    }
}

impl Config {
    /// Which term this is.
    pub fn kind(&self) -> Kind {
        match self {
            Config::BradleyTerry { .. } => Kind::BradleyTerry,
            Config::PlackettLuce => Kind::PlackettLuce,
            Config::SumToZero { .. } => Kind::SumToZero,
            Config::Hinge { .. } => Kind::Hinge,
            Config::Normalized { .. } => Kind::Normalized,
            Config::Direct => Kind::Direct,
            Config::Center { .. } => Kind::Center,
            Config::RewardVariance { .. } => Kind::RewardVariance,
            Config::NormVariance { .. } => Kind::NormVariance,
        }
    }

    /// Reads the list of terms. What is wrong goes on the sections' record; the value is of no use then.
    pub(crate) fn read_all(sections: Vec<Section<'_>>) -> Vec<Self> {
        let mut terms: Vec<Self> = Vec::with_capacity(sections.len());
        let mut complete = true;
        let last = sections.len().saturating_sub(1);
        for (i, mut section) in sections.into_iter().enumerate() {
            if section.place_of("kind").is_none() {
                let words: Vec<&str> = Kind::WORDS.iter().map(|(word, _)| *word).collect();
                section.missing("kind", &list(&words));
            }
            let Some(kind) = section.word::<Kind>("kind") else {
                complete = false;
                continue;
            };
            if terms.iter().any(|term| term.kind() == kind) {
                let text = format!("found a second {:?}, expected each kind at most once", kind.word());
                section.problem(None, "kind", &text);
            }
            let preference = kind.is_preference() || terms.iter().any(|term| term.kind().is_preference());
            if i == last && complete && !preference {
                let text = "found no preference term in the list, expected one of \"bradley-terry\", \
                            \"plackett-luce\", \"hinge\", \"normalized\" or \"direct\": what is there is minimal when every reward is zero";
                section.problem(None, "kind", text);
            }
            terms.push(Self::read(kind, section));
        }
        terms
    }

    fn read(kind: Kind, mut section: Section<'_>) -> Self {
        let config = match kind {
            Kind::BradleyTerry => Config::BradleyTerry {
                margin: Margin::read(&mut section).unwrap_or(Margin::None),
                label_smoothing: section.number("label_smoothing", 0.0..0.5).unwrap_or(0.0),
            },
            Kind::PlackettLuce => Config::PlackettLuce,
            Kind::SumToZero => {
                let place = section.place_of("lambda").cloned();
                let lambda = section.number("lambda", NON_NEGATIVE).unwrap_or(DEFAULT_LAMBDA);
                let scope = section.word("scope").unwrap_or(Scope::Global);
                let scale = section.word("scale").unwrap_or(Scale::Mean);
                let schedule = LambdaSchedule::read(&mut section, lambda, place);
                Config::SumToZero { lambda, scope, scale, schedule }
            }
            Kind::Hinge => Config::Hinge {
                margin: Margin::read(&mut section).unwrap_or(Margin::Constant(DEFAULT_HINGE_MARGIN)),
            },
            Kind::Normalized => Config::Normalized {
                temperature: section.number("temperature", POSITIVE).unwrap_or(DEFAULT_TEMPERATURE),
                epsilon: section.number("epsilon", POSITIVE).unwrap_or(DEFAULT_EPSILON),
            },
            Kind::Direct => Config::Direct,
            Kind::Center => Config::Center {
                coefficient: section.number("coefficient", NON_NEGATIVE).unwrap_or(DEFAULT_COEFFICIENT),
            },
            Kind::RewardVariance => Config::RewardVariance {
                coefficient: section.number("coefficient", NON_NEGATIVE).unwrap_or(DEFAULT_DISPERSION),
            },
            Kind::NormVariance => Config::NormVariance {
                coefficient: section.number("coefficient", NON_NEGATIVE).unwrap_or(DEFAULT_DISPERSION),
            },
        };
        section.finish();
        config
    }

    /// Writes the term with every key.
    pub(crate) fn write(&self, out: &mut TomlWriter) {
        out.header("[[objective]]");
        out.entry("kind", Word(self.kind()));
        match *self {
            Config::BradleyTerry { margin, label_smoothing } => {
                margin.write(out);
                out.entry("label_smoothing", label_smoothing);
            }
            Config::SumToZero { lambda, scope, scale, schedule } => {
                out.entry("lambda", lambda);
                out.entry("scope", Word(scope));
                out.entry("scale", Word(scale));
                schedule.write(out);
            }
            Config::Hinge { margin } => margin.write(out),
            Config::Normalized { temperature, epsilon } => {
                out.entry("temperature", temperature);
                out.entry("epsilon", epsilon);
            }
            Config::Direct | Config::PlackettLuce => {}
            Config::Center { coefficient }
            | Config::RewardVariance { coefficient }
            | Config::NormVariance { coefficient } => out.entry("coefficient", coefficient),
        }
    }
}

impl Margin {
    fn read(section: &mut Section<'_>) -> Option<Self> {
        section
            .number_or_word("margin", NON_NEGATIVE)
            .map(|found| found.map_or_else(|word| word, Margin::Constant))
    }

    fn write(self, out: &mut TomlWriter) {
        match self {
            Margin::Constant(margin) => out.entry("margin", margin),
            Margin::None | Margin::Column => out.entry("margin", Word(self)),
        }
    }
}
