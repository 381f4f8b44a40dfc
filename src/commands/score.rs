//! `rmtrain score`: rows in, the same rows with their scores out.

use super::datasets::Hub;
use super::loaded::{LoadedModel, ModelFlags};
use super::progress::{RowsBar, speed};
use crate::base::{atomic, interrupt};
use crate::data::source::{Rows, SourceFile, resolve};
use crate::eval::{OnError, ScoreOptions, ScoreSummary, score_rows};
use crate::{Error, Result};
use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Score responses with a reward model.
///
/// Every input row comes back in order, with `score` (one response), `scores` (k responses) or `score_chosen` and
/// `score_rejected` (a pair) added. Rows are read ahead in windows; standard output is written after each.
#[derive(Debug, Clone, clap::Args)]
pub struct ScoreArgs {
    /// A run directory (its final/), a checkpoint, a sequence-classification folder with one label, ArmoRM,
    /// or a hub id
    #[arg(long, value_name = "DIR")]
    pub model: String,
    /// JSONL (.gz, .zst too), a JSON array or Parquet, a glob, or hf://datasets/OWNER/NAME/FILE; `-` is standard input
    #[arg(long, value_name = "FILE", default_value = "-")]
    pub input: String,
    /// Where the scored rows go, as JSONL; `-` is standard output. A file appears when it is complete
    #[arg(long, value_name = "FILE", default_value = "-")]
    pub output: String,
    /// What happens at a row that cannot be scored
    #[arg(long, value_enum, default_value = "fail")]
    pub on_error: OnError,
    #[command(flatten)]
    pub flags: ModelFlags,
}

/// Runs the verb.
pub fn run(args: &ScoreArgs) -> anyhow::Result<()> {
    // Before the model is loaded, so that a wrong path is told at once.
    let input = Input::open(args)?;
    let model = LoadedModel::load(&args.model, &args.flags)?;
    interrupt::install_saying("stopping after this window (once more to stop at once)");

    let to_stdout = args.output == "-";
    let output = Path::new(&args.output);
    let written = match special_file(output, to_stdout)? {
        Special::Stdout => score(args, input, &model, "stdout", &mut BufWriter::new(io::stdout().lock())),
        Special::Device => {
            let file = fs::OpenOptions::new().write(true).open(output).map_err(Error::io(output))?;
            score(args, input, &model, &args.output, &mut BufWriter::new(file))
        }
        Special::No(path) => score_into(args, input, &model, &path),
    };
    match written {
        // Whoever reads has seen enough: that is not a failure.
        Err(Error::Io { source, .. }) if to_stdout && source.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

/// The rows of a file, of the files that match a glob, of a hub file, or of standard input.
struct Input {
    rows: Rows,
    files: usize,
}

impl Input {
    /// # Errors
    /// [`Error::Usage`] where the output would replace one of the files.
    fn open(args: &ScoreArgs) -> Result<Self> {
        if args.input == "-" {
            return Ok(Self { rows: Rows::of_reader("stdin", io::stdin())?, files: 1 });
        }
        let sources = resolve(std::slice::from_ref(&args.input), &Hub)?;
        if args.output != "-" {
            for source in &sources {
                refuse_same_file(source, Path::new(&args.output))?;
            }
        }
        Ok(Self { files: sources.len(), rows: Rows::of_files(sources) })
    }
}

/// Scores into a file that appears only when every row is there.
fn score_into(args: &ScoreArgs, input: Input, model: &LoadedModel, path: &Path) -> Result<()> {
    let mut failure = None;
    let written = atomic::write(path, |out| {
        score(args, input, model, &args.output, out).map_err(|error| {
            failure = Some(error);
            io::Error::other("scoring failed")
        })
    });
    match failure {
        Some(error) => Err(error),
        None => written,
    }
}

fn score(
    args: &ScoreArgs,
    input: Input,
    model: &LoadedModel,
    out_name: &str,
    out: &mut dyn Write,
) -> Result<()> {
    let options = ScoreOptions {
        max_length: args.flags.max_length.map_or(model.max_positions, |tokens| tokens as usize),
        on_error: args.on_error,
        batch_tokens: args.flags.batch_tokens(),
        name_files: input.files > 1,
    };
    let bar = RowsBar::new("scoring");
    let encoder = model.tokenizer.clone();
    let scorer = model.scorer.as_ref();
    let summary = score_rows(input.rows, encoder, scorer, &options, (out_name, out), |done| bar.show(done))?;
    let elapsed = bar.finish();
    report(&summary, elapsed);
    Ok(())
}

fn report(summary: &ScoreSummary, elapsed: std::time::Duration) {
    for (kept, rows) in &summary.renamed {
        eprintln!("hint: {rows} rows had a field with the name of a score already; it is kept as {kept:?}");
    }
    let done = summary.done;
    let failed = match summary.failed {
        0 => String::new(),
        n => format!("; {n} rows could not be scored and hold an \"error\""),
    };
    eprintln!(
        "scored {} rows ({} sequences, {} tokens) in {:.1} s, {}{failed}",
        done.rows,
        done.sequences,
        done.tokens,
        elapsed.as_secs_f64(),
        speed(done.tokens, elapsed)
    );
}

/// Where the output goes.
enum Special {
    Stdout,
    /// A pipe or device that exists: written as it is, since a rename would replace it.
    Device,
    /// An ordinary file, links followed.
    No(PathBuf),
}

fn special_file(output: &Path, to_stdout: bool) -> Result<Special> {
    if to_stdout {
        return Ok(Special::Stdout);
    }
    match fs::metadata(output) {
        Ok(found) if found.is_dir() => {
            let found = output.display();
            Err(Error::Usage(format!("--output {found}: found a folder, expected a file")))
        }
        Ok(found) if found.is_file() => Ok(Special::No(fs::canonicalize(output).map_err(Error::io(output))?)),
        Ok(_) => Ok(Special::Device),
        Err(_) => Ok(Special::No(output.to_path_buf())),
    }
}

/// The output must not replace what is being read, under whatever name.
pub(super) fn refuse_same_file(input: &SourceFile, output: &Path) -> Result<()> {
    if !same_file(&input.path, output) {
        return Ok(());
    }
    let (output, input) = (output.display(), input.name.display());
    Err(Error::Usage(format!("--output {output} is the same file as --input {input}; choose another name")))
}

fn same_file(a: &Path, b: &Path) -> bool {
    let (Ok(meta_a), Ok(meta_b)) = (fs::metadata(a), fs::metadata(b)) else { return false };
    if !meta_a.is_file() || !meta_b.is_file() {
        return false;
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        (meta_a.dev(), meta_a.ino()) == (meta_b.dev(), meta_b.ino())
    }
    #[cfg(not(unix))]
    {
        matches!((fs::canonicalize(a), fs::canonicalize(b)), (Ok(a), Ok(b)) if a == b)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_that_is_the_input_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a.jsonl"), folder.path().join("b.jsonl"));
        fs::write(&a, "{}").unwrap();
        let input = SourceFile::local(&a);
        assert!(refuse_same_file(&input, &b).is_ok(), "the output does not exist yet");
        fs::hard_link(&a, &b).unwrap();
        for output in [&a, &b, &folder.path().join("./a.jsonl")] {
            let error = refuse_same_file(&input, output).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{output:?}");
        }
        assert!(refuse_same_file(&SourceFile::local("/dev/null"), Path::new("/dev/null")).is_ok());
    }
}
