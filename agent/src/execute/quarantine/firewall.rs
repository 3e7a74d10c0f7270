//! Puts quarantine's tables up and takes them down, each in one transaction, and holds them.
//!
//! It must never name a table other than quarantine's own in anything that changes. Whoever acts
//! takes a turn, so that an executor and the watch never change the same at once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use nix::errno::Errno;
use protocol::receipt::{Failure, FailureKind};

use super::super::failure;
use super::kernel::{self, OF_TABLE, OWNED, Observed, PERSISTENT};
use super::links;
use super::netlink::{Batch, NetlinkError, Notices, Socket, Subsystem, Value};
use super::rule::Rule;
use super::ruleset::{self, CANARY, Chain, INET, NETDEV, ON_DEVICE, PRIORITY, Peers, TABLE};

/// Kinds of nf_tables messages.
const NEW_TABLE: u8 = 0;
const DELETE_TABLE: u8 = 2;
const NEW_CHAIN: u8 = 3;
const NEW_RULE: u8 = 6;

/// Attempts of one loading: for each part that a kernel may lack, and for devices that vanish
/// between the look and the transaction.
const ATTEMPTS: usize = 6;

/// The process's hold on quarantine's tables.
///
/// The kernel lets nobody but the socket that made an owned table change it. That socket is kept
/// here for as long as the process lives; the tables outlive it.
#[derive(Debug, Clone, Default)]
pub struct Firewall(Arc<Mutex<Hold>>);

/// What is not even tried, as on a kernel that lacks it. Others are found out by trying.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lacks {
    /// Tables that belong to a socket and outlive it (6.9).
    pub owner: bool,
    /// Hooks on what leaves devices (5.16).
    pub egress: bool,
}

#[derive(Debug, Default)]
struct Hold {
    owner: Option<Socket>,
    lacks: Lacks,
    /// Digest of what was loaded last.
    loaded_sha256: Option<String>,
    /// Since when an unconfirmed quarantine was seen between commands.
    pub(super) unconfirmed_since: Option<Instant>,
}

impl Firewall {
    /// Does without what is named.
    pub fn lacking(lacks: Lacks) -> Self {
        Self(Arc::new(Mutex::new(Hold { lacks, ..Hold::default() })))
    }

    /// Lets the tables go, as the end of the process does: they stand on, and may be changed.
    pub fn let_go(&self) {
        let mut turn = self.turn("let_go");
        (turn.hold.owner, turn.hold.loaded_sha256) = (None, None);
    }

    /// Waits for a turn; failures will name that stage.
    pub(super) fn turn(&self, stage: &'static str) -> Turn<'_> {
        let hold = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Turn { hold, stage }
    }
}

/// The right to look and to act, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    hold: MutexGuard<'a, Hold>,
    stage: &'static str,
}

/// How the frames of devices are judged.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Egress {
    /// By a chain for each device that is there.
    Listed(Vec<String>),
    /// Not at all: the kernel has no such hook.
    None,
}

/// What of the kernel a transaction uses.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Level {
    is_owned: bool,
    egress: Egress,
}

/// Which part of a transaction a message belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Removal,
    Table,
    Inet,
    Egress,
}

