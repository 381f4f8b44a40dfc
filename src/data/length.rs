//! Conversations of more tokens than are allowed, shortened by one rule in training and evaluation.

use super::TokenGroup;
use super::row::Message;
use super::tokenize::EncodeConversation;

/// A group after [`fit_conversations`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fitted {
    /// It was short enough.
    Whole(TokenGroup),
    /// Tokens were taken from the left of the prompt.
    Truncated(TokenGroup),
    /// The longest sequence has too many tokens, and the prompt is too short to give them.
    TooLong { tokens: usize },
}

/// Where the responses to a prompt begin, as far as ids tell: conversations with the same prompt and other responses.
///
/// What a sequence has in common with all of them stands before its response. That is the prompt and what the template
/// writes between the two, and in no case a token of the response: not even where it begins like the other responses of
/// its group, or where its first characters share a token with what stands before them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseStart {
    others: [Vec<u32>; 2],
    bos: Option<u32>,
}

impl ResponseStart {
    /// For `response` and all that have its form, after `prompt`. Renders and encodes two short conversations, so it is
    /// for those who know that something is too long.
    pub fn after(prompt: &[Message], response: &[Message], encoder: &dyn EncodeConversation) -> Self {
        let role = response.first().map_or("assistant", |first| first.role.as_str());
        // Without text comes what ends a turn, with one a letter: no response begins with both.
        let others = ["", "a"].map(|text| {
            let conversation = [prompt, &[Message::new(role, text)]].concat();
            // Where a template refuses such a response nobody knows where one begins, and nothing is taken off.
            encoder.encode(&conversation).unwrap_or_default()
        });
        Self { others, bos: encoder.bos_token_id() }
    }
}

/// Takes the same number of tokens from the left of the prompt of all sequences, so that the longest has `max_length`.
/// Responses stay whole and comparable; a leading BOS stays in its place.
pub fn fit_conversations(group: TokenGroup, max_length: usize, start: &ResponseStart) -> Fitted {
    let all = group.sequences.iter().chain(&start.others);
    let before = common_prefix(all);
    shorten(group, max_length, start.bos, before)
}

/// `before` tokens of each sequence are no response's.
fn shorten(mut group: TokenGroup, max_length: usize, bos: Option<u32>, before: usize) -> Fitted {
    let tokens = group.sequences.iter().map(Vec::len).max().unwrap_or(0);
    if tokens <= max_length {
        return Fitted::Whole(group);
    }
    let surplus = tokens - max_length;
    let begins_with_bos = bos.is_some() && group.sequences.iter().all(|s| s.first().copied() == bos);
    let kept = usize::from(begins_with_bos);
    // One token of the prompt is left, so that no sequence can become empty.
    if kept + surplus >= before {
        return Fitted::TooLong { tokens };
    }
    for sequence in &mut group.sequences {
        sequence.drain(kept..kept + surplus);
    }
    Fitted::Truncated(group)
}

