//! The names of causes.

use serde::{Deserialize, Serialize};

/// Defines [`Cause`] from one list, so that its names and `ALL` cannot disagree.
macro_rules! causes {
    ($($(#[$doc:meta])* $cause:ident = $name:literal,)+) => {
        /// Why an engine's logprobs are not the reference's. `docs/causes.md` has the signature of each, an example, and
        /// what to do. Said of the engine relative to what the sender posted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Cause {
            $($(#[$doc])* #[serde(rename = $name)] $cause,)+
        }

        impl Cause {
            /// All causes, in the order of `docs/causes.md`.
            pub const ALL: [Self; [$($name),+].len()] = [$(Self::$cause),+];

            /// The code used on the wire and as a metric label.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$cause => $name,)+ }
            }
        }
    };
}

causes! {
    /// Numbers that stand for "none": -9999, the lowest float, one very negative value again and again.
    SentinelValues = "sentinel_values",
    /// Exactly 0.0 for tokens that were not certain.
    PlaceholderZeros = "placeholder_zeros",
    /// Numbers above 0: flipped signs, or probabilities instead of logarithms.
    PositiveLogprobs = "positive_logprobs",
    /// NaN or infinities.
    NonFinite = "non_finite",
    /// The numbers belong to other tokens of the same sequence.
    ShiftedLogprobs = "shifted_logprobs",
    /// The numbers belong to another sequence.
    RowsSwapped = "rows_swapped",
    /// Only the end of the sequence differs: an appended or trimmed EOS.
    TerminalToken = "terminal_token",
    /// The raw logprob where one after temperature was stated.
    TemperatureNotApplied = "temperature_not_applied",
    /// A temperature in the numbers that was not stated, or stated once and applied twice.
    TemperatureApplied = "temperature_applied",
    /// The logprob itself divided by a temperature.
    TemperatureAfterSoftmax = "temperature_after_softmax",
    /// Renormalised over the top k.
    TopKRenormalised = "top_k_renormalised",
    /// Renormalised over a nucleus.
    TopPRenormalised = "top_p_renormalised",
    /// Renormalised over what min-p keeps.
    MinPRenormalised = "min_p_renormalised",
    /// After repetition, presence or frequency penalties.
    PenaltiesApplied = "penalties_applied",
    /// The raw logprob, or only temperature, where one after all processing was stated.
    ProcessingNotApplied = "processing_not_applied",
    /// Logits or logprobs rounded to bf16.
    LowPrecisionHead = "low_precision_head",
    /// A soft-cap of the logits that is missing, or that the model does not have.
    SoftcapMismatch = "softcap_mismatch",
    /// Rows behind the vocabulary take part in the softmax, or are left out of it.
    PaddedVocabulary = "padded_vocabulary",
    /// A bias on some tokens.
    HeadBias = "head_bias",
    /// The engine saw one BOS fewer.
    BosMissing = "bos_missing",
    /// The engine saw one BOS more.
    BosExtra = "bos_extra",
    /// The engine saw another beginning of the prompt.
    PromptPrefixDiffers = "prompt_prefix_differs",
    /// The engine saw another end of the prompt.
    GenerationPromptDiffers = "generation_prompt_differs",
    /// One token of the context was another.
    TokenAltered = "token_altered",
    /// From a token on, the engine's context was another.
    ContextDiffersFromToken = "context_differs_from_token",
    /// The text was encoded anew: other ids for the same text.
    Retokenised = "retokenised",
    /// Another base or scaling of the rotary embeddings.
    RopeMismatch = "rope_mismatch",
    /// Another attention window.
    SlidingWindowMismatch = "sliding_window_mismatch",
    /// Another resident version of the policy.
    StaleWeights = "stale_weights",
    /// The base model without its adapter.
    AdapterMissing = "adapter_missing",
    /// Weights that are none of the resident ones.
    DifferentWeights = "different_weights",
    /// The weights changed within the sequence.
    MidSequenceWeightSwap = "mid_sequence_weight_swap",
    /// Keys and values of the prompt computed by other weights.
    StalePrefixCache = "stale_prefix_cache",
    /// Keys and values stored in a coarse format.
    KvCachePrecision = "kv_cache_precision",
    /// Tokens that went to other experts.
    MoeRouting = "moe_routing",
    /// One worker differs from the others.
    WorkerSpecific = "worker_specific",
    /// Rounding, but coarser than a faithful bf16 engine's.
    NumericalNoise = "numerical_noise",
    /// Beyond noise, and nothing that was tried explains it.
    Unknown = "unknown",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_on_the_wire_are_the_codes() {
        for cause in Cause::ALL {
            assert_eq!(serde_json::to_value(cause).unwrap(), cause.as_str());
            assert!(cause.as_str().chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{cause:?}");
        }
        let distinct: std::collections::HashSet<_> = Cause::ALL.iter().map(|cause| cause.as_str()).collect();
        assert_eq!(distinct.len(), Cause::ALL.len());
    }
}
