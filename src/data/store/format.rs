//! The store's file: magic, records, index, JSON about it, footer.
//!
//! The index has one entry of fixed size a list, so any list is two reads away. The footer ends the file and holds a
//! hash of all that stands before it: a file that was cut short or changed is never taken for a store. Numbers are
//! little-endian.

use super::DataReport;
use crate::data::length::common_prefix;
use crate::data::pairing::ListRecord;
use crate::data::ranking::Ranking;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

const MAGIC: &[u8; 8] = b"rmpairs\x03";
pub(super) const ENTRY_BYTES: u64 = 24;
/// Magic, key, content hash, whole hash, four numbers, hash of the footer itself.
const FOOTER_BYTES: usize = 8 + 32 + 32 + 32 + 4 * 8 + 32;

/// Ids of a list.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tokens {
    /// One a response, best first.
    pub(super) sequences: Vec<Vec<u32>>,
    pub(super) ranking: Ranking,
    pub(super) margin: Option<f64>,
}

impl Tokens {
    /// With `kept` sequences alone (ascending positions); `None` where no two of them differ in rank.
    pub(super) fn of_kept(mut self, kept: &[usize]) -> Option<Self> {
        let ranking = self.ranking.of_kept(kept)?;
        let sequences = kept.iter().map(|&i| std::mem::take(&mut self.sequences[i])).collect();
        Some(Self { sequences, ranking, margin: self.margin })
    }

    pub(super) fn count(&self) -> u64 {
        self.sequences.iter().map(|sequence| sequence.len() as u64).sum()
    }
}

/// A list as it is stored: as text, or as ids where it had to be tokenized anyway.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Record {
    Text(ListRecord),
    Tokens(Tokens),
}

impl Record {
    const TEXT: u8 = 0;
    const TOKENS: u8 = 1;

    /// Ids are: whether there is a margin, the margin, the number of sequences, how many ids they share, for each
    /// its rank and how many ids it has of its own, then the shared ids and each one's own.
    pub(super) fn encode(&self) -> io::Result<Vec<u8>> {
        match self {
            Record::Text(list) => {
                let mut out = vec![Self::TEXT];
                serde_json::to_writer(&mut out, list)?;
                Ok(out)
            }
            Record::Tokens(Tokens { sequences, ranking, margin }) => {
                let shared = common_prefix(sequences);
                let own = || sequences.iter().map(|sequence| &sequence[shared..]);
                let ids = shared + own().map(<[u32]>::len).sum::<usize>();
                let mut out = Vec::with_capacity(18 + 8 * sequences.len() + 4 * ids);
                out.push(Self::TOKENS);
                out.push(u8::from(margin.is_some()));
                out.extend(margin.unwrap_or(0.0).to_le_bytes());
                let mut put = |number: usize| -> io::Result<()> {
                    out.extend(u32::try_from(number).map_err(|_| too_large())?.to_le_bytes());
                    Ok(())
                };
                put(sequences.len())?;
                put(shared)?;
                for (&rank, own) in ranking.ranks().iter().zip(own()) {
                    put(rank as usize)?;
                    put(own.len())?;
                }
                let prompt = sequences.first().map_or(&[][..], |first| &first[..shared]);
                for part in std::iter::once(prompt).chain(own()) {
                    out.extend(part.iter().flat_map(|id| id.to_le_bytes()));
                }
                Ok(out)
            }
        }
    }

