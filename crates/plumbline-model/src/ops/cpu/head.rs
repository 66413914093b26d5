//! The lm_head in blocks of rows and of the vocabulary: logits are used while they are in the cache and never held whole.
//!
//! Each row keeps running sums relative to its largest logit so far, in f64. Blocks lie at fixed places of the vocabulary,
//! so that a row's numbers depend on that row only.

use candle_core::Result;
use plumbline_core::Target;
use rayon::prelude::*;

use super::CpuOps;
use super::gemm::{MIN_SIDE, View};
use super::kernels;
use super::linear::TASK_ROWS;
use super::matrix::Matrix;
use super::norm::NormWeights;
use super::weights::Weights;
use crate::ops::head_rows::{HeadRow, HeadRows};
use crate::ops::{Head, LogitsVisitor, Rounding, TargetScore};
use crate::profile::Stage;

/// Columns of a block of logits: with 8 KiB a row they stay in the first cache between the passes over them.
const BLOCK_COLUMNS: usize = 2048;
/// Blocks begin at multiples of this: the products of whole panels (`super::panels`) waste nothing.
const PANEL: usize = 16;
/// Rows of a block of logits, where the memory bound allows it.
const BLOCK_ROWS: usize = 1024;
/// Targets whose own logits are computed together, ahead of the blocks. More than 64, so that the product is cut as those
/// of the blocks are.
const TARGET_GROUP: usize = 96;

/// The head's weights as slices.
#[derive(Clone, Copy)]
struct HeadWeights<'a> {
    /// `[vocab, hidden]`
    weight: &'a [f32],
    bias: Option<&'a [f32]>,
    hidden: usize,
    multiplier: f32,
    softcap: Option<f32>,
    eos: &'a [u32],
    rounding: Rounding,
}

impl<'a> HeadWeights<'a> {
    fn new(head: &'a Head, weight: &'a [f32], bias: Option<&'a [f32]>, hidden: &Matrix, rounding: Rounding) -> Self {
        Self {
            weight,
            bias,
            hidden: hidden.width(),
            multiplier: head.multiplier as f32,
            softcap: head.softcap.map(|cap| cap as f32),
            eos: &head.eos,
            rounding,
        }
    }

    fn vocabulary(&self) -> usize {
        self.weight.len() / self.hidden
    }

    /// From products to logits.
    fn finish(&self, products: &mut [f32]) {
        self.rounding.narrow_logits(products);
        if self.multiplier != 1.0 {
            kernels::scale(products, self.multiplier);
        }
        if let Some(cap) = self.softcap {
            kernels::softcap(products, cap);
        }
        if self.multiplier != 1.0 || self.softcap.is_some() {
            self.rounding.narrow_logits(products);
        }
    }
}

/// What is known of a target so far.
#[derive(Clone, Copy)]
struct TargetState {
    target: Target,
    logit: f32,
    above: u32,
    /// Sum of `e^((z - max) / T)`.
    cooled: f64,
}

/// What is known of a row so far, relative to its largest logit.
struct RowState<'a> {
    max: f32,
    sum: f64,
    weighted: f64,
    eos: Vec<f32>,
    targets: &'a mut [TargetState],
}

/// See [`crate::ops::Ops::head_scores`].
pub(super) fn scores(ops: &CpuOps, hidden: &Matrix, head: &Head, targets: &[Target]) -> Result<Vec<TargetScore>> {
    let grouped = HeadRows::new(targets);
    let (weight, norm) = (Weights::of(&head.linear.weight)?, NormWeights::of(&head.norm, ops.rounding)?);
    let bias = head.linear.bias.as_ref().map(Weights::of).transpose()?;
    let norm = norm.row()?;
    let bias = bias.as_ref().map(Weights::values).transpose()?;
    let weights = HeadWeights::new(head, weight.values()?, bias, hidden, ops.rounding);
    let blocks = weights.vocabulary().div_ceil(BLOCK_COLUMNS);
    let row_bytes = weights.vocabulary().div_ceil(blocks) * size_of::<f32>();
    let chunk_rows = (ops.chunks.head / row_bytes).clamp(MIN_SIDE, BLOCK_ROWS);

    let mut scores = Vec::with_capacity(grouped.distinct.len());
    for rows in grouped.rows.chunks(chunk_rows) {
        let mut x = ops.pool.take(rows.len(), hidden.width());
        ops.timed(Stage::Norm, || {
            x.values_mut()
                .par_chunks_mut(hidden.width())
                .zip(rows)
                .with_min_len(TASK_ROWS)
                .for_each(|(x, row)| norm.apply(x, hidden.row(row.row)));
        });
        score_rows(ops, &x, rows, &grouped.distinct, &weights, blocks, &mut scores)?;
    }
    Ok(grouped.spread(&scores))
}

