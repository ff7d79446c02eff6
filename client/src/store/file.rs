//! A wallet in a file: an append-only log, rewritten compactly when it is opened or has grown.
//!
//! Layout: the segment header and records of `yao_protocol::log` (journal-file.md 4) with magic
//! `yaowalet`, shard, epoch and incarnation 0, first sequence 1. Record kinds and payloads:
//!
//! ```text
//! 1 tally    72 B            4 refused  u64 packet, u16 error code
//! 2 ticket  136 B            5 pending  u64 shake id, or nothing: no shake is pending
//! 3 receipt  72 B            6 reconnect  80 B of a ticket, or nothing: none is held
//! 7 opening  u64 packet      8 home  1 to 120 B, the text of an endpoint, or nothing
//! ```
//!
//! A program refuses a file with a kind that it does not know, as one that is damaged: to go on
//! without the record would be to forget at the next rewrite what another version promised. Kinds 1
//! to 6 are those of every version.
//!
//! A rewrite goes to a file beside it, is flushed, and then takes its place, so a crash leaves the
//! old file or the new one. A crash while appending leaves a torn tail, which is dropped: nobody
//! was told about a record that was not flushed.

use super::Store;
use crate::{
    error::StoreError,
    wallet::{Home, ReconnectSecret, Record, Wallet},
};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};
use yao_protocol::{
    CampaignId, Epoch, Incarnation, PacketId, ShakeId, ShardId, WireError,
    codec::{Put, Reader},
    log::{self, Scan, ScanEnd, SegmentHeader},
    ticket::Ticket,
};

const MAGIC: [u8; 8] = *b"yaowalet";
const FIRST_SEQUENCE: u64 = 1;
/// A longer file is rewritten: 1 MiB is some 14,000 shakes, and is read in milliseconds.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

const KIND_TALLY: u8 = 1;
const KIND_TICKET: u8 = 2;
const KIND_RECEIPT: u8 = 3;
const KIND_REFUSED: u8 = 4;
const KIND_PENDING: u8 = 5;
const KIND_RECONNECT: u8 = 6;
const KIND_OPENING: u8 = 7;
const KIND_HOME: u8 = 8;

/// The store in a file of its own per user and campaign.
#[derive(Debug)]
pub struct FileStore {
    path: PathBuf,
    campaign: CampaignId,
    wallet: Wallet,
    file: File,
    file_bytes: u64,
    sequence_next: u64,
    /// The first failure: after it nothing is written any more.
    failure: Option<StoreError>,
    /// Held for its lock, which ends with the process. Beside the file, because that is replaced.
    _lock: File,
}

impl FileStore {
    /// Opens the wallet at `path`, or makes an empty one. Flushes to disk, so it may take a moment.
    ///
    /// # Errors
    /// Another process has it, it holds another campaign, it is no wallet, or the disk fails.
    pub fn open(path: impl Into<PathBuf>, campaign: CampaignId) -> Result<Self, StoreError> {
        let path = path.into();
        let lock = lock(&path)?;
        let wallet = match fs::read(&path) {
            Ok(bytes) => read(&path, campaign, &bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Wallet::default(),
            Err(error) => return Err(failed("reading", &path, &error)),
        };
        let image = image(campaign, &wallet);
        let file = replace(&path, &image.bytes)?;
        Ok(Self {
            path,
            campaign,
            wallet,
            file,
            file_bytes: image.bytes.len() as u64,
            sequence_next: image.sequence_next,
            failure: None,
            _lock: lock,
        })
    }

    fn write(&mut self, record: &Record) -> Result<(), StoreError> {
        let mut bytes = Vec::new();
        put_record(&mut bytes, self.sequence_next, record);
        self.file.write_all(&bytes).map_err(|error| failed("writing", &self.path, &error))?;
        if record.must_be_durable() {
            self.file.sync_data().map_err(|error| failed("flushing", &self.path, &error))?;
        }
        self.sequence_next += 1;
        self.file_bytes += bytes.len() as u64;
        if self.file_bytes > FILE_BYTES_MAX {
            let image = image(self.campaign, &self.wallet);
            self.file = replace(&self.path, &image.bytes)?;
            self.file_bytes = image.bytes.len() as u64;
            self.sequence_next = image.sequence_next;
        }
        Ok(())
    }
}

impl Store for FileStore {
    fn load(&mut self) -> Result<Wallet, StoreError> {
        Ok(self.wallet.clone())
    }

    fn append(&mut self, record: &Record) -> Result<(), StoreError> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        self.wallet.apply(record).expect("the session applied it to its own wallet before");
        self.write(record).inspect_err(|failure| self.failure = Some(failure.clone()))
    }

    fn waits_for_disk(&self) -> bool {
        true
    }
}

