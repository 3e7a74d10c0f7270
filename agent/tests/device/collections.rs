//! Collections through the whole agent: signed for first, and brought chunk by chunk until all of it is
//! there, whatever breaks off.

use std::fs;
use std::path::PathBuf;

use agent::config::ArmingConfig;
use futures_util::FutureExt as _;
use protocol::collection::{ChunkHashes, Collection};
use protocol::fixture::collect_files;
use protocol::frame::{AgentFrame, HubFrame};
use protocol::id::CommandId;
use protocol::manifest::Hash;
use protocol::notice;
use protocol::receipt::{Evidence, FailureKind, Outcome};

use crate::bench::{Bench, confirmed, until};
use crate::disk::{in_mount_namespace, run};
use crate::server::{Brought, GONE, Server};

/// A device with a file that makes five chunks.
fn bench() -> Bench {
    let mut bench = Bench::new();
    let root = bench.config.state_dir.with_file_name("root");
    fs::create_dir_all(root.join("srv")).unwrap();
    fs::write(root.join("srv/file"), vec![7; 1024 * 1024]).unwrap();
    bench.config.host.arming = ArmingConfig::Sandboxed;
    bench.config.host.root = root;
    bench.config.host.dbus = Some(String::new());
    bench
}

fn spools(bench: &Bench) -> PathBuf {
    bench.config.state_dir.join("collections")
}

fn is_empty(bench: &Bench) -> bool {
    fs::read_dir(spools(bench)).is_ok_and(|mut entries| entries.next().is_none())
}

fn evidence(outcome: Outcome) -> Evidence {
    let Outcome::Succeeded { evidence } = outcome else { panic!("{outcome:?}") };
    evidence
}

/// The next request, which must be about that.
async fn asked(server: &mut Server, place: &str) -> Brought {
    let brought = server.brought().await;
    assert_eq!(brought.place, place);
    brought
}

/// Asked what is missing, says that.
async fn missing(server: &mut Server, id: CommandId, numbers: &str) {
    let brought = asked(server, &format!("/{id}")).await;
    assert_eq!(brought.chunk, None);
    brought.answer.send(format!("{{\"missing\":[{numbers}]}}")).unwrap();
}

/// Takes the chunk of that number.
async fn chunk(server: &mut Server, id: CommandId, number: u32) -> Vec<u8> {
    let brought = asked(server, &format!("/{id}/{number}")).await;
    brought.answer.send(String::new()).unwrap();
    brought.chunk.unwrap()
}

#[tokio::test]
async fn upload_that_breaks_off_goes_on_where_it_was_also_after_a_restart() {
    let mut bench = bench();
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    let command = bench.command(1, collect_files(&["/srv"]), 1);
    let id = command.command_id;
    hub.send(HubFrame::Command(command)).await;
    let receipt = hub.receipt().await;
    let collection = Collection::of(&evidence(bench.receipt(&receipt).outcome)).unwrap();
    assert_eq!(collection.chunks, 5);
    hub.send(confirmed(&receipt)).await;

    missing(&mut server, id, "0,1,2,3,4").await;
    let mut chunks = vec![chunk(&mut server, id, 0).await, chunk(&mut server, id, 1).await];
    // The connection breaks off, and so does the agent.
    drop(asked(&mut server, &format!("/{id}/2")).await);
    drop(hub);
    bench.kill(agent).await;

    let agent = bench.start();
    missing(&mut server, id, "2,3,4").await;
    for number in 2..5 {
        chunks.push(chunk(&mut server, id, number).await);
    }
    assert!(!is_empty(&bench), "kept until all of it is there");
    missing(&mut server, id, "").await;
    until(|| is_empty(&bench)).await;
    let mut hashes = ChunkHashes::default();
    chunks.iter().for_each(|chunk| hashes.add(&Hash::sha256(chunk)));
    assert_eq!(hashes.finish(), collection.chunks_sha256, "exactly what was signed for");
    assert_eq!(chunks.iter().map(Vec::len).sum::<usize>() as u64, collection.bytes);
    agent.drain().await.unwrap();
}

