//! Credentials of a machine whose agent runs as its unit has it: what the agent and its programs do to a password or a
//! keyslot they do in what the unit leaves of the machine, and they need nothing that it takes away.

use std::path::{Path, PathBuf};

use protocol::action::{self, Action, Plan, Refresh, SelectiveWipe};
use protocol::escrow::{Credential, Subject};
use protocol::fixture::{crypto_lock, rotate};
use protocol::receipt::{Evidence, FailureKind, Outcome};
use serde_json::{Value, json};

use crate::luks::{PASSPHRASES, cryptsetup, format, opens};
use crate::on_a_machine;
use crate::scene::{Body, PASSWORD, Scene};

/// A key derivation that takes memory and threads, as the usual one does, and little of both.
const ARGON2: [&str; 8] = [
    "--pbkdf",
    "argon2id",
    "--pbkdf-memory",
    "1024",
    "--pbkdf-parallel",
    "2",
    "--pbkdf-force-iterations",
    "4",
];
/// What opens each volume here, beside what the agent makes.
const PEOPLE: [&str; 3] = [PASSPHRASES[0], PASSPHRASES[1], "third passphrase"];
/// Where the volumes of a container are: files in folders that the unit leaves to the agent.
const FILES: [&str; 2] = ["/srv/volume", "/home/alice/volume"];

/// Makes a volume that all three open. The key of the third is derived as people's usually are.
pub(crate) fn make_volume(path: &Path, bytes: u64) {
    format(path, bytes, &["-q", "luksFormat", "--type", "luks2"]);
    let path = path.to_str().unwrap();
    let first = path.to_owned() + ".first";
    let add = ["-q", "luksAddKey", "--key-file", &first];
    assert!(cryptsetup(&[&add[..], &ARGON2, &[path]].concat(), PEOPLE[2]));
}

/// Who of the three opens a volume.
pub(crate) fn opened_by(volume: &Path) -> [bool; 3] {
    PEOPLE.map(|passphrase| opens(volume, passphrase))
}

/// What begins to manage a volume, for a shell on the machine. The disk with the agent's state is not encrypted.
pub(crate) fn manage(volume: &str) -> String {
    format!("printf '{}' | tocsin-agent manage-volume {volume} --in-the-clear", PEOPLE[0])
}

/// Has credentials made, escrowed and put into force: what they are, and what that is proven with.
pub(crate) async fn escrowed<M: Body>(
    scene: &mut Scene<M>,
    action: Action,
) -> (Vec<Credential>, Evidence) {
    let command = scene.give(action).await;
    let credentials = scene.escrow(&command).await;
    let receipt = scene.outcome(&command).await;
    let Outcome::Succeeded { evidence } = receipt.outcome else {
        panic!("{receipt:?}\n{}", scene.machine.journal());
    };
    (credentials, evidence)
}

/// The key of the volume at that path.
pub(crate) fn key<'a>(credentials: &'a [Credential], volume: &str) -> &'a str {
    let is_of =
        |subject: &Subject| matches!(subject, Subject::Volume { path, .. } if path == volume);
    &credentials.iter().find(|credential| is_of(&credential.subject)).unwrap().secret
}

#[test]
fn agent_under_its_unit_rotates_what_opens_the_machine_and_leaves_volumes_to_what_is_escrowed() {
    let test = "keys::agent_under_its_unit_rotates_what_opens_the_machine_and_leaves_volumes_to_what_is_escrowed";
    on_a_machine(test, || async {
        let mut scene = Scene::new("rescue").await;
        let volumes = FILES.map(|path| scene.machine.path(path));
        volumes.iter().for_each(|volume| make_volume(volume, 20 << 20));
        scene.machine.boot();
        let unit = "nsenter --mount --target $(systemctl show -P MainPID tocsin-agent)";
        scene.machine.sh(&format!("{unit} test -w /srv"));
        assert!(!scene.machine.succeeds(&format!("{unit} test -w /usr")), "the unit is in force");

        let alice = action::Credential::Account("alice".to_owned());
        let (password, _) = escrowed(&mut scene, rotate(alice)).await;
        assert!(scene.machine.lets_in("alice", Some(&password[0].secret)));
        assert!(!scene.machine.lets_in("alice", Some(PASSWORD)));
        assert_eq!(scene.machine.sh("stat -c '%a %U:%G' /etc/shadow"), "640 root:shadow");

        FILES.iter().for_each(|path| drop(scene.machine.sh(&manage(path))));
        let opened = |keys: &[Credential]| {
            let is_opened = |(volume, path): (&PathBuf, _)| opens(volume, key(keys, path));
            volumes.iter().zip(FILES).map(is_opened).collect::<Vec<_>>()
        };
        let (first, _) = escrowed(&mut scene, rotate(action::Credential::Volumes)).await;
        assert_eq!(opened(&first), [true, true]);
        let (next, _) = escrowed(&mut scene, rotate(action::Credential::Volumes)).await;
        assert_eq!((opened(&first), opened(&next)), (vec![false, false], vec![true, true]));
        assert_eq!(volumes.each_ref().map(|volume| opened_by(volume)), [[true; 3]; 2]);

        let (last, evidence) = escrowed(&mut scene, crypto_lock()).await;
        assert_eq!(evidence.get("grade"), Some(&json!("proven")));
        assert_eq!(scene.machine.wait_until_off(), 0, "and the power went");
        assert_eq!((opened(&next), opened(&last)), (vec![false, false], vec![true, true]));
        assert_eq!(volumes.each_ref().map(|volume| opened_by(volume)), [[false; 3]; 2]);
    });
}

