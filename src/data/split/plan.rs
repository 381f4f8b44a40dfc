//! What becomes of one row, as a function of the row, the seed and the valid models.
//!
//! What is not here: which prompts are held out, which takes all rows.

use super::SplitConfig;
use crate::base::rng;
use crate::data::row::{Example, Message, Response};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// A response in use.
pub struct Answer {
    pub model: String,
    pub score: f64,
    /// Text, or messages where the response is more than one plain assistant message.
    pub response: Value,
    /// Hash of the text.
    pub text: u128,
}

/// A row in use.
pub struct Row {
    pub id: String,
    pub source: Option<String>,
    pub prompt: Value,
    /// Decides the side: prompts that differ in case, spacing and punctuation only share it.
    pub group: u128,
    /// Responses of training models, in the order of the draw.
    pub drawn: Vec<Answer>,
    /// The training pair, `[better, worse]` in `drawn`.
    pub train: [usize; 2],
    /// The in-domain pair, from the other drawn responses; or why there is none.
    pub in_domain: Result<[usize; 2], &'static str>,
    /// Responses of valid models, in the order of the row.
    pub valid: Vec<Answer>,
}

pub enum Plan {
    Use(Box<Row>),
    /// The reason, as the manifest names it.
    Drop(&'static str),
}

/// Plans rows in the order of the input; it remembers the prompts, of which the first occurrence is used.
pub struct Planner<'a> {
    seed: u64,
    responses_per_prompt: usize,
    valid_models: &'a BTreeSet<String>,
    seen: HashSet<u128>,
}

impl<'a> Planner<'a> {
    pub fn new(config: &SplitConfig, valid_models: &'a BTreeSet<String>) -> Self {
        let (seed, responses_per_prompt) = (config.seed, config.responses_per_prompt);
        Self { seed, responses_per_prompt, valid_models, seen: HashSet::new() }
    }

    /// What becomes of a row; counts the responses that no row can use.
    pub fn plan(&mut self, example: &Example, unusable: &mut BTreeMap<String, u64>) -> Plan {
        let prompt = value_of(&example.prompt, "user");
        let text = text_of(&prompt);
        if text.trim().is_empty() {
            return Plan::Drop("empty-prompt");
        }
        let exact = hash("prompt", text.trim());
        if !self.seen.insert(exact) {
            return Plan::Drop("duplicate-prompt");
        }
        let (mut training, mut valid) = (Vec::new(), Vec::new());
        for response in &example.responses {
            match answer_of(response) {
                Ok(answer) if self.valid_models.contains(&answer.model) => valid.push(answer),
                Ok(answer) => training.push(answer),
                Err(reason) => *unusable.entry(reason.into()).or_default() += 1,
            }
        }
        // The draw hangs on the prompt, not on the row's number: adding rows leaves the others' pairs as they are.
        let rng = &mut rng::stream(self.seed, "split:responses", exact as u64);
        rng::shuffle(rng, &mut training);
        training.truncate(self.responses_per_prompt);
        if training.len() < 2 {
            return Plan::Drop("too-few-responses");
        }
        let texts: HashSet<u128> = training.iter().chain(&valid).map(|a| a.text).collect();
        if texts.len() < training.len() + valid.len() {
            return Plan::Drop("identical-responses");
        }
        let Some((train, in_domain)) = draw_pairs(&training) else {
            return Plan::Drop("all-responses-tied");
        };
        Plan::Use(Box::new(Row {
            id: example.id.clone().unwrap_or_else(|| format!("{:016x}", (exact >> 64) as u64)),
            source: example.source.clone(),
            group: group_of(self.seed, &prompt),
            prompt,
            drawn: training,
            train,
            in_domain,
            valid,
        }))
    }
}

