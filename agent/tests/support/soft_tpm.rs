//! A TPM 2.0 in software (swtpm), whose state outlives its process as that of a chip outlives a boot.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A TPM in a folder. It goes with its process.
pub(crate) struct SoftTpm {
    folder: PathBuf,
    process: Option<Child>,
}

impl SoftTpm {
    /// One that is switched on, in a new folder.
    pub(crate) fn new(folder: &Path) -> Self {
        std::fs::create_dir(folder).expect("a folder for the tpm");
        let mut tpm = Self { folder: folder.to_owned(), process: None };
        tpm.switch_on();
        tpm
    }

    /// Where it is reached.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.join("socket")
    }

    pub(crate) fn switch_on(&mut self) {
        let socket = self.socket();
        let _ = std::fs::remove_file(&socket);
        let process = Command::new("swtpm")
            .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear", "--tpmstate"])
            .arg(format!("dir={}", self.folder.display()))
            .arg("--server")
            .arg(format!("type=unixio,path={}", socket.display()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("swtpm (Debian: swtpm) starts");
        self.process = Some(process);
        while UnixStream::connect(&socket).is_err() {
            let process = self.process.as_mut().expect("it was started");
            let ended = process.try_wait().expect("it can be waited for");
            assert!(ended.is_none(), "swtpm ends: {ended:?}");
            std::thread::yield_now();
        }
    }

    pub(crate) fn switch_off(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            process.wait().expect("it can be waited for");
        }
    }
}

impl Drop for SoftTpm {
    fn drop(&mut self) {
        self.switch_off();
    }
}
