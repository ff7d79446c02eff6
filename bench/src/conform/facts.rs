//! What the cases are made of: users and their tokens, and what the server said of itself.

use crate::identity::{base64_url, unix_seconds};
use anyhow::{Context, Result};
use jsonwebtoken::{Algorithm, EncodingKey, crypto::sign};
use serde_json::{Value, json};
use std::{cell::Cell, fs, path::Path};
use yao_protocol::{
    CampaignId, ShakeId, UserId,
    client::{Hello, Shake, Welcome},
    tally::TALLY_BYTES,
};

use super::{
    case::Win,
    told::{Keys, Told},
};

/// Tokens live so long, seconds.
const LIFETIME_SECONDS: u64 = 3_600;

/// Makes tokens, good ones and others.
pub(super) struct Tokens {
    key: EncodingKey,
    pub(super) kid: String,
    audience: String,
}

impl Tokens {
    pub(super) fn new(path: &Path, kid: &str, audience: &str) -> Result<Self> {
        let pem = fs::read(path).with_context(|| path.display().to_string())?;
        let key = EncodingKey::from_ed_pem(&pem).with_context(|| path.display().to_string())?;
        Ok(Self { key, kid: kid.to_owned(), audience: audience.to_owned() })
    }

    /// A header that is believed.
    pub(super) fn header(&self) -> Value {
        json!({"typ": "JWT", "alg": "EdDSA", "kid": self.kid})
    }

    /// Claims that are believed.
    pub(super) fn claims(&self, user: UserId) -> Value {
        let now = unix_seconds();
        json!({
            "sub": user.to_string(), "aud": self.audience, "exp": now + LIFETIME_SECONDS,
            "iat": now, "nbf": now, "device": 1, "risk": 0,
        })
    }

    /// A token that is believed.
    pub(super) fn good(&self, user: UserId) -> Vec<u8> {
        self.signed(&self.header(), self.claims(user).to_string().as_bytes())
    }

    /// Whatever it says, signed with the right key.
    pub(super) fn signed(&self, header: &Value, claims: &[u8]) -> Vec<u8> {
        signed_with(header, claims, &self.key, Algorithm::EdDSA)
    }
}

/// A token of these parts under any key.
pub(super) fn signed_with(
    header: &Value,
    claims: &[u8],
    key: &EncodingKey,
    algorithm: Algorithm,
) -> Vec<u8> {
    let message = unsigned(header, claims);
    let signature = sign(message.as_bytes(), key, algorithm).expect("the key signs this way");
    format!("{message}.{signature}").into_bytes()
}

/// A token's first two parts.
pub(super) fn unsigned(header: &Value, claims: &[u8]) -> String {
    format!("{}.{}", base64_url(header.to_string().as_bytes()), base64_url(claims))
}

/// The way to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Tcp,
    Tls,
    Quic,
}

/// A user and what he won, oldest first.
#[derive(Clone, Debug)]
pub(super) struct Winner {
    pub(super) user: UserId,
    pub(super) wins: Vec<Win>,
}

/// What is known of server and campaign before the first case.
pub(super) struct Facts {
    pub(super) campaign: CampaignId,
    pub(super) tokens: Tokens,
    pub(super) keys: Keys,
    pub(super) told: Told,
    pub(super) way: Way,
    /// What the server told the first session.
    pub(super) welcome: Welcome,
    /// Whether a reconnect ticket came with it.
    pub(super) makes_tickets: bool,
    /// Somebody who won as much as there was time for.
    pub(super) winner: Option<Winner>,
    /// Somebody who won once and may win more.
    pub(super) once: Option<Winner>,
    /// Somebody who won in an earlier life of the server.
    pub(super) former: Option<Winner>,
    /// The next user that nobody was yet.
    next_user: Cell<u64>,
}

impl Facts {
    /// Of a server of which nothing is known but its first answer.
    pub(super) fn new(
        (campaign, first_user): (CampaignId, u64),
        (tokens, keys): (Tokens, Keys),
        (told, way): (Told, Way),
        welcome: Welcome,
    ) -> Self {
        let next_user = Cell::new(first_user);
        let (makes_tickets, winner, once, former) = (false, None, None, None);
        Self {
            campaign,
            tokens,
            keys,
            told,
            way,
            welcome,
            makes_tickets,
            winner,
            once,
            former,
            next_user,
        }
    }

    /// A user that nobody was before.
    pub(super) fn user(&self) -> UserId {
        let user = self.next_user.get();
        self.next_user.set(user + 1);
        UserId(user)
    }

    /// HELLO, request id 1, with this token and tally.
    pub(super) fn hello_with(&self, token: &[u8], tally: Option<&[u8; TALLY_BYTES]>) -> Vec<u8> {
        hello(self.campaign, token, tally)
    }

    /// A good HELLO of this user, request id 1.
    pub(super) fn hello(&self, user: UserId) -> Vec<u8> {
        self.hello_with(&self.tokens.good(user), None)
    }

    /// SHAKE of one shake.
    pub(super) fn shake(&self, request_id: u32, shake: ShakeId, resend: bool) -> Vec<u8> {
        let mut bytes = Vec::new();
        let campaign = self.campaign;
        Shake { shake, campaign, merged_count: 1, resend }.put(&mut bytes, request_id);
        bytes
    }
}

/// HELLO, request id 1.
pub(super) fn hello(
    campaign: CampaignId,
    token: &[u8],
    tally: Option<&[u8; TALLY_BYTES]>,
) -> Vec<u8> {
    let mut bytes = Vec::new();
    let (version_min, version_max, software) = (1, 1, 0x1_0000);
    Hello { version_min, version_max, software, campaign, tally, token }.put(&mut bytes, 1);
    bytes
}
