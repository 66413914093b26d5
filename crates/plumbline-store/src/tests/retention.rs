use std::time::Duration;

use super::*;
use crate::{JobState, Known, Retention, Statistics};

/// Bytes that do not get smaller.
fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..bytes.div_ceil(8)).flat_map(|_| next()).take(bytes).collect()
}

fn limited(folder: &Folder, retention: Retention) -> Store {
    Store::open(StoreOptions { retention, ..folder.options() }).unwrap()
}

fn bytes(max_bytes: u64) -> Retention {
    Retention { max_bytes: Some(max_bytes), ..Retention::default() }
}

/// A verification with one sequence; its parts take so many bytes.
fn big(store: &Store, number: u64, response: usize, observation: usize, token_count: u32) -> Finished {
    let name = number.to_string();
    let sequence = NewSequence {
        observation: Packed::new(&noise(number, observation)),
        token_rows: Some(noisy_tokens(number, token_count)),
        ..sequence("v", &name)
    };
    let target = Target::Direct(verification(&name, &name, Some(&name)));
    let response = Packed::new(&noise(number + 1_000_000, response));
    store.finish(Completion { response, ..completion(target, vec![sequence]) }).wait().unwrap()
}

fn noisy_tokens(seed: u64, count: u32) -> crate::TokenRows {
    let bytes = noise(seed, count as usize * 8);
    let tokens = bytes.chunks_exact(8).map(|chunk| plumbline_divergence::TokenComparison {
        token_id: 1,
        engine: Some(f64::from_bits(u64::from_le_bytes(chunk.try_into().unwrap()))),
        reference: None,
        entropy: None,
        rank: None,
        eos_probability: None,
        skipped: None,
    });
    crate::TokenRows::new(&tokens.collect::<Vec<_>>())
}

