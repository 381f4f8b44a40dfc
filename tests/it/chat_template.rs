//! Chat templates and tokenization against transformers: see `tests/golden/chat_template/generate.py`.

use proptest::prelude::*;
use rmtrain::base::Error;
use rmtrain::data::chat_template::ChatTemplate;
use rmtrain::data::config::ChatTemplateSource;
use rmtrain::data::tokenize::DateOrigin;
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

/// Cases in which minijinja and jinja2 differ by nature, with our answer: text or `error`. All others must be equal.
const KNOWN_DIFFERENCES: &[(&str, &str)] = &[
    ("undefined-less-than", "True"),
    ("string-less-than-int", "False"),
    ("none-less-than-int", "True"),
    ("int-in-string", "True"),
    ("none-in-string", "False"),
    ("for-none", ""),
    ("string-percent", "error"),
    ("string-percent-one", "error"),
    ("string-escapes", "é A \t| ' \" \\ \\N"),
    ("macro-varargs", "error"),
    ("macro-name", "f['a', 'b']"),
    ("filter-attr", "True"),
    ("filter-pprint", "error"),
    ("filter-striptags", "error"),
    ("filter-wordwrap", "error"),
    ("filter-urlencode", "error"),
    ("filter-filesizeformat", "error"),
    ("filter-random-free", "error"),
    ("filter-xmlattr", "error"),
];

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

/// A folder with a byte-level tokenizer of 260 tokens, written by the test.
struct World {
    folder: tempfile::TempDir,
}

impl World {
    /// `<s>`, `</s>`, `<pad>` and `<|x|>` are special; every byte is a token.
    fn new(config: &Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut vocab = Map::new();
        let special = ["<s>", "</s>", "<pad>", "<|x|>"];
        for token in special {
            vocab.insert(token.into(), vocab.len().into());
        }
        // The printable stand-ins of bytes, as byte-level tokenizers have them.
        let mut next = 256u32;
        for byte in 0..=255u32 {
            let own = matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
            let code = if own { byte } else { next };
            next += u32::from(!own);
            vocab.insert(char::from_u32(code).unwrap().to_string(), vocab.len().into());
        }
        let added: Vec<Value> = special
            .iter()
            .enumerate()
            .map(|(id, content)| {
                serde_json::json!({"id": id, "content": content, "single_word": false, "lstrip": false,
                    "rstrip": false, "normalized": false, "special": true})
            })
            .collect();
        let tokenizer = serde_json::json!({
            "version": "1.0",
            // Both must be ignored.
            "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
            "padding": {"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 2,
                "pad_type_id": 0, "pad_token": "<pad>"},
            "added_tokens": added,
            "normalizer": null,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            "post_processor": {"type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}},
            "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
            "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": []},
        });
        let world = Self { folder };
        world.write("tokenizer.json", &tokenizer.to_string());
        world.write("tokenizer_config.json", &config.to_string());
        world
    }

    fn plain() -> Self {
        Self::new(&serde_json::json!({
            "bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": false}, "pad_token": "<pad>",
            "model_max_length": 77,
            "chat_template": "{{ bos_token }}{% for m in messages %}{{ m.role }}:{{ m.content }}{{ eos_token }}{% endfor %}",
        }))
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder.path().join(name), text).unwrap();
    }

    fn remove(&self, name: &str) {
        std::fs::remove_file(self.folder.path().join(name)).unwrap();
    }

    fn load(&self) -> Result<Tokenizer, Error> {
        Tokenizer::load(self.folder.path(), &ChatTemplateSource::Auto, None)
    }

    fn error(&self) -> String {
        let error = self.load().unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
        error.to_string()
    }
}

fn hello() -> Vec<Message> {
    vec![Message::new("user", "hi"), Message::new("assistant", "yo")]
}

