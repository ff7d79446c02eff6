//! The ticket log, as `netbench crowd` writes it: one line for each ticket and receipt seen.

use anyhow::{Context, Result};
use std::{
    fs::{File, OpenOptions},
    io::{BufWriter, Write},
    path::Path,
};
use yao_protocol::{hex, receipt::RECEIPT_BYTES, ticket::TICKET_BYTES};

/// Where tickets and receipts are written down.
pub(crate) struct TicketLog(BufWriter<File>);

impl TicketLog {
    /// Appends to the file at `path`.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub(crate) fn append(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path);
        let file =
            file.with_context(|| format!("cannot write the ticket log {}", path.display()))?;
        Ok(Self(BufWriter::with_capacity(1 << 16, file)))
    }

    pub(super) fn ticket(&mut self, bytes: &[u8; TICKET_BYTES]) -> Result<()> {
        writeln!(self.0, "W {}", hex::encode(bytes)).context("the ticket log")
    }

    pub(super) fn receipt(&mut self, bytes: &[u8; RECEIPT_BYTES]) -> Result<()> {
        writeln!(self.0, "R {}", hex::encode(bytes)).context("the ticket log")
    }

    /// Hands every line to the operating system.
    ///
    /// # Errors
    /// The disk is full, or the like.
    pub(crate) fn flush(&mut self) -> Result<()> {
        self.0.flush().context("the ticket log")
    }
}
