//! What a fleet costs, tiny, against the real platform; and reckoned anew from what was written.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use loadtest::scaling::Scaling;

const PROGRAM: &str = env!("CARGO_BIN_EXE_tocsin-loadtest");

fn run(args: &[&str], files: &[(&str, &Path)]) -> Output {
    let mut command = Command::new(PROGRAM);
    command.arg("scaling").args(args);
    for (option, path) in files {
        command.arg(option).arg(path);
    }
    let output = command.output().expect("the program starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    output
}

fn read(path: &Path) -> Scaling {
    let text = std::fs::read_to_string(path).expect("the document is written");
    serde_json::from_str(&text).expect("it is one")
}

#[test]
fn sizes_are_measured_and_a_fleet_is_reckoned_from_them() {
    let tocsin = PathBuf::from(PROGRAM).with_file_name("tocsin");
    if !tocsin.is_file() {
        println!("skipped: {} is not built; build the whole workspace", tocsin.display());
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let [json, other, html, reports] =
        ["one.json", "other.json", "one.html", "reports"].map(|name| folder.path().join(name));
    let sizes = ["--connections", "10", "--hubs", "2", "--per-hub", "10", "--rate", "20/s"];
    let times = ["--quiet-secs", "1", "--order-secs", "1", "--polling", "5", "--flood", "40"];
    let files = [("--json", &*json), ("--html", &html), ("--reports", &reports)];
    let tocsin = ("--tocsin", &*tocsin);
    let output = run(&[sizes, times].concat(), &[&files[..], &[tocsin]].concat());
    let scaling = read(&json);
    // A second has no room for whole heartbeats, which is said of each, and nothing else is to say.
    let rough = |note: &String| note.contains("not quiet for whole heartbeats");
    assert!(scaling.notes.len() == 3 && scaling.notes.iter().all(rough), "{:?}", scaling.notes);
    let labels: Vec<_> = scaling.points.iter().map(|point| &*point.label).collect();
    assert_eq!(labels, ["1 hub, 10 sessions", "2 hubs, 20 sessions"]);
    for point in &scaling.points {
        assert_eq!((point.orders.count, point.bulk.count), (20, point.connections), "{point:?}");
        assert!(point.back_secs > 0.0 && point.hub_kib > 0.0, "{point:?}");
    }
    let check_ins = scaling.check_ins.expect("it was measured");
    assert!(check_ins.count >= 5, "{check_ins:?}");
    assert!(scaling.most.is_some_and(|most| most.stored_per_sec > 0.0));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("| hubs | processes | 100000 processes |"), "{said}");
    assert_eq!(std::fs::read_dir(reports).expect("reports are kept").count(), 4);
    assert!(std::fs::read_to_string(html).expect("a page").ends_with("</body></html>\n"));

    let fleet = ["--devices", "2000"];
    let files = [("--from", &*json), ("--json", &other)];
    let output = run(&fleet, &files);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("| hubs | processes | 200 processes |"), "{said}");
    assert_eq!(read(&other).points.len(), 2, "the measurements are kept");
}
