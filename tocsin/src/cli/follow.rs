//! Following an order until it ended everywhere, or until nobody wants to wait any more.
//!
//! Owns the waiting. What is shown is read from the control plane whenever a stream says that
//! something happened, and by period in any case: a lost stream costs a moment, never the truth.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use api::commands::wire::{CommandView, HowFar, OrderView, WaveState};
use protocol::advance::Output;
use protocol::frame::UNDO_WINDOW_STAGE;
use protocol::id::{CommandId, DeviceId, OrderId};
use protocol::receipt::Outcome;
use protocol::state::CommandState;
use serde_json::json;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

use self::progress::Progress;
use super::{Context, Exit, Failure, proof};
use crate::client::{Client, sse};
use crate::output::said::Shown;
use crate::output::{Tone, outcome, text};

mod progress;

/// Streams that are opened at most; more commands than that are looked at by period.
const STREAMS: usize = 8;
/// What scripts have said that may wait to be shown.
const WORDS: usize = 64;
/// How often is looked without being told.
const PERIOD: Duration = Duration::from_millis(500);
/// Commands of which one more look per period costs another period.
const COMMANDS_PER_PERIOD: usize = 500;

/// What is waited for.
#[derive(Debug, Clone)]
pub struct Waiting {
    /// The order.
    pub order: OrderId,
    /// Which devices had a session when it was given. Others are not waited for.
    pub online: BTreeMap<DeviceId, bool>,
    /// Devices whose answer changes nothing while they are away.
    pub spared: BTreeSet<DeviceId>,
    /// How long.
    pub timeout: Duration,
}

/// Why the waiting ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Every command ended, or waits for somebody else.
    Settled,
    /// The rest is for devices that are not there.
    OthersOffline,
    /// The rest waits on its devices, and can be called back.
    Held,
    /// The rest waits for somebody, because a device of the first wave did not succeed.
    Stopped,
    /// It took too long.
    TimedOut,
    /// Ctrl-C.
    Interrupted,
}

/// Waits, and says what was proven.
pub async fn to_the_end(
    context: &Context,
    client: &Client,
    waiting: Waiting,
) -> Result<Exit, Failure> {
    let mut words = Words::default();
    let (end, views) = wait(context, client, &waiting, &mut words).await?;
    let proven = proof::judge_all(client, &views).await;
    let out = context.out;
    if out.is_json() {
        let order: serde_json::Value = client.get(&format!("/v1/orders/{}", waiting.order)).await?;
        out.object(&json!({ "order": order, "commands": views }));
    }
    for (view, proof) in views.iter().zip(&proven) {
        let online = waiting.online.get(&view.device_id).copied();
        let (tone, sentence) =
            outcome::sentence(view, proof.as_ref().map(|_| ()), online, context.now());
        out.line(&out.paint(tone, &sentence));
        if let Ok(receipt) = proof {
            words.rest(view, &receipt.outcome).iter().for_each(|line| out.line(line));
        }
    }
    say_end(context, end, &waiting, &views);
    let is_forged = views.iter().zip(&proven).any(|(v, p)| v.receipt.is_some() && p.is_err());
    let is_spared = |view: &&CommandView| {
        view.state.is_undelivered() && waiting.spared.contains(&view.device_id)
    };
    let exit = Exit::of_states(views.iter().filter(|v| !is_spared(v)).map(|view| view.state));
    Ok(if is_forged { Exit::Failed } else { exit })
}

fn say_end(context: &Context, end: End, waiting: &Waiting, views: &[CommandView]) {
    let out = context.out;
    let why = match end {
        End::Settled => return,
        End::OthersOffline => "not waiting for devices that are offline",
        End::Held => "not waiting for the end of an undo window",
        End::Stopped => "the first wave did not succeed, and the others wait",
        End::TimedOut => "stopped waiting",
        End::Interrupted => "interrupted",
    };
    if end == End::Stopped {
        out.note(&out.paint_note(Tone::Bad, why));
        out.note(&format!("  go on:       tocsin continue {} --reason TEXT", waiting.order));
        out.note(&format!("  withdraw it: tocsin cancel {}", waiting.order));
        return;
    }
    out.note(&out.paint_note(Tone::Waiting, &format!("{why}; the order goes on")));
    match views {
        [only] => out.note(&format!("  follow it:   tocsin watch {}", only.id)),
        _ => out.note(&format!("  follow it:   tocsin commands --order {}", waiting.order)),
    }
    out.note(&format!("  withdraw it: tocsin cancel {}", waiting.order));
}

/// What scripts said, as far as it was shown. Of the commands that are listened to.
#[derive(Debug, Default)]
struct Words(BTreeMap<CommandId, Shown>);

impl Words {
    /// The lines that are new of one command; where there are several, they say whose.
    fn add(&mut self, views: &[CommandView], (command, said): &(CommandId, Output)) -> Vec<String> {
        let lines = self.0.entry(*command).or_default().add(said);
        let view = views.iter().find(|view| view.id == *command).filter(|_| views.len() > 1);
        named(lines, view)
    }

