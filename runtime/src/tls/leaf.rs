//! What a leaf certificate says: the names of its holder, and its time.
//!
//! Must not know what the names mean. A certificate counts from its first to its last second,
//! both included, as RFC 5280 (section 4.1.2.5) and the verifier have it.

use std::net::IpAddr;

use rustls::pki_types::{CertificateDer, ServerName};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// When a certificate counts, in seconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Its first second.
    pub not_before_secs: u64,
    /// Its last second.
    pub not_after_secs: u64,
}

/// How a time lies to a validity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Before its first second.
    NotYet,
    /// Within.
    Valid,
    /// Past its last second, by so many.
    Over {
        /// At least 1.
        secs: u64,
    },
}

impl Validity {
    /// How it stands at that time.
    #[must_use]
    pub const fn at(self, now_secs: u64) -> Standing {
        if now_secs < self.not_before_secs {
            Standing::NotYet
        } else if now_secs > self.not_after_secs {
            Standing::Over { secs: now_secs - self.not_after_secs }
        } else {
            Standing::Valid
        }
    }
}

/// A certificate that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a readable certificate")]
pub struct UnreadableLeaf;

/// What a leaf certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// Its URI subject alternative names.
    pub uris: Vec<String>,
    /// The names of hosts among them, and the addresses. `any` stands where a wildcard does.
    pub hosts: Vec<ServerName<'static>>,
    /// Its time.
    pub validity: Validity,
}

impl Leaf {
    /// Reads a certificate. Verifies nothing.
    ///
    /// # Errors
    /// [`UnreadableLeaf`].
    pub fn read(certificate: &CertificateDer<'_>) -> Result<Self, UnreadableLeaf> {
        let (_, certificate) =
            X509Certificate::from_der(certificate).map_err(|_| UnreadableLeaf)?;
        let names = certificate.subject_alternative_name().map_err(|_| UnreadableLeaf)?;
        let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
        let uri = |name: &GeneralName<'_>| {
            if let GeneralName::URI(uri) = name { Some((*uri).to_owned()) } else { None }
        };
        let secs = |time: i64| u64::try_from(time).unwrap_or(0);
        let validity = certificate.validity();
        Ok(Self {
            uris: names.iter().filter_map(uri).collect(),
            hosts: names.iter().filter_map(host).collect(),
            validity: Validity {
                not_before_secs: secs(validity.not_before.timestamp()),
                not_after_secs: secs(validity.not_after.timestamp()),
            },
        })
    }
}

fn host(name: &GeneralName<'_>) -> Option<ServerName<'static>> {
    if let GeneralName::DNSName(name) = name {
        return ServerName::try_from(name.replacen("*.", "any.", 1)).ok();
    }
    let GeneralName::IPAddress(bytes) = name else { return None };
    let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
    let address = v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from)).ok()?;
    Some(ServerName::IpAddress(address.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificate_counts_from_its_first_to_its_last_second() {
        let validity = Validity { not_before_secs: 10, not_after_secs: 20 };
        let standings = [9, 10, 20, 21, 25].map(|now| validity.at(now));
        let over = |secs| Standing::Over { secs };
        let expected = [Standing::NotYet, Standing::Valid, Standing::Valid, over(1), over(5)];
        assert_eq!(standings, expected);
    }

    #[test]
    fn scrap_is_no_certificate() {
        for scrap in [&[][..], &[0x30, 0x03, 0x01], &[0x30; 600]] {
            assert_eq!(Leaf::read(&CertificateDer::from(scrap)), Err(UnreadableLeaf));
        }
    }
}
