//! Checks what was generated: every signature, hash, seal and record of a shard, and the totals of
//! all shards against the [`Reckoning`]. Reads bytes; never writes, never draws.

use crate::{
    campaign::Amounts,
    reckon::{Histogram, Reckoning},
    shard::seed_file_name,
};
use thiserror::Error;
use yao_protocol::{
    Fen, PacketId, PacketIndex, ShardId, WaveIndex, WireError,
    keys::PublicKey,
    manifest::{Manifest, ShardEntry},
    seed_file::{
        Merkle, Salts, Section, SeedHeader, SeedRecord, Segment, ShardKey, decode_records,
    },
};

/// What is wrong with the files. One line each.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum VerifyError {
    /// Bytes that are not authentic or not of their format.
    #[error("{place}: {error}")]
    Wire {
        /// File and part.
        place: String,
        /// What is wrong with it.
        error: WireError,
    },
    /// A value that is not what it must be.
    #[error("{what} is {found}, but must be {expected}")]
    Differs {
        /// The value and where it stands.
        what: String,
        /// What is there.
        found: String,
        /// What must be there.
        expected: String,
    },
    /// A rule that does not hold.
    #[error("{0}")]
    Broken(String),
}

/// What was found in one shard.
#[derive(Clone, Debug)]
pub struct ShardTally {
    /// The shard.
    pub shard: ShardId,
    /// First and last packet id.
    pub ids: (PacketId, PacketId),
    /// Packets of each wave (outer) and sponsor (inner).
    pub waves: Vec<Vec<LotTally>>,
}

/// What was found of one sponsor in one wave of one shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LotTally {
    /// How many packets.
    pub packets: u64,
    /// Their sum.
    pub sum: Fen,
    /// The largest of them.
    pub largest: Fen,
    /// Packets by amount; kept for listed amounts only.
    pub amounts: Histogram,
}

/// Fails unless `found` is `expected`.
fn same<T: PartialEq + ToString>(
    what: impl FnOnce() -> String,
    found: T,
    expected: T,
) -> Result<(), VerifyError> {
    if found == expected {
        return Ok(());
    }
    Err(VerifyError::Differs {
        what: what(),
        found: found.to_string(),
        expected: expected.to_string(),
    })
}

/// Fails unless the rule `holds`; `broken` says what is wrong.
fn must(holds: bool, broken: impl FnOnce() -> String) -> Result<(), VerifyError> {
    if holds { Ok(()) } else { Err(VerifyError::Broken(broken())) }
}

fn same_hash(
    what: impl FnOnce() -> String,
    found: &[u8; 32],
    expected: &[u8; 32],
) -> Result<(), VerifyError> {
    use yao_protocol::hex::encode;
    same(what, encode(found), encode(expected))
}

/// Checks what the manifest says of the whole campaign, before any shard is read.
///
/// # Errors
/// The first value that the campaign does not lead to.
pub fn verify_manifest(reckoning: &Reckoning, manifest: &Manifest) -> Result<(), VerifyError> {
    let campaign = reckoning.campaign();
    let what = |field: &'static str| move || format!("the manifest's {field}");
    same_hash(what("plan digest"), &manifest.plan_digest, reckoning.plan_digest())?;
    same(what("campaign"), manifest.campaign, campaign.id)?;
    same(what("name"), &manifest.name, &campaign.name)?;
    same(what("currency"), &manifest.currency, &campaign.currency)?;
    same(what("exponent"), manifest.exponent, campaign.exponent)?;
    same(what("wins per user"), manifest.wins_per_user, campaign.wins_per_user)?;
    same(what("wins per sponsor"), manifest.wins_per_sponsor, campaign.wins_per_sponsor)?;
    let lifetime = manifest.ticket_lifetime_seconds;
    same(what("ticket lifetime"), lifetime, campaign.ticket_lifetime_seconds)?;
    same(what("shard count"), manifest.shard_count, campaign.shards)?;
    same(what("packets"), manifest.packets, campaign.waves.iter().map(|w| w.packets).sum())?;
    same(what("budget"), manifest.budget, campaign.waves.iter().map(|w| w.budget).sum())?;
    same(what("number of sponsors"), manifest.sponsors.len(), campaign.sponsors.len())?;
    for (position, (found, asked)) in manifest.sponsors.iter().zip(&campaign.sponsors).enumerate() {
        let what = |field| move || format!("the manifest's {field} of sponsor {position}");
        same(what("id"), found.sponsor.index(), position)?;
        same(what("name"), &found.name, &asked.name)?;
        let packets = reckoning.waves().iter().map(|wave| wave.counts()[position]).sum();
        same(what("packets"), found.packets, packets)?;
    }
    same(what("number of waves"), manifest.waves.len(), campaign.waves.len())?;
    for (position, (found, asked)) in manifest.waves.iter().zip(&campaign.waves).enumerate() {
        let what = |field| move || format!("the manifest's {field} of wave {position}");
        same(what("index"), usize::from(found.wave.0), position)?;
        same(what("name"), &found.name, &asked.name)?;
        same(what("duration"), found.duration_us, asked.seconds() * 1_000_000)?;
        same(what("packets"), found.packets, asked.packets)?;
        same(what("sum"), found.sum, asked.budget)?;
    }
    let rising = manifest.shards.is_sorted_by(|one, next| one.shard < next.shard);
    must(rising, || "the manifest's shards are not in order, or one is listed twice".to_owned())?;
    for entry in &manifest.shards {
        let shard = entry.shard;
        must(shard.0 < campaign.shards, || {
            format!("the manifest lists shard {shard}, of too many")
        })?;
        let what = || format!("the manifest's file of shard {shard}");
        same(what, &entry.file, &seed_file_name(shard))?;
    }
    Ok(())
}

