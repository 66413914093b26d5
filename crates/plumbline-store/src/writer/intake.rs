//! Taking work in, and telling retries.

use rusqlite::{Connection, OptionalExtension};

use super::operation::Scope;
use crate::error::Failure;
use crate::statistics::Total;
use crate::time::to_millis;
use crate::{Digest, Existing, JobState, Known, NewVerification, Packed, StoreError, Submitted};

/// Whether a request is a retry. Its key decides; where that is unknown, or its verification failed, its content does.
pub(crate) fn known(connection: &Connection, digest: &Digest, key: Option<&str>) -> rusqlite::Result<Known> {
    if let Some(key) = key {
        let sql = "SELECT i.digest, v.id, v.state FROM idempotency i JOIN verifications v ON v.number = i.verification
                   WHERE i.key = ?1";
        let owner = connection
            .prepare_cached(sql)?
            .query_row([key], |row| Ok((row.get::<_, Digest>(0)?, row.get::<_, String>(1)?, row.get(2)?)))
            .optional()?;
        match owner {
            Some((other, verification, _)) if other != *digest => return Ok(Known::KeyReused { verification }),
            // What failed may be tried again.
            Some((_, _, JobState::Failed)) | None => {}
            Some((_, id, state)) => return Ok(Known::Known(Existing { id, state })),
        }
    }
    let existing = connection
        .prepare_cached("SELECT id, state FROM verifications WHERE digest = ?1")?
        .query_row([digest], |row| Ok(Existing { id: row.get(0)?, state: row.get(1)? }))
        .optional()?;
    Ok(existing.map_or(Known::New, Known::Known))
}

/// Gives a key to a verification that has the key's content.
pub(super) fn bind(connection: &Connection, key: Option<&str>, digest: &Digest, id: &str) -> rusqlite::Result<()> {
    let Some(key) = key else { return Ok(()) };
    let sql = "INSERT INTO idempotency (key, digest, verification)
               VALUES (?1, ?2, (SELECT number FROM verifications WHERE id = ?3))
               ON CONFLICT (key) DO UPDATE SET digest = excluded.digest, verification = excluded.verification";
    connection.prepare_cached(sql)?.execute((key, digest, id)).map(|_| ())
}

/// Makes the row of a verification and gives it its key.
pub(super) fn insert(connection: &Connection, new: &NewVerification, state: JobState) -> rusqlite::Result<i64> {
    let NewVerification { id, run, engine, class, at, digest, idempotency_key } = new;
    let sql = "INSERT INTO verifications (id, state, run, engine, class, digest, created_at, updated_at)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7)";
    let at = to_millis(*at);
    let number = connection.prepare_cached(sql)?.insert((id, state, run, engine, class, digest, at))?;
    bind(connection, idempotency_key.as_deref(), digest, id)?;
    Ok(number)
}

/// Queues a verification, if it is no retry.
pub(crate) fn submit(scope: &mut Scope<'_>, new: &NewVerification, request: &Packed) -> Result<Submitted, Failure> {
    let key = new.idempotency_key.as_deref();
    match known(scope.connection, &new.digest, key)? {
        Known::KeyReused { verification } => return Ok(Submitted::KeyReused { verification }),
        Known::Known(existing) => {
            bind(scope.connection, key, &new.digest, &existing.id)?;
            return Ok(Submitted::Known(existing));
        }
        Known::New => {}
    }
    if let Some(max_bytes) = scope.limit {
        return Err(StoreError::AtLimit { path: scope.path.to_owned(), max_bytes }.into());
    }
    let number = insert(scope.connection, new, JobState::Queued)?;
    scope
        .connection
        .prepare_cached("INSERT INTO requests (verification, bytes) VALUES (?1, ?2)")?
        .execute((number, request))?;
    scope.changes.add(Total::Queued, 1);
    Ok(Submitted::Accepted)
}