/// See [`crate::ops::Ops::head_logits`].
pub(super) fn logits(
    ops: &CpuOps,
    hidden: &Matrix,
    head: &Head,
    rows: &[u32],
    visit: &mut LogitsVisitor<'_>,
) -> Result<()> {
    let (weight, norm) = (Weights::of(&head.linear.weight)?, NormWeights::of(&head.norm, ops.rounding)?);
    let bias = head.linear.bias.as_ref().map(Weights::of).transpose()?;
    let norm = norm.row()?;
    let bias = bias.as_ref().map(Weights::values).transpose()?;
    let weights = HeadWeights::new(head, weight.values()?, bias, hidden, ops.rounding);
    let vocabulary = weights.vocabulary();
    let piece_rows = (ops.chunks.head / (vocabulary * size_of::<f32>())).clamp(MIN_SIDE, BLOCK_ROWS);
    for (index, rows) in rows.chunks(piece_rows).enumerate() {
        let mut x = ops.pool.take(rows.len(), hidden.width());
        let mut logits = ops.pool.take(rows.len(), vocabulary);
        ops.timed(Stage::Norm, || {
            let rows = x.values_mut().par_chunks_mut(hidden.width()).zip(rows).with_min_len(TASK_ROWS);
            rows.for_each(|(x, row)| norm.apply(x, hidden.row(*row as usize)));
        });
        ops.timed(Stage::HeadGemm, || {
            let x = View::rows(x.values(), x.rows(), weights.hidden, weights.hidden);
            ops.multiply(logits.values_mut(), vocabulary, x, weights.weight, weights.bias)
        })?;
        ops.timed(Stage::HeadStatistics, || {
            logits.values_mut().par_chunks_mut(vocabulary).for_each(|row| weights.finish(row));
            visit(index * piece_rows, logits.values())
        })?;
    }
    Ok(())
}

/// Scores the targets of normed rows, appending one score a target.
fn score_rows(
    ops: &CpuOps,
    x: &Matrix,
    rows: &[HeadRow],
    distinct: &[Target],
    weights: &HeadWeights<'_>,
    blocks: usize,
    scores: &mut Vec<TargetScore>,
) -> Result<()> {
    let first = rows.first().map_or(0, |row| row.targets.start);
    let last = rows.last().map_or(0, |row| row.targets.end);
    let mut states: Vec<TargetState> = distinct[first..last]
        .iter()
        .map(|target| TargetState { target: *target, logit: f32::NAN, above: 0, cooled: 0.0 })
        .collect();
    if blocks > 1 {
        own_logits(ops, x, rows, &mut states, weights)?;
    }
    let mut row_states = split(rows, &mut states, weights.eos.len());
    let vocabulary = weights.vocabulary();
    let boundary =
        |block: usize| if block == blocks { vocabulary } else { vocabulary * block / blocks / PANEL * PANEL };
    let mut logits = ops.pool.take(x.rows(), vocabulary.div_ceil(blocks) + PANEL);
    let stride = logits.width();
    for block in 0..blocks {
        let columns = boundary(block)..boundary(block + 1);
        ops.timed(Stage::HeadGemm, || {
            let weight = &weights.weight[columns.start * weights.hidden..columns.end * weights.hidden];
            let bias = weights.bias.map(|bias| &bias[columns.clone()]);
            let x = View::rows(x.values(), x.rows(), weights.hidden, weights.hidden);
            ops.multiply(logits.values_mut(), stride, x, weight, bias)
        })?;
        ops.timed(Stage::HeadStatistics, || {
            logits.values_mut().par_chunks_mut(stride).zip(&mut row_states).with_min_len(TASK_ROWS).for_each(
                |(logits, state)| {
                    let logits = &mut logits[..columns.len()];
                    weights.finish(logits);
                    state.add(logits, columns.start, blocks == 1, weights.eos);
                },
            );
        });
    }
    for row in &row_states {
        row.finish(scores);
    }
    Ok(())
}

/// Gives each row its part of the targets' states.
fn split<'a>(rows: &[HeadRow], mut states: &'a mut [TargetState], eos: usize) -> Vec<RowState<'a>> {
    let mut row_states = Vec::with_capacity(rows.len());
    for row in rows {
        let (own, rest) = std::mem::take(&mut states).split_at_mut(row.targets.len());
        states = rest;
        row_states.push(RowState {
            max: f32::NEG_INFINITY,
            sum: 0.0,
            weighted: 0.0,
            eos: vec![f32::NEG_INFINITY; eos],
            targets: own,
        });
    }
    row_states
}

