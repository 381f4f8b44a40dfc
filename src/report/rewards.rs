//! Rewards: where they are in training, and how they are distributed over the evaluated sets.

use super::Run;
use super::axis::Axis;
use super::curves::{Field, field_of, steps_of};
use super::figure::{Figure, LegendEntry, Table, sampled};
use super::histogram;
use super::number::{figure, figure_or_nothing};
use super::plot::{Plot, run_class};
use super::series::{Series, mean, span_of};
use super::svg::shortened;

/// The figures, in order.
pub fn figures(runs: &[Run]) -> Vec<Figure> {
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
    ];
    let mut figures: Vec<Figure> = fields.iter().filter_map(|field| field.figure(runs)).collect();
    figures.extend(bands(runs));
    figures.extend(histogram::figures(runs));
    figures
}

/// Mean, deviation and extremes of a run's rewards, thin enough to draw.
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
            Series::new(centre.x.clone(), y).reduced(mean)
        };
        Some(Self {
            low: shifted(-1.0),
            high: shifted(1.0),
            least: field_of(run, "reward_min", None)?
                .reduced(|v| v.iter().copied().fold(f64::INFINITY, f64::min)),
            largest: field_of(run, "reward_max", None)?
                .reduced(|v| v.iter().copied().fold(f64::NEG_INFINITY, f64::max)),
            mean: centre.reduced(mean),
        })
    }
}

/// Rewards of a step, a figure a run, on one axis.
fn bands(runs: &[Run]) -> Vec<Figure> {
    let all: Vec<(usize, &Run, Spread)> =
        runs.iter().enumerate().filter_map(|(i, run)| Some((i, run, Spread::of(run)?))).collect();
    let values = all.iter().flat_map(|(_, _, s)| s.least.y.iter().chain(&s.largest.y).copied());
    let Some(y) = Axis::linear(values) else { return Vec::new() };
    let last = runs.iter().filter_map(|run| steps_of(run).last().copied()).fold(0.0, f64::max);
    let figure_of = |(i, run, spread): &(usize, &Run, Spread)| {
        let class = run_class(*i);
        let mut plot = Plot::new(Axis::steps(last), y.clone(), "step");
        plot.rule(0.0);
        plot.band(&format!("band b0 {class}"), &spread.least.x, &spread.least.y, &spread.largest.y);
        plot.band(&format!("band b2 {class}"), &spread.low.x, &spread.low.y, &spread.high.y);
        plot.line(&format!("curve {class}"), &spread.mean.x, &spread.mean.y);
        let title = format!("Rewards, {}", shortened(&run.name, 40));
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
            String::new(),
            table(run),
        )
    };
    all.iter().map(figure_of).collect()
}

fn table(run: &Run) -> Table {
    let names = ["reward_mean", "reward_std", "reward_min", "reward_max"];
    let columns = names.map(|name| run.steps.column(name).unwrap_or_default());
    let numbers = run.steps.numbers();
    let row = |i: usize| {
        let cells = columns.iter().map(|column| figure(column.get(i).copied().unwrap_or(f64::NAN)));
        std::iter::once(numbers[i].to_string()).chain(cells).collect()
    };
    Table {
        head: ["step", "mean", "deviation", "least", "largest"].map(String::from).into(),
        rows: sampled(numbers.len()).into_iter().map(row).collect(),
    }
}
