//! The cache on disk, in `huggingface_hub`'s layout:
//! `KIND--OWNER--NAME/{blobs/ETAG, snapshots/COMMIT/FILE -> blob, refs/REVISION}` and `.locks`.

use super::{
    CONFIG, ENSEMBLE_COUNT_KEY, ENSEMBLE_HEADS, SINGLE_WEIGHTS, WEIGHTS_INDEX, Wanted, create_parent, source,
};
use crate::base::{Error, Result, atomic};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};

/// One repository's folder in the cache.
pub(super) struct RepoCache {
    root: PathBuf,
    folder: String,
}

/// Whether a revision names a commit, which never moves.
pub(super) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit())
}

impl RepoCache {
    pub fn new(root: &Path, plural: &str, id: &str) -> RepoCache {
        RepoCache { root: root.to_path_buf(), folder: format!("{plural}--{}", id.replace('/', "--")) }
    }

    fn repo(&self) -> PathBuf {
        self.root.join(&self.folder)
    }

    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.repo().join("snapshots").join(commit)
    }

    pub fn blob(&self, etag: &str) -> PathBuf {
        self.repo().join("blobs").join(etag)
    }

    /// The commit that a branch or tag stood for when it was last seen.
    pub fn read_ref(&self, revision: &str) -> Option<String> {
        let commit = std::fs::read_to_string(self.repo().join("refs").join(revision)).ok()?;
        Some(commit.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    pub fn write_ref(&self, revision: &str, commit: &str) -> Result<()> {
        if is_commit(revision) || self.read_ref(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        atomic::write_bytes(&self.repo().join("refs").join(revision), commit.as_bytes())
    }

    /// Waits until no other process works on this blob; released on drop.
    pub fn lock(&self, etag: &str) -> Result<File> {
        let path = self.root.join(".locks").join(&self.folder).join(format!("{etag}.lock"));
        create_parent(&path)?;
        let file = File::create(&path).map_err(Error::io(&path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                eprintln!(
                    "hint: waiting for another process that downloads the same file ({})",
                    path.display()
                );
                file.lock().map_err(Error::io(&path))?;
            }
            Err(std::fs::TryLockError::Error(error)) => return Err(Error::io(&path)(error)),
        }
        Ok(file)
    }

    /// Makes `snapshot_file` stand for `blob`.
    pub fn link(&self, blob: &Path, snapshot_file: &Path) -> Result<()> {
        create_parent(snapshot_file)?;
        match std::fs::remove_file(snapshot_file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io(snapshot_file)(error));
            }
            _ => {}
        }
        let linked = link(&self.repo(), blob, snapshot_file);
        match linked {
            // Another process was faster with the same link.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
            other => other.map_err(Error::io(snapshot_file)),
        }
    }
}

/// A relative link, so that the cache can be moved; the blob is `blobs/ETAG` of the same repository.
#[cfg(unix)]
fn link(repo: &Path, blob: &Path, snapshot_file: &Path) -> std::io::Result<()> {
    let depth = snapshot_file.strip_prefix(repo).map_or(0, |path| path.components().count() - 1);
    let inside = blob.strip_prefix(repo).unwrap_or(blob);
    let target: PathBuf = std::iter::repeat_n("..", depth).collect();
    std::os::unix::fs::symlink(target.join(inside), snapshot_file)
}

/// Symbolic links need a privilege there; a second name for the same bytes does not.
#[cfg(not(unix))]
fn link(_repo: &Path, blob: &Path, snapshot_file: &Path) -> std::io::Result<()> {
    std::fs::hard_link(blob, snapshot_file).or_else(|_| std::fs::copy(blob, snapshot_file).map(|_| ()))
}

/// The first file without which a snapshot is of no use; `None` when it is complete.
pub(super) fn missing_file(snapshot: &Path, wanted: Wanted) -> Option<String> {
    let absent = |file: &str| !snapshot.join(file).is_file();
    match wanted {
        Wanted::Tokenizer => absent("tokenizer.json").then(|| "tokenizer.json".to_owned()),
        Wanted::Model if absent(CONFIG) => Some(CONFIG.to_owned()),
        Wanted::Model if absent(ENSEMBLE_HEADS) && counts_heads(&snapshot.join(CONFIG)) => {
            Some(ENSEMBLE_HEADS.to_owned())
        }
        Wanted::Model if !absent(SINGLE_WEIGHTS) => None,
        Wanted::Model if absent(WEIGHTS_INDEX) => Some(SINGLE_WEIGHTS.to_owned()),
        Wanted::Model => match shards_of(&snapshot.join(WEIGHTS_INDEX)) {
            Ok(shards) => shards.into_iter().find(|shard| absent(shard)),
            Err(_) => Some(WEIGHTS_INDEX.to_owned()),
        },
    }
}

