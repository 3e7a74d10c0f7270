//! What the systems' own programs make is known, and what they do not make is not.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use super::super::volume::{Access, Disk as _, SystemDisk};
use super::*;

const BYTES: u64 = 320 * 1024 * 1024;

fn seen(path: &Path) -> Option<String> {
    uuid(&*SystemDisk.open(path, Access::Read).unwrap()).unwrap()
}

#[test]
fn file_systems_say_who_they_are_as_blkid_reads_them() {
    let folder = tempfile::tempdir().unwrap();
    for (name, program) in [
        ("ext", &["mkfs.ext4", "-q"][..]),
        ("ext", &["mkfs.ext2", "-q"]),
        ("xfs", &["mkfs.xfs", "-q"]),
        ("btrfs", &["mkfs.btrfs", "-q"]),
        ("f2fs", &["mkfs.f2fs", "-q"]),
        ("ntfs", &["mkfs.ntfs", "-q", "-F", "-f"]),
        ("exfat", &["mkfs.exfat"]),
        ("vfat", &["mkfs.vfat", "-F", "32"]),
        ("vfat", &["mkfs.vfat", "-F", "16"]),
    ] {
        let path = folder.path().join(program.concat());
        File::create(&path).unwrap().set_len(BYTES).unwrap();
        assert_eq!(seen(&path), None, "nothing is made yet");
        run(program, &path);
        let told = run(&["blkid", "-p", "-s", "UUID", "-o", "value"], &path);
        let told = told.trim().replace('-', "").to_lowercase();
        let found = seen(&path).unwrap();
        let (kind, number) = found.split_once(' ').unwrap();
        assert_eq!(kind, name);
        // What Microsoft made has its number the other way round.
        let pairs = number.as_bytes().chunks(2).rev();
        let turned: String = pairs.map(String::from_utf8_lossy).collect();
        assert!(number == told || turned == told, "{program:?}: {number} {told}");
    }
}

fn run(program: &[&str], path: &Path) -> String {
    let output = Command::new(program[0]).args(&program[1..]).arg(path).output();
    let output =
        output.unwrap_or_else(|error| panic!("{} (scripts/packages): {error}", program[0]));
    assert!(output.status.success(), "{program:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn what_ends_before_its_number_or_has_none_is_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("odd");
    for bytes in [&b""[..], b"XFSB", &[0x5a; 4096], &[b"XFSB".as_slice(), &[0; 4096]].concat()] {
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(seen(&path), None, "{bytes:?}");
    }
}
