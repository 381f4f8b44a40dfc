//! Holding lists to `max_length`.

use super::Preparation;
use super::format::Tokens;
use crate::Result;
use crate::data::config::Overlong;
use crate::data::length::{Fitted, ResponseStart, fit_conversations};
use crate::data::pairing::ListRecord;
use crate::data::row::Message;
use crate::data::source::Origin;
use crate::data::tokenize::{EncodeConversation, TokenGroup};

/// What a list is after its length is known to be allowed.
#[derive(Debug, PartialEq)]
pub(super) enum Measured {
    /// So short that it need not be tokenized to know; the bytes of its rendered texts.
    Short { bytes: u64 },
    /// Tokenized to find out; without the responses that are too long.
    Tokens { tokens: Tokens, truncated: bool },
    /// Too long to be compared, and to be dropped.
    Overlong,
}

/// Renders a list, tokenizes it where its length cannot be known otherwise, and applies the rule for what is too long.
///
/// # Errors
/// [`crate::Error::Row`] where a conversation cannot be rendered or encoded, or is too long under
/// [`Overlong::Error`].
pub(super) fn measure(
    list: &ListRecord,
    preparation: &Preparation,
    encoder: &dyn EncodeConversation,
    origin: &Origin,
) -> Result<Measured> {
    let limit = preparation.max_length;
    let conversations: Vec<Vec<Message>> = list.conversations().collect();
    let contents =
        |messages: &Vec<Message>| -> usize { messages.iter().map(|m| most_tokens(&m.content)).sum() };
    if conversations.iter().all(|messages| contents(messages) <= limit) {
        let mut texts = Vec::with_capacity(conversations.len());
        for (i, messages) in conversations.iter().enumerate() {
            let text = encoder.render(messages);
            texts.push(text.map_err(|error| origin.error(format!("{}: {error}", list.ranking.name_of(i))))?);
        }
        if texts.iter().all(|text| most_tokens(text) <= limit) {
            return Ok(Measured::Short { bytes: texts.iter().map(|text| text.len() as u64).sum() });
        }
    }
    let tokens = encode_conversations(list, &conversations, encoder, origin)?;
    // Of equals the first.
    let longest = (0..tokens.sequences.len()).rev().max_by_key(|&i| tokens.sequences[i].len());
    let Some((longest, count)) = longest.map(|i| (i, tokens.sequences[i].len())).filter(|(_, n)| *n > limit)
    else {
        return Ok(Measured::Tokens { tokens, truncated: false });
    };
    match preparation.overlong {
        Overlong::Drop => {
            let fits = |&i: &usize| tokens.sequences[i].len() <= limit;
            let kept: Vec<usize> = (0..tokens.sequences.len()).filter(fits).collect();
            Ok(match tokens.of_kept(&kept) {
                Some(tokens) => Measured::Tokens { tokens, truncated: false },
                None => Measured::Overlong,
            })
        }
        Overlong::Error => Err(origin.error(format!(
            "{}: found {count} tokens, expected at most data.max_length = {limit} (data.overlong = \"error\"; \
             \"drop\" and \"truncate-prompt-left\" go on)",
            list.ranking.name_of(longest)
        ))),
        Overlong::TruncatePromptLeft => {
            let response = list.responses.first().map_or(&[][..], Vec::as_slice);
            Ok(truncated(tokens, limit, &ResponseStart::after(&list.prompt, response, encoder)))
        }
    }
}

/// Takes tokens off the prompt, and leaves out, longest first, the responses for which the prompt has not enough.
fn truncated(mut tokens: Tokens, limit: usize, start: &ResponseStart) -> Measured {
    loop {
        let Tokens { sequences, ranking, margin } = tokens;
        let mut kept: Vec<usize> = (0..sequences.len()).collect();
        let longest = kept.iter().rev().copied().max_by_key(|&i| sequences[i].len());
        match fit_conversations(TokenGroup { sequences: sequences.clone() }, limit, start) {
            Fitted::Whole(TokenGroup { sequences }) => {
                return Measured::Tokens { tokens: Tokens { sequences, ranking, margin }, truncated: false };
            }
            Fitted::Truncated(TokenGroup { sequences }) => {
                return Measured::Tokens { tokens: Tokens { sequences, ranking, margin }, truncated: true };
            }
            Fitted::TooLong { .. } => kept.retain(|&i| Some(i) != longest),
        }
        match (Tokens { sequences, ranking, margin }).of_kept(&kept) {
            Some(fewer) => tokens = fewer,
            None => return Measured::Overlong,
        }
    }
}

