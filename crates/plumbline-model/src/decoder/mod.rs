//! The one forward: packed, teacher-forced, without a cache, written over [`Ops`] for every family and device.

mod attention;
mod experts;
mod feed_forward;
mod mlp;
mod streamed;

use candle_core::{DType, Device, Result, Tensor};
use plumbline_core::{PackedBatch, Segment};

use self::attention::Attention;
use self::mlp::Mlp;
use crate::ops::{Embedding, Head, LogitsVisitor, Ops, TargetScore};
use crate::rope::{RopeCache, RopeTable};
use crate::spec::{DecoderSpec, LayerSpec, RopeSpec};
use crate::weights::{Linear, Norm, WeightLoader, WeightsError};

/// A decoder with its weights.
#[derive(Clone, Debug)]
pub(crate) struct Decoder {
    spec: DecoderSpec,
    embedding: Tensor,
    learned_positions: Option<Tensor>,
    layers: Vec<Layer>,
    head: Head,
    ropes: Vec<RopeCache>,
}

#[derive(Clone, Debug)]
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
        let mut decoder = Self::load_ends(spec, loader, dtype, head_dtype, device)?;
        let layers = decoder.spec.layers.iter().map(|layer| Layer::load(layer, decoder.spec.hidden_size, loader));
        decoder.layers = layers.collect::<std::result::Result<_, _>>()?;
        Ok(decoder)
    }

    /// [`Decoder::load`] without the layers: what comes before them and after them.
    pub(crate) fn load_ends(
        spec: DecoderSpec,
        loader: &WeightLoader<'_>,
        dtype: DType,
        head_dtype: DType,
        device: &Device,
    ) -> std::result::Result<Self, WeightsError> {
        let hidden = spec.hidden_size;
        let embedding = loader.tensor(&spec.embedding, &[spec.vocab_size, hidden])?;
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
        let ropes = rope_caches(&spec, dtype, device);
        let head = Head {
            norm: final_norm,
            linear: Linear { weight, bias },
            multiplier: spec.head.multiplier,
            softcap: spec.head.softcap,
            eos: spec.eos_token_ids.clone(),
        };
        Ok(Self { spec, embedding, learned_positions, layers: Vec::new(), head, ropes })
    }

    /// The same weights under another description, which must ask for the same tensors. Nothing is copied but descriptions.
    pub(crate) fn with_spec(&self, spec: DecoderSpec) -> Self {
        let mut decoder = self.clone();
        for (layer, spec) in decoder.layers.iter_mut().zip(&spec.layers) {
            layer.attention.set_spec(spec.attention.clone());
        }
        decoder.head.softcap = spec.head.softcap;
        decoder.ropes = rope_caches(&spec, self.embedding.dtype(), self.embedding.device());
        decoder.spec = spec;
        decoder
    }

    pub(crate) fn spec(&self) -> &DecoderSpec {
        &self.spec
    }

    /// Whether the first rows of two sequences with the same first tokens are always the same: not so where the angles of
    /// a rotary embedding depend on the length of the whole sequence.
    pub(crate) fn shares_prefixes(&self) -> bool {
        !self.spec.ropes.iter().any(RopeSpec::depends_on_length)
    }

    /// Scores of the batch's targets from the hidden states of [`Decoder::hidden_states`].
    pub(crate) fn head_scores<O: Ops>(
        &self,
        hidden: &O::Rows,
        batch: &PackedBatch,
        ops: &O,
    ) -> Result<Vec<TargetScore>> {
        ops.head_scores(hidden, &self.head, batch.targets())
    }

    /// Whole logits of some rows of [`Decoder::hidden_states`], in pieces; see [`Ops::head_logits`].
    pub(crate) fn head_logits<O: Ops>(
        &self,
        hidden: &O::Rows,
        rows: &[u32],
        ops: &O,
        visit: &mut LogitsVisitor<'_>,
    ) -> Result<()> {
        ops.head_logits(hidden, &self.head, rows, visit)
    }

    /// Hidden states before the final norm, `[batch.tokens(), hidden]`.
    pub(crate) fn hidden_states<O: Ops>(&mut self, batch: &PackedBatch, ops: &O) -> Result<O::Rows> {
        let tables = self.tables(batch)?;
        let mut x = self.embed(batch, ops)?;
        for (layer, spec) in self.layers.iter().zip(&self.spec.layers) {
            x = layer.forward(x, spec, &tables, batch.segments(), ops)?;
        }
        Ok(x)
    }

    fn tables(&mut self, batch: &PackedBatch) -> Result<Vec<RopeTable>> {
        self.ropes.iter_mut().map(|rope| rope.table(batch.segments())).collect()
    }

    fn embed<O: Ops>(&self, batch: &PackedBatch, ops: &O) -> Result<O::Rows> {
        ops.embed(&Embedding {
            table: &self.embedding,
            ids: batch.token_ids(),
            multiplier: self.spec.embedding_multiplier,
            positions: self.learned_positions.as_ref().map(|table| (table, batch.position_ids())),
        })
    }
}

fn rope_caches(spec: &DecoderSpec, dtype: DType, device: &Device) -> Vec<RopeCache> {
    spec.ropes.iter().map(|rope| RopeCache::new(rope, dtype, device)).collect()
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

    fn forward<O: Ops>(
        &self,
        x: O::Rows,
        spec: &LayerSpec,
        ropes: &[RopeTable],
        segments: &[Segment],
        ops: &O,
    ) -> Result<O::Rows> {
        let multiplier = spec.residual_multiplier;
        let attention_input = self.pre_attention.as_ref().map(|norm| ops.norm(&x, norm)).transpose()?;
        let attended = self.attention.forward(attention_input.as_ref().unwrap_or(&x), ropes, segments, ops)?;
        let attended = normed(attended, self.post_attention.as_ref(), ops)?;
        if spec.parallel {
            let mlp_input = self.pre_mlp.as_ref().map(|norm| ops.norm(&x, norm)).transpose()?.or(attention_input);
            let fed = self.mlp.forward(mlp_input.as_ref().unwrap_or(&x), ops)?;
            let fed = normed(fed, self.post_mlp.as_ref(), ops)?;
            return ops.add(ops.add(x, &attended, multiplier)?, &fed, multiplier);
        }
        drop(attention_input);
        let (x, mlp_input) = match &self.pre_mlp {
            Some(norm) => {
                let (x, normed) = ops.add_norm(x, &attended, multiplier, norm)?;
                (x, Some(normed))
            }
            None => (ops.add(x, &attended, multiplier)?, None),
        };
        drop(attended);
        let fed = self.mlp.forward(mlp_input.as_ref().unwrap_or(&x), ops)?;
        ops.add(x, &normed(fed, self.post_mlp.as_ref(), ops)?, multiplier)
    }
}

fn normed<O: Ops>(x: O::Rows, norm: Option<&Norm>, ops: &O) -> Result<O::Rows> {
    match norm {
        Some(norm) => ops.norm(&x, norm),
        None => Ok(x),
    }
}
