//! The money-disk thread: the only writer of cursors and journal, and the reader of the seed file.
//!
//! A reservation is durable before its packets are handed to the issuer (M1); the journal is synced
//! within `SYNC_MS_MAX` of an issue (M8). The first failure ends all persisting (M3).

use crate::{
    disk::DiskFile,
    files::{FileError, content},
    messages::ToIssuer,
    node::Node,
    seed_shard::SeedShard,
    segments::SegmentLog,
    slot_file::{SlotFile, SlotFileError, SlotMark},
    telemetry::DiskCounters,
    witness::Witness,
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, SyncSender},
    },
    time::Duration,
};
use yao_engine::{Timestamp, cursor::CursorWriter};
use yao_protocol::{
    PacketIndex, WaveIndex,
    cursor::{Cursor, GrantRecord},
    journal::{Event, SkipReason},
};

/// From a journal record to its fdatasync at most, ms (M8 allows 10).
const SYNC_MS_MAX: u64 = 4;
/// The seed file's path and descriptor are compared this often: a file that is changed or gone must
/// have fenced the shard within a second, with a slow sync and the way to `/readyz` in it.
const CHECK: Duration = Duration::from_millis(250);
/// How late the journal was is told of this long a time, as often.
const LATE_TIME: Duration = Duration::from_secs(1);

/// To the money-disk thread.
#[derive(Clone, Debug)]
pub enum ToMoneyDisk {
    /// Append this to the journal.
    Journal(Event),
    /// Raise the wave's cursor to `high` and read the packets from `first` on.
    Reserve {
        /// The wave.
        wave: WaveIndex,
        /// Position in the section of the first packet to read.
        first: u32,
        /// The new H.
        high: u32,
    },
    /// Write this grant into the wave's cursor, with H raised to where it begins.
    KeepGrant {
        /// The wave.
        wave: WaveIndex,
        /// The grant.
        grant: GrantRecord,
    },
    /// Write into the wave's cursor that nothing of it is granted to anybody of this directory.
    GiveUp {
        /// The wave.
        wave: WaveIndex,
    },
    /// Sync what there is, and end the thread.
    Stop,
}

/// The cursor of one wave, open.
#[derive(Debug)]
pub struct OpenCursor {
    /// Its file.
    pub file: SlotFile,
    /// Held for this process alone.
    pub lock: Box<dyn DiskFile>,
    /// What its next slot will say.
    pub writer: CursorWriter,
    /// What the kernel remembers of it.
    pub witness: Option<Witness>,
}

impl OpenCursor {
    /// Writes a slot; it is on disk when this returns `Ok`. The witness comes after it, so that it
    /// never knows more.
    fn write(&mut self, slot: &Cursor) -> Result<(), SlotFileError> {
        let payload = slot.encode();
        self.file.write(&payload)?;
        self.attest(SlotMark::new(self.file.sequence(), &payload));
        Ok(())
    }

    /// Tells the witness which slot is the newest.
    pub fn attest(&mut self, mark: SlotMark) {
        if let Some(witness) = &mut self.witness {
            witness.write(mark);
        }
    }

    /// Writes H once more into both slots, with this life's name, or none once it gave up.
    ///
    /// # Errors
    /// Those of the file.
    pub fn restate(&mut self) -> Result<(), FileError> {
        for slot in self.writer.raise(self.writer.high()) {
            self.write(&slot).map_err(|error| content(self.file.path(), error))?;
        }
        Ok(())
    }

    /// Puts a grant on disk, and H to where it begins.
    fn keep(&mut self, grant: GrantRecord) -> Result<(), SlotFileError> {
        for slot in self.writer.keep(grant) {
            self.write(&slot)?;
        }
        Ok(())
    }
}

/// What the thread owns.
#[derive(Debug)]
pub struct MoneyDisk {
    node: Arc<Node>,
    seed: SeedShard,
    journal: SegmentLog,
    cursors: BTreeMap<WaveIndex, OpenCursor>,
    /// For reserved packets and for bad news.
    issuer: SyncSender<ToIssuer>,
    /// Read by the control thread.
    counters: Arc<DiskCounters>,
    /// When the seed file is looked at next.
    check_at: Timestamp,
    /// When [`Self::late_ns_max`] is told next.
    late_at: Timestamp,
    /// Since when the oldest record waits for its sync.
    unsynced_since: Option<Timestamp>,
    /// Longest such wait since it was told last.
    late_ns_max: u64,
    /// Journal records taken so far.
    taken: u64,
}

