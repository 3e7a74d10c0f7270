//! What a script says while it runs, and how much of it is kept.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Mutex;
use std::thread;

use agent::execute::Executor as _;
use protocol::advance::{Output, Tail};

use crate::scene::{Run, Scene, in_namespaces, lines, processes, until};

/// Says a hundred million bytes and more, and then goes on until a file says that it may end.
const LOUD: &str = "#!/bin/sh\nhead -c 100000000 /dev/zero | tr '\\0' x\nprintf '\\nthe \\033[2Jend\\n'\n\
    echo wrong >&2\nuntil [ -e /tmp/enough ]; do sleep 0.01; done\n";
/// All that it says on standard output.
const SAID: u64 = 100_000_000 + 13;
/// Kilobytes that a supervisor may have taken at its most, its program among them: far less than what went by.
const MOST_KB: u64 = 40_000;

#[test]
fn script_that_says_a_hundred_million_bytes_is_told_on_in_windows_and_fills_no_memory() {
    let test =
        "said::script_that_says_a_hundred_million_bytes_is_told_on_in_windows_and_fills_no_memory";
    in_namespaces(test, || {
        let scene = Scene::new();
        fs::set_permissions(scene.host.path("/tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
        let run = Run::of(LOUD);
        let told: std::sync::Arc<Mutex<Vec<Output>>> = std::sync::Arc::default();
        let heard = told.clone();
        run.task.course.listen(move |advance| {
            assert!(advance.is_sound(), "{advance:?}");
            heard.lock().unwrap().extend(advance.output);
        });
        thread::scope(|agents| {
            let applied = agents.spawn(|| run.executor.apply(&scene.host, &run.task));
            // Each output is read on its own: the end of one may be told before the other's.
            let is_all = |output: &Output| {
                output.stdout.as_ref().map(Tail::end) == Some(SAID) && output.stderr.is_some()
            };
            until("all of it is told", || told.lock().unwrap().last().is_some_and(is_all));
            let [supervisor] = processes("supervise")[..] else { panic!("one supervisor") };
            let taken = most_kb(supervisor);
            assert!(taken < MOST_KB, "{taken} kB");
            fs::write(scene.host.path("/tmp/enough"), "").unwrap();
            applied.join().unwrap().unwrap();
        });
        let told = told.lock().unwrap();
        let ends: Vec<_> =
            told.iter().filter_map(|said| Some(said.stdout.as_ref()?.end())).collect();
        assert!(ends.is_sorted(), "{ends:?}");
        let last = told.last().unwrap();
        let bytes = &last.stdout.as_ref().unwrap().bytes;
        assert!(bytes.ends_with(b"x\nthe \x1b[2Jend\n"), "as it is");
        assert_eq!(last.stderr, Some(Tail { from: 0, bytes: b"wrong\n".to_vec() }));
        let evidence = run.executor.prove(&scene.host, &run.task).unwrap();
        assert_eq!(evidence.get("stdout_bytes"), Some(&SAID.into()));
        assert_eq!(lines(&evidence, "stdout"), ["x".repeat(199) + "…"]);
        assert_eq!(lines(&evidence, "stdout_last"), ["the \u{fffd}[2Jend"]);
        assert!(evidence.get("stderr_last").is_none(), "{evidence:?}");
    });
}

/// The most memory that a process had (`proc_pid_status(5)`).
fn most_kb(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix("kB").unwrap().trim().parse().unwrap()
}
