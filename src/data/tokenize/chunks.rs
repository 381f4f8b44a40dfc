//! Encoding a text piece by piece, each piece once: most of what people write they have written before.
//!
//! With the pre-tokenizers of the Llama-3 and Qwen2 families a token ends before every space in front of a visible
//! character, also before the last one of several: of their alternatives those that match white space leave it that one,
//! and the others begin with it or not at all. A token ends after a line, too, where a visible character begins the next
//! one. A text that is cut at such places is encoded as the whole is, so ids of short pieces are remembered. What may not
//! be cut like that, a normalizer that looks across spaces, say, or added tokens that hold some, is encoded whole.
//! A piece of ASCII that is new is cut further, into the words that the pre-tokenizer makes of it.
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
/// That alternative, and the most digits that it takes.
const DIGITS: [(&str, usize); 2] = [(r"\p{N}", 1), (r"\p{N}{1,3}", 3)];

/// Locks, so that threads rarely meet at one.
const SHARDS: usize = 64;
/// Pieces that a shard remembers: half a million in all, some 50 MB.
const PIECES_PER_SHARD: usize = 1 << 13;
/// Pieces that a thread remembers for itself: 4 MiB.
const NEAR: usize = 1 << 16;
/// Longer pieces hardly come twice.
const MAX_BYTES: usize = 48;

/// The bytes of a piece of 1 to 23 in three words, its length in the last one: compared and hashed without a loop.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key([u64; 3]);

impl Key {
    /// That of no piece.
    const NONE: Self = Self([0; 3]);

    fn of(piece: &str) -> Option<Self> {
        let mut bytes = [0; 24];
        let (length, room) = bytes.split_last_mut()?;
        room.get_mut(..piece.len())?.copy_from_slice(piece.as_bytes());
        *length = piece.len() as u8;
        let word = |i: usize| u64::from_le_bytes(std::array::from_fn(|k| bytes[8 * i + k]));
        Some(Self(std::array::from_fn(word)))
    }
}

/// A piece and its ids, in one line of the processor's cache.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Known {
    key: Key,
    count: u32,
    ids: [u32; 9],
}

impl Known {
    const NOTHING: Self = Self { key: Key::NONE, count: 0, ids: [0; 9] };

    /// `None` where there are too many ids.
    fn new(key: Key, known: &[u32]) -> Option<Self> {
        let mut ids = [0; 9];
        ids.get_mut(..known.len())?.copy_from_slice(known);
        Some(Self { key, count: known.len() as u32, ids })
    }
}

/// What a thread keeps for itself: the text that it encoded last, and the pieces that it met last, so that threads do
/// not wait for each other over the words that every text has.
#[derive(Default)]
struct Local {
    /// Whose ids these are.
    owner: u64,
    /// By the key's hash; a newer one takes the place of an older one.
    near: Vec<Known>,
    text: String,
    ids: Vec<u32>,
    /// After each piece: bytes and ids so far.
    ends: Vec<(usize, usize)>,
}

