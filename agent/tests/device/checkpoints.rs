//! What a device remembers of the control plane's audit log.

use protocol::checkpoint::{Checkpoint, Mark};
use protocol::frame::HubFrame;

use crate::bench::{Bench, now};

fn checkpoint(bench: &Bench, number: u64, earlier: &[(u64, char)]) -> HubFrame {
    let mark = |seq: u64, letter: char| Mark { seq, hash: letter.to_string().repeat(64) };
    let checkpoint = Checkpoint {
        number,
        head: mark(number * 10, 'f'),
        at: now(),
        earlier: earlier.iter().map(|(seq, letter)| mark(*seq, *letter)).collect(),
    };
    HubFrame::Checkpoint { jws: checkpoint.sign(&bench.organisation.command_key).unwrap() }
}

/// The control plane shows a log in which event 10 is another one than it was.
#[tokio::test]
async fn hostile_log_that_contradicts_what_was_signed_is_told_at_every_contact() {
    let mut bench = Bench::new();
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    hub.send(checkpoint(&bench, 1, &[])).await;
    hub.send(checkpoint(&bench, 2, &[(10, 'f')])).await;
    let command = bench.command(1, protocol::fixture::lock(), 1);
    hub.send(HubFrame::Command(command)).await;
    hub.receipt().await;
    let path = bench.config.state_dir.join("checkpoint.json");
    assert!(!std::fs::read_to_string(&path).unwrap().contains("\"fork\""), "one log so far");
    drop(hub);
    agent.drain().await.unwrap();

    // It remembers across a restart.
    let agent = bench.start();
    let mut hub = server.session().await;
    hub.send(checkpoint(&bench, 3, &[(20, 'f'), (10, 'a')])).await;
    // The session that ends at once may be followed before the checkpoint was written down.
    let mut is_told = false;
    for _ in 0..200 {
        is_told = hub.hello.capabilities.iter().any(|word| word == "audit_forked");
        if is_told {
            break;
        }
        drop(hub);
        hub = server.session().await;
    }
    drop(hub);
    assert!(is_told);
    assert!(std::fs::read_to_string(&path).unwrap().contains("\"fork\""), "both are kept");
    agent.drain().await.unwrap();
}
