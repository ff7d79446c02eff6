//! Voided packets in SQLite. What is void stays void, for one child generation; what was paid is
//! never voided, and the other way round: both are decided in the writer's transactions.
//! Decides nothing else; the rules are in [`crate::reclaim`].

use super::{Store, seals::believed, signed, stretches, unsigned};
use crate::reclaim::{Refused, Sealed, VoidPolicy, never_left, opening};
use rusqlite::{OptionalExtension, Transaction, TransactionBehavior, params};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use yao_protocol::{
    Epoch, PacketId, ShardId, UserId, WallTime, keys::KeySet, spool::Open, void::VoidRequest,
};

/// Which packets of a request are void, in order, and since when; or why none is.
pub type Voided = Result<(WallTime, Vec<bool>), Refused>;

/// What seals and requests are judged by, besides the rows.
#[derive(Clone, Debug)]
pub struct Ground {
    /// The longest life of a ticket, us.
    pub ticket_lifetime_us: u64,
    /// Every shard of every generation, with the epochs in which it has a key.
    pub shards: Vec<(ShardId, Vec<Epoch>)>,
    /// The generations of which there is a manifest.
    pub generations: Vec<u8>,
    /// When a node was last heard: its newest batch or request for a grant, whatever became of it;
    /// or when this life of the ledger began, for what would have come before nobody heard.
    pub heard_at: WallTime,
    /// The keys by which seals are accepted.
    pub keys: Arc<KeySet>,
}

impl Ground {
    /// The epochs in which a shard has a key.
    pub(super) fn epochs(&self, shard: ShardId) -> &[Epoch] {
        let found = self.shards.iter().find(|(known, _)| *known == shard);
        found.map_or(&[][..], |(_, epochs)| epochs.as_slice())
    }
}

/// A voided packet, as the audit shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Void {
    /// The packet.
    pub packet: PacketId,
    /// The generation that carries its value on.
    pub child: u8,
}

/// An open that came after its packet had been taken back, as the audit shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Late {
    /// The packet.
    pub packet: PacketId,
    /// Whose open it was.
    pub user: UserId,
    /// When the node accepted it.
    pub accepted_at: WallTime,
}

impl Store {
    /// Voids what may be voided of a request whose signature and plan were checked: all of it that
    /// was not paid, or nothing. Asked again it says the same.
    ///
    /// # Errors
    /// Those of SQLite. Whether the commit happened is then unknown until the next start.
    pub fn void(
        &mut self,
        now: WallTime,
        policy: VoidPolicy,
        ground: &Ground,
        request: &VoidRequest,
    ) -> rusqlite::Result<Voided> {
        let transaction =
            self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let voided = void(&transaction, now, policy, ground, request)?;
        // When the child was first asked for counts, whatever came of it.
        transaction.commit()?;
        Ok(voided)
    }

