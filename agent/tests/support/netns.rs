//! Network namespaces for tests: an endpoint and a peer, joined by a cable of their own.
//!
//! Each namespace belongs to one thread and vanishes with it, so that nothing is left behind even
//! when a test is killed. Needs root, iproute2, nftables, util-linux and python3; what is missing makes
//! the test fail and say so.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use agent::mark::mark;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Pid, gettid};
use runtime::Clock;
use tokio::net::TcpSocket;

/// A guard against hanging, never a measure.
pub(crate) const GUARD: Duration = Duration::from_secs(240);
/// How long silence must last to count as silence.
pub(crate) const SILENCE: Duration = Duration::from_millis(700);

type Job = Box<dyn FnOnce() + Send>;

/// One network namespace with a thread that lives in it.
pub(crate) struct Netns {
    jobs: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
    thread_id: Pid,
}

impl Netns {
    /// A new namespace whose loopback is up.
    pub(crate) fn new() -> Self {
        let (jobs, queue) = sync_channel::<Job>(1);
        let (ready, started) = sync_channel(1);
        let thread = thread::spawn(move || {
            ready.send(unshare(CloneFlags::CLONE_NEWNET).map(|()| gettid())).unwrap();
            while let Ok(job) = queue.recv() {
                job();
            }
        });
        let thread_id = started.recv().unwrap().expect(
            "no network namespace could be made: run this test as root (CAP_SYS_ADMIN), \
             on a kernel with CONFIG_NET_NS",
        );
        let this = Self { jobs: Some(jobs), thread: Some(thread), thread_id };
        this.ip("link set lo up");
        this
    }

