//! Which executor serves which action, and that an unarmed host has none with an effect.

use protocol::action::{
    Action, Credential, Lock, LockLevel, Plan, Quarantine, Reboot, Refresh, Release, SelectiveWipe,
    Unlock, Verb, Wipe, WipeLevel,
};

use super::{executor, fixtures};
use crate::host::Arming;

fn actions() -> Vec<Action> {
    let wipe = Action::Wipe(Wipe { level: WipeLevel::Keys, power_off: true });
    vec![
        Action::Lock(Lock { level: LockLevel::Session, message: None }),
        Action::Unlock(Unlock {}),
        Action::Quarantine(Quarantine { allow: Vec::new(), resolver: false, until: None }),
        Action::Release(Release {}),
        wipe.clone(),
        Action::SelectiveWipe(SelectiveWipe {}),
        Action::Plan(Plan { of: Box::new(wipe) }),
        Action::Reboot(Reboot {}),
        protocol::fixture::run_script().0,
        protocol::fixture::collect_evidence(),
        protocol::fixture::rotate(Credential::Volumes),
        protocol::fixture::crypto_lock(),
        Action::Refresh(Refresh {}),
    ]
}

#[test]
fn every_verb_has_an_executor_of_its_own() {
    let executed = || Verb::ALL.into_iter().filter(|verb| !verb.is_about_orders());
    assert!(actions().iter().map(Action::verb).eq(executed()));
    let names: std::collections::BTreeSet<String> =
        actions().iter().map(|action| format!("{:?}", executor(action, Arming::Armed))).collect();
    assert_eq!(names.len(), executed().count());
}

#[test]
fn unarmed_host_gets_one_line_per_action_and_nothing_else() {
    let sandbox = fixtures::Sandbox::new();
    // A plan has no effect anywhere.
    let acting = actions().into_iter().filter(|action| action.verb() != Verb::Plan);
    for (number, action) in (1..).zip(acting) {
        let (executor, task) = (executor(&action, Arming::Simulated), fixtures::task(number));
        executor.plan(&sandbox.host, &task).unwrap();
        executor.apply(&sandbox.host, &task).unwrap();
        let evidence = executor.prove(&sandbox.host, &task).unwrap();
        assert_eq!(evidence.get("simulated"), Some(&true.into()));
        assert_eq!(executor.afterwards(), super::Afterwards::Nothing);
    }
    let files: Vec<_> = std::fs::read_dir(&sandbox.host.state_dir).unwrap().collect();
    assert_eq!(files.len(), 1);
    assert!(std::fs::read_dir(&sandbox.host.root).unwrap().next().is_none());
}
