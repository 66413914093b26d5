//! A layer's attention: projections to queries, keys and values, and back to the residual stream.

use candle_core::Result;
use plumbline_core::Segment;

use crate::ops::{Ops, QkNorm};
use crate::rope::RopeTable;
use crate::spec::{AttentionProjection, AttentionSpec, LatentSpec, QkNormScope, QkNormSpec};
use crate::weights::{Linear, Norm, WeightLoader, WeightsError};

/// Attention with its weights.
#[derive(Clone, Debug)]
pub(super) struct Attention {
    spec: AttentionSpec,
    projection: Projection,
    output: Linear,
}

#[derive(Clone, Debug)]
enum Projection {
    Direct { qkv: Linear, qk_norm: Option<QkNorm> },
    Latent(Latent),
}

#[derive(Clone, Debug)]
struct Latent {
    query_down: Option<(Linear, Norm)>,
    query_up: Linear,
    kv_down: Linear,
    kv_norm: Norm,
    kv_up: Linear,
    kv_rank: usize,
    rope_dim: usize,
}

impl Attention {
    pub(super) fn load(spec: &AttentionSpec, loader: &WeightLoader<'_>) -> std::result::Result<Self, WeightsError> {
        let projection = match &spec.projection {
            AttentionProjection::Direct { qkv, qk_norm } => Projection::Direct {
                qkv: loader.linear(qkv)?,
                qk_norm: qk_norm.as_ref().map(|norm| load_qk_norm(norm, spec, loader)).transpose()?,
            },
            AttentionProjection::Latent(latent) => Projection::Latent(Latent::load(latent, loader)?),
        };
        Ok(Self { spec: spec.clone(), projection, output: loader.linear(&spec.output)? })
    }

    /// Takes another description, which must ask for the same tensors.
    pub(super) fn set_spec(&mut self, spec: AttentionSpec) {
        self.spec = spec;
    }

    pub(super) fn forward<O: Ops>(
        &self,
        x: &O::Rows,
        ropes: &[RopeTable],
        segments: &[Segment],
        ops: &O,
    ) -> Result<O::Rows> {
        let rope = self.spec.rope.and_then(|index| ropes.get(index));
        let qkv = match &self.projection {
            Projection::Direct { qkv, qk_norm } => {
                ops.direct_qkv(ops.linear(x, qkv)?, &self.spec, qk_norm.as_ref(), rope)?
            }
            Projection::Latent(latent) => latent.forward(x, &self.spec, rope, ops)?,
        };
        let attended = ops.attention(&qkv, &self.spec, segments)?;
        // Queries, keys and values are as large as a hidden state or more; they are not kept for the projection.
        drop(qkv);
        ops.linear(&attended, &self.output)
    }
}

fn load_qk_norm(
    norm: &QkNormSpec,
    spec: &AttentionSpec,
    loader: &WeightLoader<'_>,
) -> std::result::Result<QkNorm, WeightsError> {
    let load = |norm_spec, heads| match norm.scope {
        QkNormScope::Head => loader.norm(norm_spec, &[spec.head_dim]),
        QkNormScope::EachHead => loader.norm(norm_spec, &[heads, spec.head_dim]),
        QkNormScope::EachHeadListed => loader.listed_norm(norm_spec, heads, spec.head_dim),
        QkNormScope::AllHeads => loader.norm(norm_spec, &[heads * spec.head_dim]),
    };
    Ok(QkNorm {
        query: load(&norm.query, spec.heads)?,
        key: load(&norm.key, spec.kv_heads)?,
        all_heads: norm.scope == QkNormScope::AllHeads,
    })
}

impl Latent {
    fn load(spec: &LatentSpec, loader: &WeightLoader<'_>) -> std::result::Result<Self, WeightsError> {
        let query_down = match &spec.query_down {
            Some((down, norm)) => Some((loader.linear(down)?, loader.norm(norm, &[spec.query_up.input])?)),
            None => None,
        };
        Ok(Self {
            query_down,
            query_up: loader.linear(&spec.query_up)?,
            kv_down: loader.linear(&spec.kv_down)?,
            kv_norm: loader.norm(&spec.kv_norm, &[spec.kv_rank])?,
            kv_up: loader.linear(&spec.kv_up)?,
            kv_rank: spec.kv_rank,
            rope_dim: spec.rope_dim,
        })
    }

    fn forward<O: Ops>(&self, x: &O::Rows, spec: &AttentionSpec, rope: Option<&RopeTable>, ops: &O) -> Result<O::Qkv> {
        let query = match &self.query_down {
            Some((down, norm)) => ops.linear(&ops.norm(&ops.linear(x, down)?, norm)?, &self.query_up)?,
            None => ops.linear(x, &self.query_up)?,
        };
        let latent = ops.linear(x, &self.kv_down)?;
        let compressed = ops.norm(&ops.leading_columns(&latent, self.kv_rank)?, &self.kv_norm)?;
        let key_value = ops.linear(&compressed, &self.kv_up)?;
        ops.latent_qkv(query, &latent, key_value, spec, self.rope_dim, rope)
    }
}
