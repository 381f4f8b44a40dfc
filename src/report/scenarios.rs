//! The evaluated sets: accuracy, tau, the over-optimization gap, and what an eval report says beyond them.

use super::bars::{Bar, Bars, Group};
use super::curves::{Curves, Line, Style, moments, seeds_of};
use super::figure::{Figure, Table};
use super::number::{count, figure, figure_or_nothing, share};
use super::plot::run_class;
use super::series::Series;
use super::sets::{Gap, SetFigures, gap_between};
use super::svg::shortened;
use super::{Run, RunGroup};

/// The set that the others are compared with.
pub const IN_DOMAIN: &str = "in-domain";

/// The names of all sets, in the order in which they are met.
pub fn set_names(groups: &[RunGroup]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for run in groups.iter().flat_map(|group| &group.runs) {
        for (name, _) in run.sets() {
            if !names.iter().any(|other| other == name) {
                names.push(name.to_owned());
            }
        }
    }
    names
}

pub fn set_of<'r>(run: &'r Run, name: &str) -> Option<&'r SetFigures> {
    run.sets().into_iter().find(|(set, _)| *set == name).map(|(_, figures)| figures)
}

/// In-domain accuracy minus a set's, as `eval.json` has it, else from the sets' own intervals.
pub fn gap_of(run: &Run, set: &str) -> Option<Gap> {
    let stated = run.report.as_ref().and_then(|report| report.gap(set));
    let between = || gap_between(set_of(run, IN_DOMAIN)?, set_of(run, set)?);
    stated.or_else(|| between().filter(|_| run.are_of_one_model(IN_DOMAIN, set)))
}

/// Where the figures of the runs are from, in a sentence.
pub fn sources(groups: &[RunGroup]) -> String {
    let of_group = |group: &RunGroup| -> Vec<(String, String)> {
        let sources: Vec<String> = group.runs.iter().map(Run::source).collect();
        match sources.first() {
            Some(first) if sources.iter().all(|source| source == first) => {
                vec![(first.clone(), group.name.clone())]
            }
            _ => sources.into_iter().zip(group.runs.iter().map(|run| run.name.clone())).collect(),
        }
    };
    let sources: Vec<(String, String)> = groups.iter().flat_map(of_group).collect();
    match sources.first() {
        Some((first, _)) if sources.iter().all(|(source, _)| source == first) => {
            format!("Figures are from {first}.")
        }
        _ => {
            let told = sources.iter().map(|(source, name)| format!("{source} ({name})"));
            format!("Figures are from {}.", told.collect::<Vec<_>>().join("; "))
        }
    }
}

/// The figures, in order.
pub fn figures(runs: &[RunGroup]) -> Vec<Figure> {
    let names: Vec<&str> = runs.iter().map(|group| group.name.as_str()).collect();
    let sets = set_names(runs);
    let groups = |bar: &dyn Fn(&Run, &str) -> Option<Bar>| -> Vec<Group> {
        let group = |set: &String| {
            let bars = runs.iter().enumerate().filter_map(|(run, group)| {
                let seeds = seeds_of(group, |found| bar(found, set))?;
                Some(Bar { run, ..Bar::over_seeds(seeds)? })
            });
            Group { name: set.clone(), bars: bars.collect() }
        };
        sets.iter().map(group).collect()
    };
    let bar = |value, interval, mark| Bar { value, interval, mark, ..Bar::default() };
    let accuracy = groups(&|run, set| {
        let set = set_of(run, set)?;
        Some(bar(set.accuracy, set.accuracy_ci95, set.longest_wins))
    });
    let tau = groups(&|run, set| {
        let set = set_of(run, set)?;
        set.kendall_tau.map(|tau| bar(Some(tau), set.kendall_tau_ci95, None))
    });
    let gaps = groups(&|run, set| {
        let gap = gap_of(run, set).filter(|_| set != IN_DOMAIN)?;
        Some(bar(gap.accuracy, gap.ci95, None))
    });
    let slopes = groups(&|run, set| Some(bar(set_of(run, set)?.length?.reward_slope, None, None)));
    let shares = || Bars { write: Some(share), ..Bars::default() };
    let drawn = [
        Bars {
            title: "Accuracy",
            unit: "share of response pairs ranked rightly",
            range: Some([0.0, 1.0]),
            from_zero: true,
            rule: Some(0.5),
            mark: Some("picking the longer response."),
            note: "The line is chance.".into(),
            ..shares()
        }
        .figure(&accuracy, &names),
        Bars {
            title: "Over-optimization gap",
            unit: "in-domain accuracy minus the set's",
            rule: Some(0.0),
            note: "Right of the line, the model does worse than on its own domain.".into(),
            ..shares()
        }
        .figure(&gaps, &names),
        Bars {
            title: "Kendall's tau",
            unit: "mean tau-b within a prompt",
            rule: Some(0.0),
            from_zero: true,
            ..shares()
        }
        .figure(&tau, &names),
        Bars {
            title: "Reward and length",
            unit: "standard deviations of the reward a doubling of the length",
            rule: Some(0.0),
            note: "Within prompts. Right of the line, longer responses are rewarded.".into(),
            ..shares()
        }
        .figure(&slopes, &names),
    ];
    drawn.into_iter().flatten().chain(course(runs, &sets)).collect()
}

