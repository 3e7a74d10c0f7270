//! Wipe against real LUKS2 volumes in files: what `cryptsetup` and an attacker with backups of
//! the headers can still do afterwards, and what a power cut at any write changes. Nothing.

#![expect(clippy::unwrap_used, reason = "a test whose scene cannot be set should stop there")]

use std::collections::HashSet;
use std::fs;
use std::io::{self, Write as _};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use agent::execute::wipe::volume::{Access, Disk, SystemDisk, Volume};
use agent::execute::wipe::{Wipe, is_provable};
use agent::execute::{Afterwards, Executor, Recovery};
use agent::host::Host;
use protocol::action::{self, WipeLevel};
use protocol::receipt::FailureKind;
use serde_json::json;
use tempfile::TempDir;

use support::host::{sandbox, task};

#[path = "support"]
mod support {
    pub(crate) mod host;
}

/// Two headers of 16 KiB, as cryptsetup makes them by default.
const HEADERS: Range<usize> = 0..0x8000;
/// The data begins here in the volumes of these tests.
const DATA: usize = 4 * 1024 * 1024;
const VOLUME_BYTES: usize = 6 * 1024 * 1024;
const PASSPHRASES: [&str; 2] = ["first passphrase", "second passphrase"];

/// A host with one fresh LUKS2 volume of two keyslots and some data, and its original bytes.
struct Scene {
    host: Host,
    volume: PathBuf,
    original: Vec<u8>,
    _folder: TempDir,
}

impl Scene {
    fn new() -> Self {
        let (mut host, folder) = sandbox();
        let volume = folder.path().join("volume");
        format_luks(&volume, "luks2");
        let mut original = fs::read(&volume).unwrap();
        for (at, byte) in original[DATA..].iter_mut().enumerate() {
            *byte = u8::try_from(at % 251).unwrap();
        }
        fs::write(&volume, &original).unwrap();
        host.wipe_targets = vec![volume.clone()];
        Self { host, volume, original, _folder: folder }
    }

    /// The same scene as it was at first.
    fn reset(&self) {
        fs::write(&self.volume, &self.original).unwrap();
        let _ = fs::remove_file(self.host.state_dir.join("wipe.json"));
    }

    /// No passphrase opens the volume, not even with old headers, and no sector of the old
    /// keyslots is left.
    fn assert_destroyed(&self) {
        let wiped = fs::read(&self.volume).unwrap();
        assert_eq!(wiped.len(), VOLUME_BYTES);
        assert!(!opens_with_any(&self.volume), "a passphrase still opens the volume");
        for restored in [0..0x4000, HEADERS] {
            let mut bytes = wiped.clone();
            bytes[restored.clone()].copy_from_slice(&self.original[restored]);
            let revived = self.volume.with_extension("revived");
            fs::write(&revived, bytes).unwrap();
            assert!(!opens_with_any(&revived), "old headers open the volume again");
        }
        let old: HashSet<&[u8]> = self.original[HEADERS.end..DATA]
            .chunks(512)
            .filter(|sector| sector.iter().any(|byte| *byte != 0))
            .collect();
        assert!(old.len() > 500, "two keyslots fill many sectors");
        assert!(!wiped.chunks(512).any(|sector| old.contains(sector)), "keyslot material is left");
    }
}

fn wipe(level: WipeLevel) -> Wipe {
    Wipe::new(action::Wipe { level, power_off: false })
}

/// Formats a file as a LUKS volume that both passphrases open.
fn format_luks(path: &Path, version: &str) {
    let file = fs::File::create(path).unwrap();
    file.set_len(VOLUME_BYTES as u64).unwrap();
    let weak = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"];
    let offset = (DATA / 512).to_string();
    let format = ["-q", "luksFormat", "--type", version, "--offset", &offset];
    let path = path.to_str().unwrap();
    let first = path.to_owned() + ".first";
    fs::write(&first, PASSPHRASES[0]).unwrap();
    assert!(cryptsetup(&[&format[..], &weak, &[path, &first]].concat(), ""));
    let add = ["-q", "luksAddKey", "--key-file", &first];
    assert!(cryptsetup(&[&add[..], &weak, &[path]].concat(), PASSPHRASES[1]));
    for passphrase in PASSPHRASES {
        assert!(opens(Path::new(path), passphrase), "a fresh volume opens");
    }
}

fn cryptsetup(args: &[&str], input: &str) -> bool {
    let mut child = Command::new("/usr/sbin/cryptsetup")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("these tests need /usr/sbin/cryptsetup: install the package cryptsetup-bin");
    // It may have ended without reading.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait().unwrap().success()
}