/// A whole file.
struct Image {
    bytes: Vec<u8>,
    sequence_next: u64,
}

fn image(campaign: CampaignId, wallet: &Wallet) -> Image {
    let header = SegmentHeader {
        campaign,
        shard: ShardId(0),
        epoch: Epoch(0),
        incarnation: Incarnation::default(),
        first_sequence: FIRST_SEQUENCE,
    };
    let mut bytes = header.encode(MAGIC);
    let mut sequence_next = FIRST_SEQUENCE;
    for record in wallet.records() {
        put_record(&mut bytes, sequence_next, &record);
        sequence_next += 1;
    }
    Image { bytes, sequence_next }
}

/// The wallet in `bytes`. What follows a damaged place is kept too when it is whole: each record
/// proves itself by its checksum, and a ticket is money.
fn read(path: &Path, campaign: CampaignId, bytes: &[u8]) -> Result<Wallet, StoreError> {
    let mut wallet = Wallet::default();
    if bytes.len() < log::SEGMENT_HEADER_BYTES {
        // Nothing was ever stored behind a header that is not whole.
        return Ok(wallet);
    }
    let damaged = |reason| StoreError::Damaged { path: path.display().to_string(), reason };
    let header = SegmentHeader::decode(MAGIC, bytes).map_err(damaged)?;
    if header.campaign != campaign {
        let path = path.display().to_string();
        return Err(StoreError::OtherCampaign { path, campaign: header.campaign });
    }
    let mut scan = Scan::new(&bytes[log::SEGMENT_HEADER_BYTES..], header.first_sequence);
    for record in scan.by_ref() {
        let record = read_record(record.kind, record.payload).map_err(damaged)?;
        wallet.apply(&record).map_err(damaged)?;
    }
    if scan.end() != Some(ScanEnd::Clean) {
        for record in scan.salvage() {
            let record = read_record(record.kind, record.payload).map_err(damaged)?;
            wallet.apply(&record).map_err(damaged)?;
        }
    }
    Ok(wallet)
}

fn put_record(out: &mut Vec<u8>, sequence: u64, record: &Record) {
    let mut payload = Vec::new();
    let kind = match record {
        Record::Tally(bytes) => {
            payload.put(bytes);
            KIND_TALLY
        }
        Record::Ticket(ticket) => {
            payload.put(&ticket.encode());
            KIND_TICKET
        }
        Record::Receipt(bytes) => {
            payload.put(bytes);
            KIND_RECEIPT
        }
        Record::Refused { packet, code } => {
            payload.put_u64(packet.0);
            payload.put_u16(*code);
            KIND_REFUSED
        }
        Record::Pending(pending) => {
            if let Some(shake) = pending {
                payload.put_u64(shake.0);
            }
            KIND_PENDING
        }
        Record::Reconnect(secret) => {
            if let Some(secret) = secret {
                payload.put(&secret.0);
            }
            KIND_RECONNECT
        }
        Record::Opening(packet) => {
            payload.put_u64(packet.0);
            KIND_OPENING
        }
        Record::Home(home) => {
            if let Some(home) = home {
                payload.put(home.endpoint().as_bytes());
            }
            KIND_HOME
        }
    };
    log::Record { kind, sequence, committed: 0, payload: &payload }.put(out);
}

fn read_record(kind: u8, payload: &[u8]) -> Result<Record, WireError> {
    let mut r = Reader::new("a wallet record", payload);
    let record = match kind {
        KIND_TALLY => Record::Tally(r.array()?),
        KIND_TICKET => return Ticket::decode(payload).map(Record::Ticket),
        KIND_RECEIPT => Record::Receipt(r.array()?),
        KIND_REFUSED => Record::Refused { packet: PacketId(r.u64()?), code: r.u16()? },
        KIND_PENDING if payload.is_empty() => Record::Pending(None),
        KIND_PENDING => Record::Pending(Some(ShakeId(r.u64()?))),
        KIND_RECONNECT if payload.is_empty() => Record::Reconnect(None),
        KIND_RECONNECT => Record::Reconnect(Some(ReconnectSecret(r.array()?))),
        KIND_OPENING => Record::Opening(PacketId(r.u64()?)),
        // Only a hint: what is no text of ours leads nowhere.
        KIND_HOME => return Ok(Record::Home(str::from_utf8(payload).ok().and_then(Home::new))),
        other => {
            return Err(WireError::Value { field: "wallet record kind", value: u64::from(other) });
        }
    };
    r.finish()?;
    Ok(record)
}

