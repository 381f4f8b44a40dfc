//! Messages as the data sets write them.

use super::Message;
use serde_json::{Map, Value};

/// What a value is, for a message: `found a number`.
pub(super) fn kind(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(_) => "a boolean".into(),
        Value::Number(_) => "a number".into(),
        Value::String(text) => {
            let excerpt: String = text.chars().take(40).collect();
            let more = if excerpt.len() < text.len() { ".." } else { "" };
            format!("the string {excerpt:?}{more}")
        }
        Value::Array(items) if items.is_empty() => "an empty list".into(),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "an object".into(),
    }
}

/// A string, a number or a boolean as a label; anything else labels nothing.
pub(super) fn label(value: Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// The messages of a reply: a string is one message of the assistant.
pub(super) fn reply(value: Value, place: &str) -> Result<Vec<Message>, String> {
    turns(value, place, "assistant")
}

/// The messages of a prompt: a string is one message of the user.
pub(super) fn prompt(value: Value, place: &str) -> Result<Vec<Message>, String> {
    turns(value, place, "user")
}

fn turns(value: Value, place: &str, role: &str) -> Result<Vec<Message>, String> {
    match value {
        Value::String(text) => Ok(vec![Message::new(role, text)]),
        Value::Object(fields) => Ok(vec![message(fields, place)?]),
        Value::Array(_) => messages(value, place),
        other => Err(format!("{place}: found {}, expected a string or messages", kind(&other))),
    }
}

/// A list of messages, at least one.
pub(super) fn messages(value: Value, place: &str) -> Result<Vec<Message>, String> {
    match value {
        Value::Array(items) if !items.is_empty() => items
            .into_iter()
            .enumerate()
            .map(|(i, item)| match item {
                Value::Object(fields) => message(fields, &format!("{place}[{i}]")),
                other => {
                    Err(format!("{place}[{i}]: found {}, expected {{\"role\", \"content\"}}", kind(&other)))
                }
            })
            .collect(),
        other => Err(format!("{place}: found {}, expected a list of messages", kind(&other))),
    }
}

/// One message: `{role, content}` or `{from, value}`.
fn message(mut fields: Map<String, Value>, place: &str) -> Result<Message, String> {
    fields.retain(|_, value| !value.is_null());
    let role = match (fields.shift_remove("role"), fields.shift_remove("from")) {
        (Some(Value::String(role)), _) => role,
        (None, Some(Value::String(speaker))) => role_of(&speaker, place)?.to_owned(),
        (Some(other), _) | (None, Some(other)) => {
            return Err(format!("{place}.role: found {}, expected a string", kind(&other)));
        }
        (None, None) => {
            return Err(format!(
                "{place}: found the keys {}, expected \"role\" and \"content\" (or \"from\" and \"value\")",
                keys(&fields)
            ));
        }
    };
    let content = match fields.shift_remove("content").or_else(|| fields.shift_remove("value")) {
        Some(Value::String(text)) => text,
        Some(Value::Array(parts)) => text_of(parts, place)?,
        Some(other) => {
            return Err(format!("{place}.content: found {}, expected a string", kind(&other)));
        }
        // A call of a tool has no text of its own.
        None if fields.contains_key("tool_calls") || fields.contains_key("function_call") => String::new(),
        None => return Err(format!("{place}: a message of {role:?} without content, expected a string")),
    };
    Ok(Message { role, content, extra: fields })
}

/// The role of a ShareGPT speaker.
fn role_of(speaker: &str, place: &str) -> Result<&'static str, String> {
    match speaker {
        "human" | "user" => Ok("user"),
        "gpt" | "chatgpt" | "assistant" | "model" | "bot" => Ok("assistant"),
        "system" => Ok("system"),
        "tool" | "observation" | "function_response" => Ok("tool"),
        other => Err(format!(
            "{place}.from: found {other:?}, expected human, user, gpt, assistant, system, tool or observation"
        )),
    }
}

/// Content in parts: their text, in order.
fn text_of(parts: Vec<Value>, place: &str) -> Result<String, String> {
    let mut text = String::new();
    for (i, part) in parts.into_iter().enumerate() {
        match part {
            Value::String(piece) => text.push_str(&piece),
            Value::Object(fields) => match (fields.get("type"), fields.get("text")) {
                (Some(Value::String(kind)), Some(Value::String(piece))) if kind == "text" => {
                    text.push_str(piece);
                }
                (found, _) => {
                    let found = found.map_or_else(|| "no type".into(), kind);
                    return Err(format!("{place}.content[{i}]: found {found}, expected a part of type text"));
                }
            },
            other => {
                return Err(format!("{place}.content[{i}]: found {}, expected a part of text", kind(&other)));
            }
        }
    }
    Ok(text)
}

/// Key names for a message, at most 20 of them.
pub(super) fn keys(fields: &Map<String, Value>) -> String {
    if fields.is_empty() {
        return "(none)".into();
    }
    let mut names: Vec<String> = fields.keys().take(20).map(|key| key.chars().take(60).collect()).collect();
    if fields.len() > names.len() {
        names.push(format!("and {} more", fields.len() - names.len()));
    }
    names.join(", ")
}
