//! The evaluated sets: accuracy, tau, the over-optimization gap, and what an eval report says beyond them.

use super::Run;
use super::bars::{Bar, Bars, Group};
use super::curves::{Curves, Line, Style, moments};
use super::figure::{Figure, Table};
use super::number::{figure_or_nothing, share};
use super::plot::run_class;
use super::series::Series;
use super::sets::{Gap, SetFigures, gap_between};
use super::svg::shortened;
use crate::base::figures::grouped;

/// The set that the others are compared with.
pub const IN_DOMAIN: &str = "in-domain";

/// The names of all sets, in the order in which they are met.
pub fn set_names(runs: &[Run]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for run in runs {
        for (name, _) in run.sets().0 {
            if !names.iter().any(|other| other == name) {
                names.push(name.to_owned());
            }
        }
    }
    names
}

fn set_of<'r>(run: &'r Run, name: &str) -> Option<&'r SetFigures> {
    run.sets().0.into_iter().find(|(set, _)| *set == name).map(|(_, figures)| figures)
}

/// In-domain accuracy minus a set's, as `eval.json` has it, else from the sets' own intervals.
pub fn gap_of(run: &Run, set: &str) -> Option<Gap> {
    let stated = run.report.as_ref().and_then(|report| report.gap(set));
    stated.or_else(|| gap_between(set_of(run, IN_DOMAIN)?, set_of(run, set)?))
}

/// Where the figures of the runs are from, in a sentence.
pub fn sources(runs: &[Run]) -> String {
    let sources: Vec<String> = runs.iter().map(|run| run.sets().1).collect();
    match sources.first() {
        Some(first) if sources.iter().all(|source| source == first) => format!("Figures are from {first}."),
        _ => {
            let of_run = |(run, source): (&Run, &String)| format!("{} ({})", source, run.name);
            format!(
                "Figures are from {}.",
                runs.iter().zip(&sources).map(of_run).collect::<Vec<_>>().join("; ")
            )
        }
    }
}

