//! Credentials of a machine whose agent runs as its unit has it: what the agent and its programs do to a password or a
//! keyslot they do in what the unit leaves of the machine, and they need nothing that it takes away.

use std::path::{Path, PathBuf};

use protocol::action::{self, Action};
use protocol::escrow::{Credential, Subject};
use protocol::fixture::{crypto_lock, rotate};
use protocol::receipt::{Evidence, Outcome};
use serde_json::json;

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
