//! Judging what devices say of their commands.
//!
//! Owns the checks of receipts: the device's own key, this enrollment, this command. What does
//! not hold is an event, and never an outcome.

use std::collections::BTreeMap;
use std::future::{Future, ready};
use std::sync::Arc;

use futures_util::future::Either;
use protocol::action::is_printable;
use protocol::advance::Advance;
use protocol::enrollment::DeviceIdentity;
use protocol::escrow::{self, Escrow, Subject};
use protocol::frame::AgentFrame;
use protocol::id::{CommandId, DeviceId};
use protocol::jws::{CompactJws, JwsError};
use protocol::key::DevicePublicKey;
use protocol::limits;
use protocol::notice;
use protocol::proof::{self, Proof};
use protocol::receipt::{self, Outcome, Receipt};
use protocol::time::Timestamp;
use tokio::task::JoinError;

use crate::devices::Key;

/// Characters kept of a word of a device.
const WORD_CHARS: usize = 64;
/// Signatures that are checked where they are read: handing them to another thread would take longer.
const JUDGED_HERE: usize = 4;

/// What a device says of one command.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) identity: DeviceIdentity,
    pub(super) command: CommandId,
    pub(super) what: Said,
}

/// What is said.
#[derive(Debug)]
pub(super) enum Said {
    /// It is on disk.
    Acked,
    /// It reached a stage.
    Progress(Stage),
    /// It goes on, and something of it is proven.
    Proved(Box<Proved>),
    /// It has made a credential, and waits until that is held, by an escrow that verifies.
    Escrowed(Box<Escrowed>),
    /// It ended, by a receipt that verifies.
    Finished(Box<Finished>),
    /// Something happened to its effect, by a notice that verifies.
    Noticed(Box<Noticed>),
    /// It is said to have ended, or something of it, by a document that does not verify.
    Forged { why: String, jws: CompactJws },
}

/// A stage that was reached, and how far it has come.
#[derive(Debug)]
pub(super) struct Stage {
    /// Its name, without what would not print as it reads.
    pub(super) name: String,
    /// How far, within its bounds.
    pub(super) advance: Option<Advance>,
}

impl From<&str> for Stage {
    fn from(name: &str) -> Self {
        Self { name: name.to_owned(), advance: None }
    }
}

/// A proof of a stage that verifies.
#[derive(Debug)]
pub(super) struct Proved {
    /// What it says.
    pub(super) proof: Proof,
    /// The proof.
    pub(super) jws: CompactJws,
}

/// An escrow that verifies.
#[derive(Debug)]
pub(super) struct Escrowed {
    /// What it says.
    pub(super) escrow: Escrow,
    /// The escrow.
    pub(super) jws: CompactJws,
}

/// A receipt that verifies.
#[derive(Debug)]
pub(super) struct Finished {
    /// How it ended.
    pub(super) outcome: Outcome,
    /// The envelope that is answered.
    pub(super) envelope_sha256: String,
    /// The receipt.
    pub(super) jws: CompactJws,
}

/// A notice that verifies.
#[derive(Debug)]
pub(super) struct Noticed {
    /// What happened, without what would not print as it reads.
    pub(super) what: String,
    /// When, by the device's clock.
    pub(super) at: Timestamp,
    /// The notice.
    pub(super) jws: CompactJws,
}

/// What devices say, and of whom.
pub(super) type Words = Vec<(DeviceIdentity, AgentFrame)>;

/// Begins to judge frames, and answers the reports of them, in order. Many signatures are checked on a thread of
/// their own, so that whatever else shares this one goes on meanwhile, whether somebody waits for them yet or not.
///
/// # Errors
/// When that thread ended before its time.
pub(super) fn judge_all(
    said: Words,
    keys: Arc<BTreeMap<DeviceId, Key>>,
) -> impl Future<Output = Result<Vec<Report>, JoinError>> {
    let signatures = said.iter().filter(|(_, frame)| is_signed(frame)).count();
    let judge_them = move || {
        let said = said.into_iter();
        said.filter_map(|(identity, frame)| judge(identity, frame, &keys)).collect()
    };
    if signatures <= JUDGED_HERE {
        Either::Left(ready(Ok(judge_them())))
    } else {
        Either::Right(tokio::task::spawn_blocking(judge_them))
    }
}

/// Whether it is about a document that the device signs.
pub(super) const fn is_signed(frame: &AgentFrame) -> bool {
    match frame {
        AgentFrame::Receipt { .. }
        | AgentFrame::Proof { .. }
        | AgentFrame::Escrow { .. }
        | AgentFrame::Notice { .. } => true,
        AgentFrame::Hello(_)
        | AgentFrame::Sync { .. }
        | AgentFrame::Ack { .. }
        | AgentFrame::Progress { .. }
        | AgentFrame::Unknown => false,
    }
}

