//! `trainer_state.json` in the form that transformers' tools read, made from `metrics.jsonl`.

use super::LoopState;
use crate::base::{Error, Result, atomic};
use serde_json::{Map, Value, json};
use std::path::Path;

/// Writes the file into a checkpoint folder.
///
/// `metrics` is the text of `metrics.jsonl` so far; figures of evaluations become `eval_SPLIT_FIELD`.
pub fn write(folder: &Path, state: &LoopState, num_train_epochs: f64, metrics: &str) -> Result<()> {
    let path = folder.join("trainer_state.json");
    let mut history = Vec::new();
    let mut epoch = json!(0.0);
    for (i, line) in metrics.lines().enumerate() {
        let line: Map<String, Value> = serde_json::from_str(line)
            .map_err(|e| Error::checkpoint("metrics.jsonl", format!("line {}: {e}", i + 1)))?;
        let get = |key: &str| line.get(key).cloned().unwrap_or(Value::Null);
        if get("kind") == "step" {
            epoch = get("epoch");
            history.push(json!({
                "loss": get("loss"), "grad_norm": get("grad_norm"), "learning_rate": get("lr"),
                "epoch": epoch, "step": get("step"),
            }));
        } else if let (true, Value::String(split)) = (get("kind") == "eval", get("split")) {
            let figures = line.iter().filter(|(key, value)| {
                value.is_number() && !matches!(key.as_str(), "step" | "kind" | "split")
            });
            let mut entry: Map<String, Value> =
                figures.map(|(key, value)| (format!("eval_{split}_{key}"), value.clone())).collect();
            entry.insert("epoch".into(), epoch.clone());
            entry.insert("step".into(), get("step"));
            history.push(Value::Object(entry));
        }
    }
    let best = state.best.as_ref();
    let value = json!({
        "best_global_step": best.map(|b| b.step),
        "best_metric": best.map(|b| b.value),
        "best_model_checkpoint": best.map(|b| format!("checkpoints/step-{:06}", b.step)),
        "epoch": epoch,
        "global_step": state.step,
        "max_steps": state.total_steps,
        "num_train_epochs": num_train_epochs,
        "log_history": history,
    });
    let text = serde_json::to_string_pretty(&value).map_err(|e| Error::checkpoint(&path, e.to_string()))?;
    atomic::write_bytes(&path, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_the_fields_that_transformers_writes() {
        let folder = tempfile::tempdir().unwrap();
        let state = LoopState {
            version: 1,
            step: 2,
            total_steps: 4,
            metrics_bytes: 0,
            data_fingerprint: String::new(),
            best: None,
            evaluations_without_improvement: 0,
            evaluation_pending: false,
            pad_token_id: 0,
            lambda: None,
        };
        let metrics = concat!(
            r#"{"kind":"step","step":2,"epoch":0.5,"loss":0.7,"grad_norm":1.5,"lr":0.01}"#,
            "\n",
            r#"{"kind":"eval","step":2,"split":"in-domain","metric":"accuracy","accuracy":0.75}"#,
            "\n",
            r#"{"kind":"alarm","step":2,"rule":"gap","split":"in-domain","value":0.3,"threshold":0.2}"#,
            "\n"
        );
        write(folder.path(), &state, 2.0, metrics).unwrap();
        let text = std::fs::read_to_string(folder.path().join("trainer_state.json")).unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["global_step"], 2);
        assert_eq!(
            value["log_history"][0],
            json!({"loss":0.7,"grad_norm":1.5,"learning_rate":0.01,"epoch":0.5,"step":2})
        );
        assert_eq!(value["log_history"][1], json!({"eval_in-domain_accuracy":0.75,"epoch":0.5,"step":2}));
        assert_eq!(
            value["log_history"].as_array().map(Vec::len),
            Some(2),
            "an alarm about a set is no evaluation"
        );
        assert_eq!(value["best_metric"], Value::Null);
    }
}
