//! Scripts, run for real: real interpreters in a chroot, the real supervisor, real kills.

#![expect(clippy::unwrap_used, reason = "a test whose scene cannot be set should stop there")]

use std::fs;

use nix::fcntl::FcntlArg;
use protocol::receipt::FailureKind;

use scene::{Run, Scene, in_namespaces, lines, processes};

#[path = "script/faults.rs"]
mod faults;
#[path = "support/namespaces.rs"]
mod namespaces;
#[path = "script/said.rs"]
mod said;
#[path = "script/scene.rs"]
mod scene;
#[path = "support"]
mod support {
    pub(crate) mod host;
}

#[test]
fn words_reach_the_script_as_they_are_and_no_shell_reads_them() {
    in_namespaces("words_reach_the_script_as_they_are_and_no_shell_reads_them", || {
        let scene = Scene::new();
        let words = ["; echo pwned", "$(id)", "`id`", "a  b", "", "-n", "*", "'\"\\"];
        let script = "#!/bin/sh\nfor word; do printf '[%s]\\n' \"$word\"; done\n";
        let run = Run::with(script, |run| run.args = words.map(str::to_owned).to_vec());
        let evidence = run.succeed(&scene);
        let shown: Vec<_> = words.iter().map(|word| format!("[{word}]")).collect();
        assert_eq!(lines(&evidence, "stdout"), shown);
        assert_eq!(evidence.get("exit_status"), Some(&0.into()));
        assert_eq!(evidence.get("confinement"), Some(&"session".into()));
    });
}

#[test]
fn script_inherits_neither_descriptors_nor_environment() {
    in_namespaces("script_inherits_neither_descriptors_nor_environment", || {
        let scene = Scene::new();
        // One of this program, which every exec closes, and one that whoever started it left open.
        let journal = fs::File::open("/proc/self/status").unwrap();
        let inherited = nix::fcntl::fcntl(&journal, FcntlArg::F_DUPFD(20)).unwrap();
        assert!(inherited >= 20);
        // The interpreter is `ls` itself: what it has open beside its folder was handed to it.
        let run = Run::of("#!/bin/ls /proc/self/fd\n");
        let seen = lines(&run.succeed(&scene), "stdout");
        let open: Vec<_> = seen.iter().filter(|line| line.parse::<u32>().is_ok()).collect();
        assert_eq!(open, ["0", "1", "2", "3"]);
        let seen = lines(&Run::of("#!/bin/sh\nenv\n").succeed_at(&scene, 2), "stdout");
        // PWD and its like are the shell's own.
        let handed: Vec<_> = seen.iter().filter(|line| !line.starts_with("PWD=")).collect();
        let known = ["HOME=/", "LC_ALL=C.UTF-8", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"];
        let mut handed: Vec<_> = handed.iter().map(|line| line.as_str()).collect();
        handed.retain(|line| !line.starts_with("OLDPWD=") && !line.starts_with("_="));
        handed.sort_unstable();
        assert_eq!(handed, known);
    });
}

#[test]
fn script_runs_as_an_account_that_is_nobody_else_and_gains_nothing() {
    in_namespaces("script_runs_as_an_account_that_is_nobody_else_and_gains_nothing", || {
        let scene = Scene::new();
        let script = "#!/bin/sh\nid -u; id -G; grep NoNewPrivs /proc/self/status; umask 077\n\
                      ls -A | wc -l; stat -c '%a %u' \"$0\"; chmod 700 \"$0\"; touch mine && \
                      echo writes; cat ../order; ls ..\n";
        let run = Run::of(script);
        let failure = run.carry_out(&scene).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Tool, "the last word was forbidden");
        let remains = run.remains(&scene);
        let seen = lines(&remains, "stdout");
        assert_eq!(seen, ["65534", "65534", "NoNewPrivs:    1", "0", "440 0", "writes"]);
        assert_eq!(lines(&remains, "stderr").len(), 3, "{remains:?}");
        assert_eq!(remains.get("account"), Some(&"nobody".into()));
        let run = Run::with("#!/bin/sh\nid -u\n", |run| run.as_root = true);
        assert_eq!(lines(&run.succeed_at(&scene, 2), "stdout"), ["0"]);
    });
}

#[test]
fn script_goes_before_others_when_memory_runs_short_and_its_supervisor_does_not() {
    let test = "script_goes_before_others_when_memory_runs_short_and_its_supervisor_does_not";
    in_namespaces(test, || {
        let scene = Scene::new();
        let own = fs::read_to_string("/proc/self/oom_score_adj").unwrap();
        // Of the script, of what it starts, and of whoever watches over it, as soon as that has its own again.
        let script = format!(
            "#!/bin/sh\nuntil [ \"$(cat /proc/$PPID/oom_score_adj)\" = {} ]; do :; done\n\
             for who in self self $PPID; do cat /proc/$who/oom_score_adj; done\n",
            own.trim()
        );
        let seen = lines(&Run::of(&script).succeed(&scene), "stdout");
        assert_eq!(seen, ["500", "500", own.trim()]);
    });
}

#[test]
fn all_that_a_script_started_ends_with_it() {
    in_namespaces("all_that_a_script_started_ends_with_it", || {
        let scene = Scene::new();
        // One in its group, one in a session of its own, one that nobody is the parent of.
        let script = "#!/bin/sh\nsleep 4711 & setsid sleep 4711 & (setsid sleep 4711 &)\n\
                      until [ $(pgrep -fc '^sleep 4711') -ge 3 ]; do :; done\necho began\n";
        let evidence = Run::of(script).succeed(&scene);
        assert_eq!(lines(&evidence, "stdout"), ["began"]);
        assert_eq!(evidence.get("killed_processes"), Some(&3.into()));
        assert_eq!(processes("4711"), Vec::<i32>::new());
    });
}

impl Run {
    /// As another command.
    fn succeed_at(mut self, scene: &Scene, number: u8) -> protocol::receipt::Evidence {
        let script = self.task.script.take();
        self.task = agent::execute::Task { script, ..support::host::task(number) };
        self.succeed(scene)
    }
}
