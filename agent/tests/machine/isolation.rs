//! That a machine of the bench never reaches the machine around it.

use std::fs;
use std::process::Command;

use crate::container::{Machine, alone};

#[test]
fn machine_of_the_bench_reaches_nothing_of_the_outer_one() {
    alone("isolation::machine_of_the_bench_reaches_nothing_of_the_outer_one", || {
        let mut machine = Machine::new();
        machine.boot();
        for kind in ["pid", "mnt", "net", "uts", "ipc", "cgroup"] {
            let inside = machine.sh(&format!("readlink /proc/1/ns/{kind}"));
            let outside = fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
            assert_ne!(inside, outside.to_str().unwrap(), "{kind}");
        }
        let mut other = Command::new("sleep").arg("1000").spawn().unwrap();
        machine.sh("for group in $(find /sys/fs/cgroup -name cgroup.kill -path '*user*'); do echo 1 > $group; done");
        assert!(other.try_wait().unwrap().is_none(), "its control groups are its own");
        other.kill().unwrap();
        let own = fs::read_to_string(format!("/proc/{}/cgroup", machine.leader())).unwrap();
        assert!(own.contains("/tocsin-machine"), "{own}");
        let first = machine.sh("cat /proc/1/comm; systemd-detect-virt --container");
        assert_eq!(first, "systemd\nsystemd-nspawn");
        assert_eq!(machine.sh("find /dev -type b"), "", "no block device");
        assert!(!machine.succeeds("mknod /tmp/disk b 254 0"), "and none can be made");
        for path in ["/proc/sysrq-trigger", "/proc/kcore", "/proc/sys/kernel/core_pattern"] {
            assert!(!machine.succeeds(&format!("test -w {path} && echo h > {path}")), "{path}");
        }
        // The whole of what its first process may ever have.
        let bounds =
            machine.sh("sed -n 's/^CapBnd:.*\\(................\\)$/\\1/p' /proc/1/status");
        let bounds = u64::from_str_radix(&bounds, 16).unwrap();
        for (name, bit) in [("sys_module", 16), ("sys_rawio", 17), ("sys_time", 25), ("mknod", 27)]
        {
            assert_eq!(bounds & (1 << bit), 0, "{name}");
        }
        fs::write("/run/outer-mark", "").unwrap();
        assert!(!machine.succeeds("test -e /run/outer-mark"), "its /run is its own");
        fs::remove_file("/run/outer-mark").unwrap();
        assert_eq!(machine.sh("ls /sys/class/net").split_whitespace().count(), 2, "lo and host0");

        // Switching it off switches nothing else off.
        machine.shut_down();
        machine.boot();
        machine.sh("systemctl --force --force poweroff || true");
        machine.wait_until_off();
    });
}
