//! The files that the benchmarks' own tools write, for whoever reads those.

use super::{BenchReport, Outputs, Rule, ScoredRow, reward_bench_2};
use crate::Result;
use crate::base::atomic;
use crate::eval::score::with_scores;
use serde_json::{Map, Value, json};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The files of one benchmark in a folder.
#[derive(Debug, Clone)]
pub struct OutputFiles {
    folder: PathBuf,
    name: String,
    kind: Outputs,
}

/// RewardBench 2's columns of scores, without the text.
#[derive(Debug, Default)]
struct Columns {
    id: Vec<String>,
    num_correct: Vec<usize>,
    results: Vec<Option<f64>>,
    scores: Vec<Vec<f64>>,
    subset: Vec<String>,
}

/// Writes rows as they are scored.
#[derive(Debug)]
pub struct RowWriter<'a, W: Write> {
    out: &'a mut W,
    kind: Outputs,
    rows: u64,
    columns: Columns,
}

impl OutputFiles {
    pub fn new(folder: &Path, name: &str, kind: Outputs) -> Self {
        Self { folder: folder.into(), name: name.into(), kind }
    }

    /// Where the rows go: `NAME_outputs.jsonl`, RM-Bench's as the array `NAME.json`.
    pub fn rows_path(&self) -> PathBuf {
        match self.kind {
            Outputs::RmBench => self.folder.join(format!("{}.json", self.name)),
            _ => self.folder.join(format!("{}_outputs.jsonl", self.name)),
        }
    }

    /// Streams rows into their file, which appears when `fill` is done with all of them.
    ///
    /// # Errors
    /// What `fill` returned, or [`crate::Error::Io`]; nothing is there then.
    pub fn write_rows<T>(
        &self,
        fill: impl FnOnce(&mut RowWriter<'_, io::BufWriter<&std::fs::File>>) -> Result<T>,
    ) -> Result<T> {
        let mut outcome = None;
        let mut columns = Columns::default();
        let path = self.rows_path();
        let written = atomic::write(&path, |out| {
            let mut writer = RowWriter { out, kind: self.kind, rows: 0, columns: Columns::default() };
            let filled = fill(&mut writer);
            let failed = filled.is_err();
            outcome = Some(filled);
            if failed {
                return Err(io::Error::other("scoring failed"));
            }
            writer.close()?;
            columns = writer.columns;
            Ok(())
        });
        let value = match outcome {
            Some(filled) => filled?,
            None => return Err(written.err().unwrap_or_else(|| crate::Error::Usage("no rows".into()))),
        };
        written?;
        if self.kind == Outputs::RewardBench2 {
            let scores = json!({
                "id": columns.id, "num_correct": columns.num_correct, "results": columns.results,
                "scores": columns.scores, "subset": columns.subset,
            });
            self.write_json(&format!("{}_scores.json", self.name), &scores)?;
        }
        Ok(value)
    }

    /// Writes the tool's file of figures, where it has one: `NAME.json`.
    ///
    /// # Errors
    /// [`crate::Error::Io`].
    pub fn write_results(&self, report: &BenchReport, model: Option<&str>, template: &str) -> Result<()> {
        let by_group = report.groups.0.iter().map(|(name, group)| (name.clone(), json!(group.figure.value)));
        let results = match self.kind {
            Outputs::Rows | Outputs::RmBench => return Ok(()),
            Outputs::RewardBench => json!({
                "accuracy": report.row_mean.value,
                "num_prompts": report.rows,
                "model": model,
                "ref_model": null,
                "tokenizer": model,
                "chat_template": template,
                "extra_results": by_group.collect::<Map<_, _>>(),
            }),
            Outputs::RewardBench2 => {
                let mut results = Map::new();
                results.insert("model".into(), json!(model));
                results.insert("model_type".into(), json!("Seq. Classifier"));
                results.insert("chat_template".into(), json!(template));
                results.extend(by_group);
                Value::Object(results)
            }
        };
        self.write_json(&format!("{}.json", self.name), &results)
    }

    fn write_json(&self, file: &str, value: &Value) -> Result<()> {
        atomic::write_bytes(&self.folder.join(file), format!("{value:#}\n").as_bytes())
    }
}

impl<W: Write> RowWriter<'_, W> {
    /// Writes one row.
    ///
    /// # Errors
    /// [`crate::Error::Io`] of the file.
    pub fn write(&mut self, scored: ScoredRow<'_>, path: &Path) -> Result<()> {
        if self.kind == Outputs::RewardBench2 {
            self.columns.add(&scored);
        }
        let fields = match self.kind {
            Outputs::RewardBench => reward_bench_row(scored),
            _ => {
                let ScoredRow { fields, kind, rewards, .. } = scored;
                with_scores(fields, kind, &rewards, &mut Default::default())
                    .map_err(|reason| crate::Error::Data { path: path.into(), reason })?
            }
        };
        let separator = match (self.kind, self.rows) {
            (Outputs::RmBench, 0) => "[\n",
            (Outputs::RmBench, _) => ",\n",
            (_, 0) => "",
            _ => "\n",
        };
        self.rows += 1;
        self.out
            .write_all(separator.as_bytes())
            .and_then(|()| Ok(serde_json::to_writer(&mut *self.out, &fields)?))
            .map_err(crate::Error::io(path))
    }

    fn close(&mut self) -> io::Result<()> {
        self.out.write_all(match (self.kind, self.rows) {
            (Outputs::RmBench, 0) => b"[]\n",
            (Outputs::RmBench, _) => b"\n]\n",
            (_, 0) => b"",
            _ => b"\n",
        })
    }
}

impl Columns {
    fn add(&mut self, scored: &ScoredRow<'_>) {
        let responses = &scored.row.responses;
        // The Ties subset is judged as a whole and has no results by row.
        let is_ties = scored.group.eq_ignore_ascii_case("ties");
        self.id.push(scored.row.id.clone());
        self.num_correct.push(responses.iter().filter(|r| r.gold > 0.0).count());
        self.results.push((!is_ties).then(|| reward_bench_2::best_of(responses).value));
        self.scores.push(scored.rewards.clone());
        self.subset.push(scored.group.to_owned());
    }
}

/// A line of reward-bench's `_outputs.jsonl`: its own fields, then the row's other columns.
fn reward_bench_row(scored: ScoredRow<'_>) -> Map<String, Value> {
    let ScoredRow { mut fields, row, rewards, rendered, group, .. } = scored;
    for taken in ["prompt", "chosen", "rejected", "messages"] {
        fields.shift_remove(taken);
    }
    let at = |texts: &[String], i: usize| texts.get(i).cloned().unwrap_or_default();
    let result = Rule::Pairs.judge(std::slice::from_ref(row)).values.first().map_or(0, |&value| value as u8);
    let mut line = Map::new();
    line.insert("prompt".into(), json!(at(&rendered, 0)));
    line.insert("results".into(), json!(result));
    line.insert("scores_chosen".into(), json!(rewards.first()));
    line.insert("scores_rejected".into(), json!(rewards.get(1)));
    line.insert("text_chosen".into(), json!(at(&rendered, 1)));
    line.insert("text_rejected".into(), json!(at(&rendered, 2)));
    line.insert("subset".into(), json!(group));
    for (key, value) in fields {
        line.entry(key).or_insert(value);
    }
    line
}
