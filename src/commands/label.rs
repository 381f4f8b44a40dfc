//! `rmtrain label`: rows in, the same rows with a gold model's scores out, in a file that a killed run can go on with.

mod output;
mod state;

use super::datasets::Hub;
use super::loaded::{LoadedModel, ModelFlags};
use super::progress::{RowsBar, speed};
use super::score::refuse_same_file;
use crate::base::{figures::grouped, interrupt};
use crate::data::row::MEAN_RATING;
use crate::data::source::{Rows, SourceFile, resolve};
use crate::eval::{LabelOptions, LabelSummary, OnError, ScoreOptions, label_rows};
use crate::{Error, Result};
use output::Output;
use state::{InputFile, Settings, State};
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::time::Duration;

/// Give every response a gold score by a gold reward model.
///
/// Every input row comes back in order with its gold scores where `split`, `fit` and `eval` read them: in each completion
/// under --score-field (UltraFeedback), as `scores` (k responses), `all_scores` (response_1_text ..), `score_chosen` and
/// `score_rejected` (pairs), `score` (one response; under --score-field where the row has that field). Scores that were
/// there are kept as `input_..`. The output grows as rows are scored; what it is made from stands beside it in
/// FILE.state.json, and a run that was stopped or killed goes on with --resume. Until it is complete no verb reads it.
#[derive(Debug, Clone, clap::Args)]
pub struct LabelArgs {
    /// The gold model: ArmoRM (LlamaForRewardModelWithGating), a sequence-classification folder with one label, a run
    /// directory, or a hub id
    #[arg(long, value_name = "DIR|HUBID")]
    pub model: String,
    /// JSONL (.gz, .zst too), a JSON array or Parquet, globs, or hf://datasets/OWNER/NAME/FILE; several are one after
    /// the other
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    pub input: Vec<String>,
    /// Where the labelled rows go, as JSONL
    #[arg(long, value_name = "FILE.jsonl")]
    pub output: PathBuf,
    /// Field of a completion that gets its gold score; `split` and `fit` read it under the same name
    #[arg(long, value_name = "NAME", default_value = "overall_score")]
    pub score_field: String,
    /// Make the response with the higher score the chosen one of its pair
    #[arg(long)]
    pub reorder: bool,
    /// Add `objectives`: for each response the rewards of a multi-objective model and the weights of its gate
    #[arg(long)]
    pub objectives: bool,
    /// Go on after the last whole row of the output; inputs, model and settings must be those that it was begun with
    #[arg(long)]
    pub resume: bool,
    /// What happens at a row that cannot be scored
    #[arg(long, value_enum, default_value = "fail")]
    pub on_error: OnError,
    #[command(flatten)]
    pub flags: ModelFlags,
}

/// Runs the verb.
pub fn run(args: &LabelArgs) -> anyhow::Result<()> {
    if args.score_field == MEAN_RATING {
        return Err(Error::Usage(format!(
            "--score-field {MEAN_RATING}: found the name for the mean of a completion's ratings, which is computed and \
             read from no field; expected a field to write to, such as overall_score. Give `split` or `fit` that name, \
             too, where they would take {MEAN_RATING}, as `split --preset ultrafeedback` does"
        ))
        .into());
    }
    let sources = resolve(&args.input, &Hub)?;
    for source in &sources {
        refuse_same_file(source, &args.output)?;
    }
    // Told at once; the file itself is opened when the model is there.
    if !args.resume {
        output::refuse_existing(&args.output)?;
    }
    interrupt::install_saying("stopping after this window (once more to stop at once)");

    let inputs = survey(&sources)?;
    let model = LoadedModel::load(&args.model, &args.flags)?;
    if args.objectives && !model.has_objectives {
        return Err(Error::Usage(format!(
            "--objectives: {} gives one reward, expected a multi-objective model (ArmoRM)",
            model.name
        ))
        .into());
    }
    let options = ScoreOptions {
        max_length: args.flags.max_length.map_or(model.max_positions, |tokens| tokens as usize),
        on_error: args.on_error,
        batch_tokens: args.flags.batch_tokens(),
        name_files: sources.len() > 1,
    };
    let label = LabelOptions {
        score_field: args.score_field.clone(),
        reorder: args.reorder,
        objectives: args.objectives,
    };
    let settings = Settings::of(&label, model.reduce, options.max_length);
    let mut output = if args.resume { Output::resume(&args.output)? } else { Output::new(&args.output)? };
    let mut state = State::new(inputs, state::Model::of(&model)?, settings);
    if output.was_begun {
        state.refuse_other(&State::read(&args.output)?, &args.output)?;
    }
    let total = state.rows();
    let rows = after(Rows::of_files(sources.clone()), output.rows, total, &args.output)?;
    state.write(&args.output)?;
    if output.rows > 0 {
        eprintln!("{} of {} rows are there already", grouped(output.rows), grouped(total));
    }
    let (before, failed_before) = (output.rows, output.failed);
    let bar = RowsBar::new("labelling").expecting(total - before);
    let name = args.output.display().to_string();
    let labelled = {
        let mut out = BufWriter::with_capacity(1 << 20, output.append(&args.output)?);
        let model = (model.tokenizer.clone(), model.scorer.as_ref());
        label_rows(rows, model, (&options, &label), (&name, &mut out as &mut dyn Write), |done| {
            bar.show(done)
        })
    };
    let elapsed = bar.finish();
    let summary = labelled.inspect_err(|error| say_how_to_go_on(error, args))?;
    output.sync(&args.output)?;
    let written = before + summary.done.rows;
    state.refuse_changed(&sources, written, &args.output)?;
    state.complete_rows = Some(written);
    state.write(&args.output)?;
    report(&LabelSummary { failed: failed_before + summary.failed, ..summary }, args, elapsed);
    Ok(())
}

