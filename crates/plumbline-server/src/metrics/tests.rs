//! Gauges against the rules that dashboards apply to the counters.

use std::collections::BTreeMap;
use std::time::Duration;

use plumbline_core::SkipCounts;
use plumbline_divergence::{
    Cause, DriftConfig, Finding, FloorHead, FloorSample, MonitorConfig, NoiseFloor, SequenceComparison,
    SequenceSummary, SufficientStatistics, TokenComparison, Verdict,
};
use prometheus::Registry;
use proptest::prelude::*;

use super::{Clock, DivergenceMetrics, Observation};

fn monitor(max_groups: usize, idle_expiry: Duration) -> MonitorConfig {
    let drift = DriftConfig::default();
    MonitorConfig { window: Duration::from_secs(3600), slices: 60, max_groups, idle_expiry, drift }
}

fn clock() -> Clock {
    Clock::since(std::time::SystemTime::now())
}

fn metrics() -> DivergenceMetrics {
    DivergenceMetrics::register(&Registry::new(), monitor(10, Duration::from_secs(7200)), "m", clock()).unwrap()
}

fn sequence(pairs: &[(f64, f64)]) -> SequenceComparison {
    let token = |&(engine, reference): &(f64, f64)| TokenComparison {
        token_id: 1,
        engine: Some(engine),
        reference: Some(reference),
        entropy: Some(1.0),
        rank: Some(0),
        eos_probability: Some(0.1),
        skipped: None,
    };
    SequenceComparison {
        id: "s".into(),
        tokens: pairs.iter().map(token).collect(),
        skipped: SkipCounts::default(),
        eos_probability: None,
    }
}

fn observation(sequences: &[Vec<(f64, f64)>]) -> Observation {
    let mut observation = Observation::default();
    for pairs in sequences {
        let comparison = sequence(pairs);
        let mut floor = NoiseFloor::default();
        floor.observe_sequence(FloorHead::USED, &vec![FloorSample { entropy: 1.0, abs_delta: 0.01 }; 1000]);
        let mut statistics = SufficientStatistics::default();
        statistics.observe_sequence_with_floor(&comparison, floor.curve(FloorHead::USED).as_ref());
        let verdict = Some(Verdict::Consistent);
        observation.add(&comparison, SequenceSummary { statistics, verdict, ..SequenceSummary::default() });
    }
    observation
}

/// All series of one scrape: name and labels -> value.
fn scrape(metrics: &DivergenceMetrics) -> BTreeMap<String, f64> {
    let text = String::from_utf8(metrics.scrape().unwrap()).unwrap();
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.rsplit_once(' ').unwrap())
        .map(|(series, value)| (series.to_owned(), value.parse().unwrap()))
        .collect()
}

