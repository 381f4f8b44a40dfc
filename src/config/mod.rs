//! The run's configuration: a TOML file plus `--set`, validated as a whole.
//!
//! Each section's type belongs to the module that it configures, and so does the code that reads and writes it; this
//! module puts them together, and [`overrides`] is the only place where precedence between file and flags lives.

mod overrides;

use crate::base::located::{self, Problem};
use crate::base::reader::{Problems, Section, Words};
use crate::base::toml_writer::TomlWriter;
use crate::data::config::Pairing;
use crate::model::config::SANDBOX_TOKENIZER;
use crate::{Error, Result, data, model, objective, optim, trainer};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// A configuration has a few hundred bytes; whatever is larger was given by mistake.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Everything `fit` needs to know.
#[derive(Debug, Clone, PartialEq)]
pub struct RunConfig {
    pub model: model::Config,
    pub data: data::Config,
    pub objective: Vec<objective::Config>,
    pub optim: optim::Config,
    pub train: trainer::Config,
    pub guard: trainer::guard::Config,
    pub log: trainer::log::Config,
}

impl RunConfig {
    /// Reads a configuration file and the `--set KEY=VALUE` flags given with it.
    ///
    /// Relative paths in the file are left as they are: they count from the current folder, as in Hugging Face's
    /// tools, and not from the file's.
    ///
    /// # Errors
    /// [`Error::Config`] with every problem at once, each with its line or flag; [`Error::Io`] and [`Error::Usage`]
    /// where the file cannot be read.
    pub fn load(path: &Path, sets: &[String]) -> Result<Self> {
        if path.is_dir() {
            let text = format!("--config {}: found a folder, expected a TOML file", path.display());
            return Err(Error::Usage(text));
        }
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(Error::io(path))?;
        file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(Error::io(path))?;
        let refuse = |problem: String| Error::Config { path: path.to_path_buf(), problems: vec![problem] };
        if bytes.len() as u64 > MAX_FILE_BYTES {
            let problem = format!("found more than {MAX_FILE_BYTES} bytes, expected a small TOML file");
            return Err(refuse(problem));
        }
        let text = String::from_utf8(bytes).map_err(|error| {
            let valid = error.utf8_error().valid_up_to();
            let line = error.as_bytes()[..valid].iter().filter(|byte| **byte == b'\n').count() + 1;
            refuse(format!("line {line}: found bytes that are not UTF-8, expected a text file"))
        })?;
        Self::parse(&text, path, sets)
    }

    /// [`RunConfig::load`] for a file that is already in memory; `path` names it in messages.
    ///
    /// # Errors
    /// [`Error::Config`] with every problem at once.
    pub fn parse(text: &str, path: &Path, sets: &[String]) -> Result<Self> {
        let refuse = |problems: Vec<Problem>| Error::Config {
            path: path.to_path_buf(),
            problems: problems.iter().map(ToString::to_string).collect(),
        };
        let mut document = located::parse_document(text).map_err(refuse)?;
        let problems = Problems::default();
        overrides::apply(&mut document, sets, &problems);
        let config = Self::read(Section::root(document, &problems));
        match problems.into_sorted() {
            none if none.is_empty() => Ok(config),
            some => Err(refuse(some)),
        }
    }

    /// Whether a run that was started with `before` may go on with `self`.
    ///
    /// What only says where, in what pieces and how often (device, memory, micro-batches, checkpoints, logs), and what
    /// raises an alarm, may change; everything that results depend on may not, micro-batches included where a term
    /// looks at them.
    ///
    /// # Errors
    /// [`Error::Config`] for the file `path` of `before`, with every line that differs.
    pub fn check_can_resume(&self, before: &Self, path: &Path) -> Result<()> {
        let mut allowed = before.clone();
        allowed.train.device = self.train.device;
        allowed.train.activations = self.train.activations;
        allowed.train.memory_budget_gib = self.train.memory_budget_gib;
        if !before.objective.iter().any(objective::Config::couples_micro_batches) {
            allowed.train.micro_batch_tokens = self.train.micro_batch_tokens;
        }
        allowed.train.save_every = self.train.save_every;
        allowed.train.keep_last = self.train.keep_last;
        allowed.guard = self.guard.clone();
        allowed.log = self.log.clone();
        let (now, then) = (entries(&self.to_toml()), entries(&allowed.to_toml()));
        let keys: BTreeSet<&String> = now.keys().chain(then.keys()).collect();
        let or_nothing = |value: Option<&String>| value.map_or("nothing", String::as_str).to_owned();
        let problems: Vec<String> = keys
            .into_iter()
            .map(|key| (key, now.get(key), then.get(key)))
            .filter(|(_, now, then)| now != then)
            .map(|(key, now, then)| {
                let (found, expected) = (or_nothing(now), or_nothing(then));
                format!("{key}: found {found}, expected {expected} as when the run was started: --resume cannot change it")
            })
            .collect();
        if problems.is_empty() {
            return Ok(());
        }
        Err(Error::Config { path: path.to_path_buf(), problems })
    }