/// Length of what all sequences begin with; that of a lone one is its own.
pub fn common_prefix<'a>(sequences: impl IntoIterator<Item = &'a Vec<u32>>) -> usize {
    let mut sequences = sequences.into_iter();
    let Some(first) = sequences.next() else { return 0 };
    let common = |other: &Vec<u32>| first.iter().zip(other).take_while(|(a, b)| a == b).count();
    sequences.map(common).min().unwrap_or(first.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Result;

    fn group(sequences: &[&[u32]]) -> TokenGroup {
        TokenGroup { sequences: sequences.iter().map(|s| s.to_vec()).collect() }
    }

    fn start(prompt: &[u32], bos: Option<u32>) -> ResponseStart {
        ResponseStart { others: [[prompt, &[90]].concat(), [prompt, &[91, 90]].concat()], bos }
    }

    #[test]
    fn the_prompt_gives_its_left_end_and_keeps_bos() {
        let long = group(&[&[1, 10, 11, 12, 20, 21], &[1, 10, 11, 12, 30]]);
        let fit =
            |max_length, bos| fit_conversations(long.clone(), max_length, &start(&[1, 10, 11, 12], bos));
        assert_eq!(fit(6, Some(1)), Fitted::Whole(long.clone()));
        assert_eq!(fit(4, Some(1)), Fitted::Truncated(group(&[&[1, 12, 20, 21], &[1, 12, 30]])));
        assert_eq!(fit(4, None), Fitted::Truncated(group(&[&[11, 12, 20, 21], &[11, 12, 30]])));
        assert_eq!(fit(3, Some(1)), Fitted::TooLong { tokens: 6 });
    }

    #[test]
    fn what_responses_begin_with_alike_is_not_the_prompts_to_give() {
        let alike = group(&[&[1, 2, 7, 7, 7, 7, 7], &[1, 2, 7, 7, 7, 8]]);
        let fit = |max_length| fit_conversations(alike.clone(), max_length, &start(&[1, 2], None));
        let shorter = group(&[&[2, 7, 7, 7, 7, 7], &[2, 7, 7, 7, 8]]);
        assert_eq!(fit(6), Fitted::Truncated(shorter));
        for max_length in 1..6 {
            assert_eq!(fit(max_length), Fitted::TooLong { tokens: 7 });
        }
    }

    #[test]
    fn a_lone_sequence_gives_its_prompt_where_it_is_known() {
        let lone = group(&[&[1, 2, 3, 7]]);
        let fitted = fit_conversations(lone.clone(), 2, &start(&[1, 2, 3], None));
        assert_eq!(fitted, Fitted::Truncated(group(&[&[3, 7]])));
        let fitted = fit_conversations(lone.clone(), 1, &start(&[1, 2, 3], None));
        assert_eq!(fitted, Fitted::TooLong { tokens: 4 });
    }

    #[test]
    fn nothing_in_common_or_nothing_at_all() {
        let start = start(&[1], None);
        let apart = group(&[&[1, 2, 3], &[4]]);
        assert_eq!(fit_conversations(apart.clone(), 2, &start), Fitted::TooLong { tokens: 3 });
        assert_eq!(fit_conversations(group(&[]), 2, &start), Fitted::Whole(group(&[])));
    }

    /// One id a character; a turn is its role's first letter, a colon, its text and a bar. A space takes the character
    /// after it into its token.
    struct Characters {
        refuses: &'static str,
    }

    impl EncodeConversation for Characters {
        fn render(&self, messages: &[Message]) -> Result<String> {
            if messages.iter().any(|m| m.content == self.refuses) {
                return Err(crate::Error::Template { place: "of the test".into(), reason: "refused".into() });
            }
            Ok(messages.iter().map(|m| format!("{}:{}|", &m.role[..1], m.content)).collect())
        }

        fn encode(&self, messages: &[Message]) -> Result<Vec<u32>> {
            let text = self.render(messages)?;
            let mut ids = Vec::new();
            let mut characters = text.chars();
            while let Some(character) = characters.next() {
                ids.push(match character {
                    ' ' => 1000 + characters.next().map_or(0, u32::from),
                    other => u32::from(other),
                });
            }
            Ok(ids)
        }

        fn bos_token_id(&self) -> Option<u32> {
            None
        }

        fn fingerprint(&self) -> String {
            "characters".into()
        }
    }

    #[test]
    fn a_response_begins_after_what_the_template_writes_before_it() {
        let fit = |encoder: &Characters, prompt: &str, responses: &[&str], max_length| {
            let prompt = [Message::new("user", prompt)];
            let response = |text: &&str| [Message::new("assistant", *text)];
            let encode = |text: &&str| encoder.encode(&[&prompt[..], &response(text)].concat()).unwrap();
            let group = TokenGroup { sequences: responses.iter().map(encode).collect() };
            let start = ResponseStart::after(&prompt, &response(&responses[0]), encoder);
            match fit_conversations(group, max_length, &start) {
                Fitted::Whole(group) | Fitted::Truncated(group) => Some(group.sequences[0].len()),
                Fitted::TooLong { .. } => None,
            }
        };
        let encoder = Characters { refuses: "never" };
        // `u:12345|a:` are ten tokens, nine of which may go; the response and its bar are five.
        for responses in [&["sane", "same"][..], &["aaaa", "aa"], &["||||", "|"], &["lone"]] {
            assert_eq!(fit(&encoder, "12345", responses, 6), Some(6), "{responses:?}");
            assert_eq!(fit(&encoder, "12345", responses, 5), None, "{responses:?}");
        }
        for refuses in ["", "a"] {
            let encoder = Characters { refuses };
            assert_eq!(fit(&encoder, "12345", &["sane", "same"], 15), Some(15));
            assert_eq!(fit(&encoder, "12345", &["sane", "same"], 14), None, "nobody knows where they begin");
        }
    }

    #[test]
    fn a_token_of_prompt_and_response_counts_as_response() {
        struct Joined;
        impl EncodeConversation for Joined {
            fn render(&self, messages: &[Message]) -> Result<String> {
                Ok(messages.iter().map(|m| format!("{} ", m.content)).collect())
            }
            fn encode(&self, messages: &[Message]) -> Result<Vec<u32>> {
                Characters { refuses: "never" }.encode(&[Message::new("x", self.render(messages)?)])
            }
            fn bos_token_id(&self) -> Option<u32> {
                None
            }
            fn fingerprint(&self) -> String {
                "joined".into()
            }
        }
        let prompt = [Message::new("user", "12345")];
        let start = ResponseStart::after(&prompt, &[], &Joined);
        let sequence = Joined.encode(&[&prompt[..], &[Message::new("assistant", "abc")]].concat()).unwrap();
        // `x:12345`, then the space together with `a`.
        assert_eq!(common_prefix([&sequence].into_iter().chain(&start.others)), 7);
    }
}
