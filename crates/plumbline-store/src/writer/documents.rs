//! Small documents of the server's parts.

use std::time::SystemTime;

use super::operation::Scope;
use crate::error::Failure;
use crate::time::to_millis;

/// Puts a document in the place of the one that had its name.
pub(crate) fn keep(scope: &mut Scope<'_>, name: &str, bytes: &[u8]) -> Result<(), Failure> {
    let sql = "INSERT INTO documents (name, bytes, at) VALUES (?1, ?2, ?3)
               ON CONFLICT (name) DO UPDATE SET bytes = excluded.bytes, at = excluded.at";
    scope.connection.prepare_cached(sql)?.execute((name, bytes, to_millis(SystemTime::now())))?;
    Ok(())
}