/// Checks one shard's file from its first byte to its last.
///
/// # Errors
/// The first thing that is wrong.
pub fn verify_shard(
    reckoning: &Reckoning,
    public: &PublicKey,
    key: &ShardKey,
    entry: &ShardEntry,
    file: &[u8],
) -> Result<ShardTally, VerifyError> {
    let what = |field: &'static str| move || format!("{}: {field}", entry.file);
    same(what("size"), file.len() as u64, entry.bytes)?;
    same_hash(what("hash of the file"), blake3::hash(file).as_bytes(), &entry.hash)?;
    let wire = |error| VerifyError::Wire { place: entry.file.clone(), error };
    let length = SeedHeader::peek_length(file).map_err(wire)?;
    let (head, body) = file.split_at_checked(length).ok_or_else(|| {
        wire(WireError::Short { what: "a seed file's header", have: file.len(), need: length })
    })?;
    let header = SeedHeader::decode(head, public).map_err(wire)?;
    let campaign = reckoning.campaign();
    same(what("campaign"), header.campaign, campaign.id)?;
    same(what("shard"), header.shard, entry.shard)?;
    same(what("generation"), header.generation, 0)?;
    same(what("number of sponsors"), usize::from(header.sponsor_count), campaign.sponsors.len())?;
    same_hash(what("plan digest"), &header.plan_digest, reckoning.plan_digest())?;
    same_hash(what("key check"), &header.key_check, &key.check())?;
    same_hash(what("Merkle root"), &header.merkle_root, &entry.merkle_root)?;
    same(what("packets"), header.record_count, entry.packets)?;
    same(what("sum"), header.sum, entry.sum)?;
    same(what("size of the body"), body.len() as u64, header.body_bytes())?;
    same_hash(what("hash of the body"), blake3::hash(body).as_bytes(), &header.body_digest)?;
    let walk = Walk { reckoning, key, entry, header: &header };
    walk.check_sections()?;
    let waves = walk.check_records(body)?;
    let last = PacketIndex(header.record_count.saturating_sub(1));
    let id = |index| PacketId::new(header.generation, header.shard, index);
    Ok(ShardTally { shard: entry.shard, ids: (id(PacketIndex(0)), id(last)), waves })
}

/// One shard whose header is authentic.
struct Walk<'a> {
    reckoning: &'a Reckoning,
    key: &'a ShardKey,
    entry: &'a ShardEntry,
    header: &'a SeedHeader,
}

