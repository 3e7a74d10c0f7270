//! The power-off that ends a wipe: after its proof has arrived, or has had its time; and what a
//! crash in between changes. Real volumes, and a file that stands for the power switch.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use agent::config::ArmingConfig;
use agent::journal::Journal;
use protocol::action::{Action, Wipe, WipeLevel};
use protocol::fixture::wipe;
use protocol::frame::{AgentFrame, CommandFrame, HubFrame};
use protocol::grade::Grade;
use protocol::id::CommandId;
use protocol::ledger::Record;
use protocol::proof;
use protocol::receipt::{FailureKind, Outcome};
use serde_json::{Value, json};

use crate::bench::{Bench, confirmed, until};
use crate::disk::{Disk, bytes, in_mount_namespace, received};

const HOUR: Duration = Duration::from_secs(3600);

/// A device in a sandbox with one volume, whose power-off waits that long; and an approved wipe.
fn scene(power_off_wait: Duration) -> (Bench, CommandFrame) {
    scene_of(wipe(), power_off_wait)
}

/// The same for another order.
pub(crate) fn scene_of(action: Action, power_off_wait: Duration) -> (Bench, CommandFrame) {
    let mut bench = Bench::new();
    let folder = bench.config.state_dir.parent().unwrap().to_owned();
    let (root, volume, key) = (folder.join("root"), folder.join("volume"), folder.join("key"));
    fs::create_dir(&root).unwrap();
    fs::File::create(&volume).unwrap().set_len(6 * 1024 * 1024).unwrap();
    fs::write(&key, "passphrase").unwrap();
    let weak = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"];
    let output = Command::new("/usr/sbin/cryptsetup")
        .args(["-q", "luksFormat", "--type", "luks2", "--offset", "8192"])
        .args(weak)
        .args([&volume, &key])
        .output()
        .expect("this test needs /usr/sbin/cryptsetup: install the package cryptsetup-bin");
    assert!(output.status.success(), "{output:?}");
    bench.config.host.arming = ArmingConfig::Sandboxed;
    bench.config.host.root = root;
    bench.config.host.dbus = Some(String::new());
    bench.config.host.wipe_targets = vec![volume];
    bench.config.ladder.power_off_wait = power_off_wait;
    let approvers = [&bench.organisation.alice, &bench.organisation.bob];
    let approved = bench.organisation.approved(bench.envelope(1, action, 1), &approvers);
    let frame = bench.organisation.deliver(&approved, 0);
    (bench, frame)
}

fn succeeded(bench: &Bench, receipt: &AgentFrame) {
    let receipt = bench.receipt(receipt);
    assert!(matches!(receipt.outcome, Outcome::Succeeded { .. }), "{receipt:?}");
}

/// How often the switch was pressed.
pub(crate) fn pressed(bench: &Bench) -> usize {
    fs::read_to_string(bench.power_log()).unwrap_or_default().lines().count()
}

#[tokio::test]
async fn power_off_waits_for_the_confirmation_of_its_receipt() {
    let (mut bench, command) = scene(HOUR);
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    hub.send(HubFrame::Command(command)).await;
    let receipt = hub.receipt().await;
    succeeded(&bench, &receipt);
    // Sent again, on this session and the next one, and still on.
    assert_eq!(hub.receipt().await, receipt);
    drop(hub);
    let mut hub = server.session().await;
    assert_eq!(hub.receipt().await, receipt);
    assert_eq!(pressed(&bench), 0);
    hub.send(confirmed(&receipt)).await;
    until(|| pressed(&bench) == 1).await;
    hub.send(confirmed(&receipt)).await;
    agent.drain().await.unwrap();
    assert_eq!(pressed(&bench), 1);
}

