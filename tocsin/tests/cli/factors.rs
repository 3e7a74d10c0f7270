//! Second factors on the command line: where codes come from, and what is repeated with one.

use api::fixture::one_time_code;
use runtime::Clock;

use super::bench::Bench;

/// The code that an app shows, some steps of 30 s from now.
fn code(secret: &str, steps: u64) -> String {
    one_time_code(secret, Clock::system().unix_millis() + steps * 30_000)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_that_takes_a_code_asks_for_it_and_is_given_once() {
    let bench = Bench::logged_in().await;
    bench.enroll("desk-1").await;
    let line =
        ["token", "create", "--label", "x", "--operator", "nina", "--scope", "*@*", "--json"];
    let token = bench.json(&line).await["secret"].as_str().unwrap().to_owned();
    let nina = |line: &[&str]| -> Vec<String> {
        line.iter().copied().chain(["--token", &token]).map(str::to_owned).collect()
    };
    let as_nina = async |line: &[&str], input: &str| {
        let line = nina(line);
        bench.run_with(&line.iter().map(String::as_str).collect::<Vec<_>>(), input).await
    };
    let wipe = ["wipe", "desk-1", "--reason", "case 7", "--yes", "--no-wait"];
    let without = as_nina(&wipe, "").await;
    without.expect(1);
    assert!(without.stderr.contains("tocsin operator totp invite"), "{without:?}");

    let invited = bench.json(&["operator", "totp", "invite", "nina", "--json"]).await;
    let invitation = format!("{}\n", invited["invitation"].as_str().unwrap());
    let added = as_nina(&["operator", "totp", "add", "--json"], &invitation).await;
    added.expect(0);
    let added: serde_json::Value = serde_json::from_str(&added.stdout).unwrap();
    assert!(added["uri"].as_str().unwrap().starts_with("otpauth://totp/Tocsin:nina?secret="));
    let secret = added["secret"].as_str().unwrap();
    as_nina(&["operator", "totp", "confirm"], &code(secret, 0)).await.expect(0);

    let unasked = as_nina(&wipe, "").await;
    unasked.expect(1);
    assert!(unasked.stderr.contains("takes a code of your second factor"), "{unasked:?}");
    // The first one is the next one with its last digit changed.
    let right = code(secret, 1);
    let (first, last) = right.split_at(5);
    let wrong = format!("{first}{}", (last.parse::<u32>().unwrap() + 5) % 10);
    let piped = [&wipe[..], &["--code-stdin"]].concat();
    // What is no code is somebody's list of hosts, and is not sent.
    let list = as_nina(&wipe, "desk-2\ndesk-3\n").await;
    assert!(list.stderr.contains("takes a code of your second factor"), "{list:?}");
    as_nina(&piped, "desk-2\n").await.expect(1);
    as_nina(&piped, &format!("{wrong}\n{right}\n")).await.expect(7);
    let orders = bench.json(&["orders", "--json"]).await;
    assert_eq!(orders["items"].as_array().unwrap().len(), 1, "{orders}");
    as_nina(&wipe, "").await.expect(7);

    let tokens = bench.run(&["token", "list"]).await;
    assert!(
        tokens.stdout.contains("no person") && tokens.stdout.contains("a person"),
        "{tokens:?}"
    );
    let operators = bench.json(&["operator", "list", "--json"]).await;
    let has_factor = |name: &str| {
        let items = operators["items"].as_array().unwrap();
        items.iter().find(|item| item["name"] == name).unwrap()["has_factor"].clone()
    };
    assert_eq!((has_factor("nina"), has_factor("admin")), (true.into(), false.into()));

    let data = bench.path("data");
    bench.run(&["operator", "totp", "reset", "nina", "--data", &data]).await.expect(0);
    as_nina(&wipe, "").await.expect(1);
    let invited = ["operator", "totp", "invite", "nina", "--data", &data, "--json"];
    assert!(bench.json(&invited).await["invitation"].is_string());
}
