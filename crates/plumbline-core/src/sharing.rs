//! Packing sequences with common beginnings: what they share is computed once.

use std::collections::HashMap;

use crate::{PackedBatch, ScoringSequence, Segment, TokenId};

/// Shortest run of tokens that is worth a segment of its own.
///
/// A segment costs every layer a few small attention blocks instead of one full one, and sharing saves its rows; below this
/// many rows there is nothing to gain (two sequences with the same BOS token, say).
pub const MIN_SHARED_TOKENS: usize = 16;

impl PackedBatch {
    /// Packs sequences so that the beginnings which several of them have in common take rows once: a trie over their tokens,
    /// whose nodes are segments. Runs of less than 16 tokens are not shared.
    ///
    /// The scores are the same as those of [`PackedBatch::pack`], sequence by sequence in the given order, for models that
    /// say [`shares_prefixes`](crate::ReferenceModel::shares_prefixes); rows stand in another order.
    #[must_use]
    pub fn pack_shared<'a>(sequences: impl IntoIterator<Item = &'a ScoringSequence>) -> Self {
        let sequences: Vec<&ScoringSequence> = sequences.into_iter().collect();
        let inputs: Vec<&[TokenId]> =
            sequences.iter().map(|sequence| &sequence.token_ids[..sequence.forward_tokens()]).collect();
        let mut trie = Trie { inputs: &inputs, batch: Self::default(), last_segments: vec![None; inputs.len()] };
        trie.grow();
        let Trie { mut batch, last_segments, .. } = trie;
        for (sequence, last) in sequences.iter().zip(last_segments) {
            let rows = Rows::of(&batch.segments, last);
            batch.add_targets(sequence, |position| rows.at(position));
        }
        batch.saved_tokens = inputs.iter().map(|input| input.len()).sum::<usize>() - batch.tokens();
        batch
    }
}

/// Where the positions of one sequence are: its segments from first to last.
struct Rows(Vec<Segment>);

impl Rows {
    fn of(segments: &[Segment], last: Option<usize>) -> Self {
        let mut path = Vec::new();
        let mut next = last;
        while let Some(index) = next {
            path.push(segments[index]);
            next = segments[index].parent;
        }
        path.reverse();
        Self(path)
    }

    fn at(&self, position: usize) -> usize {
        let after = self.0.partition_point(|segment| segment.position <= position);
        let segment = self.0[after - 1];
        segment.start + position - segment.position
    }
}

/// The trie while it grows, and the batch that its nodes are written to.
struct Trie<'a> {
    inputs: &'a [&'a [TokenId]],
    batch: PackedBatch,
    /// For each sequence, the segment that holds its last row.
    last_segments: Vec<Option<usize>>,
}

/// Sequences that agree before `depth`; their rows up to there are those of `parent` and its ancestors, from there on still
/// to be packed.
struct Branch {
    members: Vec<usize>,
    depth: usize,
    parent: Option<usize>,
}

impl Trie<'_> {
    fn grow(&mut self) {
        let members = (0..self.inputs.len()).filter(|member| !self.inputs[*member].is_empty()).collect();
        // The branch that was found first is packed first, so that an unshared batch keeps its order.
        let mut open = vec![Branch { members, depth: 0, parent: None }];
        while let Some(branch) = open.pop() {
            self.grow_branch(branch, &mut open);
        }
    }

    fn grow_branch(&mut self, branch: Branch, open: &mut Vec<Branch>) {
        let Branch { members, depth, parent } = branch;
        let Some(&first) = members.first() else { return };
        let common = members.iter().fold(self.inputs[first].len(), |common, member| {
            agreement(&self.inputs[first][..common], self.inputs[*member])
        });
        let (depth, parent) = if members.len() == 1 || common - depth >= MIN_SHARED_TOKENS {
            if common > depth {
                (common, Some(self.add_segment(first, depth, common, parent)))
            } else {
                (depth, parent)
            }
        } else {
            (depth, parent)
        };
        let mut groups: Vec<Branch> = Vec::new();
        let mut of_token: HashMap<TokenId, usize> = HashMap::new();
        for member in members {
            match self.inputs[member].get(common) {
                // It ends where all others go on, and all its rows are packed.
                None if depth == common => self.last_segments[member] = parent,
                // It ends in a run that is too short to be shared.
                None => self.last_segments[member] = Some(self.add_segment(member, depth, common, parent)),
                Some(token) => {
                    let group = *of_token.entry(*token).or_insert(groups.len());
                    if group == groups.len() {
                        groups.push(Branch { members: Vec::new(), depth, parent });
                    }
                    groups[group].members.push(member);
                }
            }
        }
        open.extend(groups.into_iter().rev());
    }

    /// Packs `from..to` of a sequence.
    fn add_segment(&mut self, member: usize, from: usize, to: usize, parent: Option<usize>) -> usize {
        let batch = &mut self.batch;
        let segment = Segment { start: batch.token_ids.len(), len: to - from, position: from, parent };
        batch.token_ids.extend_from_slice(&self.inputs[member][from..to]);
        batch.position_ids.extend((from..to).map(|position| position as u32));
        batch.segments.push(segment);
        batch.segments.len() - 1
    }
}

