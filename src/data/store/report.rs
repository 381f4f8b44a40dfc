//! What came of the data, for the user.

use crate::base::figures::grouped;
use crate::data::pairing::DropReason;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Exact counts of a pass over the data, one estimate.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DataReport {
    pub files: u64,
    /// Size of the files, in bytes as stored.
    pub bytes: u64,
    pub rows: u64,
    /// Pairs to train on, or lists, of which pairs are those of two.
    pub pairs: u64,
    /// Their responses.
    pub sequences: u64,
    /// Pairs (or lists, or whole rows) that were left out.
    pub dropped: BTreeMap<DropReason, u64>,
    /// Responses that are missing in a list.
    pub left_out: BTreeMap<DropReason, u64>,
    /// Pairs of `pairs` that lost the start of their prompt.
    pub truncated: u64,
    /// Tokens of all sequences: counted where they had to be, estimated from a sample elsewhere.
    pub tokens_estimate: u64,
}

impl DataReport {
    /// Pairs and rows that were left out, for any reason.
    pub fn dropped_total(&self) -> u64 {
        self.dropped.values().sum()
    }

    /// What `pairs` counts: lists where any is longer than a pair.
    pub fn noun(&self) -> &'static str {
        if self.has_lists() { "lists" } else { "pairs" }
    }

    fn has_lists(&self) -> bool {
        self.sequences > 2 * self.pairs
    }
}

impl fmt::Display for DataReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (files, bytes) = (self.files, decimal_bytes(self.bytes));
        let noun = if files == 1 { "file" } else { "files" };
        let tokens = format!("about {} tokens", grouped(self.tokens_estimate));
        let mut lines = vec![("rows".to_owned(), self.rows, format!("from {files} {noun}, {bytes}"))];
        if self.has_lists() {
            lines.push(("lists".into(), self.pairs, String::new()));
            lines.push(("  responses".into(), self.sequences, tokens));
        } else {
            lines.push(("pairs".into(), self.pairs, tokens));
        }
        if self.truncated > 0 {
            lines.push(("  truncated".into(), self.truncated, "lost the start of their prompt".into()));
        }
        let mut reasons = |title: &str, counts: &BTreeMap<DropReason, u64>, note: &str| {
            lines.push((title.into(), counts.values().sum(), note.into()));
            lines.extend(counts.iter().map(|(reason, &count)| (format!("  {reason}"), count, String::new())));
        };
        if !self.left_out.is_empty() {
            reasons("left out", &self.left_out, "responses of the lists");
        }
        reasons("dropped", &self.dropped, "");
        let names = lines.iter().map(|(name, ..)| name.len()).max().unwrap_or(0);
        let counts: Vec<String> = lines.iter().map(|&(_, count, _)| grouped(count)).collect();
        let width = counts.iter().map(String::len).max().unwrap_or(0);
        let rows = lines.iter().zip(&counts).map(|((name, _, note), count)| {
            format!("{name:<names$}  {count:>width$}  {note}").trim_end().to_owned()
        });
        f.write_str(&rows.collect::<Vec<_>>().join("\n"))
    }
}

fn decimal_bytes(bytes: u64) -> String {
    let (mut size, mut unit) = (bytes as f64, 0);
    const UNITS: [&str; 5] = ["bytes", "kB", "MB", "GB", "TB"];
    while size >= 999.95 && unit + 1 < UNITS.len() {
        size /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} bytes") } else { format!("{size:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_is_a_compact_table() {
        let report = DataReport {
            files: 2,
            bytes: 3_244_365,
            rows: 12_000,
            pairs: 11_988,
            sequences: 23_976,
            dropped: [(DropReason::Tied, 10), (DropReason::Overlong, 2)].into(),
            left_out: BTreeMap::new(),
            truncated: 1,
            tokens_estimate: 1_234_567,
        };
        let expected = "rows         12,000  from 2 files, 3.2 MB\n\
                        pairs        11,988  about 1,234,567 tokens\n  \
                          truncated       1  lost the start of their prompt\n\
                        dropped          12\n  \
                          tied           10\n  \
                          overlong        2";
        assert_eq!(report.to_string(), expected);
        assert_eq!(serde_json::to_value(&report).unwrap()["dropped"]["tied"], 10);
        let left_out = [(DropReason::TooManyResponses, 12)].into();
        let lists = DataReport { sequences: 40_000, left_out, truncated: 0, ..report };
        let expected = "rows                  12,000  from 2 files, 3.2 MB\n\
                        lists                 11,988\n  \
                          responses           40,000  about 1,234,567 tokens\n\
                        left out                  12  responses of the lists\n  \
                          too-many-responses      12\n\
                        dropped                   12\n  \
                          tied                    10\n  \
                          overlong                 2";
        assert_eq!(lists.to_string(), expected);
    }

    #[test]
    fn sizes_are_rounded_for_reading() {
        let shown: Vec<_> = [0, 999, 1000, 999_999, 2_147_483_648].map(decimal_bytes).into();
        assert_eq!(shown, ["0 bytes", "999 bytes", "1.0 kB", "1.0 MB", "2.1 GB"]);
    }
}
