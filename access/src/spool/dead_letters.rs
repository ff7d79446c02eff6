//! Opens that settlement will never pay although this node accepted them, kept for people: one
//! JSON object a line. On disk before the watermark passes them. Nothing here is ever delivered.

use crate::slot_file::{directory_of, sync_directory};
use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};
use yao_engine::spool::DeadLetter;
use yao_protocol::{hex, settlement::OpenResult};

/// The file `dead-letter.jsonl`, mode 0600 as it names users.
#[derive(Clone, Debug)]
pub(super) struct DeadLetterFile(PathBuf);

impl DeadLetterFile {
    /// The file in the spool's directory, which is created with the first letter. A letter that was
    /// left half-way is cut off: the watermark never passed its open, so it is written again.
    ///
    /// # Errors
    /// Those of the operating system.
    pub(super) fn open(directory: &Path) -> io::Result<Self> {
        let file = Self(directory.join("dead-letter.jsonl"));
        file.mend()?;
        Ok(file)
    }

    /// Where it is, or would be.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Appends one letter and syncs it.
    ///
    /// # Errors
    /// Those of the operating system; then the file may end in half a letter, and nothing more must
    /// be appended to it.
    pub(super) fn append(&self, letter: &DeadLetter) -> io::Result<()> {
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
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.0)?;
        file.write_all(line.as_bytes())?;
        file.sync_all()?;
        sync_directory(directory_of(&self.0))
    }

    fn mend(&self) -> io::Result<()> {
        let bytes = match fs::read(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            read => read?,
        };
        let whole = whole_letters(&bytes);
        if whole == bytes.len() {
            return Ok(());
        }
        tracing::warn!(
            path = %self.0.display(), cut_bytes = bytes.len() - whole,
            "the last dead letter was left half-way: it is cut off, and comes again"
        );
        let file = OpenOptions::new().write(true).open(&self.0)?;
        file.set_len(whole as u64)?;
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
    }
}
