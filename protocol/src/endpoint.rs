//! The text that names a node and the ways into it: configuration, WELCOME, GOAWAY, command lines.
//! Looks no name up.
//!
//! `host:port` is plain TCP. `scheme://host:port` has the scheme `tcp`, `tls`, `quic` or
//! `tls+quic`: the last is one port over both, and a client races them.

use crate::limits::ENDPOINT_BYTES_MAX;
use std::{fmt, net::Ipv6Addr, str::FromStr};
use thiserror::Error;

/// The name of the protocol in TLS and QUIC (ALPN, RFC 7301).
pub const ALPN: &[u8] = b"yao/1";

/// The ways into a node at one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transports {
    /// Plain TCP: whoever is on the way reads along.
    Tcp,
    /// TLS 1.3 over TCP.
    Tls,
    /// QUIC over UDP.
    Quic,
    /// TLS and QUIC on the same port number.
    TlsQuic,
}

impl Transports {
    /// Every value, in the order of the scheme's description.
    pub const ALL: [Self; 4] = [Self::Tcp, Self::Tls, Self::Quic, Self::TlsQuic];

    /// The scheme in the text.
    #[must_use]
    pub const fn scheme(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Quic => "quic",
            Self::TlsQuic => "tls+quic",
        }
    }
}

/// Why a text is no endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EndpointError {
    /// More bytes than a list of endpoints can carry.
    #[error("an endpoint of {0} bytes; at most {ENDPOINT_BYTES_MAX}")]
    TooLong(usize),
    /// A scheme that this build does not know.
    #[error("the scheme of {0:?} is none of tcp, tls, quic, tls+quic")]
    Scheme(String),
    /// No port, or not one of 1 to 65535.
    #[error("{0:?} has no port; write host:port with a port of 1 to 65535")]
    Port(String),
    /// No host, or one that is neither a name nor an address.
    #[error("{0:?} has no host; write a name, an IPv4 address, or an IPv6 address in brackets")]
    Host(String),
}

/// A node and the ways into it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// The ways in.
    pub transports: Transports,
    /// A name, an IPv4 address, or an IPv6 address without brackets.
    pub host: String,
    /// The port, of TCP or UDP or both; never 0.
    pub port: u16,
}

impl Endpoint {
    /// "host:port" as the system's resolver takes it, an IPv6 address in brackets.
    #[must_use]
    pub fn address(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        if text.len() > ENDPOINT_BYTES_MAX {
            return Err(EndpointError::TooLong(text.len()));
        }
        let (transports, address) = match text.split_once("://") {
            None => (Transports::Tcp, text),
            Some((scheme, address)) => {
                let known = Transports::ALL.into_iter().find(|known| known.scheme() == scheme);
                (known.ok_or_else(|| EndpointError::Scheme(text.to_owned()))?, address)
            }
        };
        let no_port = || EndpointError::Port(text.to_owned());
        let no_host = || EndpointError::Host(text.to_owned());
        let (host, port) = address.rsplit_once(':').ok_or_else(no_port)?;
        // `u16::from_str` takes a plus sign, and zeros in front.
        let decimal = port.bytes().all(|byte| byte.is_ascii_digit()) && !port.starts_with('0');
        let port = port.parse().ok().filter(|_| decimal).ok_or_else(no_port)?;
        let host = match host.strip_prefix('[') {
            Some(rest) => {
                let address = rest.strip_suffix(']').ok_or_else(no_host)?;
                address.parse::<Ipv6Addr>().map_err(|_| no_host())?;
                address
            }
            None => host,
        };
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        let bracketed = address.starts_with('[');
        if host.is_empty() || !(bracketed || host.bytes().all(is_name)) {
            return Err(no_host());
        }
        Ok(Self { transports, host: host.to_owned(), port })
    }
}

impl fmt::Display for Endpoint {
    /// The text of the endpoint; plain TCP without its scheme, as it always was.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.transports != Transports::Tcp {
            write!(f, "{}://", self.transports.scheme())?;
        }
        f.write_str(&self.address())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_read_is_what_was_meant() {
        let check = |text: &str, transports, host: &str, port, shown: &str| {
            let endpoint: Endpoint = text.parse().expect(text);
            let meant = Endpoint { transports, host: host.to_owned(), port };
            assert_eq!(endpoint, meant, "{text}");
            assert_eq!(endpoint.to_string(), shown);
            assert_eq!(shown.parse(), Ok(meant), "{shown} means the same");
        };
        use Transports::{Quic, Tcp, Tls, TlsQuic};
        check("node-1.example:9000", Tcp, "node-1.example", 9000, "node-1.example:9000");
        check("tcp://10.0.0.1:1", Tcp, "10.0.0.1", 1, "10.0.0.1:1");
        check("[::1]:65535", Tcp, "::1", 65_535, "[::1]:65535");
        check("tls://a_b:443", Tls, "a_b", 443, "tls://a_b:443");
        check("quic://[fe80::1]:443", Quic, "fe80::1", 443, "quic://[fe80::1]:443");
        check("tls+quic://xn--fiq.example:443", TlsQuic, "xn--fiq.example", 443, {
            "tls+quic://xn--fiq.example:443"
        });
    }

    #[test]
    fn what_is_no_endpoint_is_refused_by_its_part() {
        type Refusal = fn(String) -> EndpointError;
        let check = |text: &str, refusal: Refusal| {
            assert_eq!(text.parse::<Endpoint>(), Err(refusal(text.to_owned())), "{text}");
        };
        let cases: [(&[&str], Refusal); 3] = [
            (&["http://a:1", "TLS://a:1", "://a:1", "quic+tls://a:1"], EndpointError::Scheme),
            (
                &["", "a", "tls://a", "a:", "a:0", "a:07", "a:65536", "a:+1", "a:1/", "[::1]"],
                EndpointError::Port,
            ),
            (
                &[":1", "tls://:1", "::1:1", "[::1:1", "[]:1", "[a]:1", "[::1]x:1", "a b:1", "é:1"],
                EndpointError::Host,
            ),
        ];
        for (texts, refusal) in cases {
            for text in texts {
                check(text, refusal);
            }
        }
        let text = format!("tls://{}:1", "a".repeat(ENDPOINT_BYTES_MAX));
        assert_eq!(text.parse::<Endpoint>(), Err(EndpointError::TooLong(text.len())));
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_reads_back_the_same(
            text in "((tcp|tls|quic|tls\\+quic|x)://)?\\[?[a-z0-9:._-]{0,12}\\]?:[0-9]{0,6}",
        ) {
            if let Ok(endpoint) = text.parse::<Endpoint>() {
                prop_assert_eq!(endpoint.to_string().parse(), Ok(endpoint));
            }
        }
    }
}
