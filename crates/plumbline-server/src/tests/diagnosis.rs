//! Diagnoses: asked for, and of everything else that is suspicious. The search for causes is a stand-in that asks the model.

use plumbline_core::{ScoringSequence, Variant};
use plumbline_divergence::{
    Cause, Diagnosis, DiagnosisConfig, DiagnosisInput, Finding, ProbeError, Prober, SequenceDiagnosis,
};
use serde_json::{Value, json};

use super::fake::{Call, FakeModel};
use super::{Service, request, rollout, until};
use crate::config::Config;

const BF16: Variant = Variant::Bf16 { head: true };

/// A config in which nothing beside scoring happens unless the model is idle.
fn idle_only() -> Config {
    Config { aside_share: 0.0, max_batch_sequences: 1, ..Config::default() }
}

fn found(input: &DiagnosisInput<'_>, evidence: &str, exhausted: bool) -> Diagnosis {
    let finding = Finding {
        cause: Cause::TemperatureNotApplied,
        explained: Some(0.98),
        residual_floor_multiple: None,
        evidence: evidence.into(),
    };
    let of = |id: &str| SequenceDiagnosis { id: id.into(), findings: vec![finding.clone()] };
    let sequences = input.sequences.iter().map(|sequence| of(&sequence.rollout.id)).collect();
    Diagnosis { sequences, exhausted, ..Diagnosis::default() }
}

fn whole(input: &DiagnosisInput<'_>) -> Vec<ScoringSequence> {
    input.sequences.iter().flat_map(|sequence| sequence.rollout.scoring_sequences().unwrap()).collect()
}

/// Has everything scored once by a bf16 engine.
fn one_probe(input: &DiagnosisInput<'_>, prober: &mut dyn Prober, _: &DiagnosisConfig) -> Diagnosis {
    let scored = prober.supports(&BF16) && prober.variant(&whole(input), &BF16).is_ok();
    found(input, if scored { "scored" } else { "not scored" }, !scored)
}

/// The same again and again until there is no budget left.
fn all_the_budget(input: &DiagnosisInput<'_>, prober: &mut dyn Prober, _: &DiagnosisConfig) -> Diagnosis {
    let mut probes = 0;
    loop {
        match prober.variant(&whole(input), &BF16) {
            Ok(_) => probes += 1,
            Err(ProbeError::Exhausted) => return found(input, &format!("{probes} probes"), true),
            Err(error) => panic!("{error:?}"),
        }
    }
}

fn panics(_: &DiagnosisInput<'_>, _: &mut dyn Prober, _: &DiagnosisConfig) -> Diagnosis {
    panic!("no such cause")
}

/// 16 tokens, 0.5 nats off.
fn suspicious(id: &str) -> Value {
    rollout(id, &[30; 16], 0.5)
}

fn healthy(id: &str) -> Value {
    rollout(id, &[30; 16], 0.0)
}

fn asking(sequences: &[Value]) -> Value {
    let mut body = request(&json!(sequences));
    body["include"] = json!(["diagnosis"]);
    body
}

async fn diagnosed(service: &Service) -> Option<f64> {
    let labels = "cause=\"temperature_not_applied\",engine=\"vllm\",model_name=\"fake\",run=\"grpo\"";
    service.metric(&format!("plumbline_diagnosis_total{{{labels}}}")).await
}

#[tokio::test]
async fn who_asks_gets_the_causes_of_what_is_suspicious() {
    let service = Service::with_diagnose(Config::default(), FakeModel::default().that_simulates(), one_probe).await;
    let reply = service.post(&asking(&[healthy("a"), suspicious("b")])).await.json();
    assert_eq!(reply["sequences"][0]["verdict"], "consistent");
    assert_eq!(reply["sequences"][0]["diagnosis"], json!([]));
    let expected = json!([{"cause": "temperature_not_applied", "explained": 0.98, "evidence": "scored"}]);
    assert_eq!(reply["sequences"][1]["diagnosis"], expected);
    assert_eq!(diagnosed(&service).await, Some(1.0), "only the suspicious one counts");
    assert_eq!(service.metric("plumbline_diagnosis_tokens_total").await, Some(34.0));

    let reply = service.post(&asking(&[healthy("a")])).await.json();
    assert_eq!(reply["sequences"][0]["diagnosis"], json!([]));
    assert_eq!(service.metric("plumbline_diagnosis_tokens_total").await, Some(34.0), "nothing to diagnose");
}

