//! One measurement, in pieces that run beside scoring.

use std::sync::Arc;
use std::time::Duration;

use plumbline_core::{ModelError, ReferenceInfo, ReferenceModel, ScoringSequence, TokenScores, Variant};
use plumbline_divergence::{FloorHead, FloorSample, NoiseFloor};
use plumbline_scheduler::{AsideError, Models, Scheduler};

use super::sampling::Draft;
use super::{FloorError, FloorSource, RecentTraffic};
use crate::pieces::{PieceError, PieceLimits, cut, forward_tokens, score_piece};

/// How soon to try again when too many jobs wait.
const FULL_RETRY: Duration = Duration::from_secs(1);

/// Tokens that are sampled at most: enough for a first estimate, and sampling them takes many times their number of forwards.
const MOST_SAMPLED: usize = 512;

/// Sequences that are begun at most to sample so many tokens: some end at once.
const MOST_DRAFTS: u64 = 64;

/// Forwards of a measurement on recent traffic, in multiples of the tokens that it measures: context counts.
const MOST_CONTEXT: usize = 4;

/// A measurement, and what it needs.
#[derive(Debug)]
pub struct FloorMeasurement<'a> {
    /// Where the model is.
    pub scheduler: &'a Scheduler,
    /// What to measure on, if it has enough.
    pub recent: &'a RecentTraffic,
    /// Sizes of jobs.
    pub limits: PieceLimits,
    /// Measured tokens at most, but for the rest of the last sequence.
    pub tokens: usize,
}

impl FloorMeasurement<'_> {
    /// Measures the floor of one version.
    ///
    /// # Errors
    /// [`FloorError`].
    pub async fn run(&self, info: &Arc<ReferenceInfo>) -> Result<(NoiseFloor, FloorSource), FloorError> {
        let heads = self.supported_heads(info).await?;
        if heads.is_empty() {
            return Err(FloorError::Unsupported);
        }
        let (sequences, source) = match self.traffic() {
            Some(sequences) => (sequences, FloorSource::Traffic),
            None => self.sampled(info).await?,
        };
        Ok((self.measure(info, sequences, &heads).await?, source))
    }

    async fn supported_heads(&self, info: &ReferenceInfo) -> Result<Vec<FloorHead>, FloorError> {
        let version = info.policy_version.clone();
        let heads = self.job(0, move |models| {
            let model = models.model(&version).ok_or_else(|| PieceError::Gone(version.clone()))?;
            Ok(FloorHead::ALL.into_iter().filter(|head| model.supports(&variant(*head))).collect())
        });
        heads.await
    }

    /// Recent traffic, the newest first, if that has half of the wanted tokens or more.
    fn traffic(&self) -> Option<Vec<ScoringSequence>> {
        let least = (self.tokens / 2).max(NoiseFloor::MIN_TOKENS as usize);
        let kept = self.recent.sequences(least)?;
        let (mut measured, mut forward) = (0, 0);
        let fits = |sequence: &ScoringSequence| {
            let more = measured < self.tokens && forward < self.tokens * MOST_CONTEXT;
            measured += sequence.scored.len();
            forward += sequence.forward_tokens();
            more
        };
        Some(kept.into_iter().rev().take_while(fits).collect())
    }

    /// Text sampled from the reference; traffic, if there is enough of that before: sampling costs many times more.
    async fn sampled(&self, info: &Arc<ReferenceInfo>) -> Result<(Vec<ScoringSequence>, FloorSource), FloorError> {
        let wanted = self.tokens.min(MOST_SAMPLED);
        let (mut sequences, mut tokens) = (Vec::new(), 0);
        for number in 0..MOST_DRAFTS {
            let mut draft = Draft::new(number, info);
            while !draft.ended() {
                let (mut next, version, piece) = (draft.clone(), info.policy_version.clone(), self.limits.tokens);
                let advanced = self.job(piece, move |models| next.advance(models, &version, piece).map(|()| next));
                draft = match advanced.await {
                    Err(FloorError::Piece(PieceError::Model(ModelError::Unsupported(reason)))) => {
                        return Err(FloorError::NoText(reason));
                    }
                    advanced => advanced?,
                };
            }
            if let Some(traffic) = self.traffic() {
                return Ok((traffic, FloorSource::Traffic));
            }
            let sequence = draft.into_sequence();
            tokens += sequence.scored.len();
            sequences.push(sequence);
            if tokens >= wanted {
                break;
            }
        }
        Ok((sequences, FloorSource::Sampled))
    }

    async fn measure(
        &self,
        info: &ReferenceInfo,
        mut sequences: Vec<ScoringSequence>,
        heads: &[FloorHead],
    ) -> Result<NoiseFloor, FloorError> {
        for sequence in &mut sequences {
            sequence.policy_version = Some(info.policy_version.clone());
        }
        let pieces = cut(&sequences, self.limits)
            .ok_or_else(|| ModelError::InvalidInput("a sequence is too long for a piece".into()))
            .map_err(PieceError::from)?;
        let sequences: Arc<[ScoringSequence]> = sequences.into();
        let mut floor = NoiseFloor::default();
        let mut left_out = 0;
        for piece in pieces {
            let scores = |variant: Option<Variant>| {
                let (sequences, piece) = (Arc::clone(&sequences), piece.clone());
                let tokens = forward_tokens(&sequences[piece.clone()]);
                self.job(tokens, move |models| score_piece(models, &sequences[piece], variant.as_ref()))
            };
            let reference = scores(None).await?;
            for head in heads {
                let simulated = scores(Some(variant(*head))).await?;
                for (reference, simulated) in reference.iter().zip(&simulated) {
                    left_out += floor.observe_sequence(*head, &samples(reference, simulated));
                }
            }
        }
        if left_out > 0 {
            tracing::warn!(tokens = left_out, "the simulated engine's logprobs are not finite");
        }
        Ok(floor)
    }

    /// Runs a job; tries again while too many wait.
    async fn job<T, F>(&self, tokens: usize, run: F) -> Result<T, FloorError>
    where
        F: FnOnce(&mut dyn Models) -> Result<T, PieceError> + Clone + Send + 'static,
        T: Send + 'static,
    {
        loop {
            match self.scheduler.aside(tokens, run.clone()) {
                Ok(ticket) => return Ok(ticket.wait().await??),
                Err(AsideError::Full { .. }) => tokio::time::sleep(FULL_RETRY).await,
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// The engine that a floor simulates.
fn variant(head: FloorHead) -> Variant {
    Variant::Bf16 { head: head == FloorHead::Bf16 }
}

fn samples(reference: &TokenScores, simulated: &TokenScores) -> Vec<FloorSample> {
    let logprobs = reference.logprobs.iter().zip(&simulated.logprobs);
    let sample = |((reference, simulated), entropy): ((&f64, &f64), &f64)| FloorSample {
        entropy: *entropy,
        abs_delta: (reference - simulated).abs(),
    };
    logprobs.zip(&reference.entropy).map(sample).collect()
}
