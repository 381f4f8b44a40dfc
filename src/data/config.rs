//! `[data]`: what is read and how rows become sequences.

use std::path::PathBuf;

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

/// How a row with many scored responses becomes pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pairing {
    RandomTwo,
    BestWorst,
    BestRandom,
    All,
}

/// Where the chat template comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChatTemplateSource {
    /// The tokenizer's own.
    Auto,
    /// A `.jinja` file.
    File(PathBuf),
}
