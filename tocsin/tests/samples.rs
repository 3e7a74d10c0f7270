//! The samples of the roles' configurations show what each does without one.
//!
//! Owns `config/up.toml`, `config/hub.toml` and `config/api.toml`; the agent's sample is its own crate's part.

use std::fmt::Debug;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use tocsin::cli::check::{Role, judge};
use tocsin::platform;
use tocsin::roles::{api_role, hub_role};

fn sample(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../config").join(name)
}

/// What a sample says, in the debug form, which has every setting.
fn shown<T: DeserializeOwned + Default + Debug>(name: &str) -> String {
    let shown: T = runtime::config::load(Some(&sample(name)), std::iter::empty(), "").expect(name);
    format!("{shown:#?}")
}

#[test]
fn samples_show_the_defaults() {
    let up = shown::<platform::Config>("up.toml");
    assert_eq!(up, format!("{:#?}", platform::Config::default()));
    let hub = shown::<hub_role::Config>("hub.toml");
    assert_eq!(hub, format!("{:#?}", hub_role::Config::default()));
    let api = shown::<api_role::Config>("api.toml");
    assert_eq!(api, format!("{:#?}", api_role::Config::default()));
}

#[test]
fn samples_are_judged_sound() {
    for (name, role) in [("up.toml", Role::Up), ("hub.toml", Role::Hub), ("api.toml", Role::Api)] {
        assert_eq!(Role::of(&sample(name)), Some(role));
        judge(&sample(name), role).unwrap();
    }
}

/// Every setting of a sample by its table and key, also those that are shown as a comment.
fn settings(text: &str) -> Vec<(String, String)> {
    let mut table = String::new();
    let mut found = Vec::new();
    for line in text.lines() {
        let line = line.strip_prefix("# ").unwrap_or(line);
        let is_key =
            |key: &str| key.chars().all(|c| c.is_ascii_lowercase() || "_0123456789".contains(c));
        if let Some(name) = line.strip_prefix('[') {
            table = name.trim_end_matches(']').to_owned();
        } else if let Some((key, _)) = line.split_once(" = ").filter(|(key, _)| is_key(key)) {
            found.push((table.clone(), key.to_owned()));
        }
    }
    found
}

/// The fields of a value, by the debug form: one per setting, and one per table below it.
fn fields(value: &impl Debug) -> usize {
    let text = format!("{value:#?}");
    let is_field = |line: &&str| line.starts_with("    ") && !line.starts_with("     ");
    text.lines().filter(is_field).filter(|line| line.contains(": ")).count()
}

fn leaves_none_out(name: &str, tables: &[(&str, usize)]) {
    let shown = settings(&std::fs::read_to_string(sample(name)).expect(name));
    for (table, fields) in tables {
        let count = shown.iter().filter(|(of, _)| of == table).count();
        assert_eq!(count, *fields, "[{table}] of {name}");
    }
}

#[test]
fn samples_leave_no_setting_out() {
    let platform::Config { log, api, hub, .. } = platform::Config::default();
    // Three tables lie below that of the hub.
    let hub_tables = [
        ("log", fields(&log)),
        ("hub", fields(&hub) - 3),
        ("hub.tickets", fields(&hub.tickets)),
        ("hub.admission", fields(&hub.admission)),
        ("hub.socket", fields(&hub.socket)),
    ];
    // Eight tables lie below that of the api.
    let api_tables = [
        ("api", fields(&api) - 8),
        ("api.database", fields(&api.database)),
        ("api.budgets", fields(&api.budgets)),
        ("api.collections", fields(&api.collections)),
        ("api.first_wave", fields(&api.first_wave)),
        ("api.step_up", fields(&api.step_up)),
        ("api.sinks", fields(&api.sinks)),
        ("api.oidc", fields(&api.oidc)),
        ("api.vault", fields(&api.vault)),
    ];
    leaves_none_out("up.toml", &[&hub_tables[..], &api_tables].concat());
    let role = hub_role::Config::default();
    let own = [("tls", fields(&role.tls)), ("broker.redis", fields(&role.broker.redis))];
    leaves_none_out("hub.toml", &[&hub_tables[..], &own].concat());
    let role = api_role::Config::default();
    let own = [("broker.redis", fields(&role.broker.redis))];
    leaves_none_out("api.toml", &[&api_tables[..], &own].concat());
}

/// Nobody knows better what a balancer makes of its file than the balancer.
#[test]
fn sample_for_the_balancer_is_judged_sound_by_it() {
    let mut judging = std::process::Command::new("haproxy");
    let judged = judging.args(["-c", "-f"]).arg(sample("haproxy.cfg")).output();
    let judged = judged.expect("the package haproxy is installed");
    assert!(judged.status.success(), "{}", String::from_utf8_lossy(&judged.stderr));
}
