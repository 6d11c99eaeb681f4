//! What can go wrong with a file, named by what the caller does next.
//!
//! Everything SQLite and the system say is sorted here once; no other file of the house looks at their codes.

use rusqlite::{Error, ErrorCode, ffi};

/// Why a file could not be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Free some space, then try again.
    #[error("no space left on the disk: {0}")]
    Full(String),
    /// The content is not what was written: set the file aside.
    #[error("damaged: {0}")]
    Damaged(String),
    /// A newer version wrote it: set the file aside, untouched.
    #[error("written by a newer version of ironbridge (format {0})")]
    Newer(i64),
    /// Another process has the directory: try again later.
    #[error("{0} is in use by another process")]
    InUse(String),
    /// The system refuses: try again later.
    #[error("{0}")]
    Unavailable(String),
    /// The medium does not give what the file holds: try again later. A loose cable is plugged in again, a bad sector stays bad:
    /// some day the file must be given up.
    #[error("the medium does not give it: {0}")]
    Refused(String),
}

/// What to do about a file that cannot be read now, though nothing says that it is damaged. A cable, a controller or
/// too many open files may be to blame: then it is whole a moment later, and giving it up would lose what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreadable {
    /// Touch nothing: somebody will try again.
    TryAgain,
    /// That was tried often enough: go on with what can be read.
    GiveUp,
}

/// A read that failed; inside a statement SQLite calls the second one `SQLITE_CORRUPT` (see `disk::image`).
const REFUSED: [i32; 2] = [ffi::SQLITE_IOERR_READ, ffi::SQLITE_IOERR_CORRUPTFS];

impl Fault {
    /// Would trying again later, or with more space, change anything?
    pub const fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged(_) | Self::Newer(_))
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        match &error {
            Error::SqliteFailure(failure, _) => match failure.code {
                ErrorCode::DiskFull => Self::Full(error.to_string()),
                // "Unknown" is SQLITE_ERROR: a table or column that should be there is not.
                // A row stands where nothing of ours has ever put one.
                ErrorCode::DatabaseCorrupt
                | ErrorCode::NotADatabase
                | ErrorCode::Unknown
                | ErrorCode::ConstraintViolation => Self::Damaged(error.to_string()),
                _ if REFUSED.contains(&failure.extended_code) => Self::Refused(error.to_string()),
                _ => Self::Unavailable(error.to_string()),
            },
            Error::SqlInputError { .. }
            | Error::FromSqlConversionFailure(..)
            | Error::IntegralValueOutOfRange(..)
            | Error::Utf8Error(..)
            | Error::InvalidColumnType(..)
            | Error::QueryReturnedNoRows => Self::Damaged(error.to_string()),
            _ => Self::Unavailable(error.to_string()),
        }
    }
}

impl From<std::io::Error> for Fault {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Self::Full(error.to_string()),
            _ => Self::Unavailable(error.to_string()),
        }
    }
}
