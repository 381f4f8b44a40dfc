//! Histograms of the rewards of evaluated sets.

use super::Run;
use super::axis::Axis;
use super::figure::{Figure, LegendEntry, TABLE_ROWS, Table};
use super::number::{figure, figure_or_nothing};
use super::plot::{Plot, run_class};
use super::scenarios::set_names;
use super::svg::shortened;

/// A figure for each set whose histogram some `eval.json` has.
pub fn figures(runs: &[Run]) -> Vec<Figure> {
    set_names(runs).iter().filter_map(|set| figure_of(runs, set)).collect()
}

/// A run's histogram of a set.
struct Bars {
    run: usize,
    name: String,
    mean: Option<f64>,
    /// From, to and density.
    bars: Vec<(f64, f64, f64)>,
}

fn figure_of(runs: &[Run], set: &str) -> Option<Figure> {
    let of_run = |(run, found): (usize, &Run)| {
        let (sets, _) = found.sets();
        let (_, figures) = sets.into_iter().find(|(name, _)| *name == set)?;
        let bars = figures.rewards.as_ref()?.histogram.as_ref()?.densities();
        (!bars.is_empty()).then(|| Bars { run, name: found.name.clone(), mean: figures.reward_mean, bars })
    };
    let all: Vec<Bars> = runs.iter().enumerate().filter_map(of_run).collect();
    let edges = all.iter().flat_map(|bars| bars.bars.iter().flat_map(|(from, to, _)| [*from, *to]));
    let x = Axis::linear(edges)?;
    let densities = all.iter().flat_map(|bars| bars.bars.iter().map(|(_, _, density)| *density));
    let highest = Some(densities.fold(0.0, f64::max)).filter(|density| *density > 0.0)?;
    let mut plot = Plot::new(x, Axis::of(0.0, 1.08 * highest), "reward");
    for Bars { run, bars, .. } in &all {
        let (mut x, mut y) = (Vec::new(), Vec::new());
        for (from, to, density) in bars {
            x.extend([*from, *to]);
            y.extend([*density, *density]);
        }
        // Down to the axis at both ends.
        let ends = bars.first().zip(bars.last()).map(|(first, last)| (first.0, last.1));
        if let Some((first, last)) = ends {
            x.insert(0, first);
            y.insert(0, 0.0);
            x.push(last);
            y.push(0.0);
        }
        let class = run_class(*run);
        plot.band(&format!("band b1 {class}"), &x, &vec![0.0; x.len()], &y);
        plot.line(&format!("curve {class}"), &x, &y);
    }
    let title = format!("Rewards on {}", shortened(set, 40));
    let legend: Vec<LegendEntry> = all
        .iter()
        .map(|bars| LegendEntry {
            class: run_class(bars.run),
            kind: "line",
            name: bars.name.clone(),
            value: bars.mean.map(|mean| format!("mean {}", figure(mean))).unwrap_or_default(),
        })
        .collect();
    let means: Vec<String> = all
        .iter()
        .map(|bars| format!("{} has a mean of {}", bars.name, figure_or_nothing(bars.mean)))
        .collect();
    let label = format!("Histogram of the rewards on {set}: {}", means.join("; "));
    Some(Figure::new(
        &title,
        "density over all responses of the set",
        plot.finish(&label, false),
        legend,
        String::new(),
        table(&all),
    ))
}

fn table(all: &[Bars]) -> Table {
    let rows = all.iter().flat_map(|bars| {
        // Neighbours together where there are more bins than rows.
        let together = bars.bars.len().div_ceil(TABLE_ROWS);
        bars.bars.chunks(together).map(|chunk| {
            let share: f64 = chunk.iter().map(|(from, to, density)| (to - from) * density).sum();
            let (from, to) =
                chunk.first().zip(chunk.last()).map_or((f64::NAN, f64::NAN), |(a, b)| (a.0, b.1));
            vec![bars.name.clone(), figure(from), figure(to), format!("{:.1}%", 100.0 * share)]
        })
    });
    Table { head: ["run", "from", "to", "share"].map(String::from).into(), rows: rows.collect() }
}
