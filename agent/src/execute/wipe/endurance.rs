//! What keeps a wipe going to its end: neither memory pressure nor a shutdown ends it half way,
//! and when the agent itself hangs or is killed, the power goes all the same.
//!
//! Everything here is help, and none of it a condition: a machine that lacks one of these is wiped
//! without. Source: proc_pid_oom_score_adj(5), mlockall(2), org.freedesktop.login1(5).

use std::fs::OpenOptions;
use std::io::Write as _;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::mman::{MlockAllFlags, mlockall};
use tokio::runtime::Builder;
use tokio::time::timeout;
use zbus::OwnedFd;
use zbus::connection;

use super::deadline;
use crate::execute::course::patience;
use crate::host::{Arming, Host, Shutdown};

#[cfg(test)]
mod tests;

/// Without a word of progress for this long, a wipe hangs.
pub(super) const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// What holds while a wipe runs.
#[derive(Debug)]
pub(super) struct Endurance {
    _inhibitor: Option<OwnedFd>,
    timer: Option<Timer>,
}

impl Endurance {
    /// From now on. With `patience` the power goes when nothing is heard for so long.
    pub(super) fn begin(host: &Host, patience: Option<Duration>) -> Self {
        spare_from_memory_pressure(host);
        keep_in_memory(host);
        Self {
            _inhibitor: inhibit_shutdown(host),
            timer: patience.map(|patience| Timer::arm(host.clone(), patience)),
        }
    }

    /// The wipe has come further.
    pub(super) fn feed(&self) {
        if let Some(timer) = &self.timer {
            timer.feed();
        }
    }

    /// The wipe came to nothing: the machine stays on, so that it can be ordered again.
    pub(super) fn give_up(self) {
        if let Some(timer) = self.timer {
            timer.disarm();
        }
    }
}

/// The kernel kills somebody else first.
fn spare_from_memory_pressure(host: &Host) {
    let path = host.path("/proc/self/oom_score_adj");
    let spared = OpenOptions::new().write(true).open(path);
    if let Err(error) = spared.and_then(|mut file| file.write_all(b"-1000")) {
        tracing::warn!(%error, "not spared from memory pressure");
    }
}

/// The program may lie on the very volume that it destroys: nothing of it is to be read again.
fn keep_in_memory(host: &Host) {
    match host.arming {
        Arming::Armed => {}
        Arming::Sandboxed | Arming::Simulated => return,
    }
    if let Err(error) = mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE) {
        tracing::warn!(%error, "not kept in memory");
    }
}

/// Blocks shutdown, sleep and the lid switch until the descriptor is closed, where there is a
/// login manager. Our own power-off overrides it.
fn inhibit_shutdown(host: &Host) -> Option<OwnedFd> {
    let address = host.dbus_address.as_deref()?;
    let runtime = Builder::new_current_thread().enable_all().build().ok()?;
    let asking = async {
        let connection = connection::Builder::address(address).build().await?;
        let what = "shutdown:sleep:idle:handle-lid-switch";
        let message = connection
            .call_method(
                Some("org.freedesktop.login1"),
                "/org/freedesktop/login1",
                Some("org.freedesktop.login1.Manager"),
                "Inhibit",
                &(what, "tocsin-agent", "this device is being wiped", "block"),
            )
            .await?;
        message.body().deserialize::<OwnedFd>()
    };
    let limit = host.course.within(patience::BUS);
    match runtime.block_on(async { timeout(limit, asking).await }) {
        Ok(Ok(descriptor)) => Some(descriptor),
        Ok(Err(error)) => {
            tracing::warn!(%error, "shutdown is not inhibited");
            None
        }
        Err(_) => {
            tracing::warn!("shutdown is not inhibited: the bus does not answer");
            None
        }
    }
}

/// A power-off that comes by itself: from a thread of its own, which needs neither the event loop
/// nor the thread that destroys, and behind it from the service manager, which needs no agent.
#[derive(Debug)]
struct Timer {
    words: SyncSender<Word>,
    thread: JoinHandle<()>,
}

#[derive(Debug)]
enum Word {
    /// It goes on.
    Alive,
    /// The power is to stay.
    Disarm,
}

impl Timer {
    fn arm(host: Host, patience: Duration) -> Self {
        let (words, heard) = sync_channel(1);
        let thread = thread::spawn(move || wait(&host, patience, &heard));
        Self { words, thread }
    }

    fn feed(&self) {
        // A full queue holds a word that has not been heard yet: that is enough.
        let _ = self.words.try_send(Word::Alive);
    }

    fn disarm(self) {
        let _ = self.words.send(Word::Disarm);
        let _ = self.thread.join();
    }
}

/// Waits as long as there are words in time, and renews the service manager's timer so long. Whoever
/// drops the timer without disarming it wants the power to go, and should have seen to it by then.
fn wait(host: &Host, patience: Duration, words: &Receiver<Word>) {
    let now = || host.course.now();
    let (mut heard, mut renewed) = (now(), None::<Instant>);
    loop {
        if renewed.is_none_or(|at| now().saturating_duration_since(at) >= deadline::EVERY) {
            deadline::renew(host);
            renewed = Some(now());
        }
        let left = patience.saturating_sub(now().saturating_duration_since(heard));
        if left.is_zero() {
            break;
        }
        match words.recv_timeout(left.min(deadline::EVERY)) {
            Ok(Word::Alive) => heard = now(),
            Ok(Word::Disarm) => return deadline::disarm(host),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                let (_open, never) = sync_channel::<()>(0);
                let _ = never.recv_timeout(left.min(deadline::EVERY));
            }
        }
    }
    tracing::error!("wipe gives no sign of life: powering off");
    if let Err(error) = host.shut_down(Shutdown::PowerOff) {
        tracing::error!(error = error.detail, "device was not powered off");
    }
}
