//! A line on stderr that says how far scoring is, for a person who watches.

use crate::eval::Progress;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

/// A spinner with counts; nothing at all where stderr is no terminal.
pub(super) struct RowsBar {
    bar: ProgressBar,
    name: String,
    start: Instant,
}

impl RowsBar {
    pub fn new(name: impl Into<String>) -> Self {
        let name = name.into();
        let bar = if stderr().is_terminal() { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} [{elapsed}]") {
            bar.set_style(style);
        }
        bar.set_message(name.clone());
        bar.enable_steady_tick(Duration::from_millis(200));
        Self { bar, name, start: Instant::now() }
    }

    pub fn show(&self, done: Progress) {
        self.bar.set_message(format!(
            "{}: {} rows, {} sequences, {}",
            self.name,
            done.rows,
            done.sequences,
            speed(done.tokens, self.start.elapsed())
        ));
    }

    /// Rows of one stage of several.
    pub fn show_stage(&self, stage: &str, rows: u64) {
        self.bar.set_message(format!("{}: {stage}, {rows} rows", self.name));
    }

    /// Rows that were read, where nothing is scored.
    pub fn show_rows(&self, rows: u64) {
        self.bar.set_message(format!("{}: {rows} rows", self.name));
    }

    /// Removes the line and tells how long it stood.
    pub fn finish(&self) -> Duration {
        self.bar.finish_and_clear();
        self.start.elapsed()
    }
}

impl Drop for RowsBar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// `N tokens/s`.
pub(super) fn speed(tokens: u64, elapsed: Duration) -> String {
    format!("{:.0} tokens/s", tokens as f64 / elapsed.as_secs_f64().max(1e-9))
}
