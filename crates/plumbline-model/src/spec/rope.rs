//! Rotary position embeddings: which angle a position turns each pair of channels by.
//!
//! Formulas and their roundings to f32 follow Hugging Face's `modeling_rope_utils`, so that the reference turns by the very
//! angles that a trainer's transformers does.

use super::config::{ConfigError, HfConfig};

/// A rotary embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeSpec {
    /// Number of leading channels of a head that rotate.
    pub dim: usize,
    /// Base of the geometric series of wave lengths.
    pub theta: f64,
    /// Neighbouring channels form a pair; otherwise channel `i` pairs with `i + dim / 2`.
    pub interleaved: bool,
    /// How the series is changed for longer contexts.
    pub scaling: RopeScaling,
    /// Positions are divided by this once more; 1 in every configuration.
    pub position_divisor: f64,
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
    /// The base grows with the sequence, once it is longer than trained on (dynamic NTK).
    Dynamic {
        /// How fast it grows.
        factor: f64,
        /// Context length of the training.
        max_positions: usize,
    },
    /// Low frequencies divided, high ones kept, a ramp over the channels between (YaRN).
    Yarn(YarnSpec),
    /// A factor for each frequency, one set for short sequences and one for long ones (Phi-3).
    LongRope {
        /// Divisors for sequences up to `original_max_positions`.
        short: Vec<f64>,
        /// Divisors for longer sequences.
        long: Vec<f64>,
        /// Factor on cosines and sines.
        attention_factor: f64,
        /// Context length of the original training.
        original_max_positions: usize,
    },
    /// Low frequencies divided, high ones kept, a ramp over the wave lengths between (Llama 3).
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

/// YaRN's parameters (Peng et al., 2023).
#[derive(Clone, Debug, PartialEq)]
pub struct YarnSpec {
    /// Divisor of the low frequencies.
    pub factor: f64,
    /// Factor on cosines and sines.
    pub attention_factor: f64,
    /// Factor on the attention scale that belongs to `mscale_all_dim` (DeepSeek); 1 without it.
    pub sharpening: f64,
    /// Rotations over the original context above which a channel is kept.
    pub beta_fast: f64,
    /// Rotations below which a channel is fully divided.
    pub beta_slow: f64,
    /// Context length of the original training.
    pub original_max_positions: usize,
    /// Whether the ends of the ramp are rounded to whole channels.
    pub truncate: bool,
}

/// Base of most families where the configuration does not say (transformers' `default_theta`).
pub(super) const DEFAULT_THETA: f64 = 10_000.0;

impl RopeSpec {
    /// A rotary embedding without scaling.
    pub(super) fn plain(dim: usize, theta: f64) -> Self {
        Self { dim, theta, interleaved: false, scaling: RopeScaling::Default, position_divisor: 1.0 }
    }

    /// Reads `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (before), refusing what is not known.
    /// `theta` is the family's base and `fraction` its share of rotating channels where the configuration does not say.
    pub(super) fn from_config(
        config: &mut HfConfig,
        head_dim: usize,
        (theta, fraction): (f64, f64),
        max_positions: usize,
    ) -> Result<Self, ConfigError> {
        let outer_theta = config.optional_f64("rope_theta")?;
        let outer_fraction = config.optional_f64("partial_rotary_factor")?;
        let outer_original = config.optional_usize("original_max_position_embeddings")?;
        let mut parameters = match config.object("rope_parameters")? {
            Some(parameters) => parameters,
            None => config.object("rope_scaling")?.unwrap_or_else(|| config.empty("rope_scaling")),
        };
        let theta = parameters.optional_f64("rope_theta")?.or(outer_theta).unwrap_or(theta);
        let fraction = parameters.optional_f64("partial_rotary_factor")?.or(outer_fraction).unwrap_or(fraction);
        let original = parameters.optional_usize("original_max_position_embeddings")?.or(outer_original);
        let dim = (head_dim as f64 * fraction) as usize;
        if dim == 0 || dim > head_dim || !dim.is_multiple_of(2) {
            let reason = format!("{head_dim} channels a head, which cannot rotate {dim} in pairs");
            return Err(parameters.invalid("partial_rotary_factor", fraction, reason));
        }
        let new_key = parameters.optional_string("rope_type")?;
        let old_key = parameters.optional_string("type")?;
        let scaling = match new_key.or(old_key).as_deref() {
            None | Some("default") => RopeScaling::Default,
            Some("linear") => RopeScaling::Linear { factor: parameters.f64("factor")? },
            Some("dynamic") => RopeScaling::Dynamic { factor: parameters.f64("factor")?, max_positions },
            Some("yarn") => RopeScaling::Yarn(YarnSpec::read(&mut parameters, original, max_positions)?),
            Some("longrope" | "su") => read_long_rope(&mut parameters, dim, original, max_positions)?,
            Some("llama3") => RopeScaling::Llama3 {
                factor: parameters.f64("factor")?,
                low_freq_factor: parameters.f64("low_freq_factor")?,
                high_freq_factor: parameters.f64("high_freq_factor")?,
                original_max_positions: original
                    .ok_or_else(|| parameters.missing("original_max_position_embeddings"))?
                    as f64,
            },
            Some(other) => return Err(parameters.unsupported("rope_type", other)),
        };
        parameters.finish()?;
        Ok(Self { dim, theta, interleaved: false, scaling, position_divisor: 1.0 })
    }

