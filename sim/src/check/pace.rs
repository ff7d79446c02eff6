//! Pacing, seen from outside: a backlog leaves no faster than it may, and what is due leaves while
//! people shake for it. That nothing leaves early is checked with each ticket.

use super::{Checked, Checks, Seen, evidence, must};
use std::collections::{BTreeSet, VecDeque};
use yao_protocol::{
    SponsorSet, UserId, WallTime, WaveIndex,
    journal::Event,
    seed_file::{Section, SeedRecord},
    ticket::TicketBody,
};

/// Tickets are counted over so long, us.
const WINDOW_US: u64 = 2_000_000;
/// Shakes of one node's people are looked at this often, us.
const LOOK_US: u64 = 100_000;
/// So many looks in a row find somebody who is told that nothing is due, while a packet waits that
/// he may win, and nothing leaves: three seconds. A second fills the credit of a wave to its cap;
/// then packets that nobody takes stop holding up H (docs/decisions/0010-overlooked-packets.md),
/// and what lies behind them is read. Threads and disk of a node without trouble take milliseconds.
const MISSED_MAX: u32 = 30;
/// So many moments must have passed meanwhile: else there may be no credit for another packet.
const PASSED_MIN: usize = 4;
/// Packets that a user wins in all.
const WINS_MAX: usize = 3;

/// How one wave of one node goes.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// When the last tickets were issued.
    left: VecDeque<WallTime>,
    /// Looks in a row at which somebody went away without a packet that waited for him.
    missed: u32,
    /// The first of them, and the last.
    missed_from: WallTime,
    looked_at: WallTime,
}

/// Packets a second in the fastest segment, rounded up.
fn rate_max(section: &Section) -> u64 {
    let rates = section.segments.iter().map(|segment| {
        (u64::from(segment.packets) * 1_000_000).div_ceil(segment.duration_us.max(1))
    });
    rates.max().unwrap_or(0)
}

/// Packets that the curve plans up to `offset_us`, with the last segment going on behind the end.
fn planned(section: &Section, offset_us: u64) -> u64 {
    let (mut left_us, mut sum) = (offset_us, 0);
    for (place, segment) in section.segments.iter().enumerate() {
        let last = place + 1 == section.segments.len();
        let within = if last { left_us } else { left_us.min(segment.duration_us) };
        sum += u64::from(segment.packets) * within / segment.duration_us.max(1);
        left_us -= within;
    }
    sum
}

/// Of these, sorted by moment, how many have theirs in `from..=to`.
fn passed(records: &[SeedRecord], from_us: u64, to_us: u64) -> usize {
    let until = |us: u64| records.partition_point(|record| record.offset_us <= us);
    until(to_us).saturating_sub(until(from_us))
}

impl Checks {
    /// The section of a wave of this node, its packets, and when it began; `None` where nobody
    /// outside can tell which T0 the node goes by.
    pub(super) fn plan_of(
        &self,
        node: usize,
        wave: WaveIndex,
    ) -> Option<(&'static Section, &'static [SeedRecord], WallTime)> {
        let (book, place) = (&self.nodes[node], usize::from(wave.0));
        let t0 = book.t0[place].filter(|_| !book.moved[place])?;
        let shard = self.shard(node);
        let section = shard.header.section(wave)?;
        let indexes = section.indexes();
        let records = shard.records.get(indexes.start as usize..indexes.end as usize)?;
        Some((section, records, t0))
    }

    /// A ticket that was issued at `at` leaves: never in a burst.
    pub(super) fn left(&mut self, node: usize, wave: WaveIndex, at: WallTime) -> Checked {
        let plan = self.plan_of(node, wave);
        let pace = &mut self.nodes[node].pace[usize::from(wave.0)];
        pace.missed = 0;
        pace.left.push_back(at);
        let newest = pace.left.iter().copied().max().unwrap_or(at);
        pace.left.retain(|it| newest.us_since(*it) <= 2 * WINDOW_US);
        let Some((section, records, t0)) = plan else { return Ok(()) };
        // A ticket may leave behind one that was issued later: its window ends where it was issued,
        // and those that end later hold one more than they did.
        for end in pace.left.iter().filter(|end| **end >= at && end.us_since(at) <= WINDOW_US) {
            let in_window = |it: &&WallTime| *it <= end && end.us_since(**it) <= WINDOW_US;
            let count = pace.left.iter().filter(in_window).count() as u64;
            let to = end.us_since(t0);
            let from = to.saturating_sub(WINDOW_US);
            let moments = passed(records, from, to) as u64;
            let earned = moments.max(planned(section, to) - planned(section, from)) * 12 / 10;
            // A second's packets may have been saved up, and as many bound to people being vetted.
            let most = earned + 2 * rate_max(section).max(2) + 2;
            must("pacing", count <= most, || {
                format!("node {node} issued {count} packets of {wave:?} in 2 s, {most} at most")
            })?;
        }
        Ok(())
    }

