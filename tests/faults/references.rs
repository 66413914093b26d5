//! The resident models, and a diagnosis's questions to them.

use plumbline_core::{
    ModelError, PackedBatch, ReferenceModel, Rollout, ScoringSequence, TokenId, TokenScores, TokenText, Variant,
};
use plumbline_divergence::{ModelFacts, ProbeError, Prober};
use plumbline_model::{CandleReference, Tokenizer};

use crate::prompts::BOS;
use crate::world::{CURRENT, PREVIOUS, World};

/// Two versions of the policy in memory, as a service has them after a swap.
#[derive(Debug)]
pub(crate) struct References<'a> {
    current: CandleReference,
    previous: CandleReference,
    tokenizer: &'a Tokenizer,
    pub(crate) facts: ModelFacts,
}

impl<'a> References<'a> {
    /// With the adapter merged into the current version, or without.
    pub(crate) fn load(world: &'a World, adapted: bool) -> Self {
        let current = world.reference(CURRENT, adapted);
        let limits = current.info().limits;
        let ids = |text: &str| world.tokenizer.encode(text, false).unwrap();
        let facts = ModelFacts {
            bos_token_id: Some(BOS),
            eos_token_ids: current.info().eos_token_ids.clone(),
            special_token_ids: vec![0, 1, 2],
            vocab_size: limits.vocab_size,
            tokenizer_size: Some(limits.vocab_size),
            rope_theta: Some(10_000.0),
            generation_prompts: vec![ids("<|im_start|>assistant\n")],
            ..ModelFacts::default()
        };
        Self { current, previous: world.reference(PREVIOUS, false), tokenizer: &world.tokenizer, facts }
    }

    /// Scores of rollouts, in their order.
    pub(crate) fn score<'r>(&mut self, rollouts: impl IntoIterator<Item = &'r Rollout>) -> Vec<TokenScores> {
        let of_rollout = |rollout: &Rollout| rollout.scoring_sequences().unwrap();
        let rollouts: Vec<&Rollout> = rollouts.into_iter().collect();
        let work: Vec<Vec<ScoringSequence>> = rollouts.iter().map(|rollout| of_rollout(rollout)).collect();
        let mut answers = self.rescore(&work.concat()).unwrap().into_iter();
        let joined = rollouts.iter().zip(work).map(|(rollout, work)| {
            let parts: Vec<TokenScores> = answers.by_ref().take(work.len()).collect();
            rollout.join_scores(&parts.iter().collect::<Vec<_>>()).unwrap()
        });
        joined.collect()
    }

    fn of_version(&mut self, version: Option<&str>) -> Result<&mut CandleReference, ProbeError> {
        match version {
            None | Some(CURRENT) => Ok(&mut self.current),
            Some(PREVIOUS) => Ok(&mut self.previous),
            Some(other) => Err(ProbeError::Unsupported(format!("version {other}"))),
        }
    }

    /// Asks each version for its own sequences.
    fn by_version(
        &mut self,
        sequences: &[ScoringSequence],
        mut ask: impl FnMut(&mut CandleReference, &PackedBatch) -> Result<Vec<TokenScores>, ModelError>,
    ) -> Result<Vec<TokenScores>, ProbeError> {
        let mut answers = vec![TokenScores::default(); sequences.len()];
        for version in [CURRENT, PREVIOUS] {
            let is_its = |sequence: &ScoringSequence| sequence.policy_version.as_deref().unwrap_or(CURRENT) == version;
            let own: Vec<usize> = (0..sequences.len()).filter(|index| is_its(&sequences[*index])).collect();
            if own.is_empty() {
                continue;
            }
            let batch = PackedBatch::pack_shared(own.iter().map(|index| &sequences[*index]));
            let scores = ask(self.of_version(Some(version))?, &batch)?;
            for (index, scores) in own.into_iter().zip(scores) {
                answers[index] = scores;
            }
        }
        Ok(answers)
    }
}

impl Prober for References<'_> {
    fn rescore(&mut self, sequences: &[ScoringSequence]) -> Result<Vec<TokenScores>, ProbeError> {
        self.by_version(sequences, |reference, batch| Ok(reference.score(batch)?.sequences))
    }

    fn variant(&mut self, sequences: &[ScoringSequence], variant: &Variant) -> Result<Vec<TokenScores>, ProbeError> {
        self.by_version(sequences, |reference, batch| Ok(reference.score_variant(batch, variant)?.sequences))
    }

    fn logits(
        &mut self,
        sequence: &ScoringSequence,
        places: &[usize],
        visit: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), ProbeError> {
        let reference = self.of_version(sequence.policy_version.as_deref())?;
        Ok(reference.logits(sequence, places, visit)?)
    }

    fn supports(&self, variant: &Variant) -> bool {
        self.current.supports(variant)
    }

    fn versions(&self) -> Vec<String> {
        vec![PREVIOUS.into(), CURRENT.into()]
    }

    fn respellings(&mut self, ids: &[TokenId]) -> Vec<Vec<TokenId>> {
        self.tokenizer.respellings(ids)
    }
}
