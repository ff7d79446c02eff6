//! Seals in SQLite, the last record that each node delivered, and which seals are believed: a state
//! that was put back to an older one seals what its node has forgotten, and the ledger's own rows
//! know better. Never says what a seal opens; the rules are in [`crate::reclaim`].

use super::{Store, reclaim::Ground, signed, unsigned};
use crate::reclaim::{Sealed, VoidPolicy, never_left};
use rusqlite::{OptionalExtension, Transaction, TransactionBehavior, params};
use std::{collections::BTreeMap, ops::Range};
use yao_protocol::{
    Epoch, PacketId, PacketIndex, ShardId, WallTime, seal::Seal, settlement::Batch,
};

/// What becomes of a seal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It is kept, since then.
    At(WallTime),
    /// Another one of this shard, generation and epoch, of the same state, came before: that one
    /// stays.
    Another,
    /// We know that it is not so.
    Disproved(Disproof),
    /// Its node's clock was ahead of ours, which says this. It is not kept now.
    Ahead(WallTime),
}

/// Why the seals of a shard are false: then a state was sealed that is not what its node did last,
/// and nobody knows what else left, nor what else is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disproof {
    /// A ticket of this packet was presented, and by the seals of its shard it never left.
    Presented(PacketId),
    /// The record with this sequence was delivered, and by the seal its spool ended before.
    Delivered(u64),
    /// Another state of the shard was sealed, too.
    Twice,
}

/// Keeps in mind the last record that a batch brings. Its signature was checked.
pub(super) fn keep_delivered(transaction: &Transaction<'_>, batch: &Batch) -> rusqlite::Result<()> {
    let Some((last, _)) = batch.records.last() else { return Ok(()) };
    // Stored as signed numbers: no spool ever comes near 2^63.
    let last = i64::try_from(*last).unwrap_or(i64::MAX);
    transaction
        .prepare_cached(
            "INSERT INTO delivered VALUES (?1, ?2, ?3)
             ON CONFLICT DO UPDATE SET sequence = excluded.sequence
             WHERE excluded.sequence > sequence",
        )?
        .execute(params![batch.shard.0, batch.epoch.0, last])?;
    Ok(())
}

impl Store {
    /// Keeps a seal, whose signature and plan were checked; the first of its shard, generation and
    /// epoch stays for ever. One that is disproved is not kept, but for one of another state, which
    /// stays as the proof against the first.
    ///
    /// # Errors
    /// Those of SQLite. Whether the commit happened is then unknown until the next start.
    pub fn keep_seal(
        &mut self,
        now: WallTime,
        policy: VoidPolicy,
        ground: &Ground,
        (seal, bytes): (&Seal, &[u8]),
    ) -> rusqlite::Result<Kept> {
        let transaction =
            self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let kept = keep(&transaction, now, policy, ground, (seal, bytes))?;
        transaction.commit()?;
        Ok(kept)
    }
}

