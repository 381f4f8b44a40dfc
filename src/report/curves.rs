//! Lines over steps, runs on top of each other.

use super::Run;
use super::axis::Axis;
use super::figure::{Figure, LegendEntry, Table, sampled};
use super::number::{figure, figure_or_nothing};
use super::plot::{Plot, run_class};
use super::series::{Series, span_of};
use std::collections::HashMap;

/// One value of so many may lie below a logarithmic axis.
const LOWEST_SHARE: usize = 100;

/// One line.
#[derive(Debug)]
pub struct Line {
    /// Classes of its colour and dashes.
    pub class: String,
    pub name: String,
    pub series: Series,
}

/// What is drawn, and how.
#[derive(Debug, Default)]
pub struct Curves {
    pub title: String,
    pub unit: &'static str,
    pub log: bool,
    /// A value to compare with.
    pub rule: Option<f64>,
    pub style: Style,
    pub moments: Vec<Moment>,
    pub note: &'static str,
}

/// How values become a line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Style {
    /// Their moving average, and they themselves behind it.
    #[default]
    Smoothed,
    /// As they are: what is no sample has no noise.
    Exact,
    /// As they are, each with a dot.
    Dots,
}

/// A moment that is marked.
#[derive(Debug, Clone)]
pub struct Moment {
    pub class: String,
    pub step: f64,
    pub title: String,
}

/// A field of the step lines.
#[derive(Debug, Clone, Copy, Default)]
pub struct Field {
    pub title: &'static str,
    pub unit: &'static str,
    pub name: &'static str,
    /// Subtracted from it.
    pub minus: Option<&'static str>,
    pub log: bool,
    pub style: Style,
    pub rule: Option<f64>,
    /// The rule of `[guard]` whose alarms are marked.
    pub alarm: Option<&'static str>,
    pub note: &'static str,
}

impl Field {
    /// The figure; `None` where no run has the field.
    pub fn figure(&self, runs: &[Run]) -> Option<Figure> {
        let lines = runs.iter().enumerate().filter_map(|(i, run)| {
            let series = field_of(run, self.name, self.minus)?;
            Some(Line { class: run_class(i), name: run.name.clone(), series })
        });
        let curves = Curves {
            title: self.title.into(),
            unit: self.unit,
            log: self.log,
            rule: self.rule,
            moments: self.alarm.map(|rule| moments(runs, rule, None)).unwrap_or_default(),
            note: self.note,
            style: self.style,
        };
        curves.figure(&lines.collect::<Vec<_>>(), None)
    }
}

/// A field of a run, less another one.
pub fn field_of(run: &Run, name: &str, minus: Option<&str>) -> Option<Series> {
    let column = run.steps.column(name)?;
    let y = match minus {
        None => column.to_vec(),
        Some(other) => column.iter().zip(run.steps.column(other)?).map(|(a, b)| a - b).collect(),
    };
    Some(Series::new(steps_of(run), y))
}

pub fn steps_of(run: &Run) -> Vec<f64> {
    run.steps.numbers().iter().map(|step| *step as f64).collect()
}

/// The alarms of a rule; of those about sets the ones about `set`, if one is given.
pub fn moments(runs: &[Run], rule: &str, set: Option<&str>) -> Vec<Moment> {
    let of_run = |(i, run): (usize, &Run)| {
        let alarms = run
            .alarms
            .iter()
            .filter(|alarm| alarm.rule == rule && (set.is_none() || alarm.split.as_deref() == set));
        let moment = |alarm: &super::run::Alarm| Moment {
            class: run_class(i),
            step: alarm.step as f64,
            title: format!("{}, step {}: {}", run.name, alarm.step, alarm.message),
        };
        alarms.map(moment).collect::<Vec<_>>()
    };
    runs.iter().enumerate().flat_map(of_run).collect()
}

impl Curves {
    /// Draws the lines; on `y` if given, so that figures beside each other compare. `None` where there is nothing to
    /// draw.
    pub fn figure(&self, lines: &[Line], y: Option<&Axis>) -> Option<Figure> {
        let last = lines.iter().filter_map(|line| line.series.x.last()).fold(0.0, |a: f64, b| a.max(*b));
        let y = y.cloned().or_else(|| self.axis(lines))?;
        let mut plot = Plot::new(Axis::steps(last), y, "step");
        if let Some(rule) = self.rule {
            plot.rule(rule);
        }
        let smooth: Vec<Series> = lines.iter().map(|line| self.smooth(&line.series)).collect();
        if self.style == Style::Smoothed {
            for line in lines.iter().filter(|line| span_of(line.series.x.len()) > 1) {
                let outline = line.series.outline();
                plot.line(&format!("raw {}", line.class), &outline.x, &outline.y);
            }
        }
        for (line, smooth) in lines.iter().zip(&smooth) {
            let thin = smooth.thinned();
            plot.line(&format!("curve {}", line.class), &thin.x, &thin.y);
            if self.style == Style::Dots {
                smooth.x.iter().zip(&smooth.y).for_each(|(x, y)| plot.dot(&line.class, *x, *y));
            }
        }
        self.moments.iter().for_each(|moment| plot.moment(&moment.class, moment.step, &moment.title));
        let legend: Vec<LegendEntry> = lines
            .iter()
            .zip(&smooth)
            .map(|(line, smooth)| LegendEntry {
                class: line.class.clone(),
                kind: "line",
                name: line.name.clone(),
                value: figure_or_nothing(smooth.last()),
            })
            .collect();
        let ends: Vec<String> =
            legend.iter().map(|entry| format!("{} ends at {}", entry.name, entry.value)).collect();
        let label = format!("{}, by step: {}", self.title, ends.join("; "));
        let svg = plot.finish(&label, true);
        let alarm = if self.moments.is_empty() { "" } else { "▾ marks an alarm." };
        let note = format!("{} {alarm}", self.note).trim().to_owned();
        Some(Figure::new(&self.title, self.unit, svg, legend, note, table(lines)))
    }

    fn smooth(&self, series: &Series) -> Series {
        match self.style {
            Style::Smoothed => series.smoothed(span_of(series.x.len()), self.log),
            Style::Exact | Style::Dots => series.clone(),
        }
    }

    /// The axis that holds all values; a logarithmic one all but the lowest of many, which come near its depths.
    pub fn axis(&self, lines: &[Line]) -> Option<Axis> {
        let values = lines.iter().flat_map(|line| line.series.y.iter().copied());
        if !self.log {
            return Axis::linear(values);
        }
        let mut values: Vec<f64> = values.filter(|value| *value > 0.0).collect();
        values.sort_by(f64::total_cmp);
        Axis::logarithmic(values.get(values.len() / LOWEST_SHARE..)?.iter().copied())
    }
}

/// Some of the steps of the longest line, with every line's value.
fn table(lines: &[Line]) -> Table {
    let longest = lines.iter().max_by_key(|line| line.series.x.len());
    let steps = longest.map_or(&[][..], |line| &line.series.x);
    let values: Vec<HashMap<u64, f64>> = lines
        .iter()
        .map(|line| line.series.x.iter().map(|x| *x as u64).zip(line.series.y.iter().copied()).collect())
        .collect();
    let row = |step: u64| {
        let cells = values.iter().map(|values| figure(values.get(&step).copied().unwrap_or(f64::NAN)));
        std::iter::once(step.to_string()).chain(cells).collect()
    };
    Table {
        head: std::iter::once("step".to_owned()).chain(lines.iter().map(|line| line.name.clone())).collect(),
        rows: sampled(steps.len()).into_iter().map(|i| row(steps[i] as u64)).collect(),
    }
}
