//! M8, at every simulated second: each planned packet is in exactly one class, and the classes add
//! up to the plan, to the fen.

use super::{Checked, Checks, evidence, must};
use crate::{disk::SimDisk, plan::ShardPlan};
use yao_engine::issuer::{Issuer, WaveState};
use yao_protocol::{
    Fen, PacketId, PacketIndex, WaveIndex,
    journal::{Event, SkipReason},
    seed_file::Section,
    ticket::TicketBody,
};

/// What the journal says of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Journaled {
    Nothing,
    Issued(TicketBody),
    Skipped(SkipReason),
}

/// A journal, read from outside.
struct Journal<'a> {
    shard: &'a ShardPlan,
    said: Vec<Journaled>,
    closed: Vec<WaveIndex>,
    /// H of the waves, as it is on the medium; where it is unknown, 0.
    highs: Vec<u32>,
    /// As in [`Checks`].
    sums: bool,
}

/// How a node's last process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Death {
    /// In order, on a disk that had been well all its life.
    Order,
    /// Killed at this time, ns, with a disk that keeps what was written.
    Kill(u64),
    /// In a way that may have taken anything.
    Unknown,
}

/// So long after its ticket left a packet is in the journal for sure, ns: the disk of a node in
/// trouble takes a second, and nobody wins while it takes longer.
pub(crate) const JOURNALED_NS: u64 = 4_000_000_000;

impl<'a> Journal<'a> {
    fn new(shard: &'a ShardPlan, highs: Vec<u32>, sums: bool) -> Self {
        let said = vec![Journaled::Nothing; shard.records.len()];
        Self { shard, said, closed: Vec::new(), highs, sums }
    }

    /// Takes the next event; `whole` when no record can be missing.
    fn read(&mut self, event: &Event, whole: bool) -> Checked {
        match event {
            Event::Issue(body) => {
                let index = body.packet.index().0 as usize;
                let planned = self.shard.packet(body.packet);
                must("money", planned.is_some(), || format!("{body:?} is not planned"))?;
                let before = std::mem::replace(&mut self.said[index], Journaled::Issued(*body));
                must("once", before == Journaled::Nothing, || {
                    format!("the journal issues {}, which it had as {before:?}", body.packet)
                })
            }
            Event::Skip { first, count, reason, .. } => {
                for index in first.0..first.0 + count {
                    let skipped = Journaled::Skipped(*reason);
                    let before = std::mem::replace(&mut self.said[index as usize], skipped);
                    must("once", before == Journaled::Nothing, || {
                        format!("the journal skips {index}, which it had as {before:?}")
                    })?;
                }
                Ok(())
            }
            Event::Close { wave, unissued, sum, .. } => {
                self.closed.push(*wave);
                if whole { self.close(*wave, *unissued, *sum) } else { Ok(()) }
            }
            Event::Start { .. }
            | Event::Reserve { .. }
            | Event::Grant { .. }
            | Event::Fence { .. } => Ok(()),
        }
    }

    fn section(&self, wave: WaveIndex) -> &'a Section {
        self.shard.header.section(wave).expect("the journal names planned waves")
    }

    /// What a close leaves is what nothing else accounts for.
    fn close(&self, wave: WaveIndex, unissued: u32, sum: Fen) -> Checked {
        let section = self.section(wave);
        let mut left = (0, Fen::ZERO);
        for index in section.indexes() {
            if self.said[index as usize] == Journaled::Nothing {
                let amount = self.shard.records[index as usize].amount;
                left = (left.0 + 1, left.1.checked_add(amount).expect("within the budget"));
            }
        }
        // Without the records what is left has no sum, nor with some at the agent.
        let unread = self.highs.get(usize::from(wave.0)).is_none_or(|high| *high < section.count);
        let fits = sum == left.1 || (sum == Fen::ZERO && (unread || !self.sums));
        must("money", unissued == left.0 && fits, || {
            format!("{wave:?} closes with {unissued} packets, {sum:?}; the journal leaves {left:?}")
        })
    }
}

