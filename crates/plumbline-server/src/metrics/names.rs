//! Every metric name, label, bucket and help text, in one place: dashboards and alert rules are written against it.

use plumbline_divergence::SufficientStatistics;

/// Whose divergence a series describes. Bounded: see `plumbline_divergence::Monitor`.
pub(super) const GROUP_LABELS: [&str; 3] = ["run", "engine", "model_name"];

/// Durations from a probe to a long batch on a slow machine.
pub(super) const SECONDS_BUCKETS: [f64; 16] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0];

/// Tokens of one forward.
pub(super) const BATCH_TOKENS_BUCKETS: [f64; 13] =
    [16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 32768.0, 65536.0];

/// Sequences of one forward.
pub(super) const BATCH_SEQUENCES_BUCKETS: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

/// Name and help of a metric.
pub(super) type Described = (&'static str, &'static str);

pub(super) const ALERTS_FIRING: Described =
    ("plumbline_alerts_firing", "Alerts that fire, of those that the service posts by itself.");
pub(super) const NOTIFICATIONS: Described = (
    "plumbline_notifications_total",
    "Tries to tell a receiver of alerts: delivered, failed (it is tried again) or refused (it is not).",
);
pub(super) const NOTIFICATION_STATUSES: [&str; 3] = ["delivered", "failed", "refused"];
pub(super) const NOTIFICATIONS_DROPPED: Described = (
    "plumbline_notifications_dropped_total",
    "Notifications that are left out: no room while the receiver was away, or refused.",
);
pub(super) const NOTIFICATIONS_WAITING: Described =
    ("plumbline_notifications_waiting", "Notifications that wait to be taken by a receiver.");
pub(super) const QUEUE_TOKENS: Described = ("plumbline_queue_tokens", "Tokens that wait to be scored.");
pub(super) const QUEUE_LIMIT_TOKENS: Described = (
    "plumbline_queue_limit_tokens",
    "Tokens that may wait to be scored (max_queue_tokens); beyond it requests get 429.",
);
pub(super) const QUEUE_SEQUENCES: Described = ("plumbline_queue_sequences", "Sequences that wait to be scored.");
pub(super) const QUEUE_WAIT_SECONDS: Described =
    ("plumbline_queue_wait_seconds", "Time from a sequence's admission to the start of its batch.");
pub(super) const BATCH_TOKENS: Described = ("plumbline_batch_tokens", "Tokens of one forward.");
pub(super) const BATCH_SEQUENCES: Described = ("plumbline_batch_sequences", "Sequences of one forward.");
pub(super) const BATCHES_FAILED: Described =
    ("plumbline_batches_failed_total", "Batches that the reference failed to score.");
pub(super) const BATCH_SPLITS: Described =
    ("plumbline_batch_splits_total", "Failed batches whose halves were then scored apart.");
pub(super) const OOM_BACKOFFS: Described =
    ("plumbline_oom_backoffs_total", "Forwards that ran out of memory, after which less of it is used.");
pub(super) const PREFIX_TOKENS_SAVED: Described =
    ("plumbline_prefix_tokens_saved_total", "Rows that were not computed because sequences share a beginning.");
pub(super) const FORWARD_SECONDS: Described =
    ("plumbline_forward_seconds", "Time of one batch in the embedding and the decoder layers.");
pub(super) const HEAD_SECONDS: Described =
    ("plumbline_head_seconds", "Time of one batch in the lm_head and the statistics of its rows.");
pub(super) const CANCELLED_SEQUENCES: Described =
    ("plumbline_sequences_cancelled_total", "Sequences dropped from the queue because their client left.");
pub(super) const CANCELLED_TOKENS: Described =
    ("plumbline_tokens_cancelled_total", "Tokens dropped from the queue because their client left.");
pub(super) const CLASS_QUEUE_TOKENS: Described =
    ("plumbline_class_queue_tokens", "Tokens that wait to be scored, by class of urgency.");
