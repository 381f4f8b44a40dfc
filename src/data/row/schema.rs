//! Which schema a row has, and how it becomes an [`Example`].

use super::gold::Scale;
use super::text::{keys, kind, label, messages, prompt, reply};
use super::{Example, Message, Response, RowKind, gold, text};
use serde_json::{Map, Value};

const EXPECTED: &str = "expected a pair (prompt + chosen + rejected; chosen + rejected as messages; conversations + \
     chosen + rejected; question + response_j + response_k), k responses (instruction + completions[]; prompt + \
     responses[] + scores[]; response_1_text .. + all_scores) or a row to score (prompt + response; messages)";

/// Lists and numbers beside the texts, which are checked where they are read.
const BESIDE_THE_TEXTS: [&str; 4] = ["scores", "all_scores", "models", "margin"];

/// Without a `score_field` the texts alone are read.
pub(super) fn read(row: Value, score_field: Option<&str>) -> Result<Example, String> {
    let Value::Object(mut fields) = row else {
        return Err(format!("found {}, expected a row: a JSON object", kind(&row)));
    };
    // One side that is null beside the other is a response without text; elsewhere null means absent.
    for (side, other) in [("chosen", "rejected"), ("rejected", "chosen")] {
        if fields.get(other).is_some_and(|value| !value.is_null())
            && let Some(value @ Value::Null) = fields.get_mut(side)
        {
            *value = Value::String(String::new());
        }
    }
    fields.retain(|_, value| !value.is_null());
    let schema = Schema::of(&fields)?;
    if score_field.is_none() {
        fields.retain(|key, _| !BESIDE_THE_TEXTS.contains(&key.as_str()));
    }
    let row = Row(fields);
    match schema {
        Schema::Comparison => row.comparison(),
        Schema::GradedLists => row.graded_lists(),
        Schema::StackExchange => row.stack_exchange(),
        Schema::LabelledPair => row.labelled_pair(),
        Schema::Completions => row.completions(score_field),
        Schema::Responses => row.responses(score_field),
        Schema::Numbered => row.numbered_responses(),
        Schema::Reply => row.reply_to_score(score_field),
        Schema::Conversation(key) => row.conversation_to_score(key),
    }
}

/// Which sides of a pair are null in its row as it was read: the chosen one, the rejected one.
pub fn null_sides(fields: &Map<String, Value>) -> [bool; 2] {
    let is_comparison = matches!(Schema::of(fields), Ok(Schema::Comparison));
    ["chosen", "rejected"].map(|side| is_comparison && fields.get(side).is_some_and(Value::is_null))
}

/// The schemas, in the order in which they are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Schema {
    Comparison,
    GradedLists,
    StackExchange,
    LabelledPair,
    Completions,
    Responses,
    Numbered,
    Reply,
    /// Under this key.
    Conversation(&'static str),
}

impl Schema {
    /// Which schema a row has. A null field counts as absent, but for one side of a comparison beside the other.
    pub(super) fn of(fields: &Map<String, Value>) -> Result<Self, String> {
        let has = |key: &str| fields.get(key).is_some_and(|value| !value.is_null());
        let sides = |a: &str, b: &str| has(a) && fields.contains_key(b);
        if sides("chosen", "rejected") || sides("rejected", "chosen") {
            let is_graded = ["chosen", "rejected"].iter().any(|side| is_list_of_strings(&fields[*side]));
            return Ok(if is_graded { Schema::GradedLists } else { Schema::Comparison });
        }
        match (has("chosen"), has("rejected")) {
            (true, _) => return Err("found chosen without rejected, expected both".into()),
            (_, true) => return Err("found rejected without chosen, expected both".into()),
            (false, false) => {}
        }
        Ok(if has("response_j") && has("response_k") {
            Schema::StackExchange
        } else if has("response_A") && has("response_B") {
            Schema::LabelledPair
        } else if has("completions") {
            Schema::Completions
        } else if has("responses") {
            Schema::Responses
        } else if fields.iter().any(|(key, value)| numbered(key).is_some() && !value.is_null()) {
            Schema::Numbered
        } else if has("response") {
            Schema::Reply
        } else if has("messages") {
            Schema::Conversation("messages")
        } else if has("conversations") {
            Schema::Conversation("conversations")
        } else {
            return Err(format!("found the keys {}; {EXPECTED}", keys(fields)));
        })
    }
}

