//! Matrix products through the `gemm` crate, on checked slices.
//!
//! What makes a product's element depend on its own row and column only, to the last bit, whatever the number of rows: the
//! crate computes each element by one chain of multiply-adds over a block of the depth, then adds the blocks. Which blocks
//! depends on the depth alone, except for products of at most 64 x 64, for which the depth is cut at 512; and tiny products
//! of two matrices that lie along the depth, single rows and single columns take other paths. [`multiply`] therefore refuses
//! the shapes of those paths and [`Depth::Cut`] gives the same blocks to small and large products. Tested in `linear.rs` over many shapes.

#![allow(unsafe_code)]

use candle_core::{Error, Result};
use gemm::Parallelism;
use rayon::prelude::*;

/// A matrix in a slice: element (r, c) is at `r * row_stride + c * column_stride`.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a> {
    pub(super) values: &'a [f32],
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) row_stride: usize,
    pub(super) column_stride: usize,
}

impl<'a> View<'a> {
    /// Rows one after the other, each `stride` from the one before.
    pub(super) fn rows(values: &'a [f32], rows: usize, columns: usize, stride: usize) -> Self {
        Self { values, rows, columns, row_stride: stride, column_stride: 1 }
    }

    pub(super) fn transposed(self) -> Self {
        Self {
            values: self.values,
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }

    /// Number of values that a view of this shape reaches into.
    fn extent(&self) -> Option<usize> {
        extent(self.rows, self.columns, self.row_stride, self.column_stride)
    }
}

/// Where the product goes.
pub(super) struct Output<'a> {
    pub(super) values: &'a mut [f32],
    /// Distance between rows; columns are next to each other.
    pub(super) row_stride: usize,
    /// Add to what is there instead of overwriting it.
    pub(super) accumulate: bool,
}

/// How many threads work on one product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Threads {
    /// The calling one.
    One,
    /// The whole pool.
    All,
}

/// Whether long sums are cut at [`DEPTH_BLOCK`] here, which makes small products the same as large ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    Whole,
    Cut,
}

/// The crate's block for small products; no block of a large one is shorter unless the depth is.
const DEPTH_BLOCK: usize = 512;
/// Products of so many elements or fewer, of matrices that lie along the depth, may take a path of their own.
pub(super) const TINY: usize = 256;
/// Fewer rows or columns than this are never given to the crate.
pub(super) const MIN_SIDE: usize = 8;

/// Rows of one thread's part of a product at least. Far more than 64, so that a part takes the path of the whole.
const MIN_PART_ROWS: usize = 128;
/// Parts of a product for each thread: each part is one thread's own product without a barrier inside, and a thread that the
/// machine takes away for a while leaves parts to the others.
const PARTS_PER_THREAD: usize = 2;

/// `output (+)= scale * a b`
///
/// # Errors
/// Shapes that do not fit each other or their slices, and shapes for which the crate has paths with other roundings.
pub(super) fn multiply(
    output: Output<'_>,
    a: View<'_>,
    b: View<'_>,
    scale: f32,
    depth: Depth,
    threads: Threads,
) -> Result<()> {
    let Output { values: output, row_stride, accumulate } = output;
    let (m, n, k) = (a.rows, b.columns, a.columns);
    let fits = |view: &View<'_>| view.extent().is_some_and(|extent| extent <= view.values.len());
    let output_extent = extent(m, n, row_stride, 1);
    let shapes = b.rows == k && row_stride >= n && output_extent.is_some_and(|len| len <= output.len());
    if !shapes || !fits(&a) || !fits(&b) {
        return Err(Error::Msg(format!("matrices do not fit: [{m}, {k}] x [{}, {n}]", b.rows)).bt());
    }
    let along_depth = a.column_stride == 1 && b.row_stride == 1;
    if m < MIN_SIDE || n < MIN_SIDE || k == 0 || (along_depth && m * n <= TINY) {
        return Err(Error::Msg(format!("a product of [{m}, {k}] x [{k}, {n}] is too small for this kernel")).bt());
    }
    let parts = (m / MIN_PART_ROWS).min(PARTS_PER_THREAD * rayon::current_num_threads());
    if threads == Threads::All && parts > 1 {
        let rows = m.div_ceil(parts);
        let outputs = output.par_chunks_mut(rows * row_stride).take(parts);
        return outputs.enumerate().with_max_len(1).try_for_each(|(part, output)| {
            let first = part * rows;
            let own = View { values: &a.values[first * a.row_stride..], rows: rows.min(m - first), ..a };
            let output = Output { values: output, row_stride, accumulate };
            multiply(output, own, b, scale, depth, Threads::One)
        });
    }
    let block = if depth == Depth::Cut { DEPTH_BLOCK } else { k };
    let parallelism = match threads {
        Threads::One => Parallelism::None,
        Threads::All => Parallelism::Rayon(0),
    };
    for start in (0..k).step_by(block) {
        let len = block.min(k - start);
        // SAFETY: `extent` and the comparisons above say that every element (r, c) with r < m, c < n of the output lies in
        // its slice, and those of `a` (r < m, c < k) and `b` (r < k, c < n) in theirs; `start + len <= k`. The output is
        // borrowed mutably, so it overlaps neither input, and as `row_stride >= n` no two of its elements coincide, so
        // that threads write different places. All strides are at most the length of a slice and therefore fit isize.
        unsafe {
            gemm::gemm(
                m,
                n,
                len,
                output.as_mut_ptr(),
                1,
                row_stride as isize,
                accumulate || start > 0,
                a.values.as_ptr().add(start * a.column_stride),
                a.column_stride as isize,
                a.row_stride as isize,
                b.values.as_ptr().add(start * b.row_stride),
                b.column_stride as isize,
                b.row_stride as isize,
                1.0,
                scale,
                false,
                false,
                false,
                parallelism,
            );
        }
    }
    Ok(())
}

