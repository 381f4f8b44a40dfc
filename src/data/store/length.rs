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
    let tokens = encode_sides(&chosen, &rejected, pair.margin, encoder, origin)?;
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
        Overlong::TruncatePromptLeft => Ok(match tokens.fitted(limit, encoder.bos_token_id()) {
            Some(tokens) => Measured::Tokens { tokens, truncated: true },
            None => Measured::Overlong,
        }),
    }
}

/// Both sides as ids.
pub(super) fn encode(pair: &PairRecord, encoder: &dyn EncodeConversation, origin: &Origin) -> Result<Tokens> {
    let (chosen, rejected) = (pair.chosen_conversation(), pair.rejected_conversation());
    encode_sides(&chosen, &rejected, pair.margin, encoder, origin)
}

fn encode_sides(
    chosen: &[Message],
    rejected: &[Message],
    margin: Option<f64>,
    encoder: &dyn EncodeConversation,
    origin: &Origin,
) -> Result<Tokens> {
    let side = |name: &str, messages: &[Message]| {
        let ids = encoder.encode(messages).map_err(|error| origin.error(format!("{name}: {error}")))?;
        if ids.is_empty() {
            return Err(origin.error(format!("{name}: the rendered conversation has no tokens")));
        }
        Ok(ids)
    };
    Ok(Tokens { chosen: side("chosen", chosen)?, rejected: side("rejected", rejected)?, margin })
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

    #[test]
    fn the_bound_on_tokens_holds_for_text_that_normalisation_expands() {
        assert_eq!(most_tokens("abc"), 11);
        assert!(most_tokens("\u{fdfa}") >= 33);
    }
}