impl Turn<'_> {
    /// What stands.
    pub(super) fn look(&mut self) -> Result<Observed, Failure> {
        let stage = self.stage;
        self.with_socket(Observed::now).map_err(|error| failed(stage, error))
    }

    /// Digest of the machine's own tables. That they cannot be listed must not stop a quarantine.
    pub(super) fn others_sha256(&mut self) -> Option<String> {
        self.with_socket(kernel::others_sha256)
            .inspect_err(|error| tracing::warn!(%error, "tables could not be listed"))
            .ok()
    }

    /// Lets the kernel judge what [`Turn::load`] would do, without doing it.
    pub(super) fn check(&mut self, peers: Peers<'_>) -> Result<(), Failure> {
        self.transact(peers, Socket::check)
    }

    /// Replaces whatever quarantine stands by this one: all of it or nothing.
    pub(super) fn load(&mut self, peers: Peers<'_>) -> Result<Observed, Failure> {
        self.transact(peers, Socket::commit)?;
        let observed = self.look()?;
        self.hold.loaded_sha256 = Some(observed.sha256.clone());
        Ok(observed)
    }

    /// Digest of what this process loaded last, if it did.
    pub(super) fn loaded_sha256(&self) -> Option<&str> {
        self.hold.loaded_sha256.as_deref()
    }

    /// Since when an unconfirmed quarantine was seen between commands; for the caller to keep.
    pub(super) fn unconfirmed_since(&mut self) -> &mut Option<Instant> {
        &mut self.hold.unconfirmed_since
    }

    /// Removes quarantine's tables, those that are there.
    pub(super) fn delete(&mut self) -> Result<(), Failure> {
        let observed = self.look()?;
        let stage = self.stage;
        let mut plan = Transaction::default();
        plan.remove(&observed);
        if plan.batch.len() > 0 {
            let act = |socket: &mut Socket| {
                not_held(&observed, socket.port())?;
                socket.commit(plan.batch)
            };
            self.with_socket(act).map_err(|error| failed(stage, error))?;
        }
        self.hold.loaded_sha256 = None;
        self.hold.owner = None;
        Ok(())
    }

    /// Devices whose frames nothing judges; none where the kernel cannot judge any.
    pub(super) fn uncovered(&mut self, observed: &Observed) -> Result<Vec<String>, Failure> {
        if observed.table(NETDEV, TABLE).is_none() {
            return Ok(Vec::new());
        }
        let devices = links::devices().map_err(|error| failed(self.stage, error))?;
        Ok(observed.uncovered(devices))
    }

    /// The socket that owns the tables, or one for this moment.
    fn with_socket<T>(
        &mut self,
        work: impl FnOnce(&mut Socket) -> Result<T, NetlinkError>,
    ) -> Result<T, NetlinkError> {
        match &mut self.hold.owner {
            Some(owner) => work(owner),
            None => work(&mut Socket::open(Subsystem::Netfilter, Notices::None)?),
        }
    }

    fn transact(
        &mut self,
        peers: Peers<'_>,
        act: fn(&mut Socket, Batch) -> Result<(), NetlinkError>,
    ) -> Result<(), Failure> {
        let stage = self.stage;
        let mut socket = match self.hold.owner.take() {
            Some(owner) => owner,
            None => Socket::open(Subsystem::Netfilter, Notices::None)
                .map_err(|error| failed(stage, error))?,
        };
        let Lacks { owner, egress } = self.hold.lacks;
        let devices = links::devices().map_err(|error| failed(stage, error))?;
        let egress = if egress { Egress::None } else { Egress::Listed(devices) };
        let mut level = Level { is_owned: !owner, egress };
        let outcome = attempt(&mut socket, peers, &mut level, act);
        // Also after a failure: what stood before may be this socket's.
        if level.is_owned {
            self.hold.owner = Some(socket);
        }
        outcome.map_err(|error| failed(stage, error))
    }
}

/// Tries with all that a kernel may have, and with less wherever it declines.
fn attempt(
    socket: &mut Socket,
    peers: Peers<'_>,
    level: &mut Level,
    act: fn(&mut Socket, Batch) -> Result<(), NetlinkError>,
) -> Result<(), NetlinkError> {
    let mut last = NetlinkError::Garbled;
    for _ in 0..ATTEMPTS {
        let observed = Observed::now(socket)?;
        not_held(&observed, socket.port())?;
        let plan = Transaction::new(&observed, peers, level);
        let parts = plan.parts;
        let Err(error) = act(socket, plan.batch) else { return Ok(()) };
        last = error;
        let NetlinkError::Declined { message, errno } = error else { return Err(error) };
        if matches!(errno, Errno::EPERM | Errno::ENOMEM | Errno::ENOBUFS) {
            return Err(error);
        }
        match parts.get(message) {
            Some(Part::Table) if level.is_owned => level.is_owned = false,
            Some(Part::Egress) => level.egress = level.egress.lower()?,
            // Somebody else removed a table in between.
            Some(Part::Removal) if errno == Errno::ENOENT => {}
            Some(Part::Table | Part::Inet | Part::Removal) | None => return Err(error),
        }
    }
    Err(last)
}

/// That nobody but this socket holds a table.
fn not_held(observed: &Observed, port: u32) -> Result<(), NetlinkError> {
    let holders = observed.tables.iter().filter_map(|table| table.owner);
    holders.filter(|owner| *owner != port).map(NetlinkError::Held).map(Err).next().unwrap_or(Ok(()))
}

