//! The command line: its verbs and options, and who carries them out.
//!
//! Owns parsing and dispatch; each verb or small family has a file of its own. Nothing here talks
//! to a device: every verb is a client of the operator API, and could be replaced by `curl`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use protocol::time::Timestamp;
use runtime::{Clock, Entropy};

use crate::client::Client;
use crate::output::Out;
use crate::profile::Overrides;
use crate::roles::{api_role, authority, command_key, hub_role, issue_hub};
use crate::{demo, up};

pub use self::failure::{EXIT_CODES, Exit, Failure};

pub mod approve;
pub mod ask;
pub mod cancel;
pub mod check;
pub mod cluster;
pub mod commands;
pub mod devices;
pub mod enroll;
pub mod escrow;
pub mod events;
pub mod evidence;
pub mod failure;
pub mod follow;
pub mod freeze;
pub mod key;
pub mod load;
pub mod lockdown;
pub mod login;
pub mod offline;
pub mod operator;
pub mod order;
pub mod plan;
pub mod preview;
pub mod proceed;
pub mod proof;
pub mod script;
pub mod store;
pub mod targets;
#[cfg(test)]
mod tests;
pub mod token;
pub mod trust;
pub mod vault;
pub mod watch;

/// How long a verb may still take after Ctrl-C, to say how things stand.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Real-time management of Linux endpoints: order, approve, and prove.
#[derive(Debug, Parser)]
#[command(name = "tocsin", version, after_help = EXIT_CODES, max_term_width = 100)]
pub struct Cli {
    /// Options of every verb.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// Options of every verb. Each overrides the profile.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Print the API's own objects as JSON instead of tables and sentences
    #[arg(long, global = true)]
    pub json: bool,
    /// File of the profile [default: $XDG_CONFIG_HOME/tocsin/profile.toml]
    #[arg(long, global = true, env = "TOCSIN_PROFILE", value_name = "FILE", hide_env = true)]
    pub profile: Option<PathBuf>,
    /// Address of the operator port, such as `https://tocsin.example:7442`
    #[arg(long, global = true, env = "TOCSIN_URL", hide_env = true)]
    pub url: Option<String>,
    /// The authority's certificate (PEM)
    #[arg(long, global = true, env = "TOCSIN_CA", value_name = "FILE", hide_env = true)]
    pub ca: Option<PathBuf>,
    /// SHA-256 of the authority's public key, in place of --ca
    #[arg(
        long,
        global = true,
        env = "TOCSIN_CA_PIN",
        value_name = "HEX",
        hide_env = true,
        conflicts_with = "ca"
    )]
    pub ca_pin: Option<String>,
    /// API token; others on this machine can see it here, so prefer `login` or TOCSIN_TOKEN
    #[arg(long, global = true, env = "TOCSIN_TOKEN", hide_env = true, hide_env_values = true)]
    pub token: Option<String>,
    /// Read codes of the second factor from standard input, a line each, where there is no terminal
    #[arg(long, global = true)]
    pub code_stdin: bool,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Write the profile: which control plane, how to recognise it, and the token
    Login(login::LoginArgs),
    /// Make a token that enrolls one device
    EnrollToken(enroll::EnrollTokenArgs),
    /// List devices
    Devices(devices::DevicesArgs),
    /// Show or revoke one device
    #[command(subcommand)]
    Device(devices::DeviceVerb),
    /// Keep everybody but the break-glass identity out of devices
    Lock(order::LockArgs),
    /// Undo `lock` exactly
    Unlock(order::PlainArgs),
    /// Destroy the keys of devices' volumes, for good
    Wipe(order::WipeArgs),
    /// Destroy the company's volumes and what the agent wrote; the person's files stay
    SelectiveWipe(order::SelectiveWipeArgs),
    /// Have devices sign what a wipe would destroy, and destroy nothing
    Plan(plan::PlanArgs),
    /// Cut devices from every network but the hubs and the control plane
    Quarantine(order::QuarantineArgs),
    /// Undo `quarantine` exactly
    Release(order::PlainArgs),
    /// Print the code that ends a lock or a quarantine of a device that nobody reaches
    OfflineCode(offline::OfflineCodeArgs),
    /// Start devices again
    Reboot(order::PlainArgs),
    /// Run a script on devices: approved by its hash, as an account of its own
    RunScript(script::RunScriptArgs),
    /// Have devices show what runs on them, sealed to a case
    CollectEvidence(evidence::CollectArgs),
    /// Make a case's key, or open what devices collected
    #[command(subcommand)]
    Evidence(evidence::EvidenceVerb),
    /// Have devices replace a recovery key or a password by one that is in escrow first
    RotateCredentials(escrow::RotateArgs),
    /// Make a recovery key, list what is in escrow, or open it
    #[command(subcommand)]
    Escrow(escrow::EscrowVerb),
    /// Have devices report now
    Refresh(order::PlainArgs),
    /// Approve an order with your own key
    Approve(approve::ApproveArgs),
    /// Refuse an order that awaits approval
    Reject(approve::RejectArgs),
    /// List the orders that await approval
    Approvals,
    /// Have the devices follow that wait for the first wave of their order
    Continue(proceed::ContinueArgs),
    /// Withdraw a command or a whole order, or call it back in its undo window
    Cancel(cancel::CancelArgs),
    /// Have devices begin nothing that destroys, for a day at most
    Freeze(freeze::FreezeArgs),
    /// End a freeze before its time; as many must approve as for a wipe
    Thaw(freeze::ThawArgs),
    /// List orders
    Orders(commands::ListArgs),
    /// List commands
    Commands(commands::ListArgs),
    /// Show one command with its whole story
    #[command(subcommand)]
    Command(commands::CommandVerb),
    /// Follow one command, or everything, as it happens
    Watch(watch::WatchArgs),
    /// Show how hubs, broker and deliveries fare
    Cluster,
    /// Verify what a device signed, also offline
    Proof(proof::ProofArgs),
    /// Verify or export the audit log
    #[command(subcommand)]
    Events(events::EventsVerb),
    /// Make or show your approval key
    #[command(subcommand)]
    Key(key::KeyVerb),
    /// Show or change whom the devices trust
    #[command(subcommand)]
    Trust(trust::TrustVerb),
    /// Make, list or revoke API tokens
    #[command(subcommand)]
    Token(token::TokenVerb),
    /// List operators, and manage second factors
    #[command(subcommand)]
    Operator(operator::OperatorVerb),
    /// Stop orders from the server's console, whoever has which token
    #[command(subcommand)]
    Lockdown(lockdown::LockdownVerb),
    /// Show how secrets in the store are sealed, or have another key seal them
    #[command(subcommand)]
    Vault(vault::VaultVerb),
    /// Check a configuration file
    Check(check::CheckArgs),
    /// Bring a store to the shape that this program needs
    Migrate(store::PlaceArgs),
    /// Copy a store, from one database to another
    #[command(subcommand)]
    Store(store::StoreVerb),
    /// Print the completions for a shell
    Completions(CompletionsArgs),
    /// Run everything in one process
    Up(up::UpArgs),
    /// Run a push hub
    Hub(hub_role::HubArgs),
    /// Run a control plane
    Api(api_role::ApiArgs),
    /// Make the identity of a hub, with the authority's files
    IssueHub(issue_hub::IssueHubArgs),
    /// Let one authority follow another, with the authority's files
    #[command(subcommand)]
    Authority(authority::AuthorityVerb),
    /// Let one command key follow another, on the files of a data folder
    #[command(subcommand)]
    CommandKey(command_key::CommandKeyVerb),
    /// Run everything in sandboxes, and show what it can do
    Demo(demo::DemoArgs),
    /// Measure a platform with a swarm of simulated devices
    #[command(disable_help_flag = true)]
    Load(load::LoadArgs),
    /// Run an agent
    #[command(hide = true, disable_help_flag = true)]
    Agent(AgentArgs),
    /// The process in which an agent has a script watched over
    #[command(hide = true, disable_help_flag = true)]
    Supervise(AgentArgs),
    /// The router of the demo
    #[command(hide = true)]
    DemoRouter(demo::sandbox::SandboxArgs),
    /// The device of the demo
    #[command(hide = true)]
    DemoDevice(demo::sandbox::SandboxArgs),
    /// An agent of the demo
    #[command(hide = true, disable_help_flag = true)]
    DemoAgent(AgentArgs),
}

