//! A reference whose numbers are a formula of the token.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use plumbline_core::{
    BatchScores, ModelError, ModelLimits, PackedBatch, ReferenceInfo, ReferenceModel, ScoreTiming, ScoringSequence,
    TokenScores, Variant,
};

/// Scoring a batch with this token fails.
pub(super) const POISON: u32 = 13;

/// End of sequence.
pub(super) const EOS: u32 = 2;

pub(super) struct FakeModel {
    info: ReferenceInfo,
    /// When present, every batch waits for a permit.
    gate: Option<Receiver<()>>,
    /// What the model was asked for.
    calls: Calls,
    /// Whether it has the variants of bf16 engines.
    simulates: bool,
    /// Whether it gives its logits.
    gives_logits: bool,
    /// Whether no token fails it.
    sound: bool,
}

/// One call of a model, with the rows of its forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Score(usize),
    Variant(usize),
    Logits(usize),
}

impl Call {
    pub(super) fn rows(self) -> usize {
        match self {
            Self::Score(rows) | Self::Variant(rows) | Self::Logits(rows) => rows,
        }
    }
}

/// All calls in their order.
#[derive(Clone, Debug, Default)]
pub(super) struct Calls(Arc<Mutex<Vec<Call>>>);

impl Calls {
    pub(super) fn all(&self) -> Vec<Call> {
        self.0.lock().unwrap().clone()
    }

    fn add(&self, call: Call) {
        self.0.lock().unwrap().push(call);
    }
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
        Self { info, gate: None, calls: Calls::default(), simulates: false, gives_logits: false, sound: false }
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

    /// The same model, but its bf16 variants' logprobs are 1 % larger.
    pub(super) fn that_simulates(self) -> Self {
        Self { simulates: true, ..self }
    }

    /// The same model, but all next tokens are equally likely in its logits.
    pub(super) fn that_gives_logits(self) -> Self {
        Self { gives_logits: true, ..self }
    }

    /// The same model, but no token fails it.
    pub(super) fn that_never_fails(self) -> Self {
        Self { sound: true, ..self }
    }

    fn fails(&self, batch: &PackedBatch) -> bool {
        !self.sound && batch.targets().iter().any(|target| target.token == POISON)
    }

    /// What it is asked for from now on.
    pub(super) fn calls(&self) -> Calls {
        self.calls.clone()
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
        self.calls.add(Call::Score(batch.tokens()));
        if self.fails(batch) {
            return Err(ModelError::Device("secret device details".into()));
        }
        Ok(Self::answer(batch, 1.0))
    }

    fn supports(&self, variant: &Variant) -> bool {
        self.simulates && matches!(variant, Variant::Bf16 { .. })
    }

    fn score_variant(&mut self, batch: &PackedBatch, variant: &Variant) -> Result<BatchScores, ModelError> {
        if !self.supports(variant) {
            return Err(ModelError::Unsupported(format!("{variant:?}")));
        }
        self.calls.add(Call::Variant(batch.tokens()));
        if self.fails(batch) {
            return Err(ModelError::Device("secret device details".into()));
        }
        Ok(Self::answer(batch, 1.01))
    }

    fn logits(
        &mut self,
        sequence: &ScoringSequence,
        places: &[usize],
        visit: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), ModelError> {
        if !self.gives_logits {
            return Err(ModelError::Unsupported("logits".into()));
        }
        self.calls.add(Call::Logits(sequence.forward_tokens()));
        let mut row = vec![0.0; self.info.limits.vocab_size];
        // Neither ends a sequence nor fails one.
        row[EOS as usize] = f32::NEG_INFINITY;
        row[POISON as usize] = f32::NEG_INFINITY;
        places.iter().for_each(|place| visit(*place, &row));
        Ok(())
    }
}

impl FakeModel {
    fn answer(batch: &PackedBatch, factor: f64) -> BatchScores {
        let sequences = batch.sequence_targets().iter().map(|range| {
            let mut scores = TokenScores::with_capacity(range.len());
            for target in &batch.targets()[range.clone()] {
                scores.logprobs.push(Self::logprob(target.token, 1.0) * factor);
                scores.logprobs_in_mode.push(Self::logprob(target.token, target.temperature) * factor);
                scores.entropy.push(0.5);
                scores.rank.push(target.token % 3);
                scores.eos_probability.push(0.25);
            }
            scores
        });
        BatchScores { sequences: sequences.collect(), timing: ScoreTiming::default() }
    }
}
