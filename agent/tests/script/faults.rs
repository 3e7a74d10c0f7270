//! What can go wrong with a script, injected for real; what the receipt says then.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;

use agent::execute::{Executor as _, Recovery};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use protocol::receipt::FailureKind;

use crate::scene::{PLACE, Run, Scene, in_namespaces, lines, mount, processes, text, until};

/// Counts itself, and then goes on until a file says that it may end.
const PATIENT: &str =
    "#!/bin/sh\necho >> /tmp/effects\nuntil [ -e /tmp/enough ]; do sleep 0.01; done\necho done\n";

/// A scene whose scripts may write to its `/tmp`.
fn open_scene() -> Scene {
    let scene = Scene::new();
    let tmp = scene.host.path("/tmp");
    fs::set_permissions(tmp, std::os::unix::fs::PermissionsExt::from_mode(0o1777)).unwrap();
    scene
}

#[test]
fn script_beyond_its_budget_is_killed_with_all_that_it_started() {
    in_namespaces("faults::script_beyond_its_budget_is_killed_with_all_that_it_started", || {
        let script = "#!/bin/sh\necho before\nsetsid sleep 4712 &\nsleep 4712\n";
        let mut budget_secs = 1;
        loop {
            let scene = Scene::new();
            let run = Run::with(script, |run| run.budget_secs = budget_secs);
            let failure = run.carry_out(&scene).unwrap_err();
            let how = (failure.kind, failure.stage.as_str());
            assert_eq!(
                how,
                (FailureKind::Timeout, "apply"),
                "{failure:?}: {:?}",
                run.remains(&scene)
            );
            assert_eq!(processes("4712"), Vec::<i32>::new());
            let said = lines(&run.remains(&scene), "stdout");
            // On a busy machine it may not have come so far as to say something.
            if !said.is_empty() || budget_secs > 100 {
                assert_eq!(said, ["before"]);
                break;
            }
            budget_secs *= 2;
        }
    });
}

#[test]
fn exit_status_and_signal_are_failures_with_all_that_was_seen() {
    in_namespaces("faults::exit_status_and_signal_are_failures_with_all_that_was_seen", || {
        let scene = Scene::new();
        let run = Run::of("#!/bin/sh\necho out\necho err >&2\nexit 3\n");
        let failure = run.carry_out(&scene).unwrap_err();
        assert_eq!((failure.kind, failure.detail.as_str()), (FailureKind::Tool, "exit status 3"));
        let remains = run.remains(&scene);
        assert_eq!(remains.get("exit_status"), Some(&3.into()));
        assert_eq!(
            (lines(&remains, "stdout"), lines(&remains, "stderr")),
            (vec!["out".to_owned()], vec!["err".to_owned()])
        );

        let scene = Scene::new();
        let run = Run::of("#!/bin/sh\nkill -TERM $$\n");
        assert_eq!(run.carry_out(&scene).unwrap_err().detail, "killed by signal 15");
    });
}

#[test]
fn what_is_missing_is_said_before_anything_is_begun() {
    in_namespaces("faults::what_is_missing_is_said_before_anything_is_begun", || {
        let mut scene = Scene::new();
        let precondition = |scene: &Scene, run: &Run, word: &str| {
            let failure = run.carry_out(scene).unwrap_err();
            assert_eq!(failure.kind, FailureKind::Precondition);
            assert!(failure.detail.contains(word), "{}", failure.detail);
            assert!(!scene.host.path(PLACE).exists());
        };
        precondition(&scene, &Run::of("#!/usr/bin/no-such-program\n"), "no-such-program");
        let mut other = Run::of("#!/bin/sh\n");
        other.task.script = Some("#!/bin/sh\necho something else\n".to_owned());
        precondition(&scene, &other, "no script of that hash");
        scene.host.scripts.account = "toby".to_owned();
        precondition(&scene, &Run::of("#!/bin/sh\n"), "toby");
        scene.host.scripts.account = "nobody".to_owned();
        scene.host.scripts.supervisor = None;
        precondition(&scene, &Run::of("#!/bin/sh\n"), "own program");
    });
}

