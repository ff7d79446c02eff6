//! What every world has in common and is costly to make: the sealed shards as seedgen plans them,
//! the keys, the users' session tokens. Made once in a process.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::json;
use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};
use yao_access::token_keys::TokenKeys;
use yao_protocol::{
    CampaignId, Epoch, KeyId, PacketId, PacketIndex, ShardId, UserId, WallTime, WaveIndex,
    keys::{KeyOwner, KeySet, MacKey, PublicKeyFile, SignKey},
    manifest::Manifest,
    reconnect::ReconnectKeys,
    seed_file::{SeedHeader, SeedRecord, ShardKey, decode_records},
};
use yao_seedgen::{Campaign, CampaignKeys, Plan, Secret, shard::build};

/// Nodes that a world has at most, each with a shard.
pub const NODES_MAX: usize = 3;
/// Users that a world has at most.
pub const USERS_MAX: u64 = 140;
/// Waves of the campaign.
pub const WAVES: u16 = 3;
/// Sponsors of the campaign.
pub const SPONSORS: u8 = 6;
/// Wall time of a world's beginning.
pub const START: WallTime = WallTime::from_seconds(1_424_269_800);
/// The epoch of every key.
pub const EPOCH: Epoch = Epoch(1);
/// Settlement's key.
pub const SETTLEMENT: KeyId = KeyId(1);

const AUDIENCE: &str = "yao";
const TOKEN_KID: &str = "sim-1";
/// DER of a PKCS #8 Ed25519 key up to its 32-byte seed (RFC 8410, 7).
const PKCS8: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];

/// The campaign; only the life of its tickets differs.
fn campaign(ticket_lifetime: &str) -> String {
    let mut text = format!(
        "id = 7\nname = \"Simulated\"\ncurrency = \"CNY\"\nexponent = 2\nshards = {NODES_MAX}\n\
         wins_per_user = 3\nwins_per_sponsor = 1\nticket_lifetime = \"{ticket_lifetime}\"\n"
    );
    for (name, share) in [("A", 30), ("B", 20), ("C", 20), ("D", 10), ("E", 10), ("F", 10)] {
        text += &format!("[[sponsor]]\nname = \"{name}\"\nshare = \"{share}%\"\n");
    }
    text + "[[wave]]\nname = \"first\"\nt0 = \"armed later\"\nbudget = \"1234.56\"\npackets = 480\n\
            curve = [{ seconds = 6, per_second = 20 }, { seconds = 9, per_second = 40 }]\n\
            amounts = \"uniform\"\n\
            [[wave]]\nname = \"second\"\nt0 = \"armed later\"\nbudget = \"240.00\"\npackets = 240\n\
            curve = [{ seconds = 8, per_second = 30 }]\namounts = { fixed = \"1.00\" }\n\
            [[wave]]\nname = \"third\"\nt0 = \"armed later\"\nbudget = \"144.00\"\npackets = 144\n\
            curve = [{ seconds = 6, per_second = 24 }]\namounts = { fixed = \"1.00\" }\n"
}

/// One node's shard.
#[derive(Debug)]
pub struct ShardPlan {
    /// Which.
    pub shard: ShardId,
    /// The sealed file.
    pub file: Vec<u8>,
    /// Opens it.
    pub key: ShardKey,
    /// What its header says.
    pub header: SeedHeader,
    /// Every packet, read by the checkers' own way.
    pub records: Vec<SeedRecord>,
    /// Signs its tickets.
    pub ticket_key: Arc<SignKey>,
}

impl ShardPlan {
    /// The packet with this id, if it is of this shard, and its wave.
    #[must_use]
    pub fn packet(&self, packet: PacketId) -> Option<(SeedRecord, WaveIndex)> {
        let index = packet.index().0;
        let section = self.header.sections.iter().find(|part| part.indexes().contains(&index))?;
        let record = self.records.get(index as usize)?;
        (packet == PacketId::new(0, self.shard, PacketIndex(index)))
            .then_some((*record, section.wave))
    }
}

/// A planned event.
#[derive(Debug)]
pub struct Event {
    /// The campaign.
    pub campaign: CampaignId,
    /// Its shards.
    pub shards: Vec<ShardPlan>,
    /// The signed plan.
    pub manifest: Manifest,
    /// Every public key.
    pub keys: KeySet,
    /// Proves tallies and receipts.
    pub mac_key: MacKey,
    /// Makes and checks reconnect tickets.
    pub reconnect: ReconnectKeys,
}

/// What does not depend on the life of tickets.
pub struct Identity {
    /// Checks session tokens.
    pub tokens: Arc<arc_swap::ArcSwap<TokenKeys>>,
    minted: BTreeMap<UserId, String>,
    /// Signs settlement's answers.
    pub settlement_seed: [u8; 32],
}

