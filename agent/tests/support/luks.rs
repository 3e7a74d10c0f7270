//! Real LUKS volumes in files, as `cryptsetup` makes and opens them.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// Both formats, as `cryptsetup luksFormat --type` names them.
pub(crate) const FORMATS: [&str; 2] = ["luks1", "luks2"];
/// What opens a volume that [`format`] made.
pub(crate) const PASSPHRASES: [&str; 2] = ["first passphrase", "second passphrase"];
/// A key derivation that is quick, for passphrases of which nobody has to be afraid.
pub(crate) const WEAK: [&str; 4] = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"];

/// Formats a file of that size by that command as a volume that both passphrases open. The first one
/// stays in a file beside it, `<path>.first`.
pub(crate) fn format(path: &Path, bytes: u64, command: &[&str]) {
    fs::File::create(path).unwrap().set_len(bytes).unwrap();
    let path = path.to_str().unwrap();
    let first = path.to_owned() + ".first";
    fs::write(&first, PASSPHRASES[0]).unwrap();
    assert!(cryptsetup(&[command, &WEAK, &[path, &first]].concat(), ""));
    let add = ["-q", "luksAddKey", "--key-file", &first];
    assert!(cryptsetup(&[&add[..], &WEAK, &[path]].concat(), PASSPHRASES[1]));
    for passphrase in PASSPHRASES {
        assert!(opens(Path::new(path), passphrase), "a fresh volume opens");
    }
}

/// Runs `cryptsetup` with that on its standard input, and says whether it succeeded.
pub(crate) fn cryptsetup(args: &[&str], input: &str) -> bool {
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

/// Whether the passphrase opens the volume.
pub(crate) fn opens(volume: &Path, passphrase: &str) -> bool {
    let args = ["open", "--test-passphrase", "--key-file", "-", volume.to_str().unwrap()];
    cryptsetup(&args, passphrase)
}
