//! A platform and its devices as processes of their own, on free ports and in a folder that goes
//! away with the test.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use runtime::Clock;
use serde_json::Value;

/// The program under test.
const TOCSIN: &str = env!("CARGO_BIN_EXE_tocsin");
/// A guard against waiting for ever; no test measures against it.
const GUARD: Duration = Duration::from_secs(60);

/// Waits until `look` finds something.
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let clock = Clock::system();
    let start = clock.now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(clock.now() - start < GUARD, "waited in vain: {what}");
        // Yields to the processes that are waited for.
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// `tocsin up` with an operator who is signed in.
pub(crate) struct Installation {
    folder: tempfile::TempDir,
    up: Option<Child>,
    ports: Ports,
    authority: PathBuf,
}

/// The ports of the first start: a restart must take them again.
#[derive(Debug, Clone, Default)]
struct Ports {
    operator: String,
    agent: String,
    hub: String,
}

impl Installation {
    /// Starts the platform for the first time and signs its operator in.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let any = "127.0.0.1:0".to_owned();
        let ports = Ports { operator: any.clone(), agent: any.clone(), hub: any };
        let mut installation = Self { folder, up: None, ports, authority: PathBuf::new() };
        let started = installation.start(&[]);
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let url = text(&started["operator_url"]);
        installation.authority = PathBuf::from(text(&started["authority"]));
        installation.ports = Ports {
            operator: url.trim_start_matches("https://").to_owned(),
            agent: text(&started["agent_addr"]),
            hub: text(&started["hub_addr"]),
        };
        let ca = installation.authority.display().to_string();
        let first = &started["first_start"];
        let (token, file) = (text(&first["token"]), text(&first["token_file"]));
        assert_eq!(fs::read_to_string(&file).expect("the token's file"), token);
        let mode = fs::metadata(&file).expect("the token's file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "for its owner alone");
        installation.succeed(&["login", "--url", &url, "--ca", &ca, "--token-file", &file]);
        installation
    }

    /// Starts the platform with those settings beside its own, and returns what it says.
    pub(crate) fn start(&mut self, settings: &[(&str, &str)]) -> Value {
        let mut command = Command::new(TOCSIN);
        command
            .args(["up", "--json", "--data"])
            .arg(self.path("data"))
            .env("TOCSIN_UP_ADMIN_LISTEN", "127.0.0.1:0")
            .env("TOCSIN_UP_API__OPERATOR_LISTEN", &self.ports.operator)
            .env("TOCSIN_UP_API__AGENT_LISTEN", &self.ports.agent)
            .env("TOCSIN_UP_API__SERVER_NAMES", "[\"127.0.0.1\"]")
            .env("TOCSIN_UP_HUB__LISTEN", &self.ports.hub)
            .env("TOCSIN_UP_LOG__FILTER", "warn")
            // The agents of these tests come back much faster than real ones.
            .env("TOCSIN_UP_API__CHECK_INS_PER_MIN", "0")
            .env("TOCSIN_UP_HUB__ADMISSION__DEVICE_PER_MIN", "0")
            .env("TOCSIN_UP_HUB__ADMISSION__SOURCE_PER_SEC", "0")
            .env("TOCSIN_UP_HUB__POLL_HOLD", "1s")
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut up = command.spawn().expect("tocsin starts");
        let mut line = String::new();
        let output = up.stdout.take().expect("its output is ours");
        BufReader::new(output).read_line(&mut line).expect("it says where it listens");
        self.up = Some(up);
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
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

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs an operator's command.
    pub(crate) fn tocsin(&self, arguments: &[&str]) -> Output {
        Command::new(TOCSIN)
            .args(arguments)
            .env("TOCSIN_PROFILE", self.path("profile.toml"))
            .env_remove("TOCSIN_URL")
            .env_remove("TOCSIN_TOKEN")
            .env_remove("TOCSIN_CA")
            .env_remove("TOCSIN_CA_PIN")
            .stdin(Stdio::null())
            .output()
            .expect("tocsin starts")
    }

    /// Runs an operator's command that must succeed.
    pub(crate) fn succeed(&self, arguments: &[&str]) -> String {
        let output = self.tocsin(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "tocsin {arguments:?}: {said}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// Runs an operator's command and reads its JSON, whatever its exit code.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let output = self.tocsin(&[arguments, &["--json"]].concat());
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
            let said = String::from_utf8_lossy(&output.stderr);
            panic!("tocsin {arguments:?}: {error}: {said}")
        })
    }

