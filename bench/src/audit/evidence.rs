//! What the event left behind, read from files. Judges nothing but whether bytes are what they say.

use super::{AuditArgs, ledger::Ledger};
use anyhow::{Context, Result, bail, ensure};
use std::{
    fs,
    path::{Path, PathBuf},
};
use yao_protocol::{
    CampaignId, ShardId,
    cursor::{self, Cursor},
    hex,
    journal::{self, Event},
    keys::{KeyOwner, KeySet, PublicKey, PublicKeyFile},
    limits::SEAL_TAG_BYTES,
    log::{Record, SEGMENT_HEADER_BYTES, Scan, ScanEnd, SegmentHeader},
    manifest::Manifest,
    receipt::{RECEIPT_BYTES, Receipt},
    schedule::Schedule,
    seed_file::{Merkle, Salts, SeedHeader, SeedRecord, ShardKey, decode_records},
    slots::SlotPair,
    spool::{self, Open, Watermark},
    ticket::{TICKET_BYTES, Ticket},
};

/// Everything that is judged.
pub(super) struct Evidence {
    pub(super) manifest: Manifest,
    pub(super) keys: KeySet,
    pub(super) schedule: Schedule,
    pub(super) header: SeedHeader,
    /// The plan: every packet of the shard, by index.
    pub(super) records: Vec<SeedRecord>,
    pub(super) shard_key: ShardKey,
    /// One per wave. H is what a start would take it for: the limit of the next raise when one slot
    /// is lost (M2).
    pub(super) cursors: Vec<Cursor>,
    /// The journal, in order.
    pub(super) events: Vec<Event>,
    /// The spool: sequence and open.
    pub(super) opens: Vec<(u64, Open)>,
    /// Opens with a lower sequence were settled and their segments removed.
    pub(super) opens_from: u64,
    /// Every open up to here has its final answer.
    pub(super) settled_until: u64,
    pub(super) ledger: Ledger,
    /// Tickets that clients saw, as they were seen.
    pub(super) tickets: Vec<Ticket>,
    pub(super) receipts: Vec<[u8; RECEIPT_BYTES]>,
    /// What is wrong with the files themselves.
    pub(super) problems: Vec<String>,
}

impl Evidence {
    /// Reads everything but the ledger.
    ///
    /// # Errors
    /// A file that is missing, unreadable, or not signed by its owner.
    pub(super) fn read(args: &AuditArgs) -> Result<Self> {
        let keys = read_keys(&args.keys)?;
        let schedule = Schedule::decode(&text(&args.schedule)?)
            .with_context(|| format!("{}", args.schedule.display()))?;
        let campaign_key = keys.campaign(schedule.campaign);
        let campaign_key = campaign_key.with_context(|| {
            let (folder, campaign) = (args.keys.display(), schedule.campaign);
            format!("{folder} holds no key of campaign {campaign}")
        })?;
        let manifest = Manifest::decode(&text(&args.manifest)?, &campaign_key)
            .with_context(|| format!("{}", args.manifest.display()))?;
        let mut problems = Vec::new();
        let cursors = read_cursors(&args.state)?;
        let Some(shard) = cursors.first().map(|cursor| cursor.shard) else {
            bail!("{} holds no cursor: no shard was ever started there", args.state.display());
        };
        let shard_key = read_shard_key(&args.seeds, shard)?;
        let path = args.seeds.join(format!("shard-{:05}.yaoseed", shard.0));
        let (header, records) =
            read_shard(&path, &campaign_key, &manifest, &shard_key, &mut problems)
                .with_context(|| format!("{}", path.display()))?;
        let owner = (schedule.campaign, shard);
        let events = read_journal(&args.state.join("journal"), owner, &mut problems)?;
        let folder = args.state.join("spool");
        let (opens_from, opens) = read_spool(&folder, owner, &mut problems)?;
        let settled_until = read_watermark(&folder.join("watermark.yaomark"))?;
        let (tickets, receipts) = read_ticket_logs(&args.tickets)?;
        Ok(Self {
            manifest,
            keys,
            schedule,
            header,
            records,
            shard_key,
            cursors,
            events,
            opens,
            opens_from: opens_from.unwrap_or(settled_until + 1),
            settled_until,
            ledger: Ledger::default(),
            tickets,
            receipts,
            problems,
        })
    }
}

fn text(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Files of `folder` whose names begin and end so, in the order of their names.
fn files(folder: &Path, prefix: &str, suffix: &str) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()));
    let mut found = Vec::new();
    for entry in entries? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with(prefix) && name.ends_with(suffix) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn read_keys(folder: &Path) -> Result<KeySet> {
    let mut keys = KeySet::default();
    for path in files(folder, "", ".pub.json")? {
        let file: PublicKeyFile = serde_json::from_str(&text(&path)?)
            .with_context(|| format!("{} is no public key", path.display()))?;
        // Whose key it is must be known before any signature counts.
        let known = matches!(
            file.owner,
            KeyOwner::Campaign { .. } | KeyOwner::Ticket { .. } | KeyOwner::Settlement { .. }
        );
        ensure!(known, "{} has no known owner", path.display());
        keys.add(&file).with_context(|| format!("{}", path.display()))?;
    }
    Ok(keys)
}

