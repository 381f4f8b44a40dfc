//! What an output is a function of, in a file beside it: inputs, model and settings.

use crate::base::{atomic, reader::Words};
use crate::commands::loaded::LoadedModel;
use crate::data::source::{LABEL_FORMAT, SourceFile, state_path};
use crate::eval::{LabelOptions, Reduce};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;

const VERSION: u32 = 1;

/// `FILE.state.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct State {
    format: String,
    version: u32,
    /// Rows of the output, once every row of the input is in it; until then no verb takes the output for data.
    pub complete_rows: Option<u64>,
    model: Model,
    settings: Settings,
    inputs: Vec<InputFile>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct InputFile {
    file: String,
    pub rows: u64,
    bytes: u64,
    sha256: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Model {
    name: String,
    /// Of `config.json` and the weights.
    sha256: String,
    /// Of everything that token ids depend on: vocabulary, chat template and the date that it prints.
    tokenizer: String,
    dtype: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Settings {
    score_field: String,
    reorder: bool,
    objectives: bool,
    /// How the rewards of an ensemble's heads are reduced; absent where it is by their mean.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reduce: Option<Reduce>,
    max_length: usize,
}

impl InputFile {
    /// Without its rows, which nobody has counted yet.
    pub fn of(source: &SourceFile) -> Result<Self> {
        Ok(Self {
            file: source.name.display().to_string(),
            rows: 0,
            bytes: source.path.metadata().map_err(Error::io(&source.name))?.len(),
            sha256: source.sha256()?,
        })
    }
}

impl Model {
    pub fn of(model: &LoadedModel) -> Result<Self> {
        Ok(Self {
            name: model.name.clone(),
            sha256: model.weights_sha256()?,
            tokenizer: model.tokenizer.fingerprint(),
            dtype: model.dtype.word().into(),
        })
    }
}

impl Settings {
    pub fn of(label: &LabelOptions, reduce: Option<Reduce>, max_length: usize) -> Self {
        let LabelOptions { score_field, reorder, objectives } = label.clone();
        Self { score_field, reorder, objectives, reduce, max_length }
    }
}

impl State {
    pub fn new(inputs: Vec<InputFile>, model: Model, settings: Settings) -> Self {
        Self { format: LABEL_FORMAT.into(), version: VERSION, complete_rows: None, model, settings, inputs }
    }

    /// Rows of all inputs.
    pub fn rows(&self) -> u64 {
        self.inputs.iter().map(|input| input.rows).sum()
    }

    /// The state of the output at `output`.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] where it is absent, damaged or of another version.
    pub fn read(output: &Path) -> Result<Self> {
        let path = state_path(output);
        let refuse = |found: String| {
            let expected = format!("expected what {} was begun with", output.display());
            Error::checkpoint(&path, format!("found {found}, {expected}; without it a run cannot go on"))
        };
        let bytes = std::fs::read(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => refuse("no such file".into()),
            _ => Error::io(&path)(error),
        })?;
        let state: State = serde_json::from_slice(&bytes).map_err(|error| refuse(error.to_string()))?;
        match (state.format.as_str(), state.version) {
            (LABEL_FORMAT, VERSION) => Ok(state),
            (format, version) => Err(refuse(format!("{format} version {version}"))),
        }
    }

    pub fn write(&self, output: &Path) -> Result<()> {
        let path = state_path(output);
        let text = serde_json::to_string_pretty(self).map_err(|error| Error::io(&path)(error.into()))?;
        atomic::write_bytes(&path, format!("{text}\n").as_bytes())
    }

    /// Passes inputs that are still what was surveyed, all of whose rows were written.
    ///
    /// # Errors
    /// [`Error::Data`] with the file that is another one by now: the labels may belong to rows that it has no more.
    pub fn refuse_changed(&self, sources: &[SourceFile], written: u64, output: &Path) -> Result<()> {
        let changed = |path: &Path, what: String| {
            let output = output.display();
            let reason = format!(
                "{what}: an input changed while it was read, and {output} may hold labels of rows that are gone; delete \
                 it and label again"
            );
            Err(Error::Data { path: path.to_path_buf(), reason })
        };
        for (input, source) in self.inputs.iter().zip(sources) {
            let (found, expected) = (source.sha256()?, &input.sha256);
            if found != *expected {
                return changed(&source.name, format!("found SHA-256 {found}, expected {expected}"));
            }
        }
        match self.rows() {
            expected if expected == written => Ok(()),
            expected => {
                changed(output, format!("found {written} rows, expected the {expected} of the inputs"))
            }
        }
    }

    /// Refuses to go on with what `begun` describes. Names of files and of the model may change, their content may not.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] with every difference.
    pub fn refuse_other(&self, begun: &State, output: &Path) -> Result<()> {
        let mut differences = Vec::new();
        let mut compare = |what: &str, was: &dyn ToString, is: &dyn ToString| {
            let (was, is) = (was.to_string(), is.to_string());
            if was != is {
                differences.push(format!("{what}: was {was}, is {is}"));
            }
        };
        compare("number of input files", &begun.inputs.len(), &self.inputs.len());
        for (was, is) in begun.inputs.iter().zip(&self.inputs) {
            compare(&format!("SHA-256 of input {}", is.file), &was.sha256, &is.sha256);
        }
        compare("SHA-256 of the model", &begun.model.sha256, &self.model.sha256);
        compare("tokenizer, chat template and date", &begun.model.tokenizer, &self.model.tokenizer);
        compare("--dtype", &begun.model.dtype, &self.model.dtype);
        let (was, is) = (&begun.settings, &self.settings);
        compare("--score-field", &was.score_field, &is.score_field);
        compare("--reorder", &was.reorder, &is.reorder);
        compare("--objectives", &was.objectives, &is.objectives);
        let reduce = |settings: &Settings| match settings.reduce.unwrap_or_default() {
            Reduce::Mean => "mean",
            Reduce::Min => "min",
        };
        compare("--reduce", &reduce(was), &reduce(is));
        compare("--max-length", &was.max_length, &is.max_length);
        if differences.is_empty() {
            return Ok(());
        }
        let (name, differences) = (output.display(), differences.join("\n  - "));
        let reason = format!("{name} was begun otherwise, so --resume would mix labels\n  - {differences}");
        Err(Error::checkpoint(state_path(output), reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        let input = InputFile { file: "a.jsonl".into(), rows: 3, bytes: 9, sha256: "aa".into() };
        let model =
            Model { name: "m".into(), sha256: "bb".into(), tokenizer: "cc".into(), dtype: "f32".into() };
        let settings = Settings {
            score_field: "overall_score".into(),
            reorder: false,
            objectives: false,
            reduce: None,
            max_length: 10,
        };
        State::new(vec![input.clone(), input], model, settings)
    }

    #[test]
    fn what_was_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out.jsonl");
        let error = State::read(&output).unwrap_err().to_string();
        assert!(error.contains("out.jsonl.state.json: found no such file"), "{error}");
        state().write(&output).unwrap();
        assert_eq!(State::read(&output).unwrap(), state());
        assert_eq!(state().rows(), 6);
        std::fs::write(state_path(&output), "{}").unwrap();
        assert!(State::read(&output).unwrap_err().to_string().contains("missing field"));
        State { version: 9, ..state() }.write(&output).unwrap();
        assert!(State::read(&output).unwrap_err().to_string().contains("rmtrain-label version 9"));
    }

    #[test]
    fn an_input_that_changed_or_lost_rows_is_found_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let (input, output) = (folder.path().join("in.jsonl"), folder.path().join("out.jsonl"));
        std::fs::write(&input, "{}\n{}\n").unwrap();
        let source = SourceFile::local(&input);
        let surveyed = InputFile { rows: 2, ..InputFile::of(&source).unwrap() };
        let state = State { inputs: vec![surveyed], ..state() };
        let sources = [source];
        state.refuse_changed(&sources, 2, &output).unwrap();
        let error = state.refuse_changed(&sources, 1, &output).unwrap_err().to_string();
        assert!(error.contains("out.jsonl: found 1 rows, expected the 2 of the inputs"), "{error}");
        std::fs::write(&input, "{}\n[]\n").unwrap();
        let error = state.refuse_changed(&sources, 2, &output).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let error = error.to_string();
        assert!(error.contains("in.jsonl: found SHA-256 ") && error.contains("label again"), "{error}");
    }

    #[test]
    fn every_difference_is_named_and_names_may_differ() {
        let output = Path::new("out.jsonl");
        let mut moved = state();
        moved.inputs[0].file = "elsewhere/a.jsonl".into();
        moved.model.name = "elsewhere".into();
        moved.complete_rows = Some(3);
        moved.refuse_other(&state(), output).unwrap();

        let mut other = state();
        other.inputs[1].sha256 = "zz".into();
        other.settings.reorder = true;
        other.settings.reduce = Some(Reduce::Min);
        let error = other.refuse_other(&state(), output).unwrap_err().to_string();
        assert!(error.contains("SHA-256 of input a.jsonl: was aa, is zz"), "{error}");
        assert!(error.contains("--reorder: was false, is true"), "{error}");
        assert!(error.contains("--reduce: was mean, is min"), "{error}");
        assert!(!error.contains("--score-field"), "{error}");
        other.inputs.pop();
        let error = other.refuse_other(&state(), output).unwrap_err().to_string();
        assert!(error.contains("number of input files: was 2, is 1"), "{error}");
    }
}
