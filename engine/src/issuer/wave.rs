//! One wave's books: what is reserved, released, queued; how much may be issued now.
//!
//! A packet is *reserved* below H, *released* at its winning moment into its sponsor's queue, and
//! *taken* by a candidate. Issue credit keeps a backlog from leaving in a burst.

use super::{
    RecoveredSection,
    limits::{CATCH_UP_STEP_NS, CREDIT_PACKETS_MIN, LEAD_US, QUEUE_WAIT_NS, STEP_NS_MIN},
    offer::Offer,
};
use crate::{
    Anchor,
    cursor::{BLOCK_MAX, BLOCK_MIN},
    grant::Right,
    time::Timestamp,
    wave_clock::{Curve, PACKET, WaveClock},
};
use std::collections::VecDeque;
use yao_protocol::{
    Fen, PacketIndex, SponsorSet, WaveIndex, limits::SPONSORS_MAX, seed_file::SeedRecord,
};

/// Where a wave stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaveState {
    /// The schedule does not name its T0.
    Idle,
    /// T0 lies ahead.
    Armed,
    /// Between T0 and its close.
    Running,
    /// Over: what was not issued stays unissued.
    Closed,
}

/// A packet whose record has been read: its position in the section, and the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) position: u32,
    pub(super) record: SeedRecord,
}

/// A released packet in its sponsor's queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Queued {
    pub(super) packet: Packet,
    /// When it was released, or read if its moment had passed by then.
    pub(super) since: Timestamp,
}

/// What a step of a wave came to.
#[derive(Debug, Default)]
pub(super) struct Step {
    /// Positions of packets that waited too long.
    pub(super) waited: Vec<u32>,
    /// Raise H to this and read from the old H on.
    pub(super) reserve: Option<(u32, u32)>,
    /// The wave has closed just now: packets left, and their sum if every record was read.
    pub(super) closed: Option<(u32, Fen)>,
}

/// The books of one wave.
#[derive(Debug)]
pub(super) struct Wave {
    pub(super) wave: WaveIndex,
    pub(super) first: PacketIndex,
    pub(super) count: u32,
    pub(super) state: WaveState,
    /// By what right packets are issued (M4).
    pub(super) right: Right,
    /// H as it is on disk: positions below it may be issued (M1).
    pub(super) high: u32,
    /// Position of the first packet of this life of the process.
    pub(super) start: u32,
    pub(super) issued: u32,
    pub(super) skipped: u32,
    pub(super) vetting: u32,
    pub(super) released: u32,
    curve: Curve,
    clock: Option<WaveClock>,
    grace_us: u64,
    /// Its end has come, and only the disk is waited for.
    over: bool,
    /// A reservation is under way, up to this H.
    reserving: Option<u32>,
    /// Read and not yet released, in order of moment.
    reserved: VecDeque<Packet>,
    queues: Vec<VecDeque<Queued>>,
    queued: u32,
    /// Queued packets that were on offer and that nobody took: they do not hold up H.
    overlooked: u32,
    /// How long they have been on offer.
    offer: Offer,
    /// Clients are leaving: nothing is overlooked any more.
    leaving: bool,
    /// Sponsors with a packet in their queue.
    waiting: SponsorSet,
    /// What may be issued now, in millionths of a packet.
    credit: u64,
    /// How much of its credit the wave earns, hundredths: fewer while opens find little room.
    share_percent: u8,
    /// Offset of the last step.
    offset_us: u64,
    /// One bit per position: issued in this life. Checked before each issue.
    taken: Vec<u64>,
}

