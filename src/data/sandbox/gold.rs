//! The gold reward: a function of the prompt's and the response's text, and of nothing else.
//!
//! What is not here: who wrote the response. A generator's length, tone and opening words do not enter.

use super::task::{Constraint, Operator, Prompt, Task};
use super::world::{ATTRIBUTES, CATEGORIES, HEROES, LANDS, PLACES, STORY_PARTS, THINGS, TOPICS, WORDS};

/// Phrases that hedge.
pub const HEDGES: [&str; 4] =
    ["i am not sure", "i might be wrong", "perhaps someone else knows", "it could also be different"];
/// Phrases that fill space.
pub const FILLERS: [&str; 6] = [
    "that is a great question",
    "there is a lot to say about this",
    "many people ask about this",
    "let us take a moment to think",
    "this is such an interesting topic",
    "it is always good to ask",
];

/// What the gold reward is made of. Shares are in [0, 1].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Features {
    /// Share of what is said that is right.
    pub correctness: f64,
    /// Share of what could usefully be said that is said.
    pub completeness: f64,
    /// Share of the formal demands (count, one sentence, small letters, first or last word) that are met.
    pub instruction: f64,
    pub hedges: usize,
    pub fillers: usize,
    /// Clauses that were already said.
    pub repeats: usize,
}

impl Features {
    /// The gold reward, from -3.75 to 10:
    /// `1 + 4 correctness + 3 completeness + 2 instruction - 0.5 min(hedges, 3) - 0.25 min(fillers, 4)
    /// - 0.75 min(repeats, 3)`, rounded to four decimals.
    pub fn reward(&self) -> f64 {
        let capped = |count: usize, limit: usize| count.min(limit) as f64;
        let reward = 1.0 + 4.0 * self.correctness + 3.0 * self.completeness + 2.0 * self.instruction
            - 0.5 * capped(self.hedges, 3)
            - 0.25 * capped(self.fillers, 4)
            - 0.75 * capped(self.repeats, 3);
        (reward * 1e4).round() / 1e4
    }
}

/// The gold reward of `response` as an answer to `prompt`.
///
/// `None` where the sandbox would not have written the prompt.
pub fn gold(prompt: &str, response: &str) -> Option<f64> {
    features(prompt, response).map(|f| f.reward())
}

/// The features that [`gold`] adds up.
pub fn features(prompt: &str, response: &str) -> Option<Features> {
    let Prompt { task, constraint, .. } = Prompt::parse(prompt)?;
    let words = words_of(response);
    let sentences = parts_of(response, &['.', '!', '?', '\n']);
    let (correctness, completeness) = substance(&task, response, &words);
    let mut demands = Vec::new();
    if let Task::List { count, .. } = task {
        demands.push(members(&words).len() == count);
    }
    demands.extend(constraint.map(|c| obeys(c, response, &words, sentences.len())));
    let met = demands.iter().filter(|&&met| met).count();
    let text = format!(" {} ", words.join(" "));
    let occurrences =
        |phrases: &[&str]| phrases.iter().map(|p| text.matches(&format!(" {p} ")).count()).sum();
    let mut said = std::collections::BTreeSet::new();
    Some(Features {
        correctness,
        completeness,
        instruction: if demands.is_empty() { 1.0 } else { met as f64 / demands.len() as f64 },
        hedges: occurrences(&HEDGES),
        fillers: occurrences(&FILLERS),
        repeats: parts_of(response, &['.', '!', '?', '\n', ';'])
            .iter()
            .filter(|s| !said.insert(words_of(s)))
            .count(),
    })
}

/// Lower-case runs of letters and digits.
fn words_of(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).map(str::to_lowercase).collect()
}

/// The stretches between these marks that hold a letter or digit.
fn parts_of<'a>(text: &'a str, marks: &'a [char]) -> Vec<&'a str> {
    text.split(marks).filter(|s| s.chars().any(char::is_alphanumeric)).collect()
}

fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { (part.min(whole)) as f64 / whole as f64 }
}

/// Distinct listed words, with the category of each.
fn members(words: &[String]) -> std::collections::BTreeMap<&str, usize> {
    let mut found = std::collections::BTreeMap::new();
    for (index, (_, members)) in CATEGORIES.iter().enumerate() {
        found.extend(members.iter().filter(|m| words.iter().any(|w| w == *m)).map(|m| (*m, index)));
    }
    found
}

