//! Importance weights that a trainer can multiply into its loss.

use serde::{Deserialize, Serialize};

use crate::{SequenceComparison, terms};

/// Importance weights of one sequence at the three levels in use, untruncated; exponents limited to
/// +-[`EXPONENT_LIMIT`](crate::EXPONENT_LIMIT).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImportanceWeights {
    /// `rho_t` of each completion token; `null` where it cannot be computed, present for masked tokens.
    pub token: Vec<Option<f64>>,
    /// `exp(sum d)` over the compared tokens; `None` if there are none.
    pub sequence: Option<f64>,
    /// `exp(mean d)` over the compared tokens; `None` if there are none.
    pub geometric: Option<f64>,
}

/// The importance weights of one sequence.
#[must_use]
pub fn importance_weights(sequence: &SequenceComparison) -> ImportanceWeights {
    let compared = sequence.tokens.iter().filter_map(|token| token.compared());
    let (count, sum) =
        compared.fold((0u64, 0.0), |(count, sum), (engine, reference)| (count + 1, sum + (reference - engine)));
    let over_compared = |exponent: f64| (count > 0).then(|| terms::limited_exp(exponent));
    ImportanceWeights {
        token: sequence.tokens.iter().map(|token| token.importance_ratio()).collect(),
        sequence: over_compared(sum),
        geometric: over_compared(sum / count as f64),
    }
}