/// Arguments of `tocsin completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: clap_complete::Shell,
}

/// Arguments of `tocsin agent`: those of `tocsin-agent`.
#[derive(Debug, Args)]
pub struct AgentArgs {
    /// Passed on as they are
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub args: Vec<std::ffi::OsString>,
}

/// What every verb of an operator needs.
#[derive(Debug, Clone)]
pub struct Context {
    /// Where and how it prints.
    pub out: Out,
    /// What flags and variables say of the profile.
    pub overrides: Overrides,
    /// Whether codes of the second factor are on standard input.
    pub code_stdin: bool,
    /// Time.
    pub clock: Clock,
    /// Chance.
    pub entropy: Entropy,
}

impl Context {
    /// The surroundings of this process.
    pub fn new(global: Global) -> Self {
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        let named = |path: Option<PathBuf>| path.filter(|path| !path.as_os_str().is_empty());
        Self {
            out: Out::new(global.json),
            overrides: Overrides {
                path: named(global.profile),
                url: given(global.url),
                ca: named(global.ca),
                pin: given(global.ca_pin),
                token: given(global.token),
            },
            code_stdin: global.code_stdin,
            clock: Clock::system(),
            entropy: Entropy::system(),
        }
    }

    /// A client of the control plane of the profile.
    pub fn client(&self) -> Result<Client, Failure> {
        let client = Client::new(&self.overrides.load()?, self.entropy.clone())?;
        Ok(match (self.code_stdin, ask::is_possible()) {
            (true, _) => client.asking(ask::piped_code),
            (false, true) => client.asking(ask::code),
            // What is on standard input there is the input of something else.
            (false, false) => client,
        })
    }

