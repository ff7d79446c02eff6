//! The plan: how many packets and how much money each shard gets of each sponsor, and when. It is
//! public and exact, and any shard's part is computed without the others'. Holds no secret and
//! draws nothing.
//!
//! * **Time.** The packets of a wave are numbered in the order of release; number g belongs to
//!   shard g mod shards. So every second of the curve is exact over all shards.
//! * **Sponsors.** Each shard owns a stretch of positions 0..packets; a [`Scatter`] sends a
//!   position into one sponsor's bucket. So sponsors are exact over all shards and nearly so in
//!   each.
//! * **Money.** A sponsor's budget is laid along its packets in order of shard, so that a shard
//!   gets the difference of two rounded-down proportions.

use crate::{
    apportion::{Scatter, congruent_below, largest_remainder, proportion},
    campaign::{Amounts, Campaign, CampaignError, CurveSegment, TableRow},
    check::{percent, wrong},
};
use std::ops::Range;
use yao_protocol::{
    Fen, ShardId, SponsorId, WaveIndex,
    manifest::{Manifest, ShardEntry, SponsorPlan, WavePlan},
    seed_file::Segment,
};

/// A campaign whose every number was found to work out.
#[derive(Clone, Debug)]
pub struct Plan {
    campaign: Campaign,
    digest: [u8; 32],
    waves: Vec<WaveLayout>,
}

/// One wave's layout over all shards.
#[derive(Clone, Debug)]
pub struct WaveLayout {
    /// The wave.
    pub wave: WaveIndex,
    /// Packets of all shards.
    pub packets: u64,
    /// What each sponsor has in it, in order of id.
    pub sponsors: Vec<SponsorLayout>,
    curve: Vec<CurveSegment>,
    amounts: Amounts,
    shards: u32,
    scatter: Scatter,
}

/// What one sponsor has in a wave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SponsorLayout {
    /// Its packets, as a stretch of 0..packets of the wave.
    pub bucket: Range<u64>,
    /// Their sum.
    pub sum: Fen,
}

/// What one shard has of one sponsor in one wave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lot {
    /// The sponsor.
    pub sponsor: SponsorId,
    /// How many packets; may be 0.
    pub packets: u32,
    /// What they hold.
    pub prizes: Prizes,
}

/// What the packets of a [`Lot`] hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prizes {
    /// Drawn evenly; this is their sum.
    Drawn(Fen),
    /// Exactly these.
    Listed(Vec<TableRow>),
}

impl Prizes {
    /// The sum of the packets.
    #[must_use]
    pub fn sum(&self) -> Fen {
        match self {
            Self::Drawn(sum) => *sum,
            Self::Listed(rows) => rows.iter().map(|row| Fen(row.amount.0 * row.packets)).sum(),
        }
    }
}

impl Plan {
    /// Plans `campaign`.
    ///
    /// # Errors
    /// The first mistake of the campaign.
    pub fn new(campaign: Campaign) -> Result<Self, CampaignError> {
        campaign.check()?;
        let waves = (0..campaign.waves.len())
            .map(|position| WaveLayout::new(&campaign, position))
            .collect::<Result<_, _>>()?;
        Ok(Self { digest: campaign.digest(), campaign, waves })
    }

    /// What was asked for.
    #[must_use]
    pub const fn campaign(&self) -> &Campaign {
        &self.campaign
    }

    /// The digest that names the plan in every file.
    #[must_use]
    pub const fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// The waves, in order.
    #[must_use]
    pub fn waves(&self) -> &[WaveLayout] {
        &self.waves
    }

    /// Every shard.
    pub fn shards(&self) -> impl Iterator<Item = ShardId> + use<> {
        (0..self.campaign.shards).map(ShardId)
    }

    /// Packets of all waves and shards.
    #[must_use]
    pub fn packets(&self) -> u64 {
        self.waves.iter().map(|wave| wave.packets).sum()
    }

    /// Their sum.
    #[must_use]
    pub fn budget(&self) -> Fen {
        self.campaign.waves.iter().map(|wave| wave.budget).sum()
    }

