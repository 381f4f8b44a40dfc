//! Rewards: where they are in training, and how they are distributed over the evaluated sets.

use super::axis::Axis;
use super::curves::{Field, field_of, last_step, seeds_of};
use super::figure::{Figure, LegendEntry, Table, sampled_rows};
use super::histogram;
use super::number::figure_or_nothing;
use super::plot::{Plot, run_class};
use super::series::{Series, across, largest, least, mean, middle, span_of};
use super::svg::shortened;
use super::{Run, RunGroup};

/// The figures, in order.
pub fn figures(groups: &[RunGroup]) -> Vec<Figure> {
    let field = |title, unit, name| Field { title, unit, name, rule: Some(0.0), ..Field::default() };
    let fields = [
        Field {
            alarm: Some("reward-drift"),
            note: "Bradley-Terry alone says nothing of it; sum-to-zero pulls it to 0.",
            ..field("Mean reward", "mean over a step's sequences", "reward_mean")
        },
        field("Margin", "mean reward of chosen minus rejected", "margin_mean"),
        Field {
            rule: None,
            ..field("Spread of rewards", "standard deviation over a step's sequences", "reward_std")
        },
        Field {
            rule: None,
            note: "How far the heads of an ensemble disagree.",
            ..field(
                "Spread over heads",
                "mean over a step's sequences of the standard deviation over the heads",
                "head_spread_mean",
            )
        },
    ];
    let mut figures: Vec<Figure> = fields.iter().filter_map(|field| field.figure(groups)).collect();
    figures.extend(bands(groups));
    figures.extend(histogram::figures(groups));
    figures
}

/// Mean, deviation and extremes of rewards.
struct Spread {
    mean: Series,
    low: Series,
    high: Series,
    least: Series,
    largest: Series,
}

impl Spread {
    fn of(run: &Run) -> Option<Self> {
        let span = span_of(run.steps.numbers().len());
        let centre = field_of(run, "reward_mean", None)?.smoothed(span, false);
        let deviation = field_of(run, "reward_std", None)?.smoothed(span, false);
        let shifted = |sign: f64| {
            let y = centre.y.iter().zip(&deviation.y).map(|(mean, std)| mean + sign * std).collect();
            Series::new(centre.x.clone(), y)
        };
        Some(Self {
            low: shifted(-1.0),
            high: shifted(1.0),
            least: field_of(run, "reward_min", None)?,
            largest: field_of(run, "reward_max", None)?,
            mean: centre,
        })
    }

    /// Medians over seeds, and the extremes of any; thin enough to draw.
    fn over_seeds(group: &RunGroup) -> Option<Self> {
        let seeds = seeds_of(group, Self::of)?;
        let all =
            |part: fn(&Self) -> &Series| seeds.iter().map(|seed| part(seed).clone()).collect::<Vec<_>>();
        Some(Self {
            mean: across(&all(|s| &s.mean), middle).reduced(mean),
            low: across(&all(|s| &s.low), middle).reduced(mean),
            high: across(&all(|s| &s.high), middle).reduced(mean),
            least: across(&all(|s| &s.least), least).reduced(least),
            largest: across(&all(|s| &s.largest), largest).reduced(largest),
        })
    }
}

/// Rewards of a step, a figure a group, on one axis.
fn bands(groups: &[RunGroup]) -> Vec<Figure> {
    let all: Vec<(usize, &RunGroup, Spread)> = groups
        .iter()
        .enumerate()
        .filter_map(|(i, group)| Some((i, group, Spread::over_seeds(group)?)))
        .collect();
    let values = all.iter().flat_map(|(_, _, s)| s.least.y.iter().chain(&s.largest.y).copied());
    let Some(y) = Axis::linear(values) else { return Vec::new() };
    let last = last_step(groups);
    let figure_of = |(i, group, spread): &(usize, &RunGroup, Spread)| {
        let class = run_class(*i);
        let mut plot = Plot::new(Axis::steps(last), y.clone(), "step");
        plot.rule(0.0);
        plot.band(&format!("band b0 {class}"), &spread.least.x, &spread.least.y, &spread.largest.y);
        plot.band(&format!("band b2 {class}"), &spread.low.x, &spread.low.y, &spread.high.y);
        plot.line(&format!("curve {class}"), &spread.mean.x, &spread.mean.y);
        let title = format!("Rewards, {}", shortened(&group.name, 40));
        let label = format!(
            "{title}, by step; at the end: mean {}, from {} to {}",
            figure_or_nothing(spread.mean.last()),
            figure_or_nothing(spread.least.last()),
            figure_or_nothing(spread.largest.last())
        );
        let entry = |class: String, kind, name: &str, value: String| LegendEntry {
            class,
            kind,
            name: name.into(),
            value,
        };
        let legend = vec![
            entry(class.clone(), "line", "mean", figure_or_nothing(spread.mean.last())),
            entry(format!("b2 {class}"), "bar", "±1 deviation", String::new()),
            entry(format!("b0 {class}"), "bar", "all", String::new()),
        ];
        Figure::new(
            &title,
            "rewards of a step's sequences; all runs on one axis",
            plot.finish(&label, true),
            legend,
            group.count().map_or_else(String::new, |count| {
                format!("Medians over {count}; all is from the least to the largest of any.")
            }),
            table(group),
        )
    };
    all.iter().map(figure_of).collect()
}

fn table(group: &RunGroup) -> Table {
    type Reduce = fn(&[f64]) -> f64;
    let columns: [(&str, Reduce); 4] =
        [("reward_mean", middle), ("reward_std", middle), ("reward_min", least), ("reward_max", largest)];
    let series = columns.map(|(name, reduce)| {
        across(&seeds_of(group, |run| field_of(run, name, None)).unwrap_or_default(), reduce)
    });
    Table {
        head: ["step", "mean", "deviation", "least", "largest"].map(String::from).into(),
        rows: sampled_rows(&series),
    }
}
