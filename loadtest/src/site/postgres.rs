//! A PostgreSQL of a run: as its package's `initdb` makes it, on the disk that temporary files are on, over TCP
//! and with a password, as a control plane on another machine would reach it.
//!
//! Owns its folder and its account. Its settings are nobody's choice: what it costs is what people get. It does not
//! run as root, so that root starts it as the account of the package.

use std::fs;
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::{User, geteuid};
use runtime::Entropy;
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::{sleep, timeout};

use super::process::{Process, ProcessError};
use super::{SiteError, started};

/// Where Debian's package puts the programs of each version.
const VERSIONS: &str = "/usr/lib/postgresql";
/// The account of the package.
const ACCOUNT: &str = "postgres";
/// The user that owns everything in it.
const USER: &str = "tocsin";
/// What it is started by.
const ENV: &str = "env";
/// Its role among the processes.
pub(super) const ROLE: &str = "postgres";
/// How long it may take to answer once its port is open.
const READY: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A server that runs.
#[derive(Debug)]
pub(super) struct Postgres {
    pub(super) process: Process,
    /// Where its database is, for the control plane.
    pub(super) url: String,
    /// Goes away with it.
    pub(super) folder: TempDir,
}

/// Makes one with nothing in it, and starts it.
pub(super) async fn start() -> Result<Postgres, SiteError> {
    let programs = programs().ok_or(SiteError::NoPostgres)?;
    let account = account()?;
    let folder = tempfile::Builder::new().prefix("tocsin-loadtest-postgres-").tempdir();
    let folder = folder.map_err(|error| SiteError::File(std::env::temp_dir(), error))?;
    let password: String =
        Entropy::system().bytes::<16>().iter().map(|b| format!("{b:02x}")).collect();
    let data = prepared(folder.path(), &password, account.as_ref())
        .map_err(|error| SiteError::File(folder.path().to_owned(), error))?;
    let failed = |error| SiteError::Process(ROLE.to_owned(), error);
    let own = before(account.as_ref());
    initialise(&own, &programs, folder.path(), &data).await.map_err(failed)?;
    let mut args = own;
    args.push(text(&programs.join("postgres")));
    let words = ["-h", "127.0.0.1", "-c", "unix_socket_directories=", "-D"];
    args.extend(words.map(str::to_owned));
    args.push(text(&data));
    args.push("-p".to_owned());
    let args = args.into_iter().map(Into::into).collect();
    let process = Process::server(ROLE, ENV, args, folder.path()).that_quits();
    let process = started(process).await?;
    let address = process.said("address").unwrap_or_default();
    let answers = timeout(READY, answering(&programs, &address)).await;
    answers.map_err(|_| failed(ProcessError::TimedOut(READY)))?;
    let url = format!("postgres://{USER}:{password}@{address}/postgres?sslmode=disable");
    Ok(Postgres { process, url, folder })
}

/// The folder of the newest version's programs.
fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir(VERSIONS).ok()?;
    let version =
        |entry: io::Result<fs::DirEntry>| entry.ok()?.file_name().to_str()?.parse::<u32>().ok();
    let newest = versions.filter_map(version).max()?;
    Some(Path::new(VERSIONS).join(newest.to_string()).join("bin"))
}

/// Whom it runs as, when not as ourselves.
fn account() -> Result<Option<User>, SiteError> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let account = User::from_name(ACCOUNT).ok().flatten();
    account.map(Some).ok_or(SiteError::NoPostgres)
}

/// Gives the folder and a file with the password to the account; answers where the data is to be.
fn prepared(folder: &Path, password: &str, account: Option<&User>) -> io::Result<PathBuf> {
    let (word, data) = (folder.join("password"), folder.join("data"));
    let mut private = fs::OpenOptions::new();
    private.write(true).create_new(true).mode(0o600);
    io::Write::write_all(&mut private.open(&word)?, password.as_bytes())?;
    fs::create_dir(&data)?;
    fs::set_permissions(&data, fs::Permissions::from_mode(0o700))?;
    if let Some(account) = account {
        for path in [folder, &word, &data] {
            chown(path, Some(account.uid.as_raw()), Some(account.gid.as_raw()))?;
        }
    }
    Ok(data)
}

/// What is said to `env` before the program: nothing of our environment (`PGDATA`, `PGOPTIONS`), and a folder that the account may
/// enter. Then to `setpriv`: its account, and to quit when the harness is gone. The kernel forgets
/// that promise with a change of the account, so that it is made after it.
fn before(account: Option<&User>) -> Vec<String> {
    let words = ["-i", "-C", "/", "PATH=/usr/bin:/bin", "LC_ALL=C", "setpriv", "--pdeathsig=QUIT"];
    let mut args: Vec<_> = words.map(str::to_owned).into();
    if let Some(account) = account {
        let (uid, gid) = (format!("--reuid={}", account.uid), format!("--regid={}", account.gid));
        args.extend([uid, gid, "--clear-groups".to_owned()]);
    }
    args.push("--".to_owned());
    args
}

async fn initialise(
    own: &[String],
    programs: &Path,
    folder: &Path,
    data: &Path,
) -> Result<(), ProcessError> {
    let mut command = Command::new(ENV);
    command.args(own).arg(programs.join("initdb"));
    command.args(["--no-instructions", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"]);
    command.args(["--username", USER, "--pwfile"]).arg(folder.join("password"));
    let output = command.arg("--pgdata").arg(data).kill_on_drop(true).output().await;
    let output = output.map_err(ProcessError::Start)?;
    if output.status.success() {
        return Ok(());
    }
    Err(ProcessError::Ended(String::from_utf8_lossy(&output.stderr).into_owned()))
}

/// Waits until it takes questions: its port is open before.
async fn answering(programs: &Path, address: &str) {
    let (host, port) = address.split_once(':').unwrap_or((address, ""));
    loop {
        let mut asked = Command::new(programs.join("pg_isready"));
        asked.env_clear().args(["--quiet", "--host", host, "--port", port]);
        if asked.status().await.is_ok_and(|status| status.success()) {
            return;
        }
        sleep(LOOK_AGAIN).await;
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
