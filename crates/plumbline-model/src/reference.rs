//! The resident reference: a decoder behind [`ReferenceModel`].

use std::time::Instant;

use candle_core::{DType, Device};
use plumbline_core::{
    BatchScores, ModelError, ModelLimits, PackedBatch, ReferenceInfo, ReferenceModel, ScoreTiming, TokenScores,
};

use crate::decoder::Decoder;
use crate::error::classify;
use crate::ops::{GenericOps, Ops, TargetScore};
use crate::weights::WeightSizes;

/// Memory that the logits of one chunk of rows may take.
const HEAD_CHUNK_BYTES: usize = 64 << 20;

/// A model held in memory, ready to score.
#[derive(Debug)]
pub struct CandleReference {
    decoder: Decoder,
    ops: Box<dyn Ops>,
    info: ReferenceInfo,
    head_chunk_rows: usize,
}

impl CandleReference {
    pub(crate) fn new(
        decoder: Decoder,
        name: String,
        policy_version: String,
        (dtype, head_dtype): (DType, DType),
        device: &Device,
        sizes: WeightSizes,
    ) -> Self {
        let spec = decoder.spec();
        let info = ReferenceInfo {
            model: name,
            family: spec.family.clone(),
            policy_version,
            dtype: dtype.as_str().into(),
            head_dtype: head_dtype.as_str().into(),
            device: device_name(device),
            parameters: sizes.parameters,
            weight_bytes: sizes.bytes,
            eos_token_ids: spec.eos_token_ids.clone(),
            limits: ModelLimits { vocab_size: spec.vocab_size, max_positions: spec.max_positions },
        };
        let row_bytes = info.limits.vocab_size * DType::F32.size_in_bytes();
        let head_chunk_rows = (HEAD_CHUNK_BYTES / row_bytes).clamp(1, 1024);
        Self { decoder, ops: Box::new(GenericOps), info, head_chunk_rows }
    }
}

impl ReferenceModel for CandleReference {
    fn info(&self) -> &ReferenceInfo {
        &self.info
    }

    fn score(&mut self, batch: &PackedBatch) -> Result<BatchScores, ModelError> {
        check(batch, &self.info.limits)?;
        if batch.tokens() == 0 {
            return Ok(BatchScores {
                sequences: vec![TokenScores::default(); batch.sequences()],
                timing: ScoreTiming::default(),
            });
        }
        let started = Instant::now();
        let hidden = self.decoder.hidden_states(batch, self.ops.as_ref()).map_err(|error| classify(&error))?;
        let forward = started.elapsed();
        let scores = self
            .decoder
            .head_scores(&hidden, batch, self.ops.as_ref(), self.head_chunk_rows)
            .map_err(|error| classify(&error))?;
        let head = started.elapsed() - forward;
        let sequences =
            batch.sequence_targets().iter().map(|range| collect(&scores[range.clone()])).collect::<Result<_, _>>()?;
        Ok(BatchScores { sequences, timing: ScoreTiming { forward, head } })
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
        gathered.logprobs_at_temperature.push(score.logprob_at_temperature);
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
