//! The resident reference: a decoder behind [`ReferenceModel`].

use std::time::Instant;

use candle_core::{DType, Device};
use plumbline_core::{
    BatchScores, Kernels, ModelError, ModelLimits, PackedBatch, ReferenceInfo, ReferenceModel, ScoreTiming,
    ScoringSequence, TokenScores,
};

use crate::decoder::Decoder;
use crate::error::{classify, message};
use crate::load::LoadOptions;
use crate::ops::{ChunkBytes, CpuOps, GenericOps, LogitsVisitor, Ops, TargetScore};
use crate::processed;
use crate::weights::WeightSizes;

/// A model held in memory, ready to score.
#[derive(Debug)]
pub struct CandleReference {
    decoder: Decoder,
    operations: Operations,
    info: ReferenceInfo,
    device: Device,
    /// As configured.
    chunks: ChunkBytes,
    /// How often they are halved at present.
    halvings: u32,
}

/// Halvings at most: what a sixty-fourth of the chunks does not save is not in them.
const MAX_HALVINGS: u32 = 6;

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
        (dtype, head_dtype): (DType, DType),
        device: &Device,
        sizes: WeightSizes,
    ) -> Self {
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
        Self { decoder, operations, info, device: device.clone(), chunks, halvings: 0 }
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
struct Scored {
    /// One for each of the batch's targets.
    targets: Vec<TargetScore>,
    /// For each of [`PackedBatch::processed`], the logprobs of its targets.
    processed: Vec<Vec<f64>>,
    timing: ScoreTiming,
}

/// Scores the batch's targets. Those whose processing needs whole rows of logits go through the head twice: the running sums
/// of all others are the same with and without them.
fn score<O: Ops>(decoder: &mut Decoder, batch: &PackedBatch, ops: &O) -> candle_core::Result<Scored> {
    let started = Instant::now();
    let hidden = decoder.hidden_states(batch, ops)?;
    let forward = started.elapsed();
    let targets = decoder.head_scores(&hidden, batch, ops)?;
    let processed = processed::logprobs(decoder, &hidden, batch, ops)?;
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

    fn score(&mut self, batch: &PackedBatch) -> Result<BatchScores, ModelError> {
        check(batch, &self.info.limits)?;
        if !self.shares_prefixes() && batch.segments().iter().any(|segment| segment.parent.is_some()) {
            return Err(ModelError::InvalidInput("this model's positions do not allow sequences to share rows".into()));
        }
        if batch.tokens() == 0 {
            return Ok(BatchScores {
                sequences: vec![TokenScores::default(); batch.sequences()],
                timing: ScoreTiming::default(),
            });
        }
        let result = match &self.operations {
            Operations::Generic(ops) => score(&mut self.decoder, batch, ops),
            Operations::Cpu(ops) => {
                let result = score(&mut self.decoder, batch, ops);
                ops.release_memory();
                result
            }
        };
        let Scored { targets, processed, timing } = result.map_err(|error| self.failed(&error))?;
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

    fn logits(
        &mut self,
        sequence: &ScoringSequence,
        places: &[usize],
        visit: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), ModelError> {
        let batch = PackedBatch::pack([sequence]);
        check(&batch, &self.info.limits)?;
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
