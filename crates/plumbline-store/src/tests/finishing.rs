use super::*;
use crate::{Existing, JobState, StoreError};

fn groups(store: &Store) -> Vec<(u64, u64, String)> {
    let groups = store.reader().groups().unwrap();
    groups.into_iter().map(|row| (row.sequences, row.tokens, String::from_utf8(row.summary).unwrap())).collect()
}

#[test]
fn a_sequence_counts_once_whoever_sends_it() {
    let folder = Folder::new();
    let store = folder.open();
    assert_eq!(direct(&store, "a", &["s", "t", "s"]), done(&[true, true, false]));
    assert_eq!(direct(&store, "b", &["u", "t"]), done(&[true, false]));
    assert_eq!(direct(&store, "c", &["u"]), done(&[false]));
    assert_eq!(store.reader().new_digests(&["s", "v", "v"].map(digest)).unwrap(), [false, true, false]);
    assert_eq!(groups(&store), [(3, 6, "3".into())]);
    let row = store.reader().verification("b").unwrap().unwrap();
    assert_eq!((row.state, row.new.as_slice()), (JobState::Done, &[true, false][..]));
    assert_eq!(row.response.unwrap().open().unwrap(), b"response of b");
    let statistics = store.statistics();
    assert_eq!((statistics.done, statistics.sequences, statistics.token_rows, statistics.groups), (3, 3, 3, 1));
    drop(store);
    assert_good(&folder.file());
    assert_eq!(direct(&folder.open(), "d", &["s"]), done(&[false]), "also after a restart");
}

#[test]
fn a_job_is_finished_once() {
    let folder = Folder::new();
    let store = folder.open();
    store.submit(verification("a", "x", None), Packed::new(b"request")).wait().unwrap();
    store.start("a").wait().unwrap().unwrap();
    let finish = || {
        let completion = completion(Target::Job("a".into()), vec![sequence("a", "s")]);
        store.finish(completion).wait().unwrap()
    };
    assert_eq!(finish(), done(&[true]));
    assert_eq!(finish(), Finished::Known(Existing { id: "a".into(), state: JobState::Done }));
    let unknown = store.finish(completion(Target::Job("b".into()), Vec::new())).wait().unwrap();
    assert_eq!(unknown, Finished::Missing);
    assert!(!store.fail("a", b"late".to_vec(), at(9)).wait().unwrap());
    let statistics = store.statistics();
    assert_eq!((statistics.queued, statistics.running, statistics.done, statistics.failed), (0, 0, 1, 0));
    drop(store);
    assert_good(&folder.file());
}

#[test]
fn of_two_equal_requests_at_once_one_is_stored() {
    let folder = Folder::new();
    let store = folder.open();
    let finish = |id: &str, content: &str, key| {
        let target = Target::Direct(verification(id, content, key));
        store.finish(completion(target, vec![sequence(id, content)])).wait().unwrap()
    };
    assert_eq!(finish("a", "x", Some("k")), done(&[true]));
    let first = Existing { id: "a".into(), state: JobState::Done };
    assert_eq!(finish("b", "x", Some("k")), Finished::Known(first.clone()));
    assert_eq!(finish("b", "x", None), Finished::Known(first));
    assert_eq!(finish("b", "y", Some("k")), Finished::KeyReused { verification: "a".into() });
    assert_eq!(store.reader().verification("b").unwrap(), None);
    drop(store);
    assert_good(&folder.file());
}

#[test]
fn an_answer_that_is_no_longer_true_is_not_stored() {
    let folder = Folder::new();
    let store = folder.open();
    direct(&store, "a", &["s"]);
    let finish = |assumed: Vec<bool>| {
        let target = Target::Direct(verification("b", "b", None));
        let sequences = vec![sequence("b", "s"), sequence("b", "t")];
        let completion = Completion { assumed_new: Some(assumed), ..completion(target, sequences) };
        store.finish(completion).wait().unwrap()
    };
    assert_eq!(finish(vec![true, true]), Finished::Differs { new: vec![false, true] });
    assert_eq!(store.reader().verification("b").unwrap(), None);
    assert_eq!(finish(vec![false, true]), done(&[false, true]));
}

