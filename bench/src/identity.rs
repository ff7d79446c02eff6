//! Users for load: a session key pair as the app's own backend would hold it, and the session
//! tokens (JWT, EdDSA or ES256) it mints. For tests and load only: the key lies unprotected in a
//! file.

use anyhow::{Context, Result, anyhow, bail};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use serde_json::{Value, json};
use std::{
    fs,
    io::{self, Write},
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};
use yao_protocol::{UserId, keys::SignKey, limits::TOKEN_BYTES_MAX, token::TokenClaims};

/// The key id that [`create_keys`] writes.
pub(crate) const KEY_ID: &str = "dev-1";

/// DER of a PKCS #8 version 1 private key up to the 32-byte Ed25519 seed (RFC 8410, section 7).
const PKCS8_PREFIX: [u8; 16] =
    [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];

/// The kinds of key that a node takes (wire.md 5.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum KeyKind {
    /// Ed25519
    #[value(name = "EdDSA")]
    EdDsa,
    /// P-256
    #[value(name = "ES256")]
    Es256,
}

/// Mints session tokens with one key.
pub(crate) struct Minter {
    key: EncodingKey,
    header: Header,
}

impl Minter {
    /// The minter whose private key is the PEM file at `path`; tokens name it `key_id`.
    ///
    /// # Errors
    /// The file cannot be read, or holds no Ed25519 or P-256 private key in PKCS #8.
    pub(crate) fn from_pem_file(path: &Path, key_id: &str) -> Result<Self> {
        let pem = fs::read(path).with_context(|| {
            format!("cannot read the session key {}; `netbench keys` makes one", path.display())
        })?;
        let ed25519 = EncodingKey::from_ed_pem(&pem).map(|key| (key, Algorithm::EdDSA));
        let (key, algorithm) = ed25519
            .or_else(|_| EncodingKey::from_ec_pem(&pem).map(|key| (key, Algorithm::ES256)))
            .with_context(|| {
                format!("{} is no Ed25519 or P-256 key in PKCS #8 PEM", path.display())
            })?;
        let header = Header { kid: Some(key_id.to_owned()), ..Header::new(algorithm) };
        let minter = Self { key, header };
        let longest = minter.token(UserId(u64::MAX), "", u64::MAX, u64::MAX)?;
        // Later mintings then cannot fail: they differ in a few digits.
        if longest.len() > TOKEN_BYTES_MAX {
            bail!("the key id {key_id:?} is too long: a token must fit {TOKEN_BYTES_MAX} bytes");
        }
        Ok(minter)
    }

    /// A token for `user`, valid from `now_seconds` (Unix time) for `lifetime_seconds`.
    #[must_use]
    pub(crate) fn mint(
        &self,
        user: UserId,
        audience: &str,
        lifetime_seconds: u64,
        now_seconds: u64,
    ) -> String {
        self.token(user, audience, lifetime_seconds, now_seconds)
            .expect("this key signed a token when it was read")
    }

    fn token(&self, user: UserId, audience: &str, lifetime: u64, now: u64) -> Result<String> {
        let claims = TokenClaims {
            sub: user.to_string(),
            aud: audience.to_owned(),
            exp: now.saturating_add(lifetime),
            iat: now,
            nbf: now,
            device: user.0,
            risk: 0,
        };
        self.sign(&claims)
    }

    /// The token that says `claims`.
    ///
    /// # Errors
    /// The key does not sign: it is no key of its kind after all.
    pub(crate) fn sign(&self, claims: &TokenClaims) -> Result<String> {
        encode(&self.header, claims, &self.key).context("cannot sign a session token")
    }
}

/// Makes a new Ed25519 key pair in the folder `out`: `session.key.pem` (0600) for the minter and
/// `session.jwks.json` for the nodes. A key that is there already is kept.
///
/// # Errors
/// The folder cannot be written, or the key is there without its public half.
pub(crate) fn create_keys(out: &Path) -> Result<()> {
    create_keys_of(out, KeyKind::EdDsa, KEY_ID)
}

/// As [`create_keys`], of this kind and under this key id.
///
/// # Errors
/// As [`create_keys`].
pub(crate) fn create_keys_of(out: &Path, kind: KeyKind, key_id: &str) -> Result<()> {
    fs::create_dir_all(out).with_context(|| format!("cannot make the folder {}", out.display()))?;
    let (private, public) = (out.join("session.key.pem"), out.join("session.jwks.json"));
    if private.exists() {
        if public.exists() {
            return Ok(());
        }
        bail!("{} is there, {} is not; remove the first", private.display(), public.display());
    }
    let (pem, mut jwk) = match kind {
        KeyKind::EdDsa => ed25519_pair()?,
        KeyKind::Es256 => p256_pair()?,
    };
    jwk["use"] = json!("sig");
    jwk["kid"] = json!(key_id);
    let jwks = json!({"keys": [jwk]});
    fs::write(&public, format!("{jwks:#}\n"))
        .with_context(|| format!("cannot write {}", public.display()))?;
    // Last, so that a key in its place always has its public half.
    write_private(&private, pem.as_bytes())
        .with_context(|| format!("cannot write {}", private.display()))
}

