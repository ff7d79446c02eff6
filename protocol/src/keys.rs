//! Keys: the MAC key of a campaign, signing keys, the set of public halves, and key derivation.
//!
//! Every signature covers a 16-byte context first, so that bytes signed as one thing never verify
//! as another.

mod memo;

pub use memo::{MemoSigner, remember_signatures};

use crate::{CampaignId, Epoch, KeyId, ShardId, WireError};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use hkdf::Hkdf;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use std::collections::{BTreeMap, btree_map::Entry};
use std::fmt;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Bytes of an Ed25519 signature.
pub const SIGNATURE_BYTES: usize = 64;
/// Bytes of a keyed BLAKE3 MAC.
pub const MAC_BYTES: usize = 32;

/// What a signature is for; exactly 16 bytes, signed before the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context(pub &'static [u8; 16]);

/// Contexts of everything that is signed or MAC'ed.
pub mod context {
    use super::Context;
    /// A ticket, by the shard's ticket key.
    pub const TICKET: Context = Context(b"yao ticket v1\0\0\0");
    /// A settlement batch, by the shard's ticket key.
    pub const BATCH: Context = Context(b"yao batch v1\0\0\0\0");
    /// Settlement's answer to a batch, by the settlement key.
    pub const ANSWER: Context = Context(b"yao answer v1\0\0\0");
    /// A node's request for the right to issue, by the shard's ticket key.
    pub const GRANT_REQUEST: Context = Context(b"yao grant ask v1");
    /// Settlement's answer to it, by the settlement key.
    pub const GRANT: Context = Context(b"yao grant v1\0\0\0\0");
    /// The header of a seed file, by the campaign key.
    pub const SEED: Context = Context(b"yao seed v1\0\0\0\0\0");
    /// A manifest, by the campaign key.
    pub const MANIFEST: Context = Context(b"yao manifest v1\0");
    /// A tally, under the campaign's MAC key.
    pub const TALLY: Context = Context(b"yao tally v1\0\0\0\0");
    /// A receipt, under the campaign's MAC key.
    pub const RECEIPT: Context = Context(b"yao receipt v1\0\0");
    /// A reconnect ticket, under the first of the nodes' reconnect keys.
    pub const RECONNECT: Context = Context(b"yao reconnect v1");
    /// A shard's seal, by its ticket key.
    pub const SEAL: Context = Context(b"yao seal v1\0\0\0\0\0");
    /// A request to void packets, by the campaign key.
    pub const VOID: Context = Context(b"yao void v1\0\0\0\0\0");
    /// Settlement's answer to it, by the settlement key.
    pub const VOIDED: Context = Context(b"yao voided v1\0\0\0");
}

/// `length` bytes derived from `secret` for (`salt`, `info`) by HKDF-SHA-256.
///
/// # Panics
/// When `N` exceeds 8,160 bytes, the limit of HKDF-SHA-256.
#[must_use]
pub fn derive<const N: usize>(secret: &[u8], salt: &[u8], info: &[&[u8]]) -> [u8; N] {
    let mut okm = [0; N];
    Hkdf::<Sha256>::new(Some(salt), secret)
        .expand_multi_info(info, &mut okm)
        .expect("N is far below HKDF's limit of 8,160 bytes");
    okm
}

/// A MAC key shared by the nodes of a campaign: it proves tallies and receipts.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct MacKey {
    #[zeroize(skip)]
    id: KeyId,
    key: [u8; 32],
}

impl MacKey {
    /// The key `key`, named `id`.
    #[must_use]
    pub const fn new(id: KeyId, key: [u8; 32]) -> Self {
        Self { id, key }
    }

    /// The name under which it travels.
    #[must_use]
    pub const fn id(&self) -> KeyId {
        self.id
    }

    /// The MAC of `message` in `context`.
    #[must_use]
    pub fn mac(&self, context: Context, message: &[u8]) -> [u8; MAC_BYTES] {
        *blake3::Hasher::new_keyed(&self.key)
            .update(context.0)
            .update(message)
            .finalize()
            .as_bytes()
    }

    /// Whether `mac` proves `message`; compares in constant time.
    #[must_use]
    pub fn verifies(&self, context: Context, message: &[u8], mac: &[u8; MAC_BYTES]) -> bool {
        use subtle::ConstantTimeEq;
        self.mac(context, message).ct_eq(mac).into()
    }
}

impl fmt::Debug for MacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MacKey({})", self.id)
    }
}

/// An Ed25519 private key.
pub struct SignKey(SigningKey);

impl SignKey {
    /// The key pair that grows from `seed`.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    /// The signature of `message` in `context`. Deterministic: the same bytes each time.
    #[must_use]
    pub fn sign(&self, context: Context, message: &[u8]) -> [u8; SIGNATURE_BYTES] {
        let message = with_context(context, message);
        let public = self.0.verifying_key().to_bytes();
        let halves = (&public, self.0.as_bytes());
        memo::signature(halves, &message, || self.0.sign(&message).to_bytes())
    }
}

