//! Where somebody on the device hands in an offline code: a socket in the state directory.
//!
//! The running agent serves one caller after the other; without an agent the caller carries the code
//! out by itself, holding the state directory. Only root, or whoever the agent runs as, is heard.
//! Judges no code.

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream as Stream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::unistd::geteuid;
use runtime::Clock;
use runtime::files::PRIVATE;
use runtime::lifecycle::CancellationToken;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

use super::{Answer, Effect, Moment, end};
use crate::host::Host;
use crate::state::{StateDir, StateError};

/// Codes that wait to be judged.
const CODES: usize = 1;
/// Bytes of a request or an answer.
const LINE: u64 = 4096;
/// How long a caller may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the agent may take to open a device.
const ANSWER_WITHIN: Duration = Duration::from_secs(120);

/// A code that somebody handed in.
#[derive(Debug)]
pub(crate) struct Asked {
    /// What it is to end.
    pub(crate) effect: Effect,
    /// As typed.
    pub(crate) code: String,
    /// Whoever waits.
    pub(crate) reply: oneshot::Sender<Answer>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    effect: Effect,
    code: String,
}

/// Why nobody was asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// No agent serves this state directory.
    #[error("no agent answers here")]
    NoAgent,
    /// The agent was reached, and did not answer.
    #[error("the agent did not answer")]
    Io(#[from] std::io::Error),
    /// The agent answered something else.
    #[error("the agent's answer is not understood")]
    Answer(#[from] serde_json::Error),
    /// The state directory is not usable.
    #[error("the code cannot be judged without the state directory")]
    State(#[from] StateError),
}

fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("offline.sock")
}

/// Where callers come to.
#[derive(Debug)]
pub(crate) struct Desk {
    listener: UnixListener,
    path: PathBuf,
    asked: mpsc::Sender<Asked>,
}

impl Desk {
    /// The desk of the agent that holds that state directory. An agent runs without one as well.
    /// `None`: on a device where nothing can stand.
    pub(crate) fn open(state_dir: Option<&Path>) -> (Option<Self>, mpsc::Receiver<Asked>) {
        let (asked, codes) = mpsc::channel(CODES);
        let desk = state_dir.and_then(|state_dir| {
            let path = path(state_dir);
            listen(&path)
                .inspect_err(|error| tracing::error!(%error, "this agent takes no offline codes"))
                .ok()
                .map(|listener| Self { listener, path, asked })
        });
        (desk, codes)
    }
}

/// Serves callers until `stop`.
pub(crate) async fn serve(desk: Option<Desk>, stop: CancellationToken) {
    let Some(Desk { listener, path, asked }) = desk else { return stop.cancelled().await };
    loop {
        let stream = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "caller was not accepted");
                    continue;
                }
            },
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            served = serve_one(stream, &asked) => {
                if let Err(error) = served {
                    tracing::warn!(%error, "caller was not served");
                }
            }
        }
    }
    let _ = std::fs::remove_file(path);
}

fn listen(path: &Path) -> std::io::Result<UnixListener> {
    // This process holds the state directory: what lies there is of an agent that is dead.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(PRIVATE))?;
    Ok(listener)
}

async fn serve_one(stream: UnixStream, asked: &mpsc::Sender<Asked>) -> std::io::Result<()> {
    let caller = stream.peer_cred()?.uid();
    if caller != 0 && caller != geteuid().as_raw() {
        return Err(ErrorKind::PermissionDenied.into());
    }
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    let mut reader = tokio::io::BufReader::new(reader.take(LINE));
    tokio::time::timeout(PATIENCE, reader.read_line(&mut line)).await??;
    let Request { effect, code } = serde_json::from_str(&line)?;
    let (reply, answer) = oneshot::channel();
    if asked.send(Asked { effect, code, reply }).await.is_err() {
        return Ok(());
    }
    let Ok(answer) = answer.await else { return Ok(()) };
    let mut text = serde_json::to_vec(&answer)?;
    text.push(b'\n');
    tokio::time::timeout(PATIENCE, writer.write_all(&text)).await?
}

/// Hands a code to the agent that runs. Blocks.
///
/// # Errors
/// [`AskError::NoAgent`] when none does; else what went wrong with it.
pub fn ask(state_dir: &Path, effect: Effect, code: &str) -> Result<Answer, AskError> {
    let mut stream = match Stream::connect(path(state_dir)) {
        Ok(stream) => stream,
        Err(error) if is_nobody(&error) => return Err(AskError::NoAgent),
        Err(error) => return Err(error.into()),
    };
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut text = serde_json::to_vec(&Request { effect, code: code.to_owned() })?;
    text.push(b'\n');
    stream.write_all(&text)?;
    let mut line = String::new();
    BufReader::new(stream.take(LINE)).read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}

fn is_nobody(error: &std::io::Error) -> bool {
    [ErrorKind::NotFound, ErrorKind::ConnectionRefused].contains(&error.kind())
}

/// Hands a code to the agent that runs, or carries it out where none does. `since` is when this process
/// last tried, or began, and is moved on. Blocks.
///
/// # Errors
/// [`AskError`] when nobody could be asked and the state directory is not free.
pub fn carry_out(
    host: &Host,
    effect: Effect,
    code: &str,
    since: &mut Instant,
) -> Result<Answer, AskError> {
    match ask(&host.state_dir, effect, code) {
        Err(AskError::NoAgent) => {}
        answered => return answered,
    }
    let state = StateDir::open(&host.state_dir)?;
    let clock = Clock::system();
    let boot_id = crate::agent::this_boot(&runtime::Entropy::system());
    let at = protocol::time::Timestamp::from_millis(clock.unix_millis());
    let moment = Moment { since: *since, now: clock.now(), at, boot_id };
    let answer = end(host, effect, code, moment);
    if let Answer::Wrong { .. } = answer {
        *since = clock.now();
    }
    drop(state);
    Ok(answer)
}
