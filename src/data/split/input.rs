//! The rows of the input files, in their order.

use super::stop_if_interrupted;
use crate::Result;
use crate::data::row::Example;
use crate::data::source::{Rows, SourceFile};
use rayon::prelude::*;

/// Rows that are parsed at a time: enough to keep the threads busy, few enough to hold.
const CHUNK_ROWS: usize = 256;

/// Calls `visit` with the index of each row's file and the row. Parsing is parallel, visiting is not.
///
/// # Errors
/// The first row's that cannot be read, after the visits to those before its chunk; what `visit` returned;
/// [`crate::Error::Interrupted`].
pub fn for_each(
    files: &[SourceFile],
    score_field: &str,
    mut visit: impl FnMut(usize, Example) -> Result<()>,
) -> Result<()> {
    for (index, file) in files.iter().enumerate() {
        let mut rows = Rows::of_files(vec![file.clone()]);
        loop {
            stop_if_interrupted()?;
            let chunk: Vec<_> = rows.by_ref().take(CHUNK_ROWS).collect();
            if chunk.is_empty() {
                break;
            }
            let examples: Vec<Result<Example>> =
                chunk.into_par_iter().map(|row| row?.example(score_field)).collect();
            for example in examples {
                visit(index, example?)?;
            }
        }
    }
    Ok(())
}
