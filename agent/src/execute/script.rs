//! Run-script: a script that people approved by its hash, run once.
//!
//! The script runs under a supervisor: this program once more, as a process of its own. It bounds
//! time, output and everything that the script starts, and it outlives the agent: an agent that
//! starts again finds the supervisor at work, or what it wrote at its end. When neither is there,
//! nobody can say what the script did, and the command ends in doubt: a script is never begun twice.
//! Where a service manager runs, the supervisor is a service with limits of its own; elsewhere it has a session
//! and the limits of a process (`Confinement`), and a control group of its own where one can be made.
//!
//! The script's words are data: the interpreter is started directly, and no shell reads them.
//!
//! Evidence, also beside a failure: `script_sha256`, `account`, `confinement` (`service`, `session`),
//! `took_ms`, `exit_status` or `signal`, `killed_processes` (those that were left when it ended; `null`:
//! not known), and of `stdout` and `stderr` each the SHA-256 and the length of the whole, and its first lines
//! without what would not print as it reads (`null`: not known). Where these are not all, also its last lines
//! (`stdout_last`) and how many bytes lie between (`stdout_left_out_bytes`). `…` in a line says that it is longer.
//!
//! While it runs its supervisor writes down the last of what it says, and the agent tells that on.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use nix::unistd::Uid;
use protocol::action;
use protocol::advance::Advance;
use protocol::receipt::{Evidence, Failure, FailureKind};

use self::account::Account;
use self::folder::{Folder, Standing};
use self::order::{Confinement, Order};
use self::report::End;
use super::tool::Tool;
use super::{Executor, Plan, Recovery, Task, failure};
use crate::host::{Arming, Host};

mod account;
mod cage;
mod folder;
mod order;
mod report;
mod score;
pub mod supervise;
mod sweep;
#[cfg(test)]
mod tests;

/// How long the supervisor may take beyond the script's own budget: to kill, to reap, to write.
const SLACK: Duration = Duration::from_secs(30);
/// How often is looked whether the agent stops.
const LOOK: Duration = Duration::from_millis(200);
/// Looks from one reading of what it has said to the next.
const HEARD_EVERY: u128 = 5;
/// Looks from one word on how long a silent script has run to the next.
const TOLD_EVERY: u128 = 10;
/// The same, where each word repeats what it has said last.
const REPEATED_EVERY: u128 = 50;
/// What a script in a service may take of the machine.
const SERVICE_LIMITS: [&str; 7] = [
    "MemoryMax=1G",
    "TasksMax=256",
    "CPUWeight=20",
    "IOWeight=20",
    "KillMode=control-group",
    // What dies for want of memory is the script's, and not its supervisor.
    "OOMPolicy=continue",
    "TimeoutStopSec=5s",
];

/// The executor of `run_script`.
#[derive(Debug)]
pub struct RunScript(action::RunScript);

impl RunScript {
    /// With those parameters.
    pub fn new(params: action::RunScript) -> Self {
        Self(params)
    }

    /// What the supervisor is to do, found out without changing anything.
    fn order(&self, host: &Host, task: &Task, stage: &str) -> Result<Order, Failure> {
        let lacks = |detail: String| failure(FailureKind::Precondition, stage, detail);
        let script = task.script.as_deref().filter(|script| self.0.admits(script));
        let script = script.ok_or_else(|| lacks("there is no script of that hash".to_owned()))?;
        let interpreter = order::interpreter(script);
        let program = interpreter.first().cloned().unwrap_or_default();
        if !host.path(&program).exists() {
            return Err(lacks(format!("there is no interpreter {program:?}")));
        }
        let is_root = Uid::effective().is_root();
        let account = match (self.0.as_root, is_root) {
            (true, false) => return Err(lacks("this agent is not root".to_owned())),
            (true, true) => Account { name: "root".to_owned(), uid: 0, gid: 0 },
            (false, _) => account::find(host, &host.scripts.account).ok_or_else(|| {
                lacks(format!("there is no account {:?} for scripts", host.scripts.account))
            })?,
        };
        Ok(Order {
            script_sha256: self.0.sha256.to_string(),
            interpreter,
            args: self.0.args.clone(),
            budget_secs: self.0.budget_secs,
            // Whoever is not root has nobody else to run as.
            account: Some(account).filter(|_| is_root),
            confinement: confinement(host),
        })
    }

    fn patience(&self) -> Duration {
        self.time() + SLACK
    }

