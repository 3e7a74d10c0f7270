//! A platform and its devices as processes of their own, on free ports and in a folder that goes
//! away with the test.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

pub(crate) use crate::operator::{Device, eventually};
use crate::operator::{Operator, TOCSIN, written};
use crate::ports::Held;

/// `tocsin up` with an operator who is signed in.
pub(crate) struct Installation {
    operator: Operator,
    up: Option<Child>,
    ports: Ports,
}

/// What it listens on, in every life of its own.
struct Ports {
    admin: Held,
    operator: Held,
    agent: Held,
    hub: Held,
}

impl Ports {
    fn new() -> Self {
        let [admin, operator, agent, hub] = std::array::from_fn(|_| Held::new());
        Self { admin, operator, agent, hub }
    }
}

impl Installation {
    /// Starts the platform for the first time and signs its operator in.
    pub(crate) fn new() -> Self {
        Self::of(Operator::new())
    }

    /// The same, with everything that the platform can say in `up.log`.
    pub(crate) fn traced() -> Self {
        let operator = Operator::new();
        fs::write(operator.path("up.log"), "").expect("a log");
        Self::of(operator)
    }

    fn of(operator: Operator) -> Self {
        let mut installation = Self { operator, up: None, ports: Ports::new() };
        let started = installation.start(&[]);
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let url = text(&started["operator_url"]);
        let first = &started["first_start"];
        let (token, file) = (text(&first["token"]), text(&first["token_file"]));
        assert_eq!(fs::read_to_string(&file).expect("the token's file"), token);
        let mode = fs::metadata(&file).expect("the token's file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "for its owner alone");
        installation.login(&url, Path::new(&text(&started["authority"])), Path::new(&file));
        installation
    }

    /// Starts the platform with those settings beside its own and those of `up.toml`, and returns what it
    /// says.
    pub(crate) fn start(&mut self, settings: &[(&str, &str)]) -> Value {
        let mut command = Command::new(TOCSIN);
        command
            .args(["up", "--json", "--data"])
            .arg(self.path("data"))
            .env("TOCSIN_UP_ADMIN_LISTEN", self.ports.admin.addr().to_string())
            .env("TOCSIN_UP_API__OPERATOR_LISTEN", self.ports.operator.addr().to_string())
            .env("TOCSIN_UP_API__AGENT_LISTEN", self.ports.agent.addr().to_string())
            .env("TOCSIN_UP_API__SERVER_NAMES", "[\"127.0.0.1\"]")
            .env("TOCSIN_UP_HUB__LISTEN", self.ports.hub.addr().to_string())
            .env("TOCSIN_UP_LOG__FILTER", "warn")
            // The agents of these tests come back much faster than real ones.
            .env("TOCSIN_UP_API__CHECK_INS_PER_MIN", "0")
            .env("TOCSIN_UP_HUB__ADMISSION__DEVICE_PER_MIN", "0")
            .env("TOCSIN_UP_HUB__ADMISSION__SOURCE_PER_SEC", "0")
            .env("TOCSIN_UP_HUB__POLL_HOLD", "1s")
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let file = self.path("up.toml");
        if file.exists() {
            command.arg("--config").arg(file);
        }
        if let Some(log) = written(&self.path("up.log")) {
            command.env("TOCSIN_UP_LOG__FILTER", "trace").stderr(log);
        }
        let mut up = command.spawn().expect("tocsin starts");
        let mut line = String::new();
        let output = up.stdout.take().expect("its output is ours");
        BufReader::new(output).read_line(&mut line).expect("it says where it listens");
        self.up = Some(up);
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    /// The address of its hub.
    pub(crate) fn hub(&self) -> SocketAddr {
        self.ports.hub.addr()
    }

    /// The addresses of everything that it serves over TLS: operators, agents, the hub.
    pub(crate) fn listeners(&self) -> [SocketAddr; 3] {
        [&self.ports.operator, &self.ports.agent, &self.ports.hub].map(Held::addr)
    }

    /// The process of the platform.
    pub(crate) fn pid(&self) -> u32 {
        self.up.as_ref().expect("the platform runs").id()
    }

    /// kill -9, unless something else already did.
    pub(crate) fn kill(&mut self) {
        if let Some(mut up) = self.up.take() {
            let _ = up.kill();
            up.wait().expect("it can be waited for");
        }
    }

    /// Whether the platform has died by itself.
    pub(crate) fn has_died(&mut self) -> bool {
        let up = self.up.as_mut().expect("the platform was started");
        up.try_wait().expect("it can be waited for").is_some()
    }
}

impl std::ops::Deref for Installation {
    type Target = Operator;

    fn deref(&self) -> &Operator {
        &self.operator
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        self.kill();
    }
}
