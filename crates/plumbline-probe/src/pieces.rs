//! Work beside scoring, cut into jobs that are small enough for the model threads.

use std::ops::Range;

use plumbline_core::{ModelError, PackedBatch, ReferenceModel, ScoringSequence, TokenScores, Variant};
use plumbline_scheduler::Models;

/// Sizes of jobs, in tokens of a forward.
#[derive(Clone, Copy, Debug)]
pub struct PieceLimits {
    /// Of a job with several sequences.
    pub tokens: usize,
    /// Of a single sequence, which cannot be cut.
    pub longest: usize,
}

/// Why a job gave no numbers.
#[derive(Debug, thiserror::Error)]
pub enum PieceError {
    /// The version of the weights has left.
    #[error("policy version {0:?} is no longer resident")]
    Gone(String),
    /// The model failed, or cannot do it.
    #[error(transparent)]
    Model(#[from] ModelError),
}

/// Consecutive sequences that make one job each, all of one version; `None` if one of them is too long for any.
pub(crate) fn cut(sequences: &[ScoringSequence], limits: PieceLimits) -> Option<Vec<Range<usize>>> {
    let mut pieces: Vec<Range<usize>> = Vec::new();
    let mut filled = 0;
    for (index, sequence) in sequences.iter().enumerate() {
        let tokens = sequence.forward_tokens();
        if tokens > limits.longest {
            return None;
        }
        match pieces.last_mut() {
            Some(piece)
                if filled + tokens <= limits.tokens
                    && sequences[piece.start].policy_version == sequence.policy_version =>
            {
                piece.end += 1;
                filled += tokens;
            }
            _ => {
                pieces.push(index..index + 1);
                filled = tokens;
            }
        }
    }
    Some(pieces)
}

/// Tokens of the forward of one piece, if no prompt is shared.
pub(crate) fn forward_tokens(sequences: &[ScoringSequence]) -> usize {
    sequences.iter().map(ScoringSequence::forward_tokens).sum()
}

/// Scores the sequences of one piece with the version that the first one names, or the current one.
pub(crate) fn score_piece(
    models: &mut dyn Models,
    sequences: &[ScoringSequence],
    variant: Option<&Variant>,
) -> Result<Vec<TokenScores>, PieceError> {
    let Some(first) = sequences.first() else { return Ok(Vec::new()) };
    let version = match (&first.policy_version, models.current()) {
        (Some(version), _) => version.clone(),
        (None, Some(current)) => current.policy_version.clone(),
        (None, None) => return Err(PieceError::Gone(String::new())),
    };
    let mut model = models.model(&version).ok_or(PieceError::Gone(version))?;
    let batch = match model.shares_prefixes() {
        true => PackedBatch::pack_shared(sequences),
        false => PackedBatch::pack(sequences),
    };
    let scores = match variant {
        None => model.score(&batch)?,
        Some(variant) => model.score_variant(&batch, variant)?,
    };
    let as_asked = scores.sequences.len() == sequences.len()
        && scores.sequences.iter().zip(sequences).all(|(scores, sequence)| scores.len() == sequence.scored.len());
    match as_asked {
        true => Ok(scores.sequences),
        false => Err(ModelError::Device("the model did not answer what it was asked".into()).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: PieceLimits = PieceLimits { tokens: 10, longest: 20 };

    fn sequences(tokens: &[usize]) -> Vec<ScoringSequence> {
        tokens.iter().map(|tokens| ScoringSequence::all_tokens(vec![0; tokens + 1])).collect()
    }

    #[test]
    fn pieces_are_as_large_as_they_may_be_and_keep_the_order() {
        assert_eq!(cut(&sequences(&[4, 6, 1, 15, 9, 1]), LIMITS), Some(vec![0..2, 2..3, 3..4, 4..6]));
        assert_eq!(cut(&[], LIMITS), Some(vec![]));
        assert_eq!(cut(&sequences(&[3, 21]), LIMITS), None, "nothing is cut off");
    }

    #[test]
    fn a_piece_is_of_one_version() {
        let mut work = sequences(&[1, 1, 1]);
        work[1].policy_version = Some("2".into());
        work[2].policy_version = Some("2".into());
        assert_eq!(cut(&work, LIMITS), Some(vec![0..1, 1..3]));
    }
}
