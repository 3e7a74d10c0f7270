//! Files, logs and memory beyond the first look: what is read, what is left alone, and that the case reads
//! exactly what the device signed for.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use protocol::action::{self, Sources};
use protocol::collection::{Collection, Item, ItemEnd, Kind, Record, Source, Unpacker};
use protocol::limits;
use protocol::receipt::{Evidence, Failure, FailureKind};

use super::case;
use crate::execute::collect::CollectEvidence;
use crate::execute::collect::packer::Packer;
use crate::execute::collect::read;
use crate::execute::collect::spool::{Spool, SpoolError};
use crate::execute::collect::tree::{Found, Tree, matches};
use crate::execute::fixtures::{Sandbox, task};
use crate::execute::{Executor as _, Recovery, Task};
use runtime::{Clock, Entropy};

const MIB: u64 = 1024 * 1024;

fn order(sources: Sources) -> CollectEvidence {
    let case_key = case().public().unwrap();
    CollectEvidence::new(action::CollectEvidence { case_key, sources: Some(sources) })
}

fn paths(paths: &[&str]) -> Sources {
    let paths = paths.iter().map(|path| (*path).to_owned()).collect();
    Sources { paths, item_bytes: MIB, total_bytes: 4 * MIB, ..Sources::default() }
}

fn collected(sandbox: &Sandbox, sources: Sources) -> Result<Evidence, Failure> {
    let (order, task) = (order(sources), task(1));
    order.plan(&sandbox.host, &task)?;
    order.apply(&sandbox.host, &task)?;
    order.prove(&sandbox.host, &task)
}

/// An item as the case reads it.
#[derive(Debug)]
struct Read {
    item: Item,
    bytes: Vec<u8>,
    end: ItemEnd,
}

/// What the case reads in the spool.
fn opened(sandbox: &Sandbox, task: &Task, evidence: &Evidence) -> Vec<Read> {
    let collection = Collection::of(evidence).unwrap();
    let spool = Spool::of(&sandbox.host.state_dir, task.command_id);
    let about = task.command_id.to_string();
    let mut opener = case().chunks(about.as_bytes(), &collection.once).unwrap();
    let (mut unpacker, mut read, mut contents) = (Unpacker::default(), Vec::new(), Vec::new());
    let mut open = None;
    for number in 0..collection.chunks {
        let sealed = spool.chunk(&collection, number).unwrap();
        let bytes = opener.open(sealed, number + 1 == collection.chunks).unwrap();
        for record in unpacker.push(&bytes).unwrap() {
            match record {
                Record::Item(item) => open = Some(item),
                Record::Content(bytes) => contents.extend(bytes),
                Record::End(end) => {
                    let bytes = std::mem::take(&mut contents);
                    read.push(Read { item: open.take().unwrap(), bytes, end });
                }
                Record::Done => {}
            }
        }
    }
    assert!(unpacker.is_done());
    assert_eq!(read.len(), collection.items as usize);
    let left_out = read.iter().filter(|read| !read.end.is_whole()).count();
    assert_eq!(left_out, collection.left_out as usize);
    read
}

fn all(sandbox: &Sandbox, sources: Sources) -> Vec<Read> {
    let evidence = collected(sandbox, sources).unwrap();
    opened(sandbox, &task(1), &evidence)
}

fn names(read: &[Read]) -> Vec<&str> {
    read.iter().map(|read| read.item.name.as_str()).collect()
}

#[test]
fn files_and_folders_are_read_and_what_is_not_there_is_said() {
    let sandbox = Sandbox::new();
    sandbox.write("/etc/passwd", "root:x\n");
    sandbox.write("/home/a/.bash_history", "one\n");
    sandbox.write("/home/b/.bash_history", "two\n");
    sandbox.write("/home/b/deep/er/file", vec![7; 600_000]);
    sandbox.write("/home/c/other", "");
    let read =
        all(&sandbox, paths(&["/etc/passwd", "/home/*/.bash_h*", "/home/b", "/gone", "/no*"]));
    assert_eq!(
        names(&read),
        [
            "/etc/passwd",
            "/home/a/.bash_history",
            "/home/b/.bash_history",
            "/home/b/.bash_history",
            "/home/b/deep/er/file",
            "/gone",
            "/no*",
        ]
    );
    assert_eq!(read[0].bytes, b"root:x\n");
    assert_eq!(read[4].bytes, vec![7; 600_000]);
    assert!(read[..5].iter().all(|read| read.end.is_whole() && read.item.kind == Kind::File));
    assert_eq!(read[0].item.stat.map(|stat| stat.bytes), Some(7));
    assert!(read[5..].iter().all(|read| read.item.kind == Kind::Absent));
    assert!(read[5..].iter().all(|read| read.end.trouble.is_some()));
}

