//! `[guard]`: which alarms there are, at what thresholds, and what an alarm does.

use crate::base::reader::{POSITIVE, Section, Words};
use crate::base::toml_writer::{OrWord, TomlWriter, Word};

/// More steps than that are no window.
const MAX_WINDOW: u64 = 1 << 20;

/// The `[guard]` section.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// What an alarm does where its rule does not say.
    pub action: Action,
    /// Steps of a window; also of the baseline, the first window after the learning rate's warmup.
    pub window: usize,
    /// The spread of |h|, as a share of its mean, below which growth is not looked at: a model from scratch begins
    /// with norms that are all but equal, and any growth from there is a large factor.
    pub min_spread: f64,
    pub(super) rules: [Setting; Rule::ALL.len()],
}

/// A rule's own settings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Setting {
    /// The alarm is raised above this value.
    pub threshold: f64,
    /// `None`: the section's.
    pub action: Option<Action>,
}

/// What an alarm does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Says so on stderr and in `metrics.jsonl`.
    Warn,
    /// That, then saves a checkpoint and ends the run with exit code 1.
    Stop,
    /// The rule is not looked at.
    Off,
}

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// Median `hidden_norm_var` of the window over that of the baseline.
    NormGrowth,
    /// Median `hidden_norm_skew` of the window.
    NormSkew,
    /// Median `|reward_mean| / reward_std` of the window, once the mean is further from zero than in the baseline.
    RewardDrift,
    /// Training accuracy of the window minus accuracy of a set's latest evaluation.
    Gap,
}

impl Rule {
    pub const ALL: [Self; 4] = [Self::NormGrowth, Self::NormSkew, Self::RewardDrift, Self::Gap];

    fn default_threshold(self) -> f64 {
        match self {
            // Ten times the variance is three times the spread.
            Rule::NormGrowth => 10.0,
            // An exponential distribution's: a tail heavier than that is no spread but outliers.
            Rule::NormSkew => 2.0,
            // Two deviations off: nearly all rewards have one sign.
            Rule::RewardDrift => 2.0,
            // Twice the 10 or so points that the paper's models lose between in-domain and disjoint sets.
            Rule::Gap => 0.2,
        }
    }
}

impl Words for Rule {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("norm-growth", Rule::NormGrowth),
        ("norm-skew", Rule::NormSkew),
        ("reward-drift", Rule::RewardDrift),
        ("gap", Rule::Gap),
    ];
}

impl Words for Action {
    const WORDS: &'static [(&'static str, Self)] =
        &[("warn", Action::Warn), ("stop", Action::Stop), ("off", Action::Off)];
}

/// A rule's action, or the section's.
impl Words for Option<Action> {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("default", None),
        ("warn", Some(Action::Warn)),
        ("stop", Some(Action::Stop)),
        ("off", Some(Action::Off)),
    ];
}

impl Default for Config {
    fn default() -> Self {
        Self {
            action: Action::Warn,
            window: 20,
            min_spread: 0.005,
            rules: Rule::ALL.map(|rule| Setting { threshold: rule.default_threshold(), action: None }),
        }
    }
}

impl Config {
    pub fn setting(&self, rule: Rule) -> Setting {
        self.rules[rule as usize]
    }

    /// Replaces a rule's settings.
    pub fn set(&mut self, rule: Rule, setting: Setting) {
        self.rules[rule as usize] = setting;
    }

    /// What an alarm of this rule does.
    pub fn action(&self, rule: Rule) -> Action {
        self.setting(rule).action.unwrap_or(self.action)
    }

    /// Reads the section. What is wrong with it goes on the section's record; the value is of no use then.
    pub(crate) fn read(mut section: Section<'_>) -> Self {
        let mut config = Self::default();
        config.action = section.word("action").unwrap_or(config.action);
        config.window = section.count("window", 1..=MAX_WINDOW).unwrap_or(config.window);
        config.min_spread = section.number("min_spread", POSITIVE).unwrap_or(config.min_spread);
        for (key, rule) in Rule::WORDS {
            if let Some(mut own) = section.section(key) {
                let setting = &mut config.rules[*rule as usize];
                setting.threshold = own.number("threshold", POSITIVE).unwrap_or(setting.threshold);
                setting.action = own.word("action").unwrap_or(setting.action);
                own.finish();
            }
        }
        section.finish();
        config
    }

    /// Writes the section with every key.
    pub(crate) fn write(&self, out: &mut TomlWriter) {
        out.header("[guard]");
        out.entry("action", Word(self.action));
        out.entry("window", self.window);
        out.entry("min_spread", self.min_spread);
        for rule in Rule::ALL {
            let Setting { threshold, action } = self.setting(rule);
            out.header(&format!("[guard.{}]", rule.word()));
            out.entry("threshold", threshold);
            out.entry("action", OrWord(action.map(Word), None::<Action>.word()));
        }
    }
}
