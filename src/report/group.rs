//! Runs that are draws of one configuration: the same but for their seed.

use super::Run;
use super::configuration::Entries;
use super::over_seeds::OverSeeds;
use std::collections::HashMap;

/// The key that the runs of a group differ in.
pub const SEED: &str = "train.seed";

/// Runs that a report shows as one. There is one at least.
#[derive(Debug)]
pub struct RunGroup {
    /// What the runs' names have in common without their seeds; of a run alone its own.
    pub name: String,
    pub runs: Vec<Run>,
}

impl RunGroup {
    /// Every run by itself.
    pub fn each(runs: Vec<Run>) -> Vec<Self> {
        runs.into_iter().map(|run| Self { name: run.name.clone(), runs: vec![run] }).collect()
    }

    /// Runs whose configurations differ in `train.seed` only are together, in the order in which they are met. A run
    /// without a configuration or a seed is by itself; of runs that share their seed, too, each begins a group.
    pub fn by_seed(runs: Vec<Run>) -> Vec<Self> {
        let mut groups: Vec<Self> = Vec::new();
        for run in runs {
            let place = groups.iter().position(|group| group.takes(&run));
            match place.and_then(|place| groups.get_mut(place)) {
                Some(group) => group.runs.push(run),
                None => groups.push(Self { name: String::new(), runs: vec![run] }),
            }
        }
        name(&mut groups);
        groups
    }

    fn takes(&self, run: &Run) -> bool {
        let (Some(seed), Some(configuration)) = (seed_of(run), &run.configuration) else { return false };
        self.runs.iter().all(|own| seed_of(own).is_some_and(|own| own != seed))
            && self.runs.first().and_then(|own| own.configuration.as_ref()).is_some_and(|own| {
                fn rest(entries: &Entries) -> impl Iterator<Item = (&String, &String)> {
                    entries.iter().filter(|(key, _)| *key != SEED)
                }
                rest(&own.entries).eq(rest(&configuration.entries))
            })
    }

    /// Whether there is more than one seed.
    pub fn is_several(&self) -> bool {
        self.runs.len() > 1
    }

    /// A figure of every run.
    pub fn over_seeds(&self, of: impl Fn(&Run) -> Option<f64>) -> OverSeeds {
        OverSeeds::of(self.runs.iter().map(of))
    }

    /// The runs' seeds, in order.
    pub fn seeds(&self) -> Vec<&str> {
        self.runs.iter().filter_map(seed_of).collect()
    }

    /// `3 seeds`; nothing of a run alone.
    pub fn count(&self) -> Option<String> {
        self.is_several().then(|| format!("{} seeds", self.runs.len()))
    }
}

fn seed_of(run: &Run) -> Option<&str> {
    run.configuration.as_ref()?.entries.get(SEED).map(String::as_str)
}

/// Gives groups names that differ: where what their runs have in common does not, those of their first runs.
fn name(groups: &mut [RunGroup]) {
    for group in groups.iter_mut() {
        group.name = common_name(group);
    }
    // A first run's name may be what another group's have in common.
    for _ in 0..groups.len() {
        let mut counts: HashMap<String, usize> = HashMap::new();
        groups.iter().for_each(|group| *counts.entry(group.name.clone()).or_default() += 1);
        for group in groups.iter_mut().filter(|group| counts.get(&group.name).is_some_and(|count| *count > 1))
        {
            group.name = first_name(group);
        }
    }
}

fn first_name(group: &RunGroup) -> String {
    group.runs.first().map(|run| run.name.clone()).unwrap_or_default()
}

/// `bt` of `bt-0`, `bt-1`.
fn common_name(group: &RunGroup) -> String {
    let [first, others @ ..] = group.runs.as_slice() else { return String::new() };
    if others.is_empty() {
        return first.name.clone();
    }
    let stripped = |run: &Run| {
        let stem = run.name.strip_suffix(seed_of(run)?)?;
        (!stem.ends_with(|c: char| c.is_ascii_digit())).then(|| without_mark(stem).to_owned())
    };
    let common = match stripped(first) {
        Some(name) if others.iter().all(|run| stripped(run).as_ref() == Some(&name)) => name,
        _ => common_prefix(&first.name, others),
    };
    if common.is_empty() { first_name(group) } else { common }
}

/// What all names begin with, up to a whole number.
fn common_prefix(first: &str, others: &[Run]) -> String {
    let shared = |other: &Run| first.chars().zip(other.name.chars()).take_while(|(a, b)| a == b).count();
    let length = others.iter().map(shared).min().unwrap_or(0);
    let goes_on_in_a_digit = |name: &str| name.chars().nth(length).is_some_and(|c| c.is_ascii_digit());
    let prefix: String = first.chars().take(length).collect();
    let cuts_a_number =
        goes_on_in_a_digit(first) || others.iter().any(|other| goes_on_in_a_digit(&other.name));
    let whole = if cuts_a_number { prefix.trim_end_matches(|c: char| c.is_ascii_digit()) } else { &prefix };
    without_mark(whole).to_owned()
}

