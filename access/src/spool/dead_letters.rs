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
}

impl DeadLetterFile {
    /// The file in the spool's directory; created with the first letter.
    #[must_use]
    pub(super) fn new(disk: &Arc<dyn Disk>, directory: &Path) -> Self {
        Self { disk: Arc::clone(disk), path: directory.join("dead-letter.jsonl") }
    }

    /// Appends one letter and syncs it.
    ///
    /// # Errors
    /// Those of the operating system.
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
        // This thread alone writes the file: its end stays where it is.
        let file = self.disk.open(&self.path, Access::Append)?;
        file.write_all_at(line.as_bytes(), file.stamp()?.bytes)?;
        file.sync_all()?;
        self.disk.sync_directory(directory_of(&self.path))
    }
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
