//! A control plane in a folder that goes away with the test, and the program run against it.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use api::{Api, Config, Deps};
use broker::MemoryBroker;
use runtime::{Clock, Drain, Entropy};
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

const TOCSIN: &str = env!("CARGO_BIN_EXE_tocsin");

/// A control plane and a home folder of an operator.
pub(crate) struct Bench {
    folder: tempfile::TempDir,
    api: Option<Api>,
    url: String,
    token: String,
}

/// What a run of the program did.
#[derive(Debug)]
pub(crate) struct Run {
    line: String,
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run {
    /// Demands that exit code.
    pub(crate) fn expect(&self, code: i32) {
        assert_eq!(self.code, Some(code), "tocsin {}: {self:?}", self.line);
    }
}

impl Bench {
    /// A control plane on free ports.
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// The same, with other settings.
    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let any = "127.0.0.1:0".parse().expect("an address");
        let mut config = Config {
            data_dir: folder.path().join("data"),
            operator_listen: any,
            agent_listen: any,
            server_names: vec!["127.0.0.1".to_owned()],
            ..Config::default()
        };
        change(&mut config);
        let (clock, entropy) = (Clock::system(), Entropy::system());
        let drain = Drain::new();
        let broker = Arc::new(MemoryBroker::new(clock.clone()));
        let deps = Deps { broker, clock, entropy, drain };
        let mut api = Api::start(config, deps).await.expect("the control plane starts");
        let token = api.first_start.take().expect("a first start").token.expose().to_owned();
        let url = format!("https://{}", api.operator_addr);
        Self { folder, api: Some(api), url, token }
    }

    /// The same, with an operator who has logged in.
    pub(crate) async fn logged_in() -> Self {
        let bench = Self::start().await;
        let (ca, token) = (bench.path("data/ca.crt"), bench.token.clone());
        let line = ["login", "--url", &bench.url, "--ca", &ca, "--token", &token];
        bench.run(&line).await.expect(0);
        bench
    }

    /// Ends the control plane; its folder stays.
    pub(crate) async fn stop(&mut self) {
        if let Some(api) = self.api.take() {
            api.drain(Duration::from_secs(10)).await.expect("the control plane ends");
        }
    }

    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }

    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// Enrolls a device of that name into the group `lab`. Its agent does not run.
    pub(crate) async fn enroll(&self, name: &str) {
        let made = self.json(&["enroll-token", "--group", "lab", "--json"]).await;
        let token = made["token"].as_str().expect("a token");
        let config = PathBuf::from(self.path("agent.toml"));
        std::fs::write(&config, "").expect("a writable folder");
        let (config, state) = (config.display().to_string(), self.path(name));
        let line =
            ["agent", "enroll", token, "--config", &config, "--state", &state, "--name", name];
        self.run(&line).await.expect(0);
    }

    /// Runs the program without a terminal and without anything of this machine's environment.
    pub(crate) async fn run(&self, line: &[&str]) -> Run {
        self.run_with(line, "").await
    }

    /// The same, with that on its standard input.
    pub(crate) async fn run_with(&self, line: &[&str], input: &str) -> Run {
        let mut child = Command::new(TOCSIN)
            .args(line)
            .env_clear()
            .env("HOME", self.folder.path())
            .env("XDG_CONFIG_HOME", self.folder.path().join("config"))
            .env("TERM", "xterm-256color")
            .env("TOCSIN_PASSPHRASE", "correct horse battery")
            .current_dir(self.folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        // A program that does not read it may be gone before.
        let mut stdin = child.stdin.take().expect("its input is ours");
        drop(stdin.write_all(input.as_bytes()).await);
        drop(stdin);
        let output = child.wait_with_output().await.expect("the program runs");
        let run = Run {
            line: line.join(" "),
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        };
        let printed = format!("{}{}", run.stdout, run.stderr);
        assert!(!printed.contains('\u{1b}'), "colour codes in a pipe: {run:?}");
        assert!(!printed.contains("panicked"), "{run:?}");
        run
    }

    /// Runs a line that has to succeed, and reads what it prints as JSON.
    pub(crate) async fn json(&self, line: &[&str]) -> Value {
        let run = self.run(line).await;
        run.expect(0);
        serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: {run:?}"))
    }
}
