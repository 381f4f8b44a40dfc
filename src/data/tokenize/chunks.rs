//! Encoding a text piece by piece, each piece once: most of what people write they have written before.
//!
//! With the pre-tokenizers of the Llama-3 and Qwen2 families a token ends before every space in front of a visible
//! character, also before the last one of several: of their alternatives those that match white space leave it that one,
//! and the others begin with it or not at all. A token ends after a line, too, where a visible character begins the next
//! one. A text that is cut at such places is encoded as the whole is, so ids of short pieces are remembered. What may not
//! be cut like that, a normalizer that looks across spaces, say, or added tokens that hold some, is encoded whole.
//!
//! Texts that follow each other often begin alike, as a prompt's responses do: what a text shares with the one before
//! it is not looked up again.

use rustc_hash::{FxBuildHasher, FxHashMap};
use serde_json::Value;
use std::cell::RefCell;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};
use tokenizers::Tokenizer;
use tokenizers::models::ModelWrapper;

/// The pattern of Qwen2 and Llama-3 without its alternative for digits, which stand in one's place.
const PATTERN: [&str; 2] = [
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
];
const DIGITS: [&str; 2] = [r"\p{N}", r"\p{N}{1,3}"];

/// Locks, so that threads rarely meet at one.
const SHARDS: usize = 64;
/// Pieces that a shard remembers: half a million in all, some 50 MB.
const PIECES_PER_SHARD: usize = 1 << 13;
/// Pieces that a thread remembers for itself.
const NEAR: usize = 1 << 12;
/// Longer pieces hardly come twice.
const MAX_BYTES: usize = 48;

/// A piece and its ids.
type Known = (Box<str>, Box<[u32]>);

/// What a thread keeps for itself: the text that it encoded last, and the pieces that it met last, so that threads do
/// not wait for each other over the words that every text has.
#[derive(Default)]
struct Local {
    /// Whose ids these are.
    owner: u64,
    /// By the piece's hash; a newer one takes the place of an older one.
    near: Vec<Option<Known>>,
    text: String,
    ids: Vec<u32>,
    /// After each piece: bytes and ids so far.
    ends: Vec<(usize, usize)>,
}

impl Local {
    /// Keeps what `text` begins with, too, and returns its bytes. Where a piece ends depends on one byte beyond it.
    fn keep_common(&mut self, owner: u64, text: &str) -> usize {
        if self.owner != owner {
            *self = Self { owner, near: vec![None; NEAR], ..Self::default() };
        }
        let common = self.text.bytes().zip(text.bytes()).take_while(|(a, b)| a == b).count();
        let pieces = self.ends.partition_point(|&(end, _)| end + 1 < common);
        self.ends.truncate(pieces);
        let (bytes, ids) = self.ends.last().copied().unwrap_or_default();
        self.ids.truncate(ids);
        self.text.truncate(bytes);
        self.text.push_str(&text[bytes..]);
        bytes
    }
}

thread_local! {
    static LOCAL: RefCell<Local> = RefCell::default();
}

type Shard = RwLock<FxHashMap<Box<str>, Box<[u32]>>>;

/// The ids of pieces that were met before.
#[derive(Debug)]
pub(super) struct Chunks {
    /// Another one for each tokenizer.
    owner: u64,
    shards: Vec<Shard>,
}

impl Chunks {
    /// `None` for a tokenizer whose texts may not be cut.
    pub(super) fn of(tokenizer: &Tokenizer) -> Option<Self> {
        static OWNERS: AtomicU64 = AtomicU64::new(1);
        is_cut_at_words(tokenizer).then(|| Self {
            owner: OWNERS.fetch_add(1, Ordering::Relaxed),
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
        })
    }

    /// The ids of `text`, as `tokenizer.encode_fast(text, false)` gives them.
    ///
    /// # Errors
    /// As the tokenizer's.
    pub(super) fn encode(&self, tokenizer: &Tokenizer, text: &str) -> tokenizers::Result<Vec<u32>> {
        LOCAL.with_borrow_mut(|local| {
            let mut bytes = local.keep_common(self.owner, text);
            for piece in pieces(&text[bytes..]) {
                self.encode_piece(tokenizer, piece, local)?;
                bytes += piece.len();
                local.ends.push((bytes, local.ids.len()));
            }
            Ok(local.ids.clone())
        })
    }

