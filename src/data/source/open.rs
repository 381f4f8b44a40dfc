//! From a file to its rows: what its first bytes say, and the decoder that goes with them.

use super::lines::Lines;
use super::values::{Layout, Scan, Values};
use super::{FileRows, MAX_ROW_BYTES, parquet};
use crate::{Error, Result};
use flate2::bufread::MultiGzDecoder;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, ErrorKind, Read};
use std::path::Path;
use std::sync::Arc;

const BUFFER_BYTES: usize = 1 << 18;

/// Text that is being read.
pub(super) struct Stream {
    pub(super) name: Arc<Path>,
    pub(super) input: Box<dyn BufRead + Send>,
    /// The line that the next byte is on, from 1.
    pub(super) line: u64,
    compression: Option<&'static str>,
}

impl Stream {
    /// A failed read as an error: a decoder's is the file's fault, any other the system's.
    pub(super) fn failure(&self, error: io::Error) -> Error {
        let Some(compression) = self.compression else { return Error::io(&self.name)(error) };
        let line = self.line;
        let reason = match error.kind() {
            ErrorKind::UnexpectedEof => {
                format!("the {compression} data ends too early, after line {line}: the file is cut short")
            }
            _ => format!("the {compression} data is damaged after line {line}: {error}"),
        };
        Error::Data { path: self.name.to_path_buf(), reason }
    }

    /// The next byte that is no white space, not consumed.
    pub(super) fn peek_text(&mut self) -> Result<Option<u8>> {
        loop {
            let buffer = match self.input.fill_buf() {
                Ok([]) => return Ok(None),
                Ok(buffer) => buffer,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.failure(error)),
            };
            let blank = buffer.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
            self.line += buffer[..blank].iter().filter(|&&byte| byte == b'\n').count() as u64;
            let found = buffer.get(blank).copied();
            self.input.consume(blank);
            if found.is_some() {
                return Ok(found);
            }
        }
    }

    fn push_back(&mut self, text: Vec<u8>) {
        let rest = std::mem::replace(&mut self.input, Box::new(io::empty()));
        self.input = Box::new(Cursor::new(text).chain(rest));
    }
}

/// The rows of a file.
pub(super) fn file(path: &Path, name: Arc<Path>) -> Result<FileRows> {
    let mut file = File::open(path).map_err(Error::io(&name))?;
    if file.metadata().map_err(Error::io(&name))?.is_dir() {
        let reason = "found a folder, expected a file of rows".into();
        return Err(Error::Data { path: name.to_path_buf(), reason });
    }
    let mut head = Vec::new();
    (&mut file).take(4).read_to_end(&mut head).map_err(Error::io(&name))?;
    if head == b"PAR1" {
        return parquet::rows(file, name);
    }
    stream(name, Box::new(Cursor::new(head).chain(file)))
}

/// The rows of a stream of JSON, compressed or not.
pub(super) fn stream(name: Arc<Path>, mut input: Box<dyn Read + Send>) -> Result<FileRows> {
    // Enough to know a compression by; the shortest row is longer, so a slow pipe is not waited for.
    let mut head = Vec::new();
    (&mut input).take(4).read_to_end(&mut head).map_err(Error::io(&name))?;
    let compression = match head.as_slice() {
        [0x1f, 0x8b, ..] => Some("gzip"),
        [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => Some("zstd"),
        [b'B', b'Z', b'h', _] => return Err(unreadable(&name, "bzip2 data")),
        [0xfd, b'7', b'z', b'X'] => return Err(unreadable(&name, "xz data")),
        [b'P', b'K', 3, 4] => return Err(unreadable(&name, "a zip archive")),
        b"PAR1" => return Err(unreadable(&name, "Parquet in a stream, which needs a file")),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => return Err(unreadable(&name, "UTF-16 text")),
        _ => None,
    };
    let input = BufReader::with_capacity(BUFFER_BYTES, Cursor::new(head).chain(input));
    let input: Box<dyn BufRead + Send> = match compression {
        Some("gzip") => Box::new(BufReader::with_capacity(BUFFER_BYTES, MultiGzDecoder::new(input))),
        Some(_) => {
            let decoder = zstd::Decoder::with_buffer(input).map_err(Error::io(&name))?;
            Box::new(BufReader::with_capacity(BUFFER_BYTES, decoder))
        }
        None => Box::new(input),
    };
    text(Stream { name, input, line: 1, compression }, MAX_ROW_BYTES)
}

/// The rows of text: lines, an array, or objects over several lines.
pub(super) fn text(mut stream: Stream, limit: usize) -> Result<FileRows> {
    let mut mark = Vec::new();
    let first = stream.input.fill_buf().map(|bytes| bytes.first().copied());
    if first.map_err(|error| stream.failure(error))? == Some(0xef) {
        (&mut stream.input).take(3).read_to_end(&mut mark).map_err(|error| stream.failure(error))?;
        if mark != b"\xef\xbb\xbf" {
            return Err(unreadable(&stream.name, "bytes that are no text"));
        }
    }
    match stream.peek_text()? {
        None => Ok(Box::new(std::iter::empty())),
        Some(b'[') => Ok(Box::new(Values::new(stream, Layout::Array, limit))),
        Some(b'{') => objects(stream, limit),
        Some(_) => {
            let mut start = Vec::new();
            (&mut stream.input).take(40).read_to_end(&mut start).map_err(|error| stream.failure(error))?;
            let found = match start.as_slice() {
                [b'<', ..] => "markup, perhaps a page that says why the download failed".into(),
                start if start.starts_with(b"version https://git-lfs") => {
                    "a Git LFS pointer; fetch the file itself with `git lfs pull`".into()
                }
                start => format!("text that starts with {:?}", String::from_utf8_lossy(start)),
            };
            Err(unreadable(&stream.name, &found))
        }
    }
}

/// Objects, one a line or over several lines. A first line that does not close its brackets decides.
fn objects(mut stream: Stream, limit: usize) -> Result<FileRows> {
    let mut first = Vec::new();
    (&mut stream.input)
        .take(limit as u64 + 1)
        .read_until(b'\n', &mut first)
        .map_err(|error| stream.failure(error))?;
    let closed = Scan::default().end_in(&first).is_some();
    let goes_on = || matches!(first.trim_ascii_end().last(), Some(b'{' | b'[' | b',' | b':'));
    let spread = !closed && first.len() <= limit && {
        // A row that was cut short is followed by the next row; an object over several lines is not.
        let next = stream.input.fill_buf();
        let next = next.map(|bytes| bytes.iter().copied().find(|byte| !byte.is_ascii_whitespace()));
        goes_on() || next.map_err(|error| stream.failure(error))?.is_some_and(|byte| byte != b'{')
    };
    stream.push_back(first);
    Ok(match spread {
        true => Box::new(Values::new(stream, Layout::Sequence, limit)),
        false => Box::new(Lines::new(stream, limit)),
    })
}

fn unreadable(name: &Path, found: &str) -> Error {
    let reason = format!(
        "found {found}, expected JSON Lines (also .gz, .zst), a JSON array of objects, or a Parquet file"
    );
    Error::Data { path: name.to_path_buf(), reason }
}
