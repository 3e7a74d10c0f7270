//! Who is let in, and how fast.
//!
//! Owns the rate limits before a session: per address, for all handshakes of a kind, and for going
//! before others, before TLS; per device after it. Must not speak to the peer: the listener and the
//! doors do.

use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use governor::clock::Clock as GovernorClock;
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::DashMapStateStore;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use protocol::id::DeviceId;
use runtime::{Clock, Entropy};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::AdmissionConfig;
use crate::turns::Rank;

#[cfg(test)]
mod tests;

/// How long agents are asked to stay away when the hub is full or drains, at least; at most
/// twice as long.
const AWAY: Duration = Duration::from_secs(5);

#[derive(Debug, Clone)]
struct Time(Clock);

impl GovernorClock for Time {
    type Instant = Instant;

    fn now(&self) -> Instant {
        self.0.now()
    }
}

type Middleware = NoOpMiddleware<Instant>;
type Keyed<K> = RateLimiter<K, DashMapStateStore<K>, Time, Middleware>;
type Direct = RateLimiter<NotKeyed, InMemoryState, Time, Middleware>;

/// Why a connection or request is turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Too many connections from that address.
    Source,
    /// Too many full TLS handshakes in total.
    Handshakes,
    /// Too many resumed ones.
    Resumptions,
    /// Too many requests of that device; come back after the given time.
    Device(Duration),
    /// As many sessions as there may be.
    Full,
    /// As much memory as there may be.
    Memory,
    /// The hub drains, or another incarnation has its name.
    Draining,
}

impl Refusal {
    /// How long the agent should stay away. Drawn for each: those who are refused in the same
    /// moment do not come back in the same.
    pub(crate) fn retry_after(self, entropy: &Entropy) -> Duration {
        match self {
            Self::Device(wait) => wait,
            Self::Source
            | Self::Handshakes
            | Self::Resumptions
            | Self::Full
            | Self::Memory
            | Self::Draining => {
                let spread = u64::try_from(AWAY.as_millis()).unwrap_or(u64::MAX);
                AWAY + Duration::from_millis(entropy.below(spread))
            }
        }
    }

    /// Whether another hub may have the room that this one lacks.
    pub(crate) const fn is_of_the_hub(self) -> bool {
        match self {
            Self::Device(_) => false,
            Self::Source
            | Self::Handshakes
            | Self::Resumptions
            | Self::Full
            | Self::Memory
            | Self::Draining => true,
        }
    }
}

/// The limits before a session.
#[derive(Debug)]
pub(crate) struct Admission {
    /// The rates of this moment.
    rates: Mutex<Rates>,
    handshakes: ArcSwapOption<Direct>,
    resumptions: ArcSwapOption<Direct>,
    sources: ArcSwapOption<Keyed<IpAddr>>,
    devices: ArcSwapOption<Keyed<DeviceId>>,
    /// How often a device goes before others.
    favours: ArcSwapOption<Keyed<DeviceId>>,
    slots: Slots,
    time: Time,
}

/// What a configuration says of rates; `None` is no limit.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Rates {
    handshakes: Option<Quota>,
    resumptions: Option<Quota>,
    sources: Option<Quota>,
    devices: Option<Quota>,
}

impl Rates {
    fn of(config: &AdmissionConfig) -> Self {
        Self {
            handshakes: quota(config.handshakes_per_sec, config.handshake_burst, SECOND),
            resumptions: quota(config.resumptions_per_sec, config.resumption_burst, SECOND),
            sources: quota(config.source_per_sec, config.source_burst, SECOND),
            devices: quota(config.device_per_min, config.device_burst, 60 * SECOND),
        }
    }
}

impl Admission {
    pub(crate) fn new(config: &AdmissionConfig, clock: &Clock) -> Self {
        let admission = Self {
            rates: Mutex::default(),
            handshakes: ArcSwapOption::empty(),
            resumptions: ArcSwapOption::empty(),
            sources: ArcSwapOption::empty(),
            devices: ArcSwapOption::empty(),
            favours: ArcSwapOption::empty(),
            slots: Slots::default(),
            time: Time(clock.clone()),
        };
        admission.follow(config);
        admission
    }

    /// Takes the limits of other settings. A rate that they leave as it is goes on where it was, so
    /// that reading them again gives nobody a fresh allowance.
    pub(crate) fn follow(&self, config: &AdmissionConfig) {
        let next = Rates::of(config);
        // Nothing inside of the lock can panic halfway through a change.
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        let direct = |quota| Arc::new(RateLimiter::direct_with_clock(quota, self.time.clone()));
        if rates.handshakes != next.handshakes {
            self.handshakes.store(next.handshakes.map(direct));
        }
        if rates.resumptions != next.resumptions {
            self.resumptions.store(next.resumptions.map(direct));
        }
        if rates.sources != next.sources {
            self.sources.store(next.sources.map(|quota| keyed(quota, &self.time)));
        }
        if rates.devices != next.devices {
            self.devices.store(next.devices.map(|quota| keyed(quota, &self.time)));
            self.favours.store(next.devices.map(|quota| keyed(quota, &self.time)));
        }
        *rates = next;
        self.slots.resize(usize::try_from(config.max_handshakes).unwrap_or(usize::MAX));
    }

