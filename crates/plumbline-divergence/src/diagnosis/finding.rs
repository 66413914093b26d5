//! What a diagnosis says.

use serde::Serialize;

use super::cause::Cause;

/// One named cause.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// Which.
    pub cause: Cause,
    /// 1 - MAE under the hypothesis / MAE, over the tokens for which it was worked out. `None` for a cause without a
    /// counterfactual.
    pub explained: Option<f64>,
    /// Mean `|d|` under the hypothesis in multiples of the noise floor; 1 = a faithful bf16 engine.
    pub residual_floor_multiple: Option<f64>,
    /// One sentence with the numbers behind it.
    pub evidence: String,
}

/// The causes of one sequence, the likeliest first; empty = nothing beyond noise.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SequenceDiagnosis {
    /// The rollout's id.
    pub id: String,
    /// Ranked.
    pub findings: Vec<Finding>,
}

/// The answer for one request.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Diagnosis {
    /// Causes of the request as a whole, with the evidence of all its sequences. Empty = nothing beyond noise.
    pub request: Vec<Finding>,
    /// One per sequence, in order.
    pub sequences: Vec<SequenceDiagnosis>,
    /// Whether a hypothesis was left untried because the budget was spent.
    pub exhausted: bool,
    /// Tokens of all forwards that were asked for.
    pub probed_tokens: usize,
    /// Questions that the model could not answer.
    pub failures: Vec<String>,
}
