//! The files of a platform that the harness starts.
//!
//! Owns what a load test sets differently: free ports of loopback, no limits per source or device,
//! little to log. The scenario's own settings come on top.

use std::fs;
use std::path::{Path, PathBuf};

use tokio::process::Command;
use toml::{Table, Value};

use super::SiteError;
use super::process::ProcessError;
use crate::plan::Platform;

/// What hubs of a run have, before the scenario's own settings.
const HUB: &str = r"
[admission]
source_per_sec = 0
device_per_min = 0
handshakes_per_sec = 0
resumptions_per_sec = 0
";
/// What a control plane of a run has.
const API: &str = r#"
server_names = ["127.0.0.1"]
check_ins_per_min = 0
enrolls_per_min = 0
"#;

/// The folder, and the scenario's settings.
#[derive(Debug, Clone, Copy)]
pub(super) struct Files<'a> {
    pub(super) folder: &'a Path,
    pub(super) platform: &'a Platform,
    /// Where the database is, if it is no file.
    pub(super) database: Option<&'a str>,
}

impl Files<'_> {
    /// The control plane's folder.
    pub(super) fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// The file of `tocsin up`.
    pub(super) fn up(&self) -> Result<PathBuf, SiteError> {
        let mut file = common();
        let data = self.data().display().to_string();
        let mut api = self.control_plane();
        api.insert("data_dir".to_owned(), data.into());
        for port in ["operator_listen", "agent_listen"] {
            api.insert(port.to_owned(), "127.0.0.1:0".into());
        }
        let mut hub = table(HUB, &self.platform.hub);
        hub.insert("listen".to_owned(), "127.0.0.1:0".into());
        file.insert("api".to_owned(), api.into());
        file.insert("hub".to_owned(), hub.into());
        self.write("up.toml", &file)
    }

    /// The file of `tocsin api`.
    pub(super) fn api(
        &self,
        redis: &str,
        [operators, agents]: [&str; 2],
        hubs: &[String],
    ) -> Result<PathBuf, SiteError> {
        let mut file = common();
        let mut api = self.control_plane();
        api.insert("data_dir".to_owned(), self.data().display().to_string().into());
        api.insert("operator_listen".to_owned(), operators.into());
        api.insert("agent_listen".to_owned(), agents.into());
        api.insert("hub_urls".to_owned(), hubs.to_vec().into());
        file.insert("api".to_owned(), api.into());
        file.insert("broker".to_owned(), broker(redis));
        self.write("api.toml", &file)
    }

    /// The file of a hub.
    pub(super) fn hub(&self, redis: &str, name: &str, listen: &str) -> Result<PathBuf, SiteError> {
        let mut file = common();
        let of = |ending: &str| Value::from(self.identity(name).join(ending).display().to_string());
        let mut tls = Table::new();
        tls.insert("certificate".to_owned(), of(&format!("{name}.crt")));
        tls.insert("key".to_owned(), of(&format!("{name}.key")));
        tls.insert("authorities".to_owned(), of("authority.pem"));
        let mut hub = table(HUB, &self.platform.hub);
        hub.insert("name".to_owned(), name.into());
        hub.insert("listen".to_owned(), listen.into());
        file.insert("tls".to_owned(), tls.into());
        file.insert("broker".to_owned(), broker(redis));
        file.insert("hub".to_owned(), hub.into());
        self.write(&format!("{name}.toml"), &file)
    }

    /// Settings of the control plane, whatever its role.
    fn control_plane(&self) -> Table {
        let own =
            self.database.map_or(API.to_owned(), |url| format!("{API}[database]\nurl = {url:?}\n"));
        table(&own, &self.platform.api)
    }

    fn identity(&self, name: &str) -> PathBuf {
        self.folder.join(format!("identity-{name}"))
    }

    /// Makes the identity of a hub, as an administrator would.
    pub(super) async fn issue(&self, program: &Path, name: &str) -> Result<(), SiteError> {
        let failed = |error| SiteError::Process("issue-hub".to_owned(), error);
        let mut command = Command::new(program);
        command.args(["issue-hub", "--name", name, "--server-name", "127.0.0.1", "--data"]);
        command.arg(self.data()).arg("--out").arg(self.identity(name));
        let output = command.output().await;
        let output = output.map_err(|error| failed(ProcessError::Start(error)))?;
        if output.status.success() {
            return Ok(());
        }
        Err(failed(ProcessError::Ended(String::from_utf8_lossy(&output.stderr).into_owned())))
    }

    fn write(&self, name: &str, file: &Table) -> Result<PathBuf, SiteError> {
        let path = self.folder.join(name);
        let text = toml::to_string(file)?;
        fs::write(&path, text).map_err(|error| SiteError::File(path.clone(), error))?;
        Ok(path)
    }
}

/// What every role has.
fn common() -> Table {
    table("admin_listen = \"127.0.0.1:0\"\n[log]\nfilter = \"warn\"", &Table::new())
}

fn broker(redis: &str) -> Value {
    table("", &table(&format!("[redis]\nurls = [{redis:?}]"), &Table::new())).into()
}

/// The harness's settings, and those of the scenario over them.
fn table(own: &str, scenario: &Table) -> Table {
    let mut own: Table = toml::from_str(own).expect("our own settings are TOML");
    merge(&mut own, scenario);
    own
}

fn merge(into: &mut Table, from: &Table) {
    for (key, value) in from {
        match (into.get_mut(key), value) {
            (Some(Value::Table(into)), Value::Table(from)) => merge(into, from),
            _ => {
                into.insert(key.clone(), value.clone());
            }
        }
    }
}