impl Wave {
    pub(super) fn new(recovered: &RecoveredSection) -> Self {
        let RecoveredSection { section, high, closed, right } = recovered;
        let high = *high;
        assert!(high <= section.count, "H lies in the section");
        Self {
            wave: section.wave,
            first: section.first,
            count: section.count,
            state: if *closed { WaveState::Closed } else { WaveState::Idle },
            right: right.clone(),
            high,
            start: high,
            issued: 0,
            skipped: 0,
            vetting: 0,
            released: 0,
            curve: Curve::new(section),
            clock: None,
            grace_us: 0,
            over: false,
            reserving: None,
            reserved: VecDeque::new(),
            queues: vec![VecDeque::new(); SPONSORS_MAX],
            queued: 0,
            overlooked: 0,
            offer: Offer::default(),
            leaving: false,
            waiting: SponsorSet::EMPTY,
            credit: 0,
            share_percent: 100,
            offset_us: 0,
            taken: vec![0; section.count.div_ceil(64) as usize],
        }
    }

    /// Sets or corrects T0. A wave that has started is not moved, and a closed one stays closed.
    pub(super) fn arm(&mut self, now: Timestamp, anchor: &Anchor, clock: WaveClock, grace_us: u64) {
        match self.state {
            WaveState::Closed => return,
            WaveState::Running => {
                // Another T0 or factor would jump over moments, or back; only the end may change.
                let same =
                    |old: &WaveClock| (old.t0(), old.factor()) == (clock.t0(), clock.factor());
                if self.clock.as_ref().is_some_and(same) {
                    self.grace_us = grace_us;
                }
                return;
            }
            WaveState::Idle | WaveState::Armed => {}
        }
        self.grace_us = grace_us;
        self.state = WaveState::Armed;
        // A start in the middle of the wave: what was due before it is backlog, without credit.
        self.offset_us = clock.offset_us(anchor.wall(now)).unwrap_or(0);
        self.clock = Some(clock);
    }

    /// The schedule no longer names a T0. A started wave goes on.
    pub(super) fn disarm(&mut self) {
        if self.state == WaveState::Armed {
            self.state = WaveState::Idle;
            self.clock = None;
        }
    }

    /// Packets below H that nobody has yet.
    pub(super) fn unissued(&self) -> u32 {
        let reserved = u32::try_from(self.reserved.len()).expect("bounded by the section");
        reserved + self.queued + self.vetting
    }

    pub(super) const fn queued(&self) -> u32 {
        self.queued
    }

    pub(super) const fn overlooked(&self) -> u32 {
        self.overlooked
    }

    /// Sponsors of whom a packet may be issued now.
    pub(super) fn available(&self, now: Timestamp) -> SponsorSet {
        let any = self.is_open() && self.credit >= PACKET && self.right.is_live(now);
        if any { self.waiting } else { SponsorSet::EMPTY }
    }

    /// How many packets may be issued now.
    pub(super) fn available_count(&self, now: Timestamp) -> u32 {
        let earned = u32::try_from(self.credit / PACKET).unwrap_or(u32::MAX);
        let any = self.is_open() && self.right.is_live(now);
        if any { self.queued.min(earned) } else { 0 }
    }

    /// B: how many packets a reservation holds (M1).
    pub(super) fn block(&self) -> u32 {
        let factor = self.clock.as_ref().map_or(1, WaveClock::factor);
        let rate = u128::from(self.curve.rate_max()) * u128::from(factor);
        let block = rate.saturating_mul(3).div_ceil(u128::from(PACKET));
        u32::try_from(block).unwrap_or(BLOCK_MAX).clamp(BLOCK_MIN, BLOCK_MAX)
    }

    /// A reservation is on disk: `records` are the packets from `first` to `high`.
    pub(super) fn on_reserved(&mut self, first: u32, high: u32, records: Vec<SeedRecord>) {
        assert_eq!(self.reserving, Some(high), "one reservation at a time");
        assert_eq!(first, self.high, "reservations follow one another");
        assert_eq!(records.len(), (high - first) as usize, "every packet has a record");
        self.reserving = None;
        self.high = high;
        if self.state != WaveState::Closed {
            let packets = (first..high).zip(records);
            self.reserved.extend(packets.map(|(position, record)| Packet { position, record }));
        }
    }

