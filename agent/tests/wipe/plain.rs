//! File systems that nothing encrypts: a wipe of data erases those on the machine's own drives, and says so before.

use std::fs;
use std::path::PathBuf;

use agent::execute::Executor as _;
use agent::execute::wipe::took_system;
use protocol::action::WipeLevel;
use protocol::receipt::{Evidence, FailureKind};
use serde_json::{Value, json};

use crate::faults::{Fault, FaultyDisk, Torn, carry_out_with_power_cut};
use crate::scene::{carry_out, opens_with_any, wipe};
use crate::support::host::task;
use crate::targets::{Machine, laptop};

const BYTES: usize = 96 * 1024;
const UUID: &str = "xfs 77777777777777777777777777777777";

/// A device with what looks like XFS, and that number.
pub(crate) fn xfs(machine: &Machine, name: &str, number: u8) -> PathBuf {
    let mut bytes = vec![0x5a; BYTES];
    bytes[..4].copy_from_slice(b"XFSB");
    bytes[32..48].fill(number);
    machine.file(&format!("/dev/{name}"), bytes);
    machine.host.path("/dev").join(name)
}

/// The laptop with a second drive, on which the data of a service lies in the clear.
pub(crate) fn laptop_with_srv() -> (Machine, PathBuf) {
    let mut machine = laptop();
    machine.device("sdd", "8:48", &[]);
    fs::create_dir(machine.host.path("/sys/block/sdd/device")).unwrap();
    machine.mount("8:48", "/srv", "xfs /dev/sdd");
    let path = xfs(&machine, "sdd", 0x77);
    (machine, path)
}

fn is_erased(path: &PathBuf) -> bool {
    fs::read(path).unwrap() == [0; BYTES]
}

fn only(evidence: &Evidence) -> Value {
    let file_systems = evidence.get("file_systems").unwrap().as_array().unwrap();
    assert_eq!(file_systems.len(), 1, "{file_systems:?}");
    file_systems[0].clone()
}

#[test]
fn plain_file_system_is_erased_after_the_proof_of_the_keys_and_approved_before() {
    let (mut machine, path) = laptop_with_srv();
    let keys = wipe(WipeLevel::Keys).plan(&machine.host, &task(1)).unwrap();
    assert_eq!(keys.facts.get("file_systems"), None, "a wipe of keys leaves it");
    let (wipe, task) = (wipe(WipeLevel::Data), task(1));
    let plan = wipe.plan(&machine.host, &task).unwrap();
    let steps = plan.steps.join("\n");
    let step = format!("sdd ({UUID}, not encrypted): unmount, erase {BYTES} bytes");
    assert!(steps.contains(&step) && !steps.contains("left as it is"), "{steps}");
    let fact = json!([{ "path": path, "uuid": UUID, "bytes": BYTES }]);
    assert_eq!(plan.facts.get("file_systems"), Some(&fact));

    wipe.apply(&machine.host, &task).unwrap();
    let first = wipe.prove(&machine.host, &task).unwrap();
    assert_eq!(first.get("unencrypted"), Some(&json!([path])), "so far");
    assert!(!is_erased(&path));
    wipe.finish(&machine.host, &task).unwrap();
    assert!(is_erased(&path));

    // Somebody has it mounted still, and may write to it at any moment.
    fs::write(&path, [1; BYTES]).unwrap();
    let open = wipe.prove(&machine.host, &task).unwrap();
    assert_eq!(open.get("grade"), Some(&json!("proven")));
    assert_eq!(open.get("still_open"), Some(&json!([path])));
    assert_eq!(only(&open)["grade"], json!("unproven"));
    // Nobody has any more.
    machine.keep_mounted("/");
    let failure = wipe.prove(&machine.host, &task).unwrap_err();
    assert!(failure.detail.ends_with("sdd still shows data"), "{}", failure.detail);
    fs::write(&path, [0; BYTES]).unwrap();
    let last = wipe.prove(&machine.host, &task).unwrap();
    assert_eq!(last.get("grade"), Some(&json!("proven_media")));
    assert_eq!((last.get("unencrypted"), last.get("still_open")), (None, None));
    let of = only(&last);
    assert_eq!((&of["path"], &of["uuid"]), (&json!(path), &json!(UUID)));
    assert_eq!((&of["grade"], &of["erasure"]), (&json!("proven_media"), &json!("overwritten")));
}

