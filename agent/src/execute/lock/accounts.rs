//! The local account database: who exists, the expiry field by which a lock's second layer closes
//! accounts, and root's password, which a rescue shell asks for without asking about expiry.
//!
//! Works on the bytes of `passwd(5)` and `shadow(5)`; whatever it does not mean to change stays
//! byte for byte. It opens no file.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

/// Days since the epoch that mean "expired long ago" in the expiry field of `shadow(5)`.
const EXPIRED: &[u8] = b"1";
/// What makes root's password one that nobody knows. It undoes itself: what follows it is the
/// former one, and a password that somebody sets meanwhile does not begin with it.
const BAR: &[u8] = b"!tocsin!";
/// The password field of `shadow(5)`, counted from zero.
const PASSWORD_FIELD: usize = 1;
/// The field of `shadow(5)` with the day of the last change, counted from zero.
const CHANGED_FIELD: usize = 2;
/// The expiry field of `shadow(5)`, counted from zero.
const EXPIRY_FIELD: usize = 7;

/// One line of `passwd(5)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Account {
    /// The login name.
    pub(super) name: String,
    /// The user id.
    pub(super) uid: u32,
}

/// The accounts in the bytes of `passwd(5)`; lines that are none are left out.
pub(super) fn parse_passwd(bytes: &[u8]) -> Vec<Account> {
    String::from_utf8_lossy(bytes)
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next().filter(|name| !name.is_empty())?;
            let uid = fields.nth(1)?.parse().ok()?;
            Some(Account { name: name.to_owned(), uid })
        })
        .collect()
}

/// The expiry that an account had before the lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FormerExpiry {
    /// The login name.
    pub(super) name: String,
    /// The field as it was, mostly empty.
    pub(super) expiry: String,
}

/// The bytes of `shadow(5)` with every account expired except those that `is_kept` names, and
/// what the changed accounts had before.
pub(super) fn expire(
    shadow: &[u8],
    is_kept: impl Fn(&str) -> bool,
) -> (Vec<u8>, Vec<FormerExpiry>) {
    let mut former: Vec<FormerExpiry> = Vec::new();
    let bytes = map_expiry(shadow, |name, expiry| {
        if is_kept(name) || expiry == EXPIRED {
            return None;
        }
        let expiry = std::str::from_utf8(expiry).ok()?.to_owned();
        former.push(FormerExpiry { name: name.to_owned(), expiry });
        Some(EXPIRED.to_vec())
    });
    (bytes, former)
}

/// The bytes of `shadow(5)` with the former expiry of those accounts whose field still holds
/// what [`expire`] wrote.
pub(super) fn restore(shadow: &[u8], former: &[FormerExpiry]) -> Vec<u8> {
    map_expiry(shadow, |name, expiry| {
        let entry = former.iter().find(|entry| entry.name == name)?;
        (expiry == EXPIRED).then(|| entry.expiry.clone().into_bytes())
    })
}

/// The bytes of `shadow(5)` with a bar before root's password, unless it is none already.
///
/// `sulogin(8)`, which guards the rescue shell, asks for that password and not PAM.
pub(super) fn bar_root(shadow: &[u8]) -> Vec<u8> {
    map_field(shadow, PASSWORD_FIELD, |name, password| {
        let is_open = name == "root" && !password.starts_with(b"!") && !password.starts_with(b"*");
        is_open.then(|| [BAR, password].concat())
    })
}

/// The bytes of `shadow(5)` without that bar.
pub(super) fn unbar_root(shadow: &[u8]) -> Vec<u8> {
    map_field(shadow, PASSWORD_FIELD, |name, password| {
        password.strip_prefix(BAR).filter(|_| name == "root").map(<[u8]>::to_vec)
    })
}

/// How many of those accounts still hold what [`expire`] wrote.
pub(super) fn count_expired(shadow: &[u8], former: &[FormerExpiry]) -> usize {
    let mut count = 0;
    map_expiry(shadow, |name, expiry| {
        if expiry == EXPIRED && former.iter().any(|entry| entry.name == name) {
            count += 1;
        }
        None
    });
    count
}

/// The password field of that account.
pub(super) fn password(shadow: &[u8], name: &str) -> Option<String> {
    let mut found = None;
    map_field(shadow, PASSWORD_FIELD, |account, password| {
        if account == name {
            found = std::str::from_utf8(password).ok().map(str::to_owned);
        }
        None
    });
    found
}

/// The bytes of `shadow(5)` with another password field in the place of that one, changed on that
/// day.
pub(super) fn set_password(
    shadow: &[u8],
    name: &str,
    (former, field): (&str, &str),
    day: u64,
) -> Vec<u8> {
    let mut is_set = false;
    let bytes = map_field(shadow, PASSWORD_FIELD, |account, password| {
        is_set |= account == name && password == former.as_bytes();
        (account == name && password == former.as_bytes()).then(|| field.as_bytes().to_vec())
    });
    map_field(&bytes, CHANGED_FIELD, |account, _| {
        (is_set && account == name).then(|| day.to_string().into_bytes())
    })
}

fn map_expiry(shadow: &[u8], change: impl FnMut(&str, &[u8]) -> Option<Vec<u8>>) -> Vec<u8> {
    map_field(shadow, EXPIRY_FIELD, change)
}

/// Rewrites one field where `change` says so; everything else stays byte for byte. Only the first
/// line of a name is offered: the C library reads no other.
fn map_field(
    shadow: &[u8],
    field: usize,
    mut change: impl FnMut(&str, &[u8]) -> Option<Vec<u8>>,
) -> Vec<u8> {
    let mut offered: HashSet<String> = HashSet::new();
    let mut change_first = |name: &str, value: &[u8]| {
        if offered.insert(name.to_owned()) { change(name, value) } else { None }
    };
    let mut out = Vec::with_capacity(shadow.len() + 64);
    for line in shadow.split_inclusive(|byte| *byte == b'\n') {
        match rewrite(line, field, &mut change_first) {
            Some(changed) => out.extend_from_slice(&changed),
            None => out.extend_from_slice(line),
        }
    }
    out
}

fn rewrite(
    line: &[u8],
    field: usize,
    change: &mut impl FnMut(&str, &[u8]) -> Option<Vec<u8>>,
) -> Option<Vec<u8>> {
    let mut fields: Vec<&[u8]> = line.split(|byte| *byte == b':').collect();
    // The line end belongs to the ninth field, so that the eighth is never the last.
    if fields.len() <= EXPIRY_FIELD + 1 {
        return None;
    }
    let name = std::str::from_utf8(fields[0]).ok()?;
    if name.is_empty() || name.starts_with(['+', '-', '#']) {
        return None;
    }
    let changed = change(name, fields[field])?;
    fields[field] = &changed;
    Some(fields.join(&b':'))
}

#[cfg(test)]
mod tests;
