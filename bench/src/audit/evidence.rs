//! What the event left behind, read from files. Judges nothing but whether bytes are what they say.

use super::{
    AuditArgs, fallback,
    ledger::Ledger,
    logs::{read_journal, read_spool},
    plan::{read_shard, read_shard_key},
};
use anyhow::{Context, Result, bail};
use std::{
    fs,
    path::{Path, PathBuf},
};
use yao_protocol::{
    PacketId, PacketIndex, ShardId,
    cursor::{self, Cursor},
    hex,
    journal::Event,
    keys::{KeySet, PublicKey, PublicKeyFile},
    manifest::Manifest,
    receipt::{RECEIPT_BYTES, Receipt},
    schedule::Schedule,
    seed_file::{SeedHeader, SeedRecord, ShardKey},
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
    /// Opens of this shard's packets that other judged nodes accepted.
    pub(super) elsewhere: Vec<Open>,
    /// Such a node has removed settled segments: opens may have lain there.
    pub(super) removed_elsewhere: bool,
    /// Every open up to here has its final answer.
    pub(super) settled_until: u64,
    pub(super) ledger: Ledger,
    /// Shards of other generations that are judged with this one, each by itself.
    pub(super) others: Vec<(u8, ShardId)>,
    /// Tickets that clients saw, as they were seen.
    pub(super) tickets: Vec<Ticket>,
    pub(super) receipts: Vec<[u8; RECEIPT_BYTES]>,
    /// The node's disk failed on purpose: a fence is no fault.
    pub(super) fences_allowed: bool,
    /// What is wrong with the files themselves.
    pub(super) problems: Vec<String>,
}

impl Evidence {
    /// The shard, by its generation and number.
    pub(super) const fn shard(&self) -> (u8, ShardId) {
        (self.header.generation, self.header.shard)
    }

    /// What its packets hold.
    pub(super) fn contents(&self) -> impl Iterator<Item = (PacketId, SeedRecord)> {
        let (generation, shard) = self.shard();
        let id = move |index| PacketId::new(generation, shard, PacketIndex(index));
        (0..).zip(&self.records).map(move |(index, record)| (id(index), *record))
    }

    /// The campaign's public key.
    pub(super) fn campaign_key(&self) -> Result<PublicKey> {
        self.keys.campaign(self.schedule.campaign).context("the manifest was checked by it")
    }

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
        let own = args.state.join("spool");
        problems.extend(fallback::check(&own, args.spool_fallback.as_deref())?);
        let folders: Vec<&Path> =
            [own.as_path()].into_iter().chain(args.spool_fallback.as_deref()).collect();
        let (opens_from, opens) = read_spool(&folders, owner, &mut problems)?;
        let mut settled_until = 0;
        for folder in folders {
            settled_until = settled_until.max(read_watermark(&folder.join("watermark.yaomark"))?);
        }
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
            elsewhere: Vec::new(),
            removed_elsewhere: false,
            settled_until,
            ledger: Ledger::default(),
            others: Vec::new(),
            tickets,
            receipts,
            fences_allowed: args.allow_fences,
            problems,
        })
    }
}

/// Tells each node which opens of its packets the others accepted.
pub(super) fn share_opens(all: &mut [Evidence]) {
    for at in 0..all.len() {
        let own = all[at].shard();
        let is_own = |packet: PacketId| (packet.generation(), packet.shard()) == own;
        let others = || all.iter().enumerate().filter(move |(other, _)| *other != at);
        let opens = others().flat_map(|(_, other)| other.opens.iter().map(|(_, open)| *open));
        let elsewhere: Vec<Open> = opens.filter(|open| is_own(open.ticket.body.packet)).collect();
        let removed = others().any(|(_, other)| other.opens_from > 1);
        (all[at].elsewhere, all[at].removed_elsewhere) = (elsewhere, removed);
    }
}

pub(super) fn text(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Files of `folder` whose names begin and end so, in the order of their names.
pub(super) fn files(folder: &Path, prefix: &str, suffix: &str) -> Result<Vec<PathBuf>> {
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
        keys.add(&file).with_context(|| format!("{}", path.display()))?;
    }
    Ok(keys)
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
