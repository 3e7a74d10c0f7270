//! The conductor: plays the phases of a plan, one after the other.
//!
//! Owns what goes on at the same time within a phase and when it has ended. What is ordered is the
//! part of `orders`; what it means is the part of [`crate::evaluate`].

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use protocol::id::DeviceId;
use runtime::Drain;
use runtime::lifecycle::CancellationToken;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::ages::{self, Ages, ByHub};
use crate::book::{Book, Counts};
use crate::crew::wire::{Ask, Connect};
use crate::crew::{Crew, CrewError, Standing};
use crate::fleet::Groups;
use crate::live::Live;
use crate::meters::{Meters, Readings};
use crate::moment::{Moment, Timeline};
use crate::operator::{Operator, OperatorError};
use crate::plan::{Audience, FaultKind, Phase, Plan, secs};
use crate::probe::Kernel;
use crate::report::Sample;
use crate::run::say;
use crate::sampler::{Sampler, Series};
use crate::site::{Site, SiteError};
use crate::swarm::Kind;

mod orders;

/// How long an interrupted run still waits for what is out.
const HURRY: Duration = Duration::from_secs(10);
/// Between two looks at the hubs.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// From the beginning of a phase to its first order.
const BREATH: Duration = Duration::from_millis(200);

/// Why a phase could not be played.
#[derive(Debug, thiserror::Error)]
pub enum ConductError {
    /// A worker.
    #[error("the swarm cannot be used")]
    Crew(#[from] CrewError),
    /// The operator's port, before an order was given.
    #[error("the operator's port cannot be used")]
    Operator(#[from] OperatorError),
    /// A fault.
    #[error("a fault could not be made")]
    Fault(#[from] SiteError),
    /// Not everybody has a session.
    #[error("{connected} of {devices} devices have a session; errors: {errors}")]
    NotConnected {
        /// How many have one.
        connected: u64,
        /// How many there are.
        devices: u64,
        /// What went wrong, by kind.
        errors: String,
    },
}

/// What a scenario is played with.
#[derive(Debug)]
pub(crate) struct Bench<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) patience: Duration,
    pub(crate) drain: &'a Drain,
    pub(crate) timeline: Timeline,
    pub(crate) operator: Operator,
    pub(crate) book: Arc<Book>,
    pub(crate) meters: Arc<Meters>,
    pub(crate) live: &'a watch::Sender<Live>,
    pub(crate) groups: Groups,
    pub(crate) site: tokio::sync::Mutex<Option<Site>>,
    pub(crate) crew: Crew,
    pub(crate) sources: Vec<IpAddr>,
}

/// How things stand between two phases.
#[derive(Debug, Clone)]
pub(crate) struct Edge {
    pub(crate) at: Moment,
    pub(crate) readings: Readings,
    pub(crate) counts: Counts,
    pub(crate) connected: u64,
    pub(crate) dropped: u64,
    pub(crate) kernel: Kernel,
    /// What other machines took from the processors, since this one was started.
    pub(crate) stolen: Option<Duration>,
}

/// A phase that was played.
#[derive(Debug, Clone)]
pub(crate) struct PlayedPhase {
    pub(crate) phase: Phase,
    pub(crate) edges: [Edge; 2],
    /// From the cut until everybody was back.
    pub(crate) back: Option<Duration>,
    /// From when devices that never read were to be noticed until hubs had ended all of their sessions.
    pub(crate) closed: Option<Duration>,
    /// When Redis was there again after a fault.
    pub(crate) returned: Vec<Moment>,
    /// From when it was measured, and over how many heartbeats, if it is quiet.
    pub(crate) measured: Option<(Edge, u32)>,
    /// Its chapter in the book.
    pub(crate) chapter: usize,
    /// How long orders of one device each took to leave, and how many were meant to.
    pub(crate) ordering: Option<(Duration, u64)>,
    /// What hubs counted of its commands, if all of them were there all the time.
    pub(crate) ages: Option<Ages>,
    /// Sessions that the hubs counted at its beginning, if it has orders for devices that never read.
    pub(crate) sessions: Option<u64>,
}

/// A run that was played.
#[derive(Debug)]
pub(crate) struct Played {
    pub(crate) began: Edge,
    pub(crate) phases: Vec<PlayedPhase>,
    pub(crate) samples: Vec<Sample>,
    pub(crate) book: Arc<Book>,
}

impl Bench<'_> {
    /// Plays every phase; after Ctrl-C only what is left of the present one.
    ///
    /// # Errors
    /// [`ConductError`].
    pub(crate) async fn play(
        &self,
        devices: &BTreeMap<Kind, Vec<DeviceId>>,
    ) -> Result<Played, ConductError> {
        let ids = |kind| devices.get(&kind).into_iter().flatten().copied();
        let answering: Arc<[DeviceId]> = ids(Kind::Push).chain(ids(Kind::Polling)).collect();
        let population = self.plan.population.total();
        self.live.send_modify(|live| live.population = population);
        let began = self.edge();
        let stop = CancellationToken::new();
        let sampler = Sampler {
            timeline: self.timeline.clone(),
            began: began.at,
            book: self.book.clone(),
            meters: self.meters.clone(),
            standing: self.crew.standing(),
            live: self.live.clone(),
        };
        let mut sampling = JoinSet::new();
        sampling.spawn(sampler.run(stop.clone()));
        let stalled: Arc<[DeviceId]> = ids(Kind::Stalled).collect();
        let phases = Box::pin(self.phases([&answering, &stalled])).await;
        stop.cancel();
        let series = sampling.join_next().await.and_then(Result::ok).unwrap_or_default();
        let samples = Series::into_samples(series);
        Ok(Played { began, phases: phases?, samples, book: self.book.clone() })
    }

