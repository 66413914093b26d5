//! Queued work on its way.

use std::time::SystemTime;

use rusqlite::{Connection, OptionalExtension};

use super::operation::Scope;
use crate::error::Failure;
use crate::statistics::{Changes, Total};
use crate::time::to_millis;
use crate::{JobState, Started, StoreError};

/// After a restart nothing runs: what did is queued again.
pub(crate) fn recover(connection: &mut Connection) -> rusqlite::Result<usize> {
    let transaction = connection.transaction()?;
    // Written as the index of pending ones has it.
    let sql = "UPDATE verifications SET state = 'queued' WHERE state IN ('queued', 'running') AND state = 'running'";
    let recovered = transaction.execute(sql, ())?;
    let mut changes = Changes::default();
    let by = i64::try_from(recovered).unwrap_or(i64::MAX);
    changes.add(Total::Running, -by);
    changes.add(Total::Queued, by);
    changes.store(&transaction)?;
    transaction.commit()?;
    Ok(recovered)
}

/// Begins a queued verification.
pub(crate) fn start(scope: &mut Scope<'_>, id: &str) -> Result<Option<Started>, Failure> {
    let sql = "UPDATE verifications SET state = 'running', attempts = attempts + 1, updated_at = ?2
               WHERE id = ?1 AND state = 'queued' RETURNING number, attempts";
    let begun = scope
        .connection
        .prepare_cached(sql)?
        .query_row((id, to_millis(SystemTime::now())), |row| Ok((row.get::<_, i64>(0)?, row.get(1)?)))
        .optional()?;
    let Some((number, attempts)) = begun else { return Ok(None) };
    let request = scope
        .connection
        .prepare_cached("SELECT bytes FROM requests WHERE verification = ?1")?
        .query_row([number], |row| row.get(0))
        .optional()?;
    let missing = || StoreError::Damaged { what: "request", reason: format!("{id} has none") };
    let request = request.ok_or_else(missing)?;
    scope.changes.add(Total::Queued, -1);
    scope.changes.add(Total::Running, 1);
    Ok(Some(Started { attempts, request }))
}

/// Puts a running verification back, as if it had not been started.
pub(crate) fn requeue(scope: &mut Scope<'_>, id: &str) -> Result<bool, Failure> {
    let sql = "UPDATE verifications SET state = 'queued', attempts = attempts - 1, updated_at = ?2
               WHERE id = ?1 AND state = 'running'";
    let back = scope.connection.prepare_cached(sql)?.execute((id, to_millis(SystemTime::now())))? > 0;
    if back {
        scope.changes.add(Total::Running, -1);
        scope.changes.add(Total::Queued, 1);
    }
    Ok(back)
}

/// Ends a verification without a response.
pub(crate) fn fail(scope: &mut Scope<'_>, id: &str, problem: &[u8], at: SystemTime) -> Result<bool, Failure> {
    let Some((number, state)) = pending(scope.connection, id)? else { return Ok(false) };
    // Its content is free to be tried again.
    let sql =
        "UPDATE verifications SET state = 'failed', digest = NULL, problem = ?2, updated_at = ?3 WHERE number = ?1";
    scope.connection.prepare_cached(sql)?.execute((number, problem, to_millis(at)))?;
    leave(scope, number, state)?;
    scope.changes.add(Total::Failed, 1);
    Ok(true)
}

/// A verification that is not at its end.
pub(super) fn pending(connection: &Connection, id: &str) -> rusqlite::Result<Option<(i64, JobState)>> {
    connection
        .prepare_cached("SELECT number, state FROM verifications WHERE id = ?1 AND state IN ('queued', 'running')")?
        .query_row([id], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()
}

/// A pending verification comes to its end: its request is no longer needed.
pub(super) fn leave(scope: &mut Scope<'_>, number: i64, state: JobState) -> rusqlite::Result<()> {
    scope.connection.prepare_cached("DELETE FROM requests WHERE verification = ?1")?.execute([number])?;
    scope.changes.add(if state == JobState::Queued { Total::Queued } else { Total::Running }, -1);
    Ok(())
}
