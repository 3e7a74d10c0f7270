//! The agent's units under a real service manager.

use std::net::TcpStream;
use std::time::Duration;

use protocol::action::{Action, Quarantine, Refresh, Release};

use crate::disk::ADDRESS;
use crate::doors::locking;
use crate::on_a_machine;
use crate::scene::{Scene, UNITS};

/// What `systemd-analyze security` may say at most, times ten; docs/OPERATIONS.md has the figure.
const EXPOSURE: &str = "60";

/// The watch, sooner than each minute.
const SOON: &str = "[Timer]\nOnBootSec=\nOnBootSec=1s\nOnUnitInactiveSec=1s\nAccuracySec=10ms\n";
/// A service manager that takes an agent for dead sooner than after a minute.
const IMPATIENT: &str = "[Service]\nWatchdogSec=15s\n";

#[test]
fn agent_comes_back_whatever_ends_it() {
    on_a_machine("units::agent_comes_back_whatever_ends_it", || async {
        let mut scene = Scene::new("rescue").await;
        scene.machine.boot();
        let units = UNITS.map(|unit| format!("/usr/lib/systemd/system/{unit}")).join(" ");
        let verified = scene.machine.sh(&format!("systemd-analyze verify --man=no {units} 2>&1"));
        assert_eq!(verified, "");
        let exposed = format!(
            "systemd-analyze security --no-pager --threshold={EXPOSURE} tocsin-agent.service 2>&1"
        );
        let judged = scene.machine.enter(&["sh", "-c", &exposed]);
        let judged =
            (judged.status.success(), String::from_utf8_lossy(&judged.stdout).into_owned());
        assert!(judged.0, "{}", judged.1);
        scene.proven(Action::Refresh(Refresh {})).await;

        let first = scene.machine.sh("systemctl show -P MainPID tocsin-agent");
        scene.machine.sh(&format!("kill -KILL {first}"));
        scene.proven(Action::Refresh(Refresh {})).await;
        assert_ne!(scene.machine.sh("systemctl show -P MainPID tocsin-agent"), first);

        // Somebody stops it, again and again: the watch starts it. Its minutes are not waited for.
        let timer = "/run/systemd/system/tocsin-agent-watch.timer.d";
        let service = "/run/systemd/system/tocsin-agent.service.d";
        scene.machine.sh(&format!(
            "mkdir {timer} {service} && printf '{SOON}' > {timer}/soon.conf && \
             printf '{IMPATIENT}' > {service}/impatient.conf && systemctl daemon-reload"
        ));
        for _ in 0..2 {
            let stopped = scene.machine.sh("systemctl show -P MainPID tocsin-agent");
            // The watch may come by while it stops: its start then cancels the job of the stop.
            scene.machine.enter(&["systemctl", "stop", "tocsin-agent.service"]);
            scene.machine.sh(&format!(
                "while pid=$(systemctl show -P MainPID tocsin-agent); \
                 [ $pid = 0 ] || [ $pid = {stopped} ]; do sleep 0.1; done"
            ));
            scene.proven(Action::Refresh(Refresh {})).await;
        }
        scene.machine.sh(&format!("rm -r {timer} && systemctl daemon-reload"));

        // One that hangs is killed, and comes back.
        let hung = scene.machine.sh("systemctl show -P MainPID tocsin-agent");
        scene.machine.sh(&format!("kill -STOP {hung}"));
        scene.proven(Action::Refresh(Refresh {})).await;
        assert_ne!(scene.machine.sh("systemctl show -P MainPID tocsin-agent"), hung);
        scene.machine.sh(&format!("rm -r {service} && systemctl daemon-reload"));

        // Nor does going to another target get rid of it, or of a lock.
        scene.proven(locking()).await;
        scene.machine.sh("systemctl isolate --no-block rescue.target");
        scene.machine.sh("while systemctl is-active --quiet ssh.service; do sleep 0.1; done");
        assert!(scene.machine.succeeds("systemctl is-active --quiet tocsin-agent.service"));
        assert!(scene.machine.succeeds("systemctl is-active --quiet tocsin-agent-watch.timer"));
        scene.proven(Action::Refresh(Refresh {})).await;
    });
}

#[test]
fn agent_without_enrollment_does_not_run() {
    on_a_machine("units::agent_without_enrollment_does_not_run", || async {
        let mut scene = Scene::new("rescue").await;
        let enrollment = scene.machine.path("/var/lib/tocsin-agent/enrollment.json");
        std::fs::remove_file(enrollment).unwrap();
        scene.machine.boot();
        for unit in
            ["tocsin-agent.service", "tocsin-reassert.service", "tocsin-agent-watch.service"]
        {
            scene.machine.sh(&format!("systemctl start {unit}"));
            let result = scene.machine.sh(&format!("systemctl show -P ConditionResult {unit}"));
            assert_eq!(result, "no", "{unit}");
        }
        assert!(scene.machine.lets_in("alice", None), "and the machine is anybody's");
    });
}

/// Waits until the machine's sshd is reached from outside; the runner's guard bounds it.
pub(crate) fn wait_until_reached() {
    while !is_reached() {
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

/// Whether the machine's sshd is reached from outside; silence counts after a while.
pub(crate) fn is_reached() -> bool {
    let address = format!("{ADDRESS}:22").parse().unwrap();
    TcpStream::connect_timeout(&address, Duration::from_secs(3)).is_ok()
}

#[test]
fn quarantine_stands_again_before_the_network_and_before_the_agent() {
    let test = "units::quarantine_stands_again_before_the_network_and_before_the_agent";
    on_a_machine(test, || async {
        let mut scene = Scene::new("rescue").await;
        scene.machine.boot();
        wait_until_reached();
        scene
            .proven(Action::Quarantine(Quarantine {
                allow: Vec::new(),
                resolver: false,
                until: None,
            }))
            .await;
        assert!(!is_reached());
        // Without an agent at all: the boot's own step must do.
        scene.machine.sh("systemctl disable tocsin-agent.service tocsin-agent-watch.timer");
        scene.machine.shut_down();
        scene.machine.boot();
        let entered = |unit: &str| {
            let show = format!("systemctl show -P ActiveEnterTimestampMonotonic {unit}");
            scene.machine.sh(&show).parse::<u64>().unwrap()
        };
        let stood = entered("tocsin-reassert.service");
        assert!(0 < stood && stood < entered("bench-network.service"));
        assert!(!is_reached());
        scene.machine.sh("systemctl start tocsin-agent.service");
        scene.proven(Action::Release(Release {})).await;
        wait_until_reached();
    });
}
