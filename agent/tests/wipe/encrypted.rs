//! The scene of a selective wipe whose company data is in a directory: a real ext4 in a file, which fscrypt(1) keeps the
//! keys of. Mounted in a namespace of the test's own; the machine's file systems are never asked for anything.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use agent::execute::wipe::selective::SelectiveWipe;
use agent::execute::{Executor as _, Task};
use agent::host::Host;
use protocol::receipt::{Evidence, Failure};
use tempfile::TempDir;

use crate::failures::{in_mount_namespace, run};
use crate::scene::carry_out;
use crate::selective::tree;
use crate::support::host::sandbox;

/// The company's directory, a person's, and a person's letter, as the endpoint names them.
pub(crate) const COMPANY: &str = "/home/company";
pub(crate) const OWN: &str = "/home/kim/own";
pub(crate) const LETTER: &str = "/home/kim/letter";

/// A host whose `/home` is a small ext4 with two encrypted directories: one is the company's.
pub(crate) struct Encrypted {
    pub(crate) host: Host,
    /// The file that the file system is in.
    pub(crate) image: PathBuf,
    /// Where fscrypt(1) keeps the company's key, and what that was.
    pub(crate) stored: PathBuf,
    pub(crate) wrapped: Vec<u8>,
    pub(crate) folder: TempDir,
}

/// Runs a test on such a host.
pub(crate) fn on_encrypted(work: impl FnOnce(Encrypted) + Send + 'static) {
    in_mount_namespace(move || work(Encrypted::new()));
}

/// Runs a program, and answers what it says.
pub(crate) fn said(program: &str, args: &[&Path]) -> Output {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output();
    output.unwrap_or_else(|error| {
        panic!("this test needs {program} (Debian packages fscrypt, e2fsprogs, xfsprogs): {error}")
    })
}

impl Encrypted {
    fn new() -> Self {
        let (mut host, folder) = sandbox();
        own_settings(folder.path());
        let (image, home) = (folder.path().join("drive"), host.path("/home"));
        fs::write(&image, []).unwrap();
        fs::File::options().write(true).open(&image).unwrap().set_len(16 << 20).unwrap();
        run("/usr/sbin/mkfs.ext4", &["-q".as_ref(), "-O".as_ref(), "encrypt".as_ref(), &image]);
        fs::create_dir(&home).unwrap();
        run("mount", &["-o".as_ref(), "loop".as_ref(), &image, &home]);
        let device = fs::metadata(&home).unwrap().dev();
        let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
        fs::create_dir_all(host.path("/dev/block")).unwrap();
        let node = host.path(format!("/dev/block/{major}:{minor}"));
        let numbers = [major.to_string(), minor.to_string()];
        run("mknod", &[&node, "b".as_ref(), numbers[0].as_ref(), numbers[1].as_ref()]);
        boot(&host, "6b2b6a4e-5c7c-4d0b-9a1f-0c6f6d1e5a01");

        run("fscrypt", &["setup".as_ref(), "--quiet".as_ref(), &home]);
        fs::create_dir_all(host.path("/home/kim")).unwrap();
        fs::write(host.path(LETTER), "dear").unwrap();
        let stored = encrypt(&host, COMPANY, folder.path());
        encrypt(&host, OWN, folder.path());
        fs::write(host.path(COMPANY).join("plans"), "secret").unwrap();
        fs::write(host.path(OWN).join("diary"), "dear diary").unwrap();
        nix::unistd::sync();
        host.company_directories = vec![COMPANY.into()];
        let wrapped = fs::read(&stored).unwrap();
        Self { host, image, stored, wrapped, folder }
    }

    /// Every file but the company's key and data, byte for byte.
    pub(crate) fn personal(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut personal = tree(&self.host.path("/home/kim"));
        personal.extend(tree(&self.host.path("/home/.fscrypt")));
        personal.remove(&self.stored);
        personal
    }

