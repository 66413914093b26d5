//! What to expect of an engine where no floor of the model itself is known.

use plumbline_divergence::{Floor, TokenFloor};

/// Mean `|d|` in nats of healthy bf16 engines: 0.010 to 0.018 are published (miles, vime, TRL).
const MAE: f64 = 0.015;

/// Root mean square of `d` over its mean `|d|` in healthy bf16 engines: heavier tails than a Gaussian's 1.25.
const SPREAD: f64 = 2.0;

/// The noise floor as published of other models, the same for every token.
#[derive(Clone, Copy, Debug, Default)]
pub struct PublishedFloor;

impl Floor for PublishedFloor {
    fn token(&self, _entropy: f64) -> TokenFloor {
        TokenFloor { mean_abs: MAE, mean_square: (MAE * SPREAD).powi(2) }
    }
}
