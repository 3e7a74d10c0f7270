//! Revocation over several hubs: out on all of them at once, with resumed handshakes too, and what
//! holds while the broker is dead.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use protocol::frame::{CHECK_IN_PATH, POLL_PATH};
use runtime::Clock;
use runtime::tls::pki_types::pem::PemObject as _;
use runtime::tls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use runtime::tls::{self, Identity};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, StreamOwned};

use crate::operator::{Device, eventually};
use crate::program::Program;
use crate::site::Site;

/// Only against hanging.
const PATIENCE: Duration = Duration::from_secs(240);

/// Somebody with a device's key and certificate, and the tickets of earlier handshakes.
struct Holder {
    tls: Arc<ClientConfig>,
}

impl Holder {
    fn of(device: &Device) -> Self {
        let enrollment = device.enrollment();
        let certificates = |field: &str| {
            let pem = enrollment[field].as_str().expect("PEM").as_bytes();
            let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
            all.expect("certificates")
        };
        let key = fs::read(device.state().join("device.key")).expect("its key");
        let key = PrivateKeyDer::try_from(key).expect("a key");
        let identity = Identity { chain: certificates("certificate"), key };
        let tls = tls::client_config(&certificates("ca"), Some(&identity), &[b"http/1.1"]);
        Self { tls: Arc::new(tls.expect("sound settings")) }
    }

    /// A request without a body: whether it came by a resumed handshake, and the status of the answer.
    fn knock(&self, address: &str, path: &str) -> (bool, String) {
        // Who comes too slowly is hung up on, and tries again.
        eventually("an answer", || self.try_to_knock(address, path))
    }

    fn try_to_knock(&self, address: &str, path: &str) -> Option<(bool, String)> {
        let name = ServerName::try_from("127.0.0.1").expect("a name");
        let connection = ClientConnection::new(self.tls.clone(), name).expect("a connection");
        let socket = TcpStream::connect(address).expect("it listens");
        socket.set_read_timeout(Some(PATIENCE)).expect("it can be set");
        let mut stream = StreamOwned::new(connection, socket);
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).ok()?;
        let mut answer = Vec::new();
        // Whether the other side says goodbye or not.
        drop(stream.read_to_end(&mut answer));
        let answer = String::from_utf8_lossy(&answer);
        let status = answer.split(' ').nth(1)?;
        let is_resumed = stream.conn.handshake_kind() == Some(HandshakeKind::Resumed);
        Some((is_resumed, status.to_owned()))
    }
}

fn sessions(hub: &Program) -> f64 {
    hub.metric("tocsin_push_hub_sessions", "")
}

fn revoke(site: &Site, device: &Device) {
    site.succeed(&["device", "revoke", &device.name, "--yes"]);
}

#[test]
fn hostile_holder_of_a_revoked_key_is_out_on_every_hub_at_once() {
    let site = Site::new(3);
    let (device, stays) = (site.device("web-1"), site.device("web-2"));
    let its_hub = site.on_one_of(&device, &[0, 1, 2]);
    let other_hub = site.on_one_of(&stays, &[0, 1, 2]);
    let session_of_other = site.session(&stays);
    let addresses: Vec<_> = site.hubs.iter().map(|hub| hub.said("hub_addr")).collect();
    // Tickets are of one hub each: so each hub is met by a holder of its own.
    let holders: Vec<_> = addresses.iter().map(|_| Holder::of(&device)).collect();
    for (holder, address) in holders.iter().zip(&addresses) {
        assert_eq!(holder.knock(address, POLL_PATH), (false, "400".to_owned()), "let in");
    }
    let remain = if its_hub == other_hub { 1.0 } else { 0.0 };
    let clock = Clock::system();
    let asked = clock.now();
    let (closed, out) = std::thread::scope(|scope| {
        let closing = scope.spawn(|| {
            eventually("its session is closed", || {
                (sessions(&site.hubs[its_hub]) <= remain).then(|| clock.now() - asked)
            })
        });
        revoke(&site, &device);
        let out = addresses.iter().zip(&holders).map(|(address, holder)| {
            eventually("the hub refuses it", || {
                let (is_resumed, status) = holder.knock(address, POLL_PATH);
                assert!(is_resumed, "no verifier looks at the certificate again");
                (status == "403").then(|| clock.now() - asked)
            })
        });
        let out: Vec<_> = out.map(|after| after.as_millis()).collect();
        (closing.join().expect("it looks").as_millis(), out)
    });
    println!(
        "after the operator's line: session closed {closed} ms, refused by the hubs {out:?} ms"
    );
    for address in &addresses {
        let full = Holder::of(&device).knock(address, POLL_PATH);
        assert_eq!(full, (false, "403".to_owned()), "by a full handshake as well");
    }
    assert_eq!(site.session(&stays), session_of_other, "nobody else's session ends");
    site.obey(std::slice::from_ref(&stays));
}

#[test]
fn hostile_holder_of_a_revoked_key_is_out_while_the_broker_is_dead() {
    // Longer than the test: no hub gives the session up by itself.
    let mut site = Site::with_lines(2, "dead_after = \"10m\"\n", "");
    let (early, late) = (site.device("web-1"), site.device("web-2"));
    let its_hub = site.on_one_of(&late, &[0, 1]);
    revoke(&site, &early);
    let hubs: Vec<_> = site.hubs.iter().map(|hub| hub.said("hub_addr")).collect();
    for hub in &hubs {
        let is_out = || Holder::of(&early).knock(hub, POLL_PATH).1 == "403";
        eventually("the hub was told of the first", || is_out().then_some(()));
    }
    eventually("its session is closed", || (sessions(&site.hubs[its_hub]) <= 1.0).then_some(()));
    // It says nothing any more, so that only the hub can end its session.
    late.signal(Signal::SIGSTOP);
    site.redis.kill();
    eventually("the hub is without its broker", || {
        (site.hubs[its_hub].admin("/readyz").0 == "503").then_some(())
    });

    let check_in = site.api.said("agent_addr");
    assert_ne!(Holder::of(&late).knock(&check_in, CHECK_IN_PATH).1, "401");
    revoke(&site, &late);
    assert_eq!(
        Holder::of(&late).knock(&check_in, CHECK_IN_PATH).1,
        "401",
        "the api asks its store"
    );
    for hub in &hubs {
        assert_eq!(Holder::of(&early).knock(hub, POLL_PATH).1, "403", "what it was told, it knows");
        // What SECURITY.md says of this time: a hub that was not told lets it in.
        assert_eq!(Holder::of(&late).knock(hub, POLL_PATH).1, "400");
    }
    assert!(sessions(&site.hubs[its_hub]) >= 1.0, "the session that stands, stands");

    site.redis.restart();
    eventually("its session ends once the hub can be told", || {
        (sessions(&site.hubs[its_hub]) <= 0.0).then_some(())
    });
    assert_eq!(Holder::of(&late).knock(&hubs[its_hub], POLL_PATH).1, "403");
}