impl fmt::Debug for SignKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SignKey(public {:?})", self.public())
    }
}

/// An Ed25519 public key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// The key with these bytes, or `None` when they are no point of the curve or a weak one.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 32]) -> Option<Self> {
        VerifyingKey::from_bytes(bytes).ok().filter(|key| !key.is_weak()).map(Self)
    }

    /// Its 32 bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// Whether `signature` is this key's for `message` in `context` (strict rules).
    #[must_use]
    pub fn verifies(
        &self,
        context: Context,
        message: &[u8],
        signature: &[u8; SIGNATURE_BYTES],
    ) -> bool {
        verify_one(self, &with_context(context, message), signature)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::hex::encode(&self.to_bytes()))
    }
}

/// Which of many signatures are good, checked together: about half the cost of one by one.
///
/// When the batch as a whole fails, each is checked alone, so that one forged signature costs its
/// neighbours nothing but time. Shapes: the three slices have one entry per signature.
///
/// A batch accepts exactly what single verification accepts for honestly generated keys; a signer
/// that crafts keys or nonces with small-order parts could make the two differ. Ticket keys are
/// made by `init`, never by a peer.
#[must_use]
pub fn verify_batch(
    context: Context,
    messages: &[&[u8]],
    signatures: &[[u8; SIGNATURE_BYTES]],
    keys: &[PublicKey],
) -> Vec<bool> {
    assert_eq!(messages.len(), signatures.len(), "one signature per message");
    assert_eq!(messages.len(), keys.len(), "one key per message");
    let with_contexts: Vec<Vec<u8>> =
        messages.iter().map(|message| with_context(context, message)).collect();
    let known = |(message, (signature, key)): (&Vec<u8>, (&_, &PublicKey))| {
        memo::is_known(&key.to_bytes(), message, signature)
    };
    if with_contexts.iter().zip(signatures.iter().zip(keys)).all(known) {
        return vec![true; messages.len()];
    }
    let borrowed: Vec<&[u8]> = with_contexts.iter().map(Vec::as_slice).collect();
    let parsed: Vec<Signature> = signatures.iter().map(Signature::from_bytes).collect();
    let points: Vec<VerifyingKey> = keys.iter().map(|key| key.0).collect();
    if ed25519_dalek::verify_batch(&borrowed, &parsed, &points).is_ok() {
        return vec![true; messages.len()];
    }
    let each = borrowed.iter().zip(signatures).zip(keys);
    each.map(|((message, signature), key)| verify_one(key, message, signature)).collect()
}

/// Strict rules; `message` has its context.
fn verify_one(key: &PublicKey, message: &[u8], signature: &[u8; SIGNATURE_BYTES]) -> bool {
    memo::is_good(&key.to_bytes(), message, signature, || {
        key.0.verify_strict(message, &Signature::from_bytes(signature)).is_ok()
    })
}

fn with_context(context: Context, message: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(context.0.len() + message.len());
    bytes.extend_from_slice(context.0);
    bytes.extend_from_slice(message);
    bytes
}

/// Whose public key it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "kebab-case")]
pub enum KeyOwner {
    /// Signs seed files and the manifest of a campaign.
    Campaign {
        /// The campaign.
        campaign: CampaignId,
    },
    /// Signs the tickets (and settlement batches) of one shard in one epoch.
    Ticket {
        /// The campaign.
        campaign: CampaignId,
        /// The shard.
        shard: ShardId,
        /// The epoch.
        epoch: Epoch,
    },
    /// Signs settlement's answers.
    Settlement {
        /// Its name, for rotation.
        key_id: KeyId,
    },
}

/// One entry of the key set: a small JSON file, `*.pub.json`, that may be read by anybody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicKeyFile {
    /// Whose key.
    #[serde(flatten)]
    pub owner: KeyOwner,
    /// The 32 bytes of the Ed25519 public key.
    #[serde(with = "crate::hex::array")]
    pub key: [u8; 32],
}

/// The private half of a signing key: a JSON file with mode 0600.
#[derive(Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct PrivateKeyFile {
    /// Whose key.
    #[zeroize(skip)]
    #[serde(flatten)]
    pub owner: KeyOwner,
    /// The 32-byte Ed25519 seed.
    #[serde(with = "crate::hex::array")]
    pub seed: [u8; 32],
}

impl fmt::Debug for PrivateKeyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKeyFile({:?})", self.owner)
    }
}

/// The public keys that a node, the ledger and an auditor hold.
#[derive(Clone, Debug, Default)]
pub struct KeySet(BTreeMap<KeyOwner, PublicKey>);

impl KeySet {
    /// Adds one key file's content.
    ///
    /// # Errors
    /// [`WireError::Forged`] when the bytes are no usable key, and when the owner already has
    /// another key: a key is never replaced in place, it gets a new epoch or id. The set is then
    /// as it was.
    pub fn add(&mut self, file: &PublicKeyFile) -> Result<(), WireError> {
        let key = PublicKey::from_bytes(&file.key)
            .ok_or(WireError::Forged { what: "a public key file (no usable Ed25519 key)" })?;
        match self.0.entry(file.owner) {
            Entry::Occupied(old) if *old.get() != key => {
                Err(WireError::Forged { what: "a second, different key for the same owner" })
            }
            Entry::Occupied(_) => Ok(()),
            Entry::Vacant(free) => {
                free.insert(key);
                Ok(())
            }
        }
    }