    /// An honest user is told that nothing is due, by a node that had no trouble so far.
    pub(super) fn none_due(&mut self, seen: Seen<'_>, user: UserId) -> Checked {
        for wave in 0..self.nodes[seen.node].pace.len() {
            let wave = WaveIndex(u16::try_from(wave).expect("few waves"));
            self.look(seen, user, wave)?;
        }
        Ok(())
    }

    fn look(&mut self, seen: Seen<'_>, user: UserId, wave: WaveIndex) -> Checked {
        let Some((section, records, t0)) = self.plan_of(seen.node, wave) else { return Ok(()) };
        let now = seen.wall.us_since(t0);
        let end = section.duration_us();
        let pace = &self.nodes[seen.node].pace[usize::from(wave.0)];
        if seen.wall < t0 || now > end || seen.wall.us_since(pace.looked_at) < LOOK_US {
            return Ok(());
        }
        let due = &records[..passed_by(records, now)];
        let waits = self.waits(seen.node, section, due, user, &[]);
        let pace = &mut self.nodes[seen.node].pace[usize::from(wave.0)];
        pace.looked_at = seen.wall;
        if !waits {
            return Ok(());
        }
        if pace.missed == 0 {
            pace.missed_from = seen.wall;
        }
        pace.missed += 1;
        let from = pace.missed_from.us_since(t0);
        if pace.missed < MISSED_MAX || passed(records, from, now) < PASSED_MIN {
            return Ok(());
        }
        pace.missed = 0;
        // A ticket may have been issued whose connection broke before it left.
        let journal = evidence::journal(seen.disk);
        must("pacing", !self.waits(seen.node, section, due, user, &journal), || {
            let (node, seconds) = (seen.node, (now - from) / 1_000_000);
            format!("node {node} gave nothing of {wave:?} for {seconds} s, and {user} came for it")
        })
    }

    /// Whether one of these packets is nobody's yet, and `user` may win it, as far as is known from
    /// tickets and from this journal.
    fn waits(
        &self,
        node: usize,
        section: &Section,
        due: &[SeedRecord],
        user: UserId,
        journal: &[Event],
    ) -> bool {
        let first = section.first.0;
        // What lies before the grant in force is burnt; the journal tells so with the next issue.
        let mut granted = self.nodes[node].granted.iter().rev();
        let begins = granted.find(|(wave, ..)| *wave == section.wave).map_or(0, |grant| grant.1);
        let mut taken: Vec<bool> = (0..due.len()).map(|place| place < begins as usize).collect();
        let mut take = |index: u32| {
            let place = index.checked_sub(first).and_then(|place| taken.get_mut(place as usize));
            place.into_iter().for_each(|taken| *taken = true);
        };
        let (mut wins, mut sponsors) = (BTreeSet::new(), SponsorSet::EMPTY);
        let mut issue = |body: &TicketBody, take: &mut dyn FnMut(u32)| {
            if body.shard == self.shard(node).shard {
                take(body.packet.index().0);
            }
            if body.user == user {
                wins.insert(body.packet);
                sponsors = sponsors.with(body.sponsor);
            }
        };
        self.issued.values().for_each(|issued| issue(&issued.body, &mut take));
        for event in journal {
            match event {
                Event::Issue(body) => issue(body, &mut take),
                Event::Skip { first, count, .. } => (first.0..first.0 + count).for_each(&mut take),
                _ => {}
            }
        }
        let may_win = |record: &SeedRecord| !sponsors.contains(record.sponsor);
        wins.len() < WINS_MAX && due.iter().zip(taken).any(|(it, taken)| !taken && may_win(it))
    }
}

/// How many of these have their moment behind them.
fn passed_by(records: &[SeedRecord], now_us: u64) -> usize {
    records.partition_point(|record| record.offset_us <= now_us)
}
