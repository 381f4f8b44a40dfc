//! The five sets, as files.

use super::catalog::{Catalog, Row, Texts, count};
use super::input::rows_of_chunk;
use super::manifest::Counts;
use super::plan::Plan;
use super::{Progress, SETS, Stage, file_name, stop_if_interrupted};
use crate::{Error, Result};
use rayon::prelude::*;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// A usable row.
pub struct Used {
    /// Index into the catalog's rows.
    pub row: usize,
    pub plan: Plan,
}

/// Writes the sets; returns their row counts.
///
/// A response that a valid model gave word for word as it is trained on is left out; what a set does without is
/// counted in `missing`.
///
/// # Errors
/// [`Error::Io`]; [`Error::Interrupted`].
pub fn write(
    folder: &Path,
    catalog: &mut Catalog,
    used: &[Used],
    heldout: &[bool],
    counts: &mut Counts,
    missing: &mut BTreeMap<String, u64>,
    progress: &mut dyn FnMut(Progress),
) -> Result<[u64; 5]> {
    let trained: HashSet<u128> = (used.iter().zip(heldout).filter(|(_, heldout)| !**heldout))
        .flat_map(|(used, _)| used.plan.train.map(|i| catalog.rows[used.row].answers[i].text))
        .collect();
    let mut sets = SETS
        .map(|set| folder.join(file_name(set)))
        .map(Set::create)
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    let mut done = 0;
    while done < used.len() {
        stop_if_interrupted()?;
        let sizes = used[done..].iter().map(|used| catalog.rows[used.row].bytes());
        let end = done + rows_of_chunk(sizes);
        let (used, heldout) = (&used[done..end], &heldout[done..end]);
        let texts = catalog.texts(used.iter().map(|used| used.row))?;
        let rendered: Vec<Rendered> = (used.par_iter().zip(heldout).zip(&texts))
            .map(|((used, heldout), texts)| {
                let source = Source { row: &catalog.rows[used.row], models: &catalog.models, texts };
                source.render(&used.plan, *heldout, &trained)
            })
            .collect();
        for (row, heldout) in rendered.iter().zip(heldout) {
            *(if *heldout { &mut counts.heldout_prompts } else { &mut counts.training_prompts }) += 1;
            for (set, line) in &row.lines {
                sets[*set].push(line)?;
            }
            for (set, reason) in &row.missing {
                count(missing, &format!("{}: {reason}", SETS[*set]));
            }
        }
        done = end;
        progress(Progress { stage: Stage::Writing, rows: done as u64 });
    }
    let mut rows = [0; 5];
    for (set, rows) in sets.into_iter().zip(&mut rows) {
        *rows = set.finish()?;
    }
    Ok(rows)
}

/// A row's lines and gaps, by the index of their set.
#[derive(Default)]
struct Rendered {
    lines: Vec<(usize, String)>,
    missing: Vec<(usize, &'static str)>,
}

/// A row with its texts.
struct Source<'a> {
    row: &'a Row,
    models: &'a [String],
    /// One a part.
    texts: &'a [Texts],
}

impl Source<'_> {
    fn render(&self, plan: &Plan, heldout: bool, trained: &HashSet<u128>) -> Rendered {
        let mut out = Rendered::default();
        let unseen = |&&i: &&usize| !trained.contains(&self.row.answers[i].text);
        let valid: Vec<usize> = plan.valid.iter().filter(unseen).copied().collect();
        let answered = if heldout {
            out.lines.push((2, self.ranked(&plan.drawn)));
            4
        } else {
            out.lines.push((0, self.pair(plan.train)));
            match plan.in_domain {
                Ok(pair) => out.lines.push((1, self.pair(pair))),
                Err(reason) => out.missing.push((1, reason)),
            }
            3
        };
        match (valid.len(), plan.valid.len()) {
            (2.., _) => out.lines.push((answered, self.ranked(&valid))),
            (kept, given) if kept == given => out.missing.push((answered, "too-few-responses")),
            _ => out.missing.push((answered, "responses-seen-in-training")),
        }
        out
    }

    fn head(&self) -> (String, &Option<String>, &Value) {
        let first = &self.texts[0];
        let id = first.id.clone().unwrap_or_else(|| format!("{:016x}", (self.row.prompt >> 64) as u64));
        (id, &first.source, &first.prompt)
    }

    fn text(&self, answer: usize) -> &Value {
        let answer = &self.row.answers[answer];
        &self.texts[answer.part as usize].responses[answer.index as usize]
    }

    fn model(&self, answer: usize) -> &str {
        &self.models[self.row.answers[answer].model as usize]
    }

    /// A pair row; `[better, worse]` index the answers.
    fn pair(&self, [better, worse]: [usize; 2]) -> String {
        let (id, source, prompt) = self.head();
        let row = json!({
            "id": id,
            "source": source,
            "prompt": prompt,
            "chosen": self.text(better),
            "rejected": self.text(worse),
            "chosen-model": self.model(better),
            "rejected-model": self.model(worse),
            "chosen-rating": self.row.answers[better].score,
            "rejected-rating": self.row.answers[worse].score,
        });
        row.to_string()
    }

    /// A row of k responses with gold scores.
    fn ranked(&self, answers: &[usize]) -> String {
        let (id, source, prompt) = self.head();
        let row = json!({
            "id": id,
            "source": source,
            "prompt": prompt,
            "responses": answers.iter().map(|&i| self.text(i)).collect::<Vec<_>>(),
            "scores": answers.iter().map(|&i| self.row.answers[i].score).collect::<Vec<_>>(),
            "models": answers.iter().map(|&i| self.model(i)).collect::<Vec<_>>(),
        });
        row.to_string()
    }
}

/// A set being written.
struct Set {
    out: BufWriter<File>,
    path: PathBuf,
    rows: u64,
}

impl Set {
    fn create(path: PathBuf) -> Result<Self> {
        let file = File::create(&path).map_err(Error::io(&path))?;
        Ok(Self { out: BufWriter::with_capacity(1 << 18, file), path, rows: 0 })
    }

    fn push(&mut self, line: &str) -> Result<()> {
        self.rows += 1;
        writeln!(self.out, "{line}").map_err(Error::io(&self.path))
    }

    fn finish(mut self) -> Result<u64> {
        self.out.flush().and_then(|()| self.out.get_ref().sync_all()).map_err(Error::io(&self.path))?;
        Ok(self.rows)
    }
}
