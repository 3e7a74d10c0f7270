//! What systemd and PAM do that a lock must not fall for.

use protocol::action::{Action, Lock, LockLevel, Unlock};
use protocol::receipt::FailureKind;
use serde_json::json;

use crate::container::Machine;
use crate::doors::{assert_locked, assert_same, locking, occupy, tree};
use crate::on_a_machine;
use crate::scene::{PASSWORD, Scene};

/// Takes every gate out of PAM, as an upgrade that writes the files anew does.
const UNGATE: &str = "sed -i '/tocsin lock: begin/,/tocsin lock: end/d' /etc/pam.d/*";
const IS_GATED: &str = "grep -q 'tocsin lock: begin' /etc/pam.d/common-account";

/// Waits for a line of shell to succeed inside.
fn wait_until(machine: &Machine, script: &str) {
    // Bounded by the runner's guard; each look takes a process, so that this does not spin.
    while !machine.succeeds(script) {}
}

#[test]
fn screens_are_never_said_to_be_locked_on_a_machine_without_screens() {
    let test = "traps::screens_are_never_said_to_be_locked_on_a_machine_without_screens";
    on_a_machine(test, || async {
        let mut scene = Scene::new("rescue").await;
        scene.machine.boot();
        occupy(&scene.machine);
        scene.machine.sh("loginctl lock-sessions");
        let lock = Lock { level: LockLevel::Screen, message: None };
        let failure = scene.failure(Action::Lock(lock)).await;
        assert_eq!(failure.kind, FailureKind::Precondition, "{failure:?}");
        assert!(failure.detail.contains("no graphical session"), "{failure:?}");
        assert!(scene.machine.lets_in("alice", None));
    });
}

#[test]
fn ending_a_users_sessions_leaves_what_lock_ends() {
    on_a_machine("traps::ending_a_users_sessions_leaves_what_lock_ends", || async {
        let mut scene = Scene::new("rescue").await;
        scene.machine.boot();
        occupy(&scene.machine);
        scene.machine.sh("loginctl terminate-user alice");
        let stray = "pgrep -U alice -x sleep";
        assert!(scene.machine.succeeds(stray), "terminate-user does not reach other slices");
        // A session and a manager that lingers, whose end makes logind spin when done wrong.
        occupy_again(&scene.machine);
        scene.proven(locking()).await;
        assert!(!scene.machine.succeeds("pgrep -U alice"));
        assert_eq!(
            scene
                .machine
                .sh("timeout 5 loginctl list-sessions --no-legend | grep -c alice || true"),
            "0"
        );
        scene.proven(Action::Unlock(Unlock {})).await;
    });
}

fn occupy_again(machine: &Machine) {
    let stays = "nohup sleep 1000 > /dev/null 2>&1 < /dev/null & echo inside";
    assert!(machine.ssh("alice", None, stays).status.success());
}

#[test]
fn expired_accounts_hold_without_the_gate_and_the_gate_comes_back() {
    let test = "traps::expired_accounts_hold_without_the_gate_and_the_gate_comes_back";
    on_a_machine(test, || async {
        let mut scene = Scene::new("rescue").await;
        scene.machine.boot();
        let before = tree(&scene.machine);
        let lock = scene.order(locking()).await.command_id;
        scene.machine.sh("systemctl stop tocsin-agent-watch.timer tocsin-agent.service");
        scene.machine.sh(UNGATE);
        assert!(!scene.machine.succeeds(IS_GATED));
        for user in ["alice", "carol", "root"] {
            assert!(!scene.machine.lets_in(user, None), "{user}: its account expired");
        }
        // An agent that runs puts the gate back without being asked.
        scene.machine.sh("systemctl start tocsin-agent.service");
        wait_until(&scene.machine, IS_GATED);
        scene.machine.sh(UNGATE);
        wait_until(&scene.machine, IS_GATED);
        let said = scene.notice().await;
        assert_eq!((said.command_id, said.what.as_str()), (lock, "lock_opened"));
        assert_locked(&scene.machine);
        scene.proven(Action::Unlock(Unlock {})).await;
        scene.machine.sh("systemctl start tocsin-agent-watch.timer");
        assert_same(&before, &tree(&scene.machine));
    });
}

#[test]
fn root_alone_as_break_glass_survives_a_boot_that_clears_nologin() {
    let test = "traps::root_alone_as_break_glass_survives_a_boot_that_clears_nologin";
    on_a_machine(test, || async {
        let mut scene = Scene::new("root").await;
        scene.machine.boot();
        let before = tree(&scene.machine);
        let evidence = scene.proven(locking()).await;
        assert_eq!(evidence.get("nologin"), Some(&json!(true)));
        scene.machine.shut_down();
        scene.machine.boot();
        // systemd-user-sessions has removed the file that the reassertion had written.
        assert!(!scene.machine.lets_in("rescue", None), "the gate holds without it");
        assert!(scene.machine.lets_in("root", None));
        wait_until(&scene.machine, "test -e /run/nologin");
        scene.proven(Action::Unlock(Unlock {})).await;
        assert!(!scene.machine.path("/run/nologin").exists());
        assert!(!scene.machine.succeeds("test -e /run/nologin"));
        assert!(scene.machine.lets_in("rescue", None));
        assert_same(&before, &tree(&scene.machine));
    });
}

