//! The tour: what an incident responder would type, typed, with what really happened beside it.
//!
//! Owns the script and its checks: a step that does not end as it should ends the demo with an
//! error. Nothing shown here is made up; every line is the program's own output or an observation.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::cast::{Cast, DEVICE};
use super::stage::Stage;
use crate::cli::Exit;
use crate::output::{Out, Table, Tone};

/// How long an observation may take to show.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long one command of the operator's may take: a quarantine that nobody confirms ends after a minute.
const STEP: Duration = Duration::from_secs(120);

/// Walks through quarantine, lock and wipe.
pub(super) async fn run(stage: &Stage, cast: &Cast<'_>, out: &Out) -> anyhow::Result<()> {
    let tour = Tour { stage, cast, out };
    let outcome = tour.walk().await;
    if outcome.is_err() {
        // What is known of the orders says why, and goes with the demo.
        for arguments in [&["commands"][..], &["device", "show", DEVICE]] {
            tour.show(arguments).await?;
        }
    }
    outcome
}

/// A time of the API's.
fn instant(time: &Value) -> Option<jiff::SignedDuration> {
    let time: jiff::Timestamp = time.as_str()?.parse().ok()?;
    Some(time.as_duration())
}

struct Tour<'a> {
    stage: &'a Stage,
    cast: &'a Cast<'a>,
    out: &'a Out,
}

