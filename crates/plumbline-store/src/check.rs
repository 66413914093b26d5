//! Is everything in a file as it must be?

use std::path::{Path, PathBuf};

use rusqlite::Connection;

use crate::error::Failure;
use crate::schema::{open_reader, version_of};
use crate::statistics::Total;
use crate::{Packed, StoreError, TokenRows};

/// Findings of one kind that are listed.
const LISTED: usize = 20;

/// What is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which rule is broken.
    pub check: &'static str,
    /// Where.
    pub detail: String,
}

/// The outcome of [`check`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckReport {
    /// The file.
    pub path: PathBuf,
    /// Its schema; `None` if it cannot even be read.
    pub schema: Option<i64>,
    /// Rows of each table.
    pub rows: Vec<(&'static str, u64)>,
    /// Everything that is wrong; of one kind the first 20.
    pub findings: Vec<Finding>,
}

impl CheckReport {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.findings.is_empty()
    }
}

const TABLES: [&str; 9] =
    ["verifications", "requests", "responses", "idempotency", "counted", "runs", "groups", "sequences", "tokens"];

/// Rules, and what selects the rows that break them.
const RULES: [(&str, &str); 12] = [
    (
        "pending work has its request",
        "SELECT id FROM verifications WHERE state IN ('queued', 'running') AND number NOT IN (SELECT verification FROM requests)",
    ),
    (
        "ended work has no request",
        "SELECT v.id FROM requests r JOIN verifications v ON v.number = r.verification WHERE v.state NOT IN ('queued', 'running')",
    ),
    (
        "only done work has a response",
        "SELECT v.id FROM responses r JOIN verifications v ON v.number = r.verification WHERE v.state <> 'done'",
    ),
    (
        "done work that answers retries has its response",
        "SELECT id FROM verifications WHERE state = 'done' AND digest IS NOT NULL AND number NOT IN (SELECT verification FROM responses)",
    ),
    ("failed work has its problem", "SELECT id FROM verifications WHERE state = 'failed' AND problem IS NULL"),
    ("pending work can be told from a retry", "SELECT id FROM verifications WHERE state IN ('queued', 'running') AND digest IS NULL"),
    ("done work says what it counted", "SELECT id FROM verifications WHERE state = 'done' AND new IS NULL"),
    (
        "a verification has the sequences that it says it has",
        "SELECT v.id FROM verifications v LEFT JOIN (SELECT verification, count(*) AS rows FROM sequences GROUP BY verification) s
         ON s.verification = v.number WHERE v.kept <> coalesce(s.rows, 0)",
    ),
    (
        "no verification has more sequences than it counted",
        "SELECT id FROM verifications WHERE kept > length(replace(hex(coalesce(new, x'')), '00', '')) / 2",
    ),
    (
        "a run and engine has as many sequences as were counted",
        "SELECT r.name || ', ' || g.engine FROM groups g JOIN runs r ON r.number = g.run
         LEFT JOIN (SELECT \"group\", count(*) AS rows FROM sequences GROUP BY \"group\") s ON s.\"group\" = g.number
         WHERE g.sequences <> g.removed + coalesce(s.rows, 0)",
    ),
    (
        "a sequence is of the run of its group",
        "SELECT s.id FROM sequences s JOIN groups g ON g.number = s.\"group\" WHERE g.run <> s.run",
    ),
    (
        "every counted sequence is in its group",
        "SELECT s.id FROM sequences s JOIN verifications v ON v.number = s.verification JOIN groups g ON g.number = s.\"group\"
         JOIN runs r ON r.number = g.run WHERE v.run <> r.name OR v.engine <> g.engine",
    ),
];

/// What each total must be.
const TOTALS: [(Total, &str); Total::ALL.len()] = [
    (Total::Queued, "SELECT count(*) FROM verifications WHERE state = 'queued'"),
    (Total::Running, "SELECT count(*) FROM verifications WHERE state = 'running'"),
    (Total::Done, "SELECT count(*) FROM verifications WHERE state = 'done'"),
    (Total::Failed, "SELECT count(*) FROM verifications WHERE state = 'failed'"),
    (Total::Sequences, "SELECT count(*) FROM sequences"),
    (Total::TokenRows, "SELECT count(*) FROM tokens"),
    (Total::Groups, "SELECT count(*) FROM groups"),
];

/// Looks at a whole file, which may be served meanwhile: SQLite's own check of its structure, references, the rules of this
/// crate, and whether everything that is stored can be opened.
///
/// # Errors
/// [`StoreError`] if the file cannot be looked at. Damage is no error but a finding.
pub fn check(path: &Path) -> Result<CheckReport, StoreError> {
    let mut report = CheckReport { path: path.to_owned(), schema: None, rows: Vec::new(), findings: Vec::new() };
    match look(path, &mut report) {
        Err(StoreError::Corrupt { reason, .. }) => {
            report.findings.push(Finding { check: "the file can be read", detail: reason });
        }
        other => other?,
    }
    Ok(report)
}

fn look(path: &Path, report: &mut CheckReport) -> Result<(), StoreError> {
    let connection = open_reader(path)?;
    report.schema = Some(version_of(&connection, path)?);
    let mut all = || -> Result<(), Failure> {
        // One state of the file for all questions.
        connection.execute_batch("BEGIN")?;
        add(report, "the file's structure is sound", &connection, "PRAGMA integrity_check(20)", "ok")?;
        add(report, "every reference has its target", &connection, "PRAGMA foreign_key_check", "")?;
        for table in TABLES {
            let rows = connection.query_row(&format!("SELECT count(*) FROM {table}"), (), |row| row.get(0))?;
            report.rows.push((table, rows));
        }
        for (rule, sql) in RULES {
            add(report, rule, &connection, sql, "")?;
        }
        for (total, sql) in TOTALS {
            let stored = "SELECT coalesce((SELECT value FROM totals WHERE name = ?1), 0)";
            let stored: i64 = connection.query_row(stored, [total.as_str()], |row| row.get(0))?;
            let rows: i64 = connection.query_row(sql, (), |row| row.get(0))?;
            if stored != rows {
                let detail = format!("{}: {stored} instead of {rows}", total.as_str());
                report.findings.push(Finding { check: "totals are right", detail });
            }
        }
        for sql in [
            "SELECT verification, bytes FROM requests",
            "SELECT verification, bytes FROM responses",
            "SELECT number, observation FROM sequences",
        ] {
            opens::<Packed>(report, &connection, sql, |packed| packed.open().map(|_| ()))?;
        }
        let tokens = "SELECT sequence, bytes FROM tokens";
        opens::<TokenRows>(report, &connection, tokens, |tokens| tokens.open().map(|_| ()))
    };
    all().map_err(|failure| failure.at(path))
}

/// Reports the first column of each row of an answer, but for the word that says that all is well.
fn add(
    report: &mut CheckReport,
    check: &'static str,
    connection: &Connection,
    sql: &str,
    good: &str,
) -> Result<(), Failure> {
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query(())?;
    let mut listed = 0;
    while let Some(row) = rows.next()?
        && listed < LISTED
    {
        let detail: String = row.get(0)?;
        if detail != good {
            report.findings.push(Finding { check, detail });
            listed += 1;
        }
    }
    Ok(())
}

/// Reports each stored value that is not what was once stored.
fn opens<T: rusqlite::types::FromSql>(
    report: &mut CheckReport,
    connection: &Connection,
    sql: &str,
    open: impl Fn(&T) -> Result<(), StoreError>,
) -> Result<(), Failure> {
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query(())?;
    let mut listed = 0;
    while let Some(row) = rows.next()?
        && listed < LISTED
    {
        if let Err(error) = open(&row.get(1)?) {
            let detail = format!("number {}: {error}", row.get::<_, i64>(0)?);
            report.findings.push(Finding { check: "what is stored can be opened", detail });
            listed += 1;
        }
    }
    Ok(())
}
