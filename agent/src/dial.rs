//! Trying the addresses of a name until one of them serves.
//!
//! Owns their order, and that none of them holds the others up: neither a name service that is
//! silent, nor an address where nobody is any more. Knows no TLS; what serves, the caller says.

use std::collections::{BTreeSet, VecDeque};
use std::future::ready;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Sleep, sleep};

use crate::network::LookingUp;

#[cfg(test)]
mod tests;

/// How long a name service may be silent before what is remembered is tried.
const SILENCE: Duration = Duration::from_secs(1);
/// How long an address is alone before the next one is tried beside it (RFC 8305, section 8, lets
/// it be this long at most; a handshake over a slow link takes about as much).
const STAGGER: Duration = Duration::from_secs(2);
/// Addresses that one connection tries.
const TRIED: usize = 32;

/// Addresses in the order in which they are tried: what the name service says now, and then what is
/// remembered. It is waited for, but not for ever, when something is.
pub(crate) struct Candidates<'a> {
    looking_up: Option<LookingUp<'a>>,
    silence: Pin<Box<Sleep>>,
    /// What of the name service's answer was not given yet.
    found: VecDeque<String>,
    /// All of it.
    answer: Vec<SocketAddr>,
    remembered: VecDeque<String>,
    given: BTreeSet<String>,
    error: Option<io::Error>,
}

impl<'a> Candidates<'a> {
    pub(crate) fn new(looking_up: LookingUp<'a>, remembered: Vec<String>) -> Self {
        Self {
            looking_up: Some(looking_up),
            silence: Box::pin(sleep(SILENCE)),
            found: VecDeque::new(),
            answer: Vec::new(),
            remembered: remembered.into(),
            given: BTreeSet::new(),
            error: None,
        }
    }

    /// The next one, once there is one; `None` when there will be no other. May be dropped and
    /// called again.
    async fn next(&mut self) -> Option<String> {
        while self.given.len() < TRIED {
            let is_silent = self.silence.is_elapsed();
            let next = match self.looking_up.as_mut() {
                _ if !self.found.is_empty() => self.found.pop_front(),
                None => Some(self.remembered.pop_front()?),
                Some(looking_up) => tokio::select! {
                    biased;
                    found = looking_up => {
                        self.looked_up(found);
                        None
                    }
                    () = self.silence.as_mut(), if !is_silent => None,
                    // An answer that has come in the meantime was taken above.
                    () = ready(()), if is_silent && !self.remembered.is_empty() => {
                        self.remembered.pop_front()
                    }
                },
            };
            if let Some(next) = next
                && self.given.insert(next.clone())
            {
                return Some(next);
            }
        }
        None
    }

    fn looked_up(&mut self, found: io::Result<Vec<String>>) {
        self.looking_up = None;
        match found {
            Ok(found) => {
                self.answer = found.iter().filter_map(|at| at.parse().ok()).collect();
                self.found = found.into();
            }
            Err(error) => self.error = Some(error),
        }
    }

    /// The addresses that the name service has answered.
    pub(crate) fn found(&self) -> &[SocketAddr] {
        &self.answer
    }

    /// Whether no other can come.
    fn is_over(&self) -> bool {
        self.looking_up.is_none() && self.found.is_empty() && self.remembered.is_empty()
    }
}

/// What comes of the first candidate that serves, and which it is: one after the other, and beside
/// each other where one takes long.
///
/// # Errors
/// That of the candidate that was tried first, because it is the likeliest to matter.
pub(crate) async fn first<T, F: Future<Output = io::Result<T>>>(
    candidates: &mut Candidates<'_>,
    attempt: impl Fn(String) -> F,
) -> io::Result<(String, T)> {
    let attempt = |number: usize, at: String| {
        let attempt = attempt(at.clone());
        async move { (number, at, attempt.await) }
    };
    let mut attempts = FuturesUnordered::new();
    let mut alone: Option<Pin<Box<Sleep>>> = None;
    let (mut begun, mut is_over) = (0, false);
    let mut failed: Option<(usize, io::Error)> = None;
    loop {
        let next = async {
            if let Some(alone) = alone.as_mut().filter(|alone| !alone.is_elapsed()) {
                alone.as_mut().await;
            }
            candidates.next().await
        };
        tokio::select! {
            biased;
            Some((number, at, outcome)) = attempts.next() => match outcome {
                Ok(served) => return Ok((at, served)),
                Err(error) => {
                    alone = None;
                    if failed.as_ref().is_none_or(|(earlier, _)| number < *earlier) {
                        failed = Some((number, error));
                    }
                }
            },
            next = next, if !is_over => {
                if let Some(at) = next {
                    attempts.push(Box::pin(attempt(begun, at)));
                    begun += 1;
                    alone = Some(Box::pin(sleep(STAGGER)));
                    is_over = candidates.is_over();
                } else {
                    is_over = true;
                }
            }
            else => break,
        }
    }
    let none = || io::Error::other("the name has no address");
    Err(failed.map(|(_, error)| error).or_else(|| candidates.error.take()).unwrap_or_else(none))
}
