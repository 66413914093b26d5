//! Products with weights on x86-64 with AVX2 and FMA: `x w^T + b`, faster there than the `gemm` crate's, and with one rounding.
//!
//! Weights are laid in panels of 16 outputs as they are needed (`[depth, 16]`, next to each other), and a tile of 6 rows by 16
//! outputs is summed in registers. Every element is the sum of pieces of the depth, each one chain of multiply-adds;
//! where the pieces begin depends on the depth alone. So an element has the same bits whatever the other rows and columns
//! are, which `linear.rs` tests over many shapes, and against a sum in f64.

#![allow(unsafe_code)]
// On other architectures nothing calls this, and its tests do not run.
#![cfg(target_arch = "x86_64")]

use std::arch::x86_64::{
    __m256, _MM_HINT_T0, _mm_prefetch, _mm256_add_ps, _mm256_broadcast_ss, _mm256_fmadd_ps, _mm256_loadu_ps,
    _mm256_setzero_ps, _mm256_storeu_ps,
};

use candle_core::{Error, Result};
use rayon::prelude::*;

use super::gemm::View;
use super::matrix::Pool;

/// Floats of a vector.
const LANES: usize = 8;
/// Outputs of a panel: two vectors.
const PANEL: usize = 2 * LANES;
/// Rows of a tile: with two vectors each, as many sums as there are registers for.
const TILE_ROWS: usize = 6;
/// Panels that one thread lays out together: with the longest depth, about a third of a core's second cache.
const STRIP_PANELS: usize = 3;
/// Longest part of the depth that is laid out at a time.
const MAX_DEPTH: usize = 1024;
/// Places of the depth that are summed in one chain. Rounding errors grow with the length of a chain; adding up more often
/// costs speed.
const CHAIN: usize = 256;
/// Rows that go over all panels of a strip before the next rows: their values stay in the cache as well.
const BLOCK_ROWS: usize = 16 * TILE_ROWS;

/// Whether this CPU has what [`multiply`] needs.
pub(super) fn supported() -> bool {
    std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma")
}

/// Where threads write: each its own columns.
#[derive(Clone, Copy)]
struct Columns(*mut f32);
// SAFETY: the pointer is only written through by `Product::strip`, and every strip has columns of its own.
unsafe impl Send for Columns {}
// SAFETY: as for `Send`.
unsafe impl Sync for Columns {}

/// A product whose shapes were compared with its slices by [`multiply`].
#[derive(Clone, Copy)]
struct Product<'a> {
    output: Columns,
    output_stride: usize,
    x: View<'a>,
    weight: &'a [f32],
    bias: Option<&'a [f32]>,
    outputs: usize,
    /// Length of the blocks of the depth; the last may be shorter.
    block: usize,
}

/// `output = x w^T + b` on all threads of the pool; `weight` is `[out, in]`, row after row; rows of `output` are
/// `output_stride` apart.
///
/// # Errors
/// Shapes that do not fit their slices, columns of `x` that do not lie next to each other, a CPU without AVX2 and FMA.
pub(super) fn multiply(
    pool: &Pool,
    output: &mut [f32],
    output_stride: usize,
    x: View<'_>,
    weight: &[f32],
    bias: Option<&[f32]>,
) -> Result<()> {
    let depth = x.columns;
    let outputs = weight.len().checked_div(depth).unwrap_or(0);
    let extent = |stride: usize, width: usize| {
        x.rows.checked_sub(1).map_or(Some(0), |last| last.checked_mul(stride)?.checked_add(width))
    };
    let fits = weight.len() == outputs * depth
        && x.column_stride == 1
        && x.row_stride >= depth
        && output_stride >= outputs
        && bias.is_none_or(|bias| bias.len() == outputs)
        && extent(x.row_stride, depth).is_some_and(|len| len <= x.values.len())
        && extent(output_stride, outputs).is_some_and(|len| len <= output.len());
    if !fits || depth == 0 || !supported() {
        return Err(Error::Msg(format!(
            "[{}, {depth}] x [{outputs}, {depth}]^T does not fit, or this CPU has no AVX2 and FMA",
            x.rows
        ))
        .bt());
    }
    let blocks = depth.div_ceil(MAX_DEPTH);
    let block = depth.div_ceil(blocks).next_multiple_of(LANES);
    let output = Columns(output.as_mut_ptr());
    let product = Product { output, output_stride, x, weight, bias, outputs, block };
    let panels = outputs.div_ceil(PANEL);
    // As many strips for one thread as for the other, of nearly equal width.
    let strips = panels.div_ceil(STRIP_PANELS).next_multiple_of(rayon::current_num_threads()).min(panels);
    (0..strips).into_par_iter().with_max_len(1).for_each(|strip| {
        let panels = panels * strip / strips..panels * (strip + 1) / strips;
        let mut packed = pool.take(panels.len(), block.min(depth) * PANEL);
        // SAFETY: AVX2 and FMA were found above; the comparisons above are what `Product` promises; no two strips share a
        // panel, and the output is borrowed mutably by this function, so nothing else reads or writes these columns.
        unsafe { product.strip(panels, packed.values_mut()) }
    });
    Ok(())
}