    fn read(mut root: Section<'_>) -> Self {
        // The fallbacks below are never seen: a section that is missing is on record as a problem.
        let model_place = root.place_of("model").cloned();
        let model = root.section("model").map(model::Config::read).unwrap_or_else(|| {
            root.missing("model", "a [model] table");
            model::Config {
                source: model::config::Source::Path(String::new()),
                tokenizer: None,
                revision: None,
                dtype: None,
                head_init_std: model::config::HeadInitStd::InverseSqrtHidden,
                heads: 1,
                head_share: 1.0,
                freeze: model::Freeze::default(),
            }
        });
        let data_place = root.place_of("data").cloned();
        let data = root.section("data").map(data::Config::read).unwrap_or_else(|| {
            root.missing("data", "a [data] table");
            data::Config::default()
        });
        if root.place_of("objective").is_none() {
            root.missing("objective", "at least one [[objective]], `kind = \"bradley-terry\"` say");
        }
        let objective_place = root.place_of("objective").cloned();
        let objective = root.sections("objective").map_or_else(Vec::new, |terms| {
            if terms.is_empty() {
                let text = "found an empty list, expected at least one term";
                root.problem(objective_place.clone(), "objective", text);
            }
            objective::Config::read_all(terms)
        });
        if data.pairing == Pairing::Listwise {
            for kind in objective.iter().map(objective::Config::kind) {
                let Some(instead) = kind.instead_of_lists() else { continue };
                let text = format!(
                    "found \"{}\", which speaks of a chosen and a rejected response, with data.pairing = \"listwise\"; \
                     expected {instead}, or another pairing",
                    kind.word()
                );
                root.problem(objective_place.clone(), "objective", &text);
            }
        }
        let optim = root.section("optim").map(optim::Config::read).unwrap_or_default();
        let train_place = root.place_of("train").cloned();
        let train = root.section("train").map(trainer::Config::read).unwrap_or_default();
        let guard = root.section("guard").map(trainer::guard::Config::read).unwrap_or_default();
        let log = root.section("log").map(trainer::log::Config::read).unwrap_or_default();

        if model.tokenizer.as_deref() == Some(SANDBOX_TOKENIZER) && data.sandbox.is_none() {
            let text = "found \"sandbox\" without data.sandbox, expected a folder or a hub id (`rmtrain sandbox` \
                        writes its tokenizer to DIR/tokenizer)";
            root.problem(model_place, "model.tokenizer", text);
        }
        let unevaluated = data_place.is_some() && !data.train.is_empty() && data.eval.is_empty();
        for (key, given) in [
            ("train.best_metric", train.best_metric.is_some()),
            ("train.early_stopping_patience", train.early_stopping_patience.is_some()),
            ("train.eval_every", train.eval_every.is_some()),
        ] {
            if given && unevaluated {
                let text = "found without data.eval, expected something to evaluate on";
                root.problem(train_place.clone(), key, text);
            }
        }
        root.finish();
        Self { model, data, objective, optim, train, guard, log }
    }

    /// The resolved configuration as TOML, every key explicit. Reading it back gives the same configuration.
    pub fn to_toml(&self) -> String {
        let mut out = TomlWriter::default();
        self.model.write(&mut out);
        self.data.write(&mut out);
        self.objective.iter().for_each(|term| term.write(&mut out));
        self.optim.write(&mut out);
        self.train.write(&mut out);
        self.guard.write(&mut out);
        self.log.write(&mut out);
        out.finish()
    }
}

/// The entries of a document that [`TomlWriter`] wrote, one a line, by their full keys: `objective.1.lambda`.
fn entries(toml: &str) -> BTreeMap<String, String> {
    let mut entries = BTreeMap::new();
    let mut section = String::new();
    let mut terms = 0;
    for line in toml.lines() {
        if let Some(list) = line.strip_prefix("[[").and_then(|rest| rest.strip_suffix("]]")) {
            section = format!("{list}.{terms}");
            terms += 1;
        } else if let Some(table) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = table.to_owned();
        } else if let Some((key, value)) = line.split_once(" = ") {
            entries.insert(format!("{section}.{key}"), value.to_owned());
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "[model]\npath = \"m\"\n[data]\ntrain = [\"a\"]\n[[objective]]\nkind = \"hinge\"\n";

    fn parse(sets: &[&str]) -> RunConfig {
        let sets: Vec<String> = sets.iter().map(ToString::to_string).collect();
        RunConfig::parse(TEXT, Path::new("run.toml"), &sets).unwrap()
    }

    #[test]
    fn a_run_goes_on_with_what_it_was_started_with() {
        let before = parse(&[]);
        let path = Path::new("runs/a/config.toml");
        let change = [
            "train.device=cpu",
            "train.save_every=5",
            "train.keep_last=9",
            "train.activations=keep",
            "train.micro_batch_tokens=7",
            "log.tensorboard=true",
        ];
        parse(&change).check_can_resume(&before, path).unwrap();
        let guard = [
            "guard.action=stop",
            "guard.window=3",
            "guard.norm-growth={ threshold = 2.0, action = \"warn\" }",
        ];
        parse(&guard).check_can_resume(&before, path).unwrap();

        let problems = |sets: &[&str]| match parse(sets).check_can_resume(&before, path) {
            Err(Error::Config { problems, .. }) => problems,
            other => panic!("{other:?}"),
        };
        let found = problems(&["optim.lr=2e-6", "train.max_steps=3"]);
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found[0].starts_with("optim.lr: found 2e-6, expected 1e-5 as when"), "{found:?}");
        assert!(found[1].starts_with("train.epochs: found nothing, expected 1.0"), "{found:?}");
        assert!(found[2].starts_with("train.max_steps: found 3, expected nothing"), "{found:?}");
        let term = r#"objective=[{kind="hinge"},{kind="center"}]"#;
        assert_eq!(problems(&[term]).len(), 2, "a term more is a difference");

        let by_micro_batch = r#"objective=[{kind="hinge"},{kind="sum-to-zero",scope="micro-batch"}]"#;
        let before = parse(&[by_micro_batch]);
        let other = parse(&[by_micro_batch, "train.micro_batch_tokens=7"]);
        let error = other.check_can_resume(&before, path).unwrap_err().to_string();
        assert!(error.contains("train.micro_batch_tokens: found 7, expected 16384"), "{error}");
    }
}
