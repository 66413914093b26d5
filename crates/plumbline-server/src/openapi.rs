//! Parts of the OpenAPI document that describe types of other crates by the keys they really serialise to.

use plumbline_core::SkipReason;
use plumbline_divergence::ClusteredSums;
use utoipa::openapi::schema::{Object, ObjectBuilder, Schema, SchemaType, Type};
use utoipa::openapi::{InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder, RefOr};
use utoipa::{PartialSchema, ToSchema};

/// Title, version and conventions; the paths come from the handlers.
pub(crate) fn base() -> OpenApi {
    let info = InfoBuilder::new()
        .title("Plumbline")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "Scores the tokens that an inference engine sampled on a resident reference model and says how far the \
             engine's logprobs are from the reference's. Log ratios are reference minus engine, in nats. Errors are \
             RFC 9457 problem documents with a stable `code`.",
        ))
        .license(Some(LicenseBuilder::new().name("Apache-2.0").build()))
        .build();
    OpenApiBuilder::new().info(info).build()
}

/// Keys of `plumbline_divergence::Metrics` that are counts and never null.
const COUNTS: [(&str, &str); 3] = [
    ("tokens", "Compared tokens."),
    ("sequences", "Sequences with at least one compared token."),
    ("clamped_exponents", "Exponents that were limited to +-20."),
];

/// The other keys of `plumbline_divergence::Metrics`: numbers, null where undefined.
const NUMBERS: [(&str, &str); 41] = [
    ("log_ratio_mean", "Mean d, signed; d = reference - engine logprob in nats."),
    ("mae_logprob", "Mean |d|."),
    ("rmse_logprob", "Root of the mean d^2."),
    ("max_abs_logprob", "Largest |d|."),
    ("p50_abs_logprob", "Median of |d|."),
    ("p90_abs_logprob", "90 % quantile of |d|."),
    ("p99_abs_logprob", "99 % quantile of |d|."),
    ("p999_abs_logprob", "99.9 % quantile of |d|."),
    ("pearson_logprob", "Pearson correlation of both logprobs."),
    ("spearman_logprob", "Spearman correlation of both logprobs."),
    ("mae_prob", "Mean |p_reference - p_engine|."),
    ("rmse_prob", "Root of the mean (p_reference - p_engine)^2."),
    ("max_abs_prob", "Largest |p_reference - p_engine|."),
    ("prob_diff_mean", "Mean p_reference - p_engine, signed."),
    ("pearson_prob", "Pearson correlation of both probabilities."),
    ("bernoulli_kl", "Mean KL(Bernoulli(p_reference) || Bernoulli(p_engine))."),
    ("kl_k1", "k1 estimate of KL(engine || reference): mean -d."),
    ("kl_k2", "k2 estimate: mean d^2 / 2."),
    ("kl_k3", "k3 estimate: mean exp(d) - 1 - d."),
    ("reverse_kl_k3", "k3 with -d: mean exp(-d) - 1 + d."),
    ("js", "Jensen-Shannon divergence in NeMo-RL's form."),
    ("mult_prob_error", "Mean exp|d|."),
    ("importance_ratio_mean", "Mean exp(d)."),
    ("importance_ratio_min", "Smallest exp(d)."),
    ("importance_ratio_max", "Largest exp(d)."),
    ("ess", "Effective sample size as a fraction of the tokens."),
    ("ess_truncated", "The same with exp(d) cut at 2."),
    ("chi2_token", "Mean exp(d)^2, minus 1."),
    ("chi2_sequence", "Mean over sequences of exp(sum d)^2, minus 1."),
    ("ratio_outside_0_9_1_1", "Fraction of tokens with exp(d) outside [0.9, 1.1]."),
    ("ratio_outside_0_5_2", "Fraction of tokens with exp(d) outside [0.5, 2]."),
    ("ratio_outside_0_5_5", "Fraction of tokens with exp(d) outside [0.5, 5]."),
    ("ratio_below_1e_4", "Fraction of tokens with exp(d) below 1e-4."),
    ("ppl_engine", "Mean over sequences of the engine's perplexity."),
    ("ppl_reference", "Mean over sequences of the reference's perplexity."),
    ("log_ppl_diff", "Mean over sequences of mean engine logprob - mean reference logprob."),
    ("entropy", "Mean entropy of the reference's next-token distributions."),
    ("kl_entropy_ratio", "kl_k3 / entropy."),
    ("top1_agreement", "Fraction of tokens that are the reference's first choice."),
    ("eos_probability", "Mean probability that the reference gave to ending where sequences ended by EOS."),
    (
        "noise_floor_multiple",
        "Mean |d| as a multiple of what a faithful bf16 engine would show on these tokens; null until it was measured.",
    ),
];

/// `plumbline_divergence::Metrics`.
pub(crate) struct MetricsDocument;

impl PartialSchema for MetricsDocument {
    fn schema() -> RefOr<Schema> {
        metrics_object().build().into()
    }
}