impl Checks {
    /// Counts one node's money.
    ///
    /// # Errors
    /// What does not add up.
    pub fn money(&mut self, node: usize, disk: &SimDisk, books: Option<&Issuer>) -> Checked {
        if let Some(books) = books {
            self.books(node, books)?;
        }
        let operations = disk.operations();
        if std::mem::replace(&mut self.nodes[node].looked_at, operations) == operations {
            return Ok(());
        }
        self.totals.counts += 1;
        let journal = self.read_journal(node, disk)?;
        self.nothing_unsaid(node, &journal)?;
        self.skips(node, &journal.said)?;
        let shard = journal.shard;
        let mut sums = [Fen::ZERO; 4];
        for (index, record) in shard.records.iter().enumerate() {
            let index = PacketIndex(u32::try_from(index).expect("a shard's index"));
            let packet = PacketId::new(0, shard.shard, index);
            let said = journal.said[index.0 as usize];
            if let Journaled::Issued(body) = said {
                let first = *self.journaled.entry(packet).or_insert(body);
                must("once", first == body, || {
                    format!("two journals issue packet {packet}: {first:?} and {body:?}")
                })?;
            }
            let class = self.class(node, packet, said)?;
            sums[class] = sums[class].checked_add(record.amount).expect("within the budget");
        }
        self.nodes[node].said = journal.said;
        let total: Fen = sums.into_iter().sum();
        must("money", total == shard.header.sum, || {
            format!("node {node}: {sums:?} add up to {total:?}, planned {:?}", shard.header.sum)
        })
    }

    /// A journal only grows: what it said of a packet it says for good, whatever was killed since.
    fn nothing_unsaid(&self, node: usize, journal: &Journal<'_>) -> Checked {
        if self.nodes[node].damaged {
            return Ok(());
        }
        for (index, (before, now)) in self.nodes[node].said.iter().zip(&journal.said).enumerate() {
            must("money", *before == Journaled::Nothing || before == now, || {
                format!("the journal of node {node} said {before:?} of {index}, and says {now:?}")
            })?;
        }
        Ok(())
    }

