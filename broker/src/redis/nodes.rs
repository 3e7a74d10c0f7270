//! The servers that serve at this moment, and which of them has which key.
//!
//! A snapshot: it is made whole, and abandoned whole as soon as anything about it is not true any
//! more. Owns finding the primaries (by address, by Sentinel, by the cluster) and looking whether
//! they still are. Whoever holds something of a snapshot ends with it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use redis::{Cmd, Value};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::address::Address;
use super::config::{RedisConfig, RedisMode};
use super::dial::{Account, Connection, Dialer, Failure, Options};
use super::names::{SLOTS, slot};
use super::reply::{int, list, text};
use super::script::{Script, Scripts};

/// The most primaries of a cluster.
const MAX_NODES: usize = 512;

/// Where servers are looked for.
#[derive(Debug)]
pub(super) struct Finder {
    mode: RedisMode,
    seeds: Vec<Address>,
    primary: String,
    dialer: Dialer,
    account: Account,
    at_sentinels: Account,
    patience: Duration,
    /// Connections for asking where the primary is.
    kept: Mutex<BTreeMap<Address, Connection>>,
}

/// Which server has which slot. A single server has them all.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Layout {
    primaries: Vec<Address>,
    /// For each slot its primary; empty when there is one server.
    slots: Vec<u16>,
}

/// The servers.
#[derive(Debug)]
pub(super) struct Nodes {
    layout: Layout,
    connections: Vec<Connection>,
    scripts: Scripts,
    /// Whether pub/sub is sharded.
    pub(super) is_cluster: bool,
    /// Cancelled when this is not how things are any more.
    pub(super) gone: CancellationToken,
}

impl Drop for Nodes {
    fn drop(&mut self) {
        self.gone.cancel();
    }
}

impl Finder {
    pub(super) fn new(config: &RedisConfig, dialer: Dialer) -> Self {
        let account = |username: &Option<String>, password: &Option<_>| Account {
            username: username.clone(),
            password: Clone::clone(password),
        };
        Self {
            mode: config.mode,
            seeds: config.addresses(),
            primary: config.primary.clone(),
            dialer,
            account: account(&config.username, &config.password),
            at_sentinels: account(&config.sentinel_username, &config.sentinel_password),
            patience: config.connect_timeout.max(config.command_timeout),
            kept: Mutex::default(),
        }
    }

    /// A connection of its own to the server that has that key.
    pub(super) async fn open(
        &self,
        nodes: &Nodes,
        key: &str,
        options: Options,
    ) -> Result<Connection, Failure> {
        self.dialer.open(&nodes.of(key).address, &self.account, options).await
    }

    /// Finds the servers, connects, and looks whether they are primaries.
    pub(super) async fn find(&self, former: &[Address]) -> Result<Nodes, Failure> {
        let layout = self.layout(former).await?;
        let opening = layout.primaries.iter().map(|address| self.connect(address));
        let opened = join_all(opening).await.into_iter().collect::<Result<Vec<_>, _>>()?;
        let (connections, mut scripts): (Vec<_>, Vec<_>) = opened.into_iter().unzip();
        let scripts = scripts.pop().ok_or(Failure::Role("no server is known"))?;
        let is_cluster = self.mode == RedisMode::Cluster;
        Ok(Nodes { layout, connections, scripts, is_cluster, gone: CancellationToken::new() })
    }

    async fn connect(&self, address: &Address) -> Result<(Connection, Scripts), Failure> {
        let connection = self.dialer.open(address, &self.account, Options::default()).await?;
        is_primary(&connection.ask(&redis::cmd("ROLE")).await?)?;
        if self.mode == RedisMode::Cluster {
            is_whole(&connection.ask(&cluster_info()).await?)?;
        }
        let scripts = Scripts::load(&connection).await?;
        Ok((connection, scripts))
    }

    /// Looks whether the servers are primaries and have the scripts; with `whole` also whether
    /// they are those that should be asked.
    pub(super) async fn check(&self, nodes: &Nodes, whole: bool) -> Result<(), Failure> {
        let mut questions = vec![redis::cmd("ROLE"), nodes.scripts.exist()];
        if self.mode == RedisMode::Cluster {
            questions.push(cluster_info());
        }
        let asking = nodes.connections.iter().map(|connection| connection.ask_all(&questions));
        let layout = async {
            match self.mode {
                RedisMode::Sentinel | RedisMode::Cluster if whole => {
                    Some(self.layout(&nodes.layout.primaries).await)
                }
                RedisMode::Standalone | RedisMode::Sentinel | RedisMode::Cluster => None,
            }
        };
        let (answers, layout) = tokio::join!(join_all(asking), layout);
        for answer in answers {
            let answer = answer?;
            is_primary(&answer[0])?;
            has_all(&answer[1])?;
            answer.get(2).map_or(Ok(()), is_whole)?;
        }
        match layout {
            Some(Ok(layout)) if layout != nodes.layout => {
                Err(Failure::Role("the primary is elsewhere"))
            }
            // Whoever knows the primary may be away: the primary itself says that it is one.
            Some(Ok(_) | Err(_)) | None => Ok(()),
        }
    }

