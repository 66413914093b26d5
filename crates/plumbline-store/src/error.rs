//! What can go wrong with the file.

use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

/// Why something could not be stored or read. An error of a write means: not acknowledged. Of a disk that fails in the middle
/// of a commit, such a write may still be found after a restart; repeating it is safe.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Another process has the file.
    #[error("{} is in use by another process", .path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// The file was written by a newer version.
    #[error("{} has schema {found}, written by a newer plumbline; this one knows schemas up to {supported}", .path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// The newest known one.
        supported: i64,
    },
    /// A database of something else.
    #[error("{} is an SQLite database, but not one of plumbline", .path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// No database, or a damaged one.
    #[error("{} is damaged: {reason}; `plumbline db check` says what is wrong, nothing in it was changed", .path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What SQLite found.
        reason: String,
    },
    /// The file or its folder must not be written.
    #[error("{} cannot be written: {reason}", .path.display())]
    ReadOnly {
        /// The file.
        path: PathBuf,
        /// What SQLite found.
        reason: String,
    },
    /// The disk is full, or the file has the size that it may have.
    #[error("no room for {}: {reason}", .path.display())]
    Full {
        /// The file.
        path: PathBuf,
        /// What is full.
        reason: String,
    },
    /// What waits and what is kept take nearly all the bytes that the file may have: nothing new is taken in until something ends.
    #[error("{} has nearly the {max_bytes} bytes that it may have; nothing new is taken in until something is done", .path.display())]
    AtLimit {
        /// The file.
        path: PathBuf,
        /// The limit.
        max_bytes: u64,
    },
    /// The disk does not do what it should.
    #[error("{} cannot be read or written: {reason}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What SQLite found.
        reason: String,
    },
    /// Somebody else has been writing for too long.
    #[error("{} is being written by something else: {reason}", .path.display())]
    Busy {
        /// The file.
        path: PathBuf,
        /// What SQLite found.
        reason: String,
    },
    /// SQLite refused for another reason: a defect.
    #[error("{}: {reason}", .path.display())]
    Sql {
        /// The file.
        path: PathBuf,
        /// What SQLite found.
        reason: String,
    },
    /// A stored value is not what was once stored.
    #[error("stored {what} cannot be read: {reason}")]
    Damaged {
        /// Which value.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The summaries of a group and of new sequences do not go together.
    #[error("the summary of a run cannot be brought up to date: {0}")]
    Summary(String),
    /// The store has been closed.
    #[error("the store is closed")]
    Closed,
}

/// Kinds of errors, as counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// No room.
    Full,
    /// Must not be written.
    ReadOnly,
    /// Damaged.
    Corrupt,
    /// The disk fails.
    Io,
    /// Others write.
    Busy,
    /// Everything else.
    Other,
}

impl ErrorKind {
    /// All kinds.
    pub const ALL: [Self; 6] = [Self::Full, Self::ReadOnly, Self::Corrupt, Self::Io, Self::Busy, Self::Other];

    /// The name used as a metric label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::ReadOnly => "read_only",
            Self::Corrupt => "corrupt",
            Self::Io => "io",
            Self::Busy => "busy",
            Self::Other => "other",
        }
    }
}

impl StoreError {
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Full { .. } | Self::AtLimit { .. } => ErrorKind::Full,
            Self::ReadOnly { .. } => ErrorKind::ReadOnly,
            Self::Corrupt { .. } | Self::Damaged { .. } => ErrorKind::Corrupt,
            Self::Io { .. } => ErrorKind::Io,
            Self::Busy { .. } | Self::Locked { .. } => ErrorKind::Busy,
            Self::Newer { .. } | Self::Foreign { .. } | Self::Sql { .. } | Self::Summary(_) | Self::Closed => {
                ErrorKind::Other
            }
        }
    }

    /// Whether it is of the file as a whole, so that whatever else is in the same transaction fails too.
    pub(crate) fn is_of_the_file(&self) -> bool {
        matches!(
            self,
            Self::Full { .. } | Self::ReadOnly { .. } | Self::Corrupt { .. } | Self::Io { .. } | Self::Busy { .. }
        )
    }

    pub(crate) fn of_sqlite(error: &rusqlite::Error, path: &Path) -> Self {
        let (path, reason) = (path.to_owned(), error.to_string());
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full { path, reason },
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => Self::ReadOnly { path, reason },
            Some(ErrorCode::SystemIoFailure | ErrorCode::CannotOpen) => Self::Io { path, reason },
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Corrupt { path, reason },
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy { path, reason },
            _ => Self::Sql { path, reason },
        }
    }

    pub(crate) fn of_io(error: &std::io::Error, path: &Path) -> Self {
        use std::io::ErrorKind as Kind;
        let (path, reason) = (path.to_owned(), error.to_string());
        match error.kind() {
            Kind::PermissionDenied | Kind::ReadOnlyFilesystem => Self::ReadOnly { path, reason },
            Kind::StorageFull | Kind::QuotaExceeded | Kind::FileTooLarge => Self::Full { path, reason },
            _ => Self::Io { path, reason },
        }
    }
}

/// An error inside the crate, before the file's name is added.
#[derive(Debug)]
pub(crate) enum Failure {
    Sql(rusqlite::Error),
    Store(StoreError),
}

impl Failure {
    pub(crate) fn at(self, path: &Path) -> StoreError {
        match self {
            Self::Sql(error) => StoreError::of_sqlite(&error, path),
            Self::Store(error) => error,
        }
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}
