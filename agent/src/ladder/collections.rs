//! Collections on their way from the spool to the control plane, chunk by chunk.
//!
//! Straight to the control plane, whichever rung stands, and on connections of its own, so that no ack and
//! no receipt ever waits for a chunk. It is asked what it has before anything is sent: what broke off goes on
//! where it was, also after a restart. What is there as a whole leaves the spool. What the disk does not give back
//! as it was written is lost: that is said, and the control plane's answer, that nothing is missing any more, ends it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::StatusCode;
use protocol::collection::{Arrived, Collection, PATH};
use protocol::id::CommandId;
use protocol::limits;
use runtime::lifecycle::CancellationToken;
use runtime::{Backoff, Blocking};
use tokio::sync::Notify;

use super::rotation::Rotation;
use super::{Shared, chain, retry_after};
use crate::execute::collect::spool::{Spool, SpoolError};
use crate::host::Host;
use crate::http::{self, Ask, HttpError};
use crate::reconcile::Event;

/// What an exchange may take beside the bytes themselves, once connected.
const TIMEOUT: Duration = Duration::from_secs(30);

/// How often a disk that reads nothing is tried, one time after the other, before what lies on it is lost; and for
/// how many of the longest pauses between two tries.
const READINGS: u32 = 8;

/// Where spools are, and when to look.
#[derive(Debug)]
pub(crate) struct Carrying {
    /// The agent's state directory.
    pub(crate) state_dir: PathBuf,
    /// Where files are read.
    pub(crate) blocking: Blocking,
    /// Told when receipts are at the control plane.
    pub(crate) stored: Arc<Notify>,
    /// How often each was not read since it was read last, and since when.
    unread: BTreeMap<CommandId, (u32, Instant)>,
    /// Of which it was said that they are lost. The next process says it again, while their spools are there.
    told: BTreeSet<CommandId>,
}

