//! What a device remembers of the audit log, against an export of it, with the real programs.

use std::fs;

use crate::installation::{Installation, eventually};

#[test]
fn hostile_export_that_was_cut_off_does_not_bear_out_what_a_device_remembers() {
    let mut site = Installation::new();
    site.kill();
    site.start(&[("TOCSIN_UP_API__CHECKPOINT_EVERY", "50ms")]);
    let first = site.device("desk-1");
    assert_eq!(site.ended(&site.order("lock", &first.name))["state"], "succeeded");
    // A device that is new is told at once.
    let _second = site.device("desk-2");
    let remembered = site.path("desk-2").join("state/checkpoint.json");
    eventually("the device is told", || remembered.exists().then_some(()));
    let remembered = remembered.display().to_string();
    let shown = site.json(&["trust", "show"]);
    let key = shown["root"]["command_keys"][0]["key"].as_str().expect("a key").to_owned();
    let export = site.path("export.jsonl").display().to_string();
    site.succeed(&["events", "export", "--out", &export]);
    let checks = ["--checkpoint", remembered.as_str(), "--command-key", key.as_str()];
    let verify = [&["events", "verify", export.as_str()], &checks[..]].concat();
    site.succeed(&verify);
    assert!(!site.tocsin(&verify[..5]).status.success(), "nobody vouches for the checkpoint");
    let data = site.path("data").display().to_string();
    site.succeed(&["events", "verify", "--data", &data, "--checkpoint", &remembered]);

    let text = fs::read_to_string(&export).expect("the export");
    let cut: Vec<_> = text.lines().take(3).map(|line| format!("{line}\n")).collect();
    fs::write(&export, cut.concat()).expect("the folder is ours");
    let found = site.tocsin(&verify);
    let said = String::from_utf8_lossy(&found.stderr);
    assert!(!found.status.success() && said.contains("checkpoint"), "{said}");
    site.succeed(&["events", "verify", &export]);
}
