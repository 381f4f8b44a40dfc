//! Histograms of the rewards of evaluated sets.

use super::RunGroup;
use super::axis::Axis;
use super::curves::seeds_of;
use super::figure::{Figure, LegendEntry, TABLE_ROWS, Table};
use super::number::{figure, figure_or_nothing};
use super::over_seeds::OverSeeds;
use super::plot::{Plot, run_class};
use super::scenarios::{noun, set_names, set_of};
use super::svg::shortened;

/// A figure for each set whose histogram some run has, in `eval.json` or in its last evaluation.
pub fn figures(groups: &[RunGroup]) -> Vec<Figure> {
    set_names(groups).iter().filter_map(|set| figure_of(groups, set)).collect()
}

/// A histogram of a set.
struct Bars {
    run: usize,
    name: String,
    means: OverSeeds,
    /// From, to and density.
    bars: Vec<(f64, f64, f64)>,
}

/// The mean of densities, each with bars of its own.
fn pooled(mut all: Vec<Vec<(f64, f64, f64)>>) -> Vec<(f64, f64, f64)> {
    if all.len() < 2 {
        return all.pop().unwrap_or_default();
    }
    let mut edges: Vec<f64> = all.iter().flatten().flat_map(|(from, to, _)| [*from, *to]).collect();
    edges.sort_by(f64::total_cmp);
    edges.dedup();
    let density = |middle: f64| {
        let of = |bars: &Vec<(f64, f64, f64)>| {
            let bar = bars.iter().find(|(from, to, _)| (*from..*to).contains(&middle));
            bar.map_or(0.0, |(_, _, density)| *density)
        };
        all.iter().map(of).sum::<f64>() / all.len() as f64
    };
    let between = edges.windows(2).filter_map(|ends| ends.first().copied().zip(ends.last().copied()));
    between.map(|(from, to)| (from, to, density(f64::midpoint(from, to)))).collect()
}

fn figure_of(groups: &[RunGroup], set: &str) -> Option<Figure> {
    let of_group = |(run, group): (usize, &RunGroup)| {
        let seeds = seeds_of(group, |run| {
            let bars = set_of(run, set)?.rewards.as_ref()?.histogram.as_ref()?.densities();
            (!bars.is_empty()).then_some(bars)
        })?;
        let means = group.over_seeds(|run| set_of(run, set)?.reward_mean);
        Some(Bars { run, name: group.name.clone(), means, bars: pooled(seeds) })
    };
    let all: Vec<Bars> = groups.iter().enumerate().filter_map(of_group).collect();
    let edges = all.iter().flat_map(|bars| bars.bars.iter().flat_map(|(from, to, _)| [*from, *to]));
    let x = Axis::linear(edges)?;
    let densities = all.iter().flat_map(|bars| bars.bars.iter().map(|(_, _, density)| *density));
    let highest = Some(densities.fold(0.0, f64::max)).filter(|density| *density > 0.0)?;
    let mut plot = Plot::new(x, Axis::of(0.0, 1.08 * highest), "reward");
    let several = groups.iter().any(RunGroup::is_several);
    let fill = if several { "b0" } else { "b1" };
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
        plot.band(&format!("band {fill} {class}"), &x, &vec![0.0; x.len()], &y);
        plot.line(&format!("curve {class}"), &x, &y);
    }
    let title = format!("Rewards on {}", shortened(set, 40));
    let legend: Vec<LegendEntry> = all
        .iter()
        .map(|bars| LegendEntry {
            class: run_class(bars.run),
            kind: "line",
            name: bars.name.clone(),
            value: bars.means.mean().map(|mean| format!("mean {}", figure(mean))).unwrap_or_default(),
        })
        .collect();
    let means: Vec<String> = all
        .iter()
        .map(|bars| format!("{} has a mean of {}", bars.name, figure_or_nothing(bars.means.mean())))
        .collect();
    let label = format!("Histogram of the rewards on {set}: {}", means.join("; "));
    Some(Figure::new(
        &title,
        if several {
            "density over all responses of the set, of seeds their mean"
        } else {
            "density over all responses of the set"
        },
        plot.finish(&label, false),
        legend,
        String::new(),
        table(&all, noun(groups)),
    ))
}

fn table(all: &[Bars], noun: &str) -> Table {
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
    Table { head: [noun, "from", "to", "share"].map(String::from).into(), rows: rows.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn densities_of_seeds_are_averaged_piece_by_piece() {
        let found = pooled(vec![vec![(0.0, 2.0, 0.5)], vec![(1.0, 2.0, 0.75), (2.0, 3.0, 0.25)]]);
        assert_eq!(found, [(0.0, 1.0, 0.25), (1.0, 2.0, 0.625), (2.0, 3.0, 0.125)]);
        let area: f64 = found.iter().map(|(from, to, density)| (to - from) * density).sum();
        assert!((area - 1.0).abs() < 1e-12);
    }
}
