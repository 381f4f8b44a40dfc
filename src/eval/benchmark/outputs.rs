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
        let is_ties = scored.rule == Rule::Ties;
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

#[cfg(test)]
mod tests {
    use super::super::Row;
    use super::super::tests::report_of;
    use super::*;
    use crate::data::RowKind;
    use crate::eval::Judged;

    fn row(id: &str, golds: &[f64], rewards: &[f64]) -> Row {
        let judged = |(&gold, &reward): (&f64, &f64)| Judged { gold, reward, length: 1 };
        let responses = golds.iter().zip(rewards).map(judged).collect();
        Row { id: id.into(), responses, first_is_better: None }
    }

    fn scored<'a>(fields: Value, group: &'a str, rule: Rule, row: &'a Row) -> ScoredRow<'a> {
        let kind = if row.responses.len() == 2 { RowKind::Pair } else { RowKind::Ranked };
        let rewards = row.responses.iter().map(|r| r.reward).collect();
        let rendered = ["<p>", "<p>c", "<p>r"].map(String::from).to_vec();
        ScoredRow { fields: fields.as_object().cloned().unwrap(), kind, group, rule, row, rewards, rendered }
    }

    fn read(path: &Path) -> Value {
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    #[test]
    fn rows_are_written_as_each_tool_has_them() {
        let folder = tempfile::tempdir().unwrap();
        let pair = row("7", &[1.0, 0.0], &[0.5, -0.5]);
        let fields =
            json!({"id": 7, "prompt": "p", "chosen": "c", "rejected": "r", "subset": "shp", "note": "n"});
        let write = |kind: Outputs, count: usize| {
            let files = OutputFiles::new(folder.path(), "bench", kind);
            let path = files.rows_path();
            files
                .write_rows(|writer| {
                    (0..count).try_for_each(|_| {
                        writer.write(scored(fields.clone(), "shp", Rule::Pairs, &pair), &path)
                    })
                })
                .unwrap();
            std::fs::read_to_string(&path).unwrap()
        };
        let lines = write(Outputs::Rows, 2);
        assert_eq!(lines.lines().count(), 2);
        let line: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
        assert_eq!((&line["score_chosen"], &line["chosen"]), (&json!(0.5), &json!("c")));
        let line: Value = serde_json::from_str(write(Outputs::RewardBench, 1).trim_end()).unwrap();
        let expected = json!({
            "prompt": "<p>", "results": 1, "scores_chosen": 0.5, "scores_rejected": -0.5, "text_chosen": "<p>c",
            "text_rejected": "<p>r", "subset": "shp", "id": 7, "note": "n"
        });
        assert_eq!(line, expected);
        let array: Value = serde_json::from_str(&write(Outputs::RmBench, 2)).unwrap();
        assert_eq!(array.as_array().unwrap().len(), 2);
        assert_eq!(write(Outputs::RmBench, 0), "[]\n");
        assert_eq!(write(Outputs::Rows, 0), "");
    }

    #[test]
    fn the_columns_of_reward_bench_2_have_no_results_where_the_rule_is_that_of_ties() {
        let folder = tempfile::tempdir().unwrap();
        let files = OutputFiles::new(folder.path(), "rb2", Outputs::RewardBench2);
        let path = files.rows_path();
        let best = row("1", &[1.0, 0.0, 0.0], &[2.0, 2.0, 1.0]);
        let ties = row("ref:3", &[1.0, 0.0, 0.0], &[3.0, 2.0, 1.0]);
        files
            .write_rows(|writer| {
                writer.write(scored(json!({"id": "1"}), "Math", Rule::BestOf, &best), &path)?;
                // A manifest of one's own may call its group as it likes.
                writer.write(scored(json!({"id": "ref:3"}), "Several", Rule::Ties, &ties), &path)
            })
            .unwrap();
        let columns = read(&folder.path().join("rb2_scores.json"));
        assert_eq!(columns["results"], json!([0.5, null]));
        assert_eq!(columns["subset"], json!(["Math", "Several"]));
        assert_eq!(columns["num_correct"], json!([1, 1]));
        assert_eq!(columns["scores"], json!([[2.0, 2.0, 1.0], [3.0, 2.0, 1.0]]));
    }

    #[test]
    fn nothing_is_there_after_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let files = OutputFiles::new(folder.path(), "rb2", Outputs::RewardBench2);
        let failed = files.write_rows(|_| Err::<(), _>(crate::Error::Interrupted));
        assert!(matches!(failed, Err(crate::Error::Interrupted)));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_tools_files_of_figures_have_their_names() {
        let folder = tempfile::tempdir().unwrap();
        let rows = ["hep-go", "shp"]
            .map(|subset| format!(r#"{{"subset": "{subset}", "score_chosen": 1, "score_rejected": 0}}"#));
        let report = report_of("reward-bench", &rows.join("\n"));
        let write =
            |kind| OutputFiles::new(folder.path(), "b", kind).write_results(&report, Some("m"), "tokenizer");
        write(Outputs::Rows).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        write(Outputs::RewardBench).unwrap();
        let found = read(&folder.path().join("b.json"));
        assert_eq!((&found["accuracy"], &found["num_prompts"]), (&json!(1.0), &json!(2)));
        assert_eq!(found["extra_results"], json!({"hep-go": 1.0, "shp": 1.0}));
        write(Outputs::RewardBench2).unwrap();
        let found = read(&folder.path().join("b.json"));
        assert_eq!((&found["model"], &found["hep-go"]), (&json!("m"), &json!(1.0)));
    }
}
