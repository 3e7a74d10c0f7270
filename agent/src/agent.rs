//! An agent as a value: started with its configuration and its surroundings, and drained.
//!
//! Owns the order of starting: lock and quarantine are re-asserted before any network, and the
//! journal is read before any frame.

use std::sync::Arc;
use std::time::Duration;

use protocol::id::BootId;
use protocol::time::Timestamp;
use runtime::clock::{BOOT_ID_PATH, boot_id};
use runtime::lifecycle::{CancellationToken, TaskError, Tasks};
use runtime::tls::pki_types::CertificateDer;
use runtime::tls::{PemError, read_certificates};
use runtime::{Blocking, Clock, Drain, Entropy};
use tokio::sync::{Notify, mpsc, watch};

use crate::addresses::AddressBook;
use crate::config::{ArmingConfig, Config, InvalidConfig};
use crate::execute::{quarantine, wipe};
use crate::hellos::Hellos;
use crate::host::Host;
use crate::http::Dialer;
use crate::identity::{Identity, IdentityError, KeyPair, certificates, pins};
use crate::ladder::collections::Carrying;
use crate::ladder::suspend::Watch;
use crate::ladder::{self, Obstacle, Places, PushState, Shared};
use crate::offline::{self, Asked, Desk};
use crate::recognise::{ByTls, Recognise};
use crate::reconcile::{Core, Event, Reconcile, Storage, StorageError};
use crate::renew::{Renewal, places};
use crate::standing::Standing;
use crate::state::{Enrollment, StateDir, StateError, TrustChain};
use crate::status::{CoreStatus, LadderStatus, Rung, Sources, Status};

/// Events on their way to the core.
const EVENTS: usize = 256;
/// How long a drain waits for the step that an executor is in.
const GRACE: Duration = Duration::from_secs(30);

