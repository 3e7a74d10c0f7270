//! What a locked device shows on its consoles: whom to call, and where the offline code is typed.
//!
//! Owns the terminals while a lock of sessions stands, each with a thread; needs no desktop and no
//! running agent, and ends with the lock. Whoever sits there can type a code, or ask for a login
//! that the lock's gate leaves to break-glass; no key leads anywhere else. The order's text is
//! hostile: what does not print as it reads is not printed. Judges no code.

use std::io;
use std::path::PathBuf;
use std::thread;
use std::time::Instant;

use protocol::envelope::{Envelope, TYP};
use protocol::jws::{self, CompactJws};
use protocol::limits;
use runtime::Clock;

use self::entry::{Entry, Key};
use self::page::{Facts, Note};
use self::terminal::{Seen, Terminal};
use crate::execute::lock;
use crate::host::Host;
use crate::offline::{Answer, Effect, carry_out};

mod entry;
mod page;
mod terminal;

/// Rounds of a second after which the page is drawn again: others write onto a console as well.
const DRAW_AGAIN: u32 = 10;

/// Shows the lock on those terminals, or on the consoles of the host, until it is gone. Blocks.
///
/// # Errors
/// When there is no terminal to show it on.
pub fn show(host: &Host, terminals: &[PathBuf]) -> io::Result<()> {
    if facts(host).is_none() {
        return Ok(());
    }
    let found = if terminals.is_empty() {
        terminal::consoles(host)
    } else {
        terminals.iter().cloned().map(Terminal::at).collect()
    };
    if found.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "there is no console here"));
    }
    thread::scope(|scope| {
        for terminal in &found {
            scope.spawn(|| serve(host, terminal));
        }
    });
    terminal::let_log_in_again(host);
    Ok(())
}

/// What there is to say; `None` once the device is not locked. A lock that cannot be read is one.
fn facts(host: &Host) -> Option<Facts> {
    let state = match lock::current(host) {
        Ok(state) => state?,
        Err(_) => return Some(Facts::default()),
    };
    let envelope = CompactJws::from_text(state.envelope);
    let claims: Option<Envelope> = jws::parse(&envelope, TYP, limits::ENVELOPE_BYTES)
        .ok()
        .and_then(|parsed| parsed.claims().ok());
    Some(Facts {
        message: state.message,
        device: claims.as_ref().map(|claims| claims.aud.to_string()),
        order: claims.as_ref().map(|claims| claims.order_id().to_string()),
        since: Some(state.applied_at.rfc3339()),
        takes_code: claims
            .is_some_and(|claims| claims.manifest.offline_codes.contains_key(&claims.aud)),
    })
}

/// Holds one terminal until the lock is gone, whatever happens to the line meanwhile.
fn serve(host: &Host, terminal: &Terminal) {
    let mut place = Place { host, entry: Entry::default(), note: Note::None, since: now() };
    let mut is_lost = false;
    while facts(host).is_some() {
        match place.hold(terminal) {
            Ok(()) => is_lost = false,
            Err(error) => {
                // It may stay away for long: once is enough.
                if !std::mem::replace(&mut is_lost, true) {
                    let terminal = terminal.path().display();
                    tracing::warn!(%error, %terminal, "console was lost");
                }
                terminal::pause();
            }
        }
    }
}

fn now() -> Instant {
    Clock::system().now()
}

/// One terminal, and what was typed there.
struct Place<'a> {
    host: &'a Host,
    entry: Entry,
    note: Note,
    since: Instant,
}

impl Place<'_> {
    /// Shows and listens, until the lock is gone or the line has to be opened anew.
    fn hold(&mut self, terminal: &Terminal) -> io::Result<()> {
        let mut line = terminal.open()?;
        let (mut shown, mut rounds) = (None, 0);
        loop {
            let Some(facts) = facts(self.host) else { return line.leave(&page::blank()) };
            if rounds % DRAW_AGAIN == 0 || shown.as_ref() != Some(&facts) {
                line.put(&page::page(&facts, &self.entry, &self.note))?;
                terminal.claim(self.host);
                shown = Some(facts);
            }
            terminal.stay_in_front(self.host);
            match line.wait()? {
                Seen::Nothing => rounds += 1,
                Seen::Bytes(bytes) => {
                    rounds = 1;
                    for byte in bytes {
                        match self.entry.take(byte) {
                            Key::Nothing => {}
                            Key::Typed => line.put(&page::entry(&self.entry, &self.note))?,
                            Key::Login => {
                                line.leave(&page::blank())?;
                                // What a login leaves of the line is hung up.
                                return line.log_in();
                            }
                            Key::Enter(code) => {
                                self.note = Note::Checking;
                                line.put(&page::entry(&self.entry, &self.note))?;
                                self.note = self.judge(&code);
                                line.put(&page::entry(&self.entry, &self.note))?;
                            }
                        }
                    }
                }
            }
        }
    }

    fn judge(&mut self, code: &str) -> Note {
        match carry_out(self.host, Effect::Lock, code, &mut self.since) {
            Ok(Answer::Ended { .. } | Answer::Absent) => Note::Opened,
            Ok(Answer::NoCode) => Note::NoCode,
            Ok(Answer::Used) => Note::Used,
            Ok(Answer::Wrong { wait_secs, .. }) => Note::Wrong { wait_secs },
            Ok(Answer::Wait { wait_secs }) => Note::Wait { wait_secs },
            Ok(Answer::Mistyped { detail }) => Note::Mistyped(detail),
            Ok(Answer::Busy) => Note::Busy,
            Ok(Answer::Failed { detail }) => Note::Failed(detail),
            Err(error) => Note::Failed(error.to_string()),
        }
    }
}
