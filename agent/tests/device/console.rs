//! The page of a locked device on a real terminal: what it shows, which keys lead nowhere, and the code.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use agent::config::ArmingConfig;
use agent::execute::lock::{LockState, Phase};
use agent::host::Superuser;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{OpenptyResult, openpty};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::ttyname;
use protocol::action::{Action, Lock, LockLevel};
use protocol::fixture::{command, device, order};
use protocol::offline::OfflineSecret;
use protocol::time::Timestamp;
use runtime::Clock;

use crate::bench::{Bench, GUARD, until};
use crate::start::write_root;

/// A locked device without a running agent, and the terminal that it shows the lock on.
struct Scene {
    bench: Bench,
    secret: OfflineSecret,
    terminal: OpenptyResult,
    keys: fs::File,
    shown: Vec<u8>,
    page: Option<Child>,
}

impl Scene {
    fn new() -> Self {
        let mut bench = Bench::new();
        let root = bench.config.state_dir.with_file_name("root");
        write_root(&root);
        bench.config.host.arming = ArmingConfig::Sandboxed;
        bench.config.host.root = root;
        let secret = OfflineSecret::new([5; 32]);
        let message = Some("call 555, case \"4711\"".to_owned());
        let lock = Lock { level: LockLevel::Session, message: message.clone() };
        let mut envelope = bench.envelope(8, Action::Lock(lock), 1);
        let code = secret.code(&device(1));
        envelope.manifest.offline_codes.insert(device(1), code.commitment(&device(1)));
        let state = LockState {
            phase: Phase::Locked,
            command_id: command(8),
            envelope: bench.organisation.deliver(&envelope, 0).jws.as_str().to_owned(),
            offline_code: Some(code.commitment(&device(1))),
            level: LockLevel::Session,
            message,
            break_glass: vec!["rescue".to_owned()],
            strangers: Vec::new(),
            superuser: Superuser::default(),
            applied_at: Timestamp::default(),
        };
        let path = bench.config.state_dir.join("lock.json");
        fs::write(path, serde_json::to_vec(&state).unwrap()).unwrap();
        let terminal = openpty(None, None).unwrap();
        let keys = fs::File::from(terminal.master.try_clone().unwrap());
        Self { bench, secret, terminal, keys, shown: Vec::new(), page: None }
    }

    fn lock(&self) -> PathBuf {
        self.bench.config.state_dir.join("lock.json")
    }

    /// Starts the page, as its unit does.
    fn show(&mut self) {
        self.show_on(&ttyname(&self.terminal.slave).unwrap());
    }

