//! How often a device or an address may ask, and how many events it may cause.
//!
//! Owns the rate limits of the agent port and of the audit log. Keys are what TLS and TCP say,
//! never a header. Kept in memory: a restart gives everybody their full allowance.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use governor::clock::Clock as GovernorClock;
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};
use protocol::id::DeviceId;
use runtime::Clock;

use crate::app::App;
use crate::config::Config;
use crate::http::Problem;

/// Events per minute about answers of one device to envelopes that never were.
const STRANGERS: u32 = 4;

/// Chunks of collections that one device may bring per minute, and at once.
const CHUNKS: (u32, u32) = (240, 60);
/// Chunks that are read at once, of all devices: each is held in memory.
const CHUNK_PLACES: u32 = 32;
/// Of one device: it brings one after the other, and one more whose connection broke off unnoticed.
const CHUNK_PLACES_OF_ONE: u32 = 2;
/// When to try again for a place.
const CHUNK_WAIT: Duration = Duration::from_secs(1);

/// The place of a chunk that is being read.
#[derive(Debug)]
pub(crate) struct ChunkPlace<'a> {
    places: &'a Mutex<BTreeMap<DeviceId, u32>>,
    device: DeviceId,
}

impl Drop for ChunkPlace<'_> {
    fn drop(&mut self) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = places.get_mut(&self.device) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                places.remove(&self.device);
            }
        }
    }
}

/// Streams of one token at once.
const STREAMS: u32 = 16;
/// When to try again for a stream.
const STREAM_WAIT: Duration = Duration::from_secs(10);

/// The place of an open stream.
#[derive(Debug)]
pub(crate) struct StreamPlace {
    app: App,
    token: String,
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        let streams = &self.app.limits.streams;
        let mut streams = streams.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = streams.get_mut(&self.token) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                streams.remove(&self.token);
            }
        }
    }
}

#[derive(Debug, Clone)]
struct Time(Clock);

impl GovernorClock for Time {
    type Instant = Instant;

    fn now(&self) -> Instant {
        self.0.now()
    }
}

type Keyed<K> = RateLimiter<K, DashMapStateStore<K>, Time, NoOpMiddleware<Instant>>;

/// The limits.
#[derive(Debug)]
pub struct Limits {
    check_ins: ArcSwapOption<Keyed<DeviceId>>,
    enrolls: ArcSwapOption<Keyed<IpAddr>>,
    sign_ins: ArcSwapOption<Keyed<IpAddr>>,
    chunks: Keyed<DeviceId>,
    /// Chunks that are being read, by device; none without.
    chunk_places: Mutex<BTreeMap<DeviceId, u32>>,
    facts: Keyed<DeviceId>,
    rollbacks: Keyed<DeviceId>,
    raises: Keyed<DeviceId>,
    old_certificates: Keyed<DeviceId>,
    strangers: Keyed<DeviceId>,
    /// By subjects of the provider, which has said that they are its own.
    refused_sign_ins: Keyed<String>,
    /// Open streams by token.
    streams: Mutex<BTreeMap<String, u32>>,
    time: Time,
}

impl Limits {
    /// The limits of a configuration, everybody at their full allowance.
    pub fn new(config: &Config, clock: &Clock) -> Self {
        let time = Time(clock.clone());
        let one = per_minute(NonZeroU32::MIN, NonZeroU32::MIN);
        let once = || keyed(one, &time);
        let number = |number| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
        let strangers = number(STRANGERS);
        let limits = Self {
            check_ins: ArcSwapOption::empty(),
            enrolls: ArcSwapOption::empty(),
            sign_ins: ArcSwapOption::empty(),
            chunks: keyed(per_minute(number(CHUNKS.0), number(CHUNKS.1)), &time),
            chunk_places: Mutex::default(),
            facts: once(),
            rollbacks: once(),
            raises: once(),
            old_certificates: once(),
            strangers: keyed(per_minute(strangers, strangers), &time),
            refused_sign_ins: keyed(one, &time),
            streams: Mutex::default(),
            time,
        };
        limits.follow(config);
        limits
    }

    /// Takes the rates of another configuration, everybody at their full allowance.
    pub(crate) fn follow(&self, config: &Config) {
        let check_ins = quota(config.check_ins_per_min, config.check_in_burst);
        let enrolls = quota(config.enrolls_per_min, config.enroll_burst);
        let sign_ins = quota(config.sign_ins_per_min, config.sign_ins_per_min);
        self.check_ins.store(check_ins.map(|quota| Arc::new(keyed(quota, &self.time))));
        self.enrolls.store(enrolls.map(|quota| Arc::new(keyed(quota, &self.time))));
        self.sign_ins.store(sign_ins.map(|quota| Arc::new(keyed(quota, &self.time))));
    }

    /// A place for one more stream of that token, until it is dropped.
    pub(crate) fn stream(app: &App, token: String) -> Result<StreamPlace, Problem> {
        let mut streams = app.limits.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let count = streams.entry(token.clone()).or_default();
        if *count >= STREAMS {
            return Err(Problem::too_many("streams of this token", STREAM_WAIT));
        }
        *count += 1;
        drop(streams);
        Ok(StreamPlace { app: app.clone(), token })
    }

    /// Before a check-in of that device is read.
    pub(crate) fn check_in(&self, device: DeviceId) -> Result<(), Problem> {
        let Some(limit) = self.check_ins.load_full() else { return Ok(()) };
        limit.check_key(&device).map_err(|until| {
            Problem::too_many("check-ins of this device", until.wait_time_from(self.time.now()))
        })
    }

