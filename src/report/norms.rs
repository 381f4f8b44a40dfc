//! Hidden norms: the figures that the diagnosis of over-optimization rests on.

use super::RunGroup;
use super::axis::Axis;
use super::curves::{Curves, Field, Line, Style, field_of, last_step, seeds_of};
use super::figure::{Figure, LegendEntry, Table, sampled_rows};
use super::number::{figure, figure_or_nothing};
use super::plot::{Plot, run_class};
use super::series::{Series, across, largest, least, mean, middle};
use super::svg::shortened;

/// The levels of `hidden_norm_quantiles`, as people say them.
const LEVELS: [&str; 7] = ["least", "5%", "25%", "median", "75%", "95%", "largest"];

/// The figures, in order.
pub fn figures(groups: &[RunGroup]) -> Vec<Figure> {
    let field = |title, unit, name| Field { title, unit, name, ..Field::default() };
    let spread = [
        Field {
            log: true,
            alarm: Some("norm-growth"),
            note: "The figure to watch: it grows where rewards are told apart by the length of h instead of its \
                   direction.",
            ..field(
                "Hidden-norm variance",
                "variance of |h| over a step's sequences, log axis",
                "hidden_norm_var",
            )
        },
        Field {
            rule: Some(0.0),
            alarm: Some("norm-skew"),
            note: "Above 0: a tail of very long vectors.",
            ..field("Hidden-norm skew", "third standardized moment of |h|", "hidden_norm_skew")
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
    let drawn = |field: &Field| field.figure(groups);
    let mut figures: Vec<Figure> = spread.iter().filter_map(drawn).collect();
    figures.extend(fans(groups));
    figures.extend(drawn(&sides));
    figures.extend(chosen_and_rejected(groups));
    figures.extend(direction.iter().filter_map(drawn));
    figures
}

/// A group's quantiles, one series a level: over seeds the least of the least, the largest of the largest, and medians of
/// the levels between.
fn quantiles(group: &RunGroup) -> Option<Vec<Series>> {
    let level = |i: usize| {
        let seeds = seeds_of(group, |run| field_of(run, &format!("hidden_norm_quantiles.{i}"), None))?;
        Some(match i {
            0 => across(&seeds, least),
            i if i == LEVELS.len() - 1 => across(&seeds, largest),
            _ => across(&seeds, middle),
        })
    };
    (0..LEVELS.len()).map(level).collect()
}

/// Levels thin enough to draw: extremes stay, the levels between are averaged.
fn thinned(levels: &[Series]) -> Vec<Series> {
    let reduced = levels.iter().enumerate().map(|(i, series)| match i {
        0 => series.reduced(least),
        i if i == levels.len() - 1 => series.reduced(largest),
        _ => series.reduced(mean),
    });
    reduced.collect()
}

/// Quantile fans, a figure a group, on one axis.
fn fans(groups: &[RunGroup]) -> Vec<Figure> {
    let fans: Vec<(usize, &RunGroup, Vec<Series>)> =
        groups.iter().enumerate().filter_map(|(i, group)| Some((i, group, quantiles(group)?))).collect();
    let values =
        fans.iter().flat_map(|(_, _, levels)| levels.iter().flat_map(|level| level.y.iter().copied()));
    let Some(y) = Axis::linear(values) else { return Vec::new() };
    let last = last_step(groups);
    let fan = |(i, group, all): &(usize, &RunGroup, Vec<Series>)| {
        let levels = thinned(all);
        let class = run_class(*i);
        let mut plot = Plot::new(Axis::steps(last), y.clone(), "step");
        for (depth, (low, high)) in [(0, 6), (1, 5), (2, 4)].into_iter().enumerate() {
            plot.band(&format!("band b{depth} {class}"), &levels[low].x, &levels[low].y, &levels[high].y);
        }
        plot.line(&format!("curve {class}"), &levels[3].x, &levels[3].y);
        let title = format!("Distribution of hidden norms, {}", shortened(&group.name, 40));
        let ends: Vec<String> = LEVELS
            .iter()
            .zip(&levels)
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
            group.count().map_or_else(String::new, |count| {
                format!("Medians of the levels over {count}; all is from the least to the largest of any.")
            }),
            fan_table(all),
        )
    };
    fans.iter().map(fan).collect()
}

fn fan_table(levels: &[Series]) -> Table {
    Table {
        head: std::iter::once("step").chain(LEVELS).map(String::from).collect(),
        rows: sampled_rows(levels),
    }
}

/// Mean norms of chosen and of rejected responses, a figure a group, on one axis.
fn chosen_and_rejected(groups: &[RunGroup]) -> Vec<Figure> {
    let lines_of = |i: usize, group: &RunGroup| {
        let line = |name: &str, class: String| {
            let seeds = seeds_of(group, |run| field_of(run, &format!("hidden_norm_{name}_mean"), None))?;
            Some(Line { class, name: name.into(), seeds })
        };
        let chosen = line("chosen", run_class(i))?;
        Some([chosen, line("rejected", "other".into())?])
    };
    let all: Vec<(&RunGroup, [Line; 2])> =
        groups.iter().enumerate().filter_map(|(i, group)| Some((group, lines_of(i, group)?))).collect();
    let lines = all.iter().flat_map(|(_, lines)| lines).flat_map(|line| &line.seeds);
    let Some(y) = Axis::linear(lines.flat_map(|series| series.y.iter().copied())) else { return Vec::new() };
    let figure = |(group, lines): &(&RunGroup, [Line; 2])| {
        let curves = Curves {
            title: format!("Norms of chosen and rejected, {}", shortened(&group.name, 40)),
            unit: "mean |h|; all runs on one axis",
            ..Curves::default()
        };
        curves.figure(lines, Some(&y))
    };
    all.iter().filter_map(figure).collect()
}
