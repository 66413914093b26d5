//! A synthetic model and an engine over it, for whole diagnoses: logits that depend on the first token, the last ones and the
//! version.

use plumbline_core::{LogprobsMode, Rollout, Sampling, ScoringSequence, TokenId, TokenScores, Variant};

use super::super::testing::{FlatFloor, Noise};
use super::super::*;
use crate::{SequenceComparison, compare};

pub(super) const VOCABULARY: usize = 96;
pub(super) const BOS: TokenId = 0;
pub(super) const EOS: TokenId = 1;
pub(super) const FLOOR: f64 = 0.01;

/// A reproducible number in [-1, 1) from a few keys.
pub(super) fn hashed(keys: [u64; 4]) -> f64 {
    let mut noise = Noise(keys.iter().fold(17, |state: u64, key| state.wrapping_mul(0x1000_0000_01B3) ^ key));
    noise.uniform();
    2.0 * noise.uniform() - 1.0
}

pub(super) fn logits(version: &str, context: &[TokenId]) -> Vec<f32> {
    let version = u64::from(version.as_bytes()[0]);
    (0..VOCABULARY as u64)
        .map(|token| {
            let mut logit = 3.0 * hashed([1, 0, 0, token]) + 0.8 * hashed([2, u64::from(context[0]), 0, token]);
            let mut weight = 2.5;
            for (back, seen) in context.iter().rev().take(10).enumerate() {
                logit += weight * hashed([3, u64::from(*seen), back as u64, token]);
                weight *= 0.6;
            }
            (logit + 0.3 * hashed([4, version, u64::from(context[context.len() - 1]), token])) as f32
        })
        .collect()
}

pub(super) fn log_softmax(logits: &[f32], temperature: f64) -> Vec<f64> {
    let sum: f64 = logits.iter().map(|logit| (f64::from(*logit) / temperature).exp()).sum();
    logits.iter().map(|logit| f64::from(*logit) / temperature - sum.ln()).collect()
}

/// The synthetic model behind the prober; counts its forwards.
#[derive(Default)]
pub(super) struct Model {
    forwards: usize,
}

impl Model {
    pub(super) fn score_one(&self, sequence: &ScoringSequence) -> TokenScores {
        let version = sequence.policy_version.as_deref().unwrap_or("b");
        let mut scores = TokenScores::default();
        for index in sequence.scored.clone() {
            let row = logits(version, &sequence.token_ids[..index]);
            let token = sequence.token_ids[index] as usize;
            let raw = log_softmax(&row, 1.0);
            scores.logprobs.push(raw[token]);
            scores.logprobs_in_mode.push(log_softmax(&row, sequence.processing.temperature)[token]);
            scores.entropy.push(-raw.iter().map(|value| value * value.exp()).sum::<f64>());
            scores.rank.push(row.iter().filter(|logit| **logit > row[token]).count() as u32);
            scores.eos_probability.push(raw[EOS as usize].exp());
        }
        scores
    }
}

impl Prober for Model {
    fn rescore(&mut self, sequences: &[ScoringSequence]) -> Result<Vec<TokenScores>, ProbeError> {
        self.forwards += sequences.len();
        Ok(sequences.iter().map(|sequence| self.score_one(sequence)).collect())
    }

    fn variant(&mut self, _sequences: &[ScoringSequence], variant: &Variant) -> Result<Vec<TokenScores>, ProbeError> {
        Err(ProbeError::Unsupported(format!("{variant:?}")))
    }

    fn logits(
        &mut self,
        sequence: &ScoringSequence,
        places: &[usize],
        visit: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), ProbeError> {
        self.forwards += 1;
        let version = sequence.policy_version.as_deref().unwrap_or("b");
        for place in places {
            visit(*place, &logits(version, &sequence.token_ids[..sequence.scored.start + place]));
        }
        Ok(())
    }

    fn supports(&self, _variant: &Variant) -> bool {
        false
    }

    fn versions(&self) -> Vec<String> {
        vec!["a".into(), "b".into()]
    }
}

/// What an engine reports, from a row of logits, its logprobs and the token.
pub(super) type Report<'a> = &'a dyn Fn(&[f32], &[f64], usize) -> f64;

/// An engine: the version and prompt it really has, and what it reports of each row.
pub(super) struct Engine<'a> {
    pub(super) version: &'a dyn Fn(usize) -> &'static str,
    pub(super) seen: &'a dyn Fn(&[TokenId]) -> Vec<TokenId>,
    pub(super) report: Report<'a>,
    pub(super) sampling: Sampling,
    pub(super) mode: LogprobsMode,
}

