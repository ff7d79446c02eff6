//! What a campaign must come to, worked out the slow and plain way: by walking packets one by one
//! and counting. Shares nothing with [`crate::plan`], so that a mistake there is not believed here.

use crate::campaign::{Amounts, Campaign, CurveSegment, Wave};
use std::collections::BTreeMap;
use std::ops::Range;
use yao_protocol::{Fen, ShardId};

/// A second, in microseconds.
const SECOND_US: u64 = 1_000_000;

/// The expectations of one campaign.
#[derive(Clone, Debug)]
pub struct Reckoning {
    campaign: Campaign,
    plan_digest: [u8; 32],
    waves: Vec<WaveReckoning>,
}

/// The expectations of one wave.
#[derive(Clone, Debug)]
pub struct WaveReckoning {
    packets: u64,
    shards: u32,
    curve: Vec<CurveSegment>,
    amounts: Amounts,
    /// Packets of each sponsor.
    counts: Vec<u64>,
    /// Money of each sponsor; meaningful for drawn amounts only.
    budgets: Vec<u64>,
    /// Positions are multiplied by this, modulo `packets`.
    stride: u64,
}

/// How much of one sponsor: packets of each amount.
pub type Histogram = BTreeMap<Fen, u64>;

impl Reckoning {
    /// Works out `campaign`, which was accepted by the plan.
    #[must_use]
    pub fn new(campaign: &Campaign) -> Self {
        let waves = campaign.waves.iter().map(|wave| WaveReckoning::new(campaign, wave)).collect();
        Self { campaign: campaign.clone(), plan_digest: campaign.digest(), waves }
    }

    /// What was asked for.
    #[must_use]
    pub const fn campaign(&self) -> &Campaign {
        &self.campaign
    }

    /// The digest of the plan.
    #[must_use]
    pub const fn plan_digest(&self) -> &[u8; 32] {
        &self.plan_digest
    }

    /// The waves, in order.
    #[must_use]
    pub fn waves(&self) -> &[WaveReckoning] {
        &self.waves
    }

    /// Packets of each wave (outer) and sponsor (inner) in all shards below `shard`.
    #[must_use]
    pub fn before(&self, shard: ShardId) -> Vec<Vec<u64>> {
        let wave = |wave: &WaveReckoning| wave.tally(0..wave.position(shard));
        self.waves.iter().map(wave).collect()
    }
}

impl WaveReckoning {
    fn new(campaign: &Campaign, wave: &Wave) -> Self {
        let shares: Vec<u64> =
            campaign.sponsors.iter().map(|sponsor| u64::from(sponsor.share)).collect();
        Self {
            packets: wave.packets,
            shards: campaign.shards,
            curve: wave.curve.clone(),
            amounts: wave.amounts.clone(),
            counts: share_out(wave.packets, &shares),
            budgets: share_out(wave.budget.0, &shares),
            stride: stride(wave.packets),
        }
    }

    /// The amounts asked for.
    #[must_use]
    pub const fn amounts(&self) -> &Amounts {
        &self.amounts
    }

    /// Packets of each sponsor in all shards.
    #[must_use]
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// How many packets `shard` has: the numbers shard, shard + shards, ... below the wave's.
    #[must_use]
    pub fn shard_packets(&self, shard: ShardId) -> u64 {
        match self.packets.checked_sub(u64::from(shard.0) + 1) {
            None => 0,
            Some(beyond_first) => beyond_first / u64::from(self.shards) + 1,
        }
    }

    /// Packets of each sponsor in `shard`, by walking its positions.
    #[must_use]
    pub fn sponsor_counts(&self, shard: ShardId) -> Vec<u64> {
        let start = self.position(shard);
        self.tally(start..start + self.shard_packets(shard))
    }

