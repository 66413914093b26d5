//! More than the server can do: what is admitted is quick and kept, the rest is told when to come back, and memory stays where
//! it was.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use reqwest::{Client, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{interval, sleep};

use crate::load::{code_of, retry_after};
use crate::process::{Command, Folder};
use crate::reconcile::{check_integrity, result_of};
use crate::rng::Rng;
use crate::setting;
use crate::statistics::{latencies, mebibytes, quantile};
use crate::support::client;
use crate::work::sequence_of;

/// A row of a forward takes so long, asleep: the server is slow, but the machine is not, and client and server do not fight for it.
const MICROSECONDS_PER_TOKEN: usize = 200;

/// Prompt and completion of a sequence.
const TOKENS: (usize, usize) = (16, 24);

/// Part of the clients who came back when they were told to that must have been served then.
const SERVED: f64 = 0.95;

/// One answer.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    took: Duration,
    after: Option<Duration>,
    text: String,
}

async fn post(client: &Client, url: &str, priority: &str, body: &Value) -> Answer {
    send(client.post(format!("{url}/v1/verifications")).header("plumbline-priority", priority).json(body)).await
}

async fn send(request: RequestBuilder) -> Answer {
    let started = Instant::now();
    let response = request.send().await.unwrap();
    let (status, after) = (response.status(), retry_after(&response));
    let text = response.text().await.unwrap();
    Answer { status, took: started.elapsed(), after, text }
}

/// Bodies that are all different.
struct Bodies {
    rng: Mutex<Rng>,
    made: AtomicUsize,
    runs: usize,
}

impl Bodies {
    fn new(runs: usize) -> Self {
        Self { rng: Mutex::new(Rng::new(5)), made: AtomicUsize::new(0), runs }
    }

    fn next(&self) -> Value {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let sequence = sequence_of(&format!("o{number}"), TOKENS.0, TOKENS.1, &mut self.rng.lock().unwrap());
        json!({"run": format!("overload-{}", number % self.runs), "engine": "vllm", "sequences": [sequence]})
    }
}

/// What clients saw.
#[derive(Default)]
struct Seen {
    admitted: Mutex<Vec<Duration>>,
    refused: AtomicUsize,
    /// Of clients that wait as they are told: who came back, and who was served then.
    came_back: AtomicUsize,
    served: AtomicUsize,
    /// The longest that anybody was told to wait.
    longest: Mutex<Duration>,
    /// The ids of all that was answered or accepted.
    acknowledged: Mutex<Vec<String>>,
}

impl Seen {
    fn acknowledge(&self, text: &str) {
        let answer: Value = serde_json::from_str(text).unwrap();
        let id = answer["id"].as_str().unwrap_or_else(|| panic!("no id: {text}"));
        self.acknowledged.lock().unwrap().push(id.to_owned());
    }
}

/// Work for later.
async fn leave(client: &Client, url: &str, body: Value, seen: &Seen) {
    let request = client.post(format!("{url}/v1/verifications")).header("prefer", "respond-async").json(&body);
    let answer = send(request).await;
    match answer.status {
        StatusCode::ACCEPTED => seen.acknowledge(&answer.text),
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE if answer.after.is_some() => {}
        _ => panic!("{answer:?}"),
    }
}

/// Sends one request; a patient client comes back when it was told to.
async fn ask(client: &Client, url: &str, priority: &str, body: Value, patient: bool, seen: &Seen) {
    for attempt in 1.. {
        let answer = post(client, url, priority, &body).await;
        match answer.status {
            StatusCode::OK => {
                seen.admitted.lock().unwrap().push(answer.took);
                seen.acknowledge(&answer.text);
                seen.served.fetch_add(usize::from(attempt > 1), Ordering::Relaxed);
                return;
            }
            StatusCode::TOO_MANY_REQUESTS => {
                let after = answer.after.unwrap_or_else(|| panic!("429 without Retry-After: {}", answer.text));
                code_of(&answer.text);
                seen.refused.fetch_add(1, Ordering::Relaxed);
                let longest = after.max(*seen.longest.lock().unwrap());
                *seen.longest.lock().unwrap() = longest;
                if !patient {
                    return;
                }
                sleep(after).await;
                seen.came_back.fetch_add(1, Ordering::Relaxed);
            }
            _ => panic!("{answer:?}"),
        }
    }
}

