//! `yao-seedgen show`: one seed file as people read it. The header is public; records are shown
//! only to who holds the shard's key.

use crate::files;
use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use yao_protocol::{
    CampaignId,
    hex::encode,
    keys::{KeyOwner, PublicKey, PublicKeyFile},
    seed_file::{SeedHeader, ShardKey, decode_records},
};

/// What to show.
#[derive(Args)]
pub(crate) struct ShowArguments {
    /// The seed file.
    file: PathBuf,
    /// The shard's key file; shows the first records.
    #[arg(long)]
    key: Option<PathBuf>,
    /// Directory of public keys [default: keyset beside the file].
    #[arg(long)]
    keys: Option<PathBuf>,
    /// How many records to show.
    #[arg(long, default_value_t = 10)]
    records: usize,
}

/// Shows the file.
pub(crate) fn run(arguments: &ShowArguments) -> Result<()> {
    let name = arguments.file.display();
    let mut file = File::open(&arguments.file).with_context(|| format!("cannot read {name}"))?;
    let header = read_header(arguments, &mut file).with_context(|| name.to_string())?;
    print_header(&header);
    let Some(path) = &arguments.key else { return Ok(()) };
    let key: ShardKey = serde_json::from_slice(&files::read(path)?)
        .with_context(|| format!("{} is no key file of a shard", path.display()))?;
    if key.check() != header.key_check {
        bail!("{} is the key of another shard or plan", path.display());
    }
    print_records(&header, &key, &mut file, arguments.records).with_context(|| name.to_string())
}

/// Reads as many bytes as the header has and leaves the file at its first chunk.
fn read_header(arguments: &ShowArguments, file: &mut File) -> Result<SeedHeader> {
    let mut bytes = vec![0; 24];
    file.read_exact(&mut bytes).context("too short for a seed file")?;
    let length = SeedHeader::peek_length(&bytes)?;
    let campaign = bytes.last_chunk::<8>().map(|number| u64::from_le_bytes(*number));
    let campaign = CampaignId(campaign.ok_or_else(|| anyhow!("too short for a seed file"))?);
    bytes.resize(length, 0);
    file.read_exact(&mut bytes[24..]).context("the header is cut short")?;
    let beside = arguments.file.parent().unwrap_or_else(|| Path::new("."));
    let keys = arguments.keys.clone().unwrap_or_else(|| files::key_set(beside));
    Ok(SeedHeader::decode(&bytes, &read_public(&keys, campaign)?)?)
}

/// The key that signed; which campaign to look for is not yet proven, the signature proves it.
fn read_public(keys: &Path, campaign: CampaignId) -> Result<PublicKey> {
    let path = keys.join(files::public_key_name(campaign));
    let bytes = files::read(&path).context("the campaign's public key is needed; see --keys")?;
    let file: PublicKeyFile = serde_json::from_slice(&bytes)
        .with_context(|| format!("{} is no public key file", path.display()))?;
    if file.owner != (KeyOwner::Campaign { campaign }) {
        bail!("{} is not the key of campaign {campaign}", path.display());
    }
    PublicKey::from_bytes(&file.key)
        .ok_or_else(|| anyhow!("{} holds no usable key", path.display()))
}

fn print_header(header: &SeedHeader) {
    println!(
        "campaign {}, shard {}, generation {}",
        header.campaign, header.shard, header.generation
    );
    println!(
        "{} packets, sum {} (minor units), {} sponsors, {} chunks of {}",
        header.record_count,
        header.sum,
        header.sponsor_count,
        header.chunk_count(),
        header.chunk_records
    );
    println!("plan digest  {}", encode(&header.plan_digest));
    println!("Merkle root  {}", encode(&header.merkle_root));
    println!("body digest  {}", encode(&header.body_digest));
    println!("signature    authentic");
    for section in &header.sections {
        println!(
            "wave {}: packets {} to {}, sum {}, {} s",
            section.wave,
            section.first,
            u64::from(section.first.0) + u64::from(section.count) - 1,
            section.sum,
            section.duration_us() / 1_000_000
        );
        for segment in &section.segments {
            println!("  {:>8} s  {:>10} packets", segment.duration_us / 1_000_000, segment.packets);
        }
    }
}

fn print_records(header: &SeedHeader, key: &ShardKey, file: &mut File, count: usize) -> Result<()> {
    println!("{:>10}  {:>16}  {:>10}  {:>7}", "index", "moment, us", "amount", "sponsor");
    let mut left = count;
    for chunk in 0..header.chunk_count() {
        if left == 0 {
            break;
        }
        let bytes = header.chunk_bytes(chunk);
        let mut buffer = vec![0; usize::try_from(bytes.end - bytes.start)?];
        file.read_exact(&mut buffer).context("the file is cut short")?;
        key.open(&header.plan_digest, chunk, &mut buffer)?;
        let records = decode_records(&buffer)?;
        for (index, record) in header.chunk_indexes(chunk).zip(records).take(left) {
            let (offset, amount) = (record.offset_us, record.amount);
            println!("{index:>10}  {offset:>16}  {amount:>10}  {:>7}", record.sponsor);
            left -= 1;
        }
    }
    Ok(())
}
