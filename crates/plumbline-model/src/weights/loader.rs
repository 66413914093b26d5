//! Takes tensors out of a checkpoint by name and shape and keeps account of what fits.

use std::cell::RefCell;
use std::collections::BTreeSet;

use candle_core::{DType, Device, Tensor};

use super::{TensorSource, WeightsError};
use crate::spec::{NormKind, NormSpec, ProjectionSpec, WeightLayout};

/// A linear map, weight `[out, in]`, optional bias `[out]`.
#[derive(Clone, Debug)]
pub(crate) struct Linear {
    pub(crate) weight: Tensor,
    pub(crate) bias: Option<Tensor>,
}

/// A normalisation with its weights, `[width]` or `[heads, width]`; the spec's weight offset is already added.
#[derive(Clone, Debug)]
pub(crate) struct Norm {
    pub(crate) kind: NormKind,
    pub(crate) eps: f64,
    pub(crate) weight: Tensor,
    /// What was added to the stored weight.
    pub(crate) weight_offset: f64,
    pub(crate) bias: Option<Tensor>,
}

/// At most so many problems are listed in an error; the rest is counted.
const LISTED_PROBLEMS: usize = 20;

/// Loads tensors and remembers every problem, so that one error can list them all.
///
/// A tensor that does not fit is replaced by one zero that is repeated, and nothing is computed any more, until
/// [`WeightLoader::finish`] refuses the checkpoint: sizes may be wrong because the configuration is, and may be absurd.
pub(crate) struct WeightLoader<'a> {
    source: &'a dyn TensorSource,
    /// What the checkpoint leaves out of the names: the base prefix if it is one of the bare decoder.
    omitted_prefix: Option<&'a str>,
    dtype: DType,
    device: &'a Device,
    account: RefCell<Account>,
}

#[derive(Default)]
struct Account {
    used: BTreeSet<String>,
    problems: Vec<String>,
    sizes: WeightSizes,
}

/// How much a model's weights are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct WeightSizes {
    /// Number of weights.
    pub(crate) parameters: u64,
    /// Memory that they take.
    pub(crate) bytes: u64,
}

impl<'a> WeightLoader<'a> {
    pub(crate) fn new(source: &'a dyn TensorSource, base_prefix: &'a str, dtype: DType, device: &'a Device) -> Self {
        let names = source.names();
        let bare = !names.is_empty() && !names.iter().any(|name| name.starts_with(base_prefix));
        Self { source, omitted_prefix: bare.then_some(base_prefix), dtype, device, account: RefCell::default() }
    }

    /// A tensor of exactly this shape, finite everywhere.
    pub(crate) fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor, WeightsError> {
        self.tensor_as(name, shape, self.dtype)
    }

    /// As [`WeightLoader::tensor`], in a dtype other than the body's.
    pub(crate) fn tensor_as(&self, name: &str, shape: &[usize], dtype: DType) -> Result<Tensor, WeightsError> {
        let name = self.omitted_prefix.and_then(|prefix| name.strip_prefix(prefix)).unwrap_or(name);
        let mut account = self.account.borrow_mut();
        account.used.insert(name.to_owned());
        match self.source.info(name, shape) {
            None => account.problems.push(format!("missing: {name} {shape:?}")),
            Some(info) if info.shape != shape => {
                account
                    .problems
                    .push(format!("wrong shape: {name} is {:?}, the configuration asks for {shape:?}", info.shape));
            }
            Some(_) => {
                let tensor = self.source.load(name, shape, dtype, self.device)?;
                if !is_finite(&tensor).map_err(failed(name))? {
                    account.problems.push(format!("not finite: {name} has NaN or infinite values in {dtype:?}"));
                }
                account.sizes.parameters += tensor.elem_count() as u64;
                account.sizes.bytes += (tensor.elem_count() * tensor.dtype().size_in_bytes()) as u64;
                return Ok(tensor);
            }
        }
        self.placeholder(name, shape, dtype)
    }

    fn placeholder(&self, name: &str, shape: &[usize], dtype: DType) -> Result<Tensor, WeightsError> {
        Tensor::zeros((), dtype, self.device).and_then(|zero| zero.broadcast_as(shape)).map_err(failed(name))
    }

    fn has_problems(&self) -> bool {
        !self.account.borrow().problems.is_empty()
    }