#[test]
fn root_is_nobodys_where_the_policy_says_so() {
    on_a_machine("traps::root_is_nobodys_where_the_policy_says_so", || async {
        let mut scene = Scene::new("rescue").await;
        scene.configure("rescue", "refused");
        scene.machine.boot();
        scene.proven(locking()).await;
        assert!(scene.machine.lets_in("rescue", None));
        for command in ["sudo -n true", "sudo -n -i true", "sudo -n -u web sudo -n true"] {
            let tried = scene.machine.ssh("rescue", None, command);
            assert!(!tried.status.success(), "{command}");
        }
        let tried = scene.machine.ssh("rescue", Some(PASSWORD), "su -c true");
        assert!(!tried.status.success());
        scene.proven(Action::Unlock(Unlock {})).await;
        assert!(scene.machine.ssh("rescue", None, "sudo -n true").status.success());
    });
}

/// Types root's password into the program that guards the rescue shell, on a terminal of its own, as soon as it
/// asks for something; and then into the shell, where there is one.
const RESCUE: &str = "cd /tmp && rm -f keys shown && mkfifo keys && exec 3<> keys && touch shown
shows() { until grep -q \"$1\" shown || ! kill -0 $terminal; do sleep 0.1; done 2> /dev/null; }
timeout 300 script -qfc sulogin shown <&3 > /dev/null & terminal=$!
shows 'Control-D\\|Enter'; echo open-sesame >&3
shows '#'; echo 'touch /tmp/rescued; exit' >&3
wait; cat shown; rm -f keys shown";

#[test]
fn rescue_shell_that_asks_no_pam_is_barred_as_well() {
    on_a_machine("traps::rescue_shell_that_asks_no_pam_is_barred_as_well", || async {
        let mut scene = Scene::new("rescue").await;
        scene.machine.boot();
        let rescued = "test -e /tmp/rescued && rm /tmp/rescued";
        scene.machine.enter(&["sh", "-c", RESCUE]);
        assert!(scene.machine.succeeds(rescued), "root's password opens it");
        scene.proven(locking()).await;
        let said = scene.machine.enter(&["sh", "-c", RESCUE]);
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        assert!(said.contains("the root account is locked"), "{said}");
        assert!(!scene.machine.succeeds(rescued));
        scene.proven(Action::Unlock(Unlock {})).await;
        scene.machine.enter(&["sh", "-c", RESCUE]);
        assert!(scene.machine.succeeds(rescued));
    });
}

/// A terminal, and a login screen on it that lets alice in without asking.
const TERMINAL: &str =
    "systemd-run --quiet --unit=terminal script -qc \"trap '' HUP; exec sleep 1000\" /dev/null";
const LOGIN_SCREEN: &str = "[Unit]
ConditionPathExists=
[Service]
ExecStart=
ExecStart=-/sbin/agetty --noclear pts/0 linux
StandardInput=tty-force
TTYPath=/dev/pts/0
TTYReset=no
TTYVHangup=no
TTYVTDisallocate=no
";
const AUTOLOGIN: &str = "[Unit]
ConditionPathExists=
[Service]
ExecStart=
ExecStart=-/sbin/agetty --autologin alice --noclear pts/0 linux
StandardInput=tty-force
TTYPath=/dev/pts/0
TTYReset=no
TTYVHangup=no
TTYVTDisallocate=no
";

#[test]
fn autologin_that_gave_up_during_the_lock_is_back_after_it() {
    on_a_machine("traps::autologin_that_gave_up_during_the_lock_is_back_after_it", || async {
        let mut scene = Scene::new("rescue").await;
        let drop_in = "/etc/systemd/system/getty@tty1.service.d/autologin.conf";
        scene.machine.write(drop_in, AUTOLOGIN, 0o644);
        scene.machine.boot();
        scene.machine.sh(TERMINAL);
        wait_until(&scene.machine, "test -e /dev/pts/0");
        scene
            .machine
            .sh("systemctl reset-failed getty@tty1.service; systemctl start getty@tty1.service");
        let is_in = "pgrep -U alice -x bash";
        wait_until(&scene.machine, is_in);
        scene.proven(locking()).await;
        wait_until(&scene.machine, "systemctl is-failed --quiet getty@tty1.service");
        let result = scene.machine.sh("systemctl show -P Result getty@tty1.service");
        assert_eq!(result, "start-limit-hit");
        scene.proven(Action::Unlock(Unlock {})).await;
        wait_until(&scene.machine, is_in);
        assert!(scene.machine.succeeds("systemctl is-active --quiet getty@tty1.service"));
    });
}

#[test]
fn login_screen_that_waits_shows_the_message_at_once() {
    on_a_machine("traps::login_screen_that_waits_shows_the_message_at_once", || async {
        let mut scene = Scene::new("rescue").await;
        let drop_in = "/etc/systemd/system/getty@tty1.service.d/screen.conf";
        scene.machine.write(drop_in, LOGIN_SCREEN, 0o644);
        scene.machine.boot();
        scene.machine.sh(TERMINAL);
        wait_until(&scene.machine, "test -e /dev/pts/0");
        scene.machine.sh("systemctl reset-failed getty@tty1; systemctl start getty@tty1");
        wait_until(&scene.machine, "journalctl -b -u terminal | grep -q 'Debian GNU'");
        let process = "systemctl show -P MainPID getty@tty1";
        let before = scene.machine.sh(process);
        scene.proven(locking()).await;
        wait_until(&scene.machine, "journalctl -b -u terminal | grep -q 'call 555'");
        assert_eq!(scene.machine.sh(process), before, "the screen was not even restarted");
        scene.proven(Action::Unlock(Unlock {})).await;
        assert!(!scene.machine.path("/etc/issue.d").exists());
    });
}
