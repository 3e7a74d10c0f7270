//! The judge of a run: reads what is left behind, and trusts nothing that took part.
//!
//! Owns the promises that are checked: every accepted command ended exactly once, in the order of
//! its lane, none took effect twice, the events are whole, and presence is true at the end. Reads
//! the store through the operator's program, and the devices' counters from their disks.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::operator::{Device, Operator, eventually};

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// How many commands ended where.
    pub(crate) ends: BTreeMap<String, usize>,
    /// Lines of all counters.
    pub(crate) effects: usize,
}

/// Waits until everything has ended, and judges.
pub(crate) fn judge(
    operator: &Operator,
    devices: &[Device],
    accepted: &BTreeSet<String>,
) -> Verdict {
    for state in ["queued", "sent", "acked", "running"] {
        eventually(&format!("no command is {state}"), || {
            let open = operator.json(&["commands", "--state", state]);
            open["items"].as_array()?.is_empty().then_some(())
        });
    }
    let commands = all_commands(operator);
    let stored: BTreeSet<_> = commands.iter().map(|command| text(command, "id")).collect();
    let lost: Vec<_> = accepted.difference(&stored).collect();
    assert!(lost.is_empty(), "accepted and not in the store: {lost:?}");
    let mut verdict = Verdict::default();
    for device in devices {
        let done = device.done();
        verdict.effects += done.len();
        check_device(&device.name, &done, &commands);
    }
    for command in &commands {
        *verdict.ends.entry(text(command, "state")).or_default() += 1;
        explained(command);
    }
    verify_events(operator);
    for device in devices {
        operator.online(&device.name);
    }
    verdict
}

/// Every end is one that a person can understand: a receipt, or the reason why there is none.
fn explained(command: &Value) {
    let state = text(command, "state");
    let has_receipt = command["receipt"].is_string();
    let is_explained = match state.as_str() {
        "succeeded" | "failed" | "refused" => has_receipt,
        "expired" | "cancelled" | "in_doubt" => has_receipt || command["ended_by"].is_string(),
        _ => false,
    };
    assert!(is_explained, "{command}");
}

/// Compares one device's counter with what the store says of its commands.
fn check_device(name: &str, done: &[String], commands: &[Value]) {
    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    for command in done {
        *times.entry(command).or_default() += 1;
    }
    let place: BTreeMap<&str, usize> =
        done.iter().enumerate().map(|(at, command)| (command.as_str(), at)).collect();
    let mut newest: BTreeMap<String, (u64, usize)> = BTreeMap::new();
    let mut own: Vec<&Value> =
        commands.iter().filter(|command| command["device_name"] == name).collect();
    own.sort_by_key(|command| command["seq"].as_u64());
    for command in own {
        let id = text(command, "id");
        let count = times.remove(id.as_str()).unwrap_or(0);
        let expected = match text(command, "state").as_str() {
            "succeeded" => 1..=1,
            // It may have been done before it came into doubt or was given up.
            "in_doubt" | "failed" => 0..=1,
            _ => 0..=0,
        };
        assert!(expected.contains(&count), "{name} did {count} times: {command}");
        let Some(at) = place.get(id.as_str()) else { continue };
        let seq = command["seq"].as_u64().expect("what was done had a number");
        let former = newest.insert(text(command, "lane"), (seq, *at));
        let in_order = former.is_none_or(|(_, before)| before < *at);
        assert!(in_order, "{name}: {id} came before {former:?}");
    }
    assert!(times.is_empty(), "{name} did what nobody ordered: {times:?}");
}

/// The chain of events is whole, as anybody can check without the platform.
fn verify_events(operator: &Operator) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("events.jsonl");
    std::fs::write(&file, operator.succeed(&["events", "export"])).expect("the folder is ours");
    operator.succeed(&["events", "verify", &file.display().to_string()]);
}

fn all_commands(operator: &Operator) -> Vec<Value> {
    let listed = operator.json(&["commands"]);
    listed["items"].as_array().expect("a list").clone()
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_else(|| panic!("no {key}: {value}")).to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ended(id: &str, seq: u64, state: &str) -> Value {
        json!({
            "id": id, "device_name": "web", "lane": "urgent", "seq": seq, "state": state,
            "receipt": "…",
        })
    }

    fn check(done: &[&str], commands: &[Value]) {
        let done: Vec<_> = done.iter().map(|id| (*id).to_owned()).collect();
        check_device("web", &done, commands);
    }

    #[test]
    fn what_was_done_once_and_in_order_is_right() {
        check(&["a", "b"], &[ended("a", 1, "succeeded"), ended("b", 2, "succeeded")]);
        check(&["b"], &[ended("a", 1, "expired"), ended("b", 2, "in_doubt")]);
    }

    #[test]
    #[should_panic(expected = "did 2 times")]
    fn effect_that_is_there_twice_is_seen() {
        check(&["a", "a"], &[ended("a", 1, "succeeded")]);
    }

    #[test]
    #[should_panic(expected = "did 0 times")]
    fn success_without_an_effect_is_seen() {
        check(&[], &[ended("a", 1, "succeeded")]);
    }

    #[test]
    #[should_panic(expected = "did 1 times")]
    fn effect_of_what_is_called_expired_is_seen() {
        check(&["a"], &[ended("a", 1, "expired")]);
    }

    #[test]
    #[should_panic(expected = "came before")]
    fn wrong_order_in_a_lane_is_seen() {
        check(&["b", "a"], &[ended("a", 1, "succeeded"), ended("b", 2, "succeeded")]);
    }

    #[test]
    #[should_panic(expected = "nobody ordered")]
    fn effect_that_nobody_ordered_is_seen() {
        check(&["a", "z"], &[ended("a", 1, "succeeded")]);
    }

    #[test]
    #[should_panic(expected = "expired")]
    fn end_without_an_explanation_is_seen() {
        explained(&json!({ "state": "expired" }));
    }
}
