//! One session of a simulated device: opening it, and driving the protocol's machine over it.
//!
//! Owns the socket and takes the moments that are measured. Decides nothing about commands: the
//! device does.

use std::pin::Pin;
use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use protocol::close::CloseCode;
use protocol::frame::{AgentFrame, HubFrame, Mode};
use protocol::id::CommandId;
use protocol::limits;
use protocol::session::Output;
use protocol::time::Timestamp;
use runtime::Clock;
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode as WireCode;
use tokio_tungstenite::tungstenite::{self, Message};

use super::Shared;
use super::check_in::{self, CheckInError};
use super::device::Device;
use super::inbox::{self, Asked};
use super::opening::{AttemptError, Line, WebSocket, code, open};
use crate::http::Peer;
use crate::tally::Stage;

/// How long a receipt waits for its confirmation before it is sent again.
const RESEND: Duration = Duration::from_secs(5);
/// The shortest time between two `sync` frames.
const SYNC_PAUSE: Duration = Duration::from_secs(1);
/// The longest that a hub may put a reconnect off.
const RECONNECT_MAX: Duration = Duration::from_secs(60);
/// The pause before the next try, when the hub to move to did not open.
const MOVE_AGAIN: Duration = Duration::from_secs(1);
/// How long a close frame may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// The swarm stops.
    Stopped,
    /// The swarm cut its sockets, to see the storm.
    Cut,
    /// By that code of whichever side; `None`: the connection was lost.
    Closed(Option<CloseCode>),
}

/// The connection that is to replace the one in use.
type Opening<'a> = Pin<Box<dyn Future<Output = Result<Line, AttemptError>> + Send + 'a>>;

/// A check-in that is under way, and the frames that it carries.
type Checking = Pin<Box<dyn Future<Output = (Vec<AgentFrame>, Checked)> + Send>>;
type Checked = Result<Vec<HubFrame>, CheckInError>;

/// A session that stands.
pub(super) struct Session<'a> {
    line: Line,
    device: &'a mut Device,
    shared: &'a Shared,
    /// Acks that were fed and not yet flushed.
    acking: Vec<CommandId>,
    resend_at: Option<Instant>,
    sync_due: bool,
    sync_not_before: Option<Instant>,
    move_at: Option<Instant>,
    /// While the hub says that its broker is away: when to check in next, and what to bring.
    check_at: Option<Instant>,
    bringing: Vec<AgentFrame>,
    checking: Option<Checking>,
}

impl Line {
    /// Keeps the connection and reads nothing from it, not even its end.
    pub(super) async fn hold(
        self,
        cut: &mut watch::Receiver<Option<Instant>>,
        shared: &Shared,
    ) -> Ended {
        tokio::select! {
            biased;
            () = shared.stop.cancelled() => Ended::Stopped,
            Ok(()) = cut.changed() => Ended::Cut,
        }
    }
}

impl<'a> Session<'a> {
    pub(super) const fn new(line: Line, device: &'a mut Device, shared: &'a Shared) -> Self {
        Self {
            line,
            device,
            shared,
            acking: Vec::new(),
            resend_at: None,
            sync_due: false,
            sync_not_before: None,
            move_at: None,
            check_at: None,
            bringing: Vec::new(),
            checking: None,
        }
    }

    /// Drives the session to its end, over one connection after the other when hubs ask for that.
    /// `next` names the hub of the next one; `api` is where it checks in meanwhile, if it must.
    pub(super) async fn run(
        mut self,
        cut: &mut watch::Receiver<Option<Instant>>,
        mut next: impl FnMut() -> &'a Peer,
        api: &[Peer],
    ) -> Ended {
        self.send_all(self.device.receipts());
        let mut opening: Option<Opening<'a>> = None;
        loop {
            match self.perform().await {
                Ok(None) => {}
                Ok(Some(code)) => return Ended::Closed(Some(code)),
                Err(()) => return Ended::Closed(None),
            }
            let wake = self.wake_at();
            tokio::select! {
                biased;
                () = self.shared.stop.cancelled() => {
                    close(&mut self.line.socket, CloseCode::GoingAway).await;
                    return Ended::Stopped;
                }
                // No close frame, as when an agent is killed.
                Ok(()) = cut.changed() => return Ended::Cut,
                () = until(&self.shared.clock, wake) => {
                    if self.timers() && opening.is_none() {
                        opening = Some(self.leave_for(next()));
                    }
                    if self.checking.is_none() {
                        self.checking = self.check_in(api);
                    }
                }
                opened = opened(&mut opening) => {
                    opening = None;
                    self.arrive(opened).await;
                }
                (carried, answer) = ended(&mut self.checking) => {
                    self.checking = None;
                    self.checked_in(carried, answer);
                }
                message = self.line.socket.next() => match self.take(message) {
                    Ok(()) => {}
                    Err(code) => return Ended::Closed(code),
                },
            }
        }
    }

