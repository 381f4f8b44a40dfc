//! `metrics.csv` and `evals.csv`: the lines of runs as tables.

use super::Run;
use crate::base::atomic;
use crate::{Error, Result};
use serde_json::{Map, Value};
use std::collections::HashSet;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Where the tables go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CsvTarget {
    pub metrics: PathBuf,
    pub evals: PathBuf,
}

impl CsvTarget {
    /// A path that ends in `.csv` is the file of the steps, with the evaluations in `-evals.csv` beside it; any other
    /// is a folder for `metrics.csv` and `evals.csv`.
    ///
    /// # Errors
    /// [`Error::Usage`] for a folder whose name ends in `.csv`.
    pub fn of(path: &Path) -> Result<Self> {
        if path.extension().is_none_or(|end| !end.eq_ignore_ascii_case("csv")) {
            return Ok(Self { metrics: path.join("metrics.csv"), evals: path.join("evals.csv") });
        }
        if path.is_dir() {
            return Err(Error::Usage(format!("--csv {}: found a folder, expected a file", path.display())));
        }
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        Ok(Self { metrics: path.into(), evals: path.with_file_name(format!("{stem}-evals.csv")) })
    }
}

/// Writes both tables: a row a line, columns the union of the runs' fields after `run` and `step`. The table of
/// evaluations is left out where there are none. Returns the files that were written.
///
/// # Errors
/// [`Error::Io`] with the path.
pub fn write<'t>(runs: &[Run], target: &'t CsvTarget) -> Result<Vec<&'t Path>> {
    atomic::write(&target.metrics, |out| write_steps(runs, out))?;
    if runs.iter().all(|run| run.evals.is_empty()) {
        return Ok(vec![&target.metrics]);
    }
    atomic::write(&target.evals, |out| write_evals(runs, out))?;
    Ok(vec![&target.metrics, &target.evals])
}

fn write_steps(runs: &[Run], out: &mut impl Write) -> io::Result<()> {
    let names = union(runs.iter().flat_map(|run| run.steps.names()).map(String::as_str));
    write_row(out, ["run", "step"].into_iter().chain(names.iter().copied()))?;
    for run in runs {
        let columns: Vec<Option<&[f64]>> = names.iter().map(|name| run.steps.column(name)).collect();
        for (row, step) in run.steps.numbers().iter().enumerate() {
            let cells = columns.iter().map(|column| {
                let value = column.and_then(|column| column.get(row)).filter(|value| value.is_finite());
                value.map_or_else(String::new, |value| value.to_string())
            });
            write_row(out, [run.name.clone(), step.to_string()].into_iter().chain(cells))?;
        }
    }
    Ok(())
}

fn write_evals(runs: &[Run], out: &mut impl Write) -> io::Result<()> {
    let rows: Vec<(&str, Vec<(String, String)>)> = runs
        .iter()
        .flat_map(|run| run.evals.iter().map(|line| (run.name.as_str(), cells(&line.fields))))
        .collect();
    let names = union(rows.iter().flat_map(|(_, cells)| cells.iter().map(|(name, _)| name.as_str())));
    write_row(out, ["run"].into_iter().chain(names.iter().copied()))?;
    for (run, cells) in &rows {
        let of =
            |name: &&str| cells.iter().find(|(cell, _)| cell == name).map_or("", |(_, text)| text.as_str());
        write_row(out, [*run].into_iter().chain(names.iter().map(of)))?;
    }
    Ok(())
}

/// The fields of a line by their paths; intervals are two cells, longer arrays one, as JSON.
fn cells(fields: &Map<String, Value>) -> Vec<(String, String)> {
    fn add(name: String, value: &Value, cells: &mut Vec<(String, String)>) {
        match value {
            Value::Object(inner) => {
                inner.iter().for_each(|(key, value)| add(format!("{name}.{key}"), value, cells))
            }
            Value::Array(items) if items.len() == 2 => {
                items.iter().enumerate().for_each(|(i, value)| add(format!("{name}.{i}"), value, cells));
            }
            Value::Null => cells.push((name, String::new())),
            Value::String(text) => cells.push((name, text.clone())),
            other => cells.push((name, other.to_string())),
        }
    }
    let mut cells = Vec::new();
    fields
        .iter()
        .filter(|(name, _)| *name != "kind")
        .for_each(|(name, value)| add(name.clone(), value, &mut cells));
    cells
}

fn union<'n>(names: impl Iterator<Item = &'n str>) -> Vec<&'n str> {
    let mut seen = HashSet::new();
    names.filter(|name| seen.insert(*name)).collect()
}

/// A record of RFC 4180, but for the line end.
pub(super) fn write_row<T: AsRef<str>>(
    out: &mut impl Write,
    cells: impl Iterator<Item = T>,
) -> io::Result<()> {
    for (i, cell) in cells.enumerate() {
        if i > 0 {
            out.write_all(b",")?;
        }
        let cell = cell.as_ref();
        if cell.contains(['"', ',', '\n', '\r']) {
            write!(out, "\"{}\"", cell.replace('"', "\"\""))?;
        } else {
            out.write_all(cell.as_bytes())?;
        }
    }
    out.write_all(b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_quoted_where_they_must_be() {
        let mut out = Vec::new();
        write_row(&mut out, ["a", "b,c", "say \"hi\"", "two\nlines", ""].into_iter()).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "a,\"b,c\",\"say \"\"hi\"\"\",\"two\nlines\",\n");
    }

    #[test]
    fn a_target_is_a_file_or_a_folder() {
        let target = CsvTarget::of(Path::new("out/a.csv")).unwrap();
        assert_eq!(target, CsvTarget { metrics: "out/a.csv".into(), evals: "out/a-evals.csv".into() });
        let target = CsvTarget::of(Path::new("out")).unwrap();
        assert_eq!(target, CsvTarget { metrics: "out/metrics.csv".into(), evals: "out/evals.csv".into() });
    }
}
