//! How orders and commands read to a person.
//!
//! Owns the sentences: which state, and what is proven. A success is called proven only when the
//! receipt was verified on this machine.

use api::commands::wire::CommandView;
use protocol::action::{Action, Credential, LockLevel, Sources, Verb, WipeLevel};
use protocol::grade::{GRADE, Grade, Known};
use protocol::jws::CompactJws;
use protocol::receipt::{Evidence, FailureKind, Outcome, RefusalReason};
use protocol::state::{CommandState, VerbClass};
use protocol::time::Timestamp;
use serde_json::Value;

use super::{Tone, rest, text, time};
use crate::proof::ProofError;

/// Observations in one line at most.
const EVIDENCE_IN_LINE: usize = 6;

/// The verb with its parameters.
pub fn action(action: &Action) -> String {
    match action {
        Action::Lock(lock) => {
            let level = match lock.level {
                LockLevel::Screen => "screen",
                LockLevel::Session => "session",
            };
            let message = lock.message.as_deref().map(text::clean);
            let message = message.map(|m| format!(", message “{m}”")).unwrap_or_default();
            format!("lock (level {level}{message})")
        }
        Action::Quarantine(quarantine) => {
            let allowed: Vec<_> = quarantine
                .allow
                .iter()
                .map(|peer| std::net::SocketAddr::from((peer.address, peer.tcp_port)).to_string())
                .collect();
            let allowed = match allowed.as_slice() {
                [] => String::new(),
                some => format!(" (still allowed: {})", some.join(", ")),
            };
            let until = quarantine.until.map(|until| format!(" until {}", until.rfc3339()));
            format!("quarantine{}{allowed}", until.unwrap_or_default())
        }
        Action::Wipe(wipe) => {
            let level = match wipe.level {
                WipeLevel::Keys => "keys",
                WipeLevel::Data => "data",
            };
            let power = if wipe.power_off { "then power off" } else { "without power-off" };
            format!("wipe (level {level}, {power})")
        }
        Action::RunScript(run) => {
            let who = if run.as_root { "as root" } else { "as the account for scripts" };
            let words: Vec<_> =
                run.args.iter().map(|word| format!("“{}”", text::clean(word))).collect();
            let with =
                if words.is_empty() { String::new() } else { format!(" with {}", words.join(" ")) };
            format!("run script {}{with} ({who}, at most {} s)", run.sha256, run.budget_secs)
        }
        Action::CollectEvidence(collect) => {
            let more = collect.sources.as_ref().map(sources_words).unwrap_or_default();
            format!("collect evidence{more}, sealed to {}", collect.case_key)
        }
        Action::RotateCredentials(rotate) => {
            let what = match &rotate.credential {
                Credential::Volumes => "recovery keys of volumes".to_owned(),
                Credential::Account(name) => format!("password of {}", text::clean(name)),
            };
            format!("rotate {what}, escrowed for {}", rotate.recovery_key)
        }
        Action::CryptoLock(lock) => {
            format!("lock (level crypto, volumes left to {}, then power off)", lock.recovery_key)
        }
        Action::Plan(plan) => format!("plan of {}", self::action(&plan.of)),
        Action::SelectiveWipe(_) => "selective wipe (company volumes, managed files)".to_owned(),
        Action::Unlock(_)
        | Action::Release(_)
        | Action::Reboot(_)
        | Action::Refresh(_)
        | Action::Thaw(_) => action.verb().to_string(),
        Action::Cancel(cancel) => format!("cancel of order {}", cancel.order_id),
        Action::Freeze(freeze) => format!("freeze until {}", freeze.until.rfc3339()),
    }
}