/// Accuracy by step, a figure a set, where a run was evaluated more than once.
fn course(groups: &[RunGroup], sets: &[String]) -> Vec<Figure> {
    let lines = |set: &str| -> Vec<Line> {
        let of_run = |run: &Run| {
            let points = run.evals.iter().filter(|line| line.split == set);
            let (x, y) = points.map(|e| (e.step as f64, e.figures.accuracy.unwrap_or(f64::NAN))).unzip();
            let series = Series::new(x, y);
            series.last().map(|_| series)
        };
        let of_group = |(i, group): (usize, &RunGroup)| {
            let seeds = seeds_of(group, of_run)?;
            Some(Line { class: run_class(i), name: group.name.clone(), seeds })
        };
        groups.iter().enumerate().filter_map(of_group).collect()
    };
    let all: Vec<(&String, Vec<Line>)> = sets.iter().map(|set| (set, lines(set))).collect();
    let together: Vec<Line> = all.iter().flat_map(|(set, _)| lines(set)).collect();
    if together.iter().flat_map(|line| &line.seeds).all(|series| series.x.len() < 2) {
        return Vec::new();
    }
    let figure = |(set, lines): &(&String, Vec<Line>)| {
        let curves = Curves {
            title: format!("Accuracy on {}, in training", shortened(set, 40)),
            unit: "share of response pairs; all sets on one axis",
            rule: Some(0.5),
            style: Style::Dots,
            moments: moments(groups, "gap", Some(set)),
            ..Curves::default()
        };
        curves.figure(lines, curves.axis(&together).as_ref())
    };
    all.iter().filter_map(figure).collect()
}

/// What the rows of a table are called.
pub fn noun(groups: &[RunGroup]) -> &'static str {
    if groups.iter().any(RunGroup::is_several) { "group" } else { "run" }
}

/// What a table of sets has beyond the figures: columns that no run fills are left out.
pub fn table(groups: &[RunGroup]) -> Table {
    type Cell = fn(&SetFigures) -> Option<f64>;
    type Write = fn(f64) -> String;
    let columns: [(&str, Cell, Write); 18] = [
        ("rows", |s| s.rows.map(|rows| rows as f64), count),
        ("ties", |s| s.ties.map(|ties| ties as f64), count),
        ("longest wins", |s| s.longest_wins, share),
        ("length-controlled accuracy", |s| s.length?.controlled_accuracy, share),
        ("reward a doubling", |s| s.length?.reward_slope, figure),
        ("markdown effect", |s| s.length?.markdown_effect, figure),
        ("ECE", |s| s.calibration?.ece, figure),
        ("Brier", |s| s.calibration?.brier, figure),
        ("NLL", |s| s.calibration?.nll, figure),
        ("temperature", |s| s.calibration?.temperature, figure),
        ("reward mean", |s| s.reward_mean, figure),
        ("reward deviation", |s| s.reward_std, figure),
        ("spread over heads", |s| s.head_spread_mean, figure),
        ("norm mean", |s| s.hidden?.norm_mean, figure),
        ("norm variance", |s| s.hidden.and_then(|h| h.norm_var).or(s.hidden_norm_var), figure),
        ("norm skew", |s| s.hidden?.norm_skew, figure),
        ("effective rank", |s| s.hidden?.effective_rank, figure),
        ("swap difference", |s| s.antisymmetry?.max_difference, figure),
    ];
    let rows: Vec<(String, &RunGroup)> = set_names(groups)
        .into_iter()
        .flat_map(|set| groups.iter().map(move |group| (set.clone(), group)))
        .filter(|(set, group)| group.runs.iter().any(|run| set_of(run, set).is_some()))
        .collect();
    let over_seeds = |(set, group): &(String, &RunGroup), cell: Cell| {
        group.over_seeds(|run| set_of(run, set).and_then(cell))
    };
    let used: Vec<&(&str, Cell, Write)> = columns
        .iter()
        .filter(|(_, cell, _)| rows.iter().any(|row| over_seeds(row, *cell).mean().is_some()))
        .collect();
    let row = |row: &(String, &RunGroup)| {
        let cells = used.iter().map(|(_, cell, write)| over_seeds(row, *cell).written(write));
        [row.0.clone(), row.1.name.clone()].into_iter().chain(cells).collect()
    };
    Table {
        head: ["set", noun(groups)]
            .into_iter()
            .chain(used.iter().map(|(name, _, _)| *name))
            .map(String::from)
            .collect(),
        rows: rows.iter().map(row).collect(),
    }
}

/// Paired comparisons with another model, as `eval --compare` made them.
pub fn comparisons(groups: &[RunGroup]) -> Table {
    let rows = groups.iter().flat_map(|group| &group.runs).flat_map(|run| {
        let comparison = run.report.as_ref().and_then(|report| report.comparison.as_ref());
        comparison.into_iter().flat_map(move |other| {
            other.splits.iter().map(move |(set, figures)| {
                let number = |path: &str| figures.pointer(path).and_then(serde_json::Value::as_f64);
                let cell = |path: &str| number(path).map_or_else(|| figure_or_nothing(None), share);
                // How far below any level: three decimals would end at 0.000.
                let probability = |path: &str| figure_or_nothing(number(path));
                vec![
                    set.clone(),
                    format!("{} − {}", run.name, other.model),
                    cell("/difference"),
                    cell("/ci95/0"),
                    cell("/ci95/1"),
                    probability("/p_bootstrap"),
                    probability("/mcnemar/p"),
                ]
            })
        })
    });
    Table {
        head: ["set", "difference of", "difference", "95% from", "to", "p (bootstrap)", "p (McNemar)"]
            .map(String::from)
            .into(),
        rows: rows.collect(),
    }
}