impl Walk<'_> {
    /// The section table against packets counted one by one.
    fn check_sections(&self) -> Result<(), VerifyError> {
        let place = &self.entry.file;
        let shard = self.header.shard;
        let mut sections = self.header.sections.iter();
        for (position, wave) in self.reckoning.waves().iter().enumerate() {
            if wave.shard_packets(shard) == 0 {
                continue;
            }
            let found = sections.next();
            let number = WaveIndex(u16::try_from(position).expect("at most 64 waves"));
            let what = || format!("{place}: wave of a section");
            let wave_found = found.map(|section| section.wave.to_string()).unwrap_or_default();
            same(what, wave_found, number.to_string())?;
            let mut segments: Vec<Segment> = self.reckoning.campaign().waves[position]
                .curve
                .iter()
                .map(|segment| Segment {
                    duration_us: u64::from(segment.seconds) * 1_000_000,
                    packets: 0,
                })
                .collect();
            for slot in wave.release(shard) {
                segments[slot.segment].packets += 1;
            }
            let what = || format!("{place}: curve of wave {number}");
            let found = found.map(|section| format!("{:?}", section.segments)).unwrap_or_default();
            same(what, found, format!("{segments:?}"))?;
        }
        same(|| format!("{place}: number of sections too many"), sections.count(), 0)
    }

    /// Opens every chunk and walks the records, section by section.
    fn check_records(&self, body: &[u8]) -> Result<Vec<Vec<LotTally>>, VerifyError> {
        let (header, place) = (self.header, &self.entry.file);
        let mut merkle = Merkle::default();
        let mut records = Records::new(self, body);
        let sponsors = self.reckoning.campaign().sponsors.len();
        let mut waves = vec![vec![LotTally::default(); sponsors]; self.reckoning.waves().len()];
        for section in &header.sections {
            let tally = &mut waves[usize::from(section.wave.0)];
            let mut release =
                self.reckoning.waves()[usize::from(section.wave.0)].release(header.shard);
            let mut previous_us = 0;
            for index in section.indexes() {
                let (record, salt) = records.next()?;
                let what =
                    |field: &'static str| move || format!("{place}: {field} of packet {index}");
                let slot = release.next();
                if !slot.is_some_and(|slot| slot.contains(record.offset_us)) {
                    let starts = slot.map_or(0, |slot| slot.start_us);
                    return Err(VerifyError::Differs {
                        what: what("winning moment")(),
                        found: format!("{} us", record.offset_us),
                        expected: format!("within the second from {starts} us"),
                    });
                }
                if record.offset_us < previous_us {
                    return Err(VerifyError::Differs {
                        what: what("winning moment")(),
                        found: format!("{} us", record.offset_us),
                        expected: format!("at or after its predecessor's, {previous_us} us"),
                    });
                }
                previous_us = record.offset_us;
                let packet = PacketId::new(header.generation, header.shard, PacketIndex(index));
                merkle.push(Merkle::leaf(header.campaign, packet, &record, &salt));
                self.count(tally, section, index, &record)?;
            }
            let sum = tally.iter().map(|lot| lot.sum).sum();
            same(|| format!("{place}: sum of wave {}", section.wave), sum, section.sum)?;
            self.check_lots(section, tally)?;
        }
        same_hash(|| format!("{place}: Merkle root"), &merkle.root(), &header.merkle_root)?;
        Ok(waves)
    }

    /// Adds a record to its sponsor's tally.
    fn count(
        &self,
        tally: &mut [LotTally],
        section: &Section,
        index: u32,
        record: &SeedRecord,
    ) -> Result<(), VerifyError> {
        let sponsor = record.sponsor.index();
        let place = &self.entry.file;
        must(sponsor < tally.len(), || {
            format!("{place}: packet {index} names sponsor {sponsor}, who does not exist")
        })?;
        must(record.amount > Fen::ZERO, || format!("{place}: packet {index} holds nothing"))?;
        let lot = &mut tally[sponsor];
        lot.packets += 1;
        lot.sum = [lot.sum, record.amount].into_iter().sum();
        lot.largest = lot.largest.max(record.amount);
        let wave = &self.reckoning.waves()[usize::from(section.wave.0)];
        if *wave.amounts() != Amounts::Uniform {
            *lot.amounts.entry(record.amount).or_insert(0) += 1;
        }
        Ok(())
    }

    /// Each sponsor's count in the shard, and the bound of drawn amounts.
    fn check_lots(&self, section: &Section, tally: &[LotTally]) -> Result<(), VerifyError> {
        let wave = &self.reckoning.waves()[usize::from(section.wave.0)];
        let place = &self.entry.file;
        let expected = wave.sponsor_counts(self.header.shard);
        for (sponsor, (lot, expected)) in tally.iter().zip(expected).enumerate() {
            let number = section.wave;
            let what = || format!("{place}: packets of sponsor {sponsor} in wave {number}");
            same(what, lot.packets, expected)?;
            let doubled = 2 * u128::from(lot.sum.0);
            let bounded = u128::from(lot.largest.0) * u128::from(lot.packets) < doubled;
            let drawn = *wave.amounts() == Amounts::Uniform;
            must(bounded || !drawn || lot.packets == 0, || {
                let largest = lot.largest;
                format!(
                    "{place}: sponsor {sponsor} has a packet of {largest} in wave {number}, \
                     twice the mean or more"
                )
            })?;
        }
        Ok(())
    }
}

/// The records of a file in order with their salts, opened chunk by chunk.
struct Records<'a> {
    walk: &'a Walk<'a>,
    body: &'a [u8],
    chunk: u32,
    salts: Salts,
    opened: std::vec::IntoIter<(SeedRecord, [u8; 16])>,
}

impl<'a> Records<'a> {
    fn new(walk: &'a Walk<'a>, body: &'a [u8]) -> Self {
        let salts = Salts::new(&walk.key.salt_key, PacketIndex(0));
        Self { walk, body, chunk: 0, salts, opened: Vec::new().into_iter() }
    }

