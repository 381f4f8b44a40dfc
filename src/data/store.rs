//! The pairs of a run on disk, or its lists, of which pairs are those of two: every row is read, paired and measured
//! once, then any list can be read by its number.
//!
//! Memory does not grow with the data: rows pass in chunks, lists and their index lie in one file that is read by
//! position (not mapped, so that pages of it are never this process's memory). `build` makes the pass, `format` is
//! the file, `length` holds lists to `max_length`. What is not here: the order of lists (`sampler`) and reading ahead
//! (`loader`).

mod build;
mod format;
mod length;
mod report;

pub use report::DataReport;

use super::config::{Config, Overlong, Pairing};
use super::source::{Origin, SourceFile};
use super::tokenize::{EncodeConversation, TokenList};
use crate::{Error, Result};
use format::{Layout, Record, Tokens};
use sha2::{Digest, Sha256};
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// How lists are made of rows. Another number for other lists of the same rows: stores by the rules before are not used.
const RULES: &[u8] = b"rules 2";
/// The store's file inside its folder.
const FILE_NAME: &str = "pairs.spool";

/// How rows become pairs, or lists.
#[derive(Debug, Clone, PartialEq)]
pub struct Preparation {
    /// Tokens.
    pub max_length: usize,
    pub overlong: Overlong,
    pub pairing: Pairing,
    /// Of a list.
    pub max_responses: usize,
    pub score_field: String,
    pub seed: u64,
}

impl Preparation {
    /// What `[data]` says, with the run's seed.
    pub fn new(config: &Config, seed: u64) -> Self {
        Self {
            max_length: config.max_length,
            overlong: config.overlong,
            pairing: config.pairing,
            max_responses: config.max_responses,
            score_field: config.score_field.clone(),
            seed,
        }
    }
}

/// The lists of a run, numbered from 0 in the order of the files. Reading is possible from many threads at once.
#[derive(Debug)]
pub struct ListStore {
    path: PathBuf,
    file: File,
    layout: Layout,
    names: Vec<String>,
    report: DataReport,
}

impl ListStore {
    /// The store in `folder`, built there unless one lies there that is whole and was made from the same files (path,
    /// size, time of change), preparation and tokenizer.
    ///
    /// A build is one pass over the files, on all cores; `progress` is told the counts so far after every chunk. The
    /// file takes its name only when it is complete, so an interrupted build leaves nothing that could be used.
    ///
    /// # Errors
    /// [`Error::Row`] for the first row that cannot be read, rendered or (under [`Overlong::Error`]) kept,
    /// [`Error::Data`] where no pair is left or a file changes meanwhile, [`Error::Io`], [`Error::Interrupted`].
    pub fn open_or_build(
        folder: &Path,
        files: &[SourceFile],
        preparation: &Preparation,
        encoder: &dyn EncodeConversation,
        progress: &mut dyn FnMut(&DataReport),
    ) -> Result<Self> {
        if files.is_empty() {
            return Err(Error::Usage("found no file of rows, expected at least one".into()));
        }
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let path = folder.join(FILE_NAME);
        let key = key(files, preparation, encoder)?;
        if let Some(store) = Self::open(&path, &key)? {
            return Ok(store);
        }
        let _lock = lock(folder)?;
        build::build(&path, &key, files, preparation, encoder, progress)?;
        if key != self::key(files, preparation, encoder)? {
            fs::remove_file(&path).map_err(Error::io(&path))?;
            let reason = "this file, or one of those read with it, changed while it was read".into();
            return Err(Error::Data { path: files[0].name.to_path_buf(), reason });
        }
        Self::open(&path, &key)?.ok_or_else(|| {
            let reason = "what was written does not read back, perhaps a failing disk".into();
            Error::Data { path, reason }
        })
    }

