//! What a real vLLM recorded, over HTTP, against Hugging Face in f64.

use crate::support::{Server, floats, recording, reference, series};

/// The project's promise for f32 on CPU.
const TOLERANCE: f64 = 2e-5;

#[tokio::test]
async fn reference_and_metrics_agree_with_f64() {
    let server = Server::start(&[]).await;
    for name in ["tiny-f32-raw", "tiny-bf16-raw", "tiny-bf16-stale"] {
        let lines = recording(name);
        let answer = server.verify(name, &lines).await;
        let sequences = answer["sequences"].as_array().unwrap();
        assert_eq!(sequences.len(), lines.len());
        let mut log_ratios = Vec::new();
        for ((line, (id, expected)), sequence) in lines.iter().zip(reference(name)).zip(sequences) {
            assert_eq!(sequence["id"], id);
            let scored = floats(&sequence["tokens"]["reference_logprobs"]);
            assert_eq!(scored.len(), expected.len());
            for (scored, expected) in scored.iter().zip(&expected) {
                assert!((scored - expected).abs() <= TOLERANCE, "{id}: {scored} is not {expected}");
            }
            log_ratios.extend(expected.iter().zip(floats(&line["logprobs"])).map(|(r, e)| r - e));
        }
        let count = log_ratios.len() as f64;
        let metric = |key: &str| answer["metrics"][key].as_f64().unwrap();
        assert_eq!(metric("tokens"), count);
        let mae = log_ratios.iter().map(|d| d.abs()).sum::<f64>() / count;
        assert!((metric("mae_logprob") - mae).abs() <= TOLERANCE, "{name}: {} is not {mae}", metric("mae_logprob"));
        // The sign: reference minus engine.
        let mean = log_ratios.iter().sum::<f64>() / count;
        assert!((metric("log_ratio_mean") - mean).abs() <= TOLERANCE);
        let page = server.metrics().await;
        let gauge = series(&page, "plumbline_logprob_mae_nats", &[&format!("run=\"{name}\""), "engine=\"vllm\""]);
        assert!((gauge - metric("mae_logprob")).abs() <= 1e-9 * gauge, "{gauge}");
    }
}

#[tokio::test]
async fn stale_weights_are_divergent_and_healthy_noise_is_not() {
    let server = Server::start(&[]).await;
    for (name, expected, other) in
        [("tiny-bf16-raw", "consistent", "divergent"), ("tiny-bf16-stale", "divergent", "consistent")]
    {
        let answer = server.verify(name, &recording(name)).await;
        let count = |verdict: &str| {
            answer["sequences"].as_array().unwrap().iter().filter(|sequence| sequence["verdict"] == verdict).count()
        };
        assert!(count(expected) >= 40, "{name}: {} {expected} of 47", count(expected));
        assert_eq!(count(other), 0, "{name}");
    }
}
