//! `plumbline alerts test`, and what configurations are refused.

use super::Folder;
use super::receiver::{FakeReceiver, Mood};
use crate::support::{Server, plumbline};

/// Status, stdout and stderr of the command.
async fn run(arguments: &[&str]) -> (i32, String, String) {
    let arguments: Vec<_> = arguments.iter().map(|&argument| argument.to_owned()).collect();
    let output = tokio::task::spawn_blocking(move || plumbline().args(arguments).output().unwrap()).await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_receiver_is_tested_and_the_exit_code_says_whether_all_are_well() {
    let (well, broken) = (FakeReceiver::start(Mood::Well).await, FakeReceiver::start(Mood::Status(403)).await);
    let folder = Folder::new("command");
    let secrets = folder.file("secrets", "ops hmac hunter2hunter2hunter2\nam bearer hunter2token");
    let (ops, am) = (format!("ops={}", well.url()), format!("am={}", broken.url()));
    let common = ["--alert-webhook-url", &ops, "--alertmanager-url", &am, "--alert-secret-file", &secrets];

    let (code, stdout, stderr) = run(&[&["alerts", "test"], &common[..]].concat()).await;
    assert_eq!(code, 1, "{stdout}{stderr}");
    assert!(stdout.contains(&format!("ops (webhook, {}): took", well.url())), "{stdout}");
    assert!(stdout.contains("did NOT take the test alert: status 403") && stdout.contains("planted"), "{stdout}");
    assert!(!stdout.contains("hunter2") && !stderr.contains("hunter2"));
    assert_eq!(well.told("PlumblineTest")[""], ["firing", "resolved"]);
    assert_eq!(broken.tries()[0].header("authorization"), "Bearer hunter2token");

    let (code, stdout, _) = run(&[&["alerts", "test", "--receiver", "ops"], &common[..]].concat()).await;
    assert_eq!((code, stdout.lines().count()), (0, 1), "{stdout}");
    let (code, _, stderr) = run(&[&["alerts", "test", "--receiver", "none"], &common[..]].concat()).await;
    assert!(code == 1 && stderr.contains("no receiver") && stderr.contains("none"), "{stderr}");
    let (code, _, stderr) = run(&["alerts", "test"]).await;
    assert!(code == 1 && stderr.contains("no receiver"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_are_not_followed() {
    let elsewhere = FakeReceiver::start(Mood::Well).await;
    let moved = FakeReceiver::start(Mood::Status(307)).await;
    let (code, stdout, _) = run(&["alerts", "test", "--alert-webhook-url", &moved.url()]).await;
    assert!(code == 1 && stdout.contains("status 307"), "{stdout}");
    assert!(elsewhere.taken().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_used_is_refused_at_the_start() {
    let folder = Folder::new("refused");
    let secrets = folder.file("secrets", "nobody hmac hunter2hunter2hunter2");
    let url = "ops=http://127.0.0.1:1";
    let listen = ["serve", "--listen", "127.0.0.1:0", "--alert-webhook-url", url];
    let (code, _, stderr) = run(&[&listen[..], &["--alert-secret-file", &secrets]].concat()).await;
    assert!(code == 1 && stderr.contains("line 1") && stderr.contains("nobody"), "{stderr}");
    assert!(!stderr.contains("hunter2"), "{stderr}");
    let (code, _, stderr) = run(&["config", "check", "--alert-webhook-url", "http://me:hunter2@host"]).await;
    assert!(code == 2 && stderr.contains("alert_secret_file"), "{stderr}");
    let missing = folder.path("missing.pem");
    let tls = ["serve", "--listen", "127.0.0.1:0", "--alert-webhook-url", "https://h", "--alert-ca-file", &missing];
    let (code, _, stderr) = run(&tls).await;
    assert!(code == 1 && stderr.contains("alert_ca_file"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_exchanged_without_a_restart() {
    let folder = Folder::new("exchange");
    let secrets = folder.file("secrets", "* hmac 0123456789abcdef");
    let arguments = ["--alert-webhook-url", "http://127.0.0.1:1", "--alert-secret-file", &secrets];
    let server = Server::start(&[&arguments[..], &["--credentials-poll-seconds", "1"]].concat()).await;
    folder.file("secrets", "* hmac short");
    super::until("a bad one is refused", async || server.log().contains("at least 16 bytes")).await;
    folder.file("secrets", "* hmac fedcba9876543210");
    super::until("a good one is used", async || server.log().contains("changed, in use now")).await;
    let log = server.log();
    assert!(!log.contains("0123456789abcdef") && !log.contains("fedcba9876543210"), "{log}");
}
