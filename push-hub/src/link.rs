//! The hub's link to the broker: lease, subscription, and whether the bus delivers at all.
//!
//! Owns the beat that renews the lease, probes the bus and keeps presence true, and what follows from it: `mode poll`
//! and `mode push`, the resync after a gap, and the fence when another incarnation has taken the
//! hub's name. Must not carry frames.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use std::sync::Arc;

use arc_swap::ArcSwap;
use broker::{BATCH, BrokerError, HubLease, LEASE_RENEWAL, LeaseGrant, Subscription};
use protocol::frame::{HubFrame, Mode};
use protocol::id::{DeviceId, HubId, SessionId};
use runtime::admin::Readiness;
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::core::Core;
use crate::handle::Handle;
use crate::presence;

/// How long any call to the broker may take.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two beats that suspicion asked for, at least.
const SUSPICION_PAUSE: Duration = Duration::from_millis(50);
/// Sessions whose presence one beat writes again, at most.
const REASSERTED: usize = 4 * BATCH;
/// The readiness condition of this module.
const CONDITION: &str = "broker";

/// What other tasks see of the link, and what they tell it.
#[derive(Debug)]
pub(crate) struct Link {
    lease: ArcSwap<HubLease>,
    is_up: AtomicBool,
    is_fenced: AtomicBool,
    needs_resync: AtomicBool,
    needs_subscription: AtomicBool,
    suspicion: Notify,
}

impl Link {
    pub(crate) fn new(hub: HubId, incarnation: SessionId) -> Self {
        Self {
            lease: ArcSwap::from_pointee(HubLease { hub, incarnation }),
            is_up: AtomicBool::new(false),
            is_fenced: AtomicBool::new(false),
            needs_resync: AtomicBool::new(false),
            needs_subscription: AtomicBool::new(true),
            suspicion: Notify::new(),
        }
    }

    pub(crate) fn lease(&self) -> Arc<HubLease> {
        self.lease.load_full()
    }

    /// Whether another incarnation has the hub's name: no session may be held here.
    pub(crate) fn is_fenced(&self) -> bool {
        self.is_fenced.load(Ordering::SeqCst)
    }

    /// Tells a session that has just been registered how to behave; nothing while all is well.
    pub(crate) fn greet(&self, handle: &Handle) {
        if self.is_up.load(Ordering::SeqCst) {
            return;
        }
        // A full inbox has already closed its session.
        drop(handle.push([mode(Mode::Poll)]));
        // The keeper may have told everybody in between: the last word has to be the true one.
        if self.is_up.load(Ordering::SeqCst) {
            drop(handle.push([mode(Mode::Push)]));
        }
    }

    /// A call failed: look at once.
    pub(crate) fn suspect(&self) {
        self.suspicion.notify_one();
    }

    /// Something was not told to the broker: tell it everything, soon.
    pub(crate) fn ask_resync(&self) {
        self.needs_resync.store(true, Ordering::SeqCst);
    }

    /// The channel is closed: what was in it is lost.
    pub(crate) fn subscription_ended(&self) {
        self.needs_subscription.store(true, Ordering::SeqCst);
        self.suspect();
    }
}

/// The task of the link.
#[derive(Debug)]
pub(crate) struct Keeper {
    core: Arc<Core>,
    readiness: Readiness,
    /// To the dispatcher.
    subscriptions: mpsc::Sender<Box<dyn Subscription>>,
    renewed_at: Option<Instant>,
    reasserted_at: Option<Instant>,
    /// Devices whose presence has its turn still before it in this round.
    round: Vec<DeviceId>,
}

impl Keeper {
    pub(crate) fn new(
        core: Arc<Core>,
        readiness: Readiness,
        subscriptions: mpsc::Sender<Box<dyn Subscription>>,
    ) -> Self {
        readiness.set(CONDITION, false);
        Self {
            core,
            readiness,
            subscriptions,
            renewed_at: None,
            reasserted_at: None,
            round: Vec::new(),
        }
    }