    /// The longest sequence that the configuration provides for.
    pub(super) fn longest_context(&self, max_positions: usize) -> usize {
        match &self.scaling {
            RopeScaling::Dynamic { factor, max_positions } => (*max_positions as f64 * factor.max(1.0)) as usize,
            RopeScaling::Yarn(yarn) => max_positions.max((yarn.original_max_positions as f64 * yarn.factor) as usize),
            _ => max_positions,
        }
    }

    /// Factor on the attention scale.
    pub(super) fn attention_sharpening(&self) -> f64 {
        match &self.scaling {
            RopeScaling::Yarn(yarn) => yarn.sharpening,
            _ => 1.0,
        }
    }

    /// Factor on cosines and sines.
    #[must_use]
    pub fn attention_factor(&self) -> f64 {
        match &self.scaling {
            RopeScaling::Yarn(yarn) => yarn.attention_factor,
            RopeScaling::LongRope { attention_factor, .. } => *attention_factor,
            _ => 1.0,
        }
    }

    /// Sequences with the same regime turn by the same angles; most embeddings know only one, 0.
    #[must_use]
    pub fn regime(&self, sequence_len: usize) -> usize {
        match &self.scaling {
            RopeScaling::Dynamic { max_positions, .. } if sequence_len > *max_positions => sequence_len,
            RopeScaling::LongRope { original_max_positions, .. } => usize::from(sequence_len > *original_max_positions),
            _ => 0,
        }
    }

    /// Whether sequences of different lengths may turn by different angles, so that a prefix that two of them share does
    /// not have one meaning.
    #[must_use]
    pub fn depends_on_length(&self) -> bool {
        matches!(self.scaling, RopeScaling::Dynamic { .. } | RopeScaling::LongRope { .. })
    }

    /// Inverse frequencies of a regime, `dim / 2` of them, with Hugging Face's roundings to f32.
    #[must_use]
    pub fn inverse_frequencies(&self, regime: usize) -> Vec<f32> {
        let mut frequencies = self.scaled_frequencies(regime);
        if self.position_divisor != 1.0 {
            frequencies.iter_mut().for_each(|frequency| *frequency /= self.position_divisor as f32);
        }
        frequencies
    }

    fn scaled_frequencies(&self, regime: usize) -> Vec<f32> {
        let theta = match &self.scaling {
            RopeScaling::Dynamic { factor, max_positions } if regime > 0 => {
                let stretch = *factor as f32 * regime as f32 / *max_positions as f32 - (factor - 1.0) as f32;
                let exponent = (self.dim as f64 / (self.dim as f64 - 2.0)) as f32;
                self.theta as f32 * power(stretch, exponent)
            }
            _ => self.theta as f32,
        };
        let wave = |channel: usize| power(theta, channel as f32 / self.dim as f32);
        let waves = (0..self.dim).step_by(2).map(wave);
        match &self.scaling {
            RopeScaling::Default | RopeScaling::Dynamic { .. } => waves.map(|wave| 1.0 / wave).collect(),
            RopeScaling::Linear { factor } => waves.map(|wave| 1.0 / wave / *factor as f32).collect(),
            RopeScaling::LongRope { short, long, .. } => {
                let factors = if regime == 0 { short } else { long };
                waves.zip(factors).map(|(wave, factor)| 1.0 / (*factor as f32 * wave)).collect()
            }
            RopeScaling::Yarn(yarn) => {
                let keep = yarn.kept_share(self.dim, self.theta);
                waves
                    .zip(keep)
                    .map(|(wave, keep)| 1.0 / (yarn.factor as f32 * wave) * (1.0 - keep) + 1.0 / wave * keep)
                    .collect()
            }
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_positions } => waves
                .map(|wave| {
                    let frequency = 1.0 / wave;
                    let wave_length = std::f32::consts::TAU / frequency;
                    if wave_length < (original_max_positions / high_freq_factor) as f32 {
                        frequency
                    } else if wave_length > (original_max_positions / low_freq_factor) as f32 {
                        frequency / *factor as f32
                    } else {
                        let smooth = (*original_max_positions as f32 / wave_length - *low_freq_factor as f32)
                            / (high_freq_factor - low_freq_factor) as f32;
                        (1.0 - smooth) * frequency / *factor as f32 + smooth * frequency
                    }
                })
                .collect(),
        }
    }
}

