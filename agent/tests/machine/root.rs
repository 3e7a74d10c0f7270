//! A Debian root file system with systemd, made once from the distribution's packages and kept
//! beside the build.
//!
//! Of the release that this machine runs, since the agent that was built here is linked with this
//! machine's C library.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What is in it besides the essential packages.
const PACKAGES: [&str; 15] = [
    "adduser",
    "cryptsetup-bin",
    "dbus",
    "iproute2",
    "kmod",
    "libpam-systemd",
    "nftables",
    "openssh-client",
    "openssh-server",
    "pamtester",
    "procps",
    "sudo",
    "systemd",
    "systemd-sysv",
    "udev",
];
/// Fetches the kernel that virtual machines boot, with the package manager of the new root, whose folder is the
/// argument. It needs no initial file system to find ext4 on an NVMe drive. Its package is unpacked and not
/// installed: nothing starts from this root by itself.
const ADD_KERNEL: &str = r#"
set -e
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
name=$(apt-cache depends --important linux-image-cloud-amd64 | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
cd "$1"
apt-get --quiet download "$name"
dpkg-deb --fsys-tarfile linux-image-*.deb | tar --extract --keep-directory-symlink
rm linux-image-*.deb
chroot . /sbin/depmod "${name#linux-image-}"
"#;
/// How often making it is tried.
const ATTEMPTS: usize = 4;
/// Built in memory: dpkg syncs each file, and nothing here must outlive a power cut.
const BUILD: &str = "
set -e
mount -t tmpfs tocsin-root \"$1\"
TMPDIR=\"$1\" mmdebstrap --quiet --variant=minbase --dpkgopt=force-unsafe-io \\
    --aptopt='Acquire::Retries \"5\"' \\
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \\
    --dpkgopt='path-exclude=/usr/share/locale/*' --include=\"$2\" \\
    --customize-hook=\"$5\" \"$3\" - \\
    | tar --extract --exclude='./dev/*' --directory \"$4\"
";

/// The root; nothing may be changed in it.
pub(crate) fn debian() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (root, made_of) = (folder.join("debian-root"), folder.join("debian-root.packages"));
    // Each test is a process of its own, and the first one makes the root.
    let lock = File::create(folder.join("debian-root.lock")).unwrap();
    lock.lock().unwrap();
    let wanted = format!("{} {} {ADD_KERNEL}", release(), PACKAGES.join(","));
    if fs::read_to_string(&made_of).is_ok_and(|known| known == wanted) {
        return root;
    }
    drop(fs::remove_dir_all(&root));
    let new = folder.join("debian-root.new");
    // A mirror is somebody else's machine: it may be away for a moment.
    let mut said = Vec::new();
    while let Err(why) = build(folder, &new) {
        said.push(why);
        let needs = "the bench needs root, mmdebstrap (Debian package) and Debian's mirror";
        assert!(said.len() < ATTEMPTS, "{needs}: {said:#?}");
    }
    fs::rename(&new, &root).unwrap();
    fs::write(made_of, wanted).unwrap();
    root
}

/// The kernel for virtual machines that lies in the root.
pub(crate) fn kernel() -> PathBuf {
    let found = fs::read_dir(debian().join("boot")).unwrap().map(|entry| entry.unwrap().path());
    let is_kernel = |path: &PathBuf| path.to_string_lossy().contains("/vmlinuz-");
    found.into_iter().find(is_kernel).expect("the root was made with a kernel")
}

/// Makes the root from nothing at `new`, or says why not.
fn build(folder: &Path, new: &Path) -> Result<(), String> {
    drop(fs::remove_dir_all(new));
    fs::create_dir(new).unwrap();
    let memory = tempfile::tempdir_in(folder).unwrap();
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .args(["bash", "-o", "pipefail", "-c", BUILD, "build"])
        .arg(memory.path())
        .args([PACKAGES.join(","), release()])
        .args([new.as_os_str(), ADD_KERNEL.as_ref()])
        .output()
        .unwrap();
    let said = || String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(()) } else { Err(said()) }
}

/// The code name of the Debian release that this machine runs.
fn release() -> String {
    let text = fs::read_to_string("/etc/os-release").unwrap();
    let field = |name| text.lines().find_map(|line: &str| line.strip_prefix(name));
    let is_debian = field("ID=") == Some("debian");
    assert!(is_debian, "the bench boots the Debian that the agent was built on; this is {text}");
    field("VERSION_CODENAME=").unwrap().to_owned()
}
