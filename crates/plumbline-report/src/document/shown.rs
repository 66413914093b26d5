//! A sequence that is shown token by token.

use plumbline_core::{SkipReason, TokenId, TokenText};
use plumbline_divergence::{Finding, TokenComparison};
use serde::Serialize;

use crate::collector::{KeptSequence, SequenceRow};

/// Characters of one token's text that are kept; a longer one ends in an ellipsis.
const MAX_PIECE_CHARS: usize = 200;

/// A sequence and why it is shown.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ShownSequence {
    /// How it was chosen.
    pub(crate) choice: String,
    pub(crate) sequence: SequenceRow,
    pub(crate) findings: Vec<Finding>,
    /// The end of the prompt; `null` = its text is not known.
    pub(crate) prompt_text: Option<String>,
    pub(crate) prompt_ids: Vec<TokenId>,
    pub(crate) tokens: ShownTokens,
    /// Completion tokens behind the shown ones.
    pub(crate) tokens_left_out: usize,
}

/// One value per shown token in each list.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ShownTokens {
    pub(crate) id: Vec<TokenId>,
    /// `null` = the text is not known.
    pub(crate) text: Option<Vec<String>>,
    /// `null` where the engine gave none or no number.
    pub(crate) engine_logprob: Vec<Option<f64>>,
    pub(crate) reference_logprob: Vec<Option<f64>>,
    /// Reference minus engine, also of masked tokens.
    pub(crate) log_ratio: Vec<Option<f64>>,
    pub(crate) entropy: Vec<Option<f64>>,
    pub(crate) rank: Vec<Option<u32>>,
    /// Why a token enters no sum.
    pub(crate) skipped: Vec<Option<&'static str>>,
}

impl ShownSequence {
    pub(super) fn of(kept: &KeptSequence, choice: String, text: Option<&dyn TokenText>) -> Self {
        let ids: Vec<_> = kept.tokens.iter().map(|token| token.token_id).collect();
        let (prompt_text, pieces) = match text.map(|text| pieces(text, &kept.prompt, &ids)) {
            Some((prompt, pieces)) => (Some(prompt), Some(pieces)),
            None => (None, None),
        };
        fn each<T>(tokens: &[TokenComparison], value: impl Fn(&TokenComparison) -> T) -> Vec<T> {
            tokens.iter().map(value).collect()
        }
        let tokens = &kept.tokens;
        Self {
            choice,
            sequence: kept.row.clone(),
            findings: kept.findings.clone(),
            prompt_text: prompt_text.filter(|_| !kept.prompt.is_empty()),
            prompt_ids: kept.prompt.clone(),
            tokens_left_out: kept.row.completion_tokens.saturating_sub(tokens.len()),
            tokens: ShownTokens {
                id: ids,
                text: pieces,
                engine_logprob: each(tokens, |token| token.engine.filter(|engine| engine.is_finite())),
                reference_logprob: each(tokens, |token| token.reference),
                log_ratio: each(tokens, TokenComparison::log_ratio),
                entropy: each(tokens, |token| token.entropy),
                rank: each(tokens, |token| token.rank),
                skipped: each(tokens, |token| token.skipped.map(SkipReason::as_str)),
            },
        }
    }
}

/// The text of a prompt and the pieces of a completion, decoded together: what a token's text is may depend on what is before it.
fn pieces(text: &dyn TokenText, prompt: &[TokenId], completion: &[TokenId]) -> (String, Vec<String>) {
    let mut all = text.pieces(&[prompt, completion].concat());
    // A source of text that gives too few pieces must not shift the ones it gives.
    all.resize(prompt.len() + completion.len(), String::new());
    let pieces = all.split_off(prompt.len()).into_iter().map(|piece| clipped_piece(&piece)).collect();
    (all.concat(), pieces)
}

fn clipped_piece(piece: &str) -> String {
    match piece.char_indices().nth(MAX_PIECE_CHARS) {
        None => piece.to_owned(),
        Some((end, _)) => format!("{}…", &piece[..end]),
    }
}