pub(super) const CLASS_QUEUE_SEQUENCES: Described =
    ("plumbline_class_queue_sequences", "Sequences that wait to be scored, by class of urgency.");
pub(super) const CLASS_WAIT_SECONDS: Described = (
    "plumbline_class_wait_seconds",
    "Time from a sequence's admission to the start of its batch, by class of urgency.",
);
pub(super) const ADMISSION_REFUSED: Described = (
    "plumbline_admission_refused_total",
    "Requests whose work was not admitted, by class and reason: queue_full (by tokens), too_slow (by time), unavailable, \
     quarantined or invalid.",
);
pub(super) const REFUSAL_REASONS: [&str; 5] = ["queue_full", "too_slow", "unavailable", "quarantined", "invalid"];
pub(super) const SEQUENCES_DROPPED: Described =
    ("plumbline_sequences_dropped_total", "Admitted sequences that are never scored, by reason; none had started.");
pub(super) const TOKENS_DROPPED: Described =
    ("plumbline_tokens_dropped_total", "Tokens of admitted sequences that are never scored, by reason.");
pub(super) const MODEL_PANICS: Described =
    ("plumbline_model_panics_total", "Sequences that made the reference panic; they are refused for a while.");
pub(super) const QUARANTINED: Described = (
    "plumbline_quarantined_sequences",
    "Sequences that were refused at the last panic because they had made the reference panic.",
);
pub(super) const MODEL_RESTARTS: Described =
    ("plumbline_model_restarts_total", "Times that a model thread began to load its weights again after a failure.");
pub(super) const MODEL_RESTART_SECONDS: Described =
    ("plumbline_model_restart_seconds", "Time in which a model thread loaded its weights again.");
pub(super) const VERSION_WAIT_TOKENS: Described =
    ("plumbline_version_wait_tokens", "Tokens of requests that wait for a version of the weights.");
pub(super) const REQUEST_SECONDS: Described =
    ("plumbline_request_seconds", "Time from a request's headers to its response, by route and status.");
pub(super) const REQUESTS_IN_FLIGHT: Described =
    ("plumbline_requests_in_flight", "Requests to the routes under /v1 that are being answered.");
pub(super) const REQUESTS_CANCELLED: Described =
    ("plumbline_requests_cancelled_total", "Requests whose client left before the response.");
pub(super) const CONNECTIONS: Described = ("plumbline_connections", "Open connections of clients.");
pub(super) const EVENT_STREAMS: Described = ("plumbline_event_streams", "Open streams of live updates.");
pub(super) const CONNECTIONS_CLOSED: Described =
    ("plumbline_connections_closed_total", "Connections that the server closed or refused, by reason.");
pub(super) const BODY_BYTES: Described = ("plumbline_body_bytes", "Bytes of request bodies and answers that are held.");
pub(super) const CREDENTIAL_RELOADS: Described = (
    "plumbline_credential_reloads_total",
    "Changed files of API keys and certificates that were read again, by what they hold and whether they are in use now.",
);
pub(super) const WEIGHT_SWAPS: Described =
    ("plumbline_weight_swaps_total", "New versions of the reference's weights that became the current one.");
pub(super) const WEIGHT_FAILURES: Described =
    ("plumbline_weight_update_failures_total", "Checkpoints that were refused or could not be loaded.");
pub(super) const WEIGHT_LOAD_SECONDS: Described =
    ("plumbline_weight_load_seconds", "Time from the request for new weights to their first use.");
pub(super) const REFERENCE_VERSIONS: Described =
    ("plumbline_reference_versions", "Versions of the weights that rollouts can be scored with.");
pub(super) const WEIGHT_BYTES: Described = ("plumbline_reference_weight_bytes", "Memory of all resident weights.");
pub(super) const REFERENCE_INFO: Described =
    ("plumbline_reference_info", "The resident reference; its value is 1 and it is one series.");
