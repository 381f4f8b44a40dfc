//! The parts of a run that starts from its configuration: `fit` and `plan` build the same ones.

use super::progress::RowsBar;
use crate::config::RunConfig;
use crate::data::source::SourceFile;
use crate::data::store::{DataReport, ListStore, Preparation};
use crate::data::tokenize::EncodeConversation;
use crate::data::{Tokenizer, sandbox};
use crate::model::config::{SANDBOX_TOKENIZER, Source};
use crate::model::reward_model::HeadInit;
use crate::model::{self, RewardModel, ensemble_file};
use crate::{Error, Result, hub, objective};
use std::path::Path;

/// Writes the synthetic world into `folder`, if the run is on it, and points the run at its splits.
pub(super) fn prepare_sandbox(config: &mut RunConfig, folder: &Path) -> Result<()> {
    if let Some(sandbox) = config.data.sandbox {
        let folder = folder.join("sandbox");
        sandbox::write(&folder, sandbox)?;
        config.data.splits_dir = Some(folder.join("splits"));
    }
    Ok(())
}

/// The tokenizer with its template and today's date; the sandbox's own is in `folder`, once that is prepared.
pub(super) fn load_tokenizer(config: &RunConfig, folder: &Path) -> Result<Tokenizer> {
    let model = &config.model;
    let folder = match (model.tokenizer.as_deref(), &model.source) {
        (Some(SANDBOX_TOKENIZER), _) if config.data.sandbox.is_some() => {
            folder.join("sandbox").join("tokenizer")
        }
        (Some(SANDBOX_TOKENIZER), _) => {
            return Err(Error::Usage(
                "model.tokenizer: found \"sandbox\" without data.sandbox, expected a folder or a hub id"
                    .into(),
            ));
        }
        (Some(source), _) => hub::resolve_tokenizer(source, None)?,
        (None, Source::Path(source)) => hub::resolve_tokenizer(source, model.revision.as_deref())?,
        (None, Source::Random(_)) => {
            return Err(Error::Usage("model.tokenizer: a model from scratch needs one".into()));
        }
    };
    let today = jiff::ZonedDateTime::now().date();
    Tokenizer::load(&folder, &config.data.chat_template, Some(today))
}

/// What the run trains on, read from `files` into `folder` unless it lies there already.
///
/// # Errors
/// Those of [`ListStore::open_or_build`]; [`Error::Row`] for a row without a margin where the objective reads it.
pub(super) fn open_store(
    config: &RunConfig,
    files: &[SourceFile],
    folder: &Path,
    encoder: &dyn EncodeConversation,
) -> Result<ListStore> {
    let preparation = Preparation::new(&config.data, config.train.seed);
    let reading = RowsBar::new("reading");
    let mut show = |report: &DataReport| reading.show_rows(report.rows);
    let store = ListStore::open_or_build(folder, files, &preparation, encoder, &mut show)?;
    reading.finish();
    // Now, not when a step draws the row: a run whose data has to change cannot be resumed.
    if config.objective.iter().any(objective::Config::needs_margin_column) {
        store.require_margins()?;
    }
    Ok(store)
}

/// The model on its device: the checkpoint's where the run goes on from one.
pub(super) fn load_model(config: &RunConfig, checkpoint: Option<&Path>) -> Result<RewardModel> {
    let device = config.train.device.open()?;
    let model::Config { heads: count, head_init_std: std, dtype, .. } = config.model;
    let head = HeadInit { count, std, seed: config.train.seed };
    let load = |folder: &Path| {
        let model = RewardModel::load(folder, &device, dtype, head)?;
        match heads_problem(folder, model.head_count(), head.count) {
            Some(problem) => Err(Error::Usage(problem)),
            None => Ok(model),
        }
    };
    let mut model = match (checkpoint, &config.model.source) {
        (Some(checkpoint), _) => load(checkpoint)?,
        (None, Source::Path(source)) => load(&hub::resolve_model(source, config.model.revision.as_deref())?)?,
        (None, Source::Random(shape)) => RewardModel::random(shape, &device, dtype, head)?,
    };
    model.freeze(config.model.freeze)?;
    check_length(config, model.config().max_position_embeddings)?;
    if dtype.is_some_and(|dtype| dtype != model.dtype()) {
        eprintln!("hint: the CPU computes in f32, whatever model.dtype says; it is no slower here");
    }
    Ok(model)
}

/// What is wrong where a folder has other heads of its own than are `asked` for.
pub(super) fn heads_problem(folder: &Path, found: usize, asked: usize) -> Option<String> {
    let place = folder.display();
    let has = match found {
        _ if found == asked => return None,
        1 => format!("{place} has one head of its own; several are drawn for a language model"),
        _ => format!("{} holds that many", folder.join(ensemble_file::FILE).display()),
    };
    Some(format!("model.heads: found {asked}, expected {found}: {has}"))
}

/// # Errors
/// [`Error::Usage`] for conversations longer than the model's `positions`.
pub(super) fn check_length(config: &RunConfig, positions: usize) -> Result<()> {
    if config.data.max_length <= positions {
        return Ok(());
    }
    Err(Error::Usage(format!(
        "data.max_length: found {}, expected at most {positions}, the model's max_position_embeddings",
        config.data.max_length
    )))
}
