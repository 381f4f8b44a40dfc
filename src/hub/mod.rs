//! The Hugging Face hub: a model or data file by name, downloaded once into the shared cache.
//!
//! The cache is the one of `huggingface_hub` (blobs, snapshots, refs, locks), so files that Python fetched are
//! found and the other way round. The hf-hub crate answers what a repository holds. The transfer is our own:
//! hf-hub 1.0 starts a broken download again from byte 0 and checks neither its status nor its length, see
//! [`transfer`]. What a model folder contains is none of this module's business.

mod cache;
mod failure;
mod settings;
mod source;
mod transfer;

pub use settings::HubSettings;

use crate::base::{Error, Result};
use cache::RepoCache;
use failure::Subject;
use hf_hub::{HFClient, HFClientSync};
use source::{Source, classify};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use transfer::{RemoteFile, Transfer};

/// The branch that is meant when no revision is given.
const DEFAULT_REVISION: &str = "main";
const CONFIG: &str = "config.json";
const SINGLE_WEIGHTS: &str = "model.safetensors";
const WEIGHTS_INDEX: &str = "model.safetensors.index.json";

/// Small files of a model that are fetched when they exist.
const TOKENIZER_FILES: &[&str] = &[
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
];
const GENERATION_CONFIG: &str = "generation_config.json";
/// The heads of an ensemble, beside the weights.
pub const ENSEMBLE_HEADS: &str = "heads.safetensors";
/// The key of config.json that counts them. Without the file such a model is another one, its mean head alone; and other
/// tools, which fill the same cache, do not know that it is part of the model.
pub const ENSEMBLE_COUNT_KEY: &str = "rmtrain_heads";

/// The folder of a model: `source` itself where it is a folder, else the hub model `OWNER/NAME`, downloaded.
///
/// Fetched are config.json, the tokenizer's files, chat templates, generation_config.json, the safetensors and the
/// heads of an ensemble, never pickled weights. Settings come from the environment, see [`HubSettings::from_env`].
///
/// # Errors
/// [`Error::Usage`] when `source` is neither a folder nor a possible id; [`Error::Hub`] when the hub does not have
/// it or refuses, with what to do; [`Error::Interrupted`] after Ctrl-C (what was received stays for the next try).
pub fn resolve_model(source: &str, revision: Option<&str>) -> Result<PathBuf> {
    HubSettings::from_env()?.resolve_model(source, revision)
}

/// The folder of a tokenizer: as [`resolve_model`], without the weights.
///
/// # Errors
/// As [`resolve_model`].
pub fn resolve_tokenizer(source: &str, revision: Option<&str>) -> Result<PathBuf> {
    HubSettings::from_env()?.resolve_tokenizer(source, revision)
}

/// One file of the hub dataset `OWNER/NAME` (`hf://datasets/OWNER/NAME/FILE`), downloaded.
///
/// # Errors
/// As [`resolve_model`].
pub fn fetch_dataset_file(repo: &str, revision: Option<&str>, file: &str) -> Result<PathBuf> {
    HubSettings::from_env()?.fetch_dataset_file(repo, revision, file)
}

#[derive(Clone, Copy, PartialEq)]
enum Wanted {
    Model,
    Tokenizer,
}

impl HubSettings {
    /// [`resolve_model`] with explicit settings.
    ///
    /// # Errors
    /// As [`resolve_model`].
    pub fn resolve_model(&self, source: &str, revision: Option<&str>) -> Result<PathBuf> {
        self.resolve(source, revision, Wanted::Model)
    }

    /// [`resolve_tokenizer`] with explicit settings.
    ///
    /// # Errors
    /// As [`resolve_model`].
    pub fn resolve_tokenizer(&self, source: &str, revision: Option<&str>) -> Result<PathBuf> {
        self.resolve(source, revision, Wanted::Tokenizer)
    }

    /// [`fetch_dataset_file`] with explicit settings.
    ///
    /// # Errors
    /// As [`resolve_model`].
    pub fn fetch_dataset_file(&self, repo: &str, revision: Option<&str>, file: &str) -> Result<PathBuf> {
        if !source::is_repo_id(repo) {
            return Err(Error::Usage(format!("{repo}: found no dataset id, expected OWNER/NAME")));
        }
        source::check_file_name(file).map_err(|reason| Error::Usage(format!("{file}: {reason}")))?;
        let repo = Repo::new(self, Kind::Dataset, repo, revision)?;
        if let Some(found) = repo.pinned_snapshot().map(|s| s.join(file)).filter(|path| path.is_file()) {
            return Ok(found);
        }
        let from_cache = || match repo.cached_snapshot().map(|snapshot| snapshot.join(file)) {
            Some(found) if found.is_file() => Ok(found),
            _ => Err(failure::not_cached(&repo.subject(), file, &self.cache)),
        };
        if self.offline {
            return from_cache();
        }
        let online = || -> Result<PathBuf, HubFailure> {
            let listing = repo.list()?;
            if !listing.files.contains(file) {
                return Err(failure::no_such_file(&repo.subject(), file).into());
            }
            let transfer = Transfer::new(self)?;
            repo.fetch(&transfer, &listing.commit, file)
        };
        fall_back(online(), &repo, from_cache)
    }