    /// `None` for bytes that [`Record::encode`] did not write.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (&tag, rest) = bytes.split_first()?;
        match tag {
            Self::TEXT => {
                let list: ListRecord = serde_json::from_slice(rest).ok()?;
                (list.responses.len() == list.ranking.responses()).then_some(Record::Text(list))
            }
            Self::TOKENS => {
                let (&has_margin, rest) = rest.split_first()?;
                let (margin, rest) = rest.split_first_chunk::<8>()?;
                let (words, []) = rest.as_chunks::<4>() else { return None };
                let words: Vec<u32> = words.iter().map(|&word| u32::from_le_bytes(word)).collect();
                let ([count, shared], words) = words.split_first_chunk::<2>()?;
                let (heads, ids) = words.split_at_checked((*count as usize).checked_mul(2)?)?;
                let (heads, _) = heads.as_chunks::<2>();
                let (prompt, mut ids) = ids.split_at_checked(*shared as usize)?;
                let mut sequences = Vec::with_capacity(heads.len());
                for &[_, own] in heads {
                    let (own, rest) = ids.split_at_checked(own as usize)?;
                    sequences.push([prompt, own].concat());
                    ids = rest;
                }
                let ranking = Ranking::new(heads.iter().map(|&[rank, _]| rank).collect())?;
                ids.is_empty().then(|| {
                    let margin = (has_margin == 1).then(|| f64::from_le_bytes(*margin));
                    Record::Tokens(Tokens { sequences, ranking, margin })
                })
            }
            _ => None,
        }
    }
}

fn too_large() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "an example of more than 4 GiB")
}

/// Where a list lies and where it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) offset: u64,
    pub(super) length: u32,
    /// Position in [`Meta::names`].
    pub(super) file: u32,
    pub(super) line: u64,
}

impl Entry {
    fn encode(self) -> [u8; ENTRY_BYTES as usize] {
        let mut out = [0; ENTRY_BYTES as usize];
        out[..8].copy_from_slice(&self.offset.to_le_bytes());
        out[8..12].copy_from_slice(&self.length.to_le_bytes());
        out[12..16].copy_from_slice(&self.file.to_le_bytes());
        out[16..].copy_from_slice(&self.line.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8; ENTRY_BYTES as usize]) -> Self {
        let (words, _) = bytes.as_chunks::<4>();
        let word = |i: usize| u32::from_le_bytes(words[i]);
        let long = |i: usize| u64::from(word(i)) | u64::from(word(i + 1)) << 32;
        Self { offset: long(0), length: word(2), file: word(3), line: long(4) }
    }
}

/// What is known about the lists.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Meta {
    /// What the files of rows are called.
    pub(super) names: Vec<String>,
    pub(super) report: DataReport,
}

/// Where things lie in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) lists: u64,
    /// Of records and index, without what else is known of the lists.
    pub(super) content_hash: [u8; 32],
    index: u64,
}

impl Layout {
    pub(super) fn entry(&self, file: &File, index: u64) -> io::Result<Entry> {
        let mut bytes = [0; ENTRY_BYTES as usize];
        read_at(file, &mut bytes, self.index + index * ENTRY_BYTES)?;
        Ok(Entry::decode(&bytes))
    }

    /// A record's bytes; `None` for an entry that points outside the records.
    pub(super) fn record(&self, file: &File, entry: &Entry) -> io::Result<Option<Vec<u8>>> {
        if entry.offset.checked_add(u64::from(entry.length)).is_none_or(|end| end > self.index) {
            return Ok(None);
        }
        let mut bytes = vec![0; entry.length as usize];
        read_at(file, &mut bytes, entry.offset)?;
        Ok(Some(bytes))
    }
}

/// Writes a store's file from front to back.
pub(super) struct Writer<W> {
    out: W,
    hash: Sha256,
    at: u64,
    lists: u64,
    /// The index, until the records are complete.
    index: io::BufWriter<File>,
}

impl<W: Write> Writer<W> {
    /// `index` is an empty file for the time of writing.
    pub(super) fn new(out: W, index: File) -> io::Result<Self> {
        let mut writer = Self { out, hash: Sha256::new(), at: 0, lists: 0, index: io::BufWriter::new(index) };
        writer.write(MAGIC)?;
        Ok(writer)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.hash.update(bytes);
        self.at += bytes.len() as u64;
        Ok(())
    }