    /// Wall time.
    pub fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.clock.unix_millis())
    }
}

/// Carries a command line out, to the end of the process.
pub fn start(cli: Cli) -> ExitCode {
    let context = Context::new(cli.global);
    let out = context.out;
    if holds_keys(&cli.verb)
        && let Err(error) = runtime::memory::keep_private()
    {
        let failure = Failure::new(format!("memory cannot be kept private: {error}"));
        out.note(&failure.text());
        return failure.exit().into();
    }
    // The demo's two leave a namespace, and so run before any thread is started.
    let outcome = if let Verb::DemoRouter(args) = &cli.verb {
        role(demo::sandbox::run_router(args))
    } else if let Verb::DemoDevice(args) = &cli.verb {
        role(demo::sandbox::run_device(args))
    } else {
        in_runtime(context, cli.verb)
    };
    match outcome {
        Ok(exit) => exit.into(),
        Err(failure) => {
            out.note(&failure.text());
            failure.exit().into()
        }
    }
}

fn in_runtime(context: Context, verb: Verb) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        match is_role(&verb) {
            true => Box::pin(run(context, verb)).await,
            false => interruptible(Box::pin(run(context, verb))).await,
        }
    });
    // A question may still wait for a line on standard input: nobody waits for it.
    runtime.shutdown_background();
    outcome
}

/// Whether the process of a verb may hold somebody's key or token. Those of the demo are made up, and its
/// sandboxes map their own accounts, which a private process may not; a load test's are made up as well.
const fn holds_keys(verb: &Verb) -> bool {
    !matches!(
        verb,
        Verb::Demo(_)
            | Verb::DemoRouter(_)
            | Verb::DemoDevice(_)
            | Verb::Load(_)
            | Verb::Supervise(_)
            | Verb::Completions(_)
    )
}

/// Whether a verb runs until it is stopped, and drains by itself then.
const fn is_role(verb: &Verb) -> bool {
    matches!(
        verb,
        Verb::Up(_)
            | Verb::Hub(_)
            | Verb::Api(_)
            | Verb::Demo(_)
            | Verb::Agent(_)
            | Verb::DemoAgent(_)
            | Verb::Supervise(_)
    )
}

/// Ends a verb that does not end by itself after Ctrl-C, such as one whose request hangs.
async fn interruptible(
    verb: impl Future<Output = Result<Exit, Failure>> + Unpin,
) -> Result<Exit, Failure> {
    let mut verb = verb;
    tokio::select! {
        biased;
        outcome = &mut verb => return outcome,
        _ = tokio::signal::ctrl_c() => {}
    }
    let stopped =
        || Failure::new("interrupted").next("if an order was given, `tocsin orders` shows it");
    tokio::select! {
        biased;
        outcome = tokio::time::timeout(LAST_WORDS, &mut verb) => {
            outcome.unwrap_or_else(|_| Err(stopped()))
        }
        _ = tokio::signal::ctrl_c() => Err(stopped()),
    }
}