#[test]
fn nothing_is_followed_opened_or_entered_that_is_no_file() {
    let sandbox = Sandbox::new();
    let secret = sandbox.host.state_dir.join("device.key");
    fs::write(&secret, "the device's key").unwrap();
    sandbox.write("/srv/file", "fine");
    let inside = |name: &str| sandbox.host.path(format!("/srv/{name}"));
    symlink(&secret, inside("link")).unwrap();
    symlink("/etc", inside("folder-link")).unwrap();
    // Whoever opens it waits for somebody who writes.
    mkfifo(&inside("pipe"), Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    let read =
        all(&sandbox, paths(&["/srv", "/srv/link", "/srv/folder-link/passwd", "/srv/link/x"]));
    let kinds: Vec<_> = read.iter().map(|read| read.item.kind).collect();
    let (link, absent) = (Kind::Link, Kind::Absent);
    assert_eq!(kinds, [Kind::File, link, link, Kind::Special, link, absent, absent]);
    assert_eq!(read[2].item.target.as_deref(), secret.to_str());
    assert!(read.iter().all(|read| !read.bytes.starts_with(b"the device")));
}

#[test]
fn agents_own_state_is_never_collected() {
    let mut sandbox = Sandbox::new();
    sandbox.write("/var/lib/agent/device.key", "the device's key");
    sandbox.write("/var/lib/other", "fine");
    sandbox.host.state_dir = sandbox.host.path("/var/lib/agent");
    let read = all(&sandbox, paths(&["/var", "/var/lib/agent/device.key"]));
    assert_eq!(names(&read), ["/var/lib/agent", "/var/lib/other", "/var/lib/agent/device.key"]);
    assert_eq!(read.iter().filter(|read| read.item.kind == Kind::Absent).count(), 2);
    assert!(read.iter().all(|read| !read.bytes.starts_with(b"the device")));
}

#[test]
fn hostile_names_are_spelled_and_each_is_told() {
    let sandbox = Sandbox::new();
    sandbox.write("/tmp/x", "");
    for name in [b"a\x1b[2J".as_slice(), b"\xff\xfe", b"new\nline", b"back\\slash"] {
        File::create(sandbox.host.path("/tmp").join(OsStr::from_bytes(name))).unwrap();
    }
    let read = all(&sandbox, paths(&["/tmp"]));
    let expected =
        ["/tmp/a\\x1b[2J", "/tmp/back\\\\slash", "/tmp/new\\x0aline", "/tmp/x", "/tmp/\\xff\\xfe"];
    assert_eq!(names(&read), expected);
}

#[test]
fn what_is_larger_than_the_bounds_is_cut_and_says_so() {
    let sandbox = Sandbox::new();
    for name in ["a", "b", "c"] {
        sandbox.write(&format!("/srv/{name}"), vec![1; 100_000]);
    }
    let bounds = Sources { item_bytes: 60_000, total_bytes: 130_000, ..paths(&["/srv"]) };
    let read = all(&sandbox, bounds);
    let lengths: Vec<_> = read.iter().map(|read| (read.bytes.len(), read.end.is_cut)).collect();
    assert_eq!(lengths, [(60_000, true), (60_000, true), (10_000, true)]);
    // Exactly as long as it may be is not cut.
    let exact = Sources { item_bytes: 100_000, ..paths(&["/srv/a"]) };
    assert!(all(&sandbox, exact)[0].end.is_whole());
}

#[test]
fn newest_logs_come_first_and_before_files() {
    let sandbox = Sandbox::new();
    sandbox.write("/etc/hosts", "localhost");
    for (name, secs) in [("/var/log/old", 100), ("/var/log/new", 300), ("/run/log/journal/x", 200)]
    {
        let path = sandbox.write(name, name);
        let at = std::time::UNIX_EPOCH + std::time::Duration::from_secs(secs);
        File::options().write(true).open(path).unwrap().set_modified(at).unwrap();
    }
    let read = all(&sandbox, Sources { logs: true, ..paths(&["/etc"]) });
    assert_eq!(names(&read), ["/var/log/new", "/run/log/journal/x", "/var/log/old", "/etc/hosts"]);
    assert_eq!(read[0].item.source, Source::Log);
}

#[test]
fn memory_of_a_process_is_read_and_the_agents_own_is_not() {
    let mut sandbox = Sandbox::new();
    sandbox.host.root = "/".into();
    let word = "a-word-in-the-memory-of-a-process";
    let mut child =
        Command::new("sleep").arg("600").env("WORD", word).stdin(Stdio::null()).spawn().unwrap();
    // A thread has a folder of its own, and the memory of all.
    let thread = std::fs::read_link("/proc/thread-self").unwrap();
    let thread = thread.file_name().unwrap().to_str().unwrap().to_owned();
    let own = std::process::id().to_string();
    assert_ne!(thread, own, "a test runs on a thread of its own");
    let processes = vec![child.id().to_string(), own, thread, "no such".to_owned()];
    let sources =
        Sources { processes, item_bytes: 16 * MIB, total_bytes: 64 * MIB, ..Sources::default() };
    let read = all(&sandbox, sources);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(read[0].item.name.ends_with(" maps"), "{}", read[0].item.name);
    let has = |read: &&Read| read.bytes.windows(word.len()).any(|bytes| bytes == word.as_bytes());
    let stack = read.iter().find(has).expect("the environment is on the stack");
    assert!(stack.item.name.ends_with("[stack]"), "{}", stack.item.name);
    assert_eq!((stack.item.source, stack.item.kind), (Source::Memory, Kind::Region));
    let [.., own, thread, none] = read.as_slice() else { panic!("{read:?}") };
    for ours in [own, thread] {
        assert_eq!(ours.end.trouble.as_deref(), Some("the agent's own memory is not read"));
    }
    assert_eq!(none.end.trouble.as_deref(), Some("no process has that name"));
}

/// Reads one file, after something was done to it behind the back of whoever listed it.
fn after(sandbox: &Sandbox, found: Found) -> Read {
    let spool = Spool::of(&sandbox.host.state_dir, task(1).command_id);
    spool.begin().unwrap();
    let about = task(1).command_id.to_string();
    let sealer = case().public().unwrap().chunks(about.as_bytes(), Entropy::system().bytes());
    let (clock, course) = (Clock::system(), crate::execute::course::Course::default());
    let until = clock.now() + std::time::Duration::from_secs(600);
    let mut packer =
        Packer::new((sealer.unwrap(), &spool), &paths(&["/a"]), (clock, until), &course);
    let tree = Tree::open(&sandbox.host).unwrap();
    read::all(&mut packer, &tree, Source::Path, vec![found]).unwrap();
    let collection = packer.finish().unwrap();
    opened(sandbox, &task(1), &collection.evidence()).remove(0)
}

#[test]
fn what_vanishes_or_is_exchanged_before_it_is_read_is_noted() {
    let sandbox = Sandbox::new();
    let path = sandbox.write("/srv/a", "was here");
    let found = Tree::open(&sandbox.host).unwrap().list("/srv/a").remove(0);
    fs::remove_file(&path).unwrap();
    let read = after(&sandbox, found.clone());
    assert_eq!((read.item.kind, read.bytes.len()), (Kind::Absent, 0));
    assert!(read.end.trouble.unwrap().contains("No such file"));
    sandbox.write("/etc/shadow", "secret");
    symlink("/etc/shadow", &path).unwrap();
    let read = after(&sandbox, found);
    assert_eq!((read.item.kind, read.bytes.len()), (Kind::Link, 0));
}

#[test]
fn what_is_written_while_it_is_read_is_noted() {
    let sandbox = Sandbox::new();
    sandbox.write("/srv/log", vec![1; 64]);
    let tree = Tree::open(&sandbox.host).unwrap();
    let seen = tree.look("srv/log".as_ref()).unwrap();
    let mut file = File::options().append(true).open(sandbox.host.path("/srv/log")).unwrap();
    file.write_all(b"more").unwrap();
    assert_ne!(read::state(&seen.about), read::state(&seen.open().unwrap().metadata().unwrap()));
}

#[test]
fn crash_before_the_last_chunk_begins_anew_and_after_it_goes_on() {
    let sandbox = Sandbox::new();
    sandbox.write("/srv/a", vec![3; 700_000]);
    let (order, task) = (order(paths(&["/srv"])), task(1));
    assert!(matches!(order.recover(&sandbox.host, &task), Recovery::Apply));
    let spool = Spool::of(&sandbox.host.state_dir, task.command_id);
    spool.begin().unwrap();
    spool.put(0, b"what a crash left").unwrap();
    assert!(matches!(order.recover(&sandbox.host, &task), Recovery::Apply));
    order.apply(&sandbox.host, &task).unwrap();
    assert!(matches!(order.recover(&sandbox.host, &task), Recovery::Applied));
    let evidence = order.prove(&sandbox.host, &task).unwrap();
    assert_eq!(opened(&sandbox, &task, &evidence)[0].bytes, vec![3; 700_000]);
    // All of it fits into a receipt.
    let text = serde_json::to_string(&evidence).unwrap();
    assert!((text.len() + 1024) * 4 / 3 + 400 < limits::RECEIPT_BYTES);
}

#[test]
fn chunk_that_the_disk_altered_is_not_signed_for() {
    let sandbox = Sandbox::new();
    sandbox.write("/srv/a", "a");
    let (order, task) = (order(paths(&["/srv"])), task(1));
    order.apply(&sandbox.host, &task).unwrap();
    let chunk = sandbox.host.state_dir.join(format!("collections/{}/000000", task.command_id));
    let mut bytes = fs::read(&chunk).unwrap();
    bytes[0] ^= 1;
    fs::write(&chunk, bytes).unwrap();
    let failure = order.prove(&sandbox.host, &task).unwrap_err();
    assert_eq!(failure.kind, FailureKind::NotProven);
}

#[test]
fn agent_that_stops_leaves_the_collection_to_the_next_one() {
    let sandbox = Sandbox::new();
    sandbox.write("/srv/a", "a");
    let (order, task) = (order(paths(&["/srv"])), task(1));
    assert!(order.outlives_the_agent());
    task.course.leave();
    order.apply(&sandbox.host, &task).unwrap_err();
    let spool = Spool::of(&sandbox.host.state_dir, task.command_id);
    assert!(spool.spooled().is_err(), "nothing of it counts");
}

#[test]
fn only_so_many_collections_wait_and_an_old_one_goes() {
    let sandbox = Sandbox::new();
    sandbox.write("/srv/a", "a");
    let order = order(paths(&["/srv"]));
    let now = protocol::time::Timestamp::from_millis(Clock::system().unix_millis());
    for number in 1..=4 {
        order.plan(&sandbox.host, &task(number)).unwrap();
        order.apply(&sandbox.host, &task(number)).unwrap();
    }
    let failure = order.plan(&sandbox.host, &task(5)).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Precondition);
    assert_eq!(Spool::all(&sandbox.host.state_dir, now).unwrap().len(), 4);
    let later = now.plus(std::time::Duration::from_secs(8 * 24 * 60 * 60));
    assert!(Spool::all(&sandbox.host.state_dir, later).unwrap().is_empty());
    order.plan(&sandbox.host, &task(5)).unwrap();
}

