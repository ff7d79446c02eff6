//! The seed file of this node: verified whole at start, then read chunk by chunk with pread. Never
//! mapped: a truncated file must be an error, not a signal.

use crate::{
    disk::{Access, Disk, DiskFile, Stamp},
    files::{FileError, content, wire},
};
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};
use thiserror::Error;
use yao_protocol::{
    WireError,
    keys::PublicKey,
    manifest::Manifest,
    seed_file::{SeedHeader, SeedRecord, ShardKey, decode_records},
};

/// Bytes hashed at once when the file is verified.
const VERIFY_BYTES: usize = 1024 * 1024;

/// Why packets cannot be read.
#[derive(Debug, Error)]
pub enum SeedError {
    /// The operating system refused, or the file became shorter.
    #[error("cannot read {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A chunk is not what was sealed.
    #[error("{path} chunk {chunk}: {error}", path = path.display())]
    Chunk {
        /// The file.
        path: PathBuf,
        /// Which chunk.
        chunk: u32,
        /// Why.
        error: WireError,
    },
    /// The path names another file than the one that was opened, or it was changed in place.
    #[error("{path} was replaced or changed while the node ran", path = .0.display())]
    Changed(PathBuf),
}

/// The open seed file.
#[derive(Debug)]
pub struct SeedShard {
    disk: Arc<dyn Disk>,
    file: Box<dyn DiskFile>,
    path: PathBuf,
    header: SeedHeader,
    header_bytes: u64,
    key: ShardKey,
    stamp: Stamp,
}

impl SeedShard {
    /// Opens and verifies the file: signature, manifest entry, seal key, and every byte's digest.
    ///
    /// # Errors
    /// Whatever does not hold, with the file's name.
    pub fn open(
        disk: &Arc<dyn Disk>,
        path: &Path,
        key: ShardKey,
        campaign_key: &PublicKey,
        manifest: &Manifest,
    ) -> Result<Self, FileError> {
        let read = |source| FileError::Read {
            path: path.to_owned(),
            source,
            advice: "point shard.seed at the shard's .yaoseed file",
        };
        let file = disk.open(path, Access::Read).map_err(read)?;
        let stamp = file.stamp().map_err(read)?;
        let mut start = [0; 16];
        file.read_exact_at(&mut start, 0).map_err(read)?;
        let length = SeedHeader::peek_length(&start).map_err(wire(path))?;
        let mut head = vec![0; length];
        file.read_exact_at(&mut head, 0).map_err(read)?;
        let header = SeedHeader::decode(&head, campaign_key).map_err(wire(path))?;
        let header_bytes = length as u64;
        if stamp.bytes != header_bytes + header.body_bytes() {
            let expected = header_bytes + header.body_bytes();
            let message =
                format!("has {} bytes, its header says {expected}; copy it again", stamp.bytes);
            return Err(content(path, message));
        }
        check_identity(path, &header, &key, manifest)?;
        let mut digest = blake3::Hasher::new();
        let mut whole = blake3::Hasher::new();
        whole.update(&head);
        let body_bytes = usize::try_from(header.body_bytes()).unwrap_or(usize::MAX);
        let mut buffer = vec![0; VERIFY_BYTES.min(body_bytes)];
        let mut offset = header_bytes;
        loop {
            let count = file.read_at(&mut buffer, offset).map_err(read)?;
            if count == 0 {
                break;
            }
            offset += count as u64;
            digest.update(&buffer[..count]);
            whole.update(&buffer[..count]);
        }
        if *digest.finalize().as_bytes() != header.body_digest {
            return Err(content(path, "its packets do not match its signed digest; copy it again"));
        }
        let listed = manifest.shard(header.shard).map(|entry| entry.hash);
        if listed != Some(*whole.finalize().as_bytes()) {
            let message = "is not the file that the manifest lists for this shard; copy both from \
                           one run of `yao-seedgen generate`";
            return Err(content(path, message));
        }
        let disk = Arc::clone(disk);
        Ok(Self { disk, file, path: path.to_owned(), header, header_bytes, key, stamp })
    }

    /// What the file says before its records.
    #[must_use]
    pub const fn header(&self) -> &SeedHeader {
        &self.header
    }

    /// The packets with indexes `from..to`, each chunk authenticated as it is read.
    ///
    /// # Errors
    /// See [`SeedError`].
    pub fn read(&self, from: u32, to: u32) -> Result<Vec<SeedRecord>, SeedError> {
        assert!(from <= to && to <= self.header.record_count, "indexes lie in the shard");
        let mut records = Vec::with_capacity((to - from) as usize);
        let size = u32::from(self.header.chunk_records);
        let mut index = from;
        while index < to {
            let chunk = index / size;
            let indexes = self.header.chunk_indexes(chunk);
            let opened = self.read_chunk(chunk)?;
            let start = (index - indexes.start) as usize;
            let end = (to.min(indexes.end) - indexes.start) as usize;
            records.extend_from_slice(&opened[start..end]);
            index = indexes.end;
        }
        Ok(records)
    }

    fn read_chunk(&self, chunk: u32) -> Result<Vec<SeedRecord>, SeedError> {
        let range = self.header.chunk_bytes(chunk);
        let length = usize::try_from(range.end - range.start).expect("a chunk is at most 64 KiB");
        let mut buffer = vec![0; length];
        self.file
            .read_exact_at(&mut buffer, self.header_bytes + range.start)
            .map_err(|source| SeedError::Read { path: self.path.clone(), source })?;
        let opened = self.key.open(&self.header.plan_digest, chunk, &mut buffer);
        let records = opened.and_then(|()| decode_records(&buffer));
        records.map_err(|error| SeedError::Chunk { path: self.path.clone(), chunk, error })
    }

    /// Whether path and descriptor still name the same unchanged file; asked four times a second.
    ///
    /// # Errors
    /// [`SeedError::Changed`], or the error of looking.
    pub fn check_unchanged(&self) -> Result<(), SeedError> {
        let read = |source| SeedError::Read { path: self.path.clone(), source };
        let by_path = self.disk.stamp(&self.path).map_err(read)?;
        let by_descriptor = self.file.stamp().map_err(read)?;
        if by_path == self.stamp && by_descriptor == self.stamp {
            Ok(())
        } else {
            Err(SeedError::Changed(self.path.clone()))
        }
    }
}

fn check_identity(
    path: &Path,
    header: &SeedHeader,
    key: &ShardKey,
    manifest: &Manifest,
) -> Result<(), FileError> {
    let names = (header.campaign, header.shard, header.generation);
    if names != (key.campaign, key.shard, key.generation) || key.check() != header.key_check {
        let message = format!(
            "is shard {} of campaign {}, and shard.key is not its key (it names shard {} of \
             campaign {})",
            header.shard, header.campaign, key.shard, key.campaign
        );
        return Err(content(path, message));
    }
    if header.plan_digest != manifest.plan_digest {
        return Err(content(path, "was made from another plan than shard.manifest"));
    }
    Ok(())
}
