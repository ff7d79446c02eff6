//! What the phones of an event saw, and whether it can all be true: the checker that shares nothing
//! with the audit.

use anyhow::{Context, Result};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};
use yao_protocol::{
    hex,
    receipt::{RECEIPT_BYTES, Receipt},
    ticket::{TICKET_BYTES, Ticket},
};

/// Every ticket and receipt, as it came.
#[derive(Debug, Default)]
pub(super) struct Seen(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    /// Messages of any kind.
    answers: u64,
    /// User and ticket.
    tickets: Vec<(u64, [u8; TICKET_BYTES])>,
    /// When each ticket came, wall time in us.
    ticket_times: Vec<u64>,
    /// User, receipt, and when it came, wall time in us.
    receipts: Vec<(u64, [u8; RECEIPT_BYTES], u64)>,
}

impl Seen {
    fn held(&self) -> MutexGuard<'_, Held> {
        // Whoever panicked had pushed its line or not begun to.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The node said something to a phone.
    pub(super) fn answer(&self) {
        self.held().answers += 1;
    }

    /// How often it did.
    pub(super) fn answer_count(&self) -> u64 {
        self.held().answers
    }

    pub(super) fn ticket(&self, user: u64, ticket: &[u8; TICKET_BYTES]) {
        let mut held = self.held();
        held.tickets.push((user, *ticket));
        held.ticket_times.push(now_us());
    }

    pub(super) fn receipt(&self, user: u64, receipt: &[u8; RECEIPT_BYTES]) {
        self.held().receipts.push((user, *receipt, now_us()));
    }

    /// Receipts so far.
    pub(super) fn receipt_count(&self) -> usize {
        self.held().receipts.len()
    }

    /// The most issue credit that a node may have saved up between these two moments, in packets,
    /// when it earns so many a second and each ticket that came took one.
    pub(super) fn most_credit(&self, from_us: u64, until_us: u64, per_second: f64) -> f64 {
        let held = self.held();
        let within = held.ticket_times.iter().filter(|at| (from_us..until_us).contains(at));
        let mut times: Vec<u64> = within.copied().chain([until_us]).collect();
        times.sort_unstable();
        let (mut credit, mut most, mut last) = (0.0_f64, 0.0_f64, from_us);
        for at in times {
            credit += at.saturating_sub(last) as f64 / 1e6 * per_second;
            most = most.max(credit);
            credit = (credit - 1.0).max(0.0);
            last = at.max(last);
        }
        most
    }

    /// Receipts that came in this time, us.
    pub(super) fn receipts_between(&self, from_us: u64, until_us: u64) -> usize {
        let within =
            |(_, _, at): &&(u64, [u8; RECEIPT_BYTES], u64)| (from_us..until_us).contains(at);
        self.held().receipts.iter().filter(within).count()
    }

    /// Writes what was seen as `netbench audit` reads it.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let held = self.held();
        let mut text = String::new();
        for (_, ticket) in &held.tickets {
            writeln!(text, "W {}", hex::encode(ticket))?;
        }
        for (_, receipt, _) in &held.receipts {
            writeln!(text, "R {}", hex::encode(receipt))?;
        }
        fs::write(path, text).with_context(|| path.display().to_string())
    }

    /// What cannot be: a packet of two users, a second ticket for a user who may win once, a
    /// receipt for somebody else's packet, a receipt that is not settled exactly once. `rows` are
    /// the ledger's.
    pub(super) fn problems(&self, rows: &[Value]) -> Result<Vec<String>> {
        let held = self.held();
        let mut problems = Vec::new();
        let mut owners: BTreeMap<u64, [u8; TICKET_BYTES]> = BTreeMap::new();
        let mut winners: BTreeMap<u64, u64> = BTreeMap::new();
        for (user, bytes) in &held.tickets {
            let body = Ticket::decode(bytes)?.body;
            let packet = body.packet.0;
            if body.user.0 != *user {
                problems.push(format!("user {user} was given the ticket of {}", body.user));
            }
            if owners.insert(packet, *bytes).is_some_and(|first| first != *bytes) {
                problems.push(format!("packet {packet} left in two tickets"));
            }
            if winners.insert(*user, packet).is_some_and(|first| first != packet) {
                problems.push(format!("user {user} won twice"));
            }
        }
        let (settled, doubled) = settled(rows)?;
        problems.extend(doubled.iter().map(|packet| format!("packet {packet} was settled twice")));
        for (user, bytes, _) in &held.receipts {
            let receipt = Receipt::peek(bytes)?;
            let packet = receipt.packet.0;
            if receipt.user.0 != *user || winners.get(user) != Some(&packet) {
                problems.push(format!("user {user} was given a receipt for packet {packet}"));
            }
            if settled.get(&packet) != Some(user) {
                problems.push(format!(
                    "user {user} has a receipt for packet {packet}, which was not paid to him"
                ));
            }
        }
        Ok(problems)
    }
}