#[test]
fn what_is_not_the_machines_own_or_does_not_say_what_it_is_stays_and_is_named() {
    /// What is different about the second drive.
    type Change = fn(&Machine);
    let table: [(&str, Change); 9] = [
        ("another's, of which a folder is seen", |machine| {
            let mounts = machine.host.path("/proc/self/mountinfo");
            let text = fs::read_to_string(&mounts).unwrap();
            fs::write(mounts, text.replace("8:48 / /srv", "8:48 /var/lib/pod /srv")).unwrap();
        }),
        ("in a container", |machine| machine.file("/run/systemd/container", "docker")),
        ("a stick", |machine| machine.file("/sys/block/sdd/removable", "1\n")),
        ("no hardware", |machine| {
            fs::remove_dir(machine.host.path("/sys/block/sdd/device")).unwrap();
        }),
        ("an iSCSI disk", |machine| {
            let (disk, there) = ("/sys/block/sdd", "/sys/devices/platform/host3/session1/sdd");
            fs::create_dir_all(machine.host.path(there).parent().unwrap()).unwrap();
            fs::rename(machine.host.path(disk), machine.host.path(there)).unwrap();
            std::os::unix::fs::symlink(machine.host.path(there), machine.host.path(disk)).unwrap();
        }),
        ("NVMe over TCP", |machine| machine.file("/sys/block/sdd/device/transport", "tcp\n")),
        ("one path of several over TCP", |machine| {
            machine.file("/sys/block/sdd/device/nvme1/transport", "tcp\n");
        }),
        ("of no known kind", |machine| machine.file("/dev/sdd", [0x5a; BYTES])),
        ("without a number", |machine| {
            xfs(machine, "sdd", 0);
        }),
    ];
    for (name, change) in table {
        let (machine, path) = laptop_with_srv();
        change(&machine);
        let before = fs::read(&path).unwrap();
        let plan = wipe(WipeLevel::Data).plan(&machine.host, &task(1)).unwrap();
        assert_eq!(plan.facts.get("file_systems"), None, "{name}");
        let evidence = carry_out(&wipe(WipeLevel::Data), &machine.host, &task(1)).unwrap();
        assert_eq!(evidence.get("unencrypted"), Some(&json!([path])), "{name}");
        assert_eq!(evidence.get("grade"), Some(&json!("proven")), "{name}");
        assert_eq!(fs::read(&path).unwrap(), before, "{name}");
    }
}

#[test]
fn named_targets_leave_what_nobody_named() {
    let (mut machine, path) = laptop_with_srv();
    machine.host.wipe_targets = vec![machine.host.path("/dev/sda3")];
    let evidence = carry_out(&wipe(WipeLevel::Data), &machine.host, &task(1)).unwrap();
    assert_eq!(evidence.get("file_systems"), None);
    assert!(!is_erased(&path));
}

