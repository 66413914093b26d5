//! The resident reference: a decoder behind [`ReferenceModel`].

use std::time::Instant;

use candle_core::{DType, Device};
use plumbline_core::{
    BatchScores, Kernels, ModelError, ModelLimits, PackedBatch, ReferenceInfo, ReferenceModel, ScoreTiming,
    ScoringSequence, TokenScores, Variant,
};

use crate::compute;
use crate::decoder::Decoder;
use crate::error::{classify, message};
use crate::load::{LoadOptions, ModelSource};
use crate::ops::{ChunkBytes, CpuOps, GenericOps, LogitsVisitor, Ops, Rounding, TargetScore};
use crate::processed;
use crate::variants::{BaseError, BaseWeights, Change, unsupported};
use crate::weights::WeightSizes;

/// A model held in memory, ready to score.
#[derive(Debug)]
pub struct CandleReference {
    decoder: Decoder,
    operations: Operations,
    info: ReferenceInfo,
    device: Device,
    /// Of the body and of the head.
    dtypes: (DType, DType),
    /// If there is an adapter in the weights.
    base: Option<BaseWeights>,
    /// As configured.
    chunks: ChunkBytes,
    /// How often they are halved at present.
    halvings: u32,
}

/// Halvings at most: what an eighth of the chunks does not save is not in them, and smaller ones hold so few rows that an H100
/// took seven times as long.
const MAX_HALVINGS: u32 = 3;

/// The operations that a model runs on.
#[derive(Debug)]
enum Operations {
    Generic(GenericOps),
    Cpu(CpuOps),
}

impl CandleReference {
    pub(crate) fn new(
        decoder: Decoder,
        name: String,
        options: &LoadOptions,
        source: ModelSource,
        device: &Device,
        sizes: WeightSizes,
    ) -> Self {
        let (dtype, head_dtype) = (compute::dtype(options.dtype), compute::dtype(options.head_dtype));
        let spec = decoder.spec();
        let info = ReferenceInfo {
            model: name,
            family: spec.family.clone(),
            policy_version: options.policy_version.clone(),
            dtype: dtype.as_str().into(),
            head_dtype: head_dtype.as_str().into(),
            device: device_name(device),
            parameters: sizes.parameters,
            weight_bytes: sizes.bytes,
            eos_token_ids: spec.eos_token_ids.clone(),
            limits: ModelLimits { vocab_size: spec.vocab_size, max_positions: spec.max_positions },
        };
        let chunks = ChunkBytes { head: options.head_chunk_bytes, mlp: options.mlp_chunk_bytes };
        let operations = match options.kernels {
            Kernels::Auto if CpuOps::support(device, dtype, head_dtype) => {
                Operations::Cpu(CpuOps::new(chunks, options.profile.clone()))
            }
            Kernels::Auto | Kernels::Generic => Operations::Generic(GenericOps::new(chunks)),
        };
        let base = options.adapter.as_ref().map(|_| BaseWeights {
            source,
            dtype: options.dtype,
            head_dtype: options.head_dtype,
        });
        let device = device.clone();
        Self { decoder, operations, info, device, dtypes: (dtype, head_dtype), base, chunks, halvings: 0 }
    }

    /// What a failed forward means. After one that ran out of memory, waits until the device has taken back what the
    /// forward had: memory is freed in the order of the device's queue, and the next attempt must not begin before.
    fn failed(&self, error: &candle_core::Error) -> ModelError {
        let failure = classify(error);
        if let ModelError::OutOfMemory(reason) = &failure
            && let Err(error) = self.device.synchronize()
        {
            return ModelError::Device(format!("{}, after {reason}", message(&error)));
        }
        failure
    }

    /// What a variant changes; `None` if this model has no such variant.
    fn change(&self, variant: &Variant) -> Option<Change> {
        Change::of(variant, self.decoder.spec(), self.dtypes, self.base.is_some())
    }

    fn score_base(&self, batch: &PackedBatch) -> Result<Scored, BaseError> {
        let base = self.base.as_ref().ok_or_else(|| BaseError::Weights("this model has no adapter".into()))?;
        match &self.operations {
            Operations::Generic(ops) => base.score(self.decoder.spec(), &self.device, batch, ops),
            Operations::Cpu(ops) => {
                let result = base.score(self.decoder.spec(), &self.device, batch, ops);
                ops.release_memory();
                result
            }
        }
    }

    /// Refuses a batch that this model cannot score.
    fn check(&self, batch: &PackedBatch) -> Result<(), ModelError> {
        check(batch, &self.info.limits)?;
        if !self.shares_prefixes() && batch.segments().iter().any(|segment| segment.parent.is_some()) {
            return Err(ModelError::InvalidInput("this model's positions do not allow sequences to share rows".into()));
        }
        Ok(())
    }

