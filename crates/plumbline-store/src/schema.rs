//! The file's layout, and how a connection to it is set up.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use crate::error::Failure;
use crate::{Retention, StoreError};

/// "PLUM": tells the file from other SQLite databases.
const APPLICATION_ID: i32 = 0x504c_554d;
/// How long to wait for another process that writes.
const BUSY: Duration = Duration::from_secs(5);
/// Pages in the write-ahead log after which they are moved to the file, and bytes of the log that stay on the disk then.
const CHECKPOINT_PAGES: u32 = 4096;
const LOG_BYTES: u64 = 64 << 20;

/// Moves the write-ahead log to the file and empties it.
pub(crate) const MOVE_LOG: &str = "PRAGMA wal_checkpoint(TRUNCATE)";

/// Each brings the file one schema further. Never changed once released, only added to.
const MIGRATIONS: [&str; 2] = [include_str!("schema/1.sql"), include_str!("schema/2.sql")];

/// The newest schema that is known.
pub(crate) const NEWEST: i64 = MIGRATIONS.len() as i64;

/// The connection that writes: makes the file or brings it up to date. Its lock is the caller's affair.
pub(crate) fn open_writer(path: &Path, retention: &Retention) -> Result<Connection, StoreError> {
    let mut connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
    prepare(&mut connection, path, retention).map_err(|failure| failure.at(path))?;
    Ok(connection)
}

/// A connection that only reads.
pub(crate) fn open_reader(path: &Path) -> Result<Connection, StoreError> {
    // Of a database with a write-ahead log even a reader has to write the index of the log.
    let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE).or_else(|error| match error {
        StoreError::ReadOnly { .. } | StoreError::Io { .. } => connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY),
        other => Err(other),
    })?;
    connection.pragma_update(None, "query_only", true).map_err(|error| StoreError::of_sqlite(&error, path))?;
    Ok(connection)
}

/// The schema of a file that must be there and be one of ours.
pub(crate) fn version_of(connection: &Connection, path: &Path) -> Result<i64, StoreError> {
    let pragma = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let read = || Ok((pragma("application_id")?, pragma("user_version")?));
    let (application, found) = read().map_err(|error: rusqlite::Error| StoreError::of_sqlite(&error, path))?;
    if application != i64::from(APPLICATION_ID) {
        return Err(StoreError::Foreign { path: path.to_owned() });
    }
    if found > NEWEST {
        return Err(StoreError::Newer { path: path.to_owned(), found, supported: NEWEST });
    }
    Ok(found)
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, StoreError> {
    let open = || {
        let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        connection.busy_timeout(BUSY)?;
        connection.set_prepared_statement_cache_capacity(128);
        // Damage is noticed where it is read, before it does more of it.
        connection.pragma_update(None, "cell_size_check", true)?;
        connection.pragma_update(None, "trusted_schema", false)?;
        // The first access to the file.
        connection.pragma_query_value(None, "schema_version", |_| Ok(()))?;
        Ok(connection)
    };
    open().map_err(|error| StoreError::of_sqlite(&error, path))
}

fn prepare(connection: &mut Connection, path: &Path, retention: &Retention) -> Result<(), Failure> {
    let empty = connection.pragma_query_value(None, "page_count", |row| row.get::<_, i64>(0))? == 0;
    if empty {
        // Has to come before the first table.
        connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
        connection.pragma_update(None, "application_id", APPLICATION_ID)?;
    }
    let found = version_of(connection, path)?;
    let mode: String = connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    if mode != "wal" {
        let reason = format!("its folder cannot hold a write-ahead log (journal mode {mode})");
        return Err(StoreError::Io { path: path.to_owned(), reason }.into());
    }
    connection.pragma_update(None, "synchronous", "FULL")?;
    // Where a plain sync leaves data in the disk's cache (macOS); nothing elsewhere.
    connection.pragma_update(None, "fullfsync", true)?;
    connection.pragma_update(None, "checkpoint_fullfsync", true)?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    connection.pragma_update_and_check(None, "journal_size_limit", LOG_BYTES, |_| Ok(()))?;
    connection.pragma_update(None, "foreign_keys", true)?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for (migration, version) in MIGRATIONS.iter().zip(1..).skip(usize::try_from(found).unwrap_or(0)) {
        transaction.execute_batch(migration)?;
        transaction.pragma_update(None, "user_version", version)?;
    }
    transaction.commit()?;
    limit_size(connection, retention)?;
    Ok(())
}

/// Has SQLite itself refuse to grow the file beyond what it may have. A file that is larger already stays as large as it is.
pub(crate) fn limit_size(connection: &Connection, retention: &Retention) -> rusqlite::Result<()> {
    let Some(bytes) = retention.max_bytes else { return Ok(()) };
    let page: i64 = connection.pragma_query_value(None, "page_size", |row| row.get(0))?;
    let pages = i64::try_from(bytes).unwrap_or(i64::MAX) / page.max(1);
    connection.pragma_update_and_check(None, "max_page_count", pages.max(1), |_| Ok(()))
}
