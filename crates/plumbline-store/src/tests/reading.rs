use std::ops::ControlFlow;

use super::*;
use crate::{Filter, Reader, SequenceRow, Sort};

/// Sequences of several runs; each is (content, run, mae, tokens, at).
fn fill(store: &Store, sequences: &[(&str, &str, Option<f64>, u32, i64)]) {
    for (content, run, mae, tokens, millis) in sequences {
        let new = NewVerification { run: (*run).into(), ..verification(content, content, None) };
        let sequence = NewSequence { mae: *mae, kl_k3: mae.map(|mae| -mae), tokens: *tokens, ..sequence("v", content) };
        let completion = Completion { at: at(*millis), ..completion(Target::Direct(new), vec![sequence]) };
        store.finish(completion).wait().unwrap();
    }
}

fn names(rows: &[SequenceRow]) -> Vec<&str> {
    rows.iter().map(|row| row.sequence_id.as_str()).collect()
}

fn read(reader: &Reader, filter: &Filter) -> String {
    let mut found = String::new();
    let mut each = |row: SequenceRow| {
        found.push_str(&row.sequence_id);
        ControlFlow::Continue(())
    };
    reader.each_sequence(filter, &mut each).unwrap();
    found
}

const SOME: [(&str, &str, Option<f64>, u32, i64); 5] = [
    ("a", "r", Some(0.5), 3, 10),
    ("b", "r", None, 9, 20),
    ("c", "q", Some(9.0), 1, 30),
    ("d", "r", Some(0.7), 5, 40),
    ("e", "r", Some(0.5), 4, 50),
];

#[test]
fn sequences_are_sorted_by_each_key() {
    let folder = Folder::new();
    let store = folder.open();
    fill(&store, &SOME);
    let list = |run, sort, descending, limit| store.reader().sequences(run, sort, descending, limit).unwrap();
    assert_eq!(names(&list("r", Sort::Mae, true, 9)), ["d", "e", "a", "b"]);
    assert_eq!(names(&list("r", Sort::Mae, false, 9)), ["b", "a", "e", "d"]);
    assert_eq!(names(&list("r", Sort::KlK3, true, 3)), ["e", "a", "d"]);
    assert_eq!(names(&list("r", Sort::Length, true, 2)), ["b", "d"]);
    assert_eq!(names(&list("r", Sort::Time, true, 1)), ["e"]);
    assert_eq!(names(&list("q", Sort::Time, false, 9)), ["c"]);
    assert_eq!(names(&list("unknown", Sort::Time, false, 9)), [] as [&str; 0]);
}

#[test]
fn a_sequence_comes_back_as_it_was_given() {
    let folder = Folder::new();
    let store = folder.open();
    fill(&store, &SOME[..1]);
    let row = store.reader().sequence("seq_v_a").unwrap().unwrap();
    let expected = SequenceRow {
        number: 1,
        id: "seq_v_a".into(),
        verification: "a".into(),
        position: 0,
        run: "r".into(),
        engine: "e".into(),
        sequence_id: "a".into(),
        worker: None,
        policy_version: Some("7".into()),
        at: at(10),
        verdict: "consistent".into(),
        verdict_reason: "small".into(),
        tokens: 3,
        compared: 2,
        kl_k3: Some(-0.5),
        mae: Some(0.5),
        observation: Packed::new(b"a"),
    };
    assert_eq!(row, expected);
    assert_eq!(store.reader().token_rows(1).unwrap(), Some(tokens(3)));
    assert_eq!(store.reader().token_rows(2).unwrap(), None);
    assert_eq!(store.reader().sequence("a").unwrap(), None, "that is the sender's id");
}

#[test]
fn sequences_are_read_in_the_order_of_arrival() {
    let folder = Folder::new();
    let store = folder.open();
    fill(&store, &SOME);
    let all = Filter::default();
    let run = || Some("r".to_owned());
    assert_eq!(read(store.reader(), &all), "abcde");
    assert_eq!(read(store.reader(), &Filter { run: run(), ..all.clone() }), "abde");
    assert_eq!(read(store.reader(), &Filter { run: Some("unknown".into()), ..all.clone() }), "");
    assert_eq!(read(store.reader(), &Filter { last: Some(2), ..all.clone() }), "de");
    assert_eq!(read(store.reader(), &Filter { last: Some(9), ..all.clone() }), "abcde");
    assert_eq!(read(store.reader(), &Filter { last: Some(3), run: run(), since: None }), "bde");
    assert_eq!(read(store.reader(), &Filter { since: Some(at(30)), ..all.clone() }), "cde");
    assert_eq!(read(store.reader(), &Filter { since: Some(at(5)), ..all.clone() }), "abcde");
    assert_eq!(read(store.reader(), &Filter { since: Some(at(51)), ..all }), "");
    let mut seen = 0;
    let mut each = |_| {
        seen += 1;
        ControlFlow::Break(())
    };
    store.reader().each_sequence(&Filter::default(), &mut each).unwrap();
    assert_eq!(seen, 1);
    // Of a file that is being served.
    assert_eq!(read(&Reader::open(&folder.file()).unwrap(), &Filter::default()), "abcde");
}

#[test]
fn more_sequences_than_a_page_are_read() {
    let folder = Folder::new();
    let store = folder.open();
    let contents: Vec<_> = (0..600).map(|number| number.to_string()).collect();
    let contents: Vec<_> = contents.iter().map(String::as_str).collect();
    direct(&store, "a", &contents);
    let mut numbers = Vec::new();
    let mut each = |row: SequenceRow| {
        numbers.push((row.number, row.position));
        ControlFlow::Continue(())
    };
    store.reader().each_sequence(&Filter::default(), &mut each).unwrap();
    assert_eq!(numbers, (0..600).map(|place| (u64::from(place) + 1, place)).collect::<Vec<_>>());
}

#[test]
fn groups_are_by_run_and_engine() {
    let folder = Folder::new();
    let store = folder.open();
    fill(&store, &SOME);
    let groups = store.reader().groups().unwrap();
    let short: Vec<_> = groups.iter().map(|row| (row.run.as_str(), row.sequences, row.first_at, row.last_at)).collect();
    assert_eq!(short, [("q", 1, at(30), at(30)), ("r", 4, at(10), at(50))]);
    assert_eq!(store.reader().groups_of("q").unwrap(), groups[..1]);
    assert_eq!(store.reader().groups_of("unknown").unwrap(), []);
}