pub(super) const REFERENCE_LABELS: [&str; 5] = ["model_name", "dtype", "head_dtype", "device", "weight_version"];
pub(super) const BUILD_INFO: Described = ("plumbline_build_info", "The running binary; its value is 1.");
pub(super) const ASIDE_SECONDS: Described =
    ("plumbline_aside_seconds", "Time of one piece of work beside scoring (noise floor, diagnosis) on the model.");
pub(super) const FLOOR_STATE: Described = (
    "plumbline_noise_floor_state",
    "How far the noise floor of the current version is: 1 for its state, 0 for the others.",
);
pub(super) const DIAGNOSES_WAITING: Described =
    ("plumbline_diagnoses_waiting", "Suspicious requests that wait to be diagnosed.");
pub(super) const DIAGNOSES_DROPPED: Described =
    ("plumbline_diagnoses_dropped_total", "Suspicious requests that were not diagnosed because too many wait.");
pub(super) const DIAGNOSIS_TOKENS: Described =
    ("plumbline_diagnosis_tokens_total", "Tokens that were scored again to diagnose suspicious requests.");
pub(super) const ABS_LOG_RATIO: Described =
    ("plumbline_abs_log_ratio_nats", "|d| of compared tokens, d = reference logprob - engine logprob.");
pub(super) const TOKENS_SKIPPED: Described =
    ("plumbline_tokens_skipped_total", "Completion tokens that enter no sum, by reason.");
pub(super) const DRIFT_SCORE: Described = (
    "plumbline_drift_score",
    "Evidence that the level of |d| changed, relative to what raises an alarm: 1 and above = alarm. NaN for run=\"other\", where streams mix.",
);
pub(super) const DIAGNOSES: Described =
    ("plumbline_diagnosis_total", "Diagnosed sequences by the cause that was ranked first.");
pub(super) const SEQUENCES: Described = ("plumbline_sequences_total", "Answered sequences by verdict.");

pub(super) const REPEATED: Described = (
    "plumbline_repeated_total",
    "What came again and was not counted again: requests answered from what is kept, and sequences of other requests that were counted before.",
);
pub(super) const UNSTORED: Described = (
    "plumbline_answers_unstored_total",
    "Answers that were sent without being stored because the store is in trouble.",
);
pub(super) const JOBS: Described =
    ("plumbline_jobs", "Accepted verifications that wait (queued) or are worked on (running).");
pub(super) const JOBS_FINISHED: Described =
    ("plumbline_jobs_finished_total", "Accepted verifications that were answered (done) or cannot be (failed).");
pub(super) const STORE_STATE: Described =
    ("plumbline_store_state", "State of the store: 1 for its state, 0 for the others; none = there is no data dir.");
pub(super) const STORE_ERRORS: Described =
    ("plumbline_store_errors_total", "Failed reads and writes of the store, by kind.");
pub(super) const STORE_BYTES: Described =
    ("plumbline_store_bytes", "Bytes of the store's file, of its write-ahead log, and of the content in the file.");
pub(super) const STORE_ROWS: Described =
    ("plumbline_store_rows", "Sequences in the store, and those of them whose tokens are kept.");
pub(super) const STORE_REMOVED: Described =
    ("plumbline_store_removed_total", "What retention removed: sequences, their tokens, answers.");
pub(super) const STORE_WAITING_WRITES: Described =
    ("plumbline_store_waiting_writes", "Writes that wait for their commit.");
pub(super) const STORE_WRITES: Described = ("plumbline_store_writes_total", "Writes to the store.");
pub(super) const STORE_COMMITS: Described =
    ("plumbline_store_commits_total", "Commits of the store; writes that wait together share one.");

/// A value of its own within a family, beside [`GROUP_LABELS`].
pub(super) type ExtraLabel = Option<(&'static str, &'static str)>;

/// A gauge over the sliding window. Undefined values (nothing compared, no spread) are NaN: 0 would read as perfect.
pub(super) struct GaugeSpec {
    pub(super) name: &'static str,
    pub(super) label: ExtraLabel,
    pub(super) help: &'static str,
    pub(super) value: fn(&SufficientStatistics) -> Option<f64>,
}

