//! What a run shows while it goes: a bar on a terminal, plain lines elsewhere. On stderr only.

use super::metrics::StepLine;
use crate::eval::SplitReport;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// A plain line at most this often, besides the first and the last step.
const PLAIN_EVERY: Duration = Duration::from_secs(5);
/// After so many steps the time that is left is told for the first time.
const STEPS_BEFORE_ESTIMATE: u64 = 3;

pub struct Progress {
    /// `None` where stderr is no terminal.
    bar: Option<ProgressBar>,
    total: u64,
    first: u64,
    started: Instant,
    last_plain: Option<Instant>,
    seconds: f64,
    tokens: usize,
}

impl Progress {
    /// For a run of `total` steps of which `done` are done.
    pub fn new(done: u64, total: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(total).with_position(done);
            let style = ProgressStyle::with_template("{bar:24} {pos}/{len} {msg} eta {eta}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.reset_eta();
            bar
        });
        let started = Instant::now();
        Self { bar, total, first: done, started, last_plain: None, seconds: 0.0, tokens: 0 }
    }

    /// A step is done.
    pub fn step(&mut self, line: &StepLine) {
        self.seconds += line.seconds;
        self.tokens += line.tokens;
        let rate = self.tokens as f64 / self.seconds.max(1e-9);
        let figures = format!(
            "loss {:.4} acc {:.3} |h| var {:.3e} {:.0} tok/s",
            line.loss, line.accuracy, line.hidden_norm_var, rate
        );
        let done = line.step - self.first;
        let left = self.started.elapsed().as_secs_f64() / done as f64 * (self.total - line.step) as f64;
        if done == STEPS_BEFORE_ESTIMATE && self.total > line.step {
            let eta = human(left);
            self.print(&format!("time: about {eta} for the remaining {} steps", self.total - line.step));
        }
        match &self.bar {
            Some(bar) => {
                bar.set_message(figures);
                bar.set_position(line.step);
            }
            None => {
                let due = self.last_plain.is_none_or(|last| last.elapsed() >= PLAIN_EVERY);
                if due || line.step == self.total {
                    eprintln!("step {}/{} {figures} eta {}", line.step, self.total, human(left));
                    self.last_plain = Some(Instant::now());
                }
            }
        }
    }

    /// What the loop is busy with besides steps; shown on a terminal only.
    pub fn note(&self, what: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(what.to_owned());
        }
    }

    /// A split is evaluated.
    pub fn evaluated(&self, split: &str, report: &SplitReport) {
        let figure = |value: Option<f64>| value.map_or("-".to_owned(), |v| format!("{v:.4}"));
        let name = match report.metric {
            crate::eval::Metric::Accuracy => "accuracy",
            crate::eval::Metric::KendallTau => "kendall tau",
        };
        let interval = report.ci95().map_or(String::new(), |[lo, hi]| format!(" [{lo:.4}, {hi:.4}]"));
        self.print(&format!("eval {split}: {name} {}{interval}", figure(report.value())));
    }

    /// What a person should know of, an alarm say.
    pub fn warning(&self, step: u64, message: &str) {
        self.print(&format!("warning: step {step}: {message}"));
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn print(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(line),
            None => eprintln!("{line}"),
        }
    }
}

/// A duration in the two units that matter.
pub fn human(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{whole}s"),
        60..3600 => format!("{}m{:02}s", whole / 60, whole % 60),
        _ => format!("{}h{:02}m", whole / 3600, whole / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::human;

    #[test]
    fn durations_are_short() {
        assert_eq!([7.4, 61.0, 3599.0, 93_784.0].map(human), ["7s", "1m01s", "59m59s", "26h03m"]);
    }
}