#[tokio::test]
async fn power_off_comes_by_itself_when_the_link_is_dead() {
    let (mut bench, command) = scene(Duration::from_millis(100));
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    hub.send(HubFrame::Command(command)).await;
    // Nobody hears the receipt.
    hub.wait_for(|f| matches!(f, AgentFrame::Progress { stage, .. } if stage == "apply")).await;
    drop((hub, server));
    until(|| pressed(&bench) == 1).await;
    agent.drain().await.unwrap();
    assert_eq!(pressed(&bench), 1);
    assert!(!bench.journal().contains("\"confirmed\""));
}

#[tokio::test]
async fn crash_between_outcome_and_power_off_delays_it_only() {
    let (mut bench, command) = scene(HOUR);
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    hub.send(HubFrame::Command(command)).await;
    let receipt = hub.receipt().await;
    bench.kill(agent).await;
    drop(hub);
    assert_eq!(pressed(&bench), 0);
    let agent = bench.start();
    let mut hub = server.session().await;
    assert_eq!(hub.receipt().await, receipt);
    assert_eq!(pressed(&bench), 0);
    hub.send(confirmed(&receipt)).await;
    until(|| pressed(&bench) == 1).await;
    drop(hub);
    bench.kill(agent).await;
    assert_eq!(pressed(&bench), 1);
    // Still on, in the very boot of the wipe: the switch did not work, and is pressed again.
    let agent = bench.start();
    until(|| pressed(&bench) == 2).await;
    agent.drain().await.unwrap();
}

#[test]
fn wipe_that_took_the_disk_of_the_journal_is_still_proven_and_ends_in_the_power_off() {
    in_mount_namespace(|| async {
        let (mut bench, command) = scene(Duration::from_secs(3600));
        let mut server = bench.server().await;
        let intent = Record::Intent { command_id: command.command_id };
        let room = bytes(&received(&bench, &command, 1)) + bytes(&intent);
        let _disk = Disk::with_room(&bench, room);
        let agent = bench.start();
        let mut hub = server.session().await;
        hub.send(HubFrame::Command(command)).await;
        let receipt = hub.receipt().await;
        succeeded(&bench, &receipt);
        let AgentFrame::Receipt { jws, .. } = &receipt else { unreachable!("it is a receipt") };
        assert!(!bench.journal().contains(jws.as_str()), "the disk was not full");
        // Nobody heard it: it is sent again, on this session and the next one.
        assert_eq!(hub.receipt().await, receipt);
        drop(hub);
        let mut hub = server.session().await;
        assert_eq!(hub.receipt().await, receipt);
        // That nobody can write down that the store has it holds nothing up.
        hub.send(confirmed(&receipt)).await;
        until(|| pressed(&bench) == 1).await;
        agent.drain().await.unwrap();
    });
}

/// A block device that cannot be written to, over a file; detached when dropped.
struct ReadOnly(PathBuf);

impl ReadOnly {
    fn over(file: &Path) -> Self {
        let arguments = ["--read-only", "--find", "--show"];
        let output = Command::new("/usr/sbin/losetup").args(arguments).arg(file).output().unwrap();
        assert!(output.status.success(), "needs root and the kernel module loop: {output:?}");
        Self(String::from_utf8(output.stdout).unwrap().trim().into())
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        let _ = Command::new("/usr/sbin/losetup").arg("--detach").arg(&self.0).status();
    }
}

#[tokio::test]
async fn power_goes_although_one_volume_resists_once_another_is_destroyed() {
    let (mut bench, command) = scene(HOUR);
    let volume = bench.config.host.wipe_targets[0].clone();
    let other = volume.with_file_name("other");
    fs::copy(&volume, &other).unwrap();
    let resisting = ReadOnly::over(&other);
    bench.config.host.wipe_targets.insert(0, resisting.0.clone());
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    hub.send(HubFrame::Command(command)).await;
    let receipt = hub.receipt().await;
    let Outcome::Failed { failure, evidence } = bench.receipt(&receipt).outcome else {
        panic!("{receipt:?}")
    };
    assert_eq!(failure.kind, FailureKind::Permission);
    assert_eq!(Grade::claimed(&evidence), None);
    assert_eq!(evidence.get("volumes_destroyed"), Some(&1.into()));
    assert!(!opens(&volume) && opens(&other));
    // A crash delays the power-off only, as after one that succeeded.
    bench.kill(agent).await;
    drop(hub);
    assert_eq!(pressed(&bench), 0);
    let agent = bench.start();
    let mut hub = server.session().await;
    assert_eq!(hub.receipt().await, receipt);
    hub.send(confirmed(&receipt)).await;
    until(|| pressed(&bench) == 1).await;
    agent.drain().await.unwrap();
    drop(resisting);
}

