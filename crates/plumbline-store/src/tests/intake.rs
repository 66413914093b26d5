use super::*;
use crate::{Existing, JobState, Known, Started, StoreError, Submitted};

fn existing(id: &str, state: JobState) -> Existing {
    Existing { id: id.into(), state }
}

fn submit(store: &Store, id: &str, content: &str, key: Option<&str>) -> Submitted {
    store.submit(verification(id, content, key), Packed::new(b"request")).wait().unwrap()
}

#[test]
fn a_retry_is_known_by_its_key_or_its_content() {
    let folder = Folder::new();
    let store = folder.open();
    assert_eq!(submit(&store, "a", "x", Some("k")), Submitted::Accepted);
    let queued = existing("a", JobState::Queued);
    assert_eq!(submit(&store, "b", "x", Some("k")), Submitted::Known(queued.clone()));
    assert_eq!(submit(&store, "b", "x", None), Submitted::Known(queued.clone()));
    assert_eq!(submit(&store, "b", "y", Some("k")), Submitted::KeyReused { verification: "a".into() });
    // Another key for the same content belongs to the same verification from then on.
    assert_eq!(submit(&store, "b", "x", Some("l")), Submitted::Known(queued.clone()));
    assert_eq!(submit(&store, "b", "y", Some("l")), Submitted::KeyReused { verification: "a".into() });
    assert_eq!(submit(&store, "b", "y", None), Submitted::Accepted);

    let lookup = |content, key| store.reader().lookup(&digest(content), key).unwrap();
    assert_eq!(lookup("x", Some("k")), Known::Known(queued.clone()));
    assert_eq!(lookup("x", Some("unknown")), Known::Known(queued));
    assert_eq!(lookup("y", Some("k")), Known::KeyReused { verification: "a".into() });
    assert_eq!(lookup("z", None), Known::New);
    assert_eq!(store.statistics().queued, 2);
    drop(store);
    assert_good(&folder.file());
}

#[test]
fn what_failed_may_be_tried_again() {
    let folder = Folder::new();
    let store = folder.open();
    submit(&store, "a", "x", Some("k"));
    assert!(store.fail("a", b"why".to_vec(), at(5)).wait().unwrap());
    assert!(!store.fail("a", b"again".to_vec(), at(6)).wait().unwrap(), "it is at its end");
    let row = store.reader().verification("a").unwrap().unwrap();
    assert_eq!((row.state, row.problem.as_deref(), row.updated_at), (JobState::Failed, Some(&b"why"[..]), at(5)));
    assert_eq!(store.reader().lookup(&digest("x"), Some("k")).unwrap(), Known::New);
    assert_eq!(submit(&store, "b", "y", Some("k")), Submitted::KeyReused { verification: "a".into() });
    assert_eq!(submit(&store, "b", "x", Some("k")), Submitted::Accepted);
    assert_eq!(submit(&store, "c", "x", Some("k")), Submitted::Known(existing("b", JobState::Queued)));
    let statistics = store.statistics();
    assert_eq!((statistics.queued, statistics.failed), (1, 1));
    drop(store);
    assert_good(&folder.file());
}

#[test]
fn jobs_survive_a_restart_with_their_attempts() {
    let folder = Folder::new();
    let store = folder.open();
    for id in ["a", "b", "c"] {
        submit(&store, id, id, None);
    }
    assert_eq!(store.start("b").wait().unwrap().unwrap().attempts, 1);
    assert_eq!(store.start("b").wait().unwrap(), None, "it runs");
    assert_eq!(store.start("unknown").wait().unwrap(), None);
    let ids = |store: &Store, after| -> Vec<_> {
        store.reader().jobs(after, 9).unwrap().into_iter().map(|job| (job.id, job.attempts)).collect()
    };
    assert_eq!(ids(&store, 0), [("a".into(), 0), ("c".into(), 0)]);
    drop(store);

    let store = folder.open();
    assert_eq!(ids(&store, 0), [("a".into(), 0), ("b".into(), 1), ("c".into(), 0)]);
    let first = store.reader().jobs(0, 1).unwrap().remove(0);
    assert_eq!((first.class, first.run.as_str(), first.created_at), (Class::Bulk, "r", at(0)));
    assert_eq!(ids(&store, first.number).len(), 2);
    let started = store.start("b").wait().unwrap();
    assert_eq!(started, Some(Started { attempts: 2, request: Packed::new(b"request") }));
    assert!(store.requeue("b").wait().unwrap());
    assert!(!store.requeue("b").wait().unwrap(), "it waits");
    assert_eq!(ids(&store, 0)[1], ("b".into(), 1));
    drop(store);
    assert_good(&folder.file());
}

#[test]
fn a_file_is_served_once_at_a_time() {
    let folder = Folder::new();
    let store = folder.open();
    assert!(matches!(Store::open(folder.options()), Err(StoreError::Locked { .. })));
    assert!(matches!(crate::vacuum(&folder.file()), Err(StoreError::Locked { .. })));
    assert_good(&folder.file());
    drop(store);
    folder.open();
}

#[test]
fn a_closed_store_says_so() {
    let folder = Folder::new();
    let store = folder.open();
    submit(&store, "a", "x", None);
    store.close().unwrap();
    store.close().unwrap();
    assert_eq!(store.submit(verification("b", "y", None), Packed::new(b"")).wait(), Err(StoreError::Closed));
    assert_eq!(store.reader().jobs(0, 9), Err(StoreError::Closed));
    assert_eq!((store.state().as_str(), store.statistics().waiting_writes), ("closed", 0));
}

#[test]
fn writes_at_the_same_time_share_transactions() {
    let folder = Folder::new();
    let store = folder.open();
    let pending: Vec<_> = (0..200)
        .map(|number| store.submit(verification(&number.to_string(), &number.to_string(), None), Packed::new(b"q")))
        .collect();
    for pending in pending {
        assert_eq!(pending.wait().unwrap(), Submitted::Accepted);
    }
    let statistics = store.statistics();
    assert_eq!((statistics.writes, statistics.queued, statistics.waiting_writes), (200, 200, 0));
    assert!(statistics.commits < 100, "{}", statistics.commits);
    drop(store);
    assert_good(&folder.file());
}
