//! One command with an effect that cannot be taken back, and the journal around it: a power cut
//! may come between any two steps, and of what was not synced any part may be left.

use stateright::{Checker as _, Model, Property};

/// Power cuts that are looked at.
const CUTS: u8 = 3;

/// How the agent keeps its journal.
#[derive(Debug, Clone, Copy)]
struct Journal {
    /// An intent stands on disk before the effect.
    has_intent: bool,
    /// What is written is synced before anything follows from it.
    syncs: bool,
    /// Whether it happened can be found out afterwards.
    is_probeable: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Record {
    Intent,
    Done,
    InDoubt,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Step {
    Recover,
    Write(Record),
    Sync(Record),
    Effect,
    Report(Record),
    End,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    step: Step,
    written: Vec<Record>,
    /// How many of the records a power cut leaves for sure.
    synced: usize,
    effects: u8,
    /// The outcomes that were ever reported.
    reported: Vec<Record>,
    cuts: u8,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Action {
    Go,
    /// The power is cut, and so many records are left.
    Cut(usize),
}

impl Journal {
    /// What follows from the records that a start finds.
    fn recover(&self, state: &State) -> Step {
        let last = state.written.iter().max();
        match last {
            Some(outcome @ (Record::Done | Record::InDoubt)) => Step::Report(*outcome),
            Some(Record::Intent) if !self.is_probeable => Step::Write(Record::InDoubt),
            Some(Record::Intent) if state.effects > 0 => Step::Write(Record::Done),
            Some(Record::Intent) => Step::Effect,
            None if self.has_intent => Step::Write(Record::Intent),
            None => Step::Effect,
        }
    }
}

impl Model for Journal {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            step: Step::Recover,
            written: Vec::new(),
            synced: 0,
            effects: 0,
            reported: Vec::new(),
            cuts: 0,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.step != Step::End {
            actions.push(Action::Go);
        }
        if state.cuts < CUTS {
            actions.extend((state.synced..=state.written.len()).map(Action::Cut));
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        match (action, state.step) {
            (Action::Cut(left), _) => {
                next.written.truncate(left);
                (next.synced, next.step) = (left, Step::Recover);
                next.cuts += 1;
            }
            (Action::Go, Step::Recover) => next.step = self.recover(state),
            (Action::Go, Step::Write(record)) => {
                next.written.push(record);
                next.step = Step::Sync(record);
            }
            (Action::Go, Step::Sync(record)) => {
                if self.syncs {
                    next.synced = next.written.len();
                }
                next.step = match record {
                    Record::Intent => Step::Effect,
                    Record::Done | Record::InDoubt => Step::Report(record),
                };
            }
            (Action::Go, Step::Effect) => {
                next.effects += 1;
                next.step = Step::Write(Record::Done);
            }
            (Action::Go, Step::Report(record)) => {
                if !next.reported.contains(&record) {
                    next.reported.push(record);
                }
                next.step = Step::End;
            }
            (Action::Go, Step::End) => return None,
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::<Self>::always("at most one effect", |_, state| state.effects <= 1),
            Property::<Self>::always("one outcome", |_, state| state.reported.len() <= 1),
            Property::<Self>::always("done means done", |_, state| {
                !state.reported.contains(&Record::Done) || state.effects > 0
            }),
            Property::<Self>::eventually("it ends", |_, state| !state.reported.is_empty()),
            Property::<Self>::sometimes("it succeeds", |_, state| {
                state.reported.contains(&Record::Done)
            }),
        ]
    }
}

#[test]
fn an_effect_happens_at_most_once_whenever_the_power_is_cut() {
    for is_probeable in [true, false] {
        let model = Journal { has_intent: true, syncs: true, is_probeable };
        model.checker().spawn_bfs().join().assert_properties();
    }
}

#[test]
fn one_record_without_intent_is_refuted() {
    let model = Journal { has_intent: false, syncs: true, is_probeable: false };
    let checker = model.checker().spawn_bfs().join();
    assert!(checker.discovery("at most one effect").is_some());
}

#[test]
fn a_journal_that_does_not_sync_is_refuted() {
    let model = Journal { has_intent: true, syncs: false, is_probeable: false };
    let checker = model.checker().spawn_bfs().join();
    assert!(checker.discovery("at most one effect").is_some());
    assert!(checker.discovery("one outcome").is_some());
}
