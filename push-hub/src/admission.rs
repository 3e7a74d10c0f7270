//! Who is let in, and how fast.
//!
//! Owns the rate limits before a session: per address, and for all handshakes of a kind, before TLS;
//! per device after it. Must not speak to the peer: the listener and the doors do.

use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

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
    handshakes: Option<Direct>,
    resumptions: Option<Direct>,
    sources: Option<Keyed<IpAddr>>,
    devices: Option<Keyed<DeviceId>>,
    slots: Arc<Semaphore>,
    time: Time,
}

impl Admission {
    pub(crate) fn new(config: &AdmissionConfig, clock: &Clock) -> Self {
        let time = Time(clock.clone());
        let keyed = |quota| RateLimiter::new(quota, DashMapStateStore::default(), time.clone());
        let direct = |quota| RateLimiter::direct_with_clock(quota, time.clone());
        let slots = usize::try_from(config.max_handshakes).unwrap_or(Semaphore::MAX_PERMITS);
        Self {
            handshakes: quota(config.handshakes_per_sec, config.handshake_burst, SECOND)
                .map(direct),
            resumptions: quota(config.resumptions_per_sec, config.resumption_burst, SECOND)
                .map(direct),
            sources: quota(config.source_per_sec, config.source_burst, SECOND).map(keyed),
            devices: quota(config.device_per_min, config.device_burst, 60 * SECOND)
                .map(|quota| RateLimiter::new(quota, DashMapStateStore::default(), time.clone())),
            slots: Arc::new(Semaphore::new(slots)),
            time,
        }
    }

    /// A slot for one more connection on its way to a session.
    pub(crate) async fn slot(&self) -> OwnedSemaphorePermit {
        let slot = self.slots.clone().acquire_owned().await;
        slot.expect("the semaphore of the slots is never closed")
    }

    /// At once: costs less than a microsecond.
    pub(crate) fn check_source(&self, source: IpAddr) -> Result<(), Refusal> {
        let Some(limit) = &self.sources else { return Ok(()) };
        limit.check_key(&network(source)).map_err(|_| Refusal::Source)
    }

    /// Before TLS, once the kind of the handshake is known. Who is owed is let in: there are few of
    /// them, and each one's own rate still holds.
    pub(crate) fn check_handshake(&self, rank: Rank) -> Result<(), Refusal> {
        let (limit, refusal) = match rank {
            Rank::Owed => return Ok(()),
            Rank::Resuming => (&self.resumptions, Refusal::Resumptions),
            Rank::Full => (&self.handshakes, Refusal::Handshakes),
        };
        let is_over = limit.as_ref().is_some_and(|limit| limit.check().is_err());
        if is_over { Err(refusal) } else { Ok(()) }
    }

    /// After TLS, for each request.
    pub(crate) fn check_device(&self, device: DeviceId) -> Result<(), Refusal> {
        let Some(limit) = &self.devices else { return Ok(()) };
        limit
            .check_key(&device)
            .map_err(|until| Refusal::Device(until.wait_time_from(self.time.now())))
    }

    /// Forgets addresses and devices that were not seen for long enough to be at their full
    /// allowance.
    pub(crate) fn tidy(&self) {
        if let Some(limit) = &self.sources {
            limit.retain_recent();
            limit.shrink_to_fit();
        }
        if let Some(limit) = &self.devices {
            limit.retain_recent();
            limit.shrink_to_fit();
        }
    }
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