#[test]
fn interpreter_that_cannot_be_started_is_no_effect() {
    in_namespaces("faults::interpreter_that_cannot_be_started_is_no_effect", || {
        let scene = Scene::new();
        let run = Run::of("#!/etc/passwd\n");
        let failure = run.carry_out(&scene).unwrap_err();
        assert_eq!((failure.kind, failure.stage.as_str()), (FailureKind::Precondition, "apply"));
    });
}

#[test]
fn disk_that_takes_nothing_is_said_and_nothing_begins() {
    in_namespaces("faults::disk_that_takes_nothing_is_said_and_nothing_begins", || {
        let scene = open_scene();
        let run = scene.host.path("/run");
        mount(&["-t", "tmpfs", "-o", "ro", "tmpfs", text(&run)]);
        let read_only = Run::of(PATIENT).carry_out(&scene).unwrap_err();
        assert_eq!((read_only.kind, read_only.stage.as_str()), (FailureKind::Io, "apply"));
        mount(&["-t", "tmpfs", "-o", "nr_inodes=5", "tmpfs", text(&run)]);
        let full = Run::of(PATIENT);
        let failure = full.carry_out(&scene).unwrap_err();
        assert_eq!((failure.kind, failure.stage.as_str()), (FailureKind::Io, "apply"));
        assert!(matches!(full.executor.recover(&scene.host, &full.task), Recovery::InDoubt));
        assert_eq!(scene.effects(), 0);
    });
}

#[test]
fn agent_that_starts_again_finds_the_script_at_work_and_begins_no_other() {
    in_namespaces(
        "faults::agent_that_starts_again_finds_the_script_at_work_and_begins_no_other",
        || {
            let scene = open_scene();
            let run = Run::of(PATIENT);
            thread::scope(|agents| {
                let former = agents.spawn(|| run.executor.apply(&scene.host, &run.task));
                until("the script runs", || scene.effects() == 1);
                let found = run.executor.recover(&scene.host, &run.task);
                assert!(matches!(found, Recovery::Apply), "{found:?}");
                let next = agents.spawn(|| run.executor.apply(&scene.host, &run.task));
                fs::write(scene.host.path("/tmp/enough"), "").unwrap();
                next.join().unwrap().unwrap();
                former.join().unwrap().unwrap();
            });
            let found = run.executor.recover(&scene.host, &run.task);
            assert!(matches!(found, Recovery::Applied), "{found:?}");
            let evidence = run.executor.prove(&scene.host, &run.task).unwrap();
            assert_eq!(lines(&evidence, "stdout"), ["done"]);
            assert_eq!(scene.effects(), 1);
        },
    );
}

#[test]
fn supervisor_that_is_killed_leaves_the_script_in_doubt() {
    in_namespaces("faults::supervisor_that_is_killed_leaves_the_script_in_doubt", || {
        let scene = open_scene();
        let run = Run::of(PATIENT);
        thread::scope(|agents| {
            let applied = agents.spawn(|| run.executor.apply(&scene.host, &run.task));
            until("the script runs", || scene.effects() == 1);
            for pid in processes("supervise") {
                kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
            }
            let lost = applied.join().unwrap().unwrap_err();
            assert_eq!((lost.kind, lost.stage.as_str()), (FailureKind::NotProven, "apply"));
        });
        let found = run.executor.recover(&scene.host, &run.task);
        assert!(matches!(found, Recovery::InDoubt), "{found:?}");
        // Nor does any supervisor that comes late begin it again.
        supervise(&scene, &run);
        assert_eq!(scene.effects(), 1);
        fs::write(scene.host.path("/tmp/enough"), "").unwrap();
    });
}

#[test]
fn supervisor_that_does_not_begin_is_a_failure_and_one_that_comes_late_does_nothing() {
    let test =
        "faults::supervisor_that_does_not_begin_is_a_failure_and_one_that_comes_late_does_nothing";
    in_namespaces(test, || {
        let mut scene = open_scene();
        let own = scene.host.scripts.supervisor.replace("/bin/false".into());
        let run = Run::of(PATIENT);
        let failure = run.carry_out(&scene).unwrap_err();
        assert_eq!((failure.kind, failure.stage.as_str()), (FailureKind::Tool, "apply"));
        scene.host.scripts.supervisor = own;
        supervise(&scene, &run);
        assert_eq!(scene.effects(), 0);
    });
}

