-- Small documents of the server's parts that must outlive a restart, by name. Each is written as a whole; plain.
CREATE TABLE documents (
    name TEXT PRIMARY KEY,
    bytes BLOB NOT NULL,
    at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