/// Whether a config.json says that heads lie beside the weights. One that cannot be read says nothing here; whoever loads
/// the model says what is wrong with it.
fn counts_heads(config: &Path) -> bool {
    let json = std::fs::read(config).ok().and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
    json.and_then(|json| json.get(ENSEMBLE_COUNT_KEY).map(|count| !count.is_null())).unwrap_or(false)
}

/// The files that an index of shards names, each known to stay inside the folder.
pub(super) fn shards_of(index: &Path) -> Result<BTreeSet<String>> {
    let bytes = std::fs::read(index).map_err(Error::io(index))?;
    let json: Value = serde_json::from_slice(&bytes)
        .map_err(|error| Error::model(index, format!("not an index of shards: {error}")))?;
    let Some(map) = json.get("weight_map").and_then(Value::as_object) else {
        return Err(Error::model(index, "weight_map: missing, expected the file of every tensor"));
    };
    map.iter()
        .map(|(tensor, file)| match file.as_str() {
            Some(file) if source::check_file_name(file).is_ok() && file.ends_with(".safetensors") => {
                Ok(file.to_owned())
            }
            _ => Err(Error::model(
                index,
                format!("weight_map.{tensor}: found {file}, expected the name of a .safetensors file"),
            )),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn links_are_relative_and_survive_a_move() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("hub");
        let cache = RepoCache::new(&root, "models", "o/n");
        let blob = cache.blob("etag");
        create_parent(&blob).unwrap();
        std::fs::write(&blob, "x").unwrap();
        for file in ["a.json", "deep/er/b.json"] {
            let path = cache.snapshot(COMMIT).join(file);
            cache.link(&blob, &path).unwrap();
            cache.link(&blob, &path).unwrap();
        }
        let moved = folder.path().join("moved");
        std::fs::rename(&root, &moved).unwrap();
        let snapshot = RepoCache::new(&moved, "models", "o/n").snapshot(COMMIT);
        assert_eq!(std::fs::read_to_string(snapshot.join("deep/er/b.json")).unwrap(), "x");
        assert_eq!(std::fs::read_to_string(snapshot.join("a.json")).unwrap(), "x");
    }

    #[test]
    fn refs_hold_commits_only() {
        let folder = tempfile::tempdir().unwrap();
        let cache = RepoCache::new(folder.path(), "models", "o/n");
        assert_eq!(cache.read_ref("main"), None);
        cache.write_ref("refs/pr/1", COMMIT).unwrap();
        assert_eq!(cache.read_ref("refs/pr/1").as_deref(), Some(COMMIT));
        atomic::write_bytes(&cache.repo().join("refs/main"), b"../../x").unwrap();
        assert_eq!(cache.read_ref("main"), None);
    }

    #[test]
    fn incomplete_snapshots_name_what_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| std::fs::write(folder.path().join(file), text).unwrap();
        let missing = || missing_file(folder.path(), Wanted::Model);
        assert_eq!(missing().as_deref(), Some("config.json"));
        write("config.json", "{}");
        assert_eq!(missing().as_deref(), Some("model.safetensors"));
        write(WEIGHTS_INDEX, r#"{"weight_map":{"a":"1.safetensors","b":"2.safetensors"}}"#);
        write("1.safetensors", "");
        assert_eq!(missing().as_deref(), Some("2.safetensors"));
        write("2.safetensors", "");
        assert_eq!(missing(), None);
        write("config.json", r#"{"rmtrain_heads": 4}"#);
        assert_eq!(missing().as_deref(), Some("heads.safetensors"));
        write("heads.safetensors", "");
        assert_eq!(missing(), None);
        write(WEIGHTS_INDEX, r#"{"weight_map":{"a":"../1.safetensors"}}"#);
        assert_eq!(missing().as_deref(), Some(WEIGHTS_INDEX));
        assert_eq!(missing_file(folder.path(), Wanted::Tokenizer).as_deref(), Some("tokenizer.json"));
    }
}
