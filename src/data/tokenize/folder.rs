//! The tokenizer's files of a model folder, read with transformers' rules of precedence.

use super::ChatTemplateSource;
use crate::base::panics::caught;
use crate::base::{Error, Result};
use jiff::civil::Date;
use serde_json::{Map, Value, json};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use tokenizers::{AddedToken, PreTokenizerWrapper};

/// The largest file of each kind that is read; real ones are a hundredth of it.
const MAX_TOKENIZER_BYTES: u64 = 1 << 30;
const MAX_CONFIG_BYTES: u64 = 1 << 26;

/// Special tokens with one value, in transformers' order.
const TOKEN_NAMES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
const ADDITIONAL: &str = "additional_special_tokens";

/// What was read, unchanged.
#[derive(Debug)]
pub(super) struct Folder {
    pub path: PathBuf,
    pub tokenizer_json: Vec<u8>,
    /// `tokenizer_config.json`; empty where there is none.
    pub config: Map<String, Value>,
    pub special_tokens_map: Option<Map<String, Value>>,
    /// Files that only slow tokenizers read, by name.
    pub vocabulary_files: Vec<(&'static str, Vec<u8>)>,
    pub template: String,
    /// The template's origin, as messages name it.
    pub template_place: String,
    /// Whether it came from a `.jinja` file.
    pub template_is_file: bool,
}

impl Folder {
    pub(super) fn read(path: &Path, source: &ChatTemplateSource) -> Result<Self> {
        let tokenizer_path = path.join("tokenizer.json");
        let tokenizer_json = read(&tokenizer_path, MAX_TOKENIZER_BYTES)?.ok_or_else(|| {
            let reason = if path.join("tokenizer.model").exists() {
                "not found; the folder has tokenizer.model only. Convert it once with transformers: \
                 AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
            } else {
                "not found; rmtrain needs the fast tokenizer's file"
            };
            Error::Tokenizer { path: tokenizer_path, reason: reason.into() }
        })?;
        let config = read_object(&path.join("tokenizer_config.json"))?.unwrap_or_default();
        let special_tokens_map = read_object(&path.join("special_tokens_map.json"))?;
        let mut vocabulary_files = Vec::new();
        for name in ["vocab.json", "merges.txt", "added_tokens.json"] {
            if let Some(bytes) = read(&path.join(name), MAX_TOKENIZER_BYTES)? {
                vocabulary_files.push((name, bytes));
            }
        }
        let (template, template_place, template_is_file) = match source {
            ChatTemplateSource::File(file) => (read_template(file)?, file.display().to_string(), true),
            ChatTemplateSource::Auto => find_template(path, &config)?,
        };
        Ok(Self {
            path: path.to_path_buf(),
            tokenizer_json,
            config,
            special_tokens_map,
            vocabulary_files,
            template,
            template_place,
            template_is_file,
        })
    }

    pub(super) fn tokenizer_path(&self) -> PathBuf {
        self.path.join("tokenizer.json")
    }

    /// The special tokens that transformers knows and passes to the template, by name.
    ///
    /// `tokenizer_config.json` has them as strings or objects. A folder from before `added_tokens_decoder` is
    /// overruled by its `special_tokens_map.json`, one from after never reads it. Two classes have defaults.
    pub(super) fn special_tokens(&self) -> Map<String, Value> {
        let legacy = !self.config.contains_key("added_tokens_decoder");
        let overruling = self.special_tokens_map.as_ref().filter(|_| legacy);
        let class = self.config.get("tokenizer_class").and_then(Value::as_str).unwrap_or_default();
        let mut tokens = Map::new();
        for name in TOKEN_NAMES {
            let own = self.config.get(name);
            let token = match overruling.and_then(|map| map.get(name)) {
                Some(value) if token_content(value).is_some() => token_content(value),
                _ => match own {
                    Some(value) => token_content(value),
                    None => class_default(class, name),
                },
            };
            if let Some(token) = token {
                tokens.insert(name.into(), token.into());
            }
        }
        let additional = overruling.and_then(|map| map.get(ADDITIONAL)).or(self.config.get(ADDITIONAL));
        let additional: Vec<&str> =
            additional.and_then(Value::as_array).into_iter().flatten().filter_map(token_content).collect();
        if !additional.is_empty() {
            tokens.insert(ADDITIONAL.into(), additional.into());
        }
        tokens
    }

    /// Everything but `tokenizer.json`, the template and the date that changes ids, for the fingerprint.
    pub(super) fn encoding_settings(&self, special_tokens: &Map<String, Value>) -> Value {
        json!([
            special_tokens,
            self.config.get("added_tokens_decoder"),
            self.config.get("split_special_tokens"),
            self.config.get("add_prefix_space"),
        ])
    }

