//! `/metrics` before and after traffic.

use std::collections::BTreeSet;

use crate::support::{Server, recording, series};

/// Names that dashboards and alerts use.
const NAMES: &str = "logprob_mae_nats logprob_rmse_nats logprob_max_abs_nats logprob_pearson prob_mae prob_pearson
    log_ratio_mean_nats kl_nats mult_prob_error importance_ratio_mean ess_ratio ratio_outside_ratio window_tokens
    tokens_scored_total tokens_skipped_total sequences_total queue_tokens queue_limit_tokens queue_sequences batch_tokens batch_sequences
    queue_wait_seconds forward_seconds head_seconds request_seconds requests_in_flight reference_info build_info
    noise_floor_nats noise_floor_multiple drift_score diagnosis_total jobs jobs_finished_total repeated_total
    answers_unstored_total store_state store_errors_total store_bytes store_rows store_removed_total store_waiting_writes
    store_writes_total store_commits_total alerts_firing";

#[tokio::test]
async fn every_name_exists_from_the_start() {
    let server = Server::start(&[]).await;
    let page = server.metrics().await;
    let families: BTreeSet<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE plumbline_"))
        .filter_map(|line| line.split(' ').next())
        .collect();
    for name in NAMES.split_whitespace() {
        assert!(families.contains(name), "plumbline_{name} is missing");
    }
    assert_eq!(series(&page, "plumbline_tokens_scored_total", &["run=\"other\""]), 0.0);
    assert!(series(&page, "plumbline_logprob_mae_nats", &["run=\"other\""]).is_nan(), "an empty window is not perfect");
}

#[tokio::test]
async fn gauges_equal_rules_over_the_counters() {
    let server = Server::start(&[]).await;
    server.verify("r", &recording("tiny-bf16-stale")).await;
    let page = server.metrics().await;
    let of = |name: &str| series(&page, &format!("plumbline_{name}"), &["run=\"r\"", "engine=\"vllm\""]);
    let tokens = of("tokens_scored_total");
    let (positive, negative) = (of("delta_positive_sum_total"), of("delta_negative_sum_total"));
    let close = |gauge: &str, rule: f64| {
        let gauge_value = of(gauge);
        assert!((gauge_value - rule).abs() <= 1e-9 * rule.abs(), "{gauge} is {gauge_value}, by counters {rule}");
    };
    assert_eq!(of("window_tokens"), tokens);
    close("logprob_mae_nats", (positive + negative) / tokens);
    close("log_ratio_mean_nats", (positive - negative) / tokens);
    close("logprob_rmse_nats", (of("delta_squared_sum_total") / tokens).sqrt());
}