impl Egress {
    /// What to try when this was declined. A list fails when a device vanishes, or when the kernel
    /// has no such hook: the same list twice means the latter.
    fn lower(&self) -> Result<Self, NetlinkError> {
        let devices = links::devices()?;
        Ok(match self {
            Self::Listed(former) if *former != devices => Self::Listed(devices),
            Self::Listed(_) | Self::None => Self::None,
        })
    }
}

/// A transaction with what each of its messages is for.
#[derive(Debug, Default)]
struct Transaction {
    batch: Batch,
    parts: Vec<Part>,
}

impl Transaction {
    fn new(observed: &Observed, peers: Peers<'_>, level: &Level) -> Self {
        let mut this = Self::default();
        this.remove(observed);
        let flags = if level.is_owned { OWNED | PERSISTENT } else { 0 };
        this.table(Part::Table, (INET, TABLE), flags);
        this.chains(Part::Inet, INET, &ruleset::inet(peers));
        this.table(Part::Inet, (INET, CANARY), 0);
        if level.egress != Egress::None {
            this.table(Part::Egress, (NETDEV, TABLE), flags);
            this.chains(Part::Egress, NETDEV, &ruleset::egress(peers));
        }
        match &level.egress {
            Egress::Listed(devices) => {
                for (number, name) in devices.iter().enumerate() {
                    this.device(&format!("device_{number}"), name);
                }
            }
            Egress::None => {}
        }
        this
    }

    fn remove(&mut self, observed: &Observed) {
        for table in &observed.tables {
            let name = Value::default().text(OF_TABLE, &table.name);
            self.batch.remove(DELETE_TABLE, table.family, &name);
            self.parts.push(Part::Removal);
        }
    }

    fn table(&mut self, part: Part, (family, name): (u8, &str), flags: u32) {
        let table = Value::default().text(OF_TABLE, name).number(2, flags);
        self.create(part, (NEW_TABLE, family), &table);
    }

    /// The chains first, so that rules can lead to any of them.
    fn chains(&mut self, part: Part, family: u8, chains: &[Chain]) {
        for chain in chains {
            match chain.hook {
                Some(hook) => self.base_chain(part, family, (chain.name, hook), None),
                None => {
                    let chain = Value::default().text(OF_TABLE, TABLE).text(3, chain.name);
                    self.create(part, (NEW_CHAIN, family), &chain);
                }
            }
        }
        for chain in chains {
            chain.rules.iter().for_each(|rule| self.rule(part, family, chain.name, rule));
        }
    }

    /// The base chain of a device.
    fn device(&mut self, chain: &str, name: &str) {
        const LEAVING: u32 = 1;
        let devices = Value::default().text(1, name);
        self.base_chain(Part::Egress, NETDEV, (chain, LEAVING), Some(&devices));
        self.rule(Part::Egress, NETDEV, chain, &Rule::new().go(ON_DEVICE));
    }

    fn base_chain(
        &mut self,
        part: Part,
        family: u8,
        (name, hook): (&str, u32),
        devices: Option<&Value>,
    ) {
        const DROP: u32 = 0;
        let mut hook = Value::default().number(1, hook).raw(2, &PRIORITY.to_be_bytes());
        if let Some(devices) = devices {
            hook = hook.nested(4, devices);
        }
        let chain = Value::default()
            .text(OF_TABLE, TABLE)
            .text(3, name)
            .nested(4, &hook)
            .number(5, DROP)
            .text(7, "filter");
        self.create(part, (NEW_CHAIN, family), &chain);
    }

    fn rule(&mut self, part: Part, family: u8, chain: &str, rule: &Rule) {
        let rule =
            Value::default().text(OF_TABLE, TABLE).text(2, chain).nested(4, rule.expressions());
        self.create(part, (NEW_RULE, family), &rule);
    }

    fn create(&mut self, part: Part, (kind, family): (u8, u8), attributes: &Value) {
        self.batch.create(kind, family, attributes);
        self.parts.push(part);
    }
}

fn failed(stage: &str, error: NetlinkError) -> Failure {
    let kind = match error.errno() {
        Some(Errno::EPERM | Errno::EACCES) => FailureKind::Permission,
        // No netfilter, or no nf_tables, in this kernel.
        Some(Errno::EPROTONOSUPPORT | Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP | Errno::EINVAL) => {
            FailureKind::Precondition
        }
        Some(_) => FailureKind::Io,
        None if error == NetlinkError::TimedOut => FailureKind::Timeout,
        None => FailureKind::Internal,
    };
    failure(kind, stage, format!("nf_tables: {error}"))
}
