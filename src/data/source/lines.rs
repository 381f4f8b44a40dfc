//! One JSON object a line.

use super::open::Stream;
use super::{Origin, RawRow};
use crate::{Error, Result};
use std::io::{BufRead, Read};

/// The rows of a stream of lines. Blank lines are passed over; the last line needs no newline.
pub(super) struct Lines {
    stream: Stream,
    limit: usize,
    over: bool,
}

impl Lines {
    pub(super) fn new(stream: Stream, limit: usize) -> Self {
        Self { stream, limit, over: false }
    }

    fn read(&mut self) -> Result<Option<RawRow>> {
        loop {
            let mut text = Vec::new();
            let limit = self.limit as u64 + 1;
            match (&mut self.stream.input).take(limit).read_until(b'\n', &mut text) {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(error) => return Err(self.stream.failure(error)),
            }
            let line = self.stream.line;
            self.stream.line += 1;
            if text.len() > self.limit && text.last() != Some(&b'\n') {
                let reason =
                    format!("line {line} has more than {} bytes, expected one row a line", self.limit);
                return Err(Error::Data { path: self.stream.name.to_path_buf(), reason });
            }
            text.truncate(text.trim_ascii_end().len());
            if !text.is_empty() {
                let origin = Origin { path: self.stream.name.clone(), line };
                return Ok(Some(RawRow::json(origin, text)));
            }
        }
    }
}

impl Iterator for Lines {
    type Item = Result<RawRow>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let row = self.read().transpose();
        self.over = !matches!(row, Some(Ok(_)));
        row
    }
}
