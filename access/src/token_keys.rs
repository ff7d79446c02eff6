//! The public keys of the app's backend, and what of a session token they prove. Each key id is
//! pinned to its key and its algorithm; a token's header chooses among them and decides nothing
//! else. Reads one file; never fetches anything.

mod header;
#[cfg(test)]
pub(crate) mod tests;

use self::header::with_header;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ParsedPublicKey};
use jsonwebtoken::{
    Algorithm, DecodingKey, Validation, decode,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm},
};
use std::{collections::BTreeMap, path::Path};
use yao_protocol::{
    WallTime,
    keys::PublicKey,
    token::{Identity, TokenClaims},
};

/// Why the JWKS file is refused.
#[derive(Debug, thiserror::Error)]
pub enum JwksError {
    /// It cannot be read.
    #[error("cannot read {0}: {1}; point identity.jwks at the app's public keys")]
    Read(String, std::io::Error),
    /// It is no JWKS, or a key in it is unusable.
    #[error("{0}: {1}")]
    Content(String, String),
}

/// Public keys of the app's backend, each with the algorithm it is pinned to.
pub struct TokenKeys {
    keys: BTreeMap<String, Pinned>,
    audience: String,
}

/// A key, and how alone it is used.
struct Pinned {
    key: DecodingKey,
    /// What a header must call the key's algorithm.
    algorithm: &'static str,
    validation: Validation,
}

impl std::fmt::Debug for TokenKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TokenKeys({:?})", self.keys.keys())
    }
}

impl TokenKeys {
    /// Reads a JWKS file. Every key must have a key id and be Ed25519 (EdDSA) or P-256 (ES256).
    ///
    /// # Errors
    /// See [`JwksError`]; a key of another kind is refused rather than ignored.
    pub fn load(path: &Path, audience: &str) -> Result<Self, JwksError> {
        let name = path.display().to_string();
        let text =
            std::fs::read_to_string(path).map_err(|error| JwksError::Read(name.clone(), error))?;
        Self::parse(&text, audience).map_err(|message| JwksError::Content(name, message))
    }

    pub(crate) fn parse(text: &str, audience: &str) -> Result<Self, String> {
        let set: JwkSet = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let mut keys = BTreeMap::new();
        for jwk in &set.keys {
            let key_id = jwk.common.key_id.clone().ok_or("a key has no `kid`")?;
            let pinned = Pinned::new(jwk).map_err(|error| format!("key `{key_id}` {error}"))?;
            if keys.insert(key_id.clone(), pinned).is_some() {
                return Err(format!("key id `{key_id}` stands twice"));
            }
        }
        if keys.is_empty() {
            return Err("holds no key: nobody could log in".to_owned());
        }
        Ok(Self { keys, audience: audience.to_owned() })
    }

    /// Whether the signature of `token` is worth checking: it has the parts of a JWT, names a key
    /// of ours with that key's algorithm, and has a signature of that algorithm's length. Proves
    /// nothing and costs no cryptography.
    #[must_use]
    pub fn is_plausible(&self, token: &[u8]) -> bool {
        self.pinned(token).is_some()
    }

    /// Who `token` proves, or `None`: the reason is nobody's business outside.
    #[must_use]
    pub fn identity(&self, token: &[u8], now: WallTime) -> Option<Identity> {
        let pinned = self.pinned(token)?;
        let claims = decode::<TokenClaims>(token, &pinned.key, &pinned.validation).ok()?.claims;
        claims.identity(now, &self.audience).ok()
    }

    /// The key that alone could have signed `token`.
    fn pinned(&self, token: &[u8]) -> Option<&Pinned> {
        with_header(token, |header| {
            let pinned = self.keys.get(&*header.kid)?;
            // Who marks an extension as critical wants it obeyed or the token refused (RFC 7515,
            // 4.1.11), and we know none.
            (header.alg == pinned.algorithm && header.crit.is_none()).then_some(pinned)
        })
    }
}

impl Pinned {
    /// The key in `jwk` with the one algorithm of its curve.
    fn new(jwk: &Jwk) -> Result<Self, String> {
        let (algorithm, name, word) = match &jwk.algorithm {
            AlgorithmParameters::OctetKeyPair(parameters)
                if parameters.curve == EllipticCurve::Ed25519 =>
            {
                (Algorithm::EdDSA, KeyAlgorithm::EdDSA, "EdDSA")
            }
            AlgorithmParameters::EllipticCurve(parameters)
                if parameters.curve == EllipticCurve::P256 =>
            {
                (Algorithm::ES256, KeyAlgorithm::ES256, "ES256")
            }
            _ => return Err("is neither Ed25519 (EdDSA) nor P-256 (ES256)".to_owned()),
        };
        if let Some(stated) = jwk.common.key_algorithm.filter(|stated| *stated != name) {
            return Err(format!("has alg {stated}, but its curve is that of {name}"));
        }
        let key = DecodingKey::from_jwk(jwk).map_err(|error| error.to_string())?;
        let bytes = key.try_get_as_bytes().map_err(|error| error.to_string())?;
        let usable = match algorithm {
            Algorithm::EdDSA => bytes.try_into().is_ok_and(|b| PublicKey::from_bytes(b).is_some()),
            // Uncompressed, as a JWK tells it; whether it is on the curve is looked at here, once.
            _ => bytes.len() == 65 && ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, bytes).is_ok(),
        };
        if !usable {
            return Err(format!("holds no usable public key for {name}"));
        }
        // The algorithm is the key's, whatever a header says.
        let mut validation = Validation::new(algorithm);
        // Times and audience are judged by `TokenClaims::identity`, on the node's own clock.
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        Ok(Self { key, algorithm: word, validation })
    }
}
