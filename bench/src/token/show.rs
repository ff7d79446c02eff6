//! What a session token or reconnect ticket says, and what a node would make of it: the rules of
//! wire.md 5.4 and 5.6 once more, told with their reasons, which a node keeps to itself.

use super::text_or_file;
use anyhow::{Context, Result, bail};
use jsonwebtoken::{
    Algorithm, DecodingKey, Header, Validation, dangerous, decode, decode_header, jwk,
};
use std::{
    fs,
    path::{Path, PathBuf},
};
use yao_protocol::{
    WallTime, hex,
    limits::TOKEN_BYTES_MAX,
    reconnect::{RECONNECT_BYTES, ReconnectKeys, ReconnectTicket, is_reconnect},
    schedule::format_rfc3339,
    token::TokenClaims,
};

/// What to show.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ShowArgs {
    /// A session token, a reconnect ticket (80 bytes, or their 160 hexadecimal digits), or a file
    /// that holds one
    token: String,
    /// The nodes' JWKS file, to check the signature of a session token
    #[arg(long)]
    jwks: Option<PathBuf>,
    /// The nodes' `identity.reconnect.keys`, to check the MAC of a reconnect ticket
    #[arg(long)]
    reconnect_keys: Option<PathBuf>,
    /// The nodes' `identity.audience`
    #[arg(long, default_value = "yao")]
    audience: String,
}

/// The report about `args.token` at `now`, Unix seconds.
///
/// # Errors
/// A file that cannot be read, or bytes that are neither token nor ticket.
pub(crate) fn show(args: &ShowArgs, now: u64) -> Result<String> {
    let bytes = text_or_file(&args.token)?;
    let trimmed = bytes.trim_ascii();
    let ticket = if is_reconnect(&bytes) {
        Some(bytes.clone())
    } else if trimmed.len() == 2 * RECONNECT_BYTES && trimmed.starts_with(b"01") {
        std::str::from_utf8(trimmed).ok().and_then(hex::decode)
    } else {
        None
    };
    let mut lines = match ticket {
        Some(bytes) => show_ticket(args, &bytes, now)?,
        None => show_token(args, trimmed, now)?,
    };
    lines.insert(0, format!("now         {}", time(now, now)));
    Ok(lines.join("\n"))
}

fn show_token(args: &ShowArgs, token: &[u8], now: u64) -> Result<Vec<String>> {
    let header = decode_header(token).context("this is no JWT in compact form")?;
    let claims: TokenClaims = dangerous::insecure_decode_claims(token)
        .context("its claims are not those of a session token")?;
    let key_id = header.kid.as_deref().unwrap_or("none: a node refuses that");
    let mut lines = vec![
        format!("kind        session token, {} of {TOKEN_BYTES_MAX} bytes", token.len()),
        format!("algorithm   {:?}", header.alg),
        format!("key id      {key_id}"),
        format!("user        {}", claims.sub),
        format!("audience    {}", claims.aud),
        format!("device      {}", claims.device),
        format!("risk        {}", claims.risk),
    ];
    for (name, at) in [("issued", claims.iat), ("not before", claims.nbf), ("ends", claims.exp)] {
        if at != 0 {
            lines.push(format!("{name:<12}{}", time(at, now)));
        }
    }
    let wall = WallTime::from_seconds(now);
    let judged = match claims.identity(wall, &args.audience) {
        Err(error) => Err(error.to_string()),
        Ok(_) if token.len() > TOKEN_BYTES_MAX => Err("it is longer than HELLO allows".to_owned()),
        Ok(_) => match &args.jwks {
            Some(jwks) => check_signature(jwks, &header, token)?.map(|()| "believes it"),
            None => Ok("believes it, if the signature is good; give --jwks to check that"),
        },
    };
    lines.push(verdict(judged));
    Ok(lines)
}

