//! Reads typed values out of a configuration's sections, collecting every problem instead of stopping at the first.
//!
//! A method returns `None` both where a key is absent and where its value was refused; the refusal is on record in
//! [`Problems`], so the caller goes on with a default and the whole file is judged in one go. Which keys exist is
//! learnt from the calls: whatever was never asked for is unknown and refused by [`Section::finish`].

use super::located::{Located, Place, Problem, Table, Value, quoted};
use super::nearest::nearest;
use std::cell::RefCell;
use std::ops::{Bound, RangeBounds, RangeInclusive};

/// `(0, inf)`, for rates and sizes.
pub const POSITIVE: (Bound<f64>, Bound<f64>) = (Bound::Excluded(0.0), Bound::Unbounded);
/// `[0, inf)`, for weights and margins.
pub const NON_NEGATIVE: (Bound<f64>, Bound<f64>) = (Bound::Included(0.0), Bound::Unbounded);

/// An enum whose variants a user writes as words.
pub trait Words: Copy + PartialEq + 'static {
    /// Every variant with its word.
    const WORDS: &'static [(&'static str, Self)];

    /// The word of this variant.
    fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, value)| *value == self).map_or("", |(word, _)| word)
    }

    /// The variant of a word, for values that are not in a section: command-line flags.
    ///
    /// # Errors
    /// What was found and which words there are.
    fn from_word(text: &str) -> Result<Self, String> {
        let words: Vec<&str> = Self::WORDS.iter().map(|(word, _)| *word).collect();
        let found = Self::WORDS.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        found.ok_or_else(|| format!("found {}, expected {}", quoted(text), list(&words)))
    }
}

/// Everything found wrong so far.
#[derive(Debug, Default)]
pub struct Problems(RefCell<Vec<Problem>>);

impl Problems {
    /// Adds one.
    pub fn add(&self, place: Place, text: String) {
        self.0.borrow_mut().push(Problem { place, text });
    }

    /// All of them in the order of the file, flags last.
    pub fn into_sorted(self) -> Vec<Problem> {
        let mut problems = self.0.into_inner();
        problems.sort();
        problems.dedup();
        problems
    }
}

/// One table of the configuration while it is read.
#[derive(Debug)]
pub struct Section<'p> {
    path: String,
    place: Place,
    table: Table,
    known: Vec<&'static str>,
    problems: &'p Problems,
}

impl<'p> Section<'p> {
    /// The whole document.
    pub fn root(document: Located, problems: &'p Problems) -> Self {
        Self::of(String::new(), document, problems)
    }

    fn of(path: String, located: Located, problems: &'p Problems) -> Self {
        let Located { place, value } = located;
        let table = match value {
            Value::Table(table) => table,
            other => {
                problems.add(place.clone(), format!("{path}: found {other}, expected a table"));
                Table::new()
            }
        };
        Self { path, place, table, known: Vec::new(), problems }
    }

