//! A machine that goes down in the middle of a wipe, and at its end. What the agent asks of the
//! service manager and of the kernel is real; it ends the container.

use std::path::{Path, PathBuf};
use std::process::Command;

use protocol::action::{Action, Wipe, WipeLevel};
use protocol::receipt::{Evidence, Outcome, Receipt};
use serde_json::json;

use crate::container::Machine;
use crate::doors::{assert_locked, assert_same, occupy, tree};
use crate::luks::{PASSPHRASES, format, opens};
use crate::on_a_machine;
use crate::scene::{Body as _, Scene};

/// Leaves a mark on the disk when services are stopped in order.
const MARKING_UNIT: &str = "[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/true
ExecStop=/usr/bin/touch /var/stopped
[Install]
WantedBy=multi-user.target
";
/// The file size at which the agent of a first life is killed, as by a fault in the middle of a
/// write: it has overwritten the first keyslot of a volume by then, and not the second.
const FAULTY: &str = "[Service]\nRestart=no\nLimitFSIZE=256K\n";
/// A service manager that powers nothing off.
const DECLINING: &str = "#!/bin/sh
case \"$*\" in *poweroff*) exit 1 ;; esac
exec /usr/bin/systemctl.real \"$@\"
";

async fn marking() -> Scene {
    let scene = Scene::new("rescue").await;
    scene.machine.write("/etc/systemd/system/bench-mark.service", MARKING_UNIT, 0o644);
    scene.machine.offline(&["systemctl", "enable", "bench-mark.service"]);
    scene
}

/// Whether services were stopped in order when it went down.
fn was_stopped_in_order(machine: &Machine) -> bool {
    machine.path("/var/stopped").exists()
}

fn proven(receipt: Receipt) -> Evidence {
    let Outcome::Succeeded { evidence } = receipt.outcome else { panic!("{receipt:?}") };
    evidence
}

#[test]
fn wipe_that_lost_its_machine_is_gone_on_with_at_boot_and_powers_off_in_the_end() {
    let test = "down::wipe_that_lost_its_machine_is_gone_on_with_at_boot_and_powers_off_in_the_end";
    on_a_machine(test, || async {
        let mut scene = marking().await;
        let volume = volume_to_be_wiped(&scene);
        let drop_in = "/etc/systemd/system/tocsin-agent.service.d/bench.conf";
        scene.machine.write(drop_in, FAULTY, 0o644);
        scene.machine.boot();
        let has_share = mount_share(&scene.machine);
        if !has_share {
            println!("skipped: no network file system is let go, this kernel has no /dev/fuse");
        }
        let wipe = Wipe { level: WipeLevel::Keys, power_off: true };
        let command = scene.give(Action::Wipe(wipe)).await;
        scene
            .machine
            .sh("while ! systemctl is-failed --quiet tocsin-agent.service; do sleep 0.1; done");
        let said = scene.machine.sh("journalctl --no-pager -b -u tocsin-agent.service");
        for help in ["not kept in memory", "shutdown is not inhibited"] {
            assert!(!said.contains(help), "an armed agent has its helps: {said}");
        }
        assert!(!has_share || !is_mounted(&scene.machine), "let go for everybody: {said}");
        scene.machine.cut_power();
        assert!(!was_stopped_in_order(&scene.machine));
        let still = PASSPHRASES.map(|passphrase| opens(&volume, passphrase));
        assert_eq!(still, [false, true], "in the middle of it");

        // No agent runs: the boot's own step has to do.
        std::fs::remove_file(scene.machine.path(drop_in)).unwrap();
        let agent = ["tocsin-agent.service", "tocsin-agent-watch.timer"];
        scene.machine.offline(&[&["systemctl", "disable"], &agent[..]].concat());
        scene.machine.boot();
        let still = PASSPHRASES.map(|passphrase| opens(&volume, passphrase));
        assert_eq!(still, [false, false]);
        let entered = |unit: &str| {
            let show = format!("systemctl show -P ActiveEnterTimestampMonotonic {unit}");
            scene.machine.sh(&show).parse::<u64>().unwrap()
        };
        let gone_on = entered("tocsin-reassert.service");
        assert!(0 < gone_on && gone_on < entered("systemd-user-sessions.service"));
        assert!(gone_on < entered("bench-network.service"));

        // The wipe is not over, and no agent runs: the doors are closed again before anybody knocks.
        assert!(!scene.machine.lets_in("alice", None));
        assert!(scene.machine.lets_in("rescue", None));

        // The receipt is the agent's; and then the kernel itself is told to power off.
        scene.machine.sh("mv /usr/bin/systemctl /usr/bin/systemctl.real");
        scene.machine.write("/usr/bin/systemctl", DECLINING, 0o755);
        scene.machine.sh("systemctl start tocsin-agent.service");
        let evidence = proven(scene.outcome(&command).await);
        assert_eq!(evidence.get("grade"), Some(&json!("proven")));
        let targets = evidence.get("targets").unwrap();
        assert_eq!(targets[0]["path"], json!("/srv/volume"));
        assert_eq!(targets[0]["keyslots_before"], json!(2));
        assert_eq!(targets[0]["keyslots_left"], json!(0));
        assert_eq!(scene.machine.wait_until_off(), 0);
        assert!(!was_stopped_in_order(&scene.machine), "the service manager had declined");
        assert_no_header_is_left(&volume);
    });
}

