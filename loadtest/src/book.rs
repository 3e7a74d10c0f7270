//! The book of a run: when each order was meant to leave, and when each stage was reached.
//!
//! Owns the accounting. Stages come in any order and from several processes: a command may reach
//! its device before its order is answered. Latencies always count from the intended moment, so
//! that a platform that stalls is charged for every order that was due meanwhile. What is confirmed
//! is folded into histograms and forgotten: a run of days needs no more room than one of seconds. A
//! chapter is what was ordered in one phase.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use protocol::id::CommandId;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::latency::{Durations, Latency};
use crate::moment::Moment;
use crate::tally::{Mark, Notes, Stage, Told};

use self::during::{During, Times};

mod during;
#[cfg(test)]
mod tests;

/// Which orders a latency is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Orders of one device each, at a rate.
    Unicast,
    /// Orders of many devices at once.
    Group,
}

impl Stream {
    const fn index(self) -> usize {
        match self {
            Self::Unicast => 0,
            Self::Group => 1,
        }
    }
}

/// What came of a run's commands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Commands of orders that were answered 201.
    pub ordered: u64,
    /// Orders without a 201.
    pub failed: u64,
    /// Of the ordered: read by the agent.
    pub received: u64,
    /// Of the ordered: acked by the agent.
    pub acked: u64,
    /// Of the ordered: the agent's receipt is in the store.
    pub confirmed: u64,
    /// Of the ordered: not confirmed in the end.
    pub lost: u64,
    /// Commands that took effect more than once. Never allowed.
    pub doubled: u64,
    /// Deliveries of commands that the agent knew already. Allowed, and answered again.
    pub redelivered: u64,
    /// Commands that came although their order was not answered 201.
    pub unanswered: u64,
}

/// Frames of hubs alone whose moments are kept.
const MOST_TOLD: usize = 4_000_000;

/// Which latencies are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Those of the whole run.
    Run(Stream),
    /// Of what was ordered in that chapter.
    Chapter(usize, Stream),
    /// Of orders of one device each that were meant to leave while something went on, in the whole run.
    During,
    /// The same of that chapter.
    ChapterDuring(usize),
}

/// Something that goes on meanwhile, such as an order of everybody until its last ack.
#[derive(Debug, Clone, Copy)]
pub struct Disturbance {
    chapter: usize,
    window: usize,
}

#[derive(Debug, Default, Clone, Copy)]
struct Entry {
    intended: Option<(Stream, Moment)>,
    stages: [Option<Moment>; 5],
    chapter: usize,
    /// What its ack helps to end.
    ends: Option<usize>,
}

#[derive(Debug, Default)]
struct Chapter {
    streams: [[Durations; 5]; 2],
    during: During,
}

#[derive(Debug)]
struct Pages {
    open: HashMap<CommandId, Entry>,
    /// At least one.
    chapters: Vec<Chapter>,
    /// Acks since the last look, for the plot over time.
    window: Durations,
    connect: Durations,
    reconnect: Durations,
    counts: Counts,
    modes: u64,
    told: Vec<Told>,
    check_ins: u64,
    errors: BTreeMap<String, u64>,
}

impl Default for Pages {
    fn default() -> Self {
        Self {
            open: HashMap::new(),
            chapters: vec![Chapter::default()],
            window: Durations::default(),
            connect: Durations::default(),
            reconnect: Durations::default(),
            counts: Counts::default(),
            modes: 0,
            told: Vec::new(),
            check_ins: 0,
            errors: BTreeMap::new(),
        }
    }
}

/// The book. Each entry is a moment that the writer took.
#[derive(Debug)]
pub struct Book {
    pages: Mutex<Pages>,
    /// Commands that were ordered and are not confirmed.
    waiting: watch::Sender<u64>,
}

impl Default for Book {
    fn default() -> Self {
        Self { pages: Mutex::default(), waiting: watch::Sender::new(0) }
    }
}

impl Book {
    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A chapter begins: what is ordered from now on belongs to it. Answers its number.
    pub fn begin(&self) -> usize {
        let mut pages = self.pages();
        pages.chapters.push(Chapter::default());
        pages.chapters.len() - 1
    }

    /// Something goes on from that moment, until so much has happened.
    pub fn disturb(&self, from: Moment, waiting: u64) -> Disturbance {
        let mut pages = self.pages();
        let chapter = pages.chapters.len() - 1;
        let window = pages.chapters[chapter].during.open(from, waiting);
        Disturbance { chapter, window }
    }

    /// One thing of that has happened.
    pub fn happened(&self, of: Disturbance, at: Moment) {
        self.pages().chapters[of.chapter].during.happened(of.window, at);
    }

