//! Rows: the schemas that are read, normalised into one [`Example`].
//!
//! `schema` tells the schemas apart, `text` reads messages, `gold` reads scores and `write_gold` writes them. What is not
//! here: files (`source`) and what becomes of an example (`pairing`).

mod gold;
mod schema;
#[cfg(test)]
mod tests;
mod text;
mod write_gold;

pub use gold::MEAN_RATING;
pub use schema::null_sides;
pub use write_gold::{insert_keeping_own, swap_sides, write_gold};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One chat message. Keys beyond `role` and `content` reach the template as they are, except nulls, which count as
/// absent: tables fill every column, and a template that asks `'tool_calls' in message` means a value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    pub role: String,
    pub content: String,
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Message {
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), extra: Map::new() }
    }
}

/// One response to a prompt: the messages that follow it, with what is known about them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Response {
    pub messages: Vec<Message>,
    /// Gold score; higher is better. `None` where missing, null or NaN.
    pub score: Option<f64>,
    pub model: Option<String>,
}

/// What a row was, so that `score` can answer in kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RowKind {
    /// `responses[0]` is chosen, `responses[1]` is rejected.
    Pair,
    /// Any number of responses, best order unknown, with or without gold scores.
    Ranked,
    /// One conversation to score: the only response.
    Single,
}

/// A row of any accepted schema.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Example {
    pub kind: RowKind,
    pub id: Option<String>,
    pub source: Option<String>,
    /// The part of a benchmark or data set that the row belongs to, where it has a column `subset`.
    pub subset: Option<String>,
    pub prompt: Vec<Message>,
    pub responses: Vec<Response>,
    /// Required reward gap of a pair, where the row has one.
    pub margin: Option<f64>,
}

impl Example {
    /// Reads a row of any schema of the table below; the caller adds the place to a reason.
    ///
    /// | schema | told by | becomes |
    /// |---|---|---|
    /// | pair | `chosen`, `rejected`, and `prompt`, `instruction` (+ `input`), `question`, `messages` or `conversations` | Pair |
    /// | pair of conversations | `chosen`, `rejected` as messages; the prompt is their common prefix | Pair |
    /// | stack-exchange | `question`, `response_j` (chosen), `response_k` (rejected) | Pair |
    /// | labelled pair (JudgeBench) | `question`, `response_A`, `response_B`, `label` (`A>B` or `B>A`) | Pair |
    /// | graded lists (RM-Bench, RewardBench 2) | `chosen`, `rejected` as lists of strings | Ranked, gold 1 and 0 |
    /// | UltraFeedback | `instruction`, `completions[]` | Ranked |
    /// | k responses | `responses[]`, `scores[]`, `models[]`, or `response_1_text` .. and `all_scores` | Ranked |
    /// | to score | a prompt and `response` (+ `score`, `model`); `messages` or `conversations` that end with the assistant | Single |
    ///
    /// A null field counts as absent. A prompt that `chosen` and `rejected` repeat is not repeated. `system` or
    /// `system_prompt` (a string) comes before a prompt that has no system message of its own.
    ///
    /// `score_field` names a completion's gold score. Where it is `overall_score`, the schema's own aggregate, and no
    /// completion of the row has it, the mean of `annotations.*.Rating` stands in for all of them, else
    /// `fine-grained_score`: a row has one scale. `mean-rating` is that mean itself. Any other name has no stand-in, so that a misspelt one is noticed:
    /// its completions are unscored.
    ///
    /// # Errors
    /// What was found and what was expected, as one line.
    pub fn from_json(row: Value, score_field: &str) -> Result<Self, String> {
        schema::read(row, Some(score_field))
    }

    /// [`Example::from_json`] for who needs the texts alone: scores, models and margins beside them are neither read nor
    /// checked, so that a row is not refused for what it is about to get.
    ///
    /// # Errors
    /// As [`Example::from_json`].
    pub fn texts_from_json(row: Value) -> Result<Self, String> {
        schema::read(row, None)
    }

    /// The whole conversation of response `i`: the prompt's messages, then its own.
    pub fn conversation(&self, i: usize) -> Vec<Message> {
        self.prompt.iter().chain(&self.responses[i].messages).cloned().collect()
    }
}
