//! The page of a locked machine, started by its units, on a terminal of the machine: the code that is
//! typed there opens it.

use std::path::Path;

use protocol::fixture::device;
use protocol::offline::OfflineSecret;
use protocol::receipt::Outcome;

use crate::container::Machine;
use crate::doors::{assert_locked, assert_open, locking};
use crate::on_a_machine;
use crate::scene::Scene;

/// A terminal whose screen is a file and whose keys are a pipe. The bench's own console is none.
const TERMINAL: &str = "mkfifo /run/keys && systemd-run --quiet --unit=bench-terminal sh -c \
    'exec script --quiet --flush --command \"tty > /run/terminal; exec sleep infinity\" /run/shown \
    < /run/keys' && exec 3<> /run/keys && (sleep infinity >&3 2>&3 &) && \
    while ! test -s /run/terminal; do :; done && cat /run/terminal";

/// Waits inside the machine.
fn wait(machine: &Machine, until: &str) {
    machine.sh(&format!("while ! ({until}); do sleep 0.1; done"));
}

#[test]
fn locked_machine_says_so_on_its_console_and_the_code_that_is_typed_there_opens_it() {
    let test =
        "console::locked_machine_says_so_on_its_console_and_the_code_that_is_typed_there_opens_it";
    on_a_machine(test, || async {
        let mut scene = Scene::new("rescue").await;
        scene.machine.boot();
        let terminal = scene.machine.sh(TERMINAL);
        assert!(Path::new(&terminal).starts_with("/dev/pts"), "{terminal}");
        let unit = "/run/systemd/system/tocsin-console.service.d/bench.conf";
        let here = format!(
            "mkdir -p {folder} && printf '[Service]\nExecStart=\nExecStart=/usr/bin/tocsin-agent \
             console {terminal} --config /etc/tocsin/agent.toml\n' > {unit} && \
             systemctl daemon-reload",
            folder = Path::new(unit).parent().unwrap().display()
        );
        scene.machine.sh(&here);

        let secret = OfflineSecret::new([6; 32]);
        let outcome = scene.order_with_code(locking(), &secret).await.outcome;
        assert!(matches!(outcome, Outcome::Succeeded { .. }), "{outcome:?}");
        wait(&scene.machine, "grep -q 'Code:' /run/shown");
        let shown = scene.machine.sh("cat /run/shown");
        for part in ["THIS DEVICE IS LOCKED", "call 555", &device(1).to_string()] {
            assert!(shown.contains(part), "{part}: {shown:?}");
        }
        // What SAK does: all that has the terminal open is killed. It comes back.
        let first = scene.machine.sh("systemctl show -P MainPID tocsin-console");
        scene.machine.sh(&format!("kill -KILL {first}; : > /run/shown"));
        wait(&scene.machine, "grep -q 'Code:' /run/shown");
        assert_locked(&scene.machine);

        let code = secret.code(&device(1)).reveal();
        scene.machine.sh(&format!("printf '{code}\\r' > /run/keys"));
        wait(&scene.machine, "! test -e /var/lib/tocsin-agent/lock.json");
        wait(&scene.machine, "! systemctl is-active --quiet tocsin-console");
        assert_open(&scene.machine);
        assert_eq!(scene.machine.sh("systemctl show -P Result tocsin-console"), "success");
    });
}
