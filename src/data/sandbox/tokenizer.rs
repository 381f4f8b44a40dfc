//! The sandbox's own tokenizer: a byte-level BPE of 1024 tokens, learnt from the world's text, with a chat template.
//!
//! Every byte has a token, so any text is encoded without loss. It depends on the world's tables alone, not on a seed:
//! models of different sandboxes share it. What is not here: encoding, which is the `tokenizers` crate's.

use crate::{Error, Result};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use tokenizers::tokenizer::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

/// Tokens, the special ones included.
pub const VOCABULARY: usize = 1024;
/// Ids 0 to 5. The end of a turn is the end of a sequence; the padding never occurs in a conversation.
const SPECIAL: [&str; 6] = ["<|pad|>", "<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"];

/// Turns are marked by one token each, and the last token of a conversation is its last turn's `<|end|>`.
const CHAT_TEMPLATE: &str = "{{- bos_token }}\
{%- for message in messages %}\
{%- if message['role'] not in ['system', 'user', 'assistant'] %}\
{{- raise_exception('unknown role ' + message['role'] + ': expected system, user or assistant') }}\
{%- endif %}\
{{- '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}\
{%- endfor %}\
{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}";

/// The files of the tokenizer folder, by name.
///
/// # Errors
/// [`Error::Tokenizer`] if the `tokenizers` crate refuses what was built.
pub fn files<'a>(corpus: impl Iterator<Item = &'a str>) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let pretty = |value: &Value| {
        let mut bytes = serde_json::to_vec_pretty(value).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    };
    let untrained = load(&definition(&[], &alphabet()))?;
    let mut words: BTreeMap<String, u64> = BTreeMap::new();
    for text in corpus {
        let mut split = PreTokenizedString::from(text);
        if let Some(pre_tokenizer) = untrained.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut split).map_err(|e| refused(&*e))?;
        }
        for (word, _, _) in split.get_splits(OffsetReferential::Original, OffsetType::Byte) {
            *words.entry(word.to_owned()).or_default() += 1;
        }
    }
    let (vocabulary, merges) = learn(&words, alphabet());
    let tokenizer = definition(&merges, &vocabulary);
    load(&tokenizer)?;
    let config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SPECIAL[1],
        "eos_token": SPECIAL[2],
        "pad_token": SPECIAL[0],
        "clean_up_tokenization_spaces": false,
        "model_max_length": 4096,
        "chat_template": CHAT_TEMPLATE,
    });
    let special = json!({ "bos_token": SPECIAL[1], "eos_token": SPECIAL[2], "pad_token": SPECIAL[0] });
    Ok(vec![
        ("special_tokens_map.json", pretty(&special)),
        ("tokenizer.json", pretty(&tokenizer)),
        ("tokenizer_config.json", pretty(&config)),
    ])
}

fn refused(error: &(dyn std::error::Error + Send + Sync)) -> Error {
    Error::Tokenizer { path: Path::new("sandbox tokenizer").into(), reason: error.to_string() }
}

fn load(definition: &Value) -> Result<tokenizers::Tokenizer> {
    tokenizers::Tokenizer::from_bytes(definition.to_string()).map_err(|e| refused(&*e))
}

/// The special tokens and the 256 characters that stand for the bytes.
fn alphabet() -> Vec<String> {
    let mut bytes: Vec<char> =
        tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter().collect();
    bytes.sort_unstable();
    SPECIAL.map(String::from).into_iter().chain(bytes.into_iter().map(String::from)).collect()
}

/// Byte-pair encoding: the most frequent pair is merged, the lower ids first among equals, until the vocabulary is
/// full.
fn learn(words: &BTreeMap<String, u64>, mut vocabulary: Vec<String>) -> (Vec<String>, Vec<(u32, u32)>) {
    let mut ids: HashMap<String, u32> = vocabulary.iter().cloned().zip(0u32..).collect();
    let mut corpus: Vec<(Vec<u32>, u64)> = words
        .iter()
        .map(|(word, &count)| {
            (
                word.chars().filter_map(|c| ids.get(c.encode_utf8(&mut [0; 4]) as &str).copied()).collect(),
                count,
            )
        })
        .collect();
    let mut merges = Vec::new();
    while vocabulary.len() < VOCABULARY {
        let mut counts: BTreeMap<(u32, u32), u64> = BTreeMap::new();
        for (symbols, count) in &corpus {
            for pair in symbols.windows(2) {
                *counts.entry((pair[0], pair[1])).or_default() += count;
            }
        }
        let Some((&pair, _)) = counts.iter().max_by_key(|&(&pair, &count)| (count, std::cmp::Reverse(pair)))
        else {
            break;
        };
        let token = format!("{}{}", vocabulary[pair.0 as usize], vocabulary[pair.1 as usize]);
        let id = *ids.entry(token.clone()).or_insert_with(|| {
            vocabulary.push(token);
            vocabulary.len() as u32 - 1
        });
        merges.push(pair);
        for (symbols, _) in &mut corpus {
            let mut merged = Vec::with_capacity(symbols.len());
            let mut rest = symbols.as_slice();
            while let [first, tail @ ..] = rest {
                if tail.first() == Some(&pair.1) && *first == pair.0 {
                    merged.push(id);
                    rest = &tail[1..];
                } else {
                    merged.push(*first);
                    rest = tail;
                }
            }
            *symbols = merged;
        }
    }
    (vocabulary, merges)
}

fn definition(merges: &[(u32, u32)], vocabulary: &[String]) -> Value {
    let byte_level =
        json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    let added = SPECIAL.iter().enumerate().map(|(id, token)| {
        json!({ "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true })
    });
    let word = |id: u32| vocabulary[id as usize].as_str();
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added.collect::<Vec<_>>(),
        "normalizer": null,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{ "type": "Digits", "individual_digits": true }, byte_level],
        },
        "post_processor": null,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": false,
            "vocab": vocabulary.iter().zip(0u32..).map(|(token, id)| (token.clone(), json!(id))).collect::<serde_json::Map<_, _>>(),
            "merges": merges.iter().map(|&(a, b)| json!([word(a), word(b)])).collect::<Vec<_>>(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::OnceLock;

    fn built() -> &'static tokenizers::Tokenizer {
        static BUILT: OnceLock<tokenizers::Tokenizer> = OnceLock::new();
        BUILT.get_or_init(|| {
            let corpus = crate::data::sandbox::corpus();
            let files = files(corpus.iter().map(String::as_str)).expect("builds");
            let json = &files.iter().find(|(name, _)| *name == "tokenizer.json").expect("is written").1;
            tokenizers::Tokenizer::from_bytes(json).expect("loads")
        })
    }

    #[test]
    fn the_world_takes_few_tokens() {
        // Names of the world are rarer than its words, so this is a hard sentence.
        let text = "The capital of Velmora is Tarsk.";
        let ids = built().encode(text, false).expect("encodes");
        assert!(ids.len() * 5 <= text.len() * 2, "{:?}", ids.get_tokens());
        assert_eq!(built().get_vocab_size(true), VOCABULARY);
    }

    #[test]
    fn the_marks_are_one_token_each() {
        for (id, mark) in (0u32..).zip(SPECIAL) {
            assert_eq!(built().encode(mark, false).expect("encodes").get_ids(), [id]);
        }
    }

    proptest! {
        #[test]
        fn any_text_survives(text in any::<String>()) {
            prop_assume!(!SPECIAL.iter().any(|mark| text.contains(mark)));
            let ids = built().encode(text.as_str(), false).expect("encodes");
            prop_assert_eq!(built().decode(ids.get_ids(), false).expect("decodes"), text);
        }
    }
}
