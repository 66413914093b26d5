//! Text of tokens, and where a run's differences are.

use std::sync::Arc;

use plumbline_core::{ReferenceModel, TokenId, TokenText};
use plumbline_divergence::{Cause, Diagnosis, DiagnosisConfig, DiagnosisInput, Finding, Prober, SequenceDiagnosis};
use serde_json::{Value, json};

use super::fake::FakeModel;
use super::{Service, request};
use crate::config::Config;
use crate::diagnosis::Diagnose;
use crate::serve::build;
use crate::weights::{ModelKnowledge, ReferenceSource};

/// Every token is a word, with a space before it unless it is the first.
#[derive(Debug)]
struct Words;

impl TokenText for Words {
    fn pieces(&self, token_ids: &[TokenId]) -> Vec<String> {
        let word = |(place, id): (usize, &TokenId)| if place == 0 { format!("w{id}") } else { format!(" w{id}") };
        token_ids.iter().enumerate().map(word).collect()
    }

    fn respellings(&self, token_ids: &[TokenId]) -> Vec<Vec<TokenId>> {
        vec![token_ids.iter().flat_map(|id| [id + 1, id + 2]).collect()]
    }
}

fn service_that_reads(diagnose: Diagnose) -> impl Future<Output = Service> {
    let model = FakeModel::default().that_simulates();
    let source = ReferenceSource::new(move || Ok::<_, String>(Box::new(model) as Box<dyn ReferenceModel>));
    let source = source.with_knowledge(|| ModelKnowledge { text: Some(Arc::new(Words)), ..ModelKnowledge::default() });
    async move {
        let app = build(Config::default(), source).unwrap();
        let info = app.state.scheduler.ready().await.unwrap();
        app.state.set_resident_with(&info, diagnose).unwrap();
        Service(app)
    }
}

/// Says what it knows of the first sequence.
fn tells(input: &DiagnosisInput<'_>, prober: &mut dyn Prober, _: &DiagnosisConfig) -> Diagnosis {
    let cached: Vec<_> = input.sequences.iter().map(|sequence| sequence.cached_tokens).collect();
    let evidence = format!("cached {cached:?}, respelt {:?}", prober.respellings(&[7]));
    let finding =
        Finding { cause: Cause::Retokenised, explained: Some(0.9), residual_floor_multiple: Some(1.0), evidence };
    let of = |id: &str| SequenceDiagnosis { id: id.into(), findings: vec![finding.clone()] };
    let sequences = input.sequences.iter().map(|sequence| of(&sequence.rollout.id)).collect();
    Diagnosis { sequences, ..Diagnosis::default() }
}

fn body() -> Value {
    let logprobs: Vec<f64> = (0..16).map(|at| FakeModel::logprob(7, 1.0) - if at == 9 { 5.0 } else { 0.2 }).collect();
    let mut body = request(&json!([
        {"id": "s", "prompt_token_ids": [1, 4], "completion_token_ids": vec![7; 16], "logprobs": logprobs, "cached_tokens": 2},
        {"id": "t", "prompt_token_ids": [1], "completion_token_ids": vec![7; 16], "logprobs": logprobs},
    ]));
    body["worker"] = json!("w1");
    body["include"] = json!(["diagnosis"]);
    body
}

async fn shown(service: &Service) -> Value {
    let listed = service.get("/v1/runs/grpo/sequences?sort=time&order=asc").await.json()["sequences"][0].clone();
    service.get(&format!("/v1/sequences/{}", listed["id"].as_str().unwrap())).await.json()
}

#[tokio::test]
async fn tokens_have_their_text_and_the_worst_are_listed() {
    let service = service_that_reads(tells).await;
    assert_eq!(service.post(&body()).await.status, 200);
    let sequence = shown(&service).await;
    assert_eq!(sequence["tokens"][0]["text"], " w7", "the prompt's last token comes before it");
    assert!(sequence["tokens"].as_array().unwrap().iter().all(|token| token["text"] == " w7"));
    let worst = sequence["worst_tokens"].as_array().unwrap();
    assert_eq!((worst.len(), &worst[0]), (10, &json!(9)));

    let run = service.get("/v1/runs/grpo").await.json();
    let evidence = &run["engines"][0]["token_evidence"];
    let worst = &evidence["worst_tokens"][0];
    let expected = (&json!("s"), &json!(9), &json!(" w7"), &json!("w1"), &json!("2"));
    assert_eq!(
        (&worst["sequence_id"], &worst["index"], &worst["text"], &worst["worker"], &worst["policy_version"]),
        expected
    );
    assert_eq!(evidence["worst_tokens"].as_array().unwrap().len(), 8, "four of each sequence");
    let ranges = evidence["position"].as_array().unwrap();
    let bounds: Vec<_> = ranges.iter().map(|range| (&range["from"], &range["to"], &range["tokens"])).collect();
    assert_eq!(
        bounds,
        [
            (&Value::Null, &json!(1.0), &json!(2)),
            (&json!(1.0), &json!(8.0), &json!(14)),
            (&json!(8.0), &json!(32.0), &json!(16))
        ]
    );
    let share: f64 = ranges.iter().map(|range| range["share"].as_f64().unwrap()).sum();
    assert!((share - 1.0).abs() < 1e-12);
    assert_eq!(ranges[2]["tail_tokens"], 16);
}

#[tokio::test]
async fn a_diagnosis_knows_cached_tokens_and_spellings_and_the_run_has_its_causes() {
    let service = service_that_reads(tells).await;
    let answer = service.post(&body()).await.json();
    let told = "cached [Some(2), None], respelt [[8, 9]]";
    assert_eq!(answer["sequences"][0]["diagnosis"][0]["evidence"], told);
    let run = service.get("/v1/runs/grpo").await.json();
    let engine = &run["engines"][0];
    assert_eq!(engine["diagnosis"], json!({"retokenised": 2}));
    let cause = &engine["causes"][0];
    assert_eq!((&cause["cause"], &cause["explained"]), (&json!("retokenised"), &json!(0.9)));
    assert_eq!(cause["evidence"], format!("2 of 2 diagnoses name it; {told}"));
}

#[tokio::test]
async fn without_a_tokenizer_there_is_no_text() {
    let service = Service::default().await;
    assert_eq!(service.post(&request(&body()["sequences"])).await.status, 200);
    let sequence = shown(&service).await;
    assert_eq!(sequence["tokens"][0].get("text"), None);
    let run = service.get("/v1/runs/grpo").await.json();
    assert_eq!(run["engines"][0]["token_evidence"]["worst_tokens"][0].get("text"), None);
}
