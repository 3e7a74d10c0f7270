//! What happens around the destruction: network file systems are let go, nothing on them is
//! touched, and the login manager is asked to keep the machine up.

use std::fs;
use std::path::Path;
use std::process::Command;

use agent::execute::Executor as _;
use nix::sched::{CloneFlags, unshare};
use protocol::action::WipeLevel;

use crate::scene::{Scene, carry_out, wipe};
use crate::support::host::task;

fn run(program: &str, args: &[&Path]) {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
}

#[test]
fn network_file_systems_are_detached_and_their_files_stay() {
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNS).expect("this test needs root (CAP_SYS_ADMIN)");
        run("mount", &["--make-rprivate".as_ref(), "/".as_ref()]);
        let scene = Scene::new();
        let (share, server) =
            (scene.host.path("/srv/our share"), scene.folder.path().join("server"));
        fs::create_dir_all(&share).unwrap();
        fs::create_dir(&server).unwrap();
        fs::write(server.join("report"), "everybody's").unwrap();
        // What the server exports is a folder here; that it is NFS is what mountinfo says.
        run("mount", &["--bind".as_ref(), &server, &share]);
        fs::create_dir_all(scene.host.path("/proc/self")).unwrap();
        let mounts = "36 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
                      40 36 0:44 / /srv/our\\040share rw - nfs4 server:/export rw\n";
        fs::write(scene.host.path("/proc/self/mountinfo"), mounts).unwrap();
        assert!(share.join("report").exists());

        let wipe = wipe(WipeLevel::Keys);
        let plan = wipe.plan(&scene.host, &task(1)).unwrap();
        assert!(plan.steps.iter().any(|step| step.contains("/srv/our share: detach")));
        carry_out(&wipe, &scene.host, &task(1)).unwrap();

        assert!(!share.join("report").exists(), "it is detached");
        assert_eq!(fs::read_to_string(server.join("report")).unwrap(), "everybody's");
        scene.assert_destroyed();
    });
    thread.join().unwrap();
}
