//! Every key and every random draw of a campaign, grown from one secret. Whoever lacks the secret
//! can predict nothing; whoever has it can make any shard again, byte for byte.
//!
//! Each value is HKDF-SHA-256 of the secret with the plan digest as salt and (label, shard, wave)
//! as info, so that no two uses and no two plans ever share one. Draws come from ChaCha with 20
//! rounds: the full cipher, although 8 or 12 would do, because a winning moment is worth money and
//! the drawing is a small part of a run beside the Merkle tree's hashing.

use rand_chacha::{
    ChaCha20Rng,
    rand_core::{Rng, SeedableRng},
};
use std::fmt;
use std::num::NonZeroU32;
use yao_protocol::{
    CampaignId, KeyId, ShardId, WaveIndex,
    keys::{KeyOwner, PublicKey, PublicKeyFile, SignKey, derive},
    seed_file::ShardKey,
};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Bytes of a campaign's secret.
pub const SECRET_BYTES: usize = 32;
/// Names the MAC key that seedgen derives.
pub const MAC_KEY_ID: KeyId = KeyId(1);

/// A label of one use; all have the same length, so that none with its numbers reads as another.
type Label = &'static [u8; 16];

const SIGN: Label = b"yao seedgen sign";
const MAC: Label = b"yao seedgen mac ";
const SEAL: Label = b"yao seedgen seal";
const SALT: Label = b"yao seedgen salt";

/// What a draw is for: each has a stream of its own, so that a change in one leaves the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Draw {
    /// Winning moments.
    Moments,
    /// Amounts.
    Amounts,
    /// Which prize falls on which moment.
    Order,
}

impl Draw {
    const fn label(self) -> Label {
        match self {
            Self::Moments => b"yao seedgen time",
            Self::Amounts => b"yao seedgen fen ",
            Self::Order => b"yao seedgen turn",
        }
    }
}

/// The campaign's secret.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret([u8; SECRET_BYTES]);

impl Secret {
    /// The secret with these bytes.
    #[must_use]
    pub const fn new(bytes: [u8; SECRET_BYTES]) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// What grows from the secret for one plan.
#[derive(Clone, Debug)]
pub struct CampaignKeys {
    secret: Secret,
    campaign: CampaignId,
    plan_digest: [u8; 32],
}

impl CampaignKeys {
    /// The keys of `campaign`, planned as `plan_digest` says.
    #[must_use]
    pub const fn new(secret: Secret, campaign: CampaignId, plan_digest: [u8; 32]) -> Self {
        Self { secret, campaign, plan_digest }
    }

    /// Signs seed files and the manifest.
    #[must_use]
    pub fn sign_key(&self) -> SignKey {
        SignKey::from_seed(&self.derive(SIGN, &[]))
    }

    /// The public half of [`Self::sign_key`].
    #[must_use]
    pub fn public(&self) -> PublicKey {
        self.sign_key().public()
    }

    /// The public half, as the key set holds it.
    #[must_use]
    pub fn public_file(&self) -> PublicKeyFile {
        let owner = KeyOwner::Campaign { campaign: self.campaign };
        PublicKeyFile { owner, key: self.public().to_bytes() }
    }

    /// What the node of `shard` gets besides its seed file.
    #[must_use]
    pub fn shard_key(&self, shard: ShardId) -> ShardKey {
        let number = shard.0.to_le_bytes();
        ShardKey {
            campaign: self.campaign,
            shard,
            generation: 0,
            seal_key: self.derive(SEAL, &[&number]),
            salt_key: self.derive(SALT, &[&number]),
            mac_key_id: MAC_KEY_ID,
            mac_key: self.derive(MAC, &[]),
        }
    }

    /// The random numbers for one draw of one wave of one shard.
    #[must_use]
    pub fn random(&self, draw: Draw, shard: ShardId, wave: WaveIndex) -> Random {
        let (shard, wave) = (shard.0.to_le_bytes(), wave.0.to_le_bytes());
        Random(ChaCha20Rng::from_seed(self.derive(draw.label(), &[&shard, &wave])))
    }

    /// The keys of a later generation, whose packets are as `plan_digest` says. What signs and what
    /// proves tallies and receipts stays the campaign's.
    #[must_use]
    pub fn later(&self, generation: u8, plan_digest: [u8; 32]) -> LaterKeys {
        let own = Self { plan_digest, ..self.clone() };
        LaterKeys { root: self.clone(), own, generation }
    }