    /// A slot for one more connection on its way to a session.
    pub(crate) async fn slot(&self) -> OwnedSemaphorePermit {
        self.slots.take().await
    }

    /// At once: costs less than a microsecond.
    pub(crate) fn check_source(&self, source: IpAddr) -> Result<(), Refusal> {
        let limit = self.sources.load();
        let Some(limit) = limit.as_deref() else { return Ok(()) };
        limit.check_key(&network(source)).map_err(|_| Refusal::Source)
    }

    /// Whether a device that is owed goes before others once more: as often as it may make requests.
    /// Beyond, it has the rank and the rate of whoever resumes and is refused nothing else, since
    /// whoever listens on the way can show its ticket as well.
    pub(crate) fn favours(&self, device: DeviceId) -> bool {
        let limit = self.favours.load();
        limit.as_deref().is_none_or(|limit| limit.check_key(&device).is_ok())
    }

    /// Before TLS, once the kind of the handshake is known. Who is owed is let in: there are few of
    /// them, and [`Self::favours`] bounds each.
    pub(crate) fn check_handshake(&self, rank: Rank) -> Result<(), Refusal> {
        let (limit, refusal) = match rank {
            Rank::Owed => return Ok(()),
            Rank::Resuming => (&self.resumptions, Refusal::Resumptions),
            Rank::Full => (&self.handshakes, Refusal::Handshakes),
        };
        let is_over = limit.load().as_deref().is_some_and(|limit| limit.check().is_err());
        if is_over { Err(refusal) } else { Ok(()) }
    }

    /// After TLS, for each request.
    pub(crate) fn check_device(&self, device: DeviceId) -> Result<(), Refusal> {
        let limit = self.devices.load();
        let Some(limit) = limit.as_deref() else { return Ok(()) };
        limit
            .check_key(&device)
            .map_err(|until| Refusal::Device(until.wait_time_from(self.time.now())))
    }

    /// Forgets addresses and devices that were not seen for long enough to be at their full
    /// allowance.
    pub(crate) fn tidy(&self) {
        if let Some(limit) = self.sources.load().as_deref() {
            limit.retain_recent();
            limit.shrink_to_fit();
        }
        for limit in [&self.devices, &self.favours] {
            if let Some(limit) = limit.load().as_deref() {
                limit.retain_recent();
                limit.shrink_to_fit();
            }
        }
    }
}

/// Slots whose number may change while some are taken.
#[derive(Debug)]
struct Slots {
    free: Arc<Semaphore>,
    count: Mutex<Count>,
}

#[derive(Debug, Default)]
struct Count {
    /// As many as there should be.
    all: usize,
    /// Taken ones that do not come back, since there should be fewer.
    surplus: usize,
}

impl Default for Slots {
    fn default() -> Self {
        Self { free: Arc::new(Semaphore::new(0)), count: Mutex::default() }
    }
}

impl Slots {
    fn resize(&self, all: usize) {
        let all = all.min(Semaphore::MAX_PERMITS);
        let mut count = self.lock();
        let more = all.saturating_sub(count.all);
        let fewer = count.all.saturating_sub(all);
        let kept = more.min(count.surplus);
        self.free.add_permits(more - kept);
        count.surplus = count.surplus - kept + fewer - self.free.forget_permits(fewer);
        count.all = all;
    }

    async fn take(&self) -> OwnedSemaphorePermit {
        loop {
            let slot = self.free.clone().acquire_owned().await;
            let slot = slot.expect("the semaphore of the slots is never closed");
            let mut count = self.lock();
            if count.surplus == 0 {
                return slot;
            }
            count.surplus -= 1;
            slot.forget();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Count> {
        // Nothing inside of the lock can panic halfway through a change.
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn keyed<K: std::hash::Hash + Eq + Clone>(quota: Quota, time: &Time) -> Arc<Keyed<K>> {
    Arc::new(RateLimiter::new(quota, DashMapStateStore::default(), time.clone()))
}

const SECOND: Duration = Duration::from_secs(1);

/// `None` for a rate of 0: no limit.
fn quota(rate: u32, burst: u32, per: Duration) -> Option<Quota> {
    let rate = NonZeroU32::new(rate)?;
    let burst = NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN);
    Quota::with_period(per / rate.get()).map(|quota| quota.allow_burst(burst))
}

/// What counts as one source: an IPv4 address, or the /64 that one IPv6 subscriber has.
fn network(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
    }
}
