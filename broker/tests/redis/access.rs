//! Accounts and TLS: a hub's account reaches its own keys and channels, and nobody without a
//! certificate reaches anything. The accounts are those of config/redis-acl.conf.

use std::fs;
use std::path::{Path, PathBuf};

use broker::fixture::{RedisServer, Reply, Setup, TlsFiles};
use broker::redis::RedisTls;
use broker::{Broker, BrokerError, Downstream, RedisBroker, RedisConfig};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair,
};
use runtime::config::Secret;
use tempfile::TempDir;

use crate::support::{
    config, connect, connected, device, hub, lease, presence, revoke, session, works,
};

/// A server with the accounts that are shipped, and one of the test's own to look around.
struct Guarded {
    server: RedisServer,
    _folder: TempDir,
}

impl Guarded {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/redis-acl.conf");
        let shipped = fs::read_to_string(shipped).unwrap();
        let accounts = folder.path().join("users.acl");
        fs::write(&accounts, format!("{shipped}user test on >test ~* &* +@all\n")).unwrap();
        let args = vec!["--aclfile".to_owned(), accounts.display().to_string()];
        let server = RedisServer::with(Setup { args, ..Setup::default() });
        Self { server, _folder: folder }
    }

    async fn account(&self, name: &str, password: &str) -> std::sync::Arc<RedisBroker> {
        connected(RedisConfig {
            username: Some(name.to_owned()),
            password: Some(Secret::inline(password)),
            ..config(vec![self.server.url()])
        })
        .await
    }

    /// What the account of hub-a is answered.
    fn as_hub(&self, command: &[&str]) -> Reply {
        self.server.ask_as(("tocsin-hub-a", "CHANGE-ME-HUB-A"), command)
    }

    fn is_refused(&self, command: &[&str]) -> bool {
        matches!(self.as_hub(command), Reply::Error(error) if error.starts_with("NOPERM"))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shipped_accounts_suffice_for_everything_that_their_owners_do() {
    let guarded = Guarded::start();
    let api = guarded.account("tocsin-api", "CHANGE-ME-API").await;
    let first = guarded.account("tocsin-hub-a", "CHANGE-ME-HUB-A").await;
    let second = guarded.account("tocsin-hub-b", "CHANGE-ME-HUB-B").await;
    let (at_first, at_second) = (lease("hub-a", 1), lease("hub-b", 2));
    first.renew_lease(&at_first).await.unwrap();
    second.renew_lease(&at_second).await.unwrap();
    let mut from_api = first.subscribe(&at_first).await.unwrap();
    first.probe().await.unwrap();
    first.arrive(device(1), presence(&at_first, 1)).await.unwrap();
    assert_eq!(api.locate(&[device(1)]).await.unwrap(), [Some(presence(&at_first, 1))]);
    assert_eq!(api.publish(&hub("hub-a"), vec![revoke(1)]).await.unwrap(), 1);
    assert_eq!(from_api.next().await, Some(revoke(1)));
    // From hub to hub: a later session.
    second.restore(&[(device(1), presence(&at_second, 2))]).await.unwrap();
    let over = Downstream::Replaced { device: device(1), session: session(1) };
    assert_eq!(second.publish(&hub("hub-a"), vec![over.clone()]).await.unwrap(), 1);
    assert_eq!(from_api.next().await, Some(over));
    assert!(second.depart(device(1), &presence(&at_second, 2)).await.unwrap());
    let mut reader = api.read_upstream().await.unwrap();
    let message = broker::Upstream {
        device: device(1),
        generation: 1,
        hub: hub("hub-a"),
        session: session(1),
        frame: protocol::frame::AgentFrame::Sync { last_seq: Default::default() },
    };
    first.send_upstream(vec![message.clone()]).await.unwrap();
    assert_eq!(reader.next().await.unwrap(), [message]);
    reader.acknowledge().await.unwrap();
    assert_eq!(api.hubs().await.unwrap().len(), 2);
    first.release_lease(&at_first).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_hub_is_refused_what_belongs_to_another_hub() {
    let guarded = Guarded::start();
    let broker = guarded.account("tocsin-hub-a", "CHANGE-ME-HUB-A").await;
    let refused = broker.renew_lease(&lease("hub-b", 1)).await;
    assert!(matches!(refused, Err(BrokerError::Unavailable)), "{refused:?}");
    let refused = broker.publish(&hub("hub-b"), vec![revoke(1)]).await;
    assert!(matches!(refused, Err(BrokerError::Unavailable)), "{refused:?}");
    assert!(guarded.is_refused(&["SUBSCRIBE", "tocsin:hub:{hub-b}"]));
    assert!(guarded.is_refused(&["PUBLISH", "tocsin:hub:{hub-b}", "d[]"]));
    assert!(guarded.is_refused(&["SET", "tocsin:lease:hub-b", "mine"]));
    assert!(!guarded.is_refused(&["GET", "tocsin:lease:hub-b"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_hub_can_add_to_the_upstream_and_neither_read_nor_empty_it() {
    let guarded = Guarded::start();
    assert!(!guarded.is_refused(&["XADD", "tocsin:upstream", "*", "m", "x"]));
    let forbidden: [&[&str]; 9] = [
        &["XRANGE", "tocsin:upstream", "-", "+"],
        &["XREAD", "STREAMS", "tocsin:upstream", "0"],
        &["XDEL", "tocsin:upstream", "0-1"],
        &["DEL", "tocsin:upstream"],
        &["SET", "tocsin:upstream", "x"],
        &["HGETALL", "tocsin:presence:000"],
        &["KEYS", "*"],
        &["FLUSHALL"],
        &["CONFIG", "GET", "*"],
    ];
    for command in forbidden {
        assert!(guarded.is_refused(command), "{command:?}");
    }
    // Not by a script either.
    let text = "return redis.call('SET', KEYS[1], 'x')";
    let digest = guarded.as_hub(&["SCRIPT", "LOAD", text]).text();
    for key in ["tocsin:upstream", "tocsin:presence:000", "tocsin:lease:hub-b", "other"] {
        let reply = guarded.as_hub(&["EVALSHA", &digest, "1", key]);
        assert!(matches!(reply, Reply::Error(_)), "{key}: {reply:?}");
    }
}

/// Files of an authority, a server and a client.
struct Certificates {
    folder: TempDir,
}

impl Certificates {
    fn issue() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        fs::write(folder.path().join("ca.pem"), authority.pem()).unwrap();
        for name in ["server", "client"] {
            let mut params = CertificateParams::new(vec!["redis.example".to_owned()]).unwrap();
            // OpenSSL takes a leaf that is called like its authority for self-signed.
            params.distinguished_name.push(DnType::CommonName, name);
            params.extended_key_usages =
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            let key = KeyPair::generate().unwrap();
            let certificate = params.signed_by(&key, &authority).unwrap();
            fs::write(folder.path().join(format!("{name}.pem")), certificate.pem()).unwrap();
            fs::write(folder.path().join(format!("{name}.key")), key.serialize_pem()).unwrap();
        }
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_with_tls_serves_its_clients_and_nobody_without_a_certificate() {
    let files = Certificates::issue();
    let tls = TlsFiles {
        ca: files.path("ca.pem"),
        certificate: files.path("server.pem"),
        key: files.path("server.key"),
        clients: true,
    };
    let server = RedisServer::with(Setup { tls: Some(tls), ..Setup::default() });
    let ours = RedisTls {
        ca: files.path("ca.pem"),
        certificate: Some(files.path("client.pem")),
        key: Some(files.path("client.key")),
        server_name: Some("redis.example".to_owned()),
    };
    let with = |tls: RedisTls| RedisConfig { tls: Some(tls), ..config(vec![server.url()]) };
    let broker = connected(with(ours.clone())).await;
    let lease = lease("hub-a", 1);
    broker.renew_lease(&lease).await.unwrap();
    let mut subscription = broker.subscribe(&lease).await.unwrap();
    broker.publish(&lease.hub, vec![revoke(1)]).await.unwrap();
    assert_eq!(subscription.next().await, Some(revoke(1)));

    let another = Certificates::issue();
    let strangers = [
        RedisTls { certificate: None, key: None, ..ours.clone() },
        RedisTls { ca: another.path("ca.pem"), ..ours.clone() },
        RedisTls { server_name: Some("other.example".to_owned()), ..ours.clone() },
    ];
    for tls in strangers {
        let refused = connect(with(tls.clone())).hubs().await;
        assert!(matches!(refused, Err(BrokerError::Unavailable)), "{tls:?}: {refused:?}");
    }
    works(&*broker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn password_is_read_from_its_file_for_each_connection() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    fs::write(&file, "first\n").unwrap();
    let args = ["--requirepass", "second"].map(str::to_owned).to_vec();
    let server = RedisServer::with(Setup { args, ..Setup::default() });
    let password = format!("file:{}", file.display()).parse().ok();
    let broker = connect(RedisConfig { password, ..config(vec![server.url()]) });
    let refused = broker.hubs().await;
    assert!(matches!(refused, Err(BrokerError::Unavailable)), "{refused:?}");
    fs::write(&file, "second\n").unwrap();
    works(&*broker).await;
    assert!(matches!(server.try_ask(&["PING"]), Reply::Error(_)), "it asks everybody");
}
