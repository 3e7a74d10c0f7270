//! A virtual machine: the same Debian system as in `container`, with a kernel, drives, a console and a power
//! supply of its own.
//!
//! Emulated as a whole (TCG), so that it needs nothing of the machine around it: no /dev/kvm, no disk, and no network
//! but the test's own namespace. Its drives are files, and its programs are reached over a serial line, which
//! no lock and no quarantine cuts. What ends it is its own power-off, or the test.

use std::fs;
use std::io::Write as _;
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use self::monitor::Monitor;
use self::shell::Shell;
use crate::disk::{Disk, run, text};
use crate::root;
use crate::scene::{Body, Scene};

mod company;
mod keys;
mod lock;
mod monitor;
mod quarantine;
mod reboot;
mod shell;
mod wipe;

/// Finds the network card, whatever the kernel calls it, and gives it the name that `bench-network` expects.
const LINK: &str = "[Match]\nMACAddress=52:54:00:12:34:56\n[Link]\nName=host0\n";
const CARD: &str = "virtio-net-pci,netdev=net,mac=52:54:00:12:34:56,romfile=";
/// The card is there when its driver is, unlike the cable of a container.
const CARD_IS_THERE: &str = "[Unit]
Requires=sys-subsystem-net-devices-host0.device
After=sys-subsystem-net-devices-host0.device
";
/// Bytes of the system's drive, most of which are never written.
const SYSTEM_BYTES: u64 = 1 << 30;
/// Where its one partition begins.
const PARTITION_START: u64 = 1 << 20;
/// What the kernel is told. Drives are numbered as they answer, so the partition is named by what its table says. A
/// machine that others keep busy takes long to find its devices.
const ARGUMENTS: &str = "root=PARTUUID=6e636f74-01 rootwait rw console=tty0 console=ttyS0 quiet \
    net.ifnames=0 no_timer_check mitigations=off panic=-1 systemd.default_timeout_start_sec=600";

/// How a drive is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bus {
    Nvme,
    Ata,
}

/// A drive beside the system's: a file.
#[derive(Debug)]
pub(crate) struct Drive {
    pub(crate) bus: Bus,
    pub(crate) serial: &'static str,
    pub(crate) file: PathBuf,
}

/// One machine: its drives, and its power.
pub(crate) struct Vm {
    disk: Disk,
    /// Drives beside the system's, in the order in which they are attached.
    pub(crate) drives: Vec<Drive>,
    /// Whether the system's drive is attached after them.
    pub(crate) system_is_last: bool,
    running: Option<Running>,
}

struct Running {
    qemu: Child,
    shell: Mutex<Shell>,
    monitor: Mutex<Monitor>,
}

impl Deref for Vm {
    type Target = Disk;

    fn deref(&self) -> &Disk {
        &self.disk
    }
}

impl Body for Vm {
    fn journal(&self) -> String {
        self.shell().run("journalctl --no-pager -b -n 200 -o short-monotonic").1
    }
}

impl Vm {
    /// A machine that is off. What is written onto its disk until it is first switched on is there then.
    pub(crate) fn new() -> Self {
        let disk = Disk::new();
        let drop_in = "/etc/systemd/system/bench-network.service.d/card.conf";
        disk.write(drop_in, CARD_IS_THERE, 0o644);
        disk.write("/etc/systemd/network/10-bench.link", LINK, 0o644);
        shell::install(&disk);
        // Looks for snapshots of LVM, of which there are none, and takes its time.
        disk.offline(&["systemctl", "mask", "e2scrub_reap.service"]);
        run("ip", &["tuntap", "add", "dev", "cable", "mode", "tap"]);
        run("ip", &["link", "set", "cable", "master", "bench", "up"]);
        Self { disk, drives: Vec::new(), system_is_last: false, running: None }
    }

    /// Adds a drive, whose content is that file beside the machine.
    pub(crate) fn attach(&mut self, bus: Bus, serial: &'static str) -> PathBuf {
        let file = self.base.join(serial);
        self.drives.push(Drive { bus, serial, file: file.clone() });
        file
    }