    pub(super) fn push(&mut self, record: &[u8], file: u32, line: u64) -> io::Result<()> {
        let length = u32::try_from(record.len()).map_err(|_| too_large())?;
        let entry = Entry { offset: self.at, length, file, line };
        self.write(record)?;
        self.index.write_all(&entry.encode())?;
        self.lists += 1;
        Ok(())
    }

    /// Appends index, `meta` and footer, and gives the writer back, flushed.
    pub(super) fn finish(mut self, key: &[u8; 32], meta: &Meta) -> io::Result<W> {
        self.index.flush()?;
        let mut entries = self.index.get_ref().try_clone()?;
        entries.seek(SeekFrom::Start(0))?;
        let index = self.at;
        let mut buffer = vec![0; 1 << 16];
        loop {
            match entries.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => self.write(&buffer[..count])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let content_hash: [u8; 32] = self.hash.clone().finalize().into();
        let meta_at = self.at;
        self.write(&serde_json::to_vec(meta)?)?;
        let mut footer = Vec::with_capacity(FOOTER_BYTES);
        footer.extend(MAGIC);
        footer.extend(key);
        footer.extend(content_hash);
        footer.extend(self.hash.clone().finalize());
        for number in [self.lists, index, meta_at, self.at] {
            footer.extend(number.to_le_bytes());
        }
        let own = Sha256::digest(&footer);
        footer.extend(own);
        self.out.write_all(&footer)?;
        self.out.flush()?;
        Ok(self.out)
    }
}

/// Checks the whole file: `None` unless it is complete, unchanged and has this `key`.
pub(super) fn verify(file: &mut File, key: &[u8; 32]) -> io::Result<Option<(Layout, Meta)>> {
    let size = file.metadata()?.len();
    let Some(body) = size.checked_sub(FOOTER_BYTES as u64) else { return Ok(None) };
    let mut bytes = [0; FOOTER_BYTES];
    read_at(file, &mut bytes, body)?;
    let Some(footer) = Footer::decode(&bytes) else { return Ok(None) };
    let index_end = footer.lists.checked_mul(ENTRY_BYTES).and_then(|n| n.checked_add(footer.index));
    if footer.key != *key || footer.end != body || index_end != Some(footer.meta) || footer.meta > body {
        return Ok(None);
    }
    file.seek(SeekFrom::Start(0))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    let mut left = body;
    while left > 0 {
        let count = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        file.read_exact(&mut buffer[..count])?;
        hash.update(&buffer[..count]);
        left -= count as u64;
    }
    if hash.finalize()[..] != footer.whole_hash {
        return Ok(None);
    }
    let mut meta = Vec::new();
    file.seek(SeekFrom::Start(footer.meta))?;
    file.take(body - footer.meta).read_to_end(&mut meta)?;
    let Ok(meta) = serde_json::from_slice(&meta) else { return Ok(None) };
    let layout = Layout { lists: footer.lists, content_hash: footer.content_hash, index: footer.index };
    Ok(Some((layout, meta)))
}

struct Footer {
    key: [u8; 32],
    content_hash: [u8; 32],
    whole_hash: [u8; 32],
    lists: u64,
    index: u64,
    meta: u64,
    end: u64,
}

impl Footer {
    fn decode(bytes: &[u8; FOOTER_BYTES]) -> Option<Self> {
        let (body, own) = bytes.split_last_chunk::<32>()?;
        if Sha256::digest(body)[..] != *own {
            return None;
        }
        let (magic, rest) = body.split_first_chunk::<8>()?;
        let (key, rest) = rest.split_first_chunk::<32>()?;
        let (content_hash, rest) = rest.split_first_chunk::<32>()?;
        let (whole_hash, rest) = rest.split_first_chunk::<32>()?;
        let ([lists, index, meta, end], []) = rest.as_chunks::<8>() else { return None };
        let number = |bytes: &[u8; 8]| u64::from_le_bytes(*bytes);
        (magic == MAGIC).then(|| Self {
            key: *key,
            content_hash: *content_hash,
            whole_hash: *whole_hash,
            lists: number(lists),
            index: number(index),
            meta: number(meta),
            end: number(end),
        })
    }
}

#[cfg(unix)]
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buffer, offset)
}