fn metrics_object() -> ObjectBuilder {
    let mut object = ObjectBuilder::new().description(Some(
        "Divergence between engine and reference. Undefined (no tokens, too few for a correlation, no spread) is null.",
    ));
    for (key, description) in COUNTS {
        object = object.property(key, described(Type::Integer.into(), description)).required(key);
    }
    for (key, description) in NUMBERS {
        let nullable = SchemaType::from_iter([Type::Number, Type::Null]);
        object = object.property(key, described(nullable, description)).required(key);
    }
    object
}

impl ToSchema for MetricsDocument {
    fn name() -> std::borrow::Cow<'static, str> {
        "Metrics".into()
    }
}

/// `MetricsDocument` with the intervals of `plumbline_divergence::ClusteredSums`.
pub(crate) struct MetricsWithIntervalsDocument;

impl PartialSchema for MetricsWithIntervalsDocument {
    fn schema() -> RefOr<Schema> {
        let intervals = ClusteredSums::default().intervals();
        let mut object = metrics_object();
        for key in intervals.into_keys() {
            let interval = ObjectBuilder::new()
                .schema_type(SchemaType::from_iter([Type::Object, Type::Null]))
                .description(Some("95 % interval clustered by sequence; null for fewer than two sequences."))
                .property("low", described(Type::Number.into(), "Lower end."))
                .required("low")
                .property("high", described(Type::Number.into(), "Upper end."))
                .required("high");
            object = object.property(key, interval).required(key);
        }
        object.build().into()
    }
}

impl ToSchema for MetricsWithIntervalsDocument {
    fn name() -> std::borrow::Cow<'static, str> {
        "MetricsWithIntervals".into()
    }
}

/// `plumbline_core::SkipCounts`.
pub(crate) struct SkippedDocument;

impl PartialSchema for SkippedDocument {
    fn schema() -> RefOr<Schema> {
        let mut object = ObjectBuilder::new().description(Some("Completion tokens that enter no sum, by reason."));
        for reason in SkipReason::ALL {
            let description = match reason {
                SkipReason::Masked => "loss_mask is 0 there.",
                SkipReason::NoContext => "First token of a sequence without a prompt.",
                SkipReason::Missing => "The engine gave null.",
                SkipReason::NonFinite => "NaN or an infinity.",
                SkipReason::Sentinel => "-9998 or below: a number that stands for none.",
                SkipReason::Positive => "Above 0: not the logarithm of a probability.",
                SkipReason::SupportMismatch => {
                    "The reference's own top-k, top-p or min-p leaves the token out: in processed mode it has no logprob."
                }
            };
            let key = reason.as_str();
            object = object.property(key, described(Type::Integer.into(), description)).required(key);
        }
        object.build().into()
    }
}

impl ToSchema for SkippedDocument {
    fn name() -> std::borrow::Cow<'static, str> {
        "Skipped".into()
    }
}

fn described(schema_type: SchemaType, description: &str) -> Object {
    ObjectBuilder::new().schema_type(schema_type).description(Some(description)).build()
}

#[cfg(test)]
mod tests {
    use plumbline_core::{Sampling, SkipCounts};
    use plumbline_divergence::{Interval, Metrics, PooledSums, importance_weights};
    use serde::Serialize;
    use serde_json::Value;

    use super::*;
    use crate::body::SamplingParameters;
    use crate::run_view::{IntervalDocument, MetricsWithIntervals};
    use crate::verify::ImportanceWeightsDocument;

    fn assert_describes<D: PartialSchema>(value: &impl Serialize) {
        let schema = serde_json::to_value(D::schema()).unwrap();
        let keys = |value: &Value| {
            let mut keys: Vec<_> = value.as_object().unwrap().keys().cloned().collect();
            keys.sort();
            keys
        };
        assert_eq!(keys(&schema["properties"]), keys(&serde_json::to_value(value).unwrap()));
    }

    #[test]
    fn documents_have_the_keys_of_what_they_describe() {
        assert_describes::<MetricsDocument>(&Metrics::default());
        assert_describes::<MetricsWithIntervalsDocument>(&MetricsWithIntervals::of(&PooledSums::default()));
        assert_describes::<IntervalDocument>(&Interval { low: 0.0, high: 1.0 });
        assert_describes::<SkippedDocument>(&SkipCounts::default());
        assert_describes::<SamplingParameters>(&Sampling::default());
        let comparison = plumbline_divergence::SequenceComparison {
            id: String::new(),
            tokens: Vec::new(),
            skipped: SkipCounts::default(),
            eos_probability: None,
        };
        assert_describes::<ImportanceWeightsDocument>(&importance_weights(&comparison));
    }

    #[test]
    fn counts_are_never_null_and_numbers_may_be() {
        let json = serde_json::to_value(Metrics::default()).unwrap();
        assert!(COUNTS.iter().all(|(key, _)| json[key] == 0));
        assert!(NUMBERS.iter().all(|(key, _)| json[key].is_null()));
    }
}
