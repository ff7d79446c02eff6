//! `yao-seedgen plan`: what a campaign comes to, as tables. Counts and sums only: winning moments
//! are secret.

use yao_protocol::{Fen, ShardId, schedule::format_rfc3339};
use yao_seedgen::{Plan, campaign::Amounts, plan::WaveLayout};

/// Prints the plan.
pub(crate) fn run(plan: &Plan) {
    let campaign = plan.campaign();
    println!("campaign {} \"{}\"", campaign.id, campaign.name);
    println!(
        "limits: {} packets per user, {} per sponsor; tickets live {} s",
        campaign.wins_per_user, campaign.wins_per_sponsor, campaign.ticket_lifetime_seconds
    );
    println!("plan digest {}", yao_protocol::hex::encode(plan.digest()));
    for layout in plan.waves() {
        print_wave(plan, layout);
    }
    println!();
    print_shards(plan);
    println!(
        "total: {} packets, {}, {} shards",
        plan.packets(),
        campaign.money(plan.budget()),
        campaign.shards
    );
}

fn print_wave(plan: &Plan, layout: &WaveLayout) {
    let campaign = plan.campaign();
    let wave = &campaign.waves[usize::from(layout.wave.0)];
    let start = wave.t0.map_or_else(|| "armed later".to_owned(), format_rfc3339);
    let amounts = match &wave.amounts {
        Amounts::Uniform => {
            format!("uniform, mean {}", campaign.money(Fen(wave.budget.0 / wave.packets)))
        }
        Amounts::Fixed(amount) => format!("fixed, {}", campaign.money(*amount)),
        Amounts::Table(rows) => format!("a table of {}", rows.len()),
    };
    println!("\nwave {} \"{}\", T0 {start}", layout.wave, wave.name);
    println!("  {} packets, {}, amounts {amounts}", wave.packets, campaign.money(wave.budget));
    println!("  {:>10}  {:>14}  {:>14}", "seconds", "packets", "per second");
    for segment in &wave.curve {
        let rate = segment.packets / u64::from(segment.seconds);
        println!("  {:>10}  {:>14}  {rate:>14}", segment.seconds, segment.packets);
    }
    println!("  {:>7}  {:<24}  {:>14}  {:>22}", "sponsor", "name", "packets", "sum");
    for (number, (sponsor, part)) in campaign.sponsors.iter().zip(&layout.sponsors).enumerate() {
        let (packets, sum) = (part.packets(), campaign.money(part.sum));
        println!("  {number:>7}  {:<24}  {packets:>14}  {sum:>22}", sponsor.name);
    }
}

/// The smallest and the largest shard, by packets and by money.
fn print_shards(plan: &Plan) {
    let campaign = plan.campaign();
    let packets = |shard: ShardId| {
        plan.waves().iter().map(|wave| u64::from(wave.shard_packets(shard))).sum::<u64>()
    };
    let sum = |shard: ShardId| {
        let lots = plan.waves().iter().flat_map(|wave| wave.lots(shard));
        lots.map(|lot| lot.prizes.sum()).sum::<Fen>()
    };
    let (least, most) = bounds(plan.shards().map(packets));
    println!("shards: {least} to {most} packets each");
    let (least, most) = bounds(plan.shards().map(sum));
    println!("        {} to {} each", campaign.money(least), campaign.money(most));
}

fn bounds<T: Ord + Copy>(values: impl Iterator<Item = T>) -> (T, T) {
    let values: Vec<T> = values.collect();
    let least = values.iter().min().expect("a campaign has at least one shard");
    let most = values.iter().max().expect("a campaign has at least one shard");
    (*least, *most)
}