#[test]
fn ids_are_those_of_the_rendered_text_alone() {
    let tokenizer = World::plain().load().unwrap();
    let text = tokenizer.render(&hello()).unwrap();
    assert_eq!(text, "<s>user:hi</s>assistant:yo</s>");
    let ids = tokenizer.encode(&hello()).unwrap();
    // One BOS although the post-processor adds one, nothing cut at 4, nothing padded to 64.
    assert_eq!(ids.len(), 1 + "user:hi".len() + 1 + "assistant:yo".len() + 1);
    assert_eq!(ids.iter().filter(|id| **id == 0).count(), 1);
    assert_eq!((ids[0], ids[8], *ids.last().unwrap()), (0, 1, 1));
    assert_eq!(tokenizer.tokens_of(&ids)[..4], ["<s>", "u", "s", "e"]);
    assert_eq!(tokenizer.special_count(&ids), 3);
    assert_eq!(tokenizer.vocab_size(), 260);
    assert_eq!(
        (
            tokenizer.bos_token_id(),
            tokenizer.eos_token_id(),
            tokenizer.pad_token_id(),
            tokenizer.unk_token_id()
        ),
        (Some(0), Some(1), Some(2), None)
    );
    assert_eq!(tokenizer.tokens_of(&[999_999]), ["<id 999999>"]);
}

#[test]
fn a_second_bos_is_refused() {
    let world = World::plain();
    world.write("chat_template.jinja", "{{ bos_token }}{{ bos_token }}{{ messages[0].content }}");
    let error = world.load().unwrap().encode(&hello()).unwrap_err().to_string();
    assert!(error.contains("two BOS tokens") && error.contains("chat_template.jinja"), "{error}");
    world.write("chat_template.jinja", "{{ messages[0].content }}");
    assert_eq!(world.load().unwrap().encode(&hello()).unwrap().len(), 2, "a template without BOS gets none");
}

#[test]
fn special_tokens_in_content_are_special_unless_the_tokenizer_splits_them() {
    let injected = vec![Message::new("user", "<|x|>")];
    let world = World::plain();
    let tokenizer = world.load().unwrap();
    assert!(tokenizer.encode(&injected).unwrap().contains(&3));
    let mut config: Value = serde_json::from_str(
        &std::fs::read_to_string(world.folder.path().join("tokenizer_config.json")).unwrap(),
    )
    .unwrap();
    config["split_special_tokens"] = true.into();
    world.write("tokenizer_config.json", &config.to_string());
    let split = world.load().unwrap();
    assert!(!split.encode(&injected).unwrap().contains(&3));
    assert_ne!(split.fingerprint(), tokenizer.fingerprint());
}