#[test]
fn nobody_logs_in_between_the_proof_of_a_wipe_and_its_power_off() {
    let test = "down::nobody_logs_in_between_the_proof_of_a_wipe_and_its_power_off";
    on_a_machine(test, || async {
        let mut scene = Scene::new("rescue").await;
        let volume = volume_to_be_wiped(&scene);
        be_unhurried(&scene);
        scene.machine.boot();

        // The power stays on: when the wipe is over everything is as it was.
        let before = tree(&scene.machine);
        let wipe = Wipe { level: WipeLevel::Keys, power_off: false };
        let command = scene.give(Action::Wipe(wipe)).await;
        let evidence = proven(scene.outcome(&command).await);
        assert_eq!(evidence.get("doors").unwrap()["closed"], json!(true));
        while !scene.machine.lets_in("alice", None) {}
        while scene.machine.path("/var/lib/tocsin-agent/wipe-doors.json").exists() {}
        assert_same(&before, &tree(&scene.machine));

        format(&volume, 20 * 1024 * 1024, &["-q", "luksFormat", "--type", "luks2"]);
        occupy(&scene.machine);
        let wipe = Wipe { level: WipeLevel::Data, power_off: true };
        let command = scene.give(Action::Wipe(wipe)).await;
        let proof = scene.unconfirmed_proof(&command).await;
        let doors = json!({ "closed": true, "break_glass": ["rescue"], "sessions_left": 0,
            "processes_left": 0, "gaps": [] });
        assert_eq!(proof.evidence.get("doors"), Some(&doors));
        assert_eq!(PASSPHRASES.map(|passphrase| opens(&volume, passphrase)), [false, false]);
        assert_locked(&scene.machine);

        let proof = scene.proof(&command).await;
        assert_eq!(proof.evidence.get("doors"), Some(&doors), "as it was when the keys went");
        proven(scene.outcome(&command).await);
        assert_eq!(scene.machine.wait_until_off(), 0);
    });
}

/// The service manager's timer, sooner than it is renewed.
const SOON: &str = "[Timer]\nOnActiveSec=\nOnActiveSec=1s\n";

