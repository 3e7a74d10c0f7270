//! One device that moves between two hubs, and the entry that says where it is.
//!
//! Stands for `arrive`, `depart` and `restore` of the broker: a hub may rest between registering
//! a session and writing its arrival, for longer than the device needs to open the next one.

use stateright::{Checker as _, Model, Property};

/// Sessions that the device opens.
const SESSIONS: u8 = 4;

/// What the broker compares.
#[derive(Debug, Clone, Copy)]
struct Presence {
    /// An arrival replaces only an entry of an older session.
    compares_epoch: bool,
    /// A departure removes only the entry of its own session.
    compares_session: bool,
}

/// A hub, with what it has not told the broker yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
struct Hub {
    session: Option<u8>,
    arriving: Option<u8>,
    departing: Option<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    hubs: [Hub; 2],
    /// The entry: hub and epoch of the session.
    entry: Option<(usize, u8)>,
    /// Where the device's newest session is, and its epoch.
    newest: Option<(usize, u8)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Action {
    /// The device opens its next session on that hub.
    Open(usize),
    /// The hub writes an arrival.
    Arrive(usize),
    /// The hub notices that its older session ended.
    Notice(usize),
    /// The hub writes a departure.
    Depart(usize),
}

impl State {
    /// Whether every hub has told everything.
    fn is_told(&self) -> bool {
        self.hubs.iter().all(|hub| hub.arriving.is_none() && hub.departing.is_none())
    }
}

impl Model for Presence {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State { hubs: [Hub::default(); 2], entry: None, newest: None }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for at in 0..2 {
            let hub = state.hubs[at];
            if state.newest.is_none_or(|(_, epoch)| epoch < SESSIONS) && hub.arriving.is_none() {
                actions.push(Action::Open(at));
            }
            if hub.arriving.is_some() {
                actions.push(Action::Arrive(at));
            }
            let is_over = hub.session.is_some_and(|s| state.newest != Some((at, s)));
            if is_over && hub.departing.is_none() {
                actions.push(Action::Notice(at));
            }
            // One lane: a departure is told after the arrival before it.
            if hub.departing.is_some() && hub.arriving.is_none() {
                actions.push(Action::Depart(at));
            }
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        match action {
            Action::Open(at) => {
                let epoch = state.newest.map_or(1, |(_, epoch)| epoch + 1);
                next.newest = Some((at, epoch));
                next.hubs[at].session = Some(epoch);
                next.hubs[at].arriving = Some(epoch);
            }
            Action::Arrive(at) => {
                let epoch = next.hubs[at].arriving.take()?;
                let is_older = state.entry.is_some_and(|(_, there)| there > epoch);
                if !(is_older && self.compares_epoch) {
                    next.entry = Some((at, epoch));
                }
            }
            Action::Notice(at) => {
                next.hubs[at].departing = next.hubs[at].session.take();
            }
            Action::Depart(at) => {
                let epoch = next.hubs[at].departing.take()?;
                if !self.compares_session || state.entry == Some((at, epoch)) {
                    next.entry = None;
                }
            }
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::<Self>::always("once told, the entry is the newest session", |_, state| {
                !state.is_told() || state.entry == state.newest
            }),
            Property::<Self>::sometimes("the device has moved", |_, state| {
                state.is_told() && state.newest.is_some_and(|(_, epoch)| epoch == SESSIONS)
            }),
        ]
    }
}

#[test]
fn the_newest_session_wins_however_late_hubs_tell() {
    let model = Presence { compares_epoch: true, compares_session: true };
    model.checker().spawn_bfs().join().assert_properties();
}

#[test]
fn arrivals_without_compare_are_refuted() {
    let model = Presence { compares_epoch: false, compares_session: true };
    let checker = model.checker().spawn_bfs().join();
    assert!(checker.discovery("once told, the entry is the newest session").is_some());
}

#[test]
fn departures_without_compare_are_refuted() {
    let model = Presence { compares_epoch: true, compares_session: false };
    let checker = model.checker().spawn_bfs().join();
    assert!(checker.discovery("once told, the entry is the newest session").is_some());
}