/// All conversations as ids.
pub(super) fn encode(list: &ListRecord, encoder: &dyn EncodeConversation, origin: &Origin) -> Result<Tokens> {
    let conversations: Vec<Vec<Message>> = list.conversations().collect();
    encode_conversations(list, &conversations, encoder, origin)
}

fn encode_conversations(
    list: &ListRecord,
    conversations: &[Vec<Message>],
    encoder: &dyn EncodeConversation,
    origin: &Origin,
) -> Result<Tokens> {
    let encode = |(i, messages): (usize, &Vec<Message>)| {
        let name = || list.ranking.name_of(i);
        let ids = encoder.encode(messages).map_err(|error| origin.error(format!("{}: {error}", name())))?;
        if ids.is_empty() {
            return Err(origin.error(format!("{}: the rendered conversation has no tokens", name())));
        }
        Ok(ids)
    };
    let sequences = conversations.iter().enumerate().map(encode).collect::<Result<_>>()?;
    Ok(Tokens { sequences, ranking: list.ranking.clone(), margin: list.margin })
}

/// No tokenizer makes more tokens of `text` than this.
///
/// A token stands for at least one byte of the normalised text. Normalisation leaves ASCII alone and makes at most 11
/// bytes of one elsewhere (NFKC: U+FDFA, 3 bytes, becomes 33); a few bytes more stand for the prefix that SentencePiece
/// adds.
fn most_tokens(text: &str) -> usize {
    let other = text.bytes().filter(|byte| !byte.is_ascii()).count();
    text.len() + 11 * other + 8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::ranking::Ranking;

    /// Every prompt is the ids 1 and 2.
    struct TwoTokens;

    impl EncodeConversation for TwoTokens {
        fn render(&self, _: &[Message]) -> Result<String> {
            Ok(String::new())
        }

        fn encode(&self, _: &[Message]) -> Result<Vec<u32>> {
            Ok(vec![1, 2])
        }

        fn bos_token_id(&self) -> Option<u32> {
            None
        }

        fn fingerprint(&self) -> String {
            String::new()
        }
    }

    #[test]
    fn a_prompt_that_is_too_short_costs_the_longest_response_first() {
        let tokens = |ranks: &[u32], sequences: &[&[u32]]| Tokens {
            sequences: sequences.iter().map(|ids| ids.to_vec()).collect(),
            ranking: Ranking::new(ranks.to_vec()).unwrap(),
            margin: None,
        };
        let list = tokens(&[0, 1, 1], &[&[1, 2, 7, 7, 7, 7], &[1, 2, 8], &[1, 2, 9, 9]]);
        let start = ResponseStart::after(&[Message::new("user", "p")], &[], &TwoTokens);
        let fitted = |limit| truncated(list.clone(), limit, &start);
        assert_eq!(fitted(6), Measured::Tokens { tokens: list.clone(), truncated: false });
        let shorter = tokens(&[0, 1, 1], &[&[2, 7, 7, 7, 7], &[2, 8], &[2, 9, 9]]);
        assert_eq!(fitted(5), Measured::Tokens { tokens: shorter, truncated: true });
        // Without the first the others are equals.
        assert_eq!(fitted(4), Measured::Overlong);
        let ranked = Tokens { ranking: Ranking::new(vec![0, 1, 2]).unwrap(), ..list.clone() };
        let pair = tokens(&[0, 1], &[&[2, 8], &[2, 9, 9]]);
        assert_eq!(truncated(ranked, 3, &start), Measured::Tokens { tokens: pair, truncated: true });
    }

    #[test]
    fn the_bound_on_tokens_holds_for_text_that_normalisation_expands() {
        assert_eq!(most_tokens("abc"), 11);
        assert!(most_tokens("\u{fdfa}") >= 33);
    }
}
