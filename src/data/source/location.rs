//! What a source string names: a file, a glob, a file of a hub dataset.

use super::{FileRows, open, unfinished};
use crate::base::atomic;
use crate::{Error, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Brings one file of a hub dataset onto this machine.
pub trait HubDatasets {
    /// The local path of `file` of the dataset `repo` (`OWNER/NAME`).
    ///
    /// # Errors
    /// Those of the transfer.
    fn fetch(&self, repo: &str, revision: Option<&str>, file: &str) -> Result<PathBuf>;
}

/// A file of rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// Where its bytes are.
    pub path: PathBuf,
    /// What messages call it: the path, or the hub source.
    pub name: Arc<Path>,
}

impl SourceFile {
    /// A file that is called by its path.
    pub fn local(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        Self { name: path.as_path().into(), path }
    }

    /// SHA-256 of its bytes, in lower-case hexadecimal, for what hashes a file and reads it as well.
    ///
    /// # Errors
    /// [`Error::Data`] for what gives its bytes only once, which would then read as empty; [`Error::Io`].
    pub fn sha256(&self) -> Result<String> {
        if !self.path.metadata().map_err(Error::io(&self.name))?.is_file() {
            let reason = "found a pipe or device, expected a file: its bytes are hashed as well as read, and a pipe \
                          gives them once; write them into a file and name that";
            return Err(Error::Data { path: self.name.to_path_buf(), reason: reason.into() });
        }
        atomic::sha256(&self.path)
    }

    pub(super) fn open(&self) -> Result<FileRows> {
        open::file(&self.path, self.name.clone())
    }
}

/// The files that `sources` name, in the order given; a glob's files in the order of their names.
///
/// A path that exists is that file, whatever signs it has in it. A file that is named twice is read twice.
///
/// # Errors
/// [`Error::Usage`] for a source that is no valid glob or hub source, [`Error::Data`] for a glob without a match, for a
/// folder and for an output that `label` has not finished, [`Error::Io`] for a file that is not there, and the hub's
/// errors.
pub fn resolve(sources: &[String], hub: &dyn HubDatasets) -> Result<Vec<SourceFile>> {
    let mut files = Vec::new();
    for source in sources {
        if let Some(rest) = source.strip_prefix("hf://") {
            let place = HubFile::parse(rest).map_err(|reason| Error::Usage(format!("{source}: {reason}")))?;
            let path = hub.fetch(&place.repo, place.revision.as_deref(), &place.file)?;
            files.push(SourceFile { path, name: Path::new(source).into() });
        } else if Path::new(source).exists() || !source.contains(['*', '?', '[']) {
            files.push(SourceFile::local(source));
        } else {
            files.extend(matches(source)?.into_iter().map(SourceFile::local));
        }
    }
    for file in &files {
        let metadata = file.path.metadata().map_err(Error::io(&file.name))?;
        if metadata.is_dir() {
            let name = file.name.display();
            let reason = format!("found a folder, expected a file of rows or a glob such as {name}/*.jsonl");
            return Err(Error::Data { path: file.name.to_path_buf(), reason });
        }
        unfinished::refuse(file)?;
    }
    Ok(files)
}

fn matches(pattern: &str) -> Result<Vec<PathBuf>> {
    let paths =
        glob::glob(pattern).map_err(|error| Error::Usage(format!("{pattern}: not a glob: {error}")))?;
    let mut files = Vec::new();
    for path in paths {
        let path = path.map_err(|error| {
            let place = error.path().to_path_buf();
            Error::Io { path: place, source: error.into() }
        })?;
        if !path.is_dir() {
            files.push(path);
        }
    }
    if files.is_empty() {
        return Err(Error::Data { path: pattern.into(), reason: "no file matches this glob".into() });
    }
    files.sort();
    Ok(files)
}

#[derive(Debug, PartialEq)]
struct HubFile {
    repo: String,
    revision: Option<String>,
    file: String,
}

