//! Numbers about the store.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use rusqlite::Connection;

use crate::ErrorKind;

/// What the store holds and has done. Those from `commits` on count since it was opened and only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Bytes of its write-ahead log.
    pub wal_bytes: u64,
    /// Bytes of the file that hold something.
    pub content_bytes: u64,
    /// Verifications that wait.
    pub queued: u64,
    /// Verifications that are being scored.
    pub running: u64,
    /// Verifications that have their response, or had it.
    pub done: u64,
    /// Verifications that failed.
    pub failed: u64,
    /// Sequences that are kept one by one.
    pub sequences: u64,
    /// Those of them whose tokens are kept.
    pub token_rows: u64,
    /// Pairs of run and engine.
    pub groups: u64,
    /// Writes that wait for their commit.
    pub waiting_writes: u64,
    /// Transactions.
    pub commits: u64,
    /// Writes in these.
    pub writes: u64,
    /// Sequences that retention took.
    pub removed_sequences: u64,
    /// Sequences whose tokens retention took.
    pub removed_token_rows: u64,
    /// Responses that retention took.
    pub removed_responses: u64,
    /// Errors, parallel to [`ErrorKind::ALL`].
    pub errors: [u64; ErrorKind::ALL.len()],
}

/// Rows that are counted all the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Total {
    Queued,
    Running,
    Done,
    Failed,
    Sequences,
    TokenRows,
    Groups,
}

impl Total {
    pub(crate) const ALL: [Self; 7] =
        [Self::Queued, Self::Running, Self::Done, Self::Failed, Self::Sequences, Self::TokenRows, Self::Groups];

    /// Its name in the file.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Sequences => "sequences",
            Self::TokenRows => "token_rows",
            Self::Groups => "groups",
        }
    }
}

/// What a transaction changes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Changes {
    totals: [i64; Total::ALL.len()],
    pub(crate) removed_sequences: u64,
    pub(crate) removed_token_rows: u64,
    pub(crate) removed_responses: u64,
}

impl Changes {
    pub(crate) fn add(&mut self, total: Total, by: i64) {
        self.totals[total as usize] += by;
    }

    /// Writes the new totals, in the same transaction.
    pub(crate) fn store(&self, connection: &Connection) -> rusqlite::Result<()> {
        for total in Total::ALL {
            let by = self.totals[total as usize];
            if by != 0 {
                connection
                    .prepare_cached(
                        "INSERT INTO totals (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = value + ?2",
                    )?
                    .execute((total.as_str(), by))?;
            }
        }
        Ok(())
    }
}

/// The numbers, shared between the writer and those who ask.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    totals: [AtomicI64; Total::ALL.len()],
    pub(crate) content_bytes: AtomicU64,
    pub(crate) free_bytes: AtomicU64,
    pub(crate) waiting: AtomicU64,
    commits: AtomicU64,
    writes: AtomicU64,
    removed_sequences: AtomicU64,
    removed_token_rows: AtomicU64,
    removed_responses: AtomicU64,
}

impl Counters {
    /// Takes over what the file says.
    pub(crate) fn load(&self, connection: &Connection) -> rusqlite::Result<()> {
        let mut statement = connection.prepare("SELECT value FROM totals WHERE name = ?1")?;
        for total in Total::ALL {
            let mut rows = statement.query([total.as_str()])?;
            let value = rows.next()?.map_or(Ok(0), |row| row.get(0))?;
            self.totals[total as usize].store(value, Ordering::Relaxed);
        }
        self.measure(connection)
    }

    /// Looks at how full the file is.
    pub(crate) fn measure(&self, connection: &Connection) -> rusqlite::Result<()> {
        let pragma = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, u64>(0));
        let (page, free) = (pragma("page_size")?, pragma("freelist_count")?);
        self.content_bytes.store(pragma("page_count")?.saturating_sub(free) * page, Ordering::Relaxed);
        self.free_bytes.store(free * page, Ordering::Relaxed);
        Ok(())
    }

    /// A transaction was committed.
    pub(crate) fn committed(&self, changes: &Changes, writes: usize) {
        for (total, by) in self.totals.iter().zip(changes.totals) {
            total.fetch_add(by, Ordering::Relaxed);
        }
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.writes.fetch_add(writes as u64, Ordering::Relaxed);
        self.removed_sequences.fetch_add(changes.removed_sequences, Ordering::Relaxed);
        self.removed_token_rows.fetch_add(changes.removed_token_rows, Ordering::Relaxed);
        self.removed_responses.fetch_add(changes.removed_responses, Ordering::Relaxed);
    }

    pub(crate) fn statistics(&self) -> Statistics {
        let total = |total: Total| u64::try_from(self.totals[total as usize].load(Ordering::Relaxed)).unwrap_or(0);
        let number = |number: &AtomicU64| number.load(Ordering::Relaxed);
        Statistics {
            content_bytes: number(&self.content_bytes),
            queued: total(Total::Queued),
            running: total(Total::Running),
            done: total(Total::Done),
            failed: total(Total::Failed),
            sequences: total(Total::Sequences),
            token_rows: total(Total::TokenRows),
            groups: total(Total::Groups),
            waiting_writes: number(&self.waiting),
            commits: number(&self.commits),
            writes: number(&self.writes),
            removed_sequences: number(&self.removed_sequences),
            removed_token_rows: number(&self.removed_token_rows),
            removed_responses: number(&self.removed_responses),
            ..Statistics::default()
        }
    }
}
