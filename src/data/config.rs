//! `[data]`: what is read and how rows become sequences.

use crate::base::located::quoted;
use crate::base::reader::{Section, Words};
use crate::base::toml_writer::{TomlWriter, Word};
use crate::data::sandbox::PROMPTS;
use std::path::PathBuf;

/// Beyond this no tokenizer and no decoder could follow.
const MAX_LENGTH: u64 = 1 << 24;
/// The pairs of a list are half the square of this, and a list is computed at once.
const MAX_RESPONSES: u64 = 1024;
/// Twice UltraFeedback's.
const DEFAULT_MAX_RESPONSES: usize = 8;
/// How rows reach us from the hub.
const HUB_DATASETS: &str = "hf://datasets/";

/// The `[data]` section.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Files, globs or `hf://datasets/OWNER/NAME/FILE` to train on. Empty where `splits_dir` or `sandbox` is given.
    pub train: Vec<String>,
    /// Files to evaluate on, each a split of its own, named after its file.
    pub eval: Vec<String>,
    /// A folder that `rmtrain split` wrote, instead of `train` and `eval`.
    pub splits_dir: Option<PathBuf>,
    /// Generate the built-in synthetic world into the run's folder, instead of all of the above.
    pub sandbox: Option<SandboxConfig>,
    /// Longest rendered conversation, in tokens.
    pub max_length: usize,
    pub overlong: Overlong,
    pub shuffle: bool,
    pub pairing: Pairing,
    /// Most responses of a list; of more, so many are drawn.
    pub max_responses: usize,
    /// The field of a completion that holds its gold score.
    pub score_field: String,
    pub chat_template: ChatTemplateSource,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            train: Vec::new(),
            eval: Vec::new(),
            splits_dir: None,
            sandbox: None,
            max_length: 2048,
            overlong: Overlong::Drop,
            shuffle: true,
            pairing: Pairing::RandomTwo,
            max_responses: DEFAULT_MAX_RESPONSES,
            score_field: "overall_score".into(),
            chat_template: ChatTemplateSource::Auto,
        }
    }
}

/// `data.sandbox`: the size and seed of the synthetic world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SandboxConfig {
    pub seed: u64,
    pub prompts: usize,
}

/// What happens to a pair with a sequence of more than `max_length` tokens. Always counted and reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overlong {
    /// The pair is left out.
    Drop,
    /// Tokens are taken from the left of the prompt, the same number from both sides, so the response stays whole.
    TruncatePromptLeft,
    /// The run stops and names the row.
    Error,
}

/// How a row with many scored responses becomes pairs, or one list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pairing {
    RandomTwo,
    BestWorst,
    BestRandom,
    All,
    /// All responses of the row as one example.
    Listwise,
}

/// Where the chat template comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChatTemplateSource {
    /// The tokenizer's own.
    Auto,
    /// A `.jinja` file.
    File(PathBuf),
}

impl Words for Overlong {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("drop", Overlong::Drop),
        ("truncate-prompt-left", Overlong::TruncatePromptLeft),
        ("error", Overlong::Error),
    ];
}

impl Words for Pairing {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("random-two", Pairing::RandomTwo),
        ("best-worst", Pairing::BestWorst),
        ("best-random", Pairing::BestRandom),
        ("all", Pairing::All),
        ("listwise", Pairing::Listwise),
    ];
}

