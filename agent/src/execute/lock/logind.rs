//! The login manager, the manager of homes and the service manager over D-Bus, each call with a time limit.
//!
//! A spinning logind answers nothing for minutes (it does so for a lingering user with an open
//! session whose manager is stopped), so no caller may depend on an answer.

use std::fmt;

use protocol::receipt::{Failure, FailureKind};
use serde::Serialize;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;
use zbus::connection;
use zbus::zvariant::DynamicType;
use zbus::{Connection, Message, OwnedObjectPath, OwnedVariant};

use crate::execute::course::{Course, patience};
use crate::execute::failure;
use crate::host::Host;

const LOGIN: Peer = Peer {
    name: "org.freedesktop.login1",
    path: "/org/freedesktop/login1",
    interface: "org.freedesktop.login1.Manager",
};
const HOME: Peer = Peer {
    name: "org.freedesktop.home1",
    path: "/org/freedesktop/home1",
    interface: "org.freedesktop.home1.Manager",
};
const SYSTEMD: Peer = Peer {
    name: "org.freedesktop.systemd1",
    path: "/org/freedesktop/systemd1",
    interface: "org.freedesktop.systemd1.Manager",
};
/// The units that let people log in on a screen, and that give up while nobody may.
const LOGIN_UNITS: [&str; 5] = [
    "getty@*.service",
    "serial-getty@*.service",
    "console-getty.service",
    "container-getty@*.service",
    "display-manager.service",
];

struct Peer {
    name: &'static str,
    path: &'static str,
    interface: &'static str,
}

/// A session as the login manager lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Session {
    /// Its id.
    pub(super) id: String,
    /// Whose it is.
    pub(super) uid: u32,
    /// The user's login name.
    pub(super) user: String,
    /// Its object, for questions about it.
    path: OwnedObjectPath,
}

type ListedUnit =
    (String, String, String, String, String, String, OwnedObjectPath, u32, String, OwnedObjectPath);

/// A connection to the host's system bus.
pub(in crate::execute) struct Bus {
    runtime: Runtime,
    connection: Connection,
    course: Course,
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bus").finish_non_exhaustive()
    }
}