    /// Runs the closure on the thread of this namespace; its panic is the caller's panic.
    pub(crate) fn run<R: Send + 'static>(&self, job: impl FnOnce() -> R + Send + 'static) -> R {
        let (done, result) = sync_channel(1);
        let job: Job =
            Box::new(move || done.send(catch_unwind(AssertUnwindSafe(job))).unwrap_or(()));
        self.jobs.as_ref().unwrap().send(job).unwrap();
        result.recv().unwrap().unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Runs a program in this namespace and returns what it printed.
    pub(crate) fn command(&self, program: &'static str, args: &[&str]) -> String {
        let (success, text) = self.try_command(program, args);
        assert!(success, "{program} {args:?}: {text}");
        text
    }

    /// The same, with whether it succeeded.
    pub(crate) fn try_command(&self, program: &'static str, args: &[&str]) -> (bool, String) {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        self.run(move || {
            let output = Command::new(program).args(args).output().unwrap_or_else(|error| {
                panic!("{program}: {error}; install iproute2, nftables, util-linux and python3")
            });
            let text = [output.stdout, output.stderr].concat();
            (output.status.success(), String::from_utf8_lossy(&text).into_owned())
        })
    }

    /// Runs `ip` with those words.
    pub(crate) fn ip(&self, args: &str) {
        self.command("ip", &args.split(' ').collect::<Vec<_>>());
    }

    /// A cable to another namespace, up at both ends, with the addresses of both.
    pub(crate) fn cable(&self, name: &str, addresses: &[&str], other: &Self, others: &[&str]) {
        let end = format!("{name} netns {}", other.thread_id);
        self.ip(&format!("link add {name} type veth peer name {end}"));
        for (side, addresses) in [(self, addresses), (other, others)] {
            for address in addresses {
                side.ip(&format!("addr add {} dev {name}", network(address)));
            }
            side.ip(&format!("link set {name} up"));
        }
    }

    /// Where `/proc` shows it.
    pub(crate) fn path(&self) -> std::path::PathBuf {
        format!("/proc/self/task/{}/ns/net", self.thread_id).into()
    }

    /// Moves a device to another namespace.
    pub(crate) fn hand_over(&self, device: &str, other: &Self) {
        self.ip(&format!("link set {device} netns {}", other.thread_id));
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        self.jobs.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// An endpoint and the only machine on its network.
pub(crate) struct Lan {
    /// Where the agent runs.
    pub(crate) endpoint: Netns,
    /// Everybody else.
    pub(crate) peer: Netns,
}

/// Addresses of the endpoint.
pub(crate) const ENDPOINT: [&str; 2] = ["10.77.0.1", "fd77::1"];
/// Addresses of the peer that hubs use.
pub(crate) const HUB: [&str; 2] = ["10.77.0.2", "fd77::2"];
/// Addresses of the peer that nobody allowed.
pub(crate) const ELSEWHERE: [&str; 2] = ["10.77.0.3", "fd77::3"];
/// The addresses that quarantine probes; here they exist and answer.
pub(crate) const SINKS: [&str; 2] = ["192.0.2.1", "2001:db8::1"];

impl Lan {
    /// Two namespaces, a cable, addresses and routes, both families.
    pub(crate) fn new() -> Self {
        let (endpoint, peer) = (Netns::new(), Netns::new());
        let cable = format!("link add wire type veth peer name wire netns {}", peer.thread_id);
        endpoint.ip(&cable);
        for address in ENDPOINT {
            endpoint.ip(&format!("addr add {} dev wire", network(address)));
        }
        for address in [HUB, ELSEWHERE, SINKS].concat() {
            peer.ip(&format!("addr add {} dev wire", network(address)));
        }
        for side in [&endpoint, &peer] {
            side.ip("link set wire up");
        }
        endpoint.ip(&format!("route add default via {}", HUB[0]));
        endpoint.ip(&format!("-6 route add default via {}", HUB[1]));
        Self { endpoint, peer }
    }

    /// A TCP and UDP echo at that address of the peer; port 0 takes a free one.
    pub(crate) fn peer_echo(&self, address: &str, port: u16) -> SocketAddr {
        echo_in(&self.peer, address, port)
    }

    /// The same on the endpoint.
    pub(crate) fn endpoint_echo(&self, address: &str) -> SocketAddr {
        echo_in(&self.endpoint, address, 0)
    }
}

/// Without duplicate address detection, so that an IPv6 address is usable at once.
fn network(address: &str) -> String {
    if address.contains(':') { format!("{address}/64 nodad") } else { format!("{address}/24") }
}

/// A TCP and UDP echo in a namespace; port 0 takes a free one.
pub(crate) fn echo_in(netns: &Netns, address: &str, port: u16) -> SocketAddr {
    let address: IpAddr = address.parse().unwrap();
    echo_at(netns, SocketAddr::new(address, port))
}

/// The same at an address that says its device.
pub(crate) fn echo_at(netns: &Netns, address: SocketAddr) -> SocketAddr {
    // Threads live in the namespace of the thread that made them.
    netns.run(move || {
        let listener = TcpListener::bind(address).unwrap();
        let at = listener.local_addr().unwrap();
        let datagrams = UdpSocket::bind(at).unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                thread::spawn(move || {
                    let mut byte = [0];
                    while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
                });
            }
        });
        thread::spawn(move || {
            let mut byte = [0];
            while let Ok((_, from)) = datagrams.recv_from(&mut byte) {
                let _ = datagrams.send_to(&byte, from);
            }
        });
        at
    })
}

/// A connection of the agent: of its user, with its mark. `None` when nobody answers in time.
fn dial_as_agent(to: SocketAddr, within: Duration) -> Option<TcpStream> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let stream = runtime.block_on(async {
        let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.unwrap();
        mark(&socket).unwrap();
        tokio::time::timeout(within, socket.connect(to)).await.ok()?.ok()
    })?;
    let stream = stream.into_std().unwrap();
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(within)).unwrap();
    Some(stream)
}

