//! TOML values that remember where they were written, so that every problem can name its line or flag.
//!
//! What a value means is not decided here: [`super::reader`] reads sections out of these trees.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// More syntax errors than this help nobody: the first one usually caused the rest.
const MAX_SYNTAX_ERRORS: usize = 20;

/// Where a value was written. Sorts in the order in which a user would look.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A line of the file, from 1.
    Line(usize),
    /// The file as a whole: something is missing from it.
    File,
    /// A `--set KEY=VALUE` flag, as typed.
    Flag(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Line(line) => write!(f, "line {line}"),
            Place::File => f.write_str("the file"),
            Place::Flag(text) => write!(f, "--set {text}"),
        }
    }
}

/// Something wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    pub place: Place,
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.text)
    }
}

/// A table's entries by key.
pub type Table = BTreeMap<String, Located>;

/// A value and where it was written; for a table's entry, where its key was.
#[derive(Debug, Clone, PartialEq)]
pub struct Located {
    pub place: Place,
    pub value: Value,
}

/// A TOML value. Integers are wider than TOML asks for, so that every `u64` seed can be written.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    String(String),
    Integer(i128),
    Float(f64),
    Boolean(bool),
    Datetime(String),
    Array(Vec<Located>),
    Table(Table),
}

impl fmt::Display for Value {
    /// What was found, in the words of a message: scalars as written, the rest by kind.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::String(text) => f.write_str(&quoted(text)),
            Value::Integer(number) => write!(f, "{number}"),
            Value::Float(number) => write!(f, "{number:?}"),
            Value::Boolean(value) => write!(f, "{value}"),
            Value::Datetime(text) => write!(f, "the date {text}"),
            Value::Array(items) if items.is_empty() => f.write_str("an empty list"),
            Value::Array(items) => write!(f, "a list of {}", items.len()),
            Value::Table(_) => f.write_str("a table"),
        }
    }
}

/// The text in quotes, shortened where a message would become unreadable.
pub fn quoted(text: &str) -> String {
    const SHOWN: usize = 80;
    let mut characters = text.chars();
    let head: String = characters.by_ref().take(SHOWN).collect();
    match characters.count() {
        0 => format!("{head:?}"),
        more => format!("{head:?} and {more} more characters"),
    }
}

/// Parses a document.
///
/// # Errors
/// Every syntax error found, in the order of the file.
pub fn parse_document(text: &str) -> Result<Located, Vec<Problem>> {
    let lines = Lines::of(text);
    let (document, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        return Err(syntax_problems(&errors, |span| Place::Line(lines.at(span))));
    }
    let mut problems = Vec::new();
    let place = |span: Range<usize>| Place::Line(lines.at(span));
    let root =
        Located { place: Place::File, value: convert_table(document.get_ref(), &place, &mut problems) };
    if problems.is_empty() { Ok(root) } else { Err(problems) }
}

/// Parses one value, as given to a flag; everything in it is placed at that flag.
///
/// # Errors
/// What is wrong with its syntax.
pub fn parse_value(text: &str, place: &Place) -> Result<Located, Vec<Problem>> {
    let parsed = DeValue::parse(text).map_err(|error| syntax_problems(&[error], |_| place.clone()))?;
    let mut problems = Vec::new();
    let value = convert(parsed.get_ref(), place.clone(), &|_| place.clone(), &mut problems);
    if problems.is_empty() { Ok(value) } else { Err(problems) }
}

fn syntax_problems(errors: &[toml::de::Error], place: impl Fn(Range<usize>) -> Place) -> Vec<Problem> {
    let mut problems: Vec<Problem> = errors
        .iter()
        .map(|error| {
            let message: Vec<&str> = error.message().lines().map(str::trim).collect();
            Problem {
                place: place(error.span().unwrap_or(0..0)),
                text: format!("not valid TOML: {}", message.join(", ")),
            }
        })
        .collect();
    problems.sort();
    problems.dedup();
    if problems.len() > MAX_SYNTAX_ERRORS {
        let more = problems.len() - MAX_SYNTAX_ERRORS;
        problems.truncate(MAX_SYNTAX_ERRORS);
        problems.push(Problem { place: Place::File, text: format!("{more} more syntax errors") });
    }
    problems
}

