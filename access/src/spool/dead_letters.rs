//! Opens that settlement will never pay although this node accepted them, kept for people: one
//! JSON object a line. On disk before the watermark passes them. Nothing here is ever delivered.

use crate::{
    disk::{Access, Disk},
    slot_file::directory_of,
};
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};
use yao_engine::spool::DeadLetter;
use yao_protocol::{hex, settlement::OpenResult};

/// The file `dead-letter.jsonl`, mode 0600 as it names users.
#[derive(Clone, Debug)]
pub(super) struct DeadLetterFile {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    /// A letter could not be written: half of it may be there, and what the disk has is unknown.
    failed: bool,
}

impl DeadLetterFile {
    /// The file in the spool's directory, which is created with the first letter. A letter that was
    /// left half-way is cut off: the watermark never passed its open, so it is written again.
    ///
    /// # Errors
    /// Those of the operating system.
    pub(super) fn open(disk: &Arc<dyn Disk>, directory: &Path) -> io::Result<Self> {
        let path = directory.join("dead-letter.jsonl");
        let file = Self { disk: Arc::clone(disk), path, failed: false };
        file.mend()?;
        Ok(file)
    }

    /// Where it is, or would be.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Appends one letter and syncs it.
    ///
    /// # Errors
    /// Those of the operating system; then the file may end in half a letter, and nothing more is
    /// appended to it until the next start.
    pub(super) fn append(&mut self, letter: &DeadLetter) -> io::Result<()> {
        if self.failed {
            return Err(io::Error::other("an earlier letter could not be written"));
        }
        self.failed = true;
        self.write(letter)?;
        self.failed = false;
        Ok(())
    }

    fn write(&self, letter: &DeadLetter) -> io::Result<()> {
        let body = &letter.open.ticket.body;
        let mut line = serde_json::json!({
            "sequence": letter.sequence,
            "result": name(letter.result),
            "campaign": body.campaign,
            "packet": body.packet,
            "amount": body.amount,
            "accepted_at_us": letter.open.accepted_at,
            "settled_at_us": letter.settled_at,
            "ticket": hex::encode(&letter.open.ticket.encode()),
        })
        .to_string();
        line.push('\n');
        // This thread alone writes the file: its end stays where it is.
        let file = self.disk.open(&self.path, Access::Append)?;
        file.write_all_at(line.as_bytes(), file.stamp()?.bytes)?;
        file.sync_all()?;
        self.disk.sync_directory(directory_of(&self.path))
    }

    fn mend(&self) -> io::Result<()> {
        let file = match self.disk.open(&self.path, Access::Write) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            opened => opened?,
        };
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let whole = whole_letters(&bytes);
        if whole == bytes.len() {
            return Ok(());
        }
        tracing::warn!(
            path = %self.path.display(), cut_bytes = bytes.len() - whole,
            "the last dead letter was left half-way: it is cut off, and comes again"
        );
        file.set_length(whole as u64)?;
        file.sync_all()
    }
}

/// How many of the bytes are whole letters. Only the last one can be torn: it has no end, or a
/// block in it never reached the disk and reads as zeros, which no letter holds.
fn whole_letters(bytes: &[u8]) -> usize {
    let line_end =
        |bytes: &[u8]| bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let end = line_end(bytes);
    let start = line_end(&bytes[..end.saturating_sub(1)]);
    if bytes[start..end].contains(&0) { start } else { end }
}

const fn name(result: OpenResult) -> &'static str {
    match result {
        OpenResult::Applied => "applied",
        OpenResult::Same => "same",
        OpenResult::Conflict => "conflict",
        OpenResult::OverLimit => "over_limit",
        OpenResult::Expired => "expired",
        OpenResult::Invalid => "invalid",
        OpenResult::Reclaimed => "reclaimed",
    }
}