    /// The tokenizer, with what `tokenizer_config.json` changes about `tokenizer.json` applied as transformers does.
    pub(super) fn build(&self, special_tokens: &Map<String, Value>) -> Result<tokenizers::Tokenizer> {
        let fail = |reason: String| Error::Tokenizer { path: self.tokenizer_path(), reason };
        // The library panics on some malformed files: most are caught by asking first whether it is JSON at all.
        let keys: Map<String, Value> = serde_json::from_slice(&self.tokenizer_json)
            .map_err(|e| fail(format!("expected a JSON object: {e}")))?;
        if !keys.get("model").is_some_and(Value::is_object) {
            return Err(fail("expected a key \"model\" with an object".into()));
        }
        drop(keys);
        let mut tokenizer = caught(|| tokenizers::Tokenizer::from_bytes(&self.tokenizer_json))
            .map_err(|panic| {
                fail(format!("the `tokenizers` library cannot read it: a part of it is malformed ({panic})"))
            })?
            .map_err(|e| fail(format!("not a tokenizer of the `tokenizers` library: {e}")))?;
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|e| fail(e.to_string()))?;
        let flag = |name: &str| self.config.get(name).and_then(Value::as_bool).unwrap_or(false);
        tokenizer.set_encode_special_tokens(flag("split_special_tokens"));
        let added = self.tokens_to_add(&tokenizer, special_tokens)?;
        if !added.is_empty() {
            tokenizer.add_tokens(added).map_err(|e| fail(format!("cannot add its special tokens: {e}")))?;
        }
        // A byte-level pre-tokenizer at the top follows the configuration, absent meaning false.
        if let Some(PreTokenizerWrapper::ByteLevel(level)) = tokenizer.get_pre_tokenizer() {
            let wanted = flag("add_prefix_space");
            if level.add_prefix_space != wanted {
                let level = level.add_prefix_space(wanted);
                tokenizer.with_pre_tokenizer(Some(PreTokenizerWrapper::ByteLevel(level)));
            }
        }
        Ok(tokenizer)
    }

    /// Tokens of the configuration that `tokenizer.json` lacks or has with other flags.
    fn tokens_to_add(
        &self,
        tokenizer: &tokenizers::Tokenizer,
        special_tokens: &Map<String, Value>,
    ) -> Result<Vec<AddedToken>> {
        let path = || self.path.join("tokenizer_config.json");
        let fail = |reason: String| Error::Tokenizer { path: path(), reason };
        let present = tokenizer.get_added_tokens_decoder();
        let all_special: Vec<&str> = special_tokens
            .values()
            .flat_map(|value| match value {
                Value::Array(items) => items.iter().filter_map(Value::as_str).collect(),
                other => other.as_str().into_iter().collect::<Vec<_>>(),
            })
            .collect();
        let mut declared = Vec::new();
        if let Some(decoder) = self.config.get("added_tokens_decoder") {
            let decoder = decoder
                .as_object()
                .ok_or_else(|| fail("added_tokens_decoder: expected an object of id to token".into()))?;
            for (key, value) in decoder {
                let id: u32 = key.parse().map_err(|_| {
                    fail(format!("added_tokens_decoder: expected a token id as key, found {key:?}"))
                })?;
                let content = value.get("content").and_then(Value::as_str).ok_or_else(|| {
                    fail(format!("added_tokens_decoder: \"{id}\": expected an object with \"content\""))
                })?;
                let flag = |name: &str| value.get(name).and_then(Value::as_bool);
                let special = flag("special").unwrap_or(false);
                let token = AddedToken::from(content, special || all_special.contains(&content))
                    .single_word(flag("single_word").unwrap_or(false))
                    .lstrip(flag("lstrip").unwrap_or(false))
                    .rstrip(flag("rstrip").unwrap_or(false))
                    .normalized(flag("normalized").unwrap_or(!special));
                declared.push((id, token));
            }
        }
        declared.sort_by_key(|(id, _)| *id);
        let mut tokens: Vec<AddedToken> = declared
            .into_iter()
            .map(|(_, token)| token)
            .filter(|token| !present.values().any(|p| same_token(p, token)))
            .collect();
        for content in all_special {
            let known = |t: &AddedToken| t.content == content;
            if !present.values().any(known) && !tokens.iter().any(known) {
                tokens.push(AddedToken::from(content, true));
            }
        }
        Ok(tokens)
    }

    /// The date under `key` of `tokenizer_config.json`.
    pub(super) fn stored_date(&self, key: &str) -> Result<Option<Date>> {
        let Some(value) = self.config.get(key) else { return Ok(None) };
        match value.as_str().map(Date::from_str) {
            Some(Ok(date)) => Ok(Some(date)),
            _ => Err(Error::Tokenizer {
                path: self.path.join("tokenizer_config.json"),
                reason: format!("{key}: expected a date like \"2025-03-09\", found {value}"),
            }),
        }
    }
}

fn same_token(a: &AddedToken, b: &AddedToken) -> bool {
    a.content == b.content
        && (a.single_word, a.lstrip, a.rstrip, a.normalized, a.special)
            == (b.single_word, b.lstrip, b.rstrip, b.normalized, b.special)
}

