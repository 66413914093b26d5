//! The one forward: packed, teacher-forced, without a cache, written over [`Ops`] for every family and device.

mod attention;
mod experts;
mod gated;
mod mlp;

use candle_core::{DType, Device, Result, Tensor};
use plumbline_core::{PackedBatch, TokenId};

use self::attention::Attention;
use self::mlp::Mlp;
use crate::ops::{HeadTarget, Ops, TargetScore};
use crate::rope::RopeCache;
use crate::spec::{DecoderSpec, LayerSpec};
use crate::weights::{Linear, Norm, WeightLoader, WeightsError};

/// A decoder with its weights.
#[derive(Debug)]
pub(crate) struct Decoder {
    spec: DecoderSpec,
    dtype: DType,
    device: Device,
    embedding: Tensor,
    learned_positions: Option<Tensor>,
    layers: Vec<Layer>,
    final_norm: Norm,
    head: Linear,
    ropes: Vec<RopeCache>,
}

#[derive(Debug)]
struct Layer {
    pre_attention: Option<Norm>,
    attention: Attention,
    post_attention: Option<Norm>,
    pre_mlp: Option<Norm>,
    mlp: Mlp,
    post_mlp: Option<Norm>,
}

impl Decoder {
    /// Takes the weights that `spec` asks for out of a checkpoint. The caller must still ask the loader to
    /// [`WeightLoader::finish`].
    pub(crate) fn load(
        spec: DecoderSpec,
        loader: &WeightLoader<'_>,
        dtype: DType,
        head_dtype: DType,
        device: &Device,
    ) -> std::result::Result<Self, WeightsError> {
        let hidden = spec.hidden_size;
        let embedding = loader.tensor(&spec.embedding, &[spec.vocab_size, hidden])?;
        let layers = spec
            .layers
            .iter()
            .map(|layer| Layer::load(layer, hidden, loader))
            .collect::<std::result::Result<_, _>>()?;
        let learned_positions = match &spec.learned_positions {
            Some(name) => Some(loader.tensor(name, &[spec.max_positions, hidden])?),
            None => None,
        };
        let final_norm = loader.norm(&spec.final_norm, &[hidden])?;
        let failed =
            |error: candle_core::Error| WeightsError::Tensor { name: "lm_head".into(), reason: error.to_string() };
        let weight = match &spec.head.weight {
            Some(name) => loader.tensor_as(name, &[spec.vocab_size, hidden], head_dtype)?,
            None => embedding.to_dtype(head_dtype).map_err(failed)?,
        };
        let bias = match &spec.head.bias {
            Some(name) => Some(loader.tensor_as(name, &[spec.vocab_size], head_dtype)?),
            None => None,
        };
        let ropes = spec.ropes.iter().map(|rope| RopeCache::new(rope, dtype, device)).collect();
        let head = Linear { weight, bias };
        Ok(Self { spec, dtype, device: device.clone(), embedding, learned_positions, layers, final_norm, head, ropes })
    }

    pub(crate) fn spec(&self) -> &DecoderSpec {
        &self.spec
    }

    /// Hidden states before the final norm, `[batch.tokens(), hidden]`.
    pub(crate) fn hidden_states(&mut self, batch: &PackedBatch, ops: &dyn Ops) -> Result<Tensor> {
        let tables = self.ropes.iter_mut().map(|rope| rope.table(batch.segments())).collect::<Result<Vec<_>>>()?;
        let ids = Tensor::new(batch.token_ids(), &self.device)?;
        let mut x = self.embedding.index_select(&ids, 0)?;
        if self.spec.embedding_multiplier != 1.0 {
            x = (x * self.spec.embedding_multiplier)?;
        }
        if let Some(positions) = &self.learned_positions {
            x = (x + positions.index_select(&Tensor::new(batch.position_ids(), &self.device)?, 0)?)?;
        }
        for (layer, spec) in self.layers.iter().zip(&self.spec.layers) {
            let attention_input = match &layer.pre_attention {
                Some(norm) => ops.norm(&x, norm)?,
                None => x.clone(),
            };
            let attended = layer.attention.forward(&attention_input, &tables, batch.segments(), ops)?;
            let attended = normed(attended, layer.post_attention.as_ref(), ops)?;
            let after_attention = ops.add(&x, &attended, spec.residual_multiplier)?;
            let mlp_input = match &layer.pre_mlp {
                Some(norm) => ops.norm(if spec.parallel { &x } else { &after_attention }, norm)?,
                None if spec.parallel => attention_input,
                None => after_attention.clone(),
            };
            let fed = normed(layer.mlp.forward(&mlp_input, ops)?, layer.post_mlp.as_ref(), ops)?;
            x = ops.add(&after_attention, &fed, spec.residual_multiplier)?;
        }
        Ok(x)
    }

