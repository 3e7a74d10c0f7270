//! An ordered reboot on a machine that really starts again.

use protocol::action::{Action, Reboot, Refresh};
use protocol::receipt::Outcome;

use crate::on_a_machine;
use crate::scene::Scene;
use crate::vm::keys;

const BOOT_ID: &str = "cat /proc/sys/kernel/random/boot_id";

#[test]
fn ordered_reboot_is_proven_by_the_next_boot_and_comes_once() {
    let test = "vm::reboot::ordered_reboot_is_proven_by_the_next_boot_and_comes_once";
    on_a_machine(test, || async {
        let mut scene = Scene::virtual_machine().await;
        let volume = keys::attach(&mut scene.machine);
        scene.machine.boot();
        let before = scene.machine.sh(BOOT_ID);
        let command = scene.give(Action::Reboot(Reboot {})).await;
        scene.machine.wait_until_rebooted();
        let after = scene.machine.sh(BOOT_ID);
        assert_ne!(before, after);
        let Outcome::Succeeded { evidence } = scene.outcome(&command).await.outcome else {
            panic!("{}", scene.machine.sh("journalctl --no-pager -u tocsin-agent"));
        };
        assert_eq!(evidence.get("boot_id_before").unwrap(), &before);
        assert_eq!(evidence.get("boot_id_after").unwrap(), &after);

        // Neither the next order nor the order itself, nor another boot, makes it go down again.
        scene.proven(Action::Refresh(Refresh {})).await;
        assert_eq!(scene.machine.reboots(), 1);
        scene.machine.sh("systemctl reboot --no-block");
        scene.machine.wait_until_rebooted();
        let again = scene.outcome(&command).await.outcome;
        assert_eq!(again, Outcome::Succeeded { evidence });
        scene.proven(Action::Refresh(Refresh {})).await;
        assert_eq!(scene.machine.reboots(), 2);
        // Its volume last, since the machine goes down with it.
        volume.is_left_to_what_is_escrowed(&mut scene).await;
    });
}
