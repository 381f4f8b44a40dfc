//! Imports go down only: every `crate::` path in `src/` is held against the floors that `lib.rs` lists.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Siblings: they stand on the same ground and may not lean on each other, whatever their order in the list.
const SIBLINGS: &[(&str, &str)] = &[("data", "model"), ("data", "optim")];

/// The floors from top to bottom, as `lib.rs` documents them.
fn floors() -> Vec<String> {
    let lib = fs::read_to_string(source_root().join("lib.rs")).unwrap();
    let docs: String = lib.lines().filter_map(|line| line.strip_prefix("//!")).collect();
    let (_, after) = docs.split_once("The floors, top to bottom").expect("lib.rs lists the floors");
    let (_, after) = after.split_once(':').unwrap();
    let (list, _) = after.split_once('.').unwrap();
    list.split('`').skip(1).step_by(2).map(String::from).collect()
}

fn source_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The source without comments and string contents, which may name any module.
fn code_of(text: &str) -> String {
    let mut code = String::new();
    for line in text.lines() {
        let mut inside = false;
        let mut previous = ' ';
        let mut characters = line.chars().peekable();
        while let Some(character) = characters.next() {
            match character {
                '/' if !inside && characters.peek() == Some(&'/') => break,
                '"' if previous != '\\' && previous != '\'' => inside = !inside,
                other if !inside => code.push(other),
                _ => {}
            }
            previous = character;
        }
        code.push('\n');
    }
    code
}

/// The first segments after `crate::`, groups included: `crate::{data, model::Config}` gives both.
fn imported(code: &str) -> Vec<String> {
    let mut modules = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let standalone = !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        if !standalone {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        let name = |text: &str| -> String {
            text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
        };
        match rest.strip_prefix('{') {
            None => modules.push(name(rest)),
            Some(group) => {
                let mut depth = 0;
                modules.push(name(group));
                for (i, character) in group.char_indices() {
                    match character {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => modules.push(name(&group[i + 1..])),
                        _ => {}
                    }
                }
            }
        }
    }
    // Re-exported types at the root come from `base`.
    modules.retain(|module| module.starts_with(|c: char| c.is_ascii_lowercase()));
    modules
}

/// What `floor` may not import, given the order.
fn is_upward(floors: &[String], floor: &str, module: &str) -> bool {
    let level = |name: &str| floors.iter().position(|floor| floor == name);
    match (level(floor), level(module)) {
        (Some(from), Some(to)) => {
            to < from
                || SIBLINGS.iter().any(|(a, b)| (floor, module) == (*a, *b) || (floor, module) == (*b, *a))
        }
        _ => true,
    }
}

#[test]
fn every_module_is_a_floor() {
    let floors = floors();
    let lib = fs::read_to_string(source_root().join("lib.rs")).unwrap();
    let mut declared: Vec<&str> =
        lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    let mut listed: Vec<&str> = floors.iter().map(String::as_str).collect();
    declared.sort_unstable();
    listed.sort_unstable();
    assert_eq!(declared, listed);
}

#[test]
fn imports_go_down_only() {
    let floors = floors();
    let mut upward: BTreeMap<PathBuf, Vec<String>> = BTreeMap::new();
    let mut seen = 0;
    for path in rust_files(&source_root()) {
        let relative = path.strip_prefix(source_root()).unwrap().to_path_buf();
        let first = relative.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
        if first == "lib.rs" || first == "main.rs" {
            continue;
        }
        let floor = first.trim_end_matches(".rs");
        let modules = imported(&code_of(&fs::read_to_string(&path).unwrap()));
        seen += modules.len();
        let wrong: Vec<String> =
            modules.into_iter().filter(|module| is_upward(&floors, floor, module)).collect();
        if !wrong.is_empty() {
            upward.insert(relative, wrong);
        }
    }
    assert!(seen > 100, "only {seen} imports were found: the scan is broken");
    assert!(upward.is_empty(), "imports that go up or sideways: {upward:#?}");
}

#[test]
fn the_scan_sees_through_groups_comments_and_strings() {
    let code = code_of(
        "use crate::{Error, data::{self, row}, model};\n// crate::cli\nlet s = \"crate::eval\";\nfn f(x: crate::hub::X) {}\n",
    );
    assert_eq!(imported(&code), ["data", "model", "hub"]);
    let floors: Vec<String> = ["cli", "data", "model", "base"].map(String::from).to_vec();
    assert!(is_upward(&floors, "model", "cli"));
    assert!(is_upward(&floors, "data", "model"));
    assert!(is_upward(&floors, "model", "unheard_of"));
    assert!(!is_upward(&floors, "data", "base"));
    assert!(!is_upward(&floors, "data", "data"));
}