    /// Before a chunk of that device is read.
    pub(crate) fn chunk(&self, device: DeviceId) -> Result<(), Problem> {
        self.chunks.check_key(&device).map_err(|until| {
            let wait = until.wait_time_from(self.time.now());
            Problem::too_many("chunks of this device", wait)
        })
    }

    /// A place for one chunk of that device in memory, until it is dropped.
    pub(crate) fn chunk_place(&self, device: DeviceId) -> Result<ChunkPlace<'_>, Problem> {
        let mut places = self.chunk_places.lock().unwrap_or_else(PoisonError::into_inner);
        let taken: u32 = places.values().sum();
        let own = places.get(&device).copied().unwrap_or_default();
        if own >= CHUNK_PLACES_OF_ONE {
            return Err(Problem::too_many("chunks of this device at once", CHUNK_WAIT));
        }
        if taken >= CHUNK_PLACES {
            return Err(Problem::too_many("chunks at once", CHUNK_WAIT));
        }
        places.insert(device, own + 1);
        Ok(ChunkPlace { places: &self.chunk_places, device })
    }

    /// Before an enrollment from that address is read.
    pub(crate) fn enroll(&self, source: IpAddr) -> Result<(), Problem> {
        let Some(limit) = self.enrolls.load_full() else { return Ok(()) };
        limit.check_key(&network(source)).map_err(|until| {
            let wait = until.wait_time_from(self.time.now());
            Problem::too_many("enrollments from this address", wait)
        })
    }

    /// Before a sign-in from that address is read.
    pub(crate) fn sign_in(&self, source: IpAddr) -> Result<(), Problem> {
        let Some(limit) = self.sign_ins.load_full() else { return Ok(()) };
        limit.check_key(&network(source)).map_err(|until| {
            let wait = until.wait_time_from(self.time.now());
            Problem::too_many("sign-ins from this address", wait)
        })
    }

    /// Whether other facts that a device reports of itself are worth an event now.
    pub(crate) fn takes_facts(&self, device: DeviceId) -> bool {
        self.facts.check_key(&device).is_ok()
    }

    /// Whether a device's lost journal is worth an event now.
    pub(crate) fn takes_rollback(&self, device: DeviceId) -> bool {
        self.rollbacks.check_key(&device).is_ok()
    }

    /// Whether numbers that a device has seen and the store has not given are worth an event now.
    pub(crate) fn takes_raise(&self, device: DeviceId) -> bool {
        self.raises.check_key(&device).is_ok()
    }

    /// Whether a device's old certificate is worth an event now.
    pub(crate) fn takes_old_certificate(&self, device: DeviceId) -> bool {
        self.old_certificates.check_key(&device).is_ok()
    }

    /// Whether a device's answer to an envelope that never was is worth an event now.
    pub(crate) fn takes_stranger(&self, device: DeviceId) -> bool {
        self.strangers.check_key(&device).is_ok()
    }

    /// Whether somebody who is nobody here, and tried to sign in, is worth an event now.
    pub(crate) fn takes_refused_sign_in(&self, subject: &str) -> bool {
        self.refused_sign_ins.check_key(&subject.to_owned()).is_ok()
    }

    /// Forgets whoever is back at their full allowance.
    pub(crate) fn tidy(&self) {
        if let Some(limit) = self.check_ins.load_full() {
            limit.retain_recent();
        }
        for limit in [&self.enrolls, &self.sign_ins].into_iter().filter_map(|l| l.load_full()) {
            limit.retain_recent();
        }
        self.refused_sign_ins.retain_recent();
        let devices = [
            &self.chunks,
            &self.facts,
            &self.rollbacks,
            &self.raises,
            &self.old_certificates,
            &self.strangers,
        ];
        for limit in devices {
            limit.retain_recent();
        }
    }
}

fn keyed<K: Clone + Eq + std::hash::Hash>(quota: Quota, time: &Time) -> Keyed<K> {
    RateLimiter::new(quota, DashMapStateStore::default(), time.clone())
}

const fn per_minute(rate: NonZeroU32, burst: NonZeroU32) -> Quota {
    Quota::per_minute(rate).allow_burst(burst)
}

/// `None` for a rate of 0: no limit.
fn quota(rate: u32, burst: u32) -> Option<Quota> {
    let burst = NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN);
    Some(per_minute(NonZeroU32::new(rate)?, burst))
}

/// What counts as one source: an IPv4 address, or the /64 that one IPv6 subscriber has.
fn network(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn hostile_device_takes_no_places_of_others() {
        let (clock, _hand) = Clock::manual();
        let limits = Limits::new(&Config::default(), &clock);
        let device = |number| DeviceId::from_uuid(Uuid::from_u128(number));
        let place = |number| limits.chunk_place(device(number));
        let own = [place(0).expect("one"), place(0).expect("another")];
        assert!(place(0).is_err(), "no third one");
        let others: Vec<_> = (1..16).flat_map(|number| [place(number), place(number)]).collect();
        assert!(others.iter().all(Result::is_ok));
        assert!(place(99).is_err(), "all are taken");
        drop(own);
        assert!(place(99).is_ok());
        drop(others);
        assert!(limits.chunk_places.lock().expect("it").is_empty(), "nobody is remembered");
    }
}
