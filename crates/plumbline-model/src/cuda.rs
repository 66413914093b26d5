//! What candle leaves at CUDA's defaults.

// Calls into the driver.
#![allow(unsafe_code)]

use candle_core::Device;
use candle_core::cuda_backend::cudarc::driver::DriverError;
use candle_core::cuda_backend::cudarc::driver::result::{device, mem_pool};
use candle_core::cuda_backend::cudarc::driver::sys::CUmemPool_attribute;

/// Freed memory that a device's pool keeps for the next batch, in bytes: what a chunk of logits and its statistics take.
const KEPT_BYTES: u64 = 2 << 30;

/// Lets the device keep memory over the moments in which it is waited for. By default it gives all that is free back to the
/// system then, and mapping it anew for every chunk of logits takes longer than their statistics.
pub(crate) fn keep_freed_memory(device: &Device) -> Result<(), DriverError> {
    let Device::Cuda(cuda) = device else { return Ok(()) };
    let stream = cuda.cuda_stream();
    let context = stream.context();
    if !context.has_async_alloc() {
        return Ok(());
    }
    let mut kept = KEPT_BYTES;
    // SAFETY: the device is that of a live context, its default pool lives as long as it does, and the attribute is a u64 that
    // the call only reads.
    unsafe {
        let pool = device::get_default_mem_pool(context.cu_device())?;
        mem_pool::set_attribute(pool, CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, (&raw mut kept).cast())
    }
}
