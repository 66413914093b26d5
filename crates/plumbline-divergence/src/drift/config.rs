//! What the detector is asked to guarantee.

use serde::{Deserialize, Serialize};

use super::DriftUnit;

/// Settings of a detector. `docs/drift.md` shows what the defaults detect and how soon.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DriftConfig {
    /// Least mean number of sequences between false alarms. Default 1e6.
    pub mean_run_length: f64,
    /// Levels within this factor of the learned one, up or down, are no drift. It also has to cover the error of the
    /// learned level. Default 1.3.
    pub tolerance: f64,
    /// One sequence counts at most as this multiple of the level, so that a few routing flips are no drift; less than one
    /// in `cap` sequences cannot move the learned level far. Default 4.
    pub cap: f64,
    /// Sequences from which a level is learned, at the start and after an alarm; made more exact at twice and four times as
    /// many. Default 200.
    pub baseline_sequences: u64,
    /// Where the noise floor is known: an engine above this multiple of it is in alarm from its first sequences, before a
    /// level of its own is learned. Default 2.
    pub floor_tolerance: f64,
    /// Where the noise floor is known: levels below this multiple of it (engines in f32) count as this much, so that
    /// changes far below the floor raise no alarm. Default 0.1.
    pub min_level_floors: f64,
    /// The same in nats where no floor is known. Default 1e-3, a tenth of what healthy bf16 engines show.
    pub min_level_nats: f64,
}

impl Default for DriftConfig {
    fn default() -> Self {
        Self {
            mean_run_length: 1e6,
            tolerance: 1.3,
            cap: 4.0,
            baseline_sequences: 200,
            floor_tolerance: 2.0,
            min_level_floors: 0.1,
            min_level_nats: 1e-3,
        }
    }
}

/// A setting without meaning.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("drift setting {key} is {value}, expected {expected}")]
pub struct DriftConfigError {
    /// The setting's name.
    pub key: &'static str,
    /// Its value.
    pub value: f64,
    /// What is allowed.
    pub expected: &'static str,
}

impl DriftConfig {
    /// Checks every setting.
    ///
    /// # Errors
    /// [`DriftConfigError`] names the first one without meaning.
    pub fn validate(&self) -> Result<(), DriftConfigError> {
        let checks = [
            ("mean_run_length", self.mean_run_length, self.mean_run_length >= 1.0, "at least 1"),
            ("tolerance", self.tolerance, self.tolerance > 1.0, "above 1"),
            ("cap", self.cap, self.cap > self.tolerance, "above tolerance"),
            (
                "baseline_sequences",
                self.baseline_sequences as f64,
                (10..=100_000).contains(&self.baseline_sequences),
                "10 to 100000",
            ),
            ("floor_tolerance", self.floor_tolerance, self.floor_tolerance >= 1.0, "at least 1"),
            ("min_level_floors", self.min_level_floors, self.min_level_floors > 0.0, "above 0"),
            ("min_level_nats", self.min_level_nats, self.min_level_nats > 0.0, "above 0"),
        ];
        for (key, value, allowed, expected) in checks {
            if !allowed || !value.is_finite() {
                return Err(DriftConfigError { key, value, expected });
            }
        }
        Ok(())
    }

    pub(super) fn min_level(&self, unit: DriftUnit) -> f64 {
        match unit {
            DriftUnit::Nats => self.min_level_nats,
            DriftUnit::NoiseFloors => self.min_level_floors,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_nonsense_is_named() {
        assert_eq!(DriftConfig::default().validate(), Ok(()));
        for (text, key) in [
            (r#"{"mean_run_length":0.5}"#, "mean_run_length"),
            (r#"{"tolerance":1.0}"#, "tolerance"),
            (r#"{"tolerance":4.0}"#, "cap"),
            (r#"{"baseline_sequences":9}"#, "baseline_sequences"),
            (r#"{"floor_tolerance":0.9}"#, "floor_tolerance"),
            (r#"{"min_level_floors":0.0}"#, "min_level_floors"),
            (r#"{"min_level_nats":-1.0}"#, "min_level_nats"),
        ] {
            let config: DriftConfig = serde_json::from_str(text).unwrap();
            assert_eq!(config.validate().unwrap_err().key, key);
        }
        assert!(DriftConfig { tolerance: f64::NAN, ..DriftConfig::default() }.validate().is_err());
        assert!(serde_json::from_str::<DriftConfig>(r#"{"tolerence":2.0}"#).is_err());
    }
}
