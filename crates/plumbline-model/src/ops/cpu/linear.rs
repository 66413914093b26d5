//! Linear maps whose rows do not depend on how many others there are, bit for bit.

use candle_core::Result;
use rayon::prelude::*;

use super::gemm::{Depth, MIN_SIDE, Output, TINY, Threads, View, multiply};
use super::kernels;
use super::matrix::Pool;
#[cfg(target_arch = "x86_64")]
use super::panels;

/// Maps with so few outputs are dot products: the crate has other paths for them, which depend on the number of rows.
const MAX_DOT_OUTPUTS: usize = TINY / MIN_SIDE;
/// Up to so many outputs the crate's blocks of the depth depend on the number of rows.
const MAX_CUT_OUTPUTS: usize = 64;
/// Rows that one task of an elementwise operation takes at least.
pub(super) const TASK_ROWS: usize = 16;

/// `x w^T + b` into `output`, whose rows are `output_stride` apart. `weight` is `[out, in]`, row after row.
pub(super) fn linear(
    pool: &Pool,
    output: &mut [f32],
    output_stride: usize,
    x: View<'_>,
    weight: &[f32],
    bias: Option<&[f32]>,
) -> Result<()> {
    #[cfg(target_arch = "x86_64")]
    if panels::supported() {
        return panels::multiply(pool, output, output_stride, x, weight, bias);
    }
    by_crate(pool, output, output_stride, x, weight, bias)
}

