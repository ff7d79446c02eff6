//! Sections and their grants in SQLite: one row for each section, and one for each time that
//! somebody held it. Decides nothing; the rules are in [`crate::grants`].

use super::{Store, reclaim, signed, unsigned};
use crate::grants::{GRANT_LIFETIME_US_MAX, GrantPolicy, Ruling, Section, rule};
use rusqlite::{OptionalExtension, Transaction, TransactionBehavior, params};
use serde::Serialize;
use yao_protocol::{
    Epoch, Incarnation, PacketId, PacketIndex, ShardId, WallTime, WaveIndex,
    grant::{Claim, GrantRequest, NodeName, Verdict},
    spool::Open,
    ticket::TicketBody,
};

/// What is said to one request, and the section as it stands then.
pub type Ruled = (Verdict, Option<Section>);

/// One time that somebody held a section, as the audit shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tenure {
    /// Numbered from 1 over all sections.
    pub tenure: u64,
    /// The shard.
    pub shard: u32,
    /// The wave.
    pub wave: u16,
    /// The epoch of the holder's key.
    pub epoch: u32,
    /// How it began: `first`, `resume` or `burn`.
    pub claim: &'static str,
    /// The first of its grants.
    pub first: u64,
    /// The newest.
    pub last: u64,
    /// Position of the first packet that may have been issued in it.
    pub lo: u32,
    /// Position behind the last one.
    pub hi: u32,
    /// The highest H that its holder has stated.
    pub seen: u32,
    /// What was burnt when it began: position of the first packet,
    pub burnt_from: Option<u32>,
    /// and behind the last one.
    pub burnt_to: Option<u32>,
    /// The incarnation that held it, 32 hexadecimal digits.
    pub holder: String,
    /// Whom it succeeded.
    pub previous: String,
    /// Its node.
    pub node: String,
    /// When it began, Unix us.
    pub began_at: u64,
    /// When its newest grant was decided.
    pub decided_at: u64,
    /// Until when that one holds.
    pub not_after: u64,
}

impl Store {
    /// Rules on requests, in order, in one transaction: all of them, or on an error none. With each
    /// comes the digest of its bytes, and whether the plan has such a section.
    ///
    /// # Errors
    /// Those of SQLite. Whether the commit happened is then unknown until the next start.
    pub fn grant(
        &mut self,
        policy: GrantPolicy,
        now: WallTime,
        requests: &[(&GrantRequest, [u8; 32], bool)],
    ) -> rusqlite::Result<Vec<Ruled>> {
        let transaction =
            self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut all = Vec::with_capacity(requests.len());
        for (request, digest, planned) in requests {
            let found = section(&transaction, request.shard, request.wave)?;
            if !planned || reclaim::is_taken_back(&transaction, request.shard)? {
                all.push((Verdict::Contradicts, found));
                continue;
            }
            let presented = presented(&transaction, request)?;
            all.push(match rule(policy, now, (found.as_ref(), presented), request, *digest) {
                Ruling::Granted { section, burnt } => {
                    keep(&transaction, request, &section, burnt)?;
                    (Verdict::Granted, Some(section))
                }
                Ruling::Repeated => (Verdict::Granted, found),
                Ruling::Refused(verdict) => (verdict, found),
            });
        }
        transaction.commit()?;
        Ok(all)
    }

