//! Who an agent is, on every request of the agent port.
//!
//! Owns the check that TLS alone cannot make: a resumed session skipped the verifier, and a
//! certificate outlives the revocation of its enrollment.

use protocol::enrollment::DeviceIdentity;
use runtime::http::ConnectionInfo;

use super::store;
use crate::app::App;
use crate::http::{Problem, ProblemKind};
use crate::pki;

/// The device behind a connection, if its certificate and its enrollment stand at this moment.
pub(crate) async fn authenticate(
    app: &App,
    connection: &ConnectionInfo,
) -> Result<DeviceIdentity, Problem> {
    let refused = |detail: String| Problem::new(ProblemKind::Unauthenticated, detail);
    let peer = pki::read_peer(connection.peer_certificate.as_ref(), app.now())
        .map_err(|error| refused(error.to_string()))?;
    let device = peer.identity.device;
    let keys = store::keys(&mut *app.db.read().await?, &[device]).await?;
    match keys.get(&device) {
        Some(key)
            if key.generation == peer.identity.generation
                && key.revoked_through < key.generation =>
        {
            Ok(peer.identity)
        }
        Some(_) | None => Err(refused("this enrollment does not stand any more".to_owned())),
    }
}