    /// Scores of the batch's targets from its hidden states. Logits exist for `chunk_rows` rows at a time only.
    pub(crate) fn head_scores(
        &self,
        hidden: &Tensor,
        batch: &PackedBatch,
        ops: &dyn Ops,
        chunk_rows: usize,
    ) -> Result<Vec<TargetScore>> {
        let mut scores = Vec::with_capacity(batch.targets().len());
        for (rows, targets) in chunks(batch, chunk_rows) {
            let x = hidden.index_select(&Tensor::new(rows, &self.device)?, 0)?;
            let x = ops.norm(&x, &self.final_norm)?.to_dtype(self.head.weight.dtype())?;
            let mut logits = ops.linear(&x, &self.head)?;
            // Half-precision logits are widened before anything is done with them: statistics are never coarser than f32.
            logits = logits.to_dtype(if self.dtype == DType::F64 { DType::F64 } else { DType::F32 })?;
            if self.spec.head.multiplier != 1.0 {
                logits = (logits * self.spec.head.multiplier)?;
            }
            if let Some(cap) = self.spec.head.softcap {
                logits = ((logits / cap)?.tanh()? * cap)?;
            }
            scores.extend(ops.head_scores(&logits, &targets, &self.spec.eos_token_ids)?);
        }
        Ok(scores)
    }
}

impl Layer {
    fn load(spec: &LayerSpec, hidden: usize, loader: &WeightLoader<'_>) -> std::result::Result<Self, WeightsError> {
        let norm = |norm: &Option<_>| norm.as_ref().map(|norm| loader.norm(norm, &[hidden])).transpose();
        Ok(Self {
            pre_attention: norm(&spec.pre_attention)?,
            attention: Attention::load(&spec.attention, loader)?,
            post_attention: norm(&spec.post_attention)?,
            pre_mlp: norm(&spec.pre_mlp)?,
            mlp: Mlp::load(&spec.mlp, loader)?,
            post_mlp: norm(&spec.post_mlp)?,
        })
    }
}

fn normed(x: Tensor, norm: Option<&Norm>, ops: &dyn Ops) -> Result<Tensor> {
    match norm {
        Some(norm) => ops.norm(&x, norm),
        None => Ok(x),
    }
}

/// Splits a batch's targets into runs over at most `chunk_rows` distinct consecutive rows: the rows of each run and its
/// targets, whose `row` counts within the run.
fn chunks(batch: &PackedBatch, chunk_rows: usize) -> Vec<(Vec<u32>, Vec<HeadTarget>)> {
    let mut runs: Vec<(Vec<u32>, Vec<HeadTarget>)> = Vec::new();
    for target in batch.targets() {
        let row = target.row as u32;
        let (token, temperature): (TokenId, f64) = (target.token, target.temperature);
        match runs.last_mut() {
            Some((rows, targets)) if rows.last() == Some(&row) => {
                targets.push(HeadTarget { row: rows.len() - 1, token, temperature });
            }
            Some((rows, targets)) if rows.len() < chunk_rows => {
                targets.push(HeadTarget { row: rows.len(), token, temperature });
                rows.push(row);
            }
            _ => runs.push((vec![row], vec![HeadTarget { row: 0, token, temperature }])),
        }
    }
    runs
}
