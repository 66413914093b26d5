//! What goes when the file is too full or its content too old: in steps that are short enough to come between two writes.

use rusqlite::Connection;

use crate::Retention;
use crate::statistics::{Changes, Total};

/// Rows that one step removes at most.
const ROWS: u64 = 64;
/// Digests and rows without bodies are small.
const SMALL_ROWS: u64 = 256;
/// Pages that one step gives back to the file system.
const PAGES: u32 = 256;
/// Free bytes that the file keeps for what comes next, and the part of its content that it keeps free at most.
const SPARE_BYTES: u64 = 16 << 20;
const SPARE_SHARE: u64 = 4;

/// How full the file is, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fill {
    pub(crate) content: u64,
    pub(crate) free: u64,
}

/// Bytes of content at which something happens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    max: Option<u64>,
}

impl Bounds {
    pub(crate) fn of(retention: &Retention) -> Self {
        Self { max: retention.max_bytes }
    }

    /// Removing begins.
    fn too_full(self, fill: Fill) -> bool {
        self.max.is_some_and(|max| fill.content > max / 100 * 90)
    }

    /// Removing ends.
    fn has_room(self, fill: Fill) -> bool {
        self.max.is_none_or(|max| fill.content < max / 100 * 85)
    }

    /// Whether so many bytes more come near the limit. A file that is full for another reason gains nothing from removing.
    pub(crate) fn is_in_the_way(self, fill: Fill, bytes: u64) -> bool {
        // Pages are not filled to their ends.
        self.max.is_some_and(|max| fill.content + 2 * bytes + (64 << 10) > max)
    }

    /// The limit, if only what was begun may still be ended.
    pub(crate) fn limit_reached(self, fill: Fill) -> Option<u64> {
        self.max.filter(|max| fill.content > max / 100 * 95)
    }
}

/// What may go, in the order in which it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Tokens,
    Responses,
    Sequences,
    Verifications,
    Digests,
}

impl Kind {
    fn next(self) -> Option<Self> {
        match self {
            Self::Tokens => Some(Self::Responses),
            Self::Responses => Some(Self::Sequences),
            Self::Sequences => Some(Self::Verifications),
            Self::Verifications => Some(Self::Digests),
            Self::Digests => None,
        }
    }
}

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Remove the oldest.
    Oldest(Kind),
    /// Remove those of the oldest that are too old.
    Old(Kind),
    /// Give pages back to the file system.
    Shrink,
}

/// Which step comes next.
#[derive(Debug, Default)]
pub(crate) struct Trim {
    /// What goes because of the size.
    size: Option<Kind>,
    /// What goes because of its age.
    age: Option<Kind>,
    /// Room is needed, however full the file is.
    asked: bool,
    /// Nothing is left to remove, or it cannot be; until the next tick.
    resting: bool,
}

impl Trim {
    /// From time to time: ages have changed, and what could not be removed perhaps can.
    pub(crate) fn tick(&mut self, retention: &Retention) {
        self.resting = false;
        if retention.max_age.is_some() && self.age.is_none() {
            self.age = Some(Kind::Tokens);
        }
    }

    /// Something has to go now.
    pub(crate) fn ask(&mut self) {
        (self.asked, self.resting) = (true, false);
        self.size.get_or_insert(Kind::Tokens);
    }

    pub(crate) fn is_asked(&self) -> bool {
        self.asked
    }

    /// Nothing is left to remove, or it cannot be.
    pub(crate) fn is_resting(&self) -> bool {
        self.resting
    }

    /// Nothing more until the next tick.
    pub(crate) fn rest(&mut self) {
        *self = Self { resting: true, ..Self::default() };
    }

    pub(crate) fn is_due(&self, bounds: &Bounds, fill: Fill) -> bool {
        self.size.is_some() || self.age.is_some() || !self.resting && (bounds.too_full(fill) || has_too_much_free(fill))
    }

    pub(crate) fn next(&mut self, bounds: &Bounds, fill: Fill) -> Option<Step> {
        if self.size.is_none() && !self.resting && bounds.too_full(fill) {
            self.size = Some(Kind::Tokens);
        }
        if !self.asked && bounds.has_room(fill) {
            self.size = None;
        }
        if let Some(kind) = self.size {
            return Some(Step::Oldest(kind));
        }
        if let Some(kind) = self.age {
            return Some(Step::Old(kind));
        }
        (!self.resting && has_too_much_free(fill)).then_some(Step::Shrink)
    }

    /// A step removed so many rows.
    pub(crate) fn done(&mut self, step: Step, removed: u64) {
        match step {
            Step::Oldest(_) if removed > 0 => self.asked = false,
            Step::Oldest(kind) => {
                self.size = kind.next();
                if self.size.is_none() {
                    (self.asked, self.resting) = (false, true);
                }
            }
            Step::Old(kind) if removed == 0 => self.age = kind.next(),
            Step::Old(_) => {}
            Step::Shrink => self.resting = removed == 0,
        }
    }
}

