//! Clients that send each request until it is acknowledged, whatever becomes of the server meanwhile.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reqwest::{Client, Response, StatusCode};
use serde_json::Value;

use crate::work::Item;

/// Pause after a connection that failed or broke.
const AFTER_A_BREAK: Duration = Duration::from_millis(50);

/// Where the server is now; it moves when it is started anew.
#[derive(Clone)]
pub(crate) struct Address(Arc<Mutex<String>>);

impl Address {
    pub(crate) fn new(url: &str) -> Self {
        Self(Arc::new(Mutex::new(url.to_owned())))
    }

    pub(crate) fn get(&self) -> String {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn set(&self, url: &str) {
        url.clone_into(&mut self.0.lock().unwrap());
    }
}

/// What the server said when it took responsibility.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Acknowledged {
    /// Verification of each sequence of the item, in order.
    pub(crate) ids: Vec<String>,
    /// Results, where they were the acknowledgement.
    pub(crate) results: Vec<Value>,
}

/// What happened on the way.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) sent: AtomicUsize,
    pub(crate) acknowledged: AtomicUsize,
    pub(crate) broken: AtomicUsize,
    pub(crate) refused: Mutex<BTreeMap<String, usize>>,
}

/// Sends all items over so many connections and gives what was acknowledged, by the items' indices. `progress` counts acknowledged items.
pub(crate) async fn send_all(
    client: &Client,
    address: &Address,
    items: &Arc<Vec<Item>>,
    connections: usize,
    tally: &Arc<Tally>,
) -> Vec<Acknowledged> {
    let next = Arc::new(AtomicUsize::new(0));
    let all = Arc::new(Mutex::new(vec![None; items.len()]));
    let workers: Vec<_> = (0..connections)
        .map(|_| {
            let (client, address, items) = (client.clone(), address.clone(), Arc::clone(items));
            let (next, all, tally) = (Arc::clone(&next), Arc::clone(&all), Arc::clone(tally));
            tokio::spawn(async move {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(index) else { return };
                    let acknowledged = acknowledge(&client, &address, item, &tally).await;
                    tally.acknowledged.fetch_add(1, Ordering::Relaxed);
                    if item.again {
                        let again = acknowledge(&client, &address, item, &tally).await;
                        assert_eq!(again.ids, acknowledged.ids, "a retry is another verification: {item:?}");
                    }
                    all.lock().unwrap()[index] = Some(acknowledged);
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await.unwrap();
    }
    let all = std::mem::take(&mut *all.lock().unwrap());
    all.into_iter().map(|acknowledged| acknowledged.expect("every item was acknowledged")).collect()
}

/// Sends an item until all of it is acknowledged.
pub(crate) async fn acknowledge(client: &Client, address: &Address, item: &Item, tally: &Tally) -> Acknowledged {
    loop {
        tally.sent.fetch_add(1, Ordering::Relaxed);
        let pause = match send(client, &address.get(), item).await {
            Err(_) => {
                tally.broken.fetch_add(1, Ordering::Relaxed);
                AFTER_A_BREAK
            }
            Ok(Sent::Acknowledged(acknowledged)) => return acknowledged,
            Ok(Sent::Later { code, after }) => {
                *tally.refused.lock().unwrap().entry(code).or_default() += 1;
                after
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// What became of one try.
pub(crate) enum Sent {
    Acknowledged(Acknowledged),
    /// Refused, but not for good.
    Later {
        code: String,
        after: Duration,
    },
}

/// Sends an item once.
///
/// # Errors
/// The connection failed, or broke before the answer was whole.
pub(crate) async fn send(client: &Client, url: &str, item: &Item) -> reqwest::Result<Sent> {
    let kind = item.kind;
    let media = if kind.is_lines() { "application/x-ndjson" } else { "application/json" };
    let mut request = client.post(format!("{url}/v1/verifications")).header("content-type", media);
    if kind.is_async() {
        request = request.header("prefer", "respond-async");
    }
    if let Some(key) = &item.key {
        request = request.header("idempotency-key", key);
    }
    let response = request.body(item.body()).send().await?;
    let status = response.status();
    let after = retry_after(&response);
    let location = response.headers().get("location").map(|value| value.to_str().unwrap().to_owned());
    let text = response.text().await?;
    if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        let code = code_of(&text);
        let after = after.unwrap_or_else(|| panic!("{status} without Retry-After: {text}"));
        return Ok(Sent::Later { code, after });
    }
    assert!(matches!(status.as_u16(), 200 | 202), "{status}: {text} for {item:?}");
    Ok(if kind.is_lines() {
        lines(&text, item)
    } else {
        let answer: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        let id = answer["id"].as_str().unwrap_or_else(|| panic!("no id: {text}")).to_owned();
        if status == StatusCode::ACCEPTED {
            assert_eq!(location.as_deref(), Some(format!("/v1/verifications/{id}").as_str()));
        }
        let results = if answer["metrics"].is_object() { vec![answer] } else { Vec::new() };
        Sent::Acknowledged(Acknowledged { ids: vec![id; item.sequences.len()], results })
    })
}

/// Lines are acknowledged one by one; some may have to be sent again.
fn lines(text: &str, item: &Item) -> Sent {
    let lines: Vec<Value> = match item.kind.is_async() {
        true => {
            let mut answer: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
            answer["lines"].as_array_mut().map(std::mem::take).unwrap_or_else(|| panic!("no lines: {text}"))
        }
        false => text.lines().map(|line| serde_json::from_str(line).unwrap()).collect(),
    };
    assert_eq!(lines.len(), item.sequences.len(), "{text}");
    let mut acknowledged = Acknowledged { ids: Vec::new(), results: Vec::new() };
    for mut line in lines {
        match line["status"].as_u64() {
            Some(200) => {
                let result = line["verification"].take();
                acknowledged.ids.push(result["id"].as_str().unwrap().to_owned());
                acknowledged.results.push(result);
            }
            Some(202) => acknowledged.ids.push(line["id"].as_str().unwrap().to_owned()),
            Some(429 | 503) => {
                let code = line["problem"]["code"].as_str().unwrap_or("unknown").to_owned();
                return Sent::Later { code, after: Duration::from_secs(1) };
            }
            _ => panic!("{line}"),
        }
    }
    // Results are compared only where all are known.
    if acknowledged.results.len() < acknowledged.ids.len() {
        acknowledged.results.clear();
    }
    Sent::Acknowledged(acknowledged)
}

/// Seconds that an answer asks to wait.
pub(crate) fn retry_after(response: &Response) -> Option<Duration> {
    let value = response.headers().get("retry-after")?.to_str().unwrap();
    Some(Duration::from_secs(value.parse().unwrap_or_else(|error| panic!("Retry-After {value}: {error}"))))
}

/// The code of a problem.
pub(crate) fn code_of(text: &str) -> String {
    let problem: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    problem["code"].as_str().unwrap_or_else(|| panic!("no code: {text}")).to_owned()
}