/// Power in f64, rounded once to f32.
fn power(base: f32, exponent: f32) -> f32 {
    f64::from(base).powf(f64::from(exponent)) as f32
}

impl YarnSpec {
    fn read(parameters: &mut HfConfig, original: Option<usize>, max_positions: usize) -> Result<Self, ConfigError> {
        let original_max_positions = original.unwrap_or(max_positions);
        let factor = parameters.optional_f64("factor")?.unwrap_or(max_positions as f64 / original_max_positions as f64);
        let mscale = parameters.optional_f64("mscale")?.filter(|mscale| *mscale != 0.0);
        let mscale_all_dim = parameters.optional_f64("mscale_all_dim")?.filter(|mscale| *mscale != 0.0);
        let growth = |mscale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 };
        let attention_factor = match (parameters.optional_f64("attention_factor")?, mscale, mscale_all_dim) {
            (Some(given), ..) => given,
            (None, Some(mscale), Some(all)) => growth(mscale) / growth(all),
            (None, ..) => growth(1.0),
        };
        let or_default = |value: Option<f64>, default| value.filter(|value| *value != 0.0).unwrap_or(default);
        Ok(Self {
            factor,
            attention_factor,
            sharpening: mscale_all_dim.map_or(1.0, growth),
            beta_fast: or_default(parameters.optional_f64("beta_fast")?, 32.0),
            beta_slow: or_default(parameters.optional_f64("beta_slow")?, 1.0),
            original_max_positions,
            truncate: parameters.flag("truncate", true)?,
        })
    }

    /// For each pair of channels, how much of its own frequency it keeps: 1 for fast ones, 0 for slow ones.
    fn kept_share(&self, dim: usize, theta: f64) -> Vec<f32> {
        let channel = |rotations: f64| {
            let length = self.original_max_positions as f64 / (rotations * std::f64::consts::TAU);
            dim as f64 * length.ln() / (2.0 * theta.ln())
        };
        let (mut low, mut high) = (channel(self.beta_fast), channel(self.beta_slow));
        if self.truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(dim as f64 - 1.0));
        if low == high {
            high += 0.001;
        }
        let width = (high - low) as f32;
        (0..dim / 2).map(|pair| 1.0 - ((pair as f32 - low as f32) / width).clamp(0.0, 1.0)).collect()
    }
}

fn read_long_rope(
    parameters: &mut HfConfig,
    dim: usize,
    original: Option<usize>,
    max_positions: usize,
) -> Result<RopeScaling, ConfigError> {
    let original_max_positions = original.ok_or_else(|| parameters.missing("original_max_position_embeddings"))?;
    let mut factors = |key: &str| match parameters.floats(key)? {
        Some(factors) if factors.len() == dim / 2 => Ok(factors),
        Some(factors) => Err(parameters.invalid(
            key,
            factors.len(),
            format!("must have {} entries, one a pair of channels", dim / 2),
        )),
        None => Err(parameters.missing(key)),
    };
    let (short, long) = (factors("short_factor")?, factors("long_factor")?);
    let factor = parameters.optional_f64("factor")?.unwrap_or(max_positions as f64 / original_max_positions as f64);
    let attention_factor = match parameters.optional_f64("attention_factor")? {
        Some(given) => given,
        None if factor <= 1.0 => 1.0,
        None => (1.0 + factor.ln() / (original_max_positions as f64).ln()).sqrt(),
    };
    Ok(RopeScaling::LongRope { short, long, attention_factor, original_max_positions })
}
