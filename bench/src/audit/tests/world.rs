//! A small finished event, written as files by `protocol`'s encoders. Each test changes one thing
//! before it is written, or one file afterwards.
//!
//! Eight packets of four sponsors, one a second, at ten times the speed. Packets 0 to 3 were
//! journaled; the crash that followed took the record of packet 4, whose ticket its user has, and
//! left packet 5 below H. Packets 6 and 7 nobody won. All but packet 3 were opened; packet 4 was
//! user 1's second of sponsor 0 and is not paid.

use crate::audit::{
    AuditArgs, Verdict,
    evidence::Evidence,
    judge::judge,
    ledger::{Ledger, Row, Total},
};
use anyhow::Result;
use std::{
    fs,
    path::{Path, PathBuf},
};
use yao_protocol::{
    CampaignId, Epoch, Fen, Incarnation, KeyId, PacketId, PacketIndex, ShakeId, ShardId, SponsorId,
    UserId, WallTime, WaveIndex,
    cursor::{self, Cursor},
    hex,
    journal::{self, Event},
    keys::{KeyOwner, MacKey, PublicKeyFile, SignKey},
    log::{Record, SegmentHeader},
    manifest::{Manifest, ShardEntry, SponsorPlan, WavePlan},
    receipt::Receipt,
    schedule::{Schedule, WaveSchedule},
    seed_file::{Merkle, Salts, Section, SeedHeader, SeedRecord, Segment, ShardKey},
    slots::Slot,
    spool::{self, Open, Watermark},
    ticket::{Ticket, TicketBody},
};

pub(super) const CAMPAIGN: CampaignId = CampaignId(7);
const SHARD: ShardId = ShardId(3);
const WAVE: WaveIndex = WaveIndex(0);
/// Shards of the campaign, all alike; only ours was generated.
const SHARDS: u32 = 4;
/// Packets of our shard.
const PACKETS: u32 = 8;
const SECOND_US: u64 = 1_000_000;
const FACTOR: u32 = 10;
const LIFETIME_SECONDS: u64 = 3_600;
pub(super) const T0: WallTime = WallTime(1_700_000_000_000_000);
/// From winning moment to issue, of every packet.
pub(super) const LAG_US: u64 = 4_000;

/// What is about to be written.
pub(super) struct World {
    directory: tempfile::TempDir,
    pub(super) records: Vec<SeedRecord>,
    pub(super) cursor: Cursor,
    pub(super) events: Vec<Event>,
    pub(super) opens: Vec<Open>,
    /// Sequence of the first open that is still there.
    pub(super) opens_from: u64,
    pub(super) watermark: u64,
    pub(super) ledger: Ledger,
    pub(super) tickets: Vec<Ticket>,
    pub(super) receipts: Vec<Receipt>,
    /// Whether the node's disk failed on purpose.
    pub(super) fences_allowed: bool,
    /// Done to the manifest before it is signed.
    pub(super) plan: fn(&mut Manifest),
    /// Done to the files when they are written.
    pub(super) after: fn(&Path),
}

impl World {
    /// A world whose books balance.
    pub(super) fn new() -> Self {
        let users = [1, 2, 3, 1, 1];
        let tickets: Vec<Ticket> =
            (0..).zip(users).map(|(index, user)| sign(&body(index, user))).collect();
        let open = |index: usize| {
            let ticket = tickets[index];
            Open { accepted_at: WallTime(ticket.body.issued_at.0 + SECOND_US), ticket }
        };
        let opens: Vec<Open> = [0, 1, 2, 4].map(open).to_vec();
        let receipt = |open: &Open| Receipt {
            campaign: CAMPAIGN,
            packet: open.ticket.body.packet,
            user: open.ticket.body.user,
            accepted_at: open.accepted_at,
        };
        let mut world = Self {
            directory: tempfile::tempdir().expect("a temporary directory"),
            records: (0..PACKETS).map(record).collect(),
            cursor: cursor(6, 8),
            events: Vec::new(),
            receipts: opens.iter().map(receipt).collect(),
            opens,
            opens_from: 1,
            watermark: 4,
            ledger: Ledger::default(),
            tickets,
            fences_allowed: false,
            plan: |_| (),
            after: |_| (),
        };
        world.events.extend([start(1), Event::Reserve { wave: WAVE, high: 6, at: T0 }]);
        world.events.extend(world.tickets[..4].iter().map(|ticket| Event::Issue(ticket.body)));
        world.events.push(start(2));
        world.cursor.merkle_root = merkle_root(0, SHARD, &world.records);
        world.settle();
        world
    }

