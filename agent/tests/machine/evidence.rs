//! Evidence from a booted system: what people and programs there see, and not what the agent's service does.

use protocol::action::{Action, CollectEvidence, Sources};
use protocol::collection::Collection;
use protocol::receipt::Outcome;
use protocol::sealed::CaseSecret;

use crate::on_a_machine;
use crate::scene::{Body as _, Scene};

#[test]
fn evidence_is_of_the_machine_and_not_of_the_agents_own_view_of_it() {
    let test = "evidence::evidence_is_of_the_machine_and_not_of_the_agents_own_view_of_it";
    on_a_machine(test, || async {
        let mut scene = Scene::new("rescue").await;
        scene.machine.boot();
        for folder in ["/tmp", "/var/tmp"] {
            scene.machine.sh(&format!("echo from the intruder > {folder}/loot"));
        }
        let case = CaseSecret::new([9; 32]);
        let sources = Sources {
            paths: vec!["/tmp/loot".to_owned(), "/var/tmp/loot".to_owned()],
            item_bytes: 1024,
            total_bytes: 4096,
            ..Sources::default()
        };
        let case_key = case.public().unwrap();
        let collect = CollectEvidence { case_key, sources: Some(sources) };
        let receipt = scene.order(Action::CollectEvidence(collect)).await;
        let Outcome::Succeeded { evidence } = receipt.outcome else {
            panic!("{receipt:?}\n{}", scene.machine.journal());
        };
        let files = Collection::of(&evidence).unwrap();
        assert_eq!((files.items, files.left_out, files.content_bytes), (2, 0, 36));

        let sealed = evidence.get("sealed").unwrap().as_str().unwrap();
        let opened = case.open(sealed, receipt.command_id.to_string().as_bytes()).unwrap();
        let look: serde_json::Value = serde_json::from_slice(&opened).unwrap();
        // The agent may not write there: for its service it is read-only.
        let root = look["mounts"][0].as_str().unwrap();
        assert!(root.contains(" / overlay rw,"), "{root}");
    });
}