    fn encode_piece(&self, tokenizer: &Tokenizer, piece: &str, local: &mut Local) -> tokenizers::Result<()> {
        if piece.len() > MAX_BYTES {
            local.ids.extend_from_slice(tokenizer.encode_fast(piece, false)?.get_ids());
            return Ok(());
        }
        // The upper bits are the better ones of this hash.
        let hash = FxBuildHasher.hash_one(piece) >> 32;
        let near = &mut local.near[hash as usize % NEAR];
        if near.as_ref().is_none_or(|(known, _)| **known != *piece) {
            let shard = &self.shards[(hash / NEAR as u64) as usize % SHARDS];
            *near = Some((piece.into(), Self::look_up(tokenizer, piece, shard)?));
        }
        local.ids.extend(near.iter().flat_map(|(_, ids)| ids));
        Ok(())
    }

    fn look_up(tokenizer: &Tokenizer, piece: &str, shard: &Shard) -> tokenizers::Result<Box<[u32]>> {
        if let Some(known) = shard.read().unwrap_or_else(PoisonError::into_inner).get(piece) {
            return Ok(known.clone());
        }
        let ids: Box<[u32]> = tokenizer.encode_fast(piece, false)?.get_ids().into();
        let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
        if shard.len() < PIECES_PER_SHARD {
            shard.insert(piece.into(), ids.clone());
        }
        Ok(ids)
    }
}

/// Cuts a text before every space in front of a visible ASCII character, and between the end of a line and such a
/// character.
fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let bytes = text.as_bytes();
    let mut start = 0;
    std::iter::from_fn(move || {
        if start == bytes.len() {
            return None;
        }
        let is_cut = |at: &usize| {
            let (before, here, after) = (bytes[at - 1], bytes[*at], bytes[at + 1]);
            match here {
                b' ' => {
                    after.is_ascii_graphic() && (before.is_ascii_graphic() || matches!(before, b' ' | b'\n'))
                }
                _ => before == b'\n' && here.is_ascii_graphic(),
            }
        };
        let last = bytes.len().saturating_sub(1);
        let end = (start + 1..last).find(is_cut).unwrap_or(bytes.len());
        let piece = &text[start..end];
        start = end;
        Some(piece)
    })
}

