//! The faults, and the schedule that a seed makes of them.
//!
//! Owns which faults there are and in what order a run meets them. Doing them to a cluster is the
//! cluster's part.

use std::time::Duration;

/// Something that breaks. Numbers choose one of several parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    HubKilled(usize),
    HubPaused(usize),
    /// SIGTERM: the hub drains and is started again.
    HubRestarted(usize),
    HubCertificateExchanged(usize),
    ApiKilled(usize),
    ApiPaused(usize),
    AgentKilled(usize),
    AgentPaused(usize),
    /// The wall clock of an agent is off by so many seconds.
    AgentClockJumps(usize, i32),
    /// Connections of agents to a hub stay open, and nothing travels.
    HubHalfOpen(usize),
    Bus(BusFault),
    StoreKilled,
    StoreRefuses,
    StoreSlow,
}

impl Fault {
    /// What programs need at their start is whole before they are started again.
    pub(crate) const fn is_beneath_programs(self) -> bool {
        matches!(self, Self::StoreKilled | Self::StoreRefuses | Self::StoreSlow | Self::Bus(_))
    }
}

/// Something that breaks about Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BusFault {
    Killed,
    Paused,
    /// It comes back, and has forgotten everything.
    Emptied,
    /// Sentinel moves the primary.
    FailedOver,
    /// The primary becomes a replica and keeps its sockets.
    Demoted,
    /// The way of one process is cut.
    CutOff(usize),
    Slow,
    /// Somebody repeats and mixes up what the hubs are told.
    Repeats,
}

/// A source of chance that gives the same for the same seed (SplitMix64, Steele et al. 2014).
#[derive(Debug)]
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound).expect("a small number");
        usize::try_from(self.next() % bound).expect("a small number")
    }

    pub(crate) fn millis(&mut self, from: usize, to: usize) -> Duration {
        Duration::from_millis(u64::try_from(from + self.below(to - from)).expect("a small number"))
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// What a cluster has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parts {
    pub(crate) hubs: usize,
    pub(crate) apis: usize,
    pub(crate) agents: usize,
    /// Whether Redis is a primary with a replica and three sentinels; else it is one server behind
    /// links that can be disturbed.
    pub(crate) has_sentinel: bool,
}

/// One round of a run: these at the same time, for so long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Round {
    pub(crate) faults: Vec<Fault>,
    pub(crate) lasts: Duration,
}

impl Parts {
    /// Every kind of fault that this cluster can have, with parts chosen by chance.
    fn kinds(&self, chance: &mut Chance) -> Vec<Fault> {
        let hub = chance.below(self.hubs);
        let api = chance.below(self.apis);
        let agent = chance.below(self.agents);
        let seconds = chance.pick(&[-3600, -600, 600, 3600]);
        let mut kinds = vec![
            Fault::HubKilled(hub),
            Fault::HubPaused(hub),
            Fault::HubRestarted(hub),
            Fault::HubCertificateExchanged(hub),
            Fault::ApiKilled(api),
            Fault::ApiPaused(api),
            Fault::AgentKilled(agent),
            Fault::AgentPaused(agent),
            Fault::AgentClockJumps(agent, seconds),
            Fault::HubHalfOpen(hub),
            Fault::Bus(BusFault::Killed),
            Fault::Bus(BusFault::Paused),
            Fault::Bus(BusFault::Repeats),
            Fault::StoreKilled,
            Fault::StoreRefuses,
            Fault::StoreSlow,
        ];
        if self.has_sentinel {
            kinds.extend([BusFault::FailedOver, BusFault::Demoted].map(Fault::Bus));
        } else {
            let process = chance.below(self.hubs + self.apis);
            let more = [BusFault::Emptied, BusFault::CutOff(process), BusFault::Slow];
            kinds.extend(more.map(Fault::Bus));
        }
        kinds
    }

    /// A schedule: each kind alone once, in an order of the seed's, then pairs of different kinds.
    pub(crate) fn schedule(&self, chance: &mut Chance, rounds: usize) -> Vec<Round> {
        let mut alone = self.kinds(chance);
        for at in (1..alone.len()).rev() {
            alone.swap(at, chance.below(at + 1));
        }
        let mut schedule: Vec<Vec<Fault>> = alone.into_iter().map(|fault| vec![fault]).collect();
        while schedule.len() < rounds {
            let kinds = self.kinds(chance);
            let first = chance.below(kinds.len());
            let second = (first + 1 + chance.below(kinds.len() - 1)) % kinds.len();
            schedule.push(vec![kinds[first], kinds[second]]);
        }
        schedule.truncate(rounds);
        schedule
            .into_iter()
            .map(|faults| Round { faults, lasts: chance.millis(500, 4000) })
            .collect()
    }
}

#[test]
fn same_seed_makes_the_same_schedule_with_every_kind_and_pairs() {
    let parts = Parts { hubs: 3, apis: 2, agents: 8, has_sentinel: true };
    let schedule = |seed| parts.schedule(&mut Chance::new(seed), 30);
    assert_eq!(schedule(1), schedule(1));
    assert_ne!(schedule(1), schedule(2));
    let alone: Vec<_> = schedule(1)[..18].iter().flat_map(|round| round.faults.clone()).collect();
    assert_eq!(alone.len(), 18);
    let is_again = |at: usize| alone[..at].contains(&alone[at]);
    assert!((0..alone.len()).all(|at| !is_again(at)), "{alone:?}");
    assert!(schedule(1)[18..].iter().all(|round| round.faults.len() == 2));
}
