//! Parquet files, row group after row group.

use super::{Content, FileRows, Origin, RawRow};
use crate::base::panics::caught;
use crate::{Error, Result};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::reader::RowIter;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

/// Values that a column decodes at a time; texts are long, so few.
const BATCH_ROWS: usize = 64;

struct ParquetRows {
    name: Arc<Path>,
    rows: RowIter<'static>,
    total: u64,
    read: u64,
    over: bool,
}

/// The rows of a Parquet file.
///
/// # Errors
/// [`Error::Data`] for a file that is cut short or damaged.
pub(super) fn rows(file: File, name: Arc<Path>) -> Result<FileRows> {
    let damaged = |reason: String| Error::Data { path: name.to_path_buf(), reason };
    let opened = guarded(|| {
        let reader = SerializedFileReader::new(file)?;
        // The iterator takes it for granted that every row group opens.
        for group in 0..reader.num_row_groups() {
            reader.get_row_group(group)?;
        }
        Ok(reader)
    });
    let reader = opened.map_err(|reason| damaged(format!("cut short or damaged Parquet: {reason}")))?;
    let total = u64::try_from(reader.metadata().file_metadata().num_rows())
        .map_err(|_| damaged("damaged Parquet: a negative number of rows".into()))?;
    let rows = RowIter::from_file_into(Box::new(reader)).with_batch_size(BATCH_ROWS);
    Ok(Box::new(ParquetRows { name, rows, total, read: 0, over: false }))
}

impl Iterator for ParquetRows {
    type Item = Result<RawRow>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let damaged = |row: u64, reason: String| {
            let reason = format!("damaged Parquet, at row {row} of {}: {reason}", self.total);
            Some(Err(Error::Data { path: self.name.to_path_buf(), reason }))
        };
        let row = match guarded(|| self.rows.next().transpose()) {
            Ok(row) => row,
            Err(reason) => {
                self.over = true;
                return damaged(self.read + 1, reason);
            }
        };
        let Some(row) = row else {
            self.over = true;
            // A row group whose columns end early ends the iteration without a word.
            return (self.read != self.total)
                .then(|| damaged(self.read + 1, "it is missing".into()))
                .flatten();
        };
        self.read += 1;
        let origin = Origin { path: self.name.clone(), line: self.read };
        Some(Ok(RawRow { origin, content: Content::Columns(row.to_json_value()) }))
    }
}

/// Runs the decoder, which panics on some damaged pages, and turns that into a reason.
fn guarded<T>(run: impl FnOnce() -> Result<T, parquet::errors::ParquetError>) -> Result<T, String> {
    caught(run).map_err(|panic| format!("the decoder gave up ({panic})"))?.map_err(|error| error.to_string())
}
