//! Tests of arguments, questions, exit codes and what is signed.

use api::commands::wire::{DryRun, DryRunDevice, ManifestDevice, ManifestView, OrderView};
use api::trust::TrustView;
use clap::CommandFactory as _;
use protocol::action::Action;
use protocol::fixture::{self, Organisation};
use protocol::manifest::DeviceTree;
use protocol::state::CommandState;

use super::approve::{ManifestError, check_manifest};
use super::ask::Demand;
use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split_whitespace())
}

#[test]
fn command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn public_key_that_begins_with_a_hyphen_is_a_key() {
    // One of 64 keys does, as base64url.
    let key = format!("-{}", "A".repeat(42));
    for line in [
        "collect-evidence web-1 --case-key",
        "rotate-credentials web-1 --volumes --recovery-key",
        "lock web-1 --level crypto --recovery-key",
    ] {
        parse(&format!("tocsin {line} {key} --yes")).unwrap_or_else(|e| panic!("{line}: {e}"));
    }
}

/// What `tocsin plan` with those words asks for.
fn planned(words: &str) -> Result<Action, Failure> {
    let Verb::Plan(args) = parse(&format!("tocsin plan web-1 {words}")).unwrap().verb else {
        unreachable!("it is the verb plan")
    };
    plan::planned(&args)
}

