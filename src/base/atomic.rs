//! Files and folders that are either the old one or the new one, whatever happens in between.

use super::{Error, Result};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::path::Path;

/// Writes `path` through a temporary neighbour: write, fsync, rename, fsync the folder.
///
/// # Errors
/// [`Error::Io`] with the path; the old file, if any, is untouched then.
pub fn write(path: &Path, fill: impl FnOnce(&mut BufWriter<&File>) -> std::io::Result<()>) -> Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let temporary =
        tempfile::Builder::new().prefix(".tmp-").tempfile_in(folder).map_err(Error::io(folder))?;
    let mut out = BufWriter::with_capacity(1 << 20, temporary.as_file());
    fill(&mut out).and_then(|()| out.flush()).map_err(Error::io(path))?;
    drop(out);
    temporary.as_file().sync_all().map_err(Error::io(path))?;
    // A temporary file is private to its owner; what it becomes is an ordinary file.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::Permissions::from_mode(0o644);
        temporary.as_file().set_permissions(mode).map_err(Error::io(path))?;
    }
    temporary.persist(path).map_err(|e| Error::Io { path: path.to_path_buf(), source: e.error })?;
    sync_folder(folder)
}

/// [`write`] for bytes that are already in memory.
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    write(path, |out| out.write_all(bytes))
}

/// Fills a new folder beside `path` and gives it that name once it is complete.
///
/// What stood at `path` is replaced as a whole; whether it may be is the caller's to decide. Between the two renames of
/// a replacement a kill leaves the old folder under a `.tmp-` name.
///
/// # Errors
/// What `fill` returned, or [`Error::Io`]; `path` is untouched then, or the message says where what it held is now.
pub fn write_folder<T>(path: &Path, fill: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(Error::io(parent))?;
    let temporary = || tempfile::Builder::new().prefix(".tmp-").tempdir_in(parent).map_err(Error::io(parent));
    let new = temporary()?;
    // A temporary folder is private to its owner; what it becomes is an ordinary folder.
    let content = new.path().join("new");
    fs::create_dir(&content).map_err(Error::io(&content))?;
    let value = fill(&content)?;
    sync_folder(&content)?;
    let old = temporary()?;
    let aside = old.path().join("old");
    let occupied = path.symlink_metadata().is_ok();
    if occupied {
        fs::rename(path, &aside).map_err(Error::io(path))?;
    }
    if let Err(error) = fs::rename(&content, path) {
        return Err(if occupied { put_back(old, &aside, path, error) } else { Error::io(path)(error) });
    }
    sync_folder(parent)?;
    Ok(value)
}

/// Gives what was set aside in the folder `old` its name back after `error`, or else keeps it where it is: `old` would
/// take it along when it goes.
fn put_back(old: tempfile::TempDir, aside: &Path, path: &Path, error: std::io::Error) -> Error {
    let Err(second) = fs::rename(aside, path) else { return Error::io(path)(error) };
    // The path stays the same.
    let _ = old.keep();
    let reason = format!(
        "{error}; and what stood there could not be put back ({second}): it is in {}, move it from there",
        aside.display()
    );
    Error::io(path)(std::io::Error::new(error.kind(), reason))
}

/// Whether something other than an empty folder stands at `path`.
///
/// # Errors
/// [`Error::Io`] where that cannot be read.
pub fn is_occupied(path: &Path) -> Result<bool> {
    match fs::read_dir(path) {
        Ok(mut entries) => Ok(entries.next().is_some()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(path.symlink_metadata().is_ok()),
        Err(e) => Err(Error::io(path)(e)),
    }
}

/// SHA-256 of a file's bytes, in lower-case hexadecimal.
///
/// # Errors
/// [`Error::Io`] with the path.
pub fn sha256(path: &Path) -> Result<String> {
    let mut file = File::open(path).map_err(Error::io(path))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hexadecimal(&hash.finalize())),
            Ok(n) => hash.update(&buffer[..n]),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Error::io(path)(e)),
        }
    }
}

/// SHA-256 of bytes that are already in memory, in lower-case hexadecimal.
pub fn sha256_of(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Makes renames inside `folder` durable.
pub fn sync_folder(folder: &Path) -> Result<()> {
    #[cfg(unix)]
    File::open(folder).and_then(|f| f.sync_all()).map_err(Error::io(folder))?;
    #[cfg(not(unix))]
    let _ = folder;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_replaced_whole_or_not_at_all() {
        let root = tempfile::tempdir().expect("a folder");
        let path = root.path().join("a/b");
        write_folder(&path, |new| write_bytes(&new.join("one"), b"1")).expect("written");
        let failed = write_folder(&path, |new| -> Result<()> {
            write_bytes(&new.join("two"), b"2")?;
            Err(Error::Usage("no".into()))
        });
        assert!(failed.is_err() && path.join("one").exists() && !path.join("two").exists());
        write_folder(&path, |new| write_bytes(&new.join("two"), b"2")).expect("replaced");
        assert!(!path.join("one").exists() && path.join("two").exists());
        let left: Vec<_> = fs::read_dir(root.path().join("a")).expect("reads").collect();
        assert_eq!(left.len(), 1, "no temporary folder stays behind");
    }

    #[test]
    fn what_cannot_be_put_back_is_kept_and_named() {
        let root = tempfile::tempdir().expect("a folder");
        let set_aside = || {
            let old = tempfile::Builder::new().prefix(".tmp-").tempdir_in(root.path()).expect("a folder");
            let aside = old.path().join("old");
            write_bytes(&aside.join("precious"), b"1").expect("written");
            (old, aside)
        };
        let cause = || std::io::Error::from(std::io::ErrorKind::StorageFull);
        let (old, aside) = set_aside();
        let error = put_back(old, &aside, &root.path().join("back"), cause());
        assert!(root.path().join("back/precious").exists() && !aside.exists());
        assert!(!error.to_string().contains("put back"), "{error}");

        let (old, aside) = set_aside();
        let error = put_back(old, &aside, &root.path().join("gone/back"), cause());
        assert!(aside.join("precious").exists(), "it went with its temporary folder");
        let text = error.to_string();
        assert!(text.contains(&aside.display().to_string()) && text.contains("move it from there"), "{text}");
        assert!(
            matches!(error, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull)
        );
    }

    #[test]
    fn occupation_and_hash() {
        let root = tempfile::tempdir().expect("a folder");
        assert!(!is_occupied(root.path()).expect("reads"));
        assert!(!is_occupied(&root.path().join("absent")).expect("reads"));
        write_bytes(&root.path().join("x"), b"abc").expect("written");
        assert!(is_occupied(root.path()).expect("reads"));
        assert!(is_occupied(&root.path().join("x")).is_err(), "a file is no folder");
        let hash = sha256(&root.path().join("x")).expect("reads");
        assert!(hash.starts_with("ba7816bf8f01cfea") && hash.len() == 64, "{hash}");
    }
}
