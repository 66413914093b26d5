//! The measurement of noise floors, beside requests.

use std::sync::{Arc, Mutex};

use plumbline_core::ReferenceModel;
use plumbline_divergence::{FloorHead, NoiseFloor};
use serde_json::json;
use tokio::task::JoinHandle;

use super::fake::{Call, Calls, FakeModel, POISON};
use super::{Service, request, rollout, unique, until};
use crate::config::Config;
use crate::floor::{FloorState, keep_measured};

/// A service whose floors are measured, and what was measured.
struct Measured {
    service: Service,
    floors: Arc<Mutex<Vec<(String, NoiseFloor)>>>,
    task: JoinHandle<()>,
}

impl Measured {
    async fn start(config: Config, model: FakeModel) -> Self {
        let service = Service::new(config, model).await;
        let floors: Arc<Mutex<Vec<(String, NoiseFloor)>>> = Arc::default();
        let (state, own) = (Arc::clone(&service.0.state), Arc::clone(&floors));
        let task = tokio::spawn(async move {
            let resident = state.resident().unwrap();
            let store = |version: &str, floor: NoiseFloor| {
                own.lock().unwrap().push((version.to_owned(), floor.clone()));
                state.floors.set(version, floor)
            };
            keep_measured(&state.scheduler, &state.config, &resident.recent, &state.metrics, store).await;
        });
        Self { service, floors, task }
    }

    async fn reaches(&self, state: FloorState) {
        let metrics = &self.service.0.state.metrics;
        until(state.as_str(), async || metrics.floor_state() == Some(state)).await;
        let reference = self.service.get("/v1/reference").await.json();
        assert_eq!(reference["noise_floor_state"], state.as_str());
        let series = format!("plumbline_noise_floor_state{{state=\"{}\"}}", state.as_str());
        assert_eq!(self.service.metric(&series).await, Some(1.0));
    }

    /// Version and measured tokens of each floor.
    fn floors(&self) -> Vec<(String, u64)> {
        let floors = self.floors.lock().unwrap();
        floors.iter().map(|(version, floor)| (version.clone(), floor.tokens(FloorHead::USED))).collect()
    }

    /// Sends healthy rollouts of 50 tokens.
    async fn send(&self, sequences: usize) {
        for number in 0..sequences {
            let completion: Vec<u32> = (0..50).map(|token| 20 + (token * 7 + number as u32) % 60).collect();
            let reply = self.service.post(&request(&json!([rollout(&unique(), &completion, 0.0)]))).await;
            assert_eq!(reply.status, 200, "{}", reply.body);
        }
    }

