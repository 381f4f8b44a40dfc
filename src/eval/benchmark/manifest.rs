//! What a benchmark is: where its rows come from, how a row is judged, how groups become one figure. A TOML file.
//!
//! The benchmarks that are known by name are such files too, under `configs/benchmarks/`.

use crate::base::located::{Problem, parse_document};
use crate::base::reader::{Problems, Section, Words};
use crate::{Error, Result};
use std::path::Path;

/// The manifests that are part of the program, by name.
const BUILT_IN: [(&str, &str); 5] = [
    ("rm-bench", include_str!("../../../configs/benchmarks/rm-bench.toml")),
    ("reward-bench", include_str!("../../../configs/benchmarks/reward-bench.toml")),
    ("reward-bench-2", include_str!("../../../configs/benchmarks/reward-bench-2.toml")),
    ("judge-bench", include_str!("../../../configs/benchmarks/judge-bench.toml")),
    ("paper", include_str!("../../../configs/benchmarks/paper.toml")),
];

/// How the scores of one row are judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Every better response must have the higher score; a tie is wrong.
    Pairs,
    /// RM-Bench's three by three comparisons.
    StyleMatrix,
    /// The first response must have the highest score, which it shares with those that tie with it.
    BestOf,
    /// RewardBench 2's rule for prompts with several right answers.
    Ties,
    /// Tau-b of scores and gold scores.
    KendallTau,
}

impl Words for Rule {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("pairs", Rule::Pairs),
        ("style-matrix", Rule::StyleMatrix),
        ("best-of", Rule::BestOf),
        ("ties", Rule::Ties),
        ("kendall-tau", Rule::KendallTau),
    ];
}

/// How the figures of the groups become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Total {
    /// The plain mean of the groups.
    Groups,
    /// The mean over all rows.
    Rows,
    /// The weighted mean of the sections.
    Sections,
    /// There is none.
    None,
}

impl Words for Total {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("groups", Total::Groups),
        ("rows", Total::Rows),
        ("sections", Total::Sections),
        ("none", Total::None),
    ];
}

/// Whose files are written beside the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outputs {
    /// Every row with its scores, as `score` writes it.
    Rows,
    /// reward-bench's `{"accuracy", "num_prompts", ..}` and `_outputs.jsonl`.
    RewardBench,
    /// RM-Bench's JSON array of rows.
    RmBench,
    /// RewardBench 2's results by subset and its columns of scores.
    RewardBench2,
}

impl Words for Outputs {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("rows", Outputs::Rows),
        ("reward-bench", Outputs::RewardBench),
        ("rm-bench", Outputs::RmBench),
        ("reward-bench-2", Outputs::RewardBench2),
    ];
}

/// One source of rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// As in `data.train`: a path, a glob or a hub file.
    pub source: String,
    /// The group of all its rows, where the rows do not say.
    pub group: Option<String>,
    /// Read only where it is asked for.
    pub optional: bool,
}

/// A part of the benchmark that has a figure of its own.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    pub name: String,
    /// What the group field holds: this text, or one that begins with what stands before a final `*`.
    pub matches: String,
    pub rule: Rule,
    /// The section that it counts in, by position in [`Manifest::sections`].
    pub section: Option<usize>,
    /// Its weight in the section; without one, the number of its rows.
    pub count: Option<f64>,
}

impl Group {
    fn is_named(&self, value: &str) -> bool {
        match self.matches.strip_suffix('*') {
            Some(start) => value.starts_with(start),
            None => value.eq_ignore_ascii_case(&self.matches),
        }
    }
}

/// Groups whose weighted mean is a figure of its own.
#[derive(Debug, Clone, PartialEq)]
pub struct BenchSection {
    pub name: String,
    pub weight: f64,
}

/// A benchmark's definition.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    pub name: String,
    pub rule: Rule,
    pub total: Total,
    pub outputs: Outputs,
    /// The field of a row that says its group.
    pub group_field: Option<String>,
    /// The group of the rows without that field; without a name for it, the field is required.
    pub ungrouped: Option<String>,
    pub score_field: String,
    /// Columns that are called otherwise: `(the file's name, the name that rows are read by)`.
    pub columns: Vec<(String, String)>,
    pub files: Vec<File>,
    /// Declared groups, in the order of the report. None at all: every value of the group field is one.
    pub groups: Vec<Group>,
    pub sections: Vec<BenchSection>,
}

