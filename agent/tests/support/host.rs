//! A sandboxed host and tasks for integration tests.

use std::io::Result;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use agent::addresses::AddressBook;
use agent::execute::Task;
use agent::execute::course::Course;
use agent::execute::quarantine::Firewall;
use agent::host::{Arming, Ground, Host, Power, Psids, ScriptConfig, Superuser, WipedTpm};
use agent::recognise::Recognise;
use protocol::id::CommandId;
use protocol::time::Timestamp;
use tempfile::TempDir;

/// Takes whoever accepts a connection for the control plane: what is tested here is the way to it.
#[derive(Debug)]
pub(crate) struct Anybody;

impl Recognise for Anybody {
    fn recognise(
        &self,
        _: SocketAddr,
        dial: &dyn Fn() -> Result<TcpStream>,
        _: Duration,
    ) -> Result<()> {
        dial().map(drop)
    }
}

/// A host whose every path is below one temporary folder.
pub(crate) fn sandbox() -> (Host, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let (root, state_dir) = (folder.path().join("root"), folder.path().join("state"));
    std::fs::create_dir(&root).unwrap();
    std::fs::create_dir(&state_dir).unwrap();
    let host = Host {
        root,
        state_dir,
        dbus_address: None,
        control_plane: Vec::new(),
        book: AddressBook::default(),
        recognise: Arc::new(Anybody),
        firewall: Firewall::default(),
        confirm_within: Duration::from_secs(60),
        wipe_targets: Vec::new(),
        company_volumes: Vec::new(),
        company_directories: Vec::new(),
        company_homes: Vec::new(),
        psids: Psids::default(),
        tpm: WipedTpm::default(),
        ground: Ground::default(),
        break_glass: Vec::new(),
        superuser: Superuser::default(),
        power: Power::Recorded(folder.path().join("power.log")),
        arming: Arming::Sandboxed,
        scripts: ScriptConfig::default(),
        course: Course::default(),
    };
    (host, folder)
}

/// The task of the command with that number.
pub(crate) fn task(number: u8) -> Task {
    let started_at = Timestamp::from_millis(1_700_000_000_000);
    Task {
        command_id: CommandId::new(started_at, [number; 10]),
        envelope: format!("envelope-{number}"),
        started_at,
        script: None,
        course: Course::default(),
    }
}