impl Product<'_> {
    /// Computes the columns of some panels for all rows.
    ///
    /// # Safety
    /// The slices have the extents that the shapes say, no other thread touches these columns of the output, and the CPU has
    /// AVX2 and FMA.
    #[target_feature(enable = "avx2,fma")]
    unsafe fn strip(&self, panels: std::ops::Range<usize>, packed: &mut [f32]) {
        let depth = self.x.columns;
        for start in (0..depth).step_by(self.block) {
            let len = self.block.min(depth - start);
            let packed = &mut packed[..panels.len() * len * PANEL];
            for (panel, packed) in panels.clone().zip(packed.chunks_exact_mut(len * PANEL)) {
                let columns = panel * PANEL..self.outputs.min((panel + 1) * PANEL);
                lay(&self.weight[columns.start * depth..columns.end * depth], depth, start, packed);
            }
            for first in (0..self.x.rows).step_by(BLOCK_ROWS) {
                let rows = first..self.x.rows.min(first + BLOCK_ROWS);
                for (panel, packed) in panels.clone().zip(packed.chunks_exact(len * PANEL)) {
                    let mut row = rows.start;
                    while row < rows.end {
                        let count = (rows.end - row).min(TILE_ROWS);
                        // SAFETY: rows `row..row + count` exist in both matrices, and the rest is passed on.
                        unsafe {
                            match count {
                                6 => self.tile::<6>(row, panel, start, packed),
                                5 => self.tile::<5>(row, panel, start, packed),
                                4 => self.tile::<4>(row, panel, start, packed),
                                3 => self.tile::<3>(row, panel, start, packed),
                                2 => self.tile::<2>(row, panel, start, packed),
                                _ => self.tile::<1>(row, panel, start, packed),
                            }
                        }
                        row += count;
                    }
                }
            }
        }
    }

    /// Computes `ROWS` rows of a panel over one block of the depth, `packed`, which begins at `start`.
    ///
    /// # Safety
    /// As for `strip`, and rows `row..row + ROWS` exist.
    #[target_feature(enable = "avx2,fma")]
    unsafe fn tile<const ROWS: usize>(&self, row: usize, panel: usize, start: usize, packed: &[f32]) {
        let stride = self.x.row_stride;
        let x = &self.x.values[row * stride + start..];
        let len = packed.len() / PANEL;
        assert!(x.len() >= (ROWS - 1) * stride + len, "rows end inside their slice");
        let column = panel * PANEL;
        // SAFETY: rows and columns of the output exist, its extent was compared; a prefetch reads nothing. `packed` holds
        // `len` rows of two vectors, and `x` `ROWS` rows of at least `len` values, by the assertion.
        unsafe {
            let output = self.output.0.add(row * self.output_stride + column);
            for row in 0..ROWS {
                _mm_prefetch::<_MM_HINT_T0>(output.wrapping_add(row * self.output_stride).cast());
            }
            let (mut weight, mut x) = (packed.as_ptr(), x.as_ptr());
            for first in (0..len).step_by(CHAIN) {
                let mut sums = [[_mm256_setzero_ps(); 2]; ROWS];
                let len = CHAIN.min(len - first);
                // Unrolled: the loop's own work would take a tenth of the time.
                for _ in 0..len / 4 {
                    for step in 0..4 {
                        step_of(&mut sums, x.add(step), stride, weight.add(step * PANEL));
                    }
                    weight = weight.add(4 * PANEL);
                    x = x.add(4);
                }
                for _ in 0..len % 4 {
                    step_of(&mut sums, x, stride, weight);
                    weight = weight.add(PANEL);
                    x = x.add(1);
                }
                self.add::<ROWS>(&sums, output, column, start + first == 0);
            }
        }
    }

    /// Adds sums to the output, or to the bias if they are the first of their elements.
    ///
    /// # Safety
    /// As for `tile`; `output` points at the first of these elements, which are in column `column`.
    #[target_feature(enable = "avx2,fma")]
    #[inline]
    unsafe fn add<const ROWS: usize>(&self, sums: &[[__m256; 2]; ROWS], output: *mut f32, column: usize, first: bool) {
        let width = PANEL.min(self.outputs - column);
        // SAFETY: `width` columns from `column` on exist in all rows, by the caller's promise; a slice of the bias is
        // checked, and `values` has room for both vectors.
        unsafe {
            if width == PANEL {
                for (row, sums) in sums.iter().enumerate() {
                    let output = output.add(row * self.output_stride);
                    for (half, sum) in sums.iter().enumerate() {
                        let output = output.add(half * LANES);
                        let before = match (first, self.bias) {
                            (true, None) => {
                                _mm256_storeu_ps(output, *sum);
                                continue;
                            }
                            (true, Some(bias)) => _mm256_loadu_ps(bias[column + half * LANES..][..LANES].as_ptr()),
                            _ => _mm256_loadu_ps(output),
                        };
                        _mm256_storeu_ps(output, _mm256_add_ps(before, *sum));
                    }
                }
                return;
            }
            for (row, sums) in sums.iter().enumerate() {
                let mut values = [0.0; PANEL];
                _mm256_storeu_ps(values.as_mut_ptr(), sums[0]);
                _mm256_storeu_ps(values[LANES..].as_mut_ptr(), sums[1]);
                for (offset, value) in values[..width].iter().enumerate() {
                    let output = output.add(row * self.output_stride + offset);
                    *output = match (first, self.bias) {
                        (true, None) => *value,
                        (true, Some(bias)) => bias[column + offset] + value,
                        _ => *output + value,
                    };
                }
            }
        }
    }
}