    /// The order in which `shard`'s packets are released.
    #[must_use]
    pub fn release(&self, shard: ShardId) -> Release<'_> {
        let number = u64::from(shard.0);
        Release { wave: self, number, segment: 0, number_start: 0, second_start: 0 }
    }

    /// The money of `sponsor`'s packets with these `ranks` (counted over the shards in order), for
    /// drawn amounts.
    #[must_use]
    pub fn drawn_sum(&self, sponsor: usize, ranks: Range<u64>) -> Fen {
        let (budget, count) = (u128::from(self.budgets[sponsor]), u128::from(self.counts[sponsor]));
        let until = |rank: u64| budget * u128::from(rank) / count;
        Fen(u64::try_from(until(ranks.end) - until(ranks.start)).expect("a part of the budget"))
    }

    /// The packets of `sponsor` with these `ranks`, by amount, for listed amounts.
    #[must_use]
    pub fn listed(&self, sponsor: usize, ranks: Range<u64>) -> Histogram {
        let rows: Vec<(Fen, u64)> = match &self.amounts {
            Amounts::Uniform => Vec::new(),
            Amounts::Fixed(amount) => vec![(*amount, self.packets)],
            Amounts::Table(rows) => rows.iter().map(|row| (row.amount, row.packets)).collect(),
        };
        let first: u64 = self.counts[..sponsor].iter().sum();
        let mut histogram = Histogram::new();
        for rank in ranks {
            let mut image = self.image(first + rank);
            let holds = rows.iter().find(|(_, packets)| {
                let inside = image < *packets;
                image = image.saturating_sub(*packets);
                inside
            });
            if let Some((amount, _)) = holds {
                *histogram.entry(*amount).or_insert(0) += 1;
            }
        }
        histogram
    }

    /// The first position of `shard`: what all shards before it have.
    fn position(&self, shard: ShardId) -> u64 {
        (0..shard.0).map(|earlier| self.shard_packets(ShardId(earlier))).sum()
    }

    fn tally(&self, positions: Range<u64>) -> Vec<u64> {
        let mut ends = Vec::new();
        for count in &self.counts {
            ends.push(ends.last().copied().unwrap_or(0) + count);
        }
        let mut tally = vec![0; ends.len()];
        for position in positions {
            let image = self.image(position);
            let sponsor = ends.iter().filter(|end| **end <= image).count();
            tally[sponsor] += 1;
        }
        tally
    }

    fn image(&self, position: u64) -> u64 {
        match position.checked_mul(self.stride) {
            Some(product) => product % self.packets,
            None => {
                let product = u128::from(position) * u128::from(self.stride);
                (product % u128::from(self.packets)) as u64
            }
        }
    }
}

/// Where a packet must fall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The segment of the curve.
    pub segment: usize,
    /// First microsecond of its second; the moment lies less than a second after it.
    pub start_us: u64,
}

impl Slot {
    /// Whether a moment lies in the slot.
    #[must_use]
    pub const fn contains(&self, offset_us: u64) -> bool {
        offset_us >= self.start_us && offset_us - self.start_us < SECOND_US
    }
}

/// Walks one shard's packets of a wave in order of release.
#[derive(Clone, Debug)]
pub struct Release<'a> {
    wave: &'a WaveReckoning,
    /// Number of the next packet among those of all shards.
    number: u64,
    segment: usize,
    /// Number of the segment's first packet.
    number_start: u64,
    /// Second of the wave in which the segment starts.
    second_start: u64,
}

impl Iterator for Release<'_> {
    type Item = Slot;

    /// Packet i of a segment with P packets in D seconds falls in the last second t with
    /// P * t / D (rounded down) <= i.
    fn next(&mut self) -> Option<Slot> {
        if self.number >= self.wave.packets {
            return None;
        }
        let mut segment = self.wave.curve[self.segment];
        while self.number - self.number_start >= segment.packets {
            self.number_start += segment.packets;
            self.second_start += u64::from(segment.seconds);
            self.segment += 1;
            segment = self.wave.curve[self.segment];
        }
        let (place, seconds) = (self.number - self.number_start + 1, u64::from(segment.seconds));
        let second = match place.checked_mul(seconds) {
            Some(product) => (product - 1) / segment.packets,
            None => {
                let product = u128::from(place) * u128::from(seconds) - 1;
                (product / u128::from(segment.packets)) as u64
            }
        };
        self.number += u64::from(self.wave.shards);
        Some(Slot { segment: self.segment, start_us: (self.second_start + second) * SECOND_US })
    }
}

/// Largest remainder, told by rank: a share gets one more when fewer shares are ahead of it than
/// there is left to give.
fn share_out(total: u64, shares: &[u64]) -> Vec<u64> {
    let exact = |share: u64| u128::from(total) * u128::from(share);
    let floors: u128 = shares.iter().map(|share| exact(*share) / 10_000).sum();
    let left = u128::from(total) - floors;
    let ahead = |place: usize| {
        let remainder = exact(shares[place]) % 10_000;
        let beats = |(other, share): &(usize, &u64)| {
            let theirs = exact(**share) % 10_000;
            theirs > remainder || (theirs == remainder && *other < place)
        };
        shares.iter().enumerate().filter(beats).count() as u128
    };
    let part = |place: usize| {
        let part = exact(shares[place]) / 10_000 + u128::from(ahead(place) < left);
        u64::try_from(part).expect("no part exceeds the total")
    };
    (0..shares.len()).map(part).collect()
}

/// The smallest number coprime to `size` at or above 0.618033988749 x `size`.
fn stride(size: u64) -> u64 {
    let mut candidate = (u128::from(size) * 618_033_988_749 / 1_000_000_000_000) as u64;
    loop {
        let (mut left, mut right) = (size, candidate);
        while right != 0 {
            (left, right) = (right, left % right);
        }
        if left == 1 {
            return candidate;
        }
        candidate += 1;
    }
}
