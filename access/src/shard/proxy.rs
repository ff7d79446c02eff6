//! The header of the PROXY protocol, version 2, with which a balancer says whose connection it
//! brings. Bytes in, an address out; who may say so is decided by the accept loop.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length.
const FIXED_BYTES: usize = 16;
/// What may follow: addresses and TLVs. The whole fits into the smallest TCP segment that the
/// protocol's document counts on.
const BODY_BYTES_MAX: usize = 536;
/// Longest header. Its start is kept until its end comes.
pub(super) const HEADER_BYTES_MAX: usize = FIXED_BYTES + BODY_BYTES_MAX;
/// TLV: CRC32c of the whole header with these four bytes zero.
const TLV_CRC32C: u8 = 0x03;

/// Why a connection of a balancer is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ProxyError {
    #[error("a balancer's connection must begin with a PROXY header of version 2")]
    Missing,
    #[error("PROXY command or address family {0:#04x} is not known on TCP")]
    Unknown(u8),
    #[error("{0} bytes of addresses and TLVs in a PROXY header; at most 536")]
    TooLong(usize),
    #[error("the addresses or TLVs of a PROXY header are cut")]
    Cut,
    #[error("the checksum of a PROXY header is wrong")]
    Checksum,
}

/// A whole header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// How long it was.
    pub(super) bytes: usize,
    /// Whose connection it is; `None` when it is the balancer's own, or he does not know.
    pub(super) source: Option<IpAddr>,
}

/// Reads the header at the start of `bytes`; `None` when its end has not come. What is wrong is
/// said at the first byte that shows it.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<Header>, ProxyError> {
    let known = bytes.len().min(SIGNATURE.len());
    if bytes[..known] != SIGNATURE[..known] {
        return Err(ProxyError::Missing);
    }
    let command = match bytes.get(12) {
        None => return Ok(None),
        Some(byte @ (0x20 | 0x21)) => *byte,
        Some(byte) => return Err(ProxyError::Unknown(*byte)),
    };
    // Of a LOCAL connection family and addresses mean nothing.
    let local = command == 0x20;
    let Some(&family) = bytes.get(13) else { return Ok(None) };
    let address_bytes = match family {
        _ if local => 0,
        // The balancer does not know.
        0x00 => 0,
        0x11 => 12,
        0x21 => 36,
        // A unix socket's two paths.
        0x31 => 216,
        _ => return Err(ProxyError::Unknown(family)),
    };
    let Some(length) = bytes.get(14..16) else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
    if length > BODY_BYTES_MAX {
        return Err(ProxyError::TooLong(length));
    }
    if length < address_bytes {
        return Err(ProxyError::Cut);
    }
    let Some(header) = bytes.get(..FIXED_BYTES + length) else { return Ok(None) };
    let (addresses, tlvs) = header[FIXED_BYTES..].split_at(address_bytes);
    // What follows without a family is of no known form.
    if !local && family != 0 {
        check_tlvs(header, FIXED_BYTES + address_bytes, tlvs)?;
    }
    Ok(Some(Header { bytes: header.len(), source: source(addresses) }))
}

/// The first address is the client's.
fn source(addresses: &[u8]) -> Option<IpAddr> {
    match addresses.len() {
        12 => addresses.first_chunk::<4>().map(|bytes| Ipv4Addr::from(*bytes).into()),
        36 => addresses.first_chunk::<16>().map(|bytes| Ipv6Addr::from(*bytes).to_canonical()),
        _ => None,
    }
}

