//! An operator with a profile, and devices as processes of their own, in a folder that goes away with
//! the test.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use runtime::Clock;
use serde_json::Value;

/// The program under test.
pub(crate) const TOCSIN: &str = env!("CARGO_BIN_EXE_tocsin");
/// A guard against waiting for ever; no test measures against it.
const GUARD: Duration = Duration::from_secs(240);

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

/// A log for a process that is about to start, where a test made one.
pub(crate) fn written(log: &Path) -> Option<File> {
    OpenOptions::new().append(true).open(log).ok()
}

/// An operator, and the folder of everything that a test makes.
pub(crate) struct Operator {
    folder: tempfile::TempDir,
}

impl Operator {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Signs in with the words of a control plane's first start.
    pub(crate) fn login(&self, url: &str, authority: &Path, token_file: &Path) {
        let text = |path: &Path| path.display().to_string();
        let (ca, file) = (text(authority), text(token_file));
        self.succeed(&["login", "--url", url, "--ca", &ca, "--token-file", &file]);
    }

    /// Runs an operator's command.
    pub(crate) fn tocsin(&self, arguments: &[&str]) -> Output {
        self.line(arguments).output().expect("tocsin starts")
    }

    /// An operator's command that is not started yet.
    pub(crate) fn line(&self, arguments: &[&str]) -> Command {
        let mut line = Command::new(TOCSIN);
        line.args(arguments)
            .env("TOCSIN_PROFILE", self.path("profile.toml"))
            .env_remove("TOCSIN_URL")
            .env_remove("TOCSIN_TOKEN")
            .env_remove("TOCSIN_CA")
            .env_remove("TOCSIN_CA_PIN")
            .stdin(Stdio::null());
        line
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

    /// The events of that kind, oldest first, as they are hashed.
    pub(crate) fn events(&self, kind: &str) -> Vec<Value> {
        let export = self.succeed(&["events", "export"]);
        let events = export.lines().map(|line| serde_json::from_str(line).expect("JSON"));
        events.filter(|event: &Value| event["kind"] == kind).collect()
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
        self.enroll_with(name, "")
    }

    /// The same, with those settings beside the usual ones.
    pub(crate) fn enroll_with(&self, name: &str, settings: &str) -> Device {
        let folder = self.path(name);
        fs::create_dir_all(&folder).expect("a folder for the device");
        let config = format!(
            "state_dir = {:?}\n[log]\nfilter = \"warn\"\n[host]\narming = \"simulated\"\npower = {{ record = {:?} }}\n\
             [ladder]\nattempts = 2\nbackoff_base = \"50ms\"\nbackoff_cap = \"200ms\"\n\
             check_in = \"300ms\"\ncheck_in_running = \"300ms\"\nresend = \"500ms\"\n{settings}",
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

/// A device, and its agent when it runs.
pub(crate) struct Device {
    pub(crate) name: String,
    folder: PathBuf,
    agent: Option<Child>,
}

impl Device {
    pub(crate) fn start(&mut self) {
        if self.agent.is_some() {
            return;
        }
        let mut agent = Command::new(TOCSIN);
        agent.args(["agent", "run", "--config"]).arg(self.folder.join("agent.toml"));
        if self.clock().exists() {
            agent
                .env("LD_PRELOAD", faketime())
                .env("FAKETIME_TIMESTAMP_FILE", self.clock())
                .env("FAKETIME_NO_CACHE", "1")
                .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
                .env("DONT_FAKE_MONOTONIC", "1");
        }
        if let Some(log) = written(&self.folder.join("agent.log")) {
            agent.stderr(log);
        }
        self.agent = Some(agent.stdin(Stdio::null()).spawn().expect("the agent starts"));
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
        self.done().iter().filter(|done| *done == command).count()
    }

    /// The commands that took effect, in the order of their effects, as often as they did.
    pub(crate) fn done(&self) -> Vec<String> {
        let log = fs::read_to_string(self.state().join("effects.log")).unwrap_or_default();
        log.lines().filter_map(|line| Some(line.split_once(' ')?.1.to_owned())).collect()
    }

    /// The command that took effect last.
    pub(crate) fn last_effect(&self) -> Option<String> {
        self.done().pop()
    }

    /// Whether the agent says that it cannot write its journal.
    pub(crate) fn is_journal_failing(&self) -> bool {
        self.status().is_some_and(|status| status["commands"]["journal_failing"] == true)
    }

    /// One whose agent does not run needs no signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let Some(agent) = &self.agent else { return };
        let pid = agent.id().try_into().expect("a process id");
        kill(Pid::from_raw(pid), signal).expect("it is ours");
    }

    /// Puts the agent's wall clock ahead, or behind, by so many seconds from now on.
    pub(crate) fn set_clock(&self, ahead_secs: i32) {
        let fresh = self.clock().with_extension("new");
        fs::write(&fresh, format!("{ahead_secs:+}\n")).expect("the folder is ours");
        fs::rename(fresh, self.clock()).expect("one file system");
    }

    fn clock(&self) -> PathBuf {
        self.folder.join("clock")
    }

    /// The rung of the ladder that the agent says it is on.
    pub(crate) fn rung(&self) -> Option<String> {
        self.status()?["ladder"]["rung"].as_str().map(str::to_owned)
    }

    /// What the agent says of itself.
    pub(crate) fn status(&self) -> Option<Value> {
        let text = fs::read(self.state().join("status.json")).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Adds lines to the agent's configuration, for its next start.
    pub(crate) fn configure(&self, lines: &str) {
        let file = self.folder.join("agent.toml");
        let text = fs::read_to_string(&file).expect("it was written") + lines;
        fs::write(file, text).expect("the folder is ours");
    }

    /// What its enrollment says: identity, certificate, authorities.
    pub(crate) fn enrollment(&self) -> Value {
        let text = fs::read(self.state().join("enrollment.json")).expect("it is enrolled");
        serde_json::from_slice(&text).expect("JSON")
    }

    /// A copy of everything that the device remembers; its agent must not run.
    pub(crate) fn snapshot(&self) -> PathBuf {
        let copy = self.folder.join("snapshot");
        copy_folder(&self.state(), &copy);
        copy
    }

    /// Puts everything back to what it was.
    pub(crate) fn put_back(&self, snapshot: &Path) {
        fs::remove_dir_all(self.state()).expect("the folder is ours");
        copy_folder(snapshot, &self.state());
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// Another one with the same key and all else that it remembers, beside it.
    pub(crate) fn copied(&self) -> Self {
        let folder = self.folder.with_extension("copy");
        copy_folder(&self.folder, &folder);
        let text = fs::read_to_string(folder.join("agent.toml")).expect("it was written");
        let (ours, theirs) = (self.folder.display().to_string(), folder.display().to_string());
        fs::write(folder.join("agent.toml"), text.replace(&ours, &theirs)).expect("ours");
        Self { name: self.name.clone(), folder, agent: None }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.kill();
    }
}

fn copy_folder(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").args([from, to]).status();
    assert!(copied.expect("coreutils are installed").success(), "{} is copied", from.display());
}

/// Where Debian puts the library that gives a process a clock of its own.
fn faketime() -> PathBuf {
    let folders = fs::read_dir("/usr/lib").expect("a Linux system");
    let library = |folder: PathBuf| folder.join("faketime/libfaketime.so.1");
    let mut found = folders.filter_map(|entry| Some(library(entry.ok()?.path())));
    found.find(|path| path.exists()).expect("the Debian package `libfaketime` is installed")
}
