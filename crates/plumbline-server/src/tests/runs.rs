//! `/v1/runs`, and what a measured noise floor changes.

use plumbline_divergence::{FloorHead, FloorSample, NoiseFloor};
use serde_json::{Value, json};

use super::fake::FakeModel;
use super::{Service, request, unique};
use crate::config::Config;

/// A floor of this mean `|d|` at every entropy.
pub(super) fn floor(abs_delta: f64) -> NoiseFloor {
    let mut floor = NoiseFloor::default();
    for head in FloorHead::ALL {
        // As scattered as real ones: half of the tokens at nothing, half at twice the mean.
        let samples = [0.0, 2.0 * abs_delta].map(|abs_delta| FloorSample { entropy: 1.0, abs_delta });
        (0..50).for_each(|_| assert_eq!(floor.observe_sequence(head, &samples.repeat(10)), 0));
    }
    floor
}

/// A sequence of 40 tokens whose engine logprobs are `delta` below the reference's.
fn off_by(id: &str, delta: f64) -> Value {
    let logprob = FakeModel::logprob(7, 1.0) - delta;
    json!({"id": id, "prompt_token_ids": [1], "completion_token_ids": vec![7; 40], "logprobs": vec![logprob; 40]})
}

#[tokio::test]
async fn runs_are_listed_and_shown_with_intervals_splits_and_verdicts() {
    let service = Service::default().await;
    assert_eq!(service.get("/v1/runs").await.json(), json!({"runs": []}));
    for (engine, worker, deltas) in
        [("vllm", "w1", [0.01, 0.02]), ("vllm", "w2", [0.03, 0.04]), ("sglang", "w1", [0.5; 2])]
    {
        let mut body = request(&json!([off_by("a", deltas[0]), off_by("b", deltas[1])]));
        (body["engine"], body["worker"]) = (json!(engine), json!(worker));
        assert_eq!(service.post(&body).await.status, 200);
    }
    let list = service.get("/v1/runs").await.json();
    assert_eq!(list["runs"][0]["run"], "grpo");
    let engines = list["runs"][0]["engines"].as_array().unwrap();
    let verdicts: Vec<_> = engines.iter().map(|engine| (&engine["engine"], &engine["verdict"])).collect();
    assert_eq!(verdicts, [(&json!("sglang"), &json!("divergent")), (&json!("vllm"), &json!("consistent"))]);
    assert_eq!((&engines[1]["tokens"], &engines[1]["sequences"]), (&json!(160), &json!(4)));

    let run = service.get("/v1/runs/grpo").await.json();
    assert_eq!(run["log_ratio_sign"], "reference_logprob - engine_logprob, in nats");
    let vllm = &run["engines"][1];
    assert_eq!((&vllm["engine"], &vllm["verdict"]), (&json!("vllm"), &json!("consistent")));
    assert!(vllm["verdict_reason"].as_str().unwrap().starts_with("no noise floor is known"));
    let interval = &vllm["metrics"]["mae_logprob_ci95"];
    let (low, high) = (interval["low"].as_f64().unwrap(), interval["high"].as_f64().unwrap());
    let mae = vllm["metrics"]["mae_logprob"].as_f64().unwrap();
    // Four equally long sequences: 3.18 standard errors of 0.0129 / 2.
    assert!((mae - 0.025).abs() < 1e-9 && (high - mae - 0.020_54).abs() < 1e-4 && (mae - low - 0.020_54).abs() < 1e-4);
    assert_eq!(vllm["totals"]["verdicts"], json!({"consistent": 4, "suspect": 0, "divergent": 0, "insufficient": 0}));
    assert_eq!(vllm["totals"]["skipped"]["masked"], 0);
    let workers: Vec<_> = vllm["workers"].as_array().unwrap().iter().map(|w| (&w["name"], &w["tokens"])).collect();
    assert_eq!(workers, [(&json!("w1"), &json!(80)), (&json!("w2"), &json!(80))]);
    assert_eq!(vllm["policy_versions"][0]["name"], "2");
    assert_eq!((&vllm["noise_floor"], &vllm["metrics"]["noise_floor_multiple"]), (&Value::Null, &Value::Null));
    assert_eq!((&vllm["drift"]["unit"], &vllm["drift"]["learning"]), (&json!("nats"), &json!(196)));
    assert_eq!(vllm["trend"][0]["sequences"], 4);
    assert_eq!(
        (&vllm["drift_events"], &vllm["diagnosis"], &vllm["other_workers"]),
        (&json!([]), &json!({}), &Value::Null)
    );
}

