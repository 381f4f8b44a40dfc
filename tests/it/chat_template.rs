//! Chat templates and tokenization against transformers: see `tests/golden/chat_template/generate.py`.

use rmtrain::base::Error;
use rmtrain::data::chat_template::ChatTemplate;
use rmtrain::data::config::ChatTemplateSource;
use rmtrain::data::{Message, Tokenizer};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

fn golden(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/chat_template").join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap()
}

/// The folder of files that the project does not contain, or `None` with a note that the test is skipped.
fn shared(test: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("RMTRAIN_SHARED")
        .map(PathBuf::from)
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"));
    if folder.join("tokenizers").is_dir() {
        return Some(folder);
    }
    eprintln!("{test}: skipped, no tokenizers under {}", folder.display());
    None
}

/// Messages as rows give them: a content that is no string is kept among the other keys.
fn messages(json: &Value) -> Vec<Message> {
    json.as_array()
        .unwrap()
        .iter()
        .map(|message| {
            let mut extra = message.as_object().unwrap().clone();
            let role = extra.shift_remove("role").unwrap();
            let content = match extra.get("content") {
                Some(Value::String(s)) => s.clone(),
                _ => String::new(),
            };
            if extra.get("content").is_some_and(Value::is_string) {
                extra.shift_remove("content");
            }
            Message { role: role.as_str().unwrap().into(), content, extra }
        })
        .collect()
}

fn date(golden: &Value) -> Option<jiff::civil::Date> {
    Some(golden["date"].as_str().unwrap().parse().unwrap())
}

fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

/// Cases in which minijinja and jinja2 differ by nature, with our answer. Everything else must be equal.
const KNOWN_DIFFERENCES: [(&str, &str); 0] = [];

#[test]
fn every_feature_renders_as_jinja2_renders_it() {
    let golden = golden("features.json");
    let special = golden["special_tokens"].as_object().unwrap();
    let mut failures = Vec::new();
    for case in golden["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let source = case["template"].as_str().unwrap();
        let conversation = messages(case.get("messages").unwrap_or(&golden["messages"]));
        let rendered =
            ChatTemplate::compile(source, name, special, date(&golden)).and_then(|t| t.render(&conversation));
        let known = KNOWN_DIFFERENCES.iter().find(|(n, _)| *n == name).map(|(_, answer)| *answer);
        let expected = case.get("text").and_then(Value::as_str);
        match (&rendered, known, expected) {
            (Ok(text), Some(answer), _) if text != answer => {
                failures
                    .push(format!("{name}: known difference changed\n   now {text:?}\n   was {answer:?}"));
            }
            (Err(e), Some(answer), _) if answer != "error" => {
                failures.push(format!("{name}: known difference changed\n   now {e}\n   was {answer:?}"));
            }
            (_, Some(_), _) => {}
            (Ok(text), None, Some(expected)) if text == expected => {}
            (Ok(text), None, Some(expected)) => {
                failures.push(format!("{name}: {source}\n   rmtrain  {text:?}\n   expected {expected:?}"))
            }
            (Err(e), None, Some(expected)) => {
                failures.push(format!("{name}: {source}\n   rmtrain  {e}\n   expected {expected:?}"));
            }
            (Ok(text), None, None) => {
                failures
                    .push(format!("{name}: {source}\n   rmtrain  {text:?}\n   expected {}", case["error"]));
            }
            (Err(e), None, None) => {
                let text = e.to_string();
                let message = case.get("message").and_then(Value::as_str).unwrap_or_default();
                if !text.contains(name) || !text.contains("line ") || !text.contains(message) {
                    failures.push(format!("{name}: the message lacks place, line or {message:?}: {text}"));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{} cases differ:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn real_templates_and_tokenizers_equal_transformers() {
    let Some(shared) = shared("real_templates_and_tokenizers_equal_transformers") else { return };
    let expected = golden("expected.json");
    let conversations = golden("conversations.json");
    let mut loaded: Map<String, Value> = Map::new();
    let mut tokenizers: Vec<(String, Tokenizer)> = Vec::new();
    for conversation in conversations.as_array().unwrap() {
        let mut list = conversation["messages"].clone();
        if let Some(n) = conversation["repeat"].as_u64() {
            let last = list.as_array_mut().unwrap().last_mut().unwrap();
            last["content"] = last["content"].as_str().unwrap().repeat(n as usize).into();
        }
        loaded.insert(conversation["name"].as_str().unwrap().into(), list);
    }
    let mut failures = Vec::new();
    let rows = expected["rows"].as_array().unwrap();
    assert!(rows.len() >= 5 * 40);
    for row in rows {
        let template = row["template"].as_str().unwrap();
        let name = row["conversation"].as_str().unwrap();
        if !tokenizers.iter().any(|(n, _)| n == template) {
            let folder = shared.join("tokenizers").join(row["tokenizer"].as_str().unwrap());
            let file = shared.join("tokenizers/chat_templates").join(format!("{template}.jinja"));
            let tokenizer =
                Tokenizer::load(&folder, &ChatTemplateSource::File(file), date(&expected)).unwrap();
            tokenizers.push((template.into(), tokenizer));
        }
        let tokenizer = &tokenizers.iter().find(|(n, _)| n == template).unwrap().1;
        let conversation = messages(&loaded[name]);
        match (tokenizer.render(&conversation), row.get("error")) {
            (Ok(text), None) => {
                let ids = tokenizer.encode(&conversation).unwrap();
                let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
                if hex(Sha256::digest(text.as_bytes())) != row["text_sha256"] {
                    failures.push(format!("{template} / {name}: text differs: {text:.300?}"));
                } else if ids.len() as u64 != row["ids"] || hex(Sha256::digest(&bytes)) != row["ids_sha256"] {
                    failures.push(format!(
                        "{template} / {name}: ids differ: {} of {}",
                        ids.len(),
                        row["ids"]
                    ));
                }
            }
            (Err(e), None) => failures.push(format!("{template} / {name}: {e}")),
            (Ok(text), Some(error)) => {
                failures.push(format!("{template} / {name}: {text:.300?}, expected {error}"));
            }
            (Err(e), Some(_)) => assert!(matches!(e, Error::Template { .. }), "{e}"),
        }
    }
    assert!(failures.is_empty(), "{} rows differ:\n{}", failures.len(), failures.join("\n"));
}
