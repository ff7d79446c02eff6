//! Who issued what, judged by three witnesses that know nothing of each other: the tickets that
//! phones got, by process; settlement's list of tenures; and the journals of all state directories.
//! Wrong is a packet that left twice, one that left by no grant of its life, or after its end, and
//! whatever left of somebody who had no right at all.
//!
//! Reads bytes with `protocol`, and shares nothing else with the programs that it judges.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    time::SystemTime,
};
use yao_protocol::{
    Incarnation, WallTime,
    journal::{self, Event},
    keys::{KeySet, PublicKeyFile},
    log::{SEGMENT_HEADER_BYTES, Scan, SegmentHeader},
    ticket::{Ticket, TicketBody, verify_tickets},
};

/// Everything that was found so far.
#[derive(Default)]
pub(super) struct Judge {
    /// The shard's ticket key.
    keys: KeySet,
    /// By index: the process that a phone had the ticket of, and the ticket.
    tickets: BTreeMap<u32, (String, TicketBody)>,
    /// By index: the life in whose journal it was issued, and its ticket.
    issued: BTreeMap<u32, (Incarnation, TicketBody)>,
    /// Journal segments that were read, by life, length and last change: a copy, or one whose life
    /// is over, is not read again.
    read: BTreeSet<([u8; 16], usize, SystemTime)>,
    /// One line for each packet that left wrongly.
    wrong: BTreeSet<String>,
}

/// The grants of one life, as its journal tells them.
#[derive(Default)]
struct Rights(Vec<(u32, u32, WallTime)>);

impl Rights {
    /// Whether some grant covers the packet at `position` at that time.
    fn allow(&self, position: u32, at: WallTime) -> bool {
        let covers = |(lo, hi, not_after): &(u32, u32, WallTime)| {
            (*lo..*hi).contains(&position) && at < *not_after
        };
        self.0.iter().any(covers)
    }
}

impl Judge {
    /// Believes tickets of the key in `path` alone.
    pub(super) fn new(path: &Path) -> Result<Self> {
        let file: PublicKeyFile = serde_json::from_slice(&fs::read(path)?)?;
        let mut keys = KeySet::default();
        keys.add(&file)?;
        Ok(Self { keys, ..Self::default() })
    }

    /// A phone won this ticket of `process`.
    pub(super) fn ticket(&mut self, process: &str, bytes: &[u8]) -> Result<()> {
        let ticket = Ticket::decode(bytes)?;
        if verify_tickets(std::slice::from_ref(&ticket), &self.keys) != [true] {
            bail!("{process} handed out a ticket that is not signed by the shard's key");
        }
        let index = ticket.body.packet.index().0;
        let found = (process.to_owned(), ticket.body);
        let (first, body) = self.tickets.entry(index).or_insert_with(|| found.clone());
        if (&*first, &*body) != (&found.0, &found.1) {
            let line = format!("packet {index} left of {first} for user {} and", body.user);
            let other = found.1.user;
            self.wrong.insert(format!("{line} of {process} for user {other}"));
        }
        Ok(())
    }

    /// Compares every ticket with what settlement says who held the section: its answer to `GET
    /// /v1/audit/grants`. A process is known there by its name, which no other one has.
    pub(super) fn compare(&mut self, tenures: &Value) -> Result<()> {
        let tenures = tenures.as_array().context("a list of tenures")?;
        let number = |tenure: &Value, field: &str| {
            tenure[field].as_u64().with_context(|| format!("`{field}` of a tenure"))
        };
        let mut rights: BTreeMap<&str, Rights> = BTreeMap::new();
        for tenure in tenures {
            let node = tenure["node"].as_str().context("a tenure has a node")?;
            // Who goes on where another life ended also has what that one was granted.
            let held = tenures.iter().filter(|other| {
                let resumed = tenure["claim"] == "resume" && other["holder"] == tenure["previous"];
                resumed || other["tenure"] == tenure["tenure"]
            });
            for grant in held {
                let (lo, hi) = (number(grant, "lo")?, number(grant, "hi")?);
                let range = (u32::try_from(lo)?, u32::try_from(hi)?);
                let not_after = WallTime(number(grant, "not_after")?);
                rights.entry(node).or_default().0.push((range.0, range.1, not_after));
            }
        }
        for (index, (process, body)) in &self.tickets {
            let allowed = rights.get(process.as_str());
            if !allowed.is_some_and(|rights| rights.allow(*index, body.issued_at)) {
                let at = body.issued_at.0;
                self.wrong.insert(format!("{process} issued packet {index} at {at} by no grant"));
            }
        }
        Ok(())
    }