    /// Puts right what a life with a clock that was ahead has decided: a grant holds for a day at
    /// most, from now at the latest. Else its end, which never falls, would keep every successor
    /// out for as long as that clock was wrong. How many there were.
    ///
    /// Ranges alone keep owners apart; a holder believes no grant for longer than a day.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn bring_grants_back(&mut self, now: WallTime) -> rusqlite::Result<usize> {
        self.connection
            .prepare_cached(
                "UPDATE tenures SET decided_at = MIN(decided_at, ?1),
                        not_after = MIN(decided_at, ?1) + MIN(not_after - decided_at, ?2)
                 WHERE decided_at > ?1 OR not_after - decided_at > ?2",
            )?
            .execute(params![signed(now.0), signed(GRANT_LIFETIME_US_MAX)])
    }

    /// At most `limit` tenures with a number above `after`, rising.
    ///
    /// # Errors
    /// Those of SQLite.
    pub fn tenures(&self, after: u64, limit: usize) -> rusqlite::Result<Vec<Tenure>> {
        let mut statement = self.connection.prepare_cached(
            "SELECT tenure, shard, wave, epoch, claim, first, last, lo, hi, burnt_from, burnt_to,
                    lower(hex(holder)), lower(hex(previous)), node, began_at, decided_at,
                    not_after, seen
             FROM tenures WHERE tenure > ?1 ORDER BY tenure LIMIT ?2",
        )?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let read = |row: &rusqlite::Row<'_>| {
            let claim = Claim::from_number(row.get(4)?).expect("the table's CHECK admits no other");
            Ok(Tenure {
                tenure: unsigned(row.get(0)?),
                shard: row.get(1)?,
                wave: row.get(2)?,
                epoch: row.get(3)?,
                claim: claim.name(),
                first: unsigned(row.get(5)?),
                last: unsigned(row.get(6)?),
                lo: row.get(7)?,
                hi: row.get(8)?,
                burnt_from: row.get(9)?,
                burnt_to: row.get(10)?,
                holder: row.get(11)?,
                previous: row.get(12)?,
                node: row.get(13)?,
                began_at: unsigned(row.get(14)?),
                decided_at: unsigned(row.get(15)?),
                not_after: unsigned(row.get(16)?),
                seen: row.get(17)?,
            })
        };
        statement.query_map(params![signed(after), limit], read)?.collect()
    }
}

/// Whether a ticket is of a packet that may have been issued: of a section that was granted only
/// what was granted, of any other every packet (local mode). A packet is in the section in whose
/// range it lies, whatever wave its ticket names.
pub(super) fn may_have_been_issued(
    transaction: &Transaction<'_>,
    body: &TicketBody,
) -> rusqlite::Result<bool> {
    let index = body.packet.index().0;
    let mut statement = transaction.prepare_cached(
        "SELECT s.wave, s.first, t.hi FROM sections s JOIN tenures t USING (tenure)
         WHERE s.shard = ?1 AND (s.wave = ?2 OR (?3 >= s.first AND ?3 - s.first < s.count))",
    )?;
    let mut sections = statement.query(params![body.shard.0, body.wave.0, index])?;
    while let Some(section) = sections.next()? {
        let (wave, first, hi): (u16, u32, u32) =
            (section.get(0)?, section.get(1)?, section.get(2)?);
        let is_granted = index.checked_sub(first).is_some_and(|position| position < hi);
        if wave != body.wave.0 || !is_granted {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Keeps an open of a packet that was granted to nobody. Its ticket is valid: either its key was
/// stolen, or this database was put back to an older state and has forgotten a grant. Nobody can
/// tell from here; while the row is there, the packet's value is not given out again.
pub(super) fn keep_ungranted(
    transaction: &Transaction<'_>,
    now: WallTime,
    open: &Open,
) -> rusqlite::Result<()> {
    let body = &open.ticket.body;
    tracing::error!(
        event = "ungranted_open",
        packet = %body.packet,
        "a valid ticket beyond every grant: its key is stolen, or this database is an older one"
    );
    transaction
        .prepare_cached("INSERT OR IGNORE INTO ungranted_opens VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![
            signed(body.packet.0),
            signed(body.user.0),
            signed(open.accepted_at.0),
            signed(now.0)
        ])?;
    Ok(())
}

/// Position behind the last packet of the request's section that anybody presented, 0
/// without one.
fn presented(transaction: &Transaction<'_>, request: &GrantRequest) -> rusqlite::Result<u32> {
    let packet = |position: u32| {
        let index = PacketIndex(request.first.saturating_add(position));
        signed(PacketId::new(request.generation, request.shard, index).0)
    };
    let Some(last) = request.count.checked_sub(1) else { return Ok(0) };
    let newest: Option<i64> = transaction
        .prepare_cached(
            "SELECT MAX(packet) FROM (
                 SELECT MAX(packet) AS packet FROM packets WHERE packet BETWEEN ?1 AND ?2
                 UNION ALL
                 SELECT MAX(packet) FROM ungranted_opens WHERE packet BETWEEN ?1 AND ?2)",
        )?
        .query_row(params![packet(0), packet(last)], |row| row.get(0))?;
    let Some(newest) = newest else { return Ok(0) };
    let index = PacketId(unsigned(newest)).index().0;
    Ok(index.saturating_sub(request.first).saturating_add(1))
}

fn section(
    transaction: &Transaction<'_>,
    shard: ShardId,
    wave: WaveIndex,
) -> rusqlite::Result<Option<Section>> {
    let mut statement = transaction.prepare_cached(
        "SELECT s.generation, s.first, s.count, s.merkle_root, t.seen, t.last, t.lo, t.hi,
                t.holder, t.node, t.epoch, t.decided_at, t.not_after, t.request_digest
         FROM sections s JOIN tenures t USING (tenure) WHERE s.shard = ?1 AND s.wave = ?2",
    )?;
    let read = |row: &rusqlite::Row<'_>| {
        let node: String = row.get(9)?;
        Ok(Section {
            generation: row.get(0)?,
            first: row.get(1)?,
            count: row.get(2)?,
            merkle_root: row.get(3)?,
            seen: row.get(4)?,
            id: unsigned(row.get(5)?),
            lo: row.get(6)?,
            hi: row.get(7)?,
            holder: Incarnation(row.get(8)?),
            node: NodeName::new(&node),
            epoch: Epoch(row.get(10)?),
            decided_at: WallTime(unsigned(row.get(11)?)),
            not_after: WallTime(unsigned(row.get(12)?)),
            request_digest: row.get(13)?,
        })
    };
    statement.query_row(params![shard.0, wave.0], read).optional()
}

