//! `tocsin login --oidc` against a real provider, with a browser that follows what it is told.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};

use super::bench::Bench;
use super::glewlwyd::Glewlwyd;

/// `tocsin login --oidc` that waits for somebody in a browser.
struct Login {
    child: Child,
    said: Lines<BufReader<ChildStderr>>,
}

impl Login {
    fn start(bench: &Bench, provider_ca: &str, more: &[&str]) -> Self {
        let (url, ca) = (bench.url(), bench.path("data/ca.crt"));
        let mut child = Command::new(env!("CARGO_BIN_EXE_tocsin"))
            .args(["login", "--oidc", "--url", &url, "--ca", &ca, "--idp-ca", provider_ca])
            .args(more)
            .env_clear()
            .env("HOME", bench.path(""))
            .env("XDG_CONFIG_HOME", bench.path("config"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the program starts");
        let said = BufReader::new(child.stderr.take().expect("it is ours")).lines();
        Self { child, said }
    }

    /// The address that it says.
    async fn address(&mut self) -> String {
        loop {
            let line = self.said.next_line().await.expect("it speaks").expect("an address");
            if let Some(address) = line.trim().strip_prefix("https://") {
                return format!("https://{address}");
            }
        }
    }

    /// Its end: its exit code and what it said last.
    async fn end(mut self) -> (Option<i32>, String) {
        let mut text = String::new();
        while let Some(line) = self.said.next_line().await.expect("it speaks") {
            text.push_str(&line);
            text.push('\n');
        }
        (self.child.wait().await.expect("it ends").code(), text)
    }
}

/// The value of a parameter of an address.
fn parameter(url: &str, name: &str) -> String {
    let value = url.split(['?', '&']).filter_map(|pair| pair.split_once('='));
    let (_, value) = { value }.find(|(known, _)| *known == name).expect(name);
    value.replace("%3A", ":").replace("%2F", "/")
}

async fn bench(folder: &std::path::Path) -> (Bench, Glewlwyd, String) {
    let provider = Glewlwyd::start(folder).await;
    let ca = folder.join("cert.pem");
    let bench = Bench::start_with(|config| {
        config.oidc.issuer = provider.issuer();
        config.oidc.client_id = "tocsin".to_owned();
        config.oidc.scopes = vec!["openid".to_owned()];
        config.oidc.allow = ["127.0.0.1", "::1"].map(|ip| ip.parse().expect("an address")).into();
        config.oidc.ca_file = Some(ca.clone());
        config.oidc.device_flow = true;
        let role = "responder@*".parse().expect("a role");
        config.oidc.roles = [("sec-ops".to_owned(), role)].into();
    });
    (bench.await, provider, ca.display().to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_sign_in_by_a_real_provider_until_they_lose_their_group() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (bench, provider, ca) = bench(folder.path()).await;
    provider.put_person("nina", &["everybody", "sec-ops"], true).await;
    let mut login = Login::start(&bench, &ca, &[]);
    let address = login.address().await;
    provider.put_redirect(&parameter(&address, "redirect_uri")).await;
    let browser = provider.browser("nina").await;
    let back = browser.follow(&address).await;
    let page = reqwest::get(&back).await.expect("the command line listens");
    assert_eq!(page.status(), 200);
    let (code, said) = login.end().await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("signed in as nina"), "{said}");
    bench.run(&["devices"]).await.expect(0);
    let refused = bench.run(&["enroll-token"]).await;
    refused.expect(1);
    assert!(refused.stderr.contains("no scope for `enroll`"), "{refused:?}");

    let mut login = Login::start(&bench, &ca, &["--device"]);
    let address = login.address().await;
    browser.follow(&address).await;
    let (code, said) = login.end().await;
    assert_eq!(code, Some(0), "{said}");
    bench.run(&["devices"]).await.expect(0);

    let (code, said) = Login::start(&bench, &ca, &["--issuer", "https://evil.example"]).end().await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("names the provider"), "{said}");
    let profile = bench.path("config/tocsin/profile.toml");
    let kept = std::fs::read_to_string(&profile).expect("a profile");
    std::fs::write(&profile, kept.replace(&provider.issuer(), "https://was.example"))
        .expect("ours");
    let (code, said) = Login::start(&bench, &ca, &["--device"]).end().await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("and not https://was.example"), "the first one is kept: {said}");
    std::fs::write(&profile, kept).expect("ours");

    provider.put_person("nina", &["everybody"], false).await;
    let mut login = Login::start(&bench, &ca, &["--device"]);
    let address = login.address().await;
    browser.follow(&address).await;
    let (code, said) = login.end().await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("none of your groups has a role here"), "{said}");
    bench.run(&["devices"]).await.expect(1);
}
