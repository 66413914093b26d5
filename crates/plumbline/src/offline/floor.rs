//! The noise floor of the session's reference.

use plumbline_divergence::{FloorCurve, FloorHead, NoiseFloor};
use plumbline_probe::{FloorError, FloorMeasurement, FloorSource, RecentTraffic};
use plumbline_scheduler::Scheduler;
use plumbline_server::Config;

/// What was measured, and what is to be said about it.
#[derive(Debug, Default)]
pub(super) struct SessionFloor {
    pub(super) floor: Option<NoiseFloor>,
    /// What verdicts use.
    pub(super) curve: Option<FloorCurve>,
    /// Why there is none, or on what it rests.
    pub(super) note: Option<String>,
}

/// Measures the floor on the first rollouts, or on text sampled from the reference where they are too few.
pub(super) async fn measure(scheduler: &Scheduler, config: &Config, recent: &RecentTraffic) -> SessionFloor {
    let without = |reason: &dyn std::fmt::Display| {
        let note = format!("no noise floor: {reason}; verdicts rest on published absolute levels");
        SessionFloor { note: Some(note), ..SessionFloor::default() }
    };
    let tokens = config.noise_floor_tokens;
    if tokens == 0 {
        return without(&"its measurement is switched off");
    }
    let Some(info) = scheduler.reference() else { return without(&"there is no reference") };
    let measurement = FloorMeasurement { scheduler, recent, limits: config.piece_limits(), tokens };
    match measurement.run(&info).await {
        Ok((floor, source)) => match floor.curve(FloorHead::USED) {
            Some(curve) => {
                let note = (source == FloorSource::Sampled).then(|| {
                    "the noise floor was measured on text sampled from the reference: the rollouts have too few tokens".into()
                });
                SessionFloor { floor: Some(floor), curve: Some(curve), note }
            }
            None => without(&FloorError::TooFew),
        },
        Err(error) => without(&error),
    }
}
