//! The rules of the repository, checked: sizes, headers, forbidden words, arrows, promises.
//!
//! Each rule of `rules` is a function from a file's path and text to what is wrong with it, so
//! that a test can show that the rule sees what it should.

#[path = "tidy/rules.rs"]
mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

use rules::offences;

fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("every crate lies in a folder of the workspace").to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn metadata() -> Metadata {
    let mut command = MetadataCommand::new();
    command.manifest_path(root().join("Cargo.toml")).no_deps();
    command.exec().expect("cargo reads the workspace")
}

/// Every text file that belongs to the repository, with its path from the root.
fn files() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("the folder exists") {
            let entry = entry.expect("the folder can be listed");
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_hidden = name.starts_with('.') && name != ".ci" && name != ".config";
            if is_hidden || name == "target" || name == "Cargo.lock" {
                continue;
            }
            let path = entry.path();
            if entry.file_type().expect("the entry has a type").is_dir() {
                folders.push(path);
            } else if let Ok(text) = fs::read_to_string(&path) {
                let below = path.strip_prefix(root()).expect("the walk began at the root");
                found.push((below.to_string_lossy().into_owned(), text));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn every_file_keeps_the_rules() {
    let found: Vec<_> = files().iter().flat_map(|(path, text)| offences(path, text)).collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

/// Rows of the table under that heading of docs/ARCHITECTURE.md, each cell trimmed.
fn table(heading: &str) -> Vec<Vec<String>> {
    let document = read("docs/ARCHITECTURE.md");
    let section = document.split(&format!("\n## {heading}\n")).nth(1).expect("the heading exists");
    let section = section.split("\n## ").next().expect("a split has a first part");
    let rows = section.lines().filter(|line| line.starts_with('|')).skip(2);
    rows.map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect())
        .collect()
}

/// The words of a text that stand between backticks.
fn quoted(text: &str) -> BTreeSet<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// What each of our crates may depend on, as docs/ARCHITECTURE.md says.
fn allowed_arrows() -> BTreeMap<String, BTreeSet<String>> {
    let rows = table("Arrows");
    rows.iter()
        .map(|row| {
            let [name, targets, ..] = row.as_slice() else { panic!("a row has too few cells") };
            (name.trim_matches('`').to_owned(), quoted(targets))
        })
        .collect()
}

#[test]
fn crates_depend_on_one_another_as_the_architecture_says() {
    let metadata = metadata();
    let ours: BTreeSet<_> = metadata.packages.iter().map(|p| p.name.to_string()).collect();
    let allowed = allowed_arrows();
    assert_eq!(allowed.keys().cloned().collect::<BTreeSet<_>>(), ours, "one row per crate");
    for package in &metadata.packages {
        let arrows = package.dependencies.iter().filter(|dependency| {
            dependency.kind != DependencyKind::Development && ours.contains(&dependency.name)
        });
        let arrows: BTreeSet<_> = arrows.map(|dependency| dependency.name.clone()).collect();
        let extra: Vec<_> = arrows.difference(&allowed[package.name.as_str()]).collect();
        assert!(extra.is_empty(), "{} may not depend on {extra:?}", package.name);
    }
}

#[test]
fn arrows_point_down_only() {
    let allowed = allowed_arrows();
    let mut seen = BTreeSet::new();
    while seen.len() < allowed.len() {
        let next = allowed.iter().find(|(name, targets)| {
            !seen.contains(*name) && targets.iter().all(|target| seen.contains(target))
        });
        let (name, _) = next.expect("the arrows of the table have no cycle");
        seen.insert(name.clone());
    }
}

#[test]
fn hub_and_api_never_import_each_other_even_in_tests() {
    for package in metadata().packages {
        let names: BTreeSet<_> = package.dependencies.iter().map(|d| d.name.as_str()).collect();
        match package.name.as_str() {
            "push-hub" => assert!(!names.contains("api")),
            "api" => assert!(!names.contains("push-hub")),
            _ => {}
        }
    }
}

#[test]
fn only_the_broker_names_redis() {
    for package in metadata().packages.iter().filter(|package| package.name.as_str() != "broker") {
        let redis = package.dependencies.iter().find(|d| d.name.contains("redis"));
        assert!(redis.is_none(), "{} depends on {redis:?}", package.name);
    }
}

#[test]
fn every_crate_takes_the_lints_of_the_workspace() {
    for package in metadata().packages {
        let manifest = fs::read_to_string(&package.manifest_path).expect("the manifest exists");
        match package.name.as_str() {
            WITH_UNSAFE => assert_same_lints(&manifest),
            name => assert!(manifest.contains("[lints]\nworkspace = true"), "{name}"),
        }
    }
}

/// The crate that hands pointers to the kernel, in two files.
const WITH_UNSAFE: &str = "drive";

/// A crate cannot take the lints of the workspace and less of one: it repeats them.
fn assert_same_lints(manifest: &str) {
    let workspace = read("Cargo.toml");
    let lints = workspace.split("[workspace.lints.rust]").nth(1).expect("the table exists");
    let lints = lints.split("[profile").next().expect("a split has a first part");
    let lints = lints.lines().filter(|line| line.contains('='));
    for lint in lints.filter(|line| !line.starts_with("unsafe_code")) {
        assert!(manifest.contains(lint), "{WITH_UNSAFE} lacks {lint}");
    }
    assert!(manifest.contains("unsafe_code = \"deny\""));
    let may = files().into_iter().filter(|(path, text)| {
        let is_there = text.contains("(unsafe_code") || text.contains("unsafe {");
        path.starts_with(&format!("{WITH_UNSAFE}/src/")) && is_there
    });
    let may: BTreeSet<_> = may.map(|(path, _)| path).collect();
    let known = ["kernel.rs", "kernel/file.rs"].map(|name| format!("{WITH_UNSAFE}/src/{name}"));
    assert_eq!(may, known.into(), "these two have unsafe code");
}

/// Each package of a lock file: name and version.
fn locked(path: &str) -> BTreeSet<(String, String)> {
    let text = read(path);
    let packages = text.split("[[package]]").skip(1);
    let value = |package: &str, key: &str| {
        let line = package.lines().find_map(|line| line.strip_prefix(&format!("{key} = ")));
        line.expect("every package has it").trim_matches('"').to_owned()
    };
    packages.map(|package| (value(package, "name"), value(package, "version"))).collect()
}

/// What is timed is what is shipped: the benchmarks' own workspace has the same versions.
#[test]
fn benchmarks_are_built_with_the_versions_of_the_product() {
    let (ours, theirs) = (locked("Cargo.lock"), locked("benchmarks/Cargo.lock"));
    let names: BTreeSet<_> = ours.iter().map(|(name, _)| name).collect();
    let other = theirs.difference(&ours).filter(|(name, _)| names.contains(name));
    // Criterion has its own.
    let other: Vec<_> = other.filter(|(name, _)| name != "itertools").collect();
    assert!(other.is_empty(), "run `scripts/bench --lock`: {other:?}");
}

#[test]
fn every_test_that_the_invariants_name_exists() {
    let rows = table("Invariants");
    assert_eq!(rows.len(), 15, "fifteen promises");
    let sources: BTreeMap<_, _> = files().into_iter().collect();
    for row in &rows {
        let [_, promise, tests, ..] = row.as_slice() else { panic!("a row has too few cells") };
        let named = quoted(tests);
        let is_admitted = tests.contains("not yet held by a test");
        assert!(is_admitted || !named.is_empty(), "nothing is said of: {promise}");
        named.iter().for_each(|test| assert_exists(&sources, test));
    }
}

/// A test is named as file::function.
fn assert_exists(sources: &BTreeMap<String, String>, test: &str) {
    let (file, name) = test.split_once("::").expect("a test is named as file::function");
    let text = sources.get(file).unwrap_or_else(|| panic!("{file} does not exist"));
    // The tests of planted bugs are rows of a macro.
    let is_there = text.contains(&format!("fn {name}(")) || text.contains(&format!(" {name}: "));
    assert!(is_there, "{test} does not exist");
}

#[test]
fn every_test_that_the_page_on_reliability_names_exists() {
    let sources: BTreeMap<_, _> = files().into_iter().collect();
    let named = quoted(&read("docs/RELIABILITY.md"));
    let tests: Vec<_> = named.iter().filter(|name| name.contains(".rs::")).collect();
    assert!(tests.len() > 30, "the page names tests");
    tests.into_iter().for_each(|test| assert_exists(&sources, test));
}

/// The attacks of hubs and brokers alone: the page on security lists what there is, and no less.
#[test]
fn the_page_on_security_lists_every_attack_of_a_hub_or_a_broker() {
    let page = read("docs/SECURITY.md");
    let section =
        page.split("\n### Hostile hub, hostile broker\n").nth(1).expect("the heading exists");
    let section = section.split("\n### ").next().expect("a split has a first part");
    let is_test = |name: &String| name.starts_with("hostile_") && !name.ends_with(".rs");
    let listed: BTreeSet<_> = quoted(section).into_iter().filter(is_test).collect();
    let tests: BTreeSet<_> = files().iter().flat_map(|(_, text)| hostile_tests(text)).collect();
    let unknown: Vec<_> = listed.difference(&tests).collect();
    assert!(unknown.is_empty(), "no test is called {unknown:?}");
    let is_theirs = |name: &&String| {
        ["hostile_hub_", "hostile_broker_"].iter().any(|who| name.starts_with(who))
    };
    let missing: Vec<_> =
        tests.iter().filter(is_theirs).filter(|name| !listed.contains(*name)).collect();
    assert!(missing.is_empty(), "docs/SECURITY.md does not list {missing:?}");
    assert!(listed.len() >= 50, "{} attacks", listed.len());
}

fn hostile_tests(text: &str) -> Vec<String> {
    let names = text.lines().filter_map(|line| line.trim_start().split_once("fn hostile_"));
    let names = names.filter_map(|(_, rest)| rest.split_once('('));
    names.map(|(name, _)| format!("hostile_{name}")).collect()
}

#[test]
fn nothing_that_is_shipped_can_have_a_planted_bug() {
    let test_only = ["planted-bugs", "simulation"];
    for package in metadata().packages {
        for (feature, enables) in &package.features {
            let is_enabled = |name: &&str| enables.iter().any(|other| other.ends_with(*name));
            let enabled = test_only.iter().find(|name| is_enabled(name));
            let is_its_own = test_only.contains(&feature.as_str());
            assert!(is_its_own || enabled.is_none(), "{}/{feature}", package.name);
        }
        for dependency in &package.dependencies {
            let asked = dependency.features.iter().any(|name| test_only.contains(&name.as_str()));
            let is_for_tests = dependency.kind == DependencyKind::Development;
            assert!(is_for_tests || !asked, "{} asks {}", package.name, dependency.name);
        }
    }
}

/// Each crate parses the samples of its own configuration; here none may be forgotten.
#[test]
fn every_sample_of_a_configuration_is_read_by_a_test() {
    let (samples, others): (Vec<_>, Vec<_>) =
        files().into_iter().partition(|(path, _)| path.starts_with("config/"));
    let is_test = |path: &str| path.contains("/tests") && path.ends_with(".rs");
    for (sample, _) in samples.iter().filter(|(path, _)| path.ends_with(".toml")) {
        let reads = |(path, text): &(String, String)| is_test(path) && text.contains(sample);
        assert!(others.iter().any(reads), "no test names {sample}");
    }
}

#[test]
fn the_protocol_document_has_the_table_of_close_codes() {
    let document = read("docs/PROTOCOL.md");
    for code in protocol::close::CloseCode::ALL {
        let row = format!("| {} | `{}` |", code.number(), code.as_str());
        assert!(document.contains(&row), "docs/PROTOCOL.md lacks {row}");
    }
}
