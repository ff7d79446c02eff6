//! The ways in which bytes can be wrong. One variant per way, each naming what and where.

use thiserror::Error;

/// Why bytes were refused. The peer (or the file) is at fault, never we.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum WireError {
    /// The bytes end inside a field.
    #[error("{what} is cut short: {have} bytes, at least {need} needed")]
    Short {
        /// The structure being read.
        what: &'static str,
        /// Bytes that were there.
        have: usize,
        /// Bytes that the next field needs.
        need: usize,
    },
    /// Bytes follow the last field.
    #[error("{what} has {extra} bytes after its last field")]
    Trailing {
        /// The structure being read.
        what: &'static str,
        /// How many bytes too many.
        extra: usize,
    },
    /// A length exceeds its limit.
    #[error("{what} of {length} exceeds the limit of {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its length.
        length: usize,
        /// The limit.
        limit: usize,
    },
    /// The first bytes are not those of this format.
    #[error("{what} does not start with its magic bytes")]
    Magic {
        /// The structure being read.
        what: &'static str,
    },
    /// A format version that this build does not know.
    #[error("{what} has version {version}, this build knows {known}")]
    Version {
        /// The structure being read.
        what: &'static str,
        /// The version found.
        version: u16,
        /// The version known.
        known: u16,
    },
    /// A frame kind that is neither known nor optional.
    #[error("unknown frame kind {kind:#04x}")]
    Kind {
        /// The kind byte.
        kind: u8,
    },
    /// A field holds a value outside its range.
    #[error("{field} has the value {value}, which is out of range")]
    Value {
        /// The field.
        field: &'static str,
        /// What it held.
        value: u64,
    },
    /// A checksum, tag or hash does not match.
    #[error("{what} fails its checksum")]
    Checksum {
        /// The structure being read.
        what: &'static str,
    },
    /// A signature or MAC does not match its key and content.
    #[error("{what} is not authentic")]
    Forged {
        /// The structure being read.
        what: &'static str,
    },
    /// Text that is not UTF-8, or not of the expected form.
    #[error("{field} is not valid text")]
    Text {
        /// The field.
        field: &'static str,
    },
}
