//! The crew: the swarm of a run, over one process or several.
//!
//! Owns the workers and what they are asked. A worker is one function ([`worker::serve`]) that
//! takes asks and gives tells; whether it runs in this process or in one of its own is decided by
//! how many sockets there are, and nobody else can tell.

use std::io;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use protocol::id::DeviceId;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::book::Book;
use crate::swarm::Kind;

use self::wire::{Ask, Tell};

pub mod wire;
pub mod worker;

/// Asks and tells that may wait between two ends.
const DEPTH: usize = 64;
/// The word on the command line by which this program knows that it is a worker.
pub const WORKER: &str = "worker";

/// Why a worker cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CrewError {
    /// It did not start.
    #[error("a worker process did not start")]
    Start(#[source] io::Error),
    /// It is gone.
    #[error("a worker process ended before its time")]
    Gone,
    /// It could not enroll its devices.
    #[error("the swarm could not be enrolled: {0}")]
    Enroll(String),
}

/// What is known of the swarm at a moment.
#[derive(Debug, Clone, Default)]
pub struct Standing {
    /// Devices that have a session, or have checked in, of each worker.
    connected: Vec<u64>,
    /// Sessions that ended without being asked to.
    dropped: Vec<u64>,
    /// Times that each worker has said that a cut was over.
    cuts: Vec<u64>,
    /// Workers that are gone.
    gone: usize,
}

impl Standing {
    /// Devices that have a session, or have checked in.
    pub fn connected(&self) -> u64 {
        self.connected.iter().sum()
    }

    /// Sessions that ended without being asked to.
    pub fn dropped(&self) -> u64 {
        self.dropped.iter().sum()
    }

    /// Whether every worker has done so many cuts.
    fn has_cut(&self, times: u64) -> bool {
        self.cuts.iter().all(|cuts| *cuts >= times)
    }
}

/// Devices of one worker, and what stopped it.
type Enrolled = (Vec<(Kind, DeviceId)>, Option<String>);

/// One worker, seen from outside.
#[derive(Debug)]
struct Squad {
    asks: mpsc::Sender<Ask>,
    child: Option<Child>,
}

/// The crew. Dropping it ends every worker.
#[derive(Debug)]
pub struct Crew {
    squads: Vec<Squad>,
    standing: watch::Sender<Standing>,
    enrolled: mpsc::Receiver<Enrolled>,
    /// What was enrolled so far, by how many workers.
    gathered: (Vec<(Kind, DeviceId)>, Option<String>, usize),
    cuts: AtomicU64,
    tasks: JoinSet<()>,
}

impl Crew {
    /// Starts workers: one in this process, or as many of their own. What they note goes into
    /// `book`.
    ///
    /// # Errors
    /// [`CrewError::Start`].
    pub fn start(workers: usize, book: &Arc<Book>) -> Result<Self, CrewError> {
        let mut standing = Standing::default();
        standing.connected.resize(workers, 0);
        standing.dropped.resize(workers, 0);
        standing.cuts.resize(workers, 0);
        let standing = watch::Sender::new(standing);
        let (enrolling, enrolled) = mpsc::channel(workers.max(1));
        let (cuts, tasks) = (AtomicU64::new(0), JoinSet::new());
        let gathered = (Vec::new(), None, 0);
        let mut crew = Self { squads: Vec::new(), standing, enrolled, gathered, cuts, tasks };
        for number in 0..workers {
            let (asks, to_worker) = mpsc::channel(DEPTH);
            let (tells, from_worker) = mpsc::channel(DEPTH);
            let child = if workers == 1 {
                crew.tasks.spawn(Box::pin(worker::serve(to_worker, tells)));
                None
            } else {
                Some(crew.spawn(to_worker, tells).map_err(CrewError::Start)?)
            };
            crew.squads.push(Squad { asks, child });
            let listener = Listener {
                number,
                book: book.clone(),
                standing: crew.standing.clone(),
                enrolling: enrolling.clone(),
            };
            crew.tasks.spawn(listener.run(from_worker));
        }
        Ok(crew)
    }

    /// A worker in a process of its own: lines of JSON go in and come out.
    fn spawn(&mut self, asks: mpsc::Receiver<Ask>, tells: mpsc::Sender<Tell>) -> io::Result<Child> {
        let program = std::env::current_exe()?;
        let mut child = Command::new(program)
            .arg(WORKER)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            // Ctrl-C is for whoever tidies up.
            .process_group(0)
            .spawn()?;
        let gone = || io::Error::other("a worker has no standard input or output");
        let (stdin, stdout) =
            (child.stdin.take().ok_or_else(gone)?, child.stdout.take().ok_or_else(gone)?);
        self.tasks.spawn(wire::send(asks, stdin));
        self.tasks.spawn(wire::receive(stdout, tells));
        Ok(child)
    }

    /// Processes of workers, of those that have one.
    pub fn pids(&self) -> Vec<u32> {
        self.squads.iter().filter_map(|squad| squad.child.as_ref()?.id()).collect()
    }