/// Steps over all TLVs; a checksum among them must be right.
fn check_tlvs(header: &[u8], mut at: usize, mut tlvs: &[u8]) -> Result<(), ProxyError> {
    while !tlvs.is_empty() {
        let (&[kind, high, low], rest) = tlvs.split_first_chunk::<3>().ok_or(ProxyError::Cut)?;
        let length = usize::from(u16::from_be_bytes([high, low]));
        let (value, rest) = rest.split_at_checked(length).ok_or(ProxyError::Cut)?;
        at += 3;
        if kind == TLV_CRC32C {
            let expected = value.try_into().map(u32::from_be_bytes).ok();
            let sum = crc32c::crc32c(&header[..at]);
            let sum = crc32c::crc32c_append(sum, &[0; 4]);
            let sum = crc32c::crc32c_append(sum, header.get(at + 4..).unwrap_or(&[]));
            if expected != Some(sum) {
                return Err(ProxyError::Checksum);
            }
        }
        at += length;
        tlvs = rest;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).expect("short").to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, body].concat()
    }

    const V4: [u8; 12] = [192, 0, 2, 1, 10, 0, 0, 1, 0x30, 0x39, 0x1f, 0x90];

    fn v6() -> [u8; 36] {
        let mut body = [0; 36];
        body[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        body[15] = 7;
        body
    }

    /// IPv4 with TLVs: a name, padding, and the checksum in the middle.
    fn summed() -> Vec<u8> {
        let mut bytes = header(
            0x21,
            0x11,
            &[&V4[..], &[2, 0, 3], b"yao", &[3, 0, 4, 0, 0, 0, 0], &[4, 0, 2, 9, 9]].concat(),
        );
        let at = FIXED_BYTES + 12 + 6 + 3;
        let sum = crc32c::crc32c(&bytes).to_be_bytes();
        bytes[at..at + 4].copy_from_slice(&sum);
        bytes
    }

    #[test]
    fn whole_headers_are_read_and_every_cut_waits() {
        let check = |bytes: &[u8], source: Option<&str>| {
            let source = source.map(|text| text.parse().expect("an address"));
            let expected = Ok(Some(Header { bytes: bytes.len(), source }));
            assert_eq!(parse(bytes), expected, "{bytes:x?}");
            let followed = [bytes, b"\x00\x02frame"].concat();
            assert_eq!(parse(&followed), expected, "what follows is not its own");
            for cut in 0..bytes.len() {
                assert_eq!(parse(&bytes[..cut]), Ok(None), "cut at {cut} of {bytes:x?}");
            }
        };
        check(&header(0x21, 0x11, &V4), Some("192.0.2.1"));
        check(&header(0x21, 0x21, &v6()), Some("2001:db8::7"));
        check(&summed(), Some("192.0.2.1"));
        // LOCAL: a balancer's own health check, whatever else it says.
        check(&header(0x20, 0x00, &[]), None);
        check(&header(0x20, 0x11, &V4), None);
        check(&header(0x20, 0x77, &[1, 2, 3]), None);
        check(&header(0x21, 0x00, &[1, 2, 3]), None);
        check(&header(0x21, 0x31, &[1; 216]), None);
        let long = [&V4[..], &[0xee, 0x02, 0x09], &[7; 521]].concat();
        assert_eq!(long.len(), BODY_BYTES_MAX);
        check(&header(0x21, 0x11, &long), Some("192.0.2.1"));
        let mut mapped = v6();
        mapped[..16].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 192, 0, 2, 9]);
        check(&header(0x21, 0x21, &mapped), Some("192.0.2.9"));
    }

    #[test]
    fn what_is_wrong_is_refused_as_soon_as_it_shows() {
        let check = |bytes: &[u8], seen: usize, error: ProxyError| {
            assert_eq!(parse(bytes), Err(error), "{bytes:x?}");
            assert_eq!(parse(&bytes[..seen]), Err(error), "after {seen} bytes");
            assert_eq!(parse(&bytes[..seen - 1]), Ok(None), "not before");
        };
        check(b"PROXY TCP4 192.0.2.1 10.0.0.1 1 2\r\n", 1, ProxyError::Missing);
        check(b"\r\n\r\n\0\r\nQUIX\n\x21", 11, ProxyError::Missing);
        check(&header(0x11, 0x11, &V4), 13, ProxyError::Unknown(0x11));
        check(&header(0x22, 0x11, &V4), 13, ProxyError::Unknown(0x22));
        // UDP over IPv4.
        check(&header(0x21, 0x12, &V4), 14, ProxyError::Unknown(0x12));
        check(&header(0x21, 0x41, &V4), 14, ProxyError::Unknown(0x41));
        check(&header(0x21, 0x11, &V4[..11]), 16, ProxyError::Cut);
        check(&header(0x21, 0x11, &[0; 537]), 16, ProxyError::TooLong(537));
        let cut = |tlv: &[u8]| header(0x21, 0x11, &[&V4[..], tlv].concat());
        for tlv in [&[1][..], &[1, 0], &[1, 0, 1], &[1, 0xff, 0xff, 0]] {
            let bytes = cut(tlv);
            check(&bytes, bytes.len(), ProxyError::Cut);
        }
        for tlv in [&[3, 0, 3, 0, 0, 0][..], &[3, 0, 4, 0, 0, 0, 0], &[3, 0, 5, 0, 0, 0, 0, 0]] {
            let bytes = cut(tlv);
            check(&bytes, bytes.len(), ProxyError::Checksum);
        }
    }

    /// No flipped bit of a header with a checksum passes; only its own length can ask for more.
    #[test]
    fn every_flipped_bit_of_a_summed_header_is_noticed() {
        let bytes = summed();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            match parse(&flipped) {
                Err(_) => {}
                Ok(None) => assert!(matches!(bit / 8, 14 | 15), "bit {bit} only lengthens"),
                // LOCAL has no addresses; a TLV of another kind hides the checksum.
                Ok(Some(read)) => assert!(
                    read.source.is_none() || bit / 8 == FIXED_BYTES + 12 + 6,
                    "bit {bit}: {read:?}"
                ),
            }
        }
    }

    #[test]
    fn any_bytes_are_read_without_a_panic() {
        let mut state = 1_u64;
        for round in 0..20_000_usize {
            let mut bytes = header(0x21, [0x11, 0x21, 0x31, 0][round % 4], &[0; 64]);
            for _ in 0..round % 7 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let place = (state >> 33) as usize % (bytes.len() - 12) + 12;
                bytes[place] = (state >> 24) as u8;
            }
            if let Ok(Some(header)) = parse(&bytes) {
                assert!((FIXED_BYTES..=HEADER_BYTES_MAX).contains(&header.bytes));
            }
        }
    }
}