    /// Whether a copy of the stored key opens the directory with its protector.
    pub(crate) fn unlock(&self, directory: &str) -> bool {
        let key = self.folder.path().join(directory.replace('/', "-"));
        let args = ["unlock".as_ref(), "--quiet".as_ref(), "--key".as_ref(), key.as_path()];
        let place = self.host.path(directory);
        said("fscrypt", &[&args[..], &[&place]].concat()).status.success()
    }

    /// The same scene as it was at first.
    pub(crate) fn reset(&self) {
        if !self.stored.exists() {
            fs::write(&self.stored, &self.wrapped).unwrap();
        }
        let _ = self.unlock(COMPANY);
        assert!(self.is_readable());
        let _ = fs::remove_file(self.host.state_dir.join("wipe.json"));
        nix::unistd::sync();
    }

    pub(crate) fn is_readable(&self) -> bool {
        fs::read(self.host.path(COMPANY).join("plans")).is_ok_and(|plans| plans == b"secret")
    }

    /// Whether those bytes are anywhere on the drive.
    pub(crate) fn is_on_drive(&self, bytes: &[u8]) -> bool {
        nix::unistd::sync();
        fs::read(&self.image).unwrap().windows(bytes.len()).any(|window| window == bytes)
    }

    /// The key is gone from where it was stored and from the kernel; what is personal is there.
    pub(crate) fn assert_destroyed(&self) {
        assert!(!self.stored.exists());
        assert!(!self.is_readable());
        assert!(!self.unlock(COMPANY));
        assert_eq!(fs::read(self.host.path(LETTER)).unwrap(), b"dear");
        assert_eq!(fs::read(self.host.path(OWN).join("diary")).unwrap(), b"dear diary");
    }

    /// As a device does it: planned, then carried out.
    pub(crate) fn ordered(&self, task: &Task) -> Result<Evidence, Failure> {
        let selective = SelectiveWipe::default();
        selective.plan(&self.host, task)?;
        carry_out(&selective, &self.host, task)
    }
}

/// Which boot it is.
pub(crate) fn boot(host: &Host, id: &str) {
    let place = host.path("/proc/sys/kernel/random/boot_id");
    fs::create_dir_all(place.parent().unwrap()).unwrap();
    fs::write(place, format!("{id}\n")).unwrap();
}

/// fscrypt(1) reads its settings from `/etc`: in this namespace that is another folder.
fn own_settings(folder: &Path) {
    let etc = folder.join("etc");
    fs::create_dir(&etc).unwrap();
    for name in ["passwd", "group", "nsswitch.conf", "ld.so.cache"] {
        let _ = fs::copy(Path::new("/etc").join(name), etc.join(name));
    }
    let settings = r#"{"source": "raw_key", "hash_costs": {"time": "1", "memory": "8", "parallelism": "1"},
        "options": {"padding": "32", "contents": "AES_256_XTS", "filenames": "AES_256_CTS", "policy_version": "2"},
        "use_fs_keyring_for_v1_policies": false, "allow_cross_user_metadata": false}"#;
    fs::write(etc.join("fscrypt.conf"), settings).unwrap();
    run("mount", &["--bind".as_ref(), &etc, "/etc".as_ref()]);
}

/// Makes an encrypted directory with a protector of its own, and answers where its key is stored.
fn encrypt(host: &Host, directory: &str, folder: &Path) -> PathBuf {
    let place = host.path(directory);
    fs::create_dir(&place).unwrap();
    let key = folder.join(directory.replace('/', "-"));
    let byte = u8::try_from(directory.len()).unwrap();
    fs::write(&key, [byte; 32]).unwrap();
    let policies = host.path("/home/.fscrypt/policies");
    let known: Vec<_> = tree(&policies).into_keys().collect();
    let name = directory.rsplit('/').next().unwrap();
    let options = ["encrypt", "--quiet", "--source=raw_key", "--name", name, "--key"];
    let options: Vec<_> = options.iter().map(Path::new).collect();
    run("fscrypt", &[&options[..], &[&key, &place]].concat());
    tree(&policies).into_keys().find(|path| !known.contains(path)).unwrap()
}