#[tokio::test]
async fn power_stays_where_no_volume_is_destroyed() {
    let (mut bench, command) = scene(Duration::ZERO);
    let volume = bench.config.host.wipe_targets[0].clone();
    let resisting = ReadOnly::over(&volume);
    bench.config.host.wipe_targets = vec![resisting.0.clone()];
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    hub.send(HubFrame::Command(command)).await;
    let receipt = hub.receipt().await;
    let Outcome::Failed { evidence, .. } = bench.receipt(&receipt).outcome else {
        panic!("{receipt:?}")
    };
    assert_eq!(evidence.get("volumes_destroyed"), Some(&0.into()));
    hub.send(confirmed(&receipt)).await;
    until(|| bench.journal().contains("\"confirmed\"")).await;
    agent.drain().await.unwrap();
    // Nor does the next start take it for one that ended in a power-off.
    let agent = bench.start();
    drop(server.session().await);
    agent.drain().await.unwrap();
    assert!(opens(&volume) && pressed(&bench) == 0);
}

/// Where the data of the volume begins; ones stand for it.
const DATA: usize = 4 * 1024 * 1024;

/// A wipe of keys and data, and the volume.
fn data_scene(power_off_wait: Duration) -> (Bench, CommandFrame, PathBuf) {
    let order = Action::Wipe(Wipe { level: WipeLevel::Data, power_off: true });
    let (bench, command) = scene_of(order, power_off_wait);
    let volume = bench.config.host.wipe_targets[0].clone();
    let mut bytes = fs::read(&volume).unwrap();
    bytes[DATA..].fill(1);
    fs::write(&volume, bytes).unwrap();
    (bench, command, volume)
}

fn has_data(volume: &Path) -> bool {
    fs::read(volume).unwrap()[DATA..].iter().all(|byte| *byte == 1)
}

/// Whether that passphrase opens the volume.
pub(crate) fn opens_with(volume: &Path, passphrase: &str) -> bool {
    let key = volume.with_file_name("tried");
    fs::write(&key, passphrase).unwrap();
    let arguments = ["open", "--test-passphrase", "--key-file"];
    let output = Command::new("/usr/sbin/cryptsetup").args(arguments).args([&key, volume]).output();
    output.unwrap().status.success()
}

fn opens(volume: &Path) -> bool {
    let key = volume.with_file_name("key");
    let arguments = ["open", "--test-passphrase", "--key-file"];
    let output = Command::new("/usr/sbin/cryptsetup").args(arguments).args([&key, volume]).output();
    output.unwrap().status.success()
}

