//! Malformed input through the built binary: each exits 2 or 3, names the place, never panics, and leaves what was
//! in the output folder alone. One table a kind of input; a line of a table is one way to be wrong.

mod configs;
mod models;
mod rows;
mod training;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A folder to break things in, with an output folder that must stay as it is.
struct Bench {
    folder: tempfile::TempDir,
}

const KEPT: &[u8] = b"{\"kept\": true}\n";

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("out")).unwrap();
        fs::write(folder.path().join("out/kept.jsonl"), KEPT).unwrap();
        Self { folder }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.at(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// Runs rmtrain in the folder and requires a refusal whose message holds every needle.
    fn refused(&self, case: &str, arguments: &[&str], stdin: &[u8], needles: &[&str]) {
        let before = listing(&self.at("out"));
        let mut child = Command::new(env!("CARGO_BIN_EXE_rmtrain"))
            .args(arguments)
            .current_dir(self.folder.path())
            .env("HF_HUB_OFFLINE", "1")
            .env("HF_HOME", self.at("hub"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A child that refuses its arguments never reads: a broken pipe here is no failure of the test.
        let _ = child.stdin.take().unwrap().write_all(stdin);
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(matches!(output.status.code(), Some(2 | 3)), "{case}: {:?}\n{stderr}", output.status);
        assert!(!stderr.contains("panicked"), "{case}: {stderr}");
        assert!(stderr.contains("error: "), "{case}: {stderr}");
        for needle in needles {
            assert!(stderr.contains(needle), "{case}: no {needle:?} in\n{stderr}");
        }
        assert_eq!(listing(&self.at("out")), before, "{case}: the output folder changed");
    }
}

/// Every file below a folder with its bytes, but for a run's `data/`, which is a cache.
fn listing(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.ends_with("run/data") {
            continue;
        }
        if path.is_dir() {
            found.extend(listing(&path));
        } else {
            let bytes = fs::read(&path).unwrap();
            found.insert(path, bytes);
        }
    }
    found
}