impl Manifest {
    /// The benchmark of that name, or the one that a file defines.
    ///
    /// # Errors
    /// [`Error::Usage`] for a name that is neither; [`Error::Io`] and [`Error::Config`] for the file.
    pub fn of(name: &str) -> Result<Self> {
        if let Some((name, text)) = BUILT_IN.iter().find(|(known, _)| *known == name) {
            return Self::parse(name, text, Path::new(&format!("configs/benchmarks/{name}.toml")));
        }
        let path = Path::new(name);
        if !path.is_file() && path.extension().is_none_or(|end| end != "toml") {
            let known: Vec<&str> = BUILT_IN.iter().map(|(name, _)| *name).collect();
            return Err(Error::Usage(format!(
                "{name}: no such benchmark and no such file, expected {} or a manifest (.toml)",
                known.join(", ")
            )));
        }
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        let stem = path.file_stem().map_or(name.into(), |stem| stem.to_string_lossy());
        Self::parse(&stem, &text, path)
    }

    /// Reads a manifest; `path` names it in messages.
    ///
    /// # Errors
    /// [`Error::Config`] with every problem at once.
    pub fn parse(name: &str, text: &str, path: &Path) -> Result<Self> {
        let refuse = |problems: Vec<Problem>| Error::Config {
            path: path.to_path_buf(),
            problems: problems.iter().map(ToString::to_string).collect(),
        };
        let document = parse_document(text).map_err(refuse)?;
        let problems = Problems::default();
        let manifest = Self::read(name, Section::root(document, &problems));
        match problems.into_sorted() {
            none if none.is_empty() => Ok(manifest),
            some => Err(refuse(some)),
        }
    }

    fn read(name: &str, mut root: Section<'_>) -> Self {
        let rule = root.word("rule");
        if rule.is_none() && root.place_of("rule").is_none() {
            root.missing("rule", "how a row is judged, `rule = \"pairs\"` say");
        }
        let rule = rule.unwrap_or(Rule::Pairs);
        let mut manifest = Self {
            name: name.to_owned(),
            rule,
            total: Total::Rows,
            outputs: root.word("outputs").unwrap_or(Outputs::Rows),
            group_field: root.string("group_field", "the name of a field"),
            ungrouped: root.string("ungrouped", "the name of a group"),
            score_field: root
                .string("score_field", "the name of a field")
                .unwrap_or_else(|| crate::data::Config::default().score_field),
            columns: root.section("columns").map(read_columns).unwrap_or_default(),
            files: Vec::new(),
            groups: Vec::new(),
            sections: Vec::new(),
        };
        let total_place = root.place_of("total").cloned();
        if let Some(total) = root.word("total") {
            manifest.total = total;
        }
        for mut section in root.sections("sections").unwrap_or_default() {
            let name = required(&mut section, "name", "the name of a section");
            let weight = section.number("weight", crate::base::reader::POSITIVE).unwrap_or(1.0);
            manifest.sections.push(BenchSection { name, weight });
            section.finish();
        }
        for section in root.sections("groups").unwrap_or_default() {
            let group = manifest.read_group(section);
            manifest.groups.push(group);
        }
        for section in root.sections("files").unwrap_or_default() {
            let file = manifest.read_file(section);
            manifest.files.push(file);
        }
        if manifest.total == Total::Sections
            && (manifest.sections.is_empty() || manifest.groups.iter().any(|group| group.section.is_none()))
        {
            let text = "found \"sections\" while a group has none, expected a section for every group";
            root.problem(total_place, "total", text);
        }
        root.finish();
        manifest
    }

    fn read_group(&self, mut section: Section<'_>) -> Group {
        let name = required(&mut section, "name", "the name of a group");
        let in_section = section.place_of("section").cloned();
        let found = section.string("section", "the name of one of [[sections]]");
        let index = found.as_ref().and_then(|found| self.sections.iter().position(|s| s.name == *found));
        if let (Some(found), None) = (&found, index) {
            let text = format!("found {found:?}, expected the name of one of [[sections]]");
            section.problem(in_section, "section", &text);
        }
        if self.groups.iter().any(|other| other.name == name) {
            section.problem(None, "name", &format!("found a second {name:?}, expected one"));
        }
        let group = Group {
            matches: section.string("matches", "a value of the group field").unwrap_or_else(|| name.clone()),
            name,
            rule: section.word("rule").unwrap_or(self.rule),
            section: index,
            count: section.number("count", crate::base::reader::POSITIVE),
        };
        section.finish();
        group
    }

    fn read_file(&self, mut section: Section<'_>) -> File {
        let source = required(&mut section, "source", "a file, a glob or hf://datasets/OWNER/NAME/FILE");
        let group_place = section.place_of("group").cloned();
        let group = section.string("group", "the name of a group");
        if let Some(group) = group.as_ref().filter(|group| !self.has_group(group)) {
            section.problem(group_place, "group", &format!("found {group:?}, expected one of [[groups]]"));
        }
        let file = File { source, group, optional: section.boolean("optional").unwrap_or(false) };
        section.finish();
        file
    }

