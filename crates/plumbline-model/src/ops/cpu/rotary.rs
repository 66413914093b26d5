//! From projections to queries and keys: norms and rotary embeddings, in place.

use candle_core::Result;
use rayon::prelude::*;

use super::attention::{Heads, Qkv};
use super::kernels;
use super::linear::TASK_ROWS;
use super::matrix::{Matrix, Pool};
use super::norm::NormWeights;
use super::weights::Weights;
use crate::ops::{QkNorm, Rounding};
use crate::rope::RopeTable;
use crate::spec::AttentionSpec;

/// Cosines and sines of a batch as slices.
struct Angles<'a> {
    cos: Weights<'a>,
    sin: Weights<'a>,
    interleaved: bool,
}

impl<'a> Angles<'a> {
    fn of(rope: &'a RopeTable) -> Result<Self> {
        Ok(Self { cos: Weights::of(rope.cos())?, sin: Weights::of(rope.sin())?, interleaved: rope.interleaved() })
    }

    fn turn(&self, rows: usize, rounding: Rounding) -> Result<Turn<'_>> {
        let (cos, sin) = (self.cos.values()?, self.sin.values()?);
        Ok(Turn { cos, sin, pairs: cos.len() / rows, interleaved: self.interleaved, rounding })
    }
}

/// Turns the leading channels of heads.
#[derive(Clone, Copy)]
struct Turn<'a> {
    cos: &'a [f32],
    sin: &'a [f32],
    pairs: usize,
    interleaved: bool,
    rounding: Rounding,
}

impl Turn<'_> {
    /// Turns one head of one row. Interleaved pairs come out as halves, as in [`RopeTable::rotate`].
    fn head(&self, head: &mut [f32], row: usize, work: &mut Vec<f32>) {
        let channels = &mut head[..2 * self.pairs];
        if self.interleaved {
            work.clear();
            work.extend(channels.iter().step_by(2).chain(channels.iter().skip(1).step_by(2)));
            channels.copy_from_slice(work);
        }
        let (first, second) = channels.split_at_mut(self.pairs);
        let angles = row * self.pairs..(row + 1) * self.pairs;
        kernels::rotate(first, second, &self.cos[angles.clone()], &self.sin[angles]);
        self.rounding.narrow(channels);
    }
}

/// Norms of queries and keys as slices.
struct QkNormWeights<'a> {
    query: NormWeights<'a>,
    key: NormWeights<'a>,
    all_heads: bool,
}

/// See [`crate::ops::Ops::direct_qkv`].
pub(super) fn direct(
    mut qkv: Matrix,
    spec: &AttentionSpec,
    norm: Option<&QkNorm>,
    rope: Option<&RopeTable>,
    rounding: Rounding,
) -> Result<Qkv> {
    let (rows, width, head_dim) = (qkv.rows(), qkv.width(), spec.head_dim);
    let (queries, keys) = (spec.heads * head_dim, spec.kv_heads * head_dim);
    let norm = match norm {
        Some(norm) => Some(QkNormWeights {
            query: NormWeights::of(&norm.query, rounding)?,
            key: NormWeights::of(&norm.key, rounding)?,
            all_heads: norm.all_heads,
        }),
        None => None,
    };
    let angles = rope.map(Angles::of).transpose()?;
    let turn = angles.as_ref().map(|angles| angles.turn(rows, rounding)).transpose()?;
    let norm = match &norm {
        Some(norm) => Some((norm.query.row()?, norm.key.row()?, norm.all_heads)),
        None => None,
    };
    if norm.is_some() || turn.is_some() {
        qkv.values_mut().par_chunks_mut(width).enumerate().with_min_len(TASK_ROWS).for_each_init(
            Vec::new,
            |work, (row, values)| {
                let (query, rest) = values.split_at_mut(queries);
                let key = &mut rest[..keys];
                if let Some((query_norm, key_norm, all_heads)) = &norm {
                    let span = |whole: usize| if *all_heads { whole } else { head_dim };
                    query_norm.each(query, span(queries), work);
                    key_norm.each(key, span(keys), work);
                }
                if let Some(turn) = &turn {
                    for head in query.chunks_exact_mut(head_dim).chain(key.chunks_exact_mut(head_dim)) {
                        turn.head(head, row, work);
                    }
                }
            },
        );
    }
    let heads = |offset| Heads { matrix: 0, offset, stride: head_dim };
    Ok(Qkv { matrices: vec![qkv], query: heads(0), key: heads(queries), value: heads(queries + keys) })
}

/// See [`crate::ops::Ops::latent_qkv`].
pub(super) fn latent(
    pool: &Pool,
    mut query: Matrix,
    latent: &Matrix,
    key_value: Matrix,
    spec: &AttentionSpec,
    rope_dim: usize,
    (rope, rounding): (Option<&RopeTable>, Rounding),
) -> Result<Qkv> {
    let (rows, head_dim) = (query.rows(), spec.head_dim);
    let plain = head_dim - rope_dim;
    let stride = plain + spec.value_dim;
    let angles = rope.map(Angles::of).transpose()?;
    let turn = angles.as_ref().map(|angles| angles.turn(rows, rounding)).transpose()?;
    let mut key = pool.take(rows, spec.heads * head_dim);
    let width = spec.heads * head_dim;
    query
        .values_mut()
        .par_chunks_mut(width)
        .zip(key.values_mut().par_chunks_mut(width))
        .enumerate()
        .with_min_len(TASK_ROWS)
        .for_each_init(Vec::new, |work, (row, (query, key))| {
            let latent = latent.row(row);
            let mut shared_key = latent[latent.len() - rope_dim..].to_vec();
            if let Some(turn) = &turn {
                turn.head(&mut shared_key, row, work);
                for head in query.chunks_exact_mut(head_dim) {
                    turn.head(&mut head[plain..], row, work);
                }
            }
            for (head, key_value) in key.chunks_exact_mut(head_dim).zip(key_value.row(row).chunks_exact(stride)) {
                head[..plain].copy_from_slice(&key_value[..plain]);
                head[plain..].copy_from_slice(&shared_key);
            }
        });
    Ok(Qkv {
        matrices: vec![query, key, key_value],
        query: Heads { matrix: 0, offset: 0, stride: head_dim },
        key: Heads { matrix: 1, offset: 0, stride: head_dim },
        value: Heads { matrix: 2, offset: plain, stride },
    })
}