/// A token as a string or as `{"content": ..}`.
fn token_content(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content").and_then(Value::as_str)).filter(|s| !s.is_empty())
}

/// What a tokenizer class of transformers takes for a token that the configuration does not mention.
fn class_default(class: &str, name: &str) -> Option<&'static str> {
    match (class.trim_end_matches("Fast"), name) {
        ("LlamaTokenizer", "bos_token") => Some("<s>"),
        ("LlamaTokenizer", "eos_token") => Some("</s>"),
        ("LlamaTokenizer", "unk_token") => Some("<unk>"),
        ("Qwen2Tokenizer", "eos_token" | "unk_token" | "pad_token") => Some("<|endoftext|>"),
        _ => None,
    }
}

/// The folder's own template: `chat_template.jinja`, else `tokenizer_config.json`, else `chat_template.json`.
fn find_template(folder: &Path, config: &Map<String, Value>) -> Result<(String, String, bool)> {
    let file = folder.join("chat_template.jinja");
    if file.exists() {
        return Ok((read_template(&file)?, file.display().to_string(), true));
    }
    let config_path = folder.join("tokenizer_config.json");
    if let Some(value) = config.get("chat_template").filter(|v| !v.is_null()) {
        let place = format!("{}: chat_template", config_path.display());
        return Ok((pick_template(value, &place)?, place, false));
    }
    let file = folder.join("chat_template.json");
    if let Some(value) = read_object(&file)?.and_then(|map| map.get("chat_template").cloned()) {
        let place = format!("{}: chat_template", file.display());
        return Ok((pick_template(&value, &place)?, place, false));
    }
    Err(Error::Template {
        place: folder.display().to_string(),
        reason:
            "none found, neither chat_template.jinja nor \"chat_template\" in tokenizer_config.json; name a \
                 file: data.chat_template = \"file.jinja\""
                .into(),
    })
}

/// The template itself, or the one named `default` of a list.
fn pick_template(value: &Value, place: &str) -> Result<String> {
    let fail = |reason: String| Error::Template { place: place.to_owned(), reason };
    if let Some(template) = value.as_str() {
        return Ok(template.to_owned());
    }
    let named: Vec<(&str, &str)> = match value {
        Value::Array(items) => items
            .iter()
            .filter_map(|item| Some((item.get("name")?.as_str()?, item.get("template")?.as_str()?)))
            .collect(),
        Value::Object(map) => {
            map.iter().filter_map(|(name, item)| Some((name.as_str(), item.as_str()?))).collect()
        }
        _ => {
            return Err(fail(format!(
                "expected a string or a list of {{\"name\", \"template\"}}, found {}",
                excerpt(value)
            )));
        }
    };
    match named.iter().find(|(name, _)| *name == "default") {
        Some((_, template)) => Ok((*template).to_owned()),
        None => {
            let names: Vec<&str> = named.iter().map(|(name, _)| *name).collect();
            Err(fail(format!(
                "expected one named \"default\", found {names:?}; name a file: data.chat_template = \"file.jinja\""
            )))
        }
    }
}

fn read_template(path: &Path) -> Result<String> {
    let fail = |reason: &str| Error::Template { place: path.display().to_string(), reason: reason.into() };
    let bytes = read(path, MAX_CONFIG_BYTES)?.ok_or_else(|| fail("the file does not exist"))?;
    let text = String::from_utf8(bytes).map_err(|e| {
        let line = 1 + e.as_bytes()[..e.utf8_error().valid_up_to()].iter().filter(|b| **b == b'\n').count();
        fail(&format!("line {line}: not UTF-8"))
    })?;
    Ok(text)
}

fn read_object(path: &Path) -> Result<Option<Map<String, Value>>> {
    let Some(bytes) = read(path, MAX_CONFIG_BYTES)? else { return Ok(None) };
    let fail = |reason: String| Error::Tokenizer { path: path.to_path_buf(), reason };
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(map)) => Ok(Some(map)),
        Ok(other) => Err(fail(format!("expected a JSON object, found {}", excerpt(&other)))),
        Err(e) => Err(fail(format!("not JSON: {e}"))),
    }
}

/// A value's beginning, for messages.
fn excerpt(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(40) {
        Some((at, _)) => format!("{}..", &text[..at]),
        None => text,
    }
}

/// The file's bytes; `None` where it does not exist.
fn read(path: &Path, max_bytes: u64) -> Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::Io { path: path.to_path_buf(), source: e }),
    };
    let size = fs::metadata(path).map_or(0, |m| m.len());
    let mut bytes = Vec::with_capacity(size.min(max_bytes) as usize);
    file.take(max_bytes + 1).read_to_end(&mut bytes).map_err(Error::io(path))?;
    if bytes.len() as u64 > max_bytes {
        return Err(Error::Tokenizer {
            path: path.to_path_buf(),
            reason: format!("larger than {} MiB; not a tokenizer's file", max_bytes >> 20),
        });
    }
    Ok(Some(bytes))
}
