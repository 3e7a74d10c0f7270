//! Progress of an order: a line per device that moves on a terminal, plain lines elsewhere, nothing
//! beside JSON.

use std::collections::BTreeMap;
use std::time::Duration;

use api::commands::wire::CommandView;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use protocol::id::CommandId;
use protocol::state::CommandState;
use protocol::time::Timestamp;

use crate::output::advance::{self, Landmark};
use crate::output::{Out, outcome, text, time};

/// Spinners on one screen; more commands are counted instead.
const SPINNERS: usize = 20;
const TICK: Duration = Duration::from_millis(100);

/// What is on the screen.
#[derive(Debug)]
pub(super) struct Progress {
    out: Out,
    screen: Option<MultiProgress>,
    bars: BTreeMap<CommandId, ProgressBar>,
    total: Option<ProgressBar>,
    shown: BTreeMap<CommandId, Shown>,
}

/// What of a command is worth a line of its own.
type Shown = (CommandState, Option<String>, Option<Landmark>);

impl Progress {
    pub(super) fn new(out: Out) -> Self {
        Self {
            out,
            screen: out.is_live().then(MultiProgress::new),
            bars: BTreeMap::new(),
            total: None,
            shown: BTreeMap::new(),
        }
    }

    /// Shows where the commands stand.
    pub(super) fn show(&mut self, views: &[CommandView], now: Timestamp) {
        if self.screen.is_some() {
            self.move_screen(views, now);
        } else if !self.out.is_json() {
            self.print_changes(views, now);
        }
    }

    /// Says lines beside where the commands stand.
    pub(super) fn say(&self, lines: &[String]) {
        let say = || lines.iter().for_each(|line| self.out.note(line));
        match &self.screen {
            Some(screen) => screen.suspend(say),
            None if self.out.is_json() => {}
            None => say(),
        }
    }

    /// Takes everything off the screen.
    pub(super) fn close(&mut self) {
        if let Some(screen) = self.screen.take() {
            drop(screen.clear());
        }
    }

    fn print_changes(&mut self, views: &[CommandView], now: Timestamp) {
        for view in views {
            let worth = worth(view);
            if self.shown.get(&view.id) != Some(&worth) {
                self.shown.insert(view.id, worth);
                self.out.note(&line(view, now));
            }
        }
    }

    fn move_screen(&mut self, views: &[CommandView], now: Timestamp) {
        let Some(screen) = &self.screen else { return };
        if views.len() > SPINNERS {
            let bar = self.total.get_or_insert_with(|| screen.add(spinner()));
            bar.set_message(counts(views));
            return;
        }
        for view in views {
            let bar = self.bars.entry(view.id).or_insert_with(|| screen.add(spinner()));
            bar.set_message(line(view, now));
            if view.state.is_terminal() && !bar.is_finished() {
                bar.finish();
            }
        }
    }
}

fn worth(view: &CommandView) -> Shown {
    let landmark = view.advance.as_ref().map(Landmark::of);
    (view.state, stage(view).map(str::to_owned), landmark)
}

/// The stage that it is at, as long as it runs.
fn stage(view: &CommandView) -> Option<&str> {
    view.stage.as_deref().filter(|_| view.state == CommandState::Running)
}

fn spinner() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(TICK);
    bar
}

/// One command: where it stands, and since how long after it was queued.
fn line(view: &CommandView, now: Timestamp) -> String {
    let at = outcome::reached(view).unwrap_or(now);
    let took = time::duration(at.since(outcome::begin(view)));
    let advance = view.advance.as_ref().map(|advance| format!(": {}", advance::words(advance)));
    let advance = advance.unwrap_or_default();
    let stage = stage(view).map(|stage| format!(" ({}{advance})", text::clean_to(stage, 60)));
    let stage = stage.unwrap_or_default();
    let name = text::clean_to(&view.device_name, 40);
    format!("{name}  {}{stage}  +{took}", outcome::state_words(view.state))
}

fn counts(views: &[CommandView]) -> String {
    let counted: Vec<_> = CommandState::ALL
        .into_iter()
        .map(|state| (state, views.iter().filter(|view| view.state == state).count()))
        .filter(|(_, count)| *count > 0)
        .map(|(state, count)| format!("{count} {}", outcome::state_words(state)))
        .collect();
    format!("{}: {}", text::count(views.len(), "device"), counted.join(", "))
}
