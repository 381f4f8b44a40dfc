//! `--set KEY=VALUE`: what a flag says wins over the file, and the last flag over the ones before.

use crate::base::located::{self, Located, Place, Table, Value, quoted};
use crate::base::reader::{Problems, list};

/// Keys of a section of which only one may be given. A flag for one of them removes the file's others, so that
/// `--set train.max_steps=10` works on a file that says `epochs`. An alternative is its deciding key, then the keys
/// that only make sense beside it.
const ALTERNATIVES: &[(&str, &[&[&str]])] = &[
    ("model", &[&["path"], &["random"]]),
    ("data", &[&["train", "eval"], &["splits_dir"], &["sandbox"]]),
    ("optim", &[&["warmup_ratio"], &["warmup_steps"]]),
    ("train", &[&["epochs"], &["max_steps"]]),
];

/// Applies the flags, in order, to the document.
pub(super) fn apply(document: &mut Located, sets: &[String], problems: &Problems) {
    let mut touched: Vec<(String, String)> = Vec::new();
    for flag in sets {
        let place = Place::Flag(flag.clone());
        match apply_one(document, flag, &place, problems) {
            Ok(keys) => touched.extend(keys),
            Err(text) => problems.add(place, text),
        }
    }
    let Value::Table(root) = &mut document.value else { return };
    for (section, alternatives) in ALTERNATIVES {
        let by_flag = |key: &str| touched.iter().any(|(s, k)| s == section && k == key);
        if !alternatives.iter().any(|keys| by_flag(keys[0])) {
            continue;
        }
        let Some(Located { value: Value::Table(table), .. }) = root.get_mut(*section) else { continue };
        for keys in alternatives.iter().filter(|keys| !by_flag(keys[0])) {
            for key in keys.iter().filter(|key| !by_flag(key)) {
                table.remove(*key);
            }
        }
    }
}

/// Applies one flag; returns its section and key.
fn apply_one(
    document: &mut Located,
    flag: &str,
    place: &Place,
    problems: &Problems,
) -> Result<Option<(String, String)>, String> {
    let Some((key, text)) = flag.split_once('=') else {
        return Err("found no `=`, expected KEY=VALUE such as optim.lr=1e-5".into());
    };
    let path: Vec<&str> = key.split('.').map(str::trim).collect();
    if path.iter().any(|part| part.is_empty()) {
        return Err(format!("found the key {}, expected SECTION.KEY such as optim.lr", quoted(key)));
    }
    let value = match value_of(text.trim(), place) {
        Ok(value) => value,
        Err(found) => {
            found.into_iter().for_each(|problem| problems.add(problem.place, problem.text));
            return Ok(None);
        }
    };
    set(document, &path, value, place)?;
    Ok(path.get(1).map(|key| (path[0].to_owned(), (*key).to_owned())))
}

/// TOML where it is TOML, text otherwise: `--set model.path=Qwen/Qwen2.5-3B` needs no quotes within quotes.
fn value_of(text: &str, place: &Place) -> Result<Located, Vec<located::Problem>> {
    match located::parse_value(text, place) {
        Ok(value) => Ok(value),
        // Whoever opens a bracket or a quote means TOML.
        Err(problems) if text.starts_with(['[', '{', '"', '\'']) => Err(problems),
        Err(_) => Ok(Located { place: place.clone(), value: Value::String(text.to_owned()) }),
    }
}

fn set(document: &mut Located, path: &[&str], value: Located, place: &Place) -> Result<(), String> {
    let mut node = document;
    for (depth, part) in path.iter().enumerate() {
        let so_far = path[..depth].join(".");
        node = match &mut node.value {
            Value::Table(table) => table
                .entry((*part).to_owned())
                .or_insert_with(|| Located { place: place.clone(), value: Value::Table(Table::new()) }),
            Value::Array(items) => {
                let at = element(items, part).map_err(|expected| {
                    format!("{so_far}: found the element {}, expected {expected}", quoted(part))
                })?;
                &mut items[at]
            }
            scalar => {
                return Err(format!(
                    "{so_far}: found {scalar}, expected a table that could hold {}",
                    quoted(part)
                ));
            }
        };
    }
    *node = value;
    Ok(())
}

