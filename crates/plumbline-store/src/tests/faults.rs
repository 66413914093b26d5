use std::fs;
use std::os::unix::fs::FileExt;

use rusqlite::Connection;

use super::*;
use crate::{ErrorKind, Reader, StoreError};

/// Has SQLite refuse to grow the file by more than so many pages, as a full disk would.
fn fill_disk(store: &Store, spare: i64) {
    let limit = move |connection: &Connection| {
        let pages: i64 = connection.query_row("PRAGMA page_count", (), |row| row.get(0))?;
        connection.query_row(&format!("PRAGMA max_page_count = {}", pages + spare), (), |_| Ok(()))
    };
    store.write(0, move |scope| Ok(limit(scope.connection)?)).wait().unwrap();
}

fn big_response(id: &str) -> Completion {
    let mut state = 1u64;
    let bytes: Vec<u8> = (0..100_000)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect();
    let target = Target::Direct(verification(id, id, None));
    Completion { response: Packed::new(&bytes), ..completion(target, vec![sequence(id, id)]) }
}

#[test]
fn a_full_disk_loses_nothing_and_is_told() {
    let folder = Folder::new();
    let store = folder.open();
    direct(&store, "a", &["s"]);
    fill_disk(&store, 4);
    // Together they are too much; the small one has room.
    let pending = [
        store.finish(big_response("big")),
        store.finish(completion(Target::Direct(verification("small", "small", None)), Vec::new())),
    ];
    let [big, small] = pending.map(crate::Pending::wait);
    assert_eq!(big.unwrap_err().kind(), ErrorKind::Full);
    assert_eq!(small, Ok(done(&[])));
    let failed = store.finish(big_response("big")).wait().unwrap_err();
    assert!(matches!(failed, StoreError::Full { .. }), "{failed}");
    assert_eq!(store.state().as_str(), "full");
    assert!(store.state().reason().unwrap().contains("plumbline.sqlite"));
    assert!(store.statistics().errors[0] >= 2);
    // Without a limit of bytes nothing is given up for it.
    let statistics = store.statistics();
    assert_eq!((statistics.sequences, statistics.token_rows, statistics.removed_token_rows), (1, 1, 0));
    assert!(store.reader().verification("a").unwrap().unwrap().response.is_some(), "reading goes on");

    fill_disk(&store, 1000);
    assert!(store.state().is_ok(), "with the first write that succeeds");
    assert_eq!(store.finish(big_response("big")).wait(), Ok(done(&[true])));
    drop(store);
    assert_good(&folder.file());
}