fn labels(extra: &str) -> String {
    // Labels are written in the order of their names.
    let mut labels = vec![r#"engine="vllm""#, r#"model_name="m""#, r#"run="r""#];
    labels.extend((!extra.is_empty()).then_some(extra));
    labels.sort_unstable();
    format!("{{{}}}", labels.join(","))
}

fn close(gauge: f64, rule: f64, what: &str) -> Result<(), TestCaseError> {
    prop_assert!((gauge - rule).abs() <= 1e-9 * rule.abs().max(1.0), "{}: gauge {}, rule {}", what, gauge, rule);
    Ok(())
}

/// Pearson's r without cancellation near 1, from the sums, as a recording rule computes it.
fn pearson(n: f64, sum: [f64; 2], squares: [f64; 2], delta: f64, delta_squared: f64) -> f64 {
    let variance = |sum: f64, squares: f64| squares / n - (sum / n).powi(2);
    let (e, r) = (variance(sum[0], squares[0]), variance(sum[1], squares[1]));
    let d = delta_squared / n - (delta / n).powi(2);
    (e + r - d) / (2.0 * (e * r).sqrt())
}

fn pairs() -> impl Strategy<Value = Vec<Vec<(f64, f64)>>> {
    let pair = (-6.0f64..-0.01, -1.0f64..1.0).prop_map(|(engine, delta)| (engine, (engine + delta).min(0.0)));
    prop::collection::vec(prop::collection::vec(pair, 2..12), 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Every gauge of the window equals its rule over the counters, both from one scrape.
    #[test]
    fn gauges_are_rules_over_the_counters(sequences in pairs()) {
        let metrics = metrics();
        for chunk in sequences.chunks(2) {
            metrics.observe("r", "vllm", &observation(chunk));
        }
        let series = scrape(&metrics);
        let get = |name: &str, extra: &str| series[&format!("plumbline_{name}{}", labels(extra))];
        let sum = |name: &str| get(&format!("{name}_sum_total"), "");
        let n = get("tokens_scored_total", "");
        prop_assert_eq!(get("window_tokens", ""), n);
        let gauge = |name: &str| get(name, "");
        close(gauge("logprob_mae_nats"), (sum("delta_positive") + sum("delta_negative")) / n, "mae")?;
        close(gauge("logprob_rmse_nats"), (sum("delta_squared") / n).sqrt(), "rmse")?;
        close(gauge("log_ratio_mean_nats"), (sum("delta_positive") - sum("delta_negative")) / n, "mean")?;
        close(gauge("prob_mae"), (sum("prob_delta_positive") + sum("prob_delta_negative")) / n, "prob mae")?;
        close(gauge("mult_prob_error"), sum("mult_prob_error") / n, "mult")?;
        close(gauge("importance_ratio_mean"), sum("importance_ratio") / n, "rho")?;
        close(gauge("ess_ratio"), sum("importance_ratio").powi(2) / (n * sum("importance_ratio_squared")), "ess")?;
        let kl = |estimator: &str| get("kl_nats", &format!("estimator=\"{estimator}\""));
        close(kl("k1"), (sum("delta_negative") - sum("delta_positive")) / n, "k1")?;
        close(kl("k2"), sum("delta_squared") / (2.0 * n), "k2")?;
        close(kl("k3"), sum("k3") / n, "k3")?;
        close(kl("reverse_k3"), sum("reverse_k3") / n, "reverse k3")?;
        for band in ["0.9-1.1", "0.5-2", "0.5-5", "0.0001-inf"] {
            let label = format!("band=\"{band}\"");
            close(get("ratio_outside_ratio", &label), get("ratio_outside_tokens_total", &label) / n, band)?;
        }
        close(gauge("noise_floor_nats"), sum("noise_floor_expected") / get("noise_floor_tokens_total", ""), "floor")?;
        let multiple = sum("noise_floor_abs_delta") / sum("noise_floor_expected");
        close(gauge("noise_floor_multiple"), multiple, "multiple")?;
        let delta = sum("delta_positive") - sum("delta_negative");
        let rule = pearson(
            n,
            [sum("engine_nll"), sum("reference_nll")],
            [sum("engine_nll_squared"), sum("reference_nll_squared")],
            delta,
            sum("delta_squared"),
        );
        // The rule subtracts squares of means; the gauge does not. Few tokens of little spread lose digits.
        prop_assert!((gauge("logprob_pearson") - rule).abs() < 1e-6);
        let histogram = get("abs_log_ratio_nats_count", "");
        prop_assert_eq!(histogram, n);
        close(get("abs_log_ratio_nats_sum", ""), sum("delta_positive") + sum("delta_negative"), "histogram")?;
    }

    /// Two replicas' counters add up to those of one that was fed both.
    #[test]
    fn replicas_add_up(first in pairs(), second in pairs()) {
        let (a, b, both) = (metrics(), metrics(), metrics());
        a.observe("r", "vllm", &observation(&first));
        b.observe("r", "vllm", &observation(&second));
        both.observe("r", "vllm", &observation(&first));
        both.observe("r", "vllm", &observation(&second));
        let (a, b, both) = (scrape(&a), scrape(&b), scrape(&both));
        let adds = |series: &str| series.contains("_total{") || series.contains("_bucket{") || series.contains("_count{");
        let mut compared = 0;
        for (series, value) in both.iter().filter(|(series, _)| adds(series)) {
            close(*value, a[series] + b[series], series)?;
            compared += 1;
        }
        prop_assert!(compared > 2 * 46);
    }
}

#[test]
fn runs_beyond_the_limit_share_other_and_idle_ones_go() {
    let metrics = DivergenceMetrics::register(&Registry::new(), monitor(1, Duration::ZERO), "m", clock()).unwrap();
    let one = observation(&[vec![(-1.0, -1.5)]]);
    // With an expiry of zero a group is gone at the next look, and its series with it.
    metrics.observe("first", "vllm", &one);
    let text = String::from_utf8(metrics.scrape().unwrap()).unwrap();
    assert!(!text.contains("run=\"first\""), "{text}");
    assert!(text.contains(r#"plumbline_tokens_scored_total{engine="other",model_name="m",run="other"} 0"#));

    let metrics =
        DivergenceMetrics::register(&Registry::new(), monitor(1, Duration::from_secs(3600)), "m", clock()).unwrap();
    for run in ["first", "second", "third"] {
        metrics.observe(run, "vllm", &one);
    }
    let series = scrape(&metrics);
    let tokens = |run: &str, engine: &str| {
        series
            .get(&format!("plumbline_tokens_scored_total{{engine=\"{engine}\",model_name=\"m\",run=\"{run}\"}}"))
            .copied()
    };
    assert_eq!(tokens("first", "vllm"), Some(1.0));
    assert_eq!(tokens("second", "vllm"), None);
    assert_eq!(tokens("other", "other"), Some(2.0));
}

#[test]
fn names_with_quotes_and_line_breaks_stay_one_label() {
    let metrics = metrics();
    metrics.observe("a\"b\\c", "x{y}", &observation(&[vec![(-1.0, -1.5)]]));
    let text = String::from_utf8(metrics.scrape().unwrap()).unwrap();
    assert!(text.contains(r#"plumbline_window_tokens{engine="x{y}",model_name="m",run="a\"b\\c"} 1"#), "{text}");
}

#[test]
fn every_cause_exists_from_the_start_and_is_counted() {
    let metrics = metrics();
    let cause = |run: &str, engine: &str, cause: &str| {
        let labels = format!("cause=\"{cause}\",engine=\"{engine}\",model_name=\"m\",run=\"{run}\"");
        scrape(&metrics).get(&format!("plumbline_diagnosis_total{{{labels}}}")).copied()
    };
    for code in Cause::ALL.map(Cause::as_str) {
        assert_eq!(cause("other", "other", code), Some(0.0), "{code}");
    }
    metrics.observe("r", "vllm", &observation(&[vec![(-1.0, -1.5)]]));
    let found = [Cause::StaleWeights, Cause::StaleWeights, Cause::Unknown]
        .map(|cause| [Finding { cause, explained: None, residual_floor_multiple: None, evidence: "because".into() }]);
    metrics.hear("r", "vllm", &found.each_ref().map(|found| found.as_slice()));
    assert_eq!(cause("r", "vllm", "stale_weights"), Some(2.0));
    assert_eq!(cause("r", "vllm", "unknown"), Some(1.0));
    assert_eq!(cause("r", "vllm", "bos_missing"), Some(0.0));
    let view = metrics.view("r").remove(0);
    assert_eq!(view.diagnoses["stale_weights"], 2);
    assert_eq!(view.causes.iter().map(|found| found.cause).collect::<Vec<_>>(), [Cause::StaleWeights, Cause::Unknown]);
}

#[test]
fn drift_is_scored_for_runs_and_undefined_where_they_mix() {
    let metrics = metrics();
    let score = || scrape(&metrics)[&format!("plumbline_drift_score{}", labels(""))];
    metrics.observe("r", "vllm", &observation(&[vec![(-1.0, -1.005)]]));
    assert_eq!(score(), 0.0, "half the floor");
    let far = vec![(-1.0, -1.5); 50];
    metrics.observe("r", "vllm", &observation(&vec![far; 50]));
    assert!(score() >= 1.0, "50 times the floor from the start is an alarm: {}", score());
    let series = scrape(&metrics);
    assert!(series[r#"plumbline_drift_score{engine="other",model_name="m",run="other"}"#].is_nan());
}
