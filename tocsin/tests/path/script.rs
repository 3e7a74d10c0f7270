//! A script from the operator's line to the device and back: approved by its hash, hostile in its
//! output, and shown without harm. A real interpreter in a sandbox.

use std::fs;
use std::io::{Read, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::installation::Installation;
use crate::orders::approver;

/// Has the device run scripts in a chroot that holds a shell and nothing else.
fn sandboxed(installation: &Installation, name: &str) {
    let folder = installation.path(name);
    let root = folder.join("root");
    let listed = Command::new("ldd").arg("/bin/sh").output().expect("ldd is installed");
    let listed = String::from_utf8(listed.stdout).expect("text");
    let libraries = listed.split_whitespace().filter(|word| word.starts_with('/'));
    for file in libraries.chain(["/bin/sh"]) {
        let copy = root.join(file.trim_start_matches('/'));
        fs::create_dir_all(copy.parent().unwrap_or(Path::new("/"))).expect("a folder");
        fs::copy(file, copy).expect("a program of the shell");
    }
    fs::create_dir_all(root.join("etc")).expect("a folder");
    let passwd = "nobody:x:65534:65534::/:/usr/sbin/nologin\n";
    fs::write(root.join("etc/passwd"), passwd).expect("an account");
    let config = fs::read_to_string(folder.join("agent.toml")).expect("its configuration");
    let host = format!("arming = \"sandboxed\"\nroot = {root:?}\ndbus = \"\"");
    let config = config.replace("arming = \"simulated\"", &host);
    fs::write(folder.join("agent.toml"), config).expect("its configuration is written");
}

#[test]
fn script_is_approved_by_its_hash_and_its_output_harms_nobody_who_reads_it() {
    let installation = Installation::new();
    let mut device = installation.enroll("web-1");
    sandboxed(&installation, "web-1");
    device.start();
    installation.online("web-1");
    let alice = approver(&installation, "alice");
    let script = installation.path("script").display().to_string();
    let text = "#!/bin/sh\nprintf '\\033[2J%s\\n' \"$1\"\nprintf '=cmd()\\n' >&2\nexit 3\n";
    fs::write(&script, text).expect("a script");

    let refused = ["run-script", "/bin/sh", "web-1", "--reason", "a test", "--yes"];
    assert_eq!(installation.tocsin(&refused).status.code(), Some(1), "that is no script");
    let dry = installation.json(&["run-script", &script, "web-1", "--dry-run"]);
    assert_eq!(dry["approvals_needed"], 1);
    let given = ["run-script", &script, "web-1", "--reason", "a test", "--yes", "--no-wait"];
    let words = ["--json", "--", "; rm -r $HOME"];
    let made = installation.tocsin(&[&given[..], &words].concat()).stdout;
    let made: serde_json::Value = serde_json::from_slice(&made).expect("JSON");
    let (order, command) = (&made["order"]["id"], &made["commands"][0]["id"]);
    let (order, command) = (order.as_str().expect("an id"), command.as_str().expect("an id"));
    assert_eq!(installation.command(command)["state"], "awaiting_approval");
    let passphrase = installation.path("passphrase").display().to_string();
    let sign = ["--key", &alice, "--passphrase-file", &passphrase, "--yes", "--no-wait"];
    let approved = installation.tocsin(&[&["approve", order], &sign[..]].concat());
    let said = String::from_utf8(approved.stderr).expect("text");
    assert!(approved.status.success() && said.contains("| exit 3"), "{said}");

    let story = installation.ended(command);
    assert_eq!(story["state"], "failed", "{story}");
    assert_eq!(story["outcome"]["failure"]["detail"], "exit status 3");
    let evidence = &story["outcome"]["evidence"];
    assert_eq!(evidence["stdout"][0], "\u{fffd}[2J; rm -r $HOME");
    assert_eq!(evidence["stdout_bytes"], 18);
    for verb in [&["proof", command][..], &["command", "show", command], &["commands"]] {
        let shown = installation.tocsin(verb);
        assert!(!shown.stdout.contains(&0x1b), "{verb:?}");
    }
    let shown = String::from_utf8(installation.tocsin(&["proof", command]).stdout).expect("text");
    assert!(shown.contains("stdout_sha256") && shown.contains("signed by the device's key"));
}

/// Reads lines until they have each of those words, in whatever order: outputs are read apart.
fn lines_until(reader: &mut impl Read, words: &[&str]) {
    let mut read = String::new();
    let mut byte = [0];
    while !(read.ends_with('\n') && words.iter().all(|word| read.contains(word))) {
        assert_eq!(reader.read(&mut byte).expect("it says something"), 1, "{words:?} in {read}");
        assert_ne!(byte[0], 0x1b, "after {read}");
        read.push(char::from(byte[0]));
    }
}

#[test]
fn what_a_script_says_is_there_while_it_runs_and_harms_nobody() {
    let installation = Installation::new();
    let mut device = installation.enroll("web-1");
    sandboxed(&installation, "web-1");
    let pipe = installation.path("web-1/root/go");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::from_bits_truncate(0o644)).expect("a pipe");
    // Both ends, so that nobody waits for the other.
    let mut go = fs::File::options().read(true).write(true).open(&pipe).expect("the pipe opens");
    device.start();
    installation.online("web-1");
    let alice = approver(&installation, "alice");
    let script = installation.path("script").display().to_string();
    let text =
        "#!/bin/sh\nprintf 'one\\033[2J\\n'\nprintf 'wrong\\n' >&2\nread -r go < /go\necho two\n";
    fs::write(&script, text).expect("a script");
    let given = ["run-script", &script, "web-1", "--reason", "a test", "--yes", "--no-wait"];
    let made = installation.json(&given);
    let (order, command) = (&made["order"]["id"], &made["commands"][0]["id"]);
    let (order, command) = (order.as_str().expect("an id"), command.as_str().expect("an id"));
    let passphrase = installation.path("passphrase").display().to_string();
    let sign = ["approve", order, "--key", &alice, "--passphrase-file", &passphrase, "--yes"];
    let piped = |line: &[&str]| {
        let mut line = installation.line(line);
        line.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("tocsin starts")
    };
    let mut follows = piped(&sign);
    let mut noted = follows.stderr.take().expect("it is ours");
    lines_until(&mut noted, &["| one", "! wrong"]);
    // The script waits for us: whoever comes now has what it said before.
    let mut watches = piped(&["watch", command]);
    let mut watched = watches.stdout.take().expect("it is ours");
    lines_until(&mut watched, &["| one", "! wrong"]);
    go.write_all(b"go\n").expect("the script reads");
    let mut rest = String::new();
    watched.read_to_string(&mut rest).expect("text");
    assert!(rest.contains("| two") && rest.contains("ran the script"), "{rest}");
    let mut noted_rest = String::new();
    noted.read_to_string(&mut noted_rest).expect("text");
    let output = follows.wait_with_output().expect("it ends");
    let said = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success() && said.contains("ran the script"), "{said}");
    assert!(said.contains("| two") || noted_rest.contains("| two"), "{noted_rest} {said}");
    for text in [rest, noted_rest, said] {
        assert!(!text.contains('\u{1b}'), "{text:?}");
    }
    assert!(watches.wait().expect("it ends").success());
}
