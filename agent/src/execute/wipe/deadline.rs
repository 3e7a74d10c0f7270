//! A power-off that needs no agent: a timer of the service manager, which powers the device off unless it is renewed.
//!
//! Whoever kills the agent in the middle of a wipe, or masks its unit, stops the renewing and nothing else. What the
//! timer starts has no program of its own, because the disk with the programs may be the one that is erased: the
//! service manager itself tells the kernel. Transient units end with the boot, and an agent that starts again renews
//! them. Source: org.freedesktop.systemd1(5), systemd.unit(5) `SuccessAction=`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use protocol::receipt::{Failure, FailureKind};
use serde::Serialize;
use tokio::runtime::Builder;
use tokio::time::timeout;
use zbus::wire::DynamicType;
use zbus::{Connection, Variant, connection};

use crate::execute::course::patience;
use crate::execute::failure;
use crate::host::{Arming, Host};

#[cfg(test)]
mod tests;

/// The power goes when nobody renews for so long.
pub(super) const WITHIN: Duration = Duration::from_secs(5 * 60);
/// How often it is renewed.
pub(super) const EVERY: Duration = Duration::from_secs(30);

const TIMER: &str = "tocsin-wipe.timer";
const SERVICE: &str = "tocsin-wipe.service";
const STAGE: &str = "power_off";

const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";

/// How often a timer was renewed: whoever calls one off late must not mean the next one.
static RENEWALS: AtomicU64 = AtomicU64::new(0);

type Properties<'a> = Vec<(&'a str, Variant<'a>)>;

/// From now on the power goes in [`WITHIN`], unless it is renewed again. Without a service manager only the agent's
/// own timer is left.
pub(super) fn renew(host: &Host) {
    RENEWALS.fetch_add(1, Ordering::SeqCst);
    let renewed = on_the_bus(host, async |bus| {
        // Most times it runs already; a unit that does not is none.
        match call(bus, "RestartUnit", &(TIMER, "replace")).await {
            Ok(()) => Ok(()),
            Err(_) => call(bus, "StartTransientUnit", &units()).await,
        }
    });
    if let Err(failure) = renewed {
        tracing::warn!(detail = failure.detail, "power-off depends on the agent alone");
    }
}

/// The power is to stay. A service manager that does not answer is asked again for as long as its timer may run, unless
/// another wipe renews it meanwhile: nothing was destroyed, and the device would go down all the same.
pub(super) fn disarm(host: &Host) {
    if is_disarmed(host) {
        return;
    }
    let (host, renewals) = (host.clone(), RENEWALS.load(Ordering::SeqCst));
    let again = move || {
        let is_over = || RENEWALS.load(Ordering::SeqCst) != renewals || is_disarmed(&host);
        if !again_and_again(is_over, || thread::sleep(EVERY)) {
            tracing::error!("power-off of a wipe that failed could not be called off");
        }
    };
    if let Err(error) = thread::Builder::new().name("disarm".to_owned()).spawn(again) {
        tracing::error!(%error, "power-off of a wipe that failed is not called off");
    }
}

/// Tries as often as there is time until the power goes. Whether it came to an end.
fn again_and_again(mut is_over: impl FnMut() -> bool, mut pause: impl FnMut()) -> bool {
    (0..WITHIN.as_secs() / EVERY.as_secs()).any(|_| {
        pause();
        is_over()
    })
}

/// Whether no timer runs any more, or never did.
fn is_disarmed(host: &Host) -> bool {
    if host.dbus_address.is_none() {
        return true;
    }
    let stopped =
        on_the_bus(host, async |bus| match call(bus, "StopUnit", &(TIMER, "replace")).await {
            Err(zbus::Error::MethodError(name, _, _)) if name.as_str() == NO_SUCH_UNIT => Ok(()),
            stopped => stopped,
        });
    if let Err(failure) = &stopped {
        tracing::warn!(detail = failure.detail, "power-off of a wipe that failed not called off");
    }
    stopped.is_ok()
}

/// The timer and what it starts, neither of which stops for a shutdown that hangs or for another target.
fn units()
-> (&'static str, &'static str, Properties<'static>, Vec<(&'static str, Properties<'static>)>) {
    let micros = u64::try_from(WITHIN.as_micros()).unwrap_or(u64::MAX);
    let second: u64 = 1_000_000;
    let timer = vec![
        ("Description", Variant::from("Power-off of a device whose wipe does not go on")),
        ("DefaultDependencies", Variant::from(false)),
        ("IgnoreOnIsolate", Variant::from(true)),
        ("TimersMonotonic", Variant::new(vec![("OnActiveSec", micros)])),
        ("AccuracyUSec", Variant::from(second)),
    ];
    let service = vec![
        ("Description", Variant::from("Power-off of a device whose wipe does not go on")),
        ("DefaultDependencies", Variant::from(false)),
        ("Type", Variant::from("oneshot")),
        ("SuccessAction", Variant::from("poweroff-immediate")),
        ("FailureAction", Variant::from("poweroff-immediate")),
    ];
    (TIMER, "replace", timer, vec![(SERVICE, service)])
}

/// Only an armed agent may: any other is on a machine that is somebody's.
fn on_the_bus(
    host: &Host,
    work: impl AsyncFnOnce(&Connection) -> zbus::Result<()>,
) -> Result<(), Failure> {
    match host.arming {
        Arming::Armed => {}
        Arming::Sandboxed | Arming::Simulated => return Ok(()),
    }
    let wrong = |error: &dyn std::fmt::Display| failure(FailureKind::Tool, STAGE, error);
    let address = host.dbus_address.as_deref().ok_or_else(|| wrong(&"there is no system bus"))?;
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| wrong(&error))?;
    let asking = async {
        let bus = connection::Builder::address(address).build().await?;
        work(&bus).await
    };
    // Not the step's time: the timer outlives whatever step armed it.
    match runtime.block_on(async { timeout(patience::BUS, asking).await }) {
        Ok(answer) => answer.map_err(|error| wrong(&error)),
        Err(_) => Err(wrong(&"the service manager does not answer")),
    }
}

async fn call<B: Serialize + DynamicType>(
    bus: &Connection,
    method: &str,
    body: &B,
) -> zbus::Result<()> {
    let (name, path) = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1");
    let interface = Some("org.freedesktop.systemd1.Manager");
    bus.call_method(Some(name), path, interface, method, body).await.map(drop)
}
