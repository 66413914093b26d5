//! Where a model computes, and in which number format.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Number format of weights and products.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FloatType {
    /// 32-bit floats.
    #[default]
    F32,
    /// 16-bit brain floats. No faster on a CPU, whose products are widened.
    Bf16,
    /// 16-bit IEEE floats.
    F16,
    /// 64-bit floats: slow, the oracle.
    F64,
}

/// Where the model lives and computes. Written `auto`, `cpu`, `cuda`, `cuda:N`, `metal`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ComputeDevice {
    /// The GPU that this build supports, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// A CUDA device by its index.
    Cuda(usize),
    /// The Metal device.
    Metal,
}

impl FromStr for ComputeDevice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            "metal" => Ok(Self::Metal),
            other => other
                .strip_prefix("cuda:")
                .and_then(index)
                .map(Self::Cuda)
                .ok_or_else(|| "not supported, use auto, cpu, cuda:N or metal".into()),
        }
    }
}

/// A device's index: digits only, where `usize` would take a sign too.
fn index(text: &str) -> Option<usize> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

impl TryFrom<String> for ComputeDevice {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<ComputeDevice> for String {
    fn from(device: ComputeDevice) -> Self {
        device.to_string()
    }
}

impl fmt::Display for ComputeDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
            Self::Metal => f.write_str("metal"),
        }
    }
}

/// Devices that each hold a copy of the model and score batches side by side: one device, or several CUDA devices. Written
/// as [`ComputeDevice`], and `cuda:0,1` for several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ComputeDevices {
    /// At least one; several are CUDA devices, none twice.
    devices: Vec<ComputeDevice>,
}

impl ComputeDevices {
    /// The devices in the order in which they were written, at least one.
    #[must_use]
    pub fn as_slice(&self) -> &[ComputeDevice] {
        &self.devices
    }
}

impl Default for ComputeDevices {
    fn default() -> Self {
        ComputeDevice::default().into()
    }
}

impl From<ComputeDevice> for ComputeDevices {
    fn from(device: ComputeDevice) -> Self {
        Self { devices: vec![device] }
    }
}

impl FromStr for ComputeDevices {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unsupported = || "not supported, use auto, cpu, cuda:N, cuda:N,M,... or metal".to_owned();
        let Some(indices) = text.strip_prefix("cuda:").filter(|indices| indices.contains(',')) else {
            return text.parse::<ComputeDevice>().map(Into::into).map_err(|_| unsupported());
        };
        let indices: Vec<usize> = indices.split(',').map(index).collect::<Option<_>>().ok_or_else(unsupported)?;
        if let Some((_, twice)) = indices.iter().enumerate().find(|(at, index)| indices[..*at].contains(index)) {
            return Err(format!("cuda:{twice} is named twice"));
        }
        Ok(Self { devices: indices.into_iter().map(ComputeDevice::Cuda).collect() })
    }
}

impl TryFrom<String> for ComputeDevices {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<ComputeDevices> for String {
    fn from(devices: ComputeDevices) -> Self {
        devices.to_string()
    }
}

impl fmt::Display for ComputeDevices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, device) in self.devices.iter().enumerate() {
            match device {
                ComputeDevice::Cuda(index) if at > 0 => write!(f, ",{index}")?,
                device => write!(f, "{device}")?,
            }
        }
        Ok(())
    }
}

/// Which implementation of the model's operations runs. Written `auto`, `generic`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kernels {
    /// The fastest one for the device and the number format.
    #[default]
    Auto,
    /// The plain one that runs on any device and in any format; slow on a CPU.
    Generic,
}

impl FromStr for Kernels {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "generic" => Ok(Self::Generic),
            _ => Err("not supported, use auto or generic".into()),
        }
    }
}

impl fmt::Display for Kernels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Generic => "generic",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_read_as_they_are_written() {
        for kernels in [Kernels::Auto, Kernels::Generic] {
            assert_eq!(kernels.to_string().parse(), Ok(kernels));
            assert_eq!(serde_json::to_value(kernels).unwrap(), kernels.to_string());
        }
        assert!("fast".parse::<Kernels>().is_err());
    }

    #[test]
    fn devices_are_read_as_they_are_written() {
        for text in ["auto", "cpu", "cuda:0", "cuda:3", "metal"] {
            assert_eq!(text.parse::<ComputeDevice>().unwrap().to_string(), text);
        }
        assert_eq!("cuda".parse(), Ok(ComputeDevice::Cuda(0)));
        for text in ["", "gpu", "cuda:", "cuda:x", "cuda:+1", "cuda:0,1", "CPU"] {
            assert!(text.parse::<ComputeDevice>().is_err(), "{text}");
        }
    }

    #[test]
    fn several_devices_are_read_as_they_are_written() {
        for text in ["auto", "cpu", "metal", "cuda:3", "cuda:0,1", "cuda:7,0,12"] {
            let devices: ComputeDevices = text.parse().unwrap();
            assert_eq!(devices.to_string(), text);
            assert_eq!(serde_json::to_value(&devices).unwrap(), text);
            assert_eq!(serde_json::from_value::<ComputeDevices>(text.into()).unwrap(), devices);
            assert_eq!(devices.as_slice().len(), text.split(',').count());
        }
        let several: ComputeDevices = "cuda:2,0".parse().unwrap();
        assert_eq!(several.as_slice(), [ComputeDevice::Cuda(2), ComputeDevice::Cuda(0)]);
        assert_eq!("cuda".parse(), Ok(ComputeDevices::from(ComputeDevice::Cuda(0))));
        assert_eq!(ComputeDevices::default().to_string(), "auto");
        for text in
            ["", "gpu", "cuda:0,", "cuda:,1", "cuda:0,,1", "cuda:0, 1", "cuda:0,cuda:1", "cpu,cpu", "0,1", "cuda,1"]
        {
            let refused = text.parse::<ComputeDevices>().unwrap_err();
            assert_eq!(refused, "not supported, use auto, cpu, cuda:N, cuda:N,M,... or metal", "{text}");
        }
        assert_eq!("cuda:0,1,0".parse::<ComputeDevices>(), Err("cuda:0 is named twice".into()));
    }
}