    /// A grant that begins above H is on disk, and H with it: what lies between was granted to
    /// others, or nobody knows what became of it.
    pub(super) fn jump(&mut self, high: u32) {
        assert!(high >= self.high && high <= self.count, "M2: H never falls");
        let untouched = self.high == self.start && self.reserving.is_none();
        assert!(untouched && self.unissued() == 0, "M4: nothing is issued before the first grant");
        (self.high, self.start) = (high, high);
    }

    /// Whether packets of it may be bound to candidates, and issued.
    pub(super) fn is_open(&self) -> bool {
        self.state == WaveState::Running && !self.over
    }

    /// Whether packets of this wave will be issued: then the right to do so is kept alive.
    pub(super) fn wants_right(&self) -> bool {
        matches!(self.state, WaveState::Armed | WaveState::Running)
    }

    /// Brings the books to `now`; nobody wins while the journal holds everything up.
    pub(super) fn step(&mut self, now: Timestamp, anchor: &Anchor, hold: bool) -> Step {
        let mut step = Step::default();
        let wall = anchor.wall(now);
        let Some(clock) = self.clock.clone() else { return step };
        if matches!(self.state, WaveState::Idle | WaveState::Closed) {
            return step;
        }
        if let Some(offset_us) = clock.offset_us(wall) {
            self.state = WaveState::Running;
            self.release(now, &clock, offset_us);
            self.overlook(now, self.credit == self.credit_max(&clock, offset_us), hold);
            step.waited = self.drop_waiting(now);
            let close_at = clock.due(self.curve.end_us()).plus_us(self.grace_us);
            // The schedule may still put the end off while the disk is waited for.
            self.over = wall >= close_at;
            if self.over {
                if self.right.is_being_kept() {
                    // H may rise with it, and what that burns is not left over: the count waits
                    // for the disk. Nobody wins meanwhile: the wave is not open.
                    return step;
                }
                step.closed = Some(self.close());
                return step;
            }
        } else if wall.plus_us(LEAD_US) < clock.t0() {
            return step;
        }
        step.reserve = self.reserve(now);
        step
    }

    /// Moves what is due into the queues and earns credit.
    fn release(&mut self, now: Timestamp, clock: &WaveClock, offset_us: u64) {
        let before = self.offset_us;
        // Whether the moments around now are known: then credit comes with each packet that passes
        // its own. Else the plan's curve stands in for them.
        let all_read = self.high == self.count;
        let known =
            all_read || self.reserved.back().is_some_and(|p| p.record.offset_us > offset_us);
        let mut passed = 0_u64;
        while let Some(packet) = self.reserved.front().copied() {
            let moment = packet.record.offset_us;
            if moment > offset_us {
                break;
            }
            self.reserved.pop_front();
            passed += u64::from(moment > before || (before == 0 && moment == 0));
            self.queue(Queued { packet, since: now });
            self.released += 1;
        }
        let end_us = self.curve.end_us();
        let earned = if offset_us > end_us {
            // In the grace a backlog goes on at the rate of the last segment.
            let beyond = offset_us - before.max(end_us);
            let rest = u128::from(self.curve.rate(end_us)) * u128::from(beyond) / 1_000_000;
            u64::try_from(rest).unwrap_or(u64::MAX).saturating_add(passed * PACKET)
        } else if known {
            passed * PACKET
        } else {
            self.curve.released(offset_us) - self.curve.released(before)
        };
        let cap = self.credit_max(clock, offset_us);
        let share = u64::from(self.share_percent);
        self.credit =
            self.credit.saturating_add(earned.saturating_mul(12 * share) / 1_000).min(cap);
        self.offset_us = offset_us;
    }

    /// A whole credit's worth was on offer for the second in which it is earned, and stayed:
    /// whoever is here may not take what is queued. What nobody could win was not overlooked.
    fn overlook(&mut self, now: Timestamp, whole_credit: bool, hold: bool) {
        let open = !hold && self.right.is_live(now);
        self.offer.step(now, open);
        if open && whole_credit && !self.leaving && self.offer.is_whole() {
            self.overlooked = self.queued;
        }
    }