    /// How many workers there are.
    pub fn size(&self) -> u64 {
        u64::try_from(self.squads.len()).unwrap_or(u64::MAX).max(1)
    }

    /// How things stand, from now on.
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// Asks each worker for something of its own.
    ///
    /// # Errors
    /// [`CrewError::Gone`].
    pub async fn ask(&self, mut each: impl FnMut(usize) -> Ask) -> Result<(), CrewError> {
        for (number, squad) in self.squads.iter().enumerate() {
            squad.asks.send(each(number)).await.map_err(|_| CrewError::Gone)?;
        }
        Ok(())
    }

    /// Waits until every worker has enrolled its devices, and answers what there is by then with
    /// what stopped it, if anything did. It may be given up and asked again.
    pub async fn enrolled(&mut self) -> (Vec<(Kind, DeviceId)>, Option<CrewError>) {
        while self.gathered.2 < self.squads.len() {
            let Some((devices, error)) = self.enrolled.recv().await else { break };
            self.gathered.0.extend(devices);
            self.gathered.1 = self.gathered.1.take().or(error);
            self.gathered.2 += 1;
        }
        let (devices, error, _) = std::mem::take(&mut self.gathered);
        (devices, error.map(CrewError::Enroll))
    }

    /// Waits until so many devices have a session.
    ///
    /// # Errors
    /// [`CrewError::Gone`].
    pub async fn connected(&self, count: u64) -> Result<(), CrewError> {
        self.until(|standing| standing.connected() >= count).await
    }

    /// Cuts every socket at once. Answers when all of them are gone.
    ///
    /// # Errors
    /// [`CrewError::Gone`].
    pub async fn cut(&self) -> Result<(), CrewError> {
        let times = self.cuts.fetch_add(1, Ordering::Relaxed) + 1;
        self.ask(|_| Ask::Cut).await?;
        self.until(|standing| standing.has_cut(times)).await
    }

    async fn until(&self, is_so: impl Fn(&Standing) -> bool) -> Result<(), CrewError> {
        let mut standing = self.standing.subscribe();
        let reached = standing.wait_for(|standing| standing.gone > 0 || is_so(standing)).await;
        // The sender lives in self: waiting cannot fail.
        if reached.is_ok_and(|standing| is_so(&standing)) { Ok(()) } else { Err(CrewError::Gone) }
    }

    /// Lets every device say goodbye, and waits for the workers to end.
    pub async fn stop(mut self) {
        for squad in &self.squads {
            // One that is gone has nothing to end.
            let _ = squad.asks.send(Ask::Stop).await;
        }
        for squad in std::mem::take(&mut self.squads) {
            drop(squad.asks);
            if let Some(mut child) = squad.child {
                let _ = child.wait().await;
            }
        }
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Takes what one worker tells.
struct Listener {
    number: usize,
    book: Arc<Book>,
    standing: watch::Sender<Standing>,
    enrolling: mpsc::Sender<Enrolled>,
}

impl Listener {
    async fn run(self, mut tells: mpsc::Receiver<Tell>) {
        let (mut has_ended, mut has_enrolled) = (false, false);
        while let Some(tell) = tells.recv().await {
            match tell {
                Tell::Enrolled { devices, error } => {
                    has_enrolled = true;
                    // Nobody waits for it any more when the run was given up.
                    let _ = self.enrolling.send((devices, error)).await;
                }
                Tell::Noted { notes, connected, dropped } => {
                    self.book.take_in(notes);
                    self.standing.send_modify(|standing| {
                        standing.connected[self.number] = connected;
                        standing.dropped[self.number] = dropped;
                    });
                }
                Tell::Cut => {
                    self.standing.send_modify(|standing| standing.cuts[self.number] += 1);
                }
                Tell::Failed { what } => self.book.error(what),
                Tell::Ended => has_ended = true,
            }
        }
        if !has_enrolled {
            let error = CrewError::Gone.to_string();
            let _ = self.enrolling.send((Vec::new(), Some(error))).await;
        }
        if !has_ended {
            self.standing.send_modify(|standing| standing.gone += 1);
        }
    }
}

/// Runs as a worker process: asks come by standard input, tells go to standard output.
pub async fn work() {
    let (asks, to_worker) = mpsc::channel(DEPTH);
    let (tells, from_worker) = mpsc::channel(DEPTH);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut lines = BufReader::new(tokio::io::stdin()).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let Ok(ask) = serde_json::from_str::<Ask>(&line) else { break };
            if asks.send(ask).await.is_err() {
                break;
            }
        }
        // Its end is that of whoever started this.
    });
    let telling = async {
        let mut from_worker = from_worker;
        let mut out = tokio::io::stdout();
        while let Some(tell) = from_worker.recv().await {
            let Some(line) = wire::line(&tell) else { continue };
            if out.write_all(&line).await.is_err() || out.flush().await.is_err() {
                return;
            }
        }
    };
    tokio::join!(Box::pin(worker::serve(to_worker, tells)), telling);
}
