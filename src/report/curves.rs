//! Lines over steps, groups of runs on top of each other.

use super::axis::Axis;
use super::figure::{Figure, LegendEntry, Table, sampled};
use super::number::{figure, figure_or_nothing};
use super::plot::{Plot, run_class};
use super::series::{Series, across, largest, least, middle, span_of};
use super::{Run, RunGroup};
use std::collections::HashMap;

/// One value of so many may lie below a logarithmic axis.
const LOWEST_SHARE: usize = 100;

/// One line.
#[derive(Debug)]
pub struct Line {
    /// Classes of its colour and dashes.
    pub class: String,
    pub name: String,
    /// One a seed. Of several, the line is their median and a band goes from the least to the largest.
    pub seeds: Vec<Series>,
}

/// A line as it is drawn.
struct Drawn<'l> {
    line: &'l Line,
    middle: Series,
    /// The least and the largest of several seeds.
    band: Option<[Series; 2]>,
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
    pub fn figure(&self, groups: &[RunGroup]) -> Option<Figure> {
        let lines = groups.iter().enumerate().filter_map(|(i, group)| {
            let seeds = seeds_of(group, |run| field_of(run, self.name, self.minus))?;
            Some(Line { class: run_class(i), name: group.name.clone(), seeds })
        });
        let curves = Curves {
            title: self.title.into(),
            unit: self.unit,
            log: self.log,
            rule: self.rule,
            moments: self.alarm.map(|rule| moments(groups, rule, None)).unwrap_or_default(),
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

/// What `of` finds in the runs of a group; `None` where it finds nothing.
pub fn seeds_of<T>(group: &RunGroup, of: impl Fn(&Run) -> Option<T>) -> Option<Vec<T>> {
    let found: Vec<T> = group.runs.iter().filter_map(of).collect();
    (!found.is_empty()).then_some(found)
}

/// The last step of any run.
pub fn last_step(groups: &[RunGroup]) -> f64 {
    let runs = groups.iter().flat_map(|group| &group.runs);
    runs.filter_map(|run| run.steps.numbers().last()).fold(0.0, |last: f64, step| last.max(*step as f64))
}

pub fn steps_of(run: &Run) -> Vec<f64> {
    run.steps.numbers().iter().map(|step| *step as f64).collect()
}

/// The alarms of a rule; of those about sets the ones about `set`, if one is given.
pub fn moments(groups: &[RunGroup], rule: &str, set: Option<&str>) -> Vec<Moment> {
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
    let runs = groups.iter().enumerate().flat_map(|(i, group)| group.runs.iter().map(move |run| (i, run)));
    runs.flat_map(of_run).collect()
}

impl Curves {
    /// Draws the lines; on `y` if given, so that figures beside each other compare. `None` where there is nothing to
    /// draw.
    pub fn figure(&self, lines: &[Line], y: Option<&Axis>) -> Option<Figure> {
        let drawn: Vec<Drawn> = lines.iter().map(|line| self.drawn(line)).collect();
        let last = drawn.iter().filter_map(|line| line.middle.x.last()).fold(0.0, |a: f64, b| a.max(*b));
        let y = y.cloned().or_else(|| self.axis(lines))?;
        let mut plot = Plot::new(Axis::steps(last), y, "step");
        if let Some(rule) = self.rule {
            plot.rule(rule);
        }
        for Drawn { line, band, .. } in &drawn {
            if let Some([low, high]) = band {
                let (low, high) = (low.reduced(least), high.reduced(largest));
                plot.band(&format!("band b0 {}", line.class), &low.x, &low.y, &high.y);
            } else if self.style == Style::Smoothed {
                for series in line.seeds.iter().filter(|series| span_of(series.x.len()) > 1) {
                    let outline = series.outline();
                    plot.line(&format!("raw {}", line.class), &outline.x, &outline.y);
                }
            }
        }
        for Drawn { line, middle, .. } in &drawn {
            let thin = middle.thinned();
            plot.line(&format!("curve {}", line.class), &thin.x, &thin.y);
            if self.style == Style::Dots {
                middle.x.iter().zip(&middle.y).for_each(|(x, y)| plot.dot(&line.class, *x, *y));
            }
        }
        self.moments.iter().for_each(|moment| plot.moment(&moment.class, moment.step, &moment.title));
        let legend: Vec<LegendEntry> = drawn
            .iter()
            .map(|Drawn { line, middle, .. }| LegendEntry {
                class: line.class.clone(),
                kind: "line",
                name: line.name.clone(),
                value: figure_or_nothing(middle.last()),
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

    fn drawn<'l>(&self, line: &'l Line) -> Drawn<'l> {
        let seeds: Vec<Series> = line.seeds.iter().map(|series| self.smooth(series)).collect();
        let band = (seeds.len() > 1).then(|| [across(&seeds, least), across(&seeds, largest)]);
        Drawn { line, middle: across(&seeds, middle), band }
    }

    /// The axis that holds all values; a logarithmic one all but the lowest of many, which come near its depths.
    pub fn axis(&self, lines: &[Line]) -> Option<Axis> {
        let mut values: Vec<f64> = Vec::new();
        for line in lines {
            let alone = line.seeds.len() < 2;
            for series in &line.seeds {
                // Single steps are drawn of a run alone only.
                values.extend(if alone { series.y.clone() } else { self.smooth(series).y });
            }
        }
        if !self.log {
            return Axis::linear(values);
        }
        values.retain(|value| *value > 0.0);
        values.sort_by(f64::total_cmp);
        Axis::logarithmic(values.get(values.len() / LOWEST_SHARE..)?.iter().copied())
    }
}

/// Some of the steps of the longest line, with every line's value; of several seeds their median, least and largest.
fn table(lines: &[Line]) -> Table {
    let columns: Vec<(String, Series)> = lines
        .iter()
        .flat_map(|Line { name, seeds, .. }| match seeds.as_slice() {
            [one] => vec![(name.clone(), one.clone())],
            seeds => vec![
                (format!("{name}, median"), across(seeds, middle)),
                (format!("{name}, least"), across(seeds, least)),
                (format!("{name}, largest"), across(seeds, largest)),
            ],
        })
        .collect();
    let longest = columns.iter().max_by_key(|(_, series)| series.x.len());
    let steps = longest.map_or(&[][..], |(_, series)| &series.x);
    let values: Vec<HashMap<u64, f64>> = columns
        .iter()
        .map(|(_, series)| series.x.iter().map(|x| *x as u64).zip(series.y.iter().copied()).collect())
        .collect();
    let row = |step: u64| {
        let cells = values.iter().map(|values| figure(values.get(&step).copied().unwrap_or(f64::NAN)));
        std::iter::once(step.to_string()).chain(cells).collect()
    };
    Table {
        head: std::iter::once("step".to_owned())
            .chain(columns.iter().map(|(name, _)| name.clone()))
            .collect(),
        rows: sampled(steps.len()).into_iter().map(|i| row(steps[i] as u64)).collect(),
    }
}
