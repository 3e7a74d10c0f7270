//! The Redis of an installation, and what can go wrong with it.
//!
//! Owns the servers, and for a single one the link of every process to it. The faults of one
//! round may meet: what is broken already breaks no further.

use std::collections::BTreeMap;
use std::time::Duration;

use broker::fixture::{Parrot, RedisServer, Sentinels};
use runtime::fixture::{Link, Relay};

use crate::fault::{BusFault, Parts};

/// A port where nobody answers: who follows it has no primary.
const NOWHERE: &str = "1";
/// Later by so much is slow, and still within every time-out.
const SLOW: Duration = Duration::from_millis(20);

/// The servers.
#[derive(Debug)]
pub(crate) struct Bus {
    parts: Parts,
    /// By process, for a single server.
    links: BTreeMap<String, Relay>,
    sentinels: Option<Sentinels>,
    servers: Vec<RedisServer>,
    parrot: Option<Parrot>,
    /// Which server a fault has hit.
    hit: usize,
}

impl Bus {
    pub(crate) async fn start(parts: Parts) -> Self {
        let mut servers = vec![RedisServer::start()];
        let mut links = BTreeMap::new();
        let mut sentinels = None;
        if parts.has_sentinel {
            servers.push(RedisServer::start());
            servers[1].follow(&servers[0]);
            let watching = Sentinels::watch(&servers[0], 1);
            watching.lose_patience();
            sentinels = Some(watching);
        } else {
            for name in Self::processes(parts) {
                links.insert(name, Relay::to(servers[0].port()).await);
            }
        }
        Self { parts, links, sentinels, servers, parrot: None, hit: 0 }
    }

    fn processes(parts: Parts) -> Vec<String> {
        let hubs = (0..parts.hubs).map(|at| format!("hub-{at}"));
        hubs.chain((0..parts.apis).map(|at| format!("api-{at}"))).collect()
    }

    /// The table of a process's configuration.
    pub(crate) fn table(&self, process: &str) -> String {
        match &self.sentinels {
            Some(sentinels) => format!(
                "[broker.redis]\nmode = \"sentinel\"\nurls = {:?}\nclaim_after = \"2s\"\n",
                sentinels.urls()
            ),
            None => format!(
                "[broker.redis]\nurls = [\"redis://{}\"]\nclaim_after = \"2s\"\n",
                self.links[process].addr
            ),
        }
    }

    /// The server that is the primary now.
    fn primary(&self) -> usize {
        let port = self.sentinels.as_ref().map(Sentinels::primary);
        self.servers.iter().position(|server| Some(server.port()) == port).unwrap_or(0)
    }

    pub(crate) fn break_it(&mut self, fault: BusFault) {
        if self.servers[self.hit].pid() != 0 {
            self.hit = self.primary();
        }
        let primary = &mut self.servers[self.hit];
        match fault {
            BusFault::Killed => primary.kill(),
            BusFault::Emptied => primary.restart(),
            BusFault::Paused => {
                if primary.pid() != 0 {
                    primary.pause();
                }
            }
            BusFault::Demoted => {
                // A server that is gone can lose nothing more.
                let _ = primary.try_ask(&["REPLICAOF", "127.0.0.1", NOWHERE]);
            }
            BusFault::FailedOver => {
                if let Some(sentinels) = &self.sentinels {
                    sentinels.fail_over();
                }
            }
            BusFault::CutOff(process) => {
                let name = &Self::processes(self.parts)[process];
                self.links[name].set(Link::Frozen);
            }
            BusFault::Slow => self.links.values().for_each(|link| link.set(Link::slow(SLOW))),
            BusFault::Repeats => self.parrot = Some(Parrot::on(primary)),
        }
    }

    pub(crate) fn mend(&mut self, fault: BusFault) {
        let server = &mut self.servers[self.hit];
        match fault {
            BusFault::Killed => {
                if server.pid() == 0 {
                    server.restart();
                }
            }
            BusFault::Paused => {
                if server.pid() != 0 {
                    server.resume();
                }
            }
            BusFault::Emptied | BusFault::FailedOver => {}
            BusFault::Demoted => {
                let _ = server.try_ask(&["REPLICAOF", "NO", "ONE"]);
            }
            BusFault::CutOff(_) | BusFault::Slow => {
                self.links.values().for_each(|link| link.set(Link::Open));
            }
            BusFault::Repeats => self.parrot = None,
        }
    }
}
