//! One subscription of a hub: a connection of its own, its queue, and whether it still hears.
//!
//! Owns reading always and fast: a subscriber that rests is cut off by Redis, so a queue that is
//! full ends the subscription here first. Each beat it sends itself a message through its own
//! connection; what does not come ends it, however well the socket looks. Nothing is silently
//! lost: a subscription that lost something is over.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use metrics::Gauge;
use redis::{Cmd, PushInfo, PushKind};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::dial::{Connection, Failure, Options};
use super::names::Channels;
use super::nodes::Nodes;
use super::reply::{bytes, int};
use super::shared::Shared;
use super::wire::{self, Token, Word};
use crate::metrics::{End, Refused};
use crate::{BrokerError, Downstream};

/// Messages that wait, besides the bound on their bytes.
const QUEUE: usize = 4096;

/// A message that waits, and from whom.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) json: Vec<u8>,
    /// Whether another hub said it: then it may say only that a session is over.
    pub(super) is_peer: bool,
}

#[derive(Debug)]
struct Queue {
    /// `None` once the subscription has taken leave: its reader learns of the end.
    sender: Option<mpsc::Sender<Waiting>>,
    /// Nothing more gets in.
    is_over: bool,
}

/// What the connection's reader and the rest share.
#[derive(Debug)]
pub(super) struct Inbox {
    channels: Channels,
    token: Token,
    queue: Mutex<Queue>,
    bytes: AtomicUsize,
    max_bytes: usize,
    /// Whether the word that we are the newest has come back.
    is_newest: watch::Sender<bool>,
    /// The number of the last message to itself that came.
    heard: watch::Sender<u64>,
    end: watch::Sender<Option<End>>,
}

impl Inbox {
    /// Takes what the server says. Called by the connection itself: must not wait.
    fn take(&self, push: PushInfo) {
        if push.kind == PushKind::Disconnection {
            return self.over(End::Lost);
        }
        let [channel, message] = &push.data[..] else { return };
        if !matches!(push.kind, PushKind::Message | PushKind::SMessage) {
            return;
        }
        let (Some(channel), Some(message)) = (bytes(channel), bytes(message)) else { return };
        if channel == self.channels.probe.as_bytes() {
            self.hear(message);
        } else if channel == self.channels.hub.as_bytes() {
            match wire::word(message) {
                Some(Word::Deliveries(json)) => self.queue(json, false),
                Some(Word::Newest(token)) => self.newest(token),
                None => self.queue(&[], false),
            }
        } else if channel == self.channels.peer.as_bytes() {
            match wire::word(message) {
                Some(Word::Deliveries(json)) => self.queue(json, true),
                Some(Word::Newest(_)) | None => self.queue(&[], true),
            }
        }
    }

    fn hear(&self, message: &[u8]) {
        let Some((token, number)) = message.split_first_chunk() else { return };
        if *token == self.token
            && let Ok(number) = number.try_into()
        {
            self.heard.send_replace(u64::from_be_bytes(number));
        }
    }

    /// Words of others that came before our own are of older subscribers.
    fn newest(&self, token: Token) {
        if token == self.token {
            self.is_newest.send_replace(true);
        } else if *self.is_newest.borrow() {
            self.over(End::Replaced);
        }
    }

    fn queue(&self, json: &[u8], is_peer: bool) {
        let is_full = {
            let queue = self.lock();
            let Some(sender) = queue.sender.as_ref().filter(|_| !queue.is_over) else { return };
            let waiting = self.bytes.fetch_add(json.len(), Ordering::SeqCst) + json.len();
            let message = Waiting { json: json.to_vec(), is_peer };
            waiting > self.max_bytes || sender.try_send(message).is_err()
        };
        if is_full {
            self.over(End::Slow);
        }
    }

    /// The first reason stands. What waits can still be read.
    fn over(&self, end: End) {
        self.lock().is_over = true;
        self.end.send_if_modified(|known| {
            let is_first = known.is_none();
            known.get_or_insert(end);
            is_first
        });
    }