    /// What the script itself may take.
    fn time(&self) -> Duration {
        Duration::from_secs(self.0.budget_secs.into())
    }

    /// What the supervisor wrote at the script's end, and the order it had.
    fn ended(folder: &Folder, stage: &str) -> Result<(Order, report::Ended), Failure> {
        let lost = |error: std::io::Error| failure(FailureKind::NotProven, stage, error);
        Ok((folder.order().map_err(lost)?, folder.ended().map_err(lost)?))
    }
}

impl Executor for RunScript {
    fn plan(&self, host: &Host, task: &Task) -> Result<Plan, Failure> {
        let order = self.order(host, task, "plan")?;
        supervisor(host, "plan")?;
        let who = order.account_name();
        let steps = vec![
            format!("run the script {} as {who}", self.0.sha256),
            format!("kill it, and all that it started, after {} s", self.0.budget_secs),
        ];
        let facts = Evidence::new()
            .with("script_sha256", order.script_sha256.clone())
            .with("interpreter", order.interpreter.clone())
            .with("args", order.args.clone())
            .with("account", who)
            .with("confinement", order.confinement.as_str());
        Ok(Plan { steps, facts })
    }

    fn apply(&self, host: &Host, task: &Task) -> Result<(), Failure> {
        let folder = Folder::of(host, task.command_id);
        let child = match folder.standing().map_err(|error| io("apply", &error))? {
            Standing::Absent => Some(self.launch(host, task, &folder)?),
            Standing::Running | Standing::Ended => None,
            Standing::Unbegun | Standing::Lost => return Err(lost()),
        };
        let too_long = || {
            let detail = "the supervisor of the script does not end";
            Err(failure(FailureKind::NotProven, "apply", detail))
        };
        if !wait(&folder, child, (task, self.time()), self.patience()) && task.course.is_left() {
            return too_long();
        }
        // Whoever was to begin it may still be on its way: it comes too late, or has begun. From here on
        // it was started, and what cannot be read leaves it in doubt.
        let unknown = |error: std::io::Error| failure(FailureKind::NotProven, "apply", error);
        match folder.abandon().map_err(unknown)? {
            Standing::Ended => {}
            Standing::Running => return too_long(),
            Standing::Unbegun => {
                let detail = format!("the supervisor did not begin: {}", folder.complaint());
                return Err(failure(FailureKind::Tool, "apply", detail));
            }
            Standing::Absent | Standing::Lost => return Err(lost()),
        }
        let (order, ended) = Self::ended(&folder, "apply")?;
        match ended.end {
            End::TimedOut => {
                let detail = format!("took longer than {} s, and was killed", order.budget_secs);
                Err(failure(FailureKind::Timeout, "apply", detail))
            }
            End::NotStarted { why } => Err(failure(FailureKind::Precondition, "apply", why)),
            End::Exited { .. } | End::Killed { .. } => Ok(()),
        }
    }

    fn prove(&self, host: &Host, task: &Task) -> Result<Evidence, Failure> {
        let (order, ended) = Self::ended(&Folder::of(host, task.command_id), "prove")?;
        let failed = |detail| Err(failure(FailureKind::Tool, "script", detail));
        match ended.end {
            End::Exited { status: 0 } => Ok(ended.evidence(&order)),
            End::Exited { status } => failed(format!("exit status {status}")),
            End::Killed { signal } => failed(format!("killed by signal {signal}")),
            // As `apply` says; only a crash in between leads here.
            End::TimedOut => {
                let detail = format!("took longer than {} s, and was killed", order.budget_secs);
                Err(failure(FailureKind::Timeout, "apply", detail))
            }
            End::NotStarted { why } => Err(failure(FailureKind::Precondition, "apply", why)),
        }
    }

    fn remains(&self, host: &Host, task: &Task) -> Evidence {
        Self::ended(&Folder::of(host, task.command_id), "prove")
            .map(|(order, ended)| ended.evidence(&order))
            .unwrap_or_default()
    }

    fn recover(&self, host: &Host, task: &Task) -> Recovery {
        let folder = Folder::of(host, task.command_id);
        // Nobody begins it any more when it is said to be in doubt.
        match folder.abandon() {
            Ok(Standing::Ended) => Recovery::Applied,
            Ok(Standing::Running) => Recovery::Apply,
            Ok(Standing::Unbegun | Standing::Lost | Standing::Absent) => Recovery::InDoubt,
            Err(error) => {
                tracing::error!(%error, "script was not given up");
                Recovery::InDoubt
            }
        }
    }