    /// What the signed manifest says, with `shards` generated so far, in order of id.
    #[must_use]
    pub fn manifest(&self, shards: Vec<ShardEntry>) -> Manifest {
        let campaign = &self.campaign;
        Manifest {
            campaign: campaign.id,
            name: campaign.name.clone(),
            currency: campaign.currency.clone(),
            exponent: campaign.exponent,
            plan_digest: self.digest,
            packets: self.packets(),
            budget: self.budget(),
            wins_per_user: campaign.wins_per_user,
            wins_per_sponsor: campaign.wins_per_sponsor,
            ticket_lifetime_seconds: campaign.ticket_lifetime_seconds,
            sponsors: self.sponsor_plans(),
            waves: self.wave_plans(),
            shard_count: campaign.shards,
            shards,
            reclaimed: None,
        }
    }

    fn sponsor_plans(&self) -> Vec<SponsorPlan> {
        let plan = |position: usize| SponsorPlan {
            sponsor: sponsor_id(position),
            name: self.campaign.sponsors[position].name.clone(),
            packets: self.waves.iter().map(|wave| wave.sponsors[position].packets()).sum(),
            sum: self.waves.iter().map(|wave| wave.sponsors[position].sum).sum(),
        };
        (0..self.campaign.sponsors.len()).map(plan).collect()
    }

    fn wave_plans(&self) -> Vec<WavePlan> {
        let plan = |(layout, wave): (&WaveLayout, &crate::campaign::Wave)| WavePlan {
            wave: layout.wave,
            name: wave.name.clone(),
            duration_us: wave.seconds() * 1_000_000,
            packets: wave.packets,
            sum: wave.budget,
        };
        self.waves.iter().zip(&self.campaign.waves).map(plan).collect()
    }
}

impl SponsorLayout {
    /// How many packets.
    #[must_use]
    pub const fn packets(&self) -> u64 {
        self.bucket.end - self.bucket.start
    }
}

impl WaveLayout {
    fn new(campaign: &Campaign, position: usize) -> Result<Self, CampaignError> {
        let wave = &campaign.waves[position];
        let shares: Vec<u32> = campaign.sponsors.iter().map(|sponsor| sponsor.share).collect();
        let mut start = 0;
        let sums = largest_remainder(wave.budget.0, &shares);
        let mut layout = Self {
            wave: WaveIndex(u16::try_from(position).expect("at most 64 waves")),
            packets: wave.packets,
            sponsors: Vec::new(),
            curve: wave.curve.clone(),
            amounts: wave.amounts.clone(),
            shards: campaign.shards,
            scatter: Scatter::new(wave.packets),
        };
        for (packets, sum) in largest_remainder(wave.packets, &shares).into_iter().zip(sums) {
            let bucket = start..start + packets;
            start = bucket.end;
            let sum = match layout.rows(bucket.clone()) {
                None => Fen(sum),
                Some(rows) => Prizes::Listed(rows).sum(),
            };
            layout.sponsors.push(SponsorLayout { bucket, sum });
        }
        assert_eq!(start, wave.packets, "the sponsors' buckets fill the wave");
        let total: Fen = layout.sponsors.iter().map(|sponsor| sponsor.sum).sum();
        assert_eq!(total, wave.budget, "the sponsors' sums fill the budget");
        layout.check_sponsors(campaign, position)?;
        Ok(layout)
    }

    /// Every sponsor has packets, and every draw fits its bounds.
    fn check_sponsors(&self, campaign: &Campaign, position: usize) -> Result<(), CampaignError> {
        let path = format!("wave[{position}]");
        for (sponsor, layout) in campaign.sponsors.iter().zip(&self.sponsors) {
            let (name, share) = (&sponsor.name, percent(sponsor.share));
            if layout.packets() == 0 {
                let remedy = format!(
                    "the share of sponsor \"{name}\" ({share}) rounds to 0 packets; write \
                     more packets or fewer sponsors"
                );
                return Err(wrong(format!("{path}.packets"), self.packets, remedy));
            }
            if self.amounts != Amounts::Uniform {
                continue;
            }
            let (sum, packets) = (layout.sum, layout.packets());
            if sum.0 < packets {
                let money = campaign.money(sum);
                let remedy = format!(
                    "sponsor \"{name}\" ({share}) would pay {money} for {packets} packets, \
                     less than one minor unit each; raise the budget"
                );
                return Err(wrong(
                    format!("{path}.budget"),
                    campaign.money(campaign.waves[position].budget),
                    remedy,
                ));
            }
            // A shard's mean exceeds the sponsor's by less than one minor unit, the draw's bound
            // by less than two.
            let draw_max = 2 * u128::from(sum.0) / u128::from(packets) + 2;
            if draw_max > u128::from(u32::MAX) {
                let most = campaign.money(Fen(u64::from(u32::MAX)));
                let remedy = format!(
                    "one packet could hold more than {most}, the most there is; lower the \
                     budget or write more packets"
                );
                return Err(wrong(
                    format!("{path}.budget"),
                    campaign.money(campaign.waves[position].budget),
                    remedy,
                ));
            }
        }
        Ok(())
    }

