//! The judgement: pure, over evidence that was read. Each rule of DESIGN.md section 6 that a
//! finished event can be held against is one function.

use super::{Heap, PROBLEMS_SHOWN_MAX, Verdict, books::Packet, evidence::Evidence};
use std::collections::BTreeSet;
use yao_protocol::{
    PacketId, WallTime, WaveIndex,
    journal::{Event, SkipReason},
    seed_file::Section,
    ticket::TicketBody,
};

/// Judges `evidence`.
pub(super) fn judge(evidence: &Evidence) -> Verdict {
    let mut judge = Judge {
        evidence,
        packets: vec![Packet::default(); evidence.records.len()],
        lags_us: Vec::new(),
        closed: BTreeSet::new(),
        verdict: Verdict::default(),
    };
    for problem in &evidence.problems {
        judge.problem(problem.clone());
    }
    judge.cursors();
    judge.journal();
    judge.spool();
    judge.tickets_seen();
    judge.receipts_seen();
    judge.ledger();
    judge.limits();
    judge.classes();
    judge.finish()
}

pub(super) struct Judge<'a> {
    pub(super) evidence: &'a Evidence,
    /// By index in the shard.
    pub(super) packets: Vec<Packet>,
    lags_us: Vec<u64>,
    /// Waves that the node closed.
    closed: BTreeSet<WaveIndex>,
    pub(super) verdict: Verdict,
}

