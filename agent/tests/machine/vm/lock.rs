//! A locked machine with a screen and a keyboard: what is on the screen, and what typing there does.

use std::fs;

use protocol::fixture::device;
use protocol::offline::OfflineSecret;
use protocol::receipt::Outcome;
use serde_json::json;

use crate::doors::locking;
use crate::on_a_machine;
use crate::scene::Scene;
use crate::vm::Vm;

/// The virtual console of the page, and its text as the kernel's screen memory has it.
const CONSOLE: &str = "tty12";
const SCREEN: &str = "/dev/vcs12";
/// The login program of the serial line that the kernel calls its console.
const LINE: &str = "serial-getty@ttyS0.service";

impl Vm {
    /// Waits inside the machine.
    fn wait(&self, until: &str) {
        self.sh(&format!("while ! ({until}); do sleep 0.2; done"));
    }

    /// Presses these keys together.
    fn press(&self, keys: &[&str]) {
        let keys: Vec<_> = keys.iter().map(|k| json!({ "type": "qcode", "data": k })).collect();
        self.monitor().ask("send-key", &json!({ "keys": keys, "hold-time": 10 }));
    }

    /// Types that until the page shows it: a keyboard forgets keys that a busy machine does not take in time.
    fn type_in(&self, code: &str) {
        let is_shown = format!(
            "(for look in $(seq 50); do grep -q 'Code: {code}' {SCREEN} && exit 0; sleep 0.2; done; exit 1)"
        );
        loop {
            self.press(&["ctrl", "u"]);
            for character in code.to_lowercase().chars() {
                let key = if character == '-' { "minus".to_owned() } else { character.to_string() };
                self.press(&[&key]);
            }
            if self.succeeds(&is_shown) {
                return;
            }
        }
    }

    /// What its graphics card shows.
    fn picture(&self) -> Vec<u8> {
        let file = self.base.join("screen.ppm");
        self.monitor().ask("screendump", &json!({ "filename": file }));
        fs::read(file).unwrap()
    }
}

/// The page is on the screen of a machine that lets nobody in but break-glass.
fn assert_locked(machine: &Vm) {
    machine.wait(&format!("grep -q 'Code:' {SCREEN}"));
    machine.wait(&format!("grep -q {CONSOLE} /sys/class/tty/tty0/active"));
    let shown = machine.sh(&format!("cat {SCREEN}"));
    for part in ["THIS DEVICE IS LOCKED", "call 555", &device(1).to_string()] {
        assert!(shown.contains(part), "{part}: {shown:?}");
    }
    // On the serial line too, where nobody else asks for a login any more.
    assert!(!machine.succeeds(&format!("systemctl is-active --quiet {LINE}")));
    assert!(machine.said().contains("THIS DEVICE IS LOCKED"));
    assert!(!machine.lets_in("alice", None));
    assert!(machine.lets_in("rescue", None));
}

#[test]
fn locked_machine_shows_its_page_through_a_power_cut_and_takes_the_code_from_its_keyboard() {
    let test = "vm::lock::locked_machine_shows_its_page_through_a_power_cut_and_takes_the_code_from_its_keyboard";
    on_a_machine(test, || async {
        let mut scene = Scene::virtual_machine().await;
        scene.machine.boot();
        assert!(scene.machine.lets_in("alice", None));
        let open = scene.machine.picture();
        let secret = OfflineSecret::new([6; 32]);
        let outcome = scene.order_with_code(locking(), &secret).await.outcome;
        assert!(matches!(outcome, Outcome::Succeeded { .. }), "{outcome:?}");
        assert_locked(&scene.machine);
        assert_ne!(scene.machine.picture(), open);

        scene.machine.cut_power();
        scene.machine.boot();
        let entered = |unit: &str| scene.machine.entered(unit);
        let closed = entered("tocsin-reassert.service");
        for unit in ["ssh.service", "systemd-user-sessions.service", "bench-network.service"] {
            assert!(0 < closed && closed < entered(unit), "{unit}");
        }
        assert_locked(&scene.machine);
        // Whoever switches to another console is brought back.
        scene.machine.press(&["ctrl", "alt", "f2"]);
        scene.machine.wait(&format!("grep -q {CONSOLE} /sys/class/tty/tty0/active"));

        scene.machine.type_in(&secret.code(&device(1)).reveal());
        scene.machine.press(&["ret"]);
        scene.machine.wait("! test -e /var/lib/tocsin-agent/lock.json");
        scene.machine.wait("! systemctl is-active --quiet tocsin-console");
        scene.machine.wait(&format!("systemctl is-active --quiet {LINE}"));
        for user in ["alice", "root"] {
            assert!(scene.machine.lets_in(user, None), "{user}");
        }
        assert!(!scene.machine.lets_in("bob", None), "bob had been locked before");
    });
}