#[test]
fn templates_are_found_in_transformers_order() {
    let world = World::plain();
    world.write("chat_template.json", r#"{"chat_template": "from json"}"#);
    assert!(world.load().unwrap().render(&hello()).unwrap().starts_with("<s>user"));
    world.write("chat_template.jinja", "from jinja");
    assert_eq!(world.load().unwrap().render(&hello()).unwrap(), "from jinja");
    world.remove("chat_template.jinja");
    world.write(
        "tokenizer_config.json",
        r#"{"chat_template": [{"name": "rag", "template": "r"}, {"name": "default", "template": "from list"}]}"#,
    );
    assert_eq!(world.load().unwrap().render(&hello()).unwrap(), "from list");
    world.write("tokenizer_config.json", "{}");
    assert_eq!(world.load().unwrap().render(&hello()).unwrap(), "from json");
    world.write("own.jinja", "own {{ messages | length }}");
    let own = ChatTemplateSource::File(world.folder.path().join("own.jinja"));
    let tokenizer = Tokenizer::load(world.folder.path(), &own, None).unwrap();
    assert_eq!(tokenizer.render(&hello()).unwrap(), "own 2");
}

#[test]
fn broken_folders_are_named_with_file_and_remedy() {
    let world = World::plain();
    world.write("tokenizer_config.json", "{}");
    let error = world.error();
    assert!(error.contains("data.chat_template = \"file.jinja\""), "{error}");
    world.write("tokenizer_config.json", r#"{"chat_template": [{"name": "rag", "template": "r"}]}"#);
    assert!(world.error().contains("[\"rag\"]"), "{}", world.error());
    world.write("tokenizer_config.json", r#"{"chat_template": 7}"#);
    assert!(world.error().contains("found 7"), "{}", world.error());
    world.write("tokenizer_config.json", "{\"chat_template\": \"ok\\n{% if %}\"}");
    let error = world.error();
    assert!(error.contains("tokenizer_config.json: chat_template") && error.contains("line 2"), "{error}");
    world.write("tokenizer_config.json", "[1");
    assert!(world.error().contains("tokenizer_config.json: not JSON"), "{}", world.error());
    world.write("tokenizer_config.json", "[1]");
    assert!(world.error().contains("expected a JSON object"), "{}", world.error());
    world.write("tokenizer_config.json", r#"{"chat_template": "x", "rmtrain_date": "yesterday"}"#);
    assert!(world.error().contains("rmtrain_date"), "{}", world.error());
    for decoder in [r#"[]"#, r#"{"x": {"content": "a"}}"#, r#"{"1": "a"}"#, r#"{"-1": {"content": "a"}}"#] {
        world.write(
            "tokenizer_config.json",
            &format!(r#"{{"chat_template": "x", "added_tokens_decoder": {decoder}}}"#),
        );
        assert!(world.error().contains("added_tokens_decoder"), "{}", world.error());
    }
    world.write("tokenizer_config.json", r#"{"chat_template": "x"}"#);
    let good = std::fs::read(world.folder.path().join("tokenizer.json")).unwrap();
    for bad in ["", "{}", "null", "[]", "{\"version\": \"1.0\"}", "{\"model\": {\"type\": \"BPE\"}}"] {
        world.write("tokenizer.json", bad);
        assert!(world.error().contains("tokenizer.json"), "{}", world.error());
    }
    for cut in (0..good.len()).step_by(97) {
        std::fs::write(world.folder.path().join("tokenizer.json"), &good[..cut]).unwrap();
        assert!(world.error().contains("tokenizer.json"), "{}", world.error());
    }
    world.remove("tokenizer.json");
    assert!(world.error().contains("tokenizer.json: not found"), "{}", world.error());
    world.write("tokenizer.model", "");
    assert!(world.error().contains("save_pretrained"), "{}", world.error());
    std::fs::write(world.folder.path().join("tokenizer.json"), &good).unwrap();
    std::fs::write(world.folder.path().join("chat_template.jinja"), b"a\nb\xff").unwrap();
    assert!(world.error().contains("line 2: not UTF-8"), "{}", world.error());
}

#[test]
fn the_date_is_frozen_stored_and_part_of_the_fingerprint() {
    let world = World::plain();
    world.write("chat_template.jinja", "{{ strftime_now('%d %b %Y') }}{{ messages[0].content }}");
    let load = |date: Option<&str>| {
        Tokenizer::load(world.folder.path(), &ChatTemplateSource::Auto, date.map(|d| d.parse().unwrap()))
            .unwrap()
    };
    let march = load(Some("2025-03-09"));
    assert!(march.template().uses_date());
    assert_eq!(march.render(&hello()).unwrap(), "09 Mar 2025hi");
    assert_ne!(march.fingerprint(), load(Some("2025-03-10")).fingerprint());
    assert_eq!(load(None).date_origin(), Some(DateOrigin::Today));
    let saved = tempfile::tempdir().unwrap();
    march.save(saved.path(), 2).unwrap();
    let again = Tokenizer::load(saved.path(), &ChatTemplateSource::Auto, None).unwrap();
    assert_eq!(again.date_origin(), Some(DateOrigin::Stored));
    assert_eq!(again.render(&hello()).unwrap(), "09 Mar 2025hi");
    assert_eq!(again.fingerprint(), march.fingerprint());
    let given = "2001-01-01".parse().unwrap();
    let other = Tokenizer::load(saved.path(), &ChatTemplateSource::Auto, Some(given)).unwrap();
    assert_eq!(
        (other.date_origin(), other.render(&hello()).unwrap()),
        (Some(DateOrigin::Given), "01 Jan 2001hi".into())
    );
    // A template without a date does not depend on one.
    let plain = World::plain();
    let dated = |d: &str| {
        Tokenizer::load(plain.folder.path(), &ChatTemplateSource::Auto, Some(d.parse().unwrap())).unwrap()
    };
    assert_eq!(dated("2025-03-09").fingerprint(), dated("2025-03-10").fingerprint());
    assert_eq!(dated("2025-03-09").date_origin(), None);
}

#[test]
fn a_saved_folder_is_the_same_tokenizer() {
    let world = World::plain();
    world.write(
        "special_tokens_map.json",
        r#"{"pad_token": {"content": "</s>", "lstrip": false}, "bos_token": "<s>"}"#,
    );
    world.write("vocab.json", "{}");
    world.write("own.jinja", "own {{ messages[0].content }}{{ eos_token }}");
    let own = ChatTemplateSource::File(world.folder.path().join("own.jinja"));
    let tokenizer = Tokenizer::load(world.folder.path(), &own, None).unwrap();
    let saved = tempfile::tempdir().unwrap();
    tokenizer.save(saved.path(), 3).unwrap();
    let again = Tokenizer::load(saved.path(), &ChatTemplateSource::Auto, None).unwrap();
    assert_eq!(again.encode(&hello()).unwrap(), tokenizer.encode(&hello()).unwrap());
    assert_eq!(again.pad_token_id(), Some(3));
    let read = |name: &str| std::fs::read_to_string(saved.path().join(name)).unwrap();
    let config: Value = serde_json::from_str(&read("tokenizer_config.json")).unwrap();
    assert_eq!(config["model_max_length"], 77);
    assert_eq!(config["pad_token"], "<|x|>");
    assert_eq!(config["chat_template"], "own {{ messages[0].content }}{{ eos_token }}");
    assert!(config.get("rmtrain_date").is_none());
    let map: Value = serde_json::from_str(&read("special_tokens_map.json")).unwrap();
    assert_eq!(map["pad_token"]["content"], "<|x|>");
    assert_eq!(read("vocab.json"), "{}");
    assert_eq!(read("chat_template.jinja"), "own {{ messages[0].content }}{{ eos_token }}");
    let source = std::fs::read(world.folder.path().join("tokenizer.json")).unwrap();
    assert_eq!(read("tokenizer.json").as_bytes(), source);
    let error = tokenizer.save(saved.path(), 5000).unwrap_err().to_string();
    assert!(error.contains("pad_token_id 5000"), "{error}");
}

#[test]
fn the_padding_id_never_ends_a_conversation() {
    let tokenizer = World::plain().load().unwrap();
    assert_eq!(tokenizer.pad_token_id_for(&[]).unwrap(), 2, "its own");
    assert_eq!(tokenizer.pad_token_id_for(&[2]).unwrap(), 3, "its own ends sequences of the data");
    let world = World::new(&serde_json::json!({
        "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>",
        "chat_template": "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}",
    }));
    let tokenizer = world.load().unwrap();
    assert_eq!(tokenizer.pad_token_id_for(&[]).unwrap(), 2, "pad == eos, which the template prints last");
    let error = tokenizer.pad_token_id_for(&[0, 1, 2, 3]).unwrap_err().to_string();
    assert!(error.contains("pad_token"), "{error}");
}

#[test]
fn a_special_token_that_tokenizer_json_does_not_mark_is_marked() {
    // "u" is an ordinary token of the vocabulary until the configuration makes it the end-of-text token.
    let world = World::new(&serde_json::json!({
        "eos_token": "u", "chat_template": "{{ messages[0].content }}",
        "added_tokens_decoder": {"4": {"content": "<|new|>", "special": true}},
    }));
    let tokenizer = world.load().unwrap();
    let ids = tokenizer.encode(&[Message::new("user", "u<|new|>")]).unwrap();
    assert_eq!(ids.len(), 2);
    assert_eq!(tokenizer.special_count(&ids), 2);
    assert_eq!(tokenizer.vocab_size(), 261);
}

#[test]
fn hostile_templates_end_in_bounded_time_and_memory() {
    let bombs = [
        "{% for i in range(10**9) %}x{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% macro f(n) %}{{ f(n + 1) }}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
        "{{ 'x' * 10**12 }}",
        "{{ 'x' * 99999999 }}{{ 'x' * 99999999 }}{{ 'x' * 99999999 }}{{ 'x' * 99999999 }}",
        "{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        "{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "{% set ns = namespace(s='x') %}{% for i in range(60) %}{% set ns.s = ns.s.replace('x', 'xxxxxxxx') %}{% endfor %}",
        "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s }}",
        "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s | tojson }}",
        "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = {'a': ns.s, 'b': ns.s} %}{% endfor %}{{ ns.s | string }}",
        "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ '{}'.format(ns.s) }}",
        "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ '%s' | format(ns.s) }}",
        "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s | pprint }}",
        "{{ 'a'.center(10**12) }}",
        "{{ 'a'.zfill(10**12) }}",
        "{{ 'a' | center(10**12) }}",
        "{{ ('a\n' * 100000) | indent('x' * 100000) }}",
        "{{ ('a\t' * 100000).expandtabs(10**9) }}",
        "{{ ('x' * 100000).join(range(100000) | map('string')) }}",
        "{{ range(100000) | join('x' * 100000) }}",
        "{{ '%1000000000d' | format(1) }}",
        "{{ '{:1000000000}'.format('a') }}",
        "{{ [1, 2] | tojson(indent=10**9) }}",
        "{{ range(99999) | list * 99999 }}",
        "{{ strftime_now('%999999999d' * 99999) * 99999 }}",
        "{{ [1][::-9223372036854775807 - 1] }}{{ 10 ** 10 ** 10 }}",
        "{{ 7 ** 100000000000 }}",
        "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    ];
    for bomb in bombs {
        let started = std::time::Instant::now();
        let result =
            ChatTemplate::compile(bomb, "bomb.jinja", &Map::new(), None).and_then(|t| t.render(&hello()));
        let seconds = started.elapsed().as_secs_f64();
        match result {
            Err(e) => assert!(e.to_string().contains("bomb.jinja"), "{e}"),
            Ok(text) => assert!(text.len() < 1 << 20, "{bomb}: rendered {} bytes", text.len()),
        }
        assert!(seconds < 20.0, "{bomb}: {seconds} s");
    }
    let deep = format!("{{{{ {}1{} }}}}", "(".repeat(100_000), ")".repeat(100_000));
    assert!(ChatTemplate::compile(&deep, "deep.jinja", &Map::new(), None).is_err());
    let deep = format!("{}{}", "{% if true %}".repeat(100_000), "{% endif %}".repeat(100_000));
    assert!(ChatTemplate::compile(&deep, "deep.jinja", &Map::new(), None).is_err());
}

#[test]
fn long_conversations_are_not_taken_for_endless_ones() {
    let tokenizer = World::plain().load().unwrap();
    let many: Vec<Message> = (0..20_000)
        .map(|i| Message::new(if i % 2 == 0 { "user" } else { "assistant" }, "a few words"))
        .collect();
    assert_eq!(tokenizer.render(&many).unwrap().matches("</s>").count(), 20_000);
    let long = [Message::new("user", "word ".repeat(2_000_000))];
    assert!(tokenizer.render(&long).unwrap().len() > 10_000_000);
}

#[test]
fn one_tokenizer_serves_many_threads() {
    fn assert_shared<T: Send + Sync>(_: &T) {}
    let tokenizer = World::plain().load().unwrap();
    assert_shared(&tokenizer);
    let expected = tokenizer.encode(&hello()).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    assert_eq!(tokenizer.encode(&hello()).unwrap(), expected);
                }
            });
        }
    });
}

proptest! {
    #[test]
    fn any_unicode_renders_and_encodes(turns in prop::collection::vec((".{0,8}", "\\PC{0,40}|.{0,40}"), 0..6)) {
        thread_local! {
            static TOKENIZER: Tokenizer = World::plain().load().unwrap();
        }
        let messages: Vec<Message> = turns.iter().map(|(r, c)| Message::new(r.as_str(), c.as_str())).collect();
        TOKENIZER.with(|tokenizer| {
            let text = tokenizer.render(&messages).unwrap();
            for (_, content) in &turns {
                prop_assert!(text.contains(content.as_str()));
            }
            let ids = tokenizer.encode(&messages).unwrap();
            prop_assert_eq!(ids.first(), Some(&0));
            Ok(())
        })?;
    }

    #[test]
    fn any_template_text_is_a_template_or_an_error(source in "(\\{\\{|\\{%|\\{#|\\}\\}|%\\}|#\\}|-|\\+|raw|endraw|generation|for|in|if|end|'|\"|\\\\|U0001F600|[a-z0-9 .|()\\[\\]]|\n|é){0,40}") {
        if let Ok(template) = ChatTemplate::compile(&source, "x", &Map::new(), None) {
            let _ = template.render(&hello());
        }
    }
}
