//! Threads of the model's computations.

use anyhow::Context;

/// Sizes the thread pool of the model's computations; 0 = all cores.
pub(crate) fn use_threads(threads: usize) -> anyhow::Result<()> {
    let pool =
        rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(|index| format!("plumbline-cpu-{index}"));
    pool.build_global().context("cannot start the computing threads")
}