    async fn phases(
        &self,
        devices: [&Arc<[DeviceId]>; 2],
    ) -> Result<Vec<PlayedPhase>, ConductError> {
        let (mut played, count) = (Vec::new(), self.plan.phases.len());
        for (number, phase) in (1..).zip(&self.plan.phases) {
            if self.drain.is_draining() {
                break;
            }
            say(self.live, format!("phase {number} of {count}: {}", phase.name));
            self.live.send_modify(|live| {
                live.phase = (phase.name.clone(), number, count);
                live.progress = None;
            });
            played.push(Box::pin(self.phase(phase, devices)).await?);
        }
        Ok(played)
    }

    async fn phase(
        &self,
        phase: &Phase,
        devices: [&Arc<[DeviceId]>; 2],
    ) -> Result<PlayedPhase, ConductError> {
        let orders = phase.orders.is_some() || phase.group.is_some();
        let then = if orders { self.ages().await } else { None };
        let is_for_stalled =
            phase.group.as_ref().is_some_and(|group| group.to == Audience::Stalled);
        let sessions = if is_for_stalled { self.sessions().await } else { None };
        let before = self.edge();
        let chapter = self.book.begin();
        if let Some(rate) = phase.churn {
            let rate = Some(rate.share(self.crew.size()));
            self.crew.ask(|_| Ask::Churn { rate }).await?;
        }
        let (measured, connected, back, closed, ordering, grouped, faults) = tokio::join!(
            self.rest(phase),
            self.connect(phase),
            self.cut(phase),
            self.closed(phase),
            Box::pin(self.orders(phase, devices[0])),
            Box::pin(self.group(phase, devices)),
            Box::pin(self.faults(phase)),
        );
        if phase.churn.is_some() {
            self.crew.ask(|_| Ask::Churn { rate: None }).await?;
        }
        connected?;
        grouped?;
        let returned = faults?;
        let (back, ordering) = (back?, ordering?);
        if orders {
            self.settle().await;
        }
        let edges = [before, self.edge()];
        self.book.finish(chapter, edges[1].at);
        let now = if orders { self.ages().await } else { None };
        let ages = then.zip(now).and_then(|(then, now)| ages::between(&then, &now));
        ages.iter().flat_map(Ages::lines).for_each(|line| say(self.live, line));
        let phase = phase.clone();
        Ok(PlayedPhase {
            phase,
            edges,
            back,
            closed,
            returned,
            measured,
            chapter,
            ordering,
            ages,
            sessions,
        })
    }

    /// The sessions that the hubs count; `None`: none of them was started by the harness, or one says nothing.
    async fn sessions(&self) -> Option<u64> {
        let site = self.site.lock().await;
        site.as_ref()?.sessions().await
    }

    /// What the hubs have counted so far; `None`: none of them was started by the harness, or one says nothing.
    async fn ages(&self) -> Option<ByHub> {
        let site = self.site.lock().await;
        site.as_ref()?.ages().await
    }

    fn edge(&self) -> Edge {
        let standing = self.crew.standing();
        let standing: &Standing = &standing.borrow();
        Edge {
            at: self.timeline.now(),
            readings: self.meters.read(),
            counts: self.book.counts(),
            connected: standing.connected(),
            dropped: standing.dropped(),
            kernel: crate::probe::kernel(),
            stolen: crate::probe::stolen(),
        }
    }

    /// Waits for so long, or until the first Ctrl-C; whether it waited to the end.
    async fn wait(&self, duration: Duration) -> bool {
        let soft: &CancellationToken = self.drain.soft();
        tokio::time::timeout(duration, soft.cancelled()).await.is_err()
    }

    /// The shortest time of a phase. Of a quiet one that was not cut short, answers from when it is
    /// measured.
    async fn rest(&self, phase: &Phase) -> Option<(Edge, u32)> {
        let (whole, began) = (phase.secs.map(secs)?, self.timeline.now());
        let Some((heartbeats, length)) = self.plan.measured(phase) else {
            self.rest_until(began, whole, whole).await;
            return None;
        };
        if !self.rest_until(began, whole.saturating_sub(length), whole).await {
            return None;
        }
        let since = self.edge();
        // Whole from there, however late this came to look.
        let until = since.at.since(began) + length;
        self.rest_until(began, until, whole).await.then_some((since, heartbeats))
    }