#[tokio::test]
async fn what_is_suspicious_is_diagnosed_unasked() {
    let service = Service::with_diagnose(Config::default(), FakeModel::default().that_simulates(), one_probe).await;
    let reply = service.post(&request(&json!([suspicious("a"), suspicious("b")]))).await.json();
    assert_eq!(reply["sequences"][0].get("diagnosis"), None);
    until("both are diagnosed", async || diagnosed(&service).await == Some(2.0)).await;
    let off = Config { diagnosis_tokens_per_minute: 0, ..Config::default() };
    let service = Service::with_diagnose(off, FakeModel::default().that_simulates(), one_probe).await;
    service.post(&request(&json!([suspicious("a")]))).await;
    service.post(&asking(&[suspicious("c")])).await;
    assert_eq!(diagnosed(&service).await, Some(1.0), "who asks is served all the same");
    assert_eq!(service.metric("plumbline_diagnoses_dropped_total").await, Some(0.0));
}

#[tokio::test]
async fn a_diagnosis_takes_no_more_than_its_tokens_in_small_pieces() {
    let model = FakeModel::default().that_simulates();
    let calls = model.calls();
    let config = Config { diagnosis_request_tokens: 200, aside_tokens: 40, ..Config::default() };
    let service = Service::with_diagnose(config, model, all_the_budget).await;
    // 17 rows each: 51 a probe.
    let reply = service.post(&asking(&[suspicious("a"), suspicious("b"), suspicious("c")])).await.json();
    assert_eq!(reply["sequences"][2]["diagnosis"][0]["evidence"], "3 probes");
    let probes: Vec<_> = calls.all().into_iter().filter(|call| matches!(call, Call::Variant(_))).collect();
    assert_eq!(probes, [[Call::Variant(34), Call::Variant(17)]; 3].concat());
    assert_eq!(service.metric("plumbline_diagnosis_tokens_total").await, Some(153.0));
}

#[tokio::test]
async fn a_sequence_that_is_too_long_for_a_piece_is_not_scored_again() {
    let model = FakeModel::default().that_simulates();
    let calls = model.calls();
    let config = Config { aside_tokens: 32, aside_max_tokens: 40, ..Config::default() };
    let service = Service::with_diagnose(config, model, one_probe).await;
    let long = |tokens: usize| rollout("a", &vec![30; tokens], 0.5);
    let evidence = async |tokens| {
        let reply = service.post(&asking(&[long(tokens)])).await.json();
        reply["sequences"][0]["diagnosis"][0]["evidence"].as_str().unwrap().to_owned()
    };
    assert_eq!((evidence(39).await, evidence(40).await), ("scored".into(), "not scored".into()));
    let probes: Vec<_> = calls.all().into_iter().filter(|call| matches!(call, Call::Variant(_))).collect();
    assert_eq!(probes, [Call::Variant(40)]);
}

#[tokio::test]
async fn what_nobody_asked_for_keeps_to_its_tokens_a_minute() {
    let config = Config { diagnosis_request_tokens: 100, diagnosis_tokens_per_minute: 100, ..Config::default() };
    let service = Service::with_diagnose(config, FakeModel::default().that_simulates(), all_the_budget).await;
    for id in ["a0", "a1", "a2"] {
        service.post(&request(&json!([suspicious(id)]))).await;
    }
    until("the first is diagnosed", async || diagnosed(&service).await == Some(1.0)).await;
    // 85 of 100 tokens are spent: the second waits for most of a minute, whoever asks does not.
    let reply = service.post(&asking(&[suspicious("b")])).await.json();
    assert_eq!(reply["sequences"][0]["diagnosis"][0]["evidence"], "5 probes");
    assert_eq!(diagnosed(&service).await, Some(2.0));
    assert_eq!(service.metric("plumbline_diagnoses_waiting").await, Some(2.0));
    assert_eq!(service.metric("plumbline_diagnosis_tokens_total").await, Some(170.0));
}

/// A gated service in which a first request is being scored and `behind` wait.
async fn congested(
    service: &std::sync::Arc<Service>,
    first: Value,
    behind: usize,
) -> (tokio::task::JoinHandle<super::Reply>, Vec<tokio::task::JoinHandle<super::Reply>>) {
    let send = |body: Value| {
        let service = std::sync::Arc::clone(service);
        tokio::spawn(async move { service.post(&body).await })
    };
    let first = send(first);
    let taken = async |count: f64| service.metric("plumbline_queue_wait_seconds_count").await == Some(count);
    until("the first is being scored", async || taken(1.0).await).await;
    let others = (0..behind).map(|number| send(request(&json!([healthy(&number.to_string())])))).collect();
    let waiting = async || service.metric("plumbline_queue_sequences").await == Some(behind as f64);
    until("the others wait", async || waiting().await).await;
    (first, others)
}

