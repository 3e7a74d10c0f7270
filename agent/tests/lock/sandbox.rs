//! A private endpoint for the lock's tests: its own mount and process namespace, its own `/etc`,
//! and the machine's real libpam, `su` and `pamtester` inside a chroot.
//!
//! What a test needs and does not find makes it fail with a text that says what is missing.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use agent::addresses::AddressBook;
use agent::execute::Task;
use agent::execute::course::Course;
use agent::execute::quarantine::Firewall;
use agent::host::{Arming, Ground, Host, Power, Psids, ScriptConfig, Superuser, WipedTpm};
use protocol::id::CommandId;
use protocol::time::Timestamp;

use crate::namespaces;
use crate::tree::{Tree, walk};

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh
www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin
sshd:x:110:65534::/run/sshd:/usr/sbin/nologin
alice:x:1001:1001::/home/alice:/bin/sh
bob:x:1002:1002::/home/bob:/bin/sh
carol:x:1003:1003::/home/carol:/bin/sh
rescue:x:1900:1900:break-glass:/home/rescue:/bin/sh
resc:x:1901:1901:a prefix of break-glass:/home/resc:/bin/sh
";
const SHADOW: &str = "root:*:19000:0:99999:7:::
www-data:*:19000:0:99999:7:::
sshd:!:19000::::::
alice:$6$a$a:19000:0:99999:7:::
bob:!$6$b$b:19000:0:99999:7::1:
carol:!:19000:0:99999:7:30:40000:
rescue:$6$r$r:19000:0:99999:7:::
resc:$6$r$r:19000:0:99999:7:::
";
const GROUP: &str = "root:x:0:
www-data:x:33:
shadow:x:42:
alice:x:1001:
bob:x:1002:
carol:x:1003:
rescue:x:1900:
resc:x:1901:
";
/// A user that only a directory knows: the name service switch finds it, `/etc/passwd` does not.
const DIRECTORY_PASSWD: &str = "frank:x:12001:12001::/home/frank:/bin/sh\n";
const DIRECTORY_SHADOW: &str = "frank:$6$f$f:19000:0:99999:7:::\n";
const NSSWITCH: &str = "passwd: files extrausers\ngroup: files\nshadow: files extrausers\n";
/// Debian's `/etc/pam.d/sshd`, shortened to the part that counts here.
const SSHD: &str = "@include common-auth
account    required     pam_nologin.so
@include common-account
@include common-session
@include common-password
";
/// A service that asks nothing and includes nothing.
const KIOSK: &str = "auth required pam_permit.so\naccount required pam_permit.so\n";

/// Runs a test's body in mount, process and control-group namespaces of its own.
pub(crate) fn in_namespaces(test: &str, body: impl FnOnce()) {
    namespaces::in_namespaces(&["--mount", "--pid", "--cgroup"], test, body);
}

/// One endpoint. Its processes die with the test's process namespace.
#[derive(Debug)]
pub(crate) struct Sandbox {
    pub(crate) host: Host,
    base: PathBuf,
}

impl Sandbox {
    /// A fresh Debian-like endpoint.
    pub(crate) fn new() -> Self {
        for (program, package) in [
            ("/usr/bin/pamtester", "pamtester"),
            ("/usr/bin/strace", "strace"),
            ("/usr/bin/dbus-daemon", "dbus-daemon"),
            ("/usr/bin/su", "util-linux"),
            ("/usr/sbin/chroot", "coreutils"),
            ("/usr/sbin/sshd", "openssh-server"),
            ("/usr/bin/ssh", "openssh-client"),
        ] {
            let is_there = Path::new(program).exists();
            assert!(is_there, "the lock's tests need {program} (Debian package {package})");
        }
        // The folder is in a mount namespace that ends with the test.
        let base = tempfile::tempdir().unwrap().keep();
        run("mount", &["-t", "tmpfs", "tocsin-lock", path(&base)]);
        let host = host(&base);
        fs::create_dir_all(&host.state_dir).unwrap();
        let sandbox = Self { host, base };
        sandbox.mount_system();
        sandbox.write_etc();
        sandbox
    }

    fn mount_system(&self) {
        for folder in ["etc", "run", "tmp", "home", "root", "proc", "dev", "usr", "var/lib"] {
            fs::create_dir_all(self.host.path("/").join(folder)).unwrap();
        }
        run("mount", &["--bind", "/usr", path(&self.host.path("/usr"))]);
        run("mount", &["--bind", "/dev", path(&self.host.path("/dev"))]);
        run("mount", &["-t", "proc", "proc", path(&self.host.path("/proc"))]);
        symlink("/run", self.host.path("/var/run")).unwrap();
        for name in ["bin", "sbin", "lib", "lib32", "lib64"] {
            let own = Path::new("/").join(name);
            let inside = self.host.path(&own);
            match fs::read_link(&own) {
                Ok(target) => symlink(target, inside).unwrap(),
                Err(_) if own.is_dir() => {
                    fs::create_dir(&inside).unwrap();
                    run("mount", &["--bind", path(&own), path(&inside)]);
                }
                Err(_) => {}
            }
        }
    }

