//! The one place where commands become effects: push, long-poll and check-in only trigger it.
//!
//! One task owns ledger, journal, trust root and lower bound of time. Whatever wakes it (a frame,
//! the end of a step, a timer), it then compares what should be with what is and acts on the
//! difference; the comparison takes no input. It must not touch a socket: frames come and go
//! through bounded channels.

use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::frame::{AgentFrame, HubFrame};
use protocol::id::{BootId, CommandId};
use protocol::ledger::{Ledger, Record};
use protocol::limits;
use protocol::state::{Lane, PerLane};
use protocol::time::Timestamp;
use runtime::lifecycle::CancellationToken;
use runtime::{Backoff, Blocking, Clock, Entropy};
use tokio::sync::{Notify, mpsc, watch};

use crate::config::LadderConfig;
use crate::epoch::Epochs;
use crate::execute::quarantine::Watch;
use crate::host::Host;
use crate::identity::{Identity, KeyPair};
use crate::ladder::Places;
use crate::offline::Asked;
use crate::standing::Standing;
use crate::status::CoreStatus;
use crate::worker::{Word, Workers};

use self::disk::STORAGE_IS_HERE;
use self::lanes::Running;
use self::link::Link;
pub(crate) use self::link::{Event, Linked};
pub(crate) use self::notices::Noticed;
use self::notices::Notices;
use self::outcome::PowerOff;
pub(crate) use self::storage::Storage;
pub(crate) use self::storage::StorageError;
use self::telling::Telling;
use self::undo::Windows;

mod budget;
mod deliveries;
mod disk;
mod escrow;
mod lanes;
mod link;
mod notices;
mod offline;
mod outcome;
mod stops;
mod storage;
mod telling;
mod undo;

/// Events that are taken together, so that their records share one sync.
const BATCH: usize = 64;
/// The shortest time between two `sync` frames.
const SYNC_PAUSE: Duration = Duration::from_secs(1);
/// The last ceiling of the back-off between sendings of a receipt.
const RESEND_CAP: Duration = Duration::from_secs(120);

/// What the core is made of besides its storage.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) clock: Clock,
    pub(crate) blocking: Blocking,
    pub(crate) entropy: Entropy,
    pub(crate) key: KeyPair,
    pub(crate) identity: watch::Receiver<Identity>,
    pub(crate) places: watch::Receiver<Places>,
    pub(crate) host: Arc<Host>,
    pub(crate) is_armed: bool,
    /// Whether its executors act on nothing.
    pub(crate) is_simulated: bool,
    pub(crate) boot_id: BootId,
    pub(crate) config: LadderConfig,
    pub(crate) epochs: Epochs,
    pub(crate) status: watch::Sender<CoreStatus>,
    /// Offline codes that somebody on the device hands in.
    pub(crate) asked: mpsc::Receiver<Asked>,
    /// Told when receipts are at the control plane: now it may take what they name.
    pub(crate) stored: Arc<Notify>,
}

/// The event loop's state.
#[derive(Debug)]
pub(crate) struct Reconcile {
    core: Core,
    /// Away only while a blocking thread works on it.
    storage: Option<Storage>,
    ledger: Ledger,
    link: Link,
    workers: Workers,
    running: PerLane<Option<Running>>,
    /// What goes to the control plane itself.
    direct: watch::Sender<Vec<AgentFrame>>,
    /// When the step that a lane is in has had its time.
    step_ends: PerLane<Option<Instant>>,
    /// Commands that wait for the end of their undo window.
    windows: Windows,
    /// The disk failed: nothing is acked, and at this time it is tried again.
    retry_at: Option<Instant>,
    compact_not_before: Option<Instant>,
    sync: Sync,
    resend: Resend,
    telling: Telling,
    notices: Notices,
    power_off: Option<PowerOff>,
    /// What is put up again, and when it is looked at next; away while a thread looks.
    standing: Option<Standing>,
    uphold_at: Instant,
    /// Puts it up again at once; ends with this.
    _watch: Option<Watch>,
    /// What it saw.
    noticed: mpsc::Receiver<Noticed>,
    /// When somebody last tried an offline code; the start at first.
    code_tried_at: Instant,
    /// What an offline code ended last.
    ended_offline: Option<CommandId>,
    last_error: Option<String>,
}

#[derive(Debug, Default)]
struct Sync {
    is_due: bool,
    not_before: Option<Instant>,
}

#[derive(Debug)]
struct Resend {
    at: Option<Instant>,
    backoff: Backoff,
}