    /// From now on credit grows by `percent` hundredths of what it would.
    pub(super) const fn throttle(&mut self, percent: u8) {
        self.share_percent = percent;
    }

    /// From now on nothing more is overlooked: what those who left did not take would lie below H,
    /// and the next start would pass over it. What waits a minute is skipped as ever.
    pub(super) const fn leave(&mut self) {
        self.leaving = true;
    }

    /// Credit is capped at one second's packets: an audience told to shake now shakes in step, once
    /// an interval, and what passed meanwhile must still be there for it.
    fn credit_max(&self, clock: &WaveClock, offset_us: u64) -> u64 {
        let per_second = self.curve.rate(offset_us).saturating_mul(u64::from(clock.factor()));
        per_second.max(CREDIT_PACKETS_MIN * PACKET)
    }

    fn queue(&mut self, queued: Queued) {
        let sponsor = queued.packet.record.sponsor;
        self.queues[sponsor.index()].push_back(queued);
        self.waiting = self.waiting.with(sponsor);
        self.queued += 1;
    }

    /// The queued packet of an eligible sponsor whose moment is the earliest.
    pub(super) fn earliest(&self, now: Timestamp, eligible: SponsorSet) -> Option<Queued> {
        let sponsors = SponsorSet(self.available(now).0 & eligible.0);
        let fronts = sponsors.iter().filter_map(|s| self.queues[s.index()].front().copied());
        fronts.min_by_key(|queued| queued.packet.record.offset_us)
    }

    /// Takes the packet at the front of its sponsor's queue, with the credit for it.
    pub(super) fn take(&mut self, queued: Queued) {
        let sponsor = queued.packet.record.sponsor;
        let front = self.queues[sponsor.index()].pop_front().expect("it was looked at just now");
        assert_eq!(front.packet, queued.packet, "nobody else takes from the queue");
        self.queued -= 1;
        self.overlooked = self.overlooked.min(self.queued);
        if self.queues[sponsor.index()].is_empty() {
            self.waiting = self.waiting.without(sponsor);
        }
        assert!(self.credit >= PACKET, "credit was looked at just now");
        self.credit -= PACKET;
        self.vetting += 1;
    }

    /// Puts a refused packet back to the head of its queue, and its credit back.
    pub(super) fn put_back(&mut self, queued: Queued) {
        let sponsor = queued.packet.record.sponsor;
        self.vetting -= 1;
        if self.state == WaveState::Closed {
            return;
        }
        self.queues[sponsor.index()].push_front(queued);
        self.waiting = self.waiting.with(sponsor);
        self.queued += 1;
        self.credit = self.credit.saturating_add(PACKET);
    }

    /// Marks the packet issued. It must be ours to give now, below the durable mark, and nobody's
    /// yet.
    pub(super) fn issue(&mut self, now: Timestamp, position: u32) {
        assert!(self.right.allows(now, position), "M4: only by a right that has not ended");
        assert!(position < self.high, "M1: only below the mark that is on disk");
        assert!(position >= self.start, "M1: a start never issues below its own mark");
        let (word, bit) = (position as usize / 64, 1 << (position % 64));
        assert!(self.taken[word] & bit == 0, "a packet is issued once");
        self.taken[word] |= bit;
        self.vetting -= 1;
        self.issued += 1;
    }

    fn drop_waiting(&mut self, now: Timestamp) -> Vec<u32> {
        let mut waited = Vec::new();
        for sponsor in self.waiting.iter() {
            let queue = &mut self.queues[sponsor.index()];
            while queue.front().is_some_and(|q| now.ns_since(q.since) >= QUEUE_WAIT_NS) {
                let queued = queue.pop_front().expect("it was looked at just now");
                waited.push(queued.packet.position);
                self.queued -= 1;
                self.skipped += 1;
            }
            if queue.is_empty() {
                self.waiting = self.waiting.without(sponsor);
            }
        }
        // The oldest ones are those that were overlooked.
        let dropped = u32::try_from(waited.len()).unwrap_or(u32::MAX);
        self.overlooked = self.overlooked.saturating_sub(dropped).min(self.queued);
        waited
    }