/// Which file failed: the numbers of journal-file.md 5.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
enum Place {
    Journal = 0,
    Cursor = 1,
    Seed = 2,
}

impl MoneyDisk {
    /// The packets of `seed`, and what a start found: the journal, and the cursors by wave.
    #[must_use]
    pub fn new(
        node: Arc<Node>,
        seed: SeedShard,
        (journal, cursors): (SegmentLog, BTreeMap<WaveIndex, OpenCursor>),
        issuer: SyncSender<ToIssuer>,
        counters: Arc<DiskCounters>,
    ) -> Self {
        Self {
            check_at: node.clock.now().plus(CHECK),
            late_at: node.clock.now().plus(LATE_TIME),
            unsynced_since: None,
            late_ns_max: 0,
            taken: 0,
            node,
            seed,
            journal,
            cursors,
            issuer,
            counters,
        }
    }

    /// Runs until told to stop.
    pub fn run(mut self, queue: &Receiver<ToMoneyDisk>) {
        let mut at = self.check_at;
        loop {
            let message = match queue.recv_timeout(at.since(self.now())) {
                Ok(message) => Some(message),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => Some(ToMoneyDisk::Stop),
            };
            match self.turn(message) {
                Some(next) => at = next,
                None => return,
            }
        }
    }

    /// One turn of the thread: `message`, and the sync if that is due. When to turn next, unless a
    /// message comes; `None` when the thread shall end.
    pub fn turn(&mut self, message: Option<ToMoneyDisk>) -> Option<Timestamp> {
        let stop = matches!(message, Some(ToMoneyDisk::Stop));
        match message {
            Some(ToMoneyDisk::Journal(event)) => {
                self.unsynced_since = self.unsynced_since.or(Some(self.now()));
                self.taken += 1;
                self.append(&event);
            }
            Some(ToMoneyDisk::Reserve { wave, first, high }) => {
                if let Err((place, reason)) = self.reserve(wave, first, high) {
                    self.fence(place, reason);
                }
            }
            Some(ToMoneyDisk::KeepGrant { wave, grant }) => {
                if let Err((place, reason)) = self.keep_grant(wave, grant) {
                    self.fence(place, reason);
                }
            }
            Some(ToMoneyDisk::GiveUp { wave }) => {
                if let Err((place, reason)) = self.give_up(wave) {
                    self.fence(place, reason);
                }
            }
            Some(ToMoneyDisk::Stop) | None => {}
        }
        let now = self.now();
        if stop && self.journal.pending_bytes() > 0 {
            // What tells of reservations and grants waits for the issues behind it. There are none.
            self.unsynced_since = self.unsynced_since.or(Some(now));
        }
        if let Some(since) = self.unsynced_since
            && (stop || now >= since.plus_ms(SYNC_MS_MAX))
        {
            self.sync();
            if !self.is_fenced() {
                self.counters.journal_synced.set(self.taken);
            }
            self.unsynced_since = None;
            self.late_ns_max = self.now().ns_since(since).max(self.late_ns_max);
        }
        if stop {
            self.journal.trim();
            return None;
        }
        if now >= self.check_at {
            self.check(now);
        }
        let sync_at = self.unsynced_since.map(|since| since.plus_ms(SYNC_MS_MAX));
        Some(sync_at.unwrap_or(Timestamp::NEVER).min(self.check_at))
    }

    fn check(&mut self, now: Timestamp) {
        self.check_at = now.plus(CHECK);
        if now >= self.late_at {
            self.late_at = now.plus(LATE_TIME);
            self.counters.journal_late_us.set(std::mem::take(&mut self.late_ns_max) / 1_000);
        }
        if let Err(error) = self.seed.check_unchanged() {
            self.fence(Place::Seed, error.to_string());
        }
    }

    fn now(&self) -> Timestamp {
        self.node.clock.now()
    }

    fn append(&mut self, event: &Event) {
        if !self.journal.is_fenced() {
            let (kind, payload) = event.encode();
            self.journal.append(kind, &payload);
            self.counters.journal_records.add(1);
        }
    }

    fn sync(&mut self) {
        if self.journal.is_fenced() || self.journal.pending_bytes() == 0 {
            return;
        }
        self.counters.journal_syncs.add(1);
        if let Err(error) = self.journal.commit() {
            self.fence(Place::Journal, error.to_string());
        }
    }