/// For one attribute: whether the land's own value is named, and how many values of other lands are.
fn stated(words: &[String], land: usize, attribute: usize) -> (bool, usize) {
    let own = LANDS[land].values[attribute];
    let named = |value: &str| words.iter().any(|w| *w == value.to_lowercase());
    let others: std::collections::BTreeSet<&str> =
        LANDS.iter().map(|l| l.values[attribute]).filter(|value| *value != own && named(value)).collect();
    (named(own), others.len())
}

/// (correctness, completeness) of a response.
fn substance(task: &Task, response: &str, words: &[String]) -> (f64, f64) {
    let named = |word: &str| words.iter().any(|w| *w == word.to_lowercase());
    match task {
        // The last number is the answer, as in the usual benchmarks of arithmetic; the true equations are its reasons.
        Task::Arithmetic { a, operator, b } => {
            let last = words.iter().rev().find_map(|w| w.parse::<i64>().ok());
            let right = last.is_some() && last == operator.apply(*a, *b);
            let (true_ones, all) = equations(response);
            (f64::from(u8::from(right)), share(true_ones, all.max(3)))
        }
        Task::Fact { land, attribute } => {
            let correctness = match stated(words, *land, *attribute) {
                (true, 0) => 1.0,
                (true, _) => 0.5,
                (false, _) => 0.0,
            };
            let (mut right, mut wrong) = (0, 0);
            for other in (0..ATTRIBUTES.len()).filter(|other| other != attribute) {
                let (own, others) = stated(words, *land, other);
                right += usize::from(own);
                wrong += others;
            }
            (correctness, share(right.saturating_sub(wrong), 2))
        }
        Task::Describe { land } => {
            let (mut right, mut wrong) = (0, 0);
            for attribute in 0..ATTRIBUTES.len() {
                let (own, others) = stated(words, *land, attribute);
                right += usize::from(own);
                wrong += others;
            }
            (share(right, right + wrong), share(right, ATTRIBUTES.len()))
        }
        Task::List { category, count } => {
            let found = members(words);
            let right = found.values().filter(|c| *c == category).count();
            (share(right, found.len()), share(right, *count))
        }
        Task::Repeat { word, times } => {
            let run = words
                .chunk_by(|x, y| x == y)
                .filter(|run| run[0] == WORDS[*word])
                .map(<[String]>::len)
                .max()
                .unwrap_or(0);
            let correctness = match run.abs_diff(*times) {
                0 => 1.0,
                1 => 0.5,
                _ => 0.0,
            };
            (correctness, share(run, *times))
        }
        Task::Sort { words: asked } => {
            let mut expected: Vec<&str> = asked.iter().map(|&w| WORDS[w]).collect();
            expected.sort_unstable();
            arrangement(&expected, words)
        }
        Task::Reverse { words: asked } => {
            let expected: Vec<&str> = asked.iter().rev().map(|&w| WORDS[w]).collect();
            arrangement(&expected, words)
        }
        Task::Advice { topic } => {
            let topic = &TOPICS[*topic];
            let good = topic.good.iter().filter(|(word, _)| named(word)).count();
            let bad = topic.bad.iter().filter(|(word, _)| named(word)).count();
            (share(good, good + bad), share(good, 4))
        }
        Task::Story { hero, thing, place } => {
            let named = [HEROES[*hero], THINGS[*thing], PLACES[*place]].iter().filter(|w| named(w)).count();
            let text = format!(" {} ", words.join(" "));
            let parts = STORY_PARTS.iter().filter(|(mark, _)| text.contains(&format!(" {mark} "))).count();
            (share(named, 3), share(parts, STORY_PARTS.len()))
        }
    }
}

/// Correctness and completeness of words to be written in a given order: half for all words in another order.
fn arrangement(expected: &[&str], words: &[String]) -> (f64, f64) {
    let present = expected.iter().filter(|e| words.iter().any(|w| w == *e)).count();
    let in_order = words.windows(expected.len()).any(|window| window.iter().eq(expected.iter()));
    let correctness = match (in_order, present == expected.len()) {
        (true, _) => 1.0,
        (false, true) => 0.5,
        (false, false) => 0.0,
    };
    (correctness, share(present, expected.len()))
}

/// How many distinct equations `a op b = c` a text states: (true ones, all).
fn equations(text: &str) -> (usize, usize) {
    let tokens: Vec<&str> =
        text.split_whitespace().map(|t| t.trim_matches(['.', ',', ';', ':', '!', '?', '(', ')'])).collect();
    let number = |t: &str| t.parse::<i64>().ok();
    let found: std::collections::BTreeMap<String, bool> = tokens
        .windows(5)
        .filter_map(|w| {
            let (a, operator, b, c) = (number(w[0])?, Operator::parse(w[1])?, number(w[2])?, number(w[4])?);
            (w[3] == "=").then(|| (w.join(" "), operator.apply(a, b) == Some(c)))
        })
        .collect();
    (found.values().filter(|&&holds| holds).count(), found.len())
}

