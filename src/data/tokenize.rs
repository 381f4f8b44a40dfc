//! Conversations to token ids: render, encode, check.
//!
//! Ids equal those of transformers' `apply_chat_template`: the rendered text is encoded with no special tokens added,
//! and special tokens that stand in it, wherever they come from, become the special ids. What is not here: the
//! template language (`chat_template`), the files of a hub model (`hub`).

mod chunks;
mod folder;

use super::chat_template::ChatTemplate;
use super::config::ChatTemplateSource;
use super::ranking::Ranking;
use super::row::{Example, Message};
use crate::base::{Error, Result, atomic};
use chunks::Chunks;
use folder::Folder;
use jiff::civil::Date;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::path::Path;

/// k token sequences that answer the same prompt. Their common prefix is computed once by the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenGroup {
    pub sequences: Vec<Vec<u32>>,
}

impl AsRef<[Vec<u32>]> for TokenGroup {
    fn as_ref(&self) -> &[Vec<u32>] {
        &self.sequences
    }
}

/// The responses to one prompt ready for training, best first: a pair, which is a list of two, or more.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenList {
    /// Position in the store, the same in every epoch: it decides which heads of an ensemble learn from the list.
    pub index: u64,
    /// `file:line` of the row it came from.
    pub origin: String,
    /// One a response, prompt included.
    pub sequences: Vec<Vec<u32>>,
    pub ranking: Ranking,
    pub margin: Option<f64>,
}

impl TokenList {
    /// Tokens of all sequences.
    pub fn tokens(&self) -> usize {
        self.sequences.iter().map(Vec::len).sum()
    }
}

impl AsRef<[Vec<u32>]> for TokenList {
    fn as_ref(&self) -> &[Vec<u32>] {
        &self.sequences
    }
}

/// What the data floor needs of a tokenizer: conversations in, ids out.
pub trait EncodeConversation: Send + Sync {
    /// The text that is tokenized.
    fn render(&self, messages: &[Message]) -> Result<String>;
    /// The ids of the rendered conversation.
    fn encode(&self, messages: &[Message]) -> Result<Vec<u32>>;
    /// The id that starts every sequence, where the tokenizer has one.
    fn bos_token_id(&self) -> Option<u32>;
    /// A hash of everything that the ids depend on; names caches.
    fn fingerprint(&self) -> String;
}

/// Where the date of a template that prints one comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DateOrigin {
    /// The caller gave it.
    Given,
    /// It was stored with the model when it was trained.
    Stored,
    /// It is today's: scores change with the calendar, as they do with transformers.
    Today,
}

/// A tokenizer with its chat template, as one model folder defines them. Cheap to use from many threads at once.
#[derive(Debug)]
pub struct Tokenizer {
    folder: Folder,
    inner: tokenizers::Tokenizer,
    /// Where texts may be encoded piece by piece.
    chunks: Option<Chunks>,
    template: ChatTemplate,
    date_origin: DateOrigin,
    special_tokens: Map<String, Value>,
    vocab_size: usize,
    fingerprint: String,
}

/// The key of `tokenizer_config.json` under which the date of training is kept.
const DATE_KEY: &str = "rmtrain_date";