    fn show_on(&mut self, terminal: &Path) {
        let config = self.bench.config.state_dir.with_file_name("agent.toml");
        let text = format!(
            "[host]\narming = \"sandboxed\"\nroot = {:?}\ndbus = \"\"\npower = {{ record = {:?} }}\n",
            self.bench.config.host.root,
            self.bench.power_log()
        );
        fs::write(&config, text).unwrap();
        let page = Command::new(env!("CARGO_BIN_EXE_tocsin-agent"))
            .arg("console")
            .arg(terminal)
            .arg("--config")
            .arg(config)
            .arg("--state")
            .arg(&self.bench.config.state_dir)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        self.page = Some(page);
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until that stands on the screen, since it was last asked for.
    fn sees(&mut self, text: &str) {
        self.sees_one(&[text]);
    }

    /// The same with several texts, of which it gives the one that came.
    fn sees_one(&mut self, texts: &[&str]) -> usize {
        let guard = PollTimeout::try_from(GUARD).unwrap();
        let began = Clock::system().now();
        loop {
            let shown = String::from_utf8_lossy(&self.shown).into_owned();
            let found = texts.iter().enumerate();
            let found = found.filter_map(|(number, text)| Some((shown.find(text)?, number)));
            if let Some((at, number)) = found.min() {
                self.shown = shown.as_bytes()[at + texts[number].len()..].to_vec();
                return number;
            }
            let text = texts.join(" or ");
            // It is drawn again all the time.
            let is_late = Clock::system().now() - began > GUARD;
            assert!(!is_late, "{text:?} is not in {shown:?}");
            let mut fds = [PollFd::new(self.terminal.master.as_fd(), PollFlags::POLLIN)];
            assert!(poll(&mut fds, guard).unwrap() > 0, "{text:?} is not in {shown:?}");
            let mut bytes = [0; 4096];
            let length = self.keys.read(&mut bytes).unwrap();
            self.shown.extend(&bytes[..length]);
        }
    }

    /// Forgets what was shown until now.
    fn look_away(&mut self) {
        loop {
            let mut fds = [PollFd::new(self.terminal.master.as_fd(), PollFlags::POLLIN)];
            if poll(&mut fds, PollTimeout::ZERO).unwrap() == 0 {
                break;
            }
            let mut bytes = [0; 4096];
            let _ = self.keys.read(&mut bytes).unwrap();
        }
        self.shown.clear();
    }

    fn raises_signals(&self) -> bool {
        tcgetattr(&self.terminal.slave).unwrap().local_flags.contains(LocalFlags::ISIG)
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if let Some(page) = &mut self.page {
            drop(page.kill());
            drop(page.wait());
        }
    }
}

#[tokio::test]
async fn console_of_a_locked_device_is_left_by_the_code_and_by_no_key() {
    let mut scene = Scene::new();
    assert!(scene.raises_signals());
    scene.show();
    scene.sees("THIS DEVICE IS LOCKED");
    scene.sees("call 555, case \"4711\"");
    for (name, value) in [
        ("device", device(1).to_string()),
        ("order", order(8).to_string()),
        ("since", Timestamp::default().rfc3339()),
    ] {
        scene.sees(&format!("  {name:<8}{value}"));
    }
    scene.sees("Code: ");
    assert!(!scene.raises_signals());
    // Ctrl-C, Ctrl-Z, Ctrl-\, Ctrl-D, Ctrl-S, Ctrl-Q, an arrow, a key of functions; then a letter.
    scene.press("\x03\x1a\x1c\x04\x13\x11\x1b[A\x1b[24~x");
    scene.sees("Code: X");
    scene.press("y\x7f\r");
    scene.sees("mistyped: a code has 4 groups");
    let wrong = OfflineSecret::new([9; 32]).code(&device(1)).reveal();
    scene.press(&format!("{wrong}\r"));
    scene.sees("not the code; the next try in 2 s");

    // Killed as SAK does, and started again as its unit does: nothing is gained.
    let page = scene.page.as_mut().unwrap();
    page.kill().unwrap();
    page.wait().unwrap();
    assert!(scene.lock().exists());
    scene.look_away();
    scene.show();
    scene.sees("Code: ");
    let right = scene.secret.code(&device(1)).reveal();
    let notes = ["too early", "the device is unlocked"];
    let mut note = 0;
    while note == 0 {
        scene.press(&format!("{right}\r"));
        scene.sees("one moment");
        note = scene.sees_one(&notes);
    }
    assert!(!scene.lock().exists());
    let status = scene.page.as_mut().unwrap().wait().unwrap();
    assert!(status.success(), "{status}");
    assert!(scene.raises_signals(), "the terminal is as it was");
}

#[tokio::test]
async fn console_goes_when_the_lock_is_ended_by_an_order() {
    let mut scene = Scene::new();
    scene.show();
    scene.sees("Code: ");
    fs::remove_file(scene.lock()).unwrap();
    let status = scene.page.as_mut().unwrap().wait().unwrap();
    assert!(status.success(), "{status}");
    scene.sees("\x1b[2J");
    until(|| scene.raises_signals()).await;
}

#[tokio::test]
async fn console_of_a_lock_that_cannot_be_read_is_locked() {
    let mut scene = Scene::new();
    fs::write(scene.lock(), "{").unwrap();
    scene.show();
    scene.sees("THIS DEVICE IS LOCKED");
    scene.sees("log in as break-glass");
    assert!(!scene.raises_signals());
    fs::remove_file(scene.lock()).unwrap();
    let status = scene.page.as_mut().unwrap().wait().unwrap();
    assert!(status.success(), "{status}");
}

/// The last virtual console of the machine, which nobody has in front, and its screen as the kernel
/// keeps it.
const VIRTUAL: [&str; 2] = ["/dev/tty63", "/dev/vcs63"];

#[tokio::test]
async fn lock_is_read_off_the_screen_of_a_virtual_console() {
    let [terminal, screen] = VIRTUAL.map(Path::new);
    // Opened, it exists; and its screen does.
    let opened = fs::File::options().read(true).write(true).open(terminal);
    let shown = || fs::read(screen).map(|shown| String::from_utf8_lossy(&shown).into_owned());
    if let Err(error) = opened.and_then(|_| shown()) {
        println!("skipped: {} cannot be opened and read here: {error}", terminal.display());
        return;
    }
    let shown = || shown().unwrap();
    let mut scene = Scene::new();
    scene.show_on(terminal);
    let lines = ["THIS DEVICE IS LOCKED", "call 555, case \"4711\"", "Code: "];
    until(|| lines.iter().all(|line| shown().contains(line))).await;
    assert!(!shown().contains('\u{1b}'), "what steers a terminal is not shown on it");
    fs::remove_file(scene.lock()).unwrap();
    let status = scene.page.as_mut().unwrap().wait().unwrap();
    assert!(status.success(), "{status}");
    assert_eq!(shown().trim(), "", "and the screen is blank again");
}
