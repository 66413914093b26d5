//! Takes tensors out of a checkpoint by name and shape and keeps account of what fits.

use std::cell::RefCell;
use std::collections::BTreeSet;

use candle_core::{DType, Device, Tensor};

use super::{TensorSource, WeightsError};
use crate::spec::{NormKind, NormSpec, ProjectionSpec};

/// A linear map, weight `[out, in]`, optional bias `[out]`.
#[derive(Clone, Debug)]
pub(crate) struct Linear {
    pub(crate) weight: Tensor,
    pub(crate) bias: Option<Tensor>,
}

/// A normalisation with its weights, `[width]`; the spec's weight offset is already added.
#[derive(Clone, Debug)]
pub(crate) struct Norm {
    pub(crate) kind: NormKind,
    pub(crate) eps: f64,
    pub(crate) weight: Tensor,
    pub(crate) bias: Option<Tensor>,
}

/// At most so many problems are listed in an error; the rest is counted.
const LISTED_PROBLEMS: usize = 20;

/// Loads tensors and remembers every problem, so that one error can list them all.
///
/// A tensor that does not fit is replaced by zeros until [`WeightLoader::finish`] refuses the checkpoint.
pub(crate) struct WeightLoader<'a> {
    source: &'a dyn TensorSource,
    dtype: DType,
    device: &'a Device,
    account: RefCell<Account>,
}

#[derive(Default)]
struct Account {
    used: BTreeSet<String>,
    problems: Vec<String>,
    parameters: u64,
}

impl<'a> WeightLoader<'a> {
    pub(crate) fn new(source: &'a dyn TensorSource, dtype: DType, device: &'a Device) -> Self {
        Self { source, dtype, device, account: RefCell::default() }
    }

    /// A tensor of exactly this shape, finite everywhere.
    pub(crate) fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor, WeightsError> {
        self.tensor_as(name, shape, self.dtype)
    }

    /// As [`WeightLoader::tensor`], in a dtype other than the body's.
    pub(crate) fn tensor_as(&self, name: &str, shape: &[usize], dtype: DType) -> Result<Tensor, WeightsError> {
        let mut account = self.account.borrow_mut();
        account.used.insert(name.to_owned());
        let failed = |error: candle_core::Error| WeightsError::Tensor { name: name.into(), reason: error.to_string() };
        match self.source.info(name, shape) {
            None => account.problems.push(format!("missing: {name} {shape:?}")),
            Some(info) if info.shape != shape => {
                account
                    .problems
                    .push(format!("wrong shape: {name} is {:?}, the configuration asks for {shape:?}", info.shape));
            }
            Some(_) => {
                let tensor = self.source.load(name, shape, dtype, self.device)?;
                if !is_finite(&tensor).map_err(failed)? {
                    account.problems.push(format!("not finite: {name} has NaN or infinite values in {dtype:?}"));
                }
                account.parameters += tensor.elem_count() as u64;
                return Ok(tensor);
            }
        }
        Tensor::zeros(shape, dtype, self.device).map_err(failed)
    }

    /// The parts of a projection, concatenated along the output.
    pub(crate) fn linear(&self, spec: &ProjectionSpec) -> Result<Linear, WeightsError> {
        let mut weights = Vec::new();
        let mut biases = Vec::new();
        for (name, output) in &spec.parts {
            weights.push(self.tensor(&format!("{name}.weight"), &[*output, spec.input])?);
            if spec.bias {
                biases.push(self.tensor(&format!("{name}.bias"), &[*output])?);
            }
        }
        let join = |parts: &[Tensor]| match parts {
            [only] => Ok(only.clone()),
            parts => Tensor::cat(parts, 0),
        };
        let name = || spec.parts.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(" + ");
        let failed = |error: candle_core::Error| WeightsError::Tensor { name: name(), reason: error.to_string() };
        Ok(Linear {
            weight: join(&weights).map_err(failed)?,
            bias: if spec.bias { Some(join(&biases).map_err(failed)?) } else { None },
        })
    }

    /// A norm over `width` channels.
    pub(crate) fn norm(&self, spec: &NormSpec, width: usize) -> Result<Norm, WeightsError> {
        let weight_name = format!("{}.weight", spec.name);
        let mut weight = self.tensor(&weight_name, &[width])?;
        if spec.weight_offset != 0.0 {
            weight = (weight + spec.weight_offset)
                .map_err(|error| WeightsError::Tensor { name: weight_name, reason: error.to_string() })?;
        }
        let bias = if spec.bias { Some(self.tensor(&format!("{}.bias", spec.name), &[width])?) } else { None };
        Ok(Norm { kind: spec.kind, eps: spec.eps, weight, bias })
    }

    /// Refuses the checkpoint if anything was missing, misshapen or not finite, or if it holds tensors that nobody took.
    /// Answers the number of weights. `ignorable` says which left-over tensors carry no information.
    pub(crate) fn finish(self, ignorable: impl Fn(&str) -> bool) -> Result<u64, WeightsError> {
        let mut account = self.account.into_inner();
        for name in self.source.names() {
            if !account.used.contains(&name) && !ignorable(&name) {
                account.problems.push(format!("unexpected: {name}"));
            }
        }
        let count = account.problems.len();
        if count == 0 {
            return Ok(account.parameters);
        }
        if count > LISTED_PROBLEMS {
            account.problems.truncate(LISTED_PROBLEMS);
            account.problems.push(format!("and {} more", count - LISTED_PROBLEMS));
        }
        Err(WeightsError::Mismatch { problems: account.problems })
    }
}

/// Whether every element is a finite number: `x * 0` is 0 for those and NaN for all others.
fn is_finite(tensor: &Tensor) -> candle_core::Result<bool> {
    if tensor.elem_count() == 0 {
        return Ok(true);
    }
    Ok(tensor.affine(0.0, 0.0)?.sum_all()?.to_dtype(DType::F64)?.to_scalar::<f64>()? == 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finiteness_sees_every_kind() {
        let finite = |values: &[f32]| is_finite(&Tensor::new(values, &Device::Cpu).unwrap()).unwrap();
        assert!(finite(&[0.0, -3.0e38, 1.0e-40]));
        assert!(!finite(&[0.0, f32::NAN, 1.0]));
        assert!(!finite(&[f32::NAN, 0.0]));
        assert!(!finite(&[0.0, f32::INFINITY]));
        assert!(!finite(&[f32::NEG_INFINITY]));
    }
}