/// A session of the agent that carried a byte each way.
pub(crate) fn agent_session(from: &Netns, to: SocketAddr) -> TcpStream {
    from.run(move || {
        let mut stream = dial_as_agent(to, GUARD).unwrap();
        assert!(carries(&mut stream), "{to} does not echo");
        stream
    })
}

/// Whether a new connection of the agent echoes.
pub(crate) fn agent_reaches(from: &Netns, to: SocketAddr) -> bool {
    from.run(move || dial_as_agent(to, GUARD).is_some_and(|mut stream| carries(&mut stream)))
}

/// A session that carried a byte each way.
pub(crate) fn open_session(from: &Netns, to: SocketAddr) -> TcpStream {
    from.run(move || {
        let mut stream = TcpStream::connect_timeout(&to, GUARD).unwrap();
        stream.set_read_timeout(Some(GUARD)).unwrap();
        assert!(carries(&mut stream), "{to} does not echo");
        stream
    })
}

/// Whether a byte comes back.
pub(crate) fn carries(stream: &mut TcpStream) -> bool {
    let mut byte = [0];
    stream.write_all(b"x").is_ok() && stream.read_exact(&mut byte).is_ok()
}

/// Whether a new TCP connection echoes; `within` bounds the wait for silence.
pub(crate) fn tcp_answers(from: &Netns, to: SocketAddr, within: Duration) -> bool {
    from.run(move || {
        TcpStream::connect_timeout(&to, within).is_ok_and(|mut stream| {
            stream.set_read_timeout(Some(within)).unwrap();
            carries(&mut stream)
        })
    })
}

/// Whether a datagram comes back.
pub(crate) fn udp_answers(from: &Netns, to: SocketAddr, within: Duration) -> bool {
    from.run(move || {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).unwrap();
        socket.set_read_timeout(Some(within)).unwrap();
        socket.connect(to).unwrap();
        socket.send(b"x").is_ok() && socket.recv(&mut [0]).is_ok()
    })
}

/// Sends datagrams without pause, and knows when the last one left.
pub(crate) struct Sender {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<Option<Instant>>,
}

impl Sender {
    /// Sends from now on.
    pub(crate) fn new(from: &Netns, to: SocketAddr) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let over = is_over.clone();
        let thread = from.run(move || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            thread::spawn(move || {
                let (clock, mut last) = (Clock::system(), None);
                while !over.load(Ordering::Relaxed) {
                    // Before: what was let go only later is none that went later.
                    let now = clock.now();
                    if socket.send_to(b"x", to).is_ok() {
                        last = Some(now);
                    }
                    thread::yield_now();
                }
                last
            })
        });
        Self { is_over, thread }
    }

    /// Until when some left after that moment; nothing when none did.
    pub(crate) fn sent_after(self, moment: Instant) -> Duration {
        self.is_over.store(true, Ordering::Relaxed);
        let last = self.thread.join().unwrap();
        last.map_or(Duration::ZERO, |last| last.saturating_duration_since(moment))
    }
}

/// What a list of spans comes to.
pub(crate) fn told(what: &str, mut spans: Vec<Duration>) -> String {
    spans.sort_unstable();
    let at = |share: usize| spans[(spans.len() - 1) * share / 100];
    format!("{what}: p50 {:?}, p99 {:?}, most {:?}", at(50), at(99), at(100))
}

/// How many rounds are to be measured.
pub(crate) fn rounds() -> u8 {
    std::env::var("TOCSIN_TEST_ROUNDS").map_or(1, |text| text.parse().unwrap())
}

/// Whether a process of another user reaches a TCP port.
pub(crate) fn stranger_reaches(from: &Netns, to: SocketAddr) -> bool {
    let script = format!("exec 3<>/dev/tcp/{}/{}", to.ip(), to.port());
    let within = GUARD.as_secs().to_string();
    let args = [&within, "setpriv", "--reuid=65534", "--clear-groups", "bash", "-c", &script];
    from.try_command("timeout", &args).0
}
