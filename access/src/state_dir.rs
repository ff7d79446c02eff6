//! The state directory of a node: its layout, the exclusive right to it (M4, local mode), and its
//! explicit creation.

use crate::{
    disk::{Disk, DiskFile, RealDisk},
    files::{FileError, content},
    segments::LogKind,
    slot_file::{SlotFile, create_directory, directory_of},
};
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, socket_with},
};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::{
        fd::OwnedFd,
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
};
use yao_engine::cursor;
use yao_protocol::{
    CampaignId, Epoch, Incarnation, ShardId, WaveIndex,
    keys::{KeyOwner, PrivateKeyFile, PublicKeyFile, SignKey},
    seed_file::SeedHeader,
};

/// The only epoch of local mode: a new one needs an authority outside this disk.
pub const EPOCH_LOCAL: Epoch = Epoch(1);

/// Where everything is.
#[derive(Clone, Debug)]
pub struct StateDir {
    root: PathBuf,
    disk: Arc<dyn Disk>,
}

/// The exclusive right to a shard on this host, held until it is dropped.
#[derive(Debug)]
pub struct StateLock {
    _file: File,
    _name: OwnedFd,
}

impl StateDir {
    /// The state directory at `root`.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self::on(Arc::new(RealDisk), root)
    }

    /// The state directory at `root` of `disk`.
    #[must_use]
    pub fn on(disk: Arc<dyn Disk>, root: &Path) -> Self {
        Self { root: root.to_owned(), disk }
    }

    /// The disk on which it lies.
    #[must_use]
    pub const fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// The directory itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The cursor file of a wave.
    #[must_use]
    pub fn cursor(&self, wave: WaveIndex) -> PathBuf {
        self.root.join("cursor").join(format!("wave-{:03}.yaocursor", wave.0))
    }

    /// The journal's directory.
    #[must_use]
    pub fn journal(&self) -> PathBuf {
        self.root.join(LogKind::JOURNAL.prefix)
    }

    /// The spool's directory.
    #[must_use]
    pub fn spool(&self) -> PathBuf {
        self.root.join(LogKind::SPOOL.prefix)
    }

    /// The ticket key of an epoch.
    #[must_use]
    pub fn ticket_key(&self, epoch: Epoch) -> PathBuf {
        self.root.join(format!("ticket-{:03}.key.json", epoch.0))
    }

    /// Where the seal is kept once it was made.
    #[must_use]
    pub fn seal(&self) -> PathBuf {
        self.root.join("seal.yaoseal")
    }

    fn sealed_mark(&self) -> PathBuf {
        self.root.join("sealed")
    }

    /// Fails when the shard was sealed: whatever is left of it may have been given out elsewhere.
    ///
    /// # Errors
    /// That, and a mark that cannot be looked for.
    pub fn refuse_sealed(&self) -> Result<(), FileError> {
        let path = self.sealed_mark();
        match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(content(&path, error)),
            Ok(_) => {
                let message = "this shard was sealed: it never issues or accepts again, and its \
                               packets may have been reclaimed; give the node another shard and \
                               another node.state";
                Err(content(&path, message))
            }
        }
    }

    /// Makes every later start fail. On disk when this returns; nothing takes it back.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn mark_sealed(&self) -> Result<(), FileError> {
        let path = self.sealed_mark();
        if fs::symlink_metadata(&path).is_err() {
            return create_synced(&path, b"sealed\n", 0o600);
        }
        // The name may be there without having reached the disk.
        let sync =
            || File::open(&path)?.sync_all().and_then(|()| RealDisk.sync_directory(&self.root));
        sync().map_err(|error| content(&path, error))
    }

    fn lock_file(&self) -> PathBuf {
        self.root.join("lock")
    }

    /// Takes the right to run (`campaign`, `shard`) from this directory.
    ///
    /// flock keeps a second process off this very directory; the abstract socket name keeps one
    /// with a copy of it off this host (both end with the process, however it ends).
    ///
    /// # Errors
    /// When somebody else holds either, or the directory was never initialised.
    pub fn lock(&self, campaign: CampaignId, shard: ShardId) -> Result<StateLock, FileError> {
        let path = self.lock_file();
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(|source| {
            FileError::Read {
                path: path.clone(),
                source,
                advice: "run `yao-access init` once to make the state of a shard",
            }
        })?;
        let links = file.metadata().map(|metadata| metadata.nlink());
        if !matches!(links, Ok(1)) {
            return Err(content(
                &path,
                "has a second hard link; remove it and find out who made it",
            ));
        }
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            let owner = fs::read_to_string(&path).unwrap_or_default();
            let owner = owner.trim();
            content(&path, format!("is held by another process ({owner}); stop that one first"))
        })?;
        let name = claim_name(campaign, shard).map_err(|error| {
            let message = format!(
                "another process on this host runs shard {shard} of campaign {campaign} from \
                 another directory ({error}); stop that one first"
            );
            content(&path, message)
        })?;
        let mut writer = &file;
        let note = format!("process {}\n", std::process::id());
        // For people only: a failure to write it loses nothing.
        if file.set_len(0).and_then(|()| writer.write_all(note.as_bytes())).is_err() {
            tracing::warn!(event = "lock_note_failed", path = %path.display());
        }
        Ok(StateLock { _file: file, _name: name })
    }

    /// The explicit first start of a shard (M2): cursors with both slots at 0, the ticket key, and
    /// its public half in `keys`.
    ///
    /// # Errors
    /// When any of it exists already, and those of the operating system.
    pub fn init(&self, header: &SeedHeader, keys: &Path) -> Result<PathBuf, FileError> {
        let create = |error| content(&self.root, format!("cannot create it: {error}"));
        let cursors = self.root.join("cursor");
        create_directory(&*self.disk, &self.root).map_err(create)?;
        create_directory(&*self.disk, &cursors).map_err(create)?;
        create_directory(&*self.disk, keys).map_err(create)?;
        let taken = !self.disk.names(&cursors).map_err(create)?.is_empty();
        if taken || self.ticket_key(EPOCH_LOCAL).exists() {
            let message = "was initialised before; packets may have been issued from it, so it is \
                           left as it is (to start over in a rehearsal, remove the directory)";
            return Err(content(&self.root, message));
        }
        let public = self.create_ticket_key(header, keys)?;
        self.create_cursors(header)?;
        create_synced(&self.lock_file(), b"", 0o600)?;
        self.disk.sync_directory(&self.root).map_err(create)?;
        Ok(public)
    }

    /// A cursor for each section, both slots at 0. A part of [`Self::init`], which has made sure
    /// that nothing was ever issued, and the whole of it where keys come from elsewhere.
    ///
    /// # Errors
    /// When one exists already, and those of the operating system.
    pub fn create_cursors(&self, header: &SeedHeader) -> Result<(), FileError> {
        for section in &header.sections {
            let path = self.cursor(section.wave);
            let expected = |inode, born_ns| cursor::Expected {
                campaign: header.campaign,
                shard: header.shard,
                generation: header.generation,
                wave: section.wave,
                epoch: EPOCH_LOCAL,
                merkle_root: header.merkle_root,
                count: section.count,
                inode,
                born_ns,
            };
            SlotFile::create(&*self.disk, &path, yao_protocol::cursor::MAGIC, |identity| {
                let expected = expected(identity.inode, identity.born_ns);
                cursor::initial(&expected, Incarnation([0; 16]), [0; 16]).encode()
            })
            .map_err(|error| content(&path, error))?;
        }
        Ok(())
    }

    fn create_ticket_key(&self, header: &SeedHeader, keys: &Path) -> Result<PathBuf, FileError> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed)
            .map_err(|error| content(&self.root, format!("no randomness for a key: {error}")))?;
        let (campaign, shard) = (header.campaign, header.shard);
        let owner = KeyOwner::Ticket { campaign, shard, epoch: EPOCH_LOCAL };
        let private = PrivateKeyFile { owner, seed };
        let public =
            PublicKeyFile { owner, key: SignKey::from_seed(&private.seed).public().to_bytes() };
        let public_path = keys.join(format!("ticket-{:05}-{:03}.pub.json", shard.0, EPOCH_LOCAL.0));
        // The public half first: a key that nobody can check must never sign.
        create_synced(&public_path, json(&public).as_bytes(), 0o644)?;
        create_synced(&self.ticket_key(EPOCH_LOCAL), json(&private).as_bytes(), 0o600)?;
        Ok(public_path)
    }
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(value).expect("plain data always serialises")
}