fn read_shard_key(seeds: &Path, shard: ShardId) -> Result<ShardKey> {
    let path = seeds.join(format!("shard-{:05}.yaokey", shard.0));
    serde_json::from_str(&text(&path)?).with_context(|| format!("{} is no key", path.display()))
}

/// The plan of one shard, opened and held against the manifest.
fn read_shard(
    path: &Path,
    campaign_key: &PublicKey,
    manifest: &Manifest,
    key: &ShardKey,
    problems: &mut Vec<String>,
) -> Result<(SeedHeader, Vec<SeedRecord>)> {
    let bytes = fs::read(path).context("cannot read it")?;
    let length = SeedHeader::peek_length(&bytes)?.min(bytes.len());
    let header = SeedHeader::decode(&bytes[..length], campaign_key)?;
    let records = open_records(&header, key, &bytes[length..])?;
    check_plan(manifest, &header, &records, &bytes, key, problems);
    Ok((header, records))
}

fn open_records(header: &SeedHeader, key: &ShardKey, body: &[u8]) -> Result<Vec<SeedRecord>> {
    let mut records = Vec::with_capacity(body.len() / 16);
    for chunk in 0..header.chunk_count() {
        let range = header.chunk_bytes(chunk);
        let (start, end) = (usize::try_from(range.start)?, usize::try_from(range.end)?);
        let mut buffer = body.get(start..end).context("the file ends within a chunk")?.to_vec();
        ensure!(buffer.len() > SEAL_TAG_BYTES, "chunk {chunk} is empty");
        key.open(&header.plan_digest, chunk, &mut buffer)
            .with_context(|| format!("chunk {chunk}"))?;
        records.extend(decode_records(&buffer)?);
    }
    Ok(records)
}

/// The seed file against the manifest: digest, count, sum and Merkle root, all reckoned again.
fn check_plan(
    manifest: &Manifest,
    header: &SeedHeader,
    records: &[SeedRecord],
    bytes: &[u8],
    key: &ShardKey,
    problems: &mut Vec<String>,
) {
    let shard = header.shard;
    let Some(entry) = manifest.shard(shard) else {
        problems.push(format!("the manifest does not list shard {shard}"));
        return;
    };
    if *blake3::hash(bytes).as_bytes() != entry.hash {
        problems.push(format!("shard {shard} is not the file that the manifest lists"));
    }
    let sum: u64 = records.iter().map(|record| record.amount.0).sum();
    let counted = (records.len() as u64, sum);
    if counted != (u64::from(entry.packets), entry.sum.0) {
        problems.push(format!(
            "shard {shard} holds {} packets of {} in all; the manifest says {} of {}",
            counted.0, counted.1, entry.packets, entry.sum.0
        ));
    }
    let mut salts = vec![[0_u8; 16]; records.len()];
    Salts::new(&key.salt_key, yao_protocol::PacketIndex(0)).fill(&mut salts);
    let mut merkle = Merkle::default();
    for (index, (record, salt)) in (0_u32..).zip(records.iter().zip(&salts)) {
        let packet =
            yao_protocol::PacketId::new(header.generation, shard, yao_protocol::PacketIndex(index));
        merkle.push(Merkle::leaf(manifest.campaign, packet, record, salt));
    }
    if merkle.root() != entry.merkle_root {
        problems.push(format!("shard {shard}: its packets do not hash to the manifest's root"));
    }
}

fn read_cursors(state: &Path) -> Result<Vec<Cursor>> {
    let mut cursors = Vec::new();
    for path in files(&state.join("cursor"), "wave-", ".yaocursor")? {
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let pair = SlotPair::decode(cursor::MAGIC, &bytes);
        let pair = pair.with_context(|| format!("{}: both slots are bad", path.display()))?;
        let mut cursor =
            Cursor::decode(&pair.newest.payload).with_context(|| format!("{}", path.display()))?;
        if !pair.both_valid {
            cursor.high = cursor.next_high_max;
        }
        cursors.push(cursor);
    }
    cursors.sort_by_key(|cursor| cursor.wave);
    Ok(cursors)
}

fn read_watermark(path: &Path) -> Result<u64> {
    if !path.exists() {
        return Ok(0);
    }
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let pair = SlotPair::decode(spool::WATERMARK_MAGIC, &bytes)
        .with_context(|| format!("{}", path.display()))?;
    Ok(Watermark::decode(&pair.newest.payload)?.settled)
}

type Owner = (CampaignId, ShardId);

fn read_journal(folder: &Path, owner: Owner, problems: &mut Vec<String>) -> Result<Vec<Event>> {
    let mut events = Vec::new();
    let kind = ("journal-", ".yaojournal", journal::MAGIC);
    let first = read_log(folder, kind, owner, problems, |record| {
        events.push(Event::decode(record.kind, record.payload)?);
        Ok(())
    })?;
    // No segment of it is ever removed, and a start is on disk before anything is reserved.
    match first {
        Some(1) => {}
        Some(first) => {
            problems.push(format!("{} begins only at record {first}", folder.display()));
        }
        None => problems.push(format!("{} holds no record", folder.display())),
    }
    Ok(events)
}

