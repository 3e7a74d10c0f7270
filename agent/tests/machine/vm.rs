//! A virtual machine: the same Debian system as in `container`, with a kernel, drives, a console and a power
//! supply of its own.
//!
//! Emulated as a whole (TCG), so that it needs nothing of the machine around it: no /dev/kvm, no disk, and no network
//! but the test's own namespace. Its drives are files, and its programs are reached over a serial line, which
//! no lock and no quarantine cuts. What ends it is its own power-off, or the test.

use std::fs;
use std::io::Write as _;
use std::ops::{Deref, Range};
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
mod encrypted;
mod keys;
mod lock;
mod monitor;
mod quarantine;
mod reboot;
mod shell;
mod system_wipe;
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
    /// A drive of a virtual machine, which neither erases itself nor gives space back.
    Virtio,
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
    /// How the system's drive is attached.
    pub(crate) system_bus: Bus,
    /// Whether its root lies on an encrypted volume.
    pub(crate) is_encrypted: bool,
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
        Self {
            disk,
            drives: Vec::new(),
            system_is_last: false,
            system_bus: Bus::Nvme,
            is_encrypted: false,
            running: None,
        }
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
        self.power_up();
        self.wait_until_started();
    }

    /// The file of the system's drive.
    pub(crate) fn system(&self) -> PathBuf {
        self.base.join("system")
    }

    /// Switches it on, whatever becomes of that.
    pub(crate) fn power_up(&mut self) {
        assert!(self.running.is_none(), "the machine runs");
        let (system, initial) = (self.system(), self.base.join("initramfs"));
        if !system.exists() && self.is_encrypted {
            encrypted::make_system(&self.disk, &system, &initial);
        } else if !system.exists() {
            make_system(&self.root, &system);
        }
        let initial: &[&str] = if self.is_encrypted { &["-initrd", text(&initial)] } else { &[] };
        let (ours, line) = UnixStream::pair().unwrap();
        let (watch, monitor) = UnixStream::pair().unwrap();
        let said = fs::File::create(self.base.join("qemu")).unwrap();
        let qemu = Command::new("qemu-system-x86_64")
            .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-m", "768"])
            .args(["-nodefaults", "-no-user-config", "-machine", "pc", "-display", "none"])
            .args(["-vga", "std", "-kernel", text(&root::kernel()), "-append", ARGUMENTS])
            .args(initial)
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
    }

    /// The drives, as the emulator is told.
    fn attached(&self, system: &Path) -> Vec<String> {
        let own = [(self.system_bus, "system", system)];
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
                Bus::Virtio => {
                    let lacks = "discard=off,write-zeroes=off";
                    format!("virtio-blk-pci,serial={serial},drive={serial},{lacks}")
                }
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

    /// Whether it went down by itself.
    pub(crate) fn is_off(&mut self) -> bool {
        let running = self.running.as_mut().expect("the machine runs");
        running.qemu.try_wait().unwrap().is_some()
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
    let file = fs::File::create(image).unwrap();
    file.set_len(SYSTEM_BYTES).unwrap();
    let partition = PARTITION_START..SYSTEM_BYTES;
    make_file_system(root, image, &partition);
    write_table(&file, &[partition]);
}

/// Makes a file system of a folder's content in that part of a file.
fn make_file_system(root: &Path, image: &Path, part: &Range<u64>) {
    let offset = format!("offset={}", part.start);
    let blocks = format!("{}k", (part.end - part.start) / 1024);
    let args = ["-q", "-F", "-t", "ext4", "-b", "4096", "-E", &offset, "-d"];
    run("mke2fs", &[&args[..], &[text(root), text(image), &blocks]].concat());
}

/// Writes a partition table with those entries.
fn write_table(file: &fs::File, partitions: &[Range<u64>]) {
    const SECTOR: u64 = 512;
    // The table's signature, which names the partitions; then of each its type, its beginning and its length.
    let mut table = [0; 72];
    table[..4].copy_from_slice(b"tocn");
    let sectors = |bytes: u64| u32::try_from(bytes / SECTOR).unwrap().to_le_bytes();
    for (entry, part) in table[6..70].chunks_mut(16).zip(partitions) {
        entry[4] = 0x83;
        entry[8..12].copy_from_slice(&sectors(part.start));
        entry[12..].copy_from_slice(&sectors(part.end - part.start));
    }
    table[70..].copy_from_slice(&[0x55, 0xaa]);
    std::os::unix::fs::FileExt::write_all_at(file, &table, 440).unwrap();
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