#[test]
fn a_write_that_fails_for_itself_takes_no_other_with_it() {
    let folder = Folder::new();
    let store = folder.open();
    let bad = NewSequence { contribution: b"no number".to_vec(), ..sequence("bad", "s") };
    let good = || vec![sequence("good", "t")];
    let pending = [
        store.finish(completion(Target::Direct(verification("bad", "bad", None)), vec![bad])),
        store.finish(completion(Target::Direct(verification("good", "good", None)), good())),
        // An id that is taken.
        store.finish(completion(Target::Direct(verification("good", "other", None)), Vec::new())),
    ];
    let [bad, good, taken] = pending.map(crate::Pending::wait);
    assert!(matches!(bad, Err(StoreError::Summary(_))), "{bad:?}");
    assert_eq!(good, Ok(done(&[true])));
    assert!(matches!(taken, Err(StoreError::Sql { .. })), "{taken:?}");
    assert!(store.state().is_ok(), "nothing is wrong with the file");
    assert_eq!(store.statistics().errors[5], 2);
    assert_eq!(groups(&store), [(1, 2, "1".into())]);
    assert_eq!(store.reader().verification("bad").unwrap(), None);
    drop(store);
    assert_good(&folder.file());
}

#[test]
fn equal_work_at_the_same_time_counts_once() {
    let folder = Folder::new();
    let store = folder.open();
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let finish = |thread: u64| {
            let store = &store;
            move || {
                let mut outcomes = Vec::new();
                for content in 0..20 {
                    let (id, content) = (format!("{thread}/{content}"), content.to_string());
                    let target = Target::Direct(verification(&id, &content, None));
                    let sequences = vec![sequence(&id, &content), sequence(&id, &format!("shared {}", content.len()))];
                    outcomes.push(store.finish(completion(target, sequences)).wait().unwrap());
                }
                outcomes
            }
        };
        let threads: Vec<_> = (0..4).map(|thread| scope.spawn(finish(thread))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let count = |is: fn(&Finished) -> bool| outcomes.iter().filter(|outcome| is(outcome)).count();
    assert_eq!(count(|outcome| matches!(outcome, Finished::Done { .. })), 20);
    assert_eq!(count(|outcome| matches!(outcome, Finished::Known(_))), 60);
    let new = outcomes.iter().map(|outcome| match outcome {
        Finished::Done { new } => new.iter().filter(|new| **new).count(),
        _ => 0,
    });
    assert_eq!(new.sum::<usize>(), 22);
    assert_eq!(groups(&store), [(22, 44, "22".into())]);
    drop(store);
    assert_good(&folder.file());
}

/// A summary that does not return.
#[derive(Debug)]
struct Broken;

impl MergeSummaries for Broken {
    fn merge(&self, _current: Option<&[u8]>, _added: &[&[u8]]) -> Result<Vec<u8>, String> {
        panic!("a defect")
    }
}

#[test]
fn a_writer_that_ended_is_told() {
    let folder = Folder::new();
    let store = Store::open(StoreOptions { summaries: Arc::new(Broken), ..folder.options() }).unwrap();
    let completion = completion(Target::Direct(verification("a", "a", None)), vec![sequence("a", "s")]);
    assert_eq!(store.finish(completion).wait(), Err(StoreError::Closed));
    assert_eq!(store.submit(verification("b", "b", None), Packed::new(b"q")).wait(), Err(StoreError::Closed));
    assert_eq!(store.state().as_str(), "closed");
    assert!(matches!(store.close(), Err(StoreError::Sql { .. })));
    drop(store);
    assert_good(&folder.file());
    assert_eq!(direct(&folder.open(), "a", &["s"]), done(&[true]), "nothing of it was written");
}