impl Reconcile {
    /// Takes up what the former run left. With `standing` it also puts up again, from time to time,
    /// what should stand on this host.
    pub(crate) fn resumed(
        core: Core,
        storage: Storage,
        (ledger, records): (Ledger, &[Record]),
        standing: Option<Standing>,
    ) -> Self {
        let mut reconcile = Self::new(core, storage, ledger, standing);
        reconcile.resume(records);
        reconcile
    }

    /// What goes to the control plane itself, as long as it waits for its word.
    pub(crate) fn direct(&self) -> watch::Receiver<Vec<AgentFrame>> {
        self.direct.subscribe()
    }

    fn new(core: Core, storage: Storage, ledger: Ledger, standing: Option<Standing>) -> Self {
        let backoff = Backoff::new(core.config.resend, RESEND_CAP);
        let code_tried_at = core.clock.now();
        let uphold_at = code_tried_at + core.config.uphold;
        let (tell, noticed) = mpsc::channel(notices::WAITING);
        let watch = standing.as_ref().and_then(|standing| standing.watch(&core.host, tell));
        let workers = Workers::new(core.blocking);
        Self {
            core,
            storage: Some(storage),
            ledger,
            link: Link::default(),
            workers,
            running: PerLane::default(),
            direct: watch::Sender::new(Vec::new()),
            step_ends: PerLane::default(),
            windows: Windows::default(),
            retry_at: None,
            compact_not_before: None,
            sync: Sync::default(),
            resend: Resend { at: None, backoff },
            telling: Telling::default(),
            notices: Notices::default(),
            power_off: None,
            standing,
            uphold_at,
            _watch: watch,
            noticed,
            code_tried_at,
            ended_offline: None,
            last_error: None,
        }
    }

    /// Takes up what the former run left, and tells where things stand. A wipe that had ended when
    /// the agent did, but whose power-off may not have come: it comes.
    fn resume(&mut self, records: &[Record]) {
        if let Some(command_id) = outcome::pending_power_off(records, self.core.boot_id) {
            self.await_power_off(command_id);
        }
        self.resume_windows();
        self.tell_uses();
        self.publish();
    }