    /// Nothing of that chapter goes on any more.
    pub fn finish(&self, chapter: usize, at: Moment) {
        self.pages().chapters[chapter].during.finish(at);
    }

    /// How long something went on in that chapter; `None`: nothing did.
    pub fn disturbed(&self, chapter: usize) -> Option<Duration> {
        self.pages().chapters[chapter].during.whole()
    }

    /// An order was answered 201 and made those commands: it was meant to leave at `intended`.
    pub fn ordered(
        &self,
        stream: Stream,
        commands: &[CommandId],
        intended: Moment,
        moments: [Moment; 2],
    ) {
        let mut pages = self.pages();
        for command in commands {
            pages.order(*command, (stream, intended), moments);
            pages.fold(*command);
        }
        self.waiting.send_replace(pages.waiting());
    }

    /// The same of a part of a group order, which goes on until the last of its commands is acked.
    pub fn group_ordered(
        &self,
        of: Disturbance,
        commands: &[CommandId],
        intended: Moment,
        moments: [Moment; 2],
    ) {
        let mut pages = self.pages();
        pages.chapters[of.chapter].during.await_more(of.window, count(commands));
        for command in commands {
            let entry = pages.order(*command, (Stream::Group, intended), moments);
            let acked = entry.stages[Stage::Acked.index()];
            entry.ends = acked.is_none().then_some(of.window);
            if let Some(at) = acked {
                pages.chapters[of.chapter].during.happened(of.window, at);
            }
            pages.fold(*command);
        }
        // Its answer is one thing more.
        pages.chapters[of.chapter].during.happened(of.window, moments[1]);
        self.waiting.send_replace(pages.waiting());
    }

    /// An order was not answered 201.
    pub fn failed(&self, kind: impl fmt::Display) {
        self.pages().counts.failed += 1;
        self.error(kind);
    }

    /// Something went wrong.
    pub fn error(&self, kind: impl fmt::Display) {
        *self.pages().errors.entry(kind.to_string()).or_default() += 1;
    }

    /// Takes in what a swarm noted.
    pub fn take_in(&self, notes: Notes) {
        let mut pages = self.pages();
        for mark in notes.marks {
            pages.mark(mark);
            pages.fold(mark.command);
        }
        for opened in notes.opened {
            let took = opened.at.since(opened.began);
            let durations = if opened.again { &mut pages.reconnect } else { &mut pages.connect };
            durations.record(took);
        }
        pages.counts.doubled += notes.doubled;
        pages.counts.redelivered += notes.redelivered;
        pages.modes += notes.modes;
        let room = MOST_TOLD.saturating_sub(pages.told.len());
        pages.told.extend(notes.told.into_iter().take(room));
        pages.check_ins += notes.check_ins;
        for (kind, count) in notes.errors {
            *pages.errors.entry(kind).or_default() += count;
        }
        self.waiting.send_replace(pages.waiting());
    }

    /// What went wrong, by kind.
    pub fn errors(&self) -> BTreeMap<String, u64> {
        self.pages().errors.clone()
    }

    /// Frames that said how to behave, and check-ins that were answered.
    pub fn modes_and_check_ins(&self) -> (u64, u64) {
        let pages = self.pages();
        (pages.modes, pages.check_ins)
    }

    /// Waits until every command that was ordered so far is confirmed.
    pub async fn settled(&self) {
        // The sender lives in self: waiting cannot fail.
        let _ = self.waiting.subscribe().wait_for(|waiting| *waiting == 0).await;
    }

    /// What came of it so far.
    pub fn counts(&self) -> Counts {
        let pages = self.pages();
        let mut counts = pages.counts;
        for entry in pages.open.values() {
            if entry.intended.is_none() {
                counts.unanswered += 1;
                continue;
            }
            let reached = |stage: Stage| u64::from(entry.stages[stage.index()].is_some());
            counts.received += reached(Stage::Received);
            counts.acked += reached(Stage::Acked);
        }
        counts.lost = counts.ordered - counts.confirmed;
        counts
    }