#[cfg(windows)]
fn read_at(file: &File, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !buffer.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, buffer, offset)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => {
                buffer = &mut buffer[count..];
                offset += count as u64;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::row::Message;
    use proptest::prelude::*;

    fn text() -> Record {
        let responses = ["a", "b", "c"].map(|text| vec![Message::new("assistant", text)]);
        Record::Text(ListRecord {
            prompt: vec![Message::new("user", "p\n\"\u{1f600}")],
            responses: responses.into(),
            ranking: Ranking::new(vec![0, 1, 1]).unwrap(),
            margin: Some(0.1),
        })
    }

    proptest! {
        #[test]
        fn records_read_back(
            own: Vec<Vec<u32>>,
            ends: [Vec<u32>; 2],
            shared: Vec<u32>,
            tied: bool,
            margin: Option<f64>,
        ) {
            prop_assume!(margin.is_none_or(|m| !m.is_nan()));
            let own: Vec<_> = own.into_iter().chain(ends).collect();
            let last = own.len() as u32 - 1;
            let ranks = (0..=last).map(|i| if tied { u32::from(i == last) } else { i }).collect();
            let record = Record::Tokens(Tokens {
                sequences: own.into_iter().map(|own| [shared.clone(), own].concat()).collect(),
                ranking: Ranking::new(ranks).unwrap(),
                margin,
            });
            prop_assert_eq!(Record::decode(&record.encode().unwrap()), Some(record));
        }

        #[test]
        fn any_bytes_decode_or_fail(bytes: Vec<u8>, tag in 0u8..3) {
            let _ = Record::decode(&[vec![tag], bytes].concat());
        }
    }

    #[test]
    fn text_records_and_entries_read_back() {
        assert_eq!(Record::decode(&text().encode().unwrap()), Some(text()));
        let entry = Entry { offset: 1 << 40 | 7, length: 9, file: 3, line: 1 << 33 };
        assert_eq!(Entry::decode(&entry.encode()), entry);
    }

    fn store(folder: &std::path::Path) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new(), tempfile::tempfile_in(folder).unwrap()).unwrap();
        for line in 1..4 {
            writer.push(&text().encode().unwrap(), 0, line).unwrap();
        }
        let meta = Meta { names: vec!["a.jsonl".into()], report: DataReport::default() };
        writer.finish(&[7; 32], &meta).unwrap()
    }

    /// Every length and a change of any byte: the file is whole, or it is no store.
    #[test]
    fn a_file_that_was_cut_or_changed_is_no_store() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = store(folder.path());
        let opens = |bytes: &[u8], key: u8| {
            let path = folder.path().join("s");
            std::fs::write(&path, bytes).unwrap();
            verify(&mut File::open(&path).unwrap(), &[key; 32]).unwrap()
        };
        let (layout, meta) = opens(&bytes, 7).unwrap();
        let file = File::open(folder.path().join("s")).unwrap();
        assert_eq!((layout.lists, meta.names.len()), (3, 1));
        let entry = layout.entry(&file, 2).unwrap();
        assert_eq!(entry.line, 3);
        let record = layout.record(&file, &entry).unwrap().unwrap();
        assert_eq!(Record::decode(&record), Some(text()));
        let outside = Entry { offset: u64::MAX, ..entry };
        assert!(layout.record(&file, &outside).unwrap().is_none());

        assert!(opens(&bytes, 8).is_none());
        for length in 0..bytes.len() {
            assert!(opens(&bytes[..length], 7).is_none(), "{length} bytes");
        }
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0x10;
            assert!(opens(&changed, 7).is_none(), "byte {at}");
        }
        assert!(opens(&[bytes.clone(), bytes].concat(), 7).is_none());
    }
}