#[tokio::test]
async fn collection_that_the_control_plane_never_takes_is_forgotten() {
    let mut bench = bench();
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    let command = bench.command(1, collect_files(&["/srv"]), 1);
    let id = command.command_id;
    hub.send(HubFrame::Command(command)).await;
    let receipt = hub.receipt().await;
    hub.send(confirmed(&receipt)).await;
    missing(&mut server, id, "0,1").await;
    chunk(&mut server, id, 0).await;
    assert!(!is_empty(&bench));
    let refused = asked(&mut server, &format!("/{id}/1")).await;
    refused.answer.send(GONE.to_owned()).unwrap();
    until(|| is_empty(&bench)).await;
    agent.drain().await.unwrap();
}

#[test]
fn disk_that_is_full_is_a_failure_of_the_order_and_leaves_nothing() {
    in_mount_namespace(|| async {
        let mut bench = bench();
        let mut server = bench.server().await;
        fs::create_dir(spools(&bench)).unwrap();
        let place = spools(&bench).display().to_string();
        run("mount", &["-t", "tmpfs", "-o", "size=8m", "tocsin-spool", &place]);
        let agent = bench.start();
        let mut hub = server.session().await;
        hub.send(HubFrame::Command(bench.command(1, collect_files(&["/srv"]), 1))).await;
        let Outcome::Failed { failure, .. } = bench.receipt(&hub.receipt().await).outcome else {
            panic!("the spool has no room")
        };
        assert_eq!((failure.kind, failure.stage.as_str()), (FailureKind::Io, "apply"));
        assert!(failure.detail.starts_with("the disk is full"), "{failure:?}");
        assert!(is_empty(&bench));
        agent.drain().await.unwrap();
    });
}

#[tokio::test]
async fn chunk_that_rots_is_never_sent_and_the_collection_is_said_to_be_lost_until_that_is_known() {
    let mut bench = bench();
    let mut server = bench.server().await;
    let agent = bench.start();
    let mut hub = server.session().await;
    let command = bench.command(1, collect_files(&["/srv"]), 1);
    let id = command.command_id;
    hub.send(HubFrame::Command(command)).await;
    let receipt = hub.receipt().await;
    // On the disk, behind the agent's back.
    let rotten = spools(&bench).join(id.to_string()).join("000002");
    let mut bytes = fs::read(&rotten).unwrap();
    bytes[100] ^= 1;
    fs::write(&rotten, bytes).unwrap();
    hub.send(confirmed(&receipt)).await;
    let is_notice = |frame: &AgentFrame| matches!(frame, AgentFrame::Notice { .. });
    // What there never was is not lost: it comes again, and says nothing before it has met the rotten one.
    missing(&mut server, id, "4294967295").await;
    missing(&mut server, id, "5").await;
    missing(&mut server, id, "0,1,2,3,4").await;
    chunk(&mut server, id, 0).await;
    let early = hub.next().now_or_never();
    assert!(
        early.flatten().is_none_or(|frame| !is_notice(&frame)),
        "it calls intact evidence lost"
    );
    chunk(&mut server, id, 1).await;
    let AgentFrame::Notice { command_id, jws } = hub.wait_for(is_notice).await else {
        panic!("it waited for a notice")
    };
    let said = notice::verify(&jws, &bench.key).unwrap();
    assert_eq!((command_id, said.command_id, said.what.as_str()), (id, id, "collection_lost"));
    // Asked for it all the same, it goes no further.
    missing(&mut server, id, "2,3,4").await;
    assert!(!is_empty(&bench), "kept until somebody knows");
    // The next agent finds it out again.
    drop(hub);
    bench.kill(agent).await;
    let agent = bench.start();
    let mut hub = server.session().await;
    missing(&mut server, id, "2,3,4").await;
    hub.wait_for(is_notice).await;
    missing(&mut server, id, "").await;
    until(|| is_empty(&bench)).await;
    agent.drain().await.unwrap();
}