/// The report of a frame; `None` for frames that are none.
fn judge(
    identity: DeviceIdentity,
    frame: AgentFrame,
    keys: &BTreeMap<DeviceId, Key>,
) -> Option<Report> {
    let (command, what) = match frame {
        AgentFrame::Ack { command_id } => (command_id, Said::Acked),
        AgentFrame::Progress { command_id, stage, advance } => {
            let advance = advance.filter(Advance::is_sound);
            (command_id, Said::Progress(Stage { name: printable(&stage), advance }))
        }
        AgentFrame::Proof { command_id, jws } => {
            (command_id, proved((identity, command_id), jws, keys))
        }
        AgentFrame::Escrow { command_id, jws } => {
            (command_id, escrowed((identity, command_id), jws, keys))
        }
        AgentFrame::Receipt { command_id, jws } => {
            (command_id, finished((identity, command_id), jws, keys))
        }
        AgentFrame::Notice { command_id, jws } => {
            (command_id, noticed((identity, command_id), jws, keys))
        }
        AgentFrame::Hello(_) | AgentFrame::Sync { .. } | AgentFrame::Unknown => return None,
    };
    Some(Report { identity, command, what })
}

/// A signed document that is the device's own, and about the command that it came with.
fn verified<T>(
    (identity, command): (DeviceIdentity, CommandId),
    keys: &BTreeMap<DeviceId, Key>,
    verify: impl FnOnce(&DevicePublicKey) -> Result<T, JwsError>,
    named: impl FnOnce(&T) -> (DeviceId, u32, CommandId),
) -> Result<T, String> {
    let key = keys.get(&identity.device).ok_or("the device is unknown")?;
    let document = verify(&key.public).map_err(|error| error.to_string())?;
    names(named(&document), identity, command).map(|()| document)
}

fn finished(
    about: (DeviceIdentity, CommandId),
    jws: CompactJws,
    keys: &BTreeMap<DeviceId, Key>,
) -> Said {
    let verify = |key: &DevicePublicKey| receipt::verify(&jws, key);
    match verified(about, keys, verify, |said| (said.iss, said.generation, said.command_id)) {
        Ok(Receipt { outcome, envelope_sha256, .. }) => {
            Said::Finished(Box::new(Finished { outcome, envelope_sha256, jws }))
        }
        Err(why) => Said::Forged { why, jws },
    }
}

fn proved(
    about: (DeviceIdentity, CommandId),
    jws: CompactJws,
    keys: &BTreeMap<DeviceId, Key>,
) -> Said {
    let verify = |key: &DevicePublicKey| proof::verify(&jws, key);
    match verified(about, keys, verify, |said| (said.iss, said.generation, said.command_id)) {
        Ok(proof) => Said::Proved(Box::new(Proved { proof, jws })),
        Err(why) => Said::Forged { why, jws },
    }
}

fn escrowed(
    about: (DeviceIdentity, CommandId),
    jws: CompactJws,
    keys: &BTreeMap<DeviceId, Key>,
) -> Said {
    let verify = |key: &DevicePublicKey| escrow::verify(&jws, key);
    match verified(about, keys, verify, |said| (said.iss, said.generation, said.command_id)) {
        Ok(escrow) if is_sound(&escrow) => Said::Escrowed(Box::new(Escrowed { escrow, jws })),
        Ok(_) => Said::Forged { why: "the escrow has odd texts".to_owned(), jws },
        Err(why) => Said::Forged { why, jws },
    }
}

/// What a device says that its credentials open is shown to people.
fn is_sound(escrow: &Escrow) -> bool {
    let is_fine = |subject: &Subject| match subject {
        Subject::Volume { uuid, path } => is_printable(uuid) && is_printable(path),
        Subject::Account { name } => is_printable(name),
    };
    escrow.subjects.len() <= limits::LIST_ENTRIES && escrow.subjects.iter().all(is_fine)
}

fn noticed(
    about: (DeviceIdentity, CommandId),
    jws: CompactJws,
    keys: &BTreeMap<DeviceId, Key>,
) -> Said {
    let verify = |key: &DevicePublicKey| notice::verify(&jws, key);
    match verified(about, keys, verify, |said| (said.iss, said.generation, said.command_id)) {
        Ok(notice) => {
            let what = printable(&notice.what.chars().take(WORD_CHARS).collect::<String>());
            Said::Noticed(Box::new(Noticed { what, at: notice.at, jws }))
        }
        Err(why) => Said::Forged { why, jws },
    }
}

/// Whether a signed document names the device, enrollment and command that it came with.
fn names(
    (iss, generation, named): (DeviceId, u32, CommandId),
    identity: DeviceIdentity,
    command: CommandId,
) -> Result<(), String> {
    if iss != identity.device {
        Err("another device is named".to_owned())
    } else if generation != identity.generation {
        Err(format!("enrollment {generation} is named"))
    } else if named != command {
        Err("another command is named".to_owned())
    } else {
        Ok(())
    }
}

/// A device's word without what would not print as it reads.
pub(super) fn printable(word: &str) -> String {
    let hide = |c: char| {
        let mut one = [0; 4];
        if protocol::action::is_printable(c.encode_utf8(&mut one)) { c } else { '\u{fffd}' }
    };
    word.chars().map(hide).collect()
}
