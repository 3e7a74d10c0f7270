//! A system drive whose root lies on a LUKS volume, as an installer leaves it: a small file system to start from, and
//! beside it the volume, which an initial file system opens.
//!
//! Made without mounting or mapping anything: the file system is encrypted here as dm-crypt would (`aes-cbc-plain64`, which takes
//! one call for each sector; nobody's secrets are on it).
//! Source: cryptsetup(8), kernel's `Documentation/admin-guide/device-mapper/dm-crypt.rst`.

use std::collections::HashSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use aws_lc_rs::cipher::{AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;

use crate::disk::{Disk, text};
use crate::luks;
use crate::root;

/// Bytes of the system's drive.
pub(super) const DRIVE_BYTES: u64 = 512 << 20;
/// What the system starts from.
pub(super) const BOOT: std::ops::Range<u64> = 1 << 20..9 << 20;
/// The volume.
pub(super) const VOLUME: std::ops::Range<u64> = BOOT.end..DRIVE_BYTES;
/// Where the volume's data begins, as `cryptsetup luksFormat` lays it out.
pub(super) const DATA: u64 = 16 << 20;
/// Bytes that the volume encrypts at a time.
const SECTOR: usize = 4096;
/// Bytes that are encrypted here at a time.
const CHUNK: usize = 4 << 20;
/// What it numbers sectors by, however many bytes it encrypts at a time.
const IV_BYTES: u128 = 512;
/// What the initial file system says when the volume does not open, before it powers off.
pub(super) const DOES_NOT_OPEN: &str = "the volume of the system does not open";
const FSTAB: &str = "PARTUUID=6e636f74-01 /boot ext4 defaults 0 2\n";
const PROGRAMS: [&str; 7] = [
    "/usr/bin/dash",
    "/usr/bin/kmod",
    "/usr/bin/mount",
    "/usr/bin/sleep",
    "/usr/sbin/cryptsetup",
    "/usr/sbin/findfs",
    "/usr/sbin/switch_root",
];
const MODULES: [&str; 3] = ["dm-crypt", "virtio_pci", "virtio_blk"];
const INIT: &str = "#!/usr/bin/dash
export PATH=/usr/sbin:/usr/bin
mount -t devtmpfs dev /dev
exec < /dev/console > /dev/console 2>&1
mount -t proc proc /proc
mount -t sysfs sys /sys
for module in /modules/*; do insmod $module; done
until device=$(findfs PARTUUID=6e636f74-02); do sleep 0.1; done
if cryptsetup open --key-file /passphrase $device system && mount /dev/mapper/system /root; then
    exec switch_root /root /sbin/init
fi
echo '@'
echo o > /proc/sysrq-trigger
sleep 1000
";

/// Makes the drive at `image` from a machine's folder, and at `initial` the initial file system that opens it.
pub(super) fn make_system(disk: &Disk, image: &Path, initial: &Path) {
    disk.write("/etc/fstab", FSTAB, 0o644);
    let file = File::create(image).unwrap();
    file.set_len(DRIVE_BYTES).unwrap();
    super::write_table(&file, &[BOOT, VOLUME]);
    let boot = disk.base.join("boot");
    fs::create_dir(&boot).unwrap();
    fs::write(boot.join("started-from"), "here").unwrap();
    super::make_file_system(&boot, image, &BOOT);

    let volume = disk.base.join("volume");
    let key: [u8; 32] = std::array::from_fn(|at| u8::try_from(at).unwrap().wrapping_mul(151));
    let key_file = disk.base.join("volume.key");
    fs::write(&key_file, key).unwrap();
    let command = ["-q", "luksFormat", "--type", "luks2", "--cipher", "aes-cbc-plain64"];
    let sizes =
        ["--key-size", "256", "--sector-size", "4096", "--volume-key-file", text(&key_file)];
    luks::format(&volume, VOLUME.end - VOLUME.start, &[&command[..], &sizes].concat());
    let mut header = vec![0; usize::try_from(DATA).unwrap()];
    File::open(&volume).unwrap().read_exact_at(&mut header, 0).unwrap();
    file.write_all_at(&header, VOLUME.start).unwrap();

    let plain = disk.base.join("plain");
    let length = VOLUME.end - VOLUME.start - DATA;
    File::create(&plain).unwrap().set_len(length).unwrap();
    super::make_file_system(&disk.root, &plain, &(0..length));
    encrypt(&File::open(&plain).unwrap(), length, &file, &key);
    let passphrase = fs::read(disk.base.join("volume.first")).unwrap();
    for name in ["plain", "volume", "volume.key"] {
        fs::remove_file(disk.base.join(name)).unwrap();
    }
    fs::write(initial, initial_file_system(&passphrase)).unwrap();
}

/// Encrypts a file system into the data of the volume.
fn encrypt(plain: &File, length: u64, image: &File, key: &[u8; 32]) {
    let key = EncryptingKey::cbc(UnboundCipherKey::new(&AES_256, key).unwrap()).unwrap();
    for start in (0..length).step_by(CHUNK) {
        let mut bytes = vec![0; CHUNK.min(usize::try_from(length - start).unwrap())];
        plain.read_exact_at(&mut bytes, start).unwrap();
        for (sector, at) in bytes.chunks_mut(SECTOR).zip((start..).step_by(SECTOR)) {
            let iv = (u128::from(at) / IV_BYTES).to_le_bytes();
            let iv = EncryptionContext::Iv128(FixedLength::from(iv));
            drop(key.less_safe_encrypt(sector, iv).unwrap());
        }
        image.write_all_at(&bytes, VOLUME.start + DATA + start).unwrap();
    }
}

/// An archive (newc, as cpio(1) calls it) of what it takes to open the volume, from the system's own programs.
fn initial_file_system(passphrase: &[u8]) -> Vec<u8> {
    let root = root::debian();
    let mut archive = Archive::default();
    for folder in ["dev", "proc", "sys", "root", "modules", "usr", "usr/bin", "usr/sbin", "usr/lib"]
    {
        archive.add(folder, 0o040_755, &[]);
    }
    for folder in ["usr/lib64", "usr/lib/x86_64-linux-gnu", "run"] {
        archive.add(folder, 0o040_755, &[]);
    }
    for (link, to) in
        [("lib", "usr/lib"), ("lib64", "usr/lib64"), ("usr/sbin/insmod", "../bin/kmod")]
    {
        archive.add(link, 0o120_777, to.as_bytes());
    }
    let inside = |command: &[&str]| {
        let output = Command::new("chroot").arg(&root).args(command).output().unwrap();
        assert!(output.status.success(), "{command:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let needed = inside(&[&["ldd"][..], &PROGRAMS].concat());
    let mut files: Vec<_> =
        needed.split_whitespace().filter(|word| word.starts_with("/lib")).collect();
    files.sort_unstable();
    files.dedup();
    for path in files.into_iter().chain(PROGRAMS) {
        let name = path.trim_start_matches('/');
        let target = if name.starts_with("lib") { format!("usr/{name}") } else { name.to_owned() };
        archive.add(&target, 0o100_755, &fs::read(root.join(name)).unwrap());
    }
    let kernel = root::kernel();
    let version = kernel.to_str().unwrap().rsplit_once("/vmlinuz-").unwrap().1;
    let ask = ["modprobe", "--all", "--show-depends", "--set-version", version];
    let modules = inside(&[&ask[..], &MODULES].concat());
    let mut known = HashSet::new();
    let modules = modules.lines().filter_map(|line| line.strip_prefix("insmod "));
    let modules = modules.filter(|path| known.insert(*path));
    for (at, path) in modules.enumerate() {
        let module = fs::read(root.join(path.trim().trim_start_matches('/'))).unwrap();
        archive.add(&format!("modules/{at:02}"), 0o100_644, &module);
    }
    archive.add("passphrase", 0o100_600, passphrase);
    archive.add("init", 0o100_755, INIT.replace('@', DOES_NOT_OPEN).as_bytes());
    archive.add("TRAILER!!!", 0, &[]);
    archive.bytes
}

#[derive(Debug, Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: usize,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let (entry, size, name_size) = (self.entries, content.len(), name.len() + 1);
        let head = format!(
            "070701{entry:08x}{mode:08x}{z}{z}{one}{z}{size:08x}{z}{z}{z}{z}{name_size:08x}{z}",
            z = "00000000",
            one = "00000001"
        );
        self.bytes.extend_from_slice(head.as_bytes());
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}