/// The element that `part` names: by its number from 0, or by its `kind`.
fn element(items: &[Located], part: &str) -> Result<usize, String> {
    let kind = |item: &Located| match &item.value {
        Value::Table(table) => match table.get("kind") {
            Some(Located { value: Value::String(kind), .. }) => Some(kind.clone()),
            _ => None,
        },
        _ => None,
    };
    let kinds: Vec<String> = items.iter().filter_map(kind).collect();
    let named: Vec<usize> = (0..items.len()).filter(|i| kind(&items[*i]).as_deref() == Some(part)).collect();
    match (named.as_slice(), part.parse::<usize>()) {
        ([one], _) => Ok(*one),
        ([], Ok(number)) if number < items.len() => Ok(number),
        _ => {
            let kinds: Vec<&str> = kinds.iter().map(String::as_str).collect();
            let numbers = match items.len() {
                0 => "an element, of which there are none".to_owned(),
                1 => "0".to_owned(),
                count => format!("a number from 0 to {}", count - 1),
            };
            if kinds.is_empty() { Err(numbers) } else { Err(format!("{numbers} or {}", list(&kinds))) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::located::parse_document;

    const TEXT: &str = "[[objective]]\nkind = \"bradley-terry\"\n[[objective]]\nkind = \"sum-to-zero\"\n\
                        [train]\nepochs = 1\n[data]\ntrain = [\"a\"]\neval = [\"b\"]\n";

    fn applied(sets: &[&str]) -> (Located, Vec<String>) {
        let mut document = parse_document(TEXT).unwrap();
        let problems = Problems::default();
        let sets: Vec<String> = sets.iter().map(ToString::to_string).collect();
        apply(&mut document, &sets, &problems);
        (document, problems.into_sorted().iter().map(ToString::to_string).collect())
    }

    fn get<'d>(document: &'d Located, path: &[&str]) -> Option<&'d Value> {
        path.iter().try_fold(&document.value, |value, part| match value {
            Value::Table(table) => table.get(*part).map(|located| &located.value),
            Value::Array(items) => items.get(part.parse::<usize>().ok()?).map(|located| &located.value),
            _ => None,
        })
    }

    #[test]
    fn a_term_is_found_by_number_and_by_kind() {
        for flag in ["objective.1.lambda=0.5", "objective.sum-to-zero.lambda=0.5"] {
            let (document, problems) = applied(&[flag]);
            assert_eq!(problems, [""; 0], "{flag}");
            assert_eq!(get(&document, &["objective", "1", "lambda"]), Some(&Value::Float(0.5)));
        }
        let (_, problems) = applied(&["objective.hinge.margin=1", "objective.2.margin=1"]);
        assert_eq!(problems.len(), 2);
        assert!(
            problems[1].contains("a number from 0 to 1 or \"bradley-terry\" or \"sum-to-zero\""),
            "{problems:?}"
        );
    }

    #[test]
    fn bare_words_are_strings_and_the_last_flag_wins() {
        let (document, _) = applied(&["model.path=Qwen/Qwen2.5-3B", "optim.lr=1", "optim.lr=2e-6"]);
        assert_eq!(get(&document, &["model", "path"]), Some(&Value::String("Qwen/Qwen2.5-3B".into())));
        assert_eq!(get(&document, &["optim", "lr"]), Some(&Value::Float(2e-6)));
    }

    #[test]
    fn a_flag_displaces_the_alternatives_of_the_file() {
        let (document, _) = applied(&["train.max_steps=10", "data.splits_dir=d"]);
        assert_eq!(get(&document, &["train", "epochs"]), None);
        assert_eq!(get(&document, &["train", "max_steps"]), Some(&Value::Integer(10)));
        assert_eq!(get(&document, &["data", "train"]), None);
        assert_eq!(get(&document, &["data", "eval"]), None);
        let (document, _) = applied(&["data.eval=c"]);
        assert!(get(&document, &["data", "train"]).is_some());
    }

    #[test]
    fn malformed_flags_are_named() {
        for flag in ["optim.lr", "=1", "optim..lr=1", "train.epochs.x=1", "data.train=[\"a\"", "objective.=1"]
        {
            let (_, problems) = applied(&[flag]);
            assert_eq!(problems.len(), 1, "{flag}: {problems:?}");
            assert!(problems[0].starts_with(&format!("--set {flag}: ")), "{problems:?}");
        }
    }
}