fn keep(
    transaction: &Transaction<'_>,
    now: WallTime,
    policy: VoidPolicy,
    ground: &Ground,
    (seal, bytes): (&Seal, &[u8]),
) -> rusqlite::Result<Kept> {
    let (shard, generation, epoch) = (seal.shard, seal.generation, seal.epoch);
    let found: Option<(i64, Vec<u8>)> = transaction
        .prepare_cached(
            "SELECT received_at, seal FROM seals
             WHERE shard = ?1 AND generation = ?2 AND epoch = ?3",
        )?
        .query_row(params![shard.0, generation, epoch.0], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    if let Some((_, old)) = found.as_ref().filter(|(_, old)| old != bytes) {
        // Without its key the old one counts for nothing; should the key come back, so does this.
        let same = Seal::decode(old, &ground.keys).is_ok_and(|old| is_of_one_state(&old, seal));
        if same {
            return Ok(Kept::Another);
        }
        transaction
            .prepare_cached("INSERT OR IGNORE INTO second_seals VALUES (?1, ?2, ?3, ?4, ?5)")?
            .execute(params![shard.0, generation, epoch.0, signed(now.0), bytes])?;
        return Ok(Kept::Disproved(Disproof::Twice));
    }
    let received_at = found.map(|(received_at, _)| WallTime(unsigned(received_at)));
    if received_at.is_none() && policy.is_ahead(seal.sealed_at, now) {
        return Ok(Kept::Ahead(now));
    }
    let mut seals = readable(transaction, ground, Some(shard))?;
    if received_at.is_none() {
        seals.push(Sealed { seal: seal.clone(), received_at: now });
    }
    // Not by what is known of another epoch's seal: that one is false, and this one may be true.
    let disproof = match contradicted(transaction, seal)? {
        None => presented(transaction, ground.epochs(shard), &seals)?.map(Disproof::Presented),
        found => found,
    };
    if let Some(disproof) = disproof {
        return Ok(Kept::Disproved(disproof));
    }
    if let Some(received_at) = received_at {
        return Ok(Kept::At(received_at));
    }
    transaction.prepare_cached("INSERT INTO seals VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?.execute(
        params![shard.0, generation, epoch.0, signed(seal.sealed_at.0), signed(now.0), bytes],
    )?;
    Ok(Kept::At(now))
}

/// The seals that count. None is one whose key is gone, or whose node's clock was ahead when it
/// came; nor are those of a shard of which packets were `granted`, for others may have held it, and
/// those that are disproved, however late the proof came. All of these wait for the claim window.
pub(super) fn believed(
    transaction: &Transaction<'_>,
    policy: VoidPolicy,
    ground: &Ground,
    granted: &BTreeMap<ShardId, WallTime>,
) -> rusqlite::Result<Vec<Sealed>> {
    let mut seals = readable(transaction, ground, None)?;
    seals.retain(|Sealed { seal, received_at }| {
        !granted.contains_key(&seal.shard) && !policy.is_ahead(seal.sealed_at, *received_at)
    });
    let mut believed = Vec::with_capacity(seals.len());
    for of_shard in seals.chunk_by(|a, b| a.seal.shard == b.seal.shard) {
        let shard = of_shard[0].seal.shard;
        match disproved(transaction, ground.epochs(shard), of_shard)? {
            None => believed.extend_from_slice(of_shard),
            Some(disproof) => tracing::error!(
                event = "seal_disproved",
                shard = shard.0,
                ?disproof,
                "the seal of this shard is not so; the shard counts as not sealed"
            ),
        }
    }
    Ok(believed)
}

/// The seals whose keys are there, in order of shard: of one shard or of all. A number is that of
/// one shard in one generation.
fn readable(
    transaction: &Transaction<'_>,
    ground: &Ground,
    only: Option<ShardId>,
) -> rusqlite::Result<Vec<Sealed>> {
    let mut statement = transaction.prepare_cached(
        "SELECT received_at, seal FROM seals WHERE ?1 IS NULL OR shard = ?1
         ORDER BY shard, generation, epoch",
    )?;
    let mut rows = statement.query([only.map(|shard| shard.0)])?;
    let mut seals = Vec::new();
    while let Some(row) = rows.next()? {
        let (received_at, bytes) = (WallTime(unsigned(row.get(0)?)), row.get::<_, Vec<u8>>(1)?);
        let seal = Seal::decode(&bytes, &ground.keys);
        seals.extend(seal.map(|seal| Sealed { seal, received_at }));
    }
    Ok(seals)
}

/// Whether both seals say the same but for the time: two copies of one state may have been sealed,
/// one by one, and nothing happened in either.
fn is_of_one_state(one: &Seal, other: &Seal) -> bool {
    *one == Seal { sealed_at: one.sealed_at, ..other.clone() }
}

/// Why `seals`, those of one shard, are false, when we know that they are.
fn disproved(
    transaction: &Transaction<'_>,
    epochs: &[Epoch],
    seals: &[Sealed],
) -> rusqlite::Result<Option<Disproof>> {
    for Sealed { seal, .. } in seals {
        if let Some(disproof) = contradicted(transaction, seal)? {
            return Ok(Some(disproof));
        }
    }
    let presented = presented(transaction, epochs, seals)?;
    Ok(presented.map(Disproof::Presented))
}

/// Why a seal is false by what came of its own node. A node seals when settlement has answered the
/// whole spool, whose last record the seal names, and never starts again: what comes later, and
/// what comes again, lies at or below it.
fn contradicted(transaction: &Transaction<'_>, seal: &Seal) -> rusqlite::Result<Option<Disproof>> {
    let settled = i64::try_from(seal.settled).unwrap_or(i64::MAX);
    let beyond: Option<i64> = transaction
        .prepare_cached(
            "SELECT sequence FROM delivered WHERE shard = ?1 AND epoch = ?2 AND sequence > ?3",
        )?
        .query_row(params![seal.shard.0, seal.epoch.0, settled], |row| row.get(0))
        .optional()?;
    if let Some(sequence) = beyond {
        return Ok(Some(Disproof::Delivered(unsigned(sequence))));
    }
    let twice: bool = transaction
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM second_seals
                            WHERE shard = ?1 AND generation = ?2 AND epoch = ?3)",
        )?
        .query_row(params![seal.shard.0, seal.generation, seal.epoch.0], |row| row.get(0))?;
    Ok(twice.then_some(Disproof::Twice))
}

/// A packet of which a ticket was presented although by all `seals` of its shard it never left.
fn presented(
    transaction: &Transaction<'_>,
    epochs: &[Epoch],
    seals: &[Sealed],
) -> rusqlite::Result<Option<PacketId>> {
    let Some(Sealed { seal, .. }) = seals.first() else { return Ok(None) };
    let mut statement = transaction.prepare_cached(
        "SELECT packet FROM packets WHERE packet BETWEEN ?1 AND ?2
         UNION ALL SELECT packet FROM late_opens WHERE packet BETWEEN ?1 AND ?2",
    )?;
    let id = |index| PacketId::new(seal.generation, seal.shard, PacketIndex(index));
    for above in above_high(seal).filter(|above| !above.is_empty()) {
        let ends = [above.start, above.end - 1].map(|index| signed(id(index).0));
        let mut rows = statement.query(ends)?;
        while let Some(row) = rows.next()? {
            let packet = PacketId(unsigned(row.get(0)?));
            if never_left(epochs, seals, packet.index().0) {
                return Ok(Some(packet));
            }
        }
    }
    Ok(None)
}

/// For each wave the indexes at or above its H. Sections follow one another.
fn above_high(seal: &Seal) -> impl Iterator<Item = Range<u32>> {
    let mut first = 0;
    seal.waves.iter().map(move |wave| {
        let above = first + wave.high..first + wave.count;
        first += wave.count;
        above
    })
}
