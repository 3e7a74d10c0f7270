//! The lives of a host: how it dies, what it leaves behind, and how it comes back.
//!
//! When a host is killed, its runtime drops every connection in an order that differs from run to
//! run. So they are laid aside at that moment, and dropped in the order of their names by whoever
//! is on the host next: its next life, or a kernel whose process is gone.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt as _;
use tokio::sync::Notify;
use turmoil::net::TcpStream;

use crate::scene::Scene;

/// One host, in whichever life.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) name: String,
    pub(crate) scene: Arc<Scene>,
    lives: AtomicU64,
    /// No process is on it: only its kernel answers.
    is_bare: AtomicBool,
    /// It is being killed at this moment.
    is_dying: AtomicBool,
    left: Mutex<BTreeMap<String, TcpStream>>,
    leave: Notify,
}

impl Life {
    pub(crate) fn new(name: String, scene: &Arc<Scene>) -> Arc<Self> {
        Arc::new(Self {
            name,
            scene: scene.clone(),
            lives: AtomicU64::new(0),
            is_bare: AtomicBool::new(false),
            is_dying: AtomicBool::new(false),
            left: Mutex::default(),
            leave: Notify::new(),
        })
    }

    /// Begins the next life, and tells which one it is. Never ends while no process is to be here.
    pub(crate) async fn begin(&self) -> u64 {
        let left = std::mem::take(&mut *self.left());
        for (label, stream) in left {
            self.scene.note(format_args!("{label} is dropped"));
            drop(stream);
        }
        if self.is_bare() {
            std::future::pending::<()>().await;
        }
        // Whoever asked for the end may have asked the life before.
        _ = self.leave.notified().now_or_never();
        let life = self.lives.fetch_add(1, Ordering::SeqCst);
        self.scene.note(format_args!("{} begins life {life}", self.name));
        life
    }

    /// Ends the present life by what `ends` does.
    pub(crate) fn die(&self, ends: impl FnOnce()) {
        self.is_dying.store(true, Ordering::SeqCst);
        ends();
        self.is_dying.store(false, Ordering::SeqCst);
    }

    pub(crate) fn is_bare(&self) -> bool {
        self.is_bare.load(Ordering::SeqCst)
    }

    pub(crate) fn set_bare(&self, is_bare: bool) {
        self.is_bare.store(is_bare, Ordering::SeqCst);
    }

    /// Asks for the end of this life, in order.
    pub(crate) fn ask_to_leave(&self) {
        self.scene.note(format_args!("{} is asked to leave", self.name));
        self.leave.notify_one();
    }

    /// Waits until the end is asked for.
    pub(crate) async fn asked(&self) {
        self.leave.notified().await;
    }

    /// A connection of this host is over.
    pub(crate) fn dropped(&self, label: &str, writes: u64, stream: TcpStream) {
        if self.is_dying.load(Ordering::SeqCst) {
            self.left().insert(label.to_owned(), stream);
        } else {
            self.scene.note(format_args!("{label} is over after {writes} writes"));
        }
    }

    fn left(&self) -> MutexGuard<'_, BTreeMap<String, TcpStream>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
