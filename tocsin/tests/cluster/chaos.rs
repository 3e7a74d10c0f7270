//! Faults alone and in pairs, from a seed, while orders are given; then the judge.
//!
//! Owns a run: round after round something breaks, orders go on, everything is mended, and an
//! order must reach every device before the next round. `TOCSIN_CHAOS_SEED`,
//! `TOCSIN_CHAOS_ROUNDS`, `TOCSIN_CHAOS_ORDERS`, `TOCSIN_CHAOS_PAUSE_MS` and `TOCSIN_CHAOS_AGENTS`
//! make a run longer or another one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use api::commands::wire::{CreateOrder, CreatedOrder, Targets};
use nix::sys::signal::Signal;
use protocol::action::{Action, Lock, LockLevel, Refresh, Unlock};
use runtime::fixture::Link;
use runtime::{Clock, Entropy};
use tocsin::client::Client;
use tocsin::profile::Overrides;

use crate::bench::Cluster;
use crate::checker::judge;
use crate::fault::{Chance, Fault, Parts, Round};

/// Between two orders of one run.
const PAUSE_MS: u64 = 40;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_behind_sentinel_loses_nothing_and_repeats_nothing() {
    run(Parts { hubs: 3, apis: 2, agents: 8, has_sentinel: true }, 1, 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_on_one_redis_loses_nothing_and_repeats_nothing() {
    run(Parts { hubs: 3, apis: 2, agents: 8, has_sentinel: false }, 2, 21).await;
}

/// A number from the environment, for longer runs.
fn setting<T: FromStr>(name: &str, default: T) -> T {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[expect(clippy::print_stdout, reason = "what a run met is told by the run")]
async fn run(mut parts: Parts, seed: u64, rounds: usize) {
    let seed = setting("TOCSIN_CHAOS_SEED", seed);
    let rounds = setting("TOCSIN_CHAOS_ROUNDS", rounds);
    let orders = setting("TOCSIN_CHAOS_ORDERS", 10);
    parts.agents = setting("TOCSIN_CHAOS_AGENTS", parts.agents);
    println!(
        "TOCSIN_CHAOS_SEED={seed} TOCSIN_CHAOS_ROUNDS={rounds} TOCSIN_CHAOS_ORDERS={orders} \
         TOCSIN_CHAOS_AGENTS={}",
        parts.agents
    );
    let mut chance = Chance::new(seed);
    let mut cluster = Cluster::start(parts).await;
    let mut giver = Giver::new(&cluster);
    let clock = Clock::system();
    let mut faults = 0;
    for (number, round) in parts.schedule(&mut chance, rounds).into_iter().enumerate() {
        println!("round {number}: {:?} for {:?}", round.faults, round.lasts);
        faults += round.faults.len();
        for fault in &round.faults {
            cluster.break_it(*fault);
        }
        giver.give_for(&round, orders).await;
        let (beneath, above): (Vec<Fault>, _) =
            round.faults.iter().partition(|fault| fault.is_beneath_programs());
        for fault in beneath.into_iter().chain(above) {
            cluster.mend(fault);
        }
        let mended = clock.now();
        giver.reach_everybody(&cluster).await;
        println!("  everybody reached {:?} after it was mended", clock.now() - mended);
    }
    let verdict = judge(&cluster.operators[0], &cluster.devices, &giver.accepted);
    cluster.all_online();
    println!(
        "{} commands of {} accepted orders, {faults} faults, {} refused: {verdict:?}",
        giver.accepted.len(),
        giver.orders,
        giver.refused
    );
    assert!(giver.accepted.len() >= rounds * parts.agents, "hardly anything was ordered");
}

/// Whoever gives the orders, at one node after the other.
struct Giver {
    clients: Vec<Client>,
    devices: Vec<String>,
    accepted: BTreeSet<String>,
    orders: usize,
    refused: usize,
    pause: Duration,
}

impl Giver {
    fn new(cluster: &Cluster) -> Self {
        let client = |profile: PathBuf| {
            let overrides = Overrides { path: Some(profile), ..Overrides::default() };
            Client::new(&overrides.load().expect("signed in"), Entropy::system()).expect("a client")
        };
        let clients =
            cluster.operators.iter().map(|one| client(one.path("profile.toml"))).collect();
        let devices = cluster.devices.iter().map(|device| device.name.clone()).collect();
        let pause = Duration::from_millis(setting("TOCSIN_CHAOS_PAUSE_MS", PAUSE_MS));
        Self { clients, devices, accepted: BTreeSet::new(), orders: 0, refused: 0, pause }
    }

    /// One order for every device; `None` when it was not accepted.
    async fn give(&mut self) -> Option<CreatedOrder> {
        let turn = self.orders + self.refused;
        let action = match turn % 3 {
            0 => Action::Lock(Lock { level: LockLevel::Session, message: None }),
            1 => Action::Refresh(Refresh {}),
            _ => Action::Unlock(Unlock {}),
        };
        let order = CreateOrder {
            plans: Vec::new(),
            undo_secs: None,
            offline_codes: BTreeMap::new(),
            script: None,
            action,
            targets: Targets::Names(self.devices.clone()),
            reason: Some("a test".to_owned()),
            expires_in_secs: None,
            all_at_once: false,
            accept_cloned: false,
            simulated: false,
            dry_run: false,
        };
        let client = &self.clients[turn % self.clients.len()];
        match client.create::<_, CreatedOrder>("/v1/orders", &order).await {
            Ok(created) => {
                self.orders += 1;
                self.accepted.extend(created.commands.iter().map(|one| one.id.to_string()));
                Some(created)
            }
            Err(_) => {
                self.refused += 1;
                None
            }
        }
    }

    /// Orders while it is broken: so many at most, and for as long as the round lasts.
    async fn give_for(&mut self, round: &Round, most: usize) {
        let lasts = tokio::time::sleep(round.lasts);
        tokio::pin!(lasts);
        for _ in 0..most {
            tokio::select! {
                biased;
                // An order that is cut off here may stand all the same: the judge sees it.
                () = &mut lasts => return,
                _ = self.give() => {}
            }
            tokio::time::sleep(self.pause).await;
        }
        lasts.await;
    }

    /// Liveness: once all is mended, an order reaches every device and is proven.
    async fn reach_everybody(&mut self, cluster: &Cluster) {
        let created = loop {
            if let Some(created) = self.give().await {
                break created;
            }
        };
        let ids: Vec<_> = created.commands.iter().map(|one| one.id.to_string()).collect();
        tokio::task::block_in_place(|| {
            for id in ids {
                let ended = cluster.operators[0].ended(&id);
                assert_eq!(ended["state"], "succeeded", "{ended}");
            }
        });
    }
}

impl Cluster {
    fn break_it(&mut self, fault: Fault) {
        match fault {
            Fault::HubKilled(hub) => self.hubs[hub].kill(),
            Fault::HubPaused(hub) => self.hubs[hub].signal(Signal::SIGSTOP),
            Fault::HubRestarted(hub) => {
                // One that is dead or asleep has nothing to drain.
                self.hubs[hub].signal(Signal::SIGCONT);
                if self.hubs[hub].runs() {
                    self.hubs[hub].drain();
                }
                self.hubs[hub].start_again();
            }
            Fault::HubCertificateExchanged(hub) => self.exchange_certificate(hub),
            Fault::ApiKilled(api) => self.apis[api].kill(),
            Fault::ApiPaused(api) => self.apis[api].signal(Signal::SIGSTOP),
            Fault::AgentKilled(agent) => self.devices[agent].kill(),
            Fault::AgentPaused(agent) => self.devices[agent].signal(Signal::SIGSTOP),
            Fault::AgentClockJumps(agent, by) => self.devices[agent].set_clock(by),
            Fault::HubHalfOpen(hub) => self.doors[hub].set(Link::Frozen),
            Fault::StoreKilled => self.store.kill(),
            Fault::StoreRefuses => self.store_link.set(Link::Cut),
            Fault::StoreSlow => self.store_link.set(Link::slow(Duration::from_millis(20))),
            Fault::Bus(fault) => self.bus.break_it(fault),
        }
    }

    fn mend(&mut self, fault: Fault) {
        match fault {
            Fault::HubKilled(hub) if !self.hubs[hub].runs() => self.hubs[hub].start_again(),
            Fault::HubPaused(hub) => self.hubs[hub].signal(Signal::SIGCONT),
            Fault::HubKilled(_) | Fault::HubRestarted(_) | Fault::HubCertificateExchanged(_) => {}
            Fault::ApiKilled(api) => self.apis[api].start_again(),
            Fault::ApiPaused(api) => self.apis[api].signal(Signal::SIGCONT),
            Fault::AgentKilled(agent) => self.devices[agent].start(),
            Fault::AgentPaused(agent) => self.devices[agent].signal(Signal::SIGCONT),
            Fault::AgentClockJumps(agent, _) => self.devices[agent].set_clock(0),
            Fault::HubHalfOpen(hub) => self.doors[hub].set(Link::Open),
            Fault::StoreKilled => self.store.restart(),
            Fault::StoreRefuses | Fault::StoreSlow => self.store_link.set(Link::Open),
            Fault::Bus(fault) => self.bus.mend(fault),
        }
    }
}