    fn resolve(&self, source: &str, revision: Option<&str>, wanted: Wanted) -> Result<PathBuf> {
        let id = match classify(source)? {
            Source::Folder(folder) => {
                if let Some(revision) = revision {
                    return Err(Error::Usage(format!(
                        "revision {revision:?} was given, but {source} is a folder; revisions are for hub ids"
                    )));
                }
                return Ok(folder);
            }
            Source::Hub(id) => id,
        };
        let repo = Repo::new(self, Kind::Model, &id, revision)?;
        // A commit never changes: once complete it needs no network.
        let complete = |snapshot: &PathBuf| {
            cache::missing_file(snapshot, wanted)
                .or_else(|| cache::missing_file(snapshot, Wanted::Tokenizer))
                .is_none()
        };
        if let Some(snapshot) = repo.pinned_snapshot().filter(complete) {
            return Ok(snapshot);
        }
        let from_cache = || {
            let snapshot = repo.cached_snapshot();
            match snapshot.as_deref().map(|snapshot| cache::missing_file(snapshot, wanted)) {
                Some(None) => Ok(snapshot.unwrap_or_default()),
                Some(Some(missing)) => Err(failure::not_cached(&repo.subject(), &missing, &self.cache)),
                None => Err(failure::not_cached(&repo.subject(), CONFIG, &self.cache)),
            }
        };
        if self.offline {
            return from_cache();
        }
        fall_back(repo.download(wanted), &repo, from_cache)
    }
}

/// A hub that cannot be reached is no obstacle when the cache has it all; any other failure is.
fn fall_back(
    online: Result<PathBuf, HubFailure>,
    repo: &Repo,
    from_cache: impl FnOnce() -> Result<PathBuf>,
) -> Result<PathBuf> {
    match online {
        Ok(path) => Ok(path),
        Err(HubFailure { error, unreachable: false }) => Err(error),
        Err(HubFailure { error, unreachable: true }) => match from_cache() {
            Ok(path) => {
                eprintln!("hint: {error}; using the cached copy of {}", repo.id);
                Ok(path)
            }
            Err(_) => Err(error),
        },
    }
}

/// An error, and whether it only says that the hub could not be reached.
struct HubFailure {
    error: Error,
    unreachable: bool,
}

impl From<Error> for HubFailure {
    fn from(error: Error) -> HubFailure {
        HubFailure { error, unreachable: false }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Model,
    Dataset,
}

impl Kind {
    /// In URLs of the API and in the cache.
    fn plural(self) -> &'static str {
        match self {
            Kind::Model => "models",
            Kind::Dataset => "datasets",
        }
    }
}

/// One repository at one revision.
struct Repo<'s> {
    settings: &'s HubSettings,
    kind: Kind,
    id: String,
    revision: String,
    cache: RepoCache,
}

/// What a repository holds at the commit that a revision stands for.
struct Listing {
    commit: String,
    files: BTreeSet<String>,
}

impl<'s> Repo<'s> {
    fn new(settings: &'s HubSettings, kind: Kind, id: &str, revision: Option<&str>) -> Result<Repo<'s>> {
        let revision = revision.unwrap_or(DEFAULT_REVISION);
        // A revision becomes a path in the cache.
        source::check_file_name(revision)
            .map_err(|reason| Error::Usage(format!("revision {revision:?}: {reason}")))?;
        Ok(Repo {
            settings,
            kind,
            id: id.to_owned(),
            revision: revision.to_owned(),
            cache: RepoCache::new(&settings.cache, kind.plural(), id),
        })
    }

    fn subject(&self) -> Subject<'_> {
        Subject {
            id: &self.id,
            revision: &self.revision,
            dataset: self.kind == Kind::Dataset,
            endpoint: &self.settings.endpoint,
            has_token: self.settings.token.is_some(),
        }
    }

    /// The snapshot of a revision that is a commit, if the cache has one.
    fn pinned_snapshot(&self) -> Option<PathBuf> {
        cache::is_commit(&self.revision).then(|| self.cache.snapshot(&self.revision)).filter(|s| s.is_dir())
    }

