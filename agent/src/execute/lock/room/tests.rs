//! Who counts as a person who is locked out.

use super::*;
use crate::execute::fixtures::Sandbox;

fn guests() -> Guests {
    let account = |name: &str, uid| Account { name: name.to_owned(), uid };
    Guests {
        accounts: vec![account("root", 0), account("rescue", 1900), account("alice", 1001)],
        break_glass: BTreeSet::from([1900]),
        greeters: BTreeSet::from([118]),
        own_slice: None,
    }
}

fn process(uid: u32, cgroup: &str) -> Process {
    Process { pid: 4242, uid, cgroup: format!("0::{cgroup}\n") }
}

#[test]
fn people_go_and_services_stay() {
    let cases = [
        (1001, "/user.slice/user-1001.slice/session-3.scope", true),
        (1001, "/", true),
        (1001, "/system.slice/cron.service", true),
        (0, "/user.slice/user-1001.slice/session-3.scope", true),
        (0, "/user.slice/user-0.slice/session-1.scope", true),
        (0, "/system.slice/ssh.service", false),
        (0, "/", false),
        (33, "/system.slice/apache2.service", false),
        (33, "/user.slice/user-33.slice/session-9.scope", true),
        (118, "/user.slice/user-118.slice/session-c1.scope", false),
        (1900, "/user.slice/user-1900.slice/session-4.scope", false),
        (0, "/user.slice/user-1900.slice/session-4.scope", false),
        (1001, "/user.slice/user-1900.slice/session-4.scope", true),
        (65_534, "/system.slice/some.service", false),
        (61_200, "/system.slice/dynamic.service", false),
        (1_668_800_500, "/user.slice/user-1668800500.slice/session-5.scope", true),
        (1_668_800_500, "/", true),
        (100_033, "/system.slice/docker-abc.scope", false),
        (100_033, "/user.slice/user-1001.slice/user@1001.service/app.slice/x.scope", true),
    ];
    for (uid, cgroup, expected) in cases {
        assert_eq!(guests().is_guest(&process(uid, cgroup)), expected, "{uid} in {cgroup}");
    }
}

#[test]
fn the_slice_in_which_the_agent_runs_is_left() {
    let guests = Guests { own_slice: Some(0), ..guests() };
    assert!(!guests.is_guest(&process(0, "/user.slice/user-0.slice/session-1.scope")));
    assert!(guests.is_guest(&process(1001, "/user.slice/user-0.slice/session-1.scope")));
}

#[test]
fn slices_of_locked_users_are_killed_at_once() {
    let sandbox = Sandbox::new();
    let switch = |uid: u32| format!("/sys/fs/cgroup/user.slice/user-{uid}.slice/cgroup.kill");
    let switches = [0, 118, 1001, 1900].map(|uid| sandbox.write(&switch(uid), ""));
    kill_slices(&sandbox.host, &guests());
    let written = switches.map(|path| fs::read_to_string(path).unwrap());
    assert_eq!(written, ["1", "", "1", ""], "root, greeter, alice, break-glass");
}

#[test]
fn people_of_a_directory_are_known_by_their_slices() {
    let sandbox = Sandbox::new();
    for uid in [0, 118, 1001, 1900, 12_001] {
        sandbox.write(&format!("/sys/fs/cgroup/user.slice/user-{uid}.slice/cgroup.procs"), "");
    }
    assert_eq!(guests().strangers(&sandbox.host, None), ["12001"]);
}