impl Identity {
    /// The user's session token.
    #[must_use]
    pub fn token(&self, user: UserId) -> &str {
        self.minted.get(&user).map_or("", String::as_str)
    }
}

/// The planned event whose tickets live for days, or (`short`) for seconds.
#[must_use]
pub fn event(short: bool) -> &'static Event {
    static LONG: OnceLock<Event> = OnceLock::new();
    static SHORT: OnceLock<Event> = OnceLock::new();
    if short { SHORT.get_or_init(|| plan("6s")) } else { LONG.get_or_init(|| plan("72h")) }
}

/// Tokens and their keys.
#[must_use]
pub fn identity() -> &'static Identity {
    static IDENTITY: OnceLock<Identity> = OnceLock::new();
    IDENTITY.get_or_init(mint)
}

fn plan(ticket_lifetime: &str) -> Event {
    let campaign = Campaign::parse(&campaign(ticket_lifetime)).expect("a good campaign");
    let plan = Plan::new(campaign).expect("a campaign that works out");
    let id = plan.campaign().id;
    let secrets = CampaignKeys::new(Secret::new([9; 32]), id, *plan.digest());
    let mut keys = KeySet::default();
    keys.add(&secrets.public_file()).expect("one campaign key");
    let mut add = |owner, seed: [u8; 32]| {
        let key = SignKey::from_seed(&seed).public().to_bytes();
        keys.add(&PublicKeyFile { owner, key }).expect("one key each");
    };
    add(KeyOwner::Settlement { key_id: SETTLEMENT }, SETTLEMENT_SEED);
    let (mut shards, mut entries) = (Vec::new(), Vec::new());
    for shard in plan.shards() {
        let sealed = build(&plan, &secrets, shard);
        let header = SeedHeader::decode(&sealed.header, &secrets.public()).expect("just signed");
        let mut records = Vec::new();
        for chunk in 0..header.chunk_count() {
            let bytes = header.chunk_bytes(chunk);
            let range = usize::try_from(bytes.start).expect("small")
                ..usize::try_from(bytes.end).expect("small");
            let mut buffer = sealed.body[range].to_vec();
            sealed.key.open(plan.digest(), chunk, &mut buffer).expect("just sealed");
            records.extend(decode_records(&buffer).expect("just sealed"));
        }
        let ticket_seed = [100 + u8::try_from(shard.0).expect("few shards"); 32];
        add(KeyOwner::Ticket { campaign: id, shard, epoch: EPOCH }, ticket_seed);
        entries.push(sealed.entry.clone());
        shards.push(ShardPlan {
            shard,
            file: [sealed.header, sealed.body].concat(),
            key: sealed.key,
            header,
            records,
            ticket_key: Arc::new(SignKey::from_seed(&ticket_seed)),
        });
    }
    let key = &shards[0].key;
    let mac_key = MacKey::new(key.mac_key_id, key.mac_key);
    let reconnect = ReconnectKeys::new(vec![MacKey::new(KeyId(1), [5; 32])]).expect("one key");
    Event { campaign: id, manifest: plan.manifest(entries), shards, keys, mac_key, reconnect }
}

const SETTLEMENT_SEED: [u8; 32] = [200; 32];

fn mint() -> Identity {
    crate::tokens::remember();
    let seed = [0x21; 32];
    let public = SignKey::from_seed(&seed).public().to_bytes();
    let jwk = json!({"kty": "OKP", "crv": "Ed25519", "kid": TOKEN_KID, "x": base64(&public)});
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("jwks.json");
    std::fs::write(&path, json!({"keys": [jwk]}).to_string()).expect("written");
    let tokens = TokenKeys::load(&path, AUDIENCE).expect("a JWKS with one good key");
    let key = EncodingKey::from_ed_der(&[&PKCS8[..], &seed[..]].concat());
    let header = Header { kid: Some(TOKEN_KID.to_owned()), ..Header::new(Algorithm::EdDSA) };
    let minted = (0..USERS_MAX).map(|user| {
        let expires = START.seconds() + 86_400;
        let claims = json!({"sub": user.to_string(), "aud": AUDIENCE, "exp": expires});
        (UserId(user), encode(&header, &claims, &key).expect("an EdDSA key"))
    });
    Identity {
        minted: minted.collect(),
        tokens: Arc::new(arc_swap::ArcSwap::from_pointee(tokens)),
        settlement_seed: SETTLEMENT_SEED,
    }
}

/// Base64 as a JWK has it (RFC 7515, 2).
fn base64(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
