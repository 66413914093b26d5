//! Sequences and groups.

use std::ops::ControlFlow;

use rusqlite::{Connection, OptionalExtension, Row};

use super::Reader;
use crate::time::{from_millis, to_millis};
use crate::{Filter, GroupRow, SequenceRow, Sort, StoreError, TokenRows};

/// Sequences that are read at a time where all are read: no reader holds the write-ahead log for long.
const PAGE: usize = 256;

/// What [`sequence_row`] reads, of `sequences s`, `verifications v`, `runs r` and `groups g`.
const SEQUENCE_COLUMNS: &str =
    "s.number, s.id, v.id, s.position, r.name, g.engine, s.sequence_id, s.worker, s.policy_version, s.at, s.verdict,
     s.verdict_reason, s.tokens, s.compared, s.kl_k3, s.mae, s.observation
     FROM sequences s JOIN verifications v ON v.number = s.verification JOIN runs r ON r.number = s.run
     JOIN groups g ON g.number = s.\"group\"";

fn sequence_row(row: &Row<'_>) -> rusqlite::Result<SequenceRow> {
    Ok(SequenceRow {
        number: row.get(0)?,
        id: row.get(1)?,
        verification: row.get(2)?,
        position: row.get(3)?,
        run: row.get(4)?,
        engine: row.get(5)?,
        sequence_id: row.get(6)?,
        worker: row.get(7)?,
        policy_version: row.get(8)?,
        at: from_millis(row.get(9)?),
        verdict: row.get(10)?,
        verdict_reason: row.get(11)?,
        tokens: row.get(12)?,
        compared: row.get(13)?,
        kl_k3: row.get(14)?,
        mae: row.get(15)?,
        observation: row.get(16)?,
    })
}