/// Why an agent does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration is not usable.
    #[error("configuration of the agent is not valid")]
    Config(#[from] InvalidConfig),
    /// The state directory is not usable, or holds no enrollment.
    #[error("the agent cannot start on its state directory")]
    State(#[from] StateError),
    /// Journal, trust roots or time are not usable.
    #[error("the agent cannot start on what it remembers")]
    Storage(#[from] StorageError),
    /// Key or certificate are not usable.
    #[error("the agent cannot start with its key and certificate")]
    Identity(#[from] IdentityError),
    /// The configured authorities are not usable.
    #[error("the configured authorities cannot be read")]
    Authorities(#[from] PemError),
}

/// What an agent needs from its surroundings.
#[derive(Debug)]
pub struct Deps {
    /// Time.
    pub clock: Clock,
    /// Chance.
    pub entropy: Entropy,
    /// The drain of the process, or a child of it.
    pub drain: Drain,
}

/// What an agent uses of the machine besides its files.
#[derive(Debug, Clone, Default)]
pub struct Machine {
    /// How it connects.
    pub dialer: Dialer,
    /// Where work runs that waits for disks and executors.
    pub blocking: Blocking,
}

/// A running agent. Dropping it cuts everything; what it was doing is recovered at the next start.
#[derive(Debug)]
pub struct Agent {
    tasks: Tasks,
    drain: Drain,
    sources: Arc<Sources>,
}

impl Agent {
    /// Reads everything from the state directory, re-asserts lock and quarantine, and begins to
    /// climb the ladder. Blocks while it reads.
    ///
    /// # Errors
    /// See [`StartError`]; an agent without enrollment does not start, armed or not.
    pub fn start(config: Config, deps: Deps) -> Result<Self, StartError> {
        Self::start_on(Machine::default(), config, deps)
    }

    /// [`Agent::start`] with the network and the threads of that machine.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start_on(mut machine: Machine, config: Config, deps: Deps) -> Result<Self, StartError> {
        config.check()?;
        let state = StateDir::open(&config.state_dir)?;
        let enrollment =
            state.enrollment()?.ok_or_else(|| StateError::NotEnrolled(state.path().to_owned()))?;
        let fixed =
            Places { hubs: config.addresses.hubs.clone(), api: config.addresses.api.clone() };
        let places = places(&enrollment, &fixed);
        let mut host = config.host();
        host.control_plane = literal_addresses(&places);
        host.book = AddressBook::open(state.path());
        let standing = config.acts().then(|| Standing::at_start(&host));
        if standing.is_some() {
            host.book.left_open(&quarantine::left_open(&host));
        }
        machine.dialer = machine.dialer.remembering(host.book.clone(), machine.blocking);

        let key = KeyPair::load(&state.key_path(), &config.key.tpm)?;
        host.tpm.holds_device_key = key.is_in_tpm();
        let fixed_authorities =
            config.addresses.ca.as_deref().map(read_certificates).transpose()?;
        let authorities = match &fixed_authorities {
            Some(fixed) => fixed.clone(),
            None => certificates(&enrollment.ca)?,
        };
        let who = (enrollment.device_id, enrollment.generation);
        let pins = pins(&TrustChain::load(&state)?.in_force().authority_pins);
        let identity = Identity::new(who, &key, &enrollment.certificate, (&authorities, &pins))?;
        let (identity, places) = (watch::channel(identity), watch::channel(places));
        host.recognise = recognition(identity.1.clone(), places.1.clone());
        let desk = Desk::open(standing.as_ref().map(|_| host.state_dir.as_path()));
        let start =
            Start { machine, config, deps, state, enrollment, host, places, standing, desk };
        start.run(key, identity, (fixed, fixed_authorities))
    }

    /// What the agent tells about itself now. Reads two small files.
    pub fn status(&self) -> Status {
        self.sources.status()
    }

    /// Stops in order: the step that an executor is in is waited for, what follows is left to the
    /// next start.
    ///
    /// # Errors
    /// The first task that failed.
    pub async fn drain(self) -> Result<(), TaskError> {
        self.drain.begin(GRACE);
        self.tasks.wait().await
    }

    /// Waits until the drain that was given at the start has stopped the agent.
    ///
    /// # Errors
    /// The first task that failed.
    pub async fn wait(self) -> Result<(), TaskError> {
        self.tasks.wait().await
    }
}

/// Addresses and authorities of the configuration file, in place of the signed ones.
type Fixed = (Places, Option<Vec<CertificateDer<'static>>>);

/// Something that changes while the agent runs: who writes it, and who reads it.
type Kept<T> = (watch::Sender<T>, watch::Receiver<T>);

/// Everything that is known before the first task runs.
struct Start {
    machine: Machine,
    config: Config,
    deps: Deps,
    state: StateDir,
    enrollment: Enrollment,
    host: Host,
    places: Kept<Places>,
    standing: Option<Standing>,
    desk: (Option<Desk>, mpsc::Receiver<Asked>),
}

impl Start {
    fn run(
        self,
        key: KeyPair,
        (identity, identity_now): Kept<Identity>,
        (fixed, fixed_authorities): Fixed,
    ) -> Result<Agent, StartError> {
        let Self { machine, config, deps, state, enrollment, host, places, standing, desk } = self;
        let Deps { clock, entropy, drain } = deps;
        let (state, wall) = (Arc::new(state), Timestamp::from_millis(clock.unix_millis()));
        let (storage, ledger, records) = Storage::open(state.clone(), &enrollment, wall)?;
        let (core_status, core_now) = watch::channel(CoreStatus::default());
        let (ladder_status, ladder_now) = watch::channel(LADDER_AT_START);
        let (events, taken) = mpsc::channel::<Event>(EVENTS);
        let (boot_id, arming) = (this_boot(&entropy), arming(config.host.arming));
        let (epochs, carrying) = (storage.epochs(), Carrying::of(&host, machine.blocking));

        let core = Core {
            clock: clock.clone(),
            blocking: machine.blocking,
            entropy: entropy.clone(),
            key: key.clone(),
            identity: identity_now.clone(),
            places: places.1.clone(),
            host: Arc::new(host.clone()),
            is_armed: config.is_armed(),
            is_simulated: config.host.arming == ArmingConfig::Simulated,
            boot_id,
            config: config.ladder.clone(),
            epochs: epochs.clone(),
            status: core_status,
            asked: desk.1,
            stored: carrying.stored.clone(),
        };
        let reconcile = Reconcile::resumed(core, storage, (ledger, &records), standing);
        let shared = Shared {
            clock: clock.clone(),
            entropy: entropy.clone(),
            config: config.ladder.clone(),
            dialer: machine.dialer,
            identity: identity_now.clone(),
            places: places.1,
            core: core_now.clone(),
            direct: reconcile.direct(),
            boot_id,
            epochs,
            hellos: Hellos::new(clock.clone(), state.clone()),
            capabilities: ladder::capabilities(arming, wipe::is_provable(&host)),
            events,
            status: Arc::new(ladder_status),
            renew: Arc::new(Notify::new()),
        };
        let renewal = Renewal {
            shared: shared.clone(),
            key,
            enrollment,
            state,
            identity,
            places: places.0,
            fixed,
            fixed_authorities,
        };
        let sources = Arc::new(Sources {
            clock,
            blocking: machine.blocking,
            host,
            boot_id,
            arming,
            identity: identity_now,
            ladder: ladder_now,
            core: core_now,
        });
        let (mut tasks, stop) = climb(&drain, shared, (renewal, desk.0, carrying), &sources.host);
        tasks.spawn("reconcile", ok(reconcile.run(taken, stop.clone())));
        tasks.spawn("status", ok(Sources::keep(sources.clone(), stop)));
        Ok(Agent { tasks, drain, sources })
    }
}

const LADDER_AT_START: LadderStatus = LadderStatus {
    rung: Rung::Down,
    session_id: None,
    address: None,
    degraded_since: None,
    last_error: None,
};

/// Starts the two loops of the ladder, and what looks after the way to them. Answers them with what ends them and all that joins them.
fn climb(
    drain: &Drain,
    shared: Shared,
    (renewal, desk, carrying): (Renewal, Option<Desk>, Carrying),
    host: &Host,
) -> (Tasks, CancellationToken) {
    let mut tasks = Tasks::new(drain.clone(), GRACE);
    let start = PushState::Down { failures: 0, obstacle: Obstacle::Unreachable };
    let (state, fares) = watch::channel(start);
    let reached = Arc::new(Notify::new());
    let stop = drain.soft().clone();
    let (told, tells) = (reached.clone(), reached);
    let (end, ended) = (stop.clone(), stop.clone());
    let sleep = Watch::new(shared.clock.clone(), host.path("/proc/uptime"));
    let carry = ladder::collections::run(shared.clone(), carrying, stop.clone());
    tasks.spawn("collections", ok(carry));
    let (push, direct, lower) = (shared.clone(), shared.clone(), shared);
    tasks.spawn("direct", ok(ladder::direct::run(direct, stop.clone())));
    let push = async move { ladder::push::run(push, state, &told, sleep, end).await };
    tasks.spawn("push", ok(push));
    tasks.spawn("lower", ok(async move { ladder::lower::run(lower, fares, &tells, ended).await }));
    tasks.spawn("renewal", ok(renewal.run(stop.clone())));
    tasks.spawn("offline", ok(offline::serve(desk, stop.clone())));
    (tasks, stop)
}

async fn ok(task: impl Future<Output = ()>) -> Result<(), std::convert::Infallible> {
    task.await;
    Ok(())
}

/// Whoever would take part in a session of this device, by its certificate and configuration as of now.
fn recognition(
    identity: watch::Receiver<Identity>,
    places: watch::Receiver<Places>,
) -> Arc<dyn Recognise> {
    Arc::new(ByTls::new(move || {
        let places = places.borrow().clone();
        let all = places.hubs.into_iter().chain(places.api).collect();
        (identity.borrow().tls.clone(), all)
    }))
}

/// The addresses, when none of them needs a name service; else those that a quarantine recorded
/// serve better than a part of them.
fn literal_addresses(places: &Places) -> Vec<std::net::SocketAddr> {
    let all = || places.hubs.iter().chain(&places.api);
    let parsed = all().map(|place| crate::http::bare(place).parse());
    parsed.collect::<Result<_, _>>().unwrap_or_default()
}

pub(crate) fn this_boot(entropy: &Entropy) -> BootId {
    boot_id(std::path::Path::new(BOOT_ID_PATH), entropy)
        .parse()
        .unwrap_or_else(|_| BootId::new(Timestamp::default(), entropy.bytes()))
}

const fn arming(arming: ArmingConfig) -> &'static str {
    match arming {
        ArmingConfig::Off => "off",
        ArmingConfig::Armed => "armed",
        ArmingConfig::Sandboxed => "sandboxed",
        ArmingConfig::Simulated => "simulated",
    }
}
