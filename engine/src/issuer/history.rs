//! What a start learns from the journal of the lives before it: every issue, which waves are over,
//! and which reserved packets nobody accounts for. Never touches the journal's bytes.

use super::{Recovered, RecoveredSection};
use crate::grant::Right;
use std::collections::VecDeque;
use yao_protocol::{
    Incarnation, PacketIndex, WallTime, WaveIndex,
    journal::{Event, SkipReason},
    seed_file::Section,
    ticket::TicketBody,
};

/// Lives that are remembered: so many in a row may have asked settlement for a grant and died
/// before they wrote it down.
const LIVES_MAX: usize = 64;

/// The journal, read from its first event to its last.
#[derive(Debug)]
pub struct History {
    sections: Vec<Past>,
    issued: Vec<TicketBody>,
    /// The last lives that started, newest last.
    lives: VecDeque<Incarnation>,
}

/// What became of one section so far.
#[derive(Debug)]
struct Past {
    section: Section,
    closed: bool,
    /// One bit per position: issued or skipped.
    accounted: Vec<u64>,
}

impl Past {
    fn account(&mut self, position: u32) {
        let (word, bit) = (position as usize / 64, 1 << (position % 64));
        if let Some(word) = self.accounted.get_mut(word) {
            *word |= bit;
        }
    }

    fn is_accounted(&self, position: u32) -> bool {
        self.accounted[position as usize / 64] >> (position % 64) & 1 == 1
    }

    /// The position behind the last one that is accounted for; 0 when none is.
    fn end(&self) -> u32 {
        let last = (0..self.section.count).rev().find(|position| self.is_accounted(*position));
        last.map_or(0, |position| position + 1)
    }

    /// Ranges below `high` of which the journal says nothing: first position and count.
    fn gaps(&self, high: u32) -> Vec<(u32, u32)> {
        let mut gaps: Vec<(u32, u32)> = Vec::new();
        for position in (0..high).filter(|position| !self.is_accounted(*position)) {
            match gaps.last_mut() {
                Some((first, count)) if *first + *count == position => *count += 1,
                _ => gaps.push((position, 1)),
            }
        }
        gaps
    }
}

impl History {
    /// An empty journal of a shard with these sections.
    #[must_use]
    pub fn new(sections: &[Section]) -> Self {
        let past = |section: &Section| Past {
            section: section.clone(),
            closed: false,
            accounted: vec![0; section.count.div_ceil(64) as usize],
        };
        let sections = sections.iter().map(past).collect();
        Self { sections, issued: Vec::new(), lives: VecDeque::new() }
    }

    /// Takes the next event.
    pub fn read(&mut self, event: &Event) {
        match event {
            Event::Issue(body) => {
                self.issued.push(*body);
                self.account(body.packet.index(), 1);
            }
            Event::Skip { first, count, .. } => self.account(*first, *count),
            Event::Close { wave, .. } => {
                let closed = self.sections.iter_mut().find(|past| past.section.wave == *wave);
                if let Some(past) = closed {
                    past.closed = true;
                }
            }
            Event::Start { incarnation, .. } => {
                if self.lives.len() == LIVES_MAX {
                    self.lives.pop_front();
                }
                self.lives.push_back(*incarnation);
            }
            Event::Reserve { .. } | Event::Grant { .. } | Event::Fence { .. } => {}
        }
    }

    /// The last lives that started, oldest first.
    pub fn lives(&self) -> impl Iterator<Item = Incarnation> + '_ {
        self.lives.iter().copied()
    }

    /// The position behind the last packet of a wave that was issued or skipped; 0 when none was.
    #[must_use]
    pub fn accounted_to(&self, wave: WaveIndex) -> u32 {
        let past = self.sections.iter().find(|past| past.section.wave == wave);
        past.map_or(0, Past::end)
    }

    fn account(&mut self, first: PacketIndex, count: u32) {
        for index in first.0..first.0.saturating_add(count) {
            let holds = |past: &&mut Past| past.section.indexes().contains(&index);
            if let Some(past) = self.sections.iter_mut().find(holds) {
                past.account(index - past.section.first.0);
            }
        }
    }

    /// What an issuer begins with when each wave's cursor stands at `high`, and the skips to
    /// journal first: packets below H that this journal does not account for (M1). Should one of
    /// them have left in a ticket whose record a crash took, that ticket is still honoured (M8).
    #[must_use]
    pub fn recover(self, high: impl Fn(WaveIndex) -> u32, at: WallTime) -> (Recovered, Vec<Event>) {
        let mut sections = Vec::with_capacity(self.sections.len());
        let mut skips = Vec::new();
        for past in self.sections {
            let wave = past.section.wave;
            let high = high(wave);
            // The close of a wave has told already what it left.
            let gaps = if past.closed { Vec::new() } else { past.gaps(high) };
            skips.extend(gaps.into_iter().map(|(first, count)| Event::Skip {
                wave,
                reason: SkipReason::Restart,
                first: PacketIndex(past.section.first.0 + first),
                count,
                at,
            }));
            let (section, closed) = (past.section, past.closed);
            sections.push(RecoveredSection { section, high, closed, right: Right::Local });
        }
        (Recovered { sections, issued: self.issued }, skips)
    }
}
