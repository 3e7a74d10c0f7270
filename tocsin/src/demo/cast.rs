//! Who takes part: two operators with approval keys, one sandboxed device, some simulated ones.
//!
//! Owns the processes and the relays. Whatever an operator can do is done by running this program
//! as an operator would.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use tokio::net::UnixListener;
use tokio::task::JoinSet;

use super::relay;
use super::sandbox::{agent_command, part, see_off, wait_for_byte};
use super::stage::{API_PORT, HUB_PORT, Means, ROUTER, Stage};
use crate::output::{Out, Tone};
use crate::platform::Platform;

/// The device that the tour is about.
pub(super) const DEVICE: &str = "web-17";
/// The device that is wiped when the other one has no disk that could be.
const OTHER_DEVICE: &str = "web-18";
/// The passphrase of the sandboxed device's disk, as its owner would know it.
const DISK_PASSPHRASE: &str = "correct horse battery staple";
/// How long devices may take to come online.
const ARRIVAL: Duration = Duration::from_secs(120);

/// Everybody, with the processes that play them.
#[derive(Debug)]
pub(super) struct Cast<'a> {
    stage: &'a Stage,
    pub(super) means: Means,
    addresses: [SocketAddr; 2],
    processes: Vec<Child>,
    relays: JoinSet<std::io::Result<()>>,
}

impl<'a> Cast<'a> {
    /// The operators: signs the first one in, makes two approvers' keys, and has the root key name
    /// them.
    pub(super) async fn new(stage: &'a Stage, platform: &mut Platform) -> anyhow::Result<Self> {
        let first = platform.first_start.take().context("the demo's folder was used before")?;
        let authority = stage.path("authority.pem");
        fs::write(&authority, &platform.authority_pem)?;
        let cast = Self {
            stage,
            means: Means::find(),
            addresses: [platform.api_agent_addr, platform.hub_agent_addr],
            processes: Vec::new(),
            relays: JoinSet::new(),
        };
        let url = format!("https://{}", platform.operator_addr);
        let ca = authority.display().to_string();
        cast.tocsin(&["login", "--url", &url, "--ca", &ca, "--token", first.token.expose()])
            .await?;
        fs::write(stage.path("passphrase"), "only for the demo")?;
        let passphrase = cast.file("passphrase");
        let root_key = first.root_key.display().to_string();
        for person in ["alice", "bob"] {
            let key = cast.file(&format!("{person}.key"));
            let made = cast
                .tocsin_json(&["key", "new", "--out", &key, "--passphrase-file", &passphrase])
                .await?;
            let public = made["public_key"].as_str().context("a key without a public half")?;
            let name = ["trust", "add-approver", public, "--person", person];
            cast.tocsin(&[&name[..], &["--root-key", &root_key, "--yes"]].concat()).await?;
        }
        Ok(cast)
    }

    /// A path in the demo's folder, as an argument.
    pub(super) fn file(&self, name: &str) -> String {
        self.stage.path(name).display().to_string()
    }

    /// The devices: enrolls and starts them, and waits until they are online.
    pub(super) async fn enter(&mut self, simulated: u8, out: &Out) -> anyhow::Result<()> {
        let mut everybody = usize::from(simulated) + 1;
        if self.means.namespaces {
            out.line(&format!("  {DEVICE}      real, in a sandbox: {}", self.describe()));
            self.enter_sandboxed().await?;
        } else {
            out.line(&format!("  {DEVICE}      simulated: every effect is one line in a file"));
            self.enter_simulated(DEVICE).await?;
        }
        if self.wipe_device() == OTHER_DEVICE {
            out.line(&format!("  {OTHER_DEVICE}      simulated, to be wiped"));
            self.enter_simulated(OTHER_DEVICE).await?;
            everybody += 1;
        }
        if let Some(remedy) = self.means.remedy() {
            let text = format!("  for the parts that are only simulated here: {remedy}");
            out.line(&out.paint(Tone::Waiting, &text));
        }
        for number in 1..=simulated {
            self.enter_simulated(&format!("sim-{number}")).await?;
        }
        if simulated > 0 {
            out.line("  sim-…       simulated: every effect is one line in a file");
        }
        let arrived = async {
            while self.online().await? < everybody {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(ARRIVAL, arrived).await.context("not every device came online")?
    }

    fn describe(&self) -> &'static str {
        if self.means.luks {
            "real nftables in its own network namespace, a real LUKS2 volume in a\n              \
             file, a folder with its own accounts and PAM files"
        } else {
            "real nftables in its own network namespace, a folder with its\n              \
             own accounts and PAM files; no disk"
        }
    }

    /// The device that the tour wipes: one with a real disk, or a simulated one.
    pub(super) const fn wipe_device(&self) -> &'static str {
        if self.means.namespaces && !self.means.luks { OTHER_DEVICE } else { DEVICE }
    }