    async fn layout(&self, former: &[Address]) -> Result<Layout, Failure> {
        match self.mode {
            RedisMode::Standalone => self.first_primary().await.map(Layout::single),
            RedisMode::Sentinel => self.ask_sentinels().await.map(Layout::single),
            RedisMode::Cluster => self.ask_cluster(former).await,
        }
    }

    /// Looks at all addresses at once, so that a dead one costs nothing.
    async fn first_primary(&self) -> Result<Address, Failure> {
        if let [only] = &self.seeds[..] {
            return Ok(only.clone());
        }
        let asking = self.seeds.iter().map(|address| self.connect(address));
        let mut failed = Failure::Role("no address is known");
        for (address, answer) in self.seeds.iter().zip(join_all(asking).await) {
            match answer {
                Ok(_) => return Ok(address.clone()),
                Err(failure) => failed = failure,
            }
        }
        Err(failed)
    }

    /// The address that most sentinels name: one that was cut off from the others may be the last
    /// to hear of a change.
    async fn ask_sentinels(&self) -> Result<Address, Failure> {
        let mut question = redis::cmd("SENTINEL");
        question.arg("GET-MASTER-ADDR-BY-NAME").arg(&self.primary);
        let asking =
            self.seeds.iter().map(|sentinel| self.ask(sentinel, &self.at_sentinels, &question));
        let mut votes: BTreeMap<Address, usize> = BTreeMap::new();
        let mut failed = Failure::Role("no sentinel knows the primary");
        for answer in join_all(asking).await {
            match answer.map(|value| told_address(&value)) {
                Ok(Some(address)) => *votes.entry(address).or_default() += 1,
                Ok(None) => {}
                Err(failure) => failed = failure,
            }
        }
        votes.into_iter().max_by_key(|(_, count)| *count).map(|(at, _)| at).ok_or(failed)
    }

    /// Asks over a connection that is kept for such questions, or a new one.
    async fn ask(
        &self,
        address: &Address,
        account: &Account,
        question: &Cmd,
    ) -> Result<Value, Failure> {
        let kept = self.kept().remove(address);
        let asking = async {
            if let Some(connection) = kept
                && let Ok(answer) = connection.ask(question).await
            {
                return Ok((connection, answer));
            }
            let connection = self.dialer.open(address, account, Options::default()).await?;
            let answer = connection.ask(question).await?;
            Ok::<_, Failure>((connection, answer))
        };
        let late = Failure::TimedOut("whoever knows the primary");
        let (connection, answer) = timeout(self.patience, asking).await.map_err(|_| late)??;
        self.kept().insert(address.clone(), connection);
        Ok(answer)
    }

    fn kept(&self) -> MutexGuard<'_, BTreeMap<Address, Connection>> {
        // Nothing inside of the lock can panic halfway through a change.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first answer of a node, those that served before first.
    async fn ask_cluster(&self, former: &[Address]) -> Result<Layout, Failure> {
        let mut question = redis::cmd("CLUSTER");
        question.arg("SLOTS");
        let mut failed = Failure::Role("no node is known");
        let fresh = self.seeds.iter().filter(|seed| !former.contains(seed));
        for address in former.iter().chain(fresh) {
            let asked = self.ask(address, &self.account, &question).await;
            match asked.and_then(|value| Layout::of_cluster(&value, address)) {
                Ok(layout) => return Ok(layout),
                Err(failure) => failed = failure,
            }
        }
        Err(failed)
    }
}

impl Layout {
    fn single(address: Address) -> Self {
        Self { primaries: vec![address], slots: Vec::new() }
    }