/// What is collected beyond the first look: whoever approves sees all of it.
fn sources_words(sources: &Sources) -> String {
    let quoted = |what: &str, names: &[String]| {
        let names: Vec<_> = names.iter().map(|name| format!("“{}”", text::clean(name))).collect();
        (!names.is_empty()).then(|| format!("{what} {}", names.join(" ")))
    };
    let parts = [
        quoted("memory of", &sources.processes),
        sources.logs.then(|| "logs".to_owned()),
        quoted("files", &sources.paths),
    ];
    let parts: Vec<_> = parts.into_iter().flatten().collect();
    format!(" with {} (at most {} bytes)", parts.join(", "), sources.total_bytes)
}

/// How much harm a verb can do, for a person.
pub const fn class(verb: Verb) -> &'static str {
    match verb.class() {
        VerbClass::Routine => "routine",
        VerbClass::Disruptive if matches!(verb, Verb::RunScript) => {
            "disruptive, and whatever the script does"
        }
        VerbClass::Disruptive if matches!(verb, Verb::RotateCredentials) => {
            "disruptive, the former credential goes"
        }
        VerbClass::Disruptive => "disruptive, can be undone",
        VerbClass::Destructive => "DESTRUCTIVE, cannot be undone",
        VerbClass::Stop => "stops what destroys",
    }
}

/// What a device is after the verb.
pub const fn past(verb: Verb) -> &'static str {
    match verb {
        Verb::Lock => "locked",
        Verb::Unlock => "unlocked",
        Verb::Quarantine => "quarantined",
        Verb::Release => "released",
        Verb::Wipe => "wiped",
        Verb::SelectiveWipe => "wiped of company data",
        Verb::Plan => "planned",
        Verb::Reboot => "rebooted",
        Verb::RunScript => "ran the script",
        Verb::CollectEvidence => "collected evidence",
        Verb::RotateCredentials => "rotated",
        Verb::CryptoLock => "locked to its recovery key",
        Verb::Refresh => "refreshed",
        Verb::Cancel => "called back",
        Verb::Freeze => "frozen",
        Verb::Thaw => "thawed",
    }
}

/// The tone of a state.
pub const fn tone(state: CommandState) -> Tone {
    match state {
        CommandState::Succeeded => Tone::Good,
        CommandState::AwaitingApproval
        | CommandState::AwaitingWave
        | CommandState::Queued
        | CommandState::Sent
        | CommandState::Acked
        | CommandState::Running => Tone::Waiting,
        CommandState::Failed | CommandState::Refused | CommandState::InDoubt => Tone::Bad,
        CommandState::Expired | CommandState::Cancelled => Tone::Faint,
    }
}

/// The tone of a verb.
pub const fn tone_of_verb(verb: Verb) -> Tone {
    match verb.class() {
        VerbClass::Routine | VerbClass::Disruptive | VerbClass::Stop => Tone::Plain,
        VerbClass::Destructive => Tone::Bad,
    }
}

/// When a command could begin its way: when it was numbered, else when it was made.
pub fn begin(view: &CommandView) -> Timestamp {
    view.queued_at.unwrap_or(view.created_at).0
}

/// When a command came to where it stands.
pub fn reached(view: &CommandView) -> Option<Timestamp> {
    let at = match view.state {
        CommandState::AwaitingApproval | CommandState::AwaitingWave => Some(view.created_at),
        CommandState::Queued => view.queued_at,
        CommandState::Sent => view.sent_at,
        CommandState::Acked => view.acked_at,
        CommandState::Running => view.running_at,
        CommandState::Succeeded
        | CommandState::Failed
        | CommandState::Refused
        | CommandState::Expired
        | CommandState::Cancelled
        | CommandState::InDoubt => view.finished_at,
    };
    at.map(|at| at.0)
}

