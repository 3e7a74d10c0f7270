//! The scene of a wipe: a sandboxed host with a real LUKS volume in a file or a loop device, and
//! everything that an attacker might try on what is left of it.

use std::collections::HashSet;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

use agent::execute::wipe::Wipe;
use agent::execute::{Executor, Task};
use agent::host::Host;
use protocol::action::{self, WipeLevel};
use protocol::receipt::{Evidence, Failure};
use tempfile::TempDir;

use crate::support::host::sandbox;
use crate::support::luks;
pub(crate) use crate::support::luks::{FORMATS, PASSPHRASES, cryptsetup, opens};

/// The data begins here in the volumes of these tests.
pub(crate) const DATA: usize = 4 * 1024 * 1024;
pub(crate) const VOLUME_BYTES: usize = 6 * 1024 * 1024;

/// A host with one fresh LUKS volume of two keyslots and some data, and its original bytes.
pub(crate) struct Scene {
    pub(crate) host: Host,
    pub(crate) volume: PathBuf,
    pub(crate) original: Vec<u8>,
    /// Everything in front of the keyslots.
    pub(crate) headers: Range<usize>,
    pub(crate) folder: TempDir,
}

impl Scene {
    /// With a LUKS2 volume.
    pub(crate) fn new() -> Self {
        Self::of("luks2")
    }

    /// With a volume of that format.
    pub(crate) fn of(format: &str) -> Self {
        let (mut host, folder) = sandbox();
        let volume = folder.path().join("volume");
        format_luks(&volume, format);
        let mut original = fs::read(&volume).unwrap();
        for (at, byte) in original[DATA..].iter_mut().enumerate() {
            *byte = u8::try_from(at % 251).unwrap();
        }
        fs::write(&volume, &original).unwrap();
        host.wipe_targets = vec![volume.clone()];
        // One header of 4 KiB, or two of 16 KiB, as cryptsetup makes them by default.
        let headers = if format == "luks1" { 0..0x1000 } else { 0..0x8000 };
        Self { host, volume, original, headers, folder }
    }

    /// The same scene as it was at first.
    pub(crate) fn reset(&self) {
        fs::write(&self.volume, &self.original).unwrap();
        let _ = fs::remove_file(self.host.state_dir.join("wipe.json"));
    }

    /// No passphrase opens the volume, not even with old headers, and no sector of the old
    /// keyslots is left.
    pub(crate) fn assert_destroyed(&self) {
        let wiped = fs::read(&self.volume).unwrap();
        assert_eq!(wiped.len(), VOLUME_BYTES);
        assert!(!opens_with_any(&self.volume), "a passphrase still opens the volume");
        for restored in [0..self.headers.end / 2, self.headers.clone()] {
            let mut bytes = wiped.clone();
            bytes[restored.clone()].copy_from_slice(&self.original[restored]);
            let revived = self.volume.with_extension("revived");
            fs::write(&revived, bytes).unwrap();
            assert!(!opens_with_any(&revived), "old headers open the volume again");
        }
        let old: HashSet<&[u8]> = self.original[self.headers.end..DATA]
            .chunks(512)
            .filter(|sector| sector.iter().any(|byte| *byte != 0))
            .collect();
        assert!(old.len() > 500, "two keyslots fill many sectors");
        assert!(!wiped.chunks(512).any(|sector| old.contains(sector)), "keyslot material is left");
        let repair = ["-q", "repair", self.volume.to_str().unwrap()];
        assert!(!cryptsetup(&repair, ""), "repair finds something");
    }

    /// Nothing of the data is left.
    pub(crate) fn assert_data_gone(&self) {
        assert!(fs::read(&self.volume).unwrap()[DATA..].iter().all(|byte| *byte == 0));
    }
}

pub(crate) fn wipe(level: WipeLevel) -> Wipe {
    Wipe::new(action::Wipe { level, power_off: false })
}

/// Applies, proves, does the rest and proves again, as the agent does.
pub(crate) fn carry_out(
    executor: &dyn Executor,
    host: &Host,
    task: &Task,
) -> Result<Evidence, Failure> {
    executor.apply(host, task)?;
    let evidence = executor.prove(host, task)?;
    if !executor.has_remainder(host, task) {
        return Ok(evidence);
    }
    executor.finish(host, task)?;
    executor.prove(host, task)
}

/// Formats a file as a LUKS volume that both passphrases open.
pub(crate) fn format_luks(path: &Path, version: &str) {
    let offset = (DATA / 512).to_string();
    let format = ["-q", "luksFormat", "--type", version, "--offset", &offset];
    luks::format(path, VOLUME_BYTES as u64, &format);
}

pub(crate) fn opens_with_any(volume: &Path) -> bool {
    PASSPHRASES.iter().any(|passphrase| opens(volume, passphrase))
}

/// A block device over a file, detached when dropped.
pub(crate) struct LoopDevice(pub(crate) PathBuf);

impl LoopDevice {
    pub(crate) fn new(file: &Path) -> Self {
        Self::with(&["--find", "--show"], file)
    }

    /// One that cannot be written to.
    pub(crate) fn read_only(file: &Path) -> Self {
        Self::with(&["--read-only", "--find", "--show"], file)
    }

    fn with(args: &[&str], file: &Path) -> Self {
        let output = Command::new("/usr/sbin/losetup").args(args).arg(file).output();
        let output = output.expect("this test needs /usr/sbin/losetup: install the package mount");
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let problem = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "needs root and the kernel module loop: {problem}");
        Self(text.into())
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("/usr/sbin/losetup").arg("--detach").arg(&self.0).status();
    }
}
