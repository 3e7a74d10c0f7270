//! The samples of the platform's configuration show what it does without one.
//!
//! Owns `config/up.toml`; the agent's sample is its own crate's part.

use std::path::{Path, PathBuf};

use tocsin::cli::check::{Role, judge};
use tocsin::platform::Config;

fn sample() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/up.toml")
}

#[test]
fn sample_of_the_platform_shows_the_defaults() {
    let shown: Config = runtime::config::load(Some(&sample()), std::iter::empty(), "").unwrap();
    let Config { log, admin_listen, api, hub } = Config::default();
    assert_eq!(shown.log, log);
    assert_eq!(shown.admin_listen, admin_listen);
    assert_eq!(shown.api, api);
    assert_eq!(shown.hub, hub);
}

#[test]
fn sample_of_the_platform_is_judged_sound() {
    assert_eq!(Role::of(&sample()), Some(Role::Up));
    judge(&sample(), Role::Up).unwrap();
}

/// Every setting of the platform by its table and key, as its sample spells them.
fn settings(text: &str) -> Vec<(String, String)> {
    let mut table = String::new();
    let mut found = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('[') {
            table = name.trim_end_matches(']').to_owned();
        } else if let Some((key, _)) = line.split_once(" = ").filter(|_| !line.starts_with('#')) {
            found.push((table.clone(), key.to_owned()));
        }
    }
    found
}

#[test]
fn sample_of_the_platform_leaves_no_setting_out() {
    let shown = settings(&std::fs::read_to_string(sample()).unwrap());
    let count = |table: &str| shown.iter().filter(|(name, _)| name == table).count();
    // The debug form of a configuration has one field per setting, and one per table below it.
    let fields = |text: String| {
        let is_field = |line: &&str| line.starts_with("    ") && !line.starts_with("     ");
        text.lines().filter(is_field).filter(|line| line.contains(": ")).count()
    };
    let defaults = Config::default();
    assert_eq!(count("api"), fields(format!("{:#?}", defaults.api)));
    assert_eq!(count("hub") + 2, fields(format!("{:#?}", defaults.hub)), "two tables below");
    assert_eq!(count("hub.admission"), fields(format!("{:#?}", defaults.hub.admission)));
    assert_eq!(count("hub.socket"), fields(format!("{:#?}", defaults.hub.socket)));
}