impl Reader {
    /// Sequences of a run, sorted. What is undefined is below everything; ties are by arrival.
    ///
    /// # Errors
    /// [`StoreError`] if the file cannot be read.
    pub fn sequences(
        &self,
        run: &str,
        sort: Sort,
        descending: bool,
        limit: usize,
    ) -> Result<Vec<SequenceRow>, StoreError> {
        let direction = if descending { "DESC" } else { "ASC" };
        let order = match sort {
            Sort::KlK3 => format!("s.kl_k3 {direction}, s.number {direction}"),
            Sort::Mae => format!("s.mae {direction}, s.number {direction}"),
            Sort::Length => format!("s.tokens {direction}, s.number {direction}"),
            Sort::Time => format!("s.number {direction}"),
        };
        let sql = format!("SELECT {SEQUENCE_COLUMNS} WHERE s.run = ?1 ORDER BY {order} LIMIT ?2");
        self.read(|connection| {
            let Some(run) = run_number(connection, run)? else { return Ok(Vec::new()) };
            let mut statement = connection.prepare_cached(&sql)?;
            let rows = statement.query_map((run, limit), sequence_row)?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }

    /// A sequence by the server's id.
    ///
    /// # Errors
    /// [`StoreError`] if the file cannot be read.
    pub fn sequence(&self, id: &str) -> Result<Option<SequenceRow>, StoreError> {
        let sql = format!("SELECT {SEQUENCE_COLUMNS} WHERE s.id = ?1");
        self.read(|connection| Ok(connection.prepare_cached(&sql)?.query_row([id], sequence_row).optional()?))
    }

    /// The tokens of a sequence by its number; `None` if they are no longer kept, or never were.
    ///
    /// # Errors
    /// [`StoreError`] if the file cannot be read.
    pub fn token_rows(&self, number: u64) -> Result<Option<TokenRows>, StoreError> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached("SELECT bytes FROM tokens WHERE sequence = ?1")?;
            Ok(statement.query_row([number], |row| row.get(0)).optional()?)
        })
    }

    /// Hands over sequences in the order of their arrival until it is told to stop. What arrives meanwhile may be among them.
    ///
    /// # Errors
    /// [`StoreError`] if the file cannot be read.
    pub fn each_sequence(
        &self,
        filter: &Filter,
        each: &mut dyn FnMut(SequenceRow) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let mut run = None;
        if let Some(name) = &filter.run {
            run = self.read(|connection| Ok(run_number(connection, name)?))?;
            if run.is_none() {
                return Ok(());
            }
        }
        let mut after = self.read(|connection| Ok(before_first(connection, run, filter)?))?;
        let of_run = if run.is_some() { "s.run = ?3" } else { "?3 IS NULL" };
        let sql = format!("SELECT {SEQUENCE_COLUMNS} WHERE s.number > ?1 AND {of_run} ORDER BY s.number LIMIT ?2");
        loop {
            let page: Vec<SequenceRow> = self.read(|connection| {
                let mut statement = connection.prepare_cached(&sql)?;
                let rows = statement.query_map((after, PAGE, run), sequence_row)?;
                Ok(rows.collect::<Result<_, _>>()?)
            })?;
            let Some(last) = page.last() else { return Ok(()) };
            after = last.number;
            for row in page {
                if each(row).is_break() {
                    return Ok(());
                }
            }
        }
    }

    /// Every run and engine of which something was ever counted, by name.
    ///
    /// # Errors
    /// [`StoreError`] if the file cannot be read.
    pub fn groups(&self) -> Result<Vec<GroupRow>, StoreError> {
        self.groups_where(None)
    }

    /// The engines of one run, by name.
    ///
    /// # Errors
    /// [`StoreError`] if the file cannot be read.
    pub fn groups_of(&self, run: &str) -> Result<Vec<GroupRow>, StoreError> {
        self.groups_where(Some(run))
    }

    fn groups_where(&self, run: Option<&str>) -> Result<Vec<GroupRow>, StoreError> {
        let sql = "SELECT r.name, g.engine, g.sequences, g.tokens, g.removed, g.first_at, g.last_at, g.summary
                   FROM groups g JOIN runs r ON r.number = g.run WHERE ?1 IS NULL OR r.name = ?1 ORDER BY r.name, g.engine";
        self.read(|connection| {
            let mut statement = connection.prepare_cached(sql)?;
            let rows = statement.query_map([run], |row| {
                Ok(GroupRow {
                    run: row.get(0)?,
                    engine: row.get(1)?,
                    sequences: row.get(2)?,
                    tokens: row.get(3)?,
                    removed_sequences: row.get(4)?,
                    first_at: from_millis(row.get(5)?),
                    last_at: from_millis(row.get(6)?),
                    summary: row.get(7)?,
                })
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }
}

fn run_number(connection: &Connection, name: &str) -> rusqlite::Result<Option<i64>> {
    connection.prepare_cached("SELECT number FROM runs WHERE name = ?1")?.query_row([name], |row| row.get(0)).optional()
}

/// The number behind which a filter's sequences begin.
fn before_first(connection: &Connection, run: Option<i64>, filter: &Filter) -> rusqlite::Result<u64> {
    let of_run = if run.is_some() { "run = ?1" } else { "?1 IS NULL" };
    let mut after = 0;
    if let Some(last) = filter.last {
        let sql = format!("SELECT number FROM sequences WHERE {of_run} ORDER BY number DESC LIMIT 1 OFFSET ?2");
        after = connection.prepare_cached(&sql)?.query_row((run, last), |row| row.get(0)).optional()?.unwrap_or(0);
    }
    if let Some(since) = filter.since.map(to_millis) {
        // Backwards from the latest: what is looked for is near the end, and times have no index.
        let sql = format!("SELECT number, at FROM sequences WHERE {of_run} ORDER BY number DESC");
        let mut statement = connection.prepare_cached(&sql)?;
        let mut rows = statement.query([run])?;
        while let Some(row) = rows.next()? {
            let number = row.get(0)?;
            if number <= after {
                break;
            }
            if row.get::<_, i64>(1)? < since {
                after = number;
                break;
            }
        }
    }
    Ok(after)
}