async fn run(context: Context, verb: Verb) -> Result<Exit, Failure> {
    let context = &context;
    match verb {
        Verb::Login(args) => login::run(context, args).await,
        Verb::EnrollToken(args) => enroll::run(context, args).await,
        Verb::Devices(args) => devices::list(context, args).await,
        Verb::Device(verb) => devices::run(context, verb).await,
        Verb::Lock(args) => order::lock(context, args).await,
        Verb::Unlock(args) => order::unlock(context, args).await,
        Verb::Wipe(args) => order::wipe(context, args).await,
        Verb::SelectiveWipe(args) => order::selective_wipe(context, args).await,
        Verb::Plan(args) => plan::plan(context, args).await,
        Verb::Quarantine(args) => order::quarantine(context, args).await,
        Verb::Release(args) => order::release(context, args).await,
        Verb::OfflineCode(args) => offline::run(context, &args),
        Verb::Reboot(args) => order::reboot(context, args).await,
        Verb::RunScript(args) => script::run(context, args).await,
        Verb::CollectEvidence(args) => evidence::collect(context, args).await,
        Verb::Evidence(verb) => evidence::run(context, verb).await,
        Verb::RotateCredentials(args) => escrow::rotate(context, args).await,
        Verb::Escrow(verb) => escrow::run(context, verb).await,
        Verb::Refresh(args) => order::refresh(context, args).await,
        Verb::Approve(args) => approve::run(context, args).await,
        Verb::Reject(args) => approve::reject(context, args).await,
        Verb::Approvals => approve::inbox(context).await,
        Verb::Continue(args) => proceed::run(context, args).await,
        Verb::Cancel(args) => cancel::run(context, args).await,
        Verb::Freeze(args) => freeze::freeze(context, args).await,
        Verb::Thaw(args) => freeze::thaw(context, args).await,
        Verb::Orders(args) => commands::orders(context, args).await,
        Verb::Commands(args) => commands::list(context, args).await,
        Verb::Command(verb) => commands::run(context, verb).await,
        Verb::Watch(args) => watch::run(context, args).await,
        Verb::Cluster => cluster::run(context).await,
        Verb::Proof(args) => proof::run(context, args).await,
        Verb::Events(verb) => events::run(context, verb).await,
        Verb::Key(verb) => key::run(context, verb),
        Verb::Trust(verb) => trust::run(context, verb).await,
        Verb::Token(verb) => token::run(context, verb).await,
        Verb::Operator(verb) => operator::run(context, verb).await,
        Verb::Vault(verb) => vault::run(context, verb).await,
        Verb::Lockdown(verb) => lockdown::run(context, verb).await,
        Verb::Check(args) => check::run(context, &args),
        Verb::Migrate(args) => store::migrate(context, args).await,
        Verb::Store(verb) => store::run(context, verb).await,
        Verb::Completions(args) => Ok(completions(context, &args)),
        Verb::Up(args) => role(Box::pin(up::run(args, &context.out)).await),
        Verb::Hub(args) => role(Box::pin(hub_role::run(args, &context.out)).await),
        Verb::Api(args) => role(Box::pin(api_role::run(args, &context.out)).await),
        Verb::IssueHub(args) => issue_hub::run(context, &args),
        Verb::Authority(verb) => authority::run(context, &verb).await,
        Verb::CommandKey(verb) => command_key::run(context, &verb),
        Verb::Demo(args) => role(Box::pin(demo::run(args, &context.out)).await),
        Verb::Load(args) => load::run(args),
        Verb::Agent(args) => role(Box::pin(agent(args.args)).await),
        Verb::Supervise(AgentArgs { mut args }) => {
            args.insert(0, "supervise".into());
            role(Box::pin(agent(args)).await)
        }
        Verb::DemoRouter(args) => role(demo::sandbox::run_router(&args)),
        Verb::DemoDevice(args) => role(demo::sandbox::run_device(&args)),
        Verb::DemoAgent(AgentArgs { args }) => role(Box::pin(demo_agent(args)).await),
    }
}

async fn demo_agent(args: Vec<std::ffi::OsString>) -> anyhow::Result<()> {
    demo::sandbox::end_with_parent()?;
    agent(args).await
}

async fn agent(args: Vec<std::ffi::OsString>) -> anyhow::Result<()> {
    let invocation = agent::cli::parse(args)?;
    agent::command::carry_out(invocation).await
}

/// The roles end with an `anyhow` error, as a `main` does.
fn role(outcome: anyhow::Result<()>) -> Result<Exit, Failure> {
    outcome.map(|()| Exit::Success).map_err(|error| Failure::new(format!("{error:#}")))
}

fn completions(context: &Context, args: &CompletionsArgs) -> Exit {
    let mut script = Vec::new();
    let mut command = <Cli as clap::CommandFactory>::command();
    clap_complete::generate(args.shell, &mut command, "tocsin", &mut script);
    context.out.raw(&script);
    Exit::Success
}