/// Whether everything that the ids depend on is known to leave cuts alone.
fn is_cut_at_words(tokenizer: &Tokenizer) -> bool {
    let json = |value: Result<Value, serde_json::Error>| value.unwrap_or(Value::Bool(false));
    let normalizer = json(serde_json::to_value(tokenizer.get_normalizer()));
    // NFC composes nothing with a space.
    let is_normalizer_known = normalizer.is_null() || normalizer["type"] == "NFC";
    let pre_tokenizer = json(serde_json::to_value(tokenizer.get_pre_tokenizer()));
    let [split, bytes] = ["/pretokenizers/0", "/pretokenizers/1"].map(|at| pre_tokenizer.pointer(at));
    let (Some(split), Some(bytes)) = (split, bytes) else { return false };
    let pattern = split["pattern"]["Regex"].as_str().unwrap_or_default();
    let is_pattern_known = DIGITS.iter().any(|digits| pattern == [PATTERN[0], digits, PATTERN[1]].concat());
    let is_model_known = matches!(tokenizer.get_model(), ModelWrapper::BPE(bpe) if bpe.dropout.is_none());
    is_normalizer_known
        && pre_tokenizer["pretokenizers"].as_array().is_some_and(|list| list.len() == 2)
        && split["type"] == "Split"
        && split["behavior"] == "Isolated"
        && split["invert"] == false
        && is_pattern_known
        && bytes["type"] == "ByteLevel"
        && bytes["add_prefix_space"] == false
        && bytes["use_regex"] == false
        && is_model_known
        && tokenizer.get_added_tokens_decoder().values().all(|token| {
            let has_space = token.content.contains(char::is_whitespace);
            !(has_space || token.lstrip || token.rstrip || token.single_word)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;
    use tokenizers::AddedToken;
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;

    #[test]
    fn texts_are_cut_before_words() {
        let cut = |text| pieces(text).collect::<Vec<_>>();
        assert_eq!(cut("it's a  test, 4\n ok é x"), ["it's", " a ", " test,", " 4\n", " ok é x"]);
        assert_eq!(cut("a:\n\nbut\n1 (b)"), ["a:\n\n", "but\n", "1", " (b)"]);
        assert_eq!(cut(" a b "), [" a", " b "]);
        assert_eq!(cut("a "), ["a "]);
        assert_eq!(cut("a b"), ["a", " b"]);
        assert!(cut("").is_empty());
    }

    /// A byte-level BPE with the pre-tokenizer of Qwen2, a few merges and a special token.
    fn tokenizer(digits: &str, normalizer: &Value) -> Tokenizer {
        let mut alphabet: Vec<char> = ByteLevel::alphabet().into_iter().collect();
        alphabet.sort_unstable();
        let merges = [
            "t h",
            "th e",
            "\u{120} the",
            "e r",
            "\u{120} a",
            "i t",
            "' s",
            "it 's",
            ". \u{10a}",
            "1 2",
            "c c",
        ];
        let words =
            alphabet.iter().map(char::to_string).chain(merges.iter().map(|merge| merge.replace(' ', "")));
        let vocab: serde_json::Map<String, Value> =
            words.enumerate().map(|(id, word)| (word, Value::from(id))).collect();
        let special = vocab.len();
        let pattern = [PATTERN[0], digits, PATTERN[1]].concat();
        let split =
            json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
        let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
        let text = json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": normalizer,
            "added_tokens": [{"id": special, "content": "<|s|>", "single_word": false, "lstrip": false,
                              "rstrip": false, "normalized": false, "special": true}],
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, bytes]},
            "post_processor": null, "decoder": null,
            "model": {"type": "BPE", "dropout": null, "unk_token": null, "vocab": vocab, "merges": merges},
        });
        Tokenizer::from_bytes(text.to_string()).unwrap()
    }

    #[test]
    fn other_tokenizers_are_left_alone() {
        assert!(Chunks::of(&tokenizer(DIGITS[0], &Value::Null)).is_some());
        assert!(Chunks::of(&tokenizer(r"\p{N}{1,2}", &Value::Null)).is_none());
        assert!(Chunks::of(&tokenizer(DIGITS[1], &json!({"type": "NFKC"}))).is_none());
        let mut spaced = tokenizer(DIGITS[0], &Value::Null);
        spaced.add_tokens([AddedToken::from("a b", false)]).unwrap();
        assert!(Chunks::of(&spaced).is_none());
    }

    proptest! {
        #[test]
        fn pieces_give_the_ids_of_the_whole(
            texts in prop::collection::vec("([aethsr12.,'!]|the| a|it's|12|\n|\r|  ?|\t|\u{e9}|e\u{301}|\u{a0}|\u{3000}|\u{1f600}|<\\|s\\|>| cc){0,24}", 1..6),
        ) {
            for tokenizer in [tokenizer(DIGITS[0], &json!({"type": "NFC"})), tokenizer(DIGITS[1], &Value::Null)] {
                let chunks = Chunks::of(&tokenizer).unwrap();
                // Twice, so that what is remembered is asked for.
                for text in texts.iter().chain(&texts) {
                    let whole = tokenizer.encode_fast(text.as_str(), false).unwrap();
                    prop_assert_eq!(chunks.encode(&tokenizer, text).unwrap(), whole.get_ids());
                }
            }
        }

        #[test]
        fn pieces_are_the_text(text in "[a-z .\\n\u{e9}'<|>]{0,40}") {
            prop_assert_eq!(pieces(&text).collect::<String>(), text);
        }
    }
}
