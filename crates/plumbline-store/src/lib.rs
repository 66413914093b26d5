//! One SQLite file with everything that must outlive a restart: accepted work, results, idempotency, sequences and their tokens.
