//! The header of a session token, read where it lies: which key the token names, and how it says
//! that it is signed. Bounded by the length of a token, without cryptography; whatever a hostile
//! client sends is a header or `None`.
//!
//! Never here: whether a key of that name exists, and what the claims say.

use serde::{Deserialize, de::IgnoredAny};
use std::borrow::Cow;
use yao_protocol::limits::TOKEN_BYTES_MAX;

/// Letters of a signature: 64 bytes, of Ed25519 as well as of P-256, six bits each.
const SIGNATURE_LETTERS: usize = (64_usize * 8).div_ceil(6);
/// More than any header decodes to, bytes: three for four letters.
const HEADER_BYTES_MAX: usize = TOKEN_BYTES_MAX / 4 * 3;

const _: () = assert!(TOKEN_BYTES_MAX.is_multiple_of(4) && SIGNATURE_LETTERS == 86);

/// What of a header chooses how a token is checked. The rest may be anything.
#[derive(Debug, Deserialize)]
pub(super) struct Header<'a> {
    /// The algorithm, as the header says.
    #[serde(borrow)]
    pub(super) alg: Cow<'a, str>,
    /// The key's name.
    #[serde(borrow)]
    pub(super) kid: Cow<'a, str>,
    /// Extensions that must be understood; `None` when there are none.
    #[serde(default)]
    pub(super) crit: Option<IgnoredAny>,
}

/// Hands the header of `token` to `look`, if the token has the three parts of a JWT (RFC 7519) and
/// the last one is as long as a signature.
pub(super) fn with_header<T>(
    token: &[u8],
    look: impl FnOnce(&Header<'_>) -> Option<T>,
) -> Option<T> {
    if token.len() > TOKEN_BYTES_MAX {
        return None;
    }
    let mut parts = token.split(|byte| *byte == b'.');
    let (header, claims, signature) = (parts.next()?, parts.next()?, parts.next()?);
    if claims.is_empty() || signature.len() != SIGNATURE_LETTERS || parts.next().is_some() {
        return None;
    }
    let mut decoded = [0; HEADER_BYTES_MAX];
    let text = decode_base64_url(header, &mut decoded)?;
    look(&serde_json::from_slice(text).ok()?)
}

/// The bytes that `letters` stand for: base64 for URLs without padding (RFC 4648, 5), in its only
/// spelling.
fn decode_base64_url<'a>(letters: &[u8], out: &'a mut [u8; HEADER_BYTES_MAX]) -> Option<&'a [u8]> {
    let mut length = 0;
    for group in letters.chunks(4) {
        let mut bits = 0_u32;
        for letter in group {
            bits = bits << 6 | digit(*letter)?;
        }
        // 4 letters are 24 bits, 3 are 18 and 2 are 12; of these 3, 2 and 1 bytes are meant.
        let (bytes, spare) = match group.len() {
            4 => (3, 0),
            3 => (2, 2),
            2 => (1, 4),
            _ => return None,
        };
        if bits & ((1 << spare) - 1) != 0 {
            return None;
        }
        let whole = (bits >> spare).to_be_bytes();
        out.get_mut(length..length + bytes)?.copy_from_slice(&whole[4 - bytes..]);
        length += bytes;
    }
    out.get(..length)
}

const fn digit(letter: u8) -> Option<u32> {
    let digit = match letter {
        b'A'..=b'Z' => letter - b'A',
        b'a'..=b'z' => letter - b'a' + 26,
        b'0'..=b'9' => letter - b'0' + 52,
        b'-' => 62,
        b'_' => 63,
        _ => return None,
    };
    Some(digit as u32)
}

#[cfg(test)]
mod tests {
    use super::{super::tests::base64_url, *};

    fn decoded(letters: &[u8]) -> Option<Vec<u8>> {
        decode_base64_url(letters, &mut [0; HEADER_BYTES_MAX]).map(<[u8]>::to_vec)
    }

    #[test]
    fn base64_is_read_as_rfc_4648_has_it_and_in_no_other_spelling() {
        let check = |letters: &str, expected: Option<&[u8]>| {
            assert_eq!(decoded(letters.as_bytes()).as_deref(), expected, "{letters}");
        };
        check("", Some(b""));
        check("Zg", Some(b"f"));
        check("Zm8", Some(b"fo"));
        check("Zm9v", Some(b"foo"));
        check("Zm9vYmFy", Some(b"foobar"));
        check("-_8", Some(&[0xfb, 0xff]));
        for wrong in ["Z", "Zm9vY", "Zh", "Zm9", "Zg==", "+/8", "Zm 8", "Zm\u{e9}v"] {
            check(wrong, None);
        }
        let most = vec![b'_'; TOKEN_BYTES_MAX];
        assert_eq!(decoded(&most), Some(vec![0xff; HEADER_BYTES_MAX]));
        assert_eq!(decoded(&[&most[..], b"__"].concat()), None);
    }

    #[test]
    fn a_header_is_found_only_in_three_parts_with_a_signature() {
        let (header, signature) = ("eyJhbGciOiJhIiwia2lkIjoiYiJ9", "s".repeat(SIGNATURE_LETTERS));
        let check = |token: String, expected: bool| {
            let found = with_header(token.as_bytes(), |header| {
                (header.alg == "a" && header.kid == "b").then_some(())
            });
            assert_eq!(found.is_some(), expected, "{token}");
        };
        check(format!("{header}.e30.{signature}"), true);
        check(format!("{header}..{signature}"), false);
        check(format!("{header}.e30"), false);
        check(format!("{header}.e30.{signature}."), false);
        check(format!("{header}.e30.{signature}s"), false);
        check(format!("{header}.e30."), false);
        check(format!("{header}=.e30.{signature}"), false);
        check(format!("e30.e30.{signature}"), false);
        check(format!(".e30.{signature}"), false);
        let rest = TOKEN_BYTES_MAX - header.len() - SIGNATURE_LETTERS - 2;
        check(format!("{header}.{}.{signature}", "e".repeat(rest)), true);
        check(format!("{header}.{}.{signature}", "e".repeat(rest + 1)), false);
    }

    #[test]
    fn hostile_headers_are_none() {
        let (deep, long) = ("[".repeat(500), "k".repeat(480));
        for text in [
            String::new(),
            "null".to_owned(),
            "\"alg\"".to_owned(),
            r#"{"alg":"a"}"#.to_owned(),
            r#"{"kid":"b"}"#.to_owned(),
            r#"{"alg":"a","kid":null}"#.to_owned(),
            r#"{"alg":"a","kid":["b"]}"#.to_owned(),
            r#"{"alg":"a","kid":"b","kid":"c"}"#.to_owned(),
            r#"{"alg":"a","kid":"b"} "x""#.to_owned(),
            r#"{"alg":"a","kid":"\ud800"}"#.to_owned(),
            "{\"alg\":\"a\",\"kid\":\"\u{0}\"}".to_owned(),
            format!(r#"{{"alg":"a","crit":{deep}"#),
            format!(r#"{{"alg":"{long}"#),
        ] {
            let (header, signature) = (base64_url(text.as_bytes()), "s".repeat(SIGNATURE_LETTERS));
            let token = format!("{header}.e30.{signature}");
            assert_eq!(with_header(token.as_bytes(), |_| Some(())), None, "{text}");
        }
    }
}