    fn write_etc(&self) {
        let etc = self.host.path("/etc");
        for name in ["pam.d", "security", "login.defs", "ld.so.cache"] {
            run("cp", &["-a", &format!("/etc/{name}"), path(&etc)]);
        }
        self.write("/etc/passwd", PASSWD, 0o644);
        self.write("/etc/group", GROUP, 0o644);
        self.write("/etc/shadow", SHADOW, 0o640);
        std::os::unix::fs::chown(etc.join("shadow"), Some(0), Some(42)).unwrap();
        self.write("/etc/nsswitch.conf", NSSWITCH, 0o644);
        self.write("/etc/.pwd.lock", "", 0o600);
        self.write("/etc/pam.d/sshd", SSHD, 0o644);
        self.write("/etc/pam.d/kiosk", KIOSK, 0o600);
        self.write("/var/lib/extrausers/passwd", DIRECTORY_PASSWD, 0o644);
        self.write("/var/lib/extrausers/shadow", DIRECTORY_SHADOW, 0o640);
        let known = self.chroot(&["getent", "passwd", "frank"]);
        let needed = "the lock's tests need the Debian package libnss-extrausers";
        assert!(known.status.success(), "{needed}");
    }

    /// Writes a file of the endpoint, with its folders.
    pub(crate) fn write(&self, absolute: &str, text: &str, mode: u32) {
        let path = self.host.path(absolute);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    /// Reads a file of the endpoint.
    pub(crate) fn read(&self, absolute: &str) -> String {
        fs::read_to_string(self.host.path(absolute)).unwrap()
    }

    /// Runs a program of the endpoint to its end.
    pub(crate) fn chroot(&self, command: &[&str]) -> Output {
        let root = &self.host.root;
        Command::new("chroot").arg(root).args(command).stdin(Stdio::null()).output().unwrap()
    }

    /// Starts a process of a user of the endpoint, and returns when it runs.
    pub(crate) fn spawn(&self, uid: u32, script: &str) -> Child {
        let script = format!("echo ready; {script}");
        let mut child = Command::new("chroot")
            .arg(format!("--userspec={uid}:{uid}"))
            .arg(&self.host.root)
            .args(["/bin/sh", "-c", &script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = [0; 6];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
        child
    }

    /// Whether the real libpam lets a user pass account management of a service.
    pub(crate) fn permits(&self, service: &str, user: &str) -> bool {
        let output = self.chroot(&["pamtester", service, user, "acct_mgmt"]);
        match output.status.code() {
            Some(0) => true,
            Some(1) => false,
            code => panic!("pamtester ended with {code:?}: {output:?}"),
        }
    }

    /// Everything of the endpoint that a lock may change: path → mode, owner, content.
    pub(crate) fn tree(&self) -> Tree {
        let mut tree = Tree::new();
        for folder in ["/etc", "/run", "/var"] {
            walk(&self.host.path(folder), &mut tree);
        }
        walk(&self.host.state_dir, &mut tree);
        tree
    }

    /// Where the sandbox lives.
    pub(crate) fn base(&self) -> &Path {
        &self.base
    }
}

/// The host of a sandbox at that place.
pub(crate) fn host(base: &Path) -> Host {
    Host {
        root: base.join("root"),
        state_dir: base.join("state"),
        dbus_address: None,
        control_plane: Vec::new(),
        book: AddressBook::default(),
        recognise: std::sync::Arc::new(agent::recognise::Nobody),
        firewall: Firewall::default(),
        confirm_within: Duration::from_secs(60),
        wipe_targets: Vec::new(),
        company_volumes: Vec::new(),
        company_directories: Vec::new(),
        company_homes: Vec::new(),
        psids: Psids::default(),
        tpm: WipedTpm::default(),
        ground: Ground::default(),
        break_glass: vec!["rescue".to_owned(), "not-there".to_owned()],
        superuser: Superuser::default(),
        power: Power::Recorded(base.join("power")),
        arming: Arming::Sandboxed,
        scripts: ScriptConfig::default(),
        course: Course::default(),
    }
}

/// Some command.
pub(crate) fn task() -> Task {
    let started_at = Timestamp::from_millis(1_790_000_000_000);
    let command_id = CommandId::new(started_at, [7; 10]);
    Task {
        command_id,
        envelope: "the envelope".to_owned(),
        started_at,
        script: None,
        course: Course::default(),
    }
}

fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(
        output.status.success(),
        "the lock's tests need to run `{program} {}`: {}",
        args.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}
