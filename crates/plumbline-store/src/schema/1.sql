-- Times are milliseconds since 1970. Numbers grow in the order of arrival. Blobs are compressed unless said otherwise.

-- The bodies lie in tables of their own, so that retention can take them and rows stay short.
CREATE TABLE verifications (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL CHECK (state IN ('queued', 'running', 'done', 'failed')),
    run TEXT NOT NULL,
    engine TEXT NOT NULL,
    class TEXT NOT NULL CHECK (class IN ('interactive', 'bulk')),
    -- Of the request's content; null once this is no longer what a retry is answered with.
    digest BLOB,
    attempts INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    -- Why it failed, plain.
    problem BLOB,
    -- Done: a byte for each sequence, 1 = it was counted.
    new BLOB,
    -- Rows of its counted sequences that are still there.
    kept INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX verifications_pending ON verifications (number) WHERE state IN ('queued', 'running');
CREATE UNIQUE INDEX verifications_content ON verifications (digest) WHERE digest IS NOT NULL;

CREATE TABLE requests (
    verification INTEGER PRIMARY KEY REFERENCES verifications (number),
    bytes BLOB NOT NULL
) STRICT;

CREATE TABLE responses (
    verification INTEGER PRIMARY KEY REFERENCES verifications (number),
    bytes BLOB NOT NULL
) STRICT;

CREATE TABLE idempotency (
    key TEXT PRIMARY KEY,
    digest BLOB NOT NULL,
    verification INTEGER NOT NULL REFERENCES verifications (number)
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_verification ON idempotency (verification);

-- Contents of sequences that were counted. Outlives the sequence's row.
CREATE TABLE counted (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    digest BLOB NOT NULL UNIQUE,
    at INTEGER NOT NULL
) STRICT;

CREATE TABLE runs (
    number INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
) STRICT;

CREATE TABLE groups (
    number INTEGER PRIMARY KEY,
    run INTEGER NOT NULL REFERENCES runs (number),
    engine TEXT NOT NULL,
    sequences INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    removed INTEGER NOT NULL DEFAULT 0,
    first_at INTEGER NOT NULL,
    last_at INTEGER NOT NULL,
    -- As the server's merge made it, plain.
    summary BLOB NOT NULL,
    UNIQUE (run, engine)
) STRICT;

CREATE TABLE sequences (
    number INTEGER PRIMARY KEY REFERENCES counted (number),
    id TEXT NOT NULL UNIQUE,
    verification INTEGER NOT NULL REFERENCES verifications (number),
    position INTEGER NOT NULL,
    run INTEGER NOT NULL REFERENCES runs (number),
    "group" INTEGER NOT NULL REFERENCES groups (number),
    at INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    compared INTEGER NOT NULL,
    kl_k3 REAL,
    mae REAL,
    sequence_id TEXT NOT NULL,
    worker TEXT,
    policy_version TEXT,
    verdict TEXT NOT NULL,
    verdict_reason TEXT NOT NULL,
    observation BLOB NOT NULL
) STRICT;
CREATE INDEX sequences_verification ON sequences (verification);
CREATE INDEX sequences_time ON sequences (run, number);
CREATE INDEX sequences_kl_k3 ON sequences (run, kl_k3, number);
CREATE INDEX sequences_mae ON sequences (run, mae, number);
CREATE INDEX sequences_length ON sequences (run, tokens, number);

CREATE TABLE tokens (
    sequence INTEGER PRIMARY KEY REFERENCES sequences (number),
    bytes BLOB NOT NULL
) STRICT;

-- Numbers of rows, kept up to date by every transaction: counting them would read the whole file.
CREATE TABLE totals (
    name TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