    /// `None` where there is no store, or one that is another's, cut short or damaged.
    fn open(path: &Path, key: &[u8; 32]) -> Result<Option<Self>> {
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io(path)(error)),
        };
        let Some((layout, meta)) = format::verify(&mut file, key).map_err(Error::io(path))? else {
            return Ok(None);
        };
        Ok(Some(Self { path: path.to_path_buf(), file, layout, names: meta.names, report: meta.report }))
    }

    /// Number of lists, at least 1.
    pub fn len(&self) -> u64 {
        self.layout.lists
    }

    /// Never: a store without lists is not built.
    pub fn is_empty(&self) -> bool {
        self.layout.lists == 0
    }

    /// What was read, kept and dropped.
    pub fn report(&self) -> &DataReport {
        &self.report
    }

    /// SHA-256 of the lists, in hex: two stores with the same one hold the same lists in the same order.
    pub fn content_sha256(&self) -> String {
        self.layout.content_hash.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The row that list `index` came from.
    ///
    /// # Errors
    /// [`Error::Data`] for an index past the end or a file damaged since it was opened, [`Error::Io`].
    pub fn origin(&self, index: u64) -> Result<Origin> {
        Ok(self.read(index)?.0)
    }

    /// List `index` as token ids.
    ///
    /// # Errors
    /// As [`ListStore::origin`]; [`Error::Row`] where the tokenizer refuses the text.
    pub fn token_list(&self, index: u64, encoder: &dyn EncodeConversation) -> Result<TokenList> {
        let (origin, record) = self.read(index)?;
        let Tokens { sequences, ranking, margin } = match record {
            Record::Tokens(tokens) => tokens,
            Record::Text(list) => length::encode(&list, encoder, &origin)?,
        };
        Ok(TokenList { index, origin: origin.to_string(), sequences, ranking, margin })
    }

    fn read(&self, index: u64) -> Result<(Origin, Record)> {
        let damaged = |what: &str| {
            let reason =
                format!("example {index} of {}: {what}; delete the file to have it made anew", self.len());
            Error::Data { path: self.path.clone(), reason }
        };
        if index >= self.len() {
            return Err(damaged("there is no such example"));
        }
        let entry = self.layout.entry(&self.file, index).map_err(Error::io(&self.path))?;
        let name = self.names.get(entry.file as usize).ok_or_else(|| damaged("its source is unknown"))?;
        let bytes = self
            .layout
            .record(&self.file, &entry)
            .map_err(Error::io(&self.path))?
            .ok_or_else(|| damaged("it lies outside the file"))?;
        let record = Record::decode(&bytes).ok_or_else(|| damaged("it does not decode"))?;
        Ok((Origin { path: Path::new(name).into(), line: entry.line }, record))
    }
}

/// A hash of everything that decides which lists there are.
fn key(
    files: &[SourceFile],
    preparation: &Preparation,
    encoder: &dyn EncodeConversation,
) -> Result<[u8; 32]> {
    let mut hash = Sha256::new();
    let mut add = |part: &[u8]| {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    };
    add(concat!("rmtrain ", env!("CARGO_PKG_VERSION")).as_bytes());
    add(RULES);
    for file in files {
        let metadata = fs::metadata(&file.path).map_err(Error::io(&file.name))?;
        let changed = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        add(file.path.as_os_str().as_encoded_bytes());
        add(file.name.as_os_str().as_encoded_bytes());
        add(&metadata.len().to_le_bytes());
        add(&changed.map_or(0, |time| time.as_nanos()).to_le_bytes());
    }
    add(format!("{preparation:?}").as_bytes());
    add(encoder.fingerprint().as_bytes());
    add(format!("{:?}", encoder.bos_token_id()).as_bytes());
    Ok(hash.finalize().into())
}

/// Keeps a second process from building in the same folder. The lock goes with the file handle, so with the process.
fn lock(folder: &Path) -> Result<File> {
    let path = folder.join("pairs.lock");
    let file =
        File::options().create(true).write(true).truncate(false).open(&path).map_err(Error::io(&path))?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => {
            let reason = "another process is preparing data in this folder, expected one run a folder".into();
            Err(Error::Data { path: folder.to_path_buf(), reason })
        }
        // Some network file systems have no locks; without one, two builds at once are found by the checksum.
        Err(TryLockError::Error(_)) | Ok(()) => Ok(file),
    }
}