#[tokio::test]
async fn keys_are_proven_to_the_store_before_the_data_goes_and_the_power_last() {
    let (mut bench, command, volume) = data_scene(HOUR);
    assert!(opens(&volume));
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    hub.send(HubFrame::Command(command.clone())).await;
    let is_proof = |frame: &AgentFrame| matches!(frame, AgentFrame::Proof { .. });
    let AgentFrame::Proof { jws, .. } = hub.wait_for(is_proof).await else {
        unreachable!("it was waited for")
    };
    let said = proof::verify(&jws, &bench.key).unwrap();
    assert_eq!(said.command_id, command.command_id);
    assert_eq!(Grade::claimed(&said.evidence), Some(Grade::Proven));
    assert!(!opens(&volume));
    // On this session and the next one, and still no byte of the data is touched.
    drop(hub);
    let mut hub = server.session().await;
    let again = hub.wait_for(is_proof).await;
    assert_eq!(again, AgentFrame::Proof { command_id: command.command_id, jws: jws.clone() });
    assert!(has_data(&volume) && pressed(&bench) == 0);
    hub.send(HubFrame::Confirmed { receipts: vec![jws.sha256()] }).await;
    let receipt = hub.receipt().await;
    let Outcome::Succeeded { evidence } = bench.receipt(&receipt).outcome else {
        panic!("{receipt:?}")
    };
    assert_eq!(Grade::claimed(&evidence), Some(Grade::ProvenMedia));
    assert!(fs::read(&volume).unwrap()[DATA..].iter().all(|byte| *byte == 0));
    assert_eq!(pressed(&bench), 0);
    hub.send(confirmed(&receipt)).await;
    until(|| pressed(&bench) == 1).await;
    agent.drain().await.unwrap();
}

#[tokio::test]
async fn data_goes_by_itself_when_nobody_confirms_the_proof() {
    let (mut bench, command, volume) = data_scene(Duration::from_secs(2));
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    hub.send(HubFrame::Command(command)).await;
    hub.wait_for(|frame| matches!(frame, AgentFrame::Proof { .. })).await;
    drop((hub, server));
    until(|| pressed(&bench) == 1).await;
    assert!(fs::read(&volume).unwrap()[DATA..].iter().all(|byte| *byte == 0));
    agent.drain().await.unwrap();
}

#[tokio::test]
async fn agent_that_is_killed_between_proof_and_data_proves_again_and_goes_on() {
    let (mut bench, command, volume) = data_scene(HOUR);
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    hub.send(HubFrame::Command(command.clone())).await;
    hub.wait_for(|frame| matches!(frame, AgentFrame::Proof { .. })).await;
    bench.kill(agent).await;
    drop(hub);
    assert!(has_data(&volume));
    let agent = bench.start();
    let mut hub = server.session().await;
    let again = hub.wait_for(|frame| matches!(frame, AgentFrame::Proof { .. })).await;
    let AgentFrame::Proof { jws, .. } = &again else { unreachable!("it was waited for") };
    hub.send(HubFrame::Confirmed { receipts: vec![jws.sha256()] }).await;
    succeeded(&bench, &hub.receipt().await);
    assert!(!has_data(&volume));
    agent.drain().await.unwrap();
}

/// Runs the boot's first step. Whether it succeeded.
fn reassert(bench: &Bench) -> bool {
    let config = bench.config.state_dir.with_file_name("agent.toml");
    let host = &bench.config.host;
    let text = format!(
        "[host]\narming = \"sandboxed\"\nroot = {:?}\ndbus = \"\"\npower = {{ record = {:?} }}\n\
         wipe_targets = {:?}\n",
        host.root,
        bench.power_log(),
        host.wipe_targets
    );
    fs::write(&config, text).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_tocsin-agent"))
        .arg("reassert")
        .arg("--config")
        .arg(config)
        .arg("--state")
        .arg(&bench.config.state_dir)
        .output()
        .unwrap();
    output.status.success()
}