/// A new private key in PEM, and the public one as a JWK without its names.
fn ed25519_pair() -> Result<(String, Value)> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed)
        .map_err(|error| anyhow!("the operating system gives no randomness: {error}"))?;
    let x = base64_url(&SignKey::from_seed(&seed).public().to_bytes());
    let body = base64(STANDARD_ALPHABET, &pkcs8(&seed));
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n");
    Ok((pem, json!({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "x": x})))
}

/// As [`ed25519_pair`].
fn p256_pair() -> Result<(String, Value)> {
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    // An uncompressed point: 4, x, y.
    let point = pair.public_key_raw();
    let (x, y) =
        point.get(1..33).zip(point.get(33..65)).context("a point of P-256 has 65 bytes")?;
    let (x, y) = (base64_url(x), base64_url(y));
    let jwk = json!({"kty": "EC", "crv": "P-256", "alg": "ES256", "x": x, "y": y});
    Ok((pair.serialize_pem(), jwk))
}

/// Writes a new file that nobody else may read.
///
/// # Errors
/// The file is there already, or cannot be written.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600).open(path)?.write_all(bytes)
}

const STANDARD_ALPHABET: &[u8; 64] =
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const URL_ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// An Ed25519 key in PKCS #8.
pub(crate) fn pkcs8(seed: &[u8; 32]) -> Vec<u8> {
    [&PKCS8_PREFIX[..], seed].concat()
}

/// Base64 as JWT and JWK write it.
pub(crate) fn base64_url(bytes: &[u8]) -> String {
    base64(URL_ALPHABET, bytes)
}

/// The clock, Unix seconds.
pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Base64 without padding (RFC 4648): a key's 48 bytes of DER need none, a JWK has none.
fn base64(alphabet: &[u8; 64], bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let mut group = [0; 4];
        group[1..=chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes(group);
        for digit in 0..=chunk.len() {
            let index = bits >> (18 - 6 * digit) & 63;
            text.push(char::from(alphabet[index as usize]));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::{DecodingKey, Validation, decode, decode_header, jwk::JwkSet};
    use std::os::unix::fs::PermissionsExt;
    use yao_protocol::WallTime;

    #[test]
    fn a_minted_token_verifies_with_the_published_key() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        create_keys(folder.path()).expect("keys");
        let private = folder.path().join("session.key.pem");
        let mode = fs::metadata(&private).expect("exists").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let minter = Minter::from_pem_file(&private, KEY_ID).expect("a minter");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        let token = minter.mint(UserId(77), "yao", 600, now);

        let jwks = fs::read_to_string(folder.path().join("session.jwks.json")).expect("exists");
        let jwks: JwkSet = serde_json::from_str(&jwks).expect("a JWKS");
        let header = decode_header(&token).expect("a header");
        assert_eq!((header.alg, header.kid.as_deref()), (Algorithm::EdDSA, Some(KEY_ID)));
        let jwk = jwks.find(KEY_ID).expect("the key is published under its id");
        let key = DecodingKey::from_jwk(jwk).expect("a key");
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_audience(&["yao"]);
        let claims = decode::<TokenClaims>(&token, &key, &validation).expect("authentic").claims;
        let identity = claims.identity(WallTime::from_seconds(now), "yao").expect("believed");
        assert_eq!(identity.user, UserId(77));

        // A second run keeps the key; another key does not verify.
        create_keys(folder.path()).expect("kept");
        let again = Minter::from_pem_file(&private, KEY_ID).expect("a minter");
        assert_eq!(again.mint(UserId(77), "yao", 600, now), token);
        let other = tempfile::tempdir().expect("a temporary folder");
        create_keys(other.path()).expect("keys");
        let other = Minter::from_pem_file(&other.path().join("session.key.pem"), KEY_ID);
        let forged = other.expect("a minter").mint(UserId(77), "yao", 600, now);
        assert!(decode::<TokenClaims>(&forged, &key, &validation).is_err());
    }

    #[test]
    fn base64_agrees_with_rfc_4648() {
        let check = |bytes: &[u8], expected| assert_eq!(base64(URL_ALPHABET, bytes), expected);
        check(b"", "");
        check(b"f", "Zg");
        check(b"fo", "Zm8");
        check(b"foo", "Zm9v");
        check(b"foobar", "Zm9vYmFy");
        check(&[0xfb, 0xff], "-_8");
        assert_eq!(base64(STANDARD_ALPHABET, &[0xfb, 0xff]), "+/8");
    }
}
