//! Reading what hubs say: a stream that all readers share as one consumer group.
//!
//! Owns one reader: a connection that may block, a name drawn at random, and what it took. A read
//! is never cut short, because what Redis has handed out is this reader's until it is acknowledged
//! or claimed: it goes on in a task while nobody waits for it. What a dead reader took, and what
//! nobody acknowledged for long, is claimed by whoever reads.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use redis::{Cmd, Value};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::channel::unavailable;
use super::dial::{Connection, Failure, Options};
use super::nodes::Nodes;
use super::reply::{bytes, field, int, list, text};
use super::shared::Shared;
use super::wire;
use crate::metrics::Refused;
use crate::{BATCH, BrokerError, Upstream, UpstreamReader};

/// The consumer group.
const GROUP: &str = "api";
/// How long a read blocks, and so how often abandoned messages are looked for.
const BLOCK: Duration = Duration::from_millis(500);
/// How often readers that are gone are removed.
const TIDY_EVERY: Duration = Duration::from_secs(60);
/// A reader that did not ask for so long, and holds nothing, is gone.
const GONE_AFTER: Duration = Duration::from_secs(10 * 60);
/// The most readers that are looked at.
const MAX_READERS: usize = 1024;

/// Entries that are read at once. Each holds several messages while there is much to say, and one while there is
/// little.
const ENTRIES: usize = BATCH / 8;
/// Entries that are taken over at once: what a reader left behind is shared by those that are there.
const CLAIMED: usize = BATCH / wire::ENTRY;

/// What a read brought: entries, each with its messages.
type Taken = Result<Vec<(Vec<u8>, Vec<Upstream>)>, Failure>;

/// One reader.
#[derive(Debug)]
pub(super) struct Reader {
    shared: Arc<Shared>,
    /// For acknowledging: the reading connection may be blocked.
    connection: Connection,
    key: String,
    wishes: mpsc::Sender<()>,
    taken: mpsc::Receiver<Taken>,
    /// A wish was told and not yet answered.
    is_waiting: bool,
    /// Entries that were taken and are still to be handed out, each as a whole.
    rest: VecDeque<(Vec<u8>, Vec<Upstream>)>,
    unacknowledged: Vec<Vec<u8>>,
    _task: JoinSet<()>,
}

impl Reader {
    pub(super) async fn open(shared: &Arc<Shared>, nodes: &Nodes) -> Result<Self, Failure> {
        let key = shared.names.upstream();
        let options = Options { push: None, blocks: BLOCK };
        let blocking = shared.finder.open(nodes, &key, options).await?;
        let connection = nodes.of(&key).clone();
        let name: [u8; 8] = shared.entropy.bytes();
        let reading = Reading {
            shared: shared.clone(),
            connection: blocking,
            key: key.clone(),
            name: format!("{:016x}", u64::from_be_bytes(name)),
            claimed_at: None,
            tidied_at: None,
        };
        reading.join().await?;
        let (wishes, wished) = mpsc::channel(1);
        let (give, taken) = mpsc::channel(1);
        let mut task = JoinSet::new();
        task.spawn(reading.run(wished, give, nodes.gone.clone()));
        Ok(Self {
            shared: shared.clone(),
            connection,
            key,
            wishes,
            taken,
            is_waiting: false,
            rest: VecDeque::new(),
            unacknowledged: Vec::new(),
            _task: task,
        })
    }

    /// As many whole entries as a batch has room for.
    fn hand_out(&mut self) -> Vec<Upstream> {
        let mut batch = Vec::new();
        while let Some((id, messages)) = self
            .rest
            .pop_front_if(|(_, more)| batch.is_empty() || batch.len() + more.len() <= BATCH)
        {
            self.unacknowledged.push(id);
            batch.extend(messages);
        }
        batch
    }

    fn fails(&self, failure: &Failure) -> BrokerError {
        unavailable(&self.shared, failure)
    }
}

#[async_trait]
impl UpstreamReader for Reader {
    async fn next(&mut self) -> Result<Vec<Upstream>, BrokerError> {
        const OVER: Failure = Failure::Role("the reader is over");
        if self.rest.is_empty() {
            if !self.is_waiting {
                self.wishes.send(()).await.map_err(|_| self.fails(&OVER))?;
                self.is_waiting = true;
            }
            let taken = self.taken.recv().await.ok_or(OVER);
            self.is_waiting = false;
            self.rest = taken.flatten().map_err(|failure| self.fails(&failure))?.into();
        }
        Ok(self.hand_out())
    }

    async fn acknowledge(&mut self) -> Result<(), BrokerError> {
        for some in self.unacknowledged.chunks(BATCH) {
            let forgotten = forget(&self.connection, &self.key, some).await;
            forgotten.map_err(|failure| self.fails(&failure))?;
        }
        self.unacknowledged.clear();
        Ok(())
    }
}

/// Acknowledges entries and deletes them: they are in the store, or of no use to anybody.
async fn forget(connection: &Connection, key: &str, ids: &[Vec<u8>]) -> Result<(), Failure> {
    let mut acknowledge = redis::cmd("XACK");
    acknowledge.arg(key).arg(GROUP).arg(ids);
    let mut delete = redis::cmd("XDEL");
    delete.arg(key).arg(ids);
    for answer in connection.ask_all(&[acknowledge, delete]).await? {
        answer.extract_error()?;
    }
    Ok(())
}

/// The task's part.
struct Reading {
    shared: Arc<Shared>,
    connection: Connection,
    key: String,
    name: String,
    claimed_at: Option<Instant>,
    tidied_at: Option<Instant>,
}

