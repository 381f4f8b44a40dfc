//! A run's `config.toml`, as far as a report compares it.

use super::run::read_if_there;
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::path::Path;

/// Values by their full keys.
pub type Entries = BTreeMap<String, String>;

/// A configuration.
#[derive(Debug)]
pub struct Configuration {
    /// As it stands in the file.
    pub text: String,
    /// A term of the objective goes by its kind.
    pub entries: Entries,
}

impl Configuration {
    /// # Errors
    /// [`Error::Config`] for a file that is no TOML.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        let Some(text) = read_if_there(path)? else { return Ok(None) };
        let parsed = Self::parse(text);
        parsed.map(Some).map_err(|e| Error::Config { path: path.into(), problems: vec![e.to_string()] })
    }

    pub fn parse(text: String) -> std::result::Result<Self, toml::de::Error> {
        let table: toml::Table = text.parse()?;
        let mut entries = Entries::new();
        flatten("", &toml::Value::Table(table), &mut entries);
        Ok(Self { text, entries })
    }
}

fn flatten(path: &str, value: &toml::Value, entries: &mut Entries) {
    let inner = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match value {
        toml::Value::Table(table) => {
            table.iter().for_each(|(key, value)| flatten(&inner(key), value, entries))
        }
        toml::Value::Array(items) if !items.is_empty() && items.iter().all(toml::Value::is_table) => {
            for (i, item) in items.iter().enumerate() {
                let kind =
                    item.get("kind").and_then(toml::Value::as_str).map_or(i.to_string(), str::to_owned);
                flatten(&inner(&kind), item, entries);
            }
        }
        other => {
            entries.insert(path.to_owned(), other.to_string());
        }
    }
}

/// The keys whose values are not the same in all configurations, each with its value in every one.
pub fn differences(all: &[Entries]) -> Vec<(String, Vec<Option<String>>)> {
    let keys: std::collections::BTreeSet<&String> = all.iter().flat_map(Entries::keys).collect();
    keys.into_iter()
        .map(|key| (key.clone(), all.iter().map(|entries| entries.get(key).cloned()).collect::<Vec<_>>()))
        .filter(|(_, values)| values.windows(2).any(|pair| pair[0] != pair[1]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_found_by_its_key() {
        let read = |text: &str| Configuration::parse(text.into()).unwrap().entries;
        let one = read(
            "[optim]\nlr = 1e-3\n[[objective]]\nkind = \"hinge\"\n[[objective]]\nkind = \"sum-to-zero\"\nlambda = 0.1\n",
        );
        let two = read("[optim]\nlr = 1e-3\n[[objective]]\nkind = \"hinge\"\n");
        let found = differences(&[one.clone(), two]);
        let keys: Vec<&str> = found.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["objective.sum-to-zero.kind", "objective.sum-to-zero.lambda"]);
        assert_eq!(found[1].1, [Some("0.1".into()), None]);
        assert!(differences(&[one.clone(), one]).is_empty());
    }
}
