//! A long time of everything: mixed load, kills, terminations, and a store that has to forget. Memory stays, nothing is lost.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::load::{Address, Tally, send_all};
use crate::process::{Command, Folder, ready};
use crate::reconcile::{check_counts, check_integrity, check_results};
use crate::rng::Rng;
use crate::setting;
use crate::statistics::mebibytes;
use crate::support::client;
use crate::work::items;

/// Sequences of one round.
const ROUND: usize = 2000;

/// Rounds before memory is held against what it was: caches and windows are full then.
const WARM: usize = 5;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes as long as it is told; docs/reliability.md has the command"]
async fn soak() {
    let time = Duration::from_secs(setting("PLUMBLINE_SOAK_SECONDS", 600) as u64);
    let started = Instant::now();
    let folder = Folder::new("soak");
    // So small that it has to forget all the time, but not so small that a round does not fit.
    let command =
        Command::on(folder.path()).env("PLUMBLINE_STORE_MAX_BYTES", 50_000_000).env("PLUMBLINE_WINDOW_SECONDS", 60);
    let client = client();
    let (mut process, url) = command.ready(&client).await;
    let address = Address::new(&url);
    let mut rng = Rng::new(started.elapsed().as_nanos() as u64);
    let (mut round, mut since_start, mut warm) = (0, 0, None);
    while started.elapsed() < time {
        round += 1;
        since_start += 1;
        let mut own = items(ROUND, 3, 1000 + round as u64);
        for item in &mut own {
            item.run = format!("soak-{round}-{}", item.run);
        }
        let own = Arc::new(own);
        let tally = Arc::new(Tally::default());
        let load = {
            let (client, address, own, tally) = (client.clone(), address.clone(), Arc::clone(&own), Arc::clone(&tally));
            tokio::spawn(async move { send_all(&client, &address, &own, 12, &tally).await })
        };
        let restart = rng.below(4) == 0;
        if restart {
            tokio::time::sleep(Duration::from_millis(rng.below(3000) as u64)).await;
            if rng.below(2) == 0 {
                process.kill();
            } else {
                process.terminate();
                assert_eq!(process.exit().await.code(), Some(0), "{:#?}", process.log());
            }
            let (next, url) = command.listening();
            process = next;
            address.set(&url);
            (since_start, warm) = (0, None);
        }
        let acknowledged = load.await.unwrap();
        let url = address.get();
        ready(&client, &url).await;
        check_results(&client, &url, &own, &acknowledged).await;
        check_counts(&client, &url, &own).await;
        let resident = process.resident_bytes();
        println!("round {round}: {:.1} MiB, {:.0} s", mebibytes(resident), started.elapsed().as_secs_f64());
        if since_start == WARM {
            warm = Some(resident);
        }
        if let Some(warm) = warm {
            assert!(resident as f64 <= warm as f64 * 1.2, "memory grew from {warm} to {resident}");
        }
        let errors: Vec<_> = process.log().into_iter().filter(|line| line.contains("\"ERROR\"")).collect();
        assert!(errors.is_empty(), "{errors:#?}");
    }
    process.terminate();
    assert_eq!(process.exit().await.code(), Some(0), "{:#?}", process.log());
    check_integrity(folder.path());
}