type Pairs = ([usize; 2], Result<[usize; 2], &'static str>);

/// The first disjoint pairs without ties among responses that are in random order already; `None` where all tie.
///
/// A training pair that leaves an in-domain pair is preferred to an earlier one that does not.
fn draw_pairs(answers: &[Answer]) -> Option<Pairs> {
    let untied = |skip: &[usize]| -> Vec<[usize; 2]> {
        let kept: Vec<usize> = (0..answers.len()).filter(|i| !skip.contains(i)).collect();
        let all = kept.iter().enumerate().flat_map(|(n, &j)| kept[..n].iter().map(move |&i| [i, j]));
        all.filter_map(|[i, j]| {
            let order = answers[i].score.partial_cmp(&answers[j].score)?;
            match order {
                std::cmp::Ordering::Greater => Some([i, j]),
                std::cmp::Ordering::Less => Some([j, i]),
                std::cmp::Ordering::Equal => None,
            }
        })
        .collect()
    };
    let candidates = untied(&[]);
    let both = candidates.iter().find_map(|train| Some((*train, Ok(*untied(train).first()?))));
    let reason = if answers.len() < 4 { "too-few-responses" } else { "tied" };
    both.or_else(|| candidates.first().map(|train| (*train, Err(reason))))
}

fn answer_of(response: &Response) -> Result<Answer, &'static str> {
    let value = value_of(&response.messages, "assistant");
    let text = text_of(&value);
    let text = text.trim();
    if text.is_empty() {
        return Err("empty-response");
    }
    let model = response.model.clone().filter(|m| !m.is_empty()).ok_or("unnamed-model")?;
    let score = response.score.filter(|s| s.is_finite()).ok_or("unscored")?;
    Ok(Answer { model, score, text: hash("response", text), response: value })
}

/// One plain message of the expected role as text, anything else as messages.
fn value_of(messages: &[Message], role: &str) -> Value {
    match messages {
        [only] if only.role == role && only.extra.is_empty() => json!(only.content),
        _ => json!(messages),
    }
}

/// The text of a prompt or response as the sets store it: itself, or the contents of its messages.
pub fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(messages) => {
            messages.iter().filter_map(|m| m["content"].as_str()).collect::<Vec<_>>().join("\n")
        }
        _ => String::new(),
    }
}

/// The prompt's letters and digits in lower case, words apart by one space; the text itself where it has none.
fn normalised(text: &str) -> String {
    let words: Vec<String> =
        text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).map(str::to_lowercase).collect();
    if words.is_empty() { text.trim().to_owned() } else { words.join(" ") }
}

/// The hash that decides a prompt's side.
pub fn group_of(seed: u64, prompt: &Value) -> u128 {
    hash(&format!("group {seed}"), &normalised(&text_of(prompt)))
}