/// Waits for the store to come to rest.
#[track_caller]
fn eventually(store: &Store, what: impl Fn(&Statistics) -> bool) {
    for _ in 0..6000 {
        if what(&store.statistics()) {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{:?}", store.statistics());
}

#[test]
fn tokens_go_first_and_nothing_else_if_that_is_enough() {
    let folder = Folder::new();
    let store = limited(&folder, bytes(1_000_000));
    for number in 0..100 {
        assert_eq!(big(&store, number, 100, 100, 4000), done(&[true]), "{number}");
        assert!(store.statistics().content_bytes <= 1_000_000);
    }
    eventually(&store, |statistics| statistics.content_bytes < 900_000);
    let statistics = store.statistics();
    assert_eq!((statistics.sequences, statistics.removed_sequences, statistics.removed_responses), (100, 0, 0));
    assert!((1..40).contains(&statistics.token_rows), "{statistics:?}");
    assert_eq!(statistics.token_rows + statistics.removed_token_rows, 100);
    assert!(statistics.file_bytes <= 1_000_000, "{statistics:?}");
    assert_eq!(store.reader().token_rows(1).unwrap(), None, "the oldest");
    assert_eq!(store.reader().token_rows(100).unwrap(), Some(noisy_tokens(99, 4000)), "the latest");
    drop(store);
    assert_good(&folder.file());
}

#[test]
fn what_outlives_a_response_still_tells_that_its_sequences_are_counted() {
    let folder = Folder::new();
    let store = limited(&folder, bytes(1_000_000));
    for number in 0..100 {
        big(&store, number, 30_000, 100, 1);
    }
    eventually(&store, |statistics| statistics.content_bytes < 900_000 && statistics.removed_responses > 0);
    let statistics = store.statistics();
    assert_eq!((statistics.sequences, statistics.done), (100, 100));
    let row = store.reader().verification("0").unwrap().unwrap();
    assert_eq!((row.state, row.response), (JobState::Done, None));
    // It cannot be answered as a retry any more: it is scored again, and counts nothing.
    assert_eq!(store.reader().lookup(&digest("0"), Some("0")).unwrap(), Known::New);
    let again = completion(Target::Direct(verification("again", "0", Some("0"))), vec![sequence("again", "0")]);
    assert_eq!(store.finish(again).wait().unwrap(), done(&[false]));
    drop(store);
    assert_good(&folder.file());
}

#[test]
fn sums_outlive_their_sequences() {
    let folder = Folder::new();
    let store = limited(&folder, bytes(1_000_000));
    for number in 0..300 {
        assert_eq!(big(&store, number, 100, 20_000, 100), done(&[true]), "{number}");
    }
    eventually(&store, |statistics| statistics.content_bytes < 900_000);
    let statistics = store.statistics();
    assert!(statistics.sequences < 60 && statistics.removed_sequences == 300 - statistics.sequences, "{statistics:?}");
    let groups = store.reader().groups().unwrap();
    let group = &groups[0];
    assert_eq!((group.sequences, group.removed_sequences), (300, statistics.removed_sequences));
    assert_eq!((group.tokens, group.summary.as_slice()), (600, &b"300"[..]));
    drop(store);
    assert_good(&folder.file());
    let reopened = limited(&folder, bytes(1_000_000));
    assert_eq!(reopened.statistics().sequences, statistics.sequences);
}

#[test]
fn queued_work_is_never_removed() {
    let folder = Folder::new();
    let retention =
        Retention { max_bytes: Some(1_000_000), max_age: Some(Duration::from_secs(1)), ..Retention::default() };
    let store = limited(&folder, retention);
    let submit = |number: u64| {
        let new = verification(&number.to_string(), &number.to_string(), None);
        store.submit(new, Packed::new(&noise(number, 20_000))).wait()
    };
    let accepted = (0..100).take_while(|number| submit(*number).is_ok()).count();
    assert!((30..50).contains(&accepted), "{accepted}");
    let refused = submit(1000).unwrap_err();
    assert_eq!(refused.kind(), crate::ErrorKind::Full, "{refused}");
    assert_eq!(store.statistics().queued, accepted as u64);
    // What was begun can be ended, which makes room for more.
    for number in 0..10 {
        let target = Target::Job(number.to_string());
        store.finish(completion(target, vec![sequence("v", &number.to_string())])).wait().unwrap();
    }
    assert!(submit(1001).is_ok());
    eventually(&store, |statistics| statistics.done == 0 || statistics.content_bytes < 850_000);
    assert_eq!(store.reader().jobs(0, 1000).unwrap().len(), accepted - 10 + 1);
    drop(store);
    assert_good(&folder.file());
}

#[test]
fn what_is_too_old_goes_and_what_waits_stays() {
    let folder = Folder::new();
    let store = folder.open();
    direct(&store, "old", &["s", "t"]);
    let young = Completion {
        at: SystemTime::now(),
        ..completion(Target::Direct(verification("young", "young", None)), vec![sequence("young", "u")])
    };
    store.finish(young).wait().unwrap();
    store.submit(verification("failed", "failed", Some("k")), Packed::new(b"q")).wait().unwrap();
    store.fail("failed", b"why".to_vec(), at(0)).wait().unwrap();
    store.submit(verification("queued", "queued", None), Packed::new(b"q")).wait().unwrap();
    drop(store);

    let store = limited(&folder, Retention { max_age: Some(Duration::from_secs(86_400)), ..Retention::default() });
    eventually(&store, |statistics| statistics.sequences == 1 && statistics.done == 1 && statistics.failed == 0);
    assert_eq!(store.reader().verification("old").unwrap(), None);
    assert!(store.reader().verification("young").unwrap().unwrap().response.is_some());
    assert_eq!(store.reader().jobs(0, 9).unwrap().len(), 1);
    let statistics = store.statistics();
    assert_eq!((statistics.token_rows, statistics.removed_sequences), (1, 2));
    // Digests go last.
    eventually(&store, |_| store.reader().new_digests(&[digest("s")]).unwrap() == [true]);
    assert_eq!(store.reader().new_digests(&[digest("u")]).unwrap(), [false]);
    drop(store);
    assert_good(&folder.file());
}

#[test]
fn a_file_with_much_free_gets_smaller() {
    let folder = Folder::new();
    let store = folder.open();
    for number in 0..60 {
        big(&store, number, 500_000, 10, 1);
    }
    drop(store);
    let store = limited(&folder, bytes(5_000_000));
    assert!(store.statistics().file_bytes > 25_000_000);
    eventually(&store, |statistics| statistics.content_bytes < 5_000_000);
    // SQLite's file shrinks when its log is moved to it, at the latest at the end.
    eventually(&store, |_| !store_has_much_free(&store));
    drop(store);
    assert!(std::fs::metadata(folder.file()).unwrap().len() < 22_000_000);
    assert_good(&folder.file());
    let vacuumed = crate::vacuum(&folder.file()).unwrap();
    assert!(vacuumed.after < 5_000_000 && vacuumed.after <= vacuumed.before, "{vacuumed:?}");
    assert_good(&folder.file());
}

fn store_has_much_free(store: &Store) -> bool {
    let free: u64 = store
        .reader()
        .read(|connection| Ok(connection.query_row("PRAGMA freelist_count", (), |row| row.get(0))?))
        .unwrap();
    free * 4096 > 16 << 20
}
