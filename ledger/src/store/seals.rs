//! Seals in SQLite, and which of them are believed: a state that was put back to an older one
//! seals what its node has forgotten, and the ledger's own rows know better. Never says what a seal
//! opens; the rules are in [`crate::reclaim`].

use super::{Store, reclaim::Ground, signed, unsigned};
use crate::reclaim::{Sealed, VoidPolicy, never_left};
use rusqlite::{OptionalExtension, Transaction, TransactionBehavior, params};
use std::{collections::BTreeMap, ops::Range};
use yao_protocol::{Epoch, PacketId, PacketIndex, ShardId, WallTime, seal::Seal};

/// What becomes of a seal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It is kept, since then.
    At(WallTime),
    /// Another one of this shard, generation and epoch came before: that one stays.
    Another,
    /// A ticket of this packet was presented, and by the seals of its shard it never left.
    Disproved(PacketId),
    /// Its node's clock was ahead of ours, which says this. It is not kept now.
    Ahead(WallTime),
}

impl Store {
    /// Keeps a seal, whose signature and plan were checked; the first of its shard, generation and
    /// epoch stays for ever. One that our rows disprove is not kept.
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
    if found.as_ref().is_some_and(|(_, old)| old != bytes) {
        return Ok(Kept::Another);
    }
    let received_at = found.map(|(received_at, _)| WallTime(unsigned(received_at)));
    if received_at.is_none() && policy.is_ahead(seal.sealed_at, now) {
        return Ok(Kept::Ahead(now));
    }
    let mut seals = readable(transaction, ground, Some(shard))?;
    if received_at.is_none() {
        seals.push(Sealed { seal: seal.clone(), received_at: now });
    }
    if let Some(packet) = disproved(transaction, ground.epochs(shard), &seals)? {
        return Ok(Kept::Disproved(packet));
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
/// those that rows disprove, however late these came. All of these wait for the claim window.
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
            Some(packet) => tracing::error!(
                event = "seal_disproved",
                shard = shard.0,
                %packet,
                "a ticket of this packet was presented, and by its shard's seal it never left"
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

/// A packet of which a ticket was presented although by all `seals` of its shard it never left:
/// then somebody signs what is not so, and nobody knows what else left.
fn disproved(
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