/// 128 bits of SHA-256; `purpose` keeps the uses apart.
pub fn hash(purpose: &str, text: &str) -> u128 {
    let mut hash = Sha256::new();
    hash.update((purpose.len() as u64).to_le_bytes());
    hash.update(purpose);
    hash.update(text);
    hash.finalize().iter().take(16).fold(0, |sum, &byte| sum << 8 | u128::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::row::RowKind;

    fn example(prompt: &str, responses: &[(&str, &str, Option<f64>)]) -> Example {
        Example {
            kind: RowKind::Ranked,
            id: None,
            source: None,
            subset: None,
            prompt: vec![Message::new("user", prompt)],
            responses: responses
                .iter()
                .map(|(model, text, score)| Response {
                    messages: vec![Message::new("assistant", *text)],
                    score: *score,
                    model: (!model.is_empty()).then(|| (*model).to_owned()),
                })
                .collect(),
            margin: None,
        }
    }

    fn plan(responses: &[(&str, &str, Option<f64>)]) -> (Plan, BTreeMap<String, u64>) {
        let valid = BTreeSet::from(["v".to_owned(), "w".to_owned()]);
        let mut unusable = BTreeMap::new();
        let plan =
            Planner::new(&SplitConfig::new(Vec::new()), &valid).plan(&example("p", responses), &mut unusable);
        (plan, unusable)
    }

    fn reason(responses: &[(&str, &str, Option<f64>)]) -> &'static str {
        match plan(responses).0 {
            Plan::Drop(reason) => reason,
            Plan::Use(_) => "used",
        }
    }

    #[test]
    fn each_fault_of_a_row_has_its_reason() {
        let (a, b) = (("a", "x", Some(1.0)), ("b", "y", Some(2.0)));
        assert_eq!(reason(&[a, b]), "used");
        assert_eq!(reason(&[]), "too-few-responses");
        assert_eq!(reason(&[a, ("v", "y", Some(2.0))]), "too-few-responses");
        assert_eq!(reason(&[a, ("b", " x\n", Some(2.0))]), "identical-responses");
        assert_eq!(reason(&[a, b, ("v", "x", Some(2.0))]), "identical-responses");
        assert_eq!(reason(&[a, ("b", "y", Some(1.0))]), "all-responses-tied");
        let (plan, unusable) = plan(&[a, b, ("c", " ", Some(1.0)), ("d", "z", None), ("", "u", Some(1.0))]);
        assert!(
            matches!(plan, Plan::Use(row) if row.drawn.len() == 2 && row.in_domain == Err("too-few-responses"))
        );
        let expected = [("empty-response", 1), ("unnamed-model", 1), ("unscored", 1)];
        assert_eq!(unusable, expected.map(|(reason, n)| (reason.to_owned(), n)).into());
    }

    #[test]
    fn pairs_are_disjoint_ordered_and_without_ties_where_that_can_be() {
        // Of the three ways to halve {1, 1, 2, 2}, one has ties only; it is never taken.
        for tag in 0..50 {
            let texts: Vec<String> = (0..4).map(|i| format!("{tag} {i}")).collect();
            let scores = [1.0, 1.0, 2.0, 2.0];
            let responses: Vec<_> =
                (0..4).map(|i| (["a", "b", "c", "d"][i], texts[i].as_str(), Some(scores[i]))).collect();
            let Plan::Use(row) = plan(&responses).0 else { panic!("dropped") };
            let other = row.in_domain.expect("an in-domain pair");
            assert_eq!(BTreeSet::from([row.train[0], row.train[1], other[0], other[1]]).len(), 4);
            for [better, worse] in [row.train, other] {
                assert!(row.drawn[better].score > row.drawn[worse].score);
            }
        }
        let tied =
            [("a", "1", Some(1.0)), ("b", "2", Some(1.0)), ("c", "3", Some(1.0)), ("d", "4", Some(2.0))];
        let Plan::Use(row) = plan(&tied).0 else { panic!("dropped") };
        assert_eq!((row.drawn[row.train[0]].score, row.in_domain), (2.0, Err("tied")));
    }

    #[test]
    fn a_prompt_counts_once_and_its_look_alikes_share_its_side() {
        let valid = BTreeSet::new();
        let mut planner = Planner::new(&SplitConfig::new(Vec::new()), &valid);
        let answers = [("a", "x", Some(1.0)), ("b", "y", Some(2.0))];
        let mut group = |prompt: &str| match planner.plan(&example(prompt, &answers), &mut BTreeMap::new()) {
            Plan::Use(row) => Ok(row.group),
            Plan::Drop(reason) => Err(reason),
        };
        let first = group("What is it?").expect("used");
        assert_eq!(group(" What is it?\n"), Err("duplicate-prompt"));
        assert_eq!(group("what IS -- it"), Ok(first));
        assert_ne!(group("What was it?"), Ok(first));
        assert_ne!(group("???").expect("used"), group("!!!").expect("used"));
        assert_eq!(group(" "), Err("empty-prompt"));
    }

    #[test]
    fn turns_and_roles_are_kept() {
        let turns = [Message::new("system", "s"), Message::new("user", "u")];
        assert_eq!(text_of(&value_of(&turns, "user")), "s\nu");
        assert_eq!(value_of(&turns[1..], "user"), json!("u"));
        assert!(value_of(&turns[..1], "user").is_array());
    }
}