    /// How many packets `shard` has.
    #[must_use]
    pub fn shard_packets(&self, shard: ShardId) -> u32 {
        self.released(shard, 0..self.packets)
    }

    /// The release curve as `shard` sees it.
    #[must_use]
    pub fn segments(&self, shard: ShardId) -> Vec<Segment> {
        let segment = |(start, segment): (u64, &CurveSegment)| Segment {
            duration_us: u64::from(segment.seconds) * 1_000_000,
            packets: self.released(shard, start..start + segment.packets),
        };
        self.starts().zip(&self.curve).map(segment).collect()
    }

    /// How many packets `shard` releases in each second of the wave.
    pub fn seconds(&self, shard: ShardId) -> impl Iterator<Item = u32> {
        self.starts().zip(&self.curve).flat_map(move |(start, segment)| {
            let seconds = u64::from(segment.seconds);
            let until = move |second| start + proportion(segment.packets, second, seconds);
            (0..seconds).map(move |second| self.released(shard, until(second)..until(second + 1)))
        })
    }

    /// What `shard` has of each sponsor, in order of id.
    #[must_use]
    pub fn lots(&self, shard: ShardId) -> Vec<Lot> {
        let positions = self.positions(shard);
        let lot = |(position, layout): (usize, &SponsorLayout)| {
            let before = self.scatter.count(0..positions.start, layout.bucket.clone());
            let packets = self.scatter.count(positions.clone(), layout.bucket.clone());
            let ranks = layout.bucket.start + before..layout.bucket.start + before + packets;
            let along = |rank| proportion(layout.sum.0, rank, layout.packets());
            let prizes = self.rows(ranks).map_or_else(
                || Prizes::Drawn(Fen(along(before + packets) - along(before))),
                Prizes::Listed,
            );
            let packets = u32::try_from(packets).expect("no more than the shard has");
            Lot { sponsor: sponsor_id(position), packets, prizes }
        };
        let lots: Vec<Lot> = self.sponsors.iter().enumerate().map(lot).collect();
        let total: u64 = lots.iter().map(|lot| u64::from(lot.packets)).sum();
        assert_eq!(total, positions.end - positions.start, "the lots fill the shard");
        lots
    }

    /// The stretch of positions that `shard` owns: the shards before it have one packet more than
    /// the rounded-down share as long as the rest of the division lasts.
    fn positions(&self, shard: ShardId) -> Range<u64> {
        let (each, rest) =
            (self.packets / u64::from(self.shards), self.packets % u64::from(self.shards));
        let start = |shard: u64| shard * each + shard.min(rest);
        start(u64::from(shard.0))..start(u64::from(shard.0) + 1)
    }

    /// The listed amounts of the packets with these `ranks` (bucket by bucket, in order of shard),
    /// or `None` when amounts are drawn.
    fn rows(&self, ranks: Range<u64>) -> Option<Vec<TableRow>> {
        let rows = match &self.amounts {
            Amounts::Uniform => return None,
            Amounts::Fixed(amount) => {
                return Some(vec![TableRow { amount: *amount, packets: ranks.end - ranks.start }]);
            }
            Amounts::Table(rows) => rows,
        };
        let mut start = 0;
        let row = |row: &TableRow| {
            let bucket = start..start + row.packets;
            start = bucket.end;
            TableRow { amount: row.amount, packets: self.scatter.count(ranks.clone(), bucket) }
        };
        Some(rows.iter().map(row).collect())
    }

    /// How many packets with a number in `numbers` belong to `shard`.
    fn released(&self, shard: ShardId, numbers: Range<u64>) -> u32 {
        let below = |limit| congruent_below(limit, self.shards, shard.0);
        u32::try_from(below(numbers.end) - below(numbers.start)).expect("the plan bounds a shard")
    }

    /// The number of each segment's first packet.
    fn starts(&self) -> impl Iterator<Item = u64> {
        self.curve.iter().scan(0, |next, segment| {
            let start = *next;
            *next += segment.packets;
            Some(start)
        })
    }
}

fn sponsor_id(position: usize) -> SponsorId {
    u8::try_from(position).ok().and_then(SponsorId::new).expect("at most 64 sponsors")
}