    /// Makes the ledger's rows and totals what the spool's opens become.
    pub(super) fn settle(&mut self) {
        let row = |open: &Open| Row {
            packet: open.ticket.body.packet.0,
            user: open.ticket.body.user.0,
            sponsor: open.ticket.body.sponsor.number(),
            amount: open.ticket.body.amount.0,
            state: if open.ticket.body.packet == packet(4) { "over_limit" } else { "applied" }
                .to_owned(),
            accepted_at: open.accepted_at.0,
            settled_at: open.accepted_at.0 + 1,
        };
        self.ledger.rows = self.opens.iter().map(row).collect();
        self.total();
    }

    /// Makes the ledger's totals those of its rows.
    pub(super) fn total(&mut self) {
        let rows = &self.ledger.rows;
        let total = |state: &str| {
            let chosen = || rows.iter().filter(|row| row.state == state);
            let sum = chosen().fold(0, |sum: u64, row| sum.saturating_add(row.amount));
            (state.to_owned(), Total { packets: chosen().count() as u64, sum })
        };
        self.ledger.totals = ["applied", "over_limit", "expired"].map(total).to_vec();
    }

    /// Writes everything, reads it as the command does, and judges.
    pub(super) fn judge(self) -> Result<Verdict> {
        let mut evidence = Evidence::read(&self.prepare())?;
        evidence.ledger = self.ledger;
        Ok(judge(&evidence))
    }

    /// Writes everything but what the ledger says, and says where it is.
    pub(super) fn prepare(&self) -> AuditArgs {
        let root = self.root();
        for folder in ["seeds", "keys"] {
            fs::create_dir_all(root.join(folder)).expect("a temporary directory");
        }
        self.write_keys();
        self.write_seeds();
        let state = State {
            cursor: &self.cursor,
            events: &self.events,
            opens: &self.opens,
            opens_from: self.opens_from,
            watermark: self.watermark,
        };
        state.write(&root.join("state"));
        self.write_ticket_log();
        (self.after)(root);
        AuditArgs { allow_fences: self.fences_allowed, ..arguments(root) }
    }

    /// Where it is written.
    pub(super) fn root(&self) -> &Path {
        self.directory.path()
    }

    fn write(&self, path: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.directory.path().join(path), bytes).expect("a temporary directory");
    }

    fn write_keys(&self) {
        let ticket = KeyOwner::Ticket { campaign: CAMPAIGN, shard: SHARD, epoch: Epoch(1) };
        let owners = [
            ("campaign-7", KeyOwner::Campaign { campaign: CAMPAIGN }, campaign_key()),
            ("ticket-00003-001", ticket, ticket_key()),
        ];
        for (name, owner, key) in owners {
            let file = PublicKeyFile { owner, key: key.public().to_bytes() };
            let text = serde_json::to_string(&file).expect("plain data");
            self.write(&format!("keys/{name}.pub.json"), text);
        }
        let wave = WaveSchedule { index: WAVE, t0: Some(T0), factor: FACTOR, grace_seconds: 10 };
        let schedule = Schedule { version: 1, campaign: CAMPAIGN, waves: vec![wave] };
        self.write("schedule.toml", schedule.encode());
    }

    fn write_seeds(&self) {
        let sealed = Sealed::new(0, SHARD, WAVE, &self.records);
        sealed.write(&self.root().join("seeds"));
        let mut manifest = manifest(&sealed, &self.records);
        (self.plan)(&mut manifest);
        self.write("seeds/manifest.yaomanifest", manifest.encode(&campaign_key()));
    }

    fn write_ticket_log(&self) {
        let tickets = self.tickets.iter().map(|ticket| line('W', &ticket.encode()));
        let mac_key = MacKey::new(KeyId(1), [9; 32]);
        let receipts = self.receipts.iter().map(|receipt| line('R', &receipt.encode(&mac_key)));
        self.write("tickets.log", tickets.chain(receipts).collect::<String>());
    }
}

/// What a node leaves in its state directory.
pub(super) struct State<'a> {
    pub(super) cursor: &'a Cursor,
    pub(super) events: &'a [Event],
    pub(super) opens: &'a [Open],
    pub(super) opens_from: u64,
    pub(super) watermark: u64,
}

