//! The vocabulary of devices and number formats in candle's terms.

use candle_core::{DType, Device};
use plumbline_core::{ComputeDevice, FloatType};

/// candle's name of a number format.
pub(crate) fn dtype(float: FloatType) -> DType {
    match float {
        FloatType::F32 => DType::F32,
        FloatType::F64 => DType::F64,
        FloatType::Bf16 => DType::BF16,
        FloatType::F16 => DType::F16,
    }
}

/// Opens a device. One that was asked for by name and is not there is an error, never another device.
pub(crate) fn open(device: ComputeDevice) -> Result<Device, String> {
    let opened = match device {
        ComputeDevice::Cpu => Ok(Device::Cpu),
        ComputeDevice::Cuda(index) => Device::new_cuda(index),
        ComputeDevice::Metal => Device::new_metal(0),
        ComputeDevice::Auto if cfg!(feature = "cuda") => Device::new_cuda(0),
        ComputeDevice::Auto if cfg!(feature = "metal") => Device::new_metal(0),
        ComputeDevice::Auto => Ok(Device::Cpu),
    };
    let opened = opened.map_err(|error| crate::error::message(&error))?;
    #[cfg(feature = "cuda")]
    crate::cuda::keep_freed_memory(&opened).map_err(|error| error.to_string())?;
    Ok(opened)
}

#[cfg(all(test, not(any(feature = "cuda", feature = "metal"))))]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_not_there_is_an_error() {
        assert!(open(ComputeDevice::Cuda(0)).is_err());
        assert!(open(ComputeDevice::Auto).unwrap().is_cpu());
    }
}