/// Writes down what was granted: the holder's tenure goes on, or a new one begins.
fn keep(
    transaction: &Transaction<'_>,
    request: &GrantRequest,
    section: &Section,
    burnt: Option<(u32, u32)>,
) -> rusqlite::Result<()> {
    match request.claim {
        Claim::Extend => extend(transaction, (request.shard.0, request.wave.0), section),
        Claim::First | Claim::Resume | Claim::Burn => begin(transaction, request, section, burnt),
    }
}

/// The holder's tenure goes on.
fn extend(
    transaction: &Transaction<'_>,
    (shard, wave): (u32, u16),
    section: &Section,
) -> rusqlite::Result<()> {
    let changed = transaction
        .prepare_cached(
            "UPDATE tenures SET last = ?3, hi = ?4, decided_at = ?5, not_after = ?6,
                    request_digest = ?7, epoch = ?8, seen = ?9
             WHERE tenure = (SELECT tenure FROM sections WHERE shard = ?1 AND wave = ?2)",
        )?
        .execute(params![
            shard,
            wave,
            signed(section.id),
            section.hi,
            signed(section.decided_at.0),
            signed(section.not_after.0),
            section.request_digest,
            section.epoch.0,
            section.seen,
        ])?;
    assert_eq!(changed, 1, "what is extended is there");
    Ok(())
}