impl HubFile {
    /// Reads what follows `hf://`: `datasets/OWNER/NAME/FILE[@REVISION]`, or with the revision after the name, as
    /// the hub's own libraries write it.
    fn parse(rest: &str) -> Result<Self, String> {
        const FORM: &str = "expected hf://datasets/OWNER/NAME/FILE, with @REVISION after NAME or FILE";
        let Some(rest) = rest.strip_prefix("datasets/") else {
            return Err(format!("not a dataset; {FORM}"));
        };
        let (owner, rest) = rest.split_once('/').ok_or(FORM)?;
        let (name, rest) = rest.split_once('/').ok_or(FORM)?;
        let (name, revision, file) = match name.split_once('@') {
            Some((name, "refs")) => {
                // refs/pr/7 and refs/convert/parquet are revisions with slashes in them.
                let mut parts = rest.splitn(3, '/');
                let (Some(kind), Some(which), Some(file)) = (parts.next(), parts.next(), parts.next()) else {
                    return Err(FORM.into());
                };
                (name, Some(format!("refs/{kind}/{which}")), file)
            }
            Some((name, revision)) => (name, Some(revision.to_owned()), rest),
            None => match rest.rsplit_once('@') {
                Some((file, revision)) => (name, Some(revision.to_owned()), file),
                None => (name, None, rest),
            },
        };
        if owner.is_empty() || name.is_empty() || file.is_empty() || revision.as_deref() == Some("") {
            return Err(FORM.into());
        }
        if file.contains(['*', '?']) {
            return Err("a glob in a hub source, expected the name of one file".into());
        }
        Ok(Self { repo: format!("{owner}/{name}"), revision, file: file.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    struct NoHub;

    impl HubDatasets for NoHub {
        fn fetch(&self, repo: &str, revision: Option<&str>, file: &str) -> Result<PathBuf> {
            Err(Error::Hub { what: format!("{repo}|{revision:?}|{file}"), reason: "no network".into() })
        }
    }

    fn strings(sources: &[String]) -> Result<Vec<String>> {
        Ok(resolve(sources, &NoHub)?.iter().map(|f| f.name.display().to_string()).collect())
    }

    #[test]
    fn globs_are_sorted_and_files_keep_their_order() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.jsonl", "a.jsonl", "c[1].jsonl", "z.txt"] {
            fs::write(folder.path().join(name), "{}").unwrap();
        }
        fs::create_dir(folder.path().join("folder.jsonl")).unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        let found = strings(&[at("z.txt"), at("*.jsonl"), at("c[1].jsonl")]).unwrap();
        let expected: Vec<_> =
            ["z.txt", "a.jsonl", "b.jsonl", "c[1].jsonl", "c[1].jsonl"].iter().map(|n| at(n)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_source_that_names_nothing_is_an_error_with_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        let says = |source: String| strings(&[source]).unwrap_err().to_string();
        assert!(says(at("*.parquet")).ends_with("*.parquet: no file matches this glob"));
        assert!(says(at("none.jsonl")).contains("none.jsonl: No such file"));
        assert!(says(at("***a")).contains("not a glob"));
        assert!(says(at("")).contains("found a folder, expected a file of rows or a glob"));
    }

    #[test]
    fn an_output_that_is_not_finished_is_no_source() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gold.jsonl");
        fs::write(&path, "{}\n").unwrap();
        let state = |rows: &str| {
            let text = format!("{{\"format\": \"rmtrain-label\", \"complete_rows\": {rows}}}");
            fs::write(super::super::state_path(&path), text).unwrap();
        };
        state("null");
        for source in [path.display().to_string(), folder.path().join("*.jsonl").display().to_string()] {
            let error = strings(&[source]).unwrap_err().to_string();
            assert!(error.contains("gold.jsonl: found an output that `rmtrain label`"), "{error}");
        }
        state("1");
        assert_eq!(strings(&[path.display().to_string()]).unwrap().len(), 1);
    }

    #[test]
    #[cfg(unix)]
    fn what_gives_its_bytes_once_is_not_hashed() {
        let error = SourceFile::local("/dev/null").sha256().unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(
            error.to_string().starts_with("/dev/null: found a pipe or device, expected a file"),
            "{error}"
        );
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("abc");
        fs::write(&path, "abc").unwrap();
        assert!(SourceFile::local(path).sha256().unwrap().starts_with("ba7816bf8f01cfea"));
    }

    #[test]
    fn hub_sources_name_repo_revision_and_file() {
        let parse = |s: &str| HubFile::parse(s).map(|f| format!("{}|{:?}|{}", f.repo, f.revision, f.file));
        assert_eq!(parse("datasets/o/n/a/b.jsonl").unwrap(), "o/n|None|a/b.jsonl");
        assert_eq!(parse("datasets/o/n/b.jsonl@v1").unwrap(), "o/n|Some(\"v1\")|b.jsonl");
        assert_eq!(parse("datasets/o/n@v1/b.jsonl").unwrap(), "o/n|Some(\"v1\")|b.jsonl");
        assert_eq!(
            parse("datasets/o/n@refs/convert/parquet/d/0.parquet").unwrap(),
            "o/n|Some(\"refs/convert/parquet\")|d/0.parquet"
        );
        assert_eq!(parse("datasets/o/n/f@refs/pr/1").unwrap(), "o/n|Some(\"refs/pr/1\")|f");
        for bad in [
            "",
            "o/n/f",
            "datasets/o/n",
            "datasets//n/f",
            "datasets/o/n/",
            "datasets/o/n/f@",
            "datasets/o/n/*",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        let error = strings(&["hf://datasets/o/n/f.json".into()]).unwrap_err().to_string();
        assert_eq!(error, "hub: o/n|None|f.json: no network");
    }
}
