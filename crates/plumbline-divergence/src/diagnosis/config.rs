//! How much a diagnosis may cost, and when it names a cause.

use serde::{Deserialize, Serialize};

/// Settings of a diagnosis.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiagnosisConfig {
    /// Tokens that all forwards of one diagnosis may take. Default 65536.
    pub probe_tokens: usize,
    /// Rows of logits to look at in one sequence. Default 192.
    pub rows_per_sequence: usize,
    /// Rows of logits to look at in one diagnosis. Default 1024.
    pub rows: usize,
    /// Sequences on which hypotheses are tried that need another forward; the best one is then tried on all. Default 3.
    pub panel: usize,
    /// Mean `|d|` of a sequence, in multiples of what the floor expects of its tokens, from which it is looked into. Default
    /// 2: single sequences of a real bf16 engine reach 1.6.
    pub excess: f64,
    /// The same for all sequences of a request together. Default 1.5: floors are known to within 25 %.
    pub excess_together: f64,
    /// How many standard errors above the floor these means have to be as well. Default 5.
    pub excess_errors: f64,
    /// Mean `|d|` under a hypothesis, in multiples of the floor, that counts as explained. Default 1.6.
    pub reached: f64,
    /// Log-likelihood in nats by which a hypothesis has to beat "just larger noise". Default 8.
    pub margin: f64,
}

impl Default for DiagnosisConfig {
    fn default() -> Self {
        Self {
            probe_tokens: 65_536,
            rows_per_sequence: 192,
            rows: 1024,
            panel: 3,
            excess: 2.0,
            excess_together: 1.5,
            excess_errors: 5.0,
            reached: 1.6,
            margin: 8.0,
        }
    }
}