pub(super) fn raw(_: &[f32], logprobs: &[f64], token: usize) -> f64 {
    logprobs[token]
}

pub(super) const HEALTHY: Engine<'static> = Engine {
    version: &|_| "b",
    seen: &|prompt| prompt.to_vec(),
    report: &raw,
    sampling: Sampling {
        temperature: 1.0,
        top_p: 1.0,
        top_k: 0,
        min_p: 0.0,
        repetition_penalty: 1.0,
        presence_penalty: 0.0,
        frequency_penalty: 0.0,
        order: None,
    },
    mode: LogprobsMode::Raw,
};

impl Engine<'_> {
    pub(super) fn rollouts(&self, count: usize, len: usize, seed: u64) -> Vec<Rollout> {
        let mut noise = Noise(seed);
        let prompt: Vec<TokenId> =
            std::iter::once(BOS).chain((0..7).map(|_| 2 + (90.0 * noise.uniform()) as TokenId)).collect();
        let one = |index: usize, noise: &mut Noise| {
            let mut context = (self.seen)(&prompt);
            let (mut completion, mut numbers) = (Vec::new(), Vec::new());
            for at in 0..len {
                let row = logits((self.version)(at), &context);
                let logprobs = log_softmax(&row, 1.0);
                let mut left = noise.uniform();
                let token = logprobs.iter().position(|logprob| {
                    left -= logprob.exp();
                    left < 0.0
                });
                let token = token.unwrap_or(VOCABULARY - 1);
                let reported = (self.report)(&row, &logprobs, token) + FLOOR * noise.laplace();
                numbers.push(Some(reported.min(0.0)));
                completion.push(token as TokenId);
                context.push(token as TokenId);
            }
            Rollout {
                id: format!("s{index}"),
                logprobs: numbers,
                sampling: self.sampling,
                logprobs_mode: self.mode,
                policy_version: Some("b".into()),
                ..super::super::testing::rollout(&prompt, &completion)
            }
        };
        (0..count).map(|index| one(index, &mut noise)).collect()
    }
}

pub(super) fn diagnosed_with(
    rollouts: &[Rollout],
    cached: Option<usize>,
    config: &DiagnosisConfig,
) -> (Diagnosis, usize) {
    let mut model = Model::default();
    let scores: Vec<TokenScores> = rollouts
        .iter()
        .map(|rollout| {
            let parts = model.rescore(&rollout.scoring_sequences().unwrap()).unwrap();
            rollout.join_scores(&parts.iter().collect::<Vec<_>>()).unwrap()
        })
        .collect();
    let compared: Vec<SequenceComparison> =
        rollouts.iter().zip(&scores).map(|(rollout, scores)| compare(rollout, scores, &[EOS]).unwrap()).collect();
    let sequences: Vec<SuspectSequence<'_>> = rollouts
        .iter()
        .zip(scores.iter().zip(&compared))
        .map(|(rollout, (scores, comparison))| SuspectSequence { rollout, scores, comparison, cached_tokens: cached })
        .collect();
    let facts = ModelFacts {
        bos_token_id: Some(BOS),
        eos_token_ids: vec![EOS],
        special_token_ids: vec![BOS, EOS],
        vocab_size: VOCABULARY,
        ..ModelFacts::default()
    };
    let input = DiagnosisInput { sequences: &sequences, model: &facts, floor: &FlatFloor(FLOOR) };
    let before = model.forwards;
    let diagnosis = diagnose(&input, &mut model, config);
    (diagnosis, model.forwards - before)
}

pub(super) fn diagnosed(rollouts: &[Rollout]) -> Diagnosis {
    diagnosed_with(rollouts, None, &DiagnosisConfig::default()).0
}

/// The first cause of the request, which has to be every diagnosed sequence's as well.
pub(super) fn cause(rollouts: &[Rollout]) -> Option<Cause> {
    let diagnosis = diagnosed(rollouts);
    let first = |findings: &[Finding]| findings.first().map(|finding| finding.cause);
    let request = first(&diagnosis.request);
    for sequence in &diagnosis.sequences {
        assert!(first(&sequence.findings).is_none_or(|cause| Some(cause) == request), "{diagnosis:#?}");
    }
    request
}

pub(super) fn changed(mut rollouts: Vec<Rollout>, change: impl Fn(&mut Vec<Option<f64>>)) -> Vec<Rollout> {
    rollouts.iter_mut().for_each(|rollout| change(&mut rollout.logprobs));
    rollouts
}