#[test]
fn a_store_that_failed_works_again_without_being_asked() {
    let folder = Folder::new();
    let store = folder.open();
    fill_disk(&store, 4);
    assert!(store.finish(big_response("big")).wait().is_err());
    while !store.state().is_ok() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn a_file_that_must_not_be_written_can_be_read() {
    let folder = Folder::new();
    let store = folder.open();
    direct(&store, "a", &["s"]);
    // As for a disk that was mounted anew to be read only.
    store.write(0, |scope| Ok(scope.connection.pragma_update(None, "query_only", true)?)).wait().unwrap();
    let refused = store.submit(verification("b", "b", None), Packed::new(b"q")).wait().unwrap_err();
    assert!(matches!(refused, StoreError::ReadOnly { .. }), "{refused}");
    assert_eq!(store.state().as_str(), "read_only");
    assert_eq!(store.statistics().errors[1], 1);
    assert!(store.reader().verification("a").unwrap().is_some());
    drop(store);
    let store = folder.open();
    assert_eq!(store.reader().verification("b").unwrap(), None);
    assert_eq!(direct(&store, "b", &["s", "t"]), done(&[false, true]));
}

/// Overwrites pages of a closed file, from one to its end.
fn damage(folder: &Folder, first_page: u64) {
    let file = fs::File::options().write(true).open(folder.file()).unwrap();
    let pages = file.metadata().unwrap().len() / 4096;
    assert!(pages > first_page + 5, "{pages}");
    for page in first_page..pages {
        file.write_all_at(&[0x5a; 4096], page * 4096).unwrap();
    }
}

fn many(store: &Store) {
    for id in 0..30 {
        let contents: Vec<_> = (0..100).map(|number| format!("{id}/{number}")).collect();
        direct(store, &format!("v{id}"), &contents.iter().map(String::as_str).collect::<Vec<_>>());
    }
}

#[test]
fn a_damaged_file_is_refused_and_left_alone() {
    let folder = Folder::new();
    many(&folder.open());
    damage(&folder, 0);
    let before = fs::read(folder.file()).unwrap();
    let refused = Store::open(folder.options()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Corrupt);
    let said = refused.to_string();
    assert!(said.contains("plumbline.sqlite") && said.contains("`plumbline db check`"), "{said}");
    assert_eq!(fs::read(folder.file()).unwrap(), before);
    let report = check(&folder.file()).unwrap();
    assert_eq!((report.schema, report.findings.len(), report.is_good()), (None, 1, false));
}

#[test]
fn damage_that_is_met_later_stops_all_writing() {
    let folder = Folder::new();
    many(&folder.open());
    damage(&folder, 60);
    let store = folder.open();
    let met = (0..200).find_map(|number| {
        let id = format!("new {number}");
        let target = Target::Direct(verification(&id, &id, None));
        store.finish(completion(target, vec![sequence(&id, &id)])).wait().err()
    });
    assert!(matches!(met, Some(StoreError::Corrupt { .. })), "{met:?}");
    assert_eq!(store.state().as_str(), "corrupt");
    let refused = store.submit(verification("x", "x", None), Packed::new(b"q")).wait();
    assert!(matches!(refused, Err(StoreError::Corrupt { .. })), "{refused:?}");
    let report = check(&folder.file()).unwrap();
    assert!(!report.is_good());
}

#[test]
fn other_files_are_refused_by_name() {
    let folder = Folder::new();
    let other = Connection::open(folder.file()).unwrap();
    other.execute_batch("CREATE TABLE theirs (x)").unwrap();
    drop(other);
    assert!(matches!(Store::open(folder.options()), Err(StoreError::Foreign { .. })));
    assert!(matches!(check(&folder.file()), Err(StoreError::Foreign { .. })));
    fs::remove_file(folder.file()).unwrap();

    folder.open();
    Connection::open(folder.file()).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let refused = Store::open(folder.options()).unwrap_err();
    assert_eq!(refused, StoreError::Newer { path: folder.file(), found: 99, supported: 2 });
    assert!(matches!(Reader::open(&folder.file()), Err(StoreError::Newer { .. })));
}

#[test]
fn what_is_not_there_is_not_made_by_looking_at_it() {
    let folder = Folder::new();
    assert!(matches!(check(&folder.file()), Err(StoreError::Io { .. })));
    assert!(matches!(Reader::open(&folder.file()), Err(StoreError::Io { .. })));
    assert!(matches!(crate::vacuum(&folder.file()), Err(StoreError::Io { .. })));
    assert!(!folder.file().exists());
}

/// What a process that is killed leaves behind is what is on the disk at that moment.
#[test]
fn what_was_acknowledged_is_on_the_disk() {
    let folder = Folder::new();
    let store = folder.open();
    for number in 0..20 {
        let id = number.to_string();
        assert_eq!(direct(&store, &id, &[&id]), done(&[true]));
        let left = Folder::new();
        for suffix in ["", "-wal"] {
            let name = format!("{}{suffix}", StoreOptions::FILE_NAME);
            fs::copy(folder.0.join(&name), left.0.join(&name)).unwrap();
        }
        let after = left.open();
        assert!(after.reader().verification(&id).unwrap().unwrap().response.is_some());
        assert_eq!(after.statistics().sequences, number + 1);
        drop(after);
        assert_good(&left.file());
    }
}

#[test]
fn each_broken_rule_is_found() {
    let broken = |sql: &str| {
        let folder = Folder::new();
        let store = folder.open();
        direct(&store, "done", &["s", "t"]);
        store.submit(verification("queued", "queued", None), Packed::new(b"q")).wait().unwrap();
        store.submit(verification("failed", "failed", None), Packed::new(b"q")).wait().unwrap();
        store.fail("failed", b"why".to_vec(), at(0)).wait().unwrap();
        drop(store);
        assert_good(&folder.file());
        let connection = Connection::open(folder.file()).unwrap();
        connection.execute_batch("PRAGMA foreign_keys = OFF").unwrap();
        connection.execute_batch(sql).unwrap();
        drop(connection);
        let report = check(&folder.file()).unwrap();
        report.findings.into_iter().map(|finding| finding.check).collect::<Vec<_>>()
    };
    for (sql, check) in [
        ("DELETE FROM requests", "pending work has its request"),
        ("UPDATE verifications SET state = 'running' WHERE id = 'done'", "only done work has a response"),
        ("UPDATE verifications SET state = 'done', new = x'' WHERE id = 'queued'", "ended work has no request"),
        ("DELETE FROM responses", "done work that answers retries has its response"),
        ("UPDATE verifications SET problem = NULL WHERE id = 'failed'", "failed work has its problem"),
        ("UPDATE verifications SET digest = NULL WHERE id = 'queued'", "pending work can be told from a retry"),
        ("UPDATE verifications SET new = NULL WHERE id = 'done'", "done work says what it counted"),
        ("DELETE FROM sequences WHERE number = 1", "a verification has the sequences that it says it has"),
        (
            "UPDATE verifications SET new = x'0100' WHERE id = 'done'",
            "no verification has more sequences than it counted",
        ),
        ("UPDATE groups SET sequences = 3", "a run and engine has as many sequences as were counted"),
        ("UPDATE verifications SET run = 'other' WHERE id = 'done'", "every counted sequence is in its group"),
        ("UPDATE totals SET value = 5 WHERE name = 'sequences'", "totals are right"),
        ("DELETE FROM counted WHERE number = 2", "every reference has its target"),
        ("UPDATE tokens SET bytes = x'0109' WHERE sequence = 2", "what is stored can be opened"),
        ("UPDATE responses SET bytes = x'07'", "what is stored can be opened"),
    ] {
        let found = broken(sql);
        assert!(found.contains(&check), "{sql}: {found:?}");
    }
}