/// A supervisor of that script, started by hand, to its end.
fn supervise(scene: &Scene, run: &Run) {
    let folder = Path::new(PLACE).join(run.task.command_id.to_string());
    assert!(scene.folder(&run.task).exists());
    let status = Command::new(scene.host.scripts.supervisor.as_ref().unwrap())
        .arg("supervise")
        .arg(folder)
        .arg("--root")
        .arg(&scene.host.root)
        .status();
    assert!(status.unwrap().success());
}

/// Leaves that behind, and ends.
fn leaving(perl: &str) -> String {
    format!(
        "#!/usr/bin/perl\nuse POSIX;\n$| = 1;\nmy $p = fork;\n\
         if (defined $p && !$p) {{ {perl} }}\nselect undef, undef, undef, 0.2;\nprint \"began\\n\";"
    )
}

#[test]
fn hostile_processes_that_fork_faster_than_they_are_looked_for_are_killed_all_the_same() {
    let test = "faults::hostile_processes_that_fork_faster_than_they_are_looked_for_are_killed_all_the_same";
    in_namespaces(test, || {
        for hostile in [
            // Whoever is seen is gone by then, and its child has another number and no parent.
            "for (1..8) { fork } setsid; while (1) { exit if fork; }",
            // As many as its account may have, each of which replaces whoever goes.
            "setsid; while (1) { fork; setsid; }",
            // Those that are stopped are woken by the others.
            "for (1..4) { fork } setsid; while (1) { fork; kill 'CONT', -1; }",
        ] {
            let mut scene = open_scene();
            // The kernel counts processes of a user over all namespaces: those of `nobody` are other tests' too.
            scene.host.scripts.account = "swarm".to_owned();
            let run = Run::of(&leaving(hostile));
            let evidence = run.succeed(&scene);
            assert_eq!(lines(&evidence, "stdout"), ["began"]);
            let killed = evidence.get("killed_processes").and_then(serde_json::Value::as_u64);
            assert!(killed.is_some_and(|killed| killed > 0), "{hostile}: {evidence:?}");
            let left = processes(&run.task.command_id.to_string());
            assert_eq!(left, Vec::<i32>::new(), "{hostile}");
        }
    });
}

#[test]
fn whoever_cannot_be_seen_is_killed_where_there_are_control_groups() {
    in_namespaces(
        "faults::whoever_cannot_be_seen_is_killed_where_there_are_control_groups",
        || {
            let script = "#!/bin/sh\nsetsid sleep 4714 >/dev/null 2>&1 &\necho started\n";
            let scene = Scene::new();
            let all = scene.host.path("/sys/fs/cgroup");
            fs::create_dir_all(&all).unwrap();
            mount(&["-t", "cgroup2", "cgroup2", all.to_str().unwrap()]);
            // A group of this test's own, so that whatever else makes groups meanwhile makes them elsewhere.
            let groups = fs::read_to_string("/proc/self/cgroup").unwrap();
            let former =
                all.join(groups.lines().find_map(|line| line.strip_prefix("0::/")).unwrap());
            let own = former.join(scene.host.root.parent().unwrap().file_name().unwrap());
            let enter = |group: &Path| fs::write(group.join("cgroup.procs"), "0").unwrap();
            fs::create_dir(&own).unwrap();
            enter(&own);
            // Nobody who looks sees a process there.
            mount(&["-t", "tmpfs", "tmpfs", scene.host.path("/proc").to_str().unwrap()]);
            let evidence = Run::of(script).carry_out(&scene);
            enter(&former);
            let evidence = evidence.unwrap();
            assert_eq!(lines(&evidence, "stdout"), ["started"]);
            assert_eq!(processes("4714"), Vec::<i32>::new());
            assert_eq!(evidence.get("killed_processes"), Some(&serde_json::Value::Null));
            // A group with another one in it does not go.
            fs::remove_dir(own).unwrap();
        },
    );
}