#[test]
fn another_file_system_that_took_its_place_is_spared_and_the_rest_goes() {
    let (machine, path) = laptop_with_srv();
    let (wipe, task) = (wipe(WipeLevel::Data), task(1));
    wipe.apply(&machine.host, &task).unwrap();
    // One that begins with as many zeros as a file system that is being erased.
    let mut stranger = vec![0; BYTES];
    stranger[0x1_0040..0x1_0048].copy_from_slice(b"_BHRfS_M");
    stranger[0x1_0088] = 1;
    stranger[0x1_0020..0x1_0030].fill(0x78);
    fs::write(&path, &stranger).unwrap();
    // Also where erasing was under way.
    let record = machine.host.state_dir.join("wipe.json");
    let text = fs::read_to_string(&record).unwrap();
    let begun = text.replace("\"done\":0", "\"done\":1");
    assert_ne!(begun, text);
    fs::write(&record, begun).unwrap();
    let failure = wipe.finish(&machine.host, &task).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Precondition);
    let detail = "sdd is not the volume that was to be destroyed";
    assert!(failure.detail.ends_with(detail), "{}", failure.detail);
    assert_eq!(fs::read(&path).unwrap(), stranger);
    let volumes = ["/dev/sda2", "/dev/sda3"].map(|path| machine.host.path(path));
    for volume in volumes {
        assert!(
            !opens_with_any(&volume)
                && fs::read(&volume).unwrap()[BYTES * 64..].iter().all(|b| *b == 0)
        );
    }
    let evidence = wipe.prove(&machine.host, &task).unwrap();
    assert_eq!(evidence.get("unencrypted"), Some(&json!([path])));
    assert_eq!(only(&evidence)["grade"], json!("unproven"));
}

#[test]
fn power_cut_at_any_write_goes_on_to_the_same_end() {
    for torn in [Torn::InTheMiddle, Torn::InManyPlaces] {
        let mut operations = 0;
        loop {
            let (mut machine, path) = laptop_with_srv();
            let mut disk = FaultyDisk::after(operations, Fault::PowerCut);
            disk.torn = torn;
            let is_whole = carry_out_with_power_cut(&machine.host, WipeLevel::Data, disk.clone());
            assert_eq!(disk.left(), 0, "one operation more than before");
            machine.keep_mounted("/");
            let evidence = carry_out(&wipe(WipeLevel::Data), &machine.host, &task(1));
            let evidence = evidence.unwrap_or_else(|failure| {
                panic!("operation {operations}, torn {torn:?}: {}", failure.detail)
            });
            let grade = evidence.get("grade");
            assert_eq!(grade, Some(&json!("proven_media")), "operation {operations}, {torn:?}");
            assert!(is_erased(&path), "operation {operations}, {torn:?}");
            if is_whole {
                break;
            }
            operations += 1;
        }
        assert!(operations >= 16, "of two volumes and the file system: {operations}");
    }
}

#[test]
fn system_that_is_not_encrypted_goes_with_the_data_beside_it() {
    for (level, is_gone) in [(WipeLevel::Keys, false), (WipeLevel::Data, true)] {
        let (mut machine, path) = laptop_with_srv();
        // Home alone is encrypted, and the system runs from the second drive.
        machine.keep_mounted("/home");
        machine.mount("8:48", "/", "xfs /dev/sdd");
        machine.device("sde", "8:64", &[]);
        fs::create_dir(machine.host.path("/sys/block/sde/device")).unwrap();
        machine.mount("8:64", "/srv", "xfs /dev/sde");
        let other = xfs(&machine, "sde", 0x78);
        let facts = wipe(level).plan(&machine.host, &task(1)).unwrap().facts;
        let order: Vec<_> =
            facts.get("file_systems").into_iter().flat_map(|l| l.as_array().unwrap()).collect();
        let order: Vec<_> = order.into_iter().map(|of| of["path"].clone()).collect();
        assert_eq!(
            order,
            if is_gone { vec![json!(other), json!(path)] } else { vec![] },
            "the system last"
        );
        let evidence = carry_out(&wipe(level), &machine.host, &task(1)).unwrap();
        assert_eq!((machine.host.ground.is_gone(), is_erased(&path)), (is_gone, is_gone));
        assert_eq!(took_system(&machine.host), is_gone, "by which the next agent knows it");
        assert_eq!(is_erased(&other), is_gone);
        assert_eq!(evidence.get("grade"), Some(&json!("proven")), "it runs until the power goes");
    }
}