    /// The snapshot that the revision stood for when it was last seen.
    fn cached_snapshot(&self) -> Option<PathBuf> {
        let commit = match cache::is_commit(&self.revision) {
            true => self.revision.clone(),
            false => self.cache.read_ref(&self.revision)?,
        };
        Some(self.cache.snapshot(&commit)).filter(|snapshot| snapshot.is_dir())
    }

    fn list(&self) -> Result<Listing, HubFailure> {
        let (owner, name) = hf_hub::split_id(&self.id);
        let failed = |error| failure::from_hf(&self.subject(), error);
        let mut builder = HFClient::builder()
            .endpoint(&self.settings.endpoint)
            .cache_dir(&self.settings.cache)
            .retry_max_attempts(2);
        if let Some(token) = &self.settings.token {
            builder = builder.token(token);
        }
        let client = builder.build().and_then(HFClientSync::from_inner).map_err(failed)?;
        let (sha, siblings) = match self.kind {
            Kind::Model => {
                let info =
                    client.model(owner, name).info().revision(&self.revision).send().map_err(failed)?;
                (info.sha, info.siblings)
            }
            Kind::Dataset => {
                let info =
                    client.dataset(owner, name).info().revision(&self.revision).send().map_err(failed)?;
                (info.sha, info.siblings)
            }
        };
        let Some(commit) = sha.filter(|sha| cache::is_commit(sha)) else {
            return Err(
                failure::malformed(&self.subject(), "no commit in the repository's description").into()
            );
        };
        let files = siblings.unwrap_or_default().into_iter().map(|sibling| sibling.rfilename);
        // Names become paths; one that would leave the snapshot is not ours to fetch.
        let files = files.filter(|name| source::check_file_name(name).is_ok()).collect();
        Ok(Listing { commit, files })
    }

    fn download(&self, wanted: Wanted) -> Result<PathBuf, HubFailure> {
        let listing = self.list()?;
        let has = |file: &str| listing.files.contains(file);
        let transfer = Transfer::new(self.settings)?;
        let fetch = |file: &str| self.fetch(&transfer, &listing.commit, file);
        if wanted == Wanted::Model && !has(CONFIG) {
            return Err(failure::no_such_file(&self.subject(), CONFIG).into());
        }
        // The small files first: a refusal or a wrong model shows before gigabytes have moved.
        for file in [CONFIG, GENERATION_CONFIG].iter().chain(TOKENIZER_FILES) {
            if has(file) {
                fetch(file)?;
            }
        }
        for file in &listing.files {
            if file.starts_with("additional_chat_templates/") && file.ends_with(".jinja") {
                fetch(file)?;
            }
        }
        if wanted == Wanted::Model {
            // Before the weights: with those, and without a count in config.json, a folder counts as complete.
            if has(ENSEMBLE_HEADS) {
                fetch(ENSEMBLE_HEADS)?;
            }
            if has(SINGLE_WEIGHTS) {
                fetch(SINGLE_WEIGHTS)?;
            } else if has(WEIGHTS_INDEX) {
                for shard in cache::shards_of(&fetch(WEIGHTS_INDEX)?)? {
                    if !has(&shard) {
                        return Err(failure::no_such_file(&self.subject(), &shard).into());
                    }
                    fetch(&shard)?;
                }
            } else {
                return Err(failure::no_safetensors(&self.subject(), &listing.files).into());
            }
        }
        self.cache.write_ref(&self.revision, &listing.commit)?;
        Ok(self.cache.snapshot(&listing.commit))
    }

    /// One file at a commit, from the cache or the hub.
    fn fetch(&self, transfer: &Transfer, commit: &str, file: &str) -> Result<PathBuf, HubFailure> {
        let path = self.cache.snapshot(commit).join(file);
        if path.is_file() {
            return Ok(path);
        }
        let remote = RemoteFile { subject: self.subject(), commit, file };
        let blob = transfer.fetch(&remote, &self.cache)?;
        self.cache.link(&blob, &path)?;
        if self.kind == Kind::Dataset {
            self.cache.write_ref(&self.revision, commit)?;
        }
        Ok(path)
    }
}

/// Where a file of this repository is, for messages.
fn file_url(endpoint: &str, subject: &Subject, commit: &str, file: &str) -> String {
    let prefix = if subject.dataset { "datasets/" } else { "" };
    let path: Vec<String> = file.split('/').map(source::percent_encode).collect();
    format!("{endpoint}/{prefix}{}/resolve/{commit}/{}", subject.id, path.join("/"))
}

/// The folder of a file inside a snapshot, created.
fn create_parent(path: &Path) -> Result<()> {
    match path.parent() {
        Some(parent) => std::fs::create_dir_all(parent).map_err(Error::io(parent)),
        None => Ok(()),
    }
}