    async fn online(&self) -> anyhow::Result<usize> {
        let devices = self.tocsin_json(&["devices", "--online"]).await?;
        Ok(devices["items"].as_array().map_or(0, Vec::len))
    }

    async fn enter_sandboxed(&mut self) -> anyhow::Result<()> {
        let names = ["api.sock", "hub.sock"];
        for (name, address) in names.into_iter().zip(self.addresses) {
            let listener = UnixListener::bind(self.stage.path(name))?;
            self.relays.spawn(relay::to_tcp(listener, address));
        }
        self.make_endpoint()?;
        fs::write(self.stage.path("device/token"), self.token().await?)?;
        let mut router = part("demo-router")?
            .arg(self.stage.path(""))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let ready = tokio::task::block_in_place(|| wait_for_byte(&mut router));
        self.processes.push(router);
        ready.context("the sandbox was not made")
    }

    /// The file system and the disk of the sandboxed device.
    fn make_endpoint(&self) -> anyhow::Result<()> {
        let root = self.stage.path("device/root");
        for folder in ["etc/pam.d", "run", "var/lib", "proc", "usr/lib/security"] {
            fs::create_dir_all(root.join(folder))?;
        }
        for (name, text) in ENDPOINT_FILES {
            fs::write(root.join(name), text)?;
        }
        let mut targets = Vec::new();
        if self.means.luks {
            let disk = self.stage.path("device/disk.img");
            make_disk(&disk)?;
            targets.push(disk.display().to_string());
        }
        let config = format!(
            "state_dir = {state:?}\n\
             [log]\nfilter = \"error\"\n\
             [host]\narming = \"sandboxed\"\nroot = {root:?}\ndbus = \"\"\n\
             wipe_targets = {targets:?}\nbreak_glass = [\"breakglass\"]\n\
             power = {{ record = {power:?} }}\n\
             [addresses]\nhubs = [\"{ROUTER}:{HUB_PORT}\"]\napi = [\"{ROUTER}:{API_PORT}\"]\n",
            state = self.file("device/state"),
            root = root.display().to_string(),
            power = self.file("device/power.log"),
        );
        Ok(fs::write(self.stage.path("device/agent.toml"), config)?)
    }

    async fn enter_simulated(&mut self, name: &str) -> anyhow::Result<()> {
        let folder = self.stage.path(name);
        fs::create_dir_all(&folder)?;
        let config = folder.join("agent.toml");
        let state = folder.join("state").display().to_string();
        let text = format!(
            "state_dir = {state:?}\n[log]\nfilter = \"error\"\n\
             [host]\narming = \"simulated\"\npower = {{ record = {power:?} }}\n",
            power = folder.join("power.log").display().to_string(),
        );
        fs::write(&config, text)?;
        let token = self.token().await?;
        let mut enroll = tokio::process::Command::from(agent_command()?);
        enroll.args(["enroll", &token, "--name", name, "--config"]).arg(&config);
        let status = enroll.stdout(Stdio::null()).status().await?;
        ensure!(status.success(), "{name} did not enroll");
        let mut agent = agent_command()?;
        self.processes.push(agent.arg("run").arg("--config").arg(&config).spawn()?);
        Ok(())
    }

    async fn token(&self) -> anyhow::Result<String> {
        let made = self.tocsin_json(&["enroll-token", "--group", "demo"]).await?;
        Ok(made["token"].as_str().context("no token in the answer")?.to_owned())
    }

