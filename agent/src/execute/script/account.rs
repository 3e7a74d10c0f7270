//! Who a script runs as.

use serde::{Deserialize, Serialize};

use crate::host::Host;

/// An account of the endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Account {
    pub(super) name: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// The account of that name in passwd(5).
pub(super) fn find(host: &Host, name: &str) -> Option<Account> {
    let passwd = std::fs::read_to_string(host.path("/etc/passwd")).ok()?;
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|first| *first == name)?.to_owned();
        let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        Some(Account { name, uid, gid })
    })
}
