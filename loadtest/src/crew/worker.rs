//! A worker: a part of the swarm, driven by asks.
//!
//! Owns its devices' keys, which never leave it, and its swarm. It orders nothing and judges nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use runtime::{Clock, Drain, Entropy};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use super::wire::{Ask, Connect, Muster, Tell};
use crate::fleet::{self, Enrolled, Enrollment};
use crate::moment::Timeline;
use crate::operator::Operator;
use crate::rate::Schedule;
use crate::swarm::{Kind, Settings, Swarm};
use crate::tally::Tally;

/// How often notes are handed on.
const TELL_EVERY: Duration = Duration::from_millis(50);
/// How long an enrollment that is given up may take to end.
const GIVE_UP: Duration = Duration::from_secs(10);

/// Serves until it is asked to stop, or whoever asks is gone.
pub async fn serve(mut asks: mpsc::Receiver<Ask>, tells: mpsc::Sender<Tell>) {
    let (clock, entropy) = (Clock::system(), Entropy::system());
    let Ok(timeline) = Timeline::new(clock.clone()) else { return };
    let Some(Ask::Enroll(muster)) = asks.recv().await else { return };
    let drain = Drain::new();
    let enrolling = enroll(&muster, entropy.clone(), &drain);
    tokio::pin!(enrolling);
    let (enrollment, is_over) = tokio::select! {
        biased;
        enrollment = &mut enrolling => (enrollment, false),
        // Nothing but an end is asked for meanwhile.
        _ = asks.recv() => {
            drain.begin(GIVE_UP);
            (enrolling.await, true)
        }
    };
    let error = enrollment.error.as_ref().map(|error| chain(error));
    let devices = enrollment.devices.iter().map(|(kind, device)| (*kind, device.id)).collect();
    let told = tells.send(Tell::Enrolled { devices, error }).await.is_ok();
    if told && !is_over {
        let tally = Arc::new(Tally::new(timeline));
        let work = Work { tells: tells.clone(), tally, clock, entropy, churn: None, swarm: None };
        Box::pin(work.run(asks, enrollment.devices)).await;
    }
    // Whoever asked may be gone.
    let _ = tells.send(Tell::Ended).await;
}

async fn enroll(muster: &Muster, entropy: Entropy, drain: &Drain) -> Enrollment {
    let operator = match Operator::new(&muster.access, entropy) {
        Ok(operator) => operator,
        Err(error) => return Enrollment { devices: Vec::new(), error: Some(error.into()) },
    };
    let numbers = muster.first..muster.first + muster.count;
    Box::pin(fleet::enroll(&operator, numbers, (muster.kinds, &muster.groups), drain)).await
}

/// An error with what led to it, for another process to tell.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// The part that runs once there are devices.
struct Work {
    tells: mpsc::Sender<Tell>,
    tally: Arc<Tally>,
    clock: Clock,
    entropy: Entropy,
    churn: Option<Churn>,
    swarm: Option<Swarm>,
}

/// Sockets that are cut one after the other.
struct Churn {
    schedule: Schedule,
    done: u64,
}

impl Churn {
    fn due(&self) -> Instant {
        self.schedule.at(self.done)
    }
}

impl Work {
    async fn run(mut self, mut asks: mpsc::Receiver<Ask>, devices: Vec<(Kind, Enrolled)>) {
        let mut devices = Some(devices);
        let mut ticks = interval(TELL_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let churn = self.churn.as_ref().map(Churn::due);
            tokio::select! {
                biased;
                _ = ticks.tick() => if !self.tell().await { break },
                ask = asks.recv() => match ask {
                    None | Some(Ask::Stop) => break,
                    Some(Ask::Enroll(_)) => {}
                    Some(Ask::Connect(connect)) => {
                        let devices = devices.take().unwrap_or_default();
                        self.connect(connect, devices).await;
                    }
                    Some(Ask::Cut) => self.cut().await,
                    Some(Ask::Churn { rate }) => {
                        let schedule = rate.map(|rate| Schedule::new(self.clock.now(), rate));
                        self.churn = schedule.map(|schedule| Churn { schedule, done: 0 });
                    }
                },
                () = until(&self.clock, churn) => self.churn(),
            }
        }
        if let Some(swarm) = self.swarm.take() {
            Box::pin(swarm.stop()).await;
        }
        self.tell().await;
    }

    async fn connect(&mut self, connect: Connect, mut devices: Vec<(Kind, Enrolled)>) {
        if !connect.resume {
            for (_, device) in &mut devices {
                let mut tls = (*device.tls).clone();
                tls.resumption = rustls::client::Resumption::disabled();
                device.tls = tls.into();
            }
        }
        let Connect { rate, at_once, sources, check_in, .. } = connect;
        let settings = Settings { at_once, rate, sources, check_in };
        let sources = (self.clock.clone(), self.entropy.clone());
        match Swarm::start(devices, &settings, self.tally.clone(), sources) {
            Ok(swarm) => self.swarm = Some(swarm),
            Err(error) => {
                let what = chain(&error);
                // Whoever asked may be gone.
                let _ = self.tells.send(Tell::Failed { what }).await;
            }
        }
    }

    async fn cut(&mut self) {
        if let Some(swarm) = &self.swarm {
            Box::pin(swarm.cut()).await;
        }
        // The notes first: nobody is to see devices that were there before the cut.
        self.tell().await;
        let _ = self.tells.send(Tell::Cut).await;
    }

    /// Cuts what is due by now.
    fn churn(&mut self) {
        let (Some(churn), Some(swarm)) = (&mut self.churn, &self.swarm) else { return };
        while churn.due() <= self.clock.now() {
            swarm.cut_one(churn.done, churn.due());
            churn.done += 1;
        }
    }

    /// Hands notes on; whether anybody takes them.
    async fn tell(&self) -> bool {
        let count = |swarm: &Swarm| u64::try_from(swarm.connected()).unwrap_or(u64::MAX);
        let connected = self.swarm.as_ref().map_or(0, count);
        let dropped = self.swarm.as_ref().map_or(0, Swarm::dropped);
        let notes = self.tally.take();
        self.tells.send(Tell::Noted { notes, connected, dropped }).await.is_ok()
    }
}

async fn until(clock: &Clock, at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep(at.saturating_duration_since(clock.now())).await,
        None => std::future::pending().await,
    }
}
