//! What makes two prompts or two responses the same.

use crate::data::row::Message;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// One plain message of the expected role as text, anything else as messages.
pub fn value_of(messages: &[Message], role: &str) -> Value {
    match messages {
        [only] if only.role == role && only.extra.is_empty() => json!(only.content),
        _ => json!(messages),
    }
}

/// The contents of the messages.
pub fn text_of(messages: &[Message]) -> String {
    messages.iter().map(|message| message.content.as_str()).collect::<Vec<_>>().join("\n")
}

/// The letters and digits in lower case, words apart by one space; the text itself where it has none.
pub fn normalised(text: &str) -> String {
    let mut words = String::with_capacity(text.len());
    for word in text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
        if !words.is_empty() {
            words.push(' ');
        }
        words.push_str(&word.to_lowercase());
    }
    if words.is_empty() { text.trim().to_owned() } else { words }
}

/// Tells prompts apart, but for white space around them.
pub fn prompt_hash(text: &str) -> u128 {
    hash("prompt", text.trim())
}

/// Tells responses apart, but for white space around them.
pub fn response_hash(text: &str) -> u128 {
    hash("response", text.trim())
}

/// Tells normalised prompts apart, and orders them by the seed.
pub fn group_hash(seed: u64, normalised: &str) -> u128 {
    hash(&format!("group {seed}"), normalised)
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

    #[test]
    fn turns_and_roles_are_kept() {
        let turns = [Message::new("system", "s"), Message::new("user", "u")];
        assert_eq!(text_of(&turns), "s\nu");
        assert_eq!(value_of(&turns[1..], "user"), json!("u"));
        assert!(value_of(&turns[..1], "user").is_array());
    }

    #[test]
    fn letters_and_digits_are_what_is_left() {
        assert_eq!(normalised("  What IS -- it, 2?\n"), "what is it 2");
        assert_eq!(normalised(" ?! "), "?!");
        assert_ne!(group_hash(0, "a"), group_hash(1, "a"));
        assert_eq!(prompt_hash(" a\n"), prompt_hash("a"));
        assert_ne!(prompt_hash("a"), response_hash("a"));
    }
}