/// Whether the key of the token's key id signed it. The inner error is the token's fault.
fn check_signature(jwks: &Path, header: &Header, token: &[u8]) -> Result<Result<(), String>> {
    let text = fs::read(jwks).with_context(|| format!("cannot read {}", jwks.display()))?;
    let set: jwk::JwkSet =
        serde_json::from_slice(&text).with_context(|| format!("{} is no JWKS", jwks.display()))?;
    let Some(key_id) = &header.kid else {
        return Ok(Err("it names no key id".to_owned()));
    };
    let Some(key) = set.find(key_id) else {
        return Ok(Err(format!("no key has the id {key_id:?}")));
    };
    let algorithm = match &key.algorithm {
        jwk::AlgorithmParameters::OctetKeyPair(_) => Algorithm::EdDSA,
        jwk::AlgorithmParameters::EllipticCurve(parameters)
            if parameters.curve == jwk::EllipticCurve::P256 =>
        {
            Algorithm::ES256
        }
        _ => bail!("{}: key {key_id:?} is neither Ed25519 nor P-256", jwks.display()),
    };
    if header.alg != algorithm {
        let stated = header.alg;
        return Ok(Err(format!("key {key_id:?} signs with {algorithm:?}, not with {stated:?}")));
    }
    if header.crit.is_some() {
        return Ok(Err("its header has `crit`, and nodes know no extension".to_owned()));
    }
    let mut validation = Validation::new(algorithm);
    validation.validate_exp = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    let decoded = decode::<TokenClaims>(token, &DecodingKey::from_jwk(key)?, &validation);
    Ok(decoded.map(|_| ()).map_err(|_| format!("key {key_id:?} did not sign it")))
}