#[test]
fn plans_are_of_what_their_words_say() {
    let verb = |words: &str| planned(words).unwrap().verb().as_str();
    assert_eq!(verb(""), "wipe");
    assert_eq!(verb("--selective"), "selective_wipe");
    for of in ["selective-wipe", "lock", "unlock", "quarantine", "release", "reboot"] {
        assert_eq!(verb(&format!("--of {of}")).replace('_', "-"), of);
        planned(&format!("--of {of}")).unwrap().check().unwrap();
    }
    let spared = planned("--of quarantine --allow 10.0.0.5:22 --allow-resolver").unwrap();
    let Action::Quarantine(quarantine) = spared else { panic!("{spared:?}") };
    assert_eq!((quarantine.allow.len(), quarantine.resolver), (1, true));
    for wrong in ["--of lock --allow 10.0.0.5:22", "--allow-resolver", "--of release --level data"]
    {
        assert!(planned(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn every_verb_parses_as_documented() {
    let id = fixture::order(1);
    for line in [
        "tocsin login --url https://x --ca x.pem --token-file t",
        "tocsin enroll-token --group lab --ttl 15m",
        "tocsin devices --group lab --online --json",
        "tocsin device show web-17",
        "tocsin device revoke web-17 --yes",
        "tocsin lock web-17 web-18 --level screen --message x --reason y --expires 1h",
        "tocsin unlock --group lab --dry-run",
        "tocsin quarantine web-17 --allow 10.0.0.5:22 --allow [fd00::5]:22 --reason y",
        "tocsin release web-17 --no-wait --yes",
        "tocsin wipe web-17 --level data --no-power-off",
        "tocsin refresh web-17 --timeout 5s",
        "tocsin approvals",
        "tocsin commands --state in_doubt --since 2h --device web-17 --verb wipe",
        "tocsin orders",
        "tocsin cluster --json",
        "tocsin watch",
        "tocsin events verify log.jsonl",
        "tocsin events verify --data /var/lib/tocsin",
        "tocsin events export --out log.jsonl",
        "tocsin key new --out a.key --passphrase-file p",
        "tocsin key show a.key",
        "tocsin trust show",
        "tocsin trust set-threshold wipe 1 --root-key root.key",
        "tocsin check agent.toml --role agent",
        "tocsin migrate --config api.toml",
        "tocsin migrate --data /var/lib/tocsin",
        "tocsin store copy --from /var/lib/tocsin --to postgres://tocsin@db/tocsin",
        "tocsin completions bash",
        "tocsin hub --config hub.toml",
        "tocsin api --config api.toml --json",
        "tocsin issue-hub --data d --name hub-1 --server-name h.example --server-name ::1 --out o",
        "tocsin agent enroll tocsin-enroll-1.x --config agent.toml",
        &format!("tocsin approve {id} --key a.key --yes"),
        &format!("tocsin approve {id} --key a.key --withdraw --reason x"),
        &format!("tocsin reject {id} --reason x"),
        &format!("tocsin cancel {id}"),
        &format!("tocsin command show {id}"),
        &format!("tocsin proof {id}"),
    ] {
        assert!(parse(line).is_ok(), "{line}: {:?}", parse(line).err());
    }
}

#[test]
fn meaningless_lines_are_refused() {
    for line in [
        "tocsin lock",
        "tocsin lock web-17 --group lab",
        "tocsin lock web-17 --level keys",
        "tocsin lock web-17 --expires soon",
        "tocsin quarantine web-17 --allow 10.0.0.5",
        "tocsin wipe web-17 --level session",
        "tocsin commands --state done",
        "tocsin events verify",
        "tocsin hub",
        "tocsin issue-hub --data d --name hub-1 --out o",
        "tocsin issue-hub --data d --name hub-1 --server-name h --out o --days 9999",
        "tocsin events verify x --data y",
        "tocsin approve not-an-order --key a.key",
        "tocsin trust set-threshold burn 1 --root-key root.key",
        "tocsin devices --online --offline",
        "tocsin devices --ca x --ca-pin y",
    ] {
        assert!(parse(line).is_err(), "{line}");
    }
}

fn plan(names: &[&str]) -> DryRun {
    let device = |(number, name): (u8, &&str)| DryRunDevice {
        id: fixture::device(number),
        name: (*name).to_owned(),
        online: Some(true),
        approvals_needed: 0,
    };
    DryRun {
        dry_run: true,
        device_count: u32::try_from(names.len()).unwrap(),
        first_wave: None,
        approvals_needed: 0,
        expires_at: fixture::NOW.into(),
        devices: (1..).zip(names).map(device).collect(),
        skipped: 0,
        warnings: Vec::new(),
    }
}

#[test]
fn wipe_is_confirmed_by_the_name_or_the_number_of_its_devices() {
    let demand = |action: &Action, names: &[&str]| order::question(action, &plan(names)).1;
    assert_eq!(demand(&fixture::wipe(), &["web-17"]), Demand::Exactly("web-17".to_owned()));
    assert_eq!(demand(&fixture::wipe(), &["a", "b", "c"]), Demand::Exactly("3".to_owned()));
    let untypable = ["web\u{202e}71-"];
    assert_eq!(demand(&fixture::wipe(), &untypable), Demand::Exactly("1".to_owned()));
    assert_eq!(demand(&fixture::lock(), &["web-17"]), Demand::Yes);
}

#[test]
fn only_the_demanded_answer_goes_ahead() {
    let name = Demand::Exactly("web-17".to_owned());
    for (demand, answer, is_met) in [
        (&Demand::Yes, "y\n", true),
        (&Demand::Yes, "YES", true),
        (&Demand::Yes, "", false),
        (&Demand::Yes, "no", false),
        (&name, "web-17\n", true),
        (&name, "web-1", false),
        (&name, "y", false),
        (&name, "", false),
    ] {
        assert_eq!(demand.is_met(answer), is_met, "{demand:?} {answer:?}");
    }
}

#[test]
fn gravest_state_gives_the_exit_code() {
    use CommandState as S;
    for (states, exit) in [
        (vec![S::Succeeded, S::Succeeded], Exit::Success),
        (vec![S::Succeeded, S::AwaitingApproval], Exit::AwaitingApproval),
        (vec![S::AwaitingApproval, S::Queued], Exit::Pending),
        (vec![S::Running, S::Expired], Exit::Ended),
        (vec![S::Cancelled, S::Refused], Exit::Refused),
        (vec![S::Refused, S::InDoubt], Exit::Failed),
        (vec![], Exit::Success),
    ] {
        assert_eq!(Exit::of_states(states.clone()), exit, "{states:?}");
    }
}

#[test]
fn nearest_names_are_suggested_and_no_others() {
    let names = ["web-17", "web-18", "db-1", "build"];
    assert_eq!(targets::nearest("web-71", &names), ["web-17", "web-18"]);
    assert_eq!(targets::nearest("wbe-18", &names), ["web-18"]);
    assert_eq!(targets::nearest("db1", &names), ["db-1"]);
    assert!(targets::nearest("printer-in-the-hall", &names).is_empty());
}

/// An order on devices 1 to 3, as an honest control plane shows it.
fn shown() -> (OrderView, ManifestView) {
    let organisation = Organisation::new();
    let tree = DeviceTree::new((1..=3).map(fixture::device)).unwrap();
    let manifest = organisation.manifest(1, fixture::wipe(), &tree);
    let order = OrderView {
        id: manifest.order_id,
        operator: "mallory".parse().unwrap(),
        action: manifest.action.clone(),
        reason: None,
        created_at: fixture::NOW.into(),
        expires_at: manifest.expires_at.into(),
        device_count: 3,
        simulated: false,
        approvals_needed: 2,
        approvals: Vec::new(),
        first_wave: None,
        states: std::collections::BTreeMap::new(),
    };
    let name = |id| ManifestDevice { id, name: "web".to_owned() };
    let devices = (1..=3).map(|number| name(fixture::device(number))).collect();
    (order, ManifestView { manifest, devices, script: None })
}

fn check(change: impl FnOnce(&mut OrderView, &mut ManifestView)) -> Result<(), ManifestError> {
    let (mut order, mut view) = shown();
    let wanted = order.id;
    change(&mut order, &mut view);
    check_manifest(&order, &view, wanted, fixture::NOW)
}

#[test]
fn honest_manifest_may_be_signed() {
    assert_eq!(check(|_, _| {}), Ok(()));
}

#[test]
fn manifest_of_other_devices_than_are_shown_is_not_signed() {
    let hidden = check(|_, view| drop(view.devices.pop()));
    assert_eq!(hidden, Err(ManifestError::OtherDevices));
    let exchanged = check(|_, view| view.devices[0].id = fixture::device(9));
    assert_eq!(exchanged, Err(ManifestError::OtherDevices));
    let miscounted = check(|_, view| view.manifest.device_count = 300);
    assert_eq!(miscounted, Err(ManifestError::OtherDevices));
    let none = check(|_, view| view.devices.clear());
    assert_eq!(none, Err(ManifestError::OtherDevices));
    let twice = check(|_, view| view.devices.push(view.devices[0].clone()));
    assert!(matches!(twice, Err(ManifestError::Doubled(_))));
}

#[test]
fn manifest_of_another_order_action_or_time_is_not_signed() {
    let order = check(|_, view| view.manifest.order_id = fixture::order(7));
    assert_eq!(order, Err(ManifestError::OtherOrder));
    let requester = check(|_, view| view.manifest.requested_by = "carol".parse().ok());
    assert_eq!(requester, Err(ManifestError::OtherRequester));
    let action = check(|_, view| view.manifest.action = fixture::lock());
    assert_eq!(action, Err(ManifestError::OtherAction));
    let expired = check(|_, view| view.manifest.expires_at = fixture::NOW);
    assert_eq!(expired, Err(ManifestError::Expired));
}

#[test]
fn trust_root_that_our_root_key_did_not_sign_is_not_built_upon() {
    let organisation = Organisation::new();
    let view = TrustView {
        version: organisation.trust.version,
        signed: organisation.signed_trust(),
        root: organisation.trust.clone(),
    };
    let believed = trust::believe(&view, organisation.root_key.public()).unwrap();
    assert_eq!(believed, organisation.trust);
    assert!(trust::believe(&view, fixture::signing_key(99).public()).is_err());
}

#[test]
fn role_is_known_by_the_name_of_the_file() {
    use super::check::Role;
    for (name, role) in [
        ("agent.toml", Some(Role::Agent)),
        ("/etc/tocsin/hub-2.toml", Some(Role::Hub)),
        ("api.toml", Some(Role::Api)),
        ("tocsin.toml", Some(Role::Up)),
        ("github.toml", None),
        ("config.toml", None),
    ] {
        assert_eq!(Role::of(std::path::Path::new(name)), role, "{name}");
    }
}