impl Tokenizer {
    /// Reads `tokenizer.json`, `tokenizer_config.json` and the chat template of a model folder.
    ///
    /// `date` is what the template prints as today's; without it the date stored with the model, else today.
    /// Padding and truncation in `tokenizer.json` are ignored: nothing is padded here, and what is too long is the
    /// data floor's decision.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] or [`Error::Io`] for a file that is missing or malformed, [`Error::Template`] for a
    /// folder without a template or one that does not compile.
    pub fn load(folder: &Path, source: &ChatTemplateSource, date: Option<Date>) -> Result<Self> {
        let folder = Folder::read(folder, source)?;
        let special_tokens = folder.special_tokens();
        let inner = folder.build(&special_tokens)?;
        let (date, date_origin) = match (date, folder.stored_date(DATE_KEY)?) {
            (Some(date), _) => (Some(date), DateOrigin::Given),
            (None, Some(date)) => (Some(date), DateOrigin::Stored),
            (None, None) => (None, DateOrigin::Today),
        };
        let template =
            ChatTemplate::compile(&folder.template, &folder.template_place, &special_tokens, date)?;
        let vocab_size = inner.get_vocab(true).values().max().map_or(0, |&id| id as usize + 1);
        let mut hash = Sha256::new();
        hash.update(Sha256::digest(&folder.tokenizer_json));
        hash.update(Sha256::digest(template.source()));
        if template.uses_date() {
            hash.update(template.date().to_string());
        }
        hash.update(folder.encoding_settings(&special_tokens).to_string());
        let fingerprint = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        let chunks = Chunks::of(&inner);
        Ok(Self { folder, inner, chunks, template, date_origin, special_tokens, vocab_size, fingerprint })
    }

    /// The text of a conversation, as the template has it.
    ///
    /// # Errors
    /// [`Error::Template`], see [`ChatTemplate::render`].
    pub fn render(&self, messages: &[Message]) -> Result<String> {
        self.template.render(messages)
    }

    /// The ids of a conversation: rendered, then encoded with no special tokens added.
    ///
    /// # Errors
    /// [`Error::Template`], and [`Error::Tokenizer`] where the text cannot be encoded or begins with two BOS tokens.
    pub fn encode(&self, messages: &[Message]) -> Result<Vec<u32>> {
        self.encode_text(&self.render(messages)?)
    }

    /// The ids of text that a template has rendered already.
    ///
    /// # Errors
    /// [`Error::Tokenizer`], as [`Tokenizer::encode`].
    pub fn encode_text(&self, text: &str) -> Result<Vec<u32>> {
        let fail = |reason| Error::Tokenizer { path: self.folder.tokenizer_path(), reason };
        let ids = match &self.chunks {
            Some(chunks) => chunks.encode(&self.inner, text),
            None => self.inner.encode_fast(text, false).map(|encoding| encoding.get_ids().to_vec()),
        };
        let ids = ids.map_err(|e| fail(format!("cannot encode a text: {e}")))?;
        if let (Some(bos), [first, second, ..]) = (self.bos_token_id(), ids.as_slice())
            && (*first, *second) == (bos, bos)
        {
            return Err(fail(format!(
                "a sequence begins with two BOS tokens ({:?}, id {bos}); rewards would shift. Either the chat \
                 template ({}) prints it twice, or the text that it was given begins with one",
                self.special_token("bos_token").unwrap_or_default(),
                self.template.place(),
            )));
        }
        Ok(ids)
    }

