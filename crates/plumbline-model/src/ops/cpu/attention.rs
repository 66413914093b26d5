//! Causal attention over packed segments, in blocks of queries and keys.
//!
//! Blocks lie at multiples of their size from the start of a sequence, not of a segment, and every block of keys is copied
//! together before it is multiplied. So a row's numbers depend on its own sequence only, whether its prefix is rows of its own
//! segment or of an ancestor that it shares. Memory does not grow with length: the softmax runs along the blocks of keys.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use candle_core::Result;
use plumbline_core::Segment;
use rayon::prelude::*;

use super::gemm::{Depth, MIN_SIDE, Output, Threads, View, multiply};
use super::kernels;
use super::matrix::{Matrix, Pool};
use crate::ops::Rounding;
use crate::profile::{Profile, Stage};
use crate::spec::AttentionSpec;

/// Keys of a block.
const KEY_BLOCK: usize = 256;
/// Keys are padded with zeros to a multiple of this; with [`MIN_SIDE`] rows no product is too small.
const KEY_STEP: usize = 64;
/// Rows of queries, over the heads that share keys, that a block should have.
const QUERY_ROWS: usize = 256;

/// Channels of heads within the rows of a matrix.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heads {
    /// Index into [`Qkv::matrices`].
    pub(super) matrix: usize,
    /// First channel of the first head.
    pub(super) offset: usize,
    /// From one head to the next.
    pub(super) stride: usize,
}

/// Queries, keys and values of all rows of a batch, where they came out of the projections.
#[derive(Debug)]
pub(crate) struct Qkv {
    pub(super) matrices: Vec<Matrix>,
    pub(super) query: Heads,
    pub(super) key: Heads,
    pub(super) value: Heads,
}

impl Qkv {
    /// The channels of one head in one row.
    fn head(&self, heads: Heads, row: usize, head: usize, width: usize) -> &[f32] {
        &self.matrices[heads.matrix].row(row)[heads.offset + head * heads.stride..][..width]
    }
}

/// Consecutive positions of a sequence and the rows that hold them.
#[derive(Clone, Copy, Debug)]
struct Piece {
    position: usize,
    row: usize,
    len: usize,
}

/// A block of queries with the place for its result.
struct Block<'a> {
    segment: usize,
    row: usize,
    position: usize,
    len: usize,
    output: &'a mut [f32],
}

/// Work space of one thread.
struct Scratch {
    query: Matrix,
    key: Matrix,
    value: Matrix,
    scores: Matrix,
    sums: Matrix,
    softmax: Vec<Running>,
}

/// State of a row's softmax.
#[derive(Clone, Copy)]
struct Running {
    max: f32,
    sum: f64,
}

/// See [`crate::ops::Ops::attention`].
pub(super) fn attend(
    pool: &Pool,
    qkv: &Qkv,
    spec: &AttentionSpec,
    segments: &[Segment],
    rounding: Rounding,
    profile: Option<&Profile>,
) -> Result<Matrix> {
    let started = Instant::now();
    let rows = segments.last().map_or(0, |last| last.start + last.len);
    let mut output = pool.take(rows, spec.heads * spec.value_dim);
    let group = spec.heads / spec.kv_heads;
    let block_len = block_len(group);
    let chains: Vec<Vec<Piece>> = (0..segments.len()).map(|index| chain(segments, index)).collect();
    let mut blocks = blocks(segments, block_len, output.values_mut(), spec.heads * spec.value_dim);
    // The longest first, so that no thread ends with one alone.
    blocks.sort_by_key(|block| std::cmp::Reverse(block.len * (block.position + block.len)));

    let clock = profile.map(|_| Clock::default());
    let padded_rows = (group * block_len).max(MIN_SIDE);
    let value_width = value_width(spec);
    let scratch = || Scratch {
        query: pool.take(padded_rows, spec.head_dim),
        key: pool.take(KEY_BLOCK, spec.head_dim),
        value: pool.take(KEY_BLOCK, value_width),
        scores: pool.take(padded_rows, KEY_BLOCK),
        sums: pool.take(padded_rows, value_width),
        softmax: Vec::with_capacity(padded_rows),
    };
    blocks.into_par_iter().with_max_len(1).try_for_each_init(scratch, |scratch, mut block| {
        let started = Instant::now();
        let pieces = &chains[block.segment];
        attend_block(scratch, qkv, spec, pieces, &mut block, rounding, clock.as_ref())?;
        if let Some(clock) = &clock {
            clock.add(&clock.all, started);
        }
        Ok::<_, candle_core::Error>(())
    })?;
    if let (Some(profile), Some(clock)) = (profile, clock) {
        let wall = started.elapsed();
        let share = clock.gemm.load(Relaxed) as f64 / clock.all.load(Relaxed).max(1) as f64;
        profile.add(Stage::AttentionGemm, wall.mul_f64(share));
        profile.add(Stage::AttentionOther, wall.mul_f64(1.0 - share));
    }
    Ok(output)
}

