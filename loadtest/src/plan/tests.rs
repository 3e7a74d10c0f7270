//! Scenario files: what is shipped, what is refused and how, what can be changed.

use super::*;

const SMALL: &str = r#"about = "x"
[population]
connections = 1
[[phase]]
name = "all"
connect = true
[[phase]]
name = "orders"
secs = 2
orders = { rate = "5/s" }
"#;

fn refused(text: &str) -> String {
    load("own.toml", text, &[]).expect_err("it is refused").to_string()
}

fn changed(change: &str) -> Result<Plan, PlanError> {
    load("own.toml", SMALL, &[change.to_owned()])
}

#[test]
fn every_shipped_scenario_is_one() {
    for (name, text) in SHIPPED {
        let plan = load(name, text, &[]).unwrap_or_else(|error| panic!("{error}"));
        assert!(plan.phases.iter().any(|phase| phase.connect), "{name} connects nobody");
        // What a program writes down of it reads as the same.
        let again = toml::to_string(&plan).expect("a plan is TOML");
        assert_eq!(load(name, &again, &[]).expect("the same"), plan, "{name}");
    }
}

#[test]
fn unknown_key_is_refused_with_its_line() {
    let text = SMALL.replace("connections = 1", "connections = 1\nconections = 2");
    let error = refused(&text);
    assert!(error.contains("own.toml") && error.contains("line 4"), "{error}");
    assert!(error.contains("conections") && error.contains("connecting"), "{error}");
    let error = refused(&SMALL.replace("rate =", "rat ="));
    assert!(error.contains("line 10") && error.contains("rat"), "{error}");
    let error = refused(&SMALL.replace("5/s", "5/h"));
    assert!(error.contains("line 10") && error.contains("not a rate"), "{error}");
}

#[test]
fn what_does_not_go_together_is_refused() {
    for (from, to, why) in [
        ("connect = true", "connect = false", "nobody is connected"),
        ("secs = 2\n", "", "need a `count`"),
        ("name = \"orders\"", "name = \"all\"", "another one has that name"),
        ("secs = 2", "secs = -1", "seconds must be"),
        ("connections = 1", "connections = 0", "between one device"),
        ("connections = 1", "connections = 0\nstalled = 1", "devices that answer"),
    ] {
        let error = refused(&SMALL.replace(from, to));
        assert!(error.contains(why), "{to}: {error}");
    }
    let fault = "fault = [{ at_secs = 1, what = \"kill\", process = \"hub-2\" }]";
    let error = refused(&format!("{SMALL}{fault}\n"));
    assert!(error.contains("hub-2") && error.contains("hub-1"), "{error}");
}

#[test]
fn every_value_can_be_changed_by_its_path() {
    let plan = changed("population.connections=7").expect("a number");
    assert_eq!(plan.population.connections, 7);
    let plan = changed("phase.orders.orders.rate=100/s").expect("a rate");
    assert_eq!(
        plan.phases[1].orders.as_ref().map(|orders| orders.rate.to_string()).as_deref(),
        Some("100/s")
    );
    let plan = changed("platform.hub.admission.max_sessions=9").expect("a setting of the hub");
    assert_eq!(plan.platform.hub["admission"]["max_sessions"].as_integer(), Some(9));
    for (change, why) in [
        ("population", "not KEY=VALUE"),
        ("population.conections=1", "unknown field"),
        ("phase.nothing.secs=1", "there is no phase nothing"),
        ("about.x=1", "single value"),
        ("population.connections=many", "invalid type"),
    ] {
        let error = changed(change).expect_err("it is refused").to_string();
        assert!(error.contains(why) && error.contains(change), "{change}: {error}");
    }
}

/// What a session costs in a second is mostly its heartbeat: over a part of an interval, or over one and a
/// half, it is any number.
#[test]
fn quiet_phase_is_measured_over_whole_heartbeats_after_one() {
    let measured = |changes: &[&str]| {
        let changes: Vec<_> = changes.iter().map(|&change| change.to_owned()).collect();
        let plan = load("idle", shipped("idle").expect("it is shipped"), &changes).expect("sound");
        let idle = plan.phases.iter().find(|phase| phase.name == "idle").expect("it is there");
        plan.measured(idle).map(|(count, length)| (count, length.as_secs_f64()))
    };
    assert_eq!(measured(&[]), Some((3, 75.0)), "as it is shipped");
    assert_eq!(measured(&["phase.idle.secs=60"]), Some((1, 25.0)));
    assert_eq!(measured(&["phase.idle.secs=49"]), None);
    assert_eq!(measured(&["phase.idle.secs=5"]), None);
    for heartbeat in ["\"2s\"", "2", "2.0"] {
        let change = format!("platform.hub={{heartbeat={heartbeat}}}");
        assert_eq!(measured(&[&change, "phase.idle.secs=7"]), Some((2, 4.0)), "{heartbeat}");
    }
    assert_eq!(measured(&["phase.idle.churn=1/s"]), None, "it is not quiet");
}
