//! Where a server is.

use std::fmt;

/// Characters of a host name (RFC 1035, 2.3.4).
const MAX_HOST: usize = 255;

/// Host and port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Address {
    /// A name, or an IP address without brackets.
    pub(super) host: String,
    pub(super) port: u16,
}

impl Address {
    /// Host and port as a server of a cluster or a sentinel tells them; `None` when that is no
    /// address.
    pub(super) fn new(host: &str, port: u16) -> Option<Self> {
        let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:".contains(&byte);
        let is_sound = (1..=MAX_HOST).contains(&host.len()) && host.bytes().all(is_host);
        (is_sound && port > 0).then(|| Self { host: host.to_owned(), port })
    }

    /// The address of a URL, and whether it asks for TLS.
    pub(super) fn from_url(url: &str) -> Option<(Self, bool)> {
        let (rest, secure) = match (url.strip_prefix("redis://"), url.strip_prefix("rediss://")) {
            (Some(rest), _) => (rest, false),
            (None, Some(rest)) => (rest, true),
            (None, None) => return None,
        };
        let (host, port) = rest.strip_suffix('/').unwrap_or(rest).rsplit_once(':')?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        if bare.is_none() && host.contains(':') {
            return None;
        }
        Some((Self::new(bare.unwrap_or(host), port.parse().ok()?)?, secure))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(out, "[{}]:{}", self.host, self.port)
        } else {
            write!(out, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_addresses_and_whether_tls_is_asked_for() {
        let parsed = |url: &str| {
            Address::from_url(url).map(|(address, secure)| (address.to_string(), secure))
        };
        assert_eq!(
            parsed("redis://redis.example:6379"),
            Some(("redis.example:6379".into(), false))
        );
        assert_eq!(parsed("rediss://10.0.0.1:1/"), Some(("10.0.0.1:1".into(), true)));
        assert_eq!(parsed("redis://[::1]:7000"), Some(("[::1]:7000".into(), false)));
        for wrong in [
            "host:1",
            "redis://host",
            "redis://:1",
            "redis://h:0",
            "redis://u@h:1",
            "redis://::1:7",
            "redis://h:1/2",
            "http://h:1",
        ] {
            assert_eq!(parsed(wrong), None, "{wrong}");
        }
    }
}
