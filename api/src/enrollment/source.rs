//! Networks from which an enrollment token may be used.
//!
//! Owns their form and the judgement of an address. Which address a connection comes from is its
//! socket's word, never a header's.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Networks of one token.
pub(super) const MOST: usize = 16;

/// A network such as `192.0.2.0/24` or `2001:db8::/32`; one address is a network too. IPv4 in an
/// IPv6 address (`::ffff:192.0.2.1`) is IPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

/// A text that names no network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// Not `address/bits`.
    #[error("a network is an address with a number of bits, such as 192.0.2.0/24 or 2001:db8::/32")]
    Form,
    /// More bits than the address has.
    #[error("a network of this kind has at most {0} bits")]
    Bits(u8),
    /// An address within the network in place of its own.
    #[error("the address has bits beyond the {0} of its network: was it meant to be one address?")]
    Beyond(u8),
}

impl Network {
    /// Whether an address is in it.
    pub fn contains(&self, peer: IpAddr) -> bool {
        match (self.address, peer.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(peer)) => {
                mask(u128::from(own.to_bits()) << 96, self.prefix)
                    == mask(u128::from(peer.to_bits()) << 96, self.prefix)
            }
            (IpAddr::V6(own), IpAddr::V6(peer)) => {
                mask(own.to_bits(), self.prefix) == mask(peer.to_bits(), self.prefix)
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

/// The first bits of an address that fills the number from its top.
fn mask(bits: u128, prefix: u8) -> u128 {
    bits & u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0)
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let written: IpAddr = address.parse().map_err(|_| NetworkError::Form)?;
        let most = if written.is_ipv4() { 32 } else { 128 };
        let is_number = |bits: &&str| bits.bytes().all(|byte| byte.is_ascii_digit());
        let prefix: u8 = match bits {
            None => most,
            Some(bits) => Some(bits)
                .filter(is_number)
                .and_then(|bits| bits.parse().ok())
                .ok_or(NetworkError::Form)?,
        };
        if prefix > most {
            return Err(NetworkError::Bits(most));
        }
        let top = match written {
            IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
            IpAddr::V6(v6) => v6.to_bits(),
        };
        if mask(top, prefix) != top {
            return Err(NetworkError::Beyond(prefix));
        }
        let address = written.to_canonical();
        // What is IPv4 in another form counts its bits from where that begins.
        let prefix = if address.is_ipv4() && written.is_ipv6() {
            prefix.checked_sub(96).ok_or(NetworkError::Form)?
        } else {
            prefix
        };
        Ok(Self { address, prefix })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.address, self.prefix)
    }
}

impl TryFrom<String> for Network {
    type Error = NetworkError;

    fn try_from(text: String) -> Result<Self, NetworkError> {
        text.parse()
    }
}

impl From<Network> for String {
    fn from(network: Network) -> Self {
        network.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::{Network, NetworkError};

    #[test]
    fn hostile_forms_of_an_address_are_judged_as_what_they_are() {
        let within = [
            ("192.0.2.0/24", "192.0.2.255"),
            ("192.0.2.0/24", "::ffff:192.0.2.7"),
            ("::ffff:192.0.2.0/120", "192.0.2.7"),
            ("::ffff:0:0/96", "198.51.100.1"),
            ("192.0.2.7", "::ffff:c000:207"),
            ("0.0.0.0/0", "203.0.113.9"),
            ("2001:db8::/33", "2001:db8:7fff::1"),
            ("::/0", "2001:db8::1"),
            ("2001:db8::1", "2001:db8::1"),
        ];
        for (network, peer) in within {
            assert!(network.parse::<Network>().unwrap().contains(peer.parse().unwrap()), "{peer}");
        }
        let outside = [
            ("192.0.2.0/24", "192.0.3.0"),
            ("192.0.2.0/25", "192.0.2.128"),
            ("192.0.2.0/24", "::192.0.2.7"),
            ("192.0.2.0/24", "64:ff9b::192.0.2.7"),
            ("192.0.2.0/24", "2002:c000:207::1"),
            ("2001:db8::/33", "2001:db8:8000::1"),
            ("::/0", "192.0.2.7"),
            ("::/0", "::ffff:192.0.2.7"),
            ("0.0.0.0/0", "2001:db8::1"),
        ];
        for (network, peer) in outside {
            assert!(!network.parse::<Network>().unwrap().contains(peer.parse().unwrap()), "{peer}");
        }
    }

    #[test]
    fn network_is_written_as_it_is_meant_or_not_taken() {
        for (text, shown) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("192.0.2.7", "192.0.2.7/32"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("2001:DB8::/32", "2001:db8::/32"),
        ] {
            let network: Network = text.parse().unwrap();
            assert_eq!(network.to_string(), shown);
            assert_eq!(shown.parse(), Ok(network));
        }
        for (text, error) in [
            ("10.0.0.1/8", NetworkError::Beyond(8)),
            ("2001:db8::1/64", NetworkError::Beyond(64)),
            ("10.0.0.0/33", NetworkError::Bits(32)),
            ("::/129", NetworkError::Bits(128)),
            ("10.0.0.0/", NetworkError::Form),
            ("10.0.0.0/+8", NetworkError::Form),
            ("10.0.0.0/8/8", NetworkError::Form),
            ("10.0.0/8", NetworkError::Form),
            ("example.org", NetworkError::Form),
            ("", NetworkError::Form),
        ] {
            assert_eq!(text.parse::<Network>(), Err(error), "{text}");
        }
    }
}