fn convert_table(
    table: &DeTable<'_>,
    place: &dyn Fn(Range<usize>) -> Place,
    problems: &mut Vec<Problem>,
) -> Value {
    let entries = table.iter().map(|(key, value)| {
        (key.get_ref().to_string(), convert(value.get_ref(), place(key.span()), place, problems))
    });
    Value::Table(entries.collect())
}

fn convert(
    value: &DeValue<'_>,
    at: Place,
    place: &dyn Fn(Range<usize>) -> Place,
    problems: &mut Vec<Problem>,
) -> Located {
    let value = match value {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Boolean(value) => Value::Boolean(*value),
        DeValue::Datetime(date) => Value::Datetime(date.to_string()),
        DeValue::Integer(number) => match i128::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Value::Integer(number),
            Err(_) => {
                let text =
                    format!("found the integer {}, expected one that fits 128 bits", quoted(number.as_str()));
                problems.push(Problem { place: at.clone(), text });
                Value::Integer(0)
            }
        },
        // Rust's own parser reads every TOML float, `inf` and `nan` among them; the reader refuses those two.
        DeValue::Float(number) => Value::Float(number.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Array(items) => Value::Array(
            items
                .iter()
                .map(|item: &Spanned<DeValue<'_>>| {
                    convert(item.get_ref(), place(item.span()), place, problems)
                })
                .collect(),
        ),
        DeValue::Table(table) => convert_table(table, place, problems),
    };
    Located { place: at, value }
}

/// Byte offsets at which lines start, to turn a span into a line number.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Self {
        let breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        Self(std::iter::once(0).chain(breaks).collect())
    }

    fn at(&self, span: Range<usize>) -> usize {
        self.0.partition_point(|start| *start <= span.start).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(located: &Located) -> &Table {
        match &located.value {
            Value::Table(table) => table,
            other => panic!("{other} is no table"),
        }
    }

    #[test]
    fn entries_know_their_lines() {
        let root = parse_document("a = 1\n\n[b]\nc = [\n  1,\n  2,\n]\n").unwrap();
        let b = &table(&root)["b"];
        assert_eq!(table(&root)["a"].place, Place::Line(1));
        assert_eq!(b.place, Place::Line(3));
        let c = &table(b)["c"];
        assert_eq!(c.place, Place::Line(4));
        let Value::Array(items) = &c.value else { panic!("{c:?}") };
        assert_eq!(items[1].place, Place::Line(6));
    }

    #[test]
    fn every_syntax_error_is_reported() {
        let problems = parse_document("a = \nb = 1\nc = = 2\n").unwrap_err();
        let lines: Vec<&Place> = problems.iter().map(|p| &p.place).collect();
        assert!(lines.contains(&&Place::Line(1)), "{problems:?}");
        assert!(lines.contains(&&Place::Line(3)), "{problems:?}");
    }

    #[test]
    fn integers_reach_past_64_bits_and_no_further() {
        let root = parse_document("a = 18446744073709551615\nb = 0xff").unwrap();
        assert_eq!(table(&root)["a"].value, Value::Integer(u64::MAX.into()));
        assert_eq!(table(&root)["b"].value, Value::Integer(255));
        let digits = "9".repeat(60);
        let problems = parse_document(&format!("a = {digits}")).unwrap_err();
        assert_eq!(problems[0].place, Place::Line(1));
    }

    #[test]
    fn deep_nesting_is_an_error_and_not_an_overflow() {
        let text = format!("a = {}", "[".repeat(100_000));
        assert!(parse_document(&text).is_err());
    }

    #[test]
    fn long_strings_are_shortened_in_messages() {
        let shown = Value::String("x".repeat(1000)).to_string();
        assert!(shown.ends_with("and 920 more characters"), "{shown}");
    }
}