/// Why a collection is not there yet.
#[derive(Debug, thiserror::Error)]
enum CarryError {
    /// There is no address to try.
    #[error("no address is known")]
    NoAddress,
    /// The request failed.
    #[error("the request failed")]
    Http(#[from] HttpError),
    /// The answer is none to what was asked.
    #[error("the answer is not understood: {0}")]
    Answer(String),
    /// The spool cannot be read.
    #[error("the spool cannot be read")]
    Spool(#[from] SpoolError),
    /// Whoever read it is gone.
    #[error("the spool was not read")]
    Gone(#[from] tokio::task::JoinError),
}

impl CarryError {
    /// Whether the control plane never takes it: more than was ordered, or kept long enough.
    fn is_final(&self) -> bool {
        matches!(self, Self::Http(HttpError::Status { status: StatusCode::GONE, .. }))
    }
}

/// Runs until `stop`.
pub(crate) async fn run(shared: Shared, mut carrying: Carrying, stop: CancellationToken) {
    let mut rotation = Rotation::starting(shared.entropy.next_u64());
    let mut backoff = Backoff::new(shared.config.backoff_base, shared.config.backoff_cap);
    loop {
        let pause = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            pause = carrying.round(&shared, &mut rotation, &mut backoff) => pause,
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = carrying.stored.notified() => {}
            () = super::after(pause) => {}
        }
    }
}

impl Carrying {
    /// What lies in the spools of that host.
    pub(crate) fn of(host: &Host, blocking: Blocking) -> Self {
        let (state_dir, stored) = (host.state_dir.clone(), Arc::default());
        Self { state_dir, blocking, stored, unread: BTreeMap::new(), told: BTreeSet::new() }
    }

    /// Carries what there is. Answers when to go on, if something is left.
    async fn round(
        &mut self,
        shared: &Shared,
        rotation: &mut Rotation,
        backoff: &mut Backoff,
    ) -> Option<Duration> {
        let (state_dir, now) = (self.state_dir.clone(), shared.wall());
        let spools = self.blocking.run(move || Spool::all(&state_dir, now)).await;
        let spools = match spools.map_err(CarryError::from).and_then(|read| Ok(read?)) {
            Ok(spools) => spools,
            Err(error) => {
                tracing::warn!(error = chain(&error), "spools were not looked for");
                return Some(shared.config.backoff_base + backoff.next(shared.entropy.next_u64()));
            }
        };
        let mut pause = None;
        for (id, spool) in spools {
            match self.carry(shared, rotation, (id, &spool), backoff).await {
                Ok(()) => {
                    tracing::info!(command.id = %id, "nothing of the collection is missing any more");
                    self.unread.remove(&id);
                    let removed = self.blocking.run(move || spool.remove()).await;
                    drop(removed);
                }
                Err(error) if error.is_final() => {
                    tracing::warn!(command.id = %id, error = chain(&error), "collection is not taken");
                    drop(self.blocking.run(move || spool.remove()).await);
                }
                Err(error) => {
                    rotation.next();
                    tracing::warn!(command.id = %id, error = chain(&error), "collection waits");
                    if self.is_lost(shared, id, &error) && self.told.insert(id) {
                        shared.tell(Event::CollectionLost(id)).await;
                    }
                    let asked = match &error {
                        CarryError::Http(error) => retry_after(error),
                        CarryError::NoAddress
                        | CarryError::Answer(_)
                        | CarryError::Spool(_)
                        | CarryError::Gone(_) => None,
                    };
                    let own = backoff.next(shared.entropy.next_u64());
                    let wait = shared.config.backoff_base + asked.unwrap_or_default().max(own);
                    pause = Some(pause.map_or(wait, |pause: Duration| pause.min(wait)));
                }
            }
        }
        pause
    }

    /// Whether what lies in the spool is gone: it is not as it was written, or was not read time and again and for
    /// long. A disk that fails for a while costs nothing.
    fn is_lost(&mut self, shared: &Shared, id: CommandId, error: &CarryError) -> bool {
        match error {
            CarryError::Spool(SpoolError::Altered) => true,
            CarryError::Spool(_) => {
                let now = shared.clock.now();
                let (times, since) = self.unread.entry(id).or_insert((0, now));
                *times = times.saturating_add(1);
                let lasted = now.saturating_duration_since(*since);
                *times >= READINGS && lasted >= shared.config.backoff_cap * READINGS
            }
            CarryError::NoAddress
            | CarryError::Http(_)
            | CarryError::Answer(_)
            | CarryError::Gone(_) => false,
        }
    }

    /// Sends every chunk that is not there. What is asked for again and again waits for the next round.
    async fn carry(
        &mut self,
        shared: &Shared,
        rotation: &Rotation,
        (id, spool): (CommandId, &Spool),
        backoff: &mut Backoff,
    ) -> Result<(), CarryError> {
        // Asked first: what nobody misses any more needs no reading.
        let mut missing = missing(shared, rotation, id).await?;
        if missing.is_empty() {
            return Ok(());
        }
        let reading = spool.clone();
        let of = self.blocking.run(move || reading.checked()).await??.collection;
        let mut sent = 0_u32;
        while !missing.is_empty() {
            for number in missing {
                if number >= of.chunks || sent >= of.chunks {
                    let asked = format!("chunk {number} after {sent} of {}", of.chunks);
                    return Err(CarryError::Answer(asked));
                }
                let chunk = self.chunk(spool, &of, number).await?;
                self.unread.remove(&id);
                let path = format!("{PATH}/{id}/{number}");
                ask(shared, rotation, &path, Ask::Put(chunk)).await?;
                backoff.reset();
                sent += 1;
            }
            missing = self::missing(shared, rotation, id).await?;
        }
        Ok(())
    }

    async fn chunk(
        &self,
        spool: &Spool,
        of: &Collection,
        number: u32,
    ) -> Result<Vec<u8>, CarryError> {
        let (spool, of) = (spool.clone(), of.clone());
        Ok(self.blocking.run(move || spool.chunk(&of, number)).await??)
    }
}

/// The numbers of chunks that the control plane does not have, in bounds.
async fn missing(
    shared: &Shared,
    rotation: &Rotation,
    id: CommandId,
) -> Result<Vec<u32>, CarryError> {
    let answer = ask(shared, rotation, &format!("{PATH}/{id}"), Ask::Get).await?;
    let arrived: Arrived =
        serde_json::from_slice(&answer).map_err(|error| CarryError::Answer(error.to_string()))?;
    Ok(arrived.missing.into_iter().take(limits::MISSING_CHUNKS).collect())
}

async fn ask(
    shared: &Shared,
    rotation: &Rotation,
    path: &str,
    what: Ask,
) -> Result<hyper::body::Bytes, CarryError> {
    let api = shared.places.borrow().api.clone();
    let address = rotation.current(&api).ok_or(CarryError::NoAddress)?;
    let tls = shared.identity.borrow().tls.clone();
    let stream = shared.dialer.connect(&address, tls, shared.config.connect_timeout).await?;
    // The slowest link takes so long for a chunk.
    let bytes = Duration::from_secs(limits::CHUNK_BYTES as u64 / limits::SLOWEST_LINK);
    Ok(http::ask(stream, (&address, path), what, TIMEOUT + bytes).await?)
}