/// Time of all threads together.
#[derive(Default)]
struct Clock {
    all: AtomicU64,
    gemm: AtomicU64,
}

impl Clock {
    fn add(&self, counter: &AtomicU64, started: Instant) {
        counter.fetch_add(started.elapsed().as_nanos() as u64, Relaxed);
    }
}

/// Width of the values that are multiplied: narrow ones are padded with zeros.
fn value_width(spec: &AttentionSpec) -> usize {
    spec.value_dim.max(MIN_SIDE)
}

/// Queries of a block: a power of two, so that about [`QUERY_ROWS`] rows come together.
fn block_len(group: usize) -> usize {
    let len = (QUERY_ROWS / group).clamp(16, 128);
    if len.is_power_of_two() { len } else { len.next_power_of_two() / 2 }
}

/// The rows of a segment's sequence up to its own last one.
fn chain(segments: &[Segment], index: usize) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut next = segments.get(index);
    while let Some(segment) = next {
        pieces.push(Piece { position: segment.position, row: segment.start, len: segment.len });
        next = segment.parent.and_then(|parent| segments.get(parent));
    }
    pieces.reverse();
    pieces
}

/// Cuts all segments at multiples of `block_len` positions.
fn blocks<'a>(segments: &[Segment], block_len: usize, mut output: &'a mut [f32], width: usize) -> Vec<Block<'a>> {
    let mut blocks = Vec::new();
    for (index, segment) in segments.iter().enumerate() {
        let (mut position, end) = (segment.position, segment.position + segment.len);
        while position < end {
            let len = (block_len - position % block_len).min(end - position);
            let (own, rest) = std::mem::take(&mut output).split_at_mut(len * width);
            output = rest;
            let row = segment.start + position - segment.position;
            blocks.push(Block { segment: index, row, position, len, output: own });
            position += len;
        }
    }
    blocks
}

