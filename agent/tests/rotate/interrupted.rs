//! An agent that is killed at each step of a rotation: whatever stands then, the device opens with a
//! key that is in escrow, and the next agent brings the rotation to its end.

use std::fs;
use std::path::Path;

use agent::execute::{Executor, Recovery, Task};
use agent::host::Host;

use crate::scene::{FORMATS, Scene, USERS, crypto_lock, escrowed, opens, rotate, slots};
use crate::support::host::task;

/// Where the kill comes: what is on disk of the volume and of the documents, from before the
/// command, after `apply` or after `finish`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum At {
    Before,
    Added,
    Finished,
}

/// What the disk holds: volume, record (with its phase), list of volumes.
const STEPS: [(At, (At, &str), At); 9] = [
    // Recorded, and nothing done yet.
    (At::Before, (At::Added, "adding"), At::Before),
    // The keyslot is filled, and nobody has sealed its key.
    (At::Added, (At::Added, "adding"), At::Before),
    (At::Added, (At::Added, "added"), At::Before),
    // Confirmed, and the list says so.
    (At::Added, (At::Added, "added"), At::Finished),
    (At::Finished, (At::Added, "added"), At::Finished),
    (At::Finished, (At::Finished, "finished"), At::Finished),
    // Not confirmed, and taken back.
    (At::Added, (At::Added, "withdrawing"), At::Before),
    (At::Before, (At::Added, "withdrawing"), At::Before),
    (At::Before, (At::Added, "withdrawn"), At::Before),
];

/// The documents and the volume as they are at one time.
struct Snapshot {
    volume: Vec<u8>,
    record: Option<Vec<u8>>,
    list: Vec<u8>,
    own_key: Option<Vec<u8>>,
}

struct Play<'a> {
    scene: &'a Scene,
    name: &'static str,
    own_key: std::path::PathBuf,
}

impl Play<'_> {
    fn snapshot(&self) -> Snapshot {
        let state = &self.scene.host.state_dir;
        Snapshot {
            volume: fs::read(&self.scene.volume).unwrap(),
            record: fs::read(state.join(self.name)).ok(),
            list: fs::read(state.join("volumes.json")).unwrap(),
            own_key: fs::read(&self.own_key).ok(),
        }
    }

    /// Puts the disk into the state of that step.
    fn set(&self, of: impl Fn(At) -> usize, all: &[Snapshot], step: (At, (At, &str), At)) {
        let (volume, (record, phase), list) = step;
        let state = &self.scene.host.state_dir;
        fs::write(&self.scene.volume, &all[of(volume)].volume).unwrap();
        let mut record: serde_json::Value =
            serde_json::from_slice(all[of(record)].record.as_ref().unwrap()).unwrap();
        record["phase"] = phase.into();
        fs::write(state.join(self.name), record.to_string()).unwrap();
        fs::write(state.join("volumes.json"), &all[of(list)].list).unwrap();
        match &all[of(volume)].own_key {
            Some(key) => fs::write(&self.own_key, key).unwrap(),
            None => drop(fs::remove_file(&self.own_key)),
        }
    }
}

/// Goes on as an agent does that starts again, until the end, and answers whether it succeeded.
fn go_on(executor: &dyn Executor, host: &Host, task: &Task, seen: &mut Vec<String>) -> bool {
    match executor.recover(host, task) {
        Recovery::InDoubt => panic!("nothing is in doubt"),
        Recovery::Apply => {
            if executor.apply(host, task).is_err() {
                return false;
            }
        }
        Recovery::Applied => {}
    }
    executor.prove(host, task).unwrap();
    if executor.has_remainder(host, task) {
        // The control plane has it from here on.
        seen.push(escrowed(executor, host, task));
        executor.finish(host, task).unwrap();
        executor.prove(host, task).unwrap();
    }
    true
}

fn play(scene: &Scene, name: &'static str, executor: &dyn Fn() -> Box<dyn Executor>) {
    let keys = fs::read_dir(scene.host.state_dir.join("volume-keys")).unwrap();
    let own_key = keys.into_iter().next().unwrap().unwrap().path();
    let play = Play { scene, name, own_key };
    let before = play.snapshot();
    let first = executor();
    first.apply(&scene.host, &task(2)).unwrap();
    let (added, new) = (play.snapshot(), escrowed(&*first, &scene.host, &task(2)));
    first.finish(&scene.host, &task(2)).unwrap();
    let all = [before, added, play.snapshot()];
    for step in STEPS {
        play.set(|at| at as usize, &all, step);
        // What the control plane may have by now: of a key that was sealed, all.
        let mut escrow = vec![new.clone()];
        let is_open = |escrow: &[String], volume: &Path| {
            USERS.iter().any(|user| opens(volume, user))
                || escrow.iter().any(|key| opens(volume, key))
        };
        assert!(is_open(&escrow, &scene.volume), "{name} {step:?}: killed");
        let has_succeeded = go_on(&*executor(), &scene.host, &task(2), &mut escrow);
        assert!(is_open(&escrow, &scene.volume), "{name} {step:?}: at the end");
        let is_withdrawn = step.1.1.starts_with("withdraw");
        assert_eq!(has_succeeded, !is_withdrawn, "{name} {step:?}");
        if has_succeeded {
            assert!(escrow.iter().any(|key| opens(&scene.volume, key)), "{name} {step:?}");
        } else {
            assert!(!opens(&scene.volume, &new), "{name} {step:?}: nobody has that key");
        }
        // Nothing is left behind that nobody knows.
        let left = slots(&scene.volume).len();
        let expected = match (name, has_succeeded) {
            ("crypto_lock.json", true) => 1,
            (_, true) => 4,
            (_, false) => 3,
        };
        assert_eq!(left, expected, "{name} {step:?}");
    }
}

#[test]
fn rotation_killed_at_any_step_ends_with_a_key_in_escrow_and_no_other() {
    for format in FORMATS {
        let scene = Scene::of(format);
        play(&scene, "rotation.json", &|| Box::new(rotate()));
    }
}

#[test]
fn crypto_lock_killed_at_any_step_never_leaves_a_volume_that_nobody_opens() {
    let scene = Scene::new();
    play(&scene, "crypto_lock.json", &|| Box::new(crypto_lock()));
}