impl Local {
    /// Keeps what `text` begins with, too, and returns its bytes. Where a piece ends depends on one byte beyond it.
    fn keep_common(&mut self, owner: u64, text: &str) -> usize {
        if self.owner != owner {
            *self = Self { owner, near: vec![Known::NOTHING; NEAR], ..Self::default() };
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

    /// Appends the ids of `text`, which `encode` does if they are not remembered.
    fn remembered(
        &mut self,
        text: &str,
        encode: impl FnOnce(&mut Self) -> tokenizers::Result<()>,
    ) -> tokenizers::Result<()> {
        let Some(key) = Key::of(text) else { return encode(self) };
        let place = FxBuildHasher.hash_one(key) as usize % NEAR;
        let near = &self.near[place];
        if near.key == key {
            self.ids.extend_from_slice(&near.ids[..near.count as usize]);
            return Ok(());
        }
        let before = self.ids.len();
        encode(self)?;
        if let Some(known) = Known::new(key, &self.ids[before..]) {
            self.near[place] = known;
        }
        Ok(())
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
    /// The most digits of a word.
    digits: usize,
    /// What added tokens begin with: a piece that has none of these bytes has no added token.
    added: Vec<u8>,
}

impl Chunks {
    /// `None` for a tokenizer whose texts may not be cut.
    pub(super) fn of(tokenizer: &Tokenizer) -> Option<Self> {
        static OWNERS: AtomicU64 = AtomicU64::new(1);
        let digits = most_digits(tokenizer)?;
        let added = tokenizer.get_added_tokens_decoder();
        let mut added: Vec<u8> = added.values().filter_map(|token| token.content.bytes().next()).collect();
        added.sort_unstable();
        added.dedup();
        Some(Self {
            owner: OWNERS.fetch_add(1, Ordering::Relaxed),
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            digits,
            added,
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
        let is_plain = || piece.bytes().all(|byte| byte.is_ascii() && !self.added.contains(&byte));
        local.remembered(piece, |local| {
            if !is_plain() {
                return self.look_up(tokenizer, piece, &mut local.ids);
            }
            for word in words(piece, self.digits) {
                local.remembered(word, |local| self.look_up(tokenizer, word, &mut local.ids))?;
            }
            Ok(())
        })
    }

    /// Appends the ids of `piece`, which all threads remember.
    fn look_up(&self, tokenizer: &Tokenizer, piece: &str, ids: &mut Vec<u32>) -> tokenizers::Result<()> {
        if piece.len() > MAX_BYTES {
            ids.extend_from_slice(tokenizer.encode_fast(piece, false)?.get_ids());
            return Ok(());
        }
        // Upper bits, as the map uses the lower ones.
        let shard = &self.shards[(FxBuildHasher.hash_one(piece) >> 32) as usize % SHARDS];
        if let Some(known) = shard.read().unwrap_or_else(PoisonError::into_inner).get(piece) {
            ids.extend_from_slice(known);
            return Ok(());
        }
        let encoding = tokenizer.encode_fast(piece, false)?;
        ids.extend_from_slice(encoding.get_ids());
        let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
        if shard.len() < PIECES_PER_SHARD {
            shard.insert(piece.into(), encoding.get_ids().into());
        }
        Ok(())
    }
}

/// Cuts a text before every space in front of a visible ASCII character, and between the end of a line and such a
/// character.
fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let is_cut = |around: &[u8]| {
        let &[before, here, after] = around else { return false };
        match here {
            b' ' => after.is_ascii_graphic() && (before.is_ascii_graphic() || matches!(before, b' ' | b'\n')),
            _ => before == b'\n' && here.is_ascii_graphic(),
        }
    };
    let mut rest = text;
    std::iter::from_fn(move || {
        let cut = rest.as_bytes().windows(3).position(is_cut);
        let (piece, others) = rest.split_at(cut.map_or(rest.len(), |before| before + 1));
        rest = others;
        (!piece.is_empty()).then_some(piece)
    })
}

/// The words that the pre-tokenizer makes of ASCII text, with at most so many digits in one.
fn words(text: &str, digits: usize) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (word, others) = rest.split_at(word_length(rest.as_bytes(), digits));
        rest = others;
        (!word.is_empty()).then_some(word)
    })
}

/// Bytes of the word that ASCII text begins with, by the alternatives of [`PATTERN`] in their order.
fn word_length(text: &[u8], digits: usize) -> usize {
    // How many bytes are of a class, from one on.
    let run = |from: usize, is: fn(&u8) -> bool| text.iter().skip(from).take_while(|byte| is(byte)).count();
    let is_space = |byte: &u8| matches!(byte, b'\t'..=b'\r' | b' ');
    let is_line_end = |byte: &u8| matches!(byte, b'\r' | b'\n');
    let Some(&first) = text.first() else { return 0 };

    if first == b'\'' {
        let next = |i: usize| text.get(i).map(u8::to_ascii_lowercase);
        match (next(1), next(2)) {
            (Some(b's' | b't' | b'm' | b'd'), _) => return 2,
            (Some(b'r' | b'v'), Some(b'e')) | (Some(b'l'), Some(b'l')) => return 3,
            _ => {}
        }
    }
    let before_letters = usize::from(!first.is_ascii_alphanumeric() && !is_line_end(&first));
    let letters = run(before_letters, u8::is_ascii_alphabetic);
    if letters > 0 {
        return before_letters + letters;
    }
    if first.is_ascii_digit() {
        return run(0, u8::is_ascii_digit).min(digits);
    }
    let before_marks = usize::from(first == b' ');
    let marks =
        run(before_marks, |byte| !byte.is_ascii_alphanumeric() && !matches!(byte, b'\t'..=b'\r' | b' '));
    if marks > 0 {
        let marks = before_marks + marks;
        return marks + run(marks, is_line_end);
    }
    let spaces = run(0, is_space);
    if let Some(last) = text[..spaces].iter().rposition(is_line_end) {
        return last + 1;
    }
    // The last space goes with what comes next.
    if spaces == text.len() { spaces } else { (spaces - 1).max(1) }
}

/// The most digits of a word, where everything that the ids depend on is known to leave cuts alone.
fn most_digits(tokenizer: &Tokenizer) -> Option<usize> {
    let json = |value: Result<Value, serde_json::Error>| value.unwrap_or(Value::Bool(false));
    let normalizer = json(serde_json::to_value(tokenizer.get_normalizer()));
    // NFC composes nothing with a space.
    let is_normalizer_known = normalizer.is_null() || normalizer["type"] == "NFC";
    let pre_tokenizer = json(serde_json::to_value(tokenizer.get_pre_tokenizer()));
    let [split, bytes] = ["/pretokenizers/0", "/pretokenizers/1"].map(|at| pre_tokenizer.pointer(at));
    let (split, bytes) = (split?, bytes?);
    let pattern = split["pattern"]["Regex"].as_str()?;
    let (_, digits) =
        DIGITS.iter().find(|(digits, _)| pattern == [PATTERN[0], digits, PATTERN[1]].concat())?;
    let is_model_known = matches!(tokenizer.get_model(), ModelWrapper::BPE(bpe) if bpe.dropout.is_none());
    let is_known = is_normalizer_known
        && pre_tokenizer["pretokenizers"].as_array().is_some_and(|list| list.len() == 2)
        && split["type"] == "Split"
        && split["behavior"] == "Isolated"
        && split["invert"] == false
        && bytes["type"] == "ByteLevel"
        && bytes["add_prefix_space"] == false
        && bytes["use_regex"] == false
        && is_model_known
        && tokenizer.get_added_tokens_decoder().values().all(|token| {
            let has_space = token.content.contains(char::is_whitespace);
            !(has_space || token.lstrip || token.rstrip || token.single_word)
        });
    is_known.then_some(*digits)
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
        assert!(Chunks::of(&tokenizer(DIGITS[0].0, &Value::Null)).is_some());
        assert!(Chunks::of(&tokenizer(r"\p{N}{1,2}", &Value::Null)).is_none());
        assert!(Chunks::of(&tokenizer(DIGITS[1].0, &json!({"type": "NFKC"}))).is_none());
        let mut spaced = tokenizer(DIGITS[0].0, &Value::Null);
        spaced.add_tokens([AddedToken::from("a b", false)]).unwrap();
        assert!(Chunks::of(&spaced).is_none());
    }