    /// Gives an order for one device without waiting, and returns the command's id.
    pub(crate) fn order(&self, verb: &str, device: &str) -> String {
        let made = self.json(&[verb, device, "--reason", "a test", "--yes", "--no-wait"]);
        let id = made["commands"][0]["id"].as_str();
        id.unwrap_or_else(|| panic!("no command was made: {made}")).to_owned()
    }

    pub(crate) fn command(&self, id: &str) -> Value {
        self.json(&["command", "show", id])
    }

    /// Waits until a command has ended, and returns it.
    pub(crate) fn ended(&self, id: &str) -> Value {
        eventually("the command ends", || {
            let command = self.command(id);
            command["finished_at"].is_string().then_some(command)
        })
    }

    /// Waits until the device has a session or a long-poll.
    pub(crate) fn online(&self, name: &str) {
        eventually(&format!("{name} comes online"), || {
            let listed = self.json(&["devices", "--online"]);
            let items = listed["items"].as_array()?;
            items.iter().any(|device| device["name"] == name).then_some(())
        });
    }

    /// Enrolls a device with simulated executors; it does not run yet.
    pub(crate) fn enroll(&self, name: &str) -> Device {
        let folder = self.path(name);
        fs::create_dir_all(&folder).expect("a folder for the device");
        let config = format!(
            "state_dir = {:?}\n[log]\nfilter = \"warn\"\n[host]\narming = \"simulated\"\npower = {{ record = {:?} }}\n\
             [ladder]\nattempts = 2\nbackoff_base = \"50ms\"\nbackoff_cap = \"200ms\"\n\
             check_in = \"300ms\"\ncheck_in_running = \"300ms\"\nresend = \"500ms\"\n",
            folder.join("state"),
            folder.join("power.log")
        );
        fs::write(folder.join("agent.toml"), config).expect("its configuration is written");
        let made = self.json(&["enroll-token"]);
        let token = made["token"].as_str().expect("a token");
        let status = Command::new(TOCSIN)
            .args(["agent", "enroll", token, "--name", name, "--config"])
            .arg(folder.join("agent.toml"))
            .stdout(Stdio::null())
            .status();
        assert!(status.expect("the agent starts").success(), "{name} does not enroll");
        Device { name: name.to_owned(), folder, agent: None }
    }

    /// Enrolls a device, starts it, and waits until it is online.
    pub(crate) fn device(&self, name: &str) -> Device {
        let mut device = self.enroll(name);
        device.start();
        self.online(name);
        device
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A device, and its agent when it runs.
pub(crate) struct Device {
    pub(crate) name: String,
    folder: PathBuf,
    agent: Option<Child>,
}

impl Device {
    pub(crate) fn start(&mut self) {
        let agent = Command::new(TOCSIN)
            .args(["agent", "run", "--config"])
            .arg(self.folder.join("agent.toml"))
            .stdin(Stdio::null())
            .spawn();
        self.agent = Some(agent.expect("the agent starts"));
    }

    pub(crate) fn pid(&self) -> u32 {
        self.agent.as_ref().expect("the agent runs").id()
    }

    /// Whether the agent has died by itself.
    pub(crate) fn has_died(&mut self) -> bool {
        let agent = self.agent.as_mut().expect("the agent was started");
        agent.try_wait().expect("it can be waited for").is_some()
    }

    /// kill -9, unless something else already did.
    pub(crate) fn kill(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            let _ = agent.kill();
            agent.wait().expect("it can be waited for");
        }
    }

    /// How often a command took effect: every effect of the simulated executors is one line.
    pub(crate) fn effects(&self, command: &str) -> usize {
        let log = fs::read_to_string(self.state().join("effects.log")).unwrap_or_default();
        log.lines().filter(|line| line.contains(command)).count()
    }

    /// The command that took effect last.
    pub(crate) fn last_effect(&self) -> Option<String> {
        let log = fs::read_to_string(self.state().join("effects.log")).ok()?;
        log.lines().last()?.split_whitespace().last().map(str::to_owned)
    }

    /// The rung of the ladder that the agent says it is on.
    pub(crate) fn rung(&self) -> Option<String> {
        self.status()?["ladder"]["rung"].as_str().map(str::to_owned)
    }

    /// Whether the agent says that it cannot write its journal.
    pub(crate) fn is_journal_failing(&self) -> bool {
        self.status().is_some_and(|status| status["commands"]["journal_failing"] == true)
    }

    fn status(&self) -> Option<Value> {
        serde_json::from_slice(&fs::read(self.state().join("status.json")).ok()?).ok()
    }

    fn state(&self) -> PathBuf {
        self.folder.join("state")
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.kill();
    }
}
