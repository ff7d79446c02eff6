//! Claims of a session token (a JWT that the app's own backend mints) and the rules they obey.
//! The signature is checked elsewhere, with the algorithm pinned by key id; here is what the
//! content must say.

use crate::{UserId, WallTime};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Clock difference between the minting backend and a node that is forgiven, seconds.
pub const CLOCK_LEEWAY_SECONDS: u64 = 30;

/// The claims that Yao reads; others are ignored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenClaims {
    /// The user: a decimal u64.
    pub sub: String,
    /// For whom the token is: must be the node's configured audience.
    pub aud: String,
    /// Unix seconds from which it is invalid.
    pub exp: u64,
    /// Unix seconds at which it was minted.
    #[serde(default)]
    pub iat: u64,
    /// Unix seconds before which it is invalid.
    #[serde(default)]
    pub nbf: u64,
    /// The device it was minted for; opaque.
    #[serde(default)]
    pub device: u64,
    /// Risk class given by the backend; 0 = ordinary.
    #[serde(default)]
    pub risk: u8,
}

/// What a session token says of the session beside the user: for rules that are about devices and
/// risk. Nothing here is the client's own word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bearer {
    /// The device; opaque, 0 = none was named.
    pub device: u64,
    /// The risk class; 0 = ordinary.
    pub risk: u8,
}

/// Who a session belongs to, once its token has been believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The user.
    pub user: UserId,
    /// The device.
    pub device: u64,
    /// The risk class.
    pub risk: u8,
    /// When the token ends.
    pub expires_at: WallTime,
}

/// Why claims are refused. Told to operators; the client hears AUTH_FAILED for all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ClaimError {
    /// `sub` is not a decimal u64.
    #[error("the token's sub is not a decimal user id")]
    Subject,
    /// `aud` is not this service.
    #[error("the token is for another audience")]
    Audience,
    /// `exp` has passed.
    #[error("the token has expired")]
    Expired,
    /// `nbf` or `iat` lies in the future.
    #[error("the token is not valid yet")]
    NotYet,
}

impl Identity {
    /// What it says beside the user.
    #[must_use]
    pub const fn bearer(&self) -> Bearer {
        Bearer { device: self.device, risk: self.risk }
    }
}

impl TokenClaims {
    /// The identity these claims prove at `now` for `audience`.
    ///
    /// # Errors
    /// See [`ClaimError`].
    pub fn identity(&self, now: WallTime, audience: &str) -> Result<Identity, ClaimError> {
        let plain = !self.sub.is_empty() && self.sub.bytes().all(|b| b.is_ascii_digit());
        let user = self.sub.parse::<u64>().ok().filter(|_| plain).ok_or(ClaimError::Subject)?;
        if self.aud != audience {
            return Err(ClaimError::Audience);
        }
        if now.seconds() >= self.exp.saturating_add(CLOCK_LEEWAY_SECONDS) {
            return Err(ClaimError::Expired);
        }
        if now.seconds().saturating_add(CLOCK_LEEWAY_SECONDS) < self.nbf.max(self.iat) {
            return Err(ClaimError::NotYet);
        }
        Ok(Identity {
            user: UserId(user),
            device: self.device,
            risk: self.risk,
            expires_at: WallTime::from_seconds(self.exp),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_believed_only_within_their_bounds() {
        let good = TokenClaims {
            sub: "77".into(),
            aud: "yao".into(),
            exp: 2_000,
            iat: 1_000,
            nbf: 0,
            device: 5,
            risk: 0,
        };
        let check = |claims: TokenClaims, now, expected: Result<u64, ClaimError>| {
            let identity = claims.identity(WallTime::from_seconds(now), "yao");
            assert_eq!(identity.map(|i| i.user.0), expected);
        };
        check(good.clone(), 1_500, Ok(77));
        check(good.clone(), 2_029, Ok(77));
        check(good.clone(), 2_030, Err(ClaimError::Expired));
        check(good.clone(), 970, Ok(77));
        check(good.clone(), 969, Err(ClaimError::NotYet));
        check(
            TokenClaims { aud: "other".into(), ..good.clone() },
            1_500,
            Err(ClaimError::Audience),
        );
        check(TokenClaims { sub: "+7".into(), ..good.clone() }, 1_500, Err(ClaimError::Subject));
        check(TokenClaims { sub: String::new(), ..good }, 1_500, Err(ClaimError::Subject));
    }
}