impl Config {
    /// Reads the section. What is wrong with it goes on the section's record; the value is of no use then.
    pub(crate) fn read(mut section: Section<'_>) -> Self {
        let default = Self::default();
        let files = "files, globs or hf://datasets/OWNER/NAME/FILE, in quotes";
        let train_place = section.place_of("train").cloned();
        let eval_place = section.place_of("eval").cloned();
        let splits_place = section.place_of("splits_dir").cloned();
        let sandbox_place = section.place_of("sandbox").cloned();
        let train = section.strings("train", files);
        let eval = section.strings("eval", files);
        for (key, list, place) in [("train", &train, &train_place), ("eval", &eval, &eval_place)] {
            for source in list.iter().flatten() {
                if let Some(text) = source_problem(source) {
                    section.problem(place.clone(), key, &text);
                }
            }
        }
        if train.as_ref().is_some_and(Vec::is_empty) {
            section.problem(train_place.clone(), "train", "found an empty list, expected at least one file");
        }
        let splits_dir = section.string("splits_dir", "a folder that `rmtrain split` wrote");
        let sandbox = section.section("sandbox").map(SandboxConfig::read);

        let sources = [("train", &train_place), ("splits_dir", &splits_place), ("sandbox", &sandbox_place)];
        let given: Vec<_> =
            sources.iter().filter_map(|(key, place)| place.as_ref().map(|p| (*key, p))).collect();
        match given.as_slice() {
            [] => section.missing("train", "one of train, splits_dir or sandbox"),
            [(first, _), rest @ ..] => {
                for (key, place) in rest {
                    let text = format!("found beside {first}, expected one of train, splits_dir or sandbox");
                    section.problem(Some((*place).clone()), key, &text);
                }
            }
        }
        if let (Some(place), None) = (&eval_place, &train_place)
            && let Some((key, _)) = given.first()
        {
            let text = format!(
                "found beside {key}, which brings its own evaluation sets; expected it beside train only"
            );
            section.problem(Some(place.clone()), "eval", &text);
        }

        let template = section.string("chat_template", "\"auto\" or a .jinja file");
        let config = Self {
            train: train.unwrap_or_default(),
            eval: eval.unwrap_or_default(),
            splits_dir: splits_dir.map(PathBuf::from),
            sandbox,
            max_length: section.count("max_length", 2..=MAX_LENGTH).unwrap_or(default.max_length),
            overlong: section.word("overlong").unwrap_or(default.overlong),
            shuffle: section.boolean("shuffle").unwrap_or(default.shuffle),
            pairing: section.word("pairing").unwrap_or(default.pairing),
            max_responses: section.count("max_responses", 2..=MAX_RESPONSES).unwrap_or(default.max_responses),
            score_field: section
                .string("score_field", "the name of a completion's field")
                .unwrap_or(default.score_field),
            chat_template: match template {
                Some(path) if path != "auto" => ChatTemplateSource::File(path.into()),
                _ => default.chat_template,
            },
        };
        section.finish();
        config
    }

    /// Writes the section with every key, of the alternatives those in force.
    ///
    /// Paths are written as UTF-8; that they are is a given where they came from a TOML file.
    pub(crate) fn write(&self, out: &mut TomlWriter) {
        out.header("[data]");
        if !self.train.is_empty() {
            out.entry("train", self.train.as_slice());
            out.entry("eval", self.eval.as_slice());
        }
        if let Some(folder) = &self.splits_dir {
            out.entry("splits_dir", folder.to_string_lossy().as_ref());
        }
        out.entry("max_length", self.max_length);
        out.entry("overlong", Word(self.overlong));
        out.entry("shuffle", self.shuffle);
        out.entry("pairing", Word(self.pairing));
        out.entry("max_responses", self.max_responses);
        out.entry("score_field", &self.score_field);
        match &self.chat_template {
            ChatTemplateSource::Auto => out.entry("chat_template", "auto"),
            ChatTemplateSource::File(path) => out.entry("chat_template", path.to_string_lossy().as_ref()),
        }
        if let Some(SandboxConfig { seed, prompts }) = self.sandbox {
            out.header("[data.sandbox]");
            out.entry("seed", seed);
            out.entry("prompts", prompts);
        }
    }
}

impl SandboxConfig {
    fn read(mut section: Section<'_>) -> Self {
        if section.place_of("prompts").is_none() {
            section.missing("prompts", "how many prompts to generate");
        }
        let config = Self {
            seed: section.integer("seed", 0..=u64::MAX).unwrap_or(0),
            prompts: section
                .count("prompts", *PROMPTS.start() as u64..=*PROMPTS.end() as u64)
                .unwrap_or(*PROMPTS.start()),
        };
        section.finish();
        config
    }
}

/// What is wrong with a source that can be told without looking at the disk.
fn source_problem(source: &str) -> Option<String> {
    let (scheme, _) = source.split_once("://")?;
    let found = quoted(source);
    if scheme != "hf" {
        return Some(format!("found {found}, expected a file, a glob or {HUB_DATASETS}OWNER/NAME/FILE"));
    }
    let parts: Vec<&str> =
        source.strip_prefix(HUB_DATASETS).map(|rest| rest.split('/').collect()).unwrap_or_default();
    let complete = parts.len() >= 3 && parts.iter().all(|part| !part.is_empty() && *part != "..");
    (!complete).then(|| format!("found {found}, expected {HUB_DATASETS}OWNER/NAME/FILE"))
}
