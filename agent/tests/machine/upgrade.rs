//! The life of a package on a machine that runs, by the package manager that it is for: installed, enrolled, brought up
//! to date in the middle of a lock, refused to be taken away, and taken away at last.

use std::fs;
use std::process::Output;

use protocol::action::{Action, Refresh, Unlock};
use tempfile::TempDir;

use crate::container::Machine;
use crate::disk::{Disk, run, text};
use crate::doors::{assert_same, locking, tree};
use crate::on_a_machine;
use crate::package::{FINISHED, build_version};
use crate::scene::{Body as _, ENABLED, Scene, UNITS};

/// A version that comes after the one of this source.
const NEXT: &str = concat!(env!("CARGO_PKG_VERSION"), ".1");
/// Where the state of an agent is.
const STATE: &str = "/var/lib/tocsin-agent";
const CONFIG: &str = "/etc/tocsin/agent.toml";
/// Where a package lies on the machine.
const PACKAGE: &str = "/root/package";
const AGENT: &str = "systemctl show -P MainPID tocsin-agent.service";

/// A package manager.
#[derive(Debug, Clone, Copy)]
enum Manager {
    Dpkg,
    Rpm,
}

impl Manager {
    fn build(self, version: &str) -> (TempDir, String) {
        match self {
            Self::Dpkg => build_version("deb", version),
            Self::Rpm => build_version("rpm", version),
        }
    }

    /// Puts it onto a machine that is off.
    fn prepare(self, machine: &Disk) {
        match self {
            Self::Dpkg => {}
            Self::Rpm => run("bash", &["-c", BRING_RPM, "bring", text(&machine.root)]),
        }
    }

    fn install(self, machine: &Machine, package: &str) {
        fs::copy(package, machine.path(PACKAGE)).unwrap();
        let done = match self {
            Self::Dpkg => machine.enter(&["dpkg", "--install", PACKAGE]),
            // Those that it requires are none of its database.
            Self::Rpm => rpm(machine, &["--upgrade", "--nodeps", PACKAGE]),
        };
        // What a scriptlet says that failed does not make `rpm` fail.
        let said = said(&done);
        assert!(done.status.success() && !said.contains("failed"), "{said}\n{}", machine.journal());
    }

    fn remove(self, machine: &Machine) -> Output {
        match self {
            Self::Dpkg => machine.enter(&["dpkg", "--remove", "tocsin-agent"]),
            Self::Rpm => rpm(machine, &["--erase", "tocsin-agent"]),
        }
    }

    /// Forgets the configuration that somebody wrote, which stays in case that the package comes back.
    fn purge(self, machine: &Machine, configured: &str) {
        match self {
            Self::Dpkg => {
                assert_eq!(machine.read(CONFIG), configured);
                machine.sh("dpkg --purge tocsin-agent");
            }
            Self::Rpm => {
                assert_eq!(machine.read(&format!("{CONFIG}.rpmsave")), configured);
                machine.sh(&format!("rm {CONFIG}.rpmsave && rmdir $(dirname {CONFIG})"));
            }
        }
    }
}

/// Puts `rpm` onto a machine of the same release: the program with its libraries, and its macros. As packages it would
/// bring a Perl that no other machine needs.
const BRING_RPM: &str = "
set -e
libraries=$(ldd /usr/bin/rpm | sed -n 's/.* => \\([^ ]*\\) .*/\\1/p')
cp --parents --dereference --no-clobber $libraries \"$1\"
cp /usr/bin/rpm \"$1/usr/bin\"
cp -a /usr/lib/rpm \"$1/usr/lib\"
";

fn rpm(machine: &Machine, args: &[&str]) -> Output {
    machine.enter(&[&["rpm", "--force-debian", "--dbpath", "/var/lib/rpm"], args].concat())
}

fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes)).concat()
}

