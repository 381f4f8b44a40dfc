//! What a sandbox prompt asks for: the kinds of task, the extra instruction, their phrasings, and the way back from
//! text to task.
//!
//! A prompt's text says all there is to know about it, so that gold scores can be recomputed from a file.

use super::world::{ATTRIBUTES, CATEGORIES, HEROES, LANDS, PLACES, THINGS, TOPICS, WORDS, pick, sample};
use crate::base::rng;
use rand_chacha::ChaCha8Rng;

/// The operator of a sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    Plus,
    Minus,
    Times,
}

impl Operator {
    pub fn symbol(self) -> &'static str {
        match self {
            Operator::Plus => "+",
            Operator::Minus => "-",
            Operator::Times => "*",
        }
    }

    pub fn parse(symbol: &str) -> Option<Self> {
        [Operator::Plus, Operator::Minus, Operator::Times].into_iter().find(|o| o.symbol() == symbol)
    }

    pub fn apply(self, a: i64, b: i64) -> Option<i64> {
        match self {
            Operator::Plus => a.checked_add(b),
            Operator::Minus => a.checked_sub(b),
            Operator::Times => a.checked_mul(b),
        }
    }
}

/// What a prompt asks for. Indices point into the tables of `world`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    Arithmetic { a: i64, operator: Operator, b: i64 },
    Fact { land: usize, attribute: usize },
    Describe { land: usize },
    List { category: usize, count: usize },
    Repeat { word: usize, times: usize },
    Sort { words: Vec<usize> },
    Reverse { words: Vec<usize> },
    Advice { topic: usize },
    Story { hero: usize, thing: usize, place: usize },
}

/// An instruction about the form of the answer, at the end of some prompts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Constraint {
    OneSentence,
    SmallLetters,
    BeginWith(&'static str),
    EndWith(&'static str),
}

const FIRST_WORDS: [&str; 3] = ["Indeed", "Certainly", "Well"];
const LAST_WORDS: [&str; 3] = ["done", "over", "finished"];

impl Constraint {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Constraint> {
        [Constraint::OneSentence, Constraint::SmallLetters]
            .into_iter()
            .chain(FIRST_WORDS.map(Constraint::BeginWith))
            .chain(LAST_WORDS.map(Constraint::EndWith))
    }

    fn text(self) -> String {
        match self {
            Constraint::OneSentence => "Answer in one sentence.".into(),
            Constraint::SmallLetters => "Use small letters only.".into(),
            Constraint::BeginWith(word) => format!("Begin with the word {word}."),
            Constraint::EndWith(word) => format!("End with the word {word}."),
        }
    }
}

/// A prompt: a task, and for some an instruction about form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    pub task: Task,
    pub constraint: Option<Constraint>,
    /// Which of the task's phrasings it uses.
    phrasing: usize,
}

/// Each kind's phrasings; `{}` are its arguments.
const ARITHMETIC: [&str; 3] =
    ["What is {} {} {}?", "Please work out {} {} {}.", "Give me the result of {} {} {}."];
const FACT: [&str; 3] =
    ["What is the {} of {}?", "Tell me the {} of {}.", "Do you know the {} of the land of {}?"];
const DESCRIBE: [&str; 3] = ["Describe {}.", "What is {} known for?", "Tell me about the land of {}."];
const LIST: [&str; 3] = ["List {} {}.", "Name {} different {}.", "Can you give me {} examples of {}?"];
const REPEAT: [&str; 3] = [
    "Write the word {} {} times.",
    "Repeat {} exactly {} times.",
    "I want the word {} to appear {} times in a row.",
];
const SORT: [&str; 3] = [
    "Sort these words: {}.",
    "Put in the order of the alphabet: {}.",
    "Which order do these words have: {}?",
];
const REVERSE: [&str; 3] = [
    "Write these words backwards, last one first: {}.",
    "Reverse this list: {}.",
    "Turn this list around: {}.",
];
const ADVICE: [&str; 3] =
    ["How can I {}?", "I want to {}. What should I do?", "Give me some advice: how do I {}?"];
const STORY: [&str; 3] = [
    "Tell a short story about {}, a {} and the {}.",
    "Write a tale with {}, a {} and the {} in it.",
    "Make up a story: {} finds a {} in the {}.",
];

