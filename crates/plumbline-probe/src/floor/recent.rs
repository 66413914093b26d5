//! What was verified lately: the text on which a noise floor says most about the traffic.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use plumbline_core::{Rollout, ScoringSequence, TokenId};
use tokio::sync::watch;

/// A bounded memory of sequences, each cut to what one job can score.
#[derive(Debug)]
pub struct RecentTraffic {
    /// Tokens of one sequence at most, context included.
    piece_tokens: usize,
    /// Scored tokens of all together, from which on the oldest go.
    limit: usize,
    kept: Mutex<VecDeque<ScoringSequence>>,
    /// Scored tokens of all together.
    tokens: watch::Sender<usize>,
}

impl RecentTraffic {
    /// Sequences of at most `piece_tokens` tokens, with `limit` scored tokens together; `limit` = 0 keeps nothing.
    #[must_use]
    pub fn new(piece_tokens: usize, limit: usize) -> Self {
        Self { piece_tokens, limit, kept: Mutex::default(), tokens: watch::Sender::new(0) }
    }

    /// Takes note of answered rollouts.
    pub fn add(&self, rollouts: &[Rollout]) {
        if self.limit == 0 {
            return;
        }
        let cut =
            |rollout: &Rollout| slice(&rollout.prompt_token_ids, &rollout.completion_token_ids, self.piece_tokens);
        // The last ones: what comes before them would not stay.
        let mut new: Vec<ScoringSequence> = Vec::new();
        let mut new_tokens = 0;
        for sequence in rollouts.iter().rev().filter_map(cut) {
            if new_tokens >= self.limit {
                break;
            }
            new_tokens += sequence.scored.len();
            new.push(sequence);
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let mut tokens = *self.tokens.borrow() + new_tokens;
        kept.extend(new.into_iter().rev());
        while let Some(oldest) = kept.front().map(|oldest| oldest.scored.len()).filter(|own| tokens - own >= self.limit)
        {
            tokens -= oldest;
            kept.pop_front();
        }
        self.tokens.send_replace(tokens);
    }

    /// Everything that is kept, oldest first, if it has at least so many scored tokens.
    #[must_use]
    pub fn sequences(&self, at_least: usize) -> Option<Vec<ScoringSequence>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        (*self.tokens.borrow() >= at_least).then(|| kept.iter().cloned().collect())
    }

    /// Waits until so many scored tokens are kept.
    pub async fn has(&self, tokens: usize) {
        let mut kept = self.tokens.subscribe();
        // The sender lives as long as `self`.
        let _ = kept.wait_for(|kept| *kept >= tokens).await;
    }
}

/// The sampled tokens of a rollout that fit into `most` tokens together with their context. Of a prompt that takes more than
/// half of that, the first token (BOS: models rest their attention on it) and the last ones stay: the reference and the
/// simulated engine see the same context, and the floor is kept by entropy, so that it need not be the whole one.
fn slice(prompt: &[TokenId], completion: &[TokenId], most: usize) -> Option<ScoringSequence> {
    let room = (most / 2).max(1);
    let mut token_ids = match prompt {
        [first, ..] if prompt.len() > room => {
            let mut ids = vec![*first];
            ids.extend_from_slice(&prompt[prompt.len() - (room - 1)..]);
            ids
        }
        _ => prompt.to_vec(),
    };
    let start = token_ids.len().max(1);
    token_ids.extend(completion.iter().take(most - token_ids.len()));
    let scored = start..token_ids.len();
    (!scored.is_empty()).then(|| ScoringSequence { scored, ..ScoringSequence::all_tokens(token_ids) })
}

#[cfg(test)]
mod tests {
    use plumbline_core::{LogprobsMode, Sampling};
    use proptest::prelude::*;

    use super::*;

    fn rollout(prompt: usize, completion: usize) -> Rollout {
        Rollout {
            id: "s".into(),
            prompt_token_ids: (0..prompt as u32).collect(),
            completion_token_ids: (1000..1000 + completion as u32).collect(),
            logprobs: vec![None; completion],
            loss_mask: None,
            sampling: Sampling::default(),
            logprobs_mode: LogprobsMode::Raw,
            finish_reason: None,
            policy_version: None,
            weight_versions: Vec::new(),
        }
    }

    fn lengths(recent: &RecentTraffic) -> Vec<usize> {
        recent.sequences(0).unwrap().iter().map(|sequence| sequence.scored.len()).collect()
    }

    #[test]
    fn the_last_tokens_stay() {
        let recent = RecentTraffic::new(100, 20);
        recent.add(&[rollout(2, 5), rollout(2, 6)]);
        assert!(recent.sequences(12).is_none());
        recent.add(&[rollout(2, 7), rollout(2, 8)]);
        assert_eq!(lengths(&recent), [6, 7, 8], "without the oldest there are still 20");
        recent.add(&[rollout(2, 30), rollout(2, 1), rollout(2, 30)]);
        assert_eq!(lengths(&recent), [30]);
        recent.add(&[rollout(0, 1)]);
        assert_eq!(lengths(&recent), [30], "a token without context cannot be scored");
        let off = RecentTraffic::new(100, 0);
        off.add(&[rollout(2, 5)]);
        assert!(lengths(&off).is_empty());
    }

    #[test]
    fn a_long_prompt_keeps_its_first_token_and_its_end() {
        let cut = slice(&(0..50).collect::<Vec<_>>(), &(100..150).collect::<Vec<_>>(), 10).unwrap();
        assert_eq!(cut.token_ids, [0, 46, 47, 48, 49, 100, 101, 102, 103, 104]);
        assert_eq!(cut.scored, 5..10);
        let whole = slice(&[1, 2], &[3, 4], 10).unwrap();
        assert_eq!((whole.token_ids, whole.scored), (vec![1, 2, 3, 4], 2..4));
        assert_eq!(slice(&[], &[3, 4], 10).unwrap().scored, 1..2);
    }

    proptest! {
        /// Whatever comes: the memory is bounded, and the sequences fit into jobs.
        #[test]
        fn memory_is_bounded(
            traffic in prop::collection::vec(prop::collection::vec((0usize..60, 1usize..60), 0..5), 0..20),
            most in 2usize..50,
            limit in 1usize..100,
        ) {
            let recent = RecentTraffic::new(most, limit);
            for request in traffic {
                let rollouts: Vec<_> = request.into_iter().map(|(prompt, own)| rollout(prompt, own)).collect();
                recent.add(&rollouts);
                let kept = recent.sequences(0).unwrap();
                let total: usize = kept.iter().map(|sequence| sequence.scored.len()).sum();
                prop_assert_eq!(total, *recent.tokens.borrow());
                prop_assert!(total < limit + most);
                prop_assert!(kept.iter().all(|sequence| sequence.token_ids.len() <= most && !sequence.scored.is_empty()));
            }
        }
    }

    #[tokio::test]
    async fn waiting_ends_with_enough_tokens() {
        let recent = RecentTraffic::new(100, 20);
        recent.add(&[rollout(2, 9)]);
        let (waited, ()) =
            tokio::join!(tokio::time::timeout(std::time::Duration::from_secs(60), recent.has(10)), async {
                recent.add(&[rollout(2, 1)])
            });
        assert!(waited.is_ok());
    }
}
