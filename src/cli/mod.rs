//! What was typed, and how a failure is told: arguments in, a verb's run, an exit code out.
//!
//! A verb's arguments are defined beside the verb, in [`crate::commands`].

use crate::{Error, commands};
use clap::{Parser, Subcommand};
use std::fmt::Write as _;
use std::io::{self, Write};
use std::process::ExitCode;

/// A failure at run time, for errors that are not the library's own.
const FAILURE: u8 = 3;

/// Reward models for RLHF: Bradley-Terry with Batch-wise Sum-to-Zero Regularization.
///
/// Standard output is data; progress, logs and hints go to standard error.
#[derive(Debug, Parser)]
#[command(
    name = "rmtrain",
    version,
    arg_required_else_help = true,
    propagate_version = true,
    max_term_width = 100,
    after_help = "\
Exit codes: 0 done; 1 a check that was asked for failed; 2 usage, configuration or input is wrong;
3 a failure at run time.

First steps:
  rmtrain fit --config configs/quickstart.toml
  rmtrain eval
  echo '{\"prompt\": \"2 + 2?\", \"response\": \"4\"}' | rmtrain score --model runs/quickstart"
)]
pub struct Cli {
    #[command(subcommand)]
    pub verb: Verb,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    Fit(commands::fit::FitArgs),
    Plan(commands::plan::PlanArgs),
    Eval(commands::eval::EvalArgs),
    Score(commands::score::ScoreArgs),
    Label(commands::label::LabelArgs),
    Bench(commands::bench::BenchArgs),
    Report(commands::report::ReportArgs),
    Split(commands::split::SplitArgs),
    Sandbox(commands::sandbox::SandboxArgs),
    Doctor(commands::doctor::DoctorArgs),
}

impl Cli {
    /// Runs the verb.
    ///
    /// # Errors
    /// Whatever the verb meets, a [`crate::Error`] somewhere in its chain.
    pub fn run(&self) -> anyhow::Result<()> {
        match &self.verb {
            Verb::Fit(args) => commands::fit::run(args),
            Verb::Plan(args) => commands::plan::run(args),
            Verb::Eval(args) => commands::eval::run(args),
            Verb::Score(args) => commands::score::run(args),
            Verb::Label(args) => commands::label::run(args),
            Verb::Bench(args) => commands::bench::run(args),
            Verb::Report(args) => commands::report::run(args),
            Verb::Split(args) => commands::split::run(args),
            Verb::Sandbox(args) => commands::sandbox::run(args),
            Verb::Doctor(args) => commands::doctor::run(args),
        }
    }
}

/// Tells a verb's outcome on stderr and as an exit code.
///
/// A reader of stdout that has seen enough (`| head`) is not a failure.
pub fn report(outcome: anyhow::Result<()>) -> ExitCode {
    let Err(error) = outcome else { return ExitCode::SUCCESS };
    if error.chain().any(is_broken_pipe) {
        return ExitCode::SUCCESS;
    }
    // With stderr closed there is nobody to tell, and the exit code still says it.
    let _ = io::stderr().lock().write_all(message(&error).as_bytes());
    ExitCode::from(exit_code(&error))
}

fn is_broken_pipe(cause: &(dyn std::error::Error + 'static)) -> bool {
    cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn library_error(error: &anyhow::Error) -> Option<&Error> {
    error.chain().find_map(|cause| cause.downcast_ref::<Error>())
}

fn exit_code(error: &anyhow::Error) -> u8 {
    library_error(error).map_or(FAILURE, Error::exit_code)
}

/// The error with its causes, and what to do about it where we know.
fn message(error: &anyhow::Error) -> String {
    let mut text = format!("error: {error}");
    for cause in error.chain().skip(1) {
        // Many messages already end with their cause.
        let cause = cause.to_string();
        if !text.contains(&cause) {
            let _ = write!(text, ": {cause}");
        }
    }
    text.push('\n');
    if let Some(hint) = library_error(error).and_then(hint) {
        let _ = writeln!(text, "hint: {hint}");
    }
    text
}

fn hint(error: &Error) -> Option<&'static str> {
    match error {
        Error::Config { problems, .. } if problems.iter().any(|problem| problem.contains("unknown key")) => {
            Some("README.md, section Configuration, lists every key with its default")
        }
        Error::Io { source, path } => match source.kind() {
            io::ErrorKind::NotFound if path.extension().is_some_and(|end| end == "toml") => {
                Some("configs/ holds configurations to start from; configs/quickstart.toml needs no data")
            }
            io::ErrorKind::StorageFull => Some(
                "free some space, then give the same command again; `fit` and `label` go on with --resume",
            ),
            _ => None,
        },
        Error::NonFinite { .. } => Some(
            "look at the row that is named; --resume goes on from the step before, a lower optim.lr needs a new run",
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_cause_is_told_once() {
        let missing = Error::io("a.toml")(io::Error::from(io::ErrorKind::NotFound));
        let text = message(&anyhow::Error::from(missing).context("reading"));
        assert_eq!(text.matches("entity not found").count(), 1, "{text}");
        assert!(text.starts_with("error: reading: a.toml: "), "{text}");
        assert!(text.contains("\nhint: configs/"), "{text}");
    }

    #[test]
    fn a_full_disk_is_told_alike_to_every_verb() {
        let full = Error::io("out.jsonl")(io::Error::from(io::ErrorKind::StorageFull));
        let text = message(&full.into());
        assert!(
            text.contains("\nhint: free some space") && text.contains("the same command again"),
            "{text}"
        );
        assert!(!text.contains("checkpoint"), "{text}");
    }

    #[test]
    fn codes_follow_the_librarys_error() {
        let check = anyhow::Error::from(Error::Check("leak".into()));
        assert_eq!(exit_code(&check.context("split")), 1);
        assert_eq!(exit_code(&Error::Usage(String::new()).into()), 2);
        assert_eq!(exit_code(&anyhow::anyhow!("anything")), 3);
    }

    #[test]
    fn a_closed_stdout_is_no_failure() {
        let error = Error::io("stdout")(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(report(Err(error.into())), ExitCode::SUCCESS);
    }
}
