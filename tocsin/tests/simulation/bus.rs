//! The real broker in memory behind a network that cuts, loses answers and forgets.

use std::collections::BTreeMap;
use std::time::Instant;

use broker::{
    Arrival, Broker, BrokerError, Downstream, HubLease, LEASE, LeaseGrant, MemoryBroker, Presence,
    Subscription, Upstream, UpstreamReader,
};
use futures_util::FutureExt as _;
use protocol::id::{DeviceId, HubId, SessionId};

use crate::scene::Scene;

/// Who talks to the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Who {
    /// The hub's process of that number.
    Hub(usize),
    Api,
}

/// How somebody is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Nothing arrives.
    Both,
    /// What is asked is done, but no answer comes.
    Answers,
}

/// The bus.
#[derive(Debug)]
pub(crate) struct Bus {
    broker: MemoryBroker,
    reader: Option<Box<dyn UpstreamReader>>,
    cuts: BTreeMap<Who, Cut>,
    /// What the broker granted, seen from outside: a name has one holder until its time is over.
    granted: BTreeMap<HubId, (SessionId, Instant)>,
    /// Copies of what passed upstream, which may come again.
    strays: Vec<Upstream>,
}

/// The result of a call that never waits.
fn at_once<T>(call: impl Future<Output = T>) -> T {
    call.now_or_never().expect("the broker in memory does not wait")
}

impl Bus {
    pub(crate) fn new(scene: &Scene) -> Self {
        Self {
            broker: MemoryBroker::new(scene.clock.clone()),
            reader: None,
            cuts: BTreeMap::new(),
            granted: BTreeMap::new(),
            strays: Vec::new(),
        }
    }

    /// The broker forgets everything, as after a restart.
    pub(crate) fn flush(&mut self, scene: &Scene) {
        self.broker = MemoryBroker::new(scene.clock.clone());
        self.reader = None;
        self.granted.clear();
    }

    pub(crate) fn cut(&mut self, who: Who, cut: Cut) {
        self.cuts.insert(who, cut);
    }

    pub(crate) fn mend(&mut self, who: Who) {
        self.cuts.remove(&who);
    }

    pub(crate) fn is_cut(&self, who: Who) -> bool {
        self.cuts.contains_key(&who)
    }

    fn call<T>(
        &self,
        who: Who,
        call: impl Future<Output = Result<T, BrokerError>>,
    ) -> Result<T, BrokerError> {
        match self.cuts.get(&who) {
            None => at_once(call),
            Some(Cut::Both) => Err(BrokerError::Unavailable),
            Some(Cut::Answers) => {
                drop(at_once(call));
                Err(BrokerError::Unavailable)
            }
        }
    }

    pub(crate) fn renew(
        &mut self,
        who: Who,
        lease: &HubLease,
        scene: &mut Scene,
    ) -> Result<LeaseGrant, BrokerError> {
        if self.cuts.get(&who) == Some(&Cut::Both) {
            return Err(BrokerError::Unavailable);
        }
        let grant = at_once(self.broker.renew_lease(lease))?;
        let now = scene.now();
        let mine = (lease.incarnation, now + LEASE);
        let before = self.granted.insert(lease.hub.clone(), mine);
        if let Some((holder, until)) = before
            && holder != lease.incarnation
            && until > now
        {
            scene.breaks(format_args!("{} has two holders of its lease at a time", lease.hub));
        }
        if self.is_cut(who) { Err(BrokerError::Unavailable) } else { Ok(grant) }
    }

    pub(crate) fn subscribe(
        &self,
        who: Who,
        lease: &HubLease,
    ) -> Result<Box<dyn Subscription>, BrokerError> {
        self.call(who, self.broker.subscribe(lease))
    }

    pub(crate) fn probe(&self, who: Who) -> Result<(), BrokerError> {
        self.call(who, self.broker.probe())
    }

    pub(crate) fn arrive(
        &self,
        who: Who,
        device: DeviceId,
        presence: Presence,
    ) -> Result<Arrival, BrokerError> {
        self.call(who, self.broker.arrive(device, presence))
    }

    pub(crate) fn restore(
        &self,
        who: Who,
        entries: &[(DeviceId, Presence)],
    ) -> Result<Vec<Arrival>, BrokerError> {
        self.call(who, self.broker.restore(entries))
    }

    pub(crate) fn depart(
        &self,
        who: Who,
        device: DeviceId,
        presence: &Presence,
    ) -> Result<bool, BrokerError> {
        self.call(who, self.broker.depart(device, presence))
    }

    pub(crate) fn locate(
        &self,
        devices: &[DeviceId],
    ) -> Result<Vec<Option<Presence>>, BrokerError> {
        self.call(Who::Api, self.broker.locate(devices))
    }

    pub(crate) fn hubs(&self) -> Result<Vec<HubId>, BrokerError> {
        let mut hubs = self.call(Who::Api, self.broker.hubs())?;
        hubs.sort_by(|a, b| a.hub.cmp(&b.hub));
        Ok(hubs.into_iter().map(|lease| lease.hub).collect())
    }

    pub(crate) fn publish(
        &self,
        who: Who,
        hub: &HubId,
        batch: Vec<Downstream>,
    ) -> Result<usize, BrokerError> {
        self.call(who, self.broker.publish(hub, batch))
    }

    pub(crate) fn send_upstream(&self, who: Who, batch: Vec<Upstream>) -> Result<(), BrokerError> {
        self.call(who, self.broker.send_upstream(batch))
    }

    /// Everything that waits for the control plane. It comes again unless it is acknowledged.
    pub(crate) fn read_upstream(&mut self, scene: &Scene) -> Vec<Upstream> {
        if self.is_cut(Who::Api) {
            return Vec::new();
        }
        if self.reader.is_none() {
            self.reader = at_once(self.broker.read_upstream()).ok();
        }
        let Some(reader) = &mut self.reader else { return Vec::new() };
        let mut batch = match reader.next().now_or_never() {
            Some(Ok(batch)) => batch,
            Some(Err(_)) | None => Vec::new(),
        };
        if !scene.is_healed {
            if scene.one_in(6) && !self.strays.is_empty() {
                batch.push(self.strays.remove(scene.below(self.strays.len())));
            }
            if scene.one_in(6)
                && let Some(stray) = scene.pick(batch.len()).and_then(|at| batch.get(at))
            {
                self.strays.push(stray.clone());
            }
        }
        batch
    }

    pub(crate) fn acknowledge(&mut self) {
        if let Some(reader) = &mut self.reader {
            drop(at_once(reader.acknowledge()));
        }
    }

    /// The reader is gone with what it had not acknowledged.
    pub(crate) fn drop_reader(&mut self) {
        self.reader = None;
    }
}
