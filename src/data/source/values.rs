//! JSON values that are not one a line: the elements of an array, or objects over several lines.

use super::open::Stream;
use super::{Origin, RawRow};
use crate::{Error, Result};
use std::io::BufRead;

/// How values follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// `[` value `,` value .. `]`
    Array,
    /// Value after value, with white space between them.
    Sequence,
}

/// Cuts a stream into values by its brackets alone; whether they are JSON is found when they are parsed.
pub(super) struct Values {
    stream: Stream,
    layout: Layout,
    limit: usize,
    /// Values that were handed out.
    count: u64,
    over: bool,
}

impl Values {
    pub(super) fn new(stream: Stream, layout: Layout, limit: usize) -> Self {
        Self { stream, layout, limit, count: 0, over: false }
    }

    fn error(&self, reason: String) -> Error {
        Error::Data { path: self.stream.name.to_path_buf(), reason }
    }

    /// The next byte that is no white space, not consumed.
    fn peek(&mut self) -> Result<Option<u8>> {
        self.stream.peek_text()
    }

    fn read(&mut self) -> Result<Option<RawRow>> {
        let mut next = self.peek()?;
        if self.layout == Layout::Array {
            let opening = self.count == 0;
            let line = self.stream.line;
            match next {
                Some(b'[') if opening => self.stream.input.consume(1),
                Some(b',') if !opening => self.stream.input.consume(1),
                Some(b']') if !opening => return self.end(),
                Some(other) => {
                    let (found, row) = (char::from(other), self.count);
                    let reason = format!("line {line}: found {found:?} after row {row}, expected ',' or ']'");
                    return Err(self.error(reason));
                }
                None => return Err(self.truncated(line)),
            }
            next = self.peek()?;
            if opening && next == Some(b']') {
                return self.end();
            }
        }
        let line = self.stream.line;
        match next {
            None if self.layout == Layout::Sequence => return Ok(None),
            None => return Err(self.truncated(line)),
            Some(found @ (b',' | b']' | b'}' | b':')) => {
                let (found, row) = (char::from(found), self.count + 1);
                return Err(self.error(format!("line {line}: found {found:?}, expected row {row}")));
            }
            Some(_) => {}
        }
        let text = self.value(line)?;
        self.count += 1;
        let origin = Origin { path: self.stream.name.clone(), line: self.count };
        Ok(Some(RawRow::json(origin, text)))
    }

    /// The bytes of one value, which starts on `line`.
    fn value(&mut self, line: u64) -> Result<Vec<u8>> {
        let mut text = Vec::new();
        let mut scan = Scan::default();
        loop {
            let buffer = match self.stream.input.fill_buf() {
                Ok([]) if scan.is_scalar() => return Ok(text),
                Ok([]) => return Err(self.truncated(line)),
                Ok(buffer) => buffer,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.stream.failure(error)),
            };
            let end = scan.end_in(buffer);
            let taken = end.unwrap_or(buffer.len());
            text.extend_from_slice(&buffer[..taken]);
            self.stream.line += buffer[..taken].iter().filter(|&&byte| byte == b'\n').count() as u64;
            self.stream.input.consume(taken);
            if text.len() > self.limit {
                let (row, limit) = (self.count + 1, self.limit);
                return Err(self.error(format!("row {row} (line {line}) has more than {limit} bytes")));
            }
            if end.is_some() {
                return Ok(text);
            }
        }
    }

    /// After the array: nothing but white space.
    fn end(&mut self) -> Result<Option<RawRow>> {
        self.stream.input.consume(1);
        match self.peek()? {
            None => Ok(None),
            Some(found) => {
                let (found, line) = (char::from(found), self.stream.line);
                Err(self.error(format!("line {line}: found {found:?} after the array, expected the end")))
            }
        }
    }

    fn truncated(&self, line: u64) -> Error {
        let inside = match self.layout {
            Layout::Array => "the array",
            Layout::Sequence => "an object",
        };
        let row = self.count + 1;
        self.error(format!(
            "ends inside {inside}, in row {row} that starts on line {line}: the file is cut short"
        ))
    }
}

impl Iterator for Values {
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

/// Where one value ends, found over any number of buffers.
#[derive(Debug, Default)]
pub(super) struct Scan {
    depth: u64,
    in_string: bool,
    escaped: bool,
    started: bool,
}

impl Scan {
    /// A value without brackets or quotes, which ends where something else starts.
    fn is_scalar(&self) -> bool {
        self.started && self.depth == 0 && !self.in_string
    }

    /// One past the value's last byte, or `None` where it goes on after `buffer`.
    pub(super) fn end_in(&mut self, buffer: &[u8]) -> Option<usize> {
        for (at, &byte) in buffer.iter().enumerate() {
            if self.in_string {
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => {
                        self.in_string = false;
                        if self.depth == 0 {
                            return Some(at + 1);
                        }
                    }
                    _ => {}
                }
                continue;
            }
            let scalar = self.is_scalar();
            self.started = true;
            match byte {
                b'"' | b'{' | b'[' | b',' | b'}' | b']' if scalar => return Some(at),
                byte if scalar && byte.is_ascii_whitespace() => return Some(at),
                b'"' => self.in_string = true,
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        return Some(at + 1);
                    }
                }
                _ => {}
            }
        }
        None
    }
}
