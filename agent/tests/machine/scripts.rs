//! A script on a booted system: a service of its own, which the agent's restart does not touch.

use protocol::action::RunScript;
use protocol::receipt::Outcome;

use crate::on_a_machine;
use crate::scene::{Body, Scene};

#[test]
fn script_is_a_service_with_limits_and_outlives_a_stop_of_the_agent() {
    let test = "scripts::script_is_a_service_with_limits_and_outlives_a_stop_of_the_agent";
    on_a_machine(test, || async {
        let mut scene = Scene::new("rescue").await;
        scene.machine.boot();
        // It stops the agent itself, and with it all that lives in the agent's control group.
        let script = "#!/bin/sh\nsystemctl restart tocsin-agent.service\nsetsid sleep 4713 &\n\
                      unit=$(sed -n 's/^0::.*[/]//p' /proc/self/cgroup)\necho $unit\n\
                      systemctl show -P TasksMax $unit\n";
        let run = RunScript { as_root: true, ..RunScript::of(script, Vec::new(), 60) };
        let receipt = scene.order_script(run, script).await;
        let Outcome::Succeeded { evidence } = receipt.outcome else {
            panic!("{receipt:?}\n{}", scene.machine.journal());
        };
        assert_eq!(evidence.get("confinement"), Some(&"service".into()));
        assert_eq!(evidence.get("account"), Some(&"root".into()));
        let lines: Vec<String> =
            serde_json::from_value(evidence.get("stdout").unwrap().clone()).unwrap();
        assert!(lines[0].starts_with("tocsin-script-"), "{lines:?}");
        assert_eq!(lines[1], "256");
        assert_eq!(evidence.get("killed_processes"), Some(&1.into()));
        assert!(!scene.machine.succeeds("pgrep -f '^sleep 4713'"));
    });
}