/// Requests that a server answers in a second, when so many clients ask one after the other.
async fn throughput(client: &Client, url: &str, bodies: &Arc<Bodies>, clients: usize, time: Duration) -> f64 {
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let tasks: Vec<_> = (0..clients)
        .map(|_| {
            let (client, url, bodies) = (client.clone(), url.to_owned(), Arc::clone(bodies));
            let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let answer = post(&client, &url, "standard", &bodies.next()).await;
                    if answer.status == StatusCode::OK {
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        })
        .collect();
    sleep(time).await;
    let rate = done.load(Ordering::Relaxed) as f64 / time.as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.unwrap();
    }
    rate
}

/// What was measured.
struct Measured {
    unloaded: Vec<Duration>,
    interactive: Vec<Duration>,
    refused: usize,
    admitted: usize,
    came_back: usize,
    served: usize,
    /// Resident bytes over the second half of the time, and over the quarter before it.
    late: Vec<u64>,
    early: Vec<u64>,
}

/// Offers `factor` times what the server can do, for this long.
async fn overload(time: Duration, factor: f64) -> Measured {
    let client = client();
    let folder = Folder::new("overload");
    let command = Command::on(folder.path())
        .env("PLUMBLINE_MAX_QUEUE_TOKENS", 16_384)
        // Full before memory is compared.
        .env("PLUMBLINE_WINDOW_SECONDS", 20)
        .env("PLUMBLINE_FAULT_MICROSECONDS_PER_TOKEN", MICROSECONDS_PER_TOKEN);
    let (mut process, url) = command.ready(&client).await;
    let bodies = Arc::new(Bodies::new(8));

    let rate = throughput(&client, &url, &bodies, 32, (time / 4).min(Duration::from_secs(10))).await;
    let mut unloaded = Vec::new();
    for _ in 0..100 {
        let answer = post(&client, &url, "interactive", &bodies.next()).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        unloaded.push(answer.took);
        sleep(Duration::from_millis(5)).await;
    }
    println!("{rate:.0} requests/s; unloaded: {}", latencies(&mut unloaded));

    let [interactive, standard, bulk, later]: [Arc<Seen>; 4] = std::array::from_fn(|_| Arc::default());
    let started = Instant::now();
    let mut memory = Vec::new();
    let mut tasks = JoinSet::new();
    let mut ticks = interval(Duration::from_millis(20));
    let (mut owed, mut owed_interactive, mut number) = (0.0, 0.0, 0usize);
    let mut last = Instant::now();
    while started.elapsed() < time {
        ticks.tick().await;
        let passed = last.elapsed().as_secs_f64();
        last = Instant::now();
        owed += passed * rate * factor;
        // Interactive requests are a tenth of what the server can do.
        owed_interactive += passed * rate * 0.1;
        while owed >= 1.0 {
            owed -= 1.0;
            number += 1;
            let (client, url, body) = (client.clone(), url.clone(), bodies.next());
            if number % 100 == 1 {
                let seen = Arc::clone(&later);
                tasks.spawn(async move { leave(&client, &url, body, &seen).await });
                continue;
            }
            let (priority, seen) = if number % 2 == 0 { ("standard", &standard) } else { ("bulk", &bulk) };
            let seen = Arc::clone(seen);
            // One of 50 does as it is told: about a fifth of what the server can do.
            let patient = number % 50 < 2 && number % 100 >= 2;
            tasks.spawn(async move { ask(&client, &url, priority, body, patient, &seen).await });
        }
        while owed_interactive >= 1.0 {
            owed_interactive -= 1.0;
            let (client, url, body, seen) = (client.clone(), url.clone(), bodies.next(), Arc::clone(&interactive));
            tasks.spawn(async move { ask(&client, &url, "interactive", body, false, &seen).await });
        }
        memory.push((started.elapsed(), process.resident_bytes()));
        while let Some(ended) = tasks.try_join_next() {
            ended.unwrap();
        }
    }
    // Who still waits to come back has nothing to show; who waits for an answer gets it soon.
    sleep(Duration::from_secs(10)).await;
    tasks.abort_all();
    while let Some(ended) = tasks.join_next().await {
        assert!(ended.as_ref().err().is_none_or(JoinError::is_cancelled), "a client failed: {ended:?}");
    }
    let between = |from: f64, to: f64| {
        let within = |at: &Duration| (from..to).contains(&(at.as_secs_f64() / time.as_secs_f64()));
        memory.iter().filter(|(at, _)| within(at)).map(|(_, bytes)| *bytes).collect::<Vec<_>>()
    };
    println!("offered {number} in {:.0} s", time.as_secs_f64());
    for (name, seen) in [("standard", &standard), ("bulk", &bulk)] {
        let mut admitted = seen.admitted.lock().unwrap();
        let count = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        println!(
            "{name}: {} admitted ({}), {} refused, {} came back when told to, {} of them were served then, the longest Retry-After was {} s",
            admitted.len(),
            latencies(&mut admitted),
            count(&seen.refused),
            count(&seen.came_back),
            count(&seen.served),
            seen.longest.lock().unwrap().as_secs()
        );
    }
    // The service goes on as before.
    assert_eq!(post(&client, &url, "interactive", &bodies.next()).await.status, StatusCode::OK);
    let mut acknowledged = 0;
    for seen in [&interactive, &standard, &bulk, &later] {
        let ids = std::mem::take(&mut *seen.acknowledged.lock().unwrap());
        acknowledged += ids.len();
        for id in ids {
            result_of(&client, &url, &id).await;
        }
    }
    println!("{acknowledged} were answered or accepted, all of them are kept");
    process.terminate();
    assert_eq!(process.exit().await.code(), Some(0), "{:#?}", process.log());
    check_integrity(folder.path());
    let total = |count: fn(&Seen) -> &AtomicUsize| {
        [&standard, &bulk].iter().map(|seen| count(seen).load(Ordering::Relaxed)).sum::<usize>()
    };
    Measured {
        unloaded,
        interactive: std::mem::take(&mut interactive.admitted.lock().unwrap()),
        refused: total(|seen| &seen.refused),
        admitted: [&standard, &bulk].map(|seen| seen.admitted.lock().unwrap().len()).iter().sum(),
        came_back: total(|seen| &seen.came_back),
        served: total(|seen| &seen.served),
        early: between(0.25, 0.5),
        late: between(0.5, 1.0),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_much_is_told_when_to_come_back() {
    let measured = overload(Duration::from_secs(4), 10.0).await;
    assert!(measured.refused > 0 && measured.admitted > 0 && !measured.interactive.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes and asserts times; docs/reliability.md has the command"]
async fn ten_times_too_much_for_two_minutes() {
    let seconds = setting("PLUMBLINE_CHAOS_SECONDS", 120) as u64;
    let mut measured = overload(Duration::from_secs(seconds), 10.0).await;
    println!("interactive: {} answers, {}", measured.interactive.len(), latencies(&mut measured.interactive));
    println!("{} came back when told to, {} of them were served then", measured.came_back, measured.served);
    let (early, late) = (*measured.early.iter().max().unwrap(), *measured.late.iter().max().unwrap());
    println!("resident: {:.1} MiB, later {:.1} MiB", mebibytes(early), mebibytes(late));
    let (alone, under_load) = (quantile(&mut measured.unloaded, 0.99), quantile(&mut measured.interactive, 0.99));
    assert!(under_load <= 3 * alone, "p99 is {under_load:?} under load, {alone:?} alone");
    assert!(late as f64 <= early as f64 * 1.05, "memory grew from {early} to {late}");
    let served = measured.served as f64 / measured.came_back as f64;
    assert!(served >= SERVED, "of those who came back as told, {served:.3} were served");
}