    fn derive(&self, label: Label, numbers: &[&[u8]]) -> [u8; 32] {
        let mut info: Vec<&[u8]> = vec![label];
        info.extend_from_slice(numbers);
        derive(&self.secret.0, &self.plan_digest, &info)
    }
}

/// What grows from the secret for a later generation.
#[derive(Clone, Debug)]
pub struct LaterKeys {
    root: CampaignKeys,
    own: CampaignKeys,
    generation: u8,
}

impl LaterKeys {
    /// Signs seed files and the manifest: the campaign's key.
    #[must_use]
    pub fn sign_key(&self) -> SignKey {
        self.root.sign_key()
    }

    /// What the node of `shard` gets besides its seed file.
    #[must_use]
    pub fn shard_key(&self, shard: ShardId) -> ShardKey {
        let mut key = self.own.shard_key(shard);
        key.generation = self.generation;
        key.mac_key = self.root.derive(MAC, &[]);
        key
    }

    /// The random numbers for one draw of one wave of one shard.
    #[must_use]
    pub fn random(&self, draw: Draw, shard: ShardId, wave: WaveIndex) -> Random {
        self.own.random(draw, shard, wave)
    }
}

/// A stream of random numbers, the same for the same secret, plan and place.
#[derive(Debug)]
pub struct Random(ChaCha20Rng);

impl Random {
    /// A number in 0..`bound`, each equally likely: what would favour some is drawn again (Lemire,
    /// "Fast random integer generation in an interval", 2019).
    pub fn below(&mut self, bound: NonZeroU32) -> u32 {
        let bound = bound.get();
        let mut product = u64::from(self.0.next_u32()) * u64::from(bound);
        if (product as u32) < bound {
            let unfair = bound.wrapping_neg() % bound;
            while (product as u32) < unfair {
                product = u64::from(self.0.next_u32()) * u64::from(bound);
            }
        }
        (product >> 32) as u32
    }

    /// Puts `items` into an order, each equally likely (Fisher and Yates).
    ///
    /// # Panics
    /// With 2^32 items or more; a shard holds far fewer.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let choices = u32::try_from(last + 1).ok().and_then(NonZeroU32::new);
            let chosen = self.below(choices.expect("a shard has fewer than 2^32 packets"));
            items.swap(last, chosen as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(secret: u8, draw: Draw, shard: u32, wave: u16) -> Random {
        let keys = CampaignKeys::new(Secret::new([secret; 32]), CampaignId(1), [9; 32]);
        keys.random(draw, ShardId(shard), WaveIndex(wave))
    }

    #[test]
    fn every_place_has_numbers_of_its_own() {
        let first = |mut random: Random| (0..4).map(|_| random.0.next_u64()).collect::<Vec<_>>();
        let base = first(random(1, Draw::Moments, 0, 0));
        assert_eq!(base, first(random(1, Draw::Moments, 0, 0)));
        for other in [
            random(2, Draw::Moments, 0, 0),
            random(1, Draw::Amounts, 0, 0),
            random(1, Draw::Moments, 1, 0),
            random(1, Draw::Moments, 0, 1),
        ] {
            assert_ne!(base, first(other));
        }
    }

    #[test]
    fn numbers_are_even_and_in_bounds() {
        let mut random = random(3, Draw::Amounts, 0, 0);
        let bound = NonZeroU32::new(10).expect("not 0");
        let mut counts = [0_u32; 10];
        for _ in 0..100_000 {
            counts[random.below(bound) as usize] += 1;
        }
        // Five standard deviations (95) around the mean.
        assert!(counts.iter().all(|count| (9_525..=10_475).contains(count)), "{counts:?}");
        assert_eq!(random.below(NonZeroU32::MIN), 0);
    }

    #[test]
    fn a_shuffle_reaches_every_order_and_keeps_every_item() {
        let mut random = random(4, Draw::Order, 0, 0);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..500 {
            let mut items = [1, 2, 3, 4];
            random.shuffle(&mut items);
            seen.insert(items);
        }
        assert_eq!(seen.len(), 24);
        assert!(seen.iter().all(|items| items.iter().sum::<i32>() == 10));
    }
}
