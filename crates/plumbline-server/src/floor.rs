//! The measurement of the noise floor: once for each version of the weights when it becomes the current one, beside scoring.
//!
//! Measured on a slice of recent traffic. While there is too little of that, on text sampled from the reference itself, and
//! once more on traffic as soon as there is enough.

use std::time::Duration;

use plumbline_divergence::NoiseFloor;
use plumbline_probe::{FloorError, FloorMeasurement, FloorSource, PieceError, RecentTraffic};
use plumbline_scheduler::{AsideError, Scheduler};

use crate::config::Config;
use crate::metrics::ServiceMetrics;

/// How long a server that has just become ready is left alone, unless there is enough traffic before: its first requests
/// mostly come at once, and what is measured for want of them would keep them waiting.
const LEFT_ALONE: Duration = Duration::from_secs(2);

/// How far the floor of the current version is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FloorState {
    /// Not asked for.
    Off,
    /// Being measured.
    Measuring,
    /// There was nothing to measure it on yet: the model does not give the logits that sampling needs.
    Waiting,
    /// Known, from text sampled from the reference.
    Sampled,
    /// Known, from recent traffic.
    Traffic,
    /// The reference cannot simulate a bf16 engine.
    Unsupported,
    /// The measurement failed; the log says why.
    Failed,
}

impl FloorState {
    /// All states.
    pub(crate) const ALL: [Self; 7] =
        [Self::Off, Self::Measuring, Self::Waiting, Self::Sampled, Self::Traffic, Self::Unsupported, Self::Failed];

    /// The name used on the wire and as a metric label.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Measuring => "measuring",
            Self::Waiting => "waiting",
            Self::Sampled => "sampled",
            Self::Traffic => "traffic",
            Self::Unsupported => "unsupported",
            Self::Failed => "failed",
        }
    }
}

/// Measures the floor of every version that becomes the current one, and passes it to `store` with the version's name; `store`
/// says whether it is of use. Never returns.
pub(crate) async fn keep_measured(
    scheduler: &Scheduler,
    config: &Config,
    recent: &RecentTraffic,
    metrics: &ServiceMetrics,
    store: impl Fn(&str, NoiseFloor) -> bool,
) {
    let tokens = config.noise_floor_tokens;
    if tokens == 0 {
        metrics.set_floor_state(FloorState::Off);
        return std::future::pending().await;
    }
    metrics.set_floor_state(FloorState::Measuring);
    tokio::select! {
        () = tokio::time::sleep(LEFT_ALONE) => {}
        () = recent.has(tokens) => {}
    }
    let measurement = FloorMeasurement { scheduler, recent, limits: config.piece_limits(), tokens };
    loop {
        let Some(info) = scheduler.reference() else { return std::future::pending().await };
        let version = info.policy_version.as_str();
        metrics.set_floor_state(FloorState::Measuring);
        let result = measurement.run(&info).await.and_then(|(floor, source)| match store(version, floor) {
            true => Ok(source),
            false => Err(FloorError::TooFew),
        });
        let state = match result {
            Ok(FloorSource::Traffic) => FloorState::Traffic,
            Ok(FloorSource::Sampled) => FloorState::Sampled,
            Err(FloorError::Unsupported) => {
                // Of all versions: they differ in nothing but their weights.
                tracing::info!(model = info.model, "no noise floor: the reference cannot simulate a bf16 engine");
                metrics.set_floor_state(FloorState::Unsupported);
                return std::future::pending().await;
            }
            Err(FloorError::NoText(reason)) => {
                tracing::info!(version, %reason, "the noise floor waits for traffic");
                FloorState::Waiting
            }
            // The scheduler ends, and with it all of this.
            Err(FloorError::Aside(AsideError::NotServing | AsideError::Stopped)) => {
                return std::future::pending().await;
            }
            // It has left while it was measured: another one is current.
            Err(FloorError::Piece(PieceError::Gone(_))) if scheduler.residents().get(version).is_none() => continue,
            Err(error) => {
                tracing::error!(version, %error, "the noise floor was not measured");
                FloorState::Failed
            }
        };
        metrics.set_floor_state(state);
        tracing::info!(version, state = state.as_str(), "noise floor");
        let another = scheduler.residents_when(|residents| {
            residents.current().is_some_and(|current| !std::sync::Arc::ptr_eq(current, &info))
        });
        let once_more = matches!(state, FloorState::Sampled | FloorState::Waiting);
        tokio::select! {
            another = another => if another.is_none() { return std::future::pending().await },
            () = recent.has(tokens), if once_more => {}
        }
    }
}
