//! What a user typed: a folder, or a hub id. And names from the hub that become paths.

use crate::base::{Error, Result};
use std::path::{Path, PathBuf};

/// Where a model comes from.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Source {
    Folder(PathBuf),
    Hub(String),
}

/// A folder that exists wins over an id of the same spelling, as in transformers.
pub(super) fn classify(source: &str) -> Result<Source> {
    let path = Path::new(source);
    if path.is_dir() {
        return Ok(Source::Folder(path.to_path_buf()));
    }
    if path.exists() {
        return Err(Error::Usage(format!("{source}: found a file, expected a model's folder or a hub id")));
    }
    if is_repo_id(source) {
        return Ok(Source::Hub(source.to_owned()));
    }
    Err(Error::Usage(format!(
        "{source:?}: there is no such folder, and it is no hub id either (expected OWNER/NAME, for example \
         Qwen/Qwen2.5-3B)"
    )))
}

/// The hub's rules for `OWNER/NAME`.
pub(super) fn is_repo_id(id: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && part.len() <= 96
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
            && !part.starts_with(['-', '.'])
            && !part.ends_with(['-', '.'])
            && !part.contains("--")
            && !part.contains("..")
    };
    id.split_once('/').is_some_and(|(owner, name)| part(owner) && part(name)) && !id.ends_with(".git")
}

/// Whether a relative name stays inside its folder on every system; the error says what was expected.
pub(super) fn check_file_name(name: &str) -> Result<(), &'static str> {
    let plain = |part: &str| {
        !part.is_empty() && part != "." && part != ".." && !part.contains(['\\', ':']) && part.len() <= 255
    };
    let printable = !name.chars().any(char::is_control);
    if printable && name.split('/').all(plain) {
        Ok(())
    } else {
        Err("expected a relative name without .. or empty parts")
    }
}

/// One segment of a URL's path: everything but RFC 3986's unreserved characters is escaped.
pub(super) fn percent_encode(segment: &str) -> String {
    let mut encoded = String::with_capacity(segment.len());
    for byte in segment.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            encoded.push(byte as char);
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_folders_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().to_str().unwrap();
        assert_eq!(classify(folder).unwrap(), Source::Folder(folder.into()));
        assert_eq!(classify("Qwen/Qwen2.5-3B").unwrap(), Source::Hub("Qwen/Qwen2.5-3B".into()));
        for neither in ["", "gpt2", "a/b/c", "/a/b", "./model", "../x/y", "a b/c", "a--b/c", "a/b.git", "é/x"]
        {
            let message = classify(neither).unwrap_err().to_string();
            assert!(message.contains("no such folder, and it is no hub id"), "{neither}: {message}");
        }
    }

    #[test]
    fn a_file_is_not_a_model() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let message = classify(file.path().to_str().unwrap()).unwrap_err().to_string();
        assert!(message.contains("found a file"), "{message}");
    }

    #[test]
    fn names_that_leave_their_folder_are_refused() {
        for name in ["", "/etc/passwd", "../x", "a/../b", "a//b", "a/", ".", "a\\b", "C:x", "a\nb"] {
            assert!(check_file_name(name).is_err(), "{name}");
        }
        for name in ["a.json", "data/train-00000-of-00001.parquet", "refs/pr/1", "..a", "a b#.json"] {
            assert!(check_file_name(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn segments_are_escaped() {
        assert_eq!(percent_encode("a b#%é~.json"), "a%20b%23%25%C3%A9~.json");
    }
}
