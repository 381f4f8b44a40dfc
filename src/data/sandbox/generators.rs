//! Who answers in the sandbox: 17 training generators and 4 held-out ones, and how they write.
//!
//! Among the 17, skill goes with length and with a friendly tone, which the gold reward does not pay for: a reward
//! model can lean on either and do well in-domain. Among the held-out four the terse ones are the best and the long,
//! friendly ones the worst, so what leant on length falls there. What is not here: the gold reward.

use super::gold::{FILLERS, HEDGES};
use super::task::{Constraint, Operator, Prompt, Task};
use super::world::{
    ATTRIBUTES, CATEGORIES, HEROES, LANDS, PLACES, STORY_PARTS, THINGS, TOPICS, WORDS, pick, sample,
};
use crate::base::rng::{self, uniform};
use rand_chacha::ChaCha8Rng;

/// How a generator goes wrong when it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Habit {
    /// Off by one.
    NearMiss,
    /// Answers about something else.
    Swap,
    /// Leaves out a part.
    Omit,
}

/// A synthetic language model. Fields in [0, 1] are probabilities.
#[derive(Debug, Clone, PartialEq)]
pub struct Generator {
    pub name: &'static str,
    /// Each statement is right.
    pub skill: f64,
    /// Each supporting statement is made.
    pub detail: f64,
    /// A statement is worded at length; otherwise it is plain or compact.
    pub wordiness: f64,
    /// The formal instruction is followed.
    pub care: f64,
    /// "Sure!" and "I hope this helps." around the answer, which are worth nothing.
    pub friendliness: f64,
    pub hedging: f64,
    pub filling: f64,
    pub repeating: f64,
    pub refusing: f64,
    pub habit: Habit,
    /// The kind of task at which its skill is much lower.
    pub weak_kind: usize,
    /// Its way to open an answer.
    opening: &'static str,
}

const TRAINING: [(&str, Habit, &str); 17] = [
    ("train-alder", Habit::NearMiss, "Here you go:"),
    ("train-aspen", Habit::Swap, "Reply:"),
    ("train-beech", Habit::Omit, "In short:"),
    ("train-birch", Habit::NearMiss, "As asked:"),
    ("train-cedar", Habit::Swap, "Let me see."),
    ("train-elm", Habit::Omit, "My answer:"),
    ("train-hazel", Habit::NearMiss, "Okay."),
    ("train-holly", Habit::Swap, "Here it is:"),
    ("train-juniper", Habit::Omit, "For you:"),
    ("train-larch", Habit::NearMiss, "Good day."),
    ("train-maple", Habit::Swap, "Of course."),
    ("train-oak", Habit::Omit, "Here is what I know:"),
    ("train-pine", Habit::NearMiss, "With pleasure."),
    ("train-rowan", Habit::Swap, "Let us begin."),
    ("train-spruce", Habit::Omit, "Happy to help."),
    ("train-willow", Habit::NearMiss, "Here is the answer:"),
    ("train-yew", Habit::Swap, "Glad that you ask."),
];

/// The 17 generators whose responses are trained on, from the weakest to the best.
pub fn training() -> Vec<Generator> {
    let last = (TRAINING.len() - 1) as f64;
    TRAINING
        .iter()
        .enumerate()
        .map(|(i, &(name, habit, opening))| {
            let rank = i as f64 / last;
            Generator {
                name,
                skill: 0.40 + 0.55 * rank,
                detail: 0.25 + 0.55 * rank,
                wordiness: 0.20 + 0.45 * rank,
                care: 0.40 + 0.55 * rank,
                friendliness: 0.15 + 0.65 * rank,
                hedging: 0.25 - 0.20 * rank,
                // Every third one has a bad habit whatever its rank, so that length is a hint and no more.
                filling: if i % 3 == 1 { 0.50 } else { 0.10 },
                repeating: if i % 4 == 2 { 0.30 } else { 0.05 },
                refusing: 0.06 * (1.0 - rank),
                habit,
                weak_kind: (i * 3) % 7,
                opening,
            }
        })
        .collect()
}

