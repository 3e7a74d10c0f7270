//! A script on a whole system: a service of its own, which the agent's restart does not touch; and the second best
//! where there is no service manager.

use protocol::action::{Action, Refresh, RunScript};
use protocol::receipt::{Evidence, FailureKind, Outcome};
use serde_json::json;

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
                      systemctl show -P TasksMax $unit\ncat /proc/self/oom_score_adj\n";
        let run = RunScript { as_root: true, ..RunScript::of(script, Vec::new(), 600) };
        let receipt = scene.order_script(run, script).await;
        let Outcome::Succeeded { evidence } = receipt.outcome else {
            panic!("{receipt:?}\n{}", scene.machine.journal());
        };
        assert_eq!(evidence.get("confinement"), Some(&"service".into()));
        assert_eq!(evidence.get("account"), Some(&"root".into()));
        let lines: Vec<String> =
            serde_json::from_value(evidence.get("stdout").unwrap().clone()).unwrap();
        assert!(lines[0].starts_with("tocsin-script-"), "{lines:?}");
        assert_eq!(lines[1..], ["256", "500"]);
        assert_eq!(evidence.get("killed_processes"), Some(&1.into()));
        assert!(!scene.machine.succeeds("pgrep -f '^sleep 4713'"));
    });
}

/// What finds the agent, and not those that watch over scripts.
const AGENT: &str = "pgrep -f '^tocsin-agent run'";

fn lines(evidence: &Evidence) -> Vec<String> {
    serde_json::from_value(evidence.get("stdout").unwrap().clone()).unwrap()
}

#[test]
fn armed_agent_without_a_service_manager_bounds_a_script_and_says_how_far() {
    let test = "scripts::armed_agent_without_a_service_manager_bounds_a_script_and_says_how_far";
    on_a_machine(test, || async {
        let mut scene = Scene::new("rescue").await;
        scene.machine.switch_on_without_systemd();
        scene.proven(Action::Refresh(Refresh {})).await;
        for missing in ["/run/systemd/system", "/run/dbus/system_bus_socket"] {
            assert!(!scene.machine.succeeds(&format!("test -e {missing}")), "{missing}");
        }

        // One that nobody is the parent of, in a session of its own.
        let script = "#!/bin/sh\n(setsid sleep 4714 &)\nuntil pgrep -f '^sleep 4714'; do :; done >&2\n\
                      for limit in c n p d; do ulimit -$limit; done\ngrep NoNewPrivs /proc/self/status\n\
                      cat /proc/self/oom_score_adj\n";
        let receipt = scene.order_script(RunScript::of(script, Vec::new(), 60), script).await;
        let Outcome::Succeeded { evidence } = receipt.outcome else { panic!("{receipt:?}") };
        assert_eq!(evidence.get("confinement"), Some(&json!("session")));
        assert_eq!(evidence.get("account"), Some(&json!("nobody")));
        assert_eq!(lines(&evidence), ["0", "1024", "256", "1048576", "NoNewPrivs:    1", "500"]);
        assert_eq!(evidence.get("killed_processes"), Some(&json!(1)));
        assert!(!scene.machine.succeeds("pgrep -f '^sleep 4714'"));

        let script = "#!/bin/sh\necho before\n(setsid sleep 4715 &)\n(sleep 4715 &)\nsleep 4715\n";
        let receipt = scene.order_script(RunScript::of(script, Vec::new(), 2), script).await;
        let Outcome::Failed { failure, evidence } = receipt.outcome else { panic!("{receipt:?}") };
        assert_eq!(failure.kind, FailureKind::Timeout);
        assert_eq!(lines(&evidence), ["before"]);
        assert_eq!(evidence.get("confinement"), Some(&json!("session")));
        assert!(!scene.machine.succeeds("pgrep -f '^sleep 4715'"));
    });
}

#[test]
fn script_without_a_service_manager_outlives_an_agent_that_is_killed_and_alone_is_in_doubt() {
    let test = "scripts::script_without_a_service_manager_outlives_an_agent_that_is_killed_and_alone_is_in_doubt";
    on_a_machine(test, || async {
        let mut scene = Scene::new("rescue").await;
        scene.machine.switch_on_without_systemd();
        let again = format!(
            "agent=$({AGENT})\nkill -KILL $agent\nuntil new=$({AGENT}) && [ $new != $agent ]; do :; done\n"
        );
        // It goes on until the next agent waits for its end.
        let waits = "until grep -qx script /proc/$new/task/*/comm; do :; done";
        let script = format!("#!/bin/sh\necho >> /tmp/effects\n{again}{waits}\necho done\n");
        let run =
            |script: &str| RunScript { as_root: true, ..RunScript::of(script, Vec::new(), 60) };
        let receipt = scene.order_script(run(&script), &script).await;
        let Outcome::Succeeded { evidence } = receipt.outcome else { panic!("{receipt:?}") };
        assert_eq!(evidence.get("confinement"), Some(&json!("session")));
        assert_eq!(lines(&evidence), ["done"]);
        assert_eq!(scene.machine.sh("wc -l < /tmp/effects"), "1");

        // With whoever watched over it nobody knows how it ends.
        let script = format!("#!/bin/sh\necho >> /tmp/effects\nkill -KILL $PPID\n{again}");
        let receipt = scene.order_script(run(&script), &script).await;
        let Outcome::InDoubt { .. } = receipt.outcome else { panic!("{receipt:?}") };
        scene.proven(Action::Refresh(Refresh {})).await;
        assert_eq!(scene.machine.sh("wc -l < /tmp/effects"), "2");
    });
}
