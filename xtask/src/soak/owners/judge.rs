//! Who issued what, by the journals of all state directories of a shard: a packet that left in two
//! lives, and a packet that left by no grant of its life, or after its end.
//!
//! Reads bytes with `protocol`, and shares nothing else with the programs that it judges.

use anyhow::{Context, Result};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};
use yao_protocol::{
    Incarnation, WallTime,
    journal::{self, Event},
    log::{SEGMENT_HEADER_BYTES, Scan, SegmentHeader},
    ticket::TicketBody,
};

/// Everything that was found so far.
#[derive(Default)]
pub(super) struct Judge {
    /// By index: the life that issued it, and its ticket.
    issued: BTreeMap<u32, (Incarnation, TicketBody)>,
    /// Journal segments that were read, by life and length: a copy is not read again.
    read: BTreeSet<([u8; 16], usize)>,
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
    /// Reads the journal of `state`; `fleet`: every packet must leave by a grant.
    pub(super) fn read(&mut self, state: &Path, fleet: bool) -> Result<()> {
        let folder = state.join("journal");
        let mut paths: Vec<_> = fs::read_dir(&folder)
            .with_context(|| format!("cannot read {}", folder.display()))?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<_>>()?;
        paths.retain(|path| path.extension().is_some_and(|ending| ending == "yaojournal"));
        for path in paths {
            let bytes = fs::read(&path).with_context(|| path.display().to_string())?;
            if bytes.len() > SEGMENT_HEADER_BYTES {
                self.segment(&bytes, fleet).with_context(|| path.display().to_string())?;
            }
        }
        Ok(())
    }

    fn segment(&mut self, bytes: &[u8], fleet: bool) -> Result<()> {
        let header = SegmentHeader::decode(journal::MAGIC, bytes)?;
        let life = header.incarnation;
        if !self.read.insert((life.0, bytes.len())) {
            return Ok(());
        }
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

    /// Packets that this life issued.
    pub(super) fn issued_by(&self, life: &str) -> usize {
        self.issued.values().filter(|(owner, _)| owner.to_string() == life).count()
    }

    /// Packets that left at all.
    pub(super) fn issued(&self) -> usize {
        self.issued.len()
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
