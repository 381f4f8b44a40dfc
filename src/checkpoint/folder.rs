//! Folders that become visible whole, with checksums.

use crate::base::{Error, Result, atomic};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;

const CHECKSUMS: &str = "checksums.json";
const TEMPORARY: &str = ".tmp-";

/// Fills a temporary neighbour of `path`, adds checksums, makes it durable, and renames it to `path`.
///
/// A kill at any moment leaves either no `path` or a whole one, beside a temporary that
/// [`remove_temporaries`] clears away. An existing `path` is replaced, with nothing there between two renames.
pub fn publish(path: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let parent = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(Error::io(parent))?;
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("folder");
    let temporary = parent.join(format!("{TEMPORARY}{name}"));
    remove(&temporary)?;
    fs::create_dir(&temporary).map_err(Error::io(&temporary))?;
    fill(&temporary)?;
    let mut sums = BTreeMap::new();
    for name in file_names(&temporary)? {
        let file = temporary.join(&name);
        sums.insert(name, atomic::sha256(&file)?);
        File::open(&file).and_then(|f| f.sync_all()).map_err(Error::io(&file))?;
    }
    let text = serde_json::to_string_pretty(&sums).map_err(|e| Error::checkpoint(path, e.to_string()))?;
    atomic::write_bytes(&temporary.join(CHECKSUMS), text.as_bytes())?;
    atomic::sync_folder(&temporary)?;
    // Out of the way first: removing a large folder takes a while in which neither the old nor the new one is there.
    let replaced = parent.join(format!("{TEMPORARY}replaced-{name}"));
    remove(&replaced)?;
    absent_is_fine(fs::rename(path, &replaced), path)?;
    fs::rename(&temporary, path).map_err(Error::io(path))?;
    atomic::sync_folder(parent)?;
    remove(&replaced)
}

/// Checks that every file of a published folder is there and unchanged.
///
/// # Errors
/// [`Error::Checkpoint`] naming the file.
pub fn verify(folder: &Path) -> Result<()> {
    let list = folder.join(CHECKSUMS);
    let text = fs::read_to_string(&list)
        .map_err(|e| Error::checkpoint(&list, format!("cannot be read ({e}); the folder is not whole")))?;
    let sums: BTreeMap<String, String> = serde_json::from_str(&text)
        .map_err(|e| Error::checkpoint(&list, format!("is not a list of checksums: {e}")))?;
    for (name, expected) in sums {
        let file = folder.join(&name);
        let is_plain = Path::new(&name).components().count() == 1;
        let found = is_plain.then(|| atomic::sha256(&file)).transpose().ok().flatten();
        if found.as_ref() != Some(&expected) {
            let found = found.unwrap_or_else(|| "no readable file".into());
            return Err(Error::checkpoint(
                file,
                format!("is damaged: expected SHA-256 {expected}, found {found}"),
            ));
        }
    }
    Ok(())
}

/// Removes temporaries that a killed process left in `parent`.
pub fn remove_temporaries(parent: &Path) -> Result<()> {
    if parent.is_dir() {
        for entry in fs::read_dir(parent).map_err(Error::io(parent))? {
            let entry = entry.map_err(Error::io(parent))?;
            if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
                remove(&entry.path())?;
            }
        }
    }
    Ok(())
}

/// Removes a folder if it is there. Its checksums go first, so that half a removal is no checkpoint.
pub(super) fn remove(folder: &Path) -> Result<()> {
    if folder.is_file() {
        return absent_is_fine(fs::remove_file(folder), folder);
    }
    let list = folder.join(CHECKSUMS);
    absent_is_fine(fs::remove_file(&list), &list)?;
    absent_is_fine(fs::remove_dir_all(folder), folder)
}

fn absent_is_fine(result: std::io::Result<()>, path: &Path) -> Result<()> {
    match result {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(path)(e)),
        _ => Ok(()),
    }
}

fn file_names(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
        let entry = entry.map_err(Error::io(folder))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}
