//! `tocsin watch`: what happens, as it happens.
//!
//! Owns following a stream across lost connections: it comes back after the last event it saw, so
//! that nothing is shown twice and nothing is missed.

use std::time::Duration;

use api::commands::wire::{CommandView, HowFar};
use api::events::EventView;
use clap::Args;
use indicatif::ProgressBar;
use protocol::id::CommandId;
use protocol::receipt::Outcome;
use runtime::Backoff;

use super::{Context, Exit, Failure, proof};
use crate::client::{Client, ClientError, sse};
use crate::output::advance::{self, Landmark};
use crate::output::said::Shown;
use crate::output::{Out, Tone, outcome, text};

const BACKOFF_BASE: Duration = Duration::from_millis(250);
const BACKOFF_CAP: Duration = Duration::from_secs(15);
/// Particulars in one line at most, in characters.
const PARTICULARS: usize = 120;

/// How often the line on a terminal moves.
const TICK: Duration = Duration::from_millis(100);
/// The kind of message that tells how far a command is.
const ADVANCE: &str = "advance";

/// Arguments of `tocsin watch`.
#[derive(Debug, Args)]
pub struct WatchArgs {
    /// One command, to its end; without it everything, until Ctrl-C
    pub command: Option<CommandId>,
}

/// Follows events.
pub async fn run(context: &Context, args: WatchArgs) -> Result<Exit, Failure> {
    let client = context.client()?;
    let path = match args.command {
        Some(id) => {
            // Known before the stream is opened: an unknown one is an error and no silence.
            let view: CommandView = client.get(&format!("/v1/commands/{id}")).await?;
            context.out.note(&format!("{} on {}", view.verb, text::clean(&view.device_name)));
            format!("/v1/commands/{id}/stream?advance=true")
        }
        None => "/v1/stream".to_owned(),
    };
    let screen = Screen::new(context.out);
    let mut follower = Follower { client: &client, path, after: None, screen };
    let interrupt = tokio::signal::ctrl_c();
    tokio::pin!(interrupt);
    let outcome = tokio::select! {
        biased;
        _ = &mut interrupt => Ok(false),
        outcome = follower.follow(context, args.command) => outcome.map(|()| true),
    };
    let said = std::mem::take(&mut follower.screen.said);
    drop(follower);
    match (args.command, outcome?) {
        (Some(id), true) => ended(context, (&client, id), said).await,
        (Some(id), false) => {
            context.out.note(&format!("the command goes on; withdraw it: tocsin cancel {id}"));
            Ok(Exit::Pending)
        }
        (None, _) => Ok(Exit::Success),
    }
}

async fn ended(
    context: &Context,
    (client, id): (&Client, CommandId),
    mut said: Shown,
) -> Result<Exit, Failure> {
    let found = proof::fetch(client, id).await?;
    let judged = found.verify();
    let command = &found.command;
    let (tone, sentence) =
        outcome::sentence(command, judged.as_ref().map(|_| ()), None, context.now());
    context.out.line(&context.out.paint(tone, &sentence));
    if let Ok(Outcome::Succeeded { evidence } | Outcome::Failed { evidence, .. }) =
        judged.as_ref().map(|receipt| &receipt.outcome)
    {
        said.rest(evidence).iter().for_each(|line| context.out.line(line));
    }
    let is_forged = command.receipt.is_some() && judged.is_err();
    Ok(if is_forged { Exit::Failed } else { Exit::of_state(command.state) })
}

struct Follower<'a> {
    client: &'a Client,
    path: String,
    after: Option<String>,
    screen: Screen,
}

