//! Opening one connection to one server: TCP, TLS, greeting.
//!
//! Owns the time that it may take and the credentials. A connection ends with its last clone: no
//! socket outlives whoever wanted it, and no blocked read takes messages for nobody.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::{AsyncPushSender, ConnectionLike as _, MultiplexedConnection};
use redis::{AsyncConnectionConfig, Cmd, ProtocolVersion, RedisConnectionInfo, RedisError, Value};
use runtime::config::{Secret, SecretError};
use runtime::tls::pki_types::ServerName;
use runtime::tls::{self, PemError, TlsConnector, TlsError};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::address::Address;
use super::config::{RedisConfig, RedisTls};

/// Why a server could not be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// No connection came to stand.
    #[error("cannot connect to {0}")]
    Connect(Address, #[source] std::io::Error),
    /// The address is no name that a certificate can carry.
    #[error("{0} is no server name")]
    Name(Address),
    /// The password cannot be read.
    #[error("the password is unavailable")]
    Password(#[from] SecretError),
    /// It took too long.
    #[error("{0} did not answer in time")]
    TimedOut(&'static str),
    /// The server, or the connection, says no.
    #[error("redis failed")]
    Redis(#[from] RedisError),
    /// The answer has another shape than the command's.
    #[error("{0} was answered in a way that is not understood")]
    Answer(&'static str),
    /// The server is not what it should be.
    #[error("{0}")]
    Role(&'static str),
}

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum RedisTlsError {
    /// A file is missing or no PEM.
    #[error("a file of tls is not usable")]
    Pem(#[from] PemError),
    /// The settings are refused.
    #[error("tls settings are not usable")]
    Tls(#[from] TlsError),
    /// The name is none.
    #[error("tls.server_name is no server name")]
    Name,
}

/// Who we are at a server.
#[derive(Debug, Clone, Default)]
pub(super) struct Account {
    pub(super) username: Option<String>,
    pub(super) password: Option<Secret>,
}

/// How to open connections.
#[derive(Clone)]
pub(super) struct Dialer {
    secure: Option<Secure>,
    connect_timeout: Duration,
    command_timeout: Duration,
}

#[derive(Clone)]
struct Secure {
    connector: TlsConnector,
    name: Option<ServerName<'static>>,
}

impl fmt::Debug for Dialer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Dialer").field("tls", &self.secure.is_some()).finish_non_exhaustive()
    }
}

/// Either side of a socket, with or without TLS.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// What a connection may do besides asking and being answered.
#[derive(Default)]
pub(super) struct Options {
    /// Takes what the server says unasked.
    pub(super) push: Option<Arc<dyn AsyncPushSender>>,
    /// How much longer than usual an answer may take: the time a command blocks.
    pub(super) blocks: Duration,
}

impl Dialer {
    pub(super) fn new(config: &RedisConfig) -> Result<Self, RedisTlsError> {
        Ok(Self {
            secure: config.tls.as_ref().map(Secure::new).transpose()?,
            connect_timeout: config.connect_timeout,
            command_timeout: config.command_timeout,
        })
    }

    /// A connection that has been greeted.
    pub(super) async fn open(
        &self,
        address: &Address,
        account: &Account,
        options: Options,
    ) -> Result<Connection, Failure> {
        let opening = Box::pin(self.greet(address, account, options));
        timeout(self.connect_timeout, opening).await.map_err(|_| Failure::TimedOut("the server"))?
    }

    async fn greet(
        &self,
        address: &Address,
        account: &Account,
        options: Options,
    ) -> Result<Connection, Failure> {
        let stream = self.stream(address).await?;
        let mut info = RedisConnectionInfo::default()
            .set_protocol(ProtocolVersion::RESP3)
            // An account need not be allowed to say who it is made by.
            .set_skip_set_lib_name();
        if let Some(username) = &account.username {
            info = info.set_username(username);
        }
        if let Some(password) = &account.password {
            info = info.set_password(&*password.read()?);
        }
        let mut config = AsyncConnectionConfig::new()
            .set_response_timeout(Some(self.command_timeout + options.blocks));
        if let Some(push) = options.push {
            config = config.set_push_sender(push);
        }
        let (redis, driver) = MultiplexedConnection::new_with_config(&info, stream, config).await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(driver);
        Ok(Connection { address: address.clone(), redis, _driver: Arc::new(tasks) })
    }

    async fn stream(&self, address: &Address) -> Result<Box<dyn Stream>, Failure> {
        let failed = |error| Failure::Connect(address.clone(), error);
        let tcp = TcpStream::connect((address.host.as_str(), address.port)).await;
        let tcp = tcp.map_err(failed)?;
        tcp.set_nodelay(true).map_err(failed)?;
        let Some(secure) = &self.secure else { return Ok(Box::new(tcp)) };
        let name = match &secure.name {
            Some(name) => name.clone(),
            None => ServerName::try_from(address.host.clone())
                .map_err(|_| Failure::Name(address.clone()))?,
        };
        Ok(Box::new(secure.connector.connect(name, tcp).await.map_err(failed)?))
    }
}

impl Secure {
    fn new(files: &RedisTls) -> Result<Self, RedisTlsError> {
        let authorities = tls::read_certificates(&files.ca)?;
        let identity = match (&files.certificate, &files.key) {
            (Some(chain), Some(key)) => Some(tls::read_identity(chain, key)?),
            (Some(_) | None, None) | (None, Some(_)) => None,
        };
        let client = tls::client_config(&authorities, identity.as_ref(), &[])?;
        let name = files.server_name.clone().map(ServerName::try_from).transpose();
        Ok(Self {
            connector: TlsConnector::from(Arc::new(client)),
            name: name.map_err(|_| RedisTlsError::Name)?,
        })
    }
}

/// A connection. Clones share it; with the last one it closes.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    pub(super) address: Address,
    redis: MultiplexedConnection,
    _driver: Arc<JoinSet<()>>,
}

impl Connection {
    /// Asks one thing.
    pub(super) async fn ask(&self, command: &Cmd) -> Result<Value, Failure> {
        Ok(self.redis.clone().req_packed_command(command).await?.extract_error()?)
    }

    /// Asks many things in one go. Answers in the order asked; a refusal is one of the answers.
    pub(super) async fn ask_all(&self, commands: &[Cmd]) -> Result<Vec<Value>, Failure> {
        let mut pipeline = redis::Pipeline::with_capacity(commands.len());
        for command in commands {
            pipeline.add_command(command.clone());
        }
        let answers = self.redis.clone().req_packed_commands(&pipeline, 0, commands.len()).await?;
        if answers.len() == commands.len() {
            Ok(answers)
        } else {
            Err(Failure::Answer("a pipeline"))
        }
    }
}