    #[test]
    fn words_are_those_of_the_pre_tokenizer() {
        let cut = |text| words(text, 3).collect::<Vec<_>>();
        assert_eq!(cut("it's'REd 'x"), ["it", "'s", "'RE", "d", " '", "x"]);
        assert_eq!(cut("f(a_b)[1234];\r\n\n x"), ["f", "(a", "_b", ")[", "123", "4", "];\r\n\n", " x"]);
        assert_eq!(cut("a   b \n  \n\t!\u{1c} "), ["a", "  ", " b", " \n  \n", "\t", "!\u{1c}", " "]);
        assert_eq!(words("1234", 1).collect::<Vec<_>>(), ["1", "2", "3", "4"]);
    }

    proptest! {
        #[test]
        fn ascii_gives_the_ids_of_the_whole(texts in prop::collection::vec("([\0-\x7f]|[ -/]|[ \t\r\n']{1,3}|[a-eA-Z0-9]{1,4}){0,40}", 1..4)) {
            for (digits, _) in DIGITS {
                let tokenizer = tokenizer(digits, &Value::Null);
                let chunks = Chunks::of(&tokenizer).unwrap();
                for text in texts.iter().chain(&texts) {
                    let whole = tokenizer.encode_fast(text.as_str(), false).unwrap();
                    prop_assert_eq!(chunks.encode(&tokenizer, text).unwrap(), whole.get_ids());
                }
            }
        }

        #[test]
        fn pieces_give_the_ids_of_the_whole(
            texts in prop::collection::vec("([aethsr12.,'!]|the| a|it's|12|\n|\r|  ?|\t|\u{e9}|e\u{301}|\u{a0}|\u{3000}|\u{1f600}|<\\|s\\|>| cc){0,24}", 1..6),
        ) {
            for tokenizer in [tokenizer(DIGITS[0].0, &json!({"type": "NFC"})), tokenizer(DIGITS[1].0, &Value::Null)] {
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