    fn halve_chunks(&mut self, halvings: u32) {
        self.halvings = halvings;
        let chunks = ChunkBytes { head: self.chunks.head >> halvings, mlp: self.chunks.mlp >> halvings };
        match &mut self.operations {
            Operations::Generic(ops) => ops.set_chunks(chunks),
            Operations::Cpu(ops) => ops.set_chunks(chunks),
        }
    }
}

/// What the decoder says about a batch.
pub(crate) struct Scored {
    /// One for each of the batch's targets.
    targets: Vec<TargetScore>,
    /// For each of [`PackedBatch::processed`], the logprobs of its targets.
    processed: Vec<Vec<f64>>,
    timing: ScoreTiming,
}

impl Operations {
    /// Scores of the batch's targets, and where the time went.
    fn score(&self, decoder: &mut Decoder, batch: &PackedBatch) -> candle_core::Result<Scored> {
        match self {
            Self::Generic(ops) => score(decoder, batch, ops),
            Self::Cpu(ops) => {
                let result = score(decoder, batch, ops);
                ops.release_memory();
                result
            }
        }
    }

    fn with_rounding(&self, rounding: Rounding) -> Self {
        match self {
            Self::Generic(ops) => Self::Generic(ops.with_rounding(rounding)),
            Self::Cpu(ops) => Self::Cpu(ops.with_rounding(rounding)),
        }
    }
}

fn score<O: Ops>(decoder: &mut Decoder, batch: &PackedBatch, ops: &O) -> candle_core::Result<Scored> {
    let started = Instant::now();
    let hidden = decoder.hidden_states(batch, ops)?;
    from_hidden(decoder, &hidden, batch, ops, started)
}

/// Scores of the batch's targets from its hidden states, whose computation began at `started`. Targets whose processing needs
/// whole rows of logits go through the head twice: the running sums of all others are the same with and without them.
pub(crate) fn from_hidden<O: Ops>(
    decoder: &Decoder,
    hidden: &O::Rows,
    batch: &PackedBatch,
    ops: &O,
    started: Instant,
) -> candle_core::Result<Scored> {
    ops.wait(hidden)?;
    let forward = started.elapsed();
    let targets = decoder.head_scores(hidden, batch, ops)?;
    let processed = processed::logprobs(decoder, hidden, batch, ops)?;
    Ok(Scored { targets, processed, timing: ScoreTiming { forward, head: started.elapsed() - forward } })
}

/// Logits of the rows that predict some targets of a batch, in pieces.
fn logits<O: Ops>(
    decoder: &mut Decoder,
    batch: &PackedBatch,
    rows: &[u32],
    ops: &O,
    visit: &mut LogitsVisitor<'_>,
) -> candle_core::Result<()> {
    let hidden = decoder.hidden_states(batch, ops)?;
    decoder.head_logits(&hidden, rows, ops, visit)
}

impl ReferenceModel for CandleReference {
    fn info(&self) -> &ReferenceInfo {
        &self.info
    }

    fn shares_prefixes(&self) -> bool {
        self.decoder.shares_prefixes()
    }

    fn save_memory(&mut self) -> bool {
        let can = self.halvings < MAX_HALVINGS;
        if can {
            self.halve_chunks(self.halvings + 1);
        }
        can
    }

    fn spend_memory(&mut self) {
        self.halve_chunks(self.halvings.saturating_sub(1));
    }

    fn supports(&self, variant: &Variant) -> bool {
        self.change(variant).is_some()
    }

    fn score_variant(&mut self, batch: &PackedBatch, variant: &Variant) -> Result<BatchScores, ModelError> {
        let change = self.change(variant).ok_or_else(|| unsupported(variant))?;
        self.check(batch)?;
        if batch.tokens() == 0 {
            return Ok(nothing(batch));
        }
        let result = match change {
            Change::Rounding(rounding) => self.operations.with_rounding(rounding).score(&mut self.decoder, batch),
            Change::Spec(spec) => self.operations.score(&mut self.decoder.with_spec(*spec), batch),
            Change::BaseWeights => match self.score_base(batch) {
                Ok(scores) => Ok(scores),
                Err(BaseError::Forward(error)) => Err(error),
                Err(BaseError::Weights(reason)) => return Err(ModelError::Device(reason)),
            },
        };
        gather(batch, result.map_err(|error| self.failed(&error))?)
    }

