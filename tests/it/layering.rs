//! The floors: a module imports from its own floor and the ones below, never from above.

use std::fs;
use std::path::{Path, PathBuf};

/// Top to bottom, as the crate's documentation lists them.
const FLOORS: [&str; 15] = [
    "cli",
    "commands",
    "config",
    "trainer",
    "report",
    "eval",
    "checkpoint",
    "objective",
    "diagnostics",
    "data",
    "model",
    "optim",
    "kernels",
    "hub",
    "base",
];

/// Neighbours that must not know each other although one stands above the other in the list.
const STRANGERS: [(&str, &str); 7] = [
    ("objective", "model"),
    ("diagnostics", "model"),
    ("data", "model"),
    // Reports read files by their published names.
    ("report", "eval"),
    ("report", "checkpoint"),
    ("report", "data"),
    ("report", "model"),
];

/// What the crate's root re-exports from the lowest floor.
const ROOT_NAMES: [&str; 2] = ["Error", "Result"];

fn source_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            source_files(&path, files);
        } else if path.extension().is_some_and(|end| end == "rs") {
            files.push(path);
        }
    }
}

/// The code of a file without its comments.
fn code_of(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// The first names of every path that starts with `crate::`, groups in braces included.
fn imported(code: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (at, found) in code.match_indices("crate::") {
        // `$crate::` is a path too; `xcrate::` is not ours.
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = &code[at + found.len()..];
        let name = |text: &str| -> String {
            text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
        };
        let Some(group) = rest.strip_prefix('{') else {
            names.push(name(rest));
            continue;
        };
        let mut depth = 1;
        let mut start = 0;
        for (i, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 0 || (depth == 1 && c == ',') {
                names.push(name(&group[start..i]));
                start = i + 1;
            }
            if depth == 0 {
                break;
            }
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

/// What is wrong with one file's imports.
fn violations(floor: &str, code: &str) -> Vec<String> {
    let height = |name: &str| FLOORS.iter().position(|floor| *floor == name);
    let own = height(floor).unwrap_or_else(|| panic!("{floor} is no floor; add it to the list"));
    let mut wrong = Vec::new();
    for name in imported(code) {
        if ROOT_NAMES.contains(&name.as_str()) || name == floor {
            continue;
        }
        match height(&name) {
            Some(other) if other < own => wrong.push(format!("{floor} imports {name}, which is above it")),
            Some(_) if STRANGERS.contains(&(floor, &name)) => {
                wrong.push(format!("{floor} imports {name}, its sibling"));
            }
            // Names that are no module are macros and items of the root, which has none beyond those above.
            Some(_) => {}
            None => wrong.push(format!("{floor} imports crate::{name}, which is no floor")),
        }
    }
    wrong
}

#[test]
fn imports_go_down_only() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    source_files(&source, &mut files);
    let mut wrong = Vec::new();
    let mut checked = 0;
    for path in files {
        let relative = path.strip_prefix(&source).unwrap();
        let first = relative.components().next().unwrap().as_os_str().to_str().unwrap();
        if matches!(first, "lib.rs" | "main.rs") {
            continue;
        }
        let floor = first.trim_end_matches(".rs");
        let code = code_of(&fs::read_to_string(&path).unwrap());
        wrong.extend(
            violations(floor, &code).into_iter().map(|text| format!("{}: {text}", relative.display())),
        );
        checked += 1;
    }
    assert!(checked > FLOORS.len(), "only {checked} files were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_crates_documentation_lists_the_same_floors() {
    let lib = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    let docs: String = lib.lines().filter_map(|line| line.strip_prefix("//!")).collect();
    let (_, list) = docs.split_once("floors, top to bottom").expect("a list of floors");
    let (list, _) = list.split_once(". ").expect("its end");
    let named: Vec<&str> = list.split('`').skip(1).step_by(2).collect();
    assert_eq!(named, FLOORS);
}

#[test]
fn an_import_from_above_is_seen_however_it_is_written() {
    for code in [
        "use crate::trainer::fit;",
        "use crate::{base::Error, trainer};",
        "use crate::{\n    base::{self, Error},\n    trainer::{self, fit},\n};",
        "fn f() { crate::trainer::fit::run() }",
        "pub(in crate::trainer) fn f() {}",
    ] {
        assert_eq!(violations("data", code), ["data imports trainer, which is above it"], "{code}");
    }
    for code in ["use crate::hub::fetch;", "use crate::{Error, Result, data::row};", "// crate::trainer"] {
        assert!(violations("data", &code_of(code)).is_empty(), "{code}");
    }
    assert_eq!(violations("data", "use crate::model::Config;"), ["data imports model, its sibling"]);
    assert_eq!(violations("data", "use crate::nowhere::X;").len(), 1);
}