/// Number of leading tokens that two sequences have in common.
fn agreement(a: &[TokenId], b: &[TokenId]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Processing;

    fn sequence(token_ids: Vec<TokenId>, first: usize, temperature: f64) -> ScoringSequence {
        ScoringSequence {
            scored: first.min(token_ids.len())..token_ids.len(),
            token_ids,
            prompt_tokens: first,
            processing: Processing::at_temperature(temperature),
            policy_version: None,
        }
    }

    /// Trees of turns: each sequence goes on from a random place of one before it.
    fn forest() -> impl Strategy<Value = Vec<ScoringSequence>> {
        let one = (any::<prop::sample::Index>(), 0usize..80, 0usize..60, 0u32..3, 1usize..100, 0.1f64..2.0);
        prop::collection::vec(one, 0..14).prop_map(|steps| {
            let mut sequences: Vec<ScoringSequence> = Vec::new();
            for (from, keep, more, token, first, temperature) in steps {
                let mut ids = match sequences.len() {
                    0 => Vec::new(),
                    count => sequences[from.index(count)].token_ids.clone(),
                };
                ids.truncate(keep);
                // Few different tokens, so that branches agree by chance, too.
                ids.extend((0..more as u32).map(|at| if at % 7 == 0 { token } else { at }));
                if ids.is_empty() {
                    ids.push(token);
                }
                sequences.push(sequence(ids, first, temperature));
            }
            sequences
        })
    }

    /// The tokens that a row sees, itself the last: those of its ancestors and its own segment.
    fn context(batch: &PackedBatch, row: usize) -> Vec<TokenId> {
        let mut segment = batch.segments().iter().find(|segment| segment.rows().contains(&row));
        let mut end = row + 1;
        let mut context = Vec::new();
        while let Some(part) = segment {
            context.splice(0..0, batch.token_ids()[part.start..end].iter().copied());
            segment = part.parent.map(|parent| &batch.segments()[parent]);
            end = segment.map_or(0, |parent| parent.rows().end);
        }
        context
    }

    proptest! {
        /// Every token to score is predicted from exactly the tokens before it, at its own temperature, in its own order.
        #[test]
        fn every_target_keeps_its_context(sequences in forest()) {
            let batch = PackedBatch::pack_shared(&sequences);
            prop_assert_eq!(batch.sequences(), sequences.len());
            for (sequence, range) in sequences.iter().zip(batch.sequence_targets()) {
                let targets = &batch.targets()[range.clone()];
                prop_assert_eq!(targets.len(), sequence.scored.len());
                for (target, index) in targets.iter().zip(sequence.scored.clone()) {
                    prop_assert_eq!(target.token, sequence.token_ids[index]);
                    prop_assert_eq!(target.temperature, sequence.processing.temperature);
                    prop_assert_eq!(batch.position_ids()[target.row] as usize, index - 1);
                    prop_assert_eq!(context(&batch, target.row), &sequence.token_ids[..index]);
                }
            }
            // Segments cover the rows in order, parents come first and end where their children begin.
            let mut row = 0;
            for (index, segment) in batch.segments().iter().enumerate() {
                prop_assert_eq!(segment.start, row);
                prop_assert!(segment.len > 0);
                row += segment.len;
                match segment.parent {
                    None => prop_assert_eq!(segment.position, 0),
                    Some(parent) => {
                        prop_assert!(parent < index);
                        let parent = batch.segments()[parent];
                        prop_assert_eq!(parent.position + parent.len, segment.position);
                    }
                }
            }
            prop_assert_eq!(row, batch.tokens());
            let unshared = PackedBatch::pack(&sequences);
            prop_assert_eq!(unshared.saved_tokens(), 0);
            prop_assert_eq!(batch.tokens() + batch.saved_tokens(), unshared.tokens());
        }

        /// Nothing is computed twice that a segment could share: siblings differ early.
        #[test]
        fn siblings_share_less_than_the_least(sequences in forest()) {
            let batch = PackedBatch::pack_shared(&sequences);
            let segments = batch.segments();
            for (index, segment) in segments.iter().enumerate() {
                for other in segments[..index].iter().filter(|other| other.parent == segment.parent) {
                    let tokens = |segment: &Segment| &batch.token_ids()[segment.rows()];
                    prop_assert!(agreement(tokens(segment), tokens(other)) < MIN_SHARED_TOKENS);
                }
            }
        }
    }

    #[test]
    fn a_group_shares_its_prompt() {
        let prompt: Vec<TokenId> = (0..40).collect();
        let group: Vec<ScoringSequence> = (0..3)
            .map(|member| {
                let mut ids = prompt.clone();
                ids.extend([100 + member, 7, 8]);
                sequence(ids, prompt.len(), 1.0)
            })
            .collect();
        let batch = PackedBatch::pack_shared(&group);
        let shapes: Vec<_> =
            batch.segments().iter().map(|segment| (segment.len, segment.position, segment.parent)).collect();
        assert_eq!(shapes, [(40, 0, None), (2, 40, Some(0)), (2, 40, Some(0)), (2, 40, Some(0))]);
        assert_eq!(batch.saved_tokens(), 80);
        let firsts: Vec<_> = batch.sequence_targets().iter().map(|range| batch.targets()[range.start]).collect();
        assert!(firsts.iter().all(|target| target.row == 39), "the prompt's last row predicts all first tokens");
        assert_eq!(firsts.iter().map(|target| target.token).collect::<Vec<_>>(), [100, 101, 102]);
    }

    #[test]
    fn equal_sequences_take_rows_once_and_short_runs_are_not_shared() {
        let same = sequence((0..30).collect(), 10, 0.5);
        let batch = PackedBatch::pack_shared([&same, &same, &same]);
        assert_eq!((batch.tokens(), batch.segments().len(), batch.targets().len()), (29, 1, 60));
        let short: Vec<_> = (0..3).map(|last| sequence(vec![1, 2, 3, last, last], 1, 1.0)).collect();
        let batch = PackedBatch::pack_shared(&short);
        assert_eq!(batch, PackedBatch::pack(&short), "nothing to share: the batch is as it would be");
    }
}