/// Where a prompt may stand, in order of preference, when the responses are named otherwise.
const PROMPT_KEYS: [&str; 5] = ["prompt", "instruction", "question", "conversations", "messages"];

/// A row's fields; nulls are gone.
struct Row(Map<String, Value>);

impl Row {
    fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// Takes a field that is known to be there.
    fn take(&mut self, key: &str) -> Value {
        self.0.swap_remove(key).unwrap_or_default()
    }

    /// The prompt under the first of `names` that the row has, with its system message.
    fn prompt(&mut self, names: &[&str]) -> Result<Option<Vec<Message>>, String> {
        let Some(&key) = names.iter().find(|key| self.has(key)) else { return Ok(None) };
        let mut value = self.take(key);
        // Alpaca's schema splits a prompt in two.
        if key == "instruction"
            && let (Value::String(text), Some(Value::String(input))) = (&mut value, self.0.get("input"))
            && !input.trim().is_empty()
        {
            text.push('\n');
            text.push_str(input);
        }
        let mut turns = prompt(value, key)?;
        self.add_system(&mut turns);
        Ok(Some(turns))
    }

    fn add_system(&mut self, turns: &mut Vec<Message>) {
        let system = ["system", "system_prompt"].iter().find_map(|key| self.0.get(*key)?.as_str());
        if let Some(system) = system.filter(|text| !text.trim().is_empty())
            && turns.first().is_none_or(|first| first.role != "system")
        {
            turns.insert(0, Message::new("system", system));
        }
    }

    fn required_prompt(&mut self) -> Result<Vec<Message>, String> {
        let found = keys(&self.0);
        self.prompt(&PROMPT_KEYS)?
            .ok_or_else(|| format!("found the keys {found}, expected a prompt: {}", PROMPT_KEYS.join(", ")))
    }

    fn example(
        mut self,
        kind: RowKind,
        prompt: Vec<Message>,
        responses: Vec<Response>,
    ) -> Result<Example, String> {
        let margin = match self.0.get("margin") {
            None => None,
            Some(value) => Some(
                value
                    .as_f64()
                    .ok_or_else(|| format!("margin: found {}, expected a number", text::kind(value)))?,
            ),
        };
        let id = ["id", "prompt_id"].into_iter().find(|key| self.has(key)).map(|key| self.take(key));
        let [source, subset] = ["source", "subset"].map(|key| label(self.take(key)));
        Ok(Example { kind, id: id.and_then(label), source, subset, prompt, responses, margin })
    }

    /// `chosen` and `rejected` in any of their forms.
    fn comparison(mut self) -> Result<Example, String> {
        let (chosen, rejected) = (self.take("chosen"), self.take("rejected"));
        let whole = chosen.is_array() && rejected.is_array();
        let (chosen, rejected) = (reply(chosen, "chosen")?, reply(rejected, "rejected")?);
        let mut prompt = self.prompt(&PROMPT_KEYS[..4])?;
        if prompt.is_none() && !whole {
            prompt = self.prompt(&["messages"])?;
        }
        let (prompt, chosen, rejected) = match prompt {
            Some(prompt) => without_prompt(prompt, chosen, rejected)?,
            None if whole => {
                let (mut prompt, chosen, rejected) = split_conversations(chosen, rejected)?;
                self.add_system(&mut prompt);
                (prompt, chosen, rejected)
            }
            None => {
                let found = keys(&self.0);
                return Err(format!(
                    "found chosen and rejected as text without a prompt (other keys: {found}), expected prompt, \
                     instruction, question or conversations beside them"
                ));
            }
        };
        let responses = [("chosen", chosen), ("rejected", rejected)].map(|(side, messages)| Response {
            messages,
            score: gold::side_score(&self.0, side),
            model: gold::side_model(&self.0, side),
        });
        self.example(RowKind::Pair, prompt, responses.into())
    }

