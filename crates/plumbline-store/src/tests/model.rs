//! Random operations and restarts, against a model in memory.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::{Existing, JobState, Known, StoreError, Submitted};

#[derive(Clone, Debug)]
enum Step {
    Submit {
        content: u8,
        key: Option<u8>,
    },
    Start(u8),
    Requeue(u8),
    Fail(u8),
    Finish {
        verification: u8,
        sequences: Vec<u8>,
    },
    /// `assumed`: says beforehand which sequences are new, from what the store says then, or all.
    Direct {
        content: u8,
        key: Option<u8>,
        sequences: Vec<u8>,
        assumed: Option<bool>,
    },
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let key = || proptest::option::of(0u8..4);
    let sequences = || proptest::collection::vec(0u8..12, 0..4);
    prop_oneof![
        4 => (0u8..6, key()).prop_map(|(content, key)| Step::Submit { content, key }),
        3 => (0u8..12).prop_map(Step::Start),
        1 => (0u8..12).prop_map(Step::Requeue),
        2 => (0u8..12).prop_map(Step::Fail),
        4 => (0u8..12, sequences()).prop_map(|(verification, sequences)| Step::Finish { verification, sequences }),
        4 => (0u8..6, key(), sequences(), any::<Option<bool>>())
            .prop_map(|(content, key, sequences, assumed)| Step::Direct { content, key, sequences, assumed }),
        1 => Just(Step::Reopen),
    ]
}

#[derive(Debug)]
struct Row {
    content: u8,
    state: JobState,
    attempts: u32,
    new: Vec<bool>,
}

#[derive(Debug, Default)]
struct Model {
    /// Their ids are their places.
    rows: Vec<Row>,
    keys: BTreeMap<u8, (u8, usize)>,
    counted: BTreeSet<u8>,
}

impl Model {
    fn known(&self, content: u8, key: Option<u8>) -> Known {
        let known = |place: usize| Known::Known(Existing { id: place.to_string(), state: self.rows[place].state });
        match key.and_then(|key| self.keys.get(&key)) {
            Some((other, place)) if *other != content => return Known::KeyReused { verification: place.to_string() },
            Some((_, place)) if self.rows[*place].state != JobState::Failed => return known(*place),
            _ => {}
        }
        let alive = |row: &Row| row.content == content && row.state != JobState::Failed;
        self.rows.iter().position(alive).map_or(Known::New, known)
    }

    fn bind(&mut self, content: u8, key: Option<u8>, known: &Known) {
        if let (Some(key), Known::Known(existing)) = (key, known) {
            self.keys.insert(key, (content, existing.id.parse().unwrap()));
        }
    }

    fn add(&mut self, content: u8, key: Option<u8>, state: JobState) -> usize {
        self.rows.push(Row { content, state, attempts: 0, new: Vec::new() });
        let place = self.rows.len() - 1;
        if let Some(key) = key {
            self.keys.insert(key, (content, place));
        }
        place
    }

    fn new_ones(&self, sequences: &[u8]) -> Vec<bool> {
        let mut seen = self.counted.clone();
        sequences.iter().map(|sequence| seen.insert(*sequence)).collect()
    }

    fn finish(&mut self, place: usize, sequences: &[u8]) -> Finished {
        let new = self.new_ones(sequences);
        self.counted.extend(sequences);
        self.rows[place].state = JobState::Done;
        self.rows[place].new.clone_from(&new);
        Finished::Done { new }
    }
}

fn new_verification(id: usize, content: u8, key: Option<u8>) -> NewVerification {
    verification(&id.to_string(), &content.to_string(), key.map(|key| key.to_string()).as_deref())
}

fn all(id: usize, sequences: &[u8]) -> Vec<NewSequence> {
    let with_own_id = |(place, content): (usize, &u8)| {
        let sequence = sequence("", &format!("sequence {content}"));
        NewSequence { id: format!("{id}/{place}"), ..sequence }
    };
    sequences.iter().enumerate().map(with_own_id).collect()
}

