//! A hub's link to the broker: lease, subscription, resync and fence, as `push-hub/src/link.rs`
//! has them.

use std::time::{Duration, Instant};

use broker::{BrokerError, Downstream, HubLease, LEASE_RENEWAL, LeaseGrant, Subscription};
use futures_util::FutureExt as _;
use protocol::frame::{HubFrame, Mode};
use protocol::id::{HubId, SessionId};
use push_hub::simulation::Session;

use crate::hub::{Hub, Net};
use crate::scene::Scene;

/// Between two beats.
const BEAT: Duration = Duration::from_secs(1);
/// In which time presence of every session is written again.
const REASSERT: Duration = Duration::from_secs(60);
/// Between two beats that suspicion asked for, at least.
const SUSPICION_PAUSE: Duration = Duration::from_millis(50);

/// What the hub knows of its broker.
#[derive(Debug)]
pub(crate) struct Keeper {
    pub(crate) lease: HubLease,
    pub(crate) is_up: bool,
    pub(crate) is_fenced: bool,
    pub(crate) needs_resync: bool,
    needs_subscription: bool,
    renewed_at: Option<Instant>,
    pub(crate) beat_at: Instant,
    reasserted_at: Option<Instant>,
    subscription: Option<Box<dyn Subscription>>,
}

impl Keeper {
    pub(crate) fn new(hub: HubId, scene: &Scene) -> Self {
        let incarnation = SessionId::new(scene.wall(), scene.chance.bytes());
        Self {
            lease: HubLease { hub, incarnation },
            is_up: false,
            is_fenced: false,
            needs_resync: false,
            needs_subscription: true,
            renewed_at: None,
            beat_at: scene.now(),
            reasserted_at: None,
            subscription: None,
        }
    }

    pub(crate) fn suspect(&mut self, now: Instant) {
        self.beat_at = self.beat_at.min(now + SUSPICION_PAUSE);
    }

    pub(crate) fn greet(&self, session: &Session) {
        if !self.is_up {
            session.push([mode(Mode::Poll)]);
        }
    }

    pub(crate) fn read_channel(&mut self, into: &mut Vec<Downstream>, now: Instant) {
        let Some(subscription) = &mut self.subscription else { return };
        while let Some(next) = subscription.next().now_or_never() {
            match next {
                Some(message) => into.push(message),
                None => {
                    self.subscription = None;
                    self.needs_subscription = true;
                    return self.suspect(now);
                }
            }
        }
    }
}

impl Hub {
    /// Looks at the broker when it is time, and does what follows.
    pub(crate) fn keeper_beats(&mut self, scene: &mut Scene, net: &mut Net) {
        if self.keeper.beat_at > scene.now() {
            return;
        }
        self.keeper.beat_at = scene.now() + BEAT;
        match self.check(scene, net) {
            Ok(()) => {
                if !self.keeper.is_fenced && !std::mem::replace(&mut self.keeper.is_up, true) {
                    scene.note(format_args!("{} has its broker", self.name()));
                    self.tell(Mode::Push);
                }
            }
            Err(BrokerError::LeaseLost) => self.fence(scene),
            Err(_) => {
                if std::mem::replace(&mut self.keeper.is_up, false) {
                    scene.note(format_args!("{} has lost its broker", self.name()));
                    self.tell(Mode::Poll);
                }
            }
        }
        self.pump_all(scene, net);
    }

    fn check(&mut self, scene: &mut Scene, net: &mut Net) -> Result<(), BrokerError> {
        let (who, lease, now) = (self.who(), self.keeper.lease.clone(), scene.now());
        let is_due = self.keeper.renewed_at.is_none_or(|at| now >= at + LEASE_RENEWAL);
        if is_due || !self.keeper.is_up {
            let grant = net.bus.renew(who, &lease, scene)?;
            self.keeper.renewed_at = Some(now);
            if grant == LeaseGrant::Taken {
                scene.note(format_args!("{} takes its lease", self.name()));
                self.keeper.needs_subscription = true;
                if std::mem::replace(&mut self.keeper.is_fenced, false) {
                    self.sessions.reopen();
                }
            }
        }
        if std::mem::replace(&mut self.keeper.needs_subscription, false) {
            let subscribed = net.bus.subscribe(who, &lease);
            self.keeper.needs_subscription = subscribed.is_err();
            self.keeper.subscription = Some(subscribed?);
            self.keeper.needs_resync = true;
        }
        net.bus.probe(who)?;
        if std::mem::replace(&mut self.keeper.needs_resync, false) || !self.keeper.is_up {
            let resynced = self.resync(scene, net);
            self.keeper.needs_resync |= resynced.is_err();
            resynced?;
        }
        // Presence of all is written again from time to time.
        let since = self.keeper.reasserted_at.get_or_insert(now);
        if now.saturating_duration_since(*since) >= REASSERT {
            *since = now;
            self.restore(&self.sessions.all(), scene, net)?;
        }
        Ok(())
    }

    fn resync(&mut self, scene: &Scene, net: &mut Net) -> Result<(), BrokerError> {
        let sessions = self.sessions.all();
        self.restore(&sessions, scene, net)?;
        for session in sessions {
            let request = session.sync();
            self.request(&session, request);
        }
        Ok(())
    }

    /// Another incarnation has the name: whatever this one holds is no longer true.
    fn fence(&mut self, scene: &mut Scene) {
        self.keeper.is_up = false;
        self.keeper.renewed_at = None;
        if !std::mem::replace(&mut self.keeper.is_fenced, true) {
            scene.note(format_args!("{} is fenced", self.name()));
            self.sessions.shut();
        }
        self.keeper.lease.incarnation = SessionId::new(scene.wall(), scene.chance.bytes());
    }

    fn tell(&self, change: Mode) {
        for session in self.sessions.all() {
            session.push([mode(change)]);
        }
    }
}

fn mode(mode: Mode) -> HubFrame {
    HubFrame::Mode { mode, reason: "the broker".to_owned() }
}