    /// Begins to open the next connection, while the present one serves.
    fn leave_for(&mut self, peer: &'a Peer) -> Opening<'a> {
        self.move_at = None;
        let (hello, shared) = (self.device.hello(self.wall()), self.shared);
        Box::pin(async move {
            let slot = shared.connecting.acquire().await;
            let opened = open(peer, hello, shared).await;
            drop(slot);
            opened
        })
    }

    /// Goes over to the next connection. What the former one had not delivered comes again.
    async fn arrive(&mut self, opened: Result<Line, AttemptError>) {
        match opened {
            Ok(line) => {
                let mut former = std::mem::replace(&mut self.line, line);
                close(&mut former.socket, CloseCode::Normal).await;
                self.send_all(self.device.receipts());
            }
            Err(error) => {
                self.shared.tally.error(&error);
                let wait = error.retry_after().unwrap_or(MOVE_AGAIN).min(RECONNECT_MAX);
                self.move_at = Some(self.shared.clock.now() + wait);
            }
        }
    }

    /// When something is due by itself.
    fn wake_at(&self) -> Instant {
        let sync = self.sync_not_before.filter(|_| self.sync_due);
        let check = self.check_at.filter(|_| self.checking.is_none());
        let due = [self.resend_at, sync, self.move_at, check].into_iter().flatten().min();
        due.map_or(self.line.machine.poll_timeout().0, |due| {
            due.min(self.line.machine.poll_timeout().0)
        })
    }

    /// Does what is due; whether it is time to move.
    fn timers(&mut self) -> bool {
        let now = self.shared.clock.now();
        self.line.machine.handle_timeout(now);
        if self.resend_at.is_some_and(|at| at <= now) {
            self.resend_at = None;
            // What the next check-in brings is there already.
            let is_with_check_in = self.check_at.is_some();
            self.send_all(if is_with_check_in { Vec::new() } else { self.device.receipts() });
        }
        self.sync(now);
        self.move_at.is_some_and(|at| at <= now)
    }

    fn sync(&mut self, now: Instant) {
        if self.sync_due && self.sync_not_before.is_none_or(|at| at <= now) {
            (self.sync_due, self.sync_not_before) = (false, Some(now + SYNC_PAUSE));
            let sync = self.device.sync();
            self.send(&sync);
        }
    }

    fn send_all(&mut self, frames: Vec<AgentFrame>) {
        frames.iter().for_each(|frame| self.send(frame));
        if self.device.is_waiting() && self.resend_at.is_none() {
            self.resend_at = Some(self.shared.clock.now() + RESEND);
        }
    }

    /// Over the session; while its hub cannot pass anything on, with the next check-in.
    fn send(&mut self, frame: &AgentFrame) {
        if self.check_at.is_some() {
            self.bringing.push(frame.clone());
            return;
        }
        if self.line.machine.send(frame).is_err() {
            self.shared.tally.error("frame too large to send");
        }
    }

    /// Takes what came; `Err` when the connection is over.
    fn take(
        &mut self,
        message: Option<Result<Message, tungstenite::Error>>,
    ) -> Result<(), Option<CloseCode>> {
        let now = self.shared.clock.now();
        match message {
            Some(Ok(Message::Text(text))) => self.line.machine.handle_text(text.as_str(), now),
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {
                self.line.machine.handle_alive(now);
            }
            Some(Ok(Message::Binary(_))) => self.line.machine.close(CloseCode::Unsupported),
            Some(Ok(Message::Close(frame))) => return Err(code(frame)),
            Some(Err(_)) | None => return Err(None),
        }
        Ok(())
    }

    /// Performs what the machine wants, acks before receipts; its close code when it is the end.
    async fn perform(&mut self) -> Result<Option<CloseCode>, ()> {
        loop {
            let read_at = self.shared.clock.now();
            while let Some(output) = self.line.machine.poll_output() {
                match output {
                    Output::Transmit(text) => {
                        let sent = self.line.socket.feed(Message::text(text));
                        within(limits::WRITE_STALL, sent).await?;
                    }
                    Output::Ping | Output::Ignored => {}
                    Output::Received(frame) => self.handle(frame, read_at),
                    Output::Close(code) => {
                        close(&mut self.line.socket, code).await;
                        return Ok(Some(code));
                    }
                }
            }
            // Also sends the pong that the last ping asked for.
            within(limits::WRITE_STALL, self.line.socket.flush()).await?;
            let acked_at = self.shared.clock.now();
            for command_id in self.acking.drain(..) {
                self.shared.tally.reached(command_id, Stage::Acked, acked_at);
            }
            let wall = self.wall();
            let receipts = inbox::work((self.device, &self.shared.tally), wall);
            if receipts.is_empty() {
                return Ok(None);
            }
            self.send_all(receipts);
        }
    }

    fn handle(&mut self, frame: HubFrame, read_at: Instant) {
        let wall = self.wall();
        let heard = inbox::hear((self.device, &self.shared.tally), frame, read_at, wall);
        if self.check_at.is_none() {
            self.acking.extend(heard.acking);
        }
        self.send_all(heard.send);
        if heard.is_gap {
            self.sync_due = true;
            self.sync(read_at);
        }
        match heard.asked {
            Some(Asked::Move(reconnect)) => {
                let after = Duration::from_millis(reconnect.after_ms).min(RECONNECT_MAX);
                self.move_at.get_or_insert(read_at + after);
            }
            Some(Asked::Mode(Mode::Poll)) => {
                self.check_at.get_or_insert(read_at + self.shared.interval());
            }
            Some(Asked::Mode(Mode::Push)) => {
                self.check_at = None;
                let brought = std::mem::take(&mut self.bringing);
                self.acking.extend(brought.iter().filter_map(acked));
                self.send_all(brought);
            }
            None => {}
        }
        if !self.device.is_waiting() {
            self.resend_at = None;
        }
    }

    /// Begins a check-in, if one is due.
    fn check_in(&mut self, api: &[Peer]) -> Option<Checking> {
        let now = self.shared.clock.now();
        self.check_at.filter(|at| *at <= now)?;
        self.check_at = Some(now + self.shared.interval());
        let at = usize::try_from(self.shared.entropy.below(api.len().max(1) as u64)).ok()?;
        let peer = api.get(at)?.clone();
        let hello = self.device.hello(self.wall());
        let most = self.bringing.len().min(limits::EXCHANGE_FRAMES - 1);
        let carried: Vec<_> = self.bringing.drain(..most).collect();
        Some(Box::pin(async move {
            let answer = check_in::exchange(peer, hello, &carried).await;
            (carried, answer)
        }))
    }

    /// Takes the answer of a check-in. What it brought in vain is brought again.
    fn checked_in(&mut self, carried: Vec<AgentFrame>, answer: Checked) {
        let now = self.shared.clock.now();
        match answer {
            Ok(frames) => {
                self.shared.tally.checked_in();
                check_in::acked(carried, now, self.shared);
                frames.into_iter().for_each(|frame| self.handle(frame, now));
                let wall = self.wall();
                let receipts = inbox::work((self.device, &self.shared.tally), wall);
                self.send_all(receipts);
                if self.check_at.is_some() && !self.bringing.is_empty() {
                    self.check_at = Some(now);
                }
            }
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "no check-in");
                self.shared.tally.error(&error);
                self.bringing.splice(..0, carried);
            }
        }
    }

    fn wall(&self) -> Timestamp {
        Timestamp::from_millis(self.shared.clock.unix_millis())
    }
}