/// Gives a folder of the company's to the agent, as an administrator would.
const GIVEN: &str = "[Service]\nReadWritePaths=/data\n";

/// The steps of a plan that will fail.
async fn hindrances(scene: &mut Scene) -> Vec<String> {
    let of = Box::new(Action::SelectiveWipe(SelectiveWipe {}));
    let evidence = scene.proven(Action::Plan(Plan { of })).await;
    let steps = evidence.get("steps").unwrap().as_array().unwrap().clone();
    let steps = steps.iter().map(|step| step.as_str().unwrap().to_owned());
    steps.filter(|step| step.contains("will fail")).collect()
}

/// What the inventory says of the volume that is named: whether its keys can go, and why not.
async fn listed_volume(scene: &mut Scene) -> [Value; 2] {
    let evidence = scene.proven(Action::Refresh(Refresh {})).await;
    let volume = &evidence.get("volumes").unwrap()[0];
    assert_eq!(volume["path"], "/data/volume");
    [volume["destroyable"].clone(), volume["why"].clone()]
}

#[test]
fn what_the_unit_keeps_from_the_agent_is_said_before_anything_depends_on_it() {
    let test = "keys::what_the_unit_keeps_from_the_agent_is_said_before_anything_depends_on_it";
    on_a_machine(test, || async {
        let mut scene = Scene::new("rescue").await;
        let (volume, config) = (scene.machine.path("/data/volume"), "/etc/tocsin/agent.toml");
        std::fs::create_dir(volume.parent().unwrap()).unwrap();
        make_volume(&volume, 20 << 20);
        let known = "[host]\ncompany_volumes = [\"/data/volume\"]\n\
                     wipe_targets = [\"/data/volume\"]\n";
        let text = scene.machine.read(config).replace("[host]\n", known);
        scene.machine.write(config, &text, 0o600);
        let listed = ["/data/keytab", "/usr/local/share/ca-certificates/company.crt"];
        listed.iter().for_each(|path| scene.machine.write(path, "the company's", 0o600));
        scene.machine.boot();
        scene.machine.sh(&format!("tocsin-agent manage {}", listed.join(" ")));
        scene.machine.sh(&manage("/data/volume"));

        assert!(!scene.is_provable().await);
        assert_eq!(listed_volume(&mut scene).await, [json!(false), json!("read_only")]);
        let said = hindrances(&mut scene).await;
        let [first, second] = &said[..] else { panic!("{said:?}") };
        assert!(first.starts_with("/data/volume (luks2 "), "{first}");
        assert!(second.starts_with("remove /data/keytab: will fail, "), "{second}");
        let before = std::fs::read(&volume).unwrap();
        let command = scene.give(rotate(action::Credential::Volumes)).await;
        let Outcome::Failed { failure, .. } = scene.outcome(&command).await.outcome else {
            panic!("{}", scene.machine.journal());
        };
        assert_eq!((failure.kind, &*failure.stage), (FailureKind::Precondition, "plan"));
        assert!(failure.detail.contains("ReadWritePaths="), "{failure:?}");
        assert!(std::fs::read(&volume).unwrap() == before);

        let drop_in = "/etc/systemd/system/tocsin-agent.service.d/data.conf";
        scene.machine.write(drop_in, GIVEN, 0o644);
        scene.machine.sh("systemctl daemon-reload && systemctl restart tocsin-agent.service");
        assert!(scene.is_provable().await);
        assert_eq!(listed_volume(&mut scene).await, [json!(true), Value::Null]);
        assert_eq!(hindrances(&mut scene).await, Vec::<String>::new());
        let (keys, _) = escrowed(&mut scene, rotate(action::Credential::Volumes)).await;
        assert!(opens(&volume, key(&keys, "/data/volume")));
        let command = scene.give(Action::SelectiveWipe(SelectiveWipe {})).await;
        let receipt = scene.outcome(&command).await;
        assert!(matches!(receipt.outcome, Outcome::Succeeded { .. }), "{receipt:?}");
        assert!(!opens(&volume, key(&keys, "/data/volume")));
        assert!(listed.iter().all(|path| !scene.machine.path(path).exists()));
    });
}