    async fn swap(&self, model: FakeModel) {
        let model: Box<dyn ReferenceModel> = Box::new(model);
        self.service.0.state.scheduler.update_weights(move || Ok::<_, String>(model)).await.unwrap();
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn config() -> Config {
    Config { noise_floor_tokens: 400, aside_tokens: 128, ..Config::default() }
}

fn beside(calls: &Calls) -> Vec<Call> {
    calls.all().into_iter().filter(|call| !matches!(call, Call::Score(_))).collect()
}

#[tokio::test]
async fn text_is_sampled_while_there_is_no_traffic_and_traffic_comes_later_once() {
    let model = FakeModel::default().that_simulates().that_gives_logits();
    let calls = model.calls();
    let measured = Measured::start(config(), model).await;
    measured.reaches(FloorState::Sampled).await;
    let [(version, tokens)] = measured.floors().try_into().unwrap();
    assert!(version == "2" && (400..432).contains(&tokens), "{tokens}");
    assert!(calls.all().iter().all(|call| call.rows() <= 128), "in small pieces");
    assert_eq!(measured.service.0.state.floors.of("2").map(|floor| floor.floor.tokens(FloorHead::F32)), Some(tokens));

    let logits = |calls: &Calls| calls.all().iter().filter(|call| matches!(call, Call::Logits(_))).count();
    let sampled = logits(&calls);
    assert!(sampled > 0);
    measured.send(7).await;
    assert_eq!(measured.floors().len(), 1, "350 tokens are not enough to measure it once more");
    measured.send(1).await;
    measured.reaches(FloorState::Traffic).await;
    assert_eq!(measured.floors()[1..], [("2".to_owned(), 400)]);
    measured.send(8).await;
    let variants = beside(&calls).len();
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert_eq!((measured.floors().len(), beside(&calls).len()), (2, variants), "and not again");
    assert_eq!(logits(&calls), sampled);
}

#[tokio::test]
async fn a_new_version_is_measured_on_the_traffic_that_there_is() {
    let measured = Measured::start(config(), FakeModel::default().that_simulates()).await;
    measured.reaches(FloorState::Waiting).await;
    assert!(measured.floors().is_empty(), "no logits, no traffic, no floor");
    measured.send(8).await;
    measured.reaches(FloorState::Traffic).await;
    let next = FakeModel::default().with_version("3").that_simulates();
    let calls = next.calls();
    measured.swap(next).await;
    until("version 3 is measured", async || measured.floors().len() == 2).await;
    measured.reaches(FloorState::Traffic).await;
    assert_eq!(measured.floors(), [("2".to_owned(), 400), ("3".to_owned(), 400)]);
    // Two sequences of 51 rows fit into a piece; each is scored in f32 and by both engines.
    let pieces = [Call::Score(102), Call::Variant(102), Call::Variant(102)];
    assert_eq!(calls.all(), [pieces; 4].concat());
    assert!(measured.service.metric("plumbline_aside_seconds_count").await.unwrap() >= 24.0);
}

/// The simulated engine's error is 1 % of a logprob, whose mean is known.
#[tokio::test]
async fn the_floor_is_what_the_engine_is_off() {
    let measured = Measured::start(config(), FakeModel::default().that_simulates()).await;
    measured.send(8).await;
    measured.reaches(FloorState::Traffic).await;
    let sent = (0..8).flat_map(|number| (0..50).map(move |token| 20 + (token * 7 + number) % 60));
    let expected = sent.map(|token| -FakeModel::logprob(token, 1.0) * 0.01).sum::<f64>() / 400.0;
    let floors = measured.floors.lock().unwrap();
    for head in FloorHead::ALL {
        let mae = floors[0].1.mae(head).unwrap();
        assert!((mae - expected).abs() < 1e-12, "{mae} {expected}");
        assert_eq!(floors[0].1.sequences(head), 8);
    }
}

#[tokio::test]
async fn a_reference_that_simulates_nothing_has_no_floor_and_says_so() {
    let model = FakeModel::default().that_gives_logits();
    let calls = model.calls();
    let measured = Measured::start(config(), model).await;
    measured.reaches(FloorState::Unsupported).await;
    measured.send(8).await;
    measured.reaches(FloorState::Unsupported).await;
    assert!(measured.floors().is_empty() && beside(&calls).is_empty());
}

#[tokio::test]
async fn a_measurement_that_fails_is_said_and_the_next_version_gets_its_own() {
    let measured = Measured::start(config(), FakeModel::default().that_simulates()).await;
    // The reference scores these one by one, but only after the poison is in the recent traffic.
    let recent = &measured.service.0.state.resident().unwrap().recent;
    let rollouts = |token: u32| plumbline_core::Rollout {
        id: "p".into(),
        prompt_token_ids: vec![1],
        completion_token_ids: vec![token; 100],
        logprobs: vec![None; 100],
        loss_mask: None,
        sampling: plumbline_core::Sampling::default(),
        logprobs_mode: plumbline_core::LogprobsMode::Raw,
        finish_reason: None,
        policy_version: None,
        weight_versions: Vec::new(),
    };
    measured.reaches(FloorState::Waiting).await;
    recent.add(&[rollouts(POISON), rollouts(20), rollouts(20), rollouts(20)]);
    measured.reaches(FloorState::Failed).await;
    recent.add(&[rollouts(20)]);
    measured.swap(FakeModel::default().with_version("3").that_simulates()).await;
    measured.reaches(FloorState::Traffic).await;
    assert_eq!(measured.floors(), [("3".to_owned(), 400)]);
    assert_eq!(measured.service.0.state.floors.of("2").map(|floor| floor.policy_version.clone()), Some("3".into()));
}

#[tokio::test]
async fn it_can_be_off() {
    let model = FakeModel::default().that_simulates().that_gives_logits();
    let calls = model.calls();
    let measured = Measured::start(Config { noise_floor_tokens: 0, ..config() }, model).await;
    measured.reaches(FloorState::Off).await;
    measured.send(8).await;
    measured.reaches(FloorState::Off).await;
    assert!(measured.floors().is_empty() && beside(&calls).is_empty());
}