impl State<'_> {
    pub(super) fn write(&self, folder: &Path) {
        for name in ["cursor", "journal", "spool"] {
            fs::create_dir_all(folder.join(name)).expect("a temporary directory");
        }
        let write = |name: &str, bytes: Vec<u8>| {
            fs::write(folder.join(name), bytes).expect("a temporary directory");
        };
        let shard = self.cursor.shard;
        let slots = [10, 11]
            .map(|sequence| Slot { sequence, payload: self.cursor.encode() }.encode(cursor::MAGIC));
        write(&format!("cursor/wave-{:03}.yaocursor", self.cursor.wave.0), slots.concat());
        let events: Vec<(u8, Vec<u8>)> = self.events.iter().map(Event::encode).collect();
        write(
            "journal/journal-00000000000000000001.yaojournal",
            segment(shard, journal::MAGIC, 1, &events),
        );
        let opens: Vec<(u8, Vec<u8>)> =
            self.opens.iter().map(|open| (spool::KIND_OPEN, open.encode().to_vec())).collect();
        write(
            &format!("spool/spool-{:020}.yaospool", self.opens_from),
            segment(shard, spool::MAGIC, self.opens_from, &opens),
        );
        let (settled, answer_digest) = (self.watermark, [0; 32]);
        let watermark = Watermark { campaign: CAMPAIGN, shard, settled, answer_digest };
        let slots = [0, 1].map(|sequence| {
            Slot { sequence, payload: watermark.encode() }.encode(spool::WATERMARK_MAGIC)
        });
        write("spool/watermark.yaomark", slots.concat());
    }
}

/// A shard as it is generated.
pub(super) struct Sealed {
    pub(super) header: SeedHeader,
    bytes: Vec<u8>,
    key: ShardKey,
}

impl Sealed {
    /// A shard of one section; each generation is one plan.
    pub(super) fn new(
        generation: u8,
        shard: ShardId,
        wave: WaveIndex,
        records: &[SeedRecord],
    ) -> Self {
        let key = shard_key(generation, shard);
        let sum = Fen(records.iter().map(|record| record.amount.0).sum());
        let count = u32::try_from(records.len()).expect("few");
        let duration_us = u64::from(count) * SECOND_US;
        let segments = vec![Segment { duration_us, packets: count }];
        let mut header = SeedHeader {
            campaign: CAMPAIGN,
            shard,
            generation,
            sponsor_count: 4,
            chunk_records: 3,
            record_count: count,
            sum,
            plan_digest: [5 + generation; 32],
            merkle_root: merkle_root(generation, shard, records),
            key_check: key.check(),
            body_digest: [0; 32],
            sections: vec![Section { wave, first: PacketIndex(0), count, sum, segments }],
        };
        let mut sealed = Vec::new();
        for (chunk, records) in (0..).zip(records.chunks(3)) {
            let mut buffer: Vec<u8> = records.iter().flat_map(SeedRecord::encode).collect();
            key.seal(&header.plan_digest, chunk, &mut buffer);
            sealed.extend(buffer);
        }
        header.body_digest = *blake3::hash(&sealed).as_bytes();
        let mut bytes = header.encode(&campaign_key());
        bytes.extend(sealed);
        Self { header, bytes, key }
    }

    /// Its line of the manifest.
    pub(super) fn entry(&self) -> ShardEntry {
        let header = &self.header;
        ShardEntry {
            shard: header.shard,
            file: format!("shard-{:05}.yaoseed", header.shard.0),
            bytes: self.bytes.len() as u64,
            hash: *blake3::hash(&self.bytes).as_bytes(),
            packets: header.record_count,
            sum: header.sum,
            merkle_root: header.merkle_root,
        }
    }

    /// Writes file and key.
    pub(super) fn write(&self, folder: &Path) {
        let name = format!("shard-{:05}", self.header.shard.0);
        let key = serde_json::to_string(&self.key).expect("plain data");
        fs::write(folder.join(format!("{name}.yaoseed")), &self.bytes).expect("a directory");
        fs::write(folder.join(format!("{name}.yaokey")), key).expect("a directory");
    }
}

fn arguments(root: &Path) -> AuditArgs {
    AuditArgs {
        manifest: root.join("seeds/manifest.yaomanifest"),
        seeds: root.join("seeds"),
        keys: root.join("keys"),
        state: root.join("state"),
        spool_fallback: Some(root.join("fallback")).filter(|folder| folder.exists()),
        schedule: root.join("schedule.toml"),
        reclaimed: Vec::new(),
        reclaimed_state: Vec::new(),
        reclaimed_schedule: Vec::new(),
        reclaimed_spool_fallback: Vec::new(),
        allow_late_opens: 0,
        ledger: String::new(),
        tickets: vec![root.join("tickets.log")],
        allow_fences: false,
        ledger_dump: None::<PathBuf>,
        json: false,
    }
}

fn line(letter: char, bytes: &[u8]) -> String {
    format!("{letter} {}\n", hex::encode(bytes))
}

pub(super) fn campaign_key() -> SignKey {
    SignKey::from_seed(&[1; 32])
}

fn ticket_key() -> SignKey {
    SignKey::from_seed(&[2; 32])
}

fn shard_key(generation: u8, shard: ShardId) -> ShardKey {
    ShardKey {
        campaign: CAMPAIGN,
        shard,
        generation,
        seal_key: [3; 32],
        salt_key: [4; 32],
        mac_key_id: KeyId(1),
        mac_key: [9; 32],
    }
}