    /// What its network card sent and took since it was switched on, as pcap(5).
    pub(crate) fn packets(&self) -> PathBuf {
        self.base.join("packets")
    }

    /// Switches it on, and returns as soon as its first programs run.
    ///
    /// It has one processor: of two, each would wait for locks that the other holds while this machine runs something
    /// else.
    pub(crate) fn switch_on(&mut self) {
        assert!(self.running.is_none(), "the machine runs");
        let system = self.base.join("system");
        if !system.exists() {
            make_system(&self.root, &system);
        }
        let (ours, line) = UnixStream::pair().unwrap();
        let (watch, monitor) = UnixStream::pair().unwrap();
        let said = fs::File::create(self.base.join("qemu")).unwrap();
        let qemu = Command::new("qemu-system-x86_64")
            .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-m", "768"])
            .args(["-nodefaults", "-no-user-config", "-machine", "pc", "-display", "none"])
            .args(["-vga", "std", "-kernel", text(&root::kernel()), "-append", ARGUMENTS])
            .args(["-chardev", &format!("file,id=console,path={}", text(&self.console()))])
            .args(["-serial", "chardev:console", "-chardev", "socket,id=line,fd=0"])
            .args(["-serial", "chardev:line", "-chardev", "socket,id=monitor,fd=1"])
            .args(["-mon", "chardev=monitor,mode=control"])
            .args([
                "-netdev",
                "tap,id=net,ifname=cable,script=no,downscript=no,vnet_hdr=off",
                "-device",
                CARD,
            ])
            .args([
                "-object",
                &format!("filter-dump,id=d,netdev=net,file={}", text(&self.packets())),
            ])
            .args(self.attached(&system))
            .stdin(Stdio::from(OwnedFd::from(line)))
            .stdout(Stdio::from(OwnedFd::from(monitor)))
            .stderr(said)
            .spawn()
            .expect("the bench needs qemu-system-x86_64 (Debian package qemu-system-x86)");
        let (shell, monitor) = (Mutex::new(Shell::new(ours)), Mutex::new(Monitor::new(watch)));
        self.running = Some(Running { qemu, shell, monitor });
        self.wait_until_started();
    }

    /// The drives, as the emulator is told.
    fn attached(&self, system: &Path) -> Vec<String> {
        let own = [(Bus::Nvme, "system", system)];
        let others = self.drives.iter().map(|drive| (drive.bus, drive.serial, &*drive.file));
        let mut all: Vec<_> = own.into_iter().chain(others).collect();
        if self.system_is_last {
            all.rotate_left(1);
        }
        let mut args = Vec::new();
        for (bus, serial, file) in all {
            let file = text(file);
            args.push("-drive".to_owned());
            args.push(format!("if=none,id={serial},format=raw,discard=unmap,file={file}"));
            args.push("-device".to_owned());
            args.push(match bus {
                Bus::Nvme => format!("nvme,mdts=5,serial={serial},drive={serial}"),
                Bus::Ata => format!("ide-hd,serial={serial},drive={serial}"),
            });
        }
        args
    }

    /// Waits until programs run in it.
    pub(crate) fn wait_until_started(&self) {
        self.shell().wait_until_started();
    }

    /// Waits until it has booted, whatever failed on the way.
    pub(crate) fn wait_until_booted(&self) {
        self.shell().run("systemctl is-system-running --wait");
    }

    /// Switches it on and waits until it has booted.
    pub(crate) fn boot(&mut self) {
        self.switch_on();
        self.wait_until_booted();
    }

    /// Waits until it has booted again.
    pub(crate) fn wait_until_rebooted(&self) {
        self.wait_until_started();
        self.wait_until_booted();
    }

    /// How often its kernel started anew since it was switched on.
    pub(crate) fn reboots(&self) -> usize {
        self.said().matches("reboot: Restarting system").count()
    }

