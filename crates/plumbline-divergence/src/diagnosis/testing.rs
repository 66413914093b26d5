//! What the tests of this module share.

use plumbline_core::{LogprobsMode, Rollout, Sampling, TokenId};

use super::input::Floor;
use super::observed::{Observed, Token};
use crate::TokenFloor;

/// A floor that is the same for every token.
#[derive(Clone, Copy, Debug)]
pub(super) struct FlatFloor(pub(super) f64);

impl Floor for FlatFloor {
    fn token(&self, _entropy: f64) -> TokenFloor {
        TokenFloor { mean_abs: self.0, mean_square: 2.0 * self.0 * self.0 }
    }
}

/// Reproducible random numbers.
pub(super) struct Noise(pub(super) u64);

impl Noise {
    pub(super) fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Mean |x| 1.
    pub(super) fn laplace(&mut self) -> f64 {
        let sign = if self.uniform() < 0.5 { -1.0 } else { 1.0 };
        -sign * (1.0 - self.uniform()).ln()
    }
}

/// Tokens with these residuals over a flat floor.
pub(super) fn observed(residuals: &[f64], floor: f64) -> Observed {
    let token = |(at, residual): (usize, &f64)| Token {
        at,
        place: at,
        id: at as TokenId,
        engine: -2.0 - residual,
        reference: -2.0,
        raw: -2.0,
        rank: 0,
        floor,
        variance: floor * floor,
        scale: floor,
    };
    Observed { index: 0, tokens: residuals.iter().enumerate().map(token).collect() }
}

/// A rollout without numbers.
pub(super) fn rollout(prompt: &[TokenId], completion: &[TokenId]) -> Rollout {
    Rollout {
        id: "s".into(),
        prompt_token_ids: prompt.to_vec(),
        completion_token_ids: completion.to_vec(),
        logprobs: vec![Some(-1.0); completion.len()],
        loss_mask: None,
        sampling: Sampling::default(),
        logprobs_mode: LogprobsMode::Raw,
        finish_reason: None,
        policy_version: None,
        weight_versions: Vec::new(),
    }
}