    /// The parts of a projection, concatenated along the output, weight as `[out, in]`.
    pub(crate) fn linear(&self, spec: &ProjectionSpec) -> Result<Linear, WeightsError> {
        let mut weights = Vec::new();
        let mut biases = Vec::new();
        for (name, output) in &spec.parts {
            let shape = match spec.layout {
                WeightLayout::OutIn | WeightLayout::HeadsInterleaved { .. } => [*output, spec.input],
                WeightLayout::InOut => [spec.input, *output],
            };
            weights.push(self.tensor(&format!("{name}.weight"), &shape)?);
            if spec.bias {
                biases.push(self.tensor(&format!("{name}.bias"), &[*output])?);
            }
        }
        let name = spec.parts.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(" + ");
        if self.has_problems() {
            let outputs = spec.parts.iter().map(|(_, output)| output).sum();
            return Ok(Linear {
                weight: self.placeholder(&name, &[outputs, spec.input], self.dtype)?,
                bias: if spec.bias { Some(self.placeholder(&name, &[outputs], self.dtype)?) } else { None },
            });
        }
        let join = |parts: Vec<Tensor>, layout: fn(WeightLayout, Tensor) -> candle_core::Result<Tensor>| {
            let parts: Vec<_> = parts.into_iter().map(|part| layout(spec.layout, part)).collect::<Result<_, _>>()?;
            match parts.as_slice() {
                [only] => Ok(only.clone()),
                parts => Tensor::cat(parts, 0),
            }
        };
        Ok(Linear {
            weight: join(weights, WeightLayout::weight).map_err(failed(&name))?,
            bias: if spec.bias { Some(join(biases, WeightLayout::bias).map_err(failed(&name))?) } else { None },
        })
    }

    /// A norm with weights of `shape`.
    pub(crate) fn norm(&self, spec: &NormSpec, shape: &[usize]) -> Result<Norm, WeightsError> {
        let name = format!("{}.weight", spec.name);
        let mut weight = self.tensor(&name, shape)?;
        if spec.weight_offset != 0.0 && !self.has_problems() {
            weight = (weight + spec.weight_offset).map_err(failed(&name))?;
        }
        let bias = if spec.bias { Some(self.tensor(&format!("{}.bias", spec.name), shape)?) } else { None };
        Ok(Norm { kind: spec.kind, eps: spec.eps, weight, weight_offset: spec.weight_offset, bias })
    }

    /// A norm of each head apart whose weights are stored one by one: `NAME.norms.HEAD.weight`, stacked to `[heads, width]`.
    pub(crate) fn listed_norm(&self, spec: &NormSpec, heads: usize, width: usize) -> Result<Norm, WeightsError> {
        let weights: Vec<Tensor> = (0..heads)
            .map(|head| self.tensor(&format!("{}.norms.{head}.weight", spec.name), &[width]))
            .collect::<Result<_, _>>()?;
        let weight = if self.has_problems() {
            self.placeholder(&spec.name, &[heads, width], self.dtype)?
        } else {
            Tensor::stack(&weights, 0).map_err(failed(&spec.name))?
        };
        Ok(Norm { kind: spec.kind, eps: spec.eps, weight, weight_offset: 0.0, bias: None })
    }

    /// Refuses the checkpoint if anything was missing, misshapen or not finite, or if it holds tensors that nobody took.
    /// Answers how much was taken. `ignorable` says which left-over tensors carry no information.
    pub(crate) fn finish(self, ignorable: impl Fn(&str) -> bool) -> Result<WeightSizes, WeightsError> {
        let mut account = self.account.into_inner();
        for name in self.source.names() {
            if !account.used.contains(&name) && !ignorable(&name) {
                account.problems.push(format!("unexpected: {name}"));
            }
        }
        account.problems.extend(self.source.unapplied().into_iter().map(|change| format!("unused: {change}")));
        let count = account.problems.len();
        if count == 0 {
            return Ok(account.sizes);
        }
        if count > LISTED_PROBLEMS {
            account.problems.truncate(LISTED_PROBLEMS);
            account.problems.push(format!("and {} more", count - LISTED_PROBLEMS));
        }
        Err(WeightsError::Mismatch { problems: account.problems })
    }
}

fn failed(name: &str) -> impl Fn(candle_core::Error) -> WeightsError {
    move |error| WeightsError::Tensor { name: name.into(), reason: error.to_string() }
}

impl WeightLayout {
    /// A stored weight as `[out, in]`.
    fn weight(self, stored: Tensor) -> candle_core::Result<Tensor> {
        match self {
            Self::OutIn => Ok(stored),
            Self::InOut => stored.t()?.contiguous(),
            Self::HeadsInterleaved { heads } => regroup_heads(&stored, heads),
        }
    }

    /// A stored bias as `[out]`.
    fn bias(self, stored: Tensor) -> candle_core::Result<Tensor> {
        match self {
            Self::OutIn | Self::InOut => Ok(stored),
            Self::HeadsInterleaved { heads } => regroup_heads(&stored.unsqueeze(1)?, heads)?.squeeze(1),
        }
    }
}

/// `[heads * (query, key, value), in]` with the three of a head together, as all queries, all keys, all values.
fn regroup_heads(weight: &Tensor, heads: usize) -> candle_core::Result<Tensor> {
    let (out, input) = weight.dims2()?;
    weight.reshape((heads, 3, out / heads / 3, input))?.transpose(0, 1)?.contiguous()?.reshape((out, input))
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
