//! The rows of the input files, in their order.

use super::stop_if_interrupted;
use crate::Result;
use crate::data::source::{RawRow, Rows, SourceFile};
use rayon::prelude::*;

/// Rows that are worked on at a time: enough to keep the threads busy, few enough to hold, as many as this or as many as
/// have this size. A row that is larger is a chunk of its own.
const CHUNK_ROWS: usize = 256;
const CHUNK_BYTES: usize = 4 << 20;

/// What a chunk holds so far.
#[derive(Debug, Default)]
struct Chunk {
    rows: usize,
    bytes: usize,
}

impl Chunk {
    /// Takes in a row of so many bytes; whether the chunk is full with it.
    fn is_full_with(&mut self, bytes: usize) -> bool {
        self.rows += 1;
        self.bytes += bytes;
        self.rows >= CHUNK_ROWS || self.bytes >= CHUNK_BYTES
    }
}

/// How many rows the next chunk takes of those that have these sizes in bytes.
pub fn rows_of_chunk(sizes: impl Iterator<Item = usize>) -> usize {
    let mut chunk = Chunk::default();
    for bytes in sizes {
        if chunk.is_full_with(bytes) {
            break;
        }
    }
    chunk.rows
}

/// Calls `visit` with what `parse` made of each chunk of rows. Parsing is parallel, visiting is not.
///
/// # Errors
/// The first row's that cannot be read, after the visits to the chunks before it; what `visit` returned;
/// [`crate::Error::Interrupted`].
pub fn for_each_chunk<T: Send>(
    file: &SourceFile,
    parse: impl Fn(RawRow) -> Result<T> + Sync,
    mut visit: impl FnMut(Vec<T>) -> Result<()>,
) -> Result<()> {
    let mut rows = Rows::of_files(vec![file.clone()]);
    loop {
        stop_if_interrupted()?;
        let (mut chunk, mut held) = (Vec::new(), Chunk::default());
        for row in rows.by_ref() {
            let bytes = row.as_ref().map_or(0, RawRow::bytes);
            chunk.push(row);
            if held.is_full_with(bytes) {
                break;
            }
        }
        if chunk.is_empty() {
            return Ok(());
        }
        let parsed: Vec<Result<T>> = chunk.into_par_iter().map(|row| parse(row?)).collect();
        visit(parsed.into_iter().collect::<Result<_>>()?)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_bounded_in_rows_and_in_bytes() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("rows.jsonl");
        let chunks_of = |rows: usize, bytes: usize| {
            let row = format!("{{\"text\":\"{}\"}}\n", "x".repeat(bytes));
            std::fs::write(&path, row.repeat(rows)).expect("written");
            let mut chunks = Vec::new();
            let visit = |chunk: Vec<RawRow>| {
                chunks.push(chunk.len());
                Ok(())
            };
            for_each_chunk(&SourceFile::local(&path), Ok, visit).expect("reads");
            chunks
        };
        assert_eq!(chunks_of(600, 1), [256, 256, 88]);
        assert_eq!(chunks_of(10, 1 << 20), [4, 4, 2]);
        assert_eq!(chunks_of(2, 5 << 20), [1, 1]);
        assert!(chunks_of(0, 1).is_empty());

        let rows = |rows, bytes| rows_of_chunk(std::iter::repeat_n(bytes, rows));
        assert_eq!([rows(600, 1), rows(10, 1 << 20), rows(2, 5 << 20), rows(0, 1)], [256, 4, 1, 0]);
    }
}