const fn gauge(
    name: &'static str,
    label: ExtraLabel,
    help: &'static str,
    value: fn(&SufficientStatistics) -> Option<f64>,
) -> GaugeSpec {
    GaugeSpec { name, label, help, value }
}

const KL_HELP: &str =
    "KL(engine || reference) per token in nats by estimator; reverse_k3 is k3 with -d (sliding window).";
const OUTSIDE_HELP: &str =
    "Fraction of tokens whose importance ratio exp(d) lies outside the band, d = reference - engine (sliding window).";

/// The divergence gauges of DESIGN, over the sliding window of each run and engine.
pub(super) const GAUGES: [GaugeSpec; 21] = [
    gauge(
        "plumbline_logprob_mae_nats",
        None,
        "Mean |d|, d = reference logprob - engine logprob (sliding window).",
        |s| s.mae(),
    ),
    gauge("plumbline_logprob_rmse_nats", None, "Root mean square of d (sliding window).", |s| s.rmse()),
    gauge("plumbline_logprob_max_abs_nats", None, "Largest |d| (sliding window).", |s| s.max_abs()),
    gauge(
        "plumbline_logprob_pearson",
        None,
        "Pearson correlation of engine and reference logprobs (sliding window).",
        |s| s.pearson_logprob(),
    ),
    gauge("plumbline_prob_mae", None, "Mean |p_reference - p_engine| (sliding window).", |s| s.mae_prob()),
    gauge(
        "plumbline_prob_pearson",
        None,
        "Pearson correlation of engine and reference probabilities (sliding window).",
        |s| s.pearson_prob(),
    ),
    gauge("plumbline_log_ratio_mean_nats", None, "Mean d, signed: reference - engine (sliding window).", |s| {
        s.log_ratio_mean()
    }),
    gauge("plumbline_kl_nats", Some(("estimator", "k1")), KL_HELP, |s| s.kl_k1()),
    gauge("plumbline_kl_nats", Some(("estimator", "k2")), KL_HELP, |s| s.kl_k2()),
    gauge("plumbline_kl_nats", Some(("estimator", "k3")), KL_HELP, |s| s.kl_k3()),
    gauge("plumbline_kl_nats", Some(("estimator", "reverse_k3")), KL_HELP, |s| s.reverse_kl_k3()),
    gauge("plumbline_mult_prob_error", None, "Mean exp|d|; 1 = equal (sliding window).", |s| s.mult_prob_error()),
    gauge("plumbline_importance_ratio_mean", None, "Mean exp(d); 1 = unbiased (sliding window).", |s| {
        s.importance_ratio_mean()
    }),
    gauge("plumbline_ess_ratio", None, "Effective sample size as a fraction of the tokens (sliding window).", |s| {
        s.ess()
    }),
    gauge("plumbline_ratio_outside_ratio", Some(("band", "0.9-1.1")), OUTSIDE_HELP, |s| s.ratio_outside_0_9_1_1()),
    gauge("plumbline_ratio_outside_ratio", Some(("band", "0.5-2")), OUTSIDE_HELP, |s| s.ratio_outside_0_5_2()),
    gauge("plumbline_ratio_outside_ratio", Some(("band", "0.5-5")), OUTSIDE_HELP, |s| s.ratio_outside_0_5_5()),
    gauge("plumbline_ratio_outside_ratio", Some(("band", "0.0001-inf")), OUTSIDE_HELP, |s| s.ratio_below_1e_4()),
    gauge(
        "plumbline_noise_floor_nats",
        None,
        "Mean |d| that a faithful bf16 engine would show on the tokens of the window (sliding window).",
        |s| s.noise_floor(),
    ),
    gauge(
        "plumbline_noise_floor_multiple",
        None,
        "Mean |d| over that of a faithful bf16 engine on the same tokens (sliding window).",
        |s| s.noise_floor_multiple(),
    ),
    gauge("plumbline_window_tokens", None, "Compared tokens in the sliding window.", |s| Some(s.tokens as f64)),
];