/// Puts a file with `bytes` at `path`, whole or not at all, and returns it open for appending.
fn replace(path: &Path, bytes: &[u8]) -> Result<File, StoreError> {
    let beside = beside(path, "new");
    let write = || -> io::Result<File> {
        let mut file =
            private(OpenOptions::new().create(true).write(true).truncate(true)).open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        File::open(folder(path))?.sync_all()?;
        Ok(file)
    };
    write().map_err(|error| failed("replacing", path, &error))
}

fn lock(path: &Path) -> Result<File, StoreError> {
    let beside = beside(path, "lock");
    let file = private(OpenOptions::new().create(true).write(true).truncate(false))
        .open(&beside)
        .map_err(|error| failed("opening", &beside, &error))?;
    match try_lock(&file) {
        Ok(true) => Ok(file),
        Ok(false) => Err(StoreError::Locked { path: path.display().to_string() }),
        Err(error) => Err(failed("locking", &beside, &error)),
    }
}

/// False when another process has it. Asks the system itself: on Android `File::try_lock` of `std`
/// does nothing but say that it is not supported (Rust 1.95).
#[cfg(unix)]
fn try_lock(file: &File) -> io::Result<bool> {
    use rustix::fs::{FlockOperation, flock};
    match flock(file, FlockOperation::NonBlockingLockExclusive).map_err(io::Error::from) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}

/// False when another process has it.
#[cfg(not(unix))]
#[expect(clippy::disallowed_methods, reason = "where there is no flock, `std` has the lock")]
fn try_lock(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(fs::TryLockError::WouldBlock) => Ok(false),
        Err(fs::TryLockError::Error(error)) => Err(error),
    }
}