    fn close(&mut self) -> (u32, Fen) {
        self.state = WaveState::Closed;
        let unread = self.count - self.high;
        let left = unread + self.unissued();
        let queued = self.queues.iter().flatten().map(|queued| queued.packet);
        let sum = if unread == 0 && self.vetting == 0 {
            queued.chain(self.reserved.iter().copied()).map(|packet| packet.record.amount).sum()
        } else {
            Fen::ZERO
        };
        self.reserved.clear();
        self.queues.iter_mut().for_each(VecDeque::clear);
        self.queued = 0;
        self.overlooked = 0;
        self.waiting = SponsorSet::EMPTY;
        self.credit = 0;
        (left, sum)
    }

    /// Old and new H, when fewer than half a block is left.
    ///
    /// Packets that nobody here may take do not count: with them H would stand still, and no packet
    /// of any other sponsor would come, until they are skipped after a minute
    /// (docs/decisions/0010-overlooked-packets.md).
    fn reserve(&mut self, now: Timestamp) -> Option<(u32, u32)> {
        let (block, left) = (self.block(), self.unissued() - self.overlooked);
        let end = self.count.min(self.right.ceiling());
        let full = self.reserving.is_some() || self.high >= end || left >= block / 2;
        if full || !self.right.is_live(now) {
            return None;
        }
        let high = self.high.saturating_add(block - left).min(end);
        self.reserving = Some(high);
        Some((self.high, high))
    }

    /// When [`Self::step`] next has something to do, or the right to issue.
    pub(super) fn deadline(&self, now: Timestamp, anchor: &Anchor) -> Timestamp {
        let Some(clock) = &self.clock else { return Timestamp::NEVER };
        let right = if self.wants_right() {
            self.right.deadline(now, self.high).max(now.plus_ns(STEP_NS_MIN))
        } else {
            Timestamp::NEVER
        };
        right.min(self.books_deadline(now, anchor, clock))
    }

    fn books_deadline(&self, now: Timestamp, anchor: &Anchor, clock: &WaveClock) -> Timestamp {
        match self.state {
            WaveState::Idle | WaveState::Closed => Timestamp::NEVER,
            WaveState::Armed => {
                let t0 = anchor.timestamp(clock.t0());
                let lead =
                    anchor.timestamp(yao_protocol::WallTime(clock.t0().0.saturating_sub(LEAD_US)));
                if now < lead { lead } else { t0.max(now.plus_ns(STEP_NS_MIN)) }
            }
            WaveState::Running => self.running_deadline(now, anchor, clock),
        }
    }

    fn running_deadline(&self, now: Timestamp, anchor: &Anchor, clock: &WaveClock) -> Timestamp {
        let close = clock.due(self.curve.end_us()).plus_us(self.grace_us);
        let mut at = anchor.timestamp(close);
        if self.over {
            // The disk's answer wakes us.
            at = now.plus_ns(CATCH_UP_STEP_NS);
        }
        if let Some(packet) = self.reserved.front() {
            at = at.min(anchor.timestamp(clock.due(packet.record.offset_us)));
        }
        if self.queued > 0 {
            // With every reserved packet released no moment lies ahead, and the gate may keep off
            // everybody who is here: only time fills the credit that lets H rise.
            let stuck = self.reserved.is_empty() && self.high < self.count;
            if self.credit < PACKET || stuck {
                at = at.min(now.plus_ns(CATCH_UP_STEP_NS));
            }
            let fronts = self.waiting.iter().filter_map(|s| self.queues[s.index()].front());
            for queued in fronts {
                at = at.min(queued.since.plus_ns(QUEUE_WAIT_NS));
            }
        }
        // At ten thousand packets a second one step serves several moments.
        at.max(now.plus_ns(STEP_NS_MIN))
    }

    /// Microseconds into the wave, as of the last step.
    pub(super) const fn offset_us(&self) -> u64 {
        self.offset_us
    }
}