fn show_ticket(args: &ShowArgs, bytes: &[u8], now: u64) -> Result<Vec<String>> {
    let ticket = ReconnectTicket::peek(bytes)?;
    let key_id = bytes.get(4..8).and_then(|id| id.try_into().ok()).map_or(0, u32::from_le_bytes);
    let mut lines = vec![
        "kind        reconnect ticket".to_owned(),
        format!("key id      {key_id}"),
        format!("user        {}", ticket.user),
        format!("device      {}", ticket.device),
        format!("risk        {}", ticket.risk),
    ];
    let ends = ticket.token_expires_at;
    for (name, at) in
        [("issued", ticket.issued_at), ("ends", ticket.expires_at), ("token ends", ends)]
    {
        lines.push(format!("{name:<12}{}", time(at.seconds(), now)));
    }
    let wall = WallTime::from_seconds(now);
    let judged = match &args.reconnect_keys {
        Some(path) => {
            let text = fs::read_to_string(path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            let keys =
                ReconnectKeys::from_json(&text).with_context(|| path.display().to_string())?;
            let verified = keys.verify(bytes, wall).map_err(|error| error.to_string());
            verified.map(|_| "believes it, unless it was used before")
        }
        None if wall >= ticket.expires_at => Err("the reconnect ticket has expired".to_owned()),
        None => Ok("believes it, if the MAC is good and it was not used before; give \
                    --reconnect-keys to check the MAC"),
    };
    lines.push(verdict(judged));
    Ok(lines)
}

fn verdict(judged: Result<&str, String>) -> String {
    match judged {
        Ok(text) => format!("a node      {text}"),
        Err(reason) => format!("a node      refuses it: {reason}"),
    }
}

/// `at` as a date, and how far it is from `now`.
fn time(at: u64, now: u64) -> String {
    let date = format_rfc3339(WallTime::from_seconds(at));
    if at == now {
        date
    } else if at > now {
        format!("{date}, in {}", duration(at - now))
    } else {
        format!("{date}, {} ago", duration(now - at))
    }
}

/// In the two largest units that say something.
fn duration(seconds: u64) -> String {
    let units = [
        (seconds / 86_400, "d"),
        (seconds / 3_600 % 24, "h"),
        (seconds / 60 % 60, "min"),
        (seconds % 60, "s"),
    ];
    let told: Vec<String> = units
        .iter()
        .skip_while(|(count, _)| *count == 0)
        .take(2)
        .filter(|(count, _)| *count > 0)
        .map(|(count, unit)| format!("{count} {unit}"))
        .collect();
    told.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        identity::{KeyKind, create_keys_of},
        token::{MintArgs, create_reconnect_keys, mint},
    };
    use yao_protocol::{UserId, token::Identity};

    const NOW: u64 = 1_500_000_000;

    fn folder(kind: KeyKind, kid: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a temporary folder");
        create_keys_of(folder.path(), kind, kid).expect("keys");
        folder
    }

    fn minted(folder: &Path, kid: &str, seconds: i64) -> String {
        let key = folder.join("session.key.pem");
        let (kid, audience) = (kid.to_owned(), "yao".to_owned());
        let (user, count, device, risk) = (77, 1, 5, 2);
        let args = MintArgs { key, kid, user, count, audience, seconds, device, risk };
        mint(&args, NOW).expect("a token")
    }

    fn shown(token: &str, jwks: Option<PathBuf>, reconnect_keys: Option<PathBuf>) -> String {
        let (token, audience) = (token.to_owned(), "yao".to_owned());
        show(&ShowArgs { token, jwks, reconnect_keys, audience }, NOW).expect("a report")
    }

    #[test]
    fn a_token_is_minted_shown_and_judged_as_a_node_would() {
        let jwks = |folder: &tempfile::TempDir| Some(folder.path().join("session.jwks.json"));
        let check = |token: &str, jwks: Option<PathBuf>, expected: &[&str]| {
            let report = shown(token, jwks, None);
            for line in expected {
                assert!(report.contains(line), "{line:?} is not in\n{report}");
            }
        };
        let (ed, ec) = (folder(KeyKind::EdDsa, "a"), folder(KeyKind::Es256, "b"));
        let (good, p256) = (minted(ed.path(), "a", 5_430), minted(ec.path(), "b", 60));
        let told = ["user        77", "device      5", "risk        2", "EdDSA", "in 1 h 30 min"];
        check(&good, None, &told);
        check(&good, None, &["if the signature is good"]);
        check(&good, jwks(&ed), &["a node      believes it"]);
        check(&p256, jwks(&ec), &["ES256", "a node      believes it"]);
        check(&good, jwks(&ec), &["refuses it: no key has the id \"a\""]);
        check(&minted(ed.path(), "b", 60), jwks(&ec), &["signs with ES256, not with EdDSA"]);
        let other = folder(KeyKind::EdDsa, "a");
        check(&good, jwks(&other), &["refuses it: key \"a\" did not sign it"]);
        let late = minted(ed.path(), "a", -86_400);
        check(&late, jwks(&ed), &["1 d ago", "refuses it: the token has expired"]);
        let file = ed.path().join("token");
        fs::write(&file, format!("{good}\n")).expect("written");
        check(file.to_str().expect("a plain path"), jwks(&ed), &["a node      believes it"]);
    }

    #[test]
    fn tokens_for_many_are_minted_one_to_a_line() {
        let folder = folder(KeyKind::EdDsa, "a");
        let key = folder.path().join("session.key.pem");
        let (kid, audience) = ("a".to_owned(), "yao".to_owned());
        let (user, count, seconds, device, risk) = (9, 3, 60, 0, 0);
        let args = MintArgs { key, kid, user, count, audience, seconds, device, risk };
        let tokens = mint(&args, NOW).expect("tokens");
        let users: Vec<bool> = tokens
            .lines()
            .zip(9..)
            .map(|(token, user)| {
                shown(token, None, None).contains(&format!("user        {user}\n"))
            })
            .collect();
        assert_eq!(users, [true; 3]);
        mint(&MintArgs { user: u64::MAX, count: 2, ..args }, NOW).expect_err("there is no such");
    }

    #[test]
    fn a_reconnect_ticket_is_shown_from_bytes_and_from_digits() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let keys = folder.path().join("keys.json");
        create_reconnect_keys(&keys, 9).expect("keys");
        assert!(create_reconnect_keys(&keys, 9).is_err(), "keys in force are not replaced");
        let text = fs::read_to_string(&keys).expect("there");
        let held = ReconnectKeys::from_json(&text).expect("its own keys");
        let expires_at = WallTime::from_seconds(NOW + 86_400);
        let identity = Identity { user: UserId(77), device: 5, risk: 2, expires_at };
        let issued = WallTime::from_seconds(NOW - 60);
        let ticket = ReconnectTicket::issue(&identity, issued, 1_200).expect("in time");
        let bytes = held.sign(&ticket);
        let file = folder.path().join("ticket");
        fs::write(&file, bytes).expect("written");
        for token in [hex::encode(&bytes), file.display().to_string()] {
            let report = shown(&token, None, Some(keys.clone()));
            let told = ["key id      9", "user        77", "1 min ago", "in 19 min", "believes it"];
            assert!(told.iter().all(|line| report.contains(line)), "{report}");
        }
        let mut forged = bytes;
        forged[10] ^= 1;
        let report = shown(&hex::encode(&forged), None, Some(keys));
        assert!(report.contains("refuses it: a reconnect ticket is not authentic"), "{report}");
        assert!(shown(&hex::encode(&bytes), None, None).contains("if the MAC is good"));
    }
}
