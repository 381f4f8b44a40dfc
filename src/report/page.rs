//! The page: everything put together and rendered.

use super::configuration::{Configuration, differences};
use super::figure::{Figure, Table};
use super::number::NOTHING;
use super::plot::run_class;
use super::{Run, norms, rewards, scenarios, summary, training};
use crate::{Error, Result};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, UndefinedBehavior};
use serde::Serialize;

/// The name under which minijinja knows the template.
const PAGE: &str = "page.html";

#[derive(Serialize)]
struct Page {
    version: &'static str,
    style: &'static str,
    script: &'static str,
    runs: Vec<RunSummary>,
    between: Option<String>,
    key_figures: Table,
    sections: Vec<Section>,
    sets: Table,
    comparisons: Table,
    alarms: Table,
    differences: Table,
    configurations: Vec<Written>,
    sources: String,
    has_histograms: bool,
}

#[derive(Serialize)]
struct RunSummary {
    name: String,
    class: String,
    status: String,
    sentence: String,
}

#[derive(Serialize)]
struct Section {
    id: &'static str,
    title: &'static str,
    lead: &'static str,
    figures: Vec<Figure>,
}

/// A run's configuration as it was written.
#[derive(Serialize)]
struct Written {
    name: String,
    text: String,
}

/// Renders the page about `runs`: HTML with its style, script and pictures inside.
///
/// # Errors
/// [`Error::Template`], should the template be wrong.
pub fn render(runs: &[Run]) -> Result<String> {
    let page = Page {
        version: env!("CARGO_PKG_VERSION"),
        style: include_str!("page.css"),
        script: include_str!("page.js"),
        runs: runs.iter().enumerate().map(|(i, run)| run_summary(i, run)).collect(),
        between: summary::between(runs),
        key_figures: summary::table(runs),
        sections: sections(runs),
        sets: scenarios::table(runs),
        comparisons: scenarios::comparisons(runs),
        alarms: alarms(runs),
        differences: configuration_table(runs),
        configurations: configurations(runs)
            .map(|(name, c)| Written { name: name.into(), text: c.text.clone() })
            .collect(),
        sources: scenarios::sources(runs),
        has_histograms: runs.iter().any(|run| {
            run.sets().0.iter().any(|(_, set)| set.rewards.as_ref().is_some_and(|r| r.histogram.is_some()))
        }),
    };
    let fail = |e: minijinja::Error| Error::Template { place: PAGE.into(), reason: format!("{e:#}") };
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment
        .set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(fail)?);
    environment.add_template(PAGE, include_str!("page.html.j2")).map_err(fail)?;
    environment.get_template(PAGE).and_then(|template| template.render(Serde(&page))).map_err(fail)
}

fn run_summary(i: usize, run: &Run) -> RunSummary {
    RunSummary {
        name: run.name.clone(),
        class: run_class(i),
        status: summary::status(run),
        sentence: summary::sentence(run),
    }
}

fn sections(runs: &[Run]) -> Vec<Section> {
    let all = [
        Section {
            id: "scenarios",
            title: "Scenarios",
            lead: "How well the models rank responses that they were not trained on: new responses to training prompts \
                   (in-domain), new prompts, new response models, and both new.",
            figures: scenarios::figures(runs),
        },
        Section {
            id: "norms",
            title: "Hidden norms",
            lead: "A reward is |W_p| |h| cos(W_p, h), h the last token's hidden state. The cheapest way to a larger \
                   margin is a longer h; outliers in |h| are extreme rewards on text that was never seen.",
            figures: norms::figures(runs),
        },
        Section {
            id: "rewards",
            title: "Rewards",
            lead: "Where rewards are, how far they spread, and whether they drift.",
            figures: rewards::figures(runs),
        },
        Section {
            id: "training",
            title: "Training",
            lead: "The course of the optimization.",
            figures: training::figures(runs),
        },
    ];
    all.into_iter().filter(|section| !section.figures.is_empty()).collect()
}

fn alarms(runs: &[Run]) -> Table {
    let rows = runs.iter().flat_map(|run| {
        run.alarms.iter().map(|alarm| {
            let rule =
                alarm.split.as_ref().map_or(alarm.rule.clone(), |set| format!("{}, {set}", alarm.rule));
            vec![run.name.clone(), alarm.step.to_string(), rule, alarm.message.clone()]
        })
    });
    Table { head: ["run", "step", "rule", "message"].map(String::from).into(), rows: rows.collect() }
}

fn configurations(runs: &[Run]) -> impl Iterator<Item = (&str, &Configuration)> {
    runs.iter().filter_map(|run| Some((run.name.as_str(), run.configuration.as_ref()?)))
}

fn configuration_table(runs: &[Run]) -> Table {
    let (names, all): (Vec<&str>, Vec<&Configuration>) = configurations(runs).unzip();
    let row = |(key, values): (String, Vec<Option<String>>)| {
        let cells = values.into_iter().map(|value| value.unwrap_or_else(|| NOTHING.into()));
        std::iter::once(key).chain(cells).collect()
    };
    Table {
        head: std::iter::once("key").chain(names).map(String::from).collect(),
        rows: differences(&all).into_iter().map(row).collect(),
    }
}