    /// Waits until it is off, and tells what the emulator ended with.
    pub(crate) fn wait_until_off(&mut self) -> i32 {
        let mut running = self.running.take().expect("the machine runs");
        running.qemu.wait().unwrap().code().expect("the emulator ends by itself")
    }

    /// Takes its power away: nothing in it gets to do anything more.
    pub(crate) fn cut_power(&mut self) {
        let mut running = self.running.take().expect("the machine runs");
        running.qemu.kill().unwrap();
        running.qemu.wait().unwrap();
    }

    /// What a line of shell prints inside.
    pub(crate) fn sh(&self, script: &str) -> String {
        let (code, said) = self.shell().run(script);
        assert_eq!(code, 0, "{script}: {said}\n{}", self.journal());
        said.trim_end().to_owned()
    }

    /// Whether a line of shell succeeds inside.
    pub(crate) fn succeeds(&self, script: &str) -> bool {
        self.shell().run(script).0 == 0
    }

    /// When a unit of this boot became active, in microseconds; 0 if it did not.
    pub(crate) fn entered(&self, unit: &str) -> u64 {
        let show = format!("systemctl show -P ActiveEnterTimestampMonotonic {unit}");
        self.sh(&show).parse().unwrap()
    }

    /// What it said on its first serial line since it was switched on.
    pub(crate) fn said(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.console()).unwrap()).into_owned()
    }

    fn console(&self) -> PathBuf {
        self.base.join("console")
    }

    fn running(&self) -> &Running {
        self.running.as_ref().expect("the machine runs")
    }

    fn shell(&self) -> std::sync::MutexGuard<'_, Shell> {
        self.running().shell.lock().unwrap()
    }

    /// The hands on its keys and drives, while it runs.
    pub(crate) fn monitor(&self) -> std::sync::MutexGuard<'_, Monitor> {
        self.running().monitor.lock().unwrap()
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        let Some(mut running) = self.running.take() else { return };
        drop(running.qemu.kill());
        drop(running.qemu.wait());
        if std::thread::panicking() {
            for name in ["qemu", "console"] {
                let said = fs::read(self.base.join(name)).unwrap_or_default();
                drop(std::io::stderr().write_all(&said));
            }
        }
    }
}

/// Makes the system's drive from a folder, without mounting anything: a partition table with one entry, and a file
/// system in it.
fn make_system(root: &Path, image: &Path) {
    const SECTOR: u64 = 512;
    let file = fs::File::create(image).unwrap();
    file.set_len(SYSTEM_BYTES).unwrap();
    let blocks = (SYSTEM_BYTES - PARTITION_START) / 1024;
    run(
        "mke2fs",
        &[
            &["-q", "-t", "ext4", "-E", &format!("offset={PARTITION_START}")],
            &["-d", text(root), text(image), &format!("{blocks}k")][..],
        ]
        .concat(),
    );
    // The table's signature, which names the partition; then its type, its beginning and its length.
    let mut table = [0; 72];
    table[..4].copy_from_slice(b"tocn");
    table[10] = 0x83;
    let sectors = |bytes: u64| u32::try_from(bytes / SECTOR).unwrap().to_le_bytes();
    table[14..18].copy_from_slice(&sectors(PARTITION_START));
    table[18..22].copy_from_slice(&sectors(SYSTEM_BYTES - PARTITION_START));
    table[70..].copy_from_slice(&[0x55, 0xaa]);
    std::os::unix::fs::FileExt::write_all_at(&file, &table, 440).unwrap();
}

impl Scene<Vm> {
    /// A virtual machine that is off, with people and an armed agent on it.
    pub(crate) async fn virtual_machine() -> Self {
        let scene = Self::on(Vm::new(), "rescue").await;
        // The test looks around on the machine before its power goes.
        let (config, unhurried) = ("/etc/tocsin/agent.toml", "[ladder]\npower_off_wait = \"1h\"\n");
        let text = scene.machine.read(config).replace("[ladder]\n", unhurried);
        scene.machine.write(config, &text, 0o600);
        scene
    }
}
