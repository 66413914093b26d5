//! The measured noise floors, by version of the weights.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use plumbline_divergence::{FloorCurve, FloorHead, NoiseFloor};

/// Floors that are kept: those of the versions measured last.
const KEPT: usize = 16;

/// A measured floor and what it expects.
#[derive(Debug)]
pub(crate) struct MeasuredFloor {
    /// The version of the weights that were measured.
    pub(crate) policy_version: String,
    /// What was measured.
    pub(crate) floor: NoiseFloor,
    /// What multiples and verdicts use: the engine with [`FloorHead::USED`].
    pub(crate) curve: FloorCurve,
    /// When.
    pub(crate) measured_at: SystemTime,
}

/// The floors of the versions measured last; a cheap handle.
#[derive(Clone, Debug, Default)]
pub(crate) struct NoiseFloors {
    /// In the order of measurement.
    measured: Arc<RwLock<VecDeque<Arc<MeasuredFloor>>>>,
}

impl NoiseFloors {
    /// Takes in a measurement, in place of an earlier one of the same version; answers use it from now on. `false`, and nothing
    /// changes, if there are too few tokens to expect anything.
    pub(crate) fn set(&self, policy_version: &str, floor: NoiseFloor) -> bool {
        let Some(curve) = floor.curve(FloorHead::USED) else { return false };
        let measured =
            MeasuredFloor { policy_version: policy_version.to_owned(), floor, curve, measured_at: SystemTime::now() };
        let mut all = self.measured.write().unwrap_or_else(PoisonError::into_inner);
        all.retain(|known| known.policy_version != policy_version);
        all.push_back(Arc::new(measured));
        while all.len() > KEPT {
            all.pop_front();
        }
        true
    }

    /// The floor of this version; while it is not measured, the one that was measured last: successive versions differ little,
    /// and a stream of sequences keeps its unit.
    pub(crate) fn of(&self, policy_version: &str) -> Option<Arc<MeasuredFloor>> {
        let all = self.measured.read().unwrap_or_else(PoisonError::into_inner);
        let own = all.iter().find(|known| known.policy_version == policy_version);
        own.or_else(|| all.back()).cloned()
    }
}

#[cfg(test)]
mod tests {
    use plumbline_divergence::FloorSample;

    use super::*;

    fn floor(abs_delta: f64, tokens: usize) -> NoiseFloor {
        let mut floor = NoiseFloor::default();
        floor.observe_sequence(FloorHead::USED, &vec![FloorSample { entropy: 1.0, abs_delta }; tokens]);
        floor
    }

    #[test]
    fn a_version_has_its_own_floor_or_the_last_one() {
        let floors = NoiseFloors::default();
        assert!(floors.of("1").is_none());
        assert!(!floors.set("1", floor(0.01, 100)), "too few tokens");
        assert!(floors.set("1", floor(0.01, 1000)) && floors.set("2", floor(0.02, 1000)));
        let level = |version: &str| (1e3 * floors.of(version).unwrap().curve.token(1.0).mean_abs).round();
        assert_eq!((level("1"), level("2"), level("3")), (10.0, 20.0, 20.0));
        assert!(floors.set("1", floor(0.03, 1000)));
        assert_eq!((level("1"), level("3")), (30.0, 30.0), "measured again, and last");
    }

    #[test]
    fn floors_are_bounded() {
        let floors = NoiseFloors::default();
        (0..40).for_each(|version| assert!(floors.set(&version.to_string(), floor(0.01, 1000))));
        let measured = floors.measured.read().unwrap();
        assert_eq!(measured.len(), KEPT);
        assert_eq!(measured.back().unwrap().policy_version, "39");
        assert!(measured.iter().all(|floor| floor.policy_version != "0"));
    }
}