/// The packet at `index` of the shard.
pub(super) const fn packet(index: u32) -> PacketId {
    PacketId::new(0, SHARD, PacketIndex(index))
}

pub(super) fn record(index: u32) -> SeedRecord {
    let sponsor = SponsorId::new(u8::try_from(index % 4).expect("below 4")).expect("below 64");
    let amount = Fen(100 + u64::from(index));
    SeedRecord { offset_us: u64::from(index) * SECOND_US, amount, sponsor }
}

/// The ticket of the packet at `index`, issued to `user` as the plan says.
pub(super) fn body(index: u32, user: u64) -> TicketBody {
    let planned = record(index);
    let issued_at = WallTime(T0.0 + planned.offset_us / u64::from(FACTOR) + LAG_US);
    TicketBody {
        campaign: CAMPAIGN,
        packet: packet(index),
        user: UserId(user),
        amount: planned.amount,
        shake: ShakeId(u64::from(index) + 1_000),
        issued_at,
        expires_at: WallTime(issued_at.0 + LIFETIME_SECONDS * SECOND_US),
        shard: SHARD,
        epoch: Epoch(1),
        sponsor: planned.sponsor,
        wave: WAVE,
    }
}

/// `body` as the node signs it.
pub(super) fn sign(body: &TicketBody) -> Ticket {
    body.sign(&ticket_key())
}

/// The start of the node's life `life`.
pub(super) const fn start(life: u8) -> Event {
    Event::Start { incarnation: Incarnation([life; 16]), boot_id: [1; 16], at: T0 }
}

pub(super) fn cursor(high: u32, next_high_max: u32) -> Cursor {
    Cursor {
        campaign: CAMPAIGN,
        shard: SHARD,
        generation: 0,
        wave: WAVE,
        epoch: Epoch(1),
        merkle_root: [0; 32],
        incarnation: Incarnation([2; 16]),
        high,
        next_high_max,
        inode: 1,
        born_ns: 0,
        boot_id: [1; 16],
        asked: false,
        grant: None,
    }
}

fn merkle_root(generation: u8, shard: ShardId, records: &[SeedRecord]) -> [u8; 32] {
    let mut salts = vec![[0; 16]; records.len()];
    Salts::new(&shard_key(generation, shard).salt_key, PacketIndex(0)).fill(&mut salts);
    let mut merkle = Merkle::default();
    for (index, (record, salt)) in (0..).zip(records.iter().zip(&salts)) {
        let packet = PacketId::new(generation, shard, PacketIndex(index));
        merkle.push(Merkle::leaf(CAMPAIGN, packet, record, salt));
    }
    merkle.root()
}

/// A manifest of as many shards like this one as there are; only this one was generated.
pub(super) fn manifest(sealed: &Sealed, records: &[SeedRecord]) -> Manifest {
    let header = &sealed.header;
    let sponsor = |number: u8| {
        let sponsor = SponsorId::new(number).expect("below 64");
        let of = || records.iter().filter(|record| record.sponsor == sponsor);
        let sum = Fen(of().map(|record| record.amount.0).sum::<u64>() * u64::from(SHARDS));
        let packets = of().count() as u64 * u64::from(SHARDS);
        SponsorPlan { sponsor, name: format!("sponsor {number}"), packets, sum }
    };
    let section = &header.sections[0];
    let packets = u64::from(header.record_count * SHARDS);
    let sum = Fen(header.sum.0 * u64::from(SHARDS));
    Manifest {
        campaign: CAMPAIGN,
        name: "small".to_owned(),
        currency: "CNY".to_owned(),
        exponent: 2,
        plan_digest: header.plan_digest,
        packets,
        budget: sum,
        wins_per_user: 3,
        wins_per_sponsor: 1,
        ticket_lifetime_seconds: LIFETIME_SECONDS,
        sponsors: (0..4).map(sponsor).collect(),
        waves: vec![WavePlan {
            wave: section.wave,
            name: "one".to_owned(),
            duration_us: section.duration_us(),
            packets,
            sum,
        }],
        shard_count: SHARDS,
        shards: vec![sealed.entry()],
        reclaimed: None,
    }
}

/// A segment whose records each know all earlier ones to be on disk.
fn segment(
    shard: ShardId,
    magic: [u8; 8],
    first_sequence: u64,
    records: &[(u8, Vec<u8>)],
) -> Vec<u8> {
    let header = SegmentHeader {
        campaign: CAMPAIGN,
        shard,
        epoch: Epoch(1),
        incarnation: Incarnation([1; 16]),
        first_sequence,
    };
    let mut bytes = header.encode(magic);
    for (sequence, (kind, payload)) in (first_sequence..).zip(records) {
        Record { kind: *kind, sequence, committed: sequence - 1, payload }.put(&mut bytes);
    }
    bytes
}
