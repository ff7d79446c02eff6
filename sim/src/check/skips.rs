//! M1's price, seen from outside: a start passes over one block at most for each death before it,
//! and over what had been on offer for a second and nobody took
//! (docs/decisions/0010-overlooked-packets.md).

use super::{Checked, Checks, Violation, money::Journaled, must};
use crate::plan::{START, WAVES};
use yao_protocol::{
    PacketIndex, WallTime, WaveIndex,
    journal::SkipReason,
    seed_file::{Section, SeedRecord},
};

/// Packets in a block at least, and seconds of the fastest segment that it holds (DESIGN, M1).
const BLOCK_MIN: u32 = 64;
const BLOCK_SECONDS: u64 = 3;
/// A process that lived no longer has overlooked nothing, ns.
const SHORT_NS: u64 = 1_000_000_000;

/// A process of a node that has ended: how long it lived, ns, and when it ended by its own clock,
/// which is the one that its waves go by.
#[derive(Clone, Copy, Debug)]
struct Life {
    lived: u64,
    died: WallTime,
}

/// The lives of a node's processes.
#[derive(Debug, Default)]
pub(super) struct Lives {
    /// When the present one began, ns.
    began: u64,
    ended: Vec<Life>,
    /// What was last skipped of each wave.
    told: [Told; WAVES as usize],
}

/// What starts have skipped of a wave after some deaths. A start that is refused in its middle
/// leaves some of it to the next one.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    /// The deaths: from this one in order, and to before this one.
    from: usize,
    to: usize,
    /// Packets that nobody could have overlooked.
    counted: usize,
}

impl Lives {
    /// What starts have written is gone: they skip it again.
    pub(super) fn begin_anew(&mut self) {
        self.told.iter_mut().for_each(|told| told.counted = 0);
    }
}

fn block(section: &Section) -> u32 {
    let rates = section.segments.iter().map(|segment| {
        (u64::from(segment.packets) * BLOCK_SECONDS * 1_000_000)
            .div_ceil(segment.duration_us.max(1))
    });
    u32::try_from(rates.max().unwrap_or(0)).unwrap_or(u32::MAX).max(BLOCK_MIN)
}

impl Checks {
    /// A process of a node begins.
    pub(crate) fn life_begins(&mut self, node: usize, now: u64) {
        self.nodes[node].lives.began = now;
    }

    /// A process of a node has ended, however; by its own clock it was then `died`.
    pub(crate) fn life_ends(&mut self, node: usize, now: u64, died: WallTime) {
        let lives = &mut self.nodes[node].lives;
        lives.ended.push(Life { lived: now - lives.began, died });
    }

    /// What the journal of a node says now and did not say at the last look was skipped by as many
    /// starts as there were deaths since the last skips.
    pub(super) fn skips(&mut self, node: usize, said: &[Journaled]) -> Checked {
        let shard = self.shard(node);
        let book = &self.nodes[node];
        let copies = self.nodes.iter().filter(|other| other.shard == book.shard).count() > 1;
        if book.said.is_empty() || book.damaged || copies {
            return Ok(());
        }
        let burnt = book.burnt;
        for section in &shard.header.sections {
            let indexes = section.indexes();
            let is_new = |index: &u32| {
                let place = *index as usize;
                let before = self.nodes[node].said[place];
                let now = Journaled::Skipped(SkipReason::Restart);
                before == Journaled::Nothing && said[place] == now
            };
            // What a death took from the journal had been issued, or it was burnt: of that the
            // journal tells with the next issue.
            let burnt = section.first.0 + burnt[usize::from(section.wave.0)];
            let left = |index: &u32| *index >= burnt && !self.has_left(node, PacketIndex(*index));
            let skipped: Vec<u32> = indexes.filter(is_new).filter(left).collect();
            if !skipped.is_empty() {
                let told = self.skipped(node, section, &skipped)?;
                self.nodes[node].lives.told[usize::from(section.wave.0)] = told;
            }
        }
        Ok(())
    }

    fn skipped(&self, node: usize, section: &Section, skipped: &[u32]) -> Result<Told, Violation> {
        let WaveIndex(wave) = section.wave;
        let lives = &self.nodes[node].lives;
        let mut told = lives.told[usize::from(wave)];
        if told.to < lives.ended.len() {
            // The last death of the group before may have come before its skips were told.
            let deaths = told.to - told.from;
            let waits = deaths > 0 && told.counted <= (deaths - 1) * block(section) as usize;
            let from = told.to - usize::from(waits);
            told = Told { from, to: lives.ended.len(), counted: 0 };
        }
        let since = &lives.ended[told.from..told.to];
        let Some((_, _, t0)) = self.plan_of(node, section.wave) else { return Ok(told) };
        let most = since.len() * block(section) as usize;
        let short = since.iter().all(|life| life.lived < SHORT_NS);
        let died = since.iter().map(|life| life.died).max().unwrap_or(START);
        let records: &[SeedRecord] = &self.shard(node).records;
        let lay_ahead = |index: &&u32| t0.plus_us(records[**index as usize].offset_us) > died;
        let ahead = skipped.iter().filter(lay_ahead).count();
        told.counted += if short { skipped.len() } else { ahead };
        let counted = told.counted;
        must("money", counted <= most, || {
            format!(
                "M1: node {node} skips {} packets of wave {wave}, {counted} of which nobody could \
                 have overlooked, after {} deaths: {most} at most",
                skipped.len(),
                since.len()
            )
        })?;
        Ok(told)
    }
}