    /// From the answer to `CLUSTER SLOTS`; whole or not at all.
    fn of_cluster(value: &Value, asked: &Address) -> Result<Self, Failure> {
        const WHAT: Failure = Failure::Answer("CLUSTER SLOTS");
        let mut primaries: Vec<Address> = Vec::new();
        let mut slots = vec![u16::MAX; SLOTS];
        for range in list(value).ok_or(WHAT)? {
            let [first, last, primary, ..] = list(range).ok_or(WHAT)? else { return Err(WHAT) };
            let address = told_node(primary, asked).ok_or(WHAT)?;
            let at = primaries.iter().position(|known| *known == address).unwrap_or_else(|| {
                primaries.push(address);
                primaries.len() - 1
            });
            let bound = |value| int(value).and_then(|slot| usize::try_from(slot).ok());
            let (first, last) = bound(first).zip(bound(last)).ok_or(WHAT)?;
            if first > last {
                return Err(WHAT);
            }
            let at =
                u16::try_from(at).ok().filter(|at| usize::from(*at) < MAX_NODES).ok_or(WHAT)?;
            slots.get_mut(first..=last).ok_or(WHAT)?.fill(at);
        }
        if slots.contains(&u16::MAX) {
            return Err(Failure::Role("a part of the cluster has no primary"));
        }
        Ok(Self { primaries, slots })
    }
}

impl Nodes {
    pub(super) fn addresses(&self) -> &[Address] {
        &self.layout.primaries
    }

    /// The connection to the server that has that key.
    pub(super) fn of(&self, key: &str) -> &Connection {
        &self.connections[self.at(key)]
    }

    fn at(&self, key: &str) -> usize {
        self.layout.slots.get(slot(key)).map_or(0, |at| usize::from(*at))
    }

    /// The call of a script on that key; its arguments are to be added.
    pub(super) fn script(&self, script: Script, key: &str) -> Cmd {
        self.scripts.call(script, key)
    }

    /// Asks each server what it has, all of it in one go. Answers in the order asked. An answer
    /// that is a refusal fails the whole.
    pub(super) async fn ask_all(
        &self,
        commands: Vec<(String, Cmd)>,
    ) -> Result<Vec<Value>, Failure> {
        let count = commands.len();
        let mut by_node: BTreeMap<usize, (Vec<usize>, Vec<Cmd>)> = BTreeMap::new();
        for (place, (key, command)) in commands.into_iter().enumerate() {
            let (places, commands) = by_node.entry(self.at(&key)).or_default();
            places.push(place);
            commands.push(command);
        }
        let asking = by_node.into_iter().map(|(node, (places, commands))| async move {
            (places, self.connections[node].ask_all(&commands).await)
        });
        let mut ordered = vec![Value::Nil; count];
        for (places, answers) in join_all(asking).await {
            for (place, answer) in places.into_iter().zip(answers?) {
                ordered[place] = answer.extract_error()?;
            }
        }
        Ok(ordered)
    }

    /// Asks the server that has that key.
    pub(super) async fn ask(&self, key: &str, command: &Cmd) -> Result<Value, Failure> {
        self.of(key).ask(command).await
    }
}

/// Whether that answer to `ROLE` is a primary's.
fn is_primary(role: &Value) -> Result<(), Failure> {
    match list(role).and_then(<[_]>::first).and_then(text) {
        Some("master") => Ok(()),
        Some(_) => Err(Failure::Role("the server is no primary")),
        None => Err(Failure::Answer("ROLE")),
    }
}

fn cluster_info() -> Cmd {
    let mut question = redis::cmd("CLUSTER");
    question.arg("INFO");
    question
}

/// Whether a node of a cluster serves: one that has just come back, or is in the minority, does not.
fn is_whole(info: &Value) -> Result<(), Failure> {
    match text(info).map(|info| info.lines().any(|line| line == "cluster_state:ok")) {
        Some(true) => Ok(()),
        Some(false) => Err(Failure::Role("the cluster does not serve")),
        None => Err(Failure::Answer("CLUSTER INFO")),
    }
}

fn has_all(exist: &Value) -> Result<(), Failure> {
    let exist = list(exist).ok_or(Failure::Answer("SCRIPT EXISTS"))?;
    if exist.iter().all(|one| int(one) == Some(1)) {
        Ok(())
    } else {
        Err(Failure::Role("the server has forgotten the scripts"))
    }
}

fn told_address(value: &Value) -> Option<Address> {
    let [host, port] = list(value)? else { return None };
    Address::new(text(host)?, text(port)?.parse().ok()?)
}

/// A node that does not know its own host is at the one that was asked.
fn told_node(value: &Value, asked: &Address) -> Option<Address> {
    let [host, port, ..] = list(value)? else { return None };
    let host = text(host).filter(|host| !host.is_empty()).unwrap_or(&asked.host);
    Address::new(host, u16::try_from(int(port)?).ok()?)
}
