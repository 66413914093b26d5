//! A layer's attention: projections to queries, keys and values, and back to the residual stream.

use candle_core::{Result, Tensor};
use plumbline_core::Segment;

use crate::ops::{Ops, QkNorm, Qkv};
use crate::rope::RopeTable;
use crate::spec::{AttentionProjection, AttentionSpec, LatentSpec, QkNormScope, QkNormSpec};
use crate::weights::{Linear, Norm, WeightLoader, WeightsError};

/// Attention with its weights.
#[derive(Debug)]
pub(super) struct Attention {
    spec: AttentionSpec,
    projection: Projection,
    output: Linear,
}

#[derive(Debug)]
enum Projection {
    Direct { qkv: Linear, qk_norm: Option<QkNorm> },
    Latent(Latent),
}

#[derive(Debug)]
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

    pub(super) fn forward(
        &self,
        x: &Tensor,
        ropes: &[RopeTable],
        segments: &[Segment],
        ops: &dyn Ops,
    ) -> Result<Tensor> {
        let rope = self.spec.rope.and_then(|index| ropes.get(index));
        let qkv = match &self.projection {
            Projection::Direct { qkv, qk_norm } => {
                ops.split_and_rotate(&ops.linear(x, qkv)?, &self.spec, qk_norm.as_ref(), rope)?
            }
            Projection::Latent(latent) => latent.forward(x, &self.spec, rope, ops)?,
        };
        ops.linear(&ops.attention(&qkv, &self.spec, segments)?, &self.output)
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

    fn forward(&self, x: &Tensor, spec: &AttentionSpec, rope: Option<&RopeTable>, ops: &dyn Ops) -> Result<Qkv> {
        let rows = x.dim(0)?;
        let plain = spec.head_dim - self.rope_dim;
        let query = match &self.query_down {
            Some((down, norm)) => ops.linear(&ops.norm(&ops.linear(x, down)?, norm)?, &self.query_up)?,
            None => ops.linear(x, &self.query_up)?,
        };
        let query = query.reshape((rows, spec.heads, spec.head_dim))?;
        let latent = ops.linear(x, &self.kv_down)?;
        let compressed = ops.norm(&latent.narrow(1, 0, self.kv_rank)?.contiguous()?, &self.kv_norm)?;
        let key_value = ops.linear(&compressed, &self.kv_up)?.reshape((rows, spec.heads, plain + spec.value_dim))?;
        let rotate = |x: &Tensor| match rope {
            Some(rope) => rope.rotate(x),
            None => Ok(x.clone()),
        };
        let query_turned = rotate(&query.narrow(2, plain, self.rope_dim)?)?;
        let key_turned = rotate(&latent.narrow(1, self.kv_rank, self.rope_dim)?.unsqueeze(1)?)?;
        let key_turned = key_turned.broadcast_as((rows, spec.heads, self.rope_dim))?;
        Ok(Qkv {
            query: Tensor::cat(&[query.narrow(2, 0, plain)?, query_turned], 2)?.contiguous()?,
            key: Tensor::cat(&[key_value.narrow(2, 0, plain)?, key_turned], 2)?.contiguous()?,
            value: key_value.narrow(2, plain, spec.value_dim)?.contiguous()?,
        })
    }
}