    fn score(&mut self, batch: &PackedBatch) -> Result<BatchScores, ModelError> {
        self.check(batch)?;
        if batch.tokens() == 0 {
            return Ok(nothing(batch));
        }
        let result = self.operations.score(&mut self.decoder, batch);
        gather(batch, result.map_err(|error| self.failed(&error))?)
    }

    fn logits(
        &mut self,
        sequence: &ScoringSequence,
        places: &[usize],
        visit: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), ModelError> {
        let batch = PackedBatch::pack([sequence]);
        self.check(&batch)?;
        if let Some(place) = places.iter().find(|place| **place >= batch.targets().len()) {
            return Err(ModelError::InvalidInput(format!(
                "place {place} is not below the number of scored tokens {}",
                batch.targets().len()
            )));
        }
        if places.is_empty() {
            return Ok(());
        }
        let rows: Vec<u32> = places.iter().map(|place| batch.targets()[*place].row as u32).collect();
        let vocabulary = self.info.limits.vocab_size;
        let mut broken = None;
        let visit = &mut |first: usize, logits: &[f32]| {
            for (place, row) in places[first..].iter().zip(logits.chunks_exact(vocabulary)) {
                if row.iter().any(|logit| logit.is_nan() || *logit == f32::INFINITY) {
                    broken.get_or_insert(*place);
                } else {
                    visit(*place, row);
                }
            }
            Ok(())
        };
        let result = match &self.operations {
            Operations::Generic(ops) => logits(&mut self.decoder, &batch, &rows, ops, visit),
            Operations::Cpu(ops) => {
                let result = logits(&mut self.decoder, &batch, &rows, ops, visit);
                ops.release_memory();
                result
            }
        };
        result.map_err(|error| self.failed(&error))?;
        match broken {
            Some(place) => {
                Err(ModelError::Numerics(format!("the reference's own logits of scored token {place} are not finite")))
            }
            None => Ok(()),
        }
    }
}

/// The scores of a batch's targets by sequence.
fn gather(batch: &PackedBatch, scored: Scored) -> Result<BatchScores, ModelError> {
    let Scored { targets, processed, timing } = scored;
    let mut sequences: Vec<TokenScores> =
        batch.sequence_targets().iter().map(|range| collect(&targets[range.clone()])).collect::<Result<_, _>>()?;
    for (of, logprobs) in batch.processed().iter().zip(processed) {
        if let Some(place) = logprobs.iter().position(|logprob| logprob.is_nan()) {
            return Err(ModelError::Numerics(format!("no processed logprob for scored token {place}")));
        }
        sequences[of.sequence].logprobs_in_mode = logprobs;
    }
    Ok(BatchScores { sequences, timing })
}

/// The scores of a batch in which there is nothing to score.
fn nothing(batch: &PackedBatch) -> BatchScores {
    BatchScores { sequences: vec![TokenScores::default(); batch.sequences()], timing: ScoreTiming::default() }
}

fn check(batch: &PackedBatch, limits: &ModelLimits) -> Result<(), ModelError> {
    let out_of_vocabulary = |id: &u32| *id as usize >= limits.vocab_size;
    let ids = batch.token_ids().iter().chain(batch.targets().iter().map(|target| &target.token));
    if let Some(id) = ids.copied().find(out_of_vocabulary) {
        return Err(ModelError::InvalidInput(format!("token id {id} is not below {}", limits.vocab_size)));
    }
    match batch.position_ids().iter().find(|position| **position as usize >= limits.max_positions) {
        Some(position) => {
            Err(ModelError::InvalidInput(format!("position {position} is not below {}", limits.max_positions)))
        }
        None => Ok(()),
    }
}

/// Gathers one sequence's scores, refusing numbers that are none.
fn collect(scores: &[TargetScore]) -> Result<TokenScores, ModelError> {
    let mut gathered = TokenScores::with_capacity(scores.len());
    for score in scores {
        let finite = score.logprob.is_finite() && score.logprob_at_temperature.is_finite() && score.entropy.is_finite();
        if !finite {
            return Err(ModelError::Numerics(format!("the reference's own logits are not finite: {score:?}")));
        }
        gathered.logprobs.push(score.logprob);
        gathered.logprobs_in_mode.push(score.logprob_at_temperature);
        gathered.entropy.push(score.entropy);
        gathered.rank.push(score.rank);
        gathered.eos_probability.push(score.eos_probability);
    }
    Ok(gathered)
}

fn device_name(device: &Device) -> String {
    match device.location() {
        candle_core::DeviceLocation::Cpu => "cpu".into(),
        candle_core::DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        candle_core::DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
    }
}