    pub(super) fn taken(&self, waiting: &Waiting) {
        self.bytes.fetch_sub(waiting.json.len(), Ordering::SeqCst);
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing inside of the lock can panic halfway through a change.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The subscription as the broker sees it.
#[derive(Debug)]
pub(super) struct Channel {
    inbox: Arc<Inbox>,
    connection: Connection,
    is_sharded: bool,
    sent: AtomicU64,
}

impl Channel {
    /// Subscribes, and tells older subscribers of the hub that they are over. Everything that is
    /// published after the answer comes.
    pub(super) async fn open(
        shared: &Shared,
        nodes: &Nodes,
        channels: Channels,
    ) -> Result<(Arc<Self>, mpsc::Receiver<Waiting>), Failure> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let inbox = Arc::new(Inbox {
            channels,
            token: shared.entropy.bytes(),
            queue: Mutex::new(Queue { sender: Some(sender), is_over: false }),
            bytes: AtomicUsize::new(0),
            max_bytes: shared.config.subscription_bytes as usize,
            is_newest: watch::Sender::new(false),
            heard: watch::Sender::new(0),
            end: watch::Sender::new(None),
        });
        let reader = inbox.clone();
        let push = move |push| {
            reader.take(push);
            Ok::<(), redis::aio::SendError>(())
        };
        let options = Options { push: Some(Arc::new(push)), ..Options::default() };
        let connection = shared.finder.open(nodes, &inbox.channels.hub, options).await?;
        let sent = AtomicU64::new(0);
        let channel = Self { inbox, connection, is_sharded: nodes.is_cluster, sent };
        channel.subscribe(shared).await?;
        Ok((Arc::new(channel), receiver))
    }

    async fn subscribe(&self, shared: &Shared) -> Result<(), Failure> {
        let Channels { hub, peer, probe } = &self.inbox.channels;
        let verb = if self.is_sharded { "SSUBSCRIBE" } else { "SUBSCRIBE" };
        for channel in [hub, peer, probe] {
            self.connection.ask(redis::cmd(verb).arg(channel)).await?;
        }
        let mut is_newest = self.inbox.is_newest.subscribe();
        self.publish(hub, &wire::newest(self.inbox.token)).await?;
        let patience = shared.config.command_timeout;
        let came = timeout(patience, is_newest.wait_for(|is| *is)).await;
        came.map(drop).map_err(|_| Failure::TimedOut("the subscription"))
    }

    /// Sends itself a message and waits for it.
    pub(super) async fn probe(&self, shared: &Shared) -> Result<(), Failure> {
        let number = self.sent.fetch_add(1, Ordering::SeqCst) + 1;
        let mut heard = self.inbox.heard.subscribe();
        let began = shared.clock.now();
        let message = [&self.inbox.token[..], &number.to_be_bytes()].concat();
        self.publish(&self.inbox.channels.probe, &message).await?;
        let patience = shared.config.command_timeout;
        // A later one that came proves as much.
        let came = timeout(patience, heard.wait_for(|last| *last >= number)).await;
        came.map(drop).map_err(|_| Failure::TimedOut("the own channel"))?;
        let took = shared.clock.now().saturating_duration_since(began);
        shared.metrics.probe.record(took);
        Ok(())
    }

    async fn publish(&self, channel: &str, message: &[u8]) -> Result<(), Failure> {
        let answer = self.connection.ask(&publish(self.is_sharded, channel, message)).await?;
        int(&answer).map(drop).ok_or(Failure::Answer("PUBLISH"))
    }

    /// Keeps the subscription until it is over, and takes leave: nobody who publishes afterwards
    /// is told that it was taken.
    pub(super) async fn keep(self: Arc<Self>, shared: Arc<Shared>, nodes: Arc<Nodes>) {
        let counted = Counted::new(&shared.metrics.subscriptions);
        let gone = nodes.gone.clone();
        // The snapshot must not live on because of us.
        drop(nodes);
        let end = self.listen(&shared, &gone).await;
        shared.metrics.ended(end);
        tracing::info!(
            channel = self.inbox.channels.hub,
            reason = end.label(),
            "subscription ended"
        );
        let Channels { hub, peer, probe } = &self.inbox.channels;
        let verb = if self.is_sharded { "SUNSUBSCRIBE" } else { "UNSUBSCRIBE" };
        for channel in [hub, peer, probe] {
            if self.connection.ask(redis::cmd(verb).arg(channel)).await.is_err() {
                break;
            }
        }
        drop(counted);
        self.inbox.lock().sender = None;
    }

    async fn listen(&self, shared: &Shared, gone: &tokio_util::sync::CancellationToken) -> End {
        let mut ended = self.inbox.end.subscribe();
        loop {
            tokio::select! {
                biased;
                end = async { ended.wait_for(Option::is_some).await.ok().and_then(|end| *end) } => {
                    return end.unwrap_or(End::Lost);
                }
                () = gone.cancelled() => self.inbox.over(End::Lost),
                () = tokio::time::sleep(shared.config.probe_every) => {
                    if let Err(failure) = self.probe(shared).await {
                        tracing::warn!(
                            channel = self.inbox.channels.hub,
                            error = &failure as &dyn std::error::Error,
                            "subscription does not hear itself"
                        );
                        self.inbox.over(End::Silent);
                        shared.doubt();
                    }
                }
            }
        }
    }

    pub(super) fn inbox(&self) -> Arc<Inbox> {
        self.inbox.clone()
    }

    /// Whether it still takes messages.
    pub(super) fn is_live(&self) -> bool {
        self.inbox.end.borrow().is_none()
    }
}

/// Counts itself as long as it is there.
struct Counted(Gauge);

impl Counted {
    fn new(gauge: &Gauge) -> Self {
        gauge.increment(1);
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.decrement(1);
    }
}

/// Publishes a message.
pub(super) fn publish(is_sharded: bool, channel: &str, message: &[u8]) -> Cmd {
    let mut command = redis::cmd(if is_sharded { "SPUBLISH" } else { "PUBLISH" });
    command.arg(channel).arg(message);
    command
}

/// The reader's end.
#[derive(Debug)]
pub(super) struct RedisSubscription {
    pub(super) shared: Arc<Shared>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) queue: mpsc::Receiver<Waiting>,
    /// Decoded and not yet taken.
    pub(super) next: std::collections::VecDeque<Downstream>,
    /// The task that keeps the channel. Dropping it ends the connection.
    pub(super) _keeper: tokio::task::JoinSet<()>,
}

#[async_trait::async_trait]
impl crate::Subscription for RedisSubscription {
    async fn next(&mut self) -> Option<Downstream> {
        loop {
            if let Some(message) = self.next.pop_front() {
                return Some(message);
            }
            let waiting = self.queue.recv().await?;
            self.inbox.taken(&waiting);
            match wire::decode(&waiting.json) {
                Some(batch) => self.next.extend(batch.into_iter().filter(|message| {
                    !waiting.is_peer || matches!(message, Downstream::Replaced { .. })
                })),
                None => self.shared.metrics.refused(Refused::Downstream),
            }
        }
    }
}

/// What callers learn of a failure; the log and the supervisor learn more.
pub(super) fn unavailable(shared: &Shared, failure: &Failure) -> BrokerError {
    tracing::debug!(error = failure as &dyn std::error::Error, "redis was asked in vain");
    shared.doubt();
    BrokerError::Unavailable
}
