//! The formats that take packets back: seal, request to void, its answer, parents file, and the
//! manifest of a later generation.

use super::{
    cases::Case,
    codecs::{CAMPAIGN, EPOCH, Read, SHARD, key_set, sign_key},
    fields::long,
    texts,
};
use serde_json::{Value, json};
use yao_protocol::{
    Incarnation, KeyId, PacketId, PacketIndex, ShardId, WallTime, WaveIndex, hex,
    keys::SIGNATURE_BYTES,
    manifest::{Manifest, ParentsEntry, Reclaimed},
    parents::Parents,
    seal::{Seal, SealedWave},
    settlement::{Answer, OpenResult},
    void::{VoidAnswer, VoidRequest},
};

const NOW: WallTime = WallTime(1_424_269_800_000_000);

fn signature(bytes: &[u8]) -> Value {
    json!(hex::encode(&bytes[bytes.len() - SIGNATURE_BYTES..]))
}

pub(crate) fn read_seal(bytes: &[u8]) -> Read {
    let seal = Seal::decode(bytes, &key_set())?;
    let wave =
        |wave: &SealedWave| json!({ "wave": wave.wave.0, "count": wave.count, "h": wave.high });
    let fields = json!({
        "campaign": long(seal.campaign.0), "shard": seal.shard.0, "generation": seal.generation,
        "epoch": seal.epoch.0, "incarnation": hex::encode(&seal.incarnation.0),
        "settled": long(seal.settled), "sealed_at": long(seal.sealed_at.0),
        "merkle_root": hex::encode(&seal.merkle_root),
        "waves": seal.waves.iter().map(wave).collect::<Vec<_>>(), "signature": signature(bytes),
    });
    Ok((fields, seal.encode(&sign_key())))
}

fn request_fields(request: &VoidRequest) -> Value {
    json!({
        "campaign": long(request.campaign.0), "shard": request.shard.0,
        "generation": request.generation, "child_generation": request.child,
        "first": request.first, "count": request.count,
        "plan_digest": hex::encode(&request.plan_digest),
    })
}

pub(crate) fn read_request(bytes: &[u8]) -> Read {
    let request = VoidRequest::decode(bytes, &sign_key().public())?;
    let mut fields = request_fields(&request);
    fields["signature"] = signature(bytes);
    Ok((fields, request.encode(&sign_key())))
}

pub(crate) fn read_answer(bytes: &[u8]) -> Read {
    let answer = VoidAnswer::decode(bytes, &key_set())?;
    let mut fields = request_fields(&answer.request);
    let packets: Vec<Value> = answer.packets().map(|packet| long(packet.0)).collect();
    fields["voided_at"] = long(answer.voided_at.0);
    fields["key_id"] = json!(answer.key_id.0);
    fields["void_packet_ids"] = json!(packets);
    fields["signature"] = signature(bytes);
    Ok((fields, answer.encode(&sign_key())))
}

pub(crate) fn read_parents(bytes: &[u8]) -> Read {
    let parents = Parents::decode(bytes)?;
    let packets: Vec<Value> = parents.packets.iter().map(|packet| long(packet.0)).collect();
    let fields = json!({
        "generation": parents.generation, "shard": parents.shard.0,
        "campaign": long(parents.campaign.0), "parent_packet_ids": packets,
    });
    Ok((fields, parents.encode()))
}

fn seal() -> Seal {
    let wave = |number, count, high| SealedWave { wave: WaveIndex(number), count, high };
    Seal {
        campaign: CAMPAIGN,
        shard: SHARD,
        generation: 0,
        epoch: EPOCH,
        incarnation: Incarnation([1; 16]),
        settled: 4_711,
        sealed_at: NOW,
        merkle_root: [2; 32],
        waves: vec![wave(0, 188_088, 752), wave(3, 1_000, 1_000)],
    }
}

fn request() -> VoidRequest {
    VoidRequest {
        campaign: CAMPAIGN,
        shard: SHARD,
        generation: 0,
        child: 1,
        first: 752,
        count: 11,
        plan_digest: [4; 32],
    }
}

/// A manifest of generation 1: shards 3 to 5.
fn later() -> Manifest {
    let mut manifest = texts::manifest();
    for (entry, number) in manifest.shards.iter_mut().zip([3, 5]) {
        entry.shard = ShardId(number);
        entry.file = format!("shard-{number:05}.yaoseed");
    }
    let parents = |number: u32| ParentsEntry {
        shard: ShardId(number),
        file: format!("shard-{number:05}.yaoparents"),
        hash: [6; 32],
    };
    let parents = vec![parents(3), parents(5)];
    let (generation, first_shard, root_digest) = (1, 3, [1; 32]);
    manifest.reclaimed = Some(Reclaimed { generation, first_shard, root_digest, parents });
    manifest
}

/// Every valid case of these formats.
pub(crate) fn valid() -> Vec<Case> {
    let void = (0..11).map(|position| position % 3 == 0).collect();
    let answer = VoidAnswer { request: request(), voided_at: NOW, key_id: KeyId(1), void };
    let packet = |index| PacketId::new(0, SHARD, PacketIndex(index));
    let parents = Parents {
        campaign: CAMPAIGN,
        shard: ShardId(638),
        generation: 1,
        packets: vec![packet(760), packet(752)],
    };
    let settled = Answer {
        campaign: CAMPAIGN,
        shard: SHARD,
        epoch: EPOCH,
        incarnation: Incarnation([1; 16]),
        first_sequence: 7,
        last_sequence: 7,
        batch_digest: [8; 32],
        settled_at: NOW,
        key_id: KeyId(1),
        results: vec![OpenResult::Reclaimed],
    };
    vec![
        ("seal", "two waves", seal().encode(&sign_key())),
        ("void-request", "eleven packets", request().encode(&sign_key())),
        ("void-answer", "every third of eleven", answer.encode(&sign_key())),
        ("parents", "two packets", parents.encode()),
        ("parents", "none", Parents { packets: Vec::new(), ..parents }.encode()),
        ("manifest", "generation 1", later().encode(&sign_key()).into_bytes()),
        ("settlement-answer", "reclaimed", settled.encode(&sign_key())),
    ]
}

/// A manifest whose signature is right and whose content is not.
pub(crate) fn invalid() -> Vec<(&'static str, String, Vec<u8>)> {
    let with = |change: &dyn Fn(&mut Reclaimed)| {
        let mut manifest = later();
        manifest.reclaimed.iter_mut().for_each(change);
        manifest
    };
    let wrong = [
        ("reclaimed as generation 0", with(&|reclaimed| reclaimed.generation = 0)),
        ("reclaimed shards from 4 on", with(&|reclaimed| reclaimed.first_shard = 4)),
        ("reclaimed shards of 25 bits", with(&|reclaimed| reclaimed.first_shard = 0x00ff_fffe)),
        ("parents of shard 2", with(&|reclaimed| reclaimed.parents[0].shard = ShardId(2))),
        ("parents that fall", with(&|reclaimed| reclaimed.parents.reverse())),
    ];
    let text = |manifest: &Manifest| manifest.encode(&sign_key()).into_bytes();
    wrong.iter().map(|(name, manifest)| ("manifest", (*name).to_owned(), text(manifest))).collect()
}