    /// Whether the owner's passphrase opens the device's disk.
    pub(super) async fn disk_opens(&self) -> anyhow::Result<bool> {
        let disk = self.stage.path("device/disk.img");
        let mut command = tokio::process::Command::from(cryptsetup());
        command.args(["open", "--test-passphrase", "--key-file"]).arg(key_file(&disk)).arg(&disk);
        Ok(command.stdout(Stdio::null()).stderr(Stdio::null()).status().await?.success())
    }

    /// Runs this program as an operator; its output is returned, failure is an error.
    pub(super) async fn tocsin(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        let output = self.operator(arguments)?.output().await?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("`tocsin {}` failed: {}", arguments.join(" "), said.trim());
        }
        Ok(output)
    }

    /// The same, for programs.
    pub(super) async fn tocsin_json(
        &self,
        arguments: &[&str],
    ) -> anyhow::Result<serde_json::Value> {
        let output = self.tocsin(&[arguments, &["--json"]].concat()).await?;
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("`tocsin {}` answered no JSON", arguments.join(" ")))
    }

    /// This program, run as an operator runs it.
    pub(super) fn operator(&self, arguments: &[&str]) -> anyhow::Result<tokio::process::Command> {
        let mut command = tokio::process::Command::new(std::env::current_exe()?);
        command.args(arguments).env("TOCSIN_PROFILE", self.stage.profile()).stdin(Stdio::null());
        command.kill_on_drop(true);
        for variable in ["TOCSIN_URL", "TOCSIN_TOKEN", "TOCSIN_CA"] {
            command.env_remove(variable);
        }
        Ok(command)
    }

    /// Everybody goes home.
    pub(super) async fn leave(&mut self) {
        for process in &mut self.processes {
            // The router ends when its input does, after its device; the others have none.
            if process.stdin.is_none() {
                let _ = process.kill();
            }
            see_off(process).await;
        }
        self.relays.shutdown().await;
    }
}

impl Drop for Cast<'_> {
    fn drop(&mut self) {
        for process in &mut self.processes {
            drop(process.stdin.take());
            let _ = process.kill();
        }
    }
}

/// A small file system: accounts, shadow entries, and Debian's PAM stack.
const ENDPOINT_FILES: [(&str, &str); 8] = [
    (
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/bash\n\
         anna:x:1000:1000:Anna:/home/anna:/bin/bash\n\
         breakglass:x:999:999:Break glass:/:/bin/bash\n",
    ),
    (
        "etc/shadow",
        "root:*:20000:0:99999:7:::\nanna:*:20000:0:99999:7:::\nbreakglass:*:20000:0:99999:7:::\n",
    ),
    (
        "etc/pam.d/common-account",
        "account\t[success=1 new_authtok_reqd=done default=ignore]\tpam_unix.so\n\
         account\trequisite\tpam_deny.so\naccount\trequired\tpam_permit.so\n",
    ),
    ("etc/pam.d/login", "auth\trequired\tpam_unix.so\n@include common-account\n"),
    ("etc/pam.d/sshd", "account\trequired\tpam_nologin.so\n@include common-account\n"),
    // Only their presence counts here: nobody signs in to a folder.
    ("usr/lib/security/pam_succeed_if.so", ""),
    ("usr/lib/security/pam_deny.so", ""),
    ("etc/os-release", "PRETTY_NAME=\"Tocsin demo endpoint\"\n"),
];

fn make_disk(disk: &Path) -> anyhow::Result<()> {
    fs::write(key_file(disk), DISK_PASSPHRASE)?;
    fs::File::create(disk)?.set_len(32 * 1024 * 1024)?;
    let mut command = cryptsetup();
    // A cheap key derivation: the demo's passphrase is public anyway.
    command.args(["luksFormat", "--type", "luks2", "--batch-mode", "--pbkdf", "pbkdf2"]);
    command.args(["--pbkdf-force-iterations", "1000"]).arg(disk).arg(key_file(disk));
    let output = command.output().context("cryptsetup does not start")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "cryptsetup luksFormat: {}", said.trim());
    Ok(())
}

fn key_file(disk: &Path) -> std::path::PathBuf {
    disk.with_extension("key")
}

fn cryptsetup() -> Command {
    let path = ["/usr/sbin/cryptsetup", "/sbin/cryptsetup"];
    let found = path.into_iter().find(|path| Path::new(path).exists());
    Command::new(found.unwrap_or("cryptsetup"))
}