/// The figures, in order.
pub fn figures(runs: &[Run]) -> Vec<Figure> {
    let names: Vec<&str> = runs.iter().map(|run| run.name.as_str()).collect();
    let sets = set_names(runs);
    let groups = |bar: &dyn Fn(&Run, &str) -> Option<Bar>| -> Vec<Group> {
        let group = |set: &String| {
            let bars =
                runs.iter().enumerate().filter_map(|(run, found)| Some(Bar { run, ..bar(found, set)? }));
            Group { name: set.clone(), bars: bars.collect() }
        };
        sets.iter().map(group).collect()
    };
    let bar = |value, interval, mark| Bar { run: 0, value, interval, mark };
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
            unit: "share of response pairs ranked rightly, 95% interval",
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
            unit: "in-domain accuracy minus the set's, 95% interval",
            rule: Some(0.0),
            note: "Right of the line, the model does worse than on its own domain.".into(),
            ..shares()
        }
        .figure(&gaps, &names),
        Bars {
            title: "Kendall's tau",
            unit: "mean tau-b within a prompt, 95% interval",
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
fn course(runs: &[Run], sets: &[String]) -> Vec<Figure> {
    let lines = |set: &str| -> Vec<Line> {
        let of_run = |(i, run): (usize, &Run)| {
            let points = run.evals.iter().filter(|line| line.split == set);
            let (x, y) = points.map(|e| (e.step as f64, e.figures.accuracy.unwrap_or(f64::NAN))).unzip();
            let series = Series::new(x, y);
            series.last().map(|_| Line { class: run_class(i), name: run.name.clone(), series })
        };
        runs.iter().enumerate().filter_map(of_run).collect()
    };
    let all: Vec<(&String, Vec<Line>)> = sets.iter().map(|set| (set, lines(set))).collect();
    let together: Vec<Line> = all.iter().flat_map(|(set, _)| lines(set)).collect();
    if together.iter().all(|line| line.series.x.len() < 2) {
        return Vec::new();
    }
    let figure = |(set, lines): &(&String, Vec<Line>)| {
        let curves = Curves {
            title: format!("Accuracy on {}, in training", shortened(set, 40)),
            unit: "share of response pairs; all sets on one axis",
            rule: Some(0.5),
            style: Style::Dots,
            moments: moments(runs, "gap", Some(set)),
            ..Curves::default()
        };
        curves.figure(lines, curves.axis(&together).as_ref())
    };
    all.iter().filter_map(figure).collect()
}

/// What a table of sets has beyond the figures: columns that no run fills are left out.
pub fn table(runs: &[Run]) -> Table {
    type Cell = fn(&SetFigures) -> Option<String>;
    fn number(value: Option<f64>) -> Option<String> {
        value.map(|value| figure_or_nothing(Some(value)))
    }
    let columns: [(&str, Cell); 17] = [
        ("rows", |s| s.rows.map(grouped)),
        ("ties", |s| s.ties.map(|ties| ties.to_string())),
        ("longest wins", |s| s.longest_wins.map(share)),
        ("length-controlled accuracy", |s| s.length?.controlled_accuracy.map(share)),
        ("reward a doubling", |s| number(s.length?.reward_slope)),
        ("markdown effect", |s| number(s.length?.markdown_effect)),
        ("ECE", |s| number(s.calibration?.ece)),
        ("Brier", |s| number(s.calibration?.brier)),
        ("NLL", |s| number(s.calibration?.nll)),
        ("temperature", |s| number(s.calibration?.temperature)),
        ("reward mean", |s| number(s.reward_mean)),
        ("reward deviation", |s| number(s.reward_std)),
        ("norm mean", |s| number(s.hidden?.norm_mean)),
        ("norm variance", |s| number(s.hidden.and_then(|h| h.norm_var).or(s.hidden_norm_var))),
        ("norm skew", |s| number(s.hidden?.norm_skew)),
        ("effective rank", |s| number(s.hidden?.effective_rank)),
        ("swap difference", |s| number(s.antisymmetry?.max_difference)),
    ];
    let rows: Vec<(String, &Run, &SetFigures)> = set_names(runs)
        .into_iter()
        .flat_map(|set| runs.iter().filter_map(move |run| Some((set.clone(), run, set_of(run, &set)?))))
        .collect();
    let used: Vec<&(&str, Cell)> = columns
        .iter()
        .filter(|(_, cell)| rows.iter().any(|(_, _, figures)| cell(figures).is_some()))
        .collect();
    let row = |(set, run, figures): &(String, &Run, &SetFigures)| {
        let cells = used.iter().map(|(_, cell)| cell(figures).unwrap_or_else(|| figure_or_nothing(None)));
        [set.clone(), run.name.clone()].into_iter().chain(cells).collect()
    };
    Table {
        head: ["set", "run"]
            .into_iter()
            .chain(used.iter().map(|(name, _)| *name))
            .map(String::from)
            .collect(),
        rows: rows.iter().map(row).collect(),
    }
}

/// Paired comparisons with another model, as `eval --compare` made them.
pub fn comparisons(runs: &[Run]) -> Table {
    let rows = runs.iter().flat_map(|run| {
        let comparison = run.report.as_ref().and_then(|report| report.comparison.as_ref());
        comparison.into_iter().flat_map(move |other| {
            other.splits.iter().map(move |(set, figures)| {
                let number = |path: &str| figures.pointer(path).and_then(serde_json::Value::as_f64);
                let cell = |path: &str| number(path).map_or_else(|| figure_or_nothing(None), share);
                vec![
                    set.clone(),
                    format!("{} − {}", run.name, other.model),
                    cell("/difference"),
                    cell("/ci95/0"),
                    cell("/ci95/1"),
                    cell("/p_bootstrap"),
                    cell("/mcnemar/p"),
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