impl Bus {
    /// Connects to the host's bus; `None` where the host has none.
    ///
    /// Blocks, and makes a small runtime of its own: never to be called from an event loop.
    pub(in crate::execute) fn connect(host: &Host) -> Result<Option<Self>, Failure> {
        let Some(address) = host.dbus_address.as_deref() else { return Ok(None) };
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| failure(FailureKind::Internal, "logind", error))?;
        let course = host.course.clone();
        let connecting = async {
            let connecting = async { connection::Builder::address(address).build().await };
            timeout(course.within(patience::BUS), connecting).await
        };
        match runtime.block_on(connecting) {
            Ok(Ok(connection)) => Ok(Some(Self { runtime, connection, course })),
            Ok(Err(error)) => Err(failure(FailureKind::Tool, "logind", error)),
            Err(_) => Err(failure(FailureKind::Timeout, "logind", "the bus does not answer")),
        }
    }

    fn call<B: Serialize + DynamicType>(
        &self,
        peer: &Peer,
        method: &str,
        body: &B,
    ) -> Result<Message, Failure> {
        let object = Object { peer: peer.name, path: peer.path, interface: peer.interface };
        self.call_object(&object, method, body)
    }

    fn call_object<B: Serialize + DynamicType>(
        &self,
        object: &Object<'_>,
        method: &str,
        body: &B,
    ) -> Result<Message, Failure> {
        let limit = self.course.within(patience::BUS);
        let call = async {
            let call = self.connection.call_method(
                Some(object.peer),
                object.path,
                Some(object.interface),
                method,
                body,
            );
            timeout(limit, call).await
        };
        match self.runtime.block_on(call) {
            Ok(Ok(message)) => Ok(message),
            Ok(Err(error)) => {
                Err(failure(FailureKind::Tool, "logind", format_args!("{method}: {error}")))
            }
            Err(_) => {
                let detail = format!("{method} was not answered in {limit:?}");
                Err(failure(FailureKind::Timeout, "logind", detail))
            }
        }
    }

    /// The sessions that the login manager knows.
    pub(super) fn sessions(&self) -> Result<Vec<Session>, Failure> {
        let message = self.call(&LOGIN, "ListSessions", &())?;
        let listed: Vec<(String, u32, String, String, OwnedObjectPath)> =
            message.body().deserialize().map_err(unreadable)?;
        let session = |(id, uid, user, _seat, path)| Session { id, uid, user, path };
        Ok(listed.into_iter().map(session).collect())
    }

    /// Whether a session shows the login screen itself.
    pub(super) fn is_greeter(&self, session: &Session) -> bool {
        self.property(session, "Class").and_then(|value| String::try_from(value).ok()).as_deref()
            == Some("greeter")
    }

    /// Whether a session has a screen that somebody could lock.
    pub(super) fn is_graphical(&self, session: &Session) -> bool {
        let kind = self.property(session, "Type").and_then(|value| String::try_from(value).ok());
        matches!(kind.as_deref(), Some("x11" | "wayland" | "mir"))
    }

    /// Whether a session's screen says that it is locked.
    pub(super) fn is_screen_locked(&self, session: &Session) -> bool {
        let hint = self.property(session, "LockedHint");
        hint.and_then(|value| bool::try_from(value).ok()).unwrap_or_default()
    }

    fn property(&self, session: &Session, name: &str) -> Option<OwnedVariant> {
        let object = Object {
            peer: LOGIN.name,
            path: session.path.as_str(),
            interface: "org.freedesktop.DBus.Properties",
        };
        let body = ("org.freedesktop.login1.Session", name);
        self.call_object(&object, "Get", &body).ok()?.body().deserialize().ok()
    }

    /// Asks every session to lock its screen.
    pub(super) fn lock_screens(&self) -> Result<(), Failure> {
        self.call(&LOGIN, "LockSessions", &()).map(drop)
    }

    /// Lets a user's processes outlive logging out, or not.
    pub(super) fn set_linger(&self, uid: u32, lingers: bool) -> Result<(), Failure> {
        self.call(&LOGIN, "SetUserLinger", &(uid, lingers, false)).map(drop)
    }

    /// Ends all sessions of a user.
    pub(in crate::execute) fn terminate_user(&self, uid: u32) -> Result<(), Failure> {
        self.call(&LOGIN, "TerminateUser", &uid).map(drop)
    }

    /// Whose number the home of that user has, and in which state it is, as the manager of homes says it.
    pub(in crate::execute) fn home(&self, user: &str) -> Result<(u32, String), Failure> {
        type Home = (u32, String, u32, String, String, String, OwnedObjectPath);
        let message = self.call(&HOME, "GetHomeByName", &user)?;
        let home: Home = message.body().deserialize().map_err(unreadable)?;
        Ok((home.0, home.1))
    }

    /// Has the manager of homes let a home go.
    pub(in crate::execute) fn deactivate_home(&self, user: &str) -> Result<(), Failure> {
        self.call(&HOME, "DeactivateHome", &user).map(drop)
    }

    /// Brings a virtual console of the first seat to the front.
    pub(super) fn switch_to(&self, number: u32) -> Result<(), Failure> {
        let seat = Object {
            peer: LOGIN.name,
            path: "/org/freedesktop/login1/seat/seat0",
            interface: "org.freedesktop.login1.Seat",
        };
        self.call_object(&seat, "SwitchTo", &number).map(drop)
    }

    /// Starts the login screens again that gave up because nobody could log in.
    pub(super) fn revive_login_units(&self) -> Result<u64, Failure> {
        let states: [&str; 1] = ["failed"];
        let message =
            self.call(&SYSTEMD, "ListUnitsByPatterns", &(&states[..], &LOGIN_UNITS[..]))?;
        let units: Vec<ListedUnit> = message.body().deserialize().map_err(unreadable)?;
        let mut revived = 0;
        for unit in units {
            let name = unit.0;
            self.call(&SYSTEMD, "ResetFailedUnit", &name)?;
            self.call(&SYSTEMD, "StartUnit", &(name.as_str(), "replace"))?;
            revived += 1;
        }
        Ok(revived)
    }
}

struct Object<'a> {
    peer: &'a str,
    path: &'a str,
    interface: &'a str,
}

fn unreadable(error: zbus::Error) -> Failure {
    failure(FailureKind::Tool, "logind", format_args!("answer not understood: {error}"))
}