    /// Brings back moments that are ahead of `now`, as a start sees when the clock was ahead in an
    /// earlier life: nothing of that life is newer than this one. How many there were.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn bring_reclaim_back(&mut self, now: WallTime) -> rusqlite::Result<usize> {
        let now = [signed(now.0)];
        let mut ahead = 0;
        for update in [
            "UPDATE children SET asked_at = ?1 WHERE asked_at > ?1",
            "UPDATE seals SET received_at = ?1 WHERE received_at > ?1",
            "UPDATE second_seals SET received_at = ?1 WHERE received_at > ?1",
        ] {
            ahead += self.connection.prepare_cached(update)?.execute(now)?;
        }
        Ok(ahead)
    }

    /// The child generations for which packets are void, and how many.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn children(&self) -> rusqlite::Result<BTreeMap<u8, u64>> {
        self.connection
            .prepare_cached("SELECT child, packets FROM children WHERE packets > 0")?
            .query_map([], |row| Ok((row.get(0)?, unsigned(row.get(1)?))))?
            .collect()
    }

    /// At most `limit` voided packets with an id above `after`, rising.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn voids(&self, after: Option<PacketId>, limit: usize) -> rusqlite::Result<Vec<Void>> {
        let mut found = Vec::new();
        for (first, last) in stretches(after) {
            let mut statement = self.connection.prepare_cached(
                "SELECT packet, child FROM voids WHERE packet BETWEEN ?1 AND ?2
                 ORDER BY packet LIMIT ?3",
            )?;
            let room = i64::try_from(limit - found.len()).unwrap_or(i64::MAX);
            let read = |row: &rusqlite::Row<'_>| {
                Ok(Void { packet: PacketId(unsigned(row.get(0)?)), child: row.get(1)? })
            };
            for void in statement.query_map(params![first, last, room], read)? {
                found.push(void?);
            }
        }
        Ok(found)
    }

    /// The late opens of at most `limit` packets with an id above `after`, rising.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn late_opens(&self, after: Option<PacketId>, limit: usize) -> rusqlite::Result<Vec<Late>> {
        let mut found: Vec<Late> = Vec::new();
        let mut packets = 0;
        for (first, last) in stretches(after) {
            let mut statement = self.connection.prepare_cached(
                "SELECT packet, user, accepted_at FROM late_opens WHERE packet BETWEEN ?1 AND ?2
                 ORDER BY packet, user",
            )?;
            let mut rows = statement.query(params![first, last])?;
            while let Some(row) = rows.next()? {
                let [packet, user, accepted_at] = [row.get(0)?, row.get(1)?, row.get(2)?];
                let packet = PacketId(unsigned(packet));
                if found.last().is_none_or(|late| late.packet != packet) {
                    packets += 1;
                }
                // A packet is shown with all its users or not at all: the next page begins behind.
                if packets > limit {
                    return Ok(found);
                }
                let (user, accepted_at) = (UserId(unsigned(user)), WallTime(unsigned(accepted_at)));
                found.push(Late { packet, user, accepted_at });
            }
        }
        Ok(found)
    }
}

fn void(
    transaction: &Transaction<'_>,
    now: WallTime,
    policy: VoidPolicy,
    ground: &Ground,
    request: &VoidRequest,
) -> rusqlite::Result<Voided> {
    let earlier = earlier(transaction, request)?;
    if earlier.is_none()
        && let Some(child) = without_manifest(transaction, ground, request)?
    {
        let text = format!(
            "packets were voided for generation {child}, and the ledger has no manifest of it, so \
             that it knows nothing of the nodes that play it; pack it if that was not done, and \
             restart the ledger with its --manifest"
        );
        return Ok(Err(Refused::Contradicts(text)));
    }
    let asked_at = match child(transaction, now, request)? {
        Ok(asked_at) => asked_at,
        Err(refused) => return Ok(Err(refused)),
    };
    if let Some((count, voided_at)) = earlier {
        if count != request.count {
            let text = format!("another range from packet {} on was voided before", request.first);
            return Ok(Err(Refused::Contradicts(text)));
        }
        return Ok(Ok((voided_at, voided_by(transaction, request)?)));
    }
    // An open that was refused for good left its packet unopened (M8).
    let paid = ids(transaction, "SELECT packet FROM packets WHERE state = 1 AND", request)?;
    let voided = ids(transaction, "SELECT packet FROM voids WHERE", request)?;
    // Somebody may hold a receipt for it; people must look first.
    let ungranted = ids(transaction, "SELECT packet FROM ungranted_opens WHERE", request)?;
    let granted = granted(transaction)?;
    let mut seals = believed(transaction, policy, ground, &granted)?;
    let since = alive_at(transaction, asked_at.max(ground.heard_at), granted)?;
    let opening = opening(policy, ground.ticket_lifetime_us, &ground.shards, &seals, since);
    seals.retain(|Sealed { seal, .. }| seal.shard == request.shard);
    let epochs = ground.epochs(request.shard);
    let mut void = Vec::with_capacity(request.count as usize);
    for position in 0..request.count {
        let packet = request.packet(position);
        let free = [&paid, &voided, &ungranted].iter().all(|taken| !taken.contains(&packet));
        if free && !(never_left(epochs, &seals, packet.index().0) || now >= opening.at) {
            return Ok(Err(Refused::TooEarly(opening)));
        }
        void.push(free);
    }
    // What was paid or is void stays so: where there is nothing to void there never will be, and
    // the answer is the same without being kept. Kept it would bind the child's plan for nothing.
    if void.contains(&true) {
        keep(transaction, now, request, &void)?;
    }
    Ok(Ok((now, void)))
}

