//! Who an agent is, on every request of the agent port.
//!
//! Owns the checks that TLS alone does not make: a resumed session skipped the verifier, the
//! verifier lets certificates past their end through, and a certificate outlives the revocation
//! of its enrollment.

use std::time::Duration;

use protocol::enrollment::DeviceIdentity;
use runtime::http::ConnectionInfo;

use super::store;
use crate::app::App;
use crate::http::{Problem, ProblemKind};
use crate::pki::{self, Peer};

/// The device behind a connection, if its certificate and its enrollment stand at this moment.
pub(crate) async fn authenticate(
    app: &App,
    connection: &ConnectionInfo,
) -> Result<DeviceIdentity, Problem> {
    Ok(authenticate_late(app, connection, Duration::ZERO).await?.identity)
}

/// The same, if its certificate has been past its end for no more than `grace`. For renewal
/// alone.
pub(crate) async fn authenticate_late(
    app: &App,
    connection: &ConnectionInfo,
    grace: Duration,
) -> Result<Peer, Problem> {
    let refused = |detail: String| Problem::new(ProblemKind::Unauthenticated, detail);
    let peer = pki::read_peer(connection.peer_certificate.as_ref(), app.now(), grace)
        .map_err(|error| refused(error.to_string()))?;
    let device = peer.identity.device;
    let keys = store::keys(&mut app.db.read().await?, &[device]).await?;
    match keys.get(&device) {
        Some(key) if key.stands_for(peer.identity) => Ok(peer),
        Some(_) | None => Err(refused("this enrollment does not stand any more".to_owned())),
    }
}
