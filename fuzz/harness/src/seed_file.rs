//! Seed files: headers under a right signature, sealed chunks, records and manifests.

use crate::{
    seeds::{self, CAMPAIGN, sign_key, vectors},
    tape::Tape,
};
use yao_protocol::{
    KeyId, ShardId,
    keys::{SIGNATURE_BYTES, context},
    limits::SEED_RECORD_BYTES,
    manifest::Manifest,
    seed_file::{SeedHeader, SeedRecord, ShardKey, decode_records},
};

/// Chunks of a header whose places are computed.
const CHUNKS_LOOKED_AT: u32 = 64;

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let with = |mode: u8, files: &[&str]| {
        let add = |bytes: Vec<u8>| [vec![mode], bytes].concat();
        seeds::of(files).into_iter().map(add).collect::<Vec<_>>()
    };
    [
        with(0, &[vectors!("seed-header")]),
        with(1, &[vectors!("seed-header")]),
        with(2, &[vectors!("seed-chunk"), vectors!("seed-record")]),
        with(3, &[vectors!("seed-record")]),
        with(4, &[vectors!("manifest")]),
    ]
    .concat()
}

pub(crate) fn run(bytes: &[u8]) {
    let mut tape = Tape::new(bytes);
    let mode = tape.byte() % 5;
    let bytes = tape.rest();
    match mode {
        0 => header(bytes),
        // Signed as it stands, so that what is in it is read and not only refused.
        1 => {
            let length = bytes.len().saturating_sub(SIGNATURE_BYTES);
            let signature = sign_key().sign(context::SEED, &bytes[..length]);
            header(&[&bytes[..length], &signature[..]].concat());
        }
        2 => {
            let mut buffer = bytes.to_vec();
            if shard_key().open(&[1; 32], 3, &mut buffer).is_ok() {
                records(&buffer);
            }
        }
        3 => records(bytes),
        _ => manifest(bytes),
    }
}

fn shard_key() -> ShardKey {
    ShardKey {
        campaign: CAMPAIGN,
        shard: ShardId(17),
        generation: 0,
        seal_key: [5; 32],
        salt_key: [6; 32],
        mac_key_id: KeyId(3),
        mac_key: [9; 32],
    }
}

fn header(bytes: &[u8]) {
    let length = SeedHeader::peek_length(bytes);
    let Ok(header) = SeedHeader::decode(bytes, &sign_key().public()) else { return };
    assert_eq!(length.ok(), Some(bytes.len()), "the length stands at the start");
    assert_eq!(header.encode(&sign_key()), bytes, "one meaning has one spelling");
    let mut end = None;
    for chunk in 0..header.chunk_count().min(CHUNKS_LOOKED_AT) {
        let (indexes, place) = (header.chunk_indexes(chunk), header.chunk_bytes(chunk));
        assert!(!indexes.is_empty() && !place.is_empty(), "chunk {chunk} is empty");
        assert!(end.is_none_or(|end| end == place.start), "chunk {chunk} leaves a gap");
        end = Some(place.end);
    }
    assert!(end.is_none_or(|end| end <= header.body_bytes() + length.unwrap_or(0) as u64));
    for section in &header.sections {
        assert_eq!(header.section(section.wave), Some(section), "a wave stands once");
        assert!(section.duration_us() > 0 || section.count == 0, "packets take time");
    }
}

fn records(bytes: &[u8]) {
    let Ok(records) = decode_records(bytes) else { return };
    let again: Vec<u8> = records.iter().flat_map(SeedRecord::encode).collect();
    assert_eq!(again, bytes, "one meaning has one spelling");
    assert_eq!(records.len() * SEED_RECORD_BYTES, bytes.len());
}

/// A text whose first line is replaced by a right signature of the rest.
fn manifest(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let key = sign_key();
    let (_, body) = text.split_once('\n').unwrap_or(("", &text));
    let signature = yao_protocol::hex::encode(&key.sign(context::MANIFEST, body.as_bytes()));
    for text in [text.as_ref(), &format!("{signature}\n{body}")] {
        if let Ok(manifest) = Manifest::decode(text, &key.public()) {
            assert_eq!(manifest.encode(&key), text, "one meaning has one spelling");
            for shard in &manifest.shards {
                assert_eq!(manifest.shard(shard.shard), Some(shard), "a shard stands once");
            }
        }
    }
}
