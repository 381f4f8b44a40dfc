//! Typed access to a JSON object that collects every problem instead of stopping at the first.

use super::shown;
use serde_json::{Map, Value};

/// Keys of config.json that say nothing about the shape and are common in real files.
const HARMLESS_KEYS: &[&str] = &[
    "_name_or_path",
    "attention_dropout",
    "auto_map",
    "bos_token_id",
    "classifier_dropout",
    "dtype",
    "eos_token_id",
    "id2label",
    "label2id",
    "max_window_layers",
    "num_labels",
    "pad_token_id",
    "pretraining_tp",
    "problem_type",
    "sliding_window",
    "torch_dtype",
    "transformers_version",
    "use_cache",
    "use_sliding_window",
    // Llama's keys; a Qwen2 shape that repeats them as false says nothing wrong.
    "attention_bias",
    "mlp_bias",
];

/// A view of one object. `null` counts as absent, as it does in transformers.
pub(super) struct Fields<'j> {
    json: &'j Map<String, Value>,
    asked: Vec<String>,
    problems: Vec<String>,
}

impl<'j> Fields<'j> {
    pub fn new(json: &'j Map<String, Value>) -> Fields<'j> {
        Fields { json, asked: Vec::new(), problems: Vec::new() }
    }

    pub fn get(&mut self, key: &str) -> Option<&'j Value> {
        if !self.asked.iter().any(|asked| asked == key) {
            self.asked.push(key.to_owned());
        }
        self.json.get(key).filter(|value| !value.is_null())
    }

    pub fn problem(&mut self, problem: String) {
        self.problems.push(problem);
    }

    /// A whole number from 1 to `max`; `default` where absent. `None` leaves a problem behind.
    pub fn size(&mut self, key: &str, default: Option<usize>, max: usize) -> Option<usize> {
        let Some(value) = self.get(key) else {
            return self.defaulted(key, default);
        };
        let size = value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| (1..=max).contains(n));
        if size.is_none() {
            self.problem(format!("{key}: found {}, expected a whole number from 1 to {max}", shown(value)));
        }
        size
    }

    /// A finite number above zero; `default` where absent. `None` leaves a problem behind.
    pub fn positive(&mut self, key: &str, default: Option<f64>) -> Option<f64> {
        let Some(value) = self.get(key) else {
            return self.defaulted(key, default);
        };
        let number = value.as_f64().filter(|x| x.is_finite() && *x > 0.0);
        if number.is_none() {
            self.problem(format!("{key}: found {}, expected a number above 0", shown(value)));
        }
        number
    }

    /// `true` or `false`; `default` where absent or wrong.
    pub fn flag(&mut self, key: &str, default: bool) -> bool {
        match self.get(key) {
            None => default,
            Some(Value::Bool(flag)) => *flag,
            Some(other) => {
                self.problem(format!("{key}: found {}, expected true or false", shown(other)));
                default
            }
        }
    }

    fn defaulted<T>(&mut self, key: &str, default: Option<T>) -> Option<T> {
        // num_key_value_heads takes its default from a key that may itself be wrong; that one is reported.
        if default.is_none() && key != "num_key_value_heads" {
            self.problem(format!("{key}: missing, expected a number"));
        }
        default
    }

    /// Reports every key that was neither asked for nor is known to be harmless.
    pub fn refuse_unknown(&mut self) {
        for key in self.json.keys() {
            if !self.asked.contains(key) && !HARMLESS_KEYS.contains(&key.as_str()) {
                self.problems.push(format!("{key}: unknown key, expected those of a config.json"));
            }
        }
    }

    pub fn into_problems(self) -> Vec<String> {
        self.problems
    }
}
