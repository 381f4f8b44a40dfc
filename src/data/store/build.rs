//! The one pass over the rows that makes a store, and what a run may ask of all its lists before the first step.

use super::format::{Meta, Record, Writer};
use super::length::{Measured, encode, measure};
use super::{DataReport, ListStore, Preparation};
use crate::base::{atomic, interrupt};
use crate::data::pairing::{DropReason, lists_of};
use crate::data::source::{RawRow, Rows, SourceFile};
use crate::data::tokenize::EncodeConversation;
use crate::{Error, Result};
use rayon::prelude::*;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::Path;
use std::sync::mpsc::{SyncSender, sync_channel};

/// Rows that are parsed side by side: as many as this, or as many as have this size.
const CHUNK_ROWS: usize = 512;
const CHUNK_BYTES: usize = 4 << 20;
/// One row in so many is tokenized for the estimate of tokens, and each of the first few.
const SAMPLE_EVERY: u64 = 64;
const SAMPLE_FIRST: u64 = 16;

/// Reads `files` and writes the store to `path`, which appears only when it is complete.
///
/// # Errors
/// See [`super::ListStore::open_or_build`].
pub(super) fn build(
    path: &Path,
    key: &[u8; 32],
    files: &[SourceFile],
    preparation: &Preparation,
    encoder: &dyn EncodeConversation,
    progress: &mut dyn FnMut(&DataReport),
) -> Result<()> {
    let partial = path.with_extension("partial");
    let written = write(&partial, key, files, preparation, encoder, progress);
    if written.is_err() {
        // What failed is the news; a leftover is overwritten by the next build.
        let _ = fs::remove_file(&partial);
        return written;
    }
    fs::rename(&partial, path).map_err(Error::io(path))?;
    atomic::sync_folder(path.parent().unwrap_or(Path::new(".")))
}

impl ListStore {
    /// Checks that every list has a margin, for an objective that reads it.
    ///
    /// What is stored does not depend on the objective; so this is a pass over the store, made where it is asked for.
    ///
    /// # Errors
    /// [`Error::Row`] for the first list without one; [`Error::Data`] and [`Error::Io`] where the store cannot be read;
    /// [`Error::Interrupted`].
    pub fn require_margins(&self) -> Result<()> {
        let problem_of = |index: u64| -> Option<Error> {
            if interrupt::requested() {
                return Some(Error::Interrupted);
            }
            let (origin, record) = match self.read(index) {
                Ok(read) => read,
                Err(error) => return Some(error),
            };
            let margin = match record {
                Record::Text(list) => list.margin,
                Record::Tokens(tokens) => tokens.margin,
            };
            margin.is_none().then(|| {
                let reason = "found no `margin`, expected a number in every row: an objective with margin = \"column\" \
                              reads it. Add it to the row, leave the row out, or give the objective a number";
                origin.error(reason)
            })
        };
        (0..self.len()).into_par_iter().find_map_first(problem_of).map_or(Ok(()), Err)
    }
}

fn write(
    partial: &Path,
    key: &[u8; 32],
    files: &[SourceFile],
    preparation: &Preparation,
    encoder: &dyn EncodeConversation,
    progress: &mut dyn FnMut(&DataReport),
) -> Result<()> {
    let folder = partial.parent().unwrap_or(Path::new("."));
    let out = BufWriter::with_capacity(1 << 20, File::create(partial).map_err(Error::io(partial))?);
    let index = tempfile::tempfile_in(folder).map_err(Error::io(folder))?;
    let mut writer = Writer::new(out, index).map_err(Error::io(partial))?;
    let mut tally = Tally::default();
    tally.report.files = files.len() as u64;
    for file in files {
        tally.report.bytes += fs::metadata(&file.path).map_err(Error::io(&file.name))?.len();
    }

    std::thread::scope(|scope| -> Result<()> {
        let (send, chunks) = sync_channel(1);
        scope.spawn(move || read(files, &send));
        for chunk in chunks {
            if interrupt::requested() {
                return Err(Error::Interrupted);
            }
            let first_row = tally.report.rows;
            let outcomes: Vec<Result<Outcome>> = chunk?
                .into_par_iter()
                .enumerate()
                .map(|(i, (file, row))| prepare(row, file, first_row + i as u64, preparation, encoder))
                .collect();
            for outcome in outcomes {
                let outcome = outcome?;
                for list in &outcome.lists {
                    writer.push(&list.record, outcome.file, outcome.line).map_err(Error::io(partial))?;
                }
                tally.add(&outcome);
            }
            tally.estimate_tokens();
            progress(&tally.report);
        }
        Ok(())
    })?;

    let report = tally.report;
    if report.pairs == 0 {
        let dropped: Vec<_> = report.dropped.iter().map(|(reason, n)| format!("{n} {reason}")).collect();
        let dropped = if dropped.is_empty() { "none".into() } else { dropped.join(", ") };
        let others = match files.len() {
            1 => String::new(),
            n => format!(" and {} more", n - 1),
        };
        let reason = format!("found no pair to train on in {} rows{others}; dropped: {dropped}", report.rows);
        return Err(Error::Data { path: files[0].name.to_path_buf(), reason });
    }
    let names = files.iter().map(|file| file.name.display().to_string()).collect();
    let out = writer.finish(key, &Meta { names, report }).map_err(Error::io(partial))?;
    out.into_inner().map_err(|e| e.into_error()).and_then(|f| f.sync_all()).map_err(Error::io(partial))
}

