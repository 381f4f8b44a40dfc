//! Holding pairs to `max_length`.

use super::Preparation;
use super::format::Tokens;
use crate::Result;
use crate::data::config::Overlong;
use crate::data::pairing::PairRecord;
use crate::data::row::Message;
use crate::data::source::Origin;
use crate::data::tokenize::EncodeConversation;

/// What a pair is after its length is known to be allowed.
#[derive(Debug, PartialEq)]
pub(super) enum Measured {
    /// So short that it need not be tokenized to know; the bytes of its rendered texts.
    Short { bytes: u64 },
    /// Tokenized to find out.
    Tokens { tokens: Tokens, truncated: bool },
    /// Too long, and to be dropped.
    Overlong,
}

/// Renders a pair, tokenizes it where its length cannot be known otherwise, and applies the rule for what is too long.
///
/// # Errors
/// [`crate::Error::Row`] where a conversation cannot be rendered or encoded, or is too long under
/// [`Overlong::Error`].
pub(super) fn measure(
    pair: &PairRecord,
    preparation: &Preparation,
    encoder: &dyn EncodeConversation,
    origin: &Origin,
) -> Result<Measured> {
    let limit = preparation.max_length;
    let (chosen, rejected) = (pair.chosen_conversation(), pair.rejected_conversation());
    let contents = |messages: &[Message]| -> usize { messages.iter().map(|m| most_tokens(&m.content)).sum() };
    if contents(&chosen) <= limit && contents(&rejected) <= limit {
        let render = |side, messages: &[Message]| {
            encoder.render(messages).map_err(|error| origin.error(format!("{side}: {error}")))
        };
        let (chosen, rejected) = (render("chosen", &chosen)?, render("rejected", &rejected)?);
        if most_tokens(&chosen) <= limit && most_tokens(&rejected) <= limit {
            return Ok(Measured::Short { bytes: (chosen.len() + rejected.len()) as u64 });
        }
    }
    let tokens = encode(pair, encoder, origin)?;
    let (name, longest) = match tokens.chosen.len() >= tokens.rejected.len() {
        true => ("chosen", tokens.chosen.len()),
        false => ("rejected", tokens.rejected.len()),
    };
    if longest <= limit {
        return Ok(Measured::Tokens { tokens, truncated: false });
    }
    match preparation.overlong {
        Overlong::Drop => Ok(Measured::Overlong),
        Overlong::Error => Err(origin.error(format!(
            "{name}: found {longest} tokens, expected at most data.max_length = {limit} (data.overlong = \"error\"; \
             \"drop\" and \"truncate-prompt-left\" go on)"
        ))),
        Overlong::TruncatePromptLeft => {
            Ok(truncate_left(tokens, limit, encoder.bos_token_id())
                .map_or(Measured::Overlong, |tokens| Measured::Tokens { tokens, truncated: true }))
        }
    }
}

/// Both sides as ids.
pub(super) fn encode(pair: &PairRecord, encoder: &dyn EncodeConversation, origin: &Origin) -> Result<Tokens> {
    let side = |name: &str, messages: Vec<Message>| {
        let ids = encoder.encode(&messages).map_err(|error| origin.error(format!("{name}: {error}")))?;
        if ids.is_empty() {
            return Err(origin.error(format!("{name}: the rendered conversation has no tokens")));
        }
        Ok(ids)
    };
    Ok(Tokens {
        chosen: side("chosen", pair.chosen_conversation())?,
        rejected: side("rejected", pair.rejected_conversation())?,
        margin: pair.margin,
    })
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

/// Takes the same tokens off the left of both sides, so that the longer one fits: from what they have in common, which
/// is their prompt, and never the first token where that is the beginning-of-sequence token.
///
/// `None` where they have too little in common.
fn truncate_left(mut tokens: Tokens, limit: usize, bos: Option<u32>) -> Option<Tokens> {
    let excess = tokens.chosen.len().max(tokens.rejected.len()).checked_sub(limit)?;
    let common = tokens.common_prefix();
    let start = usize::from(bos.is_some() && tokens.chosen.first().copied() == bos);
    let cut = start..start + excess;
    if cut.end > common {
        return None;
    }
    tokens.chosen.drain(cut.clone());
    tokens.rejected.drain(cut);
    Some(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(chosen: &[u32], rejected: &[u32]) -> Tokens {
        Tokens { chosen: chosen.to_vec(), rejected: rejected.to_vec(), margin: None }
    }

    #[test]
    fn truncation_takes_the_same_tokens_from_the_prompt_and_keeps_the_first_one() {
        let pair = || tokens(&[1, 2, 3, 4, 5, 6], &[1, 2, 3, 4, 7]);
        let cut = |limit, bos| truncate_left(pair(), limit, bos);
        assert_eq!(cut(4, Some(1)), Some(tokens(&[1, 4, 5, 6], &[1, 4, 7])));
        assert_eq!(cut(4, None), Some(tokens(&[3, 4, 5, 6], &[3, 4, 7])));
        assert_eq!(cut(4, Some(9)), Some(tokens(&[3, 4, 5, 6], &[3, 4, 7])));
        assert_eq!(cut(3, Some(1)), Some(tokens(&[1, 5, 6], &[1, 7])));
        assert_eq!((cut(2, Some(1)), cut(2, None)), (None, Some(tokens(&[5, 6], &[7]))));
        assert_eq!(cut(1, None), None);
        assert_eq!(cut(6, None), Some(pair()));
    }

    #[test]
    fn the_bound_on_tokens_holds_for_text_that_normalisation_expands() {
        assert_eq!(most_tokens("abc"), 11);
        assert!(most_tokens("\u{fdfa}") >= 33);
    }
}
