//! Somebody who is no device: opens connections to hubs, says the beginning of a TLS handshake or
//! nothing at all, and never hangs up.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use turmoil::net::TcpStream;

use crate::fleet::hub_addresses;
use crate::scene::Scene;

/// Its host.
pub(crate) const NAME: &str = "stranger";
/// A TLS record that promises 512 bytes of a handshake, and the first of them.
const BEGINNING: [u8; 9] = [0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc];
/// Connections that it opens, so that the end of a run is without it.
const CONNECTIONS: usize = 12;
/// The longest time between two of them.
const PAUSE: Duration = Duration::from_secs(5);

pub(crate) async fn run(scene: Arc<Scene>) -> turmoil::Result {
    let chance = scene.entropy(NAME, 0);
    let below = |bound: usize| usize::try_from(chance.below(bound as u64)).unwrap_or(0);
    let mut kept = Vec::new();
    let hubs = hub_addresses();
    for _ in 0..CONNECTIONS {
        let pause = chance.below(u64::try_from(PAUSE.as_millis())?);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let hub = &hubs[below(hubs.len())];
        // A hub that is away is left for the next one.
        let Ok(mut stream) = TcpStream::connect(hub.as_str()).await else { continue };
        let said = below(BEGINNING.len() + 1);
        scene.note(format_args!("{NAME} says {said} bytes to {hub}"));
        drop(stream.write_all(&BEGINNING[..said]).await);
        kept.push(stream);
    }
    std::future::pending().await
}