/// One more than the largest index that a matrix of this shape reaches; `None` if it does not fit usize.
fn extent(rows: usize, columns: usize, row_stride: usize, column_stride: usize) -> Option<usize> {
    if rows == 0 || columns == 0 {
        return Some(0);
    }
    let last = (rows - 1).checked_mul(row_stride)?.checked_add((columns - 1).checked_mul(column_stride)?)?;
    last.checked_add(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Strided, scaled, accumulated products against the sum in f64.
        #[test]
        fn a_product_is_a_sum_of_products(
            (m, n, k) in (8usize..40, 33usize..90, 1usize..600),
            extra in 0usize..5,
            accumulate: bool,
            cut: bool,
            seed in 1u32..1000,
        ) {
            let value = |index: usize| ((index as u32).wrapping_mul(2_654_435_761).wrapping_add(seed) >> 8) as f32 / 8e6 - 1.0;
            let a: Vec<f32> = (0..m * (k + extra)).map(value).collect();
            let b: Vec<f32> = (0..n * (k + extra)).map(|index| value(index + 7)).collect();
            let before: Vec<f32> = (0..m * (n + extra)).map(|index| value(index + 3)).collect();
            let mut after = before.clone();
            multiply(
                Output { values: &mut after, row_stride: n + extra, accumulate },
                View::rows(&a, m, k, k + extra),
                View::rows(&b, n, k, k + extra).transposed(),
                0.5,
                if cut { Depth::Cut } else { Depth::Whole },
                Threads::One,
            ).unwrap();
            for row in 0..m {
                for column in 0..n + extra {
                    let index = row * (n + extra) + column;
                    if column >= n {
                        prop_assert_eq!(after[index], before[index], "between the rows");
                        continue;
                    }
                    let sum: f64 = (0..k)
                        .map(|i| f64::from(a[row * (k + extra) + i]) * f64::from(b[column * (k + extra) + i]))
                        .sum();
                    let expected = 0.5 * sum + if accumulate { f64::from(before[index]) } else { 0.0 };
                    let allowed = 1e-5 * (1.0 + expected.abs());
                    prop_assert!((f64::from(after[index]) - expected).abs() < allowed, "{} {}", after[index], expected);
                }
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let values = vec![0f32; 1000];
        let mut output = vec![0f32; 1000];
        let mut product = |a: View<'_>, b: View<'_>, stride| {
            let output = Output { values: &mut output, row_stride: stride, accumulate: false };
            multiply(output, a, b, 1.0, Depth::Whole, Threads::One)
        };
        let view = |rows, columns| View::rows(&values, rows, columns, columns);
        assert!(product(view(20, 10), view(10, 20), 20).is_ok());
        assert!(product(view(20, 10), view(11, 20), 20).is_err(), "depths differ");
        assert!(product(view(20, 10), view(10, 20), 19).is_err(), "rows overlap");
        assert!(product(view(20, 10), view(10, 20), 900).is_err(), "beyond the output");
        assert!(product(View::rows(&values, 20, 10, 60), view(10, 20), 20).is_err(), "beyond the input");
        assert!(product(view(20, 10), View::rows(&values, 10, 20, 200), 20).is_err(), "beyond the other input");
        assert!(product(view(20, 10), View::rows(&values, 10, 20, usize::MAX), 20).is_err(), "absurd stride");
        assert!(product(view(1, 10), view(10, 50), 50).is_err(), "too small");
        assert!(product(view(8, 10), view(8, 10).transposed(), 8).is_err(), "too small");
        assert!(product(view(20, 0), view(0, 20), 20).is_err(), "no depth");
    }
}
