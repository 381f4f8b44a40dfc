//! A tokenizer double for the tests of this floor.

use crate::Result;
use crate::data::Message;
use crate::data::tokenize::EncodeConversation;

/// One id a byte, an id for the end of a message, and a BOS.
pub(super) struct ByteEncoder;

impl ByteEncoder {
    pub fn ids(prompt: &str, response: &str) -> Vec<u32> {
        let byte = u32::from;
        let end = [256];
        [257]
            .into_iter()
            .chain(prompt.bytes().map(byte))
            .chain(end)
            .chain(response.bytes().map(byte))
            .chain(end)
            .collect()
    }
}

impl EncodeConversation for ByteEncoder {
    fn render(&self, messages: &[Message]) -> Result<String> {
        Ok(messages.iter().map(|m| m.content.as_str()).collect::<Vec<_>>().join("\n"))
    }

    fn encode(&self, messages: &[Message]) -> Result<Vec<u32>> {
        let contents = messages.iter().flat_map(|m| m.content.bytes().map(u32::from).chain([256]));
        Ok([257].into_iter().chain(contents).collect())
    }

    fn bos_token_id(&self) -> Option<u32> {
        Some(257)
    }

    fn fingerprint(&self) -> String {
        "bytes".into()
    }
}
