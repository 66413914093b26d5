//! Sequences that are kept: in the store, or in memory where there is none.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use plumbline_divergence::GroupKey;
use plumbline_store::{Filter, Reader, SequenceRow, Sort, Store};

use super::rows::{RowError, each_row, stored_sequence};
use super::{read, unavailable};
use crate::problem::{Code, Problem};
use crate::sequences::{SortKey, StoredSequence};
use crate::state::AppState;

/// The latest sequences of a run that a report looks at, token by token,
const REPORTED: u64 = 8192;
/// and its worst and longest, of each.
const REPORTED_EXTREMES: usize = 48;

/// The store for the sequences of a run. Those of `other` come from runs beyond the limit: only the memory knows them together.
fn store_of<'a>(state: &'a AppState, run: &str) -> Option<&'a Arc<Store>> {
    state.ledger.store().filter(|_| run != GroupKey::OTHER)
}

/// Sequences of a run, sorted; without their tokens if they come from the store.
///
/// # Errors
/// 503 while the store cannot be read, 500 if it is damaged.
pub(crate) async fn list(
    state: &AppState,
    run: &str,
    key: SortKey,
    descending: bool,
    limit: usize,
) -> Result<Vec<Arc<StoredSequence>>, Problem> {
    let Some(store) = store_of(state, run) else { return Ok(state.sequences.list(run, key, descending, limit)) };
    let run = run.to_owned();
    let rows = read(store, move |reader| {
        let rows = reader.sequences(&run, sort(key), descending, limit)?;
        rows.into_iter().map(|row| Ok(Arc::new(stored_sequence(row, None)?))).collect()
    });
    rows.await.map_err(|error: RowError| problem(&error))
}

/// A sequence by the server's id, with its tokens where they are kept; `None` if it never was or is no longer kept.
///
/// # Errors
/// As [`list`].
pub(crate) async fn get(state: &AppState, id: &str) -> Result<Option<Arc<StoredSequence>>, Problem> {
    if let Some(sequence) = state.sequences.get(id) {
        return Ok(Some(sequence));
    }
    let Some(store) = state.ledger.store() else { return Ok(None) };
    let id = id.to_owned();
    let found = read(store, move |reader| {
        let Some(row) = reader.sequence(&id)? else { return Ok(None) };
        whole(reader, row).map(|sequence| Some(Arc::new(sequence)))
    });
    found.await.map_err(|error: RowError| problem(&error))
}

/// Shows `each` the sequences of a run that a report looks at, oldest first: all in memory, or in the store the latest ones, and the
/// worst and longest before them. Blocks.
///
/// # Errors
/// As [`list`].
pub(crate) fn each_reported(state: &AppState, run: &str, mut each: impl FnMut(&StoredSequence)) -> Result<(), Problem> {
    let Some(store) = store_of(state, run) else {
        let sequences = state.sequences.list(run, SortKey::Time, false, usize::MAX);
        sequences.iter().for_each(|sequence| each(sequence));
        return Ok(());
    };
    each_in_store(store.reader(), run, &mut each).map_err(|error| problem(&error))
}

/// Shows `each` all sequences of a run that are kept, oldest first, up to the first for which it fails. Blocks.
///
/// # Errors
/// As `each`, or as [`list`].
pub(crate) fn each_kept<E: From<RowError>>(
    state: &AppState,
    run: &str,
    mut each: impl FnMut(&StoredSequence) -> Result<(), E>,
) -> Result<(), E> {
    let Some(store) = store_of(state, run) else {
        return state
            .sequences
            .list(run, SortKey::Time, false, usize::MAX)
            .iter()
            .try_for_each(|sequence| each(sequence));
    };
    let reader = store.reader();
    let filter = Filter { run: Some(run.to_owned()), ..Filter::default() };
    each_row(reader, &filter, |row| each(&whole(reader, row)?))
}

fn each_in_store(reader: &Reader, run: &str, each: &mut dyn FnMut(&StoredSequence)) -> Result<(), RowError> {
    let mut latest: Option<u64> = None;
    let filter = Filter { run: Some(run.to_owned()), since: None, last: Some(REPORTED) };
    reader.each_sequence(&filter, &mut |row| {
        latest = Some(row.number);
        ControlFlow::Break(())
    })?;
    let mut extremes = Vec::new();
    for key in [Sort::KlK3, Sort::Mae, Sort::Length] {
        extremes.extend(reader.sequences(run, key, true, REPORTED_EXTREMES)?);
    }
    extremes.sort_by_key(|row| row.number);
    let mut seen = HashSet::new();
    for row in extremes {
        if latest.is_some_and(|latest| row.number < latest) && seen.insert(row.number) {
            each(&whole(reader, row)?);
        }
    }
    each_row(reader, &filter, |row| {
        each(&whole(reader, row)?);
        Ok(())
    })
}

fn whole(reader: &Reader, row: SequenceRow) -> Result<StoredSequence, RowError> {
    let rows = reader.token_rows(row.number)?;
    let tokens = rows.map(|rows| rows.open()).transpose()?;
    stored_sequence(row, tokens)
}

fn sort(key: SortKey) -> Sort {
    match key {
        SortKey::KlK3 => Sort::KlK3,
        SortKey::Mae => Sort::Mae,
        SortKey::Length => Sort::Length,
        SortKey::Time => Sort::Time,
    }
}

/// 503 while the store cannot be read, 500 for what this version cannot read in it.
pub(crate) fn problem(error: &RowError) -> Problem {
    match error {
        RowError::Store(error) => unavailable(error),
        damaged => {
            Problem::internal(Code::Internal, "the store holds what cannot be read; see the server's log", damaged)
        }
    }
}
