//! What stands before a token, as penalties see it.

use std::collections::HashMap;

use crate::TokenId;

/// Which ids the prompt has, and how often each was sampled so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenCounts {
    seen: HashMap<TokenId, Seen>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Seen {
    in_prompt: bool,
    sampled: u32,
}

impl TokenCounts {
    /// Counts a prompt and what was sampled after it.
    #[must_use]
    pub fn new(prompt: &[TokenId], sampled: &[TokenId]) -> Self {
        let mut counts = Self::default();
        for token in prompt {
            counts.push_prompt(*token);
        }
        for token in sampled {
            counts.push(*token);
        }
        counts
    }

    /// One more token of the prompt.
    pub fn push_prompt(&mut self, token: TokenId) {
        self.seen.entry(token).or_default().in_prompt = true;
    }

    /// One more sampled token.
    pub fn push(&mut self, sampled: TokenId) {
        self.seen.entry(sampled).or_default().sampled += 1;
    }

    /// Each id once: whether the prompt has it, and how often it was sampled. In no particular order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (TokenId, bool, u32)> {
        self.seen.iter().map(|(token, seen)| (*token, seen.in_prompt, seen.sampled))
    }
}