/// Whoever reads a ticket before it is opened cannot open it as another user, but need not see it.
fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    options
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(suffix);
    path.with_file_name(name)
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn failed(action: &'static str, path: &Path, error: &io::Error) -> StoreError {
    StoreError::Io { action, path: path.display().to_string(), message: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        session::testing::{CAMPAIGN, receipt, tally, ticket},
        wallet::Outcome,
    };

    fn story() -> Vec<Record> {
        vec![
            Record::Pending(Some(ShakeId(100))),
            Record::Tally(tally(1, 10)),
            Record::Ticket(ticket(1, 100)),
            Record::Pending(None),
            Record::Receipt(receipt(1)),
            Record::Pending(Some(ShakeId(101))),
            Record::Tally(tally(2, 20)),
            Record::Ticket(ticket(2, 101)),
            Record::Refused { packet: PacketId(2), code: 8 },
            Record::Reconnect(Some(ReconnectSecret([7; 80]))),
            Record::Reconnect(None),
            Record::Reconnect(Some(ReconnectSecret([8; 80]))),
            Record::Opening(PacketId(2)),
            Record::Ticket(ticket(3, 102)),
            Record::Opening(PacketId(3)),
            Record::Home(Home::new("tls+quic://node-1.example:443")),
            Record::Home(None),
            Record::Home(Home::new("[::1]:1")),
        ]
    }

    /// The wallet after each prefix of the story.
    fn prefixes(records: &[Record]) -> Vec<Wallet> {
        let mut wallet = Wallet::default();
        let mut wallets = vec![wallet.clone()];
        for record in records {
            wallet.apply(record).expect("valid");
            wallets.push(wallet.clone());
        }
        wallets
    }

    #[test]
    fn a_crash_at_any_byte_keeps_a_prefix_and_every_record_that_was_flushed() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("wallet");
        let records = story();
        let wallets = prefixes(&records);
        // Bytes of the file after each record, 0 records first.
        let mut ends = Vec::new();
        {
            let mut store = FileStore::open(&path, CAMPAIGN).expect("a new store");
            ends.push(fs::metadata(&path).expect("exists").len() as usize);
            for record in &records {
                store.append(record).expect("appended");
                ends.push(fs::metadata(&path).expect("exists").len() as usize);
            }
        }
        let whole = fs::read(&path).expect("readable");
        for cut in 0..=whole.len() {
            let at = folder.path().join("cut");
            fs::write(&at, &whole[..cut]).expect("written");
            let mut store = FileStore::open(&at, CAMPAIGN).expect("a torn tail is no error");
            let kept = ends.iter().filter(|end| **end <= cut).count().saturating_sub(1);
            assert_eq!(store.load().expect("loads"), wallets[kept], "cut at {cut}");
            // And it can go on from there; every seventh, because each flush takes a moment.
            if !cut.is_multiple_of(7) {
                continue;
            }
            store.append(&Record::Pending(Some(ShakeId(7)))).expect("appended");
            drop(store);
            let mut store = FileStore::open(&at, CAMPAIGN).expect("opens again");
            assert_eq!(store.load().expect("loads").pending(), Some(ShakeId(7)));
        }
    }

    #[test]
    fn a_flipped_byte_costs_at_most_the_record_it_is_in() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("wallet");
        let mut store = FileStore::open(&path, CAMPAIGN).expect("a new store");
        let records = [Record::Ticket(ticket(1, 1)), Record::Ticket(ticket(2, 2))];
        for record in &records {
            store.append(record).expect("appended");
        }
        drop(store);
        let mut bytes = fs::read(&path).expect("readable");
        bytes[log::SEGMENT_HEADER_BYTES + 30] ^= 1;
        fs::write(&path, &bytes).expect("written");
        let wallet = FileStore::open(&path, CAMPAIGN).expect("opens").load().expect("loads");
        let packets: Vec<u64> =
            wallet.holdings().iter().map(|held| held.ticket.body.packet.0).collect();
        assert_eq!(packets, [2]);
    }

    /// A file as the first version of the SDK wrote it: its kinds, and no other.
    #[test]
    fn a_file_of_the_first_version_is_read_and_a_kind_of_a_later_one_is_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("wallet");
        let mut bytes = image(CAMPAIGN, &Wallet::default()).bytes;
        let (ticket, receipt, tally) = (ticket(1, 100), receipt(1), tally(1, 10));
        let refused = [2, 0, 0, 0, 0, 0, 0, 0, 8, 0];
        let other = crate::session::testing::ticket(2, 101);
        let records: [(u8, &[u8]); 7] = [
            (1, &tally),
            (2, &ticket.encode()),
            (3, &receipt),
            (2, &other.encode()),
            (4, &refused),
            (5, &[7, 0, 0, 0, 0, 0, 0, 0]),
            (6, &[9; 80]),
        ];
        let mut sequence = FIRST_SEQUENCE;
        let mut put = |bytes: &mut Vec<u8>, kind, payload| {
            log::Record { kind, sequence, committed: 0, payload }.put(bytes);
            sequence += 1;
        };
        for (kind, payload) in records {
            put(&mut bytes, kind, payload);
        }
        fs::write(&path, &bytes).expect("written");
        let wallet = FileStore::open(&path, CAMPAIGN).expect("opens").load().expect("loads");
        let held: Vec<_> =
            wallet.holdings().iter().map(|held| (held.outcome, held.opening)).collect();
        assert_eq!(held, [(Outcome::Opened(receipt), false), (Outcome::Refused(8), false)]);
        assert_eq!(wallet.pending(), Some(ShakeId(7)));
        assert_eq!(wallet.reconnect(), Some(ReconnectSecret([9; 80])));
        put(&mut bytes, 200, &[][..]);
        fs::write(&path, &bytes).expect("written");
        let later = FileStore::open(&path, CAMPAIGN).expect_err("another version's");
        assert!(matches!(later, StoreError::Damaged { .. }), "{later:?}");
        assert_eq!(fs::read(&path).expect("readable"), bytes, "and nothing of it is lost");
    }

    #[test]
    fn a_store_is_for_one_process_and_one_campaign() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("wallet");
        let first = FileStore::open(&path, CAMPAIGN).expect("a new store");
        let second = FileStore::open(&path, CAMPAIGN);
        assert!(matches!(second, Err(StoreError::Locked { .. })), "{second:?}");
        drop(first);
        let other = FileStore::open(&path, CampaignId(1));
        assert!(matches!(other, Err(StoreError::OtherCampaign { .. })), "{other:?}");
        fs::write(&path, [b'x'; 200]).expect("written");
        let foreign = FileStore::open(&path, CAMPAIGN);
        assert!(matches!(foreign, Err(StoreError::Damaged { .. })), "{foreign:?}");
    }

    #[test]
    fn the_file_does_not_grow_without_bound() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("wallet");
        let mut store = FileStore::open(&path, CAMPAIGN).expect("a new store");
        store.append(&Record::Ticket(ticket(1, 1))).expect("appended");
        for shake in 0..40_000 {
            store.append(&Record::Pending(Some(ShakeId(shake)))).expect("appended");
        }
        assert!(fs::metadata(&path).expect("exists").len() <= FILE_BYTES_MAX);
        drop(store);
        let wallet = FileStore::open(&path, CAMPAIGN).expect("opens").load().expect("loads");
        assert_eq!((wallet.holdings().len(), wallet.pending()), (1, Some(ShakeId(39_999))));
    }

    #[test]
    fn after_a_failure_nothing_is_written_any_more() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("wallet");
        let mut store = FileStore::open(&path, CAMPAIGN).expect("a new store");
        // A file that cannot be written stands for a disk that fails.
        let good = std::mem::replace(&mut store.file, File::open(&path).expect("read-only"));
        let record = Record::Ticket(ticket(1, 1));
        let failure = store.append(&record).expect_err("the disk refuses");
        store.file = good;
        assert_eq!(store.append(&record), Err(failure));
    }
}
