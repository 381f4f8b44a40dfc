//! Rows: the schemas that are read, normalised into one [`Example`].

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One chat message. Keys beyond `role` and `content` reach the template as they are.
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
    pub prompt: Vec<Message>,
    pub responses: Vec<Response>,
    /// Required reward gap of a pair, where the row has one.
    pub margin: Option<f64>,
}

impl Example {
    /// The whole conversation of response `i`: the prompt's messages, then its own.
    pub fn conversation(&self, i: usize) -> Vec<Message> {
        self.prompt.iter().chain(&self.responses[i].messages).cloned().collect()
    }
}