    /// Right and wrong answers without an order among themselves, as benchmarks have them.
    fn graded_lists(mut self) -> Result<Example, String> {
        let mut responses = Vec::new();
        for (side, score) in [("chosen", 1.0), ("rejected", 0.0)] {
            let Value::Array(texts) = self.take(side) else {
                return Err(format!(
                    "{side}: found no list, expected a list of strings like the other side's"
                ));
            };
            for (i, text) in texts.into_iter().enumerate() {
                let Value::String(text) = text else {
                    return Err(format!("{side}[{i}]: found {}, expected a string", kind(&text)));
                };
                let messages = vec![Message::new("assistant", text)];
                responses.push(Response { messages, score: Some(score), model: None });
            }
        }
        let prompt = self.required_prompt()?;
        self.example(RowKind::Ranked, prompt, responses)
    }

    fn stack_exchange(mut self) -> Result<Example, String> {
        let responses = ["response_j", "response_k"]
            .map(|key| Ok(Response { messages: reply(self.take(key), key)?, score: None, model: None }));
        let responses = responses.into_iter().collect::<Result<_, String>>()?;
        let prompt = self.required_prompt()?;
        self.example(RowKind::Pair, prompt, responses)
    }

    /// Two responses and a label that says which is better, as JudgeBench has them.
    fn labelled_pair(mut self) -> Result<Example, String> {
        let keys = match self.take("label") {
            Value::String(label) if label == "A>B" => ["response_A", "response_B"],
            Value::String(label) if label == "B>A" => ["response_B", "response_A"],
            Value::Null => return Err("label: found nothing, expected A>B or B>A".into()),
            other => return Err(format!("label: found {}, expected A>B or B>A", kind(&other))),
        };
        let responses =
            keys.map(|key| Ok(Response { messages: reply(self.take(key), key)?, score: None, model: None }));
        let responses = responses.into_iter().collect::<Result<_, String>>()?;
        let prompt = self.required_prompt()?;
        self.example(RowKind::Pair, prompt, responses)
    }

    fn completions(mut self, score_field: Option<&str>) -> Result<Example, String> {
        let Value::Array(completions) = self.take("completions") else {
            return Err("completions: expected a list of objects".into());
        };
        // `models` may be in another order than the completions, so it never names their models.
        let scale = score_field.map(|field| Scale::of(&completions, field));
        let responses = completions
            .into_iter()
            .enumerate()
            .map(|(i, item)| completion(item, scale, &format!("completions[{i}]")))
            .collect::<Result<_, _>>()?;
        let prompt = self.required_prompt()?;
        self.example(RowKind::Ranked, prompt, responses)
    }

    fn responses(mut self, score_field: Option<&str>) -> Result<Example, String> {
        let Value::Array(items) = self.take("responses") else {
            return Err("responses: expected a list".into());
        };
        let scores = self.parallel_list("scores", items.len())?;
        let models = self.parallel_list("models", items.len())?;
        let scale = score_field.map(|field| Scale::of(&items, field));
        let mut responses = Vec::with_capacity(items.len());
        for (i, item) in items.into_iter().enumerate() {
            let place = format!("responses[{i}]");
            let mut response = match item {
                Value::Object(fields) if fields.contains_key("response") => {
                    completion(Value::Object(fields), scale, &place)?
                }
                Value::Null => Response { messages: Vec::new(), score: None, model: None },
                item => Response { messages: reply(item, &place)?, score: None, model: None },
            };
            if let Some(scores) = &scores {
                response.score = gold::score(&scores[i], &format!("scores[{i}]"))?;
            }
            if let Some(model) = models.as_ref().and_then(|models| models[i].as_str()) {
                response.model = Some(model.to_owned());
            }
            responses.push(response);
        }
        let prompt = self.required_prompt()?;
        self.example(RowKind::Ranked, prompt, responses)
    }

