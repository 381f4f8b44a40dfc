//! The page: everything put together and rendered.

use super::configuration::{Entries, differences};
use super::figure::{Figure, Table};
use super::group::SEED;
use super::number::NOTHING;
use super::plot::run_class;
use super::{RunGroup, norms, rewards, scenarios, summary, training};
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
    groups: Vec<GroupSummary>,
    /// Whether a group has several seeds.
    has_seeds: bool,
    /// How many groups or runs there are.
    count: String,
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
struct GroupSummary {
    name: String,
    class: String,
    status: String,
    sentence: String,
}

#[derive(Serialize)]
pub struct Section {
    id: &'static str,
    title: &'static str,
    lead: &'static str,
    pub figures: Vec<Figure>,
}

/// A configuration as it was written.
#[derive(Serialize)]
struct Written {
    title: String,
    text: String,
}

/// Renders the page about groups of runs: HTML with its style, script and pictures inside.
///
/// # Errors
/// [`Error::Template`], should the template be wrong.
pub fn render(groups: &[RunGroup]) -> Result<String> {
    let page = Page {
        version: env!("CARGO_PKG_VERSION"),
        style: concat!(include_str!("theme.css"), include_str!("plot.css"), include_str!("page.css")),
        script: include_str!("page.js"),
        groups: groups.iter().enumerate().map(|(i, group)| group_summary(i, group)).collect(),
        has_seeds: groups.iter().any(RunGroup::is_several),
        count: count(groups),
        between: summary::between(groups),
        key_figures: summary::table(groups),
        sections: sections(groups),
        sets: scenarios::table(groups),
        comparisons: scenarios::comparisons(groups),
        alarms: alarms(groups),
        differences: configuration_table(groups),
        configurations: groups.iter().filter_map(written).collect(),
        sources: scenarios::sources(groups),
        has_histograms: groups.iter().flat_map(|group| &group.runs).any(|run| {
            run.sets().iter().any(|(_, set)| set.rewards.as_ref().is_some_and(|r| r.histogram.is_some()))
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

fn group_summary(i: usize, group: &RunGroup) -> GroupSummary {
    GroupSummary {
        name: group.name.clone(),
        class: run_class(i),
        status: summary::status(group),
        sentence: summary::sentence(group),
    }
}

fn count(groups: &[RunGroup]) -> String {
    match groups.iter().map(|group| group.runs.len()).sum::<usize>() {
        runs if runs == groups.len() => format!("{runs} runs"),
        runs => format!("{} groups, {runs} runs", groups.len()),
    }
}

/// The sections that there are figures for.
pub fn sections(groups: &[RunGroup]) -> Vec<Section> {
    let all = [
        Section {
            id: "scenarios",
            title: "Scenarios",
            lead: "How well the models rank responses that they were not trained on: new responses to training prompts \
                   (in-domain), new prompts, new response models, and both new.",
            figures: scenarios::figures(groups),
        },
        Section {
            id: "norms",
            title: "Hidden norms",
            lead: "A reward is |W_p| |h| cos(W_p, h), h the last token's hidden state. The cheapest way to a larger \
                   margin is a longer h; outliers in |h| are extreme rewards on text that was never seen.",
            figures: norms::figures(groups),
        },
        Section {
            id: "rewards",
            title: "Rewards",
            lead: "Where rewards are, how far they spread, and whether they drift.",
            figures: rewards::figures(groups),
        },
        Section {
            id: "training",
            title: "Training",
            lead: "The course of the optimization.",
            figures: training::figures(groups),
        },
    ];
    all.into_iter().filter(|section| !section.figures.is_empty()).collect()
}

fn alarms(groups: &[RunGroup]) -> Table {
    let rows = groups.iter().flat_map(|group| &group.runs).flat_map(|run| {
        run.alarms.iter().map(|alarm| {
            let rule =
                alarm.split.as_ref().map_or(alarm.rule.clone(), |set| format!("{}, {set}", alarm.rule));
            vec![run.name.clone(), alarm.step.to_string(), rule, alarm.message.clone()]
        })
    });
    Table { head: ["run", "step", "rule", "message"].map(String::from).into(), rows: rows.collect() }
}

/// The configuration of a group's first run.
fn written(group: &RunGroup) -> Option<Written> {
    let run = group.runs.first()?;
    let title = if group.is_several() {
        format!("{}: config.toml of {}; {SEED} is {} in turn", group.name, run.name, group.seeds().join(", "))
    } else {
        format!("{}: config.toml", run.name)
    };
    Some(Written { title, text: run.configuration.as_ref()?.text.clone() })
}

/// What differs between the groups; of seeds all are there.
pub fn configuration_table(groups: &[RunGroup]) -> Table {
    let entries = |group: &RunGroup| -> Option<(String, Entries)> {
        let mut entries = group.runs.first()?.configuration.as_ref()?.entries.clone();
        if group.is_several() {
            entries.insert(SEED.into(), group.seeds().join(", "));
        }
        Some((group.name.clone(), entries))
    };
    let (names, all): (Vec<String>, Vec<Entries>) = groups.iter().filter_map(entries).unzip();
    let row = |(key, values): (String, Vec<Option<String>>)| {
        let cells = values.into_iter().map(|value| value.unwrap_or_else(|| NOTHING.into()));
        std::iter::once(key).chain(cells).collect()
    };
    Table {
        head: std::iter::once("key".to_owned()).chain(names).collect(),
        rows: differences(&all).into_iter().map(row).collect(),
    }
}