impl Reading {
    /// Makes the group where it is not; everything that is in the stream is still to be read.
    async fn join(&self) -> Result<(), Failure> {
        let mut create = redis::cmd("XGROUP");
        create.arg("CREATE").arg(&self.key).arg(GROUP).arg(0).arg("MKSTREAM");
        match self.connection.ask(&create).await {
            Err(Failure::Redis(error)) if error.code() == Some("BUSYGROUP") => Ok(()),
            outcome => outcome.map(drop),
        }
    }

    async fn run(
        mut self,
        mut wished: mpsc::Receiver<()>,
        give: mpsc::Sender<Taken>,
        gone: CancellationToken,
    ) {
        while wished.recv().await.is_some() {
            let taken = tokio::select! {
                biased;
                () = gone.cancelled() => return,
                taken = self.take() => taken,
            };
            if give.send(taken).await.is_err() {
                return;
            }
        }
    }

    /// Waits for at least one message.
    async fn take(&mut self) -> Taken {
        loop {
            self.tidy_when_due().await?;
            let mut taken = self.claim_when_due().await?;
            if taken.is_empty() {
                taken = self.read().await?;
            }
            if !taken.is_empty() {
                return Ok(taken);
            }
        }
    }

    async fn read(&self) -> Taken {
        let mut read = redis::cmd("XREADGROUP");
        read.arg("GROUP").arg(GROUP).arg(&self.name).arg("COUNT").arg(ENTRIES);
        read.arg("BLOCK").arg(millis(BLOCK)).arg("STREAMS").arg(&self.key).arg(">");
        let answer = self.ask(&read).await?;
        // RESP3: a map from stream to entries; nothing when there are none.
        match field(&answer, &self.key) {
            Some(entries) => self.sound(entries).await,
            None => Ok(Vec::new()),
        }
    }

    /// Takes over what nobody acknowledged for long.
    async fn claim_when_due(&mut self) -> Taken {
        if !self.is_due(self.claimed_at, BLOCK) {
            return Ok(Vec::new());
        }
        let mut claim = redis::cmd("XAUTOCLAIM");
        claim.arg(&self.key).arg(GROUP).arg(&self.name).arg(millis(self.shared.config.claim_after));
        claim.arg("0-0").arg("COUNT").arg(CLAIMED);
        let answer = self.ask(&claim).await?;
        let entries = list(&answer).and_then(|parts| parts.get(1));
        let taken = self.sound(entries.ok_or(Failure::Answer("XAUTOCLAIM"))?).await?;
        if taken.is_empty() {
            // As long as there is something to take over, the next look comes at once.
            self.claimed_at = Some(self.shared.clock.now());
        } else {
            let count: usize = taken.iter().map(|(_, messages)| messages.len()).sum();
            self.shared.metrics.claimed.increment(count as u64);
            tracing::info!(count, "messages of a lost reader are taken over");
        }
        Ok(taken)
    }

    /// The messages of entries. What is none is counted, and an entry without any forgotten.
    async fn sound(&self, entries: &Value) -> Taken {
        let (mut taken, mut empty) = (Vec::new(), Vec::new());
        for entry in list(entries).unwrap_or_default().iter().take(ENTRIES) {
            let [id, content] = list(entry).unwrap_or_default() else { continue };
            let Some(id) = bytes(id).map(<[u8]>::to_vec) else { continue };
            let lines = field(content, "m").and_then(bytes).and_then(wire::decode_upstream);
            let lines = lines.unwrap_or_else(|| vec![None]);
            let all = lines.len();
            let messages: Vec<_> = lines.into_iter().flatten().collect();
            (messages.len()..all).for_each(|_| self.shared.metrics.refused(Refused::Upstream));
            if messages.is_empty() {
                empty.push(id);
            } else {
                taken.push((id, messages));
            }
        }
        if !empty.is_empty() {
            forget(&self.connection, &self.key, &empty).await?;
        }
        Ok(taken)
    }

    /// Removes readers that are gone and hold nothing.
    async fn tidy_when_due(&mut self) -> Result<(), Failure> {
        if !self.is_due(self.tidied_at, TIDY_EVERY) {
            return Ok(());
        }
        self.tidied_at = Some(self.shared.clock.now());
        let mut readers = redis::cmd("XINFO");
        readers.arg("CONSUMERS").arg(&self.key).arg(GROUP);
        let answer = self.ask(&readers).await?;
        let number = |reader: &Value, name| field(reader, name).and_then(int);
        let gone_after = i64::try_from(GONE_AFTER.as_millis()).unwrap_or(i64::MAX);
        for reader in list(&answer).unwrap_or_default().iter().take(MAX_READERS) {
            let is_gone = number(reader, "pending") == Some(0)
                && number(reader, "idle").is_some_and(|idle| idle > gone_after);
            if let Some(name) = field(reader, "name").and_then(text).filter(|_| is_gone) {
                let mut remove = redis::cmd("XGROUP");
                remove.arg("DELCONSUMER").arg(&self.key).arg(GROUP).arg(name);
                self.ask(&remove).await?;
            }
        }
        Ok(())
    }

    fn is_due(&self, last: Option<Instant>, every: Duration) -> bool {
        last.is_none_or(|at| self.shared.clock.now().saturating_duration_since(at) >= every)
    }

    /// Asks, and makes the group again when Redis has forgotten it.
    async fn ask(&self, command: &Cmd) -> Result<Value, Failure> {
        match self.connection.ask(command).await {
            Err(Failure::Redis(error)) if error.code() == Some("NOGROUP") => {
                self.join().await?;
                self.connection.ask(command).await
            }
            outcome => outcome,
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