/// A tenure begins.
fn begin(
    transaction: &Transaction<'_>,
    request: &GrantRequest,
    section: &Section,
    burnt: Option<(u32, u32)>,
) -> rusqlite::Result<()> {
    let (shard, wave) = (request.shard.0, request.wave.0);
    transaction
        .prepare_cached(
            "INSERT INTO tenures (shard, wave, epoch, claim, first, last, lo, hi, burnt_from,
                    burnt_to, holder, previous, node, began_at, decided_at, not_after,
                    request_digest, seen)
             VALUES (?1, ?2, ?3, ?4, ?5, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?13, ?14, ?15,
                     ?16)",
        )?
        .execute(params![
            shard,
            wave,
            section.epoch.0,
            request.claim as u8,
            signed(section.id),
            section.lo,
            section.hi,
            burnt.map(|range| range.0),
            burnt.map(|range| range.1),
            section.holder.0,
            request.previous.0,
            section.node.as_str(),
            signed(section.decided_at.0),
            signed(section.not_after.0),
            section.request_digest,
            section.seen,
        ])?;
    let tenure = transaction.last_insert_rowid();
    transaction
        .prepare_cached(
            "INSERT INTO sections
                    (shard, wave, generation, first, count, merkle_root, tenure)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
             ON CONFLICT (shard, wave)
             DO UPDATE SET tenure = excluded.tenure",
        )?
        .execute(params![
            shard,
            wave,
            section.generation,
            section.first,
            section.count,
            section.merkle_root,
            tenure,
        ])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use yao_protocol::{CampaignId, Fen, ShakeId, SponsorId, UserId, ticket::Ticket};

    const POLICY: GrantPolicy =
        GrantPolicy { packets: 100, lifetime_us: 10_000_000, margin_ms: 500 };
    const A: Incarnation = Incarnation([1; 16]);
    const B: Incarnation = Incarnation([2; 16]);

    fn request(claim: Claim, incarnation: Incarnation, known: u64, high: u32) -> GrantRequest {
        GrantRequest {
            claim,
            campaign: CampaignId(2015),
            shard: ShardId(17),
            generation: 0,
            epoch: Epoch(1),
            wave: WaveIndex(1),
            first: 500,
            count: 1_000,
            high,
            known,
            nonce: 1,
            incarnation,
            previous: Incarnation::default(),
            merkle_root: [9; 32],
            node: NodeName::new("node-17"),
        }
    }

    fn ticket(index: u32, shard: u32, wave: u16) -> TicketBody {
        TicketBody {
            campaign: CampaignId(2015),
            packet: PacketId::new(0, ShardId(shard), PacketIndex(index)),
            user: UserId(7),
            amount: Fen(1),
            shake: ShakeId(1),
            issued_at: WallTime(0),
            expires_at: WallTime(100),
            shard: ShardId(shard),
            epoch: Epoch(1),
            sponsor: SponsorId::new(0).expect("below 64"),
            wave: WaveIndex(wave),
        }
    }

    #[test]
    fn m4_what_was_granted_is_there_after_another_opening() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("ledger.db");
        let open = || Store::open(&path, CampaignId(2015)).expect("open");
        let ask = |store: &mut Store, now, request: &GrantRequest, digest: u8| {
            let asked = [(request, [digest; 32], true)];
            let mut ruled = store.grant(POLICY, WallTime(now), &asked).expect("ruled");
            ruled.pop().expect("one answer")
        };
        let mut store = open();
        let (verdict, section) = ask(&mut store, 0, &request(Claim::First, A, 0, 40), 1);
        let granted = section.expect("granted");
        assert_eq!((verdict, granted.lo, granted.hi), (Verdict::Granted, 40, 140));
        drop(store);
        let mut store = open();
        // Two at once: the second finds the first.
        let (verdict, section) = ask(&mut store, 1, &request(Claim::First, B, 0, 40), 2);
        assert_eq!((verdict, section.as_ref()), (Verdict::Held, Some(&granted)));
        let again = ask(&mut store, 2, &request(Claim::First, A, 0, 40), 1);
        assert_eq!(again, (Verdict::Granted, Some(granted)), "the very same request");
        let (verdict, section) = ask(&mut store, 5_000_000, &request(Claim::Extend, A, 1, 90), 3);
        let extended = section.expect("granted");
        assert_eq!(
            (verdict, extended.id, extended.hi, extended.seen),
            (Verdict::Granted, 2, 190, 90)
        );
        let burn = request(Claim::Burn, B, 2, 0);
        assert_eq!(ask(&mut store, 15_499_999, &burn, 4).0, Verdict::Held);
        let (verdict, section) = ask(&mut store, 15_500_000, &burn, 5);
        let section = section.expect("granted");
        assert_eq!(
            (verdict, section.lo, section.hi, section.seen),
            (Verdict::Granted, 190, 290, 0)
        );
        let tenures = store.tenures(0, 10).expect("read");
        let told: Vec<_> = tenures
            .iter()
            .map(|t| (t.tenure, t.claim, t.first, t.last, t.lo, t.hi, t.burnt_from, t.burnt_to))
            .collect();
        let expected = [
            (1, "first", 1, 2, 40, 190, None, None),
            (2, "burn", 3, 3, 190, 290, Some(90), Some(190)),
        ];
        assert_eq!(told, expected);
        assert_eq!(store.tenures(1, 10).expect("read"), tenures[1..]);
        assert_eq!(
            (tenures[0].holder.as_str(), tenures[0].node.as_str()),
            ("01".repeat(16).as_str(), "node-17")
        );
    }

    #[test]
    fn m4_what_was_presented_is_granted_to_nobody_else() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("ledger.db");
        let mut store = Store::open(&path, CampaignId(2015)).expect("open");
        let asked = request(Claim::First, A, 0, 0);
        store.grant(POLICY, WallTime(0), &[(&asked, [1; 32], true)]).expect("granted to 100");
        // The database was put back: what A was granted since and has issued is beyond it.
        let transaction = store.connection.unchecked_transaction().expect("a transaction");
        let ticket = Ticket { body: ticket(500 + 150, 17, 1), signature: [0; 64] };
        let open = Open { accepted_at: WallTime(1), ticket };
        keep_ungranted(&transaction, WallTime(2), &open).expect("kept");
        transaction.commit().expect("committed");
        let burn = request(Claim::Burn, B, 1, 40);
        let later = WallTime(20_000_000);
        let ruled = store.grant(POLICY, later, &[(&burn, [2; 32], true)]).expect("ruled");
        let (verdict, section) = ruled.into_iter().next().expect("one answer");
        let section = section.expect("granted");
        assert_eq!((verdict, section.lo, section.hi), (Verdict::Granted, 151, 251));
        let tenure = store.tenures(1, 1).expect("read").pop().expect("B's");
        assert_eq!((tenure.burnt_from, tenure.burnt_to), (Some(0), Some(151)));
        // Another section's packets are nobody's concern here.
        let other = GrantRequest { wave: WaveIndex(2), first: 1_500, ..asked };
        let ruled = store.grant(POLICY, later, &[(&other, [3; 32], true)]).expect("ruled");
        assert_eq!(ruled[0].1.as_ref().map(|section| section.lo), Some(0));
    }

    #[test]
    fn m4_a_clock_that_was_ahead_keeps_no_successor_out() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("ledger.db");
        let mut store = Store::open(&path, CampaignId(2015)).expect("open");
        let ask = |store: &mut Store, now, claim, incarnation, known, digest: u8| {
            let request = request(claim, incarnation, known, 0);
            let asked = [(&request, [digest; 32], true)];
            store.grant(POLICY, WallTime(now), &asked).expect("ruled").pop().expect("one answer")
        };
        let month = 30 * GRANT_LIFETIME_US_MAX;
        ask(&mut store, month, Claim::First, A, 0, 1);
        // The clock is right again: the holder goes on, and a successor waits for its grant only.
        assert_eq!(store.bring_grants_back(WallTime(1_000)), Ok(1));
        assert_eq!(store.bring_grants_back(WallTime(1_001)), Ok(0), "it is right now");
        let (verdict, section) = ask(&mut store, 2_000, Claim::Extend, A, 1, 2);
        let end = 2_000 + POLICY.lifetime_us;
        let not_after = section.expect("granted").not_after;
        assert_eq!((verdict, not_after), (Verdict::Granted, WallTime(end)));
        assert_eq!(ask(&mut store, end + 499_999, Claim::Burn, B, 2, 3).0, Verdict::Held);
        assert_eq!(ask(&mut store, end + 500_000, Claim::Burn, B, 2, 4).0, Verdict::Granted);
        assert_eq!(store.bring_grants_back(WallTime(end + 500_001)), Ok(0), "nothing was ahead");
    }

    #[test]
    fn m4_what_the_plan_does_not_have_is_not_granted() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("ledger.db");
        let mut store = Store::open(&path, CampaignId(2015)).expect("open");
        let asked = request(Claim::First, A, 0, 0);
        let ruled = store.grant(POLICY, WallTime(0), &[(&asked, [1; 32], false)]).expect("ruled");
        assert_eq!(ruled, [(Verdict::Contradicts, None)]);
        assert_eq!(store.tenures(0, 10).expect("read"), []);
    }

    #[test]
    fn m4_a_ticket_beyond_every_grant_is_not_genuine() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("ledger.db");
        let mut store = Store::open(&path, CampaignId(2015)).expect("open");
        let asked = request(Claim::First, A, 0, 40);
        store.grant(POLICY, WallTime(0), &[(&asked, [1; 32], true)]).expect("granted to 140");
        let check = |index, shard, wave, expected| {
            let transaction = store.connection.unchecked_transaction().expect("a transaction");
            let found = may_have_been_issued(&transaction, &ticket(index, shard, wave));
            assert_eq!(found, Ok(expected), "index {index} of wave {wave}, shard {shard}");
        };
        check(500, 17, 1, true);
        check(500 + 139, 17, 1, true);
        check(500 + 140, 17, 1, false);
        check(499, 17, 1, false);
        check(2_000, 17, 0, true);
        check(500 + 140, 18, 1, true);
        // A section's packets under the name of a wave that was never granted.
        check(500 + 140, 17, 0, false);
        check(500, 17, 0, false);
    }
}
