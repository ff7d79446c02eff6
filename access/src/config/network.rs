//! Blocks of addresses, as `listen.proxy_from` lists them: "10.0.0.0/8", "2001:db8::/32", or one
//! address.

use serde::{Deserialize, Serialize};
use std::{fmt, net::IpAddr, str::FromStr};

/// All addresses that begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network {
    address: IpAddr,
    prefix_bits: u8,
}

impl Network {
    /// Whether `address` lies in it. An IPv4 address is one however it is written.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => {
                let differs = ours.to_bits() ^ theirs.to_bits();
                differs.leading_zeros() >= u32::from(self.prefix_bits)
            }
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => {
                let differs = ours.to_bits() ^ theirs.to_bits();
                differs.leading_zeros() >= u32::from(self.prefix_bits)
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || {
            format!(
                "{text:?} is no block of addresses; write 10.0.0.0/8, 2001:db8::/32 or one address"
            )
        };
        let (address, prefix) = text.split_once('/').map_or((text, None), |(a, p)| (a, Some(p)));
        let address: IpAddr = address.parse().map_err(|_| refused())?;
        let bits_max = if address.is_ipv4() { 32 } else { 128 };
        let prefix_bits = match prefix {
            None => bits_max,
            Some(digits) => {
                digits.parse().ok().filter(|bits| *bits <= bits_max).ok_or_else(refused)?
            }
        };
        Ok(Self { address, prefix_bits })
    }
}

impl TryFrom<String> for Network {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Network> for String {
    fn from(network: Network) -> Self {
        network.to_string()
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_holds_what_begins_like_it() {
        let check = |block: &str, inside: &[&str], outside: &[&str]| {
            let network: Network = block.parse().expect("a block");
            let holds = |text: &&str| network.contains(text.parse().expect("an address"));
            assert!(inside.iter().all(holds), "{block} holds {inside:?}");
            assert!(!outside.iter().any(holds), "{block} does not hold {outside:?}");
            let again: Network = network.to_string().parse().expect("what it writes it reads");
            assert_eq!(again, network);
        };
        check(
            "10.0.0.0/8",
            &["10.0.0.0", "10.255.255.255", "::ffff:10.1.2.3"],
            &["11.0.0.0", "::"],
        );
        check("192.0.2.7", &["192.0.2.7"], &["192.0.2.6"]);
        check("192.0.2.7/31", &["192.0.2.6"], &["192.0.2.8"]);
        check("0.0.0.0/0", &["1.2.3.4"], &["::1"]);
        check("2001:db8::/32", &["2001:db8:ffff::1"], &["2001:db9::", "1.2.3.4"]);
        check("::/0", &["::1", "2001:db8::"], &["127.0.0.1"]);
        check("::1", &["::1"], &["::2"]);
    }

    #[test]
    fn what_is_no_block_is_refused() {
        for text in ["", "10.0.0.0/33", "::/129", "10.0.0/8", "10.0.0.0/", "10.0.0.0/-1", "a/8"] {
            text.parse::<Network>().expect_err(text);
        }
    }
}
