//! Verifications and retries.

use rusqlite::{OptionalExtension, Row};

use super::Reader;
use crate::time::from_millis;
use crate::writer::{known, new_digests};
use crate::{Digest, Job, JobState, Known, StoreError, VerificationRow};

impl Reader {
    /// Whether a request is a retry. Its key decides; where that is unknown, or its verification failed, its content does.
    ///
    /// # Errors
    /// [`StoreError`] if the file cannot be read.
    pub fn lookup(&self, digest: &Digest, idempotency_key: Option<&str>) -> Result<Known, StoreError> {
        self.read(|connection| Ok(known(connection, digest, idempotency_key)?))
    }

    /// Which digests nobody has counted; of equal ones the first.
    ///
    /// # Errors
    /// [`StoreError`] if the file cannot be read.
    pub fn new_digests(&self, digests: &[Digest]) -> Result<Vec<bool>, StoreError> {
        self.read(|connection| Ok(new_digests(connection, digests.iter())?))
    }

    /// Queued verifications behind a number, in the order of acceptance.
    ///
    /// # Errors
    /// [`StoreError`] if the file cannot be read.
    pub fn jobs(&self, after: u64, limit: usize) -> Result<Vec<Job>, StoreError> {
        // Written as the index has it, which has pending ones only.
        let sql =
            "SELECT v.number, v.id, v.run, v.engine, v.class, v.attempts, v.created_at, coalesce(length(r.bytes), 0)
                   FROM verifications v LEFT JOIN requests r ON r.verification = v.number
                   WHERE v.state IN ('queued', 'running') AND v.state = 'queued' AND v.number > ?1
                   ORDER BY v.number LIMIT ?2";
        self.read(|connection| {
            let mut statement = connection.prepare_cached(sql)?;
            let jobs = statement.query_map((after, limit), |row| {
                Ok(Job {
                    number: row.get(0)?,
                    id: row.get(1)?,
                    run: row.get(2)?,
                    engine: row.get(3)?,
                    class: row.get(4)?,
                    attempts: row.get(5)?,
                    created_at: from_millis(row.get(6)?),
                    request_bytes: row.get(7)?,
                })
            })?;
            Ok(jobs.collect::<Result<_, _>>()?)
        })
    }

    /// A verification by its id.
    ///
    /// # Errors
    /// [`StoreError`] if the file cannot be read.
    pub fn verification(&self, id: &str) -> Result<Option<VerificationRow>, StoreError> {
        let sql = "SELECT v.number, v.id, v.run, v.engine, v.class, v.state, v.attempts, v.created_at, v.updated_at, r.bytes,
                   v.problem, v.new FROM verifications v LEFT JOIN responses r ON r.verification = v.number WHERE v.id = ?1";
        self.read(|connection| Ok(connection.prepare_cached(sql)?.query_row([id], verification_row).optional()?))
    }
}

fn verification_row(row: &Row<'_>) -> rusqlite::Result<VerificationRow> {
    let state: JobState = row.get(5)?;
    let flags: Option<Vec<u8>> = row.get(11)?;
    Ok(VerificationRow {
        number: row.get(0)?,
        id: row.get(1)?,
        run: row.get(2)?,
        engine: row.get(3)?,
        class: row.get(4)?,
        state,
        attempts: row.get(6)?,
        created_at: from_millis(row.get(7)?),
        updated_at: from_millis(row.get(8)?),
        response: row.get(9)?,
        problem: row.get(10)?,
        new: flags.unwrap_or_default().into_iter().map(|flag| flag != 0).collect(),
    })
}
