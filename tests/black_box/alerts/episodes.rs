//! Each episode is told once, signed, whatever the receivers do.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use serde_json::json;

use super::receiver::{FakeReceiver, Mood};
use super::{DRIFT, Folder, HIGH, alerts, feed_healthy, feed_until, server, told, until};
use crate::support::series;

const SECRET: &str = "the secret of a test";

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn each_episode_is_told_once_whatever_the_receivers_do() {
    let well = FakeReceiver::start(Mood::Well).await;
    let broken = FakeReceiver::start(Mood::Status(500)).await;
    let slow = FakeReceiver::start(Mood::Slow).await;
    let mut away = FakeReceiver::away().await;
    let folder = Folder::new("episodes");
    let secrets = folder.file("secrets", &format!("* hmac {SECRET}\nwell bearer let-me-in\n"));
    let urls = [("well", &well), ("broken", &broken), ("slow", &slow), ("away", &away)];
    let urls = urls.map(|(name, receiver)| format!("{name}={}/hook?key=1", receiver.url()));
    let mut arguments = vec!["--alert-secret-file", &secrets, "--external-url", "https://plumbline.example/x"];
    urls.iter().for_each(|url| arguments.extend(["--alert-webhook-url", url]));
    let server = server(&arguments).await;
    let metrics = server.metrics().await;
    for name in ["well", "broken", "slow", "away"] {
        let receiver = format!("receiver=\"{name}\"");
        for status in ["delivered", "failed", "refused"] {
            let labels = [receiver.as_str(), &format!("status=\"{status}\"")];
            assert_eq!(series(&metrics, "plumbline_notifications_total", &labels), 0.0);
        }
        assert_eq!(series(&metrics, "plumbline_notifications_dropped_total", &[&receiver]), 0.0);
    }

    for episode in 1..=2 {
        feed_until(&server, "vllm", true, HIGH).await;
        assert_eq!(told(&well, HIGH, "vllm", 2 * episode - 1).await.len(), 2 * episode - 1);
        let gauge = series(&server.metrics().await, "plumbline_alerts_firing", &[HIGH]);
        assert_eq!(gauge, 1.0);
        feed_until(&server, "vllm", false, HIGH).await;
    }
    let expected = ["firing", "resolved", "firing", "resolved"];
    assert_eq!(told(&well, HIGH, "vllm", 4).await, expected);
    until("the others were tried", async || {
        let page = server.metrics().await;
        ["broken", "slow", "away"].iter().all(|name| {
            let labels = [&format!("receiver=\"{name}\"") as &str, "status=\"failed\""];
            series(&page, "plumbline_notifications_total", &labels) >= 2.0
        })
    })
    .await;
    assert!(broken.taken().is_empty() && slow.taken().is_empty());

    broken.feel(Mood::Well);
    slow.feel(Mood::Well);
    away.come_back().await;
    for receiver in [&broken, &slow, &away] {
        assert_eq!(told(receiver, HIGH, "vllm", 4).await, expected);
    }
    until("nothing waits", async || {
        let all = alerts(&server).await;
        all["receivers"].as_array().unwrap().iter().all(|own| own["waiting"] == 0 && own["error"].is_null())
    })
    .await;
    // Nobody is told anything of what did not happen.
    for receiver in [&well, &broken, &slow, &away] {
        assert_eq!(receiver.told(HIGH).len(), 1, "one engine");
        let drift = receiver.told(DRIFT).remove("vllm").unwrap_or_default();
        assert!(drift.iter().zip(["firing", "resolved"].iter().cycle()).all(|(own, turn)| own == turn), "{drift:?}");
    }

    let first = &well.taken()[0];
    let body = first.json();
    let alert = &body["alerts"][0];
    assert_eq!((&body["version"], &body["receiver"], &body["status"]), (&json!("4"), &json!("well"), &json!("firing")));
    assert_eq!(body["externalURL"], "https://plumbline.example/x");
    let own =
        ["run", "engine", "severity", "model_name"].map(|name| alert["labels"][name].as_str().unwrap().to_owned());
    assert_eq!(own, ["grpo", "vllm", "warning", "plumbline-tiny"]);
    assert_eq!(alert["generatorURL"], "https://plumbline.example/x/#/runs/grpo");
    let text = |name: &str| alert["annotations"][name].as_str().unwrap().to_owned();
    assert_eq!(text("log_ratio_sign"), "reference_logprob - engine_logprob, in nats");
    assert!(text("summary").contains("vllm") && text("description").contains("divergent"), "{alert}");
    assert!(text("mean_abs_log_ratio_nats").parse::<f64>().unwrap() > 0.1);
    assert_eq!((first.path.as_str(), first.header("authorization")), ("/hook?key=1", "Bearer let-me-in"));

    // As `webhook-signature` is checked by the libraries of Standard Webhooks.
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    for receiver in [&well, &broken, &slow, &away] {
        for taken in receiver.taken().iter().chain(&receiver.tries()) {
            let (id, timestamp) = (taken.header("webhook-id"), taken.header("webhook-timestamp"));
            let signed = [format!("{id}.{timestamp}.").as_bytes(), &taken.body].concat();
            let signature = taken.header("webhook-signature").strip_prefix("v1,").unwrap();
            hmac::verify(&key, &signed, &STANDARD.decode(signature).unwrap()).unwrap();
        }
    }
    let tries: std::collections::BTreeSet<_> =
        broken.tries().iter().map(|taken| taken.header("webhook-id").to_owned()).collect();
    assert_eq!(tries.len(), 1, "the first in the queue is tried again, under the same id");
    let log = server.log();
    assert!(!log.contains(SECRET) && !log.contains("let-me-in") && !log.contains("key=1"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_alertmanager_is_shown_what_fires_until_it_is_over_and_at_the_end_of_the_service() {
    let alertmanager = FakeReceiver::start(Mood::Well).await;
    let url = format!("{}/am/", alertmanager.url());
    let server = server(&["--alertmanager-url", &url, "--alert-label", "cluster=test"]).await;
    for _ in 0..2 {
        feed_healthy(&server, "vllm").await;
    }
    feed_until(&server, "vllm", true, HIGH).await;
    feed_until(&server, "vllm", true, DRIFT).await;
    let of = |alertname: &str| -> Vec<serde_json::Value> {
        let bodies = alertmanager.taken().into_iter().map(|taken| taken.json());
        let alerts = bodies.flat_map(|body| body.as_array().unwrap().clone());
        alerts.filter(|alert| alert["labels"]["alertname"] == alertname).collect()
    };
    until("it is shown again before it is forgotten", async || of(HIGH).len() >= 2 && of(DRIFT).len() >= 2).await;
    let shown = of(HIGH);
    assert!(alertmanager.taken().iter().all(|taken| taken.path == "/am/api/v2/alerts"));
    assert!(
        shown.iter().all(|alert| alert["startsAt"] == shown[0]["startsAt"] && alert["labels"]["cluster"] == "test")
    );
    // RFC 3339 in UTC sorts as time goes.
    let ends: Vec<_> = shown.iter().map(|alert| alert["endsAt"].as_str().unwrap().to_owned()).collect();
    assert!(ends.is_sorted() && ends[0].as_str() > shown[0]["startsAt"].as_str().unwrap(), "{ends:?}");
    assert!(ends[0] < ends[1], "each time a while ahead");
    let drift = &of(DRIFT)[0]["annotations"];
    assert!(drift["drift_size"].as_str().unwrap().parse::<f64>().unwrap() > 2.0, "{drift}");

    // Without a data dir nobody could end it later.
    server.signal("TERM");
    assert_eq!(server.exit_status().await.code(), Some(0));
    for alertname in [HIGH, DRIFT] {
        let last = of(alertname).pop().unwrap();
        assert!(last["annotations"]["resolution"].as_str().unwrap().contains("no data dir"), "{last}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reference_that_cannot_score_is_told_before_the_service_ends() {
    let receiver = FakeReceiver::start(Mood::Well).await;
    let output = tokio::task::spawn_blocking({
        let url = receiver.url();
        move || {
            let arguments =
                ["serve", "--listen", "127.0.0.1:0", "--alert-webhook-url", &url, "--model", "/no/such.gguf"];
            crate::support::plumbline().args(arguments).output().unwrap()
        }
    });
    let output = output.await.unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    let told = receiver.told("PlumblineScoringErrors");
    assert_eq!(told[""], ["firing"], "{}", String::from_utf8_lossy(&output.stderr));
}