fn has_too_much_free(fill: Fill) -> bool {
    fill.free > SPARE_BYTES.max(fill.content / SPARE_SHARE)
}

impl Step {
    /// Removes, and says how many rows or pages that were. `cutoff`: what is older is too old.
    pub(crate) fn remove(
        self,
        connection: &Connection,
        cutoff: Option<i64>,
        changes: &mut Changes,
    ) -> rusqlite::Result<u64> {
        match self {
            Self::Oldest(kind) => remove(connection, kind, None, changes),
            Self::Old(kind) => match cutoff {
                Some(cutoff) => remove(connection, kind, Some(cutoff), changes),
                None => Ok(0),
            },
            Self::Shrink => {
                // Each row of the answer is a page that was given back.
                let mut statement = connection.prepare(&format!("PRAGMA incremental_vacuum({PAGES})"))?;
                let mut rows = statement.query(())?;
                while rows.next()?.is_some() {}
                Ok(u64::from(PAGES))
            }
        }
    }
}

fn remove(connection: &Connection, kind: Kind, cutoff: Option<i64>, changes: &mut Changes) -> rusqlite::Result<u64> {
    // The oldest first, and only then the question whether they are too old: asking every row would read the whole table.
    let (sql, limit) = match kind {
        Kind::Tokens => (
            "SELECT number FROM (SELECT t.sequence AS number, s.at AS at FROM tokens t JOIN sequences s ON s.number = t.sequence
             ORDER BY t.sequence LIMIT ?1) WHERE ?2 IS NULL OR at < ?2",
            ROWS,
        ),
        Kind::Responses => (
            "SELECT number FROM (SELECT r.verification AS number, v.updated_at AS at FROM responses r
             JOIN verifications v ON v.number = r.verification ORDER BY r.verification LIMIT ?1) WHERE ?2 IS NULL OR at < ?2",
            ROWS,
        ),
        Kind::Sequences => (
            "SELECT number FROM (SELECT number, at FROM sequences ORDER BY number LIMIT ?1) WHERE ?2 IS NULL OR at < ?2",
            ROWS,
        ),
        Kind::Verifications => (
            "SELECT number FROM (SELECT number, updated_at AS at, kept FROM verifications WHERE state IN ('done', 'failed')
             ORDER BY number LIMIT ?1)
             WHERE (?2 IS NULL OR at < ?2) AND kept = 0 AND number NOT IN (SELECT verification FROM responses)",
            SMALL_ROWS,
        ),
        Kind::Digests => (
            "SELECT number FROM (SELECT number, at FROM counted ORDER BY number LIMIT ?1)
             WHERE (?2 IS NULL OR at < ?2) AND number NOT IN (SELECT number FROM sequences)",
            SMALL_ROWS,
        ),
    };
    let mut statement = connection.prepare_cached(sql)?;
    let numbers = statement.query_map((limit, cutoff), |row| row.get(0))?.collect::<Result<Vec<i64>, _>>()?;
    for number in &numbers {
        remove_one(connection, kind, *number, changes)?;
    }
    Ok(numbers.len() as u64)
}

fn remove_one(connection: &Connection, kind: Kind, number: i64, changes: &mut Changes) -> rusqlite::Result<()> {
    let run = |sql: &str| connection.prepare_cached(sql)?.execute([number]);
    match kind {
        Kind::Tokens => {
            run("DELETE FROM tokens WHERE sequence = ?1")?;
            changes.add(Total::TokenRows, -1);
            changes.removed_token_rows += 1;
        }
        Kind::Responses => {
            run("DELETE FROM responses WHERE verification = ?1")?;
            // A retry can no longer be answered with it: it is new work, whose sequences are known.
            run("UPDATE verifications SET digest = NULL WHERE number = ?1")?;
            run("DELETE FROM idempotency WHERE verification = ?1")?;
            changes.removed_responses += 1;
        }
        Kind::Sequences => {
            if run("DELETE FROM tokens WHERE sequence = ?1")? > 0 {
                changes.add(Total::TokenRows, -1);
                changes.removed_token_rows += 1;
            }
            run(
                "UPDATE groups SET removed = removed + 1 WHERE number = (SELECT \"group\" FROM sequences WHERE number = ?1)",
            )?;
            run("UPDATE verifications SET kept = kept - 1
                 WHERE number = (SELECT verification FROM sequences WHERE number = ?1)")?;
            run("DELETE FROM sequences WHERE number = ?1")?;
            changes.add(Total::Sequences, -1);
            changes.removed_sequences += 1;
        }
        Kind::Verifications => {
            run("DELETE FROM idempotency WHERE verification = ?1")?;
            let done: bool = connection
                .prepare_cached("DELETE FROM verifications WHERE number = ?1 RETURNING state = 'done'")?
                .query_row([number], |row| row.get(0))?;
            changes.add(if done { Total::Done } else { Total::Failed }, -1);
        }
        Kind::Digests => {
            run("DELETE FROM counted WHERE number = ?1")?;
        }
    }
    Ok(())
}
