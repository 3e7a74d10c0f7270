//! A role in a process of its own, which says where it listens.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::operator::{TOCSIN, eventually};

/// Only against hanging.
const PATIENCE: Duration = Duration::from_secs(240);

/// `tocsin hub` or `tocsin api` with a configuration file. Dropping it kills it.
pub(crate) struct Program {
    role: &'static str,
    config: PathBuf,
    child: Option<Child>,
    /// What it said of itself.
    pub(crate) started: Value,
}

impl Program {
    pub(crate) fn start(role: &'static str, config: PathBuf) -> Self {
        let mut program = Self { role, config, child: None, started: Value::Null };
        program.start_again();
        program
    }

    /// Starts it with what its file says now.
    pub(crate) fn start_again(&mut self) {
        self.kill();
        let mut child = Command::new(TOCSIN)
            .args([self.role, "--json", "--config"])
            .arg(&self.config)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("tocsin starts");
        let mut line = String::new();
        let output = child.stdout.take().expect("its output is ours");
        BufReader::new(output).read_line(&mut line).expect("it says where it listens");
        self.child = Some(child);
        let role = self.role;
        self.started =
            serde_json::from_str(&line).unwrap_or_else(|error| panic!("{role}: {error}: {line:?}"));
    }

    /// What it said of itself.
    pub(crate) fn said(&self, key: &str) -> String {
        let said = self.started[key].as_str();
        said.unwrap_or_else(|| panic!("no {key} in {}", self.started)).to_owned()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// One that does not run needs no signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let Some(child) = &self.child else { return };
        let pid = child.id();
        kill(Pid::from_raw(pid.try_into().expect("a pid")), signal).expect("it is ours");
    }

    /// Whether it was started, and neither killed nor drained since.
    pub(crate) fn runs(&self) -> bool {
        self.child.is_some()
    }

    /// kill -9, and waits until it is dead.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            child.wait().expect("it can be waited for");
        }
    }

    /// SIGTERM, and waits until it has drained.
    pub(crate) fn drain(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        let child = self.child.as_mut().expect("it runs");
        let status = eventually("it drains", || child.try_wait().expect("it is ours"));
        self.child = None;
        status
    }

    /// What its admin port answers: status and body.
    pub(crate) fn admin(&self, path: &str) -> (String, String) {
        let address = self.said("admin_url").replace("http://", "");
        let mut stream = TcpStream::connect(&address).expect("the admin port is there");
        stream.set_read_timeout(Some(PATIENCE)).expect("it can be set");
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("the request leaves");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer comes");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a whole head");
        let status = head.split(' ').nth(1).expect("a status").to_owned();
        (status, body.to_owned())
    }

    /// The sum of every series of a metric whose text contains `labels`.
    pub(crate) fn metric(&self, name: &str, labels: &str) -> f64 {
        let (_, text) = self.admin("/metrics");
        let is_meant = |line: &&str| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with(['{', ' '])) && line.contains(labels)
        };
        let values = text.lines().filter(is_meant).filter_map(|line| line.rsplit(' ').next());
        values.map(|value| value.parse::<f64>().expect("a number")).sum()
    }

    /// Waits until it says that it is ready.
    pub(crate) fn is_ready(&self) {
        eventually("it is ready", || (self.admin("/readyz").0 == "200").then_some(()));
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}