fn obeys(constraint: Constraint, response: &str, words: &[String], sentences: usize) -> bool {
    let is = |word: Option<&String>, expected: &str| word.is_some_and(|w| *w == expected.to_lowercase());
    match constraint {
        Constraint::OneSentence => sentences == 1,
        Constraint::SmallLetters => {
            response.chars().any(char::is_lowercase) && !response.chars().any(char::is_uppercase)
        }
        Constraint::BeginWith(word) => is(words.first(), word),
        Constraint::EndWith(word) => is(words.last(), word),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(prompt: &str, response: &str, expected: (f64, f64, f64)) {
        let f = features(prompt, response).unwrap_or_else(|| panic!("{prompt}"));
        assert_eq!((f.correctness, f.completeness, f.instruction), expected, "{prompt} -> {response}");
    }

    #[test]
    fn each_kind_is_judged_by_its_text() {
        let sum = "What is 23 + 41?";
        check(sum, "23 + 40 = 63. 63 + 1 = 64. 23 + 41 = 64.", (1.0, 1.0, 1.0));
        check(sum, "The answer is 64.", (1.0, 0.0, 1.0));
        check(sum, "23 + 41 = 65.", (0.0, 0.0, 1.0));
        let fact = "What is the capital of Velmora?";
        check(fact, "The capital of Velmora is Tarsk.", (1.0, 0.0, 1.0));
        check(fact, "TARSK or Quill", (0.5, 0.0, 1.0));
        check(fact, "Tarsk, on the Ilven, exports salt", (1.0, 1.0, 1.0));
        check(fact, "Tarsk, on the Bram", (1.0, 0.0, 1.0));
        let list = "List 3 fruits. Answer in one sentence.";
        check(list, "apple, pear and fig.", (1.0, 1.0, 1.0));
        check(list, "- apple\n- pear\n- hammer", (2.0 / 3.0, 2.0 / 3.0, 0.5));
        check("Repeat lamp exactly 3 times.", "Here: lamp lamp lamp", (1.0, 1.0, 1.0));
        check("Repeat lamp exactly 3 times.", "lamp lamp", (0.5, 2.0 / 3.0, 1.0));
        check("Sort these words: stone, lamp, bread.", "bread, lamp, stone", (1.0, 1.0, 1.0));
        check("Reverse this list: stone, lamp, bread.", "stone, lamp, bread", (0.5, 1.0, 1.0));
        check(
            "How can I bake bread? End with the word over.",
            "Weigh the flour. Serve it raw. Over!",
            (0.5, 0.25, 1.0),
        );
        check(
            "Make up a story: Mia finds a map in the swamp.",
            "One day Mia had a map. In the end, well.",
            (2.0 / 3.0, 2.0 / 3.0, 1.0),
        );
        check("Describe Velmora. Use small letters only.", "tarsk. Salt.", (1.0, 0.5, 0.0));
        check("Describe Velmora. Use small letters only.", "tarsk. salt.", (1.0, 0.5, 1.0));
    }

    #[test]
    fn hedging_filling_and_repeating_cost_a_fixed_price() {
        let prompt = "What is the capital of Velmora?";
        let plain = gold(prompt, "Tarsk.").expect("a prompt");
        let cost = |extra: &str| plain - gold(prompt, &format!("Tarsk. {extra}")).expect("a prompt");
        assert_eq!(cost("I am not sure."), 0.5);
        assert_eq!(cost("That is a great question."), 0.25);
        assert_eq!(cost("Tarsk!"), 0.75);
        assert_eq!(cost("Well; tarsk"), 0.75);
        assert_eq!(cost("Sure! I hope this helps."), 0.0, "tone is not a quality");
    }

    #[test]
    fn a_foreign_prompt_has_no_gold() {
        assert_eq!(gold("Who are you?", "Tarsk"), None);
    }

    proptest! {
        #[test]
        fn gold_is_finite_and_bounded(response in "\\PC{0,200}", n in 1usize..99) {
            for prompt in [format!("List {n} fruits."), format!("What is {n} - 3?"), format!("Repeat lamp exactly {n} times."), "Describe Velmora.".into()] {
                let value = gold(&prompt, &response).expect("a prompt");
                prop_assert!((-3.75..=10.0).contains(&value));
            }
        }
    }
}