    /// Runs until `stop`. The step that an executor is in is waited for; the next one is left to
    /// recovery.
    pub(crate) async fn run(mut self, mut events: mpsc::Receiver<Event>, stop: CancellationToken) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            self.reconcile().await;
            self.publish();
            let wake = self.wake_in();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                word = self.workers.next() => match word {
                    Word::Ended(lane, step, report) => self.step_ended(lane, step, report).await,
                    Word::Told(command_id, advance) => self.told(command_id, advance),
                },
                () = sleep(wake) => {}
                Some(noticed) = self.noticed.recv() => self.notice(noticed),
                Some(asked) = self.core.asked.recv() => self.end_offline(asked).await,
                taken = events.recv_many(&mut batch, BATCH) => {
                    if taken == 0 {
                        break;
                    }
                    self.handle(std::mem::take(&mut batch)).await;
                }
            }
        }
        self.leave();
        while !self.workers.is_idle() {
            match self.workers.next().await {
                Word::Ended(lane, step, report) => self.last_step_ended(lane, step, report).await,
                Word::Told(command_id, advance) => self.told(command_id, advance),
            }
        }
        self.save_windows().await;
        self.publish();
    }

    /// Compares what should be with what is, and acts on the difference.
    async fn reconcile(&mut self) {
        let now = self.core.clock.now();
        self.power_off_when_due(now).await;
        self.end_overdue(now);
        self.uphold(now).await;
        self.follow_proofs(now);
        self.follow_escrows(now);
        if !self.is_disk_back(now).await {
            // Nobody can call anything back meanwhile.
            self.windows.stand_still(now);
            return self.send_due(now);
        }
        self.observe_time().await;
        // In this order: what calls a command back goes before the end of its window.
        self.heed_orders().await;
        self.count_windows(now).await;
        for lane in Lane::ALL {
            self.advance(lane).await;
        }
        self.send_due(now);
        let may_compact = self.compact_not_before.is_none_or(|at| at <= now);
        if may_compact && self.storage().wants_compaction() {
            self.compact().await;
        }
    }

    /// Puts up again what should stand, between two commands of the urgent lane: no step of an
    /// executor begins while this waits, and none that changes the same is under way.
    async fn uphold(&mut self, now: Instant) {
        if now < self.uphold_at || self.running.urgent.is_some() {
            return;
        }
        self.uphold_at = now + self.core.config.uphold;
        let (Some(standing), host) = (self.standing.take(), self.core.host.clone()) else {
            return;
        };
        let (wall, open) = (self.now(), self.not_over());
        let looking = self.core.blocking.run(move || {
            let noticed = standing.uphold(&host, wall, &open);
            let ends_in = Standing::until(&host).map(|until| until.since(wall));
            (standing, noticed, ends_in)
        });
        match looking.await {
            Ok((standing, noticed, ends_in)) => {
                self.standing = Some(standing);
                // What is over and would not end waits for the next usual look.
                let ends_in = ends_in.filter(|ends_in| !ends_in.is_zero());
                let end = ends_in.and_then(|ends_in| now.checked_add(ends_in));
                self.uphold_at = self.uphold_at.min(end.unwrap_or(self.uphold_at));
                noticed.into_iter().for_each(|noticed| self.notice(noticed));
                self.tell_uses();
            }
            Err(error) => self.fault("what should stand is not looked at any more", &error),
        }
    }

    /// Sends what is due: receipts without confirmation, and the wish for everything pending.
    fn send_due(&mut self, now: Instant) {
        if !self.link.is_up() {
            return;
        }
        if self.sync.is_due && self.sync.not_before.is_none_or(|at| at <= now) {
            self.sync = Sync { is_due: false, not_before: Some(now + SYNC_PAUSE) };
            self.link.send(AgentFrame::Sync { last_seq: self.ledger.last_seq() });
        }
        let is_confirmed = self.ledger.unconfirmed().chain(self.unwritten()).next().is_none();
        if is_confirmed && self.notices.is_empty() {
            self.resend.at = None;
            self.resend.backoff.reset();
        } else if self.resend.at.is_none_or(|at| at <= now) {
            self.send_receipts(now);
        }
        self.tell_due(now);
    }

    fn send_receipts(&mut self, now: Instant) {
        let receipts = self.unwritten().into_iter().chain(self.ledger.unconfirmed());
        for (command_id, jws) in receipts.take(limits::EXCHANGE_FRAMES / 2) {
            let frame = AgentFrame::Receipt { command_id, jws: jws.clone() };
            if !self.link.send(frame) {
                break;
            }
        }
        for frame in self.notices.frames() {
            self.link.send(frame);
        }
        // At least the base, so that a confirmation on its way is not overtaken.
        let jitter = self.resend.backoff.next(self.core.entropy.next_u64());
        self.resend.at = Some(now + self.core.config.resend + jitter);
    }

    /// A new link: whatever the former one lost goes out again.
    fn linked(&mut self, linked: Linked) {
        self.link.replace(linked);
        for command_id in self.ledger.open_commands().take(limits::EXCHANGE_FRAMES / 2) {
            self.link.send(AgentFrame::Ack { command_id });
        }
        self.resend.at = None;
        self.send_proofs_again();
        self.tell_windows();
    }

    /// Everything in order; commands that come together share one sync.
    async fn handle(&mut self, events: Vec<Event>) {
        let mut commands = Vec::new();
        for event in events {
            match event {
                Event::Frame(HubFrame::Command(frame)) => commands.push(frame),
                Event::Frame(HubFrame::Trust { root }) => {
                    self.deliver(std::mem::take(&mut commands)).await;
                    self.take_trust(root).await;
                }
                Event::Frame(HubFrame::Confirmed { receipts }) => self.confirm(receipts).await,
                Event::Frame(HubFrame::Checkpoint { jws }) => self.take_checkpoint(jws).await,
                Event::Linked(linked) => self.linked(linked),
                Event::Stored(receipts) => self.stored(&receipts),
                Event::CollectionLost(command_id) => self.notice(Noticed::lost(command_id)),
                Event::ServerTime(time) => {
                    // A server's word is not signed: it counts within what two clocks may differ,
                    // so that a liar cannot make good commands look expired.
                    let most = self.wall().plus(limits::CLOCK_SKEW);
                    self.observe(time.min(most)).await;
                }
                // The ladder's part.
                Event::Frame(
                    HubFrame::Welcome(_)
                    | HubFrame::Mode { .. }
                    | HubFrame::Reconnect(_)
                    | HubFrame::Unknown,
                ) => {}
            }
        }
        self.deliver(commands).await;
    }

    async fn confirm(&mut self, receipts: Vec<String>) {
        let told = self.notices.forget(&receipts);
        self.uses_told(told).await;
        self.proofs_confirmed(&receipts);
        self.power_off_confirmed(&receipts);
        let waiting: Vec<String> = self.ledger.unconfirmed().map(|(_, r)| r.sha256()).collect();
        let known = receipts.into_iter().filter(|sha256| waiting.contains(sha256));
        let records: Vec<_> =
            known.map(|receipt_sha256| Record::Confirmed { receipt_sha256 }).collect();
        if records.is_empty() {
            return;
        }
        // Not durable means only that the receipt goes out once more.
        if self.commit(records).await.is_ok() {
            self.ledger.forget(self.now());
            self.resend.backoff.reset();
            self.core.stored.notify_one();
        }
    }

    /// Puts the next trust root in force. An earlier one is somebody's attempt, or an echo.
    async fn take_trust(&mut self, root: protocol::trust::SignedTrustRoot) {
        let outcome = self.on_disk(move |storage| storage.trust.succeed(root)).await;
        match outcome {
            Ok(()) => {
                let version = self.storage().trust.in_force().version;
                tracing::info!(trust.version = version, "trust root in force");
            }
            Err(error) => self.fault("trust root was not taken", &error),
        }
    }

    /// The later of the clock and the lower bound of time.
    fn now(&self) -> Timestamp {
        self.storage().floor.now(self.wall())
    }

    fn wall(&self) -> Timestamp {
        Timestamp::from_millis(self.core.clock.unix_millis())
    }

    async fn observe_time(&mut self) {
        self.observe(self.wall()).await;
    }

    async fn observe(&mut self, seen: Timestamp) {
        // A certificate that ended is worse than useless to a liar: nobody talks to us then.
        let cap = self.core.identity.borrow().not_after;
        let storage = self.storage.as_mut().expect(STORAGE_IS_HERE);
        let has_moved = storage.floor.raise(seen, cap);
        self.core.epochs.raise(storage.floor.now(Timestamp::default()));
        if has_moved && let Err(error) = self.on_disk(|storage| storage.floor.save()).await {
            self.fault("lower bound of time was not written", &error);
        }
    }

    fn fault(&mut self, what: &'static str, error: &(dyn std::error::Error + 'static)) {
        tracing::warn!(error, "{what}");
        let mut text = format!("{what}: {error}");
        let mut source = error.source();
        while let Some(cause) = source {
            text.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        self.last_error = Some(text);
    }

    /// How long until something is due by itself.
    fn wake_in(&self) -> Option<Duration> {
        let now = self.core.clock.now();
        let resend = self.resend.at.filter(|_| self.link.is_up());
        let sync = self.sync.not_before.filter(|_| self.sync.is_due && self.link.is_up());
        let power_off = self.power_off.as_ref().and_then(PowerOff::due);
        // While an urgent command runs its end wakes this task soon enough.
        let is_free = self.standing.is_some() && self.running.urgent.is_none();
        let uphold = is_free.then_some(self.uphold_at);
        let lanes = Lane::ALL.into_iter().filter_map(|lane| self.running.get(lane).as_ref());
        let proofs = lanes.filter_map(Running::due).min();
        let windows = self.windows.due().filter(|_| self.retry_at.is_none());
        let steps = self.step_due();
        let told = self.telling.due().filter(|_| self.link.is_up());
        let due = [resend, sync, power_off, self.retry_at, uphold, proofs, windows, steps, told];
        let due = due.into_iter().flatten().min();
        due.map(|at| at.saturating_duration_since(now))
    }

    /// Tells everybody who watches where things stand.
    fn publish(&self) {
        let storage = self.storage();
        let lanes = Lane::ALL.into_iter().filter_map(|lane| self.running.get(lane).as_ref());
        let status = CoreStatus {
            last_seq: self.ledger.last_seq(),
            trust_version: storage.trust.in_force().version,
            trust_rolled_back: storage.trust.is_rolled_back(),
            audit_forked: storage.checkpoints.is_forked(self.now()),
            journal_records: storage.records,
            journal_bytes: storage.journal.len(),
            journal_damaged: storage.is_damaged,
            journal_failing: self.retry_at.is_some(),
            unconfirmed: self.ledger.unconfirmed().count(),
            running: lanes.map(Running::command_id).chain(self.windows.ids()).collect(),
            held: self.windows.told(),
            frozen_until: self.frozen().map(|frozen| frozen.until),
            ended_offline: self.ended_offline,
            last_error: self.last_error.clone(),
        };
        self.core.status.send_if_modified(|known| {
            let is_new = *known != status;
            *known = status;
            is_new
        });
    }
}

async fn sleep(duration: Option<Duration>) {
    match duration {
        Some(duration) => tokio::time::sleep(duration).await,
        None => std::future::pending().await,
    }
}