    /// What its receipt says of its output, where that was not shown.
    fn rest(&mut self, view: &CommandView, said: &Outcome) -> Vec<String> {
        match (self.0.get_mut(&view.id), said) {
            (Some(shown), Outcome::Succeeded { evidence } | Outcome::Failed { evidence, .. }) => {
                shown.rest(evidence)
            }
            (Some(_), Outcome::Refused { .. } | Outcome::InDoubt { .. }) | (None, _) => Vec::new(),
        }
    }
}

fn named(lines: Vec<String>, view: Option<&CommandView>) -> Vec<String> {
    let Some(view) = view else { return lines };
    let name = text::clean_to(&view.device_name, 40);
    lines.into_iter().map(|line| format!("{name} {line}")).collect()
}

async fn wait(
    context: &Context,
    client: &Client,
    waiting: &Waiting,
    words: &mut Words,
) -> Result<(End, Vec<CommandView>), Failure> {
    let query = [("order", waiting.order.to_string())];
    let mut progress = Progress::new(context.out);
    let (signal, (said, mut heard)) = (Arc::new(Notify::new()), mpsc::channel(WORDS));
    let mut streams = JoinSet::new();
    let deadline = tokio::time::sleep(waiting.timeout);
    let interrupt = tokio::signal::ctrl_c();
    tokio::pin!(deadline, interrupt);
    loop {
        let views: Vec<CommandView> = client.all("/v1/commands", &query, None).await?;
        progress.show(&views, context.now());
        if let Some(end) = ended(client, &views, waiting).await? {
            progress.close();
            return Ok((end, views));
        }
        if streams.is_empty() {
            words.0.extend(listened(&views).map(|view| (view.id, Shown::default())));
            listen(&mut streams, client, &views, (&signal, &said));
        }
        let many = u32::try_from(views.len() / COMMANDS_PER_PERIOD + 1).unwrap_or(u32::MAX);
        let end = tokio::select! {
            biased;
            _ = &mut interrupt => End::Interrupted,
            () = &mut deadline => End::TimedOut,
            Some(news) = heard.recv() => {
                progress.say(&words.add(&views, &news));
                continue;
            }
            () = signal.notified() => continue,
            () = tokio::time::sleep(PERIOD.saturating_mul(many)) => continue,
        };
        progress.close();
        return Ok((end, views));
    }
}

/// Why there is nothing left to wait for, if so. Devices behind a first wave follow as soon as that
/// is over, unless it stopped.
async fn ended(
    client: &Client,
    views: &[CommandView],
    waiting: &Waiting,
) -> Result<Option<End>, Failure> {
    let end = settled(views, waiting);
    let are_behind = views.iter().any(|view| view.state == CommandState::AwaitingWave);
    if end.is_none() || !are_behind {
        return Ok(end);
    }
    let order: OrderView = client.get(&format!("/v1/orders/{}", waiting.order)).await?;
    if order.first_wave.is_some_and(|wave| wave.state == WaveState::Stopped) {
        return Ok(Some(End::Stopped));
    }
    Ok(end.filter(|end| *end != End::Settled))
}

/// Whether there is nothing left to wait for, but for what waits for others.
fn settled(views: &[CommandView], waiting: &Waiting) -> Option<End> {
    let mut end = End::Settled;
    for view in views {
        let waits_for_others =
            matches!(view.state, CommandState::AwaitingApproval | CommandState::AwaitingWave);
        if view.state.is_terminal() || waits_for_others {
            continue;
        }
        let is_away = waiting.online.get(&view.device_id) == Some(&false);
        end = if view.stage.as_ref().is_some_and(|stage| stage.starts_with(UNDO_WINDOW_STAGE)) {
            End::Held
        } else if is_away && view.state.is_undelivered() {
            End::OthersOffline
        } else {
            return None;
        };
    }
    Some(end)
}

/// The commands that are listened to.
fn listened(views: &[CommandView]) -> impl Iterator<Item = &CommandView> {
    views.iter().filter(|view| !view.state.is_terminal()).take(STREAMS)
}

/// Has a signal given whenever something happens to one of the first commands, and what its script says
/// handed on.
fn listen(
    streams: &mut JoinSet<()>,
    client: &Client,
    views: &[CommandView],
    (signal, said): (&Arc<Notify>, &mpsc::Sender<(CommandId, Output)>),
) {
    for view in listened(views) {
        streams.spawn(forward(client.clone(), view.id, Arc::clone(signal), said.clone()));
    }
}

async fn forward(
    client: Client,
    command: CommandId,
    signal: Arc<Notify>,
    said: mpsc::Sender<(CommandId, Output)>,
) {
    let path = format!("/v1/commands/{command}/stream?advance=true");
    loop {
        // Without a stream the period alone has to do, and at the end the receipt says what was not shown.
        if let Ok(mut stream) = client.stream(&path, None).await {
            while let Ok(Some(message)) = stream.next().await {
                signal.notify_one();
                if let Some(output) = output(&message)
                    && said.send((command, output)).await.is_err()
                {
                    return;
                }
            }
        }
        tokio::time::sleep(PERIOD).await;
    }
}

/// What a script says, if that is what a message tells.
fn output(message: &sse::Message) -> Option<Output> {
    let is_advance = message.event == "advance" && message.id.is_none();
    let how_far: HowFar = serde_json::from_str(&message.data).ok().filter(|_| is_advance)?;
    how_far.advance?.output
}