    /// The full name of `key`: `optim.lr`.
    pub fn name(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Where this section starts.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Where `key` was written, while it has not been read yet.
    pub fn place_of(&self, key: &str) -> Option<&Place> {
        self.table.get(key).map(|located| &located.place)
    }

    /// Records that this section's `key` is wrong as a whole (missing, or at odds with another).
    pub fn problem(&self, place: Option<Place>, key: &str, text: &str) {
        self.problems.add(place.unwrap_or_else(|| self.place.clone()), format!("{}: {text}", self.name(key)));
    }

    /// Records that `key` is absent and must not be.
    pub fn missing(&self, key: &str, expected: &str) {
        self.problem(None, key, &format!("found nothing, expected {expected}"));
    }

    fn refuse(&self, key: &str, located: &Located, expected: &str) {
        let text = format!("found {}, expected {expected}", located.value);
        self.problem(Some(located.place.clone()), key, &text);
    }

    /// The value of `key` as it stands.
    pub fn take(&mut self, key: &'static str) -> Option<Located> {
        self.known.push(key);
        self.table.remove(key)
    }

    /// A sub-table.
    pub fn section(&mut self, key: &'static str) -> Option<Section<'p>> {
        let located = self.take(key)?;
        Some(Self::of(self.name(key), located, self.problems))
    }

    /// An array of tables; element `i` is called `key.i`.
    pub fn sections(&mut self, key: &'static str) -> Option<Vec<Section<'p>>> {
        let located = self.take(key)?;
        let Value::Array(items) = located.value else {
            self.refuse(key, &located, &format!("a list of tables, each written [[{key}]]"));
            return None;
        };
        let name = self.name(key);
        let sections = items.into_iter().enumerate();
        Some(sections.map(|(i, item)| Self::of(format!("{name}.{i}"), item, self.problems)).collect())
    }

    /// `true` or `false`.
    pub fn boolean(&mut self, key: &'static str) -> Option<bool> {
        let located = self.take(key)?;
        if let Value::Boolean(value) = located.value {
            return Some(value);
        }
        self.refuse(key, &located, "true or false");
        None
    }

    /// A string that is not empty.
    ///
    /// What a flag gives is text to begin with, so a commit of digits or a folder called `2024` needs no quotes there.
    pub fn string(&mut self, key: &'static str, expected: &str) -> Option<String> {
        let located = self.take(key)?;
        if let Some(text) = text_of(&located) {
            return Some(text);
        }
        self.refuse(key, &located, expected);
        None
    }

    /// One string or a list of them, none empty.
    pub fn strings(&mut self, key: &'static str, expected: &str) -> Option<Vec<String>> {
        let located = self.take(key)?;
        let Value::Array(items) = &located.value else {
            if let Some(text) = text_of(&located) {
                return Some(vec![text]);
            }
            self.refuse(key, &located, expected);
            return None;
        };
        let mut texts = Vec::with_capacity(items.len());
        for item in items {
            match &item.value {
                Value::String(text) if !text.trim().is_empty() => texts.push(text.clone()),
                _ => self.refuse(key, item, expected),
            }
        }
        Some(texts)
    }

    /// One of an enum's words.
    pub fn word<T: Words>(&mut self, key: &'static str) -> Option<T> {
        let located = self.take(key)?;
        if let Value::String(text) = &located.value
            && let Some((_, value)) = T::WORDS.iter().find(|(word, _)| word == text)
        {
            return Some(*value);
        }
        let words: Vec<&str> = T::WORDS.iter().map(|(word, _)| *word).collect();
        let mut expected = list(&words);
        if let Value::String(text) = &located.value
            && let Some(near) = nearest(text, &words)
        {
            expected.push_str(&format!("; did you mean {near:?}?"));
        }
        self.refuse(key, &located, &expected);
        None
    }

    /// A finite number in `bounds`.
    pub fn number(&mut self, key: &'static str, bounds: impl RangeBounds<f64>) -> Option<f64> {
        let located = self.take(key)?;
        self.number_in(key, &located, &bounds, "")
    }

    /// A finite number in `bounds`, or `word`, which reads as `Some(None)`.
    pub fn number_or(
        &mut self,
        key: &'static str,
        bounds: impl RangeBounds<f64>,
        word: &str,
    ) -> Option<Option<f64>> {
        let located = self.take(key)?;
        if located.value == Value::String(word.into()) {
            return Some(None);
        }
        self.number_in(key, &located, &bounds, &format!(" or {word:?}")).map(Some)
    }

    /// A finite number in `bounds`, or one of an enum's words as `Err`.
    pub fn number_or_word<T: Words>(
        &mut self,
        key: &'static str,
        bounds: impl RangeBounds<f64>,
    ) -> Option<Result<f64, T>> {
        let located = self.take(key)?;
        if let Value::String(text) = &located.value
            && let Some((_, value)) = T::WORDS.iter().find(|(word, _)| word == text)
        {
            return Some(Err(*value));
        }
        let words: Vec<&str> = T::WORDS.iter().map(|(word, _)| *word).collect();
        self.number_in(key, &located, &bounds, &format!(", or {}", list(&words))).map(Ok)
    }

    fn number_in(
        &self,
        key: &str,
        located: &Located,
        bounds: &impl RangeBounds<f64>,
        or: &str,
    ) -> Option<f64> {
        match as_number(&located.value) {
            Some(number) if number.is_finite() && bounds.contains(&number) => Some(number),
            _ => {
                self.refuse(key, located, &format!("{}{or}", describe(bounds)));
                None
            }
        }
    }

    /// A list of exactly `N` finite numbers in `bounds`.
    pub fn numbers<const N: usize>(
        &mut self,
        key: &'static str,
        bounds: impl RangeBounds<f64>,
    ) -> Option<[f64; N]> {
        let located = self.take(key)?;
        let expected = format!("a list of {N} numbers");
        let Value::Array(items) = &located.value else {
            self.refuse(key, &located, &expected);
            return None;
        };
        if items.len() != N {
            self.refuse(key, &located, &expected);
            return None;
        }
        let mut numbers = [0.0; N];
        let mut all = true;
        for (number, item) in numbers.iter_mut().zip(items) {
            match self.number_in(key, item, &bounds, "") {
                Some(found) => *number = found,
                None => all = false,
            }
        }
        all.then_some(numbers)
    }

    /// An integer in `range`.
    pub fn integer(&mut self, key: &'static str, range: RangeInclusive<u64>) -> Option<u64> {
        let located = self.take(key)?;
        self.integer_in(key, &located, &range, "")
    }

    /// An integer in `range`, or `word`, which reads as `Some(None)`.
    pub fn integer_or(
        &mut self,
        key: &'static str,
        range: RangeInclusive<u64>,
        word: &str,
    ) -> Option<Option<u64>> {
        let located = self.take(key)?;
        if located.value == Value::String(word.into()) {
            return Some(None);
        }
        self.integer_in(key, &located, &range, &format!(" or {word:?}")).map(Some)
    }

    fn integer_in(&self, key: &str, located: &Located, range: &RangeInclusive<u64>, or: &str) -> Option<u64> {
        if let Value::Integer(number) = located.value
            && let Ok(number) = u64::try_from(number)
            && range.contains(&number)
        {
            return Some(number);
        }
        let expected = match (*range.start(), *range.end()) {
            (low, u64::MAX) => format!("an integer of at least {low}"),
            (low, high) => format!("an integer from {low} to {high}"),
        };
        self.refuse(key, located, &format!("{expected}{or}"));
        None
    }

    /// A count that fits in memory: [`Section::integer`] as `usize`.
    pub fn count(&mut self, key: &'static str, range: RangeInclusive<u64>) -> Option<usize> {
        self.integer(key, range).map(|number| usize::try_from(number).unwrap_or(usize::MAX))
    }

    /// What has not been read yet: for sections whose keys are someone else's.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Refuses every key that was never asked for.
    pub fn finish(self) {
        for (key, located) in &self.table {
            let mut text = String::from("unknown key");
            match nearest(key, &self.known) {
                Some(near) => text.push_str(&format!(", did you mean `{near}`?")),
                None => text.push_str(&format!(", expected {}", list(&self.known))),
            }
            self.problem(Some(located.place.clone()), key, &text);
        }
    }
}

/// The text of a string value, or of a scalar that a flag gave.
fn text_of(located: &Located) -> Option<String> {
    let text = match (&located.value, &located.place) {
        (Value::String(text), _) => text.clone(),
        (Value::Array(_) | Value::Table(_), _) => return None,
        (_, Place::Flag(flag)) => flag.split_once('=')?.1.trim().to_owned(),
        _ => return None,
    };
    (!text.trim().is_empty()).then_some(text)
}

fn as_number(value: &Value) -> Option<f64> {
    match value {
        Value::Float(number) => Some(*number),
        Value::Integer(number) => Some(*number as f64),
        _ => None,
    }
}

fn describe(bounds: &impl RangeBounds<f64>) -> String {
    let low = match bounds.start_bound() {
        Bound::Included(low) => Some(format!("of at least {low}")),
        Bound::Excluded(low) => Some(format!("above {low}")),
        Bound::Unbounded => None,
    };
    let high = match bounds.end_bound() {
        Bound::Included(high) => Some(format!("at most {high}")),
        Bound::Excluded(high) => Some(format!("below {high}")),
        Bound::Unbounded => None,
    };
    match (low, high) {
        (None, None) => "a finite number".into(),
        (Some(only), None) | (None, Some(only)) => format!("a finite number {only}"),
        (Some(low), Some(high)) => format!("a number {low} and {high}"),
    }
}

/// `"a", "b" or "c"`.
pub fn list(words: &[&str]) -> String {
    match words {
        [] => "no key at all".into(),
        [only] => format!("{only:?}"),
        [init @ .., last] => {
            let init: Vec<String> = init.iter().map(|word| format!("{word:?}")).collect();
            format!("{} or {last:?}", init.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::located::parse_document;
    use super::*;

    fn read<T>(text: &str, read: impl FnOnce(&mut Section<'_>) -> T) -> (T, Vec<String>) {
        let problems = Problems::default();
        let mut section = Section::root(parse_document(text).unwrap(), &problems);
        let value = read(&mut section);
        section.finish();
        (value, problems.into_sorted().iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_value_out_of_bounds_names_line_found_and_expected() {
        let (value, problems) = read("\nlr = -1", |s| s.number("lr", POSITIVE));
        assert_eq!(value, None);
        assert_eq!(problems, ["line 2: lr: found -1, expected a finite number above 0"]);
    }

    #[test]
    fn numbers_that_are_not_finite_are_refused() {
        for text in ["x = nan", "x = inf", "x = -inf", "x = 1e999"] {
            let (value, problems) = read(text, |s| s.number("x", ..));
            assert_eq!((value, problems.len()), (None, 1), "{text}");
        }
    }

    #[test]
    fn integers_do_not_take_floats_negatives_or_overflow() {
        for text in ["n = 1.0", "n = -1", "n = 18446744073709551616", "n = \"1\"", "n = true"] {
            let (value, problems) = read(text, |s| s.integer("n", 0..=u64::MAX));
            assert_eq!((value, problems.len()), (None, 1), "{text}");
        }
        assert_eq!(read("n = 18446744073709551615", |s| s.integer("n", 0..=u64::MAX)).0, Some(u64::MAX));
    }

    #[test]
    fn unknown_keys_get_a_suggestion_or_the_list() {
        let ((), problems) = read("batch_pair = 1\nzzzzzz = 2", |s| {
            s.integer("batch_pairs", 1..=9);
            s.integer("seed", 1..=9);
        });
        assert_eq!(
            problems,
            [
                "line 1: batch_pair: unknown key, did you mean `batch_pairs`?",
                "line 2: zzzzzz: unknown key, expected \"batch_pairs\" or \"seed\"",
            ]
        );
    }

    #[test]
    fn a_flag_needs_no_quotes_for_text_that_looks_like_a_number() {
        let problems = Problems::default();
        let place = Place::Flag("model.revision=12e4567".into());
        let value = Located { place: place.clone(), value: Value::Float(f64::INFINITY) };
        let table = Table::from([("revision".to_owned(), value)]);
        let mut section = Section::root(Located { place, value: Value::Table(table) }, &problems);
        assert_eq!(section.string("revision", "a branch"), Some("12e4567".into()));
    }

    #[test]
    fn the_word_for_off_is_not_a_problem() {
        let (value, problems) = read("g = \"none\"", |s| s.number_or("g", POSITIVE, "none"));
        assert_eq!((value, problems.len()), (Some(None), 0));
        let (_, problems) = read("g = \"non\"", |s| s.number_or("g", POSITIVE, "none"));
        assert_eq!(problems, ["line 1: g: found \"non\", expected a finite number above 0 or \"none\""]);
    }

    #[test]
    fn words_read_back_as_written_and_others_are_listed() {
        #[derive(Debug, Clone, Copy, PartialEq)]
        enum Side {
            Left,
            Right,
        }
        impl Words for Side {
            const WORDS: &'static [(&'static str, Self)] = &[("left", Side::Left), ("right", Side::Right)];
        }
        for side in [Side::Left, Side::Right] {
            assert_eq!(Side::from_word(side.word()), Ok(side));
        }
        assert_eq!(Side::from_word("Left"), Err("found \"Left\", expected \"left\" or \"right\"".into()));
    }
}