#[tokio::test]
async fn wipe_that_was_cut_off_goes_on_before_the_network_and_only_while_it_is_open() {
    let (mut bench, command) = scene(HOUR);
    let volume = bench.config.host.wipe_targets[0].clone();
    let whole = fs::read(&volume).unwrap();
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    hub.send(HubFrame::Command(command)).await;
    let receipt = hub.receipt().await;
    bench.kill(agent).await;
    drop((hub, server));
    assert!(!opens(&volume));
    // As a power cut before the first write leaves it: the record is there, and so are the keys.
    let recorded = bench.config.state_dir.join("wipe.json");
    let mut wiping: serde_json::Value =
        serde_json::from_slice(&fs::read(&recorded).unwrap()).unwrap();
    wiping["finished"] = false.into();
    for name in ["headers_after_sha256", "key_area_sha256"] {
        wiping["targets"][0][name] = serde_json::Value::Null;
    }
    wiping["targets"][0]["progress"] = "pending".into();
    let cut_off = || {
        fs::write(&volume, &whole).unwrap();
        fs::write(&recorded, wiping.to_string()).unwrap();
        assert!(opens(&volume));
    };
    cut_off();
    assert!(reassert(&bench));
    assert!(opens(&volume), "its receipt is written: nothing goes on by itself");

    let path = bench.journal_path();
    let mut records = Journal::open(&path).unwrap().records;
    records.retain(|record| !matches!(record, Record::Done { .. } | Record::Confirmed { .. }));
    fs::remove_file(&path).unwrap();
    Journal::create(&path).unwrap();
    Journal::open(&path).unwrap().journal.append(&records).unwrap();
    assert!(reassert(&bench));
    assert!(!opens(&volume), "no network, no agent, and no login yet");
    assert_eq!(pressed(&bench), 0, "the agent says what was proven before the power goes");

    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    let again = hub.receipt().await;
    succeeded(&bench, &again);
    assert_ne!(again, receipt);
    hub.send(confirmed(&again)).await;
    until(|| pressed(&bench) == 1).await;
    agent.drain().await.unwrap();
}

/// Claims the doors for that wipe, as it does where there are accounts. The claim, and a door to be closed.
fn claim_doors(bench: &Bench, command_id: CommandId) -> (PathBuf, PathBuf) {
    let claim = bench.config.state_dir.join("wipe-doors.json");
    let door = bench.config.host.root.join("etc/tocsin-lock.allow");
    fs::create_dir(door.parent().unwrap()).unwrap();
    let text = json!({ "phase": "locked", "command_id": command_id, "envelope": "", "applied_at": 0,
        "level": "session", "message": null, "break_glass": ["rescue"] });
    // At once: an agent may look.
    let written = claim.with_extension("new");
    fs::write(&written, text.to_string()).unwrap();
    fs::rename(written, &claim).unwrap();
    (claim, door)
}

#[tokio::test]
async fn doors_of_a_wipe_stay_closed_while_the_device_goes_down() {
    let (mut bench, command) = scene(HOUR);
    bench.config.ladder.uphold = Duration::from_millis(50);
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    let command_id = command.command_id;
    hub.send(HubFrame::Command(command)).await;
    let receipt = hub.receipt().await;
    let (claim, door) = claim_doors(&bench, command_id);
    until(|| door.exists()).await;
    hub.send(confirmed(&receipt)).await;
    until(|| pressed(&bench) == 1).await;
    // Services take their time to stop; this agent looks after the doors meanwhile.
    for _ in 0..2 {
        fs::remove_file(&door).unwrap();
        until(|| door.exists() || !claim.exists()).await;
        assert!(claim.exists(), "the doors were given back");
    }
    agent.drain().await.unwrap();
    assert_eq!(pressed(&bench), 1);
}

#[tokio::test]
async fn boot_after_a_wipe_that_ended_gives_the_doors_back_without_an_agent() {
    let (mut bench, command) = scene(HOUR);
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    let command_id = command.command_id;
    hub.send(HubFrame::Command(command)).await;
    succeeded(&bench, &hub.receipt().await);
    bench.kill(agent).await;
    let (claim, door) = claim_doors(&bench, command_id);
    let recorded = bench.config.state_dir.join("wipe.json");
    let mut wiping: Value = serde_json::from_slice(&fs::read(&recorded).unwrap()).unwrap();
    assert_eq!(wiping["finished"], json!(true));
    wiping["finished"] = false.into();
    fs::write(&recorded, wiping.to_string()).unwrap();
    assert!(reassert(&bench));
    assert!(door.exists() && claim.exists(), "it may go on");

    // The key of this agent is gone with the TPM.
    wiping["finished"] = true.into();
    fs::write(&recorded, wiping.to_string()).unwrap();
    assert!(reassert(&bench));
    assert!(!door.exists() && !claim.exists());
}