    /// Every response of a row as a sequence of its own, prompt included.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_example(&self, example: &Example) -> Result<TokenGroup> {
        let sequences = (0..example.responses.len())
            .map(|i| self.encode(&example.conversation(i)))
            .collect::<Result<_>>()?;
        Ok(TokenGroup { sequences })
    }

    /// The template in use.
    pub fn template(&self) -> &ChatTemplate {
        &self.template
    }

    /// Where the template's date comes from; `None` for a template that prints none.
    pub fn date_origin(&self) -> Option<DateOrigin> {
        self.template.uses_date().then_some(self.date_origin)
    }

    /// The id that begins a sequence, where the tokenizer names one. Whether it is printed is the template's choice.
    pub fn bos_token_id(&self) -> Option<u32> {
        self.special_token_id("bos_token")
    }

    /// The id that ends a turn or a text.
    pub fn eos_token_id(&self) -> Option<u32> {
        self.special_token_id("eos_token")
    }

    /// The id that the folder names for padding; it may end a conversation, see [`Tokenizer::pad_token_id_for`].
    pub fn pad_token_id(&self) -> Option<u32> {
        self.special_token_id("pad_token")
    }

    /// The id for what the vocabulary lacks.
    pub fn unk_token_id(&self) -> Option<u32> {
        self.special_token_id("unk_token")
    }

    fn special_token(&self, name: &str) -> Option<&str> {
        self.special_tokens.get(name).and_then(Value::as_str)
    }

    fn special_token_id(&self, name: &str) -> Option<u32> {
        self.inner.token_to_id(self.special_token(name)?)
    }

    /// The largest id + 1, added tokens included. A model's embedding has at least as many rows.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Each id as text, for display; bytes of a character that is split over tokens show as the vocabulary has them.
    pub fn tokens_of(&self, ids: &[u32]) -> Vec<String> {
        let raw = |id| self.inner.id_to_token(id).unwrap_or_else(|| format!("<id {id}>"));
        ids.iter()
            .map(|&id| match self.inner.decode(&[id], false) {
                Ok(text) if !text.is_empty() && !text.contains(char::REPLACEMENT_CHARACTER) => text,
                _ => raw(id),
            })
            .collect()
    }

    /// How many ids of a sequence are special tokens. More than [`Tokenizer::render`]'s template prints by itself
    /// means that the content of a message holds some.
    pub fn special_count(&self, ids: &[u32]) -> usize {
        let added = self.inner.get_added_tokens_decoder();
        ids.iter().filter(|id| added.get(id).is_some_and(|token| token.special)).count()
    }

    /// A padding id that never ends a rendered conversation, for `config.json`.
    ///
    /// transformers pools at the last id that is not `pad_token_id` and does not ask the attention mask: a
    /// conversation that ends with that id would be scored one token early. `last` are further ids that end
    /// sequences, those of the training data say. Taken is the tokenizer's own where it qualifies, else another
    /// special token, unused ones first.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] for a tokenizer in which every special token may end a conversation.
    pub fn pad_token_id_for(&self, last: &[u32]) -> Result<u32> {
        let (used, mut ends) = self.probe();
        ends.extend(last);
        let added = self.inner.get_added_tokens_decoder();
        let mut special: Vec<(u32, &str)> = added
            .iter()
            .filter(|(_, token)| token.special)
            .map(|(&id, token)| (id, token.content.as_str()))
            .collect();
        special.sort_unstable();
        let reserved = |token: &str| token.contains("reserved") || token.contains("unused");
        let padding = |token: &str| token.to_lowercase().contains("pad") && !token.contains("vision");
        let named = |test: &dyn Fn(&str) -> bool| -> Vec<u32> {
            special
                .iter()
                .filter(|(id, token)| test(token) && !used.contains(id))
                .map(|&(id, _)| id)
                .collect()
        };
        let eos = self.eos_token_id();
        let candidates = self
            .pad_token_id()
            .into_iter()
            .chain(named(&padding))
            .chain(named(&|token| token.contains("endoftext") || token.contains("end_of_text")))
            .chain(named(&reserved))
            .chain(named(&|_| true).into_iter().filter(|&id| Some(id) != eos))
            .chain(self.unk_token_id())
            .chain(self.bos_token_id());
        for id in candidates {
            if !ends.contains(&id) {
                return Ok(id);
            }
        }
        Err(Error::Tokenizer {
            path: self.folder.tokenizer_path(),
            reason: "no special token is left for padding: each may end a conversation. Add one, named by \
                     \"pad_token\" in tokenizer_config.json"
                .into(),
        })
    }

    /// The ids that conversations of the usual shapes use, and those that they end with.
    fn probe(&self) -> (BTreeSet<u32>, BTreeSet<u32>) {
        let turn = |roles: &[&str]| -> Vec<Message> {
            roles.iter().map(|role| Message::new(*role, format!("{role} says"))).collect()
        };
        let shapes = [
            turn(&["user", "assistant"]),
            turn(&["system", "user", "assistant"]),
            turn(&["user", "assistant", "user", "assistant"]),
            turn(&["user"]),
            turn(&["user", "assistant", "tool"]),
            vec![Message::new("user", ""), Message::new("assistant", "")],
        ];
        let (mut used, mut ends) = (BTreeSet::new(), BTreeSet::new());
        // A template may refuse a shape; the others still tell.
        for ids in shapes.iter().filter_map(|shape| self.encode(shape).ok()) {
            ends.extend(ids.last());
            used.extend(ids);
        }
        (used, ends)
    }

    /// Writes the tokenizer's files, so that `AutoTokenizer.from_pretrained(folder)` renders and encodes alike.
    ///
    /// `tokenizer.json` and the vocabulary files are copied byte for byte; `tokenizer_config.json` keeps every key
    /// and gains the template in use, the padding token and, where the template prints it, the date.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Tokenizer`] for a `pad_token_id` outside the vocabulary.
    pub fn save(&self, folder: &Path, pad_token_id: u32) -> Result<()> {
        let Some(pad_token) = self.inner.id_to_token(pad_token_id) else {
            return Err(Error::Tokenizer {
                path: self.folder.tokenizer_path(),
                reason: format!(
                    "pad_token_id {pad_token_id} is not in the vocabulary of {}",
                    self.vocab_size
                ),
            });
        };
        let mut config = self.folder.config.clone();
        if config.is_empty() {
            config.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
            config.extend(self.special_tokens.clone());
        }
        config.insert("chat_template".into(), self.template.source().into());
        set_token(&mut config, "pad_token", &pad_token);
        if self.template.uses_date() {
            config.insert(DATE_KEY.into(), self.template.date().to_string().into());
        } else {
            config.remove(DATE_KEY);
        }
        atomic::write_bytes(&folder.join("tokenizer.json"), &self.folder.tokenizer_json)?;
        write_json(&folder.join("tokenizer_config.json"), &config)?;
        if let Some(tokens) = &self.folder.special_tokens_map {
            let mut tokens = tokens.clone();
            set_token(&mut tokens, "pad_token", &pad_token);
            write_json(&folder.join("special_tokens_map.json"), &tokens)?;
        }
        for (name, bytes) in &self.folder.vocabulary_files {
            atomic::write_bytes(&folder.join(name), bytes)?;
        }
        if self.folder.template_is_file {
            atomic::write_bytes(&folder.join("chat_template.jinja"), self.template.source().as_bytes())?;
        }
        Ok(())
    }

    /// SHA-256, in hex, of all that the ids depend on: the vocabulary, the template, the date that it prints.
    pub fn fingerprint(&self) -> String {
        self.fingerprint.clone()
    }

    /// The folder that it was read from.
    pub fn folder(&self) -> &Path {
        &self.folder.path
    }
}

impl EncodeConversation for Tokenizer {
    fn render(&self, messages: &[Message]) -> Result<String> {
        Tokenizer::render(self, messages)
    }

    fn encode(&self, messages: &[Message]) -> Result<Vec<u32>> {
        Tokenizer::encode(self, messages)
    }

    fn bos_token_id(&self) -> Option<u32> {
        Tokenizer::bos_token_id(self)
    }

    fn fingerprint(&self) -> String {
        Tokenizer::fingerprint(self)
    }
}

/// Names a special token, in whichever of the two forms the file uses.
fn set_token(map: &mut Map<String, Value>, name: &str, token: &str) {
    match map.get_mut(name).and_then(Value::as_object_mut) {
        Some(object) => {
            object.insert("content".into(), token.into());
        }
        None => {
            map.insert(name.into(), token.into());
        }
    }
}

fn write_json(path: &Path, map: &Map<String, Value>) -> Result<()> {
    let mut text = serde_json::to_string_pretty(map)
        .map_err(|e| Error::Tokenizer { path: path.to_path_buf(), reason: e.to_string() })?;
    text.push('\n');
    atomic::write_bytes(path, text.as_bytes())
}