    fn next(&mut self) -> Result<(SeedRecord, [u8; 16]), VerifyError> {
        if let Some(record) = self.opened.next() {
            return Ok(record);
        }
        let Walk { key, entry, header, .. } = self.walk;
        let chunk = self.chunk;
        let wire =
            |error| VerifyError::Wire { place: format!("{}, chunk {chunk}", entry.file), error };
        let bytes = header.chunk_bytes(chunk);
        let need = usize::try_from(bytes.end).unwrap_or(usize::MAX);
        let short = WireError::Short { what: "the file's body", have: self.body.len(), need };
        let start = usize::try_from(bytes.start).unwrap_or(usize::MAX);
        let sealed = self.body.get(start..need).ok_or_else(|| wire(short))?;
        let mut buffer = sealed.to_vec();
        key.open(&header.plan_digest, chunk, &mut buffer).map_err(wire)?;
        let records = decode_records(&buffer).map_err(wire)?;
        let mut salts = vec![[0; 16]; records.len()];
        self.salts.fill(&mut salts);
        self.opened = records.into_iter().zip(salts).collect::<Vec<_>>().into_iter();
        self.chunk += 1;
        self.opened.next().ok_or_else(|| wire(short))
    }
}

/// Packets and money of one sponsor over the verified shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SponsorTotal {
    /// How many packets.
    pub packets: u64,
    /// Their sum.
    pub sum: Fen,
}

/// Checks the shards together: money to the minor unit, and that no packet id occurs twice.
/// `tallies` are in order of shard; when they are all shards, the totals must be the manifest's.
///
/// # Errors
/// The first thing that does not add up.
pub fn verify_totals(
    reckoning: &Reckoning,
    manifest: &Manifest,
    tallies: &[ShardTally],
) -> Result<Vec<SponsorTotal>, VerifyError> {
    let first = tallies.first().map_or(ShardId(0), |tally| tally.shard);
    let mut before = reckoning.before(first);
    let mut totals = vec![SponsorTotal::default(); reckoning.campaign().sponsors.len()];
    let mut waves = vec![Fen::ZERO; reckoning.waves().len()];
    let mut id_next = PacketId(0);
    for tally in tallies {
        let place = format!("shard {}", tally.shard);
        let unique = tally.ids.0 >= id_next && tally.ids.1 >= tally.ids.0;
        must(unique, || format!("{place}: its packet ids occur in an earlier shard as well"))?;
        id_next = PacketId(tally.ids.1.0 + 1);
        for (position, lots) in tally.waves.iter().enumerate() {
            for (sponsor, lot) in lots.iter().enumerate() {
                let wave = &reckoning.waves()[position];
                let rank = &mut before[position][sponsor];
                let ranks = *rank..*rank + lot.packets;
                let what = |field| {
                    let place = &place;
                    move || format!("{place}: {field} of sponsor {sponsor} in wave {position}")
                };
                if *wave.amounts() == Amounts::Uniform {
                    same(what("sum"), lot.sum, wave.drawn_sum(sponsor, ranks))?;
                } else {
                    let expected = format!("{:?}", wave.listed(sponsor, ranks));
                    same(what("table of amounts"), format!("{:?}", lot.amounts), expected)?;
                }
                *rank += lot.packets;
                totals[sponsor].packets += lot.packets;
                totals[sponsor].sum = [totals[sponsor].sum, lot.sum].into_iter().sum();
                waves[position] = [waves[position], lot.sum].into_iter().sum();
            }
        }
    }
    if tallies.len() as u64 == u64::from(manifest.shard_count) {
        check_whole(manifest, &totals, &waves)?;
    }
    Ok(totals)
}

/// The totals of all shards against the manifest.
fn check_whole(
    manifest: &Manifest,
    totals: &[SponsorTotal],
    waves: &[Fen],
) -> Result<(), VerifyError> {
    for (planned, total) in manifest.sponsors.iter().zip(totals) {
        let what = |field| move || format!("{field} of sponsor {} in all shards", planned.sponsor);
        same(what("packets"), total.packets, planned.packets)?;
        same(what("sum"), total.sum, planned.sum)?;
    }
    for (planned, sum) in manifest.waves.iter().zip(waves) {
        same(|| format!("sum of wave {} in all shards", planned.wave), *sum, planned.sum)?;
    }
    let packets: u64 = totals.iter().map(|total| total.packets).sum();
    same(|| "packets in all shards".to_owned(), packets, manifest.packets)?;
    let sum = totals.iter().map(|total| total.sum).sum();
    same(|| "sum of all shards".to_owned(), sum, manifest.budget)
}