#[tokio::test]
async fn an_unknown_run_is_a_problem() {
    let service = Service::default().await;
    for path in ["/v1/runs/nobody", "/v1/runs/other", "/v1/runs/a%2Fb"] {
        assert_eq!(service.get(path).await.problem(), (404, "run_not_found".into()), "{path}");
    }
}

#[tokio::test]
async fn runs_beyond_the_limit_are_shown_as_other() {
    let service = Service::new(Config { max_label_sets: 0, ..Config::default() }, FakeModel::default()).await;
    service.post(&request(&json!([off_by("a", 0.01)]))).await;
    assert_eq!(service.get("/v1/runs/grpo").await.problem(), (404, "run_not_found".into()));
    let other = service.get("/v1/runs/other").await.json();
    assert_eq!((&other["engines"][0]["engine"], &other["engines"][0]["drift"]), (&json!("other"), &Value::Null));
}

#[tokio::test]
async fn a_measured_floor_decides_verdicts_and_is_shown() {
    let service = Service::default().await;
    let verdict = |delta: f64| {
        let service = &service;
        async move {
            let answer = service.post(&request(&json!([off_by(&unique(), delta)]))).await.json();
            let sequence = &answer["sequences"][0];
            let reason = sequence["verdict_reason"].as_str().unwrap().to_owned();
            let multiple = sequence["metrics"]["noise_floor_multiple"].as_f64();
            assert_eq!(multiple, answer["metrics"]["noise_floor_multiple"].as_f64());
            (sequence["verdict"].as_str().unwrap().to_owned(), multiple, reason)
        }
    };
    assert_eq!(service.get("/v1/reference").await.json()["noise_floor"], Value::Null);
    let (before, multiple, _) = verdict(0.04).await;
    assert_eq!((before.as_str(), multiple), ("consistent", None));

    // Measured of an earlier version: it stands in until the current one is.
    assert!(service.0.state.floors.set("1", floor(0.01)));
    let shown = service.get("/v1/reference").await.json()["noise_floor"].clone();
    assert_eq!((&shown["policy_version"], &shown["used_head"]), (&json!("1"), &json!("bf16")));
    assert_eq!((&shown["bf16_head"]["tokens"], &shown["f32_head"]["sequences"]), (&json!(1000), &json!(50)));
    assert_eq!(shown["bf16_head"]["by_entropy"].as_array().unwrap().len(), 20);
    assert!(shown["measured_at"].as_str().unwrap().ends_with('Z'));
    for (delta, expected, times) in [(0.01, "consistent", 1.0), (0.04, "suspect", 4.0), (0.06, "divergent", 6.0)] {
        let (verdict, multiple, reason) = verdict(delta).await;
        assert_eq!(verdict, expected, "{reason}");
        assert!((multiple.unwrap() - times).abs() < 1e-9, "{multiple:?}");
        assert!(reason.contains("times the noise floor"), "{reason}");
    }
    assert!(service.0.state.floors.set("2", floor(0.1)));
    assert_eq!(verdict(0.06).await.0, "consistent");

    let group = r#"engine="vllm",model_name="fake",run="grpo""#;
    // Three sequences by the old floor and one by the new one; the one before has none.
    let nats = service.metric(&format!("plumbline_noise_floor_nats{{{group}}}")).await.unwrap();
    assert!((nats - 0.13 / 4.0).abs() < 1e-9, "{nats}");
    let multiple = service.metric(&format!("plumbline_noise_floor_multiple{{{group}}}")).await.unwrap();
    assert!((multiple - 0.17 / 0.13).abs() < 1e-9, "{multiple}");
    let run = service.get("/v1/runs/grpo").await.json();
    assert_eq!(run["engines"][0]["drift"]["unit"], "noise_floors", "learning anew in the new unit");
    assert_eq!(run["engines"][0]["drift"]["learning"], 196);
}

