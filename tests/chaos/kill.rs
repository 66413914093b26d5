//! `kill -9` at random points under load, and started again on the same data.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::load::{Address, Tally, send_all};
use crate::process::{Command, Folder, ready};
use crate::reconcile::{check_counts, check_file, check_integrity, check_results};
use crate::rng::Rng;
use crate::setting;
use crate::support::{PATIENCE, client};
use crate::work::items;

/// Requests that are in flight together.
const CONNECTIONS: usize = 16;

const RUNS: usize = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_outlives_a_few_kills() {
    survive(300, 3, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes; docs/reliability.md has the command"]
async fn what_was_acknowledged_outlives_50_kills() {
    let seed = setting("PLUMBLINE_CHAOS_SEED", 7) as u64;
    survive(setting("PLUMBLINE_CHAOS_SEQUENCES", 20_000), setting("PLUMBLINE_CHAOS_KILLS", 50), seed).await;
}

/// Sends so many sequences while the server is killed so often, each time at another point of the work.
async fn survive(sequences: usize, kills: usize, seed: u64) {
    let started = Instant::now();
    let folder = Folder::new("kill");
    let command = Command::on(folder.path());
    let client = client();
    let items = Arc::new(items(sequences, RUNS, seed));
    let tally = Arc::new(Tally::default());
    let (mut process, url) = command.ready(&client).await;
    let address = Address::new(&url);

    let load = {
        let (client, address, items, tally) = (client.clone(), address.clone(), Arc::clone(&items), Arc::clone(&tally));
        tokio::spawn(async move { send_all(&client, &address, &items, CONNECTIONS, &tally).await })
    };
    let mut rng = Rng::new(seed ^ 0x6B69_6C6C);
    let mut points: Vec<usize> = (0..kills).map(|_| rng.below(items.len() * 95 / 100)).collect();
    points.sort_unstable();
    let mut at_start = 0;
    for point in points {
        let reached = async {
            while tally.acknowledged.load(Ordering::Relaxed) < point {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(10 * PATIENCE, reached).await.expect("the load stands still");
        // Not always right after an acknowledgement.
        tokio::time::sleep(Duration::from_micros(rng.below(40_000) as u64)).await;
        process.kill();
        // Some servers are killed once more while they recover.
        if rng.below(5) == 0 {
            let mut early = command.spawn();
            tokio::time::sleep(Duration::from_micros(rng.below(600_000) as u64)).await;
            early.kill();
            at_start += 1;
        }
        let (next, url) = command.listening();
        process = next;
        address.set(&url);
    }
    let acknowledged = tokio::time::timeout(20 * PATIENCE, load).await.expect("the load does not end").unwrap();
    let url = address.get();
    ready(&client, &url).await;
    check_results(&client, &url, &items, &acknowledged).await;
    check_counts(&client, &url, &items).await;

    // Once more from the file alone.
    process.kill();
    check_integrity(folder.path());
    let (mut process, url) = command.ready(&client).await;
    check_counts(&client, &url, &items).await;
    process.terminate();
    assert_eq!(process.exit().await.code(), Some(0), "{:#?}", process.log());
    check_file(folder.path(), &items);

    println!(
        "{} requests with {sequences} sequences, {} kills ({at_start} of them while it started), {} tries, {} broken connections, \
         refused {:?}, {:.0} s",
        items.len(),
        kills + at_start,
        tally.sent.load(Ordering::Relaxed),
        tally.broken.load(Ordering::Relaxed),
        tally.refused.lock().unwrap(),
        started.elapsed().as_secs_f64(),
    );
}
