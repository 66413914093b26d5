//! Activations on the host, in memory that is used again and again within a batch.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Buffers that nobody uses at the moment.
///
/// A fresh large allocation costs a page fault every 4 KiB, which is most of the time of an elementwise operation; a
/// forward asks for the same few sizes in every layer.
#[derive(Clone, Debug, Default)]
pub(super) struct Pool(Arc<Mutex<Vec<Vec<f32>>>>);

impl Pool {
    fn free(&self) -> MutexGuard<'_, Vec<Vec<f32>>> {
        // Only whole buffers are pushed and removed: a panic elsewhere cannot leave the list half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A matrix of arbitrary values: what is not written is left from its last use.
    pub(super) fn take(&self, rows: usize, width: usize) -> Matrix {
        let needed = rows * width;
        let found = {
            let mut free = self.free();
            let fitting = (0..free.len()).filter(|index| free[*index].len() >= needed);
            let best = fitting.min_by_key(|index| free[*index].len());
            best.map(|index| free.swap_remove(index))
        };
        let values = found.unwrap_or_else(|| vec![0.0; needed]);
        Matrix { values, rows, width, pool: self.clone() }
    }

    /// A matrix of zeros.
    pub(super) fn zeros(&self, rows: usize, width: usize) -> Matrix {
        let mut matrix = self.take(rows, width);
        matrix.values_mut().fill(0.0);
        matrix
    }

    /// Frees all buffers that are not in use.
    pub(super) fn clear(&self) {
        self.free().clear();
    }
}

/// `[rows, width]` values, row after row; the buffer goes back to its pool on drop.
#[derive(Debug)]
pub(crate) struct Matrix {
    values: Vec<f32>,
    rows: usize,
    width: usize,
    pool: Pool,
}

impl Matrix {
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn width(&self) -> usize {
        self.width
    }

    pub(super) fn values(&self) -> &[f32] {
        &self.values[..self.rows * self.width]
    }

    pub(super) fn values_mut(&mut self) -> &mut [f32] {
        &mut self.values[..self.rows * self.width]
    }

    pub(super) fn row(&self, row: usize) -> &[f32] {
        &self.values()[row * self.width..][..self.width]
    }
}

impl Drop for Matrix {
    fn drop(&mut self) {
        self.pool.free().push(std::mem::take(&mut self.values));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_used_again_and_freed_on_demand() {
        let pool = Pool::default();
        let large = pool.take(10, 10);
        let address = large.values().as_ptr();
        drop(large);
        drop(pool.take(3, 4));
        assert_eq!(pool.free().len(), 1, "the small matrix took the large buffer");
        let mut again = pool.take(5, 20);
        again.values_mut().fill(1.0);
        assert_eq!(again.values().as_ptr(), address);
        drop(again);
        assert_eq!(pool.zeros(7, 3).values(), [0.0; 21]);
        pool.clear();
        assert_eq!(pool.free().len(), 0);
    }
}