    /// Whether `name` is a group, or may become one.
    pub fn has_group(&self, name: &str) -> bool {
        self.groups.is_empty() || self.groups.iter().any(|group| group.name == name)
    }

    /// The name and rule of the group that a value of the group field means.
    ///
    /// # Errors
    /// What was found and which groups there are.
    pub fn group_of(&self, value: &str) -> std::result::Result<(&str, Rule), String> {
        if let Some(group) = self.groups.iter().find(|group| group.is_named(value)) {
            return Ok((&group.name, group.rule));
        }
        let names: Vec<&str> = self.groups.iter().map(|group| group.matches.as_str()).collect();
        let field = self.group_field.as_deref().unwrap_or("group");
        Err(format!("{field}: found {value:?}, expected {}", names.join(", ")))
    }
}

fn required(section: &mut Section<'_>, key: &'static str, expected: &str) -> String {
    if section.place_of(key).is_none() {
        section.missing(key, expected);
    }
    section.string(key, expected).unwrap_or_default()
}

/// `[columns]`: the names that rows are read by, each with the name that the files have.
fn read_columns(mut section: Section<'_>) -> Vec<(String, String)> {
    const NAMES: [&str; 8] =
        ["id", "prompt", "chosen", "rejected", "response", "responses", "scores", "messages"];
    let mut columns = Vec::new();
    for name in NAMES {
        if let Some(file_name) = section.string(name, "the name of a column") {
            columns.push((file_name, name.to_owned()));
        }
    }
    section.finish();
    columns
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Manifest> {
        Manifest::parse("own", text, Path::new("own.toml"))
    }

    #[test]
    fn the_built_in_ones_are_whole() {
        for (name, _) in BUILT_IN {
            let manifest = Manifest::of(name).unwrap();
            assert_eq!(manifest.name, name);
            assert!(manifest.files.iter().all(|file| file.source.starts_with("hf://datasets/")), "{name}");
        }
        let bench = Manifest::of("reward-bench").unwrap();
        let section = |name: &str| bench.sections.iter().position(|s| s.name == name);
        let count = |name: &str| -> f64 {
            bench.groups.iter().filter(|g| g.section == section(name)).filter_map(|g| g.count).sum()
        };
        assert_eq!(bench.groups.len(), 27);
        // Per section, the published counts; math weighs as much as the six languages of code together.
        assert_eq!(["Chat", "Chat Hard", "Safety", "Reasoning"].map(count), [358.0, 456.0, 740.0, 1968.0]);
        assert_eq!(bench.groups.iter().find(|g| g.name == "math-prm").unwrap().count, Some(6.0 * 164.0));
        assert_eq!(bench.sections.iter().map(|s| s.weight).collect::<Vec<_>>(), [1.0, 1.0, 1.0, 1.0, 0.5]);
    }

    #[test]
    fn a_group_is_found_by_its_text_or_by_how_it_begins() {
        let bench = Manifest::of("rm-bench").unwrap();
        assert_eq!(bench.group_of("safety-refuse").unwrap(), ("safety", Rule::StyleMatrix));
        let error = bench.group_of("poetry").unwrap_err();
        assert_eq!(error, "domain: found \"poetry\", expected chat*, math*, code*, safety*");
        let second = Manifest::of("reward-bench-2").unwrap();
        assert_eq!(second.group_of("ties").unwrap(), ("Ties", Rule::Ties));
    }

    #[test]
    fn every_problem_is_told_at_once() {
        let error = parse(
            "rule = \"pair\"\nspeed = 1\ntotal = \"sections\"\n[[groups]]\nname = \"a\"\nsection = \"b\"\ncount = 0\n\
             [[groups]]\nname = \"a\"\n[[files]]\ngroup = \"c\"\n[columns]\nprompts = \"q\"\n",
        )
        .unwrap_err();
        let Error::Config { problems, .. } = &error else { panic!("{error}") };
        let all = problems.join("\n");
        for needle in [
            "line 1: rule: found \"pair\", expected \"pairs\"",
            "line 2: speed: unknown key",
            "line 3: total: found \"sections\" while a group has none",
            "line 6: groups.0.section: found \"b\"",
            "line 7: groups.0.count: found 0",
            "groups.1.name: found a second \"a\"",
            "files.0.source: found nothing, expected a file",
            "line 11: files.0.group: found \"c\"",
            "columns.prompts: unknown key, did you mean `prompt`?",
        ] {
            assert!(all.contains(needle), "{needle} is not in\n{all}");
        }
    }

    #[test]
    fn a_name_that_is_nothing_lists_what_there_is() {
        let error = Manifest::of("rm-bensh").unwrap_err();
        assert!(error.to_string().contains("expected rm-bench, reward-bench, reward-bench-2"), "{error}");
        assert!(matches!(Manifest::of("absent.toml"), Err(Error::Io { .. })));
    }
}