/// Without what stands between a name and its seed: separators, and the word itself.
fn without_mark(name: &str) -> &str {
    let separated = |name: &str| name.len() - name.trim_end_matches(|c: char| "-_. /=:".contains(c)).len();
    let bare = &name[..name.len() - separated(name)];
    for word in ["seed", "s"] {
        if let Some(before) = bare.strip_suffix(word).filter(|before| separated(before) > 0) {
            return &before[..before.len() - separated(before)];
        }
    }
    bare
}

#[cfg(test)]
mod tests {
    use super::super::configuration::Configuration;
    use super::*;

    /// A run of this name and configuration.
    fn run(name: &str, configuration: &str) -> Run {
        let configuration =
            (!configuration.is_empty()).then(|| Configuration::parse(configuration.into()).unwrap());
        Run { configuration, ..Run::named(name) }
    }

    fn seed(name: &str, seed: u64) -> Run {
        run(name, &format!("[train]\nseed = {seed}\n"))
    }

    /// Names of the groups, each with its runs.
    fn grouped(runs: Vec<Run>) -> Vec<(String, Vec<String>)> {
        let groups = RunGroup::by_seed(runs);
        groups.into_iter().map(|g| (g.name, g.runs.into_iter().map(|run| run.name).collect())).collect()
    }

    #[test]
    fn runs_that_differ_in_their_seed_are_one_group() {
        let other = |name: &str, seed: u64| run(name, &format!("[train]\nseed = {seed}\n[optim]\nlr = 1\n"));
        let found = grouped(vec![
            seed("bt-0", 0),
            other("x-0", 0),
            seed("bt-1", 1),
            other("x-1", 1),
            seed("bt-7", 7),
        ]);
        let expected: [(&str, Vec<&str>); 2] =
            [("bt", vec!["bt-0", "bt-1", "bt-7"]), ("x", vec!["x-0", "x-1"])];
        let found: Vec<(&str, Vec<&str>)> = found
            .iter()
            .map(|(name, runs)| (name.as_str(), runs.iter().map(String::as_str).collect()))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_repeated_or_unknown_seed_makes_no_group() {
        let names = |runs: Vec<Run>| grouped(runs).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(names(vec![seed("a", 1), seed("b", 1)]), ["a", "b"]);
        assert_eq!(names(vec![run("a", ""), run("b", "")]), ["a", "b"]);
        assert_eq!(names(vec![run("a", "[optim]\nlr = 1"), seed("b", 1)]), ["a", "b"]);
        assert_eq!(names(vec![seed("only-3", 3)]), ["only-3"]);
        let twice = grouped(vec![seed("bt-0", 0), seed("bt-1", 1), seed("bt-0 (2)", 0), seed("bt-1 (2)", 1)]);
        assert_eq!(twice.iter().map(|(_, runs)| runs.len()).collect::<Vec<_>>(), [2, 2]);
        assert_ne!(twice[0].0, twice[1].0);
    }

    #[test]
    fn a_group_is_called_what_its_runs_share() {
        let name =
            |runs: &[(&str, u64)]| grouped(runs.iter().map(|(n, s)| seed(n, *s)).collect())[0].0.clone();
        assert_eq!(name(&[("bt-seed0", 0), ("bt-seed12", 12)]), "bt");
        assert_eq!(name(&[("bt_s1", 1), ("bt_s2", 2)]), "bt");
        assert_eq!(name(&[("loss1", 1), ("loss2", 2)]), "loss", "a word's last letter is no mark");
        assert_eq!(name(&[("l0.1-10", 10), ("l0.1-11", 11)]), "l0.1");
        assert_eq!(name(&[("bt-10", 0), ("bt-11", 1)]), "bt", "half a number is none");
        assert_eq!(name(&[("bt-first", 0), ("bt-second", 1)]), "bt");
        assert_eq!(name(&[("one", 0), ("two", 1)]), "one");
        assert_eq!(name(&[("0", 0), ("1", 1)]), "0");
        assert_eq!(name(&[("ü🦀-0", 0), ("ü🦀-1", 1)]), "ü🦀");
        assert_eq!(name(&[("--0", 0), ("--1", 1)]), "--0");
    }

    #[test]
    fn groups_of_one_name_go_by_their_first_runs() {
        let other = |name: &str, seed: u64| run(name, &format!("[train]\nseed = {seed}\n[optim]\nlr = 1\n"));
        let found = grouped(vec![seed("bt-0", 0), seed("bt-1", 1), other("bt-2", 2), other("bt-3", 3)]);
        assert_eq!(found.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["bt-0", "bt-2"]);
        let found = grouped(vec![seed("bt-0", 0), seed("bt-1", 1), other("bt", 2)]);
        assert_eq!(found.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["bt-0", "bt"]);
    }
}
