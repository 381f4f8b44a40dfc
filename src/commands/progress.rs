//! A line on stderr that says how far scoring is, for a person who watches.

use crate::eval::Progress;
use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

/// A spinner with counts; nothing at all where stderr is no terminal.
pub(super) struct RowsBar {
    bar: ProgressBar,
    name: String,
    start: Instant,
    /// How many rows there will be, where that is known.
    expected: Option<u64>,
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
        Self { bar, name, start: Instant::now(), expected: None }
    }

    /// Says from here on how long the rest will take.
    pub fn expecting(mut self, rows: u64) -> Self {
        self.expected = Some(rows);
        self
    }

    pub fn show(&self, done: Progress) {
        let elapsed = self.start.elapsed();
        let (of, left) = match self.expected {
            None => (String::new(), String::new()),
            Some(rows) => (format!(" of {rows}"), format!(", {}", time_left(done.rows, rows, elapsed))),
        };
        self.bar.set_message(format!(
            "{}: {}{of} rows, {} sequences, {}{left}",
            self.name,
            done.rows,
            done.sequences,
            speed(done.tokens, elapsed)
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

/// `about 3 minutes left`, at the pace so far.
fn time_left(done: u64, expected: u64, elapsed: Duration) -> String {
    let rest = expected.saturating_sub(done) as f64 / done.max(1) as f64;
    let left = Duration::try_from_secs_f64(elapsed.as_secs_f64() * rest).unwrap_or(Duration::MAX);
    format!("about {} left", HumanDuration(left))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_takes_as_long_as_the_rows_before() {
        let left = |done, expected| time_left(done, expected, Duration::from_secs(60));
        assert_eq!(left(100, 400), "about 3 minutes left");
        assert_eq!(left(400, 400), "about 0 seconds left");
        assert_eq!(left(500, 400), "about 0 seconds left");
        assert!(left(0, u64::MAX).starts_with("about "));
    }
}