    fn budget(&self, usual: Duration) -> Option<Duration> {
        Some(self.patience() + usual)
    }

    fn outlives_the_agent(&self) -> bool {
        true
    }
}

impl RunScript {
    /// Lays everything ready, and starts whoever watches over the script.
    fn launch(&self, host: &Host, task: &Task, folder: &Folder) -> Result<Child, Failure> {
        let order = self.order(host, task, "apply")?;
        let script = task.script.as_deref().unwrap_or_default();
        let complaint = folder.prepare(&order, script).map_err(|error| io("apply", &error))?;
        let mut command = match order.confinement {
            Confinement::Service => service(host, task, &order)?,
            Confinement::Session => Command::new(supervisor(host, "apply")?),
        };
        command.arg("supervise").arg(folder.inside());
        if host.root != Path::new("/") {
            command.arg("--root").arg(&host.root);
        }
        command.env_clear().current_dir("/").stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(Stdio::from(complaint));
        command.spawn().map_err(|error| {
            let _ = folder.abandon();
            failure(FailureKind::Precondition, "apply", format!("no supervisor: {error}"))
        })
    }
}

/// The command that has the service manager run what follows it, and waits for its end.
fn service(host: &Host, task: &Task, order: &Order) -> Result<Command, Failure> {
    let manager = Tool::find("systemd-run", "apply")?;
    let mut command = Command::new(manager.path());
    command.args(["--quiet", "--wait", "--collect", "--service-type=exec"]);
    command.arg(format!("--unit=tocsin-script-{}", task.command_id));
    let longest = u64::from(order.budget_secs) + SLACK.as_secs();
    command.arg(format!("--property=RuntimeMaxSec={longest}"));
    for limit in SERVICE_LIMITS {
        command.arg(format!("--property={limit}"));
    }
    command.arg("--").arg(supervisor(host, "apply")?);
    Ok(command)
}

fn supervisor<'a>(host: &'a Host, stage: &str) -> Result<&'a Path, Failure> {
    host.scripts.supervisor.as_deref().filter(|path| path.is_file()).ok_or_else(|| {
        failure(FailureKind::Precondition, stage, "the agent's own program is not found")
    })
}

/// What there is on this host to hold a script together with.
fn confinement(host: &Host) -> Confinement {
    let is_managed = host.path("/run/systemd/system").is_dir();
    match host.arming {
        Arming::Armed if is_managed && Tool::find("systemd-run", "plan").is_ok() => {
            Confinement::Service
        }
        Arming::Armed | Arming::Sandboxed | Arming::Simulated => Confinement::Session,
    }
}

/// Waits until nobody watches over the script any more. Whether that came in time, and while this
/// agent was there.
fn wait(
    folder: &Folder,
    child: Option<Child>,
    (task, budget): (&Task, Duration),
    patience: Duration,
) -> bool {
    let (done, ended) = sync_channel(1);
    let lock = folder.lock();
    let waiting = thread::Builder::new().name("script".to_owned()).spawn(move || {
        if let Some(mut child) = child {
            let _ = child.wait();
        }
        let _ = lock.and_then(|file: File| file.lock_shared());
        let _ = done.send(());
    });
    if waiting.is_err() {
        return false;
    }
    let mut said = None;
    let rounds = patience.as_millis() / LOOK.as_millis();
    (1..=rounds).any(|round| match ended.recv_timeout(LOOK) {
        Err(RecvTimeoutError::Timeout) => {
            if round.is_multiple_of(HEARD_EVERY) {
                let newest = folder.said();
                let every = if newest.is_some() { REPEATED_EVERY } else { TOLD_EVERY };
                if newest != said || round.is_multiple_of(every) {
                    task.course.tell(how_far(round, budget).output(newest.clone()));
                    said = newest;
                }
            }
            task.course.is_left()
        }
        Ok(()) | Err(RecvTimeoutError::Disconnected) => true,
    }) && !task.course.is_left()
}

/// How long it has run after so many looks.
fn how_far(looks: u128, budget: Duration) -> Advance {
    let secs = u64::try_from(looks * LOOK.as_millis() / 1000).unwrap_or(u64::MAX);
    Advance::at("script").secs(secs, budget.as_secs().max(secs))
}

fn lost() -> Failure {
    failure(FailureKind::NotProven, "apply", "the supervisor is gone, and left no word")
}

fn io(stage: &str, error: &std::io::Error) -> Failure {
    failure(FailureKind::Io, stage, error)
}