/// The sequence at which the spool begins, and its opens with theirs.
type Spooled = (Option<u64>, Vec<(u64, Open)>);

fn read_spool(folder: &Path, owner: Owner, problems: &mut Vec<String>) -> Result<Spooled> {
    let mut opens = Vec::new();
    let kind = ("spool-", ".yaospool", spool::MAGIC);
    let first = read_log(folder, kind, owner, problems, |record| {
        opens.push((record.sequence, Open::decode(record.payload)?));
        Ok(())
    })?;
    Ok((first, opens))
}

/// Every record of a log; the first sequence that is there.
///
/// Bytes that are no record are a problem, unless they are the tail of the last segment that a
/// killed writer left and nothing valid follows.
fn read_log(
    folder: &Path,
    (prefix, suffix, magic): (&str, &str, [u8; 8]),
    owner: Owner,
    problems: &mut Vec<String>,
    mut visit: impl FnMut(Record<'_>) -> Result<()>,
) -> Result<Option<u64>> {
    let paths = files(folder, prefix, suffix)?;
    let (mut expected, mut committed) = (None, 0);
    let mut first = None;
    for (number, path) in paths.iter().enumerate() {
        let shown = path.display();
        let bytes = fs::read(path).with_context(|| format!("cannot read {shown}"))?;
        if bytes.len() <= SEGMENT_HEADER_BYTES {
            continue;
        }
        let named = first_sequence(path, prefix, suffix)?;
        check_header(path, &bytes, magic, named, owner, problems);
        if expected.is_some_and(|expected| expected != named) {
            problems.push(format!("{shown}: records before it are missing"));
        }
        let mut scan = Scan::new(&bytes[SEGMENT_HEADER_BYTES..], named);
        for record in scan.by_ref() {
            first.get_or_insert(record.sequence);
            committed = committed.max(record.committed);
            let sequence = record.sequence;
            visit(record).with_context(|| format!("{shown}, record {sequence}"))?;
        }
        if let Some(ScanEnd::TornTail { error }) = scan.end() {
            let last = number + 1 == paths.len();
            if !last || !scan.salvage().is_empty() || scan.next_sequence() <= committed {
                problems.push(format!("{shown}, record {}: {error}", scan.next_sequence()));
            }
        }
        expected = Some(scan.next_sequence());
    }
    if expected.is_some_and(|next| next <= committed) {
        problems.push(format!("{}: committed records are missing at its end", folder.display()));
    }
    Ok(first)
}

/// The sequence in a segment's name: what counts when its header is damaged.
fn first_sequence(path: &Path, prefix: &str, suffix: &str) -> Result<u64> {
    let name = path.file_name().and_then(|name| name.to_str());
    let digits = name.and_then(|name| name.strip_prefix(prefix)?.strip_suffix(suffix));
    let first = digits.and_then(|digits| digits.parse().ok());
    first.with_context(|| format!("{}: its name holds no sequence", path.display()))
}

fn check_header(
    path: &Path,
    bytes: &[u8],
    magic: [u8; 8],
    named: u64,
    owner: Owner,
    problems: &mut Vec<String>,
) {
    let shown = path.display();
    match SegmentHeader::decode(magic, bytes) {
        Err(error) => problems.push(format!("{shown}: {error}")),
        Ok(header) if (header.campaign, header.shard) != owner => {
            problems.push(format!("{shown} belongs to another campaign or shard"));
        }
        Ok(header) if header.first_sequence != named => {
            let first = header.first_sequence;
            problems.push(format!("{shown} says that it begins at record {first}"));
        }
        Ok(_) => {}
    }
}

type Seen = (Vec<Ticket>, Vec<[u8; RECEIPT_BYTES]>);

fn read_ticket_logs(paths: &[PathBuf]) -> Result<Seen> {
    let (mut tickets, mut receipts) = (Vec::new(), Vec::new());
    for path in paths {
        let text = text(path)?;
        // A load that was killed leaves a line without its end.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        for (number, line) in whole.lines().enumerate() {
            let place = || format!("{}, line {}", path.display(), number + 1);
            match line.split_once(' ') {
                Some(("W", digits)) => {
                    let bytes = hex::decode_array::<TICKET_BYTES>(digits);
                    let bytes = bytes.with_context(|| format!("{}: no ticket", place()))?;
                    tickets.push(Ticket::decode(&bytes).with_context(place)?);
                }
                Some(("R", digits)) => {
                    let bytes = hex::decode_array::<RECEIPT_BYTES>(digits);
                    let bytes = bytes.with_context(|| format!("{}: no receipt", place()))?;
                    Receipt::peek(&bytes).with_context(place)?;
                    receipts.push(bytes);
                }
                _ => bail!("{} begins with neither W nor R", place()),
            }
        }
    }
    Ok((tickets, receipts))
}
