//! A reference whose numbers are a formula of the token.

use std::sync::mpsc::{Receiver, Sender, channel};

use plumbline_core::{
    BatchScores, ModelError, ModelLimits, PackedBatch, ReferenceInfo, ReferenceModel, ScoreTiming, TokenScores,
};

/// Scoring a batch with this token fails.
pub(super) const POISON: u32 = 13;

/// End of sequence.
pub(super) const EOS: u32 = 2;

pub(super) struct FakeModel {
    info: ReferenceInfo,
    /// When present, every batch waits for a permit.
    gate: Option<Receiver<()>>,
}

impl Default for FakeModel {
    fn default() -> Self {
        let info = ReferenceInfo {
            model: "fake".into(),
            family: "fake".into(),
            policy_version: "2".into(),
            dtype: "f32".into(),
            head_dtype: "f32".into(),
            device: "cpu".into(),
            parameters: 7,
            weight_bytes: 28,
            eos_token_ids: vec![EOS],
            limits: ModelLimits { vocab_size: 100, max_positions: 4096 },
        };
        Self { info, gate: None }
    }
}

impl FakeModel {
    /// A model that scores one batch for each message sent, and goes on freely when the sender is gone.
    pub(super) fn gated() -> (Self, Sender<()>) {
        let (sender, receiver) = channel();
        (Self { gate: Some(receiver), ..Self::default() }, sender)
    }

    /// The same model with other weights.
    pub(super) fn with_version(self, policy_version: &str) -> Self {
        Self { info: ReferenceInfo { policy_version: policy_version.into(), ..self.info }, ..self }
    }

    /// The same model elsewhere.
    pub(super) fn on(self, device: &str) -> Self {
        Self { info: ReferenceInfo { device: device.into(), ..self.info }, ..self }
    }

    /// `r_t` of a token.
    pub(super) fn logprob(token: u32, temperature: f64) -> f64 {
        -(1.0 + f64::from(token) / 10.0) / temperature
    }
}

impl ReferenceModel for FakeModel {
    fn info(&self) -> &ReferenceInfo {
        &self.info
    }

    fn score(&mut self, batch: &PackedBatch) -> Result<BatchScores, ModelError> {
        if let Some(gate) = &self.gate {
            let _ = gate.recv();
        }
        if batch.targets().iter().any(|target| target.token == POISON) {
            return Err(ModelError::Device("secret device details".into()));
        }
        let sequences = batch.sequence_targets().iter().map(|range| {
            let mut scores = TokenScores::with_capacity(range.len());
            for target in &batch.targets()[range.clone()] {
                scores.logprobs.push(Self::logprob(target.token, 1.0));
                scores.logprobs_in_mode.push(Self::logprob(target.token, target.temperature));
                scores.entropy.push(0.5);
                scores.rank.push(target.token % 3);
                scores.eos_probability.push(0.25);
            }
            scores
        });
        Ok(BatchScores { sequences: sequences.collect(), timing: ScoreTiming::default() })
    }
}