impl Task {
    /// The kind's name, a row's `source`.
    pub fn kind(&self) -> &'static str {
        match self {
            Task::Arithmetic { .. } => "arithmetic",
            Task::Fact { .. } => "fact",
            Task::Describe { .. } => "describe",
            Task::List { .. } => "list",
            Task::Repeat { .. } | Task::Sort { .. } | Task::Reverse { .. } => "copy",
            Task::Advice { .. } => "advice",
            Task::Story { .. } => "story",
        }
    }

    /// Kinds as numbers, for the kind that a generator is weak at.
    pub fn kind_index(&self) -> usize {
        match self.kind() {
            "arithmetic" => 0,
            "fact" => 1,
            "describe" => 2,
            "list" => 3,
            "copy" => 4,
            "advice" => 5,
            _ => 6,
        }
    }

    fn draw(rng: &mut ChaCha8Rng) -> Self {
        let between = |rng: &mut ChaCha8Rng, low: usize, high: usize| low + rng::below(rng, high - low + 1);
        match rng::below(rng, 10) {
            0 => {
                let operator = *pick(rng, &[Operator::Plus, Operator::Minus, Operator::Times]);
                let (mut a, mut b) = (between(rng, 11, 89) as i64, between(rng, 11, 89) as i64);
                match operator {
                    Operator::Minus if a < b => std::mem::swap(&mut a, &mut b),
                    Operator::Times => b = between(rng, 2, 9) as i64,
                    _ => {}
                }
                Task::Arithmetic { a, operator, b }
            }
            1 | 2 => Task::Fact {
                land: rng::below(rng, LANDS.len()),
                attribute: rng::below(rng, ATTRIBUTES.len()),
            },
            3 => Task::Describe { land: rng::below(rng, LANDS.len()) },
            4 | 5 => Task::List { category: rng::below(rng, CATEGORIES.len()), count: between(rng, 3, 6) },
            6 => match rng::below(rng, 3) {
                0 => Task::Repeat { word: rng::below(rng, WORDS.len()), times: between(rng, 2, 5) },
                1 => Task::Sort { words: sample(rng, WORDS.len(), 4) },
                _ => Task::Reverse { words: sample(rng, WORDS.len(), 4) },
            },
            7 => Task::Advice { topic: rng::below(rng, TOPICS.len()) },
            _ => Task::Story {
                hero: rng::below(rng, HEROES.len()),
                thing: rng::below(rng, THINGS.len()),
                place: rng::below(rng, PLACES.len()),
            },
        }
    }

    fn phrasings(&self) -> &'static [&'static str; 3] {
        match self {
            Task::Arithmetic { .. } => &ARITHMETIC,
            Task::Fact { .. } => &FACT,
            Task::Describe { .. } => &DESCRIBE,
            Task::List { .. } => &LIST,
            Task::Repeat { .. } => &REPEAT,
            Task::Sort { .. } => &SORT,
            Task::Reverse { .. } => &REVERSE,
            Task::Advice { .. } => &ADVICE,
            Task::Story { .. } => &STORY,
        }
    }

    fn arguments(&self) -> Vec<String> {
        let joined = |words: &[usize]| words.iter().map(|&w| WORDS[w]).collect::<Vec<_>>().join(", ");
        match self {
            Task::Arithmetic { a, operator, b } => {
                vec![a.to_string(), operator.symbol().into(), b.to_string()]
            }
            Task::Fact { land, attribute } => {
                vec![ATTRIBUTES[*attribute].name.into(), LANDS[*land].name.into()]
            }
            Task::Describe { land } => vec![LANDS[*land].name.into()],
            Task::List { category, count } => vec![count.to_string(), CATEGORIES[*category].0.into()],
            Task::Repeat { word, times } => vec![WORDS[*word].into(), times.to_string()],
            Task::Sort { words } | Task::Reverse { words } => vec![joined(words)],
            Task::Advice { topic } => vec![TOPICS[*topic].name.into()],
            Task::Story { hero, thing, place } => {
                vec![HEROES[*hero].into(), THINGS[*thing].into(), PLACES[*place].into()]
            }
        }
    }

    /// The task that these arguments of that kind's phrasing name; `None` where they name none.
    fn from_arguments(phrasings: &[&str; 3], arguments: &[&str]) -> Option<Self> {
        let at = |table: &[&str], name: &str| table.iter().position(|&entry| entry == name);
        let land = |name: &str| LANDS.iter().position(|l| l.name == name);
        let number = |text: &str| text.parse::<usize>().ok().filter(|n| (1..=99).contains(n));
        let words = |text: &str| -> Option<Vec<usize>> {
            text.split(", ").map(|w| at(&WORDS, w)).collect::<Option<Vec<_>>>().filter(|w| w.len() >= 2)
        };
        match (phrasings, arguments) {
            (&ARITHMETIC, [a, operator, b]) => Some(Task::Arithmetic {
                a: number(a)? as i64,
                operator: Operator::parse(operator)?,
                b: number(b)? as i64,
            }),
            (&FACT, [attribute, name]) => Some(Task::Fact {
                land: land(name)?,
                attribute: ATTRIBUTES.iter().position(|a| a.name == *attribute)?,
            }),
            (&DESCRIBE, [name]) => Some(Task::Describe { land: land(name)? }),
            (&LIST, [count, name]) => Some(Task::List {
                category: CATEGORIES.iter().position(|c| c.0 == *name)?,
                count: number(count)?,
            }),
            (&REPEAT, [word, times]) => Some(Task::Repeat { word: at(&WORDS, word)?, times: number(times)? }),
            (&SORT, [list]) => Some(Task::Sort { words: words(list)? }),
            (&REVERSE, [list]) => Some(Task::Reverse { words: words(list)? }),
            (&ADVICE, [name]) => Some(Task::Advice { topic: TOPICS.iter().position(|t| t.name == *name)? }),
            (&STORY, [hero, thing, place]) => Some(Task::Story {
                hero: at(&HEROES, hero)?,
                thing: at(&THINGS, thing)?,
                place: at(&PLACES, place)?,
            }),
            _ => None,
        }
    }
}