    /// Beats until `stop`, then gives the lease back.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = tokio::time::sleep(self.core.config().probe_every) => {}
                () = suspicion(&self.core.link) => {}
            }
            self.beat().await;
        }
        let lease = self.core.link.lease();
        if call(self.core.broker.release_lease(&lease)).await.is_err() {
            tracing::info!(hub.id = %lease.hub, "lease was not given back and will run out");
        }
    }

    /// Looks at the broker once, and does what follows.
    pub(crate) async fn beat(&mut self) {
        match self.check().await {
            Ok(()) => {
                if self.core.link.is_fenced() {
                    return;
                }
                if !self.core.link.is_up.swap(true, Ordering::SeqCst) {
                    tracing::info!(hub.id = %self.core.name, "broker delivers");
                    self.tell(Mode::Push);
                }
                self.show(true);
            }
            Err(BrokerError::LeaseLost) => self.fence(),
            Err(error) => self.lose(&error),
        }
    }

    fn show(&self, is_up: bool) {
        self.core.metrics.broker_up.set(if is_up { 1.0 } else { 0.0 });
        self.readiness.set(CONDITION, is_up);
    }

    /// Lease, subscription, probe and resync, as far as they are due.
    async fn check(&mut self) -> Result<(), BrokerError> {
        let core = self.core.clone();
        let link = &core.link;
        let lease = link.lease();
        let now = core.clock.now();
        let is_due = self.renewed_at.is_none_or(|at| now >= at + LEASE_RENEWAL);
        if is_due || !link.is_up.load(Ordering::SeqCst) {
            let grant = call(core.broker.renew_lease(&lease)).await?;
            self.renewed_at = Some(now);
            if grant == LeaseGrant::Taken {
                link.needs_subscription.store(true, Ordering::SeqCst);
                self.unfence();
            }
        }
        // Cleared before, not after: the new subscription may end the moment it is handed over.
        if link.needs_subscription.swap(false, Ordering::SeqCst) {
            let subscribed = call(core.broker.subscribe(&lease)).await;
            let again = |_: &BrokerError| link.needs_subscription.store(true, Ordering::SeqCst);
            // The dispatcher ends only with the hub.
            drop(self.subscriptions.send(subscribed.inspect_err(again)?).await);
            link.ask_resync();
        }
        call(core.broker.probe()).await?;
        if link.needs_resync.swap(false, Ordering::SeqCst) || !link.is_up.load(Ordering::SeqCst) {
            self.resync().await.inspect_err(|_| link.ask_resync())?;
        }
        self.reassert(now).await
    }

    /// Writes the presence of some sessions again, so many that all have their turn within
    /// `reassert_every`: an entry that is missing, for whatever reason, is back by then.
    async fn reassert(&mut self, now: Instant) -> Result<(), BrokerError> {
        let core = &self.core;
        let since = now.saturating_duration_since(*self.reasserted_at.get_or_insert(now));
        let every = core.config().reassert_every.as_millis().max(1);
        let due = core.registry.len() as u128 * since.as_millis() / every;
        let due = usize::try_from(due).unwrap_or(REASSERTED).min(REASSERTED);
        if due == 0 {
            return Ok(());
        }
        self.reasserted_at = Some(now);
        if self.round.is_empty() {
            self.round = core.registry.devices();
        }
        let turn = self.round.split_off(self.round.len().saturating_sub(due));
        let sessions: Vec<_> =
            turn.into_iter().filter_map(|device| core.registry.get(device)).collect();
        presence::restore(core, &sessions).await
    }

    /// Tells the broker of every session, and asks for everything that is pending. Sessions that
    /// have a newer one elsewhere are closed.
    async fn resync(&self) -> Result<(), BrokerError> {
        let core = &self.core;
        let sessions = core.registry.all();
        presence::restore(core, &sessions).await?;
        for handle in sessions {
            let request = core.address(&handle, handle.sync());
            if timeout(CALL_TIMEOUT, core.upstream.send(request)).await.is_err() {
                return Err(BrokerError::Full);
            }
        }
        Ok(())
    }

    fn lose(&self, error: &BrokerError) {
        self.show(false);
        if self.core.link.is_up.swap(false, Ordering::SeqCst) {
            tracing::warn!(
                hub.id = %self.core.name,
                error = error as &dyn std::error::Error,
                "broker does not deliver, agents poll meanwhile"
            );
            self.core.metrics.broker_losses.increment(1);
            self.tell(Mode::Poll);
        }
    }

    /// Another incarnation has the name: whatever this one holds is no longer true.
    fn fence(&mut self) {
        self.show(false);
        let core = &self.core;
        core.link.is_up.store(false, Ordering::SeqCst);
        self.renewed_at = None;
        if !core.link.is_fenced.swap(true, Ordering::SeqCst) {
            tracing::error!(
                hub.id = %core.name,
                "another hub has this name, sessions are sent away"
            );
            core.registry.shut();
        }
        // Sessions of the lost incarnation must not count under a lease that is taken later.
        let incarnation = core.session_id();
        let lease = HubLease { hub: core.name.clone(), incarnation };
        core.link.lease.store(Arc::new(lease));
    }

    fn unfence(&self) {
        if self.core.link.is_fenced.swap(false, Ordering::SeqCst) {
            tracing::info!(hub.id = %self.core.name, "name is free again");
            self.core.registry.reopen();
        }
    }

    /// Tells every session how to behave.
    fn tell(&self, change: Mode) {
        for handle in self.core.registry.all() {
            let frame = mode(change);
            self.core.metrics.frame_out(&frame);
            // A full inbox has already closed its session.
            drop(handle.push([frame]));
        }
    }
}

/// Waits for a reason to look, but not so that failing calls follow one another without a pause.
async fn suspicion(link: &Link) {
    tokio::time::sleep(SUSPICION_PAUSE).await;
    link.suspicion.notified().await;
}

async fn call<T>(call: impl Future<Output = Result<T, BrokerError>>) -> Result<T, BrokerError> {
    timeout(CALL_TIMEOUT, call).await.unwrap_or(Err(BrokerError::Unavailable))
}

fn mode(mode: Mode) -> HubFrame {
    let reason = match mode {
        Mode::Push => "the broker delivers again",
        Mode::Poll => "the broker does not deliver",
    };
    HubFrame::Mode { mode, reason: reason.to_owned() }
}