/// The connection that is being opened; never, while none is.
async fn opened(opening: &mut Option<Opening<'_>>) -> Result<Line, AttemptError> {
    match opening {
        Some(opening) => opening.await,
        None => std::future::pending().await,
    }
}

/// The end of a check-in; never, while there is none.
async fn ended(checking: &mut Option<Checking>) -> (Vec<AgentFrame>, Checked) {
    match checking {
        Some(checking) => checking.await,
        None => std::future::pending().await,
    }
}

/// The command that a frame acks.
const fn acked(frame: &AgentFrame) -> Option<CommandId> {
    if let AgentFrame::Ack { command_id } = frame { Some(*command_id) } else { None }
}

async fn until(clock: &Clock, at: Instant) {
    tokio::time::sleep(at.saturating_duration_since(clock.now())).await;
}

async fn within(
    limit: Duration,
    writing: impl Future<Output = Result<(), tungstenite::Error>>,
) -> Result<(), ()> {
    match tokio::time::timeout(limit, writing).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(()),
    }
}

async fn close(socket: &mut WebSocket, code: CloseCode) {
    let frame = CloseFrame { code: WireCode::from(code.number()), reason: code.as_str().into() };
    // The other end may be gone; it learns of the end either way.
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, socket.close(Some(frame))).await;
}
