//! A figure of the page: picture, legend, and the numbers behind it.

use super::csv::write_row;
use super::number;
use super::series::Series;
use super::svg::Picture;
use serde::Serialize;
use std::fmt::Write as _;

/// Rows of a table of numbers, at most.
pub const TABLE_ROWS: usize = 16;

#[derive(Debug, Serialize)]
pub struct Figure {
    pub title: String,
    /// What is measured, and in which unit.
    pub unit: String,
    pub picture: Picture,
    pub legend: Vec<LegendEntry>,
    pub note: String,
    pub table: Table,
    /// The table as a data URI.
    pub csv: String,
    /// The title as the name of a file, without its end.
    pub slug: String,
}

#[derive(Debug, Serialize)]
pub struct LegendEntry {
    pub class: String,
    /// `line`, `bar` or `point`.
    pub kind: &'static str,
    pub name: String,
    /// The last value, where the entry is a line.
    pub value: String,
}

#[derive(Debug, Default, Serialize)]
pub struct Table {
    pub head: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

impl Figure {
    pub fn new(
        title: &str,
        unit: &str,
        picture: Picture,
        legend: Vec<LegendEntry>,
        note: String,
        table: Table,
    ) -> Self {
        let word = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
        let slug: String = title.chars().map(word).take(60).collect();
        let words: Vec<&str> = slug.split('-').filter(|word| !word.is_empty()).collect();
        let slug = words.join("-");
        Self {
            title: title.into(),
            unit: unit.into(),
            picture,
            legend,
            note,
            csv: table.data_uri(),
            slug,
            table,
        }
    }
}

impl Table {
    fn data_uri(&self) -> String {
        let mut csv = Vec::new();
        // Writing to memory does not fail.
        let _ = write_row(&mut csv, self.head.iter());
        for row in &self.rows {
            let _ = write_row(&mut csv, row.iter());
        }
        let mut uri = String::from("data:text/csv;charset=utf-8,");
        for byte in csv {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                uri.push(char::from(byte));
            } else {
                let _ = write!(uri, "%{byte:02X}");
            }
        }
        uri
    }
}

/// At most [`TABLE_ROWS`] of `count` rows, evenly spread, first and last among them.
pub fn sampled(count: usize) -> Vec<usize> {
    if count <= TABLE_ROWS {
        return (0..count).collect();
    }
    (0..TABLE_ROWS).map(|i| i * (count - 1) / (TABLE_ROWS - 1)).collect()
}

/// Some of the steps of series that share them, a column a series.
pub fn sampled_rows(series: &[Series]) -> Vec<Vec<String>> {
    let steps = series.first().map_or(&[][..], |first| &first.x);
    let row = |i: usize| {
        let cells = series.iter().map(|series| number::figure(series.y.get(i).copied().unwrap_or(f64::NAN)));
        std::iter::once((steps[i] as u64).to_string()).chain(cells).collect()
    };
    sampled(steps.len()).into_iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::super::svg::Svg;
    use super::*;

    #[test]
    fn a_table_travels_as_a_data_uri() {
        let table = Table { head: vec!["a b".into()], rows: vec![vec!["1,\"ü".into()]] };
        let picture = Svg::default().finish("", [1.0, 1.0], "", &[]);
        let figure = Figure::new("Norm variance, |h|", "", picture, Vec::new(), String::new(), table);
        assert_eq!(figure.csv, "data:text/csv;charset=utf-8,a%20b%0A%221%2C%22%22%C3%BC%22%0A");
        assert_eq!(figure.slug, "norm-variance-h");
    }

    #[test]
    fn samples_hold_both_ends() {
        assert_eq!(sampled(3), [0, 1, 2]);
        let rows = sampled(1000);
        assert_eq!((rows.len(), rows[0], rows[15]), (TABLE_ROWS, 0, 999));
    }
}
