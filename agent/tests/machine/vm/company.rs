//! What goes before a wipe of everything, on the machine of its test: the company's volume alone, while it is in use.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use protocol::action::{Action, RunScript, SelectiveWipe};
use protocol::receipt::Outcome;
use serde_json::json;

use super::wipe::{DATA, FIRST_KEYSLOT, make_volume, opened_by, succeeded, use_volume, uuid};
use crate::scene::Scene;
use crate::vm::{Bus, Vm};

const SECTOR: usize = 512;
/// The score of the agent when memory runs short (`proc_pid_oom_score_adj(5)`).
const SCORE: &str = "cat /proc/$(systemctl show -P MainPID tocsin-agent)/oom_score_adj";

/// The company's drive, and what lay on it before.
pub(super) struct Company {
    drive: PathBuf,
    uuid: String,
    before: Vec<u8>,
}

/// Attaches it to a machine that is off, and has the agent know of it.
pub(super) fn attach(machine: &mut Vm) -> Company {
    let drive = machine.attach(Bus::Nvme, "company");
    make_volume(&drive);
    let uuid = uuid(&drive);
    let config = "/etc/tocsin/agent.toml";
    let known = format!("[host]\ncompany_volumes = [\"/dev/disk/by-uuid/{uuid}\"]\n");
    let text = machine.read(config).replace("[host]\n", &known);
    machine.write(config, &text, 0o600);
    let before = fs::read(&drive).unwrap();
    Company { drive, uuid, before }
}

impl Company {
    /// Its volume goes from under whoever uses it, and nothing else does.
    pub(super) async fn goes_alone(&self, scene: &mut Scene<Vm>, personal: &Path) {
        use_volume(&scene.machine, "company", &self.uuid);
        assert!(scene.machine.succeeds("test -s /srv/company/files"));
        // Somebody works with them meanwhile.
        scene.machine.sh("nohup tail -f /srv/company/files > /dev/null 2>&1 &");
        let command = scene.give(Action::SelectiveWipe(SelectiveWipe {})).await;
        let evidence = succeeded(scene.outcome(&command).await);
        assert_eq!(evidence.get("grade"), Some(&json!("proven")));
        assert_eq!(evidence.get("targets").unwrap()[0]["uuid"], json!(self.uuid));
        assert_eq!(evidence.get("targets").unwrap()[0]["keyslots_left"], json!(0));
        // What still has a file open there reads nothing, and the kernel has no key any more.
        assert!(!scene.machine.succeeds("dmsetup table company | grep crypt"));
        assert!(scene.machine.succeeds("pkill -f '^tail -f /srv/company'"), "it was there");
        scene.machine.sh("while test -e /dev/mapper/company; do sleep 0.2; done");
        assert!(!scene.machine.succeeds("grep /srv/company /proc/mounts"));
        assert!(scene.machine.succeeds("test -s /srv/flash/files"), "a person's stay");
        assert_eq!(opened_by(personal), [true, true]);
        assert_destroyed(&self.drive, &self.before);
    }
}

/// No passphrase opens a volume that was so before, not even with its headers from then, and no sector of its keys is
/// left.
pub(super) fn assert_destroyed(volume: &Path, before: &[u8]) {
    assert_eq!(opened_by(volume), [false, false]);
    let mut left = fs::read(volume).unwrap();
    let headers = ..usize::try_from(FIRST_KEYSLOT).unwrap();
    let keys = before[headers.end..DATA].chunks(SECTOR);
    let keys: HashSet<_> = keys.filter(|part| part.iter().any(|byte| *byte != 0)).collect();
    assert!(keys.len() >= 500, "two keyslots fill many sectors");
    assert!(!left.chunks(SECTOR).any(|part| keys.contains(part)), "a part of a key is left");
    left[headers].copy_from_slice(&before[headers]);
    let revived = volume.with_extension("revived");
    fs::write(&revived, left).unwrap();
    assert_eq!(opened_by(&revived), [false, false]);
    fs::remove_file(revived).unwrap();
}

/// The agent is spared when memory runs short; a script that it starts goes before others, and its supervisor is
/// like any other program.
pub(super) async fn scripts_are_not_spared_like_the_agent(scene: &mut Scene<Vm>) {
    assert_score(&scene.machine, "-900");
    let script = "#!/bin/sh\nfor who in self $PPID; do cat /proc/$who/oom_score_adj; done\n";
    let receipt = scene.order_script(RunScript::of(script, Vec::new(), 600), script).await;
    let Outcome::Succeeded { evidence } = receipt.outcome else { panic!("{receipt:?}") };
    assert_eq!(evidence.get("confinement"), Some(&json!("service")));
    assert_eq!(evidence.get("stdout"), Some(&json!(["500", "0"])));
}

pub(super) fn assert_score(machine: &Vm, score: &str) {
    assert_eq!(machine.sh(SCORE), score);
}