/// Nothing runs and nobody is hindered before an enrollment.
fn assert_idle(machine: &Machine) {
    for unit in ENABLED {
        assert_eq!(machine.sh(&format!("systemctl is-enabled {unit}")), "enabled", "{unit}");
    }
    assert!(!machine.succeeds("systemctl is-active --quiet tocsin-agent.service"));
    assert_eq!(machine.sh("systemctl show -P ConditionResult tocsin-agent.service"), "no");
    for unit in ["tocsin-agent-watch.timer", "tocsin-console.path"] {
        assert!(machine.succeeds(&format!("systemctl is-active --quiet {unit}")), "{unit}");
    }
    let modes = machine.sh(&format!("stat -c '%a %U:%G' {STATE} {CONFIG}"));
    assert_eq!(modes, "700 root:root\n600 root:root");
    assert!(machine.read(CONFIG).contains("\narming = \"off\"\n"));
    assert!(machine.lets_in("alice", None));
}

/// The package stays as long as nobody but its agent could let people in again, or end what goes on.
fn assert_kept(manager: Manager, machine: &Machine, why: &str) {
    let refused = manager.remove(machine);
    let said = said(&refused);
    assert!(!refused.status.success() && said.contains(why), "{said}");
    assert!(machine.path("/usr/bin/tocsin-agent").exists());
}

/// The units are neither there nor running, and the state stays.
fn assert_gone(machine: &Machine) {
    for unit in UNITS {
        let known = machine.sh(&format!("systemctl show -P LoadState -P ActiveState {unit}"));
        assert_eq!(
            known.split_whitespace().collect::<Vec<_>>(),
            ["not-found", "inactive"],
            "{unit}"
        );
    }
    assert!(!machine.path("/usr/bin/tocsin-agent").exists());
    assert!(!machine.succeeds("pgrep -f '^/usr/bin/tocsin-agent'"));
    assert!(machine.path(STATE).join("enrollment.json").exists());
}

async fn lives(manager: Manager) {
    let [(_built, package), (_rebuilt, next)] =
        [env!("CARGO_PKG_VERSION"), NEXT].map(|version| manager.build(version));
    let mut scene = Scene::without_agent(Machine::new()).await;
    manager.prepare(&scene.machine);
    scene.machine.boot();
    let before = tree(&scene.machine);
    manager.install(&scene.machine, &package);
    assert_idle(&scene.machine);

    scene.enroll();
    scene.configure("rescue", "from_break_glass");
    let configured = scene.machine.read(CONFIG);
    scene.machine.sh("systemctl start tocsin-agent.service");
    scene.proven(locking()).await;
    let former = scene.machine.sh(AGENT);
    manager.install(&scene.machine, &next);
    let agent = scene.machine.sh(AGENT);
    assert!(agent != former && agent != "0", "{former}, then {agent}");
    assert_eq!(scene.machine.sh("systemctl show -P NeedDaemonReload tocsin-agent"), "no");
    assert_eq!(scene.machine.read(CONFIG), configured);
    assert!(!scene.machine.lets_in("alice", None), "the lock stands");
    scene.proven(Action::Refresh(Refresh {})).await;

    assert_kept(manager, &scene.machine, "under a lock");
    assert_eq!(scene.machine.sh(AGENT), agent, "and goes on");
    scene.proven(Action::Unlock(Unlock {})).await;
    // An agent would end these by itself.
    scene.machine.sh("systemctl stop tocsin-agent-watch.timer tocsin-agent.service");
    let doors = format!("{STATE}/wipe-doors.json");
    scene.machine.write(&format!("{STATE}/wipe.json"), FINISHED, 0o600);
    scene.machine.write(&doors, "{}", 0o600);
    assert_kept(manager, &scene.machine, "under a wipe");
    scene.machine.sh(&format!("rm {doors} && systemctl start tocsin-agent.service"));

    let removed = manager.remove(&scene.machine);
    assert!(removed.status.success(), "{}", said(&removed));
    assert_gone(&scene.machine);
    manager.purge(&scene.machine, &configured);
    assert_same(&before, &tree(&scene.machine));
    assert!(scene.machine.lets_in("alice", None));
}

#[test]
fn debian_package_lives_through_a_lock_and_leaves_nothing() {
    let test = "upgrade::debian_package_lives_through_a_lock_and_leaves_nothing";
    on_a_machine(test, || lives(Manager::Dpkg));
}

#[test]
fn rpm_lives_through_a_lock_and_leaves_nothing() {
    let test = "upgrade::rpm_lives_through_a_lock_and_leaves_nothing";
    on_a_machine(test, || lives(Manager::Rpm));
}