/// Does a step in both worlds; they must answer alike.
fn apply(folder: &Folder, store: &mut Option<Store>, model: &mut Model, step: &Step) {
    let open = store.as_ref().unwrap();
    let next = model.rows.len();
    match step {
        Step::Submit { content, key } => {
            let known = model.known(*content, *key);
            assert_eq!(
                open.reader().lookup(&digest(&content.to_string()), key.map(|k| k.to_string()).as_deref()),
                Ok(known.clone())
            );
            let answer = open.submit(new_verification(next, *content, *key), Packed::new(b"request")).wait().unwrap();
            model.bind(*content, *key, &known);
            let expected = match known {
                Known::New => {
                    model.add(*content, *key, JobState::Queued);
                    Submitted::Accepted
                }
                Known::Known(existing) => Submitted::Known(existing),
                Known::KeyReused { verification } => Submitted::KeyReused { verification },
            };
            assert_eq!(answer, expected);
        }
        Step::Start(place) => {
            let started = open.start(&place.to_string()).wait().unwrap();
            let row = model.rows.get_mut(usize::from(*place)).filter(|row| row.state == JobState::Queued);
            let expected = row.map(|row| {
                row.state = JobState::Running;
                row.attempts += 1;
                row.attempts
            });
            assert_eq!(started.map(|started| started.attempts), expected);
        }
        Step::Requeue(place) => {
            let row = model.rows.get_mut(usize::from(*place)).filter(|row| row.state == JobState::Running);
            let expected = row.map(|row| {
                row.state = JobState::Queued;
                row.attempts -= 1;
            });
            assert_eq!(open.requeue(&place.to_string()).wait(), Ok(expected.is_some()));
        }
        Step::Fail(place) => {
            let row = model.rows.get_mut(usize::from(*place));
            let row = row.filter(|row| matches!(row.state, JobState::Queued | JobState::Running));
            let expected = row.map(|row| row.state = JobState::Failed);
            assert_eq!(open.fail(&place.to_string(), b"no".to_vec(), at(2)).wait(), Ok(expected.is_some()));
        }
        Step::Finish { verification, sequences } => {
            let place = usize::from(*verification);
            let target = Target::Job(place.to_string());
            let answer = open.finish(completion(target, all(place, sequences))).wait().unwrap();
            let expected = match model.rows.get(place).map(|row| row.state) {
                None => Finished::Missing,
                Some(JobState::Queued | JobState::Running) => model.finish(place, sequences),
                Some(state) => Finished::Known(Existing { id: place.to_string(), state }),
            };
            assert_eq!(answer, expected);
        }
        Step::Direct { content, key, sequences, assumed } => {
            let new = model.new_ones(sequences);
            let assumed_new = assumed.map(|right| if right { new.clone() } else { vec![true; sequences.len()] });
            let right = assumed_new.as_ref().is_none_or(|assumed| *assumed == new);
            let target = Target::Direct(new_verification(next, *content, *key));
            let completion = Completion { assumed_new, ..completion(target, all(next, sequences)) };
            let answer = open.finish(completion).wait().unwrap();
            let known = model.known(*content, *key);
            model.bind(*content, *key, &known);
            let expected = match known {
                Known::New if !right => Finished::Differs { new },
                Known::New => {
                    let place = model.add(*content, *key, JobState::Done);
                    model.finish(place, sequences)
                }
                Known::Known(existing) => Finished::Known(existing),
                Known::KeyReused { verification } => Finished::KeyReused { verification },
            };
            assert_eq!(answer, expected);
        }
        Step::Reopen => {
            *store = None;
            *store = Some(folder.open());
            for row in &mut model.rows {
                if row.state == JobState::Running {
                    row.state = JobState::Queued;
                }
            }
        }
    }
}

/// Everything that can be read is as the model has it.
fn compare(store: &Store, model: &Model) -> Result<(), StoreError> {
    let reader = store.reader();
    for (place, expected) in model.rows.iter().enumerate() {
        let row = reader.verification(&place.to_string())?.unwrap();
        assert_eq!((row.state, row.attempts, &row.new), (expected.state, expected.attempts, &expected.new));
        assert_eq!(row.response.is_some(), expected.state == JobState::Done);
    }
    let queued: Vec<_> = reader.jobs(0, 1000)?.into_iter().map(|job| job.id).collect();
    let expected = model.rows.iter().enumerate().filter(|(_, row)| row.state == JobState::Queued);
    assert_eq!(queued, expected.map(|(place, _)| place.to_string()).collect::<Vec<_>>());

    let counted = model.counted.len() as u64;
    let groups = reader.groups()?;
    assert_eq!(groups.len(), usize::from(counted > 0));
    for group in groups {
        let summary = String::from_utf8(group.summary).unwrap();
        assert_eq!((group.sequences, group.tokens, summary), (counted, counted * 2, counted.to_string()));
    }
    let statistics = store.statistics();
    let of = |state| model.rows.iter().filter(|row| row.state == state).count() as u64;
    let expected = [JobState::Queued, JobState::Running, JobState::Done, JobState::Failed].map(of);
    assert_eq!([statistics.queued, statistics.running, statistics.done, statistics.failed], expected);
    assert_eq!((statistics.sequences, statistics.token_rows), (counted, counted));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn the_store_does_what_a_model_in_memory_does(steps in proptest::collection::vec(step(), 1..40)) {
        let folder = Folder::new();
        let mut store = Some(folder.open());
        let mut model = Model::default();
        for step in &steps {
            apply(&folder, &mut store, &mut model, step);
        }
        compare(store.as_ref().unwrap(), &model).unwrap();
        assert_good(&folder.file());
        drop(store);
        assert_good(&folder.file());
    }
}