/// One line on a command: where it stands, and what is proven.
pub fn sentence(
    view: &CommandView,
    proof: Result<(), &ProofError>,
    online: Option<bool>,
    now: Timestamp,
) -> (Tone, String) {
    let name = text::clean(&view.device_name);
    let said = match view.state {
        CommandState::AwaitingApproval => {
            format!("awaits approval by {}", text::count(view.approvals_needed.into(), "person"))
        }
        CommandState::AwaitingWave => "waits for the first wave of its order".to_owned(),
        CommandState::Queued | CommandState::Sent => undelivered(view, online, now),
        CommandState::Acked | CommandState::Running => {
            let stage = view.stage.as_deref().map(|stage| format!(" ({})", text::clean(stage)));
            let stage = stage.unwrap_or_default();
            let grade = view.grade.map(|grade| format!("; {}", on_the_way(grade)));
            let grade = grade.unwrap_or_default();
            format!("{}{stage}: the device has the command on disk{grade}", view.state.as_str())
        }
        CommandState::Succeeded | CommandState::Failed | CommandState::Refused => {
            finished(view, proof)
        }
        CommandState::InDoubt if view.outcome.is_some() => finished(view, proof),
        CommandState::InDoubt | CommandState::Expired | CommandState::Cancelled => {
            let why = view.ended_by.as_deref().map(|why| format!(": {}", text::clean(why)));
            format!("{}{}", state_words(view.state), why.unwrap_or_default())
        }
    };
    let is_unproven = view.receipt.is_some() && proof.is_err();
    let tone = if is_unproven { Tone::Bad } else { tone(view.state) };
    (tone, format!("{name} {said}"))
}

/// A grade before the receipt: nothing here was verified on this machine.
const fn on_the_way(grade: Grade) -> &'static str {
    match grade {
        Grade::Proven | Grade::ProvenMedia => {
            "its keys are said to be destroyed, verify with `tocsin proof`"
        }
        Grade::Presumed => {
            "PRESUMED destroyed: it took the order and fell silent, nothing proves it"
        }
        Grade::Unproven | Grade::Refused => "nothing is destroyed for certain",
    }
}

/// A grade in words, with what it does not cover. Of the proven ones only what a verified signature claims.
pub fn grade_words(grade: Grade, evidence: Option<&Evidence>) -> String {
    let opens = evidence.and_then(|evidence| evidence.get("header_backup_opens"));
    let words = match grade {
        Grade::Proven if opens == Some(&Value::Bool(false)) => {
            "grade proven: keys and data destroyed, but not of everything"
        }
        Grade::Proven => {
            "grade proven: keys destroyed; an earlier header backup still opens what data is left"
        }
        Grade::ProvenMedia => "grade proven+media: keys and data destroyed",
        Grade::Presumed => "grade presumed: the device fell silent",
        Grade::Unproven => "grade UNPROVEN: what was to be destroyed may be left",
        Grade::Refused => "grade refused: nothing was destroyed",
    };
    format!("{words}{}", evidence.map(rest::words).unwrap_or_default())
}

/// What the device observed, as far as its receipt says so.
pub fn evidence_of(view: &CommandView) -> Option<&Evidence> {
    match &view.outcome {
        Some(Outcome::Succeeded { evidence } | Outcome::Failed { evidence, .. }) => Some(evidence),
        Some(Outcome::Refused { .. } | Outcome::InDoubt { .. }) | None => None,
    }
}

/// The grade of a command that ended, by its verified receipt and not by anybody's word.
pub fn grade_of(view: &CommandView) -> Option<Grade> {
    let known = Known {
        class: view.verb.class(),
        state: view.state,
        outcome: view.outcome.as_ref(),
        proved: match &view.outcome {
            Some(Outcome::Failed { evidence, .. }) => Some(evidence),
            Some(Outcome::Succeeded { .. } | Outcome::Refused { .. } | Outcome::InDoubt { .. })
            | None => None,
        },
        is_silent: false,
    };
    known.grade()
}

/// The state in words.
pub const fn state_words(state: CommandState) -> &'static str {
    match state {
        CommandState::AwaitingApproval => "awaiting approval",
        CommandState::AwaitingWave => "awaiting first wave",
        CommandState::InDoubt => "in doubt",
        CommandState::Queued
        | CommandState::Sent
        | CommandState::Acked
        | CommandState::Running
        | CommandState::Succeeded
        | CommandState::Failed
        | CommandState::Refused
        | CommandState::Expired
        | CommandState::Cancelled => state.as_str(),
    }
}

