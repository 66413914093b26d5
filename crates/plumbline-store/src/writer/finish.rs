//! The end of a verification, all at once.

use std::collections::HashSet;

use rusqlite::{Connection, OptionalExtension};

use super::intake::{bind, insert, known};
use super::jobs::{leave, pending};
use super::operation::Scope;
use crate::error::Failure;
use crate::statistics::Total;
use crate::time::to_millis;
use crate::{Completion, Digest, Existing, Finished, JobState, Known, NewSequence, StoreError, Target};

/// Where the sequences of a verification go.
struct Place {
    verification: i64,
    run: i64,
    group: i64,
    at: i64,
}

/// Stores the response and the sequences that nobody has counted yet, and marks the verification as done.
pub(crate) fn finish(scope: &mut Scope<'_>, completion: &Completion) -> Result<Finished, Failure> {
    if let Some(otherwise) = otherwise(scope.connection, &completion.target)? {
        return Ok(otherwise);
    }
    let new = new_digests(scope.connection, completion.sequences.iter().map(|sequence| &sequence.digest))?;
    if completion.assumed_new.as_ref().is_some_and(|assumed| *assumed != new) {
        return Ok(Finished::Differs { new });
    }
    let verification = match &completion.target {
        Target::Direct(direct) => insert(scope.connection, direct, JobState::Done)?,
        Target::Job(id) => {
            let gone = || StoreError::Damaged { what: "verification", reason: format!("{id} is gone") };
            let (number, state) = pending(scope.connection, id)?.ok_or_else(gone)?;
            leave(scope, number, state)?;
            number
        }
    };
    let at = to_millis(completion.at);
    let kept = count(scope, completion, &new, verification, at)?;
    let flags: Vec<u8> = new.iter().map(|new| u8::from(*new)).collect();
    scope
        .connection
        .prepare_cached(
            "UPDATE verifications SET state = 'done', new = ?2, kept = ?3, updated_at = ?4 WHERE number = ?1",
        )?
        .execute((verification, flags, kept, at))?;
    scope
        .connection
        .prepare_cached("INSERT INTO responses (verification, bytes) VALUES (?1, ?2)")?
        .execute((verification, &completion.response))?;
    scope.changes.add(Total::Done, 1);
    Ok(Finished::Done { new })
}

/// Why there is nothing to finish.
fn otherwise(connection: &Connection, target: &Target) -> rusqlite::Result<Option<Finished>> {
    match target {
        Target::Job(id) => {
            let state: Option<JobState> = connection
                .prepare_cached("SELECT state FROM verifications WHERE id = ?1")?
                .query_row([id], |row| row.get(0))
                .optional()?;
            Ok(match state {
                None => Some(Finished::Missing),
                Some(JobState::Queued | JobState::Running) => None,
                Some(state) => Some(Finished::Known(Existing { id: id.clone(), state })),
            })
        }
        Target::Direct(direct) => {
            let key = direct.idempotency_key.as_deref();
            Ok(match known(connection, &direct.digest, key)? {
                Known::New => None,
                Known::KeyReused { verification } => Some(Finished::KeyReused { verification }),
                Known::Known(existing) => {
                    bind(connection, key, &direct.digest, &existing.id)?;
                    Some(Finished::Known(existing))
                }
            })
        }
    }
}

/// Which digests nobody has counted; of equal ones the first.
pub(crate) fn new_digests<'a>(
    connection: &Connection,
    digests: impl Iterator<Item = &'a Digest>,
) -> rusqlite::Result<Vec<bool>> {
    let mut statement = connection.prepare_cached("SELECT 1 FROM counted WHERE digest = ?1")?;
    let mut seen = HashSet::new();
    digests.map(|digest| Ok(seen.insert(digest) && !statement.exists([digest])?)).collect()
}