#[test]
fn spool_without_its_hashes_is_looked_at_before_anything_of_it_is_sent() {
    let sandbox = Sandbox::new();
    sandbox.write("/srv/a", "a");
    let (order, task) = (order(paths(&["/srv"])), task(1));
    order.apply(&sandbox.host, &task).unwrap();
    let spool = Spool::of(&sandbox.host.state_dir, task.command_id);
    let folder = sandbox.host.state_dir.join(format!("collections/{}", task.command_id));
    fs::write(folder.join("hashes"), "rotten").unwrap();
    assert!(spool.checked().is_ok(), "the chunks are as they were written");
    let mut bytes = fs::read(folder.join("000000")).unwrap();
    bytes[0] ^= 1;
    fs::write(folder.join("000000"), bytes).unwrap();
    assert!(matches!(spool.checked(), Err(SpoolError::Altered)));
}

#[test]
fn disk_that_does_not_say_what_lies_there_is_not_an_empty_one() {
    let sandbox = Sandbox::new();
    let now = protocol::time::Timestamp::from_millis(Clock::system().unix_millis());
    assert!(Spool::all(&sandbox.host.state_dir, now).unwrap().is_empty());
    fs::write(sandbox.host.state_dir.join("collections"), "no folder").unwrap();
    assert!(matches!(Spool::all(&sandbox.host.state_dir, now), Err(SpoolError::Disk(_))));
}

#[test]
fn stars_stand_for_any_bytes() {
    for (pattern, name, fits) in [
        ("*", "", true),
        ("*", "abc", true),
        ("a*c", "abc", true),
        ("a*c", "ac", true),
        ("a*c", "acb", false),
        ("*b*", "abc", true),
        ("a*a", "a", false),
        ("*.log", "x.log.log", true),
        ("*ab*cd", "xabyabcd", true),
        ("abc", "abc", true),
        ("abc", "abcd", false),
    ] {
        assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), fits, "{pattern} {name}");
    }
}