fn undelivered(view: &CommandView, online: Option<bool>, now: Timestamp) -> String {
    let until = time::clock(view.expires_at.0, now);
    match online {
        Some(false) => {
            format!("offline: queued, will be delivered at its next contact, expires {until}")
        }
        Some(true) | None => {
            format!("{}: the device has not confirmed it yet, expires {until}", view.state.as_str())
        }
    }
}

fn finished(view: &CommandView, proof: Result<(), &ProofError>) -> String {
    let said = match &view.outcome {
        Some(Outcome::Succeeded { .. }) => past(view.verb).to_owned(),
        Some(Outcome::Failed { failure, .. }) => format!(
            "failed: {}: {} (at {})",
            failure_kind(failure.kind),
            text::clean(&failure.detail),
            text::clean(&failure.stage)
        ),
        Some(Outcome::Refused { reason: RefusalReason::Cancelled, detail }) => {
            format!("not {}: {}", past(view.verb), text::clean(detail))
        }
        Some(Outcome::Refused { reason, detail }) => {
            format!("refused: {}: {}", reason.as_str(), text::clean(detail))
        }
        Some(Outcome::InDoubt { stage }) => {
            format!("in doubt: the last known stage is {}", text::clean(stage))
        }
        None => view.state.as_str().to_owned(),
    };
    let took = view.finished_at.map(|at| time::duration(at.0.since(begin(view))));
    let took = took.map(|took| format!(" {took}")).unwrap_or_default();
    format!("{said}: {}{took}", receipt_words(view, proof))
}

fn receipt_words(view: &CommandView, proof: Result<(), &ProofError>) -> String {
    let Some(jws) = &view.receipt else { return "NOT PROVEN: there is no receipt".to_owned() };
    if let Err(error) = proof {
        return format!("NOT PROVEN: {error}");
    }
    let found = evidence_of(view);
    let evidence = found.map(evidence_words).unwrap_or_default();
    let grade = grade_of(view).map(|grade| format!("; {}", grade_words(grade, found)));
    let grade = grade.unwrap_or_default();
    format!("proven by receipt {}{evidence}{grade}", receipt_name(jws))
}

/// The name of a receipt, short.
pub fn receipt_name(jws: &CompactJws) -> String {
    text::short(&jws.sha256())
}

fn evidence_words(evidence: &Evidence) -> String {
    // The grade and what it does not cover have words of their own.
    let words = evidence.iter().filter(|(name, _)| *name != GRADE && !rest::NAMES.contains(name));
    let words: Vec<_> = words.filter_map(|(name, value)| Some((name, scalar(value)?))).collect();
    if words.is_empty() {
        return String::new();
    }
    let shown = words
        .iter()
        .take(EVIDENCE_IN_LINE)
        .map(|(name, value)| format!("{} {value}", text::clean_to(name, 40).replace('_', " ")));
    let mut shown: Vec<_> = shown.collect();
    if words.len() > EVIDENCE_IN_LINE {
        shown.push("…".to_owned());
    }
    format!(" ({})", shown.join(", "))
}

/// A value that fits in a line.
fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::Bool(is_true) => Some(if *is_true { "yes" } else { "no" }.to_owned()),
        Value::Number(number) => Some(number.to_string()),
        Value::String(words) => Some(text::clean_to(words, 40)),
        Value::Array(items) => Some(items.len().to_string()),
        Value::Object(_) => None,
    }
}

/// The kind of a failure in words.
pub const fn failure_kind(kind: FailureKind) -> &'static str {
    match kind {
        FailureKind::Precondition => "precondition",
        FailureKind::Permission => "permission",
        FailureKind::Io => "input or output",
        FailureKind::Tool => "tool",
        FailureKind::Timeout => "timeout",
        FailureKind::NotProven => "not proven",
        FailureKind::Internal => "internal",
    }
}