    /// The latencies of a stage, each from the intended moment; those of commands that are not
    /// confirmed as well, as far as they came.
    pub fn latency(&self, part: Part, stage: Stage) -> Latency {
        let (pages, mut all) = (self.pages(), Durations::default());
        let only = match part {
            Part::Run(_) | Part::During => None,
            Part::Chapter(chapter, _) | Part::ChapterDuring(chapter) => Some(chapter),
        };
        for (number, chapter) in pages.chapters.iter().enumerate() {
            if only.is_some_and(|only| only != number) {
                continue;
            }
            match part {
                Part::Run(stream) | Part::Chapter(_, stream) => {
                    all.add(&chapter.streams[stream.index()][stage.index()]);
                    let open = pages.open_times(number, stream);
                    let open = open.filter_map(|(at, stages)| Some((at, stages[stage.index()]?)));
                    open.for_each(|(intended, at)| all.record(at.since(intended)));
                }
                Part::During | Part::ChapterDuring(_) => {
                    let open = pages.open_times(number, Stream::Unicast);
                    all.add(&chapter.during.durations(stage.index(), open));
                }
            }
        }
        all.latency()
    }

    /// How long first connections took, and later ones.
    pub fn connections(&self) -> [Latency; 2] {
        let pages = self.pages();
        [pages.connect.latency(), pages.reconnect.latency()]
    }

    /// How long what a hub told every session took to each, from the first that read it: what each device read
    /// first is one broadcast, what it read second the next, however late it was.
    pub fn broadcasts(&self) -> Latency {
        let mut told = self.pages().told.clone();
        told.sort_unstable_by_key(|told| (told.before, told.at));
        let mut all = Durations::default();
        for wave in told.chunk_by(|one, next| one.before == next.before) {
            let durations = wave.iter().map(|told| told.at.since(wave[0].at));
            durations.for_each(|took| all.record(took));
        }
        all.latency()
    }

    /// When so many devices had been told how to behave for the first time in that span; `None`: fewer were.
    pub fn first_told(&self, from: Moment, until: Moment, devices: usize) -> Option<Moment> {
        let pages = self.pages();
        let within = pages.told.iter().filter(|told| from <= told.at && told.at <= until);
        let first = within.clone().map(|told| told.before).min()?;
        let mut wave: Vec<_> = within.filter(|told| told.before == first).collect();
        wave.sort_unstable_by_key(|told| told.at);
        devices.checked_sub(1).and_then(|last| Some(wave.get(last)?.at))
    }

    /// The acks since this was asked last.
    pub fn take_window(&self) -> Latency {
        let mut pages = self.pages();
        let latency = pages.window.latency();
        pages.window.clear();
        latency
    }
}

fn count(commands: &[CommandId]) -> u64 {
    u64::try_from(commands.len()).unwrap_or(u64::MAX)
}

impl Pages {
    const fn waiting(&self) -> u64 {
        self.counts.ordered - self.counts.confirmed
    }

    fn order(
        &mut self,
        command: CommandId,
        intended: (Stream, Moment),
        [sent, stored]: [Moment; 2],
    ) -> &mut Entry {
        self.counts.ordered += 1;
        let entry = self.open.entry(command).or_default();
        entry.intended = Some(intended);
        entry.chapter = self.chapters.len() - 1;
        entry.stages[Stage::Sent.index()] = Some(sent);
        entry.stages[Stage::Stored.index()] = Some(stored);
        entry
    }

    fn mark(&mut self, mark: Mark) {
        let entry = self.open.entry(mark.command).or_default();
        entry.stages[mark.stage.index()].get_or_insert(mark.at);
        if mark.stage != Stage::Acked {
            return;
        }
        if let Some(window) = entry.ends.take() {
            self.chapters[entry.chapter].during.happened(window, mark.at);
        }
        if let Some((_, intended)) = entry.intended {
            self.window.record(mark.at.since(intended));
        }
    }

    /// Orders of a chapter that are not confirmed.
    fn open_times(&self, chapter: usize, stream: Stream) -> impl Iterator<Item = Times> {
        self.open.values().filter_map(move |entry| {
            let (own, intended) = entry.intended?;
            (own == stream && entry.chapter == chapter).then_some((intended, entry.stages))
        })
    }

    /// Puts a command that is done into the histograms. A device acks before it confirms, and its
    /// notes come in that order: nothing more is to come.
    fn fold(&mut self, command: CommandId) {
        let Some(entry) = self.open.get(&command) else { return };
        let (Some((stream, intended)), Some(_)) =
            (entry.intended, entry.stages[Stage::Confirmed.index()])
        else {
            return;
        };
        let times = (intended, entry.stages);
        let chapter = &mut self.chapters[entry.chapter];
        during::record(&mut chapter.streams[stream.index()], times);
        if stream == Stream::Unicast {
            chapter.during.take(times);
        }
        let reached = |stage: Stage| u64::from(entry.stages[stage.index()].is_some());
        self.counts.received += reached(Stage::Received);
        self.counts.acked += reached(Stage::Acked);
        self.counts.confirmed += 1;
        self.open.remove(&command);
    }
}
