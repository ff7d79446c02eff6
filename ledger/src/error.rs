//! What can go wrong before and while the ledger serves.

use std::{io, path::PathBuf};
use thiserror::Error;

/// Why the ledger cannot start, or had to stop.
#[derive(Debug, Error)]
pub enum LedgerError {
    /// A file that was named cannot be used: the operator is to mend it.
    #[error("{path}: {message}", path = path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        message: String,
    },
    /// The database refused.
    #[error("{path}: {error}", path = path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// The answer.
        error: rusqlite::Error,
    },
    /// The network or another part of the system refused.
    #[error("cannot {doing}: {error}")]
    System {
        /// What was tried.
        doing: String,
        /// The answer.
        error: io::Error,
    },
    /// A commit failed: nothing is acknowledged any more, a restart reads what is on disk.
    #[error("a write to the database failed, the ledger stops: restart it to go on")]
    WriterStopped,
}

impl LedgerError {
    /// A file that cannot be used.
    pub fn config(path: impl Into<PathBuf>, message: impl Into<String>) -> Self {
        Self::Config { path: path.into(), message: message.into() }
    }

    /// The exit code that says it: 78 for what the operator must mend, else 1.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Config { .. } => 78,
            _ => 1,
        }
    }
}