fn attend_block(
    scratch: &mut Scratch,
    qkv: &Qkv,
    spec: &AttentionSpec,
    pieces: &[Piece],
    block: &mut Block<'_>,
    rounding: Rounding,
    clock: Option<&Clock>,
) -> Result<()> {
    let group = spec.heads / spec.kv_heads;
    let value_width = value_width(spec);
    let rows = group * block.len;
    let padded_rows = rows.max(MIN_SIDE);
    let end = block.position + block.len;
    let first_key = spec.window.map_or(0, |window| (block.position + 1).saturating_sub(window));
    let timed = |work: &mut dyn FnMut() -> Result<()>| {
        let started = Instant::now();
        work()?;
        if let Some(clock) = clock {
            clock.add(&clock.gemm, started);
        }
        Ok::<_, candle_core::Error>(())
    };
    for kv_head in 0..spec.kv_heads {
        let query = &mut scratch.query.values_mut()[..padded_rows * spec.head_dim];
        for (row, query) in query.chunks_exact_mut(spec.head_dim).enumerate() {
            if row < rows {
                let head = kv_head * group + row / block.len;
                query.copy_from_slice(qkv.head(qkv.query, block.row + row % block.len, head, spec.head_dim));
            } else {
                query.fill(0.0);
            }
        }
        scratch.sums.values_mut()[..padded_rows * value_width].fill(0.0);
        scratch.softmax.clear();
        scratch.softmax.resize(rows, Running { max: f32::NEG_INFINITY, sum: 0.0 });
        for start in (first_key / KEY_BLOCK * KEY_BLOCK..end).step_by(KEY_BLOCK) {
            let keys = start..end.min(start + KEY_BLOCK);
            let padded_keys = keys.len().next_multiple_of(KEY_STEP);
            let copy = |to: &mut Matrix, heads, width| {
                gather(to, qkv, heads, kv_head, width, pieces, keys.clone(), padded_keys);
            };
            copy(&mut scratch.key, qkv.key, spec.head_dim);
            copy(&mut scratch.value, qkv.value, spec.value_dim);
            let scores = scratch.scores.values_mut();
            timed(&mut || {
                multiply(
                    Output { values: &mut *scores, row_stride: KEY_BLOCK, accumulate: false },
                    View::rows(scratch.query.values(), padded_rows, spec.head_dim, spec.head_dim),
                    View::rows(scratch.key.values(), padded_keys, spec.head_dim, spec.head_dim).transposed(),
                    spec.scale as f32,
                    Depth::Cut,
                    Threads::One,
                )
            })?;
            let sums = scratch.sums.values_mut();
            for (row, scores) in scores.chunks_exact_mut(KEY_BLOCK).take(padded_rows).enumerate() {
                let scores = &mut scores[..padded_keys];
                let visible = if row < rows {
                    let position = block.position + row % block.len;
                    let oldest = spec.window.map_or(0, |window| (position + 1).saturating_sub(window));
                    oldest.max(keys.start) - keys.start..(position + 1).min(keys.end).saturating_sub(keys.start)
                } else {
                    0..0
                };
                if visible.is_empty() {
                    scores.fill(0.0);
                    continue;
                }
                let sums = &mut sums[row * value_width..][..value_width];
                weigh(scores, visible, spec.softcap, &mut scratch.softmax[row], sums);
                rounding.narrow(scores);
            }
            timed(&mut || {
                multiply(
                    Output { values: &mut *sums, row_stride: value_width, accumulate: true },
                    View::rows(&*scores, padded_rows, padded_keys, KEY_BLOCK),
                    View::rows(scratch.value.values(), padded_keys, value_width, value_width),
                    1.0,
                    Depth::Cut,
                    Threads::One,
                )
            })?;
        }
        for (row, (running, sums)) in
            scratch.softmax.iter().zip(scratch.sums.values().chunks_exact(value_width)).enumerate()
        {
            let head = kv_head * group + row / block.len;
            let output = &mut block.output[(row % block.len * spec.heads + head) * spec.value_dim..][..spec.value_dim];
            output.copy_from_slice(&sums[..spec.value_dim]);
            kernels::scale(output, (1.0 / running.sum) as f32);
            rounding.narrow(output);
        }
    }
    Ok(())
}

/// Turns the scores of `visible` into weights relative to the largest score so far, all others into 0, and brings what was
/// summed before to the same scale.
fn weigh(scores: &mut [f32], visible: Range<usize>, softcap: Option<f64>, running: &mut Running, sums: &mut [f32]) {
    scores[..visible.start].fill(0.0);
    scores[visible.end..].fill(0.0);
    let scores = &mut scores[visible];
    if let Some(cap) = softcap {
        kernels::softcap(scores, cap as f32);
    }
    let largest = kernels::max(scores);
    if largest > running.max {
        if running.sum > 0.0 {
            let factor = (f64::from(running.max) - f64::from(largest)).exp();
            running.sum *= factor;
            kernels::scale(sums, factor as f32);
        }
        running.max = largest;
    }
    running.sum += kernels::exp_below(scores, running.max);
}

/// Copies the keys or values of one head at positions `keys` to consecutive rows; the rows after them up to `padded` and
/// the columns after `width` become 0.
#[expect(clippy::too_many_arguments, reason = "which head of what, where from and where to")]
fn gather(
    to: &mut Matrix,
    qkv: &Qkv,
    heads: Heads,
    head: usize,
    width: usize,
    pieces: &[Piece],
    keys: Range<usize>,
    padded: usize,
) {
    let stride = to.width();
    let to = &mut to.values_mut()[..padded * stride];
    for piece in pieces {
        for position in keys.start.max(piece.position)..keys.end.min(piece.position + piece.len) {
            let row = piece.row + position - piece.position;
            let to = &mut to[(position - keys.start) * stride..][..stride];
            to[..width].copy_from_slice(qkv.head(heads, row, head, width));
            to[width..].fill(0.0);
        }
    }
    to[keys.len() * stride..].fill(0.0);
}