fn opens(volume: &Path, passphrase: &str) -> bool {
    let args = ["open", "--test-passphrase", "--key-file", "-", volume.to_str().unwrap()];
    cryptsetup(&args, passphrase)
}

fn opens_with_any(volume: &Path) -> bool {
    PASSPHRASES.iter().any(|passphrase| opens(volume, passphrase))
}

/// A block device over a file, detached when dropped.
struct LoopDevice(PathBuf);

impl LoopDevice {
    fn new(file: &Path) -> Self {
        let output =
            Command::new("/usr/sbin/losetup").args(["--find", "--show"]).arg(file).output();
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

/// What happens when a faulty disk has used its operations up.
#[derive(Debug, Clone, Copy)]
enum Fault {
    /// Nothing runs any more: the calling code unwinds and gets no chance to tidy up.
    PowerCut,
    /// Every further operation is answered with an error.
    Broken,
}

/// A disk that does so many writes and flushes, and then fails; the last write is torn.
#[derive(Debug, Clone)]
struct FaultyDisk {
    fault: Fault,
    operations_left: Arc<AtomicU64>,
    sound: Option<PathBuf>,
}

#[derive(Debug)]
struct FaultyVolume {
    volume: Box<dyn Volume>,
    disk: FaultyDisk,
}

impl FaultyDisk {
    fn after(operations: u64, fault: Fault) -> Self {
        Self { fault, operations_left: Arc::new(AtomicU64::new(operations)), sound: None }
    }

    fn left(&self) -> u64 {
        self.operations_left.load(Ordering::SeqCst)
    }

    fn has_power(&self) -> bool {
        let spend = |left: u64| left.checked_sub(1);
        self.operations_left.try_update(Ordering::SeqCst, Ordering::SeqCst, spend).is_ok()
    }

    fn fail(&self) -> io::Error {
        match self.fault {
            Fault::PowerCut => resume_unwind(Box::new("the power is gone")),
            Fault::Broken => io::Error::other("the disk is broken"),
        }
    }
}

impl Disk for FaultyDisk {
    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn Volume>> {
        let volume = SystemDisk.open(path, access)?;
        if self.sound.as_deref() == Some(path) {
            return Ok(volume);
        }
        Ok(Box::new(FaultyVolume { volume, disk: self.clone() }))
    }
}

/// Applies until the disk fails. Answers whether it came to the end.
fn apply_with_power_cut(host: &Host, level: WipeLevel, disk: FaultyDisk) -> bool {
    let wipe = Wipe::on(action::Wipe { level, power_off: false }, Box::new(disk));
    catch_unwind(AssertUnwindSafe(|| wipe.apply(host, &task(1)).unwrap())).is_ok()
}

impl Volume for FaultyVolume {
    fn size(&self) -> u64 {
        self.volume.size()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.volume.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if self.disk.has_power() {
            return self.volume.write_at(bytes, offset);
        }
        // Whole sectors of the write in flight may still have arrived.
        self.volume.write_at(&bytes[..bytes.len() / 1024 * 512], offset)?;
        Err(self.disk.fail())
    }

    fn flush(&self) -> io::Result<()> {
        if self.disk.has_power() { self.volume.flush() } else { Err(self.disk.fail()) }
    }

    fn next_allocated(&self, range: Range<u64>) -> io::Result<Option<Range<u64>>> {
        self.volume.next_allocated(range)
    }

    fn release(&self, range: Range<u64>) -> io::Result<()> {
        if self.disk.has_power() { self.volume.release(range) } else { Err(self.disk.fail()) }
    }
}

#[test]
fn wipe_is_provable_only_where_every_target_has_keys() {
    let mut scene = Scene::new();
    assert!(is_provable(&scene.host));
    let plain = scene.volume.with_file_name("plain");
    fs::write(&plain, [0; 4096]).unwrap();
    scene.host.wipe_targets.push(plain);
    assert!(!is_provable(&scene.host));
    scene.host.wipe_targets.clear();
    assert!(!is_provable(&scene.host));
}

#[test]
fn wiped_volume_does_not_open_even_with_its_old_headers() {
    let scene = Scene::new();
    let (wipe, task) = (wipe(WipeLevel::Keys), task(1));
    let plan = wipe.plan(&scene.host, &task).unwrap();
    assert_eq!(fs::read(&scene.volume).unwrap(), scene.original, "a plan changes nothing");
    assert_eq!(plan.facts, wipe.plan(&scene.host, &task).unwrap().facts, "a plan is repeatable");

    wipe.apply(&scene.host, &task).unwrap();
    let evidence = wipe.prove(&scene.host, &task).unwrap();

    scene.assert_destroyed();
    assert_eq!(fs::read(&scene.volume).unwrap()[DATA..], scene.original[DATA..]);
    assert_eq!(evidence.get("grade"), Some(&"proven".into()));
    let target = &evidence.get("targets").unwrap()[0];
    assert_eq!(target["keyslots_before"], json!(2));
    assert_eq!(target["keyslots_left"], json!(0));
    assert_ne!(target["headers_before_sha256"], target["headers_after_sha256"]);
    let planned = &plan.facts.get("targets").unwrap()[0];
    assert_eq!(planned["uuid"], target["uuid"]);
    assert_eq!(planned["headers_sha256"], target["headers_before_sha256"]);
    assert!(matches!(wipe.recover(&scene.host, &task), Recovery::Applied));
}

#[test]
fn block_device_is_wiped_like_a_file() {
    let mut scene = Scene::new();
    let device = LoopDevice::new(&scene.volume);
    scene.host.wipe_targets = vec![device.0.clone()];
    let (wipe, task) = (wipe(WipeLevel::Data), task(1));
    wipe.plan(&scene.host, &task).unwrap();
    wipe.apply(&scene.host, &task).unwrap();
    let evidence = wipe.prove(&scene.host, &task).unwrap();
    assert_eq!(evidence.get("targets").unwrap()[0]["path"], json!(device.0));
    assert!(!opens_with_any(&device.0));
    drop(device);
    scene.assert_destroyed();
    assert!(fs::read(&scene.volume).unwrap()[DATA..].iter().all(|byte| *byte == 0));
}

#[test]
fn volume_with_two_names_is_one_target() {
    let mut scene = Scene::new();
    let link = scene.volume.with_extension("link");
    std::os::unix::fs::symlink(&scene.volume, &link).unwrap();
    scene.host.wipe_targets.push(link);
    let (wipe, task) = (wipe(WipeLevel::Keys), task(1));
    wipe.apply(&scene.host, &task).unwrap();
    let evidence = wipe.prove(&scene.host, &task).unwrap();
    assert_eq!(evidence.get("targets").unwrap().as_array().unwrap().len(), 1);
}

#[test]
fn level_data_leaves_no_data() {
    let scene = Scene::new();
    let (wipe, task) = (wipe(WipeLevel::Data), task(1));
    wipe.apply(&scene.host, &task).unwrap();
    let evidence = wipe.prove(&scene.host, &task).unwrap();
    scene.assert_destroyed();
    assert!(fs::read(&scene.volume).unwrap()[DATA..].iter().all(|byte| *byte == 0));
    assert_eq!(evidence.get("grade"), Some(&"proven_media".into()));
    let target = &evidence.get("targets").unwrap()[0];
    assert_eq!(target["data_bytes"], json!(VOLUME_BYTES - DATA));
}

#[test]
fn later_command_may_go_on_from_keys_to_data() {
    let scene = Scene::new();
    wipe(WipeLevel::Keys).apply(&scene.host, &task(1)).unwrap();
    let (wipe, task) = (wipe(WipeLevel::Data), task(2));
    wipe.plan(&scene.host, &task).unwrap();
    wipe.apply(&scene.host, &task).unwrap();
    wipe.prove(&scene.host, &task).unwrap();
    scene.assert_destroyed();
    assert!(fs::read(&scene.volume).unwrap()[DATA..].iter().all(|byte| *byte == 0));
}

#[test]
fn power_cut_at_any_write_resumes_to_the_same_end() {
    let scene = Scene::new();
    let task = task(1);
    let resumed = wipe(WipeLevel::Data);
    let mut operations = 0;
    loop {
        scene.reset();
        let disk = FaultyDisk::after(operations, Fault::PowerCut);
        if apply_with_power_cut(&scene.host, WipeLevel::Data, disk.clone()) {
            assert_eq!(disk.left(), 0, "one operation more than the last failure had");
            break;
        }
        assert!(resumed.prove(&scene.host, &task).is_err(), "operation {operations}");
        assert!(matches!(resumed.recover(&scene.host, &task), Recovery::Apply));
        resumed.apply(&scene.host, &task).unwrap();
        resumed.prove(&scene.host, &task).unwrap();
        scene.assert_destroyed();
        operations += 1;
    }
    assert!(operations >= 10, "keys, headers, data and their flushes: {operations}");
}

#[test]
fn second_power_cut_while_resuming_changes_nothing() {
    let scene = Scene::new();
    let resumed = wipe(WipeLevel::Keys);
    for first in 0..6 {
        for second in 0..6 {
            scene.reset();
            for operations in [first, second] {
                let disk = FaultyDisk::after(operations, Fault::PowerCut);
                apply_with_power_cut(&scene.host, WipeLevel::Keys, disk);
            }
            resumed.apply(&scene.host, &task(1)).unwrap();
            resumed.prove(&scene.host, &task(1)).unwrap();
        }
    }
    scene.assert_destroyed();
}

#[test]
fn broken_target_does_not_protect_the_next_one() {
    let mut scene = Scene::new();
    let broken = scene.volume.with_extension("broken");
    fs::copy(&scene.volume, &broken).unwrap();
    scene.host.wipe_targets.insert(0, broken.clone());
    let mut disk = FaultyDisk::after(0, Fault::Broken);
    disk.sound = Some(scene.volume.canonicalize().unwrap());
    let params = action::Wipe { level: WipeLevel::Keys, power_off: false };
    let failure = Wipe::on(params, Box::new(disk)).apply(&scene.host, &task(1)).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Io);
    assert!(failure.detail.contains(broken.to_str().unwrap()), "{}", failure.detail);
    scene.assert_destroyed();
    wipe(WipeLevel::Keys).apply(&scene.host, &task(1)).unwrap();
    wipe(WipeLevel::Keys).prove(&scene.host, &task(1)).unwrap();
}

#[test]
fn one_wrong_target_protects_all_of_them_before_anything_is_touched() {
    let mut scene = Scene::new();
    let folder = scene.volume.parent().unwrap().to_owned();
    let (plain, luks1) = (folder.join("plain"), folder.join("luks1"));
    fs::write(&plain, vec![7; VOLUME_BYTES]).unwrap();
    format_luks(&luks1, "luks1");
    for wrong in [plain, luks1, folder.join("missing"), folder.clone(), "/dev/null".into()] {
        let before = fs::read(&wrong).ok();
        scene.host.wipe_targets = vec![scene.volume.clone(), wrong.clone()];
        let wipe = wipe(WipeLevel::Keys);
        for failure in [
            wipe.plan(&scene.host, &task(1)).unwrap_err(),
            wipe.apply(&scene.host, &task(1)).unwrap_err(),
        ] {
            assert_eq!(failure.kind, FailureKind::Precondition, "{}", wrong.display());
            assert!(failure.detail.contains(wrong.to_str().unwrap()), "{}", failure.detail);
        }
        assert_eq!(fs::read(&wrong).ok(), before);
        assert_eq!(fs::read(&scene.volume).unwrap(), scene.original);
        assert!(!scene.host.state_dir.join("wipe.json").exists());
    }
}

#[test]
fn host_without_targets_says_so() {
    let (host, _folder) = sandbox();
    let failure = wipe(WipeLevel::Keys).plan(&host, &task(1)).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Precondition);
}