    /// Raises H on disk, then reads what lies below it: never the other way round.
    ///
    /// What was issued before this was asked for is in the journal first. The new H leaves B
    /// packets unissued; one that was issued, and whose record a crash took, would be skipped
    /// beside them (M1).
    fn reserve(&mut self, wave: WaveIndex, first: u32, high: u32) -> Result<(), (Place, String)> {
        self.sync();
        if self.is_fenced() {
            return Ok(());
        }
        let at_cursor = |error: &dyn ToString| (Place::Cursor, error.to_string());
        let at_seed = |error: &dyn ToString| (Place::Seed, error.to_string());
        let cursor = self.cursors.get_mut(&wave);
        let cursor = cursor.ok_or_else(|| at_cursor(&"no cursor of this wave is open"))?;
        for slot in cursor.writer.raise(high) {
            cursor.write(&slot).map_err(|error| at_cursor(&error))?;
        }
        self.counters.cursor_raises.add(1);
        let section = self.seed.header().section(wave);
        let start = section.ok_or_else(|| at_seed(&"the seed file has no such wave"))?.first.0;
        let records = self.seed.read(start + first, start + high);
        let records = records.map_err(|error| at_seed(&error))?;
        self.append(&Event::Reserve { wave, high, at: self.node.clock.wall() });
        // The issuer's queue has room for every reservation: it asks for one at a time per wave.
        let message = ToIssuer::Reserved { wave, first, high, records };
        self.issuer.send(message).map_err(|_| at_cursor(&"the issuer has ended"))
    }

    /// Puts a grant on disk, and only then hands it to the issuer.
    fn keep_grant(&mut self, wave: WaveIndex, grant: GrantRecord) -> Result<(), (Place, String)> {
        if self.is_fenced() {
            return Ok(());
        }
        let at_cursor = |error: &dyn ToString| (Place::Cursor, error.to_string());
        let cursor = self.cursors.get_mut(&wave);
        let cursor = cursor.ok_or_else(|| at_cursor(&"no cursor of this wave is open"))?;
        let before = cursor.writer.high();
        cursor.keep(grant).map_err(|error| at_cursor(&error))?;
        let high = cursor.writer.high();
        let at = self.node.clock.wall();
        if high > before {
            // What was granted to others, or is not known to be unissued.
            let section = self.seed.header().section(wave);
            let section = section.ok_or_else(|| at_cursor(&"the seed file has no such wave"))?;
            let first = PacketIndex(section.first.0 + before);
            let (reason, count) = (SkipReason::Burnt, high - before);
            self.append(&Event::Reserve { wave, high, at });
            self.append(&Event::Skip { wave, reason, first, count, at });
        }
        let id = grant.id;
        self.append(&grant.event(wave, at));
        let message = ToIssuer::GrantKept { wave, id, high };
        self.issuer.send(message).map_err(|_| at_cursor(&"the issuer has ended"))
    }

    /// Puts on disk that the right is gone: else the next life would go on with what this one was
    /// told to leave.
    ///
    /// Whatever else has failed: a cursor that has is not written again by itself.
    fn give_up(&mut self, wave: WaveIndex) -> Result<(), (Place, String)> {
        let at_cursor = |error: &dyn ToString| (Place::Cursor, error.to_string());
        let cursor = self.cursors.get_mut(&wave);
        let cursor = cursor.ok_or_else(|| at_cursor(&"no cursor of this wave is open"))?;
        cursor.writer.give_up();
        cursor.restate().map_err(|error| at_cursor(&error))
    }

    fn is_fenced(&self) -> bool {
        self.counters.fenced.value() != 0
    }

    /// Says once that nothing is issued any more. Nothing is retried (M3).
    fn fence(&mut self, place: Place, reason: String) {
        if self.is_fenced() {
            return;
        }
        self.counters.fenced.set(1);
        tracing::error!(
            event = "shard_fenced",
            %reason,
            "nothing is issued until the cause is removed and the node restarted; shakes go on"
        );
        // A failed journal cannot say so.
        if !self.journal.is_fenced() {
            self.append(&Event::Fence { place: place as u8, at: self.node.clock.wall() });
            self.sync();
        }
        if self.issuer.send(ToIssuer::Fenced { reason }).is_err() {
            tracing::error!(event = "issuer_gone");
        }
    }
}