/// Adds one place of the depth to the sums.
///
/// # Safety
/// `x` points at `ROWS` values `stride` apart, `weight` at two vectors.
#[target_feature(enable = "avx2,fma")]
#[inline]
unsafe fn step_of<const ROWS: usize>(sums: &mut [[__m256; 2]; ROWS], x: *const f32, stride: usize, weight: *const f32) {
    // SAFETY: the caller's promise.
    unsafe {
        let weights = [_mm256_loadu_ps(weight), _mm256_loadu_ps(weight.add(LANES))];
        for (row, sums) in sums.iter_mut().enumerate() {
            let x = _mm256_broadcast_ss(&*x.add(row * stride));
            sums[0] = _mm256_fmadd_ps(x, weights[0], sums[0]);
            sums[1] = _mm256_fmadd_ps(x, weights[1], sums[1]);
        }
    }
}

/// Lays at most [`PANEL`] rows of weights, `depth` apart, as a panel: `[depth, 16]`, from `start` on, zero where a row is
/// missing.
#[target_feature(enable = "avx2,fma")]
fn lay(weight: &[f32], depth: usize, start: usize, panel: &mut [f32]) {
    if weight.len() / depth < PANEL {
        panel.fill(0.0);
    }
    // Square pieces, so that what is read and what is written are in the nearest cache.
    for (piece, panel) in panel.chunks_mut(PANEL * PANEL).enumerate() {
        let start = start + piece * PANEL;
        for (row, weight) in weight.chunks_exact(depth).enumerate() {
            let weight = &weight[start..(start + PANEL).min(depth)];
            for (panel, weight) in panel.chunks_exact_mut(PANEL).zip(weight) {
                panel[row] = *weight;
            }
        }
    }
}
