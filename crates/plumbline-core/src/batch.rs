//! Packed batches: no padding, sequence bounds travel with the tokens.

use std::ops::Range;

use crate::{Processing, TokenCounts, TokenId};

/// One sequence for the reference to score.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoringSequence {
    /// Prompt and completion.
    pub token_ids: Vec<TokenId>,
    /// Indices into `token_ids` of the tokens to score; starts at 1 or later, since a score needs context.
    pub scored: Range<usize>,
    /// Leading tokens of `token_ids` that the engine was given, not sampled. Penalties tell them apart.
    pub prompt_tokens: usize,
    /// What the engine did to the logits before it reported.
    pub processing: Processing,
    /// Version of the weights to score with; `None` = the current ones.
    pub policy_version: Option<String>,
}

impl ScoringSequence {
    /// Every token that has context, nothing processed, with the current weights.
    #[must_use]
    pub fn all_tokens(token_ids: Vec<TokenId>) -> Self {
        let first = token_ids.len().min(1);
        Self {
            scored: first..token_ids.len(),
            token_ids,
            prompt_tokens: first,
            processing: Processing::default(),
            policy_version: None,
        }
    }

    /// Number of tokens that a forward must process: the last scored token is only a target, never an input.
    #[must_use]
    pub fn forward_tokens(&self) -> usize {
        if self.scored.is_empty() { 0 } else { self.scored.end - 1 }
    }
}

/// A run of consecutive rows of a packed batch that belongs together.
///
/// A segment's rows attend causally to each other and to all rows of its ancestors, so a prompt that several completions
/// share can be one segment with many children.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First row in the batch.
    pub start: usize,
    /// Number of rows.
    pub len: usize,
    /// Position id of the first row: the number of rows of all ancestors.
    pub position: usize,
    /// Index of the segment that comes before this one in its sequences; always smaller than the own index.
    pub parent: Option<usize>,
}

impl Segment {
    /// The segment's rows in the batch.
    #[must_use]
    pub fn rows(&self) -> Range<usize> {
        self.start..self.start + self.len
    }
}

/// One number to compute: the logprob of `token` after row `row`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Target {
    /// Row of the batch whose logits predict the token.
    pub row: usize,
    /// The token that was sampled.
    pub token: TokenId,
    /// Softmax temperature, > 0; 1 for a token whose sequence is among [`PackedBatch::processed`].
    pub temperature: f64,
}

/// The targets of one sequence whose processing needs whole rows of logits.
#[derive(Clone, Debug, PartialEq)]
pub struct ProcessedTargets {
    /// Index of the sequence in the batch; its targets are [`PackedBatch::sequence_targets`] of it.
    pub sequence: usize,
    /// What the engine did to the logits.
    pub processing: Processing,
    /// Tokens from the start of the sequence up to its last target; empty if the processing does not look at them.
    token_ids: Vec<TokenId>,
    prompt_tokens: usize,
    /// Index in `token_ids` of the first target.
    first: usize,
}

impl ProcessedTargets {
    /// What stands before the sequence's target number `index`. Empty without penalties, which alone look at it.
    #[must_use]
    pub fn seen_before(&self, index: usize) -> TokenCounts {
        let before = &self.token_ids[..(self.first + index).min(self.token_ids.len())];
        let (prompt, sampled) = before.split_at(self.prompt_tokens.min(before.len()));
        TokenCounts::new(prompt, sampled)
    }

    /// Brings what stands before target number `index` to what stands before the next one.
    pub fn advance(&self, seen: &mut TokenCounts, index: usize) {
        let place = self.first + index;
        match self.token_ids.get(place) {
            Some(token) if place < self.prompt_tokens => seen.push_prompt(*token),
            Some(token) => seen.push(*token),
            None => {}
        }
    }
}

/// Sequences packed for one forward, struct of arrays.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PackedBatch {
    pub(crate) token_ids: Vec<TokenId>,
    pub(crate) position_ids: Vec<u32>,
    pub(crate) segments: Vec<Segment>,
    pub(crate) targets: Vec<Target>,
    pub(crate) sequence_targets: Vec<Range<usize>>,
    pub(crate) processed: Vec<ProcessedTargets>,
    pub(crate) saved_tokens: usize,
}