/// Stores the new ones of the sequences and adds them to their group. Returns how many there are.
fn count(
    scope: &mut Scope<'_>,
    completion: &Completion,
    new: &[bool],
    verification: i64,
    at: i64,
) -> Result<u64, Failure> {
    let counted: Vec<(usize, &NewSequence)> =
        completion.sequences.iter().enumerate().filter(|(place, _)| new.get(*place) == Some(&true)).collect();
    if counted.is_empty() {
        return Ok(0);
    }
    let (run, group) = add_to_group(scope, &counted, verification, at)?;
    let place = Place { verification, run, group, at };
    for (position, sequence) in &counted {
        insert_sequence(scope, sequence, *position, &place)?;
    }
    Ok(counted.len() as u64)
}

fn add_to_group(
    scope: &mut Scope<'_>,
    counted: &[(usize, &NewSequence)],
    verification: i64,
    at: i64,
) -> Result<(i64, i64), Failure> {
    let connection = scope.connection;
    let (run_name, engine): (String, String) = connection
        .prepare_cached("SELECT run, engine FROM verifications WHERE number = ?1")?
        .query_row([verification], |row| Ok((row.get(0)?, row.get(1)?)))?;
    connection
        .prepare_cached("INSERT INTO runs (name) VALUES (?1) ON CONFLICT (name) DO NOTHING")?
        .execute([&run_name])?;
    let run: i64 = connection
        .prepare_cached("SELECT number FROM runs WHERE name = ?1")?
        .query_row([&run_name], |row| row.get(0))?;

    let current: Option<Vec<u8>> = connection
        .prepare_cached("SELECT summary FROM groups WHERE run = ?1 AND engine = ?2")?
        .query_row((run, &engine), |row| row.get(0))
        .optional()?;
    let added: Vec<&[u8]> = counted.iter().map(|(_, sequence)| sequence.contribution.as_slice()).collect();
    let summary = scope.summaries.merge(current.as_deref(), &added).map_err(StoreError::Summary)?;
    if current.is_none() {
        scope.changes.add(Total::Groups, 1);
    }
    let tokens: u64 = counted.iter().map(|(_, sequence)| u64::from(sequence.compared)).sum();
    let sql = "INSERT INTO groups (run, engine, sequences, tokens, first_at, last_at, summary) VALUES (?1, ?2, ?3, ?4, ?5, ?5, ?6)
               ON CONFLICT (run, engine) DO UPDATE SET sequences = sequences + ?3, tokens = tokens + ?4, last_at = ?5, summary = ?6
               RETURNING number";
    let group = connection
        .prepare_cached(sql)?
        .query_row((run, &engine, counted.len() as u64, tokens, at, summary), |row| row.get(0))?;
    Ok((run, group))
}

fn insert_sequence(
    scope: &mut Scope<'_>,
    sequence: &NewSequence,
    position: usize,
    place: &Place,
) -> Result<(), Failure> {
    let connection = scope.connection;
    let number = connection
        .prepare_cached("INSERT INTO counted (digest, at) VALUES (?1, ?2)")?
        .insert((&sequence.digest, place.at))?;
    let sql =
        "INSERT INTO sequences (number, id, verification, position, run, \"group\", at, tokens, compared, kl_k3, mae,
                   sequence_id, worker, policy_version, verdict, verdict_reason, observation)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)";
    connection.prepare_cached(sql)?.execute(rusqlite::params![
        number,
        sequence.id,
        place.verification,
        position as u64,
        place.run,
        place.group,
        place.at,
        sequence.tokens,
        sequence.compared,
        sequence.kl_k3,
        sequence.mae,
        sequence.sequence_id,
        sequence.worker,
        sequence.policy_version,
        sequence.verdict,
        sequence.verdict_reason,
        sequence.observation,
    ])?;
    scope.changes.add(Total::Sequences, 1);
    if let Some(tokens) = &sequence.token_rows {
        connection.prepare_cached("INSERT INTO tokens (sequence, bytes) VALUES (?1, ?2)")?.execute((number, tokens))?;
        scope.changes.add(Total::TokenRows, 1);
    }
    Ok(())
}
