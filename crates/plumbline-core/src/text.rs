//! What a tokenizer knows of ids. The model's crate has one; who shows or compares text need not depend on it.

use std::fmt::Debug;

use crate::TokenId;

/// Text of token ids. An implementation never guesses: what it does not know, it leaves out.
pub trait TokenText: Debug + Send + Sync {
    /// One piece of text for each of `token_ids`; one behind the other they are the text of the sequence. A token that only
    /// begins a character has an empty piece, the one that completes it has the character; a token without a text that is
    /// known has an empty piece.
    fn pieces(&self, token_ids: &[TokenId]) -> Vec<String>;

    /// Other ids that spell the same text as these.
    fn respellings(&self, _token_ids: &[TokenId]) -> Vec<Vec<TokenId>> {
        Vec::new()
    }
}