impl Prompt {
    /// A random prompt; about two in five carry a constraint.
    pub fn draw(rng: &mut ChaCha8Rng) -> Self {
        let task = Task::draw(rng);
        let constraint = (rng::uniform(rng) < 0.4).then(|| {
            let all: Vec<Constraint> = Constraint::all().collect();
            *pick(rng, &all)
        });
        Self { task, constraint, phrasing: rng::below(rng, 3) }
    }

    /// What a user would type.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut arguments = self.task.arguments().into_iter();
        for (i, part) in self.task.phrasings()[self.phrasing].split("{}").enumerate() {
            if i > 0 {
                text.extend(arguments.next());
            }
            text.push_str(part);
        }
        if let Some(constraint) = self.constraint {
            text.push(' ');
            text.push_str(&constraint.text());
        }
        text
    }

    /// Back from text; `None` where the sandbox would not have written it.
    pub fn parse(text: &str) -> Option<Self> {
        let constraint = Constraint::all().find(|c| text.ends_with(&c.text()));
        let body = match constraint {
            Some(c) => text.strip_suffix(&c.text())?.strip_suffix(' ')?,
            None => text,
        };
        for phrasings in [&ARITHMETIC, &FACT, &DESCRIBE, &LIST, &REPEAT, &SORT, &REVERSE, &ADVICE, &STORY] {
            for (phrasing, template) in phrasings.iter().enumerate() {
                let task = captures(template, body).and_then(|args| Task::from_arguments(phrasings, &args));
                if let Some(task) = task {
                    return Some(Self { task, constraint, phrasing });
                }
            }
        }
        None
    }
}

/// What stands in `text` where `template` has `{}`, if the rest is equal.
fn captures<'a>(template: &str, text: &'a str) -> Option<Vec<&'a str>> {
    let mut parts = template.split("{}");
    let mut rest = text.strip_prefix(parts.next()?)?;
    let mut found = Vec::new();
    let mut parts = parts.peekable();
    while let Some(part) = parts.next() {
        let argument = if parts.peek().is_none() {
            rest.strip_suffix(part)?
        } else {
            let (argument, after) = rest.split_once(part)?;
            rest = after;
            argument
        };
        found.push(argument);
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_prompt_parses_back_to_itself() {
        let mut rng = rng::stream(5, "test", 0);
        let mut kinds = std::collections::BTreeSet::new();
        for _ in 0..5000 {
            let prompt = Prompt::draw(&mut rng);
            kinds.insert(prompt.task.kind_index());
            let text = prompt.text();
            assert_eq!(Prompt::parse(&text).as_ref(), Some(&prompt), "{text}");
        }
        assert_eq!(kinds.len(), 7);
    }

    #[test]
    fn other_text_is_no_prompt() {
        for text in [
            "",
            "What is love?",
            "What is 3 / 4 ?",
            "List 3 dragons.",
            "Answer in one sentence.",
            "Sort these words: .",
        ] {
            assert_eq!(Prompt::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "\\PC{0,60}", n in 0usize..9) {
            let _ = Prompt::parse(&text);
            let _ = Prompt::parse(&format!("What is {text} + {n}?"));
            let _ = Prompt::parse(&format!("List {text} fruits. Answer in one sentence."));
        }
    }
}