    /// Reads the journal of `state`; `fleet`: every packet must leave by a grant.
    pub(super) fn read(&mut self, state: &Path, fleet: bool) -> Result<()> {
        let folder = state.join("journal");
        let mut paths: Vec<_> = fs::read_dir(&folder)
            .with_context(|| format!("cannot read {}", folder.display()))?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<_>>()?;
        paths.retain(|path| path.extension().is_some_and(|ending| ending == "yaojournal"));
        for path in paths {
            let about = || path.display().to_string();
            // Before the bytes: what is written meanwhile is read again.
            let changed = fs::metadata(&path).and_then(|found| found.modified());
            let changed = changed.with_context(about)?;
            let bytes = fs::read(&path).with_context(about)?;
            if bytes.len() > SEGMENT_HEADER_BYTES {
                let header = SegmentHeader::decode(journal::MAGIC, &bytes).with_context(about)?;
                if self.read.insert((header.incarnation.0, bytes.len(), changed)) {
                    self.segment(&bytes, fleet).with_context(about)?;
                }
            }
        }
        Ok(())
    }

    fn segment(&mut self, bytes: &[u8], fleet: bool) -> Result<()> {
        let header = SegmentHeader::decode(journal::MAGIC, bytes)?;
        let life = header.incarnation;
        let mut rights = Rights::default();
        for record in Scan::new(&bytes[SEGMENT_HEADER_BYTES..], header.first_sequence) {
            match Event::decode(record.kind, record.payload)? {
                Event::Grant { lo, hi, not_after, .. } => rights.0.push((lo, hi, not_after)),
                Event::Issue(body) => {
                    if fleet && !rights.allow(body.packet.index().0, body.issued_at) {
                        self.blame(&body, life, "by no grant of its own");
                    }
                    self.issue(life, body);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn issue(&mut self, life: Incarnation, body: TicketBody) {
        let first = *self.issued.entry(body.packet.index().0).or_insert((life, body));
        if first != (life, body) {
            self.blame(&body, life, "although it had left before");
        }
    }

    fn blame(&mut self, body: &TicketBody, life: Incarnation, how: &str) {
        self.wrong.insert(format!("packet {} left in life {life} {how}", body.packet));
    }

    /// Packets that left at all, as far as journals tell.
    pub(super) fn issued(&self) -> usize {
        self.issued.len()
    }

    /// Those of them that left at this time or later.
    pub(super) fn issued_since(&self, time: WallTime) -> usize {
        self.issued.values().filter(|(_, body)| body.issued_at >= time).count()
    }

    /// Tickets that phones have.
    pub(super) fn tickets(&self) -> usize {
        self.tickets.len()
    }

    /// Something left of whoever had no right at all, as the trial knows.
    pub(super) fn intruder(&mut self, what: String) {
        self.wrong.insert(what);
    }

    /// Packets that left wrongly.
    pub(super) fn wrong(&self) -> impl Iterator<Item = &str> {
        self.wrong.iter().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use yao_protocol::{
        CampaignId, Epoch, Fen, PacketId, PacketIndex, ShakeId, ShardId, SponsorId, UserId,
        WaveIndex, log::Record,
    };

    fn body(index: u32, user: u64, issued_at: u64) -> TicketBody {
        TicketBody {
            campaign: CampaignId(1),
            packet: PacketId::new(0, ShardId(0), PacketIndex(index)),
            user: UserId(user),
            amount: Fen(1),
            shake: ShakeId(1),
            issued_at: WallTime(issued_at),
            expires_at: WallTime(9_000),
            shard: ShardId(0),
            epoch: Epoch(1),
            sponsor: SponsorId::new(0).expect("below 64"),
            wave: WaveIndex(0),
        }
    }

    fn grant(lo: u32, hi: u32, not_after: u64) -> Event {
        let (wave, holder) = (WaveIndex(0), Incarnation([1; 16]));
        let not_after = WallTime(not_after);
        Event::Grant { wave, id: 1, lo, hi, holder, not_after, at: WallTime(0) }
    }

    fn segment(life: u8, events: &[Event]) -> Vec<u8> {
        let header = SegmentHeader {
            campaign: CampaignId(1),
            shard: ShardId(0),
            epoch: Epoch(1),
            incarnation: Incarnation([life; 16]),
            first_sequence: 1,
        };
        let mut bytes = header.encode(journal::MAGIC);
        for (sequence, event) in (1..).zip(events) {
            let (kind, payload) = event.encode();
            Record { kind, sequence, committed: 0, payload: &payload }.put(&mut bytes);
        }
        bytes
    }

    /// What is said of these journals, in fleet mode.
    fn wrong(segments: &[Vec<u8>]) -> Vec<String> {
        let mut judge = Judge::default();
        for bytes in segments {
            judge.segment(bytes, true).expect("a segment");
        }
        judge.wrong().map(str::to_owned).collect()
    }

    /// What is said of these tickets: process, packet, user and time of each.
    fn compared(tickets: &[(&str, u32, u64, u64)], tenures: Option<&Value>) -> Vec<String> {
        let signer = yao_protocol::keys::SignKey::from_seed(&[7; 32]);
        let owner = yao_protocol::keys::KeyOwner::Ticket {
            campaign: CampaignId(1),
            shard: ShardId(0),
            epoch: Epoch(1),
        };
        let mut judge = Judge::default();
        let key = signer.public().to_bytes();
        judge.keys.add(&PublicKeyFile { owner, key }).expect("a key");
        for (process, index, user, at) in tickets {
            let ticket = body(*index, *user, *at).sign(&signer);
            judge.ticket(process, &ticket.encode()).expect("its signature is good");
        }
        if let Some(tenures) = tenures {
            judge.compare(tenures).expect("tenures");
        }
        judge.wrong().map(str::to_owned).collect()
    }

    #[test]
    fn a_ticket_of_two_processes_or_of_no_holder_is_blamed() {
        assert_eq!(compared(&[("a", 5, 7, 1), ("a", 5, 7, 1)], None), Vec::<String>::new());
        assert_eq!(compared(&[("a", 5, 7, 1), ("b", 5, 8, 1)], None).len(), 1);
        assert_eq!(compared(&[("a", 5, 7, 1), ("a", 5, 8, 1)], None).len(), 1);
        let tenures = json!([
            {"tenure": 1, "node": "a", "claim": "first", "holder": "01", "previous": "00",
             "lo": 0, "hi": 10, "not_after": 100},
            {"tenure": 2, "node": "b", "claim": "burn", "holder": "02", "previous": "00",
             "lo": 10, "hi": 20, "not_after": 300},
            {"tenure": 3, "node": "c", "claim": "resume", "holder": "03", "previous": "02",
             "lo": 15, "hi": 25, "not_after": 400},
        ]);
        let check = |process, index, at, right: bool| {
            let wrong = compared(&[(process, index, 7, at)], Some(&tenures));
            assert_eq!(wrong.is_empty(), right, "{process} issues {index} at {at}: {wrong:?}");
        };
        check("a", 9, 99, true);
        check("a", 9, 100, false);
        check("a", 10, 99, false);
        check("b", 9, 200, false);
        check("b", 19, 299, true);
        check("c", 12, 299, true);
        check("c", 12, 300, false);
        check("c", 24, 399, true);
        check("d", 24, 399, false);
    }

    #[test]
    fn each_wrong_packet_is_blamed() {
        let granted = |at| segment(1, &[grant(0, 10, 100), Event::Issue(body(5, 7, at))]);
        assert_eq!(wrong(&[granted(99), granted(99)]), Vec::<String>::new(), "a copy is no fault");
        assert!(wrong(&[granted(100)])[0].contains("by no grant"), "after its end");
        let beyond = segment(1, &[grant(0, 5, 100), Event::Issue(body(5, 7, 1))]);
        assert!(wrong(&[beyond])[0].contains("by no grant"));
        let before = segment(1, &[Event::Issue(body(5, 7, 1)), grant(0, 10, 100)]);
        assert!(wrong(&[before])[0].contains("by no grant"));
        let other = segment(2, &[grant(0, 10, 100), Event::Issue(body(5, 8, 50))]);
        assert!(wrong(&[granted(99), other])[0].contains("had left before"));
        let twice = [grant(0, 10, 100), Event::Issue(body(5, 7, 1)), Event::Issue(body(5, 8, 1))];
        assert!(wrong(&[segment(1, &twice)])[0].contains("had left before"));
    }
}