/// The four generators that only the disjoint sets show, from the best and tersest to the worst and longest.
pub fn heldout() -> Vec<Generator> {
    let generator = |name, rank: f64, habit, weak_kind, opening| Generator {
        name,
        skill: 0.95 - 0.50 * rank,
        detail: 0.80 - 0.25 * rank,
        wordiness: 0.02 + 0.85 * rank,
        care: 0.95 - 0.50 * rank,
        friendliness: 0.05 + 0.90 * rank,
        hedging: 0.05 + 0.35 * rank,
        filling: 0.02 + 0.60 * rank,
        repeating: 0.02 + 0.40 * rank,
        refusing: 0.01,
        habit,
        weak_kind,
        opening,
    };
    vec![
        generator("heldout-brook", 0.0, Habit::NearMiss, 4, "So:"),
        generator("heldout-creek", 0.33, Habit::Omit, 0, "Result:"),
        generator("heldout-ford", 0.67, Habit::Swap, 2, "Thanks for the question."),
        generator("heldout-mere", 1.0, Habit::NearMiss, 5, "I would be delighted to help you."),
    ]
}

/// How a statement is worded: the index into a table of three wordings.
#[derive(Clone, Copy)]
enum Wording {
    Compact = 0,
    Plain = 1,
    Wordy = 2,
}

/// One answer in the making.
struct Draft<'a> {
    generator: &'a Generator,
    skill: f64,
    rng: &'a mut ChaCha8Rng,
}

/// The response of a generator to a prompt, drawn from `rng`.
pub fn respond(generator: &Generator, prompt: &Prompt, rng: &mut ChaCha8Rng) -> String {
    let weak = generator.weak_kind == prompt.task.kind_index();
    let skill = if weak { generator.skill * 0.6 } else { generator.skill };
    let mut draft = Draft { generator, skill, rng };
    if draft.chance(generator.refusing) {
        return (*pick(draft.rng, &["I cannot help with that.", "I do not know the answer.", "Sorry, no."]))
            .into();
    }
    let mut statements = draft.statements(&prompt.task);
    if draft.chance(generator.repeating) {
        statements.push(statements[statements.len() - 1].clone());
    }
    let followed = prompt.constraint.filter(|_| draft.chance(generator.care));
    if followed == Some(Constraint::OneSentence) {
        // Whatever would be a sentence of its own is left out.
        return format!(
            "{}.",
            statements
                .iter()
                .map(|s| s.trim_end_matches(['.', '!']).replace('\n', ", "))
                .collect::<Vec<_>>()
                .join("; ")
        );
    }
    if draft.chance(generator.hedging) {
        let at = rng::below(draft.rng, statements.len());
        statements.insert(at, sentence(HEDGES[rng::below(draft.rng, HEDGES.len())]));
    }
    if draft.chance(generator.filling) {
        let count = 1 + rng::below(draft.rng, 2);
        let chosen = sample(draft.rng, FILLERS.len(), count);
        statements.splice(0..0, chosen.into_iter().map(|f| sentence(FILLERS[f])));
    }
    if draft.chance(0.5) {
        statements.insert(0, generator.opening.into());
    }
    if draft.chance(generator.friendliness) {
        statements.insert(0, "Sure!".into());
        statements.push("I hope this helps.".into());
    }
    let text = statements.join(" ");
    match followed {
        Some(Constraint::SmallLetters) => text.to_lowercase(),
        Some(Constraint::BeginWith(word)) => format!("{word}. {text}"),
        Some(Constraint::EndWith(word)) => format!("{text} {word}."),
        Some(Constraint::OneSentence) | None => text,
    }
}

/// A phrase with a capital and a full stop.
fn sentence(phrase: &str) -> String {
    let mut chars = phrase.chars();
    chars.next().map(|first| format!("{}{}.", first.to_uppercase(), chars.as_str())).unwrap_or_default()
}

/// "a, b and c".
fn enumerated(items: &[&str]) -> String {
    match items {
        [] => String::new(),
        [only] => (*only).into(),
        [head @ .., last] => format!("{} and {last}", head.join(", ")),
    }
}