#[test]
fn resumed_wipe_spares_a_stranger_that_took_the_path() {
    let scene = Scene::new();
    let disk = FaultyDisk::after(1, Fault::PowerCut);
    assert!(!apply_with_power_cut(&scene.host, WipeLevel::Keys, disk));
    format_luks(&scene.volume, "luks2");
    let stranger = fs::read(&scene.volume).unwrap();
    assert!(wipe(WipeLevel::Keys).apply(&scene.host, &task(1)).is_err());
    assert_eq!(fs::read(&scene.volume).unwrap(), stranger);
}

#[test]
fn headers_that_came_back_are_not_proven_destroyed() {
    let scene = Scene::new();
    wipe(WipeLevel::Keys).apply(&scene.host, &task(1)).unwrap();
    let mut bytes = fs::read(&scene.volume).unwrap();
    bytes[..0x4000].copy_from_slice(&scene.original[..0x4000]);
    fs::write(&scene.volume, bytes).unwrap();
    let failure = wipe(WipeLevel::Keys).prove(&scene.host, &task(1)).unwrap_err();
    assert_eq!(failure.kind, FailureKind::NotProven);
}

#[test]
fn damaged_first_header_does_not_save_the_keys() {
    let scene = Scene::new();
    let mut bytes = scene.original.clone();
    bytes[..0x4000].fill(0);
    fs::write(&scene.volume, bytes).unwrap();
    assert!(opens_with_any(&scene.volume), "the second header takes over");
    let wipe = wipe(WipeLevel::Keys);
    wipe.apply(&scene.host, &task(1)).unwrap();
    wipe.prove(&scene.host, &task(1)).unwrap();
    scene.assert_destroyed();
}

#[test]
fn power_off_follows_only_when_it_was_ordered() {
    for (power_off, expected) in [(true, Afterwards::PowerOff), (false, Afterwards::Nothing)] {
        let wipe = Wipe::new(action::Wipe { level: WipeLevel::Keys, power_off });
        assert_eq!(wipe.afterwards(), expected);
    }
}