/// Creates `path` with `bytes`, on disk with its name when this returns. Never overwrites.
pub(crate) fn create_synced(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        RealDisk.sync_directory(directory_of(path))
    };
    write().map_err(|error| content(path, format!("cannot create it: {error}")))
}

/// Takes the cursor file at `path` for this process, before anything of it is read: whatever name
/// it was reached by, in whatever namespace, two processes never have the same one.
///
/// # Errors
/// There is none, another process has it, or it has a second name.
pub fn lock_cursor(disk: &dyn Disk, path: &Path) -> Result<Box<dyn DiskFile>, FileError> {
    disk.hold(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => content(path, "does not exist"),
        io::ErrorKind::WouldBlock => {
            content(path, "is held by another process; stop that one first")
        }
        io::ErrorKind::TooManyLinks => {
            content(path, "has a second hard link; remove it and find out who made it")
        }
        _ => content(path, error),
    })
}

/// Binds the abstract unix socket name of the shard; it is released with the process.
fn claim_name(campaign: CampaignId, shard: ShardId) -> Result<OwnedFd, Errno> {
    let name = format!("yao-shard-{campaign}-{shard}");
    let address = SocketAddrUnix::new_abstract_name(name.as_bytes())?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &address)?;
    Ok(socket)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use yao_protocol::{
        Fen, PacketIndex,
        seed_file::{Section, Segment},
    };

    /// A shard of one wave with `count` packets, of 1 fen each.
    pub(crate) fn seed_header(campaign: CampaignId, shard: ShardId, count: u32) -> SeedHeader {
        SeedHeader {
            campaign,
            shard,
            generation: 0,
            sponsor_count: 1,
            chunk_records: 10,
            record_count: count,
            sum: Fen(u64::from(count)),
            plan_digest: [1; 32],
            merkle_root: [2; 32],
            key_check: [3; 32],
            body_digest: [4; 32],
            sections: vec![Section {
                wave: WaveIndex(0),
                first: PacketIndex(0),
                count,
                sum: Fen(u64::from(count)),
                segments: vec![Segment { duration_us: 1, packets: count }],
            }],
        }
    }

    /// A campaign of its own per test: the abstract name is the host's, and tests run at once.
    fn header(campaign: u64) -> SeedHeader {
        seed_header(CampaignId(campaign), ShardId(3), 5)
    }

    fn initialised(root: &Path, campaign: u64) -> StateDir {
        let state = StateDir::new(root);
        state.init(&header(campaign), &root.join("keys")).expect("an empty directory");
        state
    }

    fn process_campaign(offset: u64) -> u64 {
        u64::from(std::process::id()) << 8 | offset
    }

    #[test]
    fn m4_one_process_at_a_time_owns_a_directory() {
        let folder = tempfile::tempdir().expect("a folder");
        let campaign = process_campaign(1);
        let state = initialised(folder.path(), campaign);
        let first = state.lock(CampaignId(campaign), ShardId(3)).expect("nobody has it");
        let again = state.lock(CampaignId(campaign), ShardId(3)).expect_err("the first has it");
        assert!(again.to_string().contains("held by another process"), "{again}");
        drop(first);
        drop(state.lock(CampaignId(campaign), ShardId(3)).expect("it was released"));
    }

    #[test]
    fn m4_a_copy_on_the_same_host_is_kept_off() {
        let folder = tempfile::tempdir().expect("a folder");
        let campaign = process_campaign(2);
        let original = initialised(&folder.path().join("a"), campaign);
        let copy = initialised(&folder.path().join("b"), campaign);
        let _first = original.lock(CampaignId(campaign), ShardId(3)).expect("nobody has it");
        let error = copy.lock(CampaignId(campaign), ShardId(3)).expect_err("the shard runs");
        assert!(error.to_string().contains("from another directory"), "{error}");
        copy.lock(CampaignId(campaign), ShardId(4)).expect("another shard is another matter");
    }

    #[test]
    fn m4_a_cursor_belongs_to_one_process_by_whatever_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let cursor = initialised(folder.path(), process_campaign(4)).cursor(WaveIndex(0));
        let first = lock_cursor(&RealDisk, &cursor).expect("nobody has it");
        let again = lock_cursor(&RealDisk, &cursor).expect_err("the first has it");
        assert!(again.to_string().contains("held by another process"), "{again}");
        let other = folder.path().join("other");
        fs::hard_link(&cursor, &other).expect("a second name");
        let linked = lock_cursor(&RealDisk, &other).expect_err("it is the same file");
        assert!(linked.to_string().contains("held by another process"), "{linked}");
        drop(first);
        let linked = lock_cursor(&RealDisk, &other).expect_err("two names");
        assert!(linked.to_string().contains("second hard link"), "{linked}");
        fs::remove_file(&other).expect("ours");
        lock_cursor(&RealDisk, &cursor).expect("it was released");
    }

    #[test]
    fn m2_init_is_once_and_a_missing_start_is_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let campaign = process_campaign(3);
        let bare = StateDir::new(folder.path());
        let error = bare.lock(CampaignId(campaign), ShardId(3)).expect_err("never initialised");
        assert!(error.to_string().contains("yao-access init"), "{error}");
        let state = initialised(folder.path(), campaign);
        let again = state.init(&header(campaign), &folder.path().join("keys"));
        assert!(again.expect_err("twice").to_string().contains("was initialised before"));
    }
}