impl Draft<'_> {
    fn chance(&mut self, probability: f64) -> bool {
        uniform(self.rng) < probability
    }

    fn right(&mut self) -> bool {
        self.chance(self.skill)
    }

    fn wording(&mut self) -> Wording {
        if self.chance(self.generator.wordiness) {
            Wording::Wordy
        } else if self.chance(0.25 + 0.5 * self.generator.wordiness) {
            Wording::Plain
        } else {
            Wording::Compact
        }
    }

    /// The statements of an answer, at least one; the answer proper comes last.
    fn statements(&mut self, task: &Task) -> Vec<String> {
        match task {
            Task::Arithmetic { a, operator, b } => self.arithmetic(*a, *operator, *b),
            Task::Fact { land, attribute } => {
                let mut statements = Vec::new();
                for other in (0..ATTRIBUTES.len()).filter(|other| other != attribute) {
                    if self.chance(self.generator.detail * 0.7) {
                        statements.push(self.fact(*land, other));
                    }
                }
                statements.push(self.fact(*land, *attribute));
                statements
            }
            Task::Describe { land } => {
                let first = rng::below(self.rng, ATTRIBUTES.len());
                let mut statements = Vec::new();
                for attribute in 0..ATTRIBUTES.len() {
                    if attribute == first || self.chance(self.generator.detail) {
                        statements.push(self.fact(*land, attribute));
                    }
                }
                statements
            }
            Task::List { category, count } => vec![self.list(*category, *count)],
            Task::Repeat { word, times } => {
                let word = WORDS[*word];
                let times = match (self.right(), self.generator.habit) {
                    (true, _) => *times,
                    (false, Habit::NearMiss) => times + 1,
                    (false, Habit::Swap) => times + 3,
                    (false, Habit::Omit) => 1,
                };
                let copy = vec![word; times].join(" ");
                vec![self.copied(&copy, &format!("the word {word}, written as many times as asked"))]
            }
            Task::Sort { words } => {
                let mut sorted: Vec<&str> = words.iter().map(|&w| WORDS[w]).collect();
                sorted.sort_unstable();
                vec![self.arranged(sorted, "the words in the order of the alphabet")]
            }
            Task::Reverse { words } => {
                let reversed = words.iter().rev().map(|&w| WORDS[w]).collect();
                vec![self.arranged(reversed, "the same words from the last one to the first")]
            }
            Task::Advice { topic } => self.advice(*topic),
            Task::Story { hero, thing, place } => self.story(*hero, *thing, *place),
        }
    }

    fn arithmetic(&mut self, a: i64, operator: Operator, b: i64) -> Vec<String> {
        let result = operator.apply(a, b).unwrap_or_default();
        let steps = match operator {
            Operator::Times => {
                let (tens, ones) = (a / 10 * 10, a % 10);
                vec![(tens, operator, b), (ones, operator, b), (tens * b, Operator::Plus, ones * b)]
            }
            _ => {
                let tens = b / 10 * 10;
                let partial = operator.apply(a, tens).unwrap_or_default();
                vec![(a, operator, tens), (partial, operator, b % 10)]
            }
        };
        let claimed = if self.right() {
            result
        } else {
            match self.generator.habit {
                Habit::NearMiss => result + *pick(self.rng, &[-1, 1, 10]),
                Habit::Swap => {
                    if operator == Operator::Plus {
                        a - b
                    } else {
                        a + b
                    }
                }
                Habit::Omit => a,
            }
        };
        let mut statements = Vec::new();
        for (x, op, y) in steps {
            if self.chance(self.generator.detail) {
                let equation = format!("{x} {} {y} = {}", op.symbol(), op.apply(x, y).unwrap_or_default());
                statements.push(match self.wording() {
                    Wording::Compact => format!("{equation}."),
                    Wording::Plain => format!("First we see that {equation}."),
                    Wording::Wordy => format!("One of the steps that we need on the way is that {equation}."),
                });
            }
        }
        statements.push(match self.wording() {
            Wording::Compact => format!("{a} {} {b} = {claimed}.", operator.symbol()),
            Wording::Plain => format!("The answer is {claimed}."),
            Wording::Wordy => {
                format!("When we put all of this together, the final answer that we get is {claimed}.")
            }
        });
        statements
    }

    fn fact(&mut self, land: usize, attribute: usize) -> String {
        let value = if self.right() {
            LANDS[land].values[attribute]
        } else {
            LANDS[(land + 1 + rng::below(self.rng, LANDS.len() - 1)) % LANDS.len()].values[attribute]
        };
        let wording = self.wording() as usize;
        ATTRIBUTES[attribute].statements[wording].replace("{l}", LANDS[land].name).replace("{v}", value)
    }

    fn list(&mut self, category: usize, count: usize) -> String {
        let (name, members) = &CATEGORIES[category];
        let count = match (self.right(), self.generator.habit) {
            (true, _) => count,
            (false, Habit::NearMiss) => count + 1,
            (false, Habit::Swap) => count,
            (false, Habit::Omit) => count - count / 2,
        };
        let mut items: Vec<&str> =
            sample(self.rng, members.len(), count).into_iter().map(|i| members[i]).collect();
        let mut astray = 0;
        while astray < items.len() && !self.right() {
            let (_, others) = &CATEGORIES[(category + 1) % CATEGORIES.len()];
            items[astray] = others[rng::below(self.rng, others.len())];
            astray += 1;
        }
        rng::shuffle(self.rng, &mut items);
        match self.wording() {
            Wording::Compact => format!("{}.", items.join(", ")),
            Wording::Plain => format!("Here are some {name}: {}.", enumerated(&items)),
            Wording::Wordy => {
                format!(
                    "These are a few of the many {name} that come to my mind today: {}.",
                    enumerated(&items)
                )
            }
        }
    }

    fn copied(&mut self, copy: &str, what: &str) -> String {
        match self.wording() {
            Wording::Compact => format!("{copy}."),
            Wording::Plain => format!("The result is: {copy}."),
            Wording::Wordy => format!("What follows now is {what}: {copy}."),
        }
    }

    fn arranged(&mut self, mut words: Vec<&str>, what: &str) -> String {
        if !self.right() {
            match self.generator.habit {
                Habit::NearMiss => words.swap(0, 1),
                Habit::Swap => words.reverse(),
                Habit::Omit => {
                    words.pop();
                }
            }
        }
        self.copied(&words.join(", "), what)
    }

    fn advice(&mut self, topic: usize) -> Vec<String> {
        let topic = &TOPICS[topic];
        let first = rng::below(self.rng, topic.good.len());
        let mut statements = Vec::new();
        for (i, good) in topic.good.iter().enumerate() {
            if i == first || self.chance(self.generator.detail * 0.8) {
                let (_, clause) = if self.right() { good } else { pick(self.rng, &topic.bad) };
                let statement = match self.wording() {
                    Wording::Compact => sentence(clause),
                    Wording::Plain => format!("Try to {clause}."),
                    Wording::Wordy => {
                        format!("One thing that has been of use to many people is to {clause}.")
                    }
                };
                // Two bad tips for five places: the same one is not given twice.
                if !statements.contains(&statement) {
                    statements.push(statement);
                }
            }
        }
        statements
    }

    fn story(&mut self, hero: usize, thing: usize, place: usize) -> Vec<String> {
        let first = rng::below(self.rng, STORY_PARTS.len());
        let mut name = |table: &[&'static str], asked: usize| {
            if self.right() { table[asked] } else { table[(asked + 1) % table.len()] }
        };
        let (hero, thing, place) = (name(&HEROES, hero), name(&THINGS, thing), name(&PLACES, place));
        let mut statements = Vec::new();
        for (i, (_, wordings)) in STORY_PARTS.iter().enumerate() {
            // A tale nearly always has its opening, where the names are.
            let told = i == first || self.chance(self.generator.detail) || (i == 0 && self.chance(0.7));
            if told {
                let wording = self.wording() as usize;
                statements
                    .push(wordings[wording].replace("{h}", hero).replace("{t}", thing).replace("{p}", place));
            }
        }
        statements
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::stream;
    use crate::data::sandbox::gold::gold;

    #[test]
    fn the_cast_is_seventeen_and_four_under_distinct_names() {
        let (training, heldout) = (training(), heldout());
        assert_eq!((training.len(), heldout.len()), (17, 4));
        let names: std::collections::BTreeSet<&str> =
            training.iter().chain(&heldout).map(|g| g.name).collect();
        assert_eq!(names.len(), 21);
    }

    #[test]
    fn a_faultless_generator_earns_nearly_everything() {
        let perfect = Generator {
            skill: 1.0,
            detail: 1.0,
            care: 1.0,
            hedging: 0.0,
            filling: 0.0,
            repeating: 0.0,
            refusing: 0.0,
            weak_kind: usize::MAX,
            ..heldout().remove(0)
        };
        let mut rng = stream(1, "test", 0);
        let mut total = 0.0;
        for _ in 0..2000 {
            let prompt = Prompt::draw(&mut rng);
            let response = respond(&perfect, &prompt, &mut rng);
            let value = gold(&prompt.text(), &response).expect("a sandbox prompt");
            // Right and as asked; what is left open is how much it adds.
            assert!(value >= 7.0, "{value}: {} -> {response}", prompt.text());
            total += value;
        }
        assert!(total / 2000.0 > 9.5, "{}", total / 2000.0);
    }

    #[test]
    fn better_generators_earn_more() {
        let mean = |generator: &Generator| {
            let mut rng = stream(2, "test", 0);
            let total: f64 = (0..1500)
                .map(|_| {
                    let prompt = Prompt::draw(&mut rng);
                    let response = respond(generator, &prompt, &mut rng);
                    gold(&prompt.text(), &response).expect("a sandbox prompt")
                })
                .sum();
            total / 1500.0
        };
        let (training, heldout) = (training(), heldout());
        assert!(mean(&training[16]) > mean(&training[8]) + 0.3);
        assert!(mean(&training[8]) > mean(&training[0]) + 0.3);
        assert!(heldout.windows(2).all(|pair| mean(&pair[0]) > mean(&pair[1]) + 0.3));
    }
}
