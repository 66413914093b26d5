//! Small documents of the server's parts.

use rusqlite::OptionalExtension;

use super::Reader;
use crate::StoreError;

impl Reader {
    /// The document of this name, as it was kept last.
    ///
    /// # Errors
    /// [`StoreError`] if the file cannot be read.
    pub fn document(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let sql = "SELECT bytes FROM documents WHERE name = ?1";
        self.read(|connection| Ok(connection.prepare_cached(sql)?.query_row([name], |row| row.get(0)).optional()?))
    }
}
