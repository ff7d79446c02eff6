//! The golden vectors as inputs to begin with, and the keys that they are made with.

use serde_json::Value;
use yao_protocol::{
    CampaignId, Epoch, KeyId, ShardId, hex,
    keys::{KeyOwner, KeySet, MacKey, PublicKeyFile, SignKey},
};

/// Campaign, shard and epoch of the vectors.
pub(crate) const CAMPAIGN: CampaignId = CampaignId(2015);
const SHARD: ShardId = ShardId(17);

/// The key of campaign, tickets and settlement in every vector.
pub(crate) fn sign_key() -> SignKey {
    SignKey::from_seed(&[7; 32])
}

/// The MAC key of every vector.
pub(crate) fn mac_key() -> MacKey {
    MacKey::new(KeyId(3), [9; 32])
}

/// The public keys of the vectors.
pub(crate) fn key_set() -> KeySet {
    let mut keys = KeySet::default();
    let key = sign_key().public().to_bytes();
    for owner in [
        KeyOwner::Campaign { campaign: CAMPAIGN },
        KeyOwner::Ticket { campaign: CAMPAIGN, shard: SHARD, epoch: Epoch(1) },
        KeyOwner::Settlement { key_id: KeyId(1) },
    ] {
        keys.add(&PublicKeyFile { owner, key }).expect("one key per owner");
    }
    keys
}

/// The bytes of every valid vector in these files, as JSON texts.
pub(crate) fn of(files: &[&str]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for text in files {
        let file: Value = serde_json::from_str(text).expect("a published file of vectors");
        for vector in file["valid"].as_array().expect("a list of vectors") {
            let bytes = vector["hex"].as_str().and_then(hex::decode);
            found.push(bytes.expect("a vector's bytes"));
        }
    }
    found
}

/// The text of a file of golden vectors.
macro_rules! vectors {
    ($name:literal) => {
        include_str!(concat!("../../../protocol/tests/vectors/", $name, ".json"))
    };
}
pub(crate) use vectors;