#[test]
fn power_goes_although_the_agent_that_wipes_is_killed_and_masked() {
    let test = "down::power_goes_although_the_agent_that_wipes_is_killed_and_masked";
    on_a_machine(test, || async {
        let mut scene = marking().await;
        volume_to_be_wiped(&scene);
        be_unhurried(&scene);
        scene.machine.boot();
        let wipe = Wipe { level: WipeLevel::Data, power_off: true };
        let command = scene.give(Action::Wipe(wipe)).await;
        // The wipe waits in its middle as long as nobody confirms that.
        scene.unconfirmed_proof(&command).await;
        let renewed = || {
            let show = "systemctl show -P ActiveEnterTimestampMonotonic tocsin-wipe.timer";
            scene.machine.sh(show).parse::<u64>().unwrap()
        };
        let first = renewed();
        assert!(first > 0, "{}", scene.machine.journal());
        let agent = || scene.machine.sh("systemctl show -P MainPID tocsin-agent.service");
        let former = agent();
        scene.machine.sh(&format!("kill -KILL {former}"));
        while agent() == former || renewed() == first {}

        let units = "tocsin-agent.service tocsin-agent-watch.timer tocsin-agent-watch.service";
        scene.machine.sh(&format!(
            "pid=$(systemctl show -P MainPID tocsin-agent.service); \
             systemctl mask --quiet {units}; kill -KILL $pid"
        ));
        while !scene.machine.succeeds("systemctl is-failed --quiet tocsin-agent.service") {}
        assert!(scene.machine.succeeds("systemctl is-active --quiet tocsin-wipe.timer"));
        // Its five minutes are not waited for.
        scene.machine.sh(&format!(
            "mkdir -p /run/systemd/system/tocsin-wipe.timer.d && \
             printf '{SOON}' > /run/systemd/system/tocsin-wipe.timer.d/soon.conf && \
             systemctl daemon-reload"
        ));
        assert_eq!(scene.machine.wait_until_off(), 0);
        assert!(!was_stopped_in_order(&scene.machine), "no program of the machine was needed");
    });
}

/// Time for the test to look around: as long as nobody confirms what the device says, it waits.
fn be_unhurried(scene: &Scene) {
    let (config, unhurried) = ("/etc/tocsin/agent.toml", "[ladder]\npower_off_wait = \"1h\"\n");
    let text = scene.machine.read(config).replace("[ladder]\n", unhurried);
    scene.machine.write(config, &text, 0o600);
}

/// A volume that its configuration names to the agent.
fn volume_to_be_wiped(scene: &Scene) -> PathBuf {
    let volume = scene.machine.path("/srv/volume");
    format(&volume, 20 * 1024 * 1024, &["-q", "luksFormat", "--type", "luks2"]);
    let (config, target) = ("/etc/tocsin/agent.toml", "wipe_targets = [\"/srv/volume\"]");
    let text = scene.machine.read(config).replace("[host]\n", &format!("[host]\n{target}\n"));
    scene.machine.write(config, &text, 0o600);
    volume
}

/// Mounts a network file system whose server is dead. Whether this kernel has one to be mounted.
fn mount_share(machine: &Machine) -> bool {
    if !Path::new("/dev/fuse").exists() {
        return false;
    }
    let options = "fd=9,rootmode=40000,user_id=0,group_id=0";
    let mount = format!(
        "exec 9<>/dev/fuse && exec nsenter --target {} --mount mount --internal-only \
         --types fuse.sshfs --options {options} nobody@share /mnt",
        machine.leader()
    );
    assert!(Command::new("sh").args(["-c", &mount]).status().unwrap().success());
    assert!(is_mounted(machine));
    true
}

fn is_mounted(machine: &Machine) -> bool {
    machine.succeeds("grep -q ' /mnt .* fuse.sshfs ' /proc/1/mountinfo")
}

/// Nothing at the beginning says what it was: neither header, nor the second one.
fn assert_no_header_is_left(volume: &Path) {
    let bytes = std::fs::read(volume).unwrap();
    let magics: [&[u8]; 2] = [b"LUKS\xba\xbe", b"SKUL\xba\xbe"];
    for magic in magics {
        assert!(!bytes.windows(magic.len()).any(|part| part == magic));
    }
}