type Chunk = Vec<(u32, RawRow)>;

/// Reads chunks ahead of their use until the end, an error, or until nobody wants them.
fn read(files: &[SourceFile], send: &SyncSender<Result<Chunk>>) {
    let (mut chunk, mut bytes) = (Chunk::new(), 0);
    for (number, file) in (0..).zip(files) {
        for row in Rows::of_files(vec![file.clone()]) {
            match row {
                Ok(row) => {
                    bytes += row.bytes();
                    chunk.push((number, row));
                }
                Err(error) => {
                    // Rows before the broken place are judged first, so that the first error is the one reported.
                    let _ = send.send(Ok(std::mem::take(&mut chunk))).and_then(|()| send.send(Err(error)));
                    return;
                }
            }
            if chunk.len() >= CHUNK_ROWS || bytes >= CHUNK_BYTES {
                bytes = 0;
                if send.send(Ok(std::mem::take(&mut chunk))).is_err() {
                    return;
                }
            }
        }
    }
    // The receiver may be gone already, with an error of its own.
    let _ = send.send(Ok(chunk));
}

/// What became of one row.
struct Outcome {
    file: u32,
    line: u64,
    lists: Vec<Kept>,
    dropped: Vec<DropReason>,
    /// Of responses that the lists do without.
    left_out: Vec<DropReason>,
}

struct Kept {
    record: Vec<u8>,
    sequences: u64,
    /// Of the texts, where the ids are not stored.
    bytes: u64,
    /// Of the ids, where they were made.
    tokens: Option<u64>,
    truncated: bool,
}

fn prepare(
    row: RawRow,
    file: u32,
    number: u64,
    preparation: &Preparation,
    encoder: &dyn EncodeConversation,
) -> Result<Outcome> {
    let Preparation { pairing, max_responses, seed, .. } = *preparation;
    let origin = row.origin.clone();
    let example = row.example(&preparation.score_field)?;
    let mut paired = lists_of(example, pairing, max_responses, seed, number);
    let mut lists = Vec::with_capacity(paired.lists.len());
    for list in paired.lists {
        let responses = list.responses.len();
        let (record, sequences, bytes, tokens, truncated) =
            match measure(&list, preparation, encoder, &origin)? {
                Measured::Overlong => {
                    paired.dropped.push(DropReason::Overlong);
                    continue;
                }
                Measured::Tokens { tokens, truncated } => {
                    let (kept, count) = (tokens.sequences.len(), tokens.count());
                    paired.left_out.extend(std::iter::repeat_n(DropReason::Overlong, responses - kept));
                    (Record::Tokens(tokens), kept, 0, Some(count), truncated)
                }
                Measured::Short { bytes } => {
                    let sampled = number < SAMPLE_FIRST || number.is_multiple_of(SAMPLE_EVERY);
                    let tokens = sampled.then(|| encode(&list, encoder, &origin)).transpose()?;
                    (Record::Text(list), responses, bytes, tokens.map(|tokens| tokens.count()), false)
                }
            };
        let record = record.encode().map_err(|error| origin.error(error.to_string()))?;
        lists.push(Kept { record, sequences: sequences as u64, bytes, tokens, truncated });
    }
    if lists.is_empty() {
        // The row is counted as dropped; its responses are not counted once more.
        paired.left_out.clear();
    }
    Ok(Outcome { file, line: origin.line, lists, dropped: paired.dropped, left_out: paired.left_out })
}

/// Counts so far.
#[derive(Default)]
struct Tally {
    report: DataReport,
    counted_tokens: u64,
    /// Of texts whose ids are not stored.
    text_bytes: u64,
    sampled_bytes: u64,
    sampled_tokens: u64,
}

impl Tally {
    fn add(&mut self, outcome: &Outcome) {
        let report = &mut self.report;
        report.rows += 1;
        report.pairs += outcome.lists.len() as u64;
        for (counts, reasons) in
            [(&mut report.dropped, &outcome.dropped), (&mut report.left_out, &outcome.left_out)]
        {
            for reason in reasons {
                *counts.entry(*reason).or_default() += 1;
            }
        }
        for list in &outcome.lists {
            report.sequences += list.sequences;
            report.truncated += u64::from(list.truncated);
            match list.tokens {
                Some(tokens) if list.bytes == 0 => self.counted_tokens += tokens,
                Some(tokens) => {
                    self.sampled_tokens += tokens;
                    self.sampled_bytes += list.bytes;
                }
                None => {}
            }
            self.text_bytes += list.bytes;
        }
    }

    fn estimate_tokens(&mut self) {
        // Four bytes a token is usual for English, where no short list was in the sample.
        let per_byte = match self.sampled_bytes {
            0 => 0.25,
            bytes => self.sampled_tokens as f64 / bytes as f64,
        };
        self.report.tokens_estimate =
            self.counted_tokens + (self.text_bytes as f64 * per_byte).round() as u64;
    }
}