/// The same by the `gemm` crate, for CPUs that `panels` was not written for.
fn by_crate(
    pool: &Pool,
    output: &mut [f32],
    output_stride: usize,
    x: View<'_>,
    weight: &[f32],
    bias: Option<&[f32]>,
) -> Result<()> {
    let outputs = weight.len() / x.columns;
    if outputs <= MAX_DOT_OUTPUTS {
        output.par_chunks_mut(output_stride).take(x.rows).enumerate().with_min_len(TASK_ROWS).for_each(
            |(row, output)| {
                let x = &x.values[row * x.row_stride..][..x.columns];
                for (index, (output, weight)) in output.iter_mut().zip(weight.chunks_exact(x.len())).enumerate() {
                    *output = kernels::dot(x, weight) + bias.map_or(0.0, |bias| bias[index]);
                }
            },
        );
        return Ok(());
    }
    if x.rows < MIN_SIDE {
        let mut padded = pool.zeros(MIN_SIDE, x.columns);
        for (row, padded) in padded.values_mut().chunks_exact_mut(x.columns).take(x.rows).enumerate() {
            padded.copy_from_slice(&x.values[row * x.row_stride..][..x.columns]);
        }
        let mut product = pool.take(MIN_SIDE, outputs);
        let padded = View::rows(padded.values(), MIN_SIDE, x.columns, x.columns);
        by_crate(pool, product.values_mut(), outputs, padded, weight, bias)?;
        for (row, output) in output.chunks_mut(output_stride).take(x.rows).enumerate() {
            output[..outputs].copy_from_slice(product.row(row));
        }
        return Ok(());
    }
    if let Some(bias) = bias {
        output
            .par_chunks_mut(output_stride)
            .take(x.rows)
            .with_min_len(TASK_ROWS)
            .for_each(|row| row[..outputs].copy_from_slice(bias));
    }
    let depth = if outputs <= MAX_CUT_OUTPUTS { Depth::Cut } else { Depth::Whole };
    let weight = View::rows(weight, outputs, x.columns, x.columns).transposed();
    let output = Output { values: output, row_stride: output_stride, accumulate: bias.is_some() };
    multiply(output, x, weight, 1.0, depth, Threads::All)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(count: usize, seed: u32) -> Vec<f32> {
        (0..count as u32)
            .map(|index| (index.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 8) as f32 / 8e6 - 1.0)
            .collect()
    }

    type Implementation = fn(&Pool, &mut [f32], usize, View<'_>, &[f32], Option<&[f32]>) -> Result<()>;

    /// Every implementation that runs on this CPU.
    fn implementations() -> Vec<Implementation> {
        #[cfg(target_arch = "x86_64")]
        if panels::supported() {
            return vec![by_crate, panels::multiply];
        }
        vec![by_crate]
    }

    /// Rows of `x` and of the output are `gap` further apart than they are long.
    fn product(
        by: Implementation,
        (x, gap): (&[f32], usize),
        weight: &[f32],
        bias: Option<&[f32]>,
        depth: usize,
    ) -> Vec<f32> {
        let (rows, outputs) = (x.len() / depth, weight.len() / depth);
        let mut spread = vec![f32::NAN; rows * (depth + gap)];
        for (spread, x) in spread.chunks_exact_mut(depth + gap).zip(x.chunks_exact(depth)) {
            spread[..depth].copy_from_slice(x);
        }
        let stride = outputs + gap;
        let mut output = vec![f32::INFINITY; rows * stride];
        by(&Pool::default(), &mut output, stride, View::rows(&spread, rows, depth, depth + gap), weight, bias).unwrap();
        output
            .chunks_exact(stride)
            .flat_map(|row| {
                assert!(row[outputs..].iter().all(|value| *value == f32::INFINITY), "values beside the output");
                row[..outputs].to_vec()
            })
            .collect()
    }

    /// The obvious twin: sums in f64.
    #[test]
    fn a_product_is_a_sum_of_products() {
        let shapes = [
            (1, 1, 5),
            (7, 33, 40),
            (8, 65, 1),
            (3, 100, 37),
            (20, 31, 64),
            (9, 64, 700),
            (5, 48, 2100),
            (97, 16, 16),
            (103, 130, 1030),
        ];
        for by in implementations() {
            for (rows, outputs, depth) in shapes {
                for (gap, biased) in [(0, true), (3, false), (8, true)] {
                    let (x, weight) = (values(rows * depth, 1), values(outputs * depth, 2));
                    let bias = biased.then(|| values(outputs, 3));
                    let found = product(by, (&x, gap), &weight, bias.as_deref(), depth);
                    for row in 0..rows {
                        for column in 0..outputs {
                            let (x, weight) = (&x[row * depth..][..depth], &weight[column * depth..][..depth]);
                            let sum: f64 = x.iter().zip(weight).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
                            let expected = sum + bias.as_ref().map_or(0.0, |bias| f64::from(bias[column]));
                            let found = f64::from(found[row * outputs + column]);
                            assert!(
                                (found - expected).abs() < 1e-5 * (1.0 + expected.abs()),
                                "{rows} {outputs} {depth}: {found} {expected}"
                            );
                        }
                    }
                }
            }
        }
    }

    /// What bit invariance stands on, over shapes on both sides of all switches of either implementation.
    #[test]
    fn a_row_has_the_same_bits_in_any_number_of_rows_and_threads() {
        let most = 700;
        for by in implementations() {
            for (outputs, depth) in [
                (1, 896),
                (8, 100),
                (32, 896),
                (33, 1500),
                (64, 896),
                (64, 2048),
                (65, 1500),
                (128, 896),
                (1152, 896),
                (100, 4864),
            ] {
                let (x, weight, bias) = (values(most * depth, 4), values(outputs * depth, 5), values(outputs, 6));
                let whole = product(by, (&x, 0), &weight, Some(&bias), depth);
                for threads in [1, 2, 3] {
                    let threads = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                    for rows in [1, 2, 3, 7, 8, 9, 16, 31, 33, 63, 64, 65, 100, 257, 513] {
                        let start = (rows * 37) % (most - rows);
                        let part = &x[start * depth..][..rows * depth];
                        let part = threads.install(|| product(by, (part, 0), &weight, Some(&bias), depth));
                        let same = part
                            .iter()
                            .zip(&whole[start * outputs..])
                            .all(|(part, whole)| part.to_bits() == whole.to_bits());
                        assert!(same, "{rows} of {most} rows, {outputs} outputs, depth {depth}");
                    }
                }
            }
        }
    }

    /// The lm_head computes a target's logit among other columns than the block that it belongs to.
    #[test]
    fn a_column_has_the_same_bits_among_other_columns() {
        let (rows, outputs, depth) = (96, 2048, 1100);
        let (x, weight) = (values(rows * depth, 7), values(outputs * depth, 8));
        for by in implementations() {
            let whole = product(by, (&x, 0), &weight, None, depth);
            for (start, count) in [(0, 96), (5, 96), (1951, 97), (700, 1000)] {
                let part = product(by, (&x, 0), &weight[start * depth..][..count * depth], None, depth);
                for (part, whole) in part.chunks_exact(count).zip(whole.chunks_exact(outputs)) {
                    let same = part.iter().zip(&whole[start..]).all(|(part, whole)| part.to_bits() == whole.to_bits());
                    assert!(same, "{count} columns from {start}");
                }
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let pool = Pool::default();
        let (x, weight) = (values(40, 1), values(40, 2));
        let mut output = vec![0.0; 16];
        let mut refused = |stride: usize, x: View<'_>, weight: &[f32], bias: Option<&[f32]>| {
            assert!(panels::multiply(&pool, &mut output, stride, x, weight, bias).is_err());
        };
        refused(4, View::rows(&x, 5, 10, 10), &weight, None);
        refused(3, View::rows(&x, 4, 10, 10), &weight, None);
        refused(4, View::rows(&x, 4, 10, 11), &weight, None);
        refused(4, View::rows(&x, 4, 10, 10), &weight[1..], None);
        refused(4, View::rows(&x, 4, 10, 10), &weight, Some(&[0.0; 5]));
        refused(4, View::rows(&x, 10, 4, 4).transposed(), &weight, None);
    }
}
