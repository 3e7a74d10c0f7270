//! A private system bus with a login manager on it that keeps the sessions it is told to keep.
//!
//! It stands at the boundary of the system: the bus is the real `dbus-daemon`, the calls are the
//! real ones, and what they ask for is done to the sandbox.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{Arc, Mutex};

use tokio::runtime::Runtime;
use zbus::{Connection, OwnedObjectPath};

use crate::bus::start_bus;

type ListedSession = (String, u32, String, String, OwnedObjectPath);

type ListedUnit =
    (String, String, String, String, String, String, OwnedObjectPath, u32, String, OwnedObjectPath);

/// What the login manager was asked, and which sessions are left.
#[derive(Debug, Default)]
struct Room {
    calls: Vec<String>,
    sessions: Vec<(String, u32, String)>,
    are_screens_locked: bool,
}

/// How the login manager answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// As it should.
    Prompt,
    /// Never: it spins.
    Spinning,
    /// As it should, about sessions without a screen.
    Textual,
    /// As it should, about screens that do not lock.
    Unlockable,
}

/// A bus with a login manager; both end with this value.
pub(crate) struct Login1 {
    /// The bus's address.
    pub(crate) address: String,
    room: Arc<Mutex<Room>>,
    daemon: Child,
    _runtime: Runtime,
    _connection: Connection,
}

impl Login1 {
    /// Starts a bus and the login manager, with these sessions (id, uid, user).
    pub(crate) fn start(base: &Path, root: &Path, manner: Manner, users: &[(u32, &str)]) -> Self {
        let (daemon, address) = start_bus(base);
        let session = |(number, (uid, user)): (usize, &(u32, &str))| {
            (format!("c{number}"), *uid, (*user).to_owned())
        };
        let sessions = users.iter().enumerate().map(session).collect();
        let room =
            Arc::new(Mutex::new(Room { calls: Vec::new(), sessions, are_screens_locked: false }));
        let linger = root.join("var/lib/systemd/linger");
        let manager = Manager { room: Arc::clone(&room), linger, manner };
        let screens = Arc::clone(&room);
        let units = Units { room: Arc::clone(&room) };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let connection = runtime.block_on(async {
            let mut builder = zbus::connection::Builder::address(address.as_str())
                .name("org.freedesktop.login1")
                .name("org.freedesktop.systemd1")
                .serve_at("/org/freedesktop/login1", manager)
                .serve_at("/org/freedesktop/systemd1", units);
            for number in 0..users.len() {
                let path = format!("/org/freedesktop/login1/session/c{number}");
                builder = builder.serve_at(path, Screen { room: Arc::clone(&screens), manner });
            }
            builder.build().await.unwrap()
        });
        Self { address, room, daemon, _runtime: runtime, _connection: connection }
    }

    /// The calls that changed something, in order.
    pub(crate) fn calls(&self) -> Vec<String> {
        self.room.lock().unwrap().calls.clone()
    }
}

impl Drop for Login1 {
    fn drop(&mut self) {
        _ = self.daemon.kill();
        _ = self.daemon.wait();
    }
}

/// The service manager of a machine whose first terminal gave up letting people in.
struct Units {
    room: Arc<Mutex<Room>>,
}

#[zbus::interface(name = "org.freedesktop.systemd1.Manager")]
impl Units {
    fn list_units_by_patterns(
        &self,
        states: Vec<String>,
        patterns: Vec<String>,
    ) -> Vec<ListedUnit> {
        assert_eq!(states, ["failed"]);
        assert!(patterns.iter().any(|pattern| pattern == "getty@*.service"));
        let path = |path: &str| OwnedObjectPath::try_from(path).unwrap();
        let word = |word: &str| word.to_owned();
        vec![(
            word("getty@tty1.service"),
            word("Getty on tty1"),
            word("loaded"),
            word("failed"),
            word("failed"),
            String::new(),
            path("/org/freedesktop/systemd1/unit/getty_40tty1_2eservice"),
            0,
            String::new(),
            path("/"),
        )]
    }

    fn reset_failed_unit(&self, name: String) {
        self.room.lock().unwrap().calls.push(format!("ResetFailedUnit {name}"));
    }

    fn start_unit(&self, name: String, mode: String) -> OwnedObjectPath {
        self.room.lock().unwrap().calls.push(format!("StartUnit {name} {mode}"));
        OwnedObjectPath::try_from("/org/freedesktop/systemd1/job/1").unwrap()
    }
}

/// A session on a screen of its own.
struct Screen {
    room: Arc<Mutex<Room>>,
    manner: Manner,
}

#[zbus::interface(name = "org.freedesktop.login1.Session")]
impl Screen {
    #[zbus(property, name = "Type")]
    fn kind(&self) -> String {
        if self.manner == Manner::Textual { "tty" } else { "wayland" }.to_owned()
    }

    #[zbus(property)]
    fn locked_hint(&self) -> bool {
        self.manner == Manner::Prompt && self.room.lock().unwrap().are_screens_locked
    }
}

struct Manager {
    room: Arc<Mutex<Room>>,
    linger: PathBuf,
    manner: Manner,
}

impl Manager {
    async fn note(&self, call: String) {
        self.room.lock().unwrap().calls.push(call);
        self.spin().await;
    }

    async fn spin(&self) {
        if self.manner == Manner::Spinning {
            std::future::pending::<()>().await;
        }
    }
}

#[zbus::interface(name = "org.freedesktop.login1.Manager")]
impl Manager {
    async fn list_sessions(&self) -> Vec<ListedSession> {
        self.spin().await;
        let room = self.room.lock().unwrap();
        let listed = |(id, uid, user): &(String, u32, String)| {
            let path = format!("/org/freedesktop/login1/session/{id}");
            let path = OwnedObjectPath::try_from(path).unwrap();
            (id.clone(), *uid, user.clone(), "seat0".to_owned(), path)
        };
        room.sessions.iter().map(listed).collect()
    }

    async fn terminate_user(&self, uid: u32) {
        self.note(format!("TerminateUser {uid}")).await;
        self.room.lock().unwrap().sessions.retain(|(_, owner, _)| *owner != uid);
    }

    async fn set_user_linger(&self, uid: u32, lingers: bool, _interactive: bool) {
        self.note(format!("SetUserLinger {uid} {lingers}")).await;
        assert_eq!(uid, 1001, "only alice lingers and is not break-glass");
        let mark = self.linger.join("alice");
        if lingers {
            fs::write(mark, "").unwrap();
        } else {
            fs::remove_file(mark).unwrap();
        }
    }

    async fn lock_sessions(&self) {
        self.note("LockSessions".to_owned()).await;
        self.room.lock().unwrap().are_screens_locked = true;
    }
}
