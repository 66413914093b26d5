//! `SIGTERM` under load: what was admitted is answered, new work is sent away, and the server ends well.

use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::{Client, StatusCode};
use serde_json::Value;

use crate::load::{Acknowledged, Sent, send};
use crate::process::{Command, Folder};
use crate::reconcile::{check_file, result_of};
use crate::support::client;
use crate::work::{Item, items};

/// A limit that is not reached: draining takes as long as what was admitted.
const DRAIN_SECONDS: u64 = 60;

/// What became of a request around the signal.
enum Outcome {
    Acknowledged(Acknowledged),
    /// 503 with its `Retry-After`, and 429.
    SentAway(String),
    /// Never connected: the server was gone.
    NotReached,
}

async fn outcome(client: &Client, url: &str, item: &Item) -> Outcome {
    match send(client, url, item).await {
        Ok(Sent::Acknowledged(acknowledged)) => Outcome::Acknowledged(acknowledged),
        Ok(Sent::Later { code, .. }) => Outcome::SentAway(code),
        Err(error) => {
            // Accepted and then dropped would be a lost request.
            assert!(error.is_connect() || is_unsent(&error), "a request was dropped: {error:?}");
            Outcome::NotReached
        }
    }
}

/// A kept connection that the server closed before anything of the next request was read.
fn is_unsent(error: &reqwest::Error) -> bool {
    let text = format!("{error:?}");
    text.contains("IncompleteMessage") || text.contains("ConnectionReset") || text.contains("BrokenPipe")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_server_owes_nothing() {
    let folder = Folder::new("drain");
    let command = Command::on(folder.path()).env("PLUMBLINE_DRAIN_SECONDS", DRAIN_SECONDS);
    let client = client();
    let (mut process, url) = command.ready(&client).await;
    let items = Arc::new(items(600, 3, 11));
    let before = items.len() / 2;

    let post = |index: usize| {
        let (client, url, items) = (client.clone(), url.clone(), Arc::clone(&items));
        tokio::spawn(async move { outcome(&client, &url, &items[index]).await })
    };
    let mut posts: Vec<_> = (0..before).map(post).collect();
    tokio::time::sleep(Duration::from_millis(50)).await;
    process.terminate();
    let signalled = Instant::now();
    posts.extend((before..items.len()).map(post));

    let (mut kept, mut away, mut unreached) = (Vec::new(), 0, 0);
    for (index, post) in posts.into_iter().enumerate() {
        match post.await.unwrap() {
            Outcome::Acknowledged(acknowledged) => kept.push((index, acknowledged)),
            Outcome::SentAway(code) => {
                assert!(["draining", "queue_full"].contains(&code.as_str()), "{code}");
                away += 1;
            }
            Outcome::NotReached => unreached += 1,
        }
    }
    assert_eq!(process.exit().await.code(), Some(0), "{:#?}", process.log());
    println!(
        "{} acknowledged, {away} sent away, {unreached} not reached; ended {:.1} s after the signal",
        kept.len(),
        signalled.elapsed().as_secs_f64()
    );
    assert!(!kept.is_empty() && away + unreached > 0, "the signal came too early or too late to show anything");

    // Accepted jobs that were not begun are done by the next server.
    let (mut process, url) = command.ready(&client).await;
    for (index, acknowledged) in &kept {
        for id in &acknowledged.ids {
            let result = result_of(&client, &url, id).await;
            let ids: Vec<&Value> = result["sequences"].as_array().unwrap().iter().map(|own| &own["id"]).collect();
            assert!(ids.iter().all(|id| items[*index].ids().any(|sent| **id == sent)), "{ids:?}");
        }
    }
    // What was sent away is welcome now, and what was not acknowledged is there once or not at all: sending all of it again makes one of each.
    for item in items.iter() {
        loop {
            match send(&client, &url, item).await.unwrap() {
                Sent::Acknowledged(acknowledged) => {
                    for id in &acknowledged.ids {
                        result_of(&client, &url, id).await;
                    }
                    break;
                }
                Sent::Later { after, .. } => tokio::time::sleep(after).await,
            }
        }
    }
    process.terminate();
    assert_eq!(process.exit().await.code(), Some(0));
    check_file(folder.path(), &items);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draining_server_says_so() {
    let client = client();
    // Each row takes 2 ms: the queue is not empty for a while.
    let command = Command::default()
        .env("PLUMBLINE_DRAIN_SECONDS", DRAIN_SECONDS)
        .env("PLUMBLINE_FAULT_MICROSECONDS_PER_TOKEN", 2000);
    let (mut process, url) = command.ready(&client).await;
    let items = Arc::new(
        items(60, 1, 12).into_iter().map(|item| Item { kind: crate::work::Kind::Sync, ..item }).collect::<Vec<_>>(),
    );
    let posts: Vec<_> = (0..items.len())
        .map(|index| {
            let (client, url, items) = (client.clone(), url.clone(), Arc::clone(&items));
            tokio::spawn(async move { outcome(&client, &url, &items[index]).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    process.terminate();
    let mut told = false;
    // Until it has answered everything it goes on saying that it takes nothing new.
    while let Ok(response) = client.get(format!("{url}/readyz")).send().await {
        if response.status() == StatusCode::SERVICE_UNAVAILABLE {
            told = true;
            if let Ok(Sent::Later { code, after }) = send(&client, &url, &items[0]).await {
                assert_eq!(code, "draining");
                assert!(after >= Duration::from_secs(1));
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(told, "it was never seen to drain");
    let mut answered = 0;
    for post in posts {
        answered += usize::from(matches!(post.await.unwrap(), Outcome::Acknowledged(_)));
    }
    assert!(answered > 0);
    assert_eq!(process.exit().await.code(), Some(0), "{:#?}", process.log());
}