    /// `response_1_text` .. `response_k_text`; a null one is a slot that the row does not use.
    fn numbered_responses(mut self) -> Result<Example, String> {
        let last = self.0.keys().filter_map(|key| numbered(key)).max().unwrap_or(0);
        let scores = match self.0.get("all_scores") {
            None => None,
            Some(Value::Array(scores)) if scores.len() >= last => Some(scores.clone()),
            Some(Value::Array(scores)) => {
                return Err(format!("all_scores: found {} scores, expected {last}", scores.len()));
            }
            Some(other) => return Err(format!("all_scores: found {}, expected a list", kind(other))),
        };
        // Slots at the end may be null columns, which are gone by now.
        let models = self.parallel_list("models", scores.as_ref().map_or(last, Vec::len))?;
        let mut responses = Vec::new();
        for i in 0..last {
            let key = format!("response_{}_text", i + 1);
            if !self.has(&key) {
                continue;
            }
            let messages = reply(self.take(&key), &key)?;
            let score = match &scores {
                Some(scores) => gold::score(&scores[i], &format!("all_scores[{i}]"))?,
                None => None,
            };
            let model = models.as_ref().and_then(|models| models[i].as_str()).map(str::to_owned);
            responses.push(Response { messages, score, model });
        }
        let prompt = self.required_prompt()?;
        self.example(RowKind::Ranked, prompt, responses)
    }

    /// One response. It may have been scored and its model named, as where each model has a file of its own.
    fn reply_to_score(mut self, score_field: Option<&str>) -> Result<Example, String> {
        let messages = reply(self.take("response"), "response")?;
        let prompt = self.required_prompt()?;
        let messages = without_repeated(&prompt, messages, "response")?;
        // The row can be scored without it, so what is no number is passed over.
        let names = score_field.into_iter().flat_map(|field| [field, "score"]);
        let mut scores = names.filter_map(|key| self.0.get(key));
        let score = scores.find_map(|value| gold::score(value, "score").ok().flatten());
        let model = self.take("model");
        self.example(RowKind::Single, prompt, vec![Response { messages, score, model: label(model) }])
    }

    fn conversation_to_score(mut self, key: &str) -> Result<Example, String> {
        let mut turns = messages(self.take(key), key)?;
        match turns.pop() {
            Some(last) if last.role == "assistant" => {
                self.add_system(&mut turns);
                let response = Response { messages: vec![last], score: None, model: None };
                self.example(RowKind::Single, turns, vec![response])
            }
            last => Err(format!(
                "{key}: ends with a message of {:?}, expected the assistant's to score",
                last.map_or_else(String::new, |last| last.role)
            )),
        }
    }

    /// A list with one entry for every response, where the row has it.
    fn parallel_list(&mut self, key: &str, expected: usize) -> Result<Option<Vec<Value>>, String> {
        match self.has(key).then(|| self.take(key)) {
            None => Ok(None),
            Some(Value::Array(items)) if items.len() == expected => Ok(Some(items)),
            Some(Value::Array(items)) => {
                Err(format!("{key}: found {} entries, expected {expected}, one a response", items.len()))
            }
            Some(other) => Err(format!("{key}: found {}, expected a list", kind(&other))),
        }
    }
}

/// `i` of `response_{i}_text`; a sane bound keeps a hostile index from becoming a loop.
pub(super) fn numbered(key: &str) -> Option<usize> {
    let digits = key.strip_prefix("response_")?.strip_suffix("_text")?;
    digits.parse().ok().filter(|i| (1..=4096).contains(i))
}

fn is_list_of_strings(value: &Value) -> bool {
    value.as_array().and_then(|items| items.first()).is_some_and(Value::is_string)
}