#[tokio::test]
async fn a_floor_follows_the_temperature_of_the_logprobs() {
    let service = Service::default().await;
    assert!(service.0.state.floors.set("2", floor(0.01)));
    let multiple = |mode: &'static str| {
        let service = &service;
        async move {
            let logprob = FakeModel::logprob(7, if mode == "raw" { 1.0 } else { 0.5 }) - 0.02;
            let mut sequence = off_by("a", 0.0);
            sequence["logprobs"] = json!(vec![logprob; 40]);
            (sequence["sampling"], sequence["logprobs_mode"]) = (json!({"temperature": 0.5}), json!(mode));
            let answer = service.post(&request(&json!([sequence]))).await.json();
            answer["metrics"]["noise_floor_multiple"].as_f64().unwrap()
        }
    };
    assert!((multiple("raw").await - 2.0).abs() < 1e-9);
    assert!((multiple("temperature").await - 1.0).abs() < 1e-9);
}

#[tokio::test]
async fn sequences_are_sorted_and_shown_token_by_token() {
    let service = Service::default().await;
    let mut masked = off_by("masked", 0.02);
    masked["loss_mask"] = json!([vec![1; 39], vec![0]].concat());
    masked["logprobs"][0] = json!(-9999);
    for sequences in [json!([off_by("worst", 0.3), off_by("best", 0.01)]), json!([masked])] {
        let mut body = request(&sequences);
        body["worker"] = json!("w1");
        assert_eq!(service.post(&body).await.status, 200);
    }
    let list = |query: &'static str| {
        let service = &service;
        async move {
            let answer = service.get(&format!("/v1/runs/grpo/sequences{query}")).await.json();
            answer["sequences"].as_array().unwrap().iter().map(|one| one["sequence_id"].clone()).collect::<Vec<_>>()
        }
    };
    assert_eq!(list("").await, ["worst", "masked", "best"]);
    assert_eq!(list("?sort=time&order=asc").await, ["worst", "best", "masked"]);
    assert_eq!(list("?sort=mae&order=desc&limit=1").await, ["worst"]);
    for query in ["?sort=age", "?order=up", "?limit=0", "?limit=257", "?limit=x", "?sorted=mae"] {
        let reply = service.get(&format!("/v1/runs/grpo/sequences{query}")).await;
        assert_eq!(reply.problem(), (422, "invalid_value".into()), "{query}");
    }
    assert_eq!(service.get("/v1/runs/nobody/sequences").await.problem(), (404, "run_not_found".into()));

    let listed = service.get("/v1/runs/grpo/sequences?limit=2").await.json()["sequences"][1].clone();
    let shown = service.get(&format!("/v1/sequences/{}", listed["id"].as_str().unwrap())).await.json();
    assert_eq!(
        (&shown["worker"], &shown["engine"], &shown["policy_version"]),
        (&json!("w1"), &json!("vllm"), &json!("2"))
    );
    assert_eq!((&shown["metrics"], &shown["length"]), (&listed["metrics"], &json!(40)));
    let tokens = shown["tokens"].as_array().unwrap();
    let first = json!({"id": 7, "engine_logprob": -9999.0, "reference_logprob": -1.7, "log_ratio": null,
        "importance_ratio": null, "entropy": 0.5, "rank": 1, "skipped": "sentinel"});
    assert_eq!(tokens[0], first);
    assert_eq!((tokens.len(), &tokens[1]["skipped"], &tokens[39]["skipped"]), (40, &Value::Null, &json!("masked")));
    assert!((tokens[1]["log_ratio"].as_f64().unwrap() - 0.02).abs() < 1e-12);
    assert_eq!(service.get("/v1/sequences/seq_none").await.problem(), (404, "sequence_not_found".into()));
}
