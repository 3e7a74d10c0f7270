//! What the store does not take: a change without its event, and anything on a full disk.
//!
//! For SQLite. The full disk needs root, mount namespaces and the Debian package `util-linux`: the disk is a small file
//! system in memory that ends with the test.

use std::process::Command;

use reqwest::StatusCode;

use super::bench::{Bench, GUARD, order_body};

/// Set where the test runs itself again, inside a mount namespace.
const INSIDE: &str = "TOCSIN_TEST_SMALL_DISK";

/// Runs a test's body with its folders on a small disk.
fn on_small_disk(test: &str, body: impl Future<Output = ()>) {
    if std::env::var_os(INSIDE).is_some() {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        return runtime.block_on(body);
    }
    let disk = tempfile::tempdir().unwrap();
    let mount = "mount -t tmpfs -o size=3m tocsin-disk \"$TMPDIR\" && exec \"$0\" \"$@\"";
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", mount])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .env("TMPDIR", disk.path())
        .output()
        .expect("unshare runs (Debian package util-linux)");
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "inside:\n{said}{errors}");
}

#[test]
fn f13_database_disk_full_is_503_and_never_201() {
    on_small_disk("refusals::f13_database_disk_full_is_503_and_never_201", async {
        let bench = Bench::start().await;
        let agent = bench.agent("a", None).await;
        let body = order_body("lock", &[agent.id]);
        let mut accepted = Vec::new();
        let answer = loop {
            let answer = bench.post_as(&bench.token, "/v1/orders", &body).await;
            if answer.status() != StatusCode::CREATED {
                break answer;
            }
            let created: serde_json::Value = answer.json().await.unwrap();
            accepted.push(created["commands"][0]["id"].clone());
            assert!(accepted.len() < 5000, "the disk is small");
        };
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(answer.headers().contains_key("retry-after"));
        assert!(!accepted.is_empty());

        let grown = Command::new("mount")
            .args(["-o", "remount,size=64m"])
            .arg(std::env::temp_dir())
            .status();
        assert!(grown.unwrap().success());
        let after = async {
            loop {
                let answer = bench.post_as(&bench.token, "/v1/orders", &body).await;
                if answer.status() == StatusCode::CREATED {
                    return answer.json::<serde_json::Value>().await.unwrap();
                }
                assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
            }
        };
        let after = tokio::time::timeout(GUARD, after).await.unwrap();
        accepted.push(after["commands"][0]["id"].clone());
        for id in &accepted {
            assert_eq!(bench.command(id).await["id"], *id);
        }
        api::audit::verify_db(&bench.api.app().db).await.unwrap();
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn change_without_its_event_is_not_committed() {
    let bench = Bench::start().await;
    let agent = bench.agent("a", None).await;
    let db = &bench.api.app().db;
    for (rename, is_state) in [
        ("UPDATE devices SET name = 'b'", true),
        ("INSERT INTO operators (name, created_at) VALUES ('eve', 0)", true),
        ("DELETE FROM approvals", false),
        ("UPDATE devices SET name = name, last_seen_at = 7", false),
    ] {
        let mut tx = db.write(api::audit::Actor::System, bench.now()).await.unwrap();
        api::fixture::execute(&mut tx, rename).await.unwrap();
        assert_eq!(tx.commit().await.is_err(), is_state, "{rename}");
    }
    let device = bench.get(&format!("/v1/devices/{}", agent.id)).await;
    assert_eq!(device["name"], "a");
}
