//! The watermark on disk: how far settlement has answered. Two slots, one sync each time it moves.
//!
//! Losing it costs a second delivery of everything, never money: settlement knows packets. So a
//! missing or unreadable file means "deliver from the start".

use crate::{
    disk::Disk,
    slot_file::{SlotFile, SlotFileError, directory_of},
};
use std::path::Path;
use yao_protocol::{
    CampaignId, ShardId, WireError,
    spool::{WATERMARK_MAGIC, Watermark},
};

/// The open file.
#[derive(Debug)]
pub(super) struct WatermarkFile {
    file: SlotFile,
}

impl WatermarkFile {
    /// Opens the watermark and reads it; `None` when there is none.
    ///
    /// # Errors
    /// A watermark of another node, and those of the operating system. A damaged file is renamed
    /// to `*.corrupt` and is no error.
    pub(super) fn open(
        disk: &dyn Disk,
        path: &Path,
        campaign: CampaignId,
        shard: ShardId,
    ) -> Result<Option<(Self, Watermark)>, SlotFileError> {
        match SlotFile::open(disk, path, WATERMARK_MAGIC) {
            Ok((file, pair)) => match Watermark::decode(&pair.newest.payload) {
                Ok(found) if (found.campaign, found.shard) == (campaign, shard) => {
                    Ok(Some((Self { file }, found)))
                }
                Ok(found) => Err(SlotFileError::Content {
                    path: path.to_owned(),
                    error: WireError::Value {
                        field: "the watermark's shard (it is another node's)",
                        value: u64::from(found.shard.0),
                    },
                }),
                Err(error) => put_aside(disk, path, &error),
            },
            Err(SlotFileError::Missing(_)) => Ok(None),
            Err(SlotFileError::Content { error, .. }) => put_aside(disk, path, &error),
            Err(error) => Err(error),
        }
    }

    /// Makes the file, which says `first` from the moment on that it is there.
    ///
    /// # Errors
    /// Those of the operating system.
    pub(super) fn create(
        disk: &dyn Disk,
        path: &Path,
        first: &Watermark,
    ) -> Result<Self, SlotFileError> {
        let file = SlotFile::create(disk, path, WATERMARK_MAGIC, |_| first.encode())?;
        Ok(Self { file })
    }

    /// Brings `watermark` to disk.
    ///
    /// # Errors
    /// Those of [`SlotFile::write`]; the first one fences the file.
    pub(super) fn save(&mut self, watermark: &Watermark) -> Result<(), SlotFileError> {
        self.file.write(&watermark.encode())
    }

    /// Breaks the disk under it.
    #[cfg(test)]
    pub(super) fn break_disk(&mut self) {
        self.file.break_disk();
    }
}

fn put_aside<T>(
    disk: &dyn Disk,
    path: &Path,
    error: &WireError,
) -> Result<Option<T>, SlotFileError> {
    tracing::error!(
        path = %path.display(), %error,
        "the spool's watermark is damaged: it is kept as *.corrupt and every open is delivered \
         again"
    );
    let fail = |error| SlotFileError::Io { doing: "set aside", path: path.to_owned(), error };
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".corrupt");
    disk.rename(path, &path.with_file_name(name)).map_err(fail)?;
    disk.sync_directory(directory_of(path)).map_err(fail)?;
    Ok(None)
}