impl Judge<'_> {
    pub(super) fn problem(&mut self, text: String) {
        self.verdict.problem_count += 1;
        if self.verdict.problems.len() < PROBLEMS_SHOWN_MAX {
            self.verdict.problems.push(text);
        }
    }

    /// The place of a packet in the plan; `None` (and a problem) for one that was never planned.
    pub(super) fn place(&mut self, packet: PacketId, source: &str) -> Option<usize> {
        let header = &self.evidence.header;
        let ours = packet.generation() == header.generation && packet.shard() == header.shard;
        let index = usize::try_from(packet.index().0).expect("a u32");
        if ours && index < self.packets.len() {
            return Some(index);
        }
        self.verdict.lost += 1;
        self.problem(format!("packet {packet} of {source} is not in the shard's plan"));
        None
    }

    /// Whether a packet is one of another generation that is judged with this one.
    pub(super) fn is_others(&self, packet: PacketId) -> bool {
        self.evidence.others.contains(&(packet.generation(), packet.shard()))
    }

    fn section(&self, index: usize) -> Option<&Section> {
        let index = u32::try_from(index).expect("indexes are u32");
        self.evidence.header.sections.iter().find(|section| section.indexes().contains(&index))
    }

    /// H of a wave's section, as an index of the shard.
    fn high_index(&self, wave: WaveIndex) -> Option<u64> {
        let section = self.evidence.header.section(wave)?;
        let cursor = self.evidence.cursors.iter().find(|cursor| cursor.wave == wave)?;
        Some(u64::from(section.first.0) + u64::from(cursor.high))
    }

    /// M5, M1, M8 and "never early": one ticket, from whichever source.
    pub(super) fn ticket(&mut self, body: &TicketBody, source: &str) -> Option<usize> {
        let index = self.place(body.packet, source)?;
        if let Some(first) = &self.packets[index].ticket {
            if first != body {
                let text = format!(
                    "packet {} left twice: to user {} and, says {source}, to user {}",
                    body.packet, first.user, body.user
                );
                self.packets[index].duplicate = true;
                self.problem(text);
            }
            return Some(index);
        }
        self.packets[index].ticket = Some(*body);
        let planned = self.evidence.records[index];
        let wave = self.section(index).map(|section| section.wave);
        let same = (planned.amount, planned.sponsor, wave, self.evidence.schedule.campaign)
            == (body.amount, body.sponsor, Some(body.wave), body.campaign);
        if !same {
            self.verdict.lost += 1;
            self.problem(format!(
                "packet {}: {source} says {} of sponsor {}, the plan says {} of sponsor {}",
                body.packet, body.amount.0, body.sponsor, planned.amount.0, planned.sponsor
            ));
        }
        // Without a cursor nothing was reserved.
        let high = self.high_index(body.wave).unwrap_or(0);
        if index as u64 >= high {
            self.problem(format!(
                "packet {} was issued at or above H, index {high}, says {source} (M1)",
                body.packet
            ));
        }
        self.moment(index, body);
        Some(index)
    }

    /// Release: never before the winning moment.
    fn moment(&mut self, index: usize, body: &TicketBody) {
        let Some(due) = self.due(index, body.wave) else {
            self.verdict.early_releases += 1;
            let text = format!("packet {} was issued, but its wave has no T0", body.packet);
            return self.problem(text);
        };
        if body.issued_at < due {
            self.verdict.early_releases += 1;
            let early = due.0 - body.issued_at.0;
            return self.problem(format!("packet {} was issued {early} us early", body.packet));
        }
        self.lags_us.push(body.issued_at.0 - due.0);
    }

    /// The winning moment as wall time; rounded down, as a clock that reads less is early.
    fn due(&self, index: usize, wave: WaveIndex) -> Option<WallTime> {
        let schedule = self.evidence.schedule.wave(wave)?;
        let factor = u64::from(schedule.factor.max(1));
        let offset = self.evidence.records[index].offset_us / factor;
        Some(WallTime(schedule.t0?.0 + offset))
    }

    /// Each cursor is of this shard and within its section.
    fn cursors(&mut self) {
        let header = &self.evidence.header;
        for cursor in &self.evidence.cursors {
            let (wave, high) = (cursor.wave, cursor.high);
            let found = (cursor.campaign, cursor.shard, cursor.generation, cursor.merkle_root);
            if found != (header.campaign, header.shard, header.generation, header.merkle_root) {
                self.problem(format!("the cursor of wave {wave} belongs to another shard"));
            }
            let count = header.section(wave).map_or(0, |section| section.count);
            if high > count {
                self.problem(format!("the cursor of wave {wave} is at {high} of {count}"));
            }
        }
    }

    fn journal(&mut self) {
        let mut high = vec![0_u64; self.evidence.header.sections.len()];
        for event in &self.evidence.events {
            match event {
                Event::Start { .. } => {
                    self.verdict.lives += 1;
                    self.restart(&high);
                }
                Event::Reserve { wave, high: raised, .. } => {
                    self.reserve(&mut high, *wave, *raised)
                }
                Event::Issue(body) => self.issue(body),
                Event::Skip { first, count, reason, .. } => {
                    if *reason == SkipReason::Waited {
                        self.verdict.waited += u64::from(*count);
                    }
                    let first = usize::try_from(first.0).expect("a u32");
                    let end = first + usize::try_from(*count).expect("a u32");
                    if end > self.packets.len() {
                        self.problem(format!("the journal skips packets up to {end}"));
                    }
                    for packet in self.packets.iter_mut().take(end).skip(first) {
                        packet.skipped = true;
                    }
                }
                Event::Close { wave, unissued, sum, .. } => {
                    self.close(*wave, (*unissued, sum.0));
                }
                Event::Grant { .. } => {}
                Event::Fence { place, .. } => {
                    self.verdict.fences += 1;
                    if !self.evidence.fences_allowed {
                        self.problem(format!(
                            "the shard was fenced (place {place}): see the node's log"
                        ));
                    }
                }
            }
        }
    }

    fn issue(&mut self, body: &TicketBody) {
        let Some(index) = self.ticket(body, "the journal") else { return };
        let packet = &mut self.packets[index];
        let again = packet.journaled;
        packet.journaled = true;
        packet.duplicate |= again;
        if again {
            self.problem(format!("packet {} is in the journal twice", body.packet));
        } else if packet.skipped {
            self.problem(format!("packet {} was issued after it was skipped", body.packet));
        }
    }

    /// What a node says it had left when it closed a wave, against what its journal says.
    fn close(&mut self, wave: WaveIndex, told: (u32, u64)) {
        let Some(section) = self.evidence.header.section(wave) else {
            return self.problem(format!("the journal closes wave {wave}, which is unknown"));
        };
        let mut left = Heap::default();
        for index in section.indexes() {
            let index = usize::try_from(index).expect("a u32");
            let packet = &self.packets[index];
            if !packet.journaled && !packet.skipped {
                left.add(self.evidence.records[index].amount);
            }
        }
        // The node tells no sum when it did not read every record.
        let sum = if told.1 == 0 { 0 } else { left.sum.0 };
        if (u64::from(told.0), told.1) != (left.packets, sum) {
            let (packets, found) = (left.packets, left.sum.0);
            self.problem(format!(
                "wave {wave} closed with {} packets of {}; the journal leaves {packets} of {found}",
                told.0, told.1
            ));
        }
        if !self.closed.insert(wave) {
            self.problem(format!("wave {wave} closed twice"));
        }
    }

    /// A start passes over whatever was reserved and not issued, unless its wave was over.
    fn restart(&mut self, high: &[u64]) {
        for (section, high) in self.evidence.header.sections.iter().zip(high) {
            if self.closed.contains(&section.wave) {
                continue;
            }
            let first = usize::try_from(section.first.0).expect("a u32");
            let reserved = usize::try_from(*high).expect("checked to be below the section's count");
            for packet in &mut self.packets[first..first + reserved] {
                packet.skipped |= packet.ticket.is_none();
            }
        }
    }

    fn reserve(&mut self, high: &mut [u64], wave: WaveIndex, raised: u32) {
        let sections = &self.evidence.header.sections;
        let Some(at) = sections.iter().position(|section| section.wave == wave) else {
            return self.problem(format!("the journal reserves for wave {wave}, which is unknown"));
        };
        if raised > sections[at].count || u64::from(raised) < high[at] {
            return self.problem(format!(
                "the journal moves H of wave {wave} from {} to {raised} of {} (M2)",
                high[at], sections[at].count
            ));
        }
        high[at] = u64::from(raised);
        let on_disk = self.evidence.cursors.iter().find(|cursor| cursor.wave == wave);
        if on_disk.is_none_or(|cursor| cursor.high < raised) {
            let found = on_disk.map_or(0, |cursor| cursor.high);
            self.problem(format!("the cursor of wave {wave} is at {found}, below {raised} (M2)"));
        }
    }

    /// M8: each planned packet in exactly one class, the strongest evidence deciding.
    fn classes(&mut self) {
        let (mut issued, mut opened) = (Heap::default(), Heap::default());
        let (mut skipped, mut unissued) = (Heap::default(), Heap::default());
        let mut reclaimed = Heap::default();
        for index in 0..self.packets.len() {
            let amount = self.evidence.records[index].amount;
            let packet = &self.packets[index];
            if packet.reclaimed {
                reclaimed.add(amount);
            } else if packet.is_issued() {
                issued.add(amount);
                if packet.is_opened() {
                    opened.add(amount);
                }
            } else if packet.skipped || self.is_below_open_cursor(index) {
                skipped.add(amount);
            } else {
                unissued.add(amount);
            }
        }
        let verdict = &mut self.verdict;
        verdict.duplicates += self.packets.iter().filter(|packet| packet.duplicate).count() as u64;
        (verdict.issued, verdict.issued_fen) = (issued.packets, issued.sum.0);
        (verdict.opened, verdict.opened_fen) = (opened.packets, opened.sum.0);
        (verdict.skipped, verdict.skipped_fen) = (skipped.packets, skipped.sum.0);
        (verdict.unissued, verdict.unissued_fen) = (unissued.packets, unissued.sum.0);
        (verdict.reclaimed, verdict.reclaimed_fen) = (reclaimed.packets, reclaimed.sum.0);
        let planned = &self.evidence.header;
        (verdict.planned, verdict.planned_fen) = (u64::from(planned.record_count), planned.sum.0);
        let classed = issued.plus(skipped).plus(unissued).plus(reclaimed);
        if (classed.packets, classed.sum.0) != (verdict.planned, verdict.planned_fen) {
            let text = format!(
                "{} packets of {} in all classes; planned are {} of {} (M8)",
                classed.packets, classed.sum.0, verdict.planned, verdict.planned_fen
            );
            self.problem(text);
        }
    }

    /// Below H of a wave that its node never closed: nobody knows whether it was issued. A node
    /// that closed a wave knows from its own books what it had not issued.
    fn is_below_open_cursor(&self, index: usize) -> bool {
        let Some(wave) = self.section(index).map(|section| section.wave) else { return false };
        !self.closed.contains(&wave)
            && self.high_index(wave).is_some_and(|high| (index as u64) < high)
    }

    fn finish(mut self) -> Verdict {
        self.lags_us.sort_unstable();
        if let Some(last) = self.lags_us.len().checked_sub(1) {
            let p99 = self.lags_us[last * 99 / 100];
            self.verdict.release_lag_ms_p99 = p99 as f64 / 1_000.0;
        }
        let good = self.verdict.problem_count == 0;
        self.verdict.verdict = if good { "balanced" } else { "UNBALANCED" };
        self.verdict
    }
}
