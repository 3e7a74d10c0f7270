//! The command line as people and scripts use it: the real program against a real control plane.
//!
//! There is no hub here, so that every device is offline: what happens with one is in `path`.

#[path = "cli/bench.rs"]
mod bench;
#[path = "cli/factors.rs"]
mod factors;
#[path = "cli/glewlwyd.rs"]
mod glewlwyd;
#[path = "cli/oidc.rs"]
mod oidc;

use api::commands::wire::ManifestView;
use bench::{Bench, Run};
use protocol::offline::OfflineCode;
use runtime::Entropy;
use serde_json::Value;
use tocsin::client::Client;
use tocsin::profile::Overrides;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn login_writes_a_profile_that_works() {
    use std::os::unix::fs::PermissionsExt as _;
    let bench = Bench::start().await;
    let (url, ca) = (bench.url(), bench.path("data/ca.crt"));
    let profile = bench.path("config/tocsin/profile.toml");

    let wrong = bench.run(&["login", "--url", &url, "--ca", &ca, "--token", "tocsin_pat_x"]).await;
    wrong.expect(1);
    assert!(wrong.stderr.contains("tocsin login"), "{wrong:?}");
    assert!(!std::path::Path::new(&profile).exists(), "a profile that does not work is not kept");

    let (token, file) = (bench.token().to_owned(), bench.path("owner.token"));
    std::fs::write(&file, format!("{token}\n")).unwrap();
    let line = ["login", "--url", &url, "--ca", &ca, "--token-file"];
    let run = bench.run(&[&line[..], &[&file]].concat()).await;
    run.expect(0);
    bench.run_with(&[&line[..], &["-"]].concat(), &token).await.expect(0);
    bench.run_with(&[&line[..], &["-"]].concat(), "tocsin_pat_x").await.expect(1);
    assert!(!run.stdout.contains(&token) && !run.stderr.contains(&token));
    let mode = std::fs::metadata(&profile).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let devices = bench.run(&["devices"]).await;
    devices.expect(0);
    assert!(devices.stderr.contains("tocsin enroll-token"), "{devices:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_say_what_to_do_next() {
    let bench = Bench::logged_in().await;
    bench.enroll("web-17").await;
    for (line, code, hint) in [
        (vec!["--url", "https://127.0.0.1:1", "devices"], 1, "is `tocsin up`"),
        (vec!["--token", "tocsin_pat_x", "devices"], 1, "run `tocsin login`"),
        (
            vec!["--ca-pin", &"a".repeat(64), "devices"],
            1,
            "the certificate is not of the authority",
        ),
        (vec!["--profile", "/nowhere/p.toml", "devices"], 1, "run `tocsin login"),
        (vec!["device", "show", "web-71"], 1, "did you mean web-17?"),
        (vec!["lock", "wbe-17", "--reason", "x", "--yes"], 1, "did you mean web-17?"),
        (vec!["lock", "web-17", "--yes"], 1, "reason"),
        (vec!["lock", "web-17", "--reason", "x"], 2, "--yes"),
        (vec!["lock"], 2, "--help"),
    ] {
        let run = bench.run(&line).await;
        run.expect(code);
        assert!(run.stderr.contains(hint), "{line:?}: {run:?}");
    }
    let commands = bench.json(&["commands", "--json"]).await;
    assert_eq!(commands["items"].as_array().unwrap().len(), 0, "none of it ordered anything");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn enrollment_token_comes_with_the_line_for_the_device() {
    let bench = Bench::logged_in().await;
    let run = bench.run(&["enroll-token", "--group", "lab", "--ttl", "5m"]).await;
    run.expect(0);
    let token = run.stdout.trim();
    assert!(token.starts_with("tocsin-enroll-1."), "standard output is the token alone");
    assert!(run.stderr.contains(&format!("tocsin-agent enroll {token}")));

    bench.enroll("web-17").await;
    let devices = bench.json(&["devices", "--json", "--group", "lab"]).await;
    let device = &devices["items"][0];
    assert_eq!(device["name"], "web-17");
    assert_eq!(device["online"], false);
    let shown = bench.json(&["device", "show", "web-17", "--json"]).await;
    assert_eq!(shown["id"], device["id"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dry_run_shows_what_would_be_hit_and_orders_nothing() {
    let bench = Bench::logged_in().await;
    bench.enroll("web-17").await;
    let run = bench.run(&["wipe", "web-17", "--dry-run"]).await;
    run.expect(0);
    for part in ["DESTRUCTIVE", "web-17", "offline", "2 persons must approve", "no session"] {
        assert!(run.stdout.contains(part), "{part}: {run:?}");
    }
    let plan = bench.json(&["wipe", "web-17", "--dry-run", "--json"]).await;
    assert_eq!(plan["devices"][0]["name"], "web-17");
    let commands = bench.json(&["commands", "--json"]).await;
    assert_eq!(commands["items"].as_array().unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_for_an_offline_device_is_queued_and_can_be_cancelled() {
    let bench = Bench::logged_in().await;
    bench.enroll("web-17").await;
    let run = bench.run(&["lock", "web-17", "--reason", "INC-42", "--yes"]).await;
    run.expect(5);
    let said = "web-17 offline: queued, will be delivered at its next contact, expires ";
    assert!(run.stdout.starts_with(said), "{run:?}");
    assert!(run.stderr.contains("the order goes on"), "{run:?}");

    let commands = bench.json(&["commands", "--json", "--state", "queued"]).await;
    let id = commands["items"][0]["id"].as_str().unwrap().to_owned();
    bench.run(&["cancel", &id, "--reason", "found the laptop"]).await.expect(0);
    let watched = bench.run(&["watch", &id]).await;
    watched.expect(6);
    assert!(watched.stdout.contains("cancelled by admin: found the laptop"), "{watched:?}");
    let shown = bench.run(&["command", "show", &id]).await;
    shown.expect(0);
    assert!(shown.stdout.contains("timeline"), "{shown:?}");
    let unproven = bench.run(&["proof", &id]).await;
    unproven.expect(1);
    assert!(unproven.stderr.contains("there is no receipt"), "{unproven:?}");
    let unknown = bench.run(&["cancel", "01a201ab-c40d-7962-9c37-507ec7a201d9"]).await;
    unknown.expect(1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn script_for_a_device_that_is_away_is_cancelled_without_waiting_for_it() {
    let bench = Bench::logged_in().await;
    bench.enroll("web-17").await;
    let root_key = bench.path("data/root.key");
    let key_file = bench.path("alice.key");
    let made = bench.json(&["key", "new", "--out", &key_file, "--json"]).await;
    let add = ["trust", "add-approver", made["public_key"].as_str().unwrap(), "--person", "alice"];
    bench.run(&[&add[..], &["--root-key", &root_key, "--yes"]].concat()).await.expect(0);
    let script = bench.path("script");
    std::fs::write(&script, "#!/bin/sh\nexit 0\n").unwrap();
    let given = ["run-script", &script, "web-17", "--reason", "a test", "--yes", "--json"];
    for by_order in [false, true] {
        let made = bench.run(&given).await;
        made.expect(7);
        let made: Value = serde_json::from_str(&made.stdout).unwrap();
        let (order, command) = (&made["order"]["id"], &made["commands"][0]["id"]);
        let order = order.as_str().unwrap();
        bench.run(&["approve", order, "--key", &key_file, "--yes", "--no-wait"]).await.expect(0);
        let id = if by_order { order } else { command.as_str().unwrap() };
        let run = bench.run(&["cancel", id, "--json"]).await;
        run.expect(0);
        let cancelled: Value = serde_json::from_str(&run.stdout).unwrap();
        assert_eq!(cancelled["id"], id, "what was cancelled is shown: {run:?}");
        assert_eq!(cancelled["cancel"]["commands"][0]["state"], "queued");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_in_json_has_the_objects_of_the_api() {
    let bench = Bench::logged_in().await;
    bench.enroll("web-17").await;
    let run = bench.run(&["refresh", "web-17", "--json"]).await;
    run.expect(5);
    let answer: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(answer["order"]["action"]["verb"], "refresh");
    assert_eq!(answer["commands"][0]["state"], "queued");
    let run = bench.run(&["refresh", "web-17", "--json", "--no-wait"]).await;
    run.expect(0);
    let answer: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(answer["commands"][0]["state"], "queued");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_persons_approve_a_wipe_with_keys_of_their_own() {
    let bench = Bench::logged_in().await;
    bench.enroll("web-17").await;
    let root_key = bench.path("data/root.key");
    let run = bench.run(&["wipe", "web-17", "--reason", "stolen", "--yes"]).await;
    run.expect(7);
    let inbox = bench.json(&["approvals", "--json"]).await;
    let order = inbox["items"][0]["id"].as_str().unwrap().to_owned();
    assert!(run.stdout.contains(&format!("tocsin approve {order} --key FILE")), "{run:?}");

    for person in ["alice", "bob", "mallory"] {
        let file = bench.path(&format!("{person}.key"));
        let made = bench.json(&["key", "new", "--out", &file, "--json"]).await;
        let key = made["public_key"].as_str().unwrap().to_owned();
        if person != "mallory" {
            let line = ["trust", "add-approver", &key, "--person", person];
            bench.run(&[&line[..], &["--root-key", &root_key, "--yes"]].concat()).await.expect(0);
        }
    }
    let trust = bench.run(&["trust", "show"]).await;
    trust.expect(0);
    assert!(trust.stdout.contains("version 3") && trust.stdout.contains("bob"), "{trust:?}");

    let (alice, bob) = (bench.path("alice.key"), bench.path("bob.key"));
    let stranger =
        bench.run(&["approve", &order, "--key", &bench.path("mallory.key"), "--yes"]).await;
    stranger.expect(1);
    assert!(stranger.stderr.contains("is no approver's key"), "{stranger:?}");
    let unasked = bench.run(&["approve", &order, "--key", &alice]).await;
    unasked.expect(2);
    let first = bench.run(&["approve", &order, "--key", &alice, "--yes"]).await;
    first.expect(7);
    assert!(first.stdout.contains("alice (1 of 2)"), "{first:?}");
    assert!(first.stderr.contains("stolen"), "what is signed is shown: {first:?}");
    let wrong = bench.path("wrong");
    std::fs::write(&wrong, "not the passphrase\n").unwrap();
    let line = ["approve", &order, "--key", &bob, "--yes", "--passphrase-file", &wrong];
    let closed = bench.run(&line).await;
    closed.expect(1);
    assert!(closed.stderr.contains("passphrase does not open"), "{closed:?}");
    bench.run(&["approve", &order, "--key", &bob, "--yes", "--no-wait"]).await.expect(0);
    let commands = bench.json(&["commands", "--json", "--order", &order]).await;
    assert_eq!(commands["items"][0]["state"], "queued");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offline_code_comes_from_the_operators_file_and_the_order_commits_to_it() {
    let bench = Bench::logged_in().await;
    bench.enroll("web-17").await;
    let (codes, passphrase) = (bench.path("case.codes"), bench.path("passphrase"));
    std::fs::write(&passphrase, "correct horse battery\n").unwrap();
    let order = ["lock", "web-17", "--reason", "INC-42", "--yes", "--no-wait"];
    let with_codes = ["--offline-codes", &codes, "--passphrase-file", &passphrase];
    let screen = [&order[..], &with_codes, &["--level", "screen"]].concat();
    bench.run(&screen).await.expect(2);
    bench.run(&[&order[..], &with_codes, &["--dry-run"]].concat()).await.expect(0);
    assert!(!std::path::Path::new(&codes).exists(), "nothing is kept of what was not ordered");

    let made = bench.run(&[&order[..], &with_codes, &["--json"]].concat()).await;
    made.expect(0);
    let id = serde_json::from_str::<Value>(&made.stdout).unwrap()["order"]["id"].clone();
    let path = Some(bench.path("config/tocsin/profile.toml").into());
    let profile = Overrides { path, ..Overrides::default() }.load().unwrap();
    let client = Client::new(&profile, Entropy::system()).unwrap();
    let path = format!("/v1/orders/{}/manifest", id.as_str().unwrap());
    let shown: ManifestView = client.get(&path).await.unwrap();
    let (device, commitment) = shown.manifest.offline_codes.first_key_value().unwrap();
    assert!(made.stderr.contains("fingerprint"), "{made:?}");

    let code = ["offline-code", &codes, "web-17", "--passphrase-file", &passphrase];
    let said = bench.run(&[&["--url", "https://127.0.0.1:1"][..], &code].concat()).await;
    said.expect(0);
    let code: OfflineCode = said.stdout.trim().parse().unwrap();
    assert!(code.opens(device, commitment), "no server was asked");
    let other = ["offline-code", &codes, "web-18", "--passphrase-file", &passphrase];
    bench.run(&other).await.expect(1);
    let again = bench.run(&[&order[..], &with_codes].concat()).await;
    again.expect(1);
    assert!(again.stderr.contains("exists already"), "{again:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_person_can_reject_an_order() {
    let bench = Bench::logged_in().await;
    bench.enroll("web-17").await;
    bench.run(&["wipe", "web-17", "--reason", "stolen", "--yes"]).await.expect(7);
    let inbox = bench.json(&["approvals", "--json"]).await;
    let order = inbox["items"][0]["id"].as_str().unwrap().to_owned();
    bench.run(&["reject", &order, "--reason", "wrong laptop"]).await.expect(0);
    let orders = bench.json(&["orders", "--json"]).await;
    assert_eq!(orders["items"][0]["states"]["cancelled"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn threshold_can_be_set_for_one_operator() {
    let bench = Bench::logged_in().await;
    let root_key = bench.path("data/root.key");
    let line = ["trust", "set-threshold", "wipe", "1", "--root-key", &root_key];
    bench.run(&line).await.expect(2);
    bench.run(&[&line[..], &["--yes"]].concat()).await.expect(0);
    let trust = bench.json(&["trust", "show", "--json"]).await;
    assert_eq!(trust["root"]["approvals"]["wipe"], 1);
    let other = bench.path("other.key");
    api::keys::create(std::path::Path::new(&other), &runtime::Entropy::system()).unwrap();
    let line = ["trust", "set-threshold", "wipe", "0", "--root-key", &other, "--yes"];
    let refused = bench.run(&line).await;
    refused.expect(1);
    assert!(refused.stderr.contains("was not signed by this root key"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tampered_log_is_noticed_and_the_bad_entry_named() {
    let mut bench = Bench::logged_in().await;
    bench.enroll("web-17").await;
    bench.run(&["lock", "web-17", "--reason", "INC-42", "--yes", "--no-wait"]).await.expect(0);
    let export = bench.path("log.jsonl");
    bench.run(&["events", "export", "--out", &export]).await.expect(0);
    let whole = bench.run(&["events", "verify", &export]).await;
    whole.expect(0);
    let head = whole.stdout.lines().last().unwrap().strip_prefix("head ").unwrap().to_owned();
    let log = std::fs::read_to_string(&export).unwrap();
    let bad = 1 + log.lines().position(|line| line.contains("INC-42")).unwrap();
    std::fs::write(&export, log.replace("INC-42", "INC-43")).unwrap();
    broken(&bench.run(&["events", "verify", &export]).await, bad);
    let cut: Vec<_> = log.lines().take(bad).collect();
    std::fs::write(&export, cut.join("\n")).unwrap();
    bench.run(&["events", "verify", &export]).await.expect(0);
    bench.run(&["events", "verify", &export, "--head", &head]).await.expect(1);

    bench.stop().await;
    let (data, store) = (bench.path("data"), bench.path("data/tocsin.db"));
    bench.run(&["events", "verify", "--data", &data, "--head", &head]).await.expect(0);
    let mut bytes = std::fs::read(&store).unwrap();
    let places: Vec<_> = bytes.windows(6).enumerate().filter(|(_, w)| w == b"INC-42").collect();
    let places: Vec<_> = places.into_iter().map(|(at, _)| at).collect();
    assert!(!places.is_empty(), "the log is in the store's file");
    for at in places {
        bytes[at..at + 6].copy_from_slice(b"INC-43");
    }
    std::fs::write(&store, bytes).unwrap();
    broken(&bench.run(&["events", "verify", "--data", &data]).await, bad);
}

fn broken(run: &Run, event: usize) {
    run.expect(1);
    assert!(run.stderr.contains(&format!("BROKEN at event {event}: it was altered")), "{run:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_needs_no_control_plane_works_without_one() {
    let bench = Bench::start().await;
    for (name, text, code) in [
        ("agent.toml", "[host]\narming = \"off\"\n", 0),
        ("agent-2.toml", "[host]\narmin = \"off\"\n", 1),
        ("hub.toml", "listne = \"127.0.0.1:1\"\n", 1),
        ("api.toml", "agent_urls = [\"http://x\"]\n", 1),
    ] {
        let file = bench.path(name);
        std::fs::write(&file, text).unwrap();
        let run = bench.run(&["check", &file]).await;
        run.expect(code);
    }
    let typo = bench.run(&["check", &bench.path("agent-2.toml")]).await;
    assert!(typo.stderr.contains("line 2") && typo.stderr.contains("arming"), "{typo:?}");
    let script = bench.run(&["completions", "bash"]).await;
    script.expect(0);
    assert!(script.stdout.contains("quarantine"));
    let help = bench.run(&["--help"]).await;
    help.expect(0);
    assert!(help.stdout.contains("Exit codes:"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn store_is_copied_into_an_empty_one_only() {
    let mut bench = Bench::logged_in().await;
    bench.enroll("web-17").await;
    bench.stop().await;
    let (old, new) = (bench.path("data"), bench.path("new"));
    std::fs::create_dir(&new).unwrap();
    let present = bench.json(&["migrate", "--data", &old, "--json"]).await;
    assert_eq!(present["from"], present["to"]);
    let made = bench.json(&["migrate", "--data", &new, "--json"]).await;
    assert_eq!((&made["from"], &made["to"]), (&serde_json::json!(0), &present["to"]));

    let copied = bench.run(&["store", "copy", "--from", &old, "--to", &new]).await;
    copied.expect(0);
    assert!(copied.stderr.contains("events: "), "progress: {copied:?}");
    let head = copied.stdout.lines().last().unwrap().strip_prefix("head ").unwrap().to_owned();
    for folder in [&old, &new] {
        bench.run(&["events", "verify", "--data", folder, "--head", &head]).await.expect(0);
    }
    let again = bench.run(&["store", "copy", "--from", &old, "--to", &new]).await;
    again.expect(1);
    assert!(again.stderr.contains("is not empty"), "{again:?}");
    bench.run(&["store", "copy", "--from", "nowhere", "--to", &new]).await.expect(2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_made_listed_and_revoked() {
    let bench = Bench::logged_in().await;
    let line = ["token", "create", "--label", "night shift", "--role", "responder@lab"];
    let run = bench.run(&[&line[..], &["--operator", "nina", "--ttl", "8h"]].concat()).await;
    run.expect(0);
    let token = run.stdout.trim();
    assert!(token.starts_with("tocsin_pat_"), "standard output is the token alone: {run:?}");
    assert!(run.stderr.contains("responder@lab") && !run.stderr.contains(token), "{run:?}");
    bench.run(&["--token", token, "devices"]).await.expect(0);
    let wider = bench.run(&["--token", token, "enroll-token"]).await;
    wider.expect(1);
    assert!(wider.stderr.contains("no scope for `enroll`"), "{wider:?}");

    let run = bench.run(&["token", "list"]).await;
    for part in ["nina", "night shift", "responder@lab", "1200/min", "now", "in 7 h"] {
        assert!(run.stdout.contains(part), "{part}: {run:?}");
    }
    let all = bench.json(&["token", "list", "--json"]).await;
    let of_nina = all["items"].as_array().unwrap().iter().find(|t| t["operator"] == "nina");
    let id = of_nina.unwrap()["id"].as_str().unwrap().to_owned();
    bench.run(&["token", "revoke", &id]).await.expect(0);
    bench.run(&["--token", token, "devices"]).await.expect(1);
    let run = bench.run(&["token", "list"]).await;
    assert!(!run.stdout.contains(&id), "{run:?}");
    let run = bench.run(&["token", "list", "--all"]).await;
    assert!(run.stdout.contains("revoked"), "{run:?}");
    for (line, code) in [
        (vec!["token", "create", "--label", "x"], 2),
        (vec!["token", "create", "--label", "x", "--role", "owner"], 2),
        (vec!["token", "create", "--label", "x", "--role", "viewer", "--scope", "read@*"], 2),
        (vec!["token", "revoke", &id], 1),
    ] {
        bench.run(&line).await.expect(code);
    }
}
