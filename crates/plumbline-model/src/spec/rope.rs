//! Rotary position embeddings: which angle a position turns each pair of channels by.

use super::config::{ConfigError, HfConfig};

/// A rotary embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeSpec {
    /// Number of leading channels of a head that rotate.
    pub dim: usize,
    /// Base of the geometric series of wave lengths.
    pub theta: f64,
    /// How the series is changed for longer contexts.
    pub scaling: RopeScaling,
}

/// Changes of the inverse frequencies for contexts longer than trained on.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// None.
    Default,
    /// Positions divided by a factor.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Llama 3: low frequencies divided, high ones kept, a ramp between.
    Llama3 {
        /// Divisor of the low frequencies.
        factor: f64,
        /// Wave lengths above `original / low_freq_factor` are low frequencies.
        low_freq_factor: f64,
        /// Wave lengths below `original / high_freq_factor` are high frequencies.
        high_freq_factor: f64,
        /// Context length of the original training.
        original_max_positions: f64,
    },
}

impl RopeSpec {
    /// Reads `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (before), refusing what is not known.
    pub(super) fn from_config(config: &mut HfConfig, dim: usize) -> Result<Self, ConfigError> {
        let mut parameters = match config.object("rope_parameters")? {
            Some(parameters) => parameters,
            None => config.object("rope_scaling")?.unwrap_or_else(|| config.empty("rope_scaling")),
        };
        let outer_theta = config.optional_f64("rope_theta")?;
        let theta = parameters.optional_f64("rope_theta")?.or(outer_theta).unwrap_or(10_000.0);
        let kind = parameters.optional_string("rope_type")?;
        let kind = match parameters.optional_string("type")? {
            old if kind.is_none() => old,
            _ => kind,
        };
        let scaling = match kind.as_deref() {
            None | Some("default") => RopeScaling::Default,
            Some("linear") => RopeScaling::Linear { factor: parameters.f64("factor")? },
            Some("llama3") => RopeScaling::Llama3 {
                factor: parameters.f64("factor")?,
                low_freq_factor: parameters.f64("low_freq_factor")?,
                high_freq_factor: parameters.f64("high_freq_factor")?,
                original_max_positions: parameters.f64("original_max_position_embeddings")?,
            },
            Some(other) => return Err(parameters.unsupported("rope_type", other)),
        };
        parameters.finish()?;
        Ok(Self { dim, theta, scaling })
    }

    /// Inverse frequencies, `dim / 2` of them, with the same roundings to f32 as Hugging Face's `inv_freq` buffer.
    #[must_use]
    pub fn inverse_frequencies(&self) -> Vec<f32> {
        let plain = (0..self.dim).step_by(2).map(|channel| {
            let exponent = channel as f32 / self.dim as f32;
            1.0 / (self.theta.powf(f64::from(exponent)) as f32)
        });
        match self.scaling {
            RopeScaling::Default => plain.collect(),
            RopeScaling::Linear { factor } => plain.map(|frequency| frequency / factor as f32).collect(),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_positions } => plain
                .map(|frequency| {
                    let wave_length = std::f32::consts::TAU / frequency;
                    if wave_length < (original_max_positions / high_freq_factor) as f32 {
                        frequency
                    } else if wave_length > (original_max_positions / low_freq_factor) as f32 {
                        frequency / factor as f32
                    } else {
                        let smooth = (original_max_positions as f32 / wave_length - low_freq_factor as f32)
                            / (high_freq_factor - low_freq_factor) as f32;
                        (1.0 - smooth) * (frequency / factor as f32) + smooth * frequency
                    }
                })
                .collect(),
        }
    }
}