/// A child generation for which packets are void although there is no manifest of it. Its nodes may
/// play, and hold opens of any generation; they would be asked for no seal. Before its packets are
/// packed nobody can have the manifest of the one that is asked for.
fn without_manifest(
    transaction: &Transaction<'_>,
    ground: &Ground,
    request: &VoidRequest,
) -> rusqlite::Result<Option<u8>> {
    let mut statement =
        transaction.prepare_cached("SELECT child FROM children WHERE packets > 0")?;
    for child in statement.query_map([], |row| row.get(0))? {
        let child = child?;
        if child != request.child && !ground.generations.contains(&child) {
            return Ok(Some(child));
        }
    }
    Ok(None)
}

/// When the child generation was first asked for by this plan. Its plan is that of the first
/// request by which packets became void: until then it may change.
fn child(
    transaction: &Transaction<'_>,
    now: WallTime,
    request: &VoidRequest,
) -> rusqlite::Result<Result<WallTime, Refused>> {
    transaction
        .prepare_cached(
            "INSERT OR IGNORE INTO children (child, plan_digest, asked_at) VALUES (?1, ?2, ?3)",
        )?
        .execute(params![request.child, request.plan_digest, signed(now.0)])?;
    transaction
        .prepare_cached(
            "UPDATE children SET plan_digest = ?2, asked_at = ?3
             WHERE child = ?1 AND plan_digest <> ?2
             AND NOT EXISTS (SELECT 1 FROM void_requests WHERE child = ?1)",
        )?
        .execute(params![request.child, request.plan_digest, signed(now.0)])?;
    let (plan_digest, asked_at): ([u8; 32], i64) = transaction
        .prepare_cached("SELECT plan_digest, asked_at FROM children WHERE child = ?1")?
        .query_row([request.child], |row| Ok((row.get(0)?, row.get(1)?)))?;
    if plan_digest == request.plan_digest {
        return Ok(Ok(WallTime(unsigned(asked_at))));
    }
    let text = format!(
        "packets were voided for generation {} by another plan before; go on with that one: run \
         `yao-seedgen reclaim` with its --out and as it was run first",
        request.child
    );
    Ok(Err(Refused::Contradicts(text)))
}

/// The count and the time of the same request, when it was granted before.
fn earlier(
    transaction: &Transaction<'_>,
    request: &VoidRequest,
) -> rusqlite::Result<Option<(u32, WallTime)>> {
    transaction
        .prepare_cached(
            "SELECT count, voided_at FROM void_requests
             WHERE child = ?1 AND generation = ?2 AND shard = ?3 AND first = ?4",
        )?
        .query_row(
            params![request.child, request.generation, request.shard.0, request.first],
            |row| Ok((row.get(0)?, WallTime(unsigned(row.get(1)?)))),
        )
        .optional()
}

/// What a request that was granted before voided.
fn voided_by(transaction: &Transaction<'_>, request: &VoidRequest) -> rusqlite::Result<Vec<bool>> {
    let mut statement = transaction.prepare_cached(
        "SELECT packet FROM voids WHERE packet BETWEEN ?1 AND ?2 AND child = ?3 AND request = ?4",
    )?;
    let (first, last) = ends(request);
    let found: BTreeSet<PacketId> = statement
        .query_map(params![first, last, request.child, request.first], read_id)?
        .collect::<rusqlite::Result<_>>()?;
    Ok((0..request.count).map(|at| found.contains(&request.packet(at))).collect())
}

/// The packets of the request's range in a table.
fn ids(
    transaction: &Transaction<'_>,
    select: &str,
    request: &VoidRequest,
) -> rusqlite::Result<BTreeSet<PacketId>> {
    let mut statement =
        transaction.prepare_cached(&format!("{select} packet BETWEEN ?1 AND ?2"))?;
    let (first, last) = ends(request);
    statement.query_map(params![first, last], read_id)?.collect()
}

