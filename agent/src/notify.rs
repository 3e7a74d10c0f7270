//! Telling the service manager how the agent is (`sd_notify(3)`): one datagram, no library.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use runtime::lifecycle::CancellationToken;

/// Sends one state line such as `READY=1`. Without a service manager nothing happens.
pub fn tell(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let path = path.into_encoded_bytes();
    let address = match path.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(String::from_utf8_lossy(&path).as_ref()),
    };
    let sent = address
        .and_then(|address| UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address));
    if let Err(error) = sent {
        tracing::debug!(%error, "service manager was not told");
    }
}

/// Tells the watchdog twice in its time that the event loop turns, until `stop`.
pub async fn watchdog(stop: CancellationToken) {
    let micros = std::env::var("WATCHDOG_USEC").ok().and_then(|text| text.parse::<u64>().ok());
    let Some(micros) = micros.filter(|micros| *micros > 0) else { return };
    let pause = Duration::from_micros(micros / 2);
    while tokio::time::timeout(pause, stop.cancelled()).await.is_err() {
        tell("WATCHDOG=1");
    }
}