/// A monotone counter of one sufficient statistic; `field` is its name in `SufficientStatistics::counters`.
pub(super) struct CounterSpec {
    pub(super) field: &'static str,
    pub(super) name: &'static str,
    pub(super) label: ExtraLabel,
    pub(super) help: &'static str,
}

const fn counter(field: &'static str, name: &'static str, help: &'static str) -> CounterSpec {
    CounterSpec { field, name, label: None, help }
}

const fn outside(field: &'static str, band: &'static str) -> CounterSpec {
    CounterSpec {
        field,
        name: "plumbline_ratio_outside_tokens_total",
        label: Some(("band", band)),
        help: "Tokens whose importance ratio exp(d) lies outside the band, d = reference - engine.",
    }
}

/// The sums behind the gauges, from which any window and any number of replicas is exact: `rate` each, then `sum`.
/// d = reference logprob - engine logprob in nats, rho = exp(d), exponents limited to +-20.
pub(super) const COUNTERS: [CounterSpec; 51] = [
    counter("tokens", "plumbline_tokens_scored_total", "Compared tokens."),
    counter("sequences", "plumbline_sequences_compared_total", "Sequences with at least one compared token."),
    counter("entropy_tokens", "plumbline_entropy_tokens_total", "Compared tokens with a known entropy."),
    counter("ranked_tokens", "plumbline_ranked_tokens_total", "Compared tokens with a known rank."),
    counter("top1", "plumbline_top1_tokens_total", "Compared tokens that are the reference's first choice."),
    outside("outside_0_9_1_1", "0.9-1.1"),
    outside("outside_0_5_2", "0.5-2"),
    outside("outside_0_5_5", "0.5-5"),
    outside("below_1e_4", "0.0001-inf"),
    counter("clamped_exponents", "plumbline_clamped_exponents_total", "Exponents that were limited to +-20."),
    counter(
        "eos_sequences",
        "plumbline_eos_sequences_total",
        "Sequences that ended by an EOS token the reference scored.",
    ),
    counter(
        "floor_tokens",
        "plumbline_noise_floor_tokens_total",
        "Compared tokens of which the noise floor says what to expect.",
    ),
    counter("engine_nll", "plumbline_engine_nll_sum_total", "Sum of -e, the engine's negative logprobs."),
    counter("reference_nll", "plumbline_reference_nll_sum_total", "Sum of -r, the reference's negative logprobs."),
    counter("engine_nll_squared", "plumbline_engine_nll_squared_sum_total", "Sum of e^2."),
    counter("reference_nll_squared", "plumbline_reference_nll_squared_sum_total", "Sum of r^2."),
    counter("nll_product", "plumbline_nll_product_sum_total", "Sum of e r."),
    counter("delta_positive", "plumbline_delta_positive_sum_total", "Sum of max(d, 0)."),
    counter("delta_negative", "plumbline_delta_negative_sum_total", "Sum of max(-d, 0)."),
    counter("delta_squared", "plumbline_delta_squared_sum_total", "Sum of d^2."),
    counter("k3", "plumbline_k3_sum_total", "Sum of exp(d) - 1 - d."),
    counter("reverse_k3", "plumbline_reverse_k3_sum_total", "Sum of exp(-d) - 1 + d."),
    counter("js", "plumbline_js_sum_total", "Sum of Jensen-Shannon terms in NeMo-RL's form."),
    counter("mult_prob_error", "plumbline_mult_prob_error_sum_total", "Sum of exp|d|."),
    counter("importance_ratio", "plumbline_importance_ratio_sum_total", "Sum of rho."),
    counter("importance_ratio_squared", "plumbline_importance_ratio_squared_sum_total", "Sum of rho^2."),
    counter("truncated_ratio", "plumbline_truncated_ratio_sum_total", "Sum of min(rho, 2)."),
    counter("truncated_ratio_squared", "plumbline_truncated_ratio_squared_sum_total", "Sum of min(rho, 2)^2."),
    counter("chi2_token_positive", "plumbline_chi2_token_positive_sum_total", "Sum of max(rho^2 - 1, 0)."),
    counter("chi2_token_negative", "plumbline_chi2_token_negative_sum_total", "Sum of max(1 - rho^2, 0)."),
    counter("engine_prob", "plumbline_engine_prob_sum_total", "Sum of the engine's probabilities."),
    counter("reference_prob", "plumbline_reference_prob_sum_total", "Sum of the reference's probabilities."),
    counter(
        "engine_prob_squared",
        "plumbline_engine_prob_squared_sum_total",
        "Sum of the engine's squared probabilities.",
    ),
    counter(
        "reference_prob_squared",
        "plumbline_reference_prob_squared_sum_total",
        "Sum of the reference's squared probabilities.",
    ),
    counter("prob_product", "plumbline_prob_product_sum_total", "Sum of the products of both probabilities."),
    counter("prob_delta_positive", "plumbline_prob_delta_positive_sum_total", "Sum of max(p_reference - p_engine, 0)."),
    counter("prob_delta_negative", "plumbline_prob_delta_negative_sum_total", "Sum of max(p_engine - p_reference, 0)."),
    counter("prob_delta_squared", "plumbline_prob_delta_squared_sum_total", "Sum of (p_reference - p_engine)^2."),
    counter(
        "bernoulli_kl",
        "plumbline_bernoulli_kl_sum_total",
        "Sum of KL(Bernoulli(p_reference) || Bernoulli(p_engine)).",
    ),
    counter("entropy", "plumbline_entropy_sum_total", "Sum of the entropies of the reference's distributions."),
    counter("ppl_engine", "plumbline_ppl_engine_sum_total", "Sum over sequences of exp(-mean e)."),
    counter("ppl_reference", "plumbline_ppl_reference_sum_total", "Sum over sequences of exp(-mean r)."),
    counter(
        "log_ppl_diff_positive",
        "plumbline_log_ppl_diff_positive_sum_total",
        "Sum over sequences of max(mean e - mean r, 0).",
    ),
    counter(
        "log_ppl_diff_negative",
        "plumbline_log_ppl_diff_negative_sum_total",
        "Sum over sequences of max(mean r - mean e, 0).",
    ),
    counter(
        "chi2_sequence_positive",
        "plumbline_chi2_sequence_positive_sum_total",
        "Sum over sequences of max(exp(sum d)^2 - 1, 0).",
    ),
    counter(
        "chi2_sequence_negative",
        "plumbline_chi2_sequence_negative_sum_total",
        "Sum over sequences of max(1 - exp(sum d)^2, 0).",
    ),
    counter(
        "eos_probability",
        "plumbline_eos_probability_sum_total",
        "Sum over sequences ended by EOS of the reference's probability of it.",
    ),
    counter(
        "floor_abs_delta",
        "plumbline_noise_floor_abs_delta_sum_total",
        "Sum of |d| over the tokens with a noise floor.",
    ),
    counter(
        "floor_expected",
        "plumbline_noise_floor_expected_sum_total",
        "Sum of the |d| that a faithful bf16 engine would show on the tokens with a noise floor.",
    ),
    counter(
        "floor_expected_squared",
        "plumbline_noise_floor_expected_squared_sum_total",
        "Sum of the d^2 that a faithful bf16 engine would show on the tokens with a noise floor.",
    ),
    counter(
        "floor_variance",
        "plumbline_noise_floor_variance_sum_total",
        "Sum over sequences of the variance of a faithful bf16 engine's sum of |d|.",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sufficient_statistic_is_a_counter() {
        let fields: Vec<_> = SufficientStatistics::default().counters().into_iter().map(|(field, _)| field).collect();
        let listed: Vec<_> = COUNTERS.iter().map(|spec| spec.field).collect();
        assert_eq!(listed, fields, "the same, in the same order");
    }
}
