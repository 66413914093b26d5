//! What the service sees and says of itself.

use serde_json::{Value, json};

use super::fake::FakeModel;
use super::runs::floor;
use super::{Service, request, rollout, unique};
use crate::config::Config;

fn config(min_tokens: u64) -> Config {
    Config {
        alert_for_seconds: 0,
        alert_keep_seconds: 0,
        alert_min_tokens: min_tokens,
        alert_label: vec!["cluster=eu".into()],
        external_url: Some("https://plumbline.example".into()),
        ..Config::default()
    }
}

/// Posts 8 tokens that are so far from the reference.
async fn post(service: &Service, engine: &str, off: f64) {
    let mut body = request(&json!([rollout(&unique(), &[7; 8], off)]));
    body["engine"] = engine.into();
    assert_eq!(service.post(&body).await.status, 200);
}

async fn look(service: &Service) -> Value {
    service.0.state.alerts.look(&service.0.state).await;
    service.get("/v1/alerts").await.json()
}

#[tokio::test]
async fn a_divergent_engine_is_seen_and_what_is_said_has_the_numbers() {
    let service = Service::new(config(16), FakeModel::default()).await;
    service.0.state.floors.set("1", floor(0.01));
    post(&service, "vllm", 0.2).await;
    assert_eq!(look(&service).await["firing"], json!([]), "8 tokens are below the gate");
    post(&service, "vllm", 0.2).await;
    post(&service, "sglang", 0.0).await;
    let alerts = look(&service).await;
    let firing = alerts["firing"].as_array().unwrap();
    assert_eq!(firing.len(), 1, "{alerts}");
    let (labels, annotations) = (&firing[0]["labels"], &firing[0]["annotations"]);
    let expected = json!({
        "alertname": "PlumblineDivergenceHigh", "severity": "warning", "run": "grpo", "engine": "vllm",
        "model_name": labels["model_name"], "cluster": "eu",
    });
    assert_eq!(*labels, expected);
    assert_eq!(firing[0]["generator_url"], "https://plumbline.example/#/runs/grpo");
    assert_eq!(annotations["mean_abs_log_ratio_nats"], "0.2000");
    assert_eq!(annotations["mean_log_ratio_nats"], "0.2000", "reference - engine");
    assert_eq!(annotations["window_tokens"], "16");
    let runbook = annotations["runbook_url"].as_str().unwrap();
    assert!(runbook.ends_with("/docs/runbooks/PlumblineDivergenceHigh.md"), "{runbook}");
    let multiple: f64 = annotations["noise_floor_multiple"].as_str().unwrap().parse().unwrap();
    assert!((multiple - 20.0).abs() < 1.0, "{annotations}");
    let summary = annotations["summary"].as_str().unwrap();
    assert!(summary.starts_with("vllm diverges from the reference in run grpo: mean |d| is 2"), "{summary}");
    let gauge = r#"plumbline_alerts_firing{alertname="PlumblineDivergenceHigh",severity="warning"}"#;
    assert_eq!(service.metric(gauge).await, Some(1.0));

    for _ in 0..60 {
        post(&service, "vllm", 0.0).await;
    }
    let alerts = look(&service).await;
    assert_eq!(alerts["firing"], json!([]));
    assert_eq!(alerts["resolved"][0]["fingerprint"], firing[0]["fingerprint"]);
    let why = alerts["resolved"][0]["annotations"]["resolution"].as_str().unwrap();
    assert!(why.starts_with("the window is consistent"), "{why}");
    assert_eq!(service.metric(gauge).await, Some(0.0));
}