impl PackedBatch {
    /// Packs sequences one after the other, each its own segment.
    ///
    /// Only rows that some score needs are packed: `token_ids[..scored.end - 1]` of each sequence. A sequence with
    /// nothing to score takes no row and gets empty scores.
    #[must_use]
    pub fn pack<'a>(sequences: impl IntoIterator<Item = &'a ScoringSequence>) -> Self {
        let mut batch = Self::default();
        for sequence in sequences {
            let start = batch.token_ids.len();
            let len = sequence.forward_tokens();
            if len > 0 {
                batch.token_ids.extend_from_slice(&sequence.token_ids[..len]);
                batch.position_ids.extend((0..len).map(|position| position as u32));
                batch.segments.push(Segment { start, len, position: 0, parent: None });
            }
            batch.add_targets(sequence, |position| start + position);
        }
        batch
    }

    /// Appends the targets of a sequence whose position `p` is in row `row_of(p)`.
    pub(crate) fn add_targets(&mut self, sequence: &ScoringSequence, row_of: impl Fn(usize) -> usize) {
        let first_target = self.targets.len();
        let processing = sequence.processing;
        let processed = processing.needs_whole_row() && !sequence.scored.is_empty();
        self.targets.extend(sequence.scored.clone().map(|index| Target {
            row: row_of(index - 1),
            token: sequence.token_ids[index],
            temperature: if processed { 1.0 } else { processing.temperature },
        }));
        if processed {
            let seen = if processing.has_penalties() { sequence.scored.end } else { 0 };
            self.processed.push(ProcessedTargets {
                sequence: self.sequence_targets.len(),
                processing,
                token_ids: sequence.token_ids[..seen].to_vec(),
                prompt_tokens: sequence.prompt_tokens,
                first: sequence.scored.start,
            });
        }
        self.sequence_targets.push(first_target..self.targets.len());
    }

    /// Packs prefixes, each with the tokens that may come next: every candidate is a target of its prefix's last row, so
    /// that the prefix is computed once. Temperature 1. An empty prefix has no row and gets empty scores.
    #[must_use]
    pub fn next_tokens<'a>(choices: impl IntoIterator<Item = (&'a [TokenId], &'a [TokenId])>) -> Self {
        let mut batch = Self::default();
        for (prefix, candidates) in choices {
            let start = batch.token_ids.len();
            let first_target = batch.targets.len();
            if let Some(last) = prefix.len().checked_sub(1) {
                batch.token_ids.extend_from_slice(prefix);
                batch.position_ids.extend((0..prefix.len()).map(|position| position as u32));
                batch.segments.push(Segment { start, len: prefix.len(), position: 0, parent: None });
                let target = |token: &TokenId| Target { row: start + last, token: *token, temperature: 1.0 };
                batch.targets.extend(candidates.iter().map(target));
            }
            batch.sequence_targets.push(first_target..batch.targets.len());
        }
        batch
    }

    /// Input ids, one per row.
    #[must_use]
    pub fn token_ids(&self) -> &[TokenId] {
        &self.token_ids
    }

    /// Position of each row in its own sequence.
    #[must_use]
    pub fn position_ids(&self) -> &[u32] {
        &self.position_ids
    }

    /// The batch's segments; parents come before children and their rows cover the batch without gaps.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// All numbers to compute, sequence by sequence.
    #[must_use]
    pub fn targets(&self) -> &[Target] {
        &self.targets
    }

    /// For each packed sequence, its part of [`PackedBatch::targets`].
    #[must_use]
    pub fn sequence_targets(&self) -> &[Range<usize>] {
        &self.sequence_targets
    }

    /// The sequences whose targets need whole rows of logits, on top of what [`PackedBatch::targets`] asks for.
    #[must_use]
    pub fn processed(&self) -> &[ProcessedTargets] {
        &self.processed
    }

    /// Number of rows of the forward.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.token_ids.len()
    }

    /// Number of rows that sequences would take in addition if they shared none.
    #[must_use]
    pub fn saved_tokens(&self) -> usize {
        self.saved_tokens
    }

    /// Number of packed sequences.
    #[must_use]
    pub fn sequences(&self) -> usize {
        self.sequence_targets.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sequences() -> impl Strategy<Value = Vec<ScoringSequence>> {
        let one = (prop::collection::vec(0u32..50, 1..20), 0.1f64..2.0).prop_flat_map(|(ids, temperature)| {
            let len = ids.len();
            (1..=len, Just(ids), Just(temperature)).prop_map(|(first, token_ids, temperature)| {
                let end = token_ids.len();
                let processing = Processing::at_temperature(temperature);
                ScoringSequence {
                    token_ids,
                    scored: first..end,
                    prompt_tokens: first,
                    processing,
                    policy_version: None,
                }
            })
        });
        prop::collection::vec(one, 0..8)
    }

    proptest! {
        /// Every scored token appears once, after the row that holds the token before it, and nothing else is packed.
        #[test]
        fn packing_loses_and_invents_nothing(sequences in sequences()) {
            let batch = PackedBatch::pack(&sequences);
            prop_assert_eq!(batch.sequences(), sequences.len());
            prop_assert_eq!(batch.tokens(), sequences.iter().map(ScoringSequence::forward_tokens).sum::<usize>());
            prop_assert_eq!(batch.segments().iter().map(|s| s.len).sum::<usize>(), batch.tokens());
            for (sequence, range) in sequences.iter().zip(batch.sequence_targets()) {
                let targets = &batch.targets()[range.clone()];
                prop_assert_eq!(targets.len(), sequence.scored.len());
                for (target, index) in targets.iter().zip(sequence.scored.clone()) {
                    prop_assert_eq!(target.token, sequence.token_ids[index]);
                    prop_assert_eq!(batch.token_ids()[target.row], sequence.token_ids[index - 1]);
                    prop_assert_eq!(batch.position_ids()[target.row] as usize, index - 1);
                    prop_assert_eq!(target.temperature, sequence.processing.temperature);
                }
            }
        }
    }

    #[test]
    fn the_last_token_is_a_target_and_never_an_input() {
        let batch = PackedBatch::pack(&[ScoringSequence::all_tokens(vec![7, 8, 9])]);
        assert_eq!(batch.token_ids(), [7, 8]);
        assert_eq!(batch.targets().iter().map(|t| (t.row, t.token)).collect::<Vec<_>>(), [(0, 8), (1, 9)]);
    }

    #[test]
    fn candidates_share_the_last_row_of_their_prefix() {
        let batch = PackedBatch::next_tokens([(&[7, 8][..], &[1, 2][..]), (&[], &[3]), (&[9], &[4])]);
        assert_eq!((batch.token_ids(), batch.position_ids()), (&[7, 8, 9][..], &[0, 1, 0][..]));
        assert_eq!(batch.targets().iter().map(|t| (t.row, t.token)).collect::<Vec<_>>(), [(1, 1), (1, 2), (2, 4)]);
        assert_eq!(batch.sequence_targets(), [0..2, 2..2, 2..3]);
        assert_eq!(batch.segments().iter().map(Segment::rows).collect::<Vec<_>>(), [0..2, 2..3]);
    }

    #[test]
    fn a_sequence_with_nothing_to_score_takes_no_row() {
        let batch = PackedBatch::pack(&[ScoringSequence::all_tokens(vec![7])]);
        assert_eq!((batch.tokens(), batch.sequences(), batch.segments().len()), (0, 1, 0));
    }

    /// What stands before each target is what penalties must see: the prompt, and the sampled tokens so far.
    #[test]
    fn processed_targets_know_what_stands_before_them() {
        let plain = ScoringSequence::all_tokens(vec![9, 9, 9]);
        let penalised = ScoringSequence {
            scored: 1..5,
            prompt_tokens: 2,
            processing: Processing { presence_penalty: 1.0, ..Processing::at_temperature(0.5) },
            ..ScoringSequence::all_tokens(vec![1, 2, 3, 2, 4])
        };
        let truncated =
            ScoringSequence { processing: Processing { top_k: 3, ..penalised.processing }, ..plain.clone() };
        for batch in [
            PackedBatch::pack([&plain, &penalised, &truncated]),
            PackedBatch::pack_shared([&plain, &penalised, &truncated]),
        ] {
            let places: Vec<_> = batch.processed().iter().map(|processed| processed.sequence).collect();
            assert_eq!(places, [1, 2]);
            assert!(batch.targets().iter().all(|target| target.temperature == 1.0));
            let processed = &batch.processed()[0];
            assert_eq!(processed.processing, penalised.processing);
            let expected: [(&[TokenId], &[TokenId]); 4] =
                [(&[1], &[]), (&[1, 2], &[]), (&[1, 2], &[3]), (&[1, 2], &[3, 2])];
            let mut seen = processed.seen_before(0);
            for (index, (prompt, sampled)) in expected.into_iter().enumerate() {
                assert_eq!(processed.seen_before(index), TokenCounts::new(prompt, sampled));
                assert_eq!(seen, processed.seen_before(index), "brought there step by step");
                processed.advance(&mut seen, index);
            }
        }
        let nucleus = ScoringSequence { processing: Processing { top_p: 0.5, ..Processing::default() }, ..penalised };
        let batch = PackedBatch::pack([&nucleus]);
        assert_eq!(batch.processed()[0].seen_before(3), TokenCounts::default(), "nothing that nobody looks at");
    }
}
