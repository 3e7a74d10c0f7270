//! The offline code of a lock: it unlocks as an order would, and a power cut in between is made good.

use std::process::Command;
use std::time::Duration;

use agent::execute::Executor as _;
use agent::execute::lock;
use agent::offline::{Answer, Effect, Moment, end};
use protocol::action::LockLevel;
use protocol::fixture::{Organisation, device};
use protocol::id::BootId;
use protocol::offline::OfflineSecret;
use runtime::Clock;

use crate::sandbox::{Sandbox, in_namespaces, task};
use crate::{locking, unlocking};

/// A task whose envelope carries the commitment to that secret's code of device 1.
/// That order, which the device knows by a code of that secret.
fn task_with_code(number: u8, secret: &OfflineSecret) -> agent::execute::Task {
    let organisation = Organisation::new();
    let mut envelope = organisation.envelope(number, protocol::fixture::lock(), device(1), 1);
    let code = secret.code(&device(1));
    envelope.manifest.offline_codes.insert(device(1), code.commitment(&device(1)));
    let envelope = organisation.deliver(&envelope, 0).jws.as_str().to_owned();
    agent::execute::Task { envelope, ..task() }
}

fn try_code(sandbox: &Sandbox, code: &str) -> Answer {
    let now = Clock::system().now();
    let at = task().started_at;
    let boot_id = BootId::new(at, [1; 10]);
    end(&sandbox.host, Effect::Lock, code, Moment { since: now, now, at, boot_id })
}

#[test]
fn a_code_unlocks_exactly_and_its_order_locks_no_more() {
    in_namespaces("offline::a_code_unlocks_exactly_and_its_order_locks_no_more", || {
        let sandbox = Sandbox::new();
        let (secret, lock) = (OfflineSecret::new([1; 32]), locking(LockLevel::Session));
        let task = task_with_code(1, &secret);
        let before = sandbox.tree();
        let right = secret.code(&device(1)).reveal();
        assert_eq!(try_code(&sandbox, &right), Answer::Absent);
        lock.apply(&sandbox.host, &task).unwrap();
        let wrong = OfflineSecret::new([2; 32]).code(&device(1)).reveal();
        assert!(matches!(try_code(&sandbox, &wrong), Answer::Wrong { wait_secs: 2, .. }));
        assert_eq!(try_code(&sandbox, &right), Answer::Wait { wait_secs: 2 });
        assert!(!sandbox.permits("login", "alice"));
        // What cannot be counted is not looked at.
        let remount = |how| {
            let base = sandbox.base();
            let done = Command::new("mount").args(["-o", how]).arg(base).status().unwrap();
            assert!(done.success());
        };
        remount("remount,ro");
        let later = |secs| {
            let since = Clock::system().now();
            let (now, at) = (since + Duration::from_secs(secs), task.started_at);
            Moment { since, now, at, boot_id: BootId::new(at, [1; 10]) }
        };
        let uncounted = end(&sandbox.host, Effect::Lock, &wrong, later(2));
        assert!(matches!(uncounted, Answer::Failed { .. }), "{uncounted:?}");
        remount("remount,rw");
        let ended = end(&sandbox.host, Effect::Lock, &right, later(2));
        assert_eq!(ended, Answer::Ended { command_id: task.command_id });
        let mut after = sandbox.tree();
        let record = sandbox.host.state_dir.join("offline.json");
        after.retain(|path, _| *path != record);
        assert_eq!(after, before, "nothing is left but the record of the use");
        assert!(sandbox.permits("login", "alice") && !sandbox.permits("login", "bob"));

        let again = lock.apply(&sandbox.host, &task).unwrap_err();
        assert!(again.detail.contains("offline code"), "{again:?}");
        assert!(sandbox.permits("login", "alice"));
        // Nor under the name of another command.
        let renamed = agent::execute::Task { command_id: protocol::fixture::command(8), ..task };
        let again = lock.apply(&sandbox.host, &renamed).unwrap_err();
        assert!(again.detail.contains("offline code"), "{again:?}");
        // Another order locks all the same, and the old code opens nothing of it.
        let other = agent::execute::Task {
            command_id: protocol::fixture::command(9),
            ..task_with_code(9, &OfflineSecret::new([3; 32]))
        };
        lock.apply(&sandbox.host, &other).unwrap();
        assert!(matches!(try_code(&sandbox, &right), Answer::Wrong { .. }));
        unlocking().apply(&sandbox.host, &other).unwrap();
        assert!(lock::current(&sandbox.host).unwrap().is_none());
    });
}