impl Follower<'_> {
    /// Shows events until the command ended; for ever without one.
    async fn follow(
        &mut self,
        context: &Context,
        command: Option<CommandId>,
    ) -> Result<(), Failure> {
        let mut backoff = Backoff::new(BACKOFF_BASE, BACKOFF_CAP);
        loop {
            match self.once(context, command, &mut backoff).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) if error.is_transient() => {
                    context.out.note(&format!("connection lost, trying again: {error}"));
                }
                Err(error) => return Err(error.into()),
            }
            tokio::time::sleep(backoff.next(context.entropy.next_u64())).await;
        }
    }

    /// One connection; `true` when the command ended.
    async fn once(
        &mut self,
        context: &Context,
        command: Option<CommandId>,
        backoff: &mut Backoff,
    ) -> Result<bool, ClientError> {
        let mut stream = self.client.stream(&self.path, self.after.as_deref()).await?;
        while let Some(message) = stream.next().await? {
            backoff.reset();
            if message.id.is_some() {
                self.after.clone_from(&message.id);
            }
            self.screen.show(context, &message);
            if command.is_some() && is_end(&message.event) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Whether an event of that kind ends a command.
fn is_end(kind: &str) -> bool {
    use api::audit::Kind;
    let ends =
        [Kind::CommandFinished, Kind::CommandExpired, Kind::CommandCancelled, Kind::CommandInDoubt];
    ends.iter().any(|end| end.as_str() == kind)
}

fn show_event(context: &Context, message: &sse::Message) {
    let out = context.out;
    let Ok(event) = serde_json::from_str::<EventView>(&message.data) else {
        out.note("an event could not be read; is this the same version as the control plane?");
        return;
    };
    out.object_line(&event);
    let hour = event.at.to_string();
    let hour = hour.split_once('T').map_or(hour.as_str(), |(_, hour)| hour);
    let what = out.paint(Tone::Strong, &text::clean(&event.kind.replace('_', " ")));
    let particulars = serde_json::to_string(&event.payload).unwrap_or_default();
    let particulars = text::clean_to(&particulars, PARTICULARS);
    out.line(&format!(
        "{hour}  {what}  {}  by {}  {}",
        text::clean(&event.subject),
        text::clean(&event.actor),
        out.paint(Tone::Faint, &particulars)
    ));
}

/// How far the command is: a line that moves on a terminal, plain lines elsewhere, objects for
/// programs. Its events go above the line, and what its script says.
#[derive(Debug)]
struct Screen {
    out: Out,
    bar: Option<ProgressBar>,
    shown: Option<HowFar>,
    said: Shown,
}

impl Drop for Screen {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Screen {
    fn new(out: Out) -> Self {
        Self { out, bar: None, shown: None, said: Shown::default() }
    }

    fn show(&mut self, context: &Context, message: &sse::Message) {
        if message.event == ADVANCE && message.id.is_none() {
            return self.advance(message);
        }
        match &self.bar {
            Some(bar) => bar.suspend(|| show_event(context, message)),
            None => show_event(context, message),
        }
    }

    fn advance(&mut self, message: &sse::Message) {
        let Ok(how_far) = serde_json::from_str::<HowFar>(&message.data) else { return };
        self.out.object_line(&how_far);
        if let Some(output) = how_far.advance.as_ref().and_then(|advance| advance.output.as_ref()) {
            let lines = self.said.add(output);
            let say = || lines.iter().for_each(|line| self.out.line(&format!("  {line}")));
            match &self.bar {
                Some(bar) => bar.suspend(say),
                None => say(),
            }
        }
        let line = how_far_line(&how_far);
        if self.out.is_live() {
            let bar = self.bar.get_or_insert_with(|| {
                let bar = ProgressBar::new_spinner();
                bar.enable_steady_tick(TICK);
                bar
            });
            bar.set_message(line);
        } else if is_worth_a_line(self.shown.as_ref(), &how_far) {
            self.out.line(&format!("  {line}"));
            self.shown = Some(how_far);
        }
    }
}

fn how_far_line(how_far: &HowFar) -> String {
    let stage = text::clean_to(how_far.stage.as_deref().unwrap_or("running"), 60);
    match &how_far.advance {
        Some(advance) => format!("{stage}: {}", advance::words(advance)),
        None => stage,
    }
}

/// Whether it is far enough from what was shown last. A stage that only begins has an event.
fn is_worth_a_line(shown: Option<&HowFar>, how_far: &HowFar) -> bool {
    let landmark = |how_far: &HowFar| how_far.advance.as_ref().map(Landmark::of);
    let now = landmark(how_far);
    let is_same = |shown: &HowFar| shown.stage == how_far.stage && landmark(shown) == now;
    now.is_some() && !shown.is_some_and(is_same)
}