    fn read_journal(
        &self,
        node: usize,
        disk: &SimDisk,
    ) -> Result<Journal<'static>, super::Violation> {
        let waves = self.shard(node).header.sections.iter().map(|section| section.wave.0);
        let highs = waves.map(|wave| evidence::durable_high(disk, wave).unwrap_or(0)).collect();
        let mut journal = Journal::new(self.shard(node), highs, self.sums);
        let whole = !self.nodes[node].damaged;
        for event in evidence::journal(disk) {
            journal.read(&event, whole)?;
        }
        Ok(journal)
    }

    /// The strongest evidence of a packet: opened, issued, skipped, unissued.
    fn class(
        &self,
        node: usize,
        packet: PacketId,
        said: Journaled,
    ) -> Result<usize, super::Violation> {
        let ticket = self.issued.get(&packet).map(|issued| issued.body);
        match (said, ticket) {
            (Journaled::Issued(body), Some(ticket)) => must("once", body == ticket, || {
                format!("packet {packet} left as {ticket:?} and is journaled as {body:?}")
            })?,
            // Another node of this shard has issued it: this one's copy of the state knows nothing
            // of it, and skips what it cannot account for.
            (Journaled::Skipped(_), Some(_)) if self.is_elsewhere(node, packet) => {}
            (Journaled::Skipped(reason), Some(ticket)) => {
                let excused = matches!(reason, SkipReason::Restart | SkipReason::Burnt)
                    && (self.nodes[node].orphans.contains(&packet) || self.nodes[node].damaged);
                must("money", excused, || {
                    format!("packet {packet} is skipped ({reason:?}) and left as {ticket:?}")
                })?;
            }
            (Journaled::Nothing | Journaled::Issued(_) | Journaled::Skipped(_), _) => {}
        }
        let opened = self.rows.contains_key(&packet) || self.acknowledged.contains_key(&packet);
        Ok(match said {
            _ if opened => 0,
            _ if ticket.is_some() => 1,
            Journaled::Issued(_) => 1,
            Journaled::Skipped(_) => 2,
            Journaled::Nothing => 3,
        })
    }

    /// Whether another node than this one sent the packet.
    fn is_elsewhere(&self, node: usize, packet: PacketId) -> bool {
        self.issued.get(&packet).is_some_and(|issued| issued.node != node)
    }

    /// The issuer's own books balance, and know every ticket of this life that was seen.
    fn books(&self, node: usize, books: &Issuer) -> Checked {
        for wave in books.waves().filter(|wave| wave.state == WaveState::Running) {
            let known = wave.issued + wave.skipped + wave.queued + wave.vetting;
            must("money", wave.released == known, || format!("node {node}: {wave:?}"))?;
            let fresh = self.nodes[node].fresh[usize::from(wave.wave.0)];
            must("money", fresh <= wave.issued, || {
                format!("node {node} sent {fresh} new tickets, its books say {wave:?}")
            })?;
        }
        Ok(())
    }

    /// A node starts: what it does not find in its journal was taken by the death before. An end in
    /// order takes nothing, and a kill what left a moment before it.
    pub(crate) fn starts(&mut self, node: usize, disk: &SimDisk, death: Death) -> Checked {
        let journal = self.read_journal(node, disk)?;
        self.nothing_unsaid(node, &journal)?;
        let issued_packet = |said: &Journaled| match said {
            Journaled::Issued(body) => Some(body.packet),
            _ => None,
        };
        self.nodes[node].issued_before = journal.said.iter().filter_map(issued_packet).collect();
        for (packet, issued) in &self.issued {
            let index = packet.index().0 as usize;
            if issued.node == node && !matches!(journal.said[index], Journaled::Issued(_)) {
                let known = !self.nodes[node].orphans.insert(*packet);
                let excused = known
                    || match death {
                        Death::Order => false,
                        Death::Kill(at) => at < issued.at + JOURNALED_NS,
                        Death::Unknown => true,
                    };
                must("money", excused, || {
                    format!(
                        "packet {packet} left node {node} at {} us, which ended without it: \
                         {death:?}",
                        issued.at / 1_000
                    )
                })?;
                self.nodes[node].forgotten.insert(issued.body.user);
            }
        }
        Ok(())
    }

    /// At the end: every wave of a node that lives is closed, and every ticket that left is in the
    /// journal, but for those that a death took.
    ///
    /// # Errors
    /// The first that is not.
    pub fn all_journaled(&self, node: usize, disk: &SimDisk) -> Checked {
        let journal = self.read_journal(node, disk)?;
        for section in &journal.shard.header.sections {
            must("liveness", journal.closed.contains(&section.wave), || {
                format!("node {node} never closed {:?}", section.wave)
            })?;
        }
        for (packet, issued) in self.issued.iter().filter(|(_, issued)| issued.node == node) {
            let said = journal.said[packet.index().0 as usize];
            let excused = self.nodes[node].orphans.contains(packet) || self.nodes[node].damaged;
            must("money", excused || said == Journaled::Issued(issued.body), || {
                format!("packet {packet} left node {node}, and its journal says {said:?}")
            })?;
        }
        Ok(())
    }

    /// What the journal of a node has issued.
    #[must_use]
    pub fn issued_by(&self, node: usize, disk: &SimDisk) -> Vec<TicketBody> {
        let issue = |event| match event {
            Event::Issue(body) if body.shard == self.shard(node).shard => Some(body),
            _ => None,
        };
        evidence::journal(disk).into_iter().filter_map(issue).collect()
    }

    /// Whether a node's journal has closed every wave.
    #[must_use]
    pub fn is_closed(&self, node: usize, disk: &SimDisk) -> bool {
        let closes = |event: &Event| matches!(event, Event::Close { .. });
        let closed = evidence::journal(disk).iter().filter(|event| closes(event)).count();
        closed >= self.shard(node).header.sections.len()
    }
}