    /// Waits until so much of all of a phase is over; whether it did not end before.
    async fn rest_until(&self, began: Moment, until: Duration, whole: Duration) -> bool {
        let step = Duration::from_millis(500);
        loop {
            let gone = self.timeline.now().since(began);
            let share = gone.as_secs_f64() / whole.as_secs_f64().max(1e-9);
            self.live.send_modify(|live| live.progress = Some(share.min(1.0)));
            let left = until.saturating_sub(gone);
            if left.is_zero() {
                return true;
            }
            if !self.wait(left.min(step)).await {
                return false;
            }
        }
    }

    async fn connect(&self, phase: &Phase) -> Result<(), ConductError> {
        if !phase.connect {
            return Ok(());
        }
        let population = &self.plan.population;
        let workers = self.crew.size();
        let rate = population.connect_rate.map(|rate| rate.share(workers));
        let at_once = population.connecting.div_ceil(workers);
        let connect = Connect {
            rate,
            at_once: usize::try_from(at_once).unwrap_or(usize::MAX),
            sources: self.sources.clone(),
            check_in: population.check_in(),
            resume: population.resume,
        };
        self.crew.ask(|_| Ask::Connect(connect.clone())).await?;
        let ramp = population
            .connect_rate
            .map_or(0.0, |rate| crate::evaluate::float(population.total()) / rate.per_sec());
        self.all_there(self.patience + secs(ramp)).await
    }

    /// Waits until everybody has a session.
    async fn all_there(&self, limit: Duration) -> Result<(), ConductError> {
        let devices = self.plan.population.total();
        let is_there = tokio::select! {
            biased;
            () = self.drain.soft().cancelled() => return Ok(()),
            waited = tokio::time::timeout(limit, self.crew.connected(devices)) => waited,
        };
        if let Ok(there) = is_there {
            return Ok(there?);
        }
        let errors = self.book.errors();
        let errors: Vec<_> = errors.iter().map(|(kind, n)| format!("{n} × {kind}")).collect();
        let connected = self.crew.standing().borrow().connected();
        Err(ConductError::NotConnected { connected, devices, errors: errors.join(", ") })
    }

    /// Cuts all sockets at their second, and waits until all are back: counted from before the first is cut.
    async fn cut(&self, phase: &Phase) -> Result<Option<Duration>, ConductError> {
        let Some(at) = phase.cut_at_secs.map(secs) else { return Ok(None) };
        if !self.wait(at).await {
            return Ok(None);
        }
        say(self.live, "cutting all sockets".to_owned());
        let began = self.timeline.now();
        let going_on = self.book.disturb(began, 1);
        self.crew.cut().await?;
        self.all_there(self.patience).await?;
        let ended = self.timeline.now();
        self.book.happened(going_on, ended);
        let back = ended.since(began);
        say(self.live, format!("all are back after {:.2} s", back.as_secs_f64()));
        Ok(Some(back))
    }

    /// Waits until hubs have ended every session of a device that never reads: counted from the first order for
    /// them, or without any from the beginning of the phase.
    async fn closed(&self, phase: &Phase) -> Option<Duration> {
        if !phase.until_closed {
            return None;
        }
        let began = self.timeline.now();
        let order = phase.group.as_ref().filter(|group| group.to == Audience::Stalled);
        let from = order.map_or(began, |group| began.plus(BREATH + secs(group.at_secs)));
        let (reading, limit) = (self.plan.population.connections, began.plus(self.patience));
        while self.timeline.now() < limit && self.wait(LOOK_AGAIN).await {
            let site = self.site.lock().await;
            let sessions = site.as_ref()?.sessions().await;
            drop(site);
            if sessions.is_some_and(|sessions| sessions <= reading) {
                let took = self.timeline.now().since(from);
                say(self.live, format!("all are closed after {:.2} s", took.as_secs_f64()));
                return Some(took);
            }
        }
        None
    }

    /// Does to processes what is to be done. Answers when Redis was there again.
    async fn faults(&self, phase: &Phase) -> Result<Vec<Moment>, ConductError> {
        let (began, mut returned) = (self.timeline.now(), Vec::new());
        for fault in &phase.faults {
            let due = began.plus(secs(fault.at_secs));
            if !self.wait(due.since(self.timeline.now())).await {
                return Ok(returned);
            }
            say(self.live, format!("{} {}", fault.what.as_str(), fault.process));
            let mut site = self.site.lock().await;
            if let Some(site) = site.as_mut() {
                site.fault(&fault.process, fault.what).await?;
                self.meters.follow(site.pids());
                if fault.process == "redis"
                    && matches!(fault.what, FaultKind::Start | FaultKind::Continue)
                {
                    returned.push(self.timeline.now());
                }
            }
        }
        Ok(returned)
    }

    /// Waits for the receipts that are out.
    async fn settle(&self) {
        let patience =
            if self.drain.is_draining() { self.patience.min(HURRY) } else { self.patience };
        tokio::select! {
            biased;
            () = self.drain.hard().cancelled() => {}
            _ = tokio::time::timeout(patience, self.book.settled()) => {}
        }
    }
}
