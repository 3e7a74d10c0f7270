//! The README's first five minutes on two machines, with its very lines: two network namespaces
//! that a cable joins.
//!
//! The agent is armed here. Nothing but quarantine and release is ordered, which act on its own
//! network namespace; of this machine it sees copies of /etc, /var/lib and /run, in a mount
//! namespace that ends with the test. Needs root, iproute2 and util-linux.

use std::fs::{self, Permissions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use runtime::Clock;

const TOCSIN: &str = env!("CARGO_BIN_EXE_tocsin");
const README: &str = include_str!("../../README.md");
/// Only against hanging.
const GUARD: Duration = Duration::from_secs(240);
/// How long a connection may take to be refused or to stay silent.
const SILENCE_SECS: &str = "2";

/// The shell blocks of the README's tour.
fn blocks() -> Vec<&'static str> {
    let (_, tour) = README.split_once("\n## Five minutes").expect("the README has a tour");
    let (tour, _) = tour.split_once("\n## ").expect("something follows it");
    tour.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap_or("")).collect()
}

/// The lines of a block without those that build programs: these are built.
fn lines(block: &str) -> Vec<&str> {
    block.lines().filter(|line| !line.starts_with("cargo install ")).collect()
}

fn run(program: &str, args: &str) {
    let output = Command::new(program).args(args.split(' ')).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {args}: {output:?}");
}

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Two machines: `control` and `device`.
struct Machines {
    folder: tempfile::TempDir,
}

impl Machines {
    /// Makes them, in the mount namespace of this thread.
    fn new() -> Self {
        unshare(CloneFlags::CLONE_NEWNS).expect("this test needs root (CAP_SYS_ADMIN)");
        run("mount", "--make-rprivate /");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let this = Self { folder };
        let etc = this.path("etc").display().to_string();
        run("cp", &format!("-a /etc {etc}"));
        run("mount", &format!("--bind {etc} /etc"));
        run("mount", "-t tmpfs tmpfs /var/lib");
        run("mount", "-t tmpfs tmpfs /run");
        for name in ["control", "device"] {
            run("ip", &format!("netns add {name}"));
            fs::create_dir_all(this.path(name)).expect("a home");
            let hosts = Path::new("/etc/netns").join(name);
            fs::create_dir_all(&hosts).expect("a folder in the copy of /etc");
            let known = "127.0.0.1 localhost\n10.78.0.1 control.example\n";
            fs::write(hosts.join("hosts"), known).expect("the names of the machine");
            run("ip", &format!("-n {name} link set lo up"));
            this.programs(name);
        }
        run("ip", "link add wire netns control type veth peer name wire netns device");
        for (name, address) in [("control", "10.78.0.1/24"), ("device", "10.78.0.2/24")] {
            run("ip", &format!("-n {name} addr add {address} dev wire"));
            run("ip", &format!("-n {name} link set wire up"));
        }
        this
    }

    /// The programs of a machine. Its user is root already.
    fn programs(&self, name: &str) {
        let bin = self.path(name).join("bin");
        fs::create_dir_all(&bin).expect("a folder for programs");
        let scripts = [
            ("tocsin", format!("exec {TOCSIN} \"$@\"")),
            ("tocsin-agent", format!("exec {TOCSIN} agent \"$@\"")),
            ("sudo", "exec \"$@\"".to_owned()),
        ];
        for (program, text) in scripts {
            let path = bin.join(program);
            fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("a program");
            fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("it can be run");
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A shell on that machine.
    fn shell(&self, machine: &str, text: &str) -> Command {
        let home = self.path(machine);
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", home.join("bin").display());
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", machine, "bash", "-e", "-c", text])
            .env_clear()
            .env("PATH", path)
            .env("HOME", &home)
            .env("TERM", "dumb")
            .current_dir(&home)
            .stdin(Stdio::null());
        command
    }

    /// Runs lines that have to succeed, and answers what they print.
    fn succeed(&self, machine: &str, text: &str) -> String {
        let output = self.shell(machine, text).output().expect("a shell");
        printed(text, &output)
    }

    /// Runs a line in a terminal, and answers its question with yes.
    fn confirm(&self, machine: &str, line: &str) -> String {
        let line = line.split("  #").next().unwrap_or(line).trim();
        fs::write(self.path(machine).join("line"), line).expect("a script");
        let mut command = self.shell(machine, "exec script -qec 'bash line' /dev/null");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("a terminal");
        child.stdin.take().expect("its input").write_all(b"y\n").expect("an answer");
        printed(line, &child.wait_with_output().expect("it ends"))
    }

    /// Starts a line that goes on.
    fn start(&self, machine: &str, line: &str) -> Running {
        let mut command = self.shell(machine, &format!("exec {line}"));
        Running(command.stdout(Stdio::piped()).spawn().expect("it starts"))
    }

    /// Whether somebody else on the device than its agent reaches the control plane.
    fn others_reach_control(&self) -> bool {
        let connect = "exec 3<>/dev/tcp/control.example/7443";
        let line = format!(
            "setpriv --reuid=65534 --clear-groups timeout {SILENCE_SECS} bash -c '{connect}'"
        );
        self.shell("device", &line).output().expect("a shell").status.success()
    }
}

fn printed(what: &str, output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what}: {}\n{text}{said}", output.status);
    text
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let clock = Clock::system();
    let begin = clock.now();
    while !holds() {
        assert!(clock.now() - begin < GUARD, "waited in vain: {what}");
    }
}

fn tour() {
    let machines = Machines::new();
    let own = fs::read_link("/proc/thread-self/ns/net").expect("a namespace");
    let device = machines.succeed("device", "readlink /proc/self/ns/net");
    assert_ne!(device.trim(), own.display().to_string(), "an armed agent stays off this network");
    let blocks = blocks();
    let [install, sign_in, agent, act] = blocks[..4] else { panic!("other blocks: {blocks:?}") };

    let up = lines(install);
    let mut platform = machines.start("control", up[0]);
    assert_eq!(up.len(), 1, "{up:?}");
    let output = BufReader::new(platform.0.stdout.take().expect("its output"));
    let mut output = output.lines().map(|line| line.expect("text"));
    let printed = output.find(|line| line.trim().starts_with("tocsin login ")).expect("a line");
    let sign_in = lines(sign_in);
    assert_eq!(printed.trim(), sign_in[0], "the README shows what is printed");
    machines.succeed("control", sign_in[0]);
    let made = machines.succeed("control", sign_in[1]);
    let is_token = |word: &&str| word.starts_with("tocsin-enroll-1.");
    let token = made.split_whitespace().find(is_token).expect("an enrollment token");

    let mut agent = lines(agent);
    let last = agent.pop().expect("the agent is started");
    machines.succeed("device", &agent.join("\n").replace("tocsin-enroll-1.…", token));
    let _agent = machines.start("device", last);
    let act = lines(act);
    let [devices, quarantine, release] = act[..] else { panic!("other lines: {act:?}") };
    eventually("the device is online", || {
        machines
            .succeed("control", devices)
            .lines()
            .any(|line| line.contains("web-17") && line.contains("online"))
    });
    eventually("others reach the control plane", || machines.others_reach_control());
    let shown = machines.confirm("control", quarantine);
    assert!(shown.contains("web-17"), "{shown}");
    assert!(!machines.others_reach_control(), "quarantined: {shown}");
    machines.confirm("control", release);
    eventually("others reach the control plane again", || machines.others_reach_control());
}

#[test]
fn tour_of_the_readme_works_on_two_machines_line_by_line() {
    std::thread::spawn(tour).join().unwrap_or_else(|panic| resume_unwind(panic));
}