/// Computes the logit of each target by itself: a rank counts logits above it from the first block on.
///
/// A group of rows is multiplied with the weights of the group's targets, of which only the diagonal is used; that is exactly
/// the number that the target's block will have.
fn own_logits(
    ops: &CpuOps,
    x: &Matrix,
    rows: &[HeadRow],
    states: &mut [TargetState],
    weights: &HeadWeights<'_>,
) -> Result<()> {
    let hidden = weights.hidden;
    let row_of: Vec<usize> =
        rows.iter().enumerate().flat_map(|(index, row)| row.targets.clone().map(move |_| index)).collect();
    let (mut own_weights, mut own_x) = (ops.pool.zeros(TARGET_GROUP, hidden), ops.pool.take(TARGET_GROUP, hidden));
    let mut own_bias = weights.bias.map(|_| vec![0.0; TARGET_GROUP]);
    let mut products = ops.pool.take(TARGET_GROUP, TARGET_GROUP);
    for (states, row_of) in states.chunks_mut(TARGET_GROUP).zip(row_of.chunks(TARGET_GROUP)) {
        ops.timed(Stage::Rows, || {
            let targets = states.iter().zip(row_of);
            let places =
                own_weights.values_mut().chunks_exact_mut(hidden).zip(own_x.values_mut().chunks_exact_mut(hidden));
            for ((state, row), (own_weight, own_x)) in targets.zip(places) {
                own_weight.copy_from_slice(&weights.weight[state.target.token as usize * hidden..][..hidden]);
                own_x.copy_from_slice(x.row(*row));
            }
            if let (Some(own), Some(bias)) = (&mut own_bias, weights.bias) {
                for (own, state) in own.iter_mut().zip(states.iter()) {
                    *own = bias[state.target.token as usize];
                }
            }
        });
        ops.timed(Stage::HeadGemm, || {
            let own_x = View::rows(own_x.values(), states.len(), hidden, hidden);
            ops.multiply(products.values_mut(), TARGET_GROUP, own_x, own_weights.values(), own_bias.as_deref())
        })?;
        for (index, state) in states.iter_mut().enumerate() {
            let mut logit = [products.values()[index * TARGET_GROUP + index]];
            weights.finish(&mut logit);
            state.logit = logit[0];
        }
    }
    Ok(())
}

impl RowState<'_> {
    /// Takes in the logits of columns from `start` on.
    fn add(&mut self, logits: &[f32], start: usize, whole: bool, eos: &[u32]) {
        let largest = kernels::max(logits);
        if largest > self.max {
            self.rescale(largest);
        }
        let (sum, weighted) = kernels::exp_sums(logits, self.max);
        self.sum += sum;
        self.weighted += weighted;
        let within = |token: u32| (token as usize).checked_sub(start).filter(|column| *column < logits.len());
        for (logit, id) in self.eos.iter_mut().zip(eos) {
            if let Some(column) = within(*id) {
                *logit = logits[column];
            }
        }
        for state in &mut *self.targets {
            let own = within(state.target.token);
            if whole && let Some(column) = own {
                state.logit = logits[column];
            }
            state.above += kernels::count_above(logits, state.logit);
            // A token does not outrank itself, should its own product ever be rounded otherwise.
            state.above -= u32::from(own.is_some_and(|column| logits[column] > state.logit));
            if state.target.temperature != 1.0 {
                state.cooled += kernels::exp_sum_scaled(logits, self.max, (1.0 / state.target.temperature) as f32);
            }
        }
    }

    /// Brings the sums to a new largest logit.
    fn rescale(&mut self, largest: f32) {
        if self.max > f32::NEG_INFINITY {
            let step = f64::from(self.max) - f64::from(largest);
            let factor = step.exp();
            self.weighted = (self.weighted + self.sum * step) * factor;
            self.sum *= factor;
            for state in &mut *self.targets {
                state.cooled *= (step / state.target.temperature).exp();
            }
        }
        self.max = largest;
    }

    fn finish(&self, scores: &mut Vec<TargetScore>) {
        let (max, log_sum) = (f64::from(self.max), self.sum.ln());
        let eos_probability = self.eos.iter().map(|logit| (f64::from(*logit) - max - log_sum).exp()).sum();
        scores.extend(self.targets.iter().map(|state| {
            let below = f64::from(state.logit) - max;
            let logprob = below - log_sum;
            let temperature = state.target.temperature;
            let cooled = if temperature == 1.0 { logprob } else { below / temperature - state.cooled.ln() };
            TargetScore {
                logprob,
                logprob_at_temperature: cooled,
                entropy: log_sum - self.weighted / self.sum,
                rank: state.above,
                eos_probability,
            }
        }));
    }
}
