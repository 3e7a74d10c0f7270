//! Two incarnations of one hub and the lease of its name, with a broker that counts the time.
//!
//! Stands for `Broker::renew_lease` and `push-hub/src/link.rs`: an incarnation that is paused beyond
//! its lease wakes up and renews as if nothing had happened.

use stateright::{Checker as _, Model, Property};

/// Ticks of one lease, and ticks that are looked at.
const LEASE: u8 = 2;
const HORIZON: u8 = 6;

/// The rule of the broker, and whether it compares the holder.
#[derive(Debug, Clone, Copy)]
struct Lease {
    compares: bool,
}

/// What an incarnation was last granted, and whether it may act.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
struct Incarnation {
    granted_until: u8,
    is_fenced: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    clock: u8,
    /// Whose lease it is, until when.
    held: Option<(usize, u8)>,
    incarnations: [Incarnation; 2],
    has_worked: [bool; 2],
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Action {
    Tick,
    Renew(usize),
    Release(usize),
}

impl Model for Lease {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let incarnations = [Incarnation::default(); 2];
        vec![State { clock: 0, held: None, incarnations, has_worked: [false; 2] }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.clock < HORIZON {
            actions.push(Action::Tick);
        }
        // That an incarnation does nothing for a while is a run without its renewals.
        actions.extend((0..2).flat_map(|who| [Action::Renew(who), Action::Release(who)]));
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        match action {
            Action::Tick => next.clock += 1,
            Action::Renew(who) => {
                let holder = state.held.filter(|(_, until)| *until > state.clock);
                let is_others = holder.is_some_and(|(holder, _)| holder != who);
                next.incarnations[who].is_fenced = is_others && self.compares;
                if !next.incarnations[who].is_fenced {
                    let until = state.clock + LEASE;
                    next.held = Some((who, until));
                    next.incarnations[who].granted_until = until;
                    next.has_worked[who] = true;
                }
            }
            Action::Release(who) => {
                if state.held.is_none_or(|(holder, _)| holder != who) {
                    return None;
                }
                next.held = None;
                next.incarnations[who].granted_until = 0;
            }
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::<Self>::always("one holder", |_, state| {
                let holds = |one: &&Incarnation| one.granted_until > state.clock;
                state.incarnations.iter().filter(holds).count() <= 1
            }),
            Property::<Self>::always("who is fenced holds nothing", |_, state| {
                let torn = |one: &Incarnation| one.is_fenced && one.granted_until > state.clock;
                !state.incarnations.iter().any(torn)
            }),
            Property::<Self>::sometimes("the second takes over", |_, state| {
                state.has_worked == [true, true]
            }),
        ]
    }
}

#[test]
fn a_lease_never_has_two_holders() {
    let checker = Lease { compares: true }.checker().spawn_bfs().join();
    checker.assert_properties();
    println!("{} states", checker.unique_state_count());
}

#[test]
fn a_lease_without_compare_is_refuted() {
    let checker = Lease { compares: false }.checker().spawn_bfs().join();
    assert!(checker.discovery("one holder").is_some());
}