impl Tour<'_> {
    async fn walk(&self) -> anyhow::Result<()> {
        self.show(&["devices"]).await?;
        self.quarantine().await?;
        self.lock().await?;
        self.wipe().await?;
        self.timeline().await?;
        self.audit().await
    }

    async fn quarantine(&self) -> anyhow::Result<()> {
        self.title("Quarantine: cut the device from every network but its way to us");
        if self.cast.means.namespaces {
            self.observe_reach("open").await.context("the device never reached the internet")?;
        }
        let reason = ["--reason", "malware beacon, case 4711", "--yes"];
        self.show(&[&["quarantine", DEVICE], &reason[..]].concat()).await?;
        if self.cast.means.namespaces {
            self.observe_reach("cut").await.context("the device still reaches the internet")?;
        }
        self.show(&["release", DEVICE, "--reason", "case 4711 closed", "--yes"]).await?;
        if self.cast.means.namespaces {
            self.observe_reach("open").await.context("the release did not release")?;
        }
        Ok(())
    }

    async fn lock(&self) -> anyhow::Result<()> {
        self.title("Lock: nobody but the break-glass account, and back exactly as it was");
        let before = self.accounts()?;
        self.show(&["lock", DEVICE, "--reason", "reported stolen", "--yes"]).await?;
        if self.cast.means.namespaces {
            ensure!(self.accounts()? != before, "the lock left the accounts as they were");
            self.observe("the device's PAM stack and accounts now deny everyone but break-glass");
        }
        self.show(&["unlock", DEVICE, "--reason", "found again", "--yes"]).await?;
        if self.cast.means.namespaces {
            ensure!(self.accounts()? == before, "the unlock did not restore the accounts");
            self.observe("every file is byte for byte what it was before the lock");
        }
        Ok(())
    }

    /// What a lock changes on the sandboxed device.
    fn accounts(&self) -> anyhow::Result<Vec<Vec<u8>>> {
        if !self.cast.means.namespaces {
            return Ok(Vec::new());
        }
        let root = self.stage.path("device/root");
        let names = ["etc/shadow", "etc/pam.d/common-account", "etc/pam.d/login"];
        names.iter().map(|name| Ok(std::fs::read(root.join(name))?)).collect()
    }

    async fn wipe(&self) -> anyhow::Result<()> {
        self.title("Wipe: only when two people have signed, and the device checks that itself");
        let has_disk = self.cast.means.luks && self.cast.means.namespaces;
        if has_disk {
            ensure!(self.cast.disk_opens().await?, "the disk should open before the wipe");
            self.observe("the owner's passphrase opens the device's disk");
        }
        let reason = ["--reason", "stolen, confirmed by the owner", "--yes"];
        let order = self.order(&[&["wipe", self.cast.wipe_device()], &reason[..]].concat()).await?;
        for (person, then) in [("alice", Exit::AwaitingApproval), ("bob", Exit::Success)] {
            let key = self.cast.file(&format!("{person}.key"));
            let passphrase = self.cast.file("passphrase");
            let sign = ["--key", &key, "--passphrase-file", &passphrase, "--yes"];
            self.show_until(&[&["approve", &order], &sign[..]].concat(), then).await?;
        }
        self.await_end(&order).await?;
        self.show_commands(&order).await?;
        if has_disk {
            ensure!(!self.cast.disk_opens().await?, "the disk still opens after the wipe");
            self.observe("no passphrase opens the disk any more");
        }
        Ok(())
    }

    /// Gives an order that will wait for approvals, shows it, and returns its id.
    async fn order(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.prompt(arguments);
        let arguments = [arguments, &["--json"]].concat();
        let output = self.cast.operator(&arguments)?.output().await?;
        let made: Value = serde_json::from_slice(&output.stdout)?;
        let order = &made["order"]["id"];
        let order = order.as_str().with_context(|| format!("no order was made: {made}"))?;
        self.out.line(&format!("order {order} waits for two approvals"));
        Ok(order.to_owned())
    }

    async fn await_end(&self, order: &str) -> anyhow::Result<()> {
        let ended = async {
            loop {
                let commands = self.commands(order).await?;
                let open = |c: &Value| c["finished_at"].is_null();
                if !commands.iter().any(open) {
                    return anyhow::Ok(commands);
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let commands = tokio::time::timeout(PATIENCE, ended).await.context("it did not end")??;
        let all = commands.iter().all(|command| command["state"] == "succeeded");
        ensure!(all, "the wipe did not succeed: {commands:?}");
        Ok(())
    }

    async fn commands(&self, order: &str) -> anyhow::Result<Vec<Value>> {
        let listed = self.cast.tocsin_json(&["commands", "--order", order]).await?;
        Ok(listed["items"].as_array().cloned().unwrap_or_default())
    }

    async fn show_commands(&self, order: &str) -> anyhow::Result<()> {
        for command in self.commands(order).await? {
            let id = command["id"].as_str().context("a command without an id")?;
            self.show(&["command", "show", id]).await?;
        }
        Ok(())
    }

    async fn timeline(&self) -> anyhow::Result<()> {
        self.title("Timeline: what happened, and how long each stage took");
        let listed = self.cast.tocsin_json(&["commands"]).await?;
        let mut table = Table::new(&["ORDER", "STATE", "STORED", "SENT", "ACKED", "PROVEN"]);
        for command in listed["items"].as_array().into_iter().flatten() {
            let text = |field: &str| command[field].as_str().unwrap_or("-").to_owned();
            let queued = instant(&command["queued_at"]);
            let after = |field: &str| match (queued, instant(&command[field])) {
                (Some(queued), Some(then)) => format!("+{} ms", (then - queued).as_millis()),
                _ => "-".to_owned(),
            };
            let stored = text("queued_at");
            let [sent, acked, proven] = ["sent_at", "acked_at", "finished_at"].map(after);
            let cells = [text("verb"), text("state"), stored, sent, acked, proven];
            table.row(cells.map(|cell| (cell, Tone::Plain)));
        }
        self.out.table(&table);
        Ok(())
    }

    async fn audit(&self) -> anyhow::Result<()> {
        self.title("Audit: every change is in a chain of hashes that anybody can check offline");
        let data = self.cast.file("platform");
        self.show(&["events", "verify", "--data", &data]).await
    }

    /// Runs an operator's command and shows it with its output.
    async fn show(&self, arguments: &[&str]) -> anyhow::Result<()> {
        self.show_until(arguments, Exit::Success).await
    }

    /// The same for a command that ends otherwise than with success.
    async fn show_until(&self, arguments: &[&str], wanted: Exit) -> anyhow::Result<()> {
        self.prompt(arguments);
        let mut operator = self.cast.operator(arguments)?;
        let status = tokio::time::timeout(STEP, operator.status()).await;
        let status =
            status.with_context(|| format!("`tocsin {}` hangs", arguments.join(" ")))??;
        let is_wanted = status.code() == Some(wanted as i32);
        ensure!(is_wanted, "`tocsin {}` ended with {status}", arguments.join(" "));
        Ok(())
    }

    fn title(&self, text: &str) {
        self.out.line(&format!("\n{}", self.out.paint(Tone::Strong, text)));
    }

    fn prompt(&self, arguments: &[&str]) {
        let quoted: Vec<_> = arguments
            .iter()
            .map(|word| if word.contains(' ') { format!("'{word}'") } else { (*word).to_owned() })
            .collect();
        let line = format!("$ tocsin {}", quoted.join(" "));
        self.out.line(&self.out.paint(Tone::Faint, &line));
    }

    fn observe(&self, text: &str) {
        self.out.line(&self.out.paint(Tone::Good, &format!("  observed: {text}")));
    }

    /// Waits until the prober inside the sandbox has seen the internet so.
    async fn observe_reach(&self, wanted: &str) -> anyhow::Result<()> {
        let log = self.stage.path("device/reach.log");
        let seen = async {
            loop {
                let text = tokio::fs::read_to_string(&log).await.unwrap_or_default();
                if text.lines().last().is_some_and(|line| line.ends_with(wanted)) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, seen).await?;
        let text = match wanted {
            "cut" => "its open connection to 203.0.113.7 died and new ones fail; the hub is there",
            _ => "a program on the device talks to 203.0.113.7 (a stand-in for the internet)",
        };
        self.observe(text);
        Ok(())
    }
}