/// One of `completions[]`.
fn completion(item: Value, scale: Option<Scale<'_>>, place: &str) -> Result<Response, String> {
    let Value::Object(mut fields) = item else {
        return Err(format!("{place}: found {}, expected an object", kind(&item)));
    };
    let score = scale.map_or(Ok(None), |scale| scale.score(&fields, place))?;
    let model = fields.swap_remove("model").and_then(label);
    match fields.swap_remove("response") {
        // A generator that failed left nothing; what is empty is dropped and counted by who pairs the row.
        Some(Value::Null) => Ok(Response { messages: Vec::new(), score, model }),
        Some(value) => Ok(Response { messages: reply(value, &format!("{place}.response"))?, score, model }),
        None => Err(format!("{place}: found the keys {}, expected \"response\"", keys(&fields))),
    }
}

type Parts = (Vec<Message>, Vec<Message>, Vec<Message>);

/// Takes the prompt off both sides where they repeat it.
fn without_prompt(
    prompt: Vec<Message>,
    chosen: Vec<Message>,
    rejected: Vec<Message>,
) -> Result<Parts, String> {
    let starts = |side: &[Message]| repeated(&prompt, side) > 0;
    let shared = shared_turns(&chosen, &rejected);
    // The prompt column may hold one turn of the conversation that both sides spell out.
    if !starts(&chosen)
        && !starts(&rejected)
        && chosen[..shared].iter().any(|turn| prompt.last() == Some(turn))
    {
        return Ok(split_at(shared, chosen, rejected));
    }
    let chosen = without_repeated(&prompt, chosen, "chosen")?;
    let rejected = without_repeated(&prompt, rejected, "rejected")?;
    Ok((prompt, chosen, rejected))
}

fn without_repeated(prompt: &[Message], mut side: Vec<Message>, name: &str) -> Result<Vec<Message>, String> {
    let count = repeated(prompt, &side);
    if count == 0
        && let Some(first) = side.first().filter(|first| first.role == "user" || first.role == "system")
    {
        return Err(format!(
            "{name}: starts with a message of {:?} that does not repeat the prompt, expected the assistant's",
            first.role
        ));
    }
    side.drain(..count);
    Ok(side)
}

/// How many messages of `side` repeat the prompt, whose system message it may leave out.
fn repeated(prompt: &[Message], side: &[Message]) -> usize {
    let turns = &prompt[usize::from(prompt.first().is_some_and(|first| first.role == "system"))..];
    [prompt, turns].iter().find(|part| side.starts_with(part)).map_or(0, |part| part.len())
}

/// Two whole conversations: their common prefix is the prompt.
fn split_conversations(chosen: Vec<Message>, rejected: Vec<Message>) -> Result<Parts, String> {
    let shared = shared_turns(&chosen, &rejected);
    for (side, name) in [(&chosen, "chosen"), (&rejected, "rejected")] {
        if let Some(next) = side.get(shared).filter(|next| next.role == "user" || next.role == "system") {
            return Err(format!(
                "{name}[{shared}]: chosen and rejected differ in a message of {:?}, expected the same prompt",
                next.role
            ));
        }
    }
    if shared == 0 {
        return Err("chosen and rejected have no message in common, expected the same prompt".into());
    }
    Ok(split_at(shared, chosen, rejected))
}

fn split_at(shared: usize, mut chosen: Vec<Message>, mut rejected: Vec<Message>) -> Parts {
    let chosen_reply = chosen.split_off(shared);
    rejected.drain(..shared);
    (chosen, chosen_reply, rejected)
}

/// The length of the common prefix, but a reply that ends one of the sides stays a reply.
fn shared_turns(chosen: &[Message], rejected: &[Message]) -> usize {
    let mut shared = chosen.iter().zip(rejected).take_while(|(a, b)| a == b).count();
    if shared == chosen.len().min(rejected.len()) {
        while shared > 0 && chosen[shared - 1].role == "assistant" {
            shared -= 1;
        }
    }
    shared
}