/// Who was paid each packet, and what was settled twice.
fn settled(rows: &[Value]) -> Result<(BTreeMap<u64, u64>, BTreeSet<u64>)> {
    let (mut settled, mut doubled) = (BTreeMap::new(), BTreeSet::new());
    for row in rows {
        let number = |key: &str| row[key].as_u64().with_context(|| format!("{row} has no {key}"));
        let (packet, user) = (number("packet")?, number("user")?);
        if row["state"] == "applied" && settled.insert(packet, user).is_some() {
            doubled.insert(packet);
        }
    }
    Ok((settled, doubled))
}

/// The wall clock.
pub(super) fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).expect("half a million years")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use yao_protocol::{
        CampaignId, Epoch, Fen, KeyId, PacketId, PacketIndex, ShakeId, ShardId, SponsorId, UserId,
        WallTime, WaveIndex,
        keys::{MacKey, SignKey},
        ticket::TicketBody,
    };

    fn ticket(user: u64, index: u32) -> [u8; TICKET_BYTES] {
        let body = TicketBody {
            campaign: CampaignId(94),
            packet: packet(index),
            user: UserId(user),
            amount: Fen(7),
            shake: ShakeId(1),
            issued_at: WallTime(1),
            expires_at: WallTime(2),
            shard: ShardId(0),
            epoch: Epoch(1),
            sponsor: SponsorId::new(0).expect("there are 64"),
            wave: WaveIndex(0),
        };
        body.sign(&SignKey::from_seed(&[1; 32])).encode()
    }

    fn packet(index: u32) -> PacketId {
        PacketId::new(0, ShardId(0), PacketIndex(index))
    }

    fn receipt(user: u64, index: u32) -> [u8; RECEIPT_BYTES] {
        let receipt = Receipt {
            campaign: CampaignId(94),
            packet: packet(index),
            user: UserId(user),
            accepted_at: WallTime(1),
        };
        receipt.encode(&MacKey::new(KeyId(1), [2; 32]))
    }

    fn row(user: u64, index: u32) -> Value {
        json!({ "packet": packet(index).0, "user": user, "state": "applied" })
    }

    #[test]
    fn credit_is_what_nobody_took() {
        let seen = Seen::default();
        seen.held().ticket_times.extend([1_500_000, 1_600_000, 3_500_000]);
        let most = |until_us| seen.most_credit(1_000_000, until_us, 10.0);
        // 5 in the first half second, 4 and 5 after the two tickets, 23 + 1 in the end.
        assert!((most(1_600_000) - 5.0).abs() < 1e-6, "{}", most(1_600_000));
        assert!((most(3_500_000) - 23.0).abs() < 1e-6, "{}", most(3_500_000));
        assert!((most(3_600_000) - 23.0).abs() < 1e-6, "{}", most(3_600_000));
        assert!((most(3_800_000) - 25.0).abs() < 1e-6, "{}", most(3_800_000));
    }

    #[test]
    fn what_cannot_be_is_told() {
        let check = |change: fn(&Seen, &mut Vec<Value>), expected: &str| {
            let seen = Seen::default();
            let mut rows = vec![row(1, 0), row(2, 1)];
            for (user, index) in [(1, 0), (2, 1), (3, 2)] {
                seen.ticket(user, &ticket(user, index));
                seen.ticket(user, &ticket(user, index));
            }
            seen.receipt(1, &receipt(1, 0));
            seen.receipt(2, &receipt(2, 1));
            change(&seen, &mut rows);
            let told = seen.problems(&rows).expect("good bytes").join("; ");
            assert_eq!(told, expected);
        };
        check(|_, _| (), "");
        check(|seen, _| seen.ticket(4, &ticket(4, 0)), "packet 0 left in two tickets");
        check(|seen, _| seen.ticket(3, &ticket(3, 9)), "user 3 won twice");
        check(|_, rows| rows.push(row(1, 0)), "packet 0 was settled twice");
        check(
            |_, rows| drop(rows.pop()),
            "user 2 has a receipt for packet 1, which was not paid to him",
        );
        check(
            |seen, rows| {
                rows.push(row(3, 5));
                seen.receipt(3, &receipt(3, 5));
            },
            "user 3 was given a receipt for packet 5",
        );
        check(|seen, _| seen.ticket(5, &ticket(6, 7)), "user 5 was given the ticket of 6");
    }
}
