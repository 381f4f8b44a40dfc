//! The rows of the input files, one at a time.

use super::stop_if_interrupted;
use crate::data::row::{Example, Message, Response, RowKind};
use crate::{Error, Result};
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;

/// Calls `visit` with each row and the index of its file.
pub fn for_each(
    paths: &[PathBuf],
    score_field: &str,
    mut visit: impl FnMut(usize, Example) -> Result<()>,
) -> Result<()> {
    for (file, path) in paths.iter().enumerate() {
        for (line, text) in (1..).zip(BufReader::new(File::open(path).map_err(Error::io(path))?).lines()) {
            stop_if_interrupted()?;
            let bad = |reason: String| Error::Row { path: path.clone(), line, reason };
            let value: Value =
                serde_json::from_str(&text.map_err(Error::io(path))?).map_err(|e| bad(e.to_string()))?;
            let prompt = value["instruction"].as_str().ok_or_else(|| bad("no instruction".into()))?;
            let responses = value["completions"].as_array().ok_or_else(|| bad("no completions".into()))?;
            visit(
                file,
                Example {
                    kind: RowKind::Ranked,
                    id: None,
                    source: value["source"].as_str().map(str::to_owned),
                    prompt: vec![Message::new("user", prompt)],
                    responses: responses
                        .iter()
                        .map(|c| Response {
                            messages: vec![Message::new(
                                "assistant",
                                c["response"].as_str().unwrap_or_default(),
                            )],
                            score: c[score_field].as_f64(),
                            model: c["model"].as_str().map(str::to_owned),
                        })
                        .collect(),
                    margin: None,
                },
            )?;
        }
    }
    Ok(())
}
