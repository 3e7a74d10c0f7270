//! The password field of one account, for whoever replaces it.
//!
//! Owns neither the file nor its lock: those are the doors'. Must not know what a password is.

use protocol::receipt::Failure;
use protocol::time::Timestamp;

use super::{accounts, doors};
use crate::host::Host;

/// Milliseconds of a day, in which `shadow(5)` counts.
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// The field of that account, if `shadow(5)` has it.
///
/// # Errors
/// `Io` or `Permission` when the file cannot be read.
pub(in crate::execute) fn password_field(
    host: &Host,
    name: &str,
) -> Result<Option<String>, Failure> {
    let shadow = doors::read_shadow(host).map_err(|error| error.at("shadow"))?;
    Ok(shadow.and_then(|shadow| accounts::password(&shadow, name)))
}

/// Puts another field in the place of that one, and the day of the change beside it. What holds
/// something else by now stays.
///
/// # Errors
/// `Io` or `Permission` when the file cannot be written, `Timeout` when somebody else holds it.
pub(in crate::execute) fn set_password_field(
    host: &Host,
    name: &str,
    (former, field): (&str, &str),
    now: Timestamp,
) -> Result<(), Failure> {
    let day = now.as_millis() / DAY_MS;
    doors::change_shadow(host, |shadow| {
        Ok(accounts::set_password(shadow, name, (former, field), day))
    })
}