/// Size, hash and number of rows of every input.
fn survey(sources: &[SourceFile]) -> Result<Vec<InputFile>> {
    let bar = RowsBar::new("reading");
    let mut total = 0;
    let mut inputs = Vec::with_capacity(sources.len());
    for source in sources {
        let mut input = InputFile::of(source)?;
        for row in Rows::of_files(vec![source.clone()]) {
            row?;
            input.rows += 1;
            total += 1;
            if interrupt::requested() {
                return Err(Error::Interrupted);
            }
            if input.rows % 1024 == 0 {
                bar.show_rows(total);
            }
        }
        inputs.push(input);
    }
    Ok(inputs)
}

/// The rows that are not in the output yet.
fn after(mut rows: Rows, done: u64, total: u64, output: &std::path::Path) -> Result<Rows> {
    if done > total {
        return Err(Error::checkpoint(
            output,
            format!("found {done} rows, expected at most the {total} of the input; it was changed"),
        ));
    }
    for row in rows.by_ref().take(done as usize) {
        row?;
    }
    Ok(rows)
}

/// What was written stays; the command that stopped is the one that goes on.
fn say_how_to_go_on(error: &Error, args: &LabelArgs) {
    let output = args.output.display();
    match error {
        Error::Row { .. } => eprintln!(
            "hint: {output} holds the rows before it; the same command with --resume --on-error keep passes over it"
        ),
        _ => eprintln!("hint: {output} holds whole rows so far; the same command with --resume goes on"),
    }
}

/// `failed` counts all rows of the output, everything else those of this run.
fn report(summary: &LabelSummary, args: &LabelArgs, elapsed: Duration) {
    let LabelSummary { done, failed, renamed, pairs } = summary;
    for (kept, count) in renamed {
        eprintln!(
            "hint: {count} fields with the name of a score were there already; they are kept as {kept:?}"
        );
    }
    if pairs.pairs > 0 {
        let what = if args.reorder { "changed sides" } else { "oppose their order (--reorder swaps them)" };
        eprintln!(
            "{} of {} pairs {what}; {} ties",
            grouped(pairs.opposed),
            grouped(pairs.pairs),
            grouped(pairs.ties)
        );
    }
    if *failed > 0 {
        eprintln!(
            "hint: {failed} rows of {} could not be scored and hold an \"error\"; take them out before `split`",
            args.output.display()
        );
    }
    let seconds = elapsed.as_secs_f64();
    eprintln!(
        "labelled {} rows ({} sequences, {} tokens) in {seconds:.1} s, {:.2} rows/s, {}",
        grouped(done.rows),
        grouped(done.sequences),
        grouped(done.tokens),
        done.rows as f64 / seconds.max(1e-9),
        speed(done.tokens, elapsed)
    );
}
