//! What is known of alerts outlives the process.

use super::receiver::{FakeReceiver, Mood};
use super::{Folder, HIGH, alerts, feed_until, firing, server, told, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_killed_service_neither_repeats_a_beginning_nor_forgets_an_end() {
    let folder = Folder::new("killed");
    let receiver = FakeReceiver::start(Mood::Well).await;
    let (data, url) = (folder.path("data"), receiver.url());
    let arguments = ["--data-dir", &data, "--alert-webhook-url", &url];
    let before = server(&arguments).await;
    feed_until(&before, "vllm", true, HIGH).await;
    assert_eq!(told(&receiver, HIGH, "vllm", 1).await, ["firing"]);
    // That it was told is remembered a moment later.
    until("it is remembered", async || {
        alerts(&before).await["receivers"][0]["waiting"] == 0 && before.log().contains("an alert fires")
    })
    .await;
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    // SIGKILL.
    drop(before);

    let after = server(&arguments).await;
    assert_eq!(firing(&after, HIGH, "vllm").await, 1, "it still fires: nothing says that it is over");
    feed_until(&after, "vllm", false, HIGH).await;
    assert_eq!(told(&receiver, HIGH, "vllm", 2).await, ["firing", "resolved"]);
    let bodies: Vec<_> = receiver.taken().iter().map(super::receiver::Taken::json).collect();
    let own = |body: &&serde_json::Value| body["commonLabels"]["alertname"] == HIGH;
    let starts: Vec<_> = bodies.iter().filter(own).map(|body| body["alerts"][0]["startsAt"].clone()).collect();
    assert_eq!(starts[0], starts[1], "one episode");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_nobody_took_before_the_end_is_told_after_the_next_start() {
    let folder = Folder::new("untold");
    let mut receiver = FakeReceiver::away().await;
    let (data, url) = (folder.path("data"), receiver.url());
    let arguments = ["--data-dir", &data, "--alert-webhook-url", &url];
    let before = server(&arguments).await;
    feed_until(&before, "vllm", true, HIGH).await;
    feed_until(&before, "vllm", false, HIGH).await;
    feed_until(&before, "vllm", true, HIGH).await;
    before.signal("TERM");
    let log = before.log();
    assert_eq!(before.exit_status().await.code(), Some(0), "{log}");
    receiver.come_back().await;
    let _after = server(&arguments).await;
    assert_eq!(told(&receiver, HIGH, "vllm", 3).await, ["firing", "resolved", "firing"]);
}
