//! Glue: parse, run, report. Everything else is in the library.

use clap::Parser;
use rmtrain::cli::{self, Cli};
use std::process::ExitCode;

fn main() -> ExitCode {
    cli::report(Cli::parse().run())
}