/// The first and the last id of a range as they are stored. Both have the same sign: they differ
/// in the index only.
fn ends(request: &VoidRequest) -> (i64, i64) {
    (signed(request.packet(0).0), signed(request.packet(request.count - 1).0))
}

fn read_id(row: &rusqlite::Row<'_>) -> rusqlite::Result<PacketId> {
    row.get(0).map(|id| PacketId(unsigned(id)))
}

/// The last sign of life: when the child was asked for and nodes were `heard_at`, the newest seal,
/// also one that is a proof only, the end of the last grant. Only then can silence begin to tell
/// that a node is dead.
fn alive_at(
    transaction: &Transaction<'_>,
    heard_at: WallTime,
    granted: BTreeMap<ShardId, WallTime>,
) -> rusqlite::Result<WallTime> {
    let newest: i64 = transaction
        .prepare_cached(
            "SELECT MAX(
                 COALESCE((SELECT MAX(received_at) FROM seals), 0),
                 COALESCE((SELECT MAX(received_at) FROM second_seals), 0))",
        )?
        .query_row([], |row| row.get(0))?;
    let newest = heard_at.max(WallTime(unsigned(newest)));
    Ok(granted.into_values().max().map_or(newest, |until| until.max(newest)))
}

/// The shards of which packets were ever granted (fleet mode), and until when at the latest.
fn granted(transaction: &Transaction<'_>) -> rusqlite::Result<BTreeMap<ShardId, WallTime>> {
    transaction
        .prepare_cached(
            "SELECT s.shard, MAX(t.not_after) FROM sections s JOIN tenures t USING (tenure)
             GROUP BY s.shard",
        )?
        .query_map([], |row| Ok((ShardId(row.get(0)?), WallTime(unsigned(row.get(1)?)))))?
        .collect()
}

/// Whether a shard was sealed, or packets of it are void: nobody is granted any of it again.
pub(super) fn is_taken_back(
    transaction: &Transaction<'_>,
    shard: ShardId,
) -> rusqlite::Result<bool> {
    transaction
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM seals WHERE shard = ?1)
                 OR EXISTS (SELECT 1 FROM void_requests WHERE shard = ?1)",
        )?
        .query_row([shard.0], |row| row.get(0))
}

fn keep(
    transaction: &Transaction<'_>,
    now: WallTime,
    request: &VoidRequest,
    void: &[bool],
) -> rusqlite::Result<()> {
    transaction
        .prepare_cached("INSERT INTO void_requests VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
        .execute(params![
            request.child,
            request.generation,
            request.shard.0,
            request.first,
            request.count,
            signed(now.0)
        ])?;
    let mut statement = transaction.prepare_cached("INSERT INTO voids VALUES (?1, ?2, ?3)")?;
    for (position, _) in (0..).zip(void).filter(|(_, void)| **void) {
        let packet = signed(request.packet(position).0);
        statement.execute(params![packet, request.child, request.first])?;
    }
    let packets = i64::try_from(void.iter().filter(|void| **void).count()).unwrap_or(i64::MAX);
    transaction
        .prepare_cached("UPDATE children SET packets = packets + ?2 WHERE child = ?1")?
        .execute(params![request.child, packets])?;
    Ok(())
}

/// Whether an open comes too late: its packet is void. Then it is kept, for somebody must look.
pub(super) fn keep_if_late(
    transaction: &Transaction<'_>,
    now: WallTime,
    open: &Open,
) -> rusqlite::Result<bool> {
    let body = &open.ticket.body;
    let child: Option<u8> = transaction
        .prepare_cached("SELECT child FROM voids WHERE packet = ?1")?
        .query_row([signed(body.packet.0)], |row| row.get(0))
        .optional()?;
    let Some(child) = child else { return Ok(false) };
    tracing::error!(
        event = "late_open",
        packet = %body.packet,
        child,
        "a valid ticket is presented for a packet that was voided; its value is given out again"
    );
    transaction
        .prepare_cached("INSERT OR IGNORE INTO late_opens VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![
            signed(body.packet.0),
            signed(body.user.0),
            signed(open.accepted_at.0),
            signed(now.0)
        ])?;
    Ok(true)
}

#[cfg(test)]
mod tests;
