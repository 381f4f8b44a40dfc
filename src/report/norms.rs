//! Hidden norms: the figures that the diagnosis of over-optimization rests on.

use super::Run;
use super::axis::Axis;
use super::curves::{Curves, Field, Line, Style, field_of, steps_of};
use super::figure::{Figure, LegendEntry, Table, sampled};
use super::number::{figure, figure_or_nothing};
use super::plot::{Plot, run_class};
use super::series::{Series, mean};
use super::svg::shortened;

/// The levels of `hidden_norm_quantiles`, as people say them.
const LEVELS: [&str; 7] = ["least", "5%", "25%", "median", "75%", "95%", "largest"];

/// The figures, in order.
pub fn figures(runs: &[Run]) -> Vec<Figure> {
    let field = |title, unit, name| Field { title, unit, name, ..Field::default() };
    let spread = [
        Field {
            log: true,
            alarm: Some("norm-growth"),
            note: "The figure to watch: it grows where rewards are told apart by the length of h instead of its \
                   direction.",
            ..field(
                "Variance of hidden norms",
                "variance of |h| over a step's sequences, log axis",
                "hidden_norm_var",
            )
        },
        Field {
            rule: Some(0.0),
            alarm: Some("norm-skew"),
            note: "Above 0: a tail of very long vectors.",
            ..field("Skew of hidden norms", "third standardized moment of |h|", "hidden_norm_skew")
        },
        field("Largest hidden norm", "largest |h| of a step", "hidden_norm_max"),
    ];
    let sides = Field {
        minus: Some("hidden_norm_rejected_mean"),
        rule: Some(0.0),
        note: "Away from 0, the norm alone tells chosen from rejected.",
        ..field("Chosen minus rejected norm", "difference of mean |h|", "hidden_norm_chosen_mean")
    };
    let direction = [
        field("Distance of a pair", "mean |h_chosen − h_rejected|", "hidden_diff_norm_mean"),
        Field { style: Style::Exact, ..field("Norm of the head", "|W_p|", "head_norm") },
        Field {
            rule: Some(0.0),
            note: "Away from 0, rewards share an offset in the head's direction.",
            ..field("Angle between head and hidden states", "mean cos(W_p, h)", "cos_mean")
        },
    ];
    let drawn = |field: &Field| field.figure(runs);
    let mut figures: Vec<Figure> = spread.iter().filter_map(drawn).collect();
    figures.extend(fans(runs));
    figures.extend(drawn(&sides));
    figures.extend(chosen_and_rejected(runs));
    figures.extend(direction.iter().filter_map(drawn));
    figures
}

/// A run's quantiles, one series a level, thin enough to draw: extremes stay, the levels between are averaged.
fn quantiles(run: &Run) -> Option<Vec<Series>> {
    let level = |i: usize| field_of(run, &format!("hidden_norm_quantiles.{i}"), None);
    let series = (0..LEVELS.len()).map(level).collect::<Option<Vec<_>>>()?;
    let last = LEVELS.len() - 1;
    let reduced = series.iter().enumerate().map(|(i, series)| match i {
        0 => series.reduced(|values| values.iter().copied().fold(f64::INFINITY, f64::min)),
        i if i == last => series.reduced(|values| values.iter().copied().fold(f64::NEG_INFINITY, f64::max)),
        _ => series.reduced(mean),
    });
    Some(reduced.collect())
}

/// Quantile fans, a figure a run, on one axis.
fn fans(runs: &[Run]) -> Vec<Figure> {
    let fans: Vec<(usize, &Run, Vec<Series>)> =
        runs.iter().enumerate().filter_map(|(i, run)| Some((i, run, quantiles(run)?))).collect();
    let values =
        fans.iter().flat_map(|(_, _, levels)| levels.iter().flat_map(|level| level.y.iter().copied()));
    let Some(y) = Axis::linear(values) else { return Vec::new() };
    let last = runs.iter().filter_map(|run| steps_of(run).last().copied()).fold(0.0, f64::max);
    let fan = |(i, run, levels): &(usize, &Run, Vec<Series>)| {
        let class = run_class(*i);
        let mut plot = Plot::new(Axis::steps(last), y.clone(), "step");
        for (depth, (low, high)) in [(0, 6), (1, 5), (2, 4)].into_iter().enumerate() {
            plot.band(&format!("band b{depth} {class}"), &levels[low].x, &levels[low].y, &levels[high].y);
        }
        plot.line(&format!("curve {class}"), &levels[3].x, &levels[3].y);
        let title = format!("Distribution of hidden norms, {}", shortened(&run.name, 40));
        let ends: Vec<String> = LEVELS
            .iter()
            .zip(levels)
            .map(|(name, level)| format!("{name} {}", figure_or_nothing(level.last())))
            .collect();
        let label = format!("{title}, by step; at the end: {}", ends.join(", "));
        let entry = |class: String, kind, name: &str, value: Option<f64>| LegendEntry {
            class,
            kind,
            name: name.into(),
            value: value.map(figure).unwrap_or_default(),
        };
        let legend = vec![
            entry(class.clone(), "line", "median", levels[3].last()),
            entry(format!("b2 {class}"), "bar", "half", None),
            entry(format!("b1 {class}"), "bar", "90%", None),
            entry(format!("b0 {class}"), "bar", "all", None),
        ];
        Figure::new(
            &title,
            "|h| of a step's sequences; all runs on one axis",
            plot.finish(&label, true),
            legend,
            String::new(),
            fan_table(run),
        )
    };
    fans.iter().map(fan).collect()
}

fn fan_table(run: &Run) -> Table {
    let levels: Vec<&[f64]> = (0..LEVELS.len())
        .map(|i| run.steps.column(&format!("hidden_norm_quantiles.{i}")).unwrap_or_default())
        .collect();
    let numbers = run.steps.numbers();
    let row = |i: usize| {
        let cells = levels.iter().map(|level| figure(level.get(i).copied().unwrap_or(f64::NAN)));
        std::iter::once(numbers[i].to_string()).chain(cells).collect()
    };
    Table {
        head: std::iter::once("step").chain(LEVELS).map(String::from).collect(),
        rows: sampled(numbers.len()).into_iter().map(row).collect(),
    }
}

/// Mean norms of chosen and of rejected responses, a figure a run, on one axis.
fn chosen_and_rejected(runs: &[Run]) -> Vec<Figure> {
    let lines_of = |i: usize, run: &Run| {
        let line = |name: &str, class: String| {
            let series = field_of(run, &format!("hidden_norm_{name}_mean"), None)?;
            Some(Line { class, name: name.into(), series })
        };
        let chosen = line("chosen", run_class(i))?;
        Some([chosen, line("rejected", "other".into())?])
    };
    let all: Vec<(&Run, [Line; 2])> =
        runs.iter().enumerate().filter_map(|(i, run)| Some((run, lines_of(i, run)?))).collect();
    let lines = all.iter().flat_map(|(_, lines)| lines.iter().flat_map(|line| line.series.y.iter().copied()));
    let Some(y) = Axis::linear(lines) else { return Vec::new() };
    let figure = |(run, lines): &(&Run, [Line; 2])| {
        let curves = Curves {
            title: format!("Norms of chosen and rejected, {}", shortened(&run.name, 40)),
            unit: "mean |h|; all runs on one axis",
            ..Curves::default()
        };
        curves.figure(lines, Some(&y))
    };
    all.iter().filter_map(figure).collect()
}