    /// The key that signs the tickets of (`campaign`, `shard`, `epoch`).
    #[must_use]
    pub fn ticket(&self, campaign: CampaignId, shard: ShardId, epoch: Epoch) -> Option<PublicKey> {
        self.0.get(&KeyOwner::Ticket { campaign, shard, epoch }).copied()
    }

    /// The epochs in which (`campaign`, `shard`) has a ticket key, rising.
    pub fn epochs(&self, campaign: CampaignId, shard: ShardId) -> impl Iterator<Item = Epoch> {
        let owner = |epoch| KeyOwner::Ticket { campaign, shard, epoch: Epoch(epoch) };
        self.0.range(owner(0)..=owner(u32::MAX)).filter_map(|(owner, _)| match owner {
            KeyOwner::Ticket { epoch, .. } => Some(*epoch),
            _ => None,
        })
    }

    /// Settlement's key with this id.
    #[must_use]
    pub fn settlement(&self, key_id: KeyId) -> Option<PublicKey> {
        self.0.get(&KeyOwner::Settlement { key_id }).copied()
    }

    /// The campaign's own key.
    #[must_use]
    pub fn campaign(&self, campaign: CampaignId) -> Option<PublicKey> {
        self.0.get(&KeyOwner::Campaign { campaign }).copied()
    }

    /// An owner whose key here is not, or not the same, in `other`.
    #[must_use]
    pub fn missing_from(&self, other: &Self) -> Option<KeyOwner> {
        self.0.iter().find(|(owner, key)| other.0.get(owner) != Some(key)).map(|(owner, _)| *owner)
    }

    /// How many keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no key at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_forged_signature_in_a_batch_is_the_only_one_refused() {
        let key = SignKey::from_seed(&[7; 32]);
        let messages: Vec<Vec<u8>> = (0..20_u8).map(|n| vec![n; 40]).collect();
        let mut signatures: Vec<_> =
            messages.iter().map(|m| key.sign(context::TICKET, m)).collect();
        signatures[13][5] ^= 1;
        let borrowed: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
        let good = verify_batch(context::TICKET, &borrowed, &signatures, &[key.public(); 20]);
        let refused: Vec<usize> = (0..20).filter(|i| !good[*i]).collect();
        assert_eq!(refused, [13]);
    }

    #[test]
    fn a_signature_does_not_cross_contexts() {
        let key = SignKey::from_seed(&[1; 32]);
        let signature = key.sign(context::TICKET, b"message");
        assert!(key.public().verifies(context::TICKET, b"message", &signature));
        assert!(!key.public().verifies(context::BATCH, b"message", &signature));
    }

    #[test]
    fn a_key_file_survives_json_and_a_second_key_for_an_owner_is_refused() {
        let owner =
            KeyOwner::Ticket { campaign: CampaignId(2015), shard: ShardId(17), epoch: Epoch(1) };
        let file = PublicKeyFile { owner, key: SignKey::from_seed(&[2; 32]).public().to_bytes() };
        let text = serde_json::to_string(&file).expect("plain data");
        assert_eq!(serde_json::from_str::<PublicKeyFile>(&text).expect("round trip"), file);
        let mut set = KeySet::default();
        set.add(&file).expect("first");
        set.add(&file).expect("the same again");
        let other = PublicKeyFile { owner, key: SignKey::from_seed(&[3; 32]).public().to_bytes() };
        assert!(set.add(&other).is_err());
        let kept = set.ticket(CampaignId(2015), ShardId(17), Epoch(1)).map(|key| key.to_bytes());
        assert_eq!((kept, set.len()), (Some(file.key), 1), "the refused key left no trace");
    }

    #[test]
    fn the_epochs_of_a_shard_are_its_own() {
        let mut set = KeySet::default();
        for (shard, epoch) in [(17, 4), (17, 1), (16, 2), (18, 3)] {
            let (campaign, shard, epoch) = (CampaignId(1), ShardId(shard), Epoch(epoch));
            let owner = KeyOwner::Ticket { campaign, shard, epoch };
            let key = SignKey::from_seed(&[2; 32]).public().to_bytes();
            set.add(&PublicKeyFile { owner, key }).expect("one key each");
        }
        let epochs = |campaign| set.epochs(CampaignId(campaign), ShardId(17)).collect::<Vec<_>>();
        assert_eq!((epochs(1), epochs(2)), (vec![Epoch(1), Epoch(4)], Vec::new()));
    }

    #[test]
    fn nothing_to_verify_is_no_failure() {
        assert!(verify_batch(context::TICKET, &[], &[], &[]).is_empty());
    }
}
