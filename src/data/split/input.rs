//! The rows of the input files, in their order.

use super::stop_if_interrupted;
use crate::Result;
use crate::data::source::{RawRow, Rows, SourceFile};
use rayon::prelude::*;

/// Rows that are parsed at a time: enough to keep the threads busy, few enough to hold.
pub const CHUNK_ROWS: usize = 256;

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
        let chunk: Vec<_> = rows.by_ref().take(CHUNK_ROWS).collect();
        if chunk.is_empty() {
            return Ok(());
        }
        let parsed: Vec<Result<T>> = chunk.into_par_iter().map(|row| parse(row?)).collect();
        visit(parsed.into_iter().collect::<Result<_>>()?)?;
    }
}