/// The first request is suspicious and answered while 50 others wait: its diagnosis begins when they are all scored.
#[tokio::test]
async fn healthy_traffic_does_not_wait_for_diagnoses() {
    let (model, gate) = FakeModel::gated();
    let model = model.that_simulates();
    let calls = model.calls();
    let service = std::sync::Arc::new(Service::with_diagnose(idle_only(), model, one_probe).await);
    let (first, others) = congested(&service, request(&json!([suspicious("a")])), 50).await;
    drop(gate);
    assert_eq!(first.await.unwrap().json()["sequences"][0]["verdict"], "divergent");
    for other in others {
        assert_eq!(other.await.unwrap().status, 200);
    }
    until("it is diagnosed", async || diagnosed(&service).await == Some(1.0)).await;
    let calls = calls.all();
    assert_eq!(calls.iter().position(|call| matches!(call, Call::Variant(_))), Some(51), "{calls:?}");
    assert_eq!(calls.len(), 52);
}

#[tokio::test]
async fn who_asks_waits_a_bounded_time_for_a_busy_model() {
    let (model, gate) = FakeModel::gated();
    let config = Config { diagnosis_request_seconds: 1, ..idle_only() };
    let model = model.that_simulates();
    let service = std::sync::Arc::new(Service::with_diagnose(config, model, one_probe).await);
    let (asks, mut others) = congested(&service, asking(&[suspicious("a")]), 1).await;
    gate.send(()).unwrap();
    // The other one is never let go before this is answered.
    let reply = asks.await.unwrap().json();
    assert_eq!(reply["sequences"][0]["diagnosis"][0]["evidence"], "not scored");
    assert!(!others[0].is_finished());
    drop(gate);
    assert_eq!(others.remove(0).await.unwrap().status, 200);
}

/// A diagnosis that nobody asked for is left for one that somebody waits for, and done again.
#[tokio::test]
async fn who_asks_comes_before_what_nobody_asked_for() {
    fn slow_or_not(input: &DiagnosisInput<'_>, prober: &mut dyn Prober, config: &DiagnosisConfig) -> Diagnosis {
        match input.sequences[0].rollout.id.as_str() {
            "slow" => all_the_budget(input, prober, config),
            _ => found(input, "at once", false),
        }
    }
    let config = Config {
        diagnosis_request_tokens: 1 << 24,
        diagnosis_tokens_per_minute: 1 << 32,
        aside_share: 0.5,
        ..Config::default()
    };
    let model = FakeModel::default().that_simulates();
    let calls = model.calls();
    let service = Service::with_diagnose(config, model, slow_or_not).await;
    service.post(&request(&json!([suspicious("slow")]))).await;
    until("it has begun", async || calls.all().iter().any(|call| matches!(call, Call::Variant(_)))).await;
    let reply = service.post(&asking(&[suspicious("b")])).await.json();
    assert_eq!(reply["sequences"][0]["diagnosis"][0]["evidence"], "at once");
    assert_eq!(diagnosed(&service).await, Some(1.0));
    let before = calls.all().len();
    until("it is begun again", async || calls.all().len() > before + 10).await;
    assert_eq!(service.metric("plumbline_diagnoses_dropped_total").await, Some(0.0));
}

#[tokio::test]
async fn a_search_that_panics_costs_only_its_own_request() {
    let service = Service::with_diagnose(Config::default(), FakeModel::default(), panics).await;
    for id in ["a", "b"] {
        let reply = service.post(&asking(&[suspicious(id)])).await;
        assert_eq!(reply.status, 200);
        let diagnosis = &reply.json()["sequences"][0]["diagnosis"];
        let reason = "not diagnosed: the search for causes ended unexpectedly or the server is shutting down";
        assert_eq!(*diagnosis, json!([{"cause": "unknown", "explained": null, "evidence": reason}]));
    }
}

/// A request that waits for its diagnosis is answered when the server drains.
#[tokio::test]
async fn a_drain_ends_the_search_and_answers() {
    let config = Config { diagnosis_request_tokens: 1 << 24, diagnosis_request_seconds: 3600, ..Config::default() };
    let model = FakeModel::default().that_simulates();
    let calls = model.calls();
    let service = std::sync::Arc::new(Service::with_diagnose(config, model, all_the_budget).await);
    let asks = {
        let service = std::sync::Arc::clone(&service);
        tokio::spawn(async move { service.post(&asking(&[suspicious("a")])).await })
    };
    until("it has begun", async || calls.all().iter().any(|call| matches!(call, Call::Variant(_)))).await;
    service.0.state.scheduler.drain(std::time::Duration::from_secs(60)).await;
    assert!(asks.await.unwrap().body.contains("temperature_not_applied"));
}
