//! A root shell of a virtual machine on its second serial line: one line of text asks, one line answers.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::disk::Disk;

/// Runs early, and is ended by nothing that the agent does: it belongs to nobody's session.
const UNIT: &str = "[Unit]
DefaultDependencies=no
IgnoreOnIsolate=yes
After=systemd-remount-fs.service
[Service]
ExecStart=/usr/local/sbin/bench-shell
StandardInput=tty-force
StandardOutput=tty
StandardError=null
TTYPath=/dev/ttyS1
Restart=always
[Install]
WantedBy=sysinit.target
";
const PROGRAM: &str = "#!/bin/sh
stty raw -echo
echo started
while read -r line; do
    said=$(sh -c \"$(echo \"$line\" | base64 --decode)\" 2>&1 < /dev/null)
    code=$?
    printf '%s %s\\n' \"$code\" \"$(printf '%s' \"$said\" | base64 --wrap=0)\"
done
";

/// Puts the shell onto a machine's disk.
pub(super) fn install(disk: &Disk) {
    disk.write("/usr/local/sbin/bench-shell", PROGRAM, 0o755);
    disk.write("/etc/systemd/system/bench-shell.service", UNIT, 0o644);
    disk.offline(&["systemctl", "enable", "bench-shell.service"]);
}

/// The test's end of the line.
#[derive(Debug)]
pub(super) struct Shell(BufReader<UnixStream>);

impl Shell {
    pub(super) fn new(line: UnixStream) -> Self {
        Self(BufReader::new(line))
    }

    /// Waits until the shell of a boot says that it is there.
    pub(super) fn wait_until_started(&mut self) {
        while self.line() != "started" {}
    }

    /// Runs that, and gives its exit code and what it said.
    pub(super) fn run(&mut self, script: &str) -> (i32, String) {
        let asked = STANDARD.encode(script) + "\n";
        self.0.get_mut().write_all(asked.as_bytes()).unwrap();
        let answer = self.line();
        let (code, said) = answer.split_once(' ').unwrap_or((&answer, ""));
        let code = code.parse().unwrap_or_else(|_| panic!("{script}: {answer:?}"));
        let said = STANDARD.decode(said).unwrap();
        (code, String::from_utf8_lossy(&said).into_owned())
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        let length = self.0.read_line(&mut line).unwrap();
        assert!(length > 0, "the machine went off");
        line.trim_end().to_owned()
    }
}
